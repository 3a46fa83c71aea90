"""What a reward is: a function that judges one response, and what the pool must know about it."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from archer.types import RewardResult

Verdict = RewardResult | float
RewardFn = Callable[..., Verdict | Awaitable[Verdict]]
"""``(request: ScoreRequest, **reward.args) -> RewardResult | float``: judges one response.

Runs in a verifier process on its main thread, one call at a time; an ``async def`` runs beside
others on an event loop there. A plain number means ``reward=number, correct=number > 0``. An
exception is a failure of the verifier, not a wrong answer: the sample stays out of the loss and is
counted.
"""


def _any_truth(ground_truth: Any, **args: Any) -> None:
    pass


def _same_for_all(args: Mapping[str, Any]) -> bool:
    return False


def _of_none(source: str) -> bool:
    return False


def _no_time(source: str | None) -> float:
    return 0.0


@dataclass(frozen=True)
class Reward:
    judge: RewardFn
    quick: Callable[..., RewardResult | None] | None = None
    """``(request, **reward.args)``: decides easy cases at once in the pool's own process, or leaves
    them to ``judge`` with None. Linear in the response and free of parsers: nothing kills it."""
    check_truth: Callable[..., None] = _any_truth
    """``(ground_truth, **reward.args)``: raises ValueError for a truth nothing can be judged by.
    Called for every row of the data before a run starts."""
    preload: tuple[str, ...] = ()
    """Modules whose import is slow, loaded before the first deadline starts to run."""
    uses_sandbox: Callable[[Mapping[str, Any]], bool] = _same_for_all
    """Whether, with these ``reward.args``, it runs the model's programs."""
    is_self_contained: bool = False
    """It needs neither network nor files nor other processes once its modules are loaded, so its
    verifier process gives these up."""
    check_row: Callable[..., None] | None = None
    """``(ground_truth, source, **reward.args)``: in place of ``check_truth``, for a reward whose
    truths depend on the data source."""
    least_timeout_s: Callable[[str | None], float] = _no_time
    """Data source, or None for any -> what the limit of its responses must be at least, if honest
    ones may take that long. Raises ValueError for a source that it cannot judge."""
    specialise: Callable[..., Reward] | None = None
    """``(**reward.args)``: the reward that takes this one's place once its arguments are known, as
    a composite knows its parts; called with the same arguments. Raises ConfigError."""

    slow_is_wrong: Callable[[str], bool] = _of_none
    """Data source -> whether a response that uses up its deadline in CPU time is wrong and no
    failure of the verifier, because no honest one takes so long."""
    check_setup: Callable[..., None] | None = None
    """``(env, **reward.args)`` with the names in ``reward.env``: raises ConfigError where this
    reward cannot work, such as for an endpoint that does not answer. Called before a run starts."""

    def check(self, ground_truth: Any, source: str, args: Mapping[str, Any]) -> None:
        """Refuse a row of the data that nothing can be judged by.

        Raises:
            ValueError: one sentence about what is wrong with it.
        """
        if self.check_row is not None:
            self.check_row(ground_truth, source, **args)
        else:
            self.check_truth(ground_truth, **args)

    @property
    def is_light(self) -> bool:
        """Whether it decides everything at once, in time linear in the response."""
        return self.quick is self.judge

    @property
    def is_async(self) -> bool:
        return inspect.iscoroutinefunction(self.judge)
