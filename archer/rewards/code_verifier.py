"""The code reward: does the program in the response pass all tests?

This runs in a verifier process, which knows the expected outputs; the program runs in the sandbox,
which does not.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from archer.rewards import sandbox
from archer.rewards.arguments import check, check_int, is_number
from archer.rewards.code.alarm import time_limit
from archer.rewards.code.cases import Case, cases, check_cases
from archer.rewards.extraction import code_block
from archer.rewards.reward import Reward
from archer.rewards.sandbox import Execution, Outcome
from archer.types import RewardResult, RewardStatus, ScoreRequest

MARGIN_S = 1.0
"""Seconds before the pool's deadline at which testing ends: late is a verdict, killed is not."""
JUDGING_S = 0.1
"""Seconds for judging an output that came at the last moment; within the margin."""
WALL_FACTOR = 2.0
"""Seconds on the clock per CPU second, for a machine that does other things too."""
OUTPUT_FACTOR, OUTPUT_SPARE_BYTES = 4, 1 << 20
"""An output so many times as long as the expected one, and so much longer, is not compared. It is
not the program's limit: a program can read its limits, and would learn how long its answer is."""
ERROR_CHARS = 60


def code_reward(
    request: ScoreRequest, time_limit_s: float = 6.0, max_tests: int | None = None
) -> RewardResult:
    """1 when the program passes every test, 0 at the first that it fails.

    The program is the last closed code block after the reasoning. The ground truth holds the tests,
    in any shape of docs/grading.md.

    Args:
        request: the response to judge; its tests together end before its deadline.
        time_limit_s: CPU seconds of the program in one test.
        max_tests: run no more of the tests than this: the same ones for every response to a prompt,
            those with the largest inputs among them.

    Raises:
        ValueError: the ground truth holds no tests that can be judged.
        SandboxError: the sandbox failed.
    """
    margin_s = min(MARGIN_S, request.time_limit_s / 4)
    deadline = time.monotonic() + request.time_limit_s - margin_s
    tests = cases(request.ground_truth, max_tests)
    program = code_block(request.response)
    if program is None:
        return RewardResult(0.0, False, "no_answer")
    for number, case in enumerate(tests, start=1):
        status, reason = _try(program, case, time_limit_s, deadline)
        if reason:
            return RewardResult(0.0, False, status, f"test {number} of {len(tests)}: {reason}")
    return RewardResult(1.0, True, "ok", f"{len(tests)} tests passed")


def check_truth(ground_truth: Any, time_limit_s: float = 6.0, max_tests: int | None = None) -> None:
    """Raises ValueError for tests that cannot be judged."""
    check_cases(ground_truth, max_tests)


def _try(
    program: str, case: Case, time_limit_s: float, deadline: float
) -> tuple[RewardStatus, str]:
    """Run one test. Returns the status, and how the program failed: empty if it did not."""
    execution = replace(case.execution, source=program)
    outcome = _run("programs", execution, time_limit_s, deadline)
    if outcome.ending != "ok":
        # The rest of a program's last words is its own, and may hold its input.
        kind = outcome.error.partition(":")[0][:ERROR_CHARS]
        return outcome.ending, f"{outcome.ending} {kind}".rstrip()
    if len(outcome.output) > OUTPUT_FACTOR * case.reference_bytes + OUTPUT_SPARE_BYTES:
        return "output_limit", "output_limit"
    if case.checker is None:
        try:
            with time_limit(max(JUDGING_S, deadline - time.monotonic())):
                return "ok", "" if case.accepts(outcome.output) else "wrong output"
        except TimeoutError:  # an output made to be slow to compare
            return "timeout", "its output takes too long to judge"
    judgement = case.checker.execution(outcome.output)
    outcome = _run("checkers", judgement, time_limit_s, deadline)
    if outcome.ending != "ok":  # on an output that it did not foresee
        return "ok", f"the checker ended with {outcome.ending}"
    return "ok", "" if case.checker.accepts(outcome.output) else "refused by the checker"


def _run(use: sandbox.Use, execution: Execution, time_limit_s: float, deadline: float) -> Outcome:
    wall_s = min(WALL_FACTOR * time_limit_s, deadline - time.monotonic())
    if wall_s <= 0:
        return Outcome("timeout", b"", "all tests together")
    # A program can read its CPU limit, which must not tell early tests from late ones.
    limits = sandbox.limits(time_limit_s, wall_s)
    return sandbox.executor(use).run(replace(execution, limits=limits))


def specialise_code(time_limit_s: float = 6.0, max_tests: int | None = None) -> Reward:
    """``code_reward``, its arguments checked.

    Raises:
        ConfigError: not a time, or not a number of tests.
    """
    is_time = is_number(time_limit_s) and time_limit_s > 0
    check("time_limit_s", time_limit_s, is_time, "CPU seconds above 0")
    if max_tests is not None:
        check_int("max_tests", max_tests, lowest=1)
    return replace(CODE, least_timeout_s=lambda source: time_limit_s + MARGIN_S)


CODE = Reward(
    code_reward,
    check_truth=check_truth,
    uses_sandbox=lambda args: True,
    specialise=specialise_code,
)
