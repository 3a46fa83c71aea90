"""What test_lora.py runs inside policy actors. Workers import it too: no pytest here."""

from __future__ import annotations

from typing import Any

import numpy as np
from probes import Bench, ProbePolicy, run_config, run_inputs

from archer.config.keys import LoraConfig, TrainConfig
from archer.runtime import cluster as ray_cluster
from archer.workers import lora, zero
from archer.workers.group import WorkerGroup

LORA = LoraConfig(rank=4, alpha=6.0)


def start_bench(num_ranks: int) -> WorkerGroup:
    """Policy ranks with adapters, of several models and ZeRO stages in turn: see ``Bench``."""
    config = run_config(policy_workers=num_ranks)
    placement = ray_cluster.Placement(config.cluster)
    return ray_cluster.start_zero_group(
        "lora_probes.LoraBench", "policy", config, run_inputs(""), placement
    )


class ProbeLora(ProbePolicy):
    """A policy rank whose adapters can be read."""

    def adapters(self) -> dict[str, np.ndarray]:
        weights = lora.adapter_weights(self.module)
        whole = zero.FullParameters(weights, self.config.cluster.zero_stage)
        return {name: np.array(tensor) for name, tensor in whole}

    def full_weights(self) -> dict[str, np.ndarray]:
        return {name: np.array(tensor) for name, tensor in self._full_parameters()}


class LoraBench(Bench):
    """``Bench`` of policies that learn adapters."""

    @staticmethod
    def build(config: TrainConfig, *args: Any) -> Any:
        model = config.model.model_copy(update={"lora": LORA})
        return ProbeLora(config.model_copy(update={"model": model}), *args)
