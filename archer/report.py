"""``report.html``, one self-contained page about a run: ``python -m archer.report RUN_DIR``."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from archer.comparison import charts
from archer.comparison.charts import Series
from archer.comparison.html import render_page
from archer.console import format_duration
from archer.errors import ConfigError
from archer.metrics import ROLLOUTS_FOLDER, read_metrics, read_rollouts, write_atomically

Lines = Sequence[Mapping[str, float]]
"""The lines of ``metrics.jsonl``."""

CURVES: tuple[tuple[str, dict[str, str]], ...] = (  # title, {metric: label}
    ("Training reward", {"reward/mean": "reward", "reward/accuracy": "accuracy"}),
    ("Entropy (nats per token)", {"policy/entropy": "entropy"}),
    ("Response length (tokens)", {"rollout/response_tokens_mean": "tokens"}),
    (
        "Failures (share of responses)",
        {
            "reward/no_answer_frac": "no answer",
            "rollout/truncated_frac": "truncated",
            "reward/failure_frac": "verifier failed",
        },
    ),
    (
        "Clipped tokens (share)",
        {
            "policy/clip_frac": "all",
            "policy/clip_frac_reasoning": "reasoning",
            "policy/clip_frac_knowledge": "knowledge",
        },
    ),
    ("Reasoning tokens (share)", {"policy/frac_reasoning": "share"}),
    ("KL (nats per token)", {"policy/kl": "to reference", "policy/approx_kl": "to old policy"}),
    ("Gradient norm", {"policy/grad_norm": "norm"}),
    (
        "Engine and trainer disagree (nats per token)",
        {"rollout/mismatch_logprob_mean": "mean", "rollout/mismatch_logprob_max": "max"},
    ),
    ("Tokens per second", {"throughput/tokens_per_s": "tokens/s"}),
    ("Driver memory (MB)", {"memory/driver_rss_mb": "resident"}),
)
EVAL_KEY = re.compile(r"eval/(?P<set>.+)/(?P<measure>(?P<kind>avg|pass)@(?P<k>\d+))")
SAMPLES_PER_VERDICT = 2


@dataclass(frozen=True)
class Measured:
    """An evaluation result; the interval is NaN where none was logged."""

    step: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class EvalRow:
    """One row of the before/after table."""

    set: str
    measure: str
    before: Measured
    after: Measured | None
    """None while the run has evaluated only once."""


def write_report(run_dir: Path) -> Path:
    """Write ``report.html`` into a run directory, from what the directory holds so far.

    Raises:
        ConfigError: the directory holds no ``config.yaml``.
    """
    config_file = run_dir / "config.yaml"
    if not config_file.exists():
        raise ConfigError(
            "run directory", str(run_dir), "a folder with config.yaml", "Give the folder of a run."
        )
    config_text = config_file.read_text(encoding="utf-8")
    lines = read_metrics(run_dir)
    page = render_page(
        "report.html",
        name=run_dir.name,
        headline=headline(yaml.safe_load(config_text), lines),
        evals=eval_rows(lines),
        curves=[(title, Markup(charts.line_chart(series))) for title, series in curves(lines)],
        time_chart=_time_chart(lines),
        time_means=time_means(lines),
        ledger=ledger_totals(lines),
        samples=sample_sections(run_dir / ROLLOUTS_FOLDER),
        config_text=config_text,
        environment=_environment(run_dir / "environment.json"),
    )
    path = run_dir / "report.html"
    write_atomically(path, page.encode())
    return path


def curve_picture(run_dir: Path, path: Path) -> Path:
    """A PNG for a README: training reward, and held-out avg@k before and after beside it."""
    from matplotlib.figure import Figure

    lines = read_metrics(run_dir)
    rows = [row for row in eval_rows(lines) if row.measure.startswith("avg@") and row.after]
    figure = Figure(figsize=(9, 3.2), layout="constrained", dpi=160)
    left, right = figure.subplots(1, 2, width_ratios=[2, 1])
    for axes in (left, right):
        charts.style_axes(axes)
    charts.draw_lines(left, _series(lines, {"reward/mean": "reward"}))
    left.set_title("training reward", fontsize=9, color=charts.LIGHT["ink"], loc="left")
    left.set_xlabel("step", fontsize=8, color=charts.LIGHT["muted"])
    _draw_before_after(right, rows)
    figure.savefig(path)
    return path


def headline(config: Mapping[str, Any], lines: Lines) -> dict[str, str]:
    """What the run is, in a few words each: label -> text."""
    steps = [line for line in lines if "time/step_s" in line]
    seconds = _present(line["time/step_s"] for line in steps)
    speeds = _present(line.get("throughput/tokens_per_s", math.nan) for line in steps)
    done = int(max((line["step"] for line in lines), default=0))
    return {
        "algorithm": config["algo"]["name"],
        "model": config["model"]["name"],
        "data": config["data"]["name"],
        "seed": str(config["seed"]),
        "steps": f"{done} of {config['trainer']['num_steps']}",
        "time in steps": format_duration(sum(seconds)) if seconds else "-",
        "tokens/s": f"{sum(speeds) / len(speeds):,.0f}" if speeds else "-",
        "device": config["cluster"]["device"],
    }


def eval_rows(lines: Lines) -> list[EvalRow]:
    """First and last result of every evaluated measure; avg@k before pass@k, k rising, by set."""
    rows = []
    for key, match in eval_keys(lines).items():
        results = [
            Measured(
                int(line["step"]),
                line[key],
                line.get(f"{key}_lo", math.nan),
                line.get(f"{key}_hi", math.nan),
            )
            for line in lines
            if key in line
        ]
        after = results[-1] if len(results) > 1 else None
        rows.append(EvalRow(match["set"], match["measure"], results[0], after))
    return rows


def eval_keys(lines: Lines) -> dict[str, re.Match[str]]:
    """Keys of evaluation results in the order of the table."""
    keys = {key for line in lines for key in line}
    matches = [match for key in keys if (match := EVAL_KEY.fullmatch(key))]
    matches.sort(key=lambda match: (match["set"], match["kind"], int(match["k"])))
    return {match[0]: match for match in matches}


def curves(lines: Lines) -> list[tuple[str, list[Series]]]:
    """Titles and series of the charts that have data."""
    measured = [(f"Held-out {name}", series) for name, series in _eval_series(lines).items()]
    trained = [(title, _series(lines, labels)) for title, labels in CURVES]
    return [(title, series) for title, series in measured + trained if series]


def time_split(lines: Lines) -> tuple[list[float], dict[str, list[float]]]:
    """Steps, and seconds of every stage at each of them; ``other`` is what no stage claims."""
    lines = [line for line in lines if "time/step_s" in line]
    keys = sorted({key for line in lines for key in line if key.startswith("time/")})
    stages = [key for key in keys if key != "time/step_s"]
    parts = {
        key.removeprefix("time/").removesuffix("_s"): [line.get(key, 0.0) for line in lines]
        for key in stages
    }
    if parts:
        claimed = [sum(line.get(key, 0.0) for key in stages) for line in lines]
        parts["other"] = [
            max(line["time/step_s"] - used, 0.0) for line, used in zip(lines, claimed, strict=True)
        ]
    # Largest at the bottom, where a stack is easiest to read.
    ordered = sorted(parts.items(), key=lambda part: -sum(part[1]))
    return [line["step"] for line in lines], dict(ordered)


def time_means(lines: Lines) -> dict[str, tuple[float, float]]:
    """Mean seconds of every stage in a step, and its share of the whole."""
    steps, parts = time_split(lines)
    total = sum(sum(seconds) for seconds in parts.values())
    return {
        stage: (sum(seconds) / len(steps), sum(seconds) / total if total else math.nan)
        for stage, seconds in parts.items()
    }


def ledger_totals(lines: Lines) -> dict[str, int]:
    """Samples by fate over the whole run: sums of the per-step ``ledger/`` counts."""
    totals: dict[str, int] = {}
    for line in lines:
        for key, count in line.items():
            if key.startswith("ledger/") and not math.isnan(count):
                name = key.removeprefix("ledger/")
                totals[name] = totals.get(name, 0) + int(count)
    return totals


def sample_sections(folder: Path) -> list[tuple[str, list[dict[str, Any]]]]:
    """Titles and rollouts of the first and the last file of training and of every evaluation."""
    by_name: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*_*.jsonl.gz")):
        by_name.setdefault(path.name.rpartition("_")[0], []).append(path)
    sections = []
    for name in sorted(by_name, key=lambda name: (name != "step", name)):
        label = "training" if name == "step" else name.replace("eval_", "evaluation on ", 1)
        for path in dict.fromkeys((by_name[name][0], by_name[name][-1])):
            step = int(path.name.split(".")[0].rpartition("_")[2])
            sections.append((f"Step {step}, {label}", pick_samples(read_rollouts(path))))
    return sections


def pick_samples(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first few right and wrong rollouts, of different prompts; reads no further."""
    right: dict[str, dict[str, Any]] = {}
    wrong: dict[str, dict[str, Any]] = {}
    for row in rows:
        kept = right if row["correct"] else wrong
        if len(kept) < SAMPLES_PER_VERDICT:
            kept.setdefault(row["prompt_id"], row)
        elif len(right) == len(wrong):
            break
    return [*right.values(), *wrong.values()]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m archer.report", description=__doc__)
    parser.add_argument("run_dir", type=Path, help="folder of a run, e.g. runs/default/NAME")
    parser.add_argument("--picture", type=Path, help="also draw the learning curve as a PNG")
    arguments = parser.parse_args(argv)
    try:
        print(write_report(arguments.run_dir))
        if arguments.picture:
            print(curve_picture(arguments.run_dir, arguments.picture))
    except ConfigError as error:
        sys.exit(f"error: {error}")


