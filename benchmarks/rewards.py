"""Speed of the reward pool against what it replaces, as ratios on one core.

``python -m benchmarks.rewards [--repeats 5]``. Everything, verifier processes and sandboxes too,
runs on one core; both sides of a ratio take turns on the same work, and medians over the turns
count. Exit status 1 if a goal is missed or a verdict differs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from archer.config.keys import RewardConfig
from archer.rewards.math_verifier import math_quick
from archer.rewards.pool.processes import VerifierProcesses
from archer.rewards.sandbox.inside.runner import PRELUDE
from archer.types import RewardResult, ScoreRequest
from benchmarks.workload import Task, algebra_task, code_request, plain_task

CORPUS = Path(__file__).parents[1] / "tests" / "unit" / "corpus" / "math.jsonl"
CODE_GOALS = {1: 0.8, 10: 4.0, 40: 6.0}
"""Tests per sample -> least ratio of tests per second."""
TESTS_PER_TURN = 120
LATENCY_GOAL_S = 0.010
ALGEBRA_GOAL, R1_GOAL, EXACT_GOAL_PER_S = 0.9, 3.0, 50_000
R1_PLAIN_FRAC = 0.9
"""Share of plain numbers among the answers to AIME, AMC, MATH and GSM8K-like problems."""
PROGRAM = "a, b = map(int, input().split())\nprint(a * b)\n"


@dataclass(frozen=True)
class Line:
    """One row of the result."""

    what: str
    value: float
    goal: float
    unit: str = "x"
    smaller_is_better: bool = False

    @property
    def is_met(self) -> bool:
        return self.value <= self.goal if self.smaller_is_better else self.value >= self.goal

    def __str__(self) -> str:
        sign = "<=" if self.smaller_is_better else ">="
        verdict = "ok" if self.is_met else "MISSED"
        value, goal = f"{self.value:,.2f} {self.unit}", f"{sign} {self.goal:,g}"
        return f"{self.what:<58} {value:>14}   goal {goal:<10} {verdict}"


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Pool:
    """Warm verifier processes, driven from ordinary code."""

    def __init__(self, name: str):
        self._loop = asyncio.new_event_loop()
        self.processes = VerifierProcesses(RewardConfig(name=name, timeout_s=30.0, num_workers=1))
        self._loop.run_until_complete(self.processes.start())

    def score(self, requests: Sequence[ScoreRequest]) -> list[RewardResult]:
        async def all_of_them() -> list[RewardResult]:
            return await asyncio.gather(*map(self.processes.score, requests))

        return self._loop.run_until_complete(all_of_them())

    def close(self) -> None:
        self._loop.run_until_complete(self.processes.close())
        self._loop.close()


def code_requests(rng: random.Random, num_samples: int, num_tests: int) -> list[ScoreRequest]:
    requests = []
    for number in range(num_samples):
        pairs = [(rng.randint(1, 999), rng.randint(1, 999)) for _ in range(num_tests)]
        tests = [{"input": f"{a} {b}\n", "output": f"{a * b}\n"} for a, b in pairs]
        requests.append(code_request(str(number), PROGRAM, {"tests": tests}))
    return requests


def naive_code(requests: Sequence[ScoreRequest]) -> None:
    """A process per test, the prelude in front, no isolation at all, and no site to set up."""
    for request in requests:
        for test in request.ground_truth["tests"]:
            command = [sys.executable, "-I", "-S", "-c", f"{PRELUDE}\n{PROGRAM}"]
            said = subprocess.run(command, input=test["input"], capture_output=True, text=True)
            assert said.stdout == test["output"]


def code_lines(repeats: int) -> list[Line]:
    rng = random.Random(0)
    pool = Pool("code")

    def ours(requests: Sequence[ScoreRequest]) -> None:
        assert all(result.correct for result in pool.score(requests))

    lines = []
    ours(code_requests(rng, 20, 1))  # warm
    for num_tests, goal in CODE_GOALS.items():
        ratios, rates = [], []
        for _ in range(repeats):
            requests = code_requests(rng, TESTS_PER_TURN // num_tests, num_tests)
            naive_s = seconds(lambda r=requests: naive_code(r))
            ours_s = seconds(lambda r=requests: ours(r))
            ratios.append(naive_s / ours_s)
            rates.append(TESTS_PER_TURN / ours_s)
        what = f"code, {num_tests} tests a sample, {statistics.median(rates):.0f} tests/s"
        lines.append(Line(what, statistics.median(ratios), goal))
    latencies = [seconds(lambda r=r: ours([r])) for r in code_requests(rng, 100, 1)]
    what = "code, latency of a score with one test, warm"
    lines.append(Line(what, 1000 * statistics.median(latencies), 1000 * LATENCY_GOAL_S, "ms", True))
    pool.close()
    return lines


def naive_math(requests: Sequence[ScoreRequest]) -> list[bool]:
    """A bare loop over math-verify, on the final answers alone."""
    from math_verify import parse, verify

    return [
        bool(verify(parse(f"${request.ground_truth}$"), parse(request.response)))
        for request in requests
    ]


def short(task: Task) -> ScoreRequest:
    """With nothing but the box, so that neither side has to search a long response."""
    box = task.request.response[task.request.response.index("\\boxed") :]
    return replace(task.request, response=box.rstrip("$."))


def math_requests(rng: random.Random, count: int, plain_frac: float) -> list[ScoreRequest]:
    return [
        short((plain_task if rng.random() < plain_frac else algebra_task)(str(i), rng, i % 3 > 0))
        for i in range(count)
    ]


def math_lines(repeats: int) -> tuple[list[Line], list[str]]:
    """Ratios, and the requests of the mixes that the two sides judge differently."""
    pool = Pool("math")
    rng = random.Random(0)
    lines, differences = [], []
    warm = math_requests(rng, 50, plain_frac=0.0)
    naive_math(warm)
    pool.score(warm)
    mixes = {
        "maths, a mix that needs computer algebra": (200, 0.0, ALGEBRA_GOAL),
        "maths, R1-style answers, 9 in 10 plain numbers": (1000, R1_PLAIN_FRAC, R1_GOAL),
    }
    for what, (count, plain_frac, goal) in mixes.items():
        ratios, rates = [], []
        for _ in range(repeats):
            requests = math_requests(rng, count, plain_frac)
            theirs: list[bool] = []
            ours: list[RewardResult] = []
            naive_s = seconds(lambda r=requests, t=theirs: t.extend(naive_math(r)))
            ours_s = seconds(lambda r=requests, o=ours: o.extend(pool.score(r)))
            ratios.append(naive_s / ours_s)
            rates.append(count / ours_s)
            differences += [
                f"{q.response} for {q.ground_truth}: ours {o.correct}, math-verify {t}"
                for q, o, t in zip(requests, ours, theirs, strict=True)
                if o.correct != t
            ]
        what = f"{what}, {statistics.median(rates):.0f}/s"
        lines.append(Line(what, statistics.median(ratios), goal))
    pool.close()
    return [*lines, exact_line(repeats)], differences


def exact_line(repeats: int) -> Line:
    requests = [
        ScoreRequest(str(i), f"So the answer is $\\boxed{{{i % 1000}}}$.", str(i % 1000))
        for i in range(20_000)
    ]

    def judge_all() -> None:
        for request in requests:
            result = math_quick(request)
            assert result is not None and result.correct

    times = [seconds(judge_all) for _ in range(repeats)]
    rate = len(requests) / statistics.median(times)
    return Line("maths, exact matches", rate, EXACT_GOAL_PER_S, "per s")


def corpus_differences() -> list[str]:
    """Cases of the hand-labelled corpus that we judge otherwise than plain math-verify."""
    cases = [json.loads(line) for line in CORPUS.read_text().splitlines()]
    boxed = [case for case in cases if "answer" in case and isinstance(case["truth"], str)]
    requests = [
        ScoreRequest(
            str(i), f"\\boxed{{{case['answer']}}}", case["truth"], source=case.get("source", "")
        )
        for i, case in enumerate(boxed)
    ]
    pool = Pool("math")
    ours = pool.score(requests)
    pool.close()
    return [
        f"{case['topic']}: {case['answer']!r} for {case['truth']!r}: ours {o.correct}, "
        f"math-verify {theirs}, right {case['expected']}"
        for case, o, theirs in zip(boxed, ours, naive_math(requests), strict=True)
        if o.correct != theirs
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--core", type=int, default=min(os.sched_getaffinity(0)))
    given = parser.parse_args()
    os.sched_setaffinity(0, {given.core})  # inherited by all processes started from here
    lines = code_lines(given.repeats)
    of_maths, differences = math_lines(given.repeats)
    lines += of_maths
    print(*lines, sep="\n")
    print(f"verdicts on the mixes that differ from math-verify's: {len(differences)}")
    print(*differences[:20], sep="\n")
    documented = corpus_differences()
    print(f"\non the hand-labelled corpus, where they differ by intent: {len(documented)}")
    print(*documented, sep="\n")
    sys.exit(bool(differences) or not all(line.is_met for line in lines))


if __name__ == "__main__":
    main()
