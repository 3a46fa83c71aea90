"""Prepared sets: where they are kept, and whether they are whole.

``python -m archer.prepare`` fills a temporary folder and renames it at the end, the report written
last. A folder without its report is no prepared set, and one whose rows are not those of the
report is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from archer.config.command_line import with_same_data
from archer.data.config import SetConfig
from archer.data.report import Report, sha256_of
from archer.data.rows import Row, read_rows
from archer.data.stored_truth import LONGEST_KEPT, store_truth
from archer.errors import ConfigError

ROWS_FILE = "rows.jsonl"
"""Rows in verl's shape, one a line."""
REPORT_FILE = "report.json"
"""What was read, kept and dropped, and the SHA-256 of the rows."""
OF_CONTENT = {"sources", "deduplicate", "decontaminate_against", "overlaps", "ngram"}
"""Fields of a set that decide what is in its file; the others say how it is used, or how many rows
it should have."""
FORMAT = 2
"""To be raised when the same recipe gives other rows than before."""


def prepared_folder(name: str, recipe: SetConfig, cache: Path) -> Path:
    """Of a set with exactly these settings: another revision or filter has another folder.

    A folder that stands in for the hub makes no difference: the files should be the same.
    """
    content: dict[str, Any] = recipe_of(recipe)
    # A list, whose order counts: of a problem that two sources have, the first one's row stays.
    content["sources"] = list(content["sources"].items())
    text = json.dumps([FORMAT, content], sort_keys=True)
    return cache / "data" / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def recipe_of(recipe: SetConfig) -> dict[str, Any]:
    """What decides the content of a set, as plain data."""
    content = recipe.model_dump(mode="json", include=OF_CONTENT)
    content["decontaminate_against"] = recipe.benchmarks
    for source in content["sources"].values():
        del source["expected_records"]
        if source["hub"] is not None:
            del source["folder"]
    return content


def read_report(folder: Path) -> Report | None:
    """The report of a prepared set; None where there is none, or none that can be read."""
    try:
        return Report.model_validate_json((folder / REPORT_FILE).read_bytes())
    except (OSError, ValidationError):
        return None


def is_intact(folder: Path, report: Report) -> bool:
    """Whether the rows are those that the report was written for."""
    rows = folder / ROWS_FILE
    same_size = rows.is_file() and rows.stat().st_size == report.num_bytes
    return same_size and sha256_of(rows) == report.sha256


def prepared_rows(
    names: Collection[str], sets: Mapping[str, SetConfig], cache: Path
) -> dict[str, Path]:
    """The rows files of prepared sets, by name.

    They are hashed, which takes a fraction of the time to read them.

    Args:
        names: those wanted of ``sets``, which may have benchmarks that they were compared with.

    Raises:
        ConfigError: a set has not been prepared with these settings, or not to the end; its rows
            are not as they were written; or it was compared with another benchmark than there is
            now. Names all such sets, and the command that mends it.
    """
    faults: dict[str, list[str]] = defaultdict(list)
    for name in names:
        if fault := _fault(name, sets, cache):
            faults[fault].append(name)
    if faults:
        said = "; ".join(f"{fault}: {', '.join(found)}" for fault, found in faults.items())
        bad = [name for found in faults.values() for name in found]
        command = with_same_data("prepare", default=sets)
        mend = f"{said[0].upper()}{said[1:]}. Prepare once, with the same settings: {command}"
        expected = f"prepared sets in {cache / 'data'}"
        raise ConfigError("data.sets", ", ".join(bad), expected, mend)
    return {name: prepared_folder(name, sets[name], cache) / ROWS_FILE for name in names}


def _fault(name: str, sets: Mapping[str, SetConfig], cache: Path) -> str:
    """Why a run cannot take the set as it is; empty where it can."""
    folder = prepared_folder(name, sets[name], cache)
    report = read_report(folder)
    if report is None:
        return "not prepared with these settings"
    if not is_intact(folder, report):
        return f"{ROWS_FILE} is damaged, or was edited"
    for benchmark, sha256 in report.against.items():
        if benchmark not in sets:  # compared with it once, and composed without it now
            continue
        now = read_report(prepared_folder(benchmark, sets[benchmark], cache))
        if now is not None and now.sha256 != sha256:
            return f"compared with another {benchmark} than there is now"
    return ""


def stand_ins(sets: Mapping[str, SetConfig], cache: Path) -> list[str]:
    """A line for each source of the prepared sets that a folder gave in place of the hub."""
    lines = []
    for name, recipe in sets.items():
        report = read_report(prepared_folder(name, recipe, cache))
        for source, config in recipe.sources.items():
            if report is None or config.hub is None:
                continue
            origin = report.sources[source].origin
            if origin != config.hub:
                lines.append(
                    f"{name} was prepared from {origin}, in place of {config.hub}; archer.prepare "
                    "force=true without folder= goes there"
                )
    return lines


def is_prepared(path: Path) -> bool:
    """Whether these are the rows of a prepared set, which nobody edits."""
    return path.name == ROWS_FILE and (path.parent / REPORT_FILE).is_file()


def stored_rows(path: Path, key: str) -> Iterator[tuple[Row, Row]]:
    """Stream the rows of a prepared set, each as it is read and as a run is to keep it.

    The second has a ``StoredTruth`` in place of a long text.

    Raises:
        ConfigError: as ``read_rows``.
    """
    offset = 0
    with open(path, "rb") as lines:
        for row, line in zip(read_rows(path, key), lines, strict=False):
            truth, kept = row.ground_truth, row
            if isinstance(truth, str) and len(truth) > LONGEST_KEPT:
                kept = replace(row, ground_truth=store_truth(truth, path, offset, line) or truth)
            yield row, kept
            offset += len(line)
