"""Verifier processes and the reward worker: deadlines, deaths, and no result lost or doubled."""

import asyncio
import os
import random
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import psutil
import pytest
from hostile_rewards import misbehave

from archer.config.keys import RewardConfig
from archer.errors import ConfigError
from archer.rewards import resolve_reward
from archer.rewards.pool import processes as processes_module
from archer.rewards.pool.processes import VerifierProcesses
from archer.types import ScoreRequest
from archer.workers.reward import RewardWorker

MISBEHAVE = "hostile_rewards.misbehave"
ASYNC = "hostile_rewards.misbehave_async"
HARD_INTEGRAL = r"\boxed{\int_0^{\infty} e^{-x^{7}} \cos(x^3) \log(x)^4 dx}"


def request(response, id="0", ground_truth="5", **fields):
    return ScoreRequest(id, response, ground_truth, **fields)


def config(name=MISBEHAVE, workers=1, timeout_s=5.0, **fields):
    return RewardConfig(name=name, num_workers=workers, timeout_s=timeout_s, **fields)


@asynccontextmanager
async def started(**fields):
    processes = VerifierProcesses(config(**fields))
    await processes.start()
    try:
        yield processes
    finally:
        await processes.close()


def score_all(responses, run=asyncio.run, at_once=False, **fields):
    """Results of the responses, scored by one pool, one after another or all at once."""

    async def main():
        async with started(**fields) as processes:
            scores = [processes.score(request(r, str(i))) for i, r in enumerate(responses)]
            return await asyncio.gather(*scores) if at_once else [await score for score in scores]

    return run(main())


def test_results_of_a_users_function():
    positive, zero, negative, own = score_all(["0.5", "0", "-1", "result"])
    assert (positive.reward, positive.correct, positive.status) == (0.5, True, "ok")
    assert (zero.reward, zero.correct) == (0.0, False)
    assert (negative.reward, negative.correct) == (-1.0, False)
    assert (own.reward, own.correct, own.detail) == (0.25, True, "fine")


def test_failures_of_the_verifier_are_not_wrong_answers():
    failing = ["raise", "memory", "exit", "nan", "text", "not a number", "status"]
    *results, fine = score_all([*failing, "infinite failure", "1"])
    assert {r.status for r in results} == {"verifier_error"} and fine.status == "ok"
    assert all(r.reward != r.reward for r in results)  # NaN
    assert results[0].detail == "LookupError: no such thing"
    assert "MemoryError" in results[1].detail


def test_a_request_that_is_not_json_is_a_verifier_error():
    deep: list = []
    for _ in range(100_000):
        deep = [deep]

    async def main():
        async with started() as processes:
            truths = (object(), deep, "5")
            return [(await processes.score(request("1", ground_truth=t))).status for t in truths]

    assert asyncio.run(main()) == ["verifier_error", "verifier_error", "ok"]


def test_the_deadline_kills_and_start_up_does_not_count():
    start = time.perf_counter()
    hung, fine = score_all(["hang", "1"], timeout_s=0.3)  # a child takes longer than this to start
    assert hung.status == "timeout"
    assert hung.seconds == pytest.approx(0.3)
    assert (fine.status, fine.reward) == ("ok", 1.0)
    assert time.perf_counter() - start < 8


def test_a_hard_integral_is_killed_and_the_next_answer_is_judged():
    async def main():
        async with started(name="math", timeout_s=1.0) as processes:
            hard = await processes.score(request(HARD_INTEGRAL, ground_truth=r"\pi^2"))
            return hard, await processes.score(request(r"\boxed{x+3-x}", ground_truth="3"))

    hard, right = asyncio.run(main())
    assert hard.status == "timeout"
    assert right.correct


def test_a_death_is_retried_on_a_fresh_process(tmp_path):
    (result,) = score_all(["die once"], args={"marker": str(tmp_path / "died")})
    assert (result.status, result.reward) == ("ok", 1.0)
    assert (tmp_path / "died").exists()


def test_a_response_that_kills_twice_is_reported_as_crashed():
    crashed, fine = score_all(["die", "1"])
    assert crashed.status == "crashed"
    assert fine.status == "ok"


