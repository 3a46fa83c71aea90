"""PolicyWorker and ReferenceWorker: one ZeRO rank each."""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.actor import ActorHandle

from archer import batch as batching
from archer.algos import TokenInputs, resolve_objective
from archer.checkpoint import file_sizes
from archer.config import TrainConfig
from archer.types import Batch, UpdateResult
from archer.weight_sync import Sender, open_sender
from archer.workers import fingerprint, zero
from archer.workers.model import PolicyModel, model_inputs


class ModelWorker:
    """What policy and reference share: a sharded model and log-probs of a batch.

    Args:
        config: the whole configuration.
        model_path: Hugging Face folder.
        rank, world_size, address, port: the ZeRO group.
    """

    trains = False

    def __init__(
        self,
        config: TrainConfig,
        model_path: str,
        rank: int,
        world_size: int,
        address: str,
        port: int,
    ):
        self.config, self.rank, self.world_size = config, rank, world_size
        self.model_path = model_path
        self.device = torch.device("cuda" if config.cluster.device == "cuda" else "cpu")
        zero.init_process_group(config.cluster, rank, world_size, address, port)
        torch.manual_seed(config.seed)
        self.causal_lm = _load_causal_lm(config, model_path)
        self.module = PolicyModel(self.causal_lm)
        self.engine = zero.build_engine(
            self.module, config.cluster, config.optimizer if self.trains else None
        )
        self.is_offloaded = False

    def ready(self) -> dict[str, Any]:
        """What the log shows as proof of what runs."""
        import deepspeed

        return {
            "pid": os.getpid(),
            "engine": f"deepspeed {deepspeed.__version__} ZeRO-{self.config.cluster.zero_stage}",
            "device": str(self.device),
            "world_size": self.world_size,
        }

    def compute_logprobs(self, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """This rank's share of the batch, without gradients.

        Returns:
            rows int64 [n], and their log-probs and entropy, flat float32, rows end to end.
        """
        self._onload()
        rows, pieces, count = self._share(batch)
        results: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        with torch.no_grad():
            for piece in self._padded(pieces, count):
                micro_batch = batching.empty_row() if piece is None else batch.select(rows[piece])
                logprobs, entropy = self._forward(micro_batch)
                if piece is not None:
                    results.append((rows[piece], logprobs.cpu().numpy(), entropy.cpu().numpy()))
        if not results:
            return np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.float32)
        rows, logprobs, entropy = map(np.concatenate, zip(*results, strict=True))
        return rows, logprobs, entropy

    def _share(self, batch: Batch) -> tuple[np.ndarray, list[np.ndarray], int]:
        """This rank's rows, their micro-batches as positions in them, and all ranks' common count.

        Every rank sees the whole batch, so all know everyone's number of micro-batches without
        talking. ZeRO-2 and 3 communicate in each of them: ranks with fewer run empty ones.
        """
        trainer, cluster = self.config.trainer, self.config.cluster
        lengths = batch.total_lengths
        shares = batching.deal(lengths, self.world_size)
        cuts = [
            batching.micro_batches(lengths[share], trainer.micro_batch_tokens, cluster.packing)
            for share in shares
        ]
        return shares[self.rank], cuts[self.rank], max(map(len, cuts))

    @staticmethod
    def _padded(pieces: list[np.ndarray], count: int) -> Iterator[np.ndarray | None]:
        yield from pieces
        yield from [None] * (count - len(pieces))

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        inputs = model_inputs(batch, self.config.cluster.packing, self.device)
        return self.engine(**inputs, temperature=self.config.sampling.temperature)

    def offload(self) -> None:
        """Leave the GPU to the engines; the next call that needs the model brings it back."""
        if self.device.type == "cuda" and not self.is_offloaded:
            zero.offload(self.engine)
            torch.cuda.empty_cache()
            self.is_offloaded = True

    def _onload(self) -> None:
        if self.is_offloaded:
            zero.onload(self.engine)
            self.is_offloaded = False


