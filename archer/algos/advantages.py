"""Rewards of one group -> one advantage per response. Runs on the driver: numpy only."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

EPSILON = 1e-6
"""Added to the standard deviation, as verl does."""
UNIFORM_TOLERANCE = 1e-6
"""Rewards closer than this, relative to the largest, count as equal: what differs is rounding,
which a division by its own deviation would blow up into an advantage."""

AdvantageFn = Callable[[np.ndarray], np.ndarray]


def grpo(rewards: np.ndarray) -> np.ndarray:
    """Reward minus group mean, over the unbiased standard deviation (arXiv 2402.03300).

    Args:
        rewards: float64 [G], all responses of one prompt; NaN where the verifier failed.
    Returns:
        float32 [G]; 0 where the reward is NaN, everywhere if fewer than two are left or all agree.
    """
    return _over_valid(rewards, lambda r: (r - r.mean()) / (r.std(ddof=1) + EPSILON))


def grpo_nostd(rewards: np.ndarray) -> np.ndarray:
    """Reward minus group mean (Dr. GRPO, arXiv 2503.20783). Shapes, special cases: see ``grpo``."""
    return _over_valid(rewards, lambda r: r - r.mean())


def rloo(rewards: np.ndarray) -> np.ndarray:
    """Reward minus mean of the others (arXiv 2402.14740). Shapes, special cases: see ``grpo``."""
    return _over_valid(rewards, lambda r: (r - r.mean()) * len(r) / (len(r) - 1))


def _over_valid(rewards: np.ndarray, estimate: AdvantageFn) -> np.ndarray:
    """Apply an estimator to the rewards that exist, if they say anything at all."""
    advantages = np.zeros(len(rewards), dtype=np.float32)
    is_valid = ~np.isnan(rewards)
    valid = np.asarray(rewards, dtype=np.float64)[is_valid]
    if len(valid) >= 2 and np.ptp(valid) > UNIFORM_TOLERANCE * max(1.0, np.abs(valid).max()):
        advantages[is_valid] = estimate(valid)
    return advantages


ADVANTAGES: dict[str, AdvantageFn] = {"grpo": grpo, "grpo_nostd": grpo_nostd, "rloo": rloo}
