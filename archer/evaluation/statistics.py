"""avg@k, pass@k, maj@k, their bootstrap intervals over problems, and intervals that cover seeds.

A verdict matrix is float [P, n]: 1 right, 0 wrong, NaN where the verifier failed. A problem counts
with the samples it has; one that has none is left out (NaN in the per-problem results).
A score matrix is float [S, P]: avg@k or pass@k of every training seed on every problem, no NaN.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

LEVEL = 0.95
MAX_DEGREES = 1000.0
"""Beyond these degrees of freedom Student's t is the normal distribution to three digits."""


def avg_per_problem(correct: np.ndarray) -> np.ndarray:
    """Share of right samples: float [P, n] -> float [P], NaN without a valid sample."""
    num_samples, num_correct = _counts(correct)
    return np.where(num_samples > 0, num_correct / np.maximum(num_samples, 1), np.nan)


def pass_per_problem(correct: np.ndarray, k: int) -> np.ndarray:
    """Chance that k samples, drawn without replacement, hold a right one (arXiv 2107.03374).

    The unbiased estimate ``1 - C(n - c, k) / C(n, k)`` from n valid samples of which c are right,
    as a product so that no binomial coefficient overflows. Where failures leave n < k, pass@n
    stands for pass@k: it is a lower bound, and every k is about the same problems.

    Args:
        correct: float [P, samples].
        k: 1 <= k <= samples.
    Returns:
        float [P], NaN for a problem without a valid sample.
    Raises:
        ValueError: k is out of range.
    """
    if not 1 <= k <= np.shape(correct)[1]:
        raise ValueError(f"k={k}: expected 1 <= k <= {np.shape(correct)[1]} samples per problem")
    num_samples, num_correct = _counts(correct)
    return np.array([_pass_at_k(n, c, k) for n, c in zip(num_samples, num_correct, strict=True)])


def avg_at_k(correct: np.ndarray) -> float:
    """Accuracy of one sample, averaged over problems. NaN if nothing is valid."""
    return mean_over_problems(avg_per_problem(correct))


def pass_at_k(correct: np.ndarray, k: int) -> float:
    """Mean over problems of ``pass_per_problem``. NaN if nothing is valid."""
    return mean_over_problems(pass_per_problem(correct, k))


def majority_per_problem(
    correct: np.ndarray, answers: Sequence[Sequence[str | None]]
) -> np.ndarray:
    """Whether the most frequent answer to a problem is right (maj@n, arXiv 2203.11171).

    Answers that are equally frequent share the problem. A sample without an answer has no vote;
    where nobody has one, the problem is not solved.

    Args:
        correct: float [P, n].
        answers: [P][n], spellings of one answer already made equal.
    Returns:
        float [P], NaN for a problem without a valid sample.
    """
    return np.array([_majority(*problem) for problem in zip(correct, answers, strict=True)])


def mean_over_problems(per_problem: np.ndarray) -> float:
    """Of those that are not NaN; NaN if all are."""
    values = per_problem[~np.isnan(per_problem)]
    return float(values.mean()) if len(values) else float("nan")


def sampling_error(correct: np.ndarray) -> float:
    """Standard error of avg@n from the luck of sampling alone, the problems held fixed.

    Args:
        correct: float [P, n].
    Returns:
        NaN where a problem has a single valid sample, which says nothing of its luck.
    """
    num_samples, num_correct = _counts(correct)
    n, c = num_samples[num_samples > 0], num_correct[num_samples > 0]
    if not len(n) or min(n) < 2:
        return float("nan")
    return math.sqrt(float(np.sum(c / n * (1 - c / n) / (n - 1)))) / len(n)


