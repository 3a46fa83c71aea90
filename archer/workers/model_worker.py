"""ModelWorker and TrainedWorker: one ZeRO rank of any role."""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from archer import batch as batching
from archer.algos import NoiseFloor, TokenInputs
from archer.algos.logprobs import HeadOutput
from archer.checkpoint import file_sizes
from archer.config.keys import OptimizerConfig, TrainConfig
from archer.seeds import derive_seed
from archer.types import Batch, RankColumns, UpdateResult
from archer.workers import zero
from archer.workers.attention import varlen_attention
from archer.workers.model import PolicyModel, model_inputs


class ModelWorker:
    """What all ranks share: a sharded model, and forward passes over a batch.

    Args:
        config: the whole configuration.
        model_path: Hugging Face folder.
        rank, world_size, address, port: the ZeRO group.
    """

    optimizer_config: OptimizerConfig | None = None
    """None for a frozen model."""
    floor: NoiseFloor | None = None
    """Below it tokens are noise to the objective, if that looks at noise."""

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
        self.module = self.build_module()
        self.engine = zero.build_engine(self.module, config.cluster, self.optimizer_config)
        self.is_offloaded = False

    def build_module(self) -> torch.nn.Module:
        """The network before DeepSpeed takes it."""
        self.causal_lm = load_causal_lm(self.config, self.model_path)
        return PolicyModel(self.causal_lm)

    def ready(self) -> dict[str, Any]:
        """What the log shows as proof of what runs."""
        return {
            "pid": os.getpid(),
            "engine": f"deepspeed {version('deepspeed')} ZeRO-{self.config.cluster.zero_stage}",
            "device": str(self.device),
            "world_size": self.world_size,
        }

    def compute_logprobs(self, batch: Batch) -> RankColumns:
        """Log-probs, entropy and logsumexp of this rank's share, without gradients.

        With a noise floor also the log-probs of the proxy that has no noise.
        """
        self._onload()

        def columns(micro_batch: Batch) -> dict[str, torch.Tensor]:
            output = self._forward(micro_batch, self.floor)
            found = {name: getattr(output, name) for name in ("logprobs", "entropy", "logsumexp")}
            proxy = output.proxy_logprobs
            return found if proxy is None else found | {"proxy_logprobs": proxy}

        return self._map(batch, columns)

    def _map(
        self, batch: Batch, columns: Callable[[Batch], dict[str, torch.Tensor]]
    ) -> RankColumns:
        """Run a forward pass over this rank's micro-batches, without gradients."""
        rows, pieces, count = self._share(batch)
        found: list[tuple[np.ndarray, dict[str, torch.Tensor]]] = []
        with torch.no_grad():
            for piece in self._padded(pieces, count):
                micro_batch = batching.empty_row() if piece is None else batch.select(rows[piece])
                values = columns(micro_batch)
                if piece is not None:
                    found.append((rows[piece], values))
        if not found:
            return RankColumns(np.zeros(0, np.int64), {})
        return RankColumns(
            np.concatenate([rows for rows, _ in found]),
            {
                name: np.concatenate([values[name].cpu().numpy() for _, values in found])
                for name in found[0][1]
            },
        )

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

    def _forward(self, batch: Batch, floor: NoiseFloor | None = None) -> HeadOutput:
        inputs = model_inputs(batch, self.config.cluster.packing, self.device)
        temperature = self.config.sampling.temperature
        return HeadOutput(*self.engine(**inputs, temperature=temperature, floor=floor))

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