def _eval_series(lines: Lines) -> dict[str, list[Series]]:
    """Held-out curves by set: avg@k with its interval, and pass@k of the largest k."""
    by_set: dict[str, dict[str, Series]] = {}
    for key, match in eval_keys(lines).items():
        points = [line for line in lines if key in line]
        if len(points) < 2:
            continue
        has_interval = all(f"{key}_lo" in line for line in points)
        by_set.setdefault(match["set"], {})[match["kind"]] = Series(  # the largest k comes last
            match["measure"],
            [line["step"] for line in points],
            [line[key] for line in points],
            [line[f"{key}_lo"] for line in points] if has_interval else None,
            [line[f"{key}_hi"] for line in points] if has_interval else None,
        )
    return {name: list(series.values()) for name, series in by_set.items()}


def _series(lines: Lines, labels: Mapping[str, str]) -> list[Series]:
    found = []
    for key, label in labels.items():
        points = [(line["step"], line[key]) for line in lines if key in line]
        if any(not math.isnan(y) for _, y in points):
            found.append(Series(label, [x for x, _ in points], [y for _, y in points]))
    return found


def _time_chart(lines: Lines) -> Markup | None:
    steps, parts = time_split(lines)
    return Markup(charts.stacked_chart(steps, parts)) if parts else None


