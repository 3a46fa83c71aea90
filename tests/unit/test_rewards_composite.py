"""Rewards made of others, and the control arms."""

import asyncio
import math
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from archer.config.keys import RewardConfig, SandboxConfig
from archer.errors import ConfigError
from archer.rewards import REWARDS, Reward, resolve_reward
from archer.rewards.checks import check_reward
from archer.rewards.pool.processes import VerifierProcesses
from archer.types import RewardResult, ScoreRequest

HERE = __name__


def broken(request: ScoreRequest) -> float:
    raise OSError("no disk")


def unsure(request: ScoreRequest) -> RewardResult:
    return RewardResult.failure("timeout", "too slow")


async def patient(request: ScoreRequest, seconds: float = 0.0) -> float:
    await asyncio.sleep(seconds)
    return 0.25


async def async_broken(request: ScoreRequest) -> float:
    raise OSError("no network")


def detailed(request: ScoreRequest) -> RewardResult:
    return RewardResult(0.5, True, "ok", detail="half", components={"inner": 2.0})


def hangs_if_told(request: ScoreRequest) -> float:
    time.sleep(100 if request.response == "hang" else 0)
    return 1.0


RUNS_PROGRAMS = Reward(detailed, uses_sandbox=lambda args: True, preload=("colorsys",))


def judge(name: str, args: Mapping[str, Any], response: str, truth: Any = "42", source: str = ""):
    reward = resolve_reward(name, args)
    result: Any = reward.judge(ScoreRequest("1", response, truth, source=source), **args)
    return asyncio.run(result) if reward.is_async else result


def test_the_sum_is_weighted_and_one_component_decides_what_is_correct():
    args = {
        "correct": "answer",
        "components": {
            "answer": {"name": "math"},
            "format": {"weight": 0.5},
            "length": {"weight": -0.2, "args": {"max_words": 4}},
        },
    }
    right = judge("weighted", args, r"it is \boxed{42}")  # 3 of 4 words: length 0.25
    assert right.reward == pytest.approx(1 + 0.5 - 0.2 * 0.25)
    assert right.components == {"answer": 1.0, "format": 1.0, "length": 0.25}
    assert right.correct
    wrong = judge("weighted", args, r"\boxed{41} but nice")
    assert wrong.reward == pytest.approx(0.5 - 0.2 * 0.25)
    assert not wrong.correct
    silent = judge("weighted", args, "nothing at all said")
    assert (silent.reward, silent.status) == (0.0, "no_answer")


@pytest.mark.parametrize("part", ["broken", "unsure", "async_broken"])
@pytest.mark.parametrize("weight", [1.0, 0.0])
def test_a_failed_component_fails_the_whole_and_is_not_0(part: str, weight: float):
    parts = {"math": {}, "shaky": {"name": f"{HERE}.{part}", "weight": weight}}
    result = judge("weighted", {"correct": "math", "components": parts}, r"\boxed{42}")
    assert math.isnan(result.reward)
    assert not result.correct
    assert result.status == ("timeout" if part == "unsure" else "verifier_error")
    assert result.detail.startswith("shaky: ")


def test_async_components_wait_side_by_side_and_plain_ones_join_in():
    slow = {"name": f"{HERE}.patient", "args": {"seconds": 0.3}}
    args = {"correct": "exact", "components": {"exact": {}, **dict.fromkeys("abcd", slow)}}
    reward = resolve_reward("weighted", args)
    assert reward.is_async

    async def timed() -> tuple[RewardResult, float]:
        loop = asyncio.get_running_loop()
        start = loop.time()
        pending: Any = reward.judge(ScoreRequest("1", "42", "42"), **args)
        return await pending, loop.time() - start

    result, seconds = asyncio.run(timed())
    assert result.reward == 1 + 4 * 0.25
    assert list(result.components) == ["exact", "a", "b", "c", "d"]
    assert seconds < 0.9  # 1.2 in turn


def test_a_part_that_hangs_takes_no_other_response_with_it():
    parts = {"slow": {"name": f"{HERE}.hangs_if_told"}, "patient": {"name": f"{HERE}.patient"}}
    config = RewardConfig(
        name="weighted", args={"correct": "slow", "components": parts}, timeout_s=1.5, num_workers=2
    )

    async def score_all() -> list[RewardResult]:
        processes = VerifierProcesses(config)
        await processes.start()
        responses = ["hang", "a", "b", "c", "hang", "d", "e"]
        try:
            return await asyncio.gather(
                *(processes.score(ScoreRequest(str(i), r, "")) for i, r in enumerate(responses))
            )
        finally:
            await processes.close()

    statuses = [result.status for result in asyncio.run(score_all())]
    assert statuses == ["timeout", "ok", "ok", "ok", "timeout", "ok", "ok"]


