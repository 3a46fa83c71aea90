"""PolicyWorker: one ZeRO rank of the policy being trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.actor import ActorHandle

from archer import batch as batching
from archer.algos import resolve_algorithm
from archer.algos.corrections import without
from archer.algos.logprobs import HeadOutput
from archer.algos.masks import mean_over
from archer.config.keys import TrainConfig
from archer.types import Batch, RankColumns
from archer.weight_sync import Sender, open_sender
from archer.workers import fingerprint, lora, zero
from archer.workers.model import model_inputs
from archer.workers.model_worker import MetricSums, TrainedWorker
from archer.workers.token_inputs import token_inputs

ADAPTER_FOLDER = "adapter"
"""Of a checkpoint: the LoRA adapters in peft's format."""


class PolicyWorker(TrainedWorker):
    """The policy being trained."""

    role = "policy"

    def __init__(self, config: TrainConfig, *args: Any):
        self.optimizer_config = config.optimizer
        super().__init__(config, *args)
        self.algorithm = resolve_algorithm(config.algo)
        self.floor = self.algorithm.objective.noise_floor(self.algorithm.loss_config)
        self._sender: Sender | None = None

    def build_module(self) -> torch.nn.Module:
        module = super().build_module()
        self.peft_model = None
        if self.config.model.lora is not None:
            self.peft_model = lora.add_adapters(self.causal_lm, self.config.model.lora)
        return module

    def ready(self) -> dict[str, Any]:
        facts = super().ready()
        if self.peft_model is not None:
            learned, total = zero.count_parameters(self.module)
            facts["engine"] += f", LoRA: {learned:,} of {total:,} parameters learn"
        return facts

    def compute_reference_logprobs(self, batch: Batch) -> RankColumns:
        """``compute_logprobs`` of the frozen base, which is the reference of a LoRA run."""
        with lora.without_updates(self.peft_model):
            return self.compute_logprobs(batch)

    def prepare(self, mini_batch: Batch, seed: int) -> Batch:
        if "fresh_logprobs" in self.algorithm.needs:
            mini_batch = mini_batch.with_columns(fresh_logprobs=self._fresh_logprobs(mini_batch))
        return super().prepare(
            batching.prepare(
                mini_batch,
                self.algorithm.objective,
                self.algorithm.loss_config,
                self.config.algo.aggregation,
                self.config.sampling.max_response_tokens,
                seed,
            ),
            seed,
        )

    def _fresh_logprobs(self, mini_batch: Batch) -> np.ndarray:
        """Log-probs of the whole mini-batch under the weights as they are, on every rank."""
        own = self.compute_logprobs(mini_batch)
        return batching.assemble(mini_batch, zero.gather_objects(own), "logprobs")

    def micro_batch_loss(self, micro_batch: Batch, sums: MetricSums) -> torch.Tensor:
        head = self._forward(micro_batch, self.floor)
        tokens = token_inputs(micro_batch, head, self.device)
        keep = self.algorithm.correction.keep
        if keep is not None:
            kept = keep(tokens, self.algorithm.correction_config)
            sums.add({"correction/cut_frac": mean_over(~kept, tokens.mask)})
            tokens = without(tokens, kept)
        output = self.algorithm.objective.loss(tokens, self.algorithm.loss_config)
        sums.add(output.metrics)
        config = self.config
        has_old = config.algo.old_logprobs == "trainer" and (
            micro_batch.old_logprobs is not None or config.trainer.is_on_policy
        )
        sums.add_common(tokens, head.entropy.detach(), has_old)
        return output.loss + _attached(head)

    def idle_loss(self) -> torch.Tensor:
        head = self._forward(batching.empty_row(), self.floor)
        return 0.0 * head.logprobs.sum() + _attached(head)

    def connect(self, backend: str, engines: list[ActorHandle]) -> None:
        """Open the weight-sync transport to these rollout engines."""
        if self._sender is not None:
            self._sender.shutdown()
        self._sender = open_sender(
            backend,
            engines,
            self._full_parameters(),
            self.rank,
            self.config.cluster.tensor_parallel,
        )

    def send_weights(self) -> None:
        assert self._sender is not None, "connect() comes first"
        self._onload()
        self._sender.send_weights()

    def fingerprint(self) -> int:
        """Fingerprint of the weights, to compare with the engines'. Collective under ZeRO-3."""
        self._onload()
        return fingerprint.whole(tensor for _, tensor in self._full_parameters())

    def echo(self, tokens: np.ndarray) -> np.ndarray:
        """Log-probs of ``tokens[1:]`` at temperature 1, as the engines' ``echo``: float32 [n-1]."""
        self._onload()
        row = batching.empty_row().with_columns(
            prompt_tokens=tokens[:1],
            response_tokens=tokens[1:],
            offsets=np.array([0, len(tokens) - 1]),
        )
        with torch.no_grad():
            inputs = model_inputs(row, self.config.cluster.packing, self.device)
            logprobs = self.engine(**inputs, temperature=1.0)[0]
        return logprobs.cpu().numpy()

    def export(self, folder: str) -> None:
        """Hugging Face folder of the weights; rank 0 writes, all ranks gather."""
        self._onload()
        weights = self._copy_on_rank_0(self._full_parameters())
        if self.rank == 0:
            self.causal_lm.save_pretrained(folder, state_dict=weights)

    def save(self, folder: str) -> dict[str, int]:
        """As of any trained worker, and the adapters in peft's own format."""
        if self.peft_model is not None:
            self._onload()
            adapters = lora.adapter_weights(self.module)
            stage = self.config.cluster.zero_stage
            weights = self._copy_on_rank_0(zero.FullParameters(adapters, stage))
            if self.rank == 0:
                lora.save_adapters(self.peft_model, weights, Path(folder) / ADAPTER_FOLDER)
        return super().save(folder)

    def _copy_on_rank_0(self, tensors: zero.FullParameters) -> dict[str, torch.Tensor]:
        weights = {}
        for name, tensor in tensors:  # on every rank: they gather together
            if self.rank == 0:
                weights[name] = tensor.cpu().clone()
        return weights

    def _full_parameters(self) -> zero.FullParameters:
        weights = lora.served_weights(self.module)
        return zero.FullParameters(weights, self.config.cluster.zero_stage)


def _attached(head: HeadOutput) -> torch.Tensor | float:
    """0, with a graph over what a loss may use of the head beside the log-probs.

    In the backward pass ZeRO-3 fetches the weights of a module, collectively, for each of its
    outputs that has a gradient. Whether a rank's loss uses one must not decide how often.
    """
    return 0.0 if head.log_kept_mass is None else 0.0 * head.log_kept_mass.sum()