def _draw_before_after(axes: Any, rows: Sequence[EvalRow]) -> None:
    """Pairs of bars, one pair for each set, with the intervals as whiskers."""
    for offset, label, colour in ((-0.2, "before", "c7"), (0.2, "after", "c0")):
        results = [row.before if label == "before" else row.after for row in rows]
        values = [result.value for result in results if result]
        below = [result.value - result.low for result in results if result]
        above = [result.high - result.value for result in results if result]
        places = [i + offset for i in range(len(values))]
        bars = axes.bar(places, values, 0.36, color=charts.LIGHT[colour], label=label)
        axes.errorbar(places, values, (below, above), fmt="none", ecolor=charts.LIGHT["ink"], lw=1)
        axes.bar_label(bars, [f"{v:.2f}" for v in values], label_type="center", color="white")
    axes.set_xticks(range(len(rows)), [f"{row.set} {row.measure}" for row in rows])
    axes.set_ylim(0, 1)
    axes.set_title("held-out", fontsize=9, color=charts.LIGHT["ink"], loc="left")
    axes.legend(fontsize=8, frameon=False, loc="upper left")


def _environment(path: Path) -> dict[str, list[str]]:
    """Facts about the machines, each as lines of text; empty without the file."""
    if not path.exists():
        return {}
    facts = json.loads(path.read_text(encoding="utf-8"))
    return {key: _text_lines(value) for key, value in facts.items()}


def _text_lines(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{key}: {inner}" for key, inner in value.items()]
    return [str(inner) for inner in value] if isinstance(value, list) else [str(value)]


def _present(values: Iterable[float]) -> list[float]:
    return [value for value in values if not math.isnan(value)]


if __name__ == "__main__":
    main()