def test_processes_killed_while_idle_cost_no_attempt():
    before = set(psutil.Process().children())  # Ray's, when other tests started it

    async def main():
        async with started(workers=3) as processes:
            for child in set(psutil.Process().children()) - before:
                child.kill()
            await asyncio.sleep(0.2)  # until they are gone
            return await processes.score(request("1"))

    result = asyncio.run(main())
    assert (result.status, result.deaths) == ("ok", 0)


def test_processes_are_replaced_after_so_many_answers(monkeypatch):
    monkeypatch.setattr(processes_module, "RECYCLE_AFTER", 3)
    pids = [result.reward for result in score_all(["pid"] * 5)]
    assert len(set(pids)) == 3  # loading the function is a process's first answer


def test_processes_are_replaced_when_they_hold_much_memory():
    fat, other, same = (result.reward for result in score_all(["fat", "pid", "pid"]))
    assert fat != other == same


def test_credentials_reach_a_verifier_only_by_name(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    assert score_all(["environment"])[0].reward == 0.0
    assert score_all(["environment"], env=["SECRET_TOKEN"])[0].reward == 1.0
    with pytest.raises(ConfigError, match=r"reward\.env='NO_SUCH_KEY'"):
        score_all(["1"], env=["NO_SUCH_KEY"])


def test_a_data_source_may_have_a_limit_of_its_own():
    async def main():
        async with started(timeout_s=30.0, source_timeout_s={"slow": 0.3}) as processes:
            return [await processes.score(request(text, source="slow")) for text in ("hang", "1")]

    hung, fine = asyncio.run(main())
    assert (hung.status, hung.seconds) == ("timeout", pytest.approx(0.3))
    assert "within 0.3 s" in hung.detail
    assert fine.status == "ok"


def test_a_judge_knows_how_long_it_has():
    assert score_all(["time limit"], timeout_s=3.5)[0].reward == 3.5


def test_deaths_and_seconds_are_told():
    died, hung, fine = score_all(["die", "hang", "1"], timeout_s=0.3)
    assert [died.deaths, hung.deaths, fine.deaths] == [2, 1, 0]
    assert died.queue_s > 0.1  # for the processes that replaced the dead ones


def test_quick_verdicts_take_no_process_and_leave_errors_to_the_judge():
    number, error = score_all(["1", "raise"], name="hostile_rewards.QUICK")
    assert number.reward == 1 + os.getpid()
    assert (error.status, error.detail) == ("verifier_error", "LookupError: no such thing")


def test_a_megabyte_of_surrogates_and_control_characters_is_judged():
    response = "\ud800\x00\x1b[31m\udfff" * 120_000
    (result,) = score_all([response + "1"])
    assert result.status == "verifier_error"
    assert "could not convert string to float" in result.detail
    assert len(result.detail) <= 1000


def test_an_async_function_judges_many_responses_at_a_time():
    start = time.perf_counter()
    results = score_all(["sleep 1"] * 30, name=ASYNC, at_once=True, concurrency=30)
    assert [result.reward for result in results] == [1.0] * 30
    assert time.perf_counter() - start < 10


def test_no_more_than_the_allowed_number_are_judged_at_a_time():
    first, second, third = score_all(["sleep 0.3"] * 3, name=ASYNC, at_once=True, concurrency=2)
    assert max(first.queue_s, second.queue_s) < 0.3 <= third.queue_s


def test_an_async_function_is_cancelled_at_its_deadline_and_others_go_on():
    async def main():
        async with started(name=ASYNC, timeout_s=0.5) as processes:
            late, fine, own = await asyncio.gather(
                *(processes.score(request(r)) for r in ("sleep 9", "sleep 0.4", "late"))
            )
            return late, fine, own, await processes.score(request("cancelled"))

    late, fine, own, cancelled = asyncio.run(main())
    assert (late.status, late.detail, late.is_valid) == (
        "timeout",
        "no verdict within 0.5 s",
        False,
    )
    assert 0.5 <= late.seconds < 0.9 and late.deaths == 0
    assert fine.reward == 1.0
    assert (own.status, own.detail) == ("verifier_error", "TimeoutError: of my own")
    assert cancelled.reward == 1  # in the same process


def test_a_process_that_blocks_its_event_loop_is_killed_and_the_others_are_retried():
    async def main():
        async with started(name=ASYNC, timeout_s=2.0) as processes:
            blocking = asyncio.create_task(processes.score(request("block 100")))
            await asyncio.sleep(1.5)
            return await asyncio.gather(blocking, processes.score(request("1")))

    blocking, innocent = asyncio.run(main())
    assert (blocking.status, blocking.deaths) == ("timeout", 1)
    assert (innocent.reward, innocent.deaths) == (1.0, 1)


def test_an_async_function_that_kills_its_process_is_reported_and_the_others_are_retried():
    died, *others = score_all(["die", "sleep 0.1", "sleep 0.2"], name=ASYNC, at_once=True)
    assert died.status == "crashed"
    # The second attempts may share a process with its second, too.
    assert {other.status for other in others} <= {"ok", "crashed"}
    assert score_all(["raise", "exit", "1"], name=ASYNC)[2].reward == 1.0


def test_aborted_async_requests_are_cancelled_in_their_process():
    async def main():
        async with started(name=ASYNC) as processes:
            scoring = asyncio.create_task(processes.score(request("sleep 100")))
            await asyncio.sleep(0.2)
            scoring.cancel()
            await asyncio.gather(scoring, return_exceptions=True)
            return await processes.score(request("cancelled"))

    assert asyncio.run(main()).reward == 1


def test_worn_async_processes_answer_first_what_they_are_at(monkeypatch):
    monkeypatch.setattr(processes_module, "RECYCLE_AFTER", 4)
    responses = ["sleep 0.5", *["pid"] * 6]
    slow, *pids = score_all(responses, name=ASYNC, at_once=True, concurrency=2)
    assert (slow.reward, slow.deaths) == (1.0, 0)
    assert len({result.reward for result in pids}) > 1


def test_a_source_may_have_a_limit_of_its_own():
    async def main():
        async with started(name=ASYNC, max_concurrency={"web": 1}) as processes:
            return await asyncio.gather(
                *(
                    processes.score(request("sleep 0.3", source=source))
                    for source in ("web", "web", "web", "other")
                )
            )

    *web, other = asyncio.run(main())
    assert sorted(round(result.queue_s, 1) for result in web) == [0.0, 0.3, 0.6]
    assert other.queue_s < 0.2


@pytest.mark.parametrize("name", [MISBEHAVE, ASYNC])
def test_every_request_is_answered_while_processes_are_killed_at_random(name):
    """Each of 400 answers comes, and is right or was lost twice to a killed process."""
    before = set(psutil.Process().children())
    order = random.Random(0)

    async def kill_now_and_then():
        while True:
            await asyncio.sleep(order.uniform(0.05, 0.6))
            if children := [c for c in psutil.Process().children() if c not in before]:
                order.choice(children).kill()

    async def main():
        async with started(name=name, workers=2, concurrency=4) as processes:
            killing = asyncio.create_task(kill_now_and_then())
            scores = [processes.score(request(f"pause {i % 7}", str(i))) for i in range(400)]
            results = await asyncio.wait_for(asyncio.gather(*scores), 60)
            killing.cancel()
            await asyncio.gather(killing, return_exceptions=True)
            return results

    results = asyncio.run(main())
    assert len(results) == 400
    for i, result in enumerate(results):
        assert result.status == "crashed" or result.reward == i % 7
    assert sum(result.deaths for result in results) > 3
    assert sum(result.status == "crashed" for result in results) < 40
    assert set(psutil.Process().children()) <= before


def test_the_event_loop_that_ray_prefers():
    uvloop = pytest.importorskip("uvloop")
    hung, fine = score_all(["hang", "1"], timeout_s=0.3, run=uvloop.run)
    assert (hung.status, fine.status) == ("timeout", "ok")


def test_nothing_is_left_after_close_nor_after_the_parents_death():
    before = set(psutil.Process().children())
    score_all(["1"], workers=2)
    assert set(psutil.Process().children()) <= before
    script = f"""
import asyncio, sys
sys.path[:0] = {sys.path!r}
from test_rewards_processes import VerifierProcesses, config, request
async def main():
    processes = VerifierProcesses(config(workers=2, timeout_s=100.0))
    await processes.start()
    print("ready", flush=True)
    await processes.score(request("hang"))
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"ready\n"
        children = psutil.Process(parent.pid).children()
        assert len(children) == 2
        time.sleep(0.2)  # one of them loops by now and reads nothing
        parent.kill()
    _, alive = psutil.wait_procs(children, timeout=5)
    assert not alive


def test_a_function_that_does_not_load_is_a_config_error():
    with pytest.raises(ConfigError, match="no_such_function"):
        score_all(["1"], name="hostile_rewards.no_such_function")


def test_resolving_names():
    assert resolve_reward(MISBEHAVE, {"marker": "x"}).judge is misbehave
    with pytest.raises(ConfigError, match="Did you mean 'math'"):
        resolve_reward("maths")
    with pytest.raises(ConfigError, match="unexpected keyword argument 'patern'"):
        resolve_reward("format", {"patern": "x"})
    with pytest.raises(ConfigError, match="PYTHONPATH"):
        resolve_reward("no_such_module.reward")


def test_the_driver_imports_neither_sympy_nor_torch():
    script = (
        "import sys, archer.rewards, archer.score, archer.workers.reward;"
        "sys.exit(bool({'sympy', 'math_verify', 'torch', 'ray'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def run_worker(use, **config):
    """Run ``use(worker)`` against a started RewardWorker."""

    async def main():
        config.setdefault("name", MISBEHAVE)
        worker = RewardWorker(RewardConfig(**config))
        await worker.ready()
        try:
            return await use(worker)
        finally:
            await worker._processes.close()

    return asyncio.run(main())


async def collect(worker, count):
    results = []
    while len(results) < count:
        results += await worker.next_finished()
    return results


def test_every_request_comes_back_exactly_once():
    expected = {
        "1": "ok", "0": "ok", "raise": "verifier_error", "hang": "timeout", "die": "crashed",
    }  # fmt: skip
    rare = {40: "hang", 90: "die", 150: "hang"}
    kinds = [rare.get(i) or ("1", "0", "raise")[i % 3] for i in range(200)]

    async def use(worker):
        for i in range(0, 200, 50):
            await worker.submit([request(kinds[j], id=str(j)) for j in range(i, i + 50)])
        return await collect(worker, 200)

    results = run_worker(use, num_workers=2, timeout_s=0.5)
    assert sorted(int(id) for id, _ in results) == list(range(200))
    assert all(result.status == expected[kinds[int(id)]] for id, result in results)


def test_results_stream_while_others_are_still_judged():
    async def use(worker):
        await worker.submit([request("hang", id="slow"), request("1", id="quick")])
        return await worker.next_finished(), await worker.next_finished()

    (first,), (second,) = run_worker(use, num_workers=2, timeout_s=0.5)
    assert (first[0], second[0]) == ("quick", "slow")


def test_aborted_requests_come_back_once_and_leave_the_pool_whole():
    async def use(worker):
        await worker.submit([request("hang", id=id) for id in ("running", "waiting")])
        await asyncio.sleep(0.1)
        await worker.abort(["running", "waiting", "unknown"])
        aborted = await collect(worker, 2)
        await worker.submit([request("1", id="next")])
        return aborted, await collect(worker, 1)

    aborted, after = run_worker(use)
    assert {id: result.detail for id, result in aborted} == dict.fromkeys(
        ("running", "waiting"), "aborted"
    )
    assert not any(result.is_valid for _, result in aborted)
    assert [(id, result.reward) for id, result in after] == [("next", 1.0)]


def test_a_request_that_breaks_the_pool_itself_is_not_lost(monkeypatch):
    async def broken(processes, request):
        raise TypeError("a reply with a field too many")

    async def use(worker):
        monkeypatch.setattr(VerifierProcesses, "judge", broken)
        await worker.submit([request("1")])
        return await worker.next_finished()

    ((_, result),) = run_worker(use)
    assert result.status == "crashed"
    assert result.detail == "TypeError: a reply with a field too many"


@pytest.mark.parametrize(("truncated", "reward"), [("wrong", 0.0), ("score", 1.0)])
def test_truncated_responses(truncated, reward):
    async def use(worker):
        await worker.submit([request("1", finish_reason="length")])
        return await worker.next_finished()

    ((_, result),) = run_worker(use, truncated=truncated)
    assert (result.status, result.reward, result.correct) == ("ok", reward, reward > 0)
