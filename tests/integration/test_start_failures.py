"""A worker that does not start ends the run with a message: who, why, and where the rest is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from glob import glob
from pathlib import Path

import pytest
import ray
from probes import run_config, run_inputs

from archer.errors import ConfigError
from archer.runtime import cluster
from archer.workers.group import WorkerDied


class FailsInConstructor:
    def __init__(self) -> None:
        raise ValueError("no such GPU")

    def ready(self) -> None: ...


class FailsInReady:
    def ready(self) -> None:
        raise OSError("no memory")


class Dies:
    def ready(self) -> None:
        os._exit(1)


class Waits:
    def ready(self) -> None:
        """As a rank waits for one that failed."""
        time.sleep(60)


def test_the_message_names_the_worker_and_its_reason(local_ray):
    reasons = {
        FailsInConstructor: "ValueError: no such GPU",
        FailsInReady: "OSError: no memory",
        Dies: "its worker process has died",
    }
    peer, *broken = [ray.remote(c).options(num_cpus=0).remote() for c in (Waits, *reasons)]
    waits = peer.ready.remote()
    for actor, reason in zip(broken, reasons.values(), strict=True):
        with pytest.raises(WorkerDied) as death:
            cluster.wait_until_ready([waits, actor.ready.remote()], 50, ["policy 0", "policy 1"])
        first, second = str(death.value).splitlines()
        assert first.startswith("policy 1 did not start. ") and reason in first
        assert second.startswith("Its log, on its node: ")
    with pytest.raises(ConfigError, match=r"start_timeout_s=0.1: expected policy 0 ready"):
        cluster.wait_until_ready([waits], 0.1, ["policy 0"])
    ray.kill(peer)


def test_an_engine_without_memory_says_so_in_vllms_words(
    local_ray, tiny_model: Callable[..., Path]
):
    config = run_config(kv_cache_bytes=1)
    pool = cluster.start_rollouts(
        config, run_inputs(str(tiny_model())), cluster.Placement(config.cluster)
    )
    with pytest.raises(WorkerDied, match=r"^rollout 0 did not start. ") as death:
        cluster.wait_until_ready([pool.actors[0].ready.remote()], 120, ["rollout 0"])
    _, log, cause = str(death.value).splitlines()
    assert cause.startswith("ValueError: No available memory for the cache blocks")
    (path,) = glob(log.removeprefix("Its log, on its node: "))
    assert cause in Path(path).read_text()
    ray.kill(pool.actors[0])
