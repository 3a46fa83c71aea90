"""Choosing training rows by how often a model solves them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from archer.data.files import DataFile, read_records
from archer.data.recipe import row_record
from archer.data.rows import Row
from archer.errors import ConfigError

KEY = "pass_rates"


class SolveRate(BaseModel):
    """A line of the table that ``archer.evaluate`` writes; its other fields are not read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str | int
    num_samples: int = Field(ge=1)
    num_correct: int = Field(ge=0)
    num_valid: int | None = Field(default=None, ge=0)
    """Samples with a verdict; the others say nothing of the model. All, where this is left out."""

    @model_validator(mode="after")
    def _no_more_correct_than_judged(self) -> SolveRate:
        if self.num_judged > self.num_samples:
            raise ValueError("num_valid is larger than num_samples")
        if self.num_correct > self.num_judged:
            raise ValueError("num_correct is larger than the number of judged samples")
        return self

    @property
    def num_judged(self) -> int:
        return self.num_samples if self.num_valid is None else self.num_valid


def read_pass_rates(path: Path) -> dict[str, float | None]:
    """Problem id to the share of its judged samples that are right; None where none was judged.

    Raises:
        ConfigError: the file is missing, unreadable, empty or torn, or names a problem twice.
    """
    file = DataFile(path, KEY)
    if not path.is_file():
        file.refuse(
            "a table of problems", "There is no such file: archer.evaluate writes problems_*.jsonl."
        )
    rates: dict[str, float | None] = {}
    for number, record in read_records(file):
        try:
            found = SolveRate.model_validate(record)
        except ValidationError as error:
            first = error.errors()[0]
            what = ".".join(map(str, first["loc"])) or "it"
            mend = f"Line {number}: {what}: {first['msg']}. Mend or delete that line."
            file.refuse("lines with id, num_samples and num_correct", mend, error)
        if str(found.id) in rates:
            mend = f"Line {number} has {found.id!r} again. Is it of several evaluations?"
            file.refuse("each problem once", mend)
        judged = found.num_judged
        rates[str(found.id)] = found.num_correct / judged if judged else None
    if not rates:
        file.refuse("at least one problem", "The file is empty. Did the evaluation end?")
    return rates


def choose_rows(
    rows: Iterable[Row],
    template: str,
    rates: Mapping[str, float | None],
    keep: tuple[float, float],
    output: IO[str],
) -> Counter[str]:
    """Write the rows whose pass rate lies within the limits, both included.

    Args:
        template: put around their problems, since the output is trained on as it is.

    Returns:
        Rows by what became of them.

    Raises:
        ConfigError: no row has a pass rate, or none lies within the limits.
    """
    low, high = keep
    outcome: Counter[str] = Counter()
    first = None
    for row in rows:
        first = first or row
        rate = rates.get(_id(row))
        if rate is None:
            outcome["without a figure"] += 1
        elif rate < low:
            outcome["too hard"] += 1
        elif rate > high:
            outcome["too easy"] += 1
        else:
            outcome["kept"] += 1
            output.write(json.dumps(_in_template(row, template)) + "\n")
    if first is not None and outcome["without a figure"] == outcome.total():
        mend = f"Give the table of an evaluation of these rows, whose first is {_id(first)!r}."
        raise ConfigError(KEY, min(rates), "problems of the training set", mend)
    if not outcome["kept"]:
        found = ", ".join(f"{count} {what}" for what, count in outcome.most_common() if count)
        mend = f"Widen it: of the rows, {found}."
        raise ConfigError("keep", list(keep), "a range that some rows lie in", mend)
    return outcome


def _in_template(row: Row, template: str) -> dict[str, object]:
    if not isinstance(row.prompt, str) or template == "{problem}":
        return row_record(row.prompt, row.ground_truth, row.source, row.extra)
    prompt = template.replace("{problem}", row.prompt)
    extra = {**row.extra, "problem": row.prompt}
    return row_record(prompt, row.ground_truth, row.source, extra)


def _id(row: Row) -> str:
    """What the evaluation calls the row too."""
    return str(row.extra.get("id", row.number))
