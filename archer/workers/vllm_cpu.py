"""Everything vLLM needs on a CPU to take part in RL: the one place for its traps.

``vllm_worker.py`` imports this module in the process that owns the model, before the model is
built. That import is the hook for three repairs:

1. *Packed weights.* CPU linear layers are repacked for oneDNN after loading and the plain weight is
   freed. A later ``load_weights`` then fails, or worse, leaves layers stale (a tied ``lm_head``
   keeps its old values with nothing but a warning). Packing is therefore switched off; weights are
   updated in place.
2. *Seeded requests.* When vLLM discards a sampled token (chunked prefill, preemption) it takes the
   draw back through the offset of the request's ``torch.Generator``; CPU generators have none and
   the whole engine dies. The subclass below goes back to the state before the draw, so that what a
   seed gives does not depend on how prompts were cut.
3. *Few rows.* A plain matrix product takes other kernels for a few rows, with other last bits.
   Fewer than ``MIN_ROWS`` are padded, so that log-probs do not depend on what else is decoded.

It also registers ``shm``, a weight-transfer engine over shared memory, with vLLM's own factory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import vllm._custom_ops as custom_ops
import vllm.model_executor.layers.utils as layer_utils
import vllm.v1.worker.gpu_model_runner as gpu_model_runner
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding
from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

MIN_ROWS = 8
"""From here on a row's result depends on itself alone: with MKL 2024 from 4 rows (AVX-512), from 8
at most."""


class RewindableGenerator(torch.Generator):
    """A CPU generator that can take its last draw back, as vLLM wants to (repair 2)."""

    def remember(self) -> None:
        self._before = self.get_state()

    def get_offset(self) -> int:
        return 0

    def set_offset(self, offset: int) -> None:
        self.set_state(self._before)


def _remember_before(forward_cpu: Callable[..., Any]) -> Callable[..., Any]:
    """vLLM's sampler on CPU, which draws once from each request's generator."""

    def sample(sampler: TopKTopPSampler, logits: torch.Tensor, generators: dict, *args: Any) -> Any:
        for generator in generators.values():
            generator.remember()
        return forward_cpu(sampler, logits, generators, *args)

    return sample


def _batch_invariant_linear(layer: Any, *args: Any, **kwargs: Any) -> None:
    """A CPU matrix product with plain weights (repair 1), each row on its own (repair 3)."""

    def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        num_rows = len(x)
        x = torch.nn.functional.pad(x, (0, 0, 0, max(0, MIN_ROWS - num_rows)))
        return torch.nn.functional.linear(x, weight, bias)[:num_rows]

    layer.cpu_linear = linear


@dataclass
class ShmInitInfo(WeightTransferInitInfo):
    pass


@dataclass
class ShmUpdateInfo(WeightTransferUpdateInfo):
    """A shared-memory file and where each tensor lies in it."""

    path: str
    num_bytes: int
    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    offsets: list[int]


class ShmWeightTransferEngine(WeightTransferEngine[ShmInitInfo, ShmUpdateInfo]):
    """Receives full weights in Hugging Face names and loads them in place."""

    init_info_cls = ShmInitInfo
    update_info_cls = ShmUpdateInfo

    def init_transfer_engine(self, init_info: ShmInitInfo) -> None:
        pass

    def start_weight_update(self) -> None:
        pass

    def update_weights(self, update_info: dict[str, Any]) -> None:
        # The inherited version also synchronises an accelerator, of which there is none.
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: ShmUpdateInfo) -> None:
        """Load a whole checkpoint.

        Raises:
            RuntimeError: a parameter got no value. Said here and not at the end of the session,
            which vLLM
                would then leave open for ever.
        """
        buffer = torch.from_file(
            update_info.path, shared=True, size=update_info.num_bytes, dtype=torch.uint8
        )
        model = cast(Any, self.model)  # a vLLM model; its type says any module
        loaded = set(model.load_weights(_views(buffer, update_info)))
        missing = {name for name, _ in self.model.named_parameters()} - loaded
        if missing:
            raise RuntimeError(f"partial weight sync: nothing was sent for {sorted(missing)}")
        # Fused layers (query, key and value in one) count as loaded when one part came: count
        # elements too.
        sent = sum(torch.Size(shape).numel() for shape in update_info.shapes)
        expected = _num_elements(self.model)
        if sent != expected:
            raise RuntimeError(f"partial weight sync: {sent} of {expected} elements were sent")

    def finish_weight_update(self) -> None:
        pass

    def shutdown(self) -> None:
        pass


def _num_elements(model: torch.nn.Module) -> int:
    """Elements of a whole checkpoint: all parameters, less the rows vLLM pads vocabularies with."""
    total = sum(p.numel() for p in model.parameters())
    seen: set[int] = set()
    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding):
            weight = module.get_parameter("weight")
            if id(weight) not in seen:
                seen.add(id(weight))
                total -= (weight.shape[0] - module.org_vocab_size) * weight.shape[1]
    return total


def _views(buffer: torch.Tensor, info: ShmUpdateInfo):
    """(name, tensor) pairs over the shared buffer, without a copy."""
    for name, dtype_name, shape, offset in zip(
        info.names, info.dtype_names, info.shapes, info.offsets, strict=True
    ):
        dtype = getattr(torch, dtype_name)
        num_bytes = torch.Size(shape).numel() * dtype.itemsize
        yield name, buffer[offset : offset + num_bytes].view(dtype).view(shape)


custom_ops._supports_onednn = False
layer_utils.dispatch_cpu_unquantized_gemm = _batch_invariant_linear
WeightTransferEngineFactory.register_engine("shm", ShmWeightTransferEngine)


class _TorchWithOwnGenerator:
    """``torch`` as gpu_model_runner sees it, with our generator."""

    Generator = RewindableGenerator

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


gpu_model_runner.__dict__["torch"] = _TorchWithOwnGenerator()
TopKTopPSampler.forward_cpu = _remember_before(TopKTopPSampler.forward_cpu)
