"""The reward pool on Ray: every score comes back once, whatever is killed."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator

import psutil
import pytest
import ray

from archer.config.keys import TrainConfig
from archer.runtime.cluster import start_rewards
from archer.types import RewardResult, ScoreRequest
from archer.workers.pool import StreamingPool

CASES = (  # answer to a question whose answer is 5, status and correct
    (r"\boxed{5}", "ok", True),
    (r"\boxed{x + 5 - x}", "ok", True),  # takes sympy
    ("5", "no_answer", False),
    (r"\boxed{\sqrt{26}}", "ok", False),
)


@pytest.fixture
def pool(local_ray: None) -> Iterator[StreamingPool]:
    config = TrainConfig.model_validate(
        {
            "algo": {"name": "grpo"},
            "model": {"name": "m", "path": "m"},
            "data": {"name": "d", "train": "d"},
            "reward": {"name": "math", "num_workers": 2, "timeout_s": 4.0},
        }
    )
    pool = start_rewards(config)
    pool.ensure_alive()
    yield pool
    for actor in pool.actors:
        ray.kill(actor)


def pid_of(pool: StreamingPool) -> int:
    return ray.get(pool.actors[0].ready.remote())["pid"]


def collect(pool: StreamingPool, requests: list[ScoreRequest], disturb=lambda: None):
    """Results by id; one that comes twice is an error."""
    pool.submit(requests)
    results: dict[str, RewardResult] = {}
    deadline = time.monotonic() + 150
    while polls := pool.polls():
        assert time.monotonic() < deadline, f"{len(results)} of {len(requests)} results"
        ready, _ = ray.wait(polls, num_returns=1, timeout=0.1)
        for poll in ready:
            for id, result in pool.take(poll):
                assert id not in results
                results[id] = result
        disturb()
    return results


def test_every_score_comes_once_while_actor_and_processes_are_killed(pool: StreamingPool):
    requests = [ScoreRequest(str(i), CASES[i % 4][0], "5") for i in range(1200)]
    order, kills = random.Random(0), {"actor": 0, "process": 0}
    next_kill = time.monotonic()

    def disturb() -> None:
        nonlocal next_kill
        if time.monotonic() < next_kill or (kills["actor"] == 2 and kills["process"] >= 6):
            return
        next_kill = time.monotonic() + order.uniform(0.1, 0.5)
        actor = psutil.Process(pid_of(pool))
        if kills["actor"] < 2 and order.random() < 0.3:
            kills["actor"] += 1
            os.kill(actor.pid, signal.SIGKILL)
        elif children := actor.children():
            kills["process"] += 1
            order.choice(children).kill()

    first = collect(pool, requests, disturb)
    second = collect(pool, requests[:40])  # those who died are forgotten
    assert kills["actor"] == pool.num_restarts == 2 and kills["process"] > 0
    assert sorted(map(int, first)) == list(range(1200))
    assert len(second) == 40
    for id, result in [*first.items(), *second.items()]:
        _, status, correct = CASES[int(id) % 4]
        is_lost = result.status == "crashed" and result.deaths == 2
        assert is_lost or (result.status, result.correct) == (status, correct), (id, result)
    assert sum(result.status == "crashed" for result in first.values()) < 5


def test_aborted_scores_leave_nothing_behind(pool: StreamingPool):
    hard = r"\boxed{\int_0^{\infty} e^{-x^{7}} \cos(x^3) \log(x)^4 dx}"
    pool.submit([ScoreRequest(str(i), hard, r"\pi^2") for i in range(500)])
    time.sleep(0.5)
    pool.abort([str(i) for i in range(500)])
    start = time.monotonic()
    while polls := pool.polls():
        ready, _ = ray.wait(polls, num_returns=1, timeout=20)
        assert ready, "aborted requests do not come back"
        pool.take(ready[0])
    assert time.monotonic() - start < 10
    (result,) = collect(pool, [ScoreRequest("next", r"\boxed{5}", "5")]).values()
    assert result.correct
