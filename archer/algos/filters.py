"""Which groups an algorithm trains on. Runs on the driver: plain Python."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from archer.types import Group

if TYPE_CHECKING:
    from archer.config.keys import AlgoConfig

DropReason = Literal["failed", "uniform", "solved", "off_range"]


def drop_reason(group: Group, algo: AlgoConfig) -> DropReason | None:
    """Why a complete group stays out of the batch; None if it enters it."""
    correct = [s.result.correct for s in group.samples if s.result.is_valid]
    low, high = algo.pass_rate
    if len(correct) < min(2, len(group.samples)):
        return "failed"
    if algo.reject_uniform and group.is_uniform:
        return "uniform"
    # A greedy response whose verifier failed is never right: its prompt stays.
    if algo.greedy_fail_only and group.greedy is not None and group.greedy.result.correct:
        return "solved"
    if not low <= sum(correct) / len(correct) <= high:
        return "off_range"
    return None
