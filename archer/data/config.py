"""The keys of ``data``: where prompts and their ground truths come from."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from archer.config.schema import NonNegativeFloat, PositiveInt, Section

Value = bool | int | float | str | None


class Condition(Section):
    """What a column of a wanted record holds: one of some values, or a value in a range."""

    column: str
    """Its name, dotted where it is inside an object."""
    one_of: Annotated[list[Value], Field(min_length=1)] | None = None
    """Values that are wanted."""
    min: int | float | str | None = None
    """Smallest wanted value; dates compare as texts."""
    below: int | float | str | None = None
    """Values from this one on are not wanted."""

    @model_validator(mode="after")
    def _says_something(self) -> Condition:
        if self.one_of is None and self.min is None and self.below is None:
            raise ValueError(f"one_of, min or below for the column {self.column!r}")
        return self


class SourceConfig(Section):
    """Files of one published data set, and how its records are read."""

    hub: str | None = None
    """Hub id of the data set."""
    revision: str = "main"
    """Commit of the hub's repository."""
    folder: str | None = None
    """Local folder that holds `files`, in place of the hub."""
    files: Annotated[list[str], Field(min_length=1)]
    """Paths in the repository, read one after the other; `*` stands for any part of a name."""
    shape: str = "rows"
    """How a record becomes a row; docs/data.md lists the shapes."""
    where: list[Condition] = Field(default=[])
    """Conditions on the records that are wanted, e.g. `[{column: level, one_of: [4, 5]}, {column:
    date, min: "2024-01-01", below: "2025-01-01"}]`. A record has to meet all of them."""
    data_source: str | None = None
    """`data_source` of the rows, by which rewards and metrics go; empty keeps the record's own, or
    takes the name of this section."""
    expected_records: PositiveInt | None = None
    """Records in the files, before `where`. Another count is refused; of a training set, one that
    is off by more than 1 %."""


def _with_problem(template: str) -> str:
    if "{problem}" not in template:
        raise ValueError("a text with {problem} in it, where the problem belongs")
    return template


Template = Annotated[str, AfterValidator(_with_problem)]
"""Text around a problem."""


def _is_measure(name: str) -> str:
    if not re.fullmatch(r"(avg|pass|maj)@[1-9]\d*", name):
        raise ValueError("the name of a measure: avg@k, pass@k or maj@k, such as avg@64")
    return name


Measure = Annotated[str, AfterValidator(_is_measure)]
"""Of `archer.evaluate`, with its k."""


class SetConfig(Section):
    """A prepared set of prompts: what it is made of, and for a benchmark how it is evaluated."""

    role: Literal["train", "eval"]
    """Whether runs train on it, or evaluate by it."""
    sources: dict[str, SourceConfig]
    """Name to the files that it comes from, read in this order."""
    template: Template = "{problem}"
    """Text that runs put around a problem; `{problem}` is replaced. The prepared rows are without
    it, and chat messages take none."""
    expected_rows: PositiveInt | None = None
    """Rows that are left in the end. Another count is refused; of a training set, one that is off
    by more than 1 %."""
    deduplicate: bool = True
    """Keep one row of those with the same problem; none where their answers contradict."""
    decontaminate_against: list[str] | None = None
    """Sets of which no problem may occur in this one, found by shared n-grams of words. `null` are
    for a training set all of `role: eval` that are composed with it, and for others none."""
    overlaps: Literal["drop", "keep"] = "drop"
    """What becomes of a row with such a problem; `keep` only counts and reports it."""
    ngram: PositiveInt = 13
    """Words of such an n-gram, as in arXiv 2005.14165. A problem is found by more than half of its
    own that are no stock phrase; a shorter one must be the same as a whole."""
    num_samples: PositiveInt | None = None
    """The benchmark's own `eval.num_samples`, where that is empty."""
    temperature: NonNegativeFloat | None = None
    """The benchmark's own `eval.temperature`, where that is empty."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """The benchmark's own `eval.top_p`, where that is empty."""
    max_response_tokens: PositiveInt | None = None
    """The benchmark's own `sampling.max_response_tokens`, where that is empty."""
    published: dict[str, dict[Measure, float]] = Field(default={})
    """Published figures in percent by model, its hub id or, where there is none, a name, e.g.
    `{ORG/NAME: {avg@64: 30.6}}`."""

    @property
    def benchmarks(self) -> list[str]:
        """Sets of which no problem may occur in this one."""
        return self.decontaminate_against or []


def _with_benchmarks(sets: dict[str, SetConfig]) -> dict[str, SetConfig]:
    """The same sets, each with the names of those that it must not overlap."""
    benchmarks = sorted(name for name, recipe in sets.items() if recipe.role == "eval")
    return {
        name: recipe
        if recipe.decontaminate_against is not None
        else recipe.model_copy(
            update={"decontaminate_against": benchmarks if recipe.role == "train" else []}
        )
        for name, recipe in sets.items()
    }


class DataConfig(Section):
    """Prompts and their ground truths."""

    name: str
    """Short name; metrics of the evaluation are `eval/<set>/...`."""
    sets: Annotated[dict[str, SetConfig], AfterValidator(_with_benchmarks)] = Field(default={})
    """Published sets that `python -m archer.prepare` writes once, for runs to read instead of
    `train` and `eval`."""
    task: Literal["arithmetic", "list_programs"] | None = None
    """Embedded task that generates its own files instead of `train` and `eval`."""
    train: str | None = None
    """Training prompts: a JSONL, JSON-array or parquet file."""
    eval: dict[str, str] = Field(default={})
    """Held-out sets: name to file."""
    prompt_template: Template | None = None
    """Text around a problem in place of the `template` of every set; `{problem}` is replaced. Chat
    messages take none."""
    chat_template: bool = True
    """Apply the tokenizer's chat template; rows of chat messages require it."""
    chat_template_args: dict[str, Any] = Field(default={})
    """Variables of that template, e.g. `{enable_thinking: false}` for Qwen3 without its thoughts
    (arXiv 2505.09388)."""
    max_prompt_tokens: PositiveInt = 1024
    """Longer prompts are dropped and counted, never cut."""
    train_size: PositiveInt = 8192
    """Problems generated for training (embedded task only)."""
    eval_size: PositiveInt = 128
    """Problems held out (embedded task only); disjoint from the training problems."""

    @property
    def has_training(self) -> bool:
        """Whether there is anything to train on."""
        roles = {recipe.role for recipe in self.sets.values()}
        return bool(self.task or self.train) or "train" in roles
