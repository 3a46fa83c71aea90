"""The actors of a training run: started together, replaced together, ended together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from archer.batch import assemble
from archer.config.keys import TrainConfig
from archer.preflight import Inputs
from archer.runtime import cluster as ray_cluster
from archer.runtime.machine import zero_roles
from archer.runtime.turns import Turns
from archer.types import Batch, UpdateResult
from archer.weight_sync import WeightSync
from archer.workers.group import WorkerGroup

ECHO_TOKENS = 24
COMPUTED = {
    "policy": (
        "compute_logprobs",
        {
            "old_logprobs": "logprobs",
            "old_entropy": "entropy",
            "old_logsumexp": "logsumexp",
            "old_proxy_logprobs": "proxy_logprobs",
        },
    ),
    "reference": ("compute_logprobs", {"ref_logprobs": "logprobs"}),
    "critic": ("compute_values", {"values": "values", "value_std": "value_std"}),
}
"""What each group says of a batch before the update: by which method, and as which columns."""
LORA_REFERENCE = ("compute_reference_logprobs", {"ref_logprobs": "logprobs"})
"""Asked of the policy where it learns adapters: their frozen base is the reference."""
ON_REQUEST = frozenset({"old_proxy_logprobs"})
"""Columns that exist only if the algorithm needs them."""


class Actors:
    """Rollout engines, reward pool, policy ranks and, if needed, reference and critic ranks.

    The reference of a policy that learns adapters is the policy without them.

    Args:
        needs: of the algorithm: the columns that ``add_columns`` adds.
    """

    def __init__(self, config: TrainConfig, inputs: Inputs, needs: frozenset[str]):
        self.config, self.inputs, self.needs = config, inputs, needs
        self.placement = ray_cluster.Placement(config.cluster)
        self.rewards = ray_cluster.start_rewards(config)
        if config.cluster.layout == "colocated":
            # An engine measures the free memory when it starts: all others must have left by then.
            self._start_zero_groups()
            self._wait({g.name: g.start("ready") for g in self._groups})
            for group in self._groups:
                group.call("offload")  # each comes back by itself
            self.rollouts = ray_cluster.start_rollouts(config, inputs, self.placement)
            self._wait({"rollout": [a.ready.remote() for a in self.rollouts.actors]})
        else:
            self.rollouts = ray_cluster.start_rollouts(config, inputs, self.placement)
            self._start_zero_groups()
        self._connect()
        self.turns.training()

    @property
    def shares_gpus(self) -> bool:
        """Whether policy, reference and critic rank have one GPU, so that only one should
        compute."""
        return self.config.cluster.device == "cuda"

    @property
    def _groups(self) -> list[WorkerGroup]:
        groups = (self.policy, self.reference, self.critic)
        return [group for group in groups if group is not None]

    def _start_zero_groups(self) -> None:
        def start(worker: str, name: str) -> WorkerGroup:
            path = f"archer.workers.{name}.{worker}"
            return ray_cluster.start_zero_group(
                path, name, self.config, self.inputs, self.placement
            )

        self.policy = start("PolicyWorker", "policy")
        roles = zero_roles(self.config)
        self.reference = start("ReferenceWorker", "reference") if "reference" in roles else None
        self.critic = start("CriticWorker", "critic") if "critic" in roles else None

    def _connect(self) -> None:
        cluster = self.config.cluster
        is_colocated = cluster.layout == "colocated"
        self.turns = Turns(
            self.policy, self.rollouts, colocated=is_colocated, timeout_s=cluster.sync_timeout_s
        )
        # The engine samples one token after them, and both must fit its window.
        num_echo_tokens = min(ECHO_TOKENS, self.config.max_sequence_tokens - 1)
        self.weight_sync = WeightSync(
            self.policy,
            self.rollouts,
            backend=ray_cluster.transfer_backend(cluster),
            echo_tokens=np.resize(self.inputs.train.prompts[0].tokens, num_echo_tokens),
            dtype=cluster.dtype,
            timeout_s=cluster.sync_timeout_s,
            turns=self.turns,
        )

    def wait_until_ready(self) -> dict[str, dict[str, Any]]:
        """What each worker says of itself, by name, once all run.

        Raises:
            ConfigError: they do not all start in time.
        """
        return self._wait(
            {
                "rollout": [a.ready.remote() for a in self.rollouts.actors],
                "reward": [a.ready.remote() for a in self.rewards.actors],
            }
            | {group.name: group.start("ready") for group in self._groups}
        )

    def _wait(self, calls: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
        names = [f"{name} {i}" for name, refs in calls.items() for i in range(len(refs))]
        refs = [ref for refs in calls.values() for ref in refs]
        facts = ray_cluster.wait_until_ready(refs, self.config.cluster.start_timeout_s, names)
        return dict(zip(names, facts, strict=True))

    def add_columns(self, batch: Batch, with_old: bool) -> Batch:
        """The forward passes before an update: old policy, reference and critic, where needed.

        Args:
            with_old: False where the policy of the update *is* the old one.
        """
        shared = ray.put(batch)
        groups = [g for g in self._groups if with_old or g is not self.policy]
        asked = [(group, *COMPUTED[group.name]) for group in groups]
        if "ref_logprobs" in self.needs and self.reference is None:
            asked.append((self.policy, *LORA_REFERENCE))
        answers = self._call_all([(group, method, shared) for group, method, _ in asked])
        for (_, _, wanted), parts in zip(asked, answers, strict=True):
            columns = {
                column: assemble(batch, parts, name)
                for column, name in wanted.items()
                if column not in ON_REQUEST - self.needs
            }
            batch = batch.with_columns(**columns)
        return batch

    def update(
        self, batch: Batch, seeds: dict[str, list[int]], learning_rates: dict[str, float]
    ) -> dict[str, list[UpdateResult]]:
        """All optimizer steps of one rollout batch: what each rank reports, by role.

        Args:
            seeds: by role, one an epoch.
            learning_rates: by role.
        """
        shared = ray.put(batch)
        groups = self._trained
        answers = self._call_all(
            [(g, "update", shared, seeds[g.name], learning_rates[g.name]) for g in groups]
        )
        return {group.name: answer for group, answer in zip(groups, answers, strict=True)}

    def save(self, folder: Path) -> list[dict[str, int]]:
        """Write all that a checkpoint needs of the workers; what each of them sees of it."""
        answers = [group.call("save", str(folder)) for group in self._trained]
        self.policy.call("export", str(folder / "hf"))
        return [sizes for answer in answers for sizes in answer]

    def load(self, checkpoint: Path) -> None:
        for group in self._trained:
            group.call("load", str(checkpoint))

    @property
    def _trained(self) -> list[WorkerGroup]:
        return [group for group in self._groups if group is not self.reference]

    def _call_all(self, calls: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
        """Answers to calls of (group, method, arguments...); at once, unless they share GPUs."""
        if self.shares_gpus:
            return [group.call(method, *args) for group, method, *args in calls]
        started = [group.start(method, *args) for group, method, *args in calls]
        return [
            group.finish(refs, method)
            for (group, method, *_), refs in zip(calls, started, strict=True)
        ]

    def replace_policy(self) -> None:
        """New ranks in place of dead ones, and of their peers; they hold the start model."""
        for group in self._groups:
            group.kill()
        self._start_zero_groups()
        self._connect()
        self._wait({group.name: group.start("ready") for group in self._groups})
        if self.config.cluster.layout == "colocated":
            for group in self._groups[1:]:
                group.call("offload")
