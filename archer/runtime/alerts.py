"""Early warnings: figures that usually mean a run has gone wrong, each said once."""

from __future__ import annotations

import math
from collections.abc import Mapping

CEILINGS = {
    "policy/clip_frac": (
        0.3,
        "much is clipped; lower the learning rate or the epochs",
    ),
    "policy/approx_kl": (0.1, "the policy moves far within one batch; lower the learning rate"),
    "advantage/audit_cosine": (
        1 - 1e-6,
        "correcting for the verifier's errors only rescales advantages; see docs/algorithms.md",
    ),
    "reward/failure_frac": (
        0.05,
        "verifiers fail on many samples, which are left out; see reward/status/*",
    ),
    "rollout/mismatch_logprob_mean": (0.05, "engine and trainer disagree; look at the precision"),
    "rollout/truncated_frac": (0.2, "many responses are cut; raise sampling.max_response_tokens"),
    "rollout/repetition_frac": (0.3, "responses repeat themselves; the policy may be collapsing"),
}
"""Metric -> the largest value that is no reason to look, and what to do. The limits are ours."""

ENTROPY_GROWTH = 2.0
"""Entropy of so many times that of the first step is unusual; it should fall."""


class Alerts:
    """Remembers what it said."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._first_entropy = math.nan

    def check(self, metrics: Mapping[str, float]) -> list[str]:
        """New warnings about a step."""
        entropy = metrics.get("policy/entropy", math.nan)
        if math.isnan(self._first_entropy):
            self._first_entropy = entropy
        ceilings = CEILINGS | {
            "policy/entropy": (
                ENTROPY_GROWTH * self._first_entropy,
                "it grew since the first step; lower the learning rate",
            )
        }
        found = {
            key: f"warning: {key} is {metrics[key]:.6g}, above {limit:.6g}: {meaning}"
            for key, (limit, meaning) in ceilings.items()
            if key not in self._said and metrics.get(key, math.nan) > limit
        }
        self._said |= found.keys()
        return list(found.values())
