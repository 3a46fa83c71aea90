"""Engines and policy are in the memory of shared GPUs together only to hand over weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.exceptions import GetTimeoutError

from archer.errors import WeightSyncError
from archer.runtime.turns import Turns


def make_turns(events: list[str], *, colocated: bool) -> Turns:
    def record(name: str) -> Any:
        return SimpleNamespace(remote=lambda tags=(): events.append(" ".join([name, *tags])))

    engine = SimpleNamespace(sleep=record("sleep"), wake=record("wake"))
    policy = SimpleNamespace(call=events.append)
    pool = SimpleNamespace(actors=[engine])
    return Turns(policy, pool, colocated=colocated, timeout_s=2.0)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "get", lambda values, timeout=None: values)


def test_one_step_hands_the_memory_over_and_back():
    events: list[str] = []
    turns = make_turns(events, colocated=True)
    turns.training()
    turns.syncing()
    turns.sampling()
    assert events == ["sleep", "wake weights", "offload", "wake kv_cache"]


def test_engines_sleep_while_a_checkpoint_is_written():
    events: list[str] = []
    with make_turns(events, colocated=True).saving():
        events.append("save")
    assert events == ["sleep", "save", "offload", "wake weights kv_cache"]


def test_nobody_moves_where_each_has_its_own_gpus():
    events: list[str] = []
    turns = make_turns(events, colocated=False)
    turns.training()
    turns.syncing()
    turns.sampling()
    with turns.saving():
        pass
    assert events == []


def test_engine_that_does_not_fall_asleep_is_named_and_not_a_raw_timeout(
    monkeypatch: pytest.MonkeyPatch,
):
    def get(values: Any, timeout: float | None = None) -> Any:
        raise GetTimeoutError

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(WeightSyncError, match=r"no answer to sleep\(\) in 2 s"):
        make_turns([], colocated=True).training()
