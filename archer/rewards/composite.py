"""Rewards made of others: who judges what, side by side or in turn, and what their failures mean.

``weighted``, ``by_source`` and ``inverted`` say which parts judge a response and what becomes of
their verdicts; the rest is here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from archer.errors import ConfigError
from archer.rewards.pool.verdict import as_result, describe, verdict
from archer.rewards.reward import Reward, RewardFn
from archer.types import RewardResult, ScoreRequest

if TYPE_CHECKING:
    import asyncio

EXAMPLE = "for instance {name: format, args: {pattern: please}}"


@dataclass(frozen=True)
class Part:
    """A reward with its arguments."""

    reward: Reward
    args: Mapping[str, Any]

    def judge(self, request: ScoreRequest) -> RewardResult:
        return verdict(lambda request: self.reward.judge(request, **self.args), request)

    async def judge_async(self, request: ScoreRequest) -> RewardResult:
        judging: Any = self.reward.judge(request, **self.args)
        try:
            return as_result(await judging)
        except Exception as error:
            return RewardResult.failure("verifier_error", describe(error))


@dataclass(frozen=True)
class Composite:
    """A reward whose parts are known. A part that fails makes the whole fail, as NaN, never as 0.

    Its functions are called with the arguments that it was made from, like any reward's, and need
    them no more.
    """

    parts: Mapping[str, Part]
    """By label."""
    combine: Callable[[Mapping[str, RewardResult]], RewardResult]
    """Valid results of the chosen parts, by label -> the result of the whole."""
    choose: Callable[[str], list[str]] | None = None
    """Data source -> labels of the parts that judge its responses; all of them without it. Raises
    ValueError for a source of none."""

    def as_reward(self) -> Reward:
        """With an ``async def`` only if a part is one and no other can hold up the process that
        responses then share: where one may be slow, each response has its process to itself."""
        parts = self.parts.values()
        modules = [module for part in parts for module in part.reward.preload]
        judge: RewardFn = self.judge
        if any(part.reward.is_async for part in parts):
            can_share = all(part.reward.is_async or part.reward.is_light for part in parts)
            judge = self.judge_async if can_share else self.judge_alone
        return Reward(
            judge,
            quick=self.quick if any(part.reward.quick for part in parts) else None,
            check_row=self.check_row,
            check_setup=self.check_setup,
            preload=tuple(dict.fromkeys(modules)),
            uses_sandbox=lambda args: any(part.reward.uses_sandbox(part.args) for part in parts),
            is_self_contained=all(part.reward.is_self_contained for part in parts),
            least_timeout_s=self.least_timeout_s,
            slow_is_wrong=self.slow_is_wrong,
        )

    def judge(self, request: ScoreRequest, **args: Any) -> RewardResult:
        results: dict[str, RewardResult] = {}
        for label, part in self._chosen(request.source).items():
            results[label] = part.judge(request)
            if not results[label].is_valid:
                break
        return self._combined(results)

    async def judge_async(self, request: ScoreRequest, **args: Any) -> RewardResult:
        import asyncio  # processes whose rewards are not async start sooner without it

        chosen = self._chosen(request.source)
        waiting = {label: part for label, part in chosen.items() if part.reward.is_async}
        blocking = {label: part for label, part in chosen.items() if label not in waiting}
        results = {label: part.judge(request) for label, part in blocking.items()}
        if all(result.is_valid for result in results.values()):
            answers = await asyncio.gather(
                *(part.judge_async(request) for part in waiting.values())
            )
            results |= zip(waiting, answers, strict=True)
        return self._combined({label: results[label] for label in chosen if label in results})

    def judge_alone(self, request: ScoreRequest, **args: Any) -> RewardResult:
        """``judge_async`` for a process of its own, which is killed if a part takes too long."""
        return _runner().run(self.judge_async(request))

    def quick(self, request: ScoreRequest, **args: Any) -> RewardResult | None:
        chosen = self._chosen(request.source)
        if not all(part.reward.quick for part in chosen.values()):
            return None
        results: dict[str, RewardResult] = {}
        for label, part in chosen.items():
            result = part.reward.quick and part.reward.quick(request, **part.args)
            if result is None:
                return None
            results[label] = result
        return self._combined(results)

    def check_row(self, ground_truth: Any, source: str, **args: Any) -> None:
        for part in self._chosen(source).values():
            part.reward.check(ground_truth, source, part.args)

    def check_setup(self, env: Sequence[str], **args: Any) -> None:
        for part in self.parts.values():
            if part.reward.check_setup is not None:
                part.reward.check_setup(env, **part.args)

    def least_timeout_s(self, source: str | None) -> float:
        parts = self.parts if source is None else self._chosen(source)
        return max(part.reward.least_timeout_s(source) for part in parts.values())

    def slow_is_wrong(self, source: str) -> bool:
        """Only where a single part decides: nobody knows what others would have added."""
        if self.choose is None:
            return False
        return all(part.reward.slow_is_wrong(source) for part in self._chosen(source).values())

    def _chosen(self, source: str) -> Mapping[str, Part]:
        if self.choose is None:
            return self.parts
        return {label: self.parts[label] for label in self.choose(source)}

    def _combined(self, results: Mapping[str, RewardResult]) -> RewardResult:
        for label, result in results.items():
            if not result.is_valid:
                return replace(result, correct=False, detail=f"{label}: {result.detail}")
        return self.combine(results)


@lru_cache(maxsize=1)
def _runner() -> asyncio.Runner:
    """One loop for the life of the process: a client's connections belong to their loop."""
    import asyncio

    return asyncio.Runner()


def resolve_part(key: str, spec: Any) -> Part:
    """The reward that the section at ``key`` of the configuration describes, by name and args.

    Raises:
        ConfigError: no such reward, or one that does not take these arguments.
    """
    # Composites are themselves among the rewards by name.
    from archer.rewards import resolve_reward

    expected = "a section of `name`, and `args` if it takes any"
    if not isinstance(spec, Mapping) or "name" not in spec or not spec.keys() <= {"name", "args"}:
        raise ConfigError(key, spec, expected, f"Write {EXAMPLE}.")
    args = spec.get("args") or {}
    try:
        return Part(resolve_reward(spec["name"], args), args)
    except ConfigError as error:
        inner_key = key + error.key.removeprefix("reward")
        raise ConfigError(inner_key, error.value, error.expected, error.mend) from error