class ReferenceWorker(ModelWorker):
    """The frozen policy the KL term pulls towards."""

    def compute_logprobs(self, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        result = super().compute_logprobs(batch)
        cluster = self.config.cluster
        if cluster.offload_reference or cluster.layout == "colocated":
            self.offload()
        return result

    def offload(self) -> None:
        # Without an optimizer DeepSpeed has no states to move: move the module itself.
        if (
            self.device.type == "cuda"
            and not self.is_offloaded
            and self.config.cluster.zero_stage < 3
        ):
            self.engine.module.to("cpu")
            torch.cuda.empty_cache()
            self.is_offloaded = True

    def _onload(self) -> None:
        if self.is_offloaded:
            self.engine.module.to(self.device)
            self.is_offloaded = False


class PolicyWorker(ModelWorker):
    """The policy being trained."""

    trains = True

    def __init__(
        self,
        config: TrainConfig,
        model_path: str,
        rank: int,
        world_size: int,
        address: str,
        port: int,
    ):
        super().__init__(config, model_path, rank, world_size, address, port)
        self.objective = resolve_objective(config.algo.name)
        self.loss_config = self.objective.config.model_validate(config.algo.loss)
        self.needs = self.objective.needs(self.loss_config)
        self.optimizer = _adam_inside(self.engine.optimizer)
        self._sender: Sender | None = None

    def update(self, batch: Batch, seeds: list[int], learning_rate: float) -> UpdateResult:
        """All optimizer steps of one rollout batch, one epoch for each seed.

        Every rank gets the whole batch and takes its share of each mini-batch.
        """
        self._onload()
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        sums = MetricSums()
        norms: list[float] = []
        applied: list[bool] = []
        num_empty = 0
        for seed in seeds:
            for rows in batching.mini_batches(batch, self.config.trainer.mini_batch_prompts, seed):
                mini_batch = batch.select(rows)
                if not mini_batch.mask.any():
                    # Momentum and decay would move the weights. All ranks see the same mask.
                    num_empty += 1
                    continue
                self.accumulate_gradients(mini_batch, sums)
                norm, was_applied = self._step()
                norms.append(norm)
                applied.append(was_applied)
                sums.add({"policy/loss": (0.0, 1.0 if self.rank == 0 else 0.0)})
        finite = [n for n in norms if np.isfinite(n)]
        return UpdateResult(
            sums=sums.sums(),
            maxima=sums.maxima() | {"memory/policy_peak_gib": self._peak_memory_gib()},
            grad_norm=float(np.mean(finite)) if finite else float("nan"),
            num_steps=len(norms),
            num_skipped=applied.count(False),
            num_empty=num_empty,
            ended_skipping=len(
                list(itertools.takewhile(lambda was_applied: not was_applied, reversed(applied)))
            ),
        )

    def _step(self) -> tuple[float, bool]:
        """One optimizer step: gradient norm before clipping, and whether it was applied."""
        before = self.optimizer.num_applied
        # DeepSpeed reports no norm at stage 0; gradients are whole and reduced there.
        norm = _total_grad_norm(self.module) if self.config.cluster.zero_stage == 0 else None
        self.engine.step()
        norm = self.engine.get_global_grad_norm() if norm is None else norm
        return float(norm), self.optimizer.num_applied > before

    def accumulate_gradients(self, mini_batch: Batch, sums: MetricSums) -> None:
        """Forward and backward of this rank's share; loss weights span the whole mini-batch."""
        weights = batching.loss_weights(
            mini_batch, self.config.algo.aggregation, self.config.sampling.max_response_tokens
        )
        mini_batch = mini_batch.with_columns(loss_weights=weights)
        rows, pieces, count = self._share(mini_batch)
        for i, piece in enumerate(self._padded(pieces, count)):
            self.engine.set_gradient_accumulation_boundary(i == count - 1)
            if piece is None:
                logprobs, _ = self._forward(batching.empty_row())
                loss = 0.0 * logprobs.sum()
            else:
                micro_batch = mini_batch.select(rows[piece])
                logprobs, entropy = self._forward(micro_batch)
                tokens = self._token_inputs(micro_batch, logprobs, entropy)
                output = self.objective.loss(tokens, self.loss_config)
                loss = output.loss
                sums.add(output.metrics | {"policy/loss": (loss.detach(), 0.0)})
                sums.add_common(tokens, entropy.detach())
            # DeepSpeed averages over ranks; the weights already span all of them, so undo the mean
            # here.
            self.engine.backward(loss * self.world_size, scale_wrt_gas=False)

    def _token_inputs(
        self, batch: Batch, logprobs: torch.Tensor, entropy: torch.Tensor
    ) -> TokenInputs:
        def tensor(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(values).to(self.device)

        assert batch.loss_weights is not None, "accumulate_gradients() fills them in"
        current = logprobs.detach()
        return TokenInputs(
            logprobs=logprobs,
            # Not computed beforehand when the update is exactly on-policy: then it is the current
            # one.
            old_logprobs=current if batch.old_logprobs is None else tensor(batch.old_logprobs),
            rollout_logprobs=tensor(batch.rollout_logprobs),
            advantages=tensor(batch.advantages),
            loss_weights=tensor(batch.loss_weights),
            mask=tensor(batch.mask),
            offsets=tensor(batch.offsets),
            entropy=tensor(batch.old_entropy)
            if "old_entropy" in self.needs and batch.old_entropy is not None
            else entropy.detach(),
            ref_logprobs=None if batch.ref_logprobs is None else tensor(batch.ref_logprobs),
        )

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
            logprobs, _ = self.engine(**inputs, temperature=1.0)
        return logprobs.cpu().numpy()

    def save(self, folder: str) -> dict[str, int]:
        """Write this rank's part of an exact-resume checkpoint.

        Returns:
            What this rank then sees of all parts: sizes in bytes by relative path.
        """
        self._onload()
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)  # on a disk that is not the driver's
        torch.save(torch.get_rng_state(), path / f"rng_{self.rank}.pt")
        # Last, as it ends with a barrier: all files are whole then.
        self.engine.save_checkpoint(folder, tag="zero", save_latest=False)
        return file_sizes(path)

    def load(self, folder: str) -> None:
        self._onload()
        self.engine.load_checkpoint(folder, tag="zero")
        torch.set_rng_state(torch.load(Path(folder) / f"rng_{self.rank}.pt", weights_only=True))

    def export(self, folder: str) -> None:
        """Hugging Face folder of the weights; rank 0 writes, all ranks gather."""
        self._onload()
        weights = {}
        for name, tensor in self._full_parameters():
            if self.rank == 0:
                weights[name] = tensor.cpu().clone()
        if self.rank == 0:
            self.causal_lm.save_pretrained(folder, state_dict=weights)

    def _full_parameters(self) -> zero.FullParameters:
        return zero.FullParameters(self.module, self.config.cluster.zero_stage)

    def _peak_memory_gib(self) -> float:
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated() / 2**30
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


class MetricSums:
    """Adds (numerator, denominator) pairs on the device: one transfer at the end."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Any]] = {}
        self._maxima: dict[str, torch.Tensor] = {}

    def add(self, metrics: Mapping[str, tuple[Any, Any]]) -> None:
        for name, (numerator, denominator) in metrics.items():
            total = self._sums.setdefault(name, [0.0, 0.0])
            total[0] += numerator
            total[1] += denominator

    def add_common(self, tokens: TokenInputs, entropy: torch.Tensor) -> None:
        """What every objective reports: entropy, and the mismatch with the rollout engine."""
        count = tokens.mask.sum()
        mismatch = torch.where(
            tokens.mask, (tokens.old_logprobs - tokens.rollout_logprobs).abs(), 0.0
        )
        ratio = torch.where(
            tokens.mask, (tokens.logprobs.detach() - tokens.old_logprobs).exp(), 1.0
        )
        self.add(
            {
                "policy/entropy": (torch.where(tokens.mask, entropy, 0.0).sum(), count),
                "rollout/mismatch_logprob_mean": (mismatch.sum(), count),
            }
        )
        self._maximum("rollout/mismatch_logprob_max", mismatch)
        self._maximum("policy/ratio_max", ratio)

    def _maximum(self, name: str, values: torch.Tensor) -> None:
        if values.numel():
            largest = values.max()
            self._maxima[name] = torch.maximum(self._maxima.get(name, largest), largest)

    def sums(self) -> dict[str, tuple[float, float]]:
        return {name: (float(total[0]), float(total[1])) for name, total in self._sums.items()}

    def maxima(self) -> dict[str, float]:
        return {name: float(value) for name, value in self._maxima.items()}


def _total_grad_norm(module: torch.nn.Module) -> torch.Tensor:
    return torch.nn.utils.get_total_norm(
        [p.grad for p in module.parameters() if p.grad is not None]
    )


def _adam_inside(optimizer: Any) -> zero.FiniteAdamW:
    """DeepSpeed wraps the optimizer, by stage and precision once or twice."""
    while not isinstance(optimizer, zero.FiniteAdamW):
        optimizer = optimizer.optimizer
    return optimizer


def _load_causal_lm(config: TrainConfig, model_path: str) -> Any:
    from transformers import AutoModelForCausalLM

    causal_lm = AutoModelForCausalLM.from_pretrained(
        model_path,
        dtype=getattr(torch, config.cluster.dtype),
        attn_implementation=config.model.attention,
        trust_remote_code=config.model.trust_remote_code,
    )
    if config.model.gradient_checkpointing:
        causal_lm.gradient_checkpointing_enable()
    return causal_lm.train()
