"""avg@k, pass@k and their bootstrap intervals over problems.

A verdict matrix is float [P, n]: 1 right, 0 wrong, NaN where the verifier failed. A problem counts
with the samples it has; a problem that has too few is left out (NaN in the per-problem results).
"""

from __future__ import annotations

import numpy as np


def avg_per_problem(correct: np.ndarray) -> np.ndarray:
    """Share of right samples: float [P, n] -> float [P], NaN without a valid sample."""
    num_samples, num_correct = _counts(correct)
    return np.where(num_samples > 0, num_correct / np.maximum(num_samples, 1), np.nan)


def pass_per_problem(correct: np.ndarray, k: int) -> np.ndarray:
    """Chance that k samples, drawn without replacement, hold a right one (arXiv 2107.03374).

    The unbiased estimate ``1 - C(n - c, k) / C(n, k)`` from n valid samples of which c are right,
    as a product so that no binomial coefficient overflows.

    Args:
        correct: float [P, n].
        k: 1 <= k <= n.
    Returns:
        float [P], NaN for a problem with fewer than k valid samples.
    Raises:
        ValueError: k is out of range.
    """
    if not 1 <= k <= np.shape(correct)[1]:
        raise ValueError(f"k={k}: expected 1 <= k <= {np.shape(correct)[1]} samples per problem")
    num_samples, num_correct = _counts(correct)
    return np.array([_pass_at_k(n, c, k) for n, c in zip(num_samples, num_correct, strict=True)])


def avg_at_k(correct: np.ndarray) -> float:
    """Accuracy of one sample, averaged over problems. NaN if nothing is valid."""
    return _mean(avg_per_problem(correct))


def pass_at_k(correct: np.ndarray, k: int) -> float:
    """Mean over problems of ``pass_per_problem``. NaN if no problem has k valid samples."""
    return _mean(pass_per_problem(correct, k))


def bootstrap_interval(
    per_problem: np.ndarray, level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over problems; silent on the seeds of training.

    Problems are resampled, not samples: the samples of one problem are not independent evidence
    about the set. NaN entries are dropped first; without any problem both ends are NaN.
    """
    values = per_problem[~np.isnan(per_problem)]
    if not len(values):
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = [rng.choice(values, len(values)).mean() for _ in range(num_resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _counts(correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Valid and right samples of each problem, int64 [P] each."""
    correct = np.asarray(correct, dtype=np.float64)
    return (~np.isnan(correct)).sum(axis=1), np.nansum(correct, axis=1).astype(np.int64)


def _pass_at_k(n: int, c: int, k: int) -> float:
    if n < k:
        return float("nan")
    if n - c < k:
        return 1.0
    return float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def _mean(per_problem: np.ndarray) -> float:
    values = per_problem[~np.isnan(per_problem)]
    return float(values.mean()) if len(values) else float("nan")
