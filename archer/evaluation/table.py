"""The results of an evaluation as a table, on the screen and in Markdown. Shares are in percent
here, as papers print them; ``results.json`` has fractions."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.markup import escape
from rich.table import Table

from archer.config.keys import Protocol
from archer.evaluation.measures import pass_sizes
from archer.evaluation.results import (
    Published,
    Score,
    SetResult,
    mean_avg,
    published_mean_avg,
)

NOTE = """\
Shares in percent, in brackets their 95 % bootstrap intervals over problems. A published figure is
followed by how much this measurement lies above it, and by what that says: two measurements on
these problems differ as much by luck ("within noise"); more, but the figure is inside the wide
interval over problems ("in interval", a weak statement); neither ("outside"); or nothing, as the
set was sampled otherwise or in part ("other protocol"). "tokens" is the mean length of responses,
"cut" the share that reached the limit, "failed" the share without a verdict.
"""

Results = Mapping[str, SetResult]
"""By set."""


@dataclass(frozen=True)
class _Column:
    heading: str
    cell: Callable[[SetResult], str]
    of_all: str = ""
    """In the row of means over the sets."""


def screen_table(results: Results) -> Table:
    """Sets down, measures across; narrow enough for the benchmarks of a paper on 100 columns."""
    heading, *rows = _rows(results, _columns(results, is_wide=False))
    table = Table(*map(escape, heading), box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def protocol_lines(results: Results) -> list[str]:
    """How the samples were drawn: a line for all sets that agree in it."""
    sets: dict[str, list[str]] = {}
    for name, result in results.items():
        sets.setdefault(_sampling(result.protocol), []).append(name)
    return [f"{', '.join(names)}: {sampling}" for sampling, names in sets.items()]


def markdown_tables(results: Results) -> str:
    """The table of the screen with every interval, then the curves of pass@k, then the protocol."""
    sizes = sorted({k for result in results.values() for k in pass_sizes(result.num_samples)})
    curve = [
        _Column(f"pass@{k}", lambda result, k=k: _interval(result.pass_at.get(k))) for k in sizes
    ]
    protocol = [
        _Column("problems", lambda result: str(result.num_problems)),
        _Column("left out", lambda result: str(sum(result.dropped.values()) or "")),
        _Column("samples of each, n", lambda result: str(result.num_samples)),
        _Column("temperature", lambda result: f"{result.protocol.temperature:g}"),
        _Column("top_p", lambda result: f"{result.protocol.top_p:g}"),
        _Column("response limit", lambda result: str(result.protocol.max_response_tokens)),
    ]
    tables = (_columns(results, is_wide=True), curve, protocol)
    return "\n".join(_markdown(_rows(results, columns)) for columns in tables)


def _columns(results: Results, is_wide: bool) -> list[_Column]:
    """Of the main table: wide with every interval, narrow with that of avg@n alone."""
    score = _interval if is_wide else _value
    mean, published = mean_avg(results), published_mean_avg(results)
    published_mean = f"{_percent(published)} {100 * (mean - published):+.1f}"
    return [
        _Column("n", lambda result: str(result.num_samples)),
        _Column("avg@n", lambda result: _interval(result.avg), _percent(mean)),
        _Column(
            "published",
            lambda result: _figure(result, "avg", is_wide=True),
            "" if math.isnan(published) else published_mean,
        ),
        _Column("pass@n", lambda result: score(result.pass_at[result.num_samples])),
        _Column("published", lambda result: _figure(result, "pass", is_wide)),
        _Column("maj@n", lambda result: score(result.majority)),
        _Column("published", lambda result: _figure(result, "maj", is_wide)),
        _Column("tokens", lambda result: f"{result.samples.response_tokens_mean:.0f}"),
        _Column("cut", lambda result: _percent(result.samples.truncated_frac)),
        _Column("failed", lambda result: _if_any(result.samples.failure_frac)),
    ]


def _rows(results: Results, columns: Sequence[_Column]) -> list[list[str]]:
    """The cells with their headings, and the means of several sets; empty columns are left out."""
    used = [column for column in columns if any(map(column.cell, results.values()))]
    rows = [["set", *(column.heading for column in used)]]
    rows += [[name, *(column.cell(result) for column in used)] for name, result in results.items()]
    if len(results) > 1 and any(column.of_all for column in used):
        rows.append(["mean", *(column.of_all for column in used)])
    return rows


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    heading, *body = rows
    lines = [heading, ["---"] * len(heading), *body]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _figure(result: SetResult, kind: str, is_wide: bool) -> str:
    found = [figure for figure in result.published if figure.measure.startswith(f"{kind}@")]
    return "; ".join(_published(figure, result.num_samples, is_wide) for figure in found)


def _published(figure: Published, num_samples: int, is_wide: bool) -> str:
    k = figure.measure.partition("@")[2]
    of_k = "" if int(k) == num_samples else f"@{k}"
    judgement = f" {figure.judgement}" if is_wide else ""
    return f"{_percent(figure.value)}{of_k} {100 * figure.difference:+.1f}{judgement}"


def _sampling(protocol: Protocol) -> str:
    return (
        f"temperature {protocol.temperature:g}, top_p {protocol.top_p:g}, "
        f"at most {protocol.max_response_tokens} tokens"
    )


def _interval(score: Score | None) -> str:
    if score is None or math.isnan(score.low):
        return _value(score)
    return f"{_percent(score.value)} [{_percent(score.low)}, {_percent(score.high)}]"


def _value(score: Score | None) -> str:
    return "" if score is None else _percent(score.value)


def _if_any(share: float) -> str:
    return _percent(share) if share else ""


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f}"
