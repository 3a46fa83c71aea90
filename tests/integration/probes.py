"""What the tests run inside policy actors, and configurations and batches of a tiny run.

Workers import this module too, so it must not import pytest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from archer.algos import resolve_algorithm
from archer.algos.credit import last_loss_token
from archer.config.keys import AlgoConfig, TrainConfig
from archer.preflight import Inputs
from archer.prompts import PromptSet
from archer.runtime import cluster as ray_cluster
from archer.types import Batch
from archer.workers import zero
from archer.workers.group import WorkerGroup
from archer.workers.model_worker import MetricSums
from archer.workers.policy import PolicyWorker

MAX_RESPONSE_TOKENS = 32
EOS = 2
VOCAB_SIZE = 100


def run_config(**cluster: Any) -> TrainConfig:
    """A tiny run on the CPU; keywords go to its ``cluster`` section."""
    return TrainConfig.model_validate(
        {
            "algo": {"name": "archer"},
            "model": {"name": "tiny", "path": "given by the fixture"},
            "data": {"name": "none", "train": "none", "max_prompt_tokens": 224},
            "reward": {"name": "math"},
            "sampling": {"max_response_tokens": MAX_RESPONSE_TOKENS, "temperature": 0.8},
            "optimizer": {"learning_rate": 1e-3},
            "trainer": {"mini_batch_prompts": 64, "micro_batch_tokens": 256},
            "cluster": {
                "kv_cache_bytes": 1 << 26,
                "cpus_per_worker": 0.5,
                "sync_timeout_s": 60.0,
                "step_timeout_s": 120.0,
                **cluster,
            },
        }
    )


def run_inputs(model_path: str) -> Inputs:
    """As much of ``Inputs`` as launching actors reads."""
    return Inputs(
        tokenizer=None,  # type: ignore[arg-type]
        train=PromptSet((), {}),
        evals={},
        model_path=model_path,
        eos_token_ids=(EOS,),
        window=256,
        vocab_size=VOCAB_SIZE,
        num_parameters=0,
        shape=None,
    )


def start_bench(num_ranks: int) -> WorkerGroup:
    """Policy ranks that can be any of several models and ZeRO stages in turn: see ``Bench``."""
    config = run_config(policy_workers=num_ranks)
    placement = ray_cluster.Placement(config.cluster)
    return ray_cluster.start_zero_group("probes.Bench", "policy", config, run_inputs(""), placement)


class Bench:
    """One rank of several ZeRO groups in one process: starting a process takes longer than a test.

    ``use`` selects the group, every other method is that of its ``ProbePolicy``.
    """

    def __init__(self, config: TrainConfig, _: str, *rendezvous: Any):
        self._config, self._rendezvous = config, rendezvous
        self._workers: dict[tuple[str, int, str, str], ProbePolicy] = {}
        self._current: ProbePolicy | None = None

    def use(
        self, model_path: str, zero_stage: int, purpose: str = "", dtype: str = "float32"
    ) -> None:
        """Go on as the worker of this model, stage, purpose and type; built at first use."""
        key = (model_path, zero_stage, purpose, dtype)
        if key not in self._workers:
            changes = {"zero_stage": zero_stage, "dtype": dtype}
            cluster = self._config.cluster.model_copy(update=changes)
            config = self._config.model_copy(update={"cluster": cluster})
            self._workers[key] = self.build(config, model_path, *self._rendezvous)
        self._current = self._workers[key]

    @staticmethod
    def build(*args: Any) -> Any:
        return ProbePolicy(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._current, name)


class ProbePolicy(PolicyWorker):
    """A policy rank whose insides can be read and disturbed."""

    def gradients(self, mini_batch: Batch, micro_batch_tokens: int, packing: str) -> dict[str, Any]:
        """Whole gradient of every parameter, and the number of this rank's own micro-batches."""
        import deepspeed

        config = self.config
        self.config = config.model_copy(
            update={
                "trainer": config.trainer.model_copy(
                    update={"micro_batch_tokens": micro_batch_tokens}
                ),
                "cluster": config.cluster.model_copy(update={"packing": packing}),
            }
        )
        self.accumulate_gradients(self.prepare(mini_batch, 0), MetricSums())
        _, pieces, _ = self._share(mini_batch)
        self.config = config
        gradients = {
            name: deepspeed.utils.safe_get_full_grad(p).detach().float().cpu().clone().numpy()
            for name, p in self.module.named_parameters()
            if p.requires_grad
        }
        # Without a learning rate a step only clears the gradients; the moments enter none of them.
        self._set_learning_rate(0.0)
        self._step()
        return {"gradients": gradients, "num_micro_batches": len(pieces)}

    def gradients_of(
        self, algo: AlgoConfig, mini_batch: Batch, micro_batch_tokens: int, packing: str
    ) -> dict[str, Any]:
        """``gradients`` under another algorithm."""
        before = self.config, self.algorithm, self.floor
        self.config = self.config.model_copy(update={"algo": algo})
        self.algorithm = resolve_algorithm(algo)
        self.floor = self.algorithm.objective.noise_floor(self.algorithm.loss_config)
        try:
            return self.gradients(mini_batch, micro_batch_tokens, packing)
        finally:
            self.config, self.algorithm, self.floor = before

    def poisoned_update(self, batch: Batch, parameter: str, value: float, rank: int) -> Any:
        """``update`` with one element of one parameter's gradient set to ``value`` on one rank."""

        def poison(gradient: torch.Tensor) -> torch.Tensor:
            gradient = gradient.clone()
            gradient.view(-1)[-1] = value
            return gradient

        target = dict(self.module.named_parameters())[parameter]
        handle = target.register_hook(poison) if self.rank == rank else None
        try:
            return self.update(batch, [0], 1e-3)
        finally:
            if handle is not None:
                handle.remove()

    def state(self) -> dict[str, list[np.ndarray]]:
        """Copies of what this rank holds: whole weights, its master weights, and its moments."""
        optimizer_state = self.optimizer.state  # ZeRO-3 empties the parameter groups, never this
        tensors = {
            "weights": [tensor for _, tensor in self._full_parameters()],
            "masters": list(optimizer_state),
            "moments": [m[key] for m in optimizer_state.values() for key in sorted(m)],
        }
        return {name: [np.array(t.detach()) for t in values] for name, values in tensors.items()}

    def perturb(self, scale: float, seed: int, is_relative: bool = False) -> None:
        """Add noise to every weight, the same on all ranks."""
        import deepspeed

        generator = torch.Generator().manual_seed(seed)
        for p in self.module.parameters():
            shape = tuple(getattr(p, "ds_shape", p.shape))
            noise = scale * torch.randn(shape, generator=generator)
            gathered = deepspeed.zero.GatheredParameters([p], modifier_rank=0)
            with (
                gathered if self.config.cluster.zero_stage == 3 else torch.no_grad(),
                torch.no_grad(),
            ):
                p.add_(noise * p if is_relative else noise)

    def skip_in_sync(self, name: str | None) -> None:
        """Leave one tensor out of every coming sync; None sends all again."""
        source = self._full_parameters()
        kept = [meta.name for meta in source.metadata() if meta.name != name]
        self._sender.source = _Filtered(source, kept)  # type: ignore[union-attr]

    def freeze_in_sync(self, name: str) -> None:
        """Send the present values of one tensor in every coming sync, until ``skip_in_sync``."""
        source = self._full_parameters()
        present = {n: tensor.clone() for n, tensor in source if n == name}
        self._sender.source = _Frozen(source, present)  # type: ignore[union-attr]

    def send_nothing(self, is_silent: bool) -> None:
        """Turn ``send_weights`` into a no-op, as a sync that was lost without an error."""
        self.__dict__.pop("send_weights", None)
        if is_silent:
            self.send_weights = lambda: None  # type: ignore[method-assign]

    def _set_learning_rate(self, learning_rate: float) -> None:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = learning_rate


