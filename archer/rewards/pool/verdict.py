"""What a reward function returned, or raised, as a ``RewardResult`` in plain types."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, get_args

from archer.types import RewardResult, RewardStatus, ScoreRequest

DETAIL_CHARS = 1000
FAILURES = ("timeout", "crashed", "verifier_error", "skipped")
"""Statuses whose reward may be NaN."""


def verdict(judge: Callable[[ScoreRequest], Any], request: ScoreRequest) -> RewardResult:
    """What the reward function says; its exceptions are failures of the verifier, not verdicts."""
    try:
        return as_result(judge(request))
    except BaseException as error:  # SystemExit too: only a crash may end this process
        return RewardResult.failure("verifier_error", describe(error))


def as_result(value: Any) -> RewardResult:
    """Accept what a reward function may return, in plain types.

    Raises:
        TypeError: neither a RewardResult nor a number.
        ValueError: a verdict whose reward is not finite, or of no such status.
    """
    if isinstance(value, Real):
        value = RewardResult(float(value), float(value) > 0, "ok")
    if not isinstance(value, RewardResult):
        raise TypeError(f"the reward function returned {type(value).__name__}, not a number")
    if value.status not in get_args(RewardStatus):
        raise ValueError(f"the reward function returned the status {value.status!r}")
    is_failure = value.status in FAILURES and math.isnan(value.reward)
    if not is_failure and not math.isfinite(value.reward):
        raise ValueError(f"the reward function returned {value.reward}")
    return RewardResult(
        float(value.reward),
        bool(value.correct),
        value.status,
        str(value.detail)[:DETAIL_CHARS],
        {str(name): float(reward) for name, reward in value.components.items()},
        answer=None if value.answer is None else str(value.answer)[:DETAIL_CHARS],
    )


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:DETAIL_CHARS]
