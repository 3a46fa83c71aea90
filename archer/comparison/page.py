"""What runs of several algorithms show: final scores, differences, curves, budgets, warnings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from archer.comparison.charts import SMOOTH_FROM, SMOOTH_WINDOW, Series, smooth
from archer.comparison.runs import (
    Algorithm,
    HeldOut,
    Measure,
    Run,
    differing_keys,
    find_runs,
    group_runs,
    read_held_out,
)
from archer.errors import ConfigError
from archer.evaluation.statistics import Estimate, difference_estimate, holm, mean_estimate
from archer.report import eval_keys, time_split

ALPHA = 0.05
UNEQUAL = 0.05
"""Budgets that differ by more than this share are pointed out."""
MAX_SEEDS, MAX_PROBLEMS = 100, 64
"""How far to look for a budget that resolves a difference; problems as a multiple."""
CURVES = {
    "reward/mean": "Training reward",
    "policy/entropy": "Entropy (nats per token)",
    "rollout/response_tokens_mean": "Response length (tokens)",
    "policy/clip_frac": "Clipped tokens (share)",
    "policy/approx_kl": "KL to the old policy (nats per token)",
    "policy/grad_norm": "Gradient norm",
}
SAME_EVERYWHERE = ("model", "data", "reward", "sampling", "trainer", "optimizer", "eval")
"""Sections of the config that a comparison of algorithms leaves alone."""


@dataclass(frozen=True)
class Result:
    """The final score of one algorithm."""

    algorithm: str
    set: str
    measure: str
    estimate: Estimate


@dataclass(frozen=True)
class Difference:
    """Two algorithms by one measure, the one with the higher score first."""

    first: str
    second: str
    set: str
    measure: str
    estimate: Estimate
    holm_p: float
    """Holm's p-value over the pairs compared by this measure."""
    sampling: float
    """Variance of the difference that comes from the verdicts being samples; NaN for pass@k."""
    seeds_needed: int | None
    """Seeds each that would probably resolve it, if it is real; None if it is resolved, if there
    is too little to tell, or if no reasonable number would."""
    problems_needed: int | None
    """The same for problems, with the present seeds."""

    @property
    def is_resolved(self) -> bool:
        return self.estimate.is_resolved and self.holm_p < ALPHA


@dataclass(frozen=True)
class Budget:
    """What a run was given and what it took; for an algorithm, means over its seeds."""

    steps: float
    optimizer_steps: float
    prompts: float
    samples: float
    tokens: float
    seconds: float
    samples_per_s: float
    tokens_per_s: float


@dataclass(frozen=True)
class Comparison:
    """Everything the page shows."""

    algorithms: tuple[Algorithm, ...]
    held_out: tuple[HeldOut, ...]
    results: tuple[Result, ...]
    differences: tuple[Difference, ...]
    budgets: Mapping[str, Budget]
    stage_seconds: Mapping[str, Mapping[str, float]]
    """Algorithm -> stage -> median seconds of the steps that have it."""
    settings: Mapping[str, Mapping[str, Any]]
    """Config keys that differ -> algorithm -> value; absent where the algorithm lacks the key."""
    warnings: tuple[str, ...]


def compare(paths: Sequence[Path]) -> Comparison:
    """Read the runs in these folders and compare them.

    Raises:
        ConfigError: a path holds no run, or no run has logged a step.
    """
    found = find_runs(paths)
    runs = [run for run in found if run.lines]
    if not runs:
        names = ", ".join(map(str, paths))
        raise ConfigError("RUN", names, "a run that has logged a step", "Wait for its first step.")
    warnings = [
        f"{run.path.name} has not logged a step: left out." for run in found if not run.lines
    ]
    algorithms = group_runs(runs)
    held_out = read_held_out(runs, warnings)
    results = [result for one in held_out for result in final_results(algorithms, one)]
    differences = [d for one in held_out for d in all_differences(algorithms, one, warnings)]
    budgets = {a.label: _mean_budget([run_budget(run) for run in a.runs]) for a in algorithms}
    return Comparison(
        algorithms=tuple(algorithms),
        held_out=tuple(held_out),
        results=tuple(results),
        differences=tuple(differences),
        budgets=budgets,
        stage_seconds={a.label: stage_seconds(a) for a in algorithms},
        settings=_differing_settings(algorithms),
        warnings=(*run_warnings(algorithms), *budget_warnings(budgets), *warnings),
    )


