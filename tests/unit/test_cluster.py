"""What a worker's environment follows from."""

from __future__ import annotations

import pytest

from archer.config.keys import ClusterConfig
from archer.runtime.cluster import Placement


@pytest.mark.parametrize(("cpus", "threads"), [(0.1, "1"), (1.0, "1"), (3.5, "3"), (8, "8")])
def test_a_cpu_worker_computes_on_the_cpus_it_reserves(cpus: float, threads: str):
    placement = Placement(ClusterConfig(cpus_per_worker=cpus))
    for options in (placement.rank("policy", 0), placement.engine(0)):
        assert options["runtime_env"]["env_vars"]["OMP_NUM_THREADS"] == threads
