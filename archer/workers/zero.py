"""The one file that imports deepspeed: engines, and whole parameters out of ZeRO."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn

from archer.config.keys import ClusterConfig, OptimizerConfig
from archer.workers.lora import Weight


def init_process_group(
    cluster: ClusterConfig, rank: int, world_size: int, address: str, port: int
) -> None:
    """Join the ZeRO group: gloo on CPU, NCCL on GPU."""
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        # Ray shows each actor its own GPU only, as device 0.
        "LOCAL_RANK": "0",
        "MASTER_ADDR": address,
        "MASTER_PORT": str(port),
    }
    import deepspeed
    import deepspeed.ops

    deepspeed.utils.logger.setLevel(logging.ERROR)
    if cluster.device == "cpu":
        # Compiling the shared-memory collective takes minutes at the first start and saves nothing
        # here.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "gloo" if cluster.device == "cpu" else "nccl"
    deepspeed.init_distributed(dist_backend=backend, verbose=False)


def gather_objects(own: Any) -> list[Any]:
    """What every rank passes in, in rank order, on every rank."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, own)
    return everyone


class FiniteAdamW(torch.optim.AdamW):
    """AdamW that leaves weights and moments alone when any rank's gradient is not finite.

    DeepSpeed skips such steps at some ZeRO stages and precisions only; this holds at all of them.
    Ranks see different shards, so they agree by a reduction.
    """

    num_applied = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        gradients = [
            p.grad for group in self.param_groups for p in group["params"] if p.grad is not None
        ]
        # Offloaded gradients lie in CPU memory, where NCCL cannot reduce.
        finite = torch.ones(1, device=_device())
        for gradient in gradients:
            finite *= torch.isfinite(gradient).all().to(finite.device)
        dist.all_reduce(finite, op=dist.ReduceOp.MIN)
        if finite.item():
            super().step(closure)
            self.num_applied += 1


def _device() -> str:
    """What the process group reduces on."""
    from deepspeed.accelerator import get_accelerator

    return cast(Any, get_accelerator()).current_device_name()


def build_engine(
    module: nn.Module, cluster: ClusterConfig, optimizer: OptimizerConfig | None
) -> Any:
    """A DeepSpeed engine; without an optimizer config it only runs forward passes."""
    import deepspeed

    stage = cluster.zero_stage if optimizer is not None or cluster.zero_stage == 3 else 0
    zero: dict[str, Any] = {"stage": stage, "overlap_comm": False}
    if optimizer is not None and cluster.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if optimizer is None and stage == 3 and cluster.offload_reference:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "steps_per_print": 10**9,
        "bf16": {"enabled": cluster.dtype == "bfloat16"},
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if optimizer is None:
        engine, *_ = deepspeed.initialize(model=module, config=config)
        return engine
    config["gradient_clipping"] = optimizer.max_grad_norm
    if stage >= 2:
        # By default micro-batches add up in the model's type: in bfloat16 their size would change
        # the gradient. Stages 0 and 1 have no such setting that leaves the rest as it is.
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    adam = FiniteAdamW(
        _parameter_groups(module, optimizer.weight_decay),
        lr=optimizer.learning_rate,
        betas=optimizer.betas,
    )
    engine, *_ = deepspeed.initialize(model=module, optimizer=adam, config=config)
    return engine


def _parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """No decay on norms and biases. Frozen parameters are in no group."""
    learned = [p for p in module.parameters() if p.requires_grad]
    decayed = [p for p in learned if p.ndim >= 2]
    others = [p for p in learned if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]  # adapters have no norms


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """How many numbers learn, and how many there are."""
    sizes = [(p.requires_grad, math.prod(_whole_shape(p))) for p in module.parameters()]
    return sum(size for learns, size in sizes if learns), sum(size for _, size in sizes)


@dataclass(frozen=True)
class ParamMeta:
    """Name, wire type and whole shape of a parameter; the shape of vLLM's class of this name."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


class FullParameters:
    """Whole tensors out of (possibly ZeRO-3 sharded) parameters.

    Iterating is a collective at ZeRO-3: all ranks must do it together.
    """

    GATHER_BYTES = 1 << 28
    """Parameters gathered at a time: one by one is slow, all at once would hold the whole model."""

    def __init__(self, weights: Sequence[Weight], zero_stage: int):
        self.weights, self.zero_stage = weights, zero_stage

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(w.name, w.base.dtype, _whole_shape(w.base)) for w in self.weights]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        if self.zero_stage < 3:
            yield from ((w.name, w.merged()) for w in self.weights)
            return
        import deepspeed

        for bucket in self._buckets():
            with deepspeed.zero.GatheredParameters([p for w in bucket for p in w.parts]):
                yield from ((w.name, w.merged()) for w in bucket)

    def _buckets(self) -> Iterator[list[Weight]]:
        bucket, size = [], 0
        for weight in self.weights:
            bucket.append(weight)
            size += sum(math.prod(_whole_shape(p)) * p.element_size() for p in weight.parts)
            if size >= self.GATHER_BYTES:
                yield bucket
                bucket, size = [], 0
        if bucket:
            yield bucket


def _whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """ZeRO-3 empties a parameter and keeps the shape it had beside it."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def offload(engine: Any) -> None:
    """Move weights, gradients and optimizer state to CPU memory."""
    from deepspeed.runtime.zero.offload_config import OffloadDeviceEnum

    engine.offload_states(device=OffloadDeviceEnum.cpu, pin_memory=True)
    _move_frozen(engine.module, "cpu")


def onload(engine: Any) -> None:
    _move_frozen(engine.module, _device())
    engine.reload_states()


def _move_frozen(module: nn.Module, device: str) -> None:
    """DeepSpeed moves what its optimizer holds, and no frozen parameter is in it."""
    for parameter in module.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(device)
