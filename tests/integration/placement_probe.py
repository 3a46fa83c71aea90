"""Run by test_placement.py: a Ray with pretended GPUs, actors placed as in a run."""

import json
import os
import sys
from functools import partial

import ray

from archer.config.keys import ClusterConfig
from archer.runtime.cluster import Placement

SHOWN = ("CUDA_VISIBLE_DEVICES", "VLLM_ALLOW_INSECURE_SERIALIZATION")


class Probe:
    def environment(self) -> list[str]:
        return [os.environ.get(key, "") for key in SHOWN]


def main() -> None:
    cluster = ClusterConfig.model_validate(json.loads(sys.argv[1]))
    ray.init(
        num_cpus=16,
        num_gpus=cluster.gpus_per_node,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
    )
    placement = Placement(cluster)

    def place(options_of, count):
        return [ray.remote(Probe).options(**options_of(i)).remote() for i in range(count)]

    roles = {
        role: place(partial(placement.rank, role), cluster.policy_workers)
        for role in ("policy", "reference", "critic")
    }
    roles["rollout"] = place(placement.engine, cluster.rollout_replicas)
    placed = {
        role: ray.get([a.environment.remote() for a in actors], timeout=120)
        for role, actors in roles.items()
    }
    print(json.dumps(placed))


main()
