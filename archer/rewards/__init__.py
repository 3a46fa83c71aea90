"""Reward functions: what they look like, the ones that ship, and how a name becomes one.

Importing this package is cheap; sympy and math-verify are loaded in the verifier processes only.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from archer.errors import ConfigError
from archer.rewards.format import format_reward
from archer.rewards.math_verifier import math_reward
from archer.types import RewardResult

__all__ = ["REWARDS", "RewardFn", "format_reward", "math_reward", "resolve_reward"]

RewardFn = Callable[..., RewardResult | float]
"""``(request: ScoreRequest, **reward.args) -> RewardResult | float``: judges one response.

Runs in a verifier process, one call at a time on its main thread. A plain number means
``reward=number, correct=number > 0``. An exception is a failure of the verifier, not a wrong
answer: the sample stays out of the loss and is counted.
"""

REWARDS: dict[str, RewardFn] = {"format": format_reward, "math": math_reward}


def resolve_reward(name: str, args: Mapping[str, Any] | None = None) -> RewardFn:
    """A reward function by name, or by the dotted path of a function in a user's own module.

    Args:
        name: a key of ``REWARDS`` or ``package.module.function``.
        args: when given, checked against the parameters of the function.

    Raises:
        ConfigError: no such function, or one that does not take these arguments.
    """
    reward_fn = REWARDS[name] if name in REWARDS else _import_reward(name)
    if args is not None:
        _check_args(name, reward_fn, args)
    return reward_fn


def _check_args(name: str, reward_fn: RewardFn, args: Mapping[str, Any]) -> None:
    signature = inspect.signature(reward_fn)
    try:
        signature.bind(None, **args)
    except TypeError as error:
        expected, mend = f"the arguments of {name}{signature}", f"Fix reward.args: {error}."
        raise ConfigError("reward.args", dict(args), expected, mend) from error


def _import_reward(name: str) -> RewardFn:
    module_name, _, attribute = name.rpartition(".")
    if not module_name:
        close = difflib.get_close_matches(name, REWARDS, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        expected = f"one of {', '.join(REWARDS)} or the dotted path of a function"
        raise ConfigError("reward.name", name, expected, f"Choose one.{hint}")
    try:
        reward_fn = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        mend = f"{error}. Start from the folder that holds the module, or set PYTHONPATH."
        raise ConfigError("reward.name", name, "an importable module.function", mend) from error
    if not callable(reward_fn):
        mend = f"It is a {type(reward_fn).__name__}; see docs/rewards.md."
        raise ConfigError("reward.name", name, "a reward function", mend)
    return cast(RewardFn, reward_fn)