class _Filtered:
    """A weight source with some tensors only. All are still gathered: that is collective."""

    def __init__(self, source: zero.FullParameters, names: list[str]):
        self._source, self._names = source, names

    def metadata(self) -> list[Any]:
        return [meta for meta in self._source.metadata() if meta.name in self._names]

    def __iter__(self) -> Any:
        return ((name, tensor) for name, tensor in self._source if name in self._names)


class _Frozen:
    """A weight source with the values of an earlier time for some tensors."""

    def __init__(self, source: zero.FullParameters, values: dict[str, torch.Tensor]):
        self._source, self._values = source, values

    def __iter__(self) -> Any:
        return ((name, self._values.get(name, tensor)) for name, tensor in self._source)


def random_batch(lengths: list[int], seed: int = 0, stored: Sequence[int] = ()) -> Batch:
    """Responses of the given lengths, two a prompt; the third is masked out of the loss.

    Old log-probs lie around those of a random model, so that some ratios are clipped. The rows in
    ``stored`` are rehearsed ones.
    """
    rng = np.random.default_rng(seed)
    count = len(lengths)
    prompt_lengths = rng.integers(3, 12, count)
    num_tokens, num_prompt_tokens = sum(lengths), int(prompt_lengths.sum())
    in_loss = np.arange(count) != 2
    is_stored = np.isin(np.arange(count), stored)
    mask = np.repeat(in_loss, lengths)

    def logprobs() -> np.ndarray:
        return rng.normal(-math.log(VOCAB_SIZE), 0.6, num_tokens).astype(np.float32)

    has_advantage = mask & np.repeat(~is_stored, lengths)
    batch = Batch(
        prompt_tokens=rng.integers(4, VOCAB_SIZE, num_prompt_tokens, dtype=np.int32),
        prompt_offsets=np.concatenate([[0], np.cumsum(prompt_lengths)]),
        response_tokens=rng.integers(4, VOCAB_SIZE, num_tokens, dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        rollout_logprobs=logprobs(),
        advantages=np.where(has_advantage, rng.normal(size=num_tokens), 0).astype(np.float32),
        mask=mask,
        group_ids=np.where(is_stored, count + np.arange(count), np.arange(count) // 2),
        rewards=np.where(is_stored, np.nan, np.arange(count) % 2),
        correct=np.arange(count) % 2 == 1,
        is_stored=is_stored,
        old_logprobs=logprobs(),
        old_entropy=rng.uniform(0, 3, num_tokens).astype(np.float32),
        ref_logprobs=logprobs(),
    )
    is_noise = np.arange(num_tokens) % 5 == 3
    token_rewards = np.zeros(num_tokens, np.float32)
    rewarded = np.flatnonzero((last_loss_token(batch) >= 0) & ~is_stored)
    token_rewards[last_loss_token(batch)[rewarded]] = batch.rewards[rewarded]
    return batch.with_columns(
        old_logsumexp=rng.normal(size=num_tokens).astype(np.float32),
        old_proxy_logprobs=np.where(is_noise, np.float32(-np.inf), logprobs()),
        token_rewards=token_rewards,
    )