def final_results(algorithms: Sequence[Algorithm], held_out: HeldOut) -> list[Result]:
    """Every algorithm by every measure, on the problems that all runs share."""
    verdicts = held_out.shared(algorithms)
    results = []
    for measure in held_out.measures if verdicts[0].shape[1] > 1 else ():
        scores, _ = _scores(measure, verdicts)
        step = measure.step(verdicts[0].shape[2])
        results += [
            Result(algorithm.label, held_out.name, measure.name, mean_estimate(of_algorithm, step))
            for algorithm, of_algorithm in zip(algorithms, scores, strict=True)
        ]
    return results


def all_differences(
    algorithms: Sequence[Algorithm], held_out: HeldOut, warnings: list[str]
) -> list[Difference]:
    """Every pair of algorithms by every measure; Holm's correction spans the pairs."""
    by_measure: dict[Measure, list[Difference]] = {}
    for pair in itertools.combinations(algorithms, 2):
        asked = held_out.num_problems([run for algorithm in pair for run in algorithm.runs])
        verdicts = held_out.shared(pair)
        shared = verdicts[0].shape[1]
        names = " and ".join(algorithm.label for algorithm in pair)
        if shared < asked:
            warnings.append(
                f"{names} share {shared} of {asked} problems of {held_out.name}; "
                + ("only those are compared." if shared > 1 else "they are not compared.")
            )
        for measure in held_out.measures if shared > 1 else ():
            by_measure.setdefault(measure, []).append(
                _difference(pair, held_out.name, measure, verdicts)
            )
    return [d for of_measure in by_measure.values() for d in _corrected(of_measure)]


def seed_curve(algorithm: Algorithm, key: str) -> Series:
    """Mean of a metric over seeds, in a band from the lowest seed to the highest.

    Over the steps that every seed has logged: a mean over fewer would jump where a run ends.
    """
    columns = [
        {line["step"]: line[key] for line in run.lines if not math.isnan(line.get(key, math.nan))}
        for run in algorithm.runs
    ]
    steps = sorted(set.intersection(*map(set, columns)))
    values = np.array([[column[step] for step in steps] for column in columns])
    if len(columns) == 1:
        return Series(algorithm.label, steps, list(values[0]))
    if len(steps) >= SMOOTH_FROM:
        values = np.array([smooth(row, SMOOTH_WINDOW) for row in values])
    return Series(
        algorithm.label,
        steps,
        list(values.mean(axis=0)),
        list(values.min(axis=0)),
        list(values.max(axis=0)),
    )


def all_curves(algorithms: Sequence[Algorithm]) -> list[tuple[str, list[Series]]]:
    """Titles and a series for each algorithm; what no algorithm has logged twice is left out."""
    lines = [line for algorithm in algorithms for line in algorithm.runs[0].lines]
    evaluated = {
        key: f"Held-out {match['set']} {match['measure']}"
        for key, match in eval_keys(lines).items()
        if match["kind"] == "avg"
    }
    charts = [
        (title, [seed_curve(algorithm, key) for algorithm in algorithms])
        for key, title in {**evaluated, **CURVES}.items()
    ]
    return [(title, series) for title, series in charts if any(len(s.x) > 1 for s in series)]


def run_budget(run: Run) -> Budget:
    """Sums over the run. Seconds are those of its steps, less evaluations and checkpoints."""
    columns = [run.column(f"time/{stage}_s") for stage in ("step", "eval", "checkpoint")]
    spent, *aside = (float(np.nansum(column)) for column in columns)
    seconds = spent - sum(aside)
    samples = float(np.nansum(run.column("ledger/submitted")))
    prompts = run.column("rollout/prompts")
    lengths = run.column("rollout/response_tokens_mean")
    tokens = float(np.nansum(prompts * lengths)) * run.config["trainer.group_size"]
    return Budget(
        steps=run.last_step,
        optimizer_steps=float(np.nansum(run.column("policy/optimizer_steps"))),
        prompts=float(np.nansum(prompts)),
        samples=samples,
        tokens=tokens,
        seconds=seconds,
        samples_per_s=samples / seconds if seconds else math.nan,
        tokens_per_s=tokens / seconds if seconds else math.nan,
    )