class TrainedWorker(ModelWorker):
    """A rank whose weights learn. Subclasses say what one micro-batch contributes to the loss."""

    role: str
    """Prefix of its metrics."""
    optimizer: zero.FiniteAdamW

    def __init__(self, *args: Any):
        super().__init__(*args)
        self.optimizer = _adam_inside(self.engine.optimizer)

    def micro_batch_loss(self, micro_batch: Batch, sums: MetricSums) -> torch.Tensor:
        """Weighted sum over the micro-batch, with gradient; metrics go to ``sums``."""
        raise NotImplementedError

    def idle_loss(self) -> torch.Tensor:
        """0 with a graph over all parameters, for ranks with fewer micro-batches."""
        raise NotImplementedError

    def prepare(self, mini_batch: Batch, seed: int) -> Batch:
        """The mini-batch with loss weights and whatever else spans it; the same on all ranks."""
        return mini_batch.with_columns(
            loss_weights=batching.loss_weights(
                mini_batch,
                self.config.algo.aggregation,
                self.config.sampling.max_response_tokens,
            )
        )

    def update(self, batch: Batch, seeds: list[int], learning_rate: float) -> UpdateResult:
        """All optimizer steps of one rollout batch, one epoch for each seed.

        Every rank gets the whole batch and takes its share of each mini-batch.
        """
        self._onload()
        trainer = self.config.trainer
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate
        sums = MetricSums()
        norms: list[float] = []
        applied: list[bool] = []
        num_empty = 0
        for seed in seeds:
            split = seed if trainer.reshuffle else seeds[0]
            pieces = batching.mini_batches(batch, trainer.mini_batch_prompts, split)
            for i, rows in enumerate(pieces):
                mini_batch = batch.select(rows)
                if not mini_batch.mask.any():
                    # Momentum and decay would move the weights. All ranks see the same mask.
                    num_empty += 1
                    continue
                draws = derive_seed(seed, "prepare", self.role, i)
                self.accumulate_gradients(self.prepare(mini_batch, draws), sums)
                norm, was_applied = self._step()
                norms.append(norm)
                applied.append(was_applied)
                sums.add({f"{self.role}/loss": (0.0, 1.0 if self.rank == 0 else 0.0)})
        finite = [n for n in norms if np.isfinite(n)]
        return UpdateResult(
            sums=sums.sums(),
            maxima=sums.maxima() | {f"memory/{self.role}_peak_gib": self._peak_memory_gib()},
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
        """Forward and backward of this rank's share of a prepared mini-batch."""
        rows, pieces, count = self._share(mini_batch)
        for i, piece in enumerate(self._padded(pieces, count)):
            self.engine.set_gradient_accumulation_boundary(i == count - 1)
            if piece is None:
                loss = self.idle_loss()
            else:
                loss = self.micro_batch_loss(mini_batch.select(rows[piece]), sums)
                sums.add({f"{self.role}/loss": (loss.detach(), 0.0)})
            # DeepSpeed averages over ranks; the weights already span all of them, so undo the mean
            # here.
            self.engine.backward(loss * self.world_size, scale_wrt_gas=False)

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
        self.engine.save_checkpoint(
            folder, tag="zero", save_latest=False, exclude_frozen_parameters=True
        )
        return file_sizes(path)

    def load(self, folder: str) -> None:
        self._onload()
        has_frozen = any(not p.requires_grad for p in self.module.parameters())
        self.engine.load_checkpoint(folder, tag="zero", load_module_strict=not has_frozen)
        torch.set_rng_state(torch.load(Path(folder) / f"rng_{self.rank}.pt", weights_only=True))

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

    def add_common(self, tokens: TokenInputs, entropy: torch.Tensor, has_old: bool) -> None:
        """What every objective reports of its samples: entropy, and the engine's mismatch.

        Args:
            has_old: whether ``old_logprobs`` are the trainer's own, of before the update. If not,
                there is nothing to compare with the engine.
        """
        mask = tokens.mask & ~tokens.get("is_stored")
        count = mask.sum()
        self.add({"policy/entropy": (torch.where(mask, entropy, 0.0).sum(), count)})
        if not has_old:
            return
        mismatch = torch.where(mask, (tokens.old_logprobs - tokens.rollout_logprobs).abs(), 0.0)
        ratio = torch.where(mask, (tokens.logprobs.detach() - tokens.old_logprobs).exp(), 1.0)
        self.add({"rollout/mismatch_logprob_mean": (mismatch.sum(), count)})
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


def load_causal_lm(config: TrainConfig, model_path: str) -> Any:
    from transformers import AttentionInterface, AutoModelForCausalLM

    AttentionInterface.register("varlen", varlen_attention)
    causal_lm = AutoModelForCausalLM.from_pretrained(
        model_path,
        dtype=getattr(torch, config.cluster.dtype),
        attn_implementation=config.model.attention,
        trust_remote_code=config.model.trust_remote_code,
    )
    if config.model.gradient_checkpointing:
        causal_lm.gradient_checkpointing_enable()
    return causal_lm.train()
