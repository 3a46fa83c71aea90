"""What an evaluation found on a set, and published figures beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from archer.config.keys import ModelConfig, Protocol
from archer.evaluation.measures import Problems, SampleStats, verdict_matrix
from archer.evaluation.statistics import (
    avg_per_problem,
    bootstrap_intervals,
    majority_per_problem,
    mean_over_problems,
    pass_per_problem,
    sampling_error,
)

NOISE = 1.96 * math.sqrt(2)
"""Standard errors by which two measurements of one accuracy differ, at most, 95 times in 100."""

Judgement = Literal["within noise", "in interval", "outside", "other protocol"]


@dataclass(frozen=True)
class Score:
    """A mean over problems, as a fraction, with its 95 % bootstrap interval; NaN without one."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Published:
    """A published figure beside the measured one, both fractions."""

    measure: str
    """``avg@k``, ``pass@k`` or ``maj@k`` with the k of the publication."""
    value: float
    difference: float
    """Measured less published."""
    judgement: Judgement


@dataclass(frozen=True)
class SetResult:
    """All that was measured on one set."""

    protocol: Protocol
    num_problems: int
    dropped: Mapping[str, int]
    """Problems of the set that were left out, by reason."""
    avg: Score
    avg_error: float
    """Standard error of ``avg`` from the luck of sampling alone; NaN with one sample a problem."""
    pass_at: Mapping[int, Score]
    """By k, 1 to n."""
    majority: Score | None
    """None where there are no answers to vote for."""
    samples: SampleStats
    published: tuple[Published, ...] = ()

    @property
    def num_samples(self) -> int:
        """Of each problem, n."""
        return self.protocol.num_samples

    def record(self) -> dict[str, Any]:
        """The set's entry in ``results.json``; null where there is no number."""
        n = self.num_samples
        scores = {f"avg@{n}": self.avg}
        scores |= {f"pass@{k}": score for k, score in self.pass_at.items()}
        if self.majority is not None:
            scores[f"maj@{n}"] = self.majority
        measures = {f"avg@{n}_se": self.avg_error}
        for name, score in scores.items():
            measures |= {name: score.value, f"{name}_lo": score.low, f"{name}_hi": score.high}
        return {
            "num_problems": self.num_problems,
            "dropped": dict(self.dropped),
            **self.protocol.model_dump(),
            **{name: or_null(value) for name, value in measures.items()},
            **self.samples.metrics(),
            "published": {found.measure: asdict(found) for found in self.published},
        }


def measure_set(problems: Problems, protocol: Protocol, dropped: Mapping[str, int]) -> SetResult:
    """The scores of a set from the verdicts on all of its samples."""
    correct = verdict_matrix(problems)
    answers = [[verdict.answer for verdict in problem] for problem in problems]
    sizes = range(1, correct.shape[1] + 1)
    per_problem = [avg_per_problem(correct), *(pass_per_problem(correct, k) for k in sizes)]
    if any(answer is not None for problem in answers for answer in problem):
        per_problem.append(majority_per_problem(correct, answers))
    intervals = bootstrap_intervals(np.array(per_problem))
    avg, *rest = [
        Score(mean_over_problems(values), low, high)
        for values, (low, high) in zip(per_problem, intervals, strict=True)
    ]
    return SetResult(
        protocol=protocol,
        num_problems=len(problems),
        dropped=dropped,
        avg=avg,
        avg_error=sampling_error(correct),
        pass_at=dict(zip(sizes, rest, strict=False)),
        majority=rest[len(sizes)] if len(rest) > len(sizes) else None,
        samples=SampleStats.of(problems),
    )


def figures_of(
    model: ModelConfig, published: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """The published figures of a model, in percent, by measure.

    A model goes by its hub id or folder, and by ``model.name``. The last part decides, in upper or
    lower case: a copy on this disk is the same model.

    Args:
        published: hub id or name -> measure -> percent, from the set's section.
    """
    ours = {_last_part(name) for name in (model.path, model.name) if name}
    return {
        measure: percent
        for name, figures in published.items()
        if _last_part(name) in ours
        for measure, percent in figures.items()
    }


def compare_published(
    figures: Mapping[str, float], result: SetResult, same_protocol: bool
) -> tuple[Published, ...]:
    """Published figures beside what was measured.

    avg@n estimates the same accuracy for every n, so any measured one will do; pass@k and maj@k
    have to have the same k.

    Args:
        figures: measure -> percent.
        same_protocol: the set was sampled as for the publication, so that a difference can be
            judged.
    """
    found = []
    for measure, percent in figures.items():
        kind, _, k = measure.partition("@")
        match kind:
            case "avg":
                score = result.avg
            case "pass":
                score = result.pass_at.get(int(k))
            case _:
                score = result.majority if int(k) == result.num_samples else None
        if score is None or math.isnan(score.value):
            continue
        value = percent / 100
        difference = score.value - value
        judgement: Judgement = "outside"
        if not same_protocol:
            judgement = "other protocol"
        elif kind == "avg" and abs(difference) <= NOISE * result.avg_error:
            judgement = "within noise"
        elif score.low <= value <= score.high:
            judgement = "in interval"
        found.append(Published(measure, value, difference, judgement))
    return tuple(found)


def mean_avg(results: Mapping[str, SetResult]) -> float:
    """Mean over the sets of their avg@n, the "Avg." of papers."""
    return _mean([result.avg.value for result in results.values()])


def published_mean_avg(results: Mapping[str, SetResult]) -> float:
    """``mean_avg`` of the published figures; NaN unless every set has one."""
    return _mean(
        [
            next((p.value for p in result.published if p.measure.startswith("avg@")), math.nan)
            for result in results.values()
        ]
    )


def or_null(value: float) -> float | None:
    """JSON has no word for NaN."""
    return None if math.isnan(value) else value


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].lower()
