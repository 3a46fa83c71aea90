"""Workers killed in the middle of a step: the run recovers, and its numbers do not change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from archer.metrics import read_metrics
from runs import TWO_OF_EACH, Run, undisturbed

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Actors of the two pools die, each at a step of its own."""
    faults = (
        "rollout-0@rollout:1",
        "engine-1@rollout:2",
        "reward-0@rollout:3",
        "engine-0@update:4",
    )
    yield from finished(tmp_path_factory.mktemp("pools"), faults)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Ranks die: one before the first checkpoint, two after it, each in another stage."""
    faults = ("policy-1@update:1", "reference-0@rollout:4", "policy-0@weight_sync:5")
    yield from finished(tmp_path_factory.mktemp("ranks"), faults)


def finished(root: Path, faults: tuple[str, ...]) -> Iterator[Run]:
    run = Run(root, *TWO_OF_EACH, faults=faults)
    try:
        assert run.wait(400) == 0, run.output
        yield run
    finally:
        run.kill_all()


def restarts_at(run: Run, step: int) -> float:
    """Actors of the pools replaced during one step."""
    lines = read_metrics(run.folder)
    total = {int(line["step"]): line.get("rollout/restarts", 0.0) for line in lines}
    return total[step] - total[step - 1]


def assert_ledger_balances(metrics: dict[str, float]) -> None:
    names = ("trained", "unscored", "uniform", "failed", "surplus")
    assert metrics["ledger/submitted"] == sum(metrics[f"ledger/{name}"] for name in names) > 0


def test_a_killed_rollout_actor_is_replaced_and_its_requests_are_asked_again(pools: Run):
    assert restarts_at(pools, 2) == 1
    assert pools.metrics[2] == undisturbed().metrics[2]
    assert_ledger_balances(pools.metrics[2])


def test_a_killed_engine_process_is_replaced_and_its_requests_are_asked_again(pools: Run):
    assert restarts_at(pools, 3) == 1
    assert pools.metrics[3] == undisturbed().metrics[3]
    assert_ledger_balances(pools.metrics[3])


def test_a_killed_reward_worker_is_replaced_and_its_requests_are_asked_again(pools: Run):
    assert restarts_at(pools, 4) == 1
    assert pools.metrics[4] == undisturbed().metrics[4]
    assert_ledger_balances(pools.metrics[4])


def test_an_engine_that_dies_while_idle_is_replaced_before_the_next_sync(pools: Run):
    assert restarts_at(pools, 6) == 1  # counted with the rollouts that follow
    assert pools.metrics == undisturbed().metrics


@pytest.mark.parametrize("place", ["update", "rollout", "weight_sync"])
def test_a_killed_rank_brings_the_run_back_to_the_last_checkpoint(ranks: Run, place: str):
    said = {
        "update": "during update(). Restarting",
        "rollout": "reference worker died during compute_logprobs(). Restarting",
        "weight_sync": "Restarting",
    }
    assert said[place] in ranks.output
    assert ranks.output.count("Restarting from the last checkpoint") == 3
    assert ranks.output.count("resuming after step 3") == 2
    assert ranks.metrics == undisturbed().metrics
    for step in range(1, 7):
        assert_ledger_balances(ranks.metrics[step])


def test_recovered_runs_leave_no_orphans(pools: Run, ranks: Run):
    assert pools.orphans() == []
    assert ranks.orphans() == []
