"""Verifier processes and the reward worker: deadlines, deaths, and no result lost or doubled."""

import asyncio
import subprocess
import sys
import time

import psutil
import pytest
from hostile_rewards import misbehave

from archer.config import RewardConfig
from archer.errors import ConfigError
from archer.rewards import processes as processes_module
from archer.rewards import resolve_reward
from archer.rewards.processes import VerifierProcesses
from archer.types import ScoreRequest
from archer.workers.reward import RewardWorker

MISBEHAVE = "hostile_rewards.misbehave"


def request(response, id="0", ground_truth="5", **fields):
    return ScoreRequest(id, response, ground_truth, **fields)


def score_all(responses, name=MISBEHAVE, workers=1, timeout_s=5.0, run=asyncio.run, **args):
    """Results of the responses, scored one after another by one pool."""

    async def main():
        processes = VerifierProcesses(name, args, workers, timeout_s)
        await processes.start()
        try:
            return [await processes.score(request(response)) for response in responses]
        finally:
            await processes.close()

    return run(main())


def test_results_of_a_users_function():
    positive, zero, negative, own = score_all(["0.5", "0", "-1", "result"])
    assert (positive.reward, positive.correct, positive.status) == (0.5, True, "ok")
    assert (zero.reward, zero.correct) == (0.0, False)
    assert (negative.reward, negative.correct) == (-1.0, False)
    assert (own.reward, own.correct, own.detail) == (0.25, True, "fine")


def test_failures_of_the_verifier_are_not_wrong_answers():
    results = score_all(["raise", "exit", "nan", "text", "memory", "not a number", "1"])
    assert [r.status for r in results] == ["verifier_error"] * 6 + ["ok"]
    assert all(r.reward != r.reward for r in results[:6])  # NaN
    assert results[0].detail == "LookupError: no such thing"
    assert "MemoryError" in results[4].detail


def test_a_request_that_is_not_json_is_a_verifier_error():
    processes = VerifierProcesses("math", {}, 1, 1.0)
    result = asyncio.run(processes.score(request("1", ground_truth=object())))
    assert result.status == "verifier_error"


def test_the_deadline_kills_and_start_up_does_not_count():
    start = time.perf_counter()
    hung, fine = score_all(["hang", "1"], timeout_s=0.3)  # a child takes longer than this to start
    assert hung.status == "timeout"
    assert hung.seconds == pytest.approx(0.3)
    assert (fine.status, fine.reward) == ("ok", 1.0)
    assert time.perf_counter() - start < 8


def test_a_tower_of_powers_is_killed_and_the_next_answer_is_judged():
    tower, right = score_all([r"\boxed{9^{9^{9}}}", r"\boxed{2+3}"], name="math", timeout_s=1.0)
    assert tower.status == "timeout"
    assert right.correct


def test_a_death_is_retried_on_a_fresh_process(tmp_path):
    (result,) = score_all(["die once"], marker=str(tmp_path / "died"))
    assert (result.status, result.reward) == ("ok", 1.0)
    assert (tmp_path / "died").exists()


def test_a_response_that_kills_twice_is_reported_as_crashed():
    crashed, fine = score_all(["die", "1"])
    assert crashed.status == "crashed"
    assert fine.status == "ok"


def test_processes_killed_while_idle_cost_no_attempt():
    async def main():
        processes = VerifierProcesses(MISBEHAVE, {}, 3, 5.0)
        before = set(psutil.Process().children())  # Ray's, when other tests started it
        await processes.start()
        for child in set(psutil.Process().children()) - before:
            child.kill()
        await asyncio.sleep(0.2)  # until they are gone
        result = await processes.score(request("1"))
        await processes.close()
        return result

    assert asyncio.run(main()).status == "ok"


def test_processes_are_replaced_after_so_many_answers(monkeypatch):
    monkeypatch.setattr(processes_module, "RECYCLE_AFTER", 3)
    pids = [result.reward for result in score_all(["pid"] * 5)]
    assert len(set(pids)) == 3  # loading the function is a process's first answer


def test_credentials_do_not_reach_a_verifier(monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    assert score_all(["environment"])[0].reward == 0.0


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
from test_rewards_processes import VerifierProcesses, request
async def main():
    processes = VerifierProcesses("hostile_rewards.misbehave", {{}}, 2, 100.0)
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
    assert resolve_reward(MISBEHAVE, {"marker": "x"}) is misbehave
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
        monkeypatch.setattr(VerifierProcesses, "score", broken)
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
