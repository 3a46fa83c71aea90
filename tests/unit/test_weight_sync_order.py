"""The order of one push, what each failure becomes, and the shared block; on fakes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from archer.errors import WeightSyncError
from archer.weight_sync import RolloutClient, ShmSender, WeightSync, largest_tensor_bytes
from archer.workers.group import NoAnswer, WorkerDied

ECHO = np.array([-1.0, -2.0], np.float32)
FINGERPRINT = 0x1234


class FakeEngine:
    """Every method call goes to the shared list of events; ``answers`` holds what some return."""

    def __init__(self, events: list[str], name: str, **answers: Any):
        self.events, self.name = events, name
        self.answers = {"echo": ECHO, "fingerprint": FINGERPRINT} | answers
        self.is_dead = False

    def __getattr__(self, method: str) -> Any:
        def remote(*args: Any) -> Any:
            shown = f" {args[0]}" if method == "commit_version" else ""
            self.events.append(f"{self.name} {method}{shown}")
            return RayActorError() if self.is_dead else self.answers.get(method)

        return SimpleNamespace(remote=remote)


class FakePolicy:
    """Two ranks; calls of ``send_weights`` raise one of ``failures`` each while there are any.

    With ``victim`` that engine is found dead at the first of them.
    """

    def __init__(self, events: list[str], failures: list[Exception]):
        self.events, self.failures = events, failures
        self.victim: FakeEngine | None = None

    def within(self, timeout_s: float) -> FakePolicy:
        return self

    def call(self, method: str, *args: Any) -> list[Any]:
        self.events.append(f"policy {method}")
        if method == "send_weights" and self.failures:
            if self.victim is not None:
                self.victim.is_dead, self.victim = True, None
            raise self.failures.pop(0)
        return [{"echo": ECHO, "fingerprint": FINGERPRINT}.get(method)] * 2


class FakeTurns:
    def __init__(self, events: list[str]):
        self.syncing = lambda: events.append("turn to sync")
        self.sampling = lambda: events.append("turn to sample")


class FakePool:
    def __init__(self, events: list[str], actors: list[FakeEngine]):
        self.events, self.actors = events, actors
        self.prepare: Any = None
        self.num_restarts = 0

    def ensure_alive(self) -> None:
        self.events.append("ensure alive")
        for i, engine in enumerate(self.actors):
            if engine.is_dead:
                self.num_restarts += 1
                self.actors[i] = FakeEngine(self.events, f"{engine.name} again")
                self.prepare(self.actors[i])


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(values: Any, timeout: float | None = None) -> Any:
        for value in values if isinstance(values, list) else [values]:
            if isinstance(value, Exception):
                raise value
        return values

    monkeypatch.setattr(ray, "get", get)


def make_sync(
    events: list[str], *failures: Exception, num_engines: int = 1, **answers: Any
) -> WeightSync:
    engines = [FakeEngine(events, f"engine {i}", **answers) for i in range(num_engines)]
    return WeightSync(
        FakePolicy(events, list(failures)),  # type: ignore[arg-type]
        FakePool(events, engines),  # type: ignore[arg-type]
        backend="shm",
        echo_tokens=np.array([5, 6, 7], np.int32),
        dtype="float32",
        timeout_s=1.0,
        turns=FakeTurns(events),  # type: ignore[arg-type]
    )


def test_push_sends_then_commits_then_compares():
    events: list[str] = []
    metrics = make_sync(events).push(version=7)
    assert events == [
        "ensure alive",
        "turn to sync",
        "policy connect",
        "policy send_weights",
        "policy fingerprint",
        "policy echo",
        "turn to sample",
        "engine 0 commit_version 7",
        "engine 0 fingerprint",
        "engine 0 echo",
    ]
    assert metrics["weight_sync/echo_diff"] == 0


def test_same_engines_are_connected_once():
    events: list[str] = []
    sync = make_sync(events)
    sync.push(version=1)
    sync.push(version=2)
    assert events.count("policy connect") == 1
    assert events.count("policy send_weights") == 2


def test_restarted_engine_gets_the_current_version_alone():
    events: list[str] = []
    sync = make_sync(events, num_engines=2)
    sync.push(version=3)
    events.clear()
    newcomer = FakeEngine(events, "newcomer")
    sync.rollouts.prepare(newcomer)  # type: ignore[arg-type]
    assert "policy connect" in events
    assert events[-3:] == [
        "newcomer commit_version 3",
        "newcomer fingerprint",
        "newcomer echo",
    ]
    assert not any(event.startswith("engine") for event in events)
    sync.push(version=4)
    assert events.count("policy connect") == 2  # back to all engines


@pytest.mark.parametrize("echoed", [ECHO + 0.01, ECHO * np.nan])
def test_engine_with_other_log_probs_is_named(echoed: np.ndarray):
    sync = make_sync([])
    sync.rollouts.actors.append(FakeEngine([], "engine 1", echo=echoed))  # type: ignore[arg-type]
    with pytest.raises(WeightSyncError, match=r"engine 1 computes otherwise .* version 5"):
        sync.push(version=5)


def test_engine_with_other_weights_is_named_whatever_its_log_probs():
    sync = make_sync([])
    sync.rollouts.actors.append(FakeEngine([], "engine 1", fingerprint=FINGERPRINT + 1))  # type: ignore[arg-type]
    with pytest.raises(WeightSyncError, match="engine 1 lacks weight version 5"):
        sync.push(version=5)


REFUSED = RayTaskError("send_weights", "Traceback: engine is dead", RuntimeError("engine is dead"))
LOST_PEER = WorkerDied("policy worker lost a peer during send_weights()")


@pytest.mark.parametrize("failure", [REFUSED, LOST_PEER])
def test_engine_that_dies_during_a_push_is_replaced_and_all_are_sent_to_again(failure: Exception):
    events: list[str] = []
    sync = make_sync(events, failure, num_engines=2)
    sync.policy.victim = sync.rollouts.actors[1]  # type: ignore[attr-defined]
    sync.push(version=2)
    assert [event for event in events if "commit_version" in event] == [
        "engine 1 again commit_version 2",  # alone, as after any restart
        "engine 0 commit_version 2",
        "engine 1 again commit_version 2",
    ]


def test_engine_that_dies_after_the_weights_were_sent_is_replaced_too():
    events: list[str] = []
    sync = make_sync(events, num_engines=2)
    sync.push(version=1)
    sync.turns.sampling = lambda: setattr(sync.rollouts.actors[0], "is_dead", True)  # type: ignore[method-assign]
    sync.rollouts.prepare = lambda actor: setattr(sync.turns, "sampling", lambda: None)
    sync.push(version=2)
    assert events[-1] == "engine 1 echo"
    assert sync.rollouts.num_restarts == 1


def test_ranks_that_hang_in_a_broadcast_to_a_dead_engine_are_given_up():
    events: list[str] = []
    sync = make_sync(events, NoAnswer("policy workers gave no answer"), num_engines=2)
    sync.policy.victim = sync.rollouts.actors[1]  # type: ignore[attr-defined]
    with pytest.raises(NoAnswer):
        sync.push(version=2)
    assert events.count("ensure alive") == 1  # a new engine could get nothing from those ranks


@pytest.mark.parametrize(
    "failure",
    [
        RayTaskError(
            "send_weights", "Traceback: partial weight sync", RuntimeError("partial weight sync")
        ),
        NoAnswer("policy workers gave no answer to send_weights() within 1 s"),
    ],
)
def test_weights_that_do_not_arrive_are_no_new_version(failure: Exception):
    events: list[str] = []
    with pytest.raises(WeightSyncError, match="weight version 2"):
        make_sync(events, failure).push(version=2)
    assert events.count("policy send_weights") == 1
    assert not any("commit_version" in event for event in events)


def test_dead_policy_rank_stays_a_death_that_the_trainer_recovers_from():
    with pytest.raises(WorkerDied):
        make_sync([], WorkerDied("policy worker died")).push(version=2)


def test_engine_that_does_not_answer_is_a_failed_sync(monkeypatch: pytest.MonkeyPatch):
    def get_late(values: Any, timeout: float | None = None) -> Any:
        raise GetTimeoutError

    monkeypatch.setattr(ray, "get", get_late)
    with pytest.raises(WeightSyncError, match=r"no answer to commit_version\(\) in 1 s"):
        make_sync([]).push(version=2)


class Source:
    """Weights of odd sizes and several types."""

    def __init__(self):
        self.tensors = {
            "a": torch.arange(5, dtype=torch.float32),
            "b": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
            "c": torch.arange(12, dtype=torch.float32).view(3, 4).T,
        }

    def metadata(self) -> list[Any]:
        return [SimpleNamespace(dtype=t.dtype, shape=t.shape) for t in self.tensors.values()]

    def __iter__(self) -> Any:
        return iter(self.tensors.items())


def test_shared_block_holds_every_tensor_at_its_offset():
    layouts: list[dict[str, Any]] = []
    client = SimpleNamespace(
        init_weight_transfer_engine=lambda info: None,
        start_weight_update=lambda: None,
        update_weights=layouts.append,
        finish_weight_update=lambda: None,
    )
    source = Source()
    sender = ShmSender(client, source, rank=0)  # type: ignore[arg-type]
    for _ in range(2):  # the block is reused
        sender.send_weights()
        assert read_block(layouts[-1]).keys() == source.tensors.keys()
        for name, tensor in read_block(layouts[-1]).items():
            assert torch.equal(tensor, source.tensors[name])
        source.tensors["a"] += 1
    assert layouts[0]["path"] == layouts[1]["path"]


def read_block(layout: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors as a receiver sees them."""
    block = torch.from_file(
        layout["path"], shared=True, size=layout["num_bytes"], dtype=torch.uint8
    )
    tensors = {}
    for name, dtype, shape, offset in zip(
        layout["names"], layout["dtype_names"], layout["shapes"], layout["offsets"], strict=True
    ):
        size = torch.Size(shape).numel() * getattr(torch, dtype).itemsize
        tensors[name] = block[offset : offset + size].view(getattr(torch, dtype)).view(shape)
    return tensors


def test_block_goes_with_its_sender():
    layouts: list[dict[str, Any]] = []
    client = SimpleNamespace(
        init_weight_transfer_engine=lambda info: None,
        start_weight_update=lambda: None,
        update_weights=layouts.append,
        finish_weight_update=lambda: None,
    )
    sender = ShmSender(client, Source(), rank=0)  # type: ignore[arg-type]
    sender.send_weights()
    sender.shutdown()
    assert not Path(layouts[0]["path"]).exists()


def test_largest_tensor_sets_the_buffer():
    assert largest_tensor_bytes(Source()) == 12 * 4


def test_engines_start_before_they_are_sent_to_and_only_by_rank_0():
    events: list[str] = []
    client = RolloutClient([FakeEngine(events, "engine 0"), FakeEngine(events, "engine 1")])  # type: ignore[list-item]
    for rank in (1, 0):
        ShmSender(client, Source(), rank).send_weights()
    assert events == [
        f"engine {i} {method}"
        for method in (
            "init_weight_transfer_engine",
            "start_weight_update",
            "update_weights",
            "finish_weight_update",
        )
        for i in (0, 1)
    ]
