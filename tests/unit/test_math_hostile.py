"""Hostile maths answers in real verifier processes: every one gets a verdict in time."""

import asyncio
import math
import time

import psutil
import pytest

from archer.config.keys import RewardConfig
from archer.rewards.math_verifier import is_correct, math_quick, references_of
from archer.rewards.maths import equivalence
from archer.rewards.pool.processes import VerifierProcesses
from archer.types import ScoreRequest

MEGABYTE = 1 << 20
CHEAP_CPU_S = 0.5
"""Computing would take minutes or more; CPU time, as the machine may be busy."""

HUGE = [r"9^{9^{9}}", r"10^{10^{10}}", r"3^{64000000}", "1000000!", r"\binom{10000000}{5000000}"]
SLOW = [  # whole answers that computer algebra may work on for ever
    r"1+9^{9^{9}}",
    r"\frac{1}{9^{9^{9}}}",
    r"100!!!",
    r"\binom{10^9}{5\cdot10^8}",
    r"\gcd(2^{10^9}, 3^{10^9})",
    r"\prod_{k=1}^{10^6}k",
    r"\sum_{k=1}^{\infty}\frac{1}{k^{7}}",
    r"\log_2 9^{9^{9}}",
    r"\int_0^1 \frac{\sin(x^{x})}{1+\ln(1+x^7)} dx",
    "(x+y+z+w)^{50}",
    r"2^{\frac{123456789}{987654321}}",
    r"\frac{1}{" * 30 + "2" + "}" * 30,
    "(" * 40 + "x" + ")" * 40,
    "-" * 390 + "5",
    "+".join(f"x^{{{n}}}" for n in range(40)),
    r"\sqrt{" * 40 + "2" + "}" * 40,
    "9" * 400,
    r"\sin" * 90 + " 1",
    "x^" * 190 + "2",
    "|" * 400,
    "[" * 40 + "1" + "]" * 40,
    r"\left(" * 50 + "1",
]
LONG = {
    "parentheses": r"\(" * 50_000,
    "brackets": r"\[" * 50_000,
    "open boxes": r"\boxed{" * 100_000,
    "nested boxes": r"\boxed{" * 50_000 + "6" + "}" * 50_000,
    "braces in a box": rf"\boxed{{{'{' * 10_000}{'}' * 10_000}}}",
    "unclosed braces": r"\boxed{" + "{" * MEGABYTE,
    "a million digits": rf"\boxed{{{'7' * MEGABYTE}}}",
    "dollars in a box": rf"\boxed{{{'$1$ ' * (MEGABYTE // 4)}}}",
    "spaces": rf"\boxed{' ' * MEGABYTE}",
    "spaces in a box": rf"\boxed{{{'1 ' * (MEGABYTE // 2)}}}",
    "roots in a box": rf"\boxed{{{'√(' * (MEGABYTE // 2)}}}",
    "sines in a box": rf"\boxed{{{(chr(92) + 'sin ( ') * (MEGABYTE // 8)}}}",
    "answer lines": "Answer:" * (MEGABYTE // 7),
    "blank answer lines": "Answer" + " " * MEGABYTE + "\nAnswer:" + "\n" * MEGABYTE,
    "hashes": "#" * MEGABYTE,
    "thoughts": "<think></think>" * (MEGABYTE // 16),
    "lone surrogates": "\\boxed{\ud800" * 1000 + "}",
    "null characters": "\\boxed{" + "\0" * 300 + "}",
}
METHODS = ["boxed", "answer", "gsm8k"]


def score(responses, timeout_s):
    """Results, and the seconds that each took once it had a verifier process."""

    async def timed(processes, response):
        start = time.perf_counter()
        result = await processes.judge(ScoreRequest("0", response, "5"))
        return result, time.perf_counter() - start - result.queue_s

    async def main():
        args = {"extract": METHODS}
        config = RewardConfig(name="math", args=args, num_workers=2, timeout_s=timeout_s)
        processes = VerifierProcesses(config)
        await processes.start()
        try:
            return await asyncio.gather(*(timed(processes, response) for response in responses))
        finally:
            await processes.close()

    return asyncio.run(main())


def test_every_hostile_answer_gets_a_verdict_in_time_and_none_is_right():
    responses = [rf"\boxed{{{answer}}}" for answer in SLOW]
    for response, (result, seconds) in zip(responses, score(responses, 0.5), strict=True):
        what = (response[:60], result.status, result.detail, seconds)
        assert seconds < 1.5, what
        assert not result.correct, what
        assert result.status in ("ok", "no_answer", "timeout"), what
        assert result.reward == 0.0 or (result.status == "timeout" and math.isnan(result.reward))


@pytest.mark.parametrize(
    ("reward", "fate"),
    [
        ({"name": "math"}, 0.0),
        ({"name": "by_source", "args": {"sources": {"*": {"name": "math"}}}}, 0.0),
        ({"name": "inverted", "args": {"name": "math"}}, None),
    ],
)
def test_an_answer_that_uses_up_its_deadline_is_wrong(reward, fate):
    async def main():
        processes = VerifierProcesses(RewardConfig(**reward, num_workers=1, timeout_s=1.0))
        await processes.start()
        try:
            request = ScoreRequest("0", r"\boxed{(x+y+z+w)^{50}}", "5")
            for _ in range(10):  # a busy machine may grant too little of its time
                result = await processes.judge(request)
                assert (result.status, result.correct) == ("timeout", False)
                if fate is None or not math.isnan(result.reward):
                    return result.reward
        finally:
            await processes.close()

    given = asyncio.run(main())
    assert given is not None, "only failures"
    assert math.isnan(given) if fate is None else given == fate


def test_a_process_that_stands_still_is_no_verdict():
    before = set(psutil.Process().children())  # Ray's, when other tests started it

    async def main():
        processes = VerifierProcesses(RewardConfig(name="math", num_workers=1, timeout_s=1.0))
        await processes.start()
        try:
            for child in set(psutil.Process().children()) - before:
                child.suspend()
            return await processes.judge(ScoreRequest("0", r"\boxed{x+x}", "2x"))
        finally:
            await processes.close()

    result = asyncio.run(main())
    assert result.status == "timeout"
    assert math.isnan(result.reward)


def test_what_the_parser_raises_on_an_answer_is_wrong_and_on_the_reference_a_failure(monkeypatch):
    parse = equivalence._parse

    def exhausted(text):
        if text == "x+1":
            raise MemoryError
        return parse(text)

    monkeypatch.setattr(equivalence, "_parse", exhausted)
    monkeypatch.setattr(equivalence, "_parse_reference", exhausted)
    assert not equivalence.is_equivalent("x+1", "y")
    with pytest.raises(MemoryError):
        equivalence.is_equivalent("y", "x+1")


def test_long_answers_never_reach_computer_algebra():
    for name, (result, _) in zip(LONG, score(LONG.values(), 5.0), strict=True):
        assert result.status in ("ok", "no_answer"), name
        assert not result.correct, name


@pytest.mark.parametrize("answer", HUGE)
def test_what_is_certainly_too_large_is_wrong_without_computing_it(answer):
    references = references_of(["5", "1/3"])
    start = time.process_time()
    assert not is_correct(answer, references)
    assert time.process_time() - start < CHEAP_CPU_S


@pytest.mark.parametrize("response", LONG.values(), ids=LONG)
def test_the_event_loop_is_never_held_up(response):
    request = ScoreRequest("0", response, "5")
    start = time.process_time()
    math_quick(request, METHODS)
    assert time.process_time() - start < CHEAP_CPU_S