def stage_seconds(algorithm: Algorithm) -> dict[str, float]:
    """Median seconds of each stage, over all steps of all seeds that have the stage."""
    pooled: dict[str, list[float]] = {}
    for run in algorithm.runs:
        trained = [line for line in run.lines if line["step"] > 0]
        for stage, seconds in time_split(trained)[1].items():
            pooled.setdefault(stage, []).extend(s for s in seconds if s > 0)
    return {stage: float(np.median(seconds)) for stage, seconds in pooled.items() if seconds}


def run_warnings(algorithms: Sequence[Algorithm]) -> list[str]:
    """What makes the runs unlike one another, or incomplete."""
    runs = [run for algorithm in algorithms for run in algorithm.runs]
    return [
        *_unfinished(runs),
        *_seed_warnings(algorithms),
        *_condition_warnings(runs),
        *_software_warnings(runs),
    ]


def budget_warnings(budgets: Mapping[str, Budget]) -> list[str]:
    """Algorithms that were given more than others."""
    found = []
    for key, words in (
        ("steps", "steps"),
        ("optimizer_steps", "optimizer steps"),
        ("prompts", "prompts"),
        ("samples", "samples"),
    ):
        given = {label: getattr(budget, key) for label, budget in budgets.items()}
        most, least = max(given, key=given.__getitem__), min(given, key=given.__getitem__)
        if given[most] > given[least] * (1 + UNEQUAL):
            times = f"{given[most] / given[least]:.1f} times" if given[least] else "all"
            found.append(
                f"Not equal {words}: {most} was given {given[most]:,.0f}, {times} the "
                f"{given[least]:,.0f} of {least}."
            )
    return found


def _scores(measure: Measure, verdicts: Sequence[np.ndarray]) -> tuple[list[np.ndarray], float]:
    """Scores float [S, P] by algorithm, and the variance of the mean that sampling makes.

    Problems that a failed verifier left without a verdict in any run are dropped.
    """
    scores = [measure.scores(of_algorithm) for of_algorithm in verdicts]
    is_scored = ~np.isnan(np.concatenate(scores)).any(axis=0)
    sampling = math.nan
    if measure.kind == "avg" and measure.k > 1:
        sampling = sum(_sampling_variance(v[:, is_scored]) for v in verdicts)
    return [of_algorithm[:, is_scored] for of_algorithm in scores], sampling


def _sampling_variance(verdicts: np.ndarray) -> float:
    """Variance of the mean of [S, P, n] verdicts if the same runs sampled the problems again."""
    num_samples = (~np.isnan(verdicts)).sum(axis=2)
    of_problem = np.nanvar(verdicts, axis=2) / np.maximum(num_samples - 1, 1)
    return float(of_problem.sum()) / of_problem.size**2


def _difference(
    pair: Sequence[Algorithm], set_name: str, measure: Measure, verdicts: Sequence[np.ndarray]
) -> Difference:
    """Not yet corrected for the other pairs."""
    (scores, others), sampling = _scores(measure, verdicts)
    first, second = (algorithm.label for algorithm in pair)
    if scores.mean() < others.mean():
        scores, others, first, second = others, scores, second, first
    estimate = difference_estimate(scores, others, measure.step(verdicts[0].shape[2]))
    return Difference(
        first, second, set_name, measure.name, estimate, estimate.p_value, sampling, None, None
    )


