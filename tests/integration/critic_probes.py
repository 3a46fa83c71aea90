"""What test_critic.py runs inside critic actors. Workers import it too: no pytest here."""

from __future__ import annotations

from typing import Any

import numpy as np
from probes import Bench, ProbePolicy, run_config, run_inputs

from archer.config.keys import CriticConfig, TrainConfig
from archer.runtime import cluster as ray_cluster
from archer.types import Batch
from archer.workers.critic import CriticWorker
from archer.workers.group import WorkerGroup


def critic_config(**cluster: object) -> TrainConfig:
    """Four heads, each of which learns from half of the responses."""
    config = run_config(**cluster)
    critic = CriticConfig(num_heads=4, head_share=0.5, clip=None)
    algo = config.algo.model_copy(update={"name": "ppo", "advantage": "gae", "critic": critic})
    return config.model_copy(update={"algo": algo})


def start_critics(num_ranks: int) -> WorkerGroup:
    """Critic ranks that can be of several models and ZeRO stages in turn: see ``Bench``."""
    config = critic_config(policy_workers=num_ranks)
    placement = ray_cluster.Placement(config.cluster)
    return ray_cluster.start_zero_group(
        "critic_probes.CriticBench", "critic", config, run_inputs(""), placement
    )


class ProbeCritic(CriticWorker):
    """A critic rank whose gradients, weights and moments can be read."""

    gradients = ProbePolicy.gradients
    state = ProbePolicy.state
    _set_learning_rate = ProbePolicy._set_learning_rate
    _full_parameters = ProbePolicy._full_parameters

    def head_weights(self, mini_batch: Batch, seed: int) -> np.ndarray:
        """Loss weight of every token for every head, [R, heads]."""
        return np.stack(list(self.prepare(mini_batch, seed).prepared.values()), axis=1)

    def head_rows(self) -> np.ndarray:
        return self.module.heads.weight.detach().numpy()


class CriticBench(Bench):
    """``Bench`` of critics."""

    @staticmethod
    def build(*args: Any) -> Any:
        return ProbeCritic(*args)