def test_components_of_components_keep_their_labels():
    args = {"correct": "deep", "components": {"deep": {"name": f"{HERE}.detailed"}}}
    result = judge("weighted", args, "")
    assert result.components == {"deep": 0.5, "deep/inner": 2.0}
    assert result.detail == "half"


def test_composites_hand_on_what_the_pool_must_know_of_their_parts():
    runs = {"name": f"{HERE}.RUNS_PROGRAMS"}
    for name, args in {
        "weighted": {"correct": "code", "components": {"code": runs, "math": {}}},
        "by_source": {"sources": {"code*": runs, "*": {"name": "math"}}},
        "inverted": runs,
    }.items():
        reward = resolve_reward(name, args)
        assert reward.uses_sandbox(args)
        assert "colorsys" in reward.preload
        assert not reward.is_async
    sums = {"correct": "math", "components": {"math": {}}}
    assert not resolve_reward("weighted", sums).uses_sandbox(sums)


def test_quick_verdicts_come_only_where_every_chosen_part_has_one():
    def quick(name: str, args: Mapping[str, Any], response: str, source: str = ""):
        reward = resolve_reward(name, args)
        return reward.quick and reward.quick(
            ScoreRequest("1", response, "42", source=source), **args
        )

    both = {"correct": "math", "components": {"math": {}, "format": {"weight": 0.5}}}
    result = quick("weighted", both, r"\boxed{42}")
    assert result == judge("weighted", both, r"\boxed{42}")
    assert quick("weighted", both, r"\boxed{\sqrt{1764}}") is None
    one = {"correct": "math", "components": {"math": {}, "slow": {"name": f"{HERE}.detailed"}}}
    assert quick("weighted", one, r"\boxed{42}") is None
    mixed = {"sources": {"code": {"name": f"{HERE}.detailed"}, "*": {"name": "math"}}}
    assert quick("by_source", mixed, r"\boxed{42}", "aime").reward == 1.0
    assert quick("by_source", mixed, r"\boxed{42}", "code") is None


def test_each_source_has_its_reward_and_the_most_specific_pattern_wins():
    args = {
        "sources": {
            "*": {"name": "exact"},
            "style/*": {"name": "format", "args": {"pattern": "please"}},
            "[q]a/exact": {"name": "random", "args": {"probability": 0}},
            "style/rude": {"name": "random", "args": {"probability": 1}},
        }
    }
    assert judge("by_source", args, "no", source="style/rude").reward == 1.0
    assert judge("by_source", args, "42, please", source="style/polite").reward == 1.0
    assert judge("by_source", args, "42, please", source="qa").reward == 0.0
    assert judge("by_source", args, "42", source="style/polite").reward == 0.0


def test_rows_are_checked_by_the_reward_of_their_source():
    args = {"sources": {"math": {"name": "math"}, "json*": {"name": "json_schema"}}}
    reward = resolve_reward("by_source", args)
    reward.check("42", "math", args)
    reward.check({"type": "object"}, "json/a", args)
    with pytest.raises(ValueError):
        reward.check({"type": "object"}, "math", args)
    with pytest.raises(ValueError, match=r"'code'.*math, json"):
        reward.check("42", "code", args)
    nested = {"correct": "x", "components": {"x": {"name": "by_source", "args": args}}}
    with pytest.raises(ValueError, match="'code'"):
        resolve_reward("weighted", nested).check("42", "code", nested)


def test_an_unknown_source_is_a_failure_of_the_verifier():
    async def score() -> RewardResult:
        config = RewardConfig(name="by_source", args={"sources": {"a": {"name": "exact"}}})
        processes = VerifierProcesses(config)
        await processes.start()
        try:
            return await processes.score(ScoreRequest("1", "x", "x", source="b"))
        finally:
            await processes.close()

    result = asyncio.run(score())
    assert result.status == "verifier_error"
    assert "'b'" in result.detail


