"""A set from its recipe: read, choose, ask, and keep each problem once.

    records -> wanted? -> row -> new problem? -> | candidates file
    candidates file -> no conflicting truth, in no benchmark? -> rows file

The candidates file is why one pass over the source files is enough: that a problem comes again
with another answer, or that many have a phrase in common, is known only at the end. Of the problems
memory holds hashes, and the answers.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from archer.config.schema import suggestion
from archer.data.config import SetConfig, SourceConfig
from archer.data.fetch import Fetched
from archer.data.files import read_records
from archer.data.overlap import Example, Ngrams, beginning, problem_of
from archer.data.repeats import CONFLICT, NUM_EXAMPLES, Duplicates
from archer.data.rows import Row, text_of
from archer.data.shapes import SHAPES, Shape, Unusable
from archer.data.where import columns_of, meets_all
from archer.errors import ConfigError

TOLERANCES = {"train": 0.01, "eval": 0.0}
"""By the role of a set, the share by which the number of records or rows may differ from what its
recipe expects. Figures of another benchmark cannot be compared."""

Progress = Callable[[], None]
"""Hears about every record read."""


@dataclass
class SourceCounts:
    """What became of the records of a source: all are kept or dropped for one reason."""

    records: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    marked: Counter[str] = field(default_factory=Counter)
    """Remarks on rows that were kept, such as a reason that others are dropped for."""


@dataclass
class SetCounts:
    """What became of all records of a set, and what its rows are like."""

    sources: dict[str, SourceCounts]
    examples: dict[str, list[Example]] = field(default_factory=dict)
    """Reasons that two texts make, such as ``in aime24``, to the first few of each."""
    prompt_chars: array[int] = field(default_factory=lambda: array("q"))
    """Characters of each row's prompt, without the template that a run puts around it."""
    sha256: str = ""
    num_bytes: int = 0

    @property
    def rows(self) -> int:
        return len(self.prompt_chars)


def build_rows(
    name: str,
    recipe: SetConfig,
    fetched: Mapping[str, Fetched],
    benchmarks: Ngrams,
    output: Path,
    progress: Progress,
) -> SetCounts:
    """Write the rows of a set, for a while beside a file of candidates as large.

    Args:
        fetched: source to its files.
        benchmarks: what must not occur; ids there begin with ``<set>/``.

    Raises:
        ConfigError: a record is broken, or the files hold another number of records than expected.
            The number of rows is left to ``check_rows``.
    """
    counts = SetCounts({source: SourceCounts() for source in recipe.sources})
    duplicates = Duplicates()
    candidates = output.with_name(f"{output.name}.candidates")
    with open(candidates, "w+", encoding="utf-8", errors="surrogatepass") as spill:
        for source, config in recipe.sources.items():
            key, count = f"data.sets.{name}.sources.{source}", counts.sources[source]
            has_tests = shape_of(key, config).reward == "code"
            for row in _problems(key, config, fetched[source], count, progress):
                id = f"{source}-{count.records}"
                if not recipe.deduplicate or duplicates.add(source, id, row, has_tests):
                    is_near = benchmarks.meet(problem_of(row))
                    _write_candidate(spill, source, id, row, is_near)
            expected = config.expected_records
            _check_count(f"{key}.expected_records", count.records, expected, recipe.role)
        spill.seek(0)
        duplicates.settle()
        for source, dropped in duplicates.dropped.items():
            counts.sources[source].dropped += dropped
        _keep(spill, counts, duplicates, benchmarks, recipe.overlaps == "drop", output)
    candidates.unlink()
    return counts


def check_rows(name: str, recipe: SetConfig, counts: SetCounts) -> None:
    """Refuse a set that is empty or far from its expected size.

    Raises:
        ConfigError: says by how much, and how to accept it.
    """
    if not counts.rows:
        dropped = sum((count.dropped for count in counts.sources.values()), Counter())
        why = ", ".join(f"{number} {reason}" for reason, number in dropped.most_common())
        mend = f"All records were dropped: {why or 'there were none'}. Mend what asks for it."
        raise ConfigError(f"data.sets.{name}", name, "at least one row", mend)
    _check_count(f"data.sets.{name}.expected_rows", counts.rows, recipe.expected_rows, recipe.role)


