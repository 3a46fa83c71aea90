"""One number for all weights, the same in trainer and engine when their weights are.

Engines fuse, shard and pad what the trainer sends, so the number is a sum over elements: it does
not depend on how they are arranged, and the zeros of padding add nothing to it. Other values
practically never give it; the same values in other places do, which the echo of log-probs is for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

CHUNK = 1 << 22
"""Elements at a time: what is computed on the way takes 20 bytes for each."""
MODULUS = 1 << 64


def fingerprint(tensor: torch.Tensor) -> int:
    """Sum of the squared bit patterns of a tensor's elements as float32: int64, wrapping.

    Squared, because steps of +1 and -1 in the last bit would often cancel in a plain sum. As
    float32, because that is exact for the smaller types: the type of storage does not matter.
    """
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for chunk in tensor.detach().flatten().split(CHUNK):
        bits = chunk.float().view(torch.int32).long()
        total += (bits * bits).sum()
    return int(total)


def whole(tensors: Iterable[torch.Tensor]) -> int:
    """Fingerprint of all tensors together."""
    return sum(map(fingerprint, tensors)) % MODULUS


def merged(ranks: list[dict[str, int]]) -> int:
    """Fingerprint of a whole model from those of its tensor-parallel ranks, by parameter.

    A parameter that every rank holds in full, such as a norm, counts once.
    """
    total = 0
    for name in ranks[0]:
        parts = [rank[name] for rank in ranks]
        total += parts[0] if len(set(parts)) == 1 else sum(parts)
    return total % MODULUS


def of_model(model: nn.Module) -> dict[str, int]:
    """Fingerprints of what one tensor-parallel rank of a vLLM model holds, by parameter."""
    fingerprints, seen = {}, set()
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) not in seen:  # a tied head
                seen.add(id(parameter))
                fingerprints[f"{prefix}.{name}"] = fingerprint(_counted(module, parameter))
    return fingerprints


def _counted(module: Any, parameter: torch.Tensor) -> torch.Tensor:
    """Queries only, where key and value heads are copies of another rank's.

    vLLM copies them when there are fewer than tensor-parallel ranks (``QKVParallelLinear``).
    """
    replicas = getattr(module, "num_kv_head_replicas", 1)
    if replicas > 1 and module.tp_rank % replicas:
        return parameter[: module.num_heads * module.head_size]
    return parameter
