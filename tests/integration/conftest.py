"""One local Ray for the session, and tiny start models that nothing has trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from archer.weight_sync import WeightSync
    from archer.workers.group import WorkerGroup
    from archer.workers.pool import StreamingPool

# Ray reads both when it is imported: a local cluster of a test needs no token and reports nothing.
os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Ray on this machine. More logical CPUs than cores: most actors of a test wait for others."""
    import ray

    ray.init(
        num_cpus=16,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        # So that workers can import the probes beside these tests.
        runtime_env={"env_vars": {"PYTHONPATH": str(HERE)}},
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def policy_bench(local_ray: None) -> Iterator[WorkerGroup]:
    """Two policy ranks; ``probes.Bench`` says how tests choose model and ZeRO stage."""
    from probes import start_bench

    group = start_bench(2)
    yield group
    group.kill()


@pytest.fixture(scope="session")
def engines(
    local_ray: None, tiny_model: Callable[..., Path]
) -> Iterator[Callable[..., StreamingPool]]:
    """``engines(tie_embeddings=True)``: two vLLM engines of that model, started once each."""
    import ray
    from probes import run_config, run_inputs

    from archer.runtime import cluster

    pools: dict[bool, StreamingPool] = {}

    def start(tie_embeddings: bool) -> StreamingPool:
        if tie_embeddings not in pools:
            config = run_config(rollout_replicas=2)
            inputs = run_inputs(str(tiny_model(tie_embeddings)))
            pools[tie_embeddings] = cluster.start_rollouts(
                config, inputs, cluster.Placement(config.cluster)
            )
        pool = pools[tie_embeddings]
        ray.get([actor.ready.remote() for actor in pool.actors], timeout=300)
        return pool

    yield start
    for pool in pools.values():
        for actor in pool.actors:
            ray.kill(actor)


@pytest.fixture(scope="session")
def synced(policy_bench: WorkerGroup) -> Callable[..., WeightSync]:
    """``synced(pool, timeout_s=60)``: the weight sync from the policy bench to a pool.

    Another ``policy`` may take the place of the bench.
    """
    from archer.runtime.turns import Turns
    from archer.weight_sync import WeightSync

    def connect(
        pool: StreamingPool, timeout_s: float = 60, policy: WorkerGroup = policy_bench
    ) -> WeightSync:
        return WeightSync(
            policy,
            pool,
            backend="shm",
            echo_tokens=np.random.default_rng(0).integers(4, 100, 80, dtype=np.int32),
            dtype="float32",
            timeout_s=timeout_s,
            turns=Turns(policy, pool, colocated=False, timeout_s=timeout_s),
        )

    return connect


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``tiny_model(tie_embeddings=True, hidden_size=64)``: an untrained model, made once each.

    The tokenizer is that of the arithmetic task, so a whole run can start from the folder too.
    """
    folders: dict[tuple[bool, int], Path] = {}

    def make(tie_embeddings: bool = True, hidden_size: int = 64) -> Path:
        key = (tie_embeddings, hidden_size)
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("model")
            _write_model(folders[key], *key)
        return folders[key]

    return make


def _write_model(folder: Path, tie_embeddings: bool, hidden_size: int) -> None:
    from archer.config.keys import WarmStartConfig
    from archer.tasks import TASKS
    from archer.warm_start import make_model, make_tokenizer

    tokenizer = make_tokenizer(TASKS["arithmetic"].alphabet)
    config = WarmStartConfig(hidden_size=hidden_size, tie_embeddings=tie_embeddings)
    make_model(config, len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