def row_record(
    prompt: str | tuple[dict[str, str], ...], truth: Any, source: str, extra: Mapping[str, Any]
) -> dict[str, Any]:
    """A row in verl's shape."""
    return {
        "data_source": source,
        "prompt": prompt,
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": dict(extra),
    }


def _problems(
    key: str, config: SourceConfig, fetched: Fetched, count: SourceCounts, progress: Progress
) -> Iterator[Row]:
    """Rows of the wanted records."""
    shape, name = shape_of(key, config), key.rpartition(".")[2]
    columns = {*shape.columns, *columns_of(config.where)}
    for file in fetched.files:
        for number, record in read_records(file, columns):
            count.records += 1
            progress()
            if not meets_all(file, number, record, config.where):
                count.dropped["not wanted (where)"] += 1
                continue
            try:
                row = shape(file, number, record)
            except Unusable as reason:
                count.dropped[str(reason)] += 1
                continue
            yield replace(row, source=config.data_source or row.source or name)


def shape_of(key: str, config: SourceConfig) -> Shape:
    """The reader of a source's records.

    Raises:
        ConfigError: there is no shape of that name.
    """
    if config.shape not in SHAPES:
        hint = suggestion(config.shape, tuple(SHAPES))
        known = ", ".join(SHAPES)
        mend = f"Choose one of them.{hint}"
        raise ConfigError(f"{key}.shape", config.shape, f"one of {known}", mend)
    return SHAPES[config.shape]


def _write_candidate(spill: IO[str], source: str, id: str, row: Row, is_near: bool) -> None:
    """Two lines: what decides whether the row stays, and the row. Its id is the source and the
    number of the record in it, which no other row has; the problem's own name is kept beside it."""
    extra = dict(row.extra) | {"id": id}
    if "id" in row.extra:
        extra["problem_id"] = row.extra["id"]
    facts = [source, id, problem_of(row), len(text_of(row.prompt)), is_near, row.remark]
    record = row_record(row.prompt, row.ground_truth, row.source, extra)
    spill.write(f"{json.dumps(facts)}\n{json.dumps(record)}\n")


def _keep(
    spill: IO[str],
    counts: SetCounts,
    duplicates: Duplicates,
    benchmarks: Ngrams,
    drops_overlaps: bool,
    output: Path,
) -> None:
    """Write the candidates that stay, in their order."""
    digest = hashlib.sha256()
    with open(output, "wb") as rows:
        for place, facts in enumerate(spill):
            source, id, problem, prompt_chars, is_near, remark = json.loads(facts)
            line = spill.readline()
            count = counts.sources[source]
            for reason, example in duplicates.examples(place, id, problem):
                counts.examples.setdefault(reason, []).append(example)
            if place in duplicates.conflicting:
                count.dropped[CONFLICT] += 1
                continue
            if overlap := benchmarks.find(problem) if is_near else None:
                benchmark, _, other = overlap.origin.partition("/")
                reason = f"in {benchmark}"
                examples = counts.examples.setdefault(reason, [])
                if len(examples) < NUM_EXAMPLES:
                    text = beginning(problem)
                    examples.append(Example(id, other, text, overlap.text, overlap.shared))
                if drops_overlaps:
                    count.dropped[reason] += 1
                    continue
                count.marked[reason] += 1
            if remark:
                count.marked[remark] += 1
            count.kept += 1
            counts.prompt_chars.append(prompt_chars)
            rows.write(data := line.encode())
            digest.update(data)
            counts.num_bytes += len(data)
    counts.sha256 = digest.hexdigest()


def _check_count(key: str, found: int, expected: int | None, role: str) -> None:
    tolerance = TOLERANCES[role]
    if expected is not None and abs(found - expected) > tolerance * expected:
        what = key.rpartition("_")[2]
        raise ConfigError(
            key,
            expected,
            f"the number of {what} there are" + (f", within {tolerance:.0%}" if tolerance else ""),
            f"There are {found}. Are these the right files, at the right revision, and complete? "
            f"To accept them as they are, set {key}=null.",
        )
