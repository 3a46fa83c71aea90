"""What preparing a set found, as it is kept beside the rows and shown."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from statistics import median_low
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict
from rich.table import Table

from archer.data.fetch import Fetched
from archer.data.overlap import Example
from archer.data.recipe import SetCounts, SourceCounts


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileReport(_Part):
    """A file that was read."""

    path: str
    num_bytes: int
    sha256: str


class SourceReport(_Part):
    """What a source was, and what became of its records."""

    origin: str
    """Hub id, or the folder that stood in for it."""
    commit: str | None
    """Of the hub; None of a folder."""
    files: list[FileReport]
    counts: SourceCounts


class Lengths(_Part):
    """Of all problems in characters, or of all prompts in tokens."""

    median: int
    longest: int


class TokenLengths(Lengths):
    """Tokens of prompts as a run with this model would have them."""

    limit: int
    """``data.max_prompt_tokens`` at the time."""
    num_over: int
    """Rows over the limit, which a run leaves out."""


class Report(_Part):
    """All that is known of a prepared set."""

    name: str
    rows: int
    num_bytes: int
    sha256: str
    """Of the rows file, as the next two."""
    recipe: dict[str, Any]
    against: dict[str, str]
    """Benchmark to the SHA-256 of its rows."""
    sources: dict[str, SourceReport]
    examples: dict[str, list[Example]]
    """Reasons that two texts make, such as ``in aime24``, to the first rows of each."""
    prompt_chars: Lengths
    prompt_tokens: dict[str, TokenLengths]
    """By model."""
    seconds: float


def make_report(
    name: str,
    recipe: dict[str, Any],
    against: dict[str, str],
    fetched: Mapping[str, Fetched],
    counts: SetCounts,
    seconds: float,
) -> Report:
    """The report of a set just prepared; ``prompt_tokens`` are left to be added.

    Args:
        recipe: what decided the content.
        against: benchmark to the SHA-256 of its rows.
        fetched: source to its files, which are hashed here.
        seconds: that the preparation took.
    """
    sources = {
        source: SourceReport(
            origin=fetched[source].origin,
            commit=fetched[source].commit,
            files=[_file_report(file.path) for file in fetched[source].files],
            counts=count,
        )
        for source, count in counts.sources.items()
    }
    return Report(
        name=name,
        rows=counts.rows,
        num_bytes=counts.num_bytes,
        sha256=counts.sha256,
        recipe=recipe,
        against=against,
        sources=sources,
        examples=counts.examples,
        prompt_chars=Lengths(
            median=median_low(counts.prompt_chars), longest=max(counts.prompt_chars)
        ),
        prompt_tokens={},
        seconds=round(seconds, 1),
    )


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def counts_table(name: str, sources: Mapping[str, SourceCounts]) -> Table:
    """Records read and kept, and dropped for each reason, for the terminal."""
    table = Table(name, *sources, box=None, header_style="bold", pad_edge=False)
    for what, numbers in _counts(sources):
        table.add_row(what, *numbers)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def markdown(report: Report) -> str:
    """The report as a page."""
    counts = {name: source.counts for name, source in report.sources.items()}
    lines = [f"# {report.name}: {report.rows:,} rows", ""]
    lines += [_line("records", *counts), "| --- |" + " ---: |" * len(counts)]
    lines += [_line(what, *numbers) for what, numbers in _counts(counts)]
    lines += ["", length_line(report.prompt_chars, "characters", "Problems")]
    lines += [
        length_line(found, f"tokens of {model}") for model, found in report.prompt_tokens.items()
    ]
    for reason, examples in report.examples.items():
        found = sum(count.dropped[reason] + count.marked[reason] for count in counts.values())
        lines += ["", f"## {reason}: {len(examples)} of {found:,}", ""]
        lines += [_line("row", "repeats", "its problem", "the other", "in common, or the answers")]
        lines += ["| --- |" + " --- |" * 4]
        lines += [_line(e.row, e.other, e.row_text, e.other_text, e.shared) for e in examples]
    lines += ["", "## Files", ""]
    lines += [_line("source", "read from", "file", "bytes", "SHA-256")]
    lines += ["| --- | --- | --- | ---: | --- |"]
    for name, source in report.sources.items():
        origin = f"{source.origin} at {source.commit}" if source.commit else source.origin
        for file in source.files:
            size = f"{file.num_bytes:,}"
            lines.append(_line(name, origin, Path(file.path).name, size, file.sha256))
    lines += ["", "## Recipe", "", "```yaml"]
    lines += [yaml.safe_dump(report.recipe, sort_keys=False, allow_unicode=True).rstrip(), "```"]
    lines += ["", f"SHA-256 of the rows {report.sha256}, prepared in {report.seconds:g} s."]
    return "\n".join(lines) + "\n"


def length_line(lengths: Lengths, unit: str, what: str = "Prompts") -> str:
    """One sentence, e.g. ``Prompts have 120 characters in the median, the longest 900.``"""
    text = f"{what} have {lengths.median:,} {unit} in the median, the longest {lengths.longest:,}."
    if isinstance(lengths, TokenLengths):
        text += f" Over data.max_prompt_tokens={lengths.limit}, and left out by a run:"
        text += f" {lengths.num_over:,}."
    return text


def _file_report(path: Path) -> FileReport:
    return FileReport(path=str(path), num_bytes=path.stat().st_size, sha256=sha256_of(path))


def _counts(sources: Mapping[str, SourceCounts]) -> list[tuple[str, list[str]]]:
    """What became of the records: a label, and a number for each source."""
    reasons = sorted({reason for count in sources.values() for reason in count.dropped})
    rows = [("read", [count.records for count in sources.values()])]
    rows += [("kept", [count.kept for count in sources.values()])]
    marks = sorted({reason for count in sources.values() for reason in count.marked})
    rows += [
        (f"... though {reason}", [count.marked[reason] for count in sources.values()])
        for reason in marks
    ]
    rows += [(reason, [count.dropped[reason] for count in sources.values()]) for reason in reasons]
    return [(what, [f"{number:,}" for number in numbers]) for what, numbers in rows]


def _line(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