def _corrected(differences: Sequence[Difference]) -> list[Difference]:
    """The pairs of one measure with Holm's p-values, and what would resolve the unresolved."""
    found = []
    p_values = holm([difference.estimate.p_value for difference in differences])
    for difference, p_value in zip(differences, p_values, strict=True):
        corrected = replace(difference, holm_p=p_value)
        if not corrected.is_resolved and corrected.estimate.covers_seeds:
            corrected = replace(
                corrected,
                seeds_needed=_seeds_needed(corrected.estimate),
                problems_needed=_problems_needed(corrected.estimate),
            )
        found.append(corrected)
    return found


def _seeds_needed(estimate: Estimate) -> int | None:
    counts = range(max(estimate.num_seeds) + 1, MAX_SEEDS + 1)
    return next((n for n in counts if estimate.shows_with(n, estimate.num_problems)), None)


def _problems_needed(estimate: Estimate) -> int | None:
    counts = (estimate.num_problems * multiple for multiple in range(2, MAX_PROBLEMS + 1))
    seeds = min(estimate.num_seeds)
    return next((n for n in counts if estimate.shows_with(seeds, n)), None)


def _mean_budget(budgets: Sequence[Budget]) -> Budget:
    return Budget(
        **{
            field.name: float(np.mean([getattr(budget, field.name) for budget in budgets]))
            for field in fields(Budget)
        }
    )


def _differing_settings(algorithms: Sequence[Algorithm]) -> dict[str, dict[str, Any]]:
    settings = {algorithm.label: algorithm.runs[0].settings for algorithm in algorithms}
    return {
        key: {label: of_label[key] for label, of_label in settings.items() if key in of_label}
        for key in differing_keys(list(settings.values()))
    }


def _unfinished(runs: Sequence[Run]) -> list[str]:
    short = [run for run in runs if run.last_step < run.num_steps]
    found = [
        f"{run.path.name} is not finished: step {run.last_step} of {run.num_steps}."
        for run in short
    ]
    lengths = sorted({run.num_steps for run in runs})
    if len(lengths) > 1:
        found.append(f"The runs were meant to have different lengths: {lengths} steps.")
    return found


def _seed_warnings(algorithms: Sequence[Algorithm]) -> list[str]:
    found = []
    seeds = {algorithm.label: algorithm.seeds for algorithm in algorithms}
    if len({frozenset(of_label) for of_label in seeds.values()}) > 1:
        listed = "; ".join(f"{label}: {of_label}" for label, of_label in seeds.items())
        found.append(f"The seeds are not the same: {listed}.")
    single = [label for label, of_label in seeds.items() if len(of_label) == 1]
    if single:
        found.append(
            f"One seed only of {', '.join(single)}: the intervals do not contain the luck of "
            "training, which is often larger than all else."
        )
    found += [
        f"{label} has a seed more than once: {of_label}."
        for label, of_label in seeds.items()
        if len(set(of_label)) < len(of_label)
    ]
    return found


def _condition_warnings(runs: Sequence[Run]) -> list[str]:
    """Sections of the config that should be the same and are not, lengths apart."""
    configs = [run.config for run in runs]
    keys = [key for key in differing_keys(configs) if key != "trainer.num_steps"]
    by_section = {name: [k for k in keys if k.startswith(f"{name}.")] for name in SAME_EVERYWHERE}
    return [
        f"Not the same {name}: {_values(configs, of_section)}."
        for name, of_section in by_section.items()
        if of_section
    ]


def _software_warnings(runs: Sequence[Run]) -> list[str]:
    versions = [run.versions for run in runs]
    keys = differing_keys(versions)
    found = [f"Not the same versions: {_values(versions, keys)}."] if keys else []
    commits = sorted({run.commit for run in runs if run.commit})
    if len(commits) > 1:
        found.append(f"Not the same commit of archer: {' or '.join(commits)}.")
    if len({run.host for run in runs}) > 1:
        found.append("The runs come from different machines: their times do not compare.")
    return found


def _values(configs: Sequence[Mapping[str, Any]], keys: Iterable[str]) -> str:
    """``key a or b; other c or d``"""
    return "; ".join(
        f"{key} {' or '.join(dict.fromkeys(str(c.get(key, '(absent)')) for c in configs))}"
        for key in keys
    )
