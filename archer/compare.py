"""Compares runs of several algorithms, or objectives on one recorded batch.

    python -m archer.compare runs/default --out report.html
    python -m archer.compare objectives rollouts=runs/default/RUN algo=archer,dapo,grpo

The first writes one self-contained page about all runs found at or below the folders given. See
docs/compare.md for what its intervals mean. The second is
``archer/objective_checks/compare_objectives.py``.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from archer.comparison import charts
from archer.comparison.html import markdown_table, render_page
from archer.comparison.page import (
    CURVES,
    MAX_PROBLEMS,
    MAX_SEEDS,
    Comparison,
    Difference,
    Result,
    all_curves,
    compare,
)
from archer.config.command_line import run_or_explain
from archer.console import format_duration
from archer.errors import ConfigError
from archer.metrics import write_atomically

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OCCASIONAL_STAGES = ("eval", "checkpoint")
PICTURE_CHARS = 150
"""Characters of a legend that fit side by side under the picture."""
BUDGET_ROWS = {
    "steps": ("steps", 0),
    "optimizer_steps": ("optimizer steps", 0),
    "prompts": ("prompts consumed", 0),
    "samples": ("samples generated", 0),
    "tokens": ("tokens generated", 0),
    "samples_per_s": ("samples per second", 1),
    "tokens_per_s": ("tokens per second", 0),
}


def write_page(comparison: Comparison, path: Path) -> None:
    """Write the comparison as one HTML file that needs no network."""
    page = render_page(
        "compare.html",
        comparison=comparison,
        labels=[algorithm.label for algorithm in comparison.algorithms],
        facts=_facts(comparison),
        verdicts=[(verdict(d), limits(d)) for d in comparison.differences if _is_headline(d)],
        tables={one.name: _results_of(comparison, one.name) for one in comparison.held_out},
        forests={
            title: Markup(charts.interval_chart(rows))
            for title, rows in _forests(comparison).items()
        },
        curves=[
            (title, Markup(charts.line_chart(series)))
            for title, series in all_curves(comparison.algorithms)
        ],
        budget_rows=BUDGET_ROWS,
        duration=format_duration,
        stages=_stages(comparison),
    )
    write_atomically(path, page.encode())


def write_picture(comparison: Comparison, path: Path) -> None:
    """A PNG for a README: training reward, held-out accuracy, and its final value as bars."""
    from matplotlib.figure import Figure

    curves = all_curves(comparison.algorithms)
    reward = [curve for curve in curves if curve[0] == CURVES["reward/mean"]]
    held_out = [curve for curve in curves if curve[0] not in CURVES.values()]
    figure = Figure(figsize=(11, 3.3), layout="constrained", dpi=160)
    left, middle, right = figure.subplots(1, 3, width_ratios=[1.2, 1.2, 1])
    for axes in (left, middle, right):
        charts.style_axes(axes)
    for axes, (title, series) in zip((left, middle), reward + held_out, strict=False):
        charts.draw_lines(axes, series, legend=False)
        _title(axes, title)
        axes.set_xlabel("step", fontsize=8, color=charts.LIGHT["muted"])
    _draw_bars(right, [r for r in comparison.results if r.measure.startswith("avg@")])
    figure.legend(
        *left.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=max(
            1, min(6, PICTURE_CHARS // (4 + max(len(a.label) for a in comparison.algorithms)))
        ),
        fontsize=8,
        frameon=False,
    )
    figure.savefig(path)


def verdict(difference: Difference) -> str:
    """What one comparison shows, in words."""
    first, second, estimate = difference.first, difference.second, difference.estimate
    figures = f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"
    if difference.is_resolved:
        return f"{first} > {second} by {figures}."
    if estimate.is_resolved:
        text = (
            f"{first} > {second} by {figures} on its own; not resolved when corrected for the "
            f"number of pairs (Holm p = {difference.holm_p:.2f})."
        )
    else:
        text = f"{first} and {second}: not resolved at this budget, the difference is {figures}."
    return f"{text} {_what_would_resolve(difference)}".rstrip()


def limits(difference: Difference) -> str:
    """What makes the interval as wide as it is; empty for pass@k, where sampling is not known."""
    estimate = difference.estimate
    if math.isnan(difference.sampling):
        return ""
    sampling = min(difference.sampling / estimate.variance, 1.0)
    training = sum(estimate.seeds) / estimate.variance
    advice = {
        "the noise of the evaluation: more samples a problem (eval.num_samples) or more problems "
        "would narrow it": sampling,
        "the luck of training: more seeds would narrow it": training,
        "the choice of problems: more of them would narrow it": 1 - sampling - training,
    }
    shares = f"sampled verdicts {sampling:.0%}, training seeds {training:.0%} of the variance"
    if not estimate.covers_seeds:
        return f"The luck of training is not in this interval: one seed of an algorithm ({shares})."
    return f"Limited by {max(advice, key=advice.__getitem__)} ({shares})."


def markdown(comparison: Comparison) -> str:
    """The tables and verdicts for a terminal or an issue."""
    blocks = []
    for one in comparison.held_out:
        table = _results_of(comparison, one.name)
        header = [f"{one.name}, step {one.step}", *(a.label for a in comparison.algorithms)]
        rows = [
            [measure, *(_figures(results.get(label)) for label in header[1:])]
            for measure, results in table.items()
        ]
        seeds = ["seeds", *(str(len(a.runs)) for a in comparison.algorithms)]
        blocks.append(markdown_table(header, [seeds, *rows]))
    headline = [verdict(d) for d in comparison.differences if _is_headline(d)]
    blocks += ["\n".join(f"- {text}" for text in headline)] if headline else []
    if comparison.warnings:
        blocks.append("\n".join(f"- warning: {text}" for text in comparison.warnings))
    return "\n\n".join(blocks)


def numbers(comparison: Comparison) -> dict[str, Any]:
    """The comparison as plain values for JSON; NaN as None."""
    return {
        "algorithms": {
            algorithm.label: [
                {"path": str(run.path), "seed": run.seed, "steps": run.last_step}
                for run in algorithm.runs
            ]
            for algorithm in comparison.algorithms
        },
        "results": [_plain(result) for result in comparison.results],
        "differences": [
            {**_plain(d), "resolved": d.is_resolved, "verdict": verdict(d)}
            for d in comparison.differences
        ],
        "budgets": {
            label: {key: _finite(value) for key, value in asdict(budget).items()}
            for label, budget in comparison.budgets.items()
        },
        "stage_seconds": comparison.stage_seconds,
        "settings": comparison.settings,
        "warnings": comparison.warnings,
    }


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["objectives"]:
        from archer.objective_checks.compare_objectives import main as compare_objectives

        compare_objectives(argv[1:])
        return
    arguments = _parser().parse_args(argv)
    run_or_explain(lambda: _compare(arguments))


def _compare(arguments: argparse.Namespace) -> None:
    for option in ("out", "json", "picture"):
        file = getattr(arguments, option)
        if file is not None and not file.absolute().parent.is_dir():
            expected = "a file in an existing folder"
            raise ConfigError(f"--{option}", str(file), expected, "Create the folder.")
    comparison = compare(arguments.runs)
    write_page(comparison, arguments.out)
    written = [arguments.out]
    if arguments.json:
        text = json.dumps(numbers(comparison), indent=1, allow_nan=False)
        write_atomically(arguments.json, text.encode())
        written.append(arguments.json)
    if arguments.picture:
        write_picture(comparison, arguments.picture)
        written.append(arguments.picture)
    print(markdown(comparison))
    print("\n" + "\n".join(map(str, written)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m archer.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run directories, or folders of some"
    )
    parser.add_argument("--out", type=Path, default=Path("compare.html"), help="the page")
    parser.add_argument("--json", type=Path, help="also write the numbers")
    parser.add_argument("--picture", type=Path, help="also draw curves and final scores as a PNG")
    return parser


def _is_headline(difference: Difference) -> bool:
    return difference.measure.startswith("avg@")


def _what_would_resolve(difference: Difference) -> str:
    estimate = difference.estimate
    if not estimate.covers_seeds:
        return ""
    ways = []
    if difference.seeds_needed:
        ways.append(f"about {difference.seeds_needed} seeds each")
    if difference.problems_needed:
        ways.append(f"about {difference.problems_needed:,} problems")
    if ways:
        return f"If it is real, {' or '.join(ways)} would probably show it."
    return (
        f"Neither {MAX_SEEDS} seeds nor {MAX_PROBLEMS} times the problems would be likely to show "
        "so small a difference."
    )


def _facts(comparison: Comparison) -> dict[str, str]:
    """What was compared, in a few words each."""
    runs = [run for algorithm in comparison.algorithms for run in algorithm.runs]
    sizes = [len(algorithm.runs) for algorithm in comparison.algorithms]
    facts = {
        "algorithms": str(len(sizes)),
        "seeds each": str(min(sizes)) if min(sizes) == max(sizes) else f"{min(sizes)}-{max(sizes)}",
        "steps": " or ".join(str(steps) for steps in sorted({run.last_step for run in runs})),
    }
    for key in ("model.name", "data.name"):
        facts[key.partition(".")[0]] = " or ".join(sorted({str(run.config[key]) for run in runs}))
    for one in comparison.held_out:
        verdicts = one.shared(comparison.algorithms)[0]
        facts[f"held-out {one.name}"] = f"{verdicts.shape[1]} problems, step {one.step}"
    return facts


def _results_of(comparison: Comparison, name: str) -> dict[str, dict[str, Result]]:
    """Measure -> algorithm -> result, of one held-out set."""
    table: dict[str, dict[str, Result]] = {}
    for result in comparison.results:
        if result.set == name:
            table.setdefault(result.measure, {})[result.algorithm] = result
    return table


def _forests(comparison: Comparison) -> dict[str, dict[str, charts.Interval]]:
    """Title -> pair -> difference with its interval, for avg@k of every set."""
    forests: dict[str, dict[str, charts.Interval]] = {}
    for d in filter(_is_headline, comparison.differences):
        rows = forests.setdefault(f"Difference in {d.set} {d.measure}", {})
        rows[f"{d.first} \N{MINUS SIGN} {d.second}"] = charts.Interval(
            d.estimate.value, d.estimate.low, d.estimate.high, d.is_resolved
        )
    return forests


def _stages(comparison: Comparison) -> list[str]:
    """Stages of any algorithm, the longest first, those of few steps last."""
    longest: dict[str, float] = {}
    for of_algorithm in comparison.stage_seconds.values():
        for stage, seconds in of_algorithm.items():
            longest[stage] = max(seconds, longest.get(stage, 0.0))
    return sorted(longest, key=lambda stage: (stage in OCCASIONAL_STAGES, -longest[stage]))


def _draw_bars(axes: Axes, results: Sequence[Result]) -> None:
    """Final avg@k of one set, with intervals as whiskers."""
    results = [result for result in results if result.set == results[0].set]
    estimates = [result.estimate for result in results]
    values = [e.value for e in estimates]
    whiskers = [[e.value - e.low for e in estimates], [e.high - e.value for e in estimates]]
    colours = [charts.SERIES_COLOURS[i % len(charts.SERIES_COLOURS)] for i in range(len(results))]
    bars = axes.bar(range(len(values)), values, 0.6, color=colours)
    axes.errorbar(
        range(len(values)), values, whiskers, fmt="none", ecolor=charts.LIGHT["ink"], lw=1
    )
    axes.bar_label(bars, [f"{v:.3f}" for v in values], label_type="center", color="white")
    axes.set_xticks(range(len(values)), [fill(result.algorithm, 12) for result in results])
    axes.set_ylim(0, 1)
    if results:
        _title(axes, f"Final {results[0].set} {results[0].measure}, 95 % intervals")


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=9, color=charts.LIGHT["ink"], loc="left")


def _figures(result: Result | None) -> str:
    if result is None:
        return "-"
    estimate = result.estimate
    return f"{estimate.value:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _plain(item: Result | Difference) -> dict[str, Any]:
    """The fields of an item, with its estimate as value, low, high and p_value."""
    estimate = item.estimate
    shown = {key: getattr(item, key) for key in vars(item) if key != "estimate"}
    interval = {key: getattr(estimate, key) for key in ("value", "low", "high", "p_value")}
    sources = {"seeds": estimate.num_seeds, "problems": estimate.num_problems}
    return {key: _finite(value) for key, value in {**shown, **interval, **sources}.items()}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


if __name__ == "__main__":
    main()