def bootstrap_interval(
    per_problem: np.ndarray, level: float = LEVEL, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over problems; silent on the seeds of training.

    Problems are resampled, not samples: the samples of one problem are not independent evidence
    about the set. NaN entries are dropped first; without any problem both ends are NaN.
    """
    ((low, high),) = bootstrap_intervals(per_problem[None], level, num_resamples, seed)
    return low, high


def bootstrap_intervals(
    scores: np.ndarray, level: float = LEVEL, num_resamples: int = 2000, seed: int = 0
) -> list[tuple[float, float]]:
    """``bootstrap_interval`` of several scores of the same problems, from one set of draws.

    Args:
        scores: float [S, P]; a problem counts where it has all S.
    """
    values = scores[:, ~np.isnan(scores).any(axis=0)]
    num_problems = values.shape[1]
    if not num_problems:
        return [(math.nan, math.nan)] * len(values)
    rng = np.random.default_rng(seed)
    means = [
        values.take(rng.integers(num_problems, size=num_problems), axis=1).mean(axis=1)
        for _ in range(num_resamples)
    ]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def ranking_interval(
    values: np.ndarray,
    others: np.ndarray,
    is_compared: np.ndarray,
    level: float = LEVEL,
    num_resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Chance that one of ``values`` is below one of ``others``, the area under the ROC curve.

    Ties count half. The interval is a percentile bootstrap over both samples.

    Args:
        values, others: float [P] and [Q].
        is_compared: bool [P, Q], the pairs that count.
    Returns:
        The chance and the ends of its interval; NaN without a pair.
    """
    if not is_compared.any():
        return math.nan, math.nan, math.nan
    below, tied = (compare.outer(values, others) for compare in (np.less, np.equal))
    pairs = is_compared.astype(np.float64)
    wins = pairs * (below + tied / 2)
    rng = np.random.default_rng(seed)
    # How often each one is drawn, float [num_resamples, P] and [num_resamples, Q].
    rows, columns = (
        rng.multinomial(n, np.full(n, 1 / n), num_resamples).astype(np.float64)
        for n in (len(values), len(others))
    )
    num_pairs = ((rows @ pairs) * columns).sum(axis=1)
    num_wins = ((rows @ wins) * columns).sum(axis=1)
    drawn = num_wins[num_pairs > 0] / num_pairs[num_pairs > 0]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(wins.sum() / pairs.sum()), float(low), float(high)


@dataclass(frozen=True)
class Estimate:
    """A difference of two means over problems and seeds, with its interval.

    Each variance is the part of the variance of ``value`` that one source is responsible for.
    """

    value: float
    problems: float
    """From the choice of problems: what a paired bootstrap over them gives."""
    seeds: tuple[float, ...]
    """From the luck of training, by algorithm; zero where there is one seed only."""
    noise: tuple[float, ...]
    """Within ``problems``: what differs by seed and problem at once, the sampled verdicts included.
    NaN with one seed."""
    degrees: float
    """Of freedom, of the whole variance."""
    num_seeds: tuple[int, ...]
    num_problems: int
    is_floored: bool
    """The scores hardly differ between problems; see ``step`` of ``mean_estimate``."""

    @property
    def covers_seeds(self) -> bool:
        """False if an algorithm has one seed: the interval is silent on the luck of training."""
        return min(self.num_seeds) > 1

    @property
    def variance(self) -> float:
        return self.problems + sum(self.seeds)

    @property
    def low(self) -> float:
        return self.value - self._half_width

    @property
    def high(self) -> float:
        return self.value + self._half_width

    @property
    def p_value(self) -> float:
        """Two-sided, of the hypothesis that the true value is zero."""
        deviations = abs(self.value) / math.sqrt(self.variance)
        return 1 - _t_inside(deviations, self.degrees)

    @property
    def is_resolved(self) -> bool:
        """The interval excludes zero."""
        return self.low > 0 or self.high < 0

    def shows_with(self, num_seeds: int, num_problems: int, power: float = 0.8) -> bool:
        """Whether so many seeds each and problems would probably make the interval exclude zero.

        Takes the value and the variances measured here for true ones: rough with few seeds.
        """
        noise = sum(r * n for r, n in zip(self.noise, self.num_seeds, strict=True))
        between_problems = max(self.problems - sum(self.noise), 0.0)
        problems = (between_problems + noise / num_seeds) * self.num_problems / num_problems
        seeds = [v * n / num_seeds for v, n in zip(self.seeds, self.num_seeds, strict=True)]
        variance = problems + sum(seeds)
        spread = problems**2 / (num_problems - 1) + sum(v**2 for v in seeds) / (num_seeds - 1)
        degrees = min(variance**2 / spread, MAX_DEGREES)
        deviations = t_quantile(LEVEL, degrees) + t_quantile(2 * power - 1, degrees)
        return abs(self.value) > deviations * math.sqrt(variance)

    @cached_property
    def _half_width(self) -> float:
        return t_quantile(LEVEL, self.degrees) * math.sqrt(self.variance)


class Share(Estimate):
    """One mean. Its interval is made on the scale of log-odds and stays between 0 and 1.

    Near 1 the mean is skewed: an interval of equal arms misses the true value far too often.
    """

    @property
    def low(self) -> float:
        return self._bound(-1)

    @property
    def high(self) -> float:
        return self._bound(1)

    def _bound(self, sign: int) -> float:
        if not 0 < self.value < 1:  # all wrong or all right: no odds
            return min(max(self.value + sign * self._half_width, 0.0), 1.0)
        odds = self.value / (1 - self.value)
        slope = self.value * (1 - self.value)
        return 1 / (1 + math.exp(-sign * self._half_width / slope) / odds)


AnyEstimate = TypeVar("AnyEstimate", bound=Estimate)


def mean_estimate(scores: np.ndarray, step: float) -> Share:
    """Mean of one algorithm.

    Args:
        scores: float [S, P], P > 1.
        step: how much the score of a problem changes when the first of its samples turns right.
            The interval is never tighter than if two problems had changed by one sample: where
            all scores are equal, their spread alone would promise certainty.
    """
    return _estimate(Share, [scores], [1], step)


def difference_estimate(scores: np.ndarray, others: np.ndarray, step: float) -> Estimate:
    """Mean of ``scores`` less that of ``others``, paired over problems.

    Seeds are not paired: two runs of one seed have nothing in common but the order of prompts.

    Args:
        scores, others: float [S, P] and [S', P], the same problems in the same order.
        step: see ``mean_estimate``.
    """
    return _estimate(Estimate, [scores, others], [1, -1], step)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's p-values: below 5 % are as many as keep the chance of any false one below 5 %."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min((len(p_values) - rank) * p_values[i], 1.0))
        adjusted[i] = largest
    return adjusted


def t_quantile(level: float, degrees: float) -> float:
    """The t that Student's t stays within, on both sides, with probability ``level``."""
    angles, inside = _t_table(degrees)
    return math.sqrt(degrees) * math.tan(np.interp(level, inside, angles))


def _estimate(
    kind: type[AnyEstimate], arms: Sequence[np.ndarray], signs: Sequence[int], step: float
) -> AnyEstimate:
    """Problems and seeds as two random factors, crossed; docs/compare.md derives it."""
    num_problems = arms[0].shape[1]
    per_problem = sum(sign * arm.mean(axis=0) for sign, arm in zip(signs, arms, strict=True))
    floor = 2 * (step / min(map(len, arms)) / num_problems) ** 2
    observed = float(np.var(per_problem, ddof=1)) / num_problems
    problems = max(observed, floor)

    # A seed's mean also varies by the noise that `problems` holds already: count it once.
    raw = [
        float(np.var(arm.mean(axis=1), ddof=1)) / len(arm) if len(arm) > 1 else 0.0 for arm in arms
    ]
    noise = [_noise(arm) for arm in arms]
    share = max(1 - float(np.nansum(noise)) / sum(raw), 0.0) if sum(raw) else 0.0
    seeds = [share * r for r in raw]

    # Satterthwaite. The variance of an estimate cut at zero has no closed form: sqrt(share) lies
    # between none (share 0, all cut) and that of the uncut one, and is what covers (the test).
    spread = problems**2 / (num_problems - 1) + math.sqrt(share) * sum(
        r**2 / (len(arm) - 1) for r, arm in zip(raw, arms, strict=True) if len(arm) > 1
    )
    degrees = (problems + sum(seeds)) ** 2 / spread
    return kind(
        value=float(np.mean(per_problem)),
        problems=problems,
        seeds=tuple(seeds),
        noise=tuple(noise),
        degrees=min(max(degrees, 1.0), MAX_DEGREES),
        num_seeds=tuple(map(len, arms)),
        num_problems=num_problems,
        is_floored=observed < floor,
    )


def _noise(scores: np.ndarray) -> float:
    """Variance of the mean from the interaction of seeds and problems; NaN with one seed."""
    num_seeds, num_problems = scores.shape
    if num_seeds < 2:
        return math.nan
    rest = scores - scores.mean(axis=0) - scores.mean(axis=1, keepdims=True) + scores.mean()
    return float((rest**2).sum()) / ((num_seeds - 1) * (num_problems - 1)) / scores.size


def _t_inside(deviations: float, degrees: float) -> float:
    """Probability that Student's t lies within so many standard errors of zero."""
    angles, inside = _t_table(degrees)
    return float(np.interp(math.atan(deviations / math.sqrt(degrees)), angles, inside))


def _t_table(degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Angles a and P(|t| < sqrt(degrees) * tan(a)): the density of a is cos(a)^(degrees - 1)."""
    angles = np.linspace(0.0, math.pi / 2, 1001)
    density = np.cos(angles) ** (degrees - 1)
    inside = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return angles, inside / inside[-1]


def _counts(correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Valid and right samples of each problem, int64 [P] each."""
    correct = np.asarray(correct, dtype=np.float64)
    return (~np.isnan(correct)).sum(axis=1), np.nansum(correct, axis=1).astype(np.int64)


def _pass_at_k(n: int, c: int, k: int) -> float:
    if n == 0:
        return float("nan")
    k = min(k, n)
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def _majority(correct: np.ndarray, answers: Sequence[str | None]) -> float:
    is_valid = ~np.isnan(correct)
    if not is_valid.any():
        return float("nan")
    verdicts: dict[str, list[float]] = {}
    for answer, verdict in zip(answers, correct, strict=True):
        if answer is not None and not math.isnan(verdict):
            verdicts.setdefault(answer, []).append(float(verdict))
    most = max(map(len, verdicts.values()), default=0)
    shares = [np.mean(found) for found in verdicts.values() if len(found) == most]
    return float(np.mean(shares)) if shares else 0.0
