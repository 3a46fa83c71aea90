"""CriticWorker: one ZeRO rank of the value model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from archer import batch as batching
from archer.algos.gae import has_return
from archer.algos.value_loss import value_loss
from archer.config.keys import TrainConfig
from archer.seeds import derive_seed
from archer.types import Batch, RankColumns, UpdateResult
from archer.workers.model import ValueHeads, ValueModel, model_inputs
from archer.workers.model_worker import MetricSums, TrainedWorker, load_causal_lm

FOLDER = "critic"
"""Its part of a checkpoint."""


class CriticWorker(TrainedWorker):
    """Value heads on a trunk of their own; the mean of the heads is the value."""

    role = "critic"

    def __init__(self, config: TrainConfig, *args: Any):
        assert config.algo.critic is not None, "checked with the config"
        self.critic = config.algo.critic
        self.optimizer_config = config.optimizer
        super().__init__(config, *args)

    def build_module(self) -> torch.nn.Module:
        causal_lm = load_causal_lm(self.config, self.model_path)
        seeds = [
            derive_seed(self.config.seed, "value head", j) for j in range(self.critic.num_heads)
        ]
        shape = causal_lm.config
        heads = ValueHeads(shape.hidden_size, seeds, init_std=shape.initializer_range)
        return ValueModel(causal_lm.model, heads)

    def compute_values(self, batch: Batch) -> RankColumns:
        """Mean and deviation over the heads for this rank's share, without gradients."""
        self._onload()

        def columns(micro_batch: Batch) -> dict[str, torch.Tensor]:
            values = self._values(micro_batch)
            return {"values": values.mean(1), "value_std": values.std(1, correction=0)}

        found = self._map(batch, columns)
        self._leave()
        return found

    def update(self, batch: Batch, seeds: list[int], learning_rate: float) -> UpdateResult:
        result = super().update(batch.with_columns(mask=has_return(batch)), seeds, learning_rate)
        self._leave()
        return result

    def prepare(self, mini_batch: Batch, seed: int) -> Batch:
        """Each head learns from its own responses, with loss weights over them alone.

        Corrections are left out: they weigh the policy's tokens, not the critic's targets.
        """
        rng = np.random.default_rng(seed)
        plain = mini_batch.with_columns(corrections=None)
        in_loss = np.unique(mini_batch.rows[mini_batch.mask])
        count = max(1, round(self.critic.head_share * len(in_loss)))
        prepared = {}
        for j in range(self.critic.num_heads):
            chosen = np.isin(mini_batch.rows, rng.choice(in_loss, count, replace=False))
            share = plain.with_columns(mask=mini_batch.mask & chosen)
            weights = super().prepare(share, seed).loss_weights
            assert weights is not None
            prepared[f"head_{j}"] = weights / np.float32(self.critic.num_heads)
        return mini_batch.with_columns(prepared=prepared)

    def micro_batch_loss(self, micro_batch: Batch, sums: MetricSums) -> torch.Tensor:
        def given(values: np.ndarray | None) -> torch.Tensor:
            assert values is not None, "the driver fills them in"
            return torch.from_numpy(values).to(self.device)

        weights = torch.stack([given(w) for w in micro_batch.prepared.values()], 1)  # [R, K]
        is_learned = weights > 0
        loss, is_clipped = value_loss(
            self._values(micro_batch),
            given(micro_batch.values),
            given(micro_batch.returns),
            self.critic.clip,
        )
        sums.add({"critic/clip_frac": ((is_clipped & is_learned).sum(), is_learned.sum())})
        return torch.where(is_learned, loss * weights, 0).sum()

    def idle_loss(self) -> torch.Tensor:
        return 0.0 * self._values(batching.empty_row()).sum()

    def save(self, folder: str) -> dict[str, int]:
        sizes = super().save(str(Path(folder) / FOLDER))
        self._leave()
        return {f"{FOLDER}/{name}": size for name, size in sizes.items()}

    def load(self, folder: str) -> None:
        super().load(str(Path(folder) / FOLDER))
        self._leave()

    def _values(self, batch: Batch) -> torch.Tensor:
        """float32 [R, K]"""
        inputs = model_inputs(batch, self.config.cluster.packing, self.device)
        del inputs["targets"]
        return self.engine(**inputs)

    def _leave(self) -> None:
        """Where engines and policy have the same GPU, the critic is on it only while it works."""
        if self.config.cluster.layout == "colocated":
            self.offload()