@pytest.mark.parametrize(
    ("name", "args", "key"),
    [
        ("weighted", {"correct": "x", "components": {"math": {}}}, "reward.args.correct"),
        ("weighted", {"correct": "m", "components": {"m": {}}}, "reward.args.components.m.name"),
        ("weighted", {"correct": "m", "components": "math"}, "reward.args.components"),
        ("weighted", {"correct": "math", "components": {"math": 1}}, "reward.args.components.math"),
        (
            "weighted",
            {"correct": "math", "components": {"math": {"wight": 1}}},
            "reward.args.components.math",
        ),
        (
            "weighted",
            {"correct": "math", "components": {"math": {"weight": "1"}}},
            "reward.args.components.math.weight",
        ),
        (
            "weighted",
            {"correct": "format", "components": {"format": {"args": {"patern": "x"}}}},
            "reward.args.components.format.args",
        ),
        (
            "weighted",
            {"correct": "m", "components": {"m": {"nam": "x"}}},
            "reward.args.components.m",
        ),
        (
            "weighted",
            {"correct": "m", "components": {"m": {"name": "math", "weight": True}}},
            "reward.args.components.m.weight",
        ),
        ("by_source", {"sources": {"*": {"args": {}}}}, "reward.args.sources.*"),
        (
            "by_source",
            {"sources": {"*": {"name": "code", "args": {"max_tests": 0}}}},
            "reward.args.sources.*.args.max_tests",
        ),
        ("by_source", {"sources": {}}, "reward.args.sources"),
        ("by_source", {"sources": {"*": {"name": "meth"}}}, "reward.args.sources.*.name"),
        ("inverted", {"name": "meth"}, "reward.args.name"),
        ("inverted", {"name": "format", "args": {"pattern": "("}}, "reward.args.args.pattern"),
    ],
)
def test_mistakes_are_named_by_their_key(name: str, args: Mapping[str, Any], key: str):
    with pytest.raises(ConfigError) as caught:
        resolve_reward(name, args)
    assert caught.value.key == key
    assert "Fix it" not in caught.value.mend


def test_a_deadline_that_one_test_of_a_program_may_outlast_is_refused():
    code = {"name": "code", "args": {"time_limit_s": 10}}
    sources = {"sources": {"*": {"name": "math"}, "a": code}}
    for name, args in (("code", code["args"]), ("by_source", sources), ("inverted", code)):
        with pytest.raises(ConfigError, match=r"reward\.timeout_s=8.0: expected at least 11,"):
            check_reward(RewardConfig(name=name, args=args, timeout_s=8.0))


@pytest.mark.parametrize(
    ("source", "limit_s", "expected"),
    [
        ("a", 8.0, "at least 11,"),
        ("a", 11.0, None),
        ("sums", 2.0, None),
        ("web", 20.0, "a data source that is judged"),
    ],
)
def test_a_sources_own_deadline_is_checked_by_the_reward_that_judges_it(
    source: str, limit_s: float, expected: str | None
):
    sources = {"s*": {"name": "math"}, "a": {"name": "code", "args": {"time_limit_s": 10}}}
    config = RewardConfig(
        name="by_source",
        args={"sources": sources},
        timeout_s=30.0,
        source_timeout_s={source: limit_s},
        sandbox=SandboxConfig(allow_unsafe_code_execution=True),
    )
    if expected is None:
        check_reward(config)
    else:
        message = rf"reward\.source_timeout_s\.{source}={limit_s}: expected {expected}"
        with pytest.raises(ConfigError, match=message):
            check_reward(config)


def test_random_rewards_are_the_same_again_and_as_frequent_as_asked():
    def draw(i: int, response: str = "x", **args: float) -> float:
        result: Any = REWARDS["random"].judge(ScoreRequest(f"0-{i}/0", response, None), **args)
        return result.reward

    draws = [draw(i, probability=0.3) for i in range(2000)]
    assert draws == [draw(i, probability=0.3) for i in range(2000)]
    assert 0.26 < Counter(draws)[1.0] / 2000 < 0.34  # four standard errors
    assert draws != [draw(i, probability=0.3, seed=1) for i in range(2000)]
    assert [draw(i, "a") for i in range(50)] != [draw(i, "b") for i in range(50)]
    assert {draw(i, probability=0.0) for i in range(50)} == {0.0}
    assert {draw(i, probability=1.0) for i in range(50)} == {1.0}
    assert draw(1, "\ud800") in (0.0, 1.0)


def test_inverted_pays_for_wrong_answers_but_not_for_silence():
    args = {"name": "math"}
    right = judge("inverted", args, r"\boxed{42}")
    assert (right.reward, right.correct, right.components) == (0.0, False, {"math": 1.0})
    wrong = judge("inverted", args, r"\boxed{41}")
    assert (wrong.reward, wrong.correct) == (1.0, True)
    silent = judge("inverted", args, "42")
    assert (silent.reward, silent.correct, silent.status) == (0.0, False, "no_answer")
    failed = judge("inverted", {"name": f"{HERE}.unsure"}, "42")
    assert math.isnan(failed.reward)
    assert failed.status == "timeout"


def test_importing_the_rewards_loads_nothing_slow():
    slow = ["asyncio", "httpx", "jsonschema", "langdetect", "pydantic", "sympy", "torch"]
    code = f"import sys, archer.rewards; print([m for m in {slow} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
