"""Scores thousands of mixed responses, some of them hostile, and watches the pool.

``python -m benchmarks.soak_rewards [--count 10000] [--chaos S] [--ray]``. Exit status 1 if an
answer is missing, doubled, late or wrong, if memory grows, or if something is left.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from archer.config.keys import RewardConfig, SandboxConfig
from archer.rewards.pool.processes import VerifierProcesses
from archer.rewards.sandbox.levels import SANDBOX_UID
from archer.types import RewardResult
from benchmarks.workload import Task, workload

REWARD = RewardConfig(
    name="by_source",
    args={
        "sources": {
            "code": {"name": "code", "args": {"time_limit_s": 1.0}},
            "math": {"name": "math"},
        }
    },
    num_workers=2,
    timeout_s=4.0,
    sandbox=SandboxConfig(memory_mb=512),
)
WARM_AFTER = 1000
"""Answers after which memory must not grow any more."""
MAX_GROWTH = 0.10
MAX_LATE_S = 1.0
SAMPLE_EVERY = 50
WINDOW = 20
"""Samples of memory of which the median counts: single ones catch processes at their start."""
SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


@dataclass
class Report:
    """What a soak has seen."""

    answers: Counter[str] = field(default_factory=Counter)
    """How often each request was answered."""
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    worst_late_s: float = float("-inf")
    resident_mb: list[float] = field(default_factory=list)
    """One sample for every ``SAMPLE_EVERY`` answers."""
    kills: Counter[str] = field(default_factory=Counter)
    leftovers: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, task: Task, result: RewardResult, elapsed_s: float) -> None:
        """Note an answer, and how long after the request it came."""
        id = task.request.id
        self.answers[id] += 1
        self.statuses[result.status if result.is_valid else f"{result.status} (masked)"] += 1
        self.worst_late_s = max(self.worst_late_s, elapsed_s - REWARD.timeout_s)
        if result.correct != task.is_right and (result.is_valid or not task.is_right):
            self.wrong.append(f"{id}: {result.status}, {result.detail[:200]}")
        elif not result.is_valid and not task.is_hostile and not self.kills:
            self.wrong.append(f"{id}: an honest response was not judged: {result.detail[:200]}")
        if len(self.answers) % SAMPLE_EVERY == 0:
            self.resident_mb.append(resident_bytes() / (1 << 20))

    @property
    def windows(self) -> list[float]:
        """Resident memory in MB over ``WINDOW`` samples each, from ``WARM_AFTER`` answers on."""
        warm = self.resident_mb[WARM_AFTER // SAMPLE_EVERY :]
        return [statistics.median(warm[i : i + WINDOW]) for i in range(0, len(warm), WINDOW)]

    @property
    def growth(self) -> float:
        """Of resident memory: the highest window over the first."""
        return max(self.windows) / self.windows[0] - 1 if self.windows else 0.0

    def problems(self, count: int) -> list[str]:
        """What must not be; empty if all is well."""
        lost, doubled = count - len(self.answers), self.answers.total() - len(self.answers)
        facts = {
            f"{lost} lost and {doubled} doubled answers": lost or doubled,
            # A request whose process was killed waits for another one to start.
            f"an answer came {self.worst_late_s:.2f} s late": (
                self.worst_late_s > MAX_LATE_S and not self.kills
            ),
            f"{len(self.wrong)} wrong verdicts, such as {self.wrong[:3]}": self.wrong,
            f"memory grew by {self.growth:.0%}": self.growth > MAX_GROWTH,
            f"left behind: {self.leftovers}": self.leftovers,
        }
        return [problem for problem, is_so in facts.items() if is_so]

    def lines(self) -> Iterator[str]:
        count = self.answers.total()
        statuses = ", ".join(f"{n} {status}" for status, n in self.statuses.most_common())
        yield f"{count} answers to {len(self.answers)} requests in {self.seconds:.0f} s: {statuses}"
        yield f"worst lateness {max(self.worst_late_s, 0.0):.2f} s beyond {REWARD.timeout_s:g} s"
        memory = " ".join(f"{mb:.0f}" for mb in self.windows)
        yield f"resident memory in MB: {memory}; {self.growth:+.0%}"
        if self.kills:
            yield "killed: " + ", ".join(f"{n} x {what}" for what, n in self.kills.items())
        yield f"left behind: {', '.join(self.leftovers) or 'nothing'}"


def family() -> list[psutil.Process]:
    return [psutil.Process(), *psutil.Process().children(recursive=True)]


def resident_bytes() -> int:
    """Of this process and all below it but the programs in the sandboxes, which have limits of
    their own; pages that processes share count once, by shares."""
    total = 0
    for process in family():
        with suppress(psutil.Error):
            parent = process.parent()
            if parent is None or kind_of(parent) != "zygote":
                total += process.memory_full_info().pss
    return total


def belongings() -> set[psutil.Process | Path]:
    """Processes of ours, and files of the user that programs run as."""
    found: set[psutil.Process | Path] = set(family())
    for folder in SHARED_FOLDERS:
        for path in Path(folder).iterdir():
            with suppress(OSError):
                if path.lstat().st_uid == SANDBOX_UID:
                    found.add(path)
    return found


async def leftovers(before: set[psutil.Process | Path]) -> list[str]:
    """What is there that was not before, once the killed have had time to end."""
    end = time.monotonic() + 5.0
    while (left := belongings() - before) and time.monotonic() < end:
        await asyncio.sleep(0.1)
    return [str(thing) for thing in left]


Score = Callable[[Task], Any]


@asynccontextmanager
async def local_pool() -> AsyncIterator[Score]:
    """Verifier processes of this process, as ``archer.score`` has them."""
    processes = VerifierProcesses(REWARD)
    await processes.start()
    try:
        yield lambda task: processes.score(task.request)
    finally:
        await processes.close()


@asynccontextmanager
async def ray_pool() -> AsyncIterator[Score]:
    """The streaming pool of a training run, over one actor."""
    import ray

    from archer.workers.pool import StreamingPool
    from archer.workers.reward import RewardWorker, max_outstanding

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    actor = ray.remote(RewardWorker).options(num_cpus=0, max_concurrency=1000)
    pool = StreamingPool(
        lambda _: actor.remote(REWARD), 1, "reward", 120.0,
        max_outstanding=max_outstanding(REWARD), max_restarts=10_000,
    )  # fmt: skip
    waiting: dict[str, asyncio.Future[RewardResult]] = {}

    async def collect() -> None:
        while True:
            ready, _ = ray.wait(pool.polls(), timeout=0) if pool.polls() else ([], [])
            for poll in ready:
                for id, result in pool.take(poll):
                    waiting.pop(id).set_result(result)
            await asyncio.sleep(0.002)

    async def score(task: Task) -> RewardResult:
        waiting[task.request.id] = asyncio.get_running_loop().create_future()
        pool.submit([task.request])
        return await waiting[task.request.id]

    collecting = asyncio.create_task(collect())
    try:
        yield score
    finally:
        collecting.cancel()
        ray.shutdown()


async def soak(
    tasks: Iterator[Task], *, kill_every_s: float | None = None, with_ray: bool = False
) -> Report:
    """Score all tasks, as many at a time as there are verifier processes.

    Args:
        kill_every_s: mean time between kills of processes; None kills none.
        with_ray: through the pool actor of a run.
    """
    report = Report()
    before = belongings()
    start = time.perf_counter()
    async with (ray_pool if with_ray else local_pool)() as score:

        async def work() -> None:
            for task in tasks:
                asked = time.perf_counter()
                result = await score(task)
                report.add(task, result, time.perf_counter() - asked)

        is_over = threading.Event()
        killer = threading.Thread(target=kill_at_random, args=(report, kill_every_s, is_over))
        if kill_every_s:
            killer.start()
        try:
            await asyncio.gather(*(work() for _ in range(REWARD.num_workers)))
        finally:
            is_over.set()
    if kill_every_s:
        killer.join()
    report.seconds = time.perf_counter() - start
    report.leftovers = await leftovers(before)
    return report


def kill_at_random(report: Report, every_s: float, is_over: threading.Event) -> None:
    """SIGKILL a verifier process, a zygote or the pool actor now and then."""
    rng = random.Random(0)
    while not is_over.wait(rng.expovariate(1 / every_s)):
        victims: dict[str, list[psutil.Process]] = {}
        for process in family()[1:]:
            with suppress(psutil.Error):
                if kind := kind_of(process):
                    victims.setdefault(kind, []).append(process)
        if victims:
            kind = rng.choice(sorted(victims))
            report.kills[kind] += 1
            with suppress(psutil.Error):
                rng.choice(victims[kind]).kill()


def kind_of(process: psutil.Process) -> str | None:
    command = " ".join(process.cmdline())
    if "archer.rewards.pool.child" in command:
        return "verifier process"
    if "RewardWorker" in command:
        return "pool actor"
    return "zygote" if "serve(control" in command and "bwrap" not in command else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hostile", type=float, default=0.05, help="share of hostile responses")
    parser.add_argument("--chaos", type=float, metavar="S", help="mean time between kills")
    parser.add_argument("--ray", action="store_true", help="through the pool actor of a run")
    given = parser.parse_args()
    tasks = workload(given.count, given.seed, given.hostile)
    report = asyncio.run(soak(tasks, kill_every_s=given.chaos, with_ray=given.ray))
    print(*report.lines(), sep="\n")
    problems = report.problems(given.count)
    print(*(f"PROBLEM: {problem}" for problem in problems), sep="\n")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
