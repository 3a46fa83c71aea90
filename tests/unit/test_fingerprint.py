"""A fingerprint sees any changed bit and nothing of how an engine arranges weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from archer.workers.fingerprint import MODULUS, fingerprint, merged, of_model, whole


def test_squares_of_bit_patterns_add_up_and_wrap():
    # 1.0 is 0x3F800000; five of its squares pass 2^62.
    total = 5 * 0x3F800000**2 % MODULUS
    assert fingerprint(torch.ones(5)) % MODULUS == total
    assert whole([torch.ones(2), torch.ones(3)]) == total


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_last_bit_of_one_element_shows(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 64, generator=generator).to(dtype)
    moved = weight.clone()
    moved[3, 5] = torch.nextafter(moved[3, 5], torch.tensor(10.0, dtype=dtype))
    assert fingerprint(moved) != fingerprint(weight)


def test_type_of_storage_and_zeros_of_padding_do_not_show():
    weight = torch.randn(7, 8).bfloat16()
    assert fingerprint(weight) == fingerprint(weight.float())
    assert fingerprint(weight) == fingerprint(nn.functional.pad(weight, (0, 0, 0, 57)))


class Projection(nn.Module):
    """As vLLM's ``QKVParallelLinear``: two heads of queries, one of keys, one of values."""

    num_heads, head_size = 2, 4

    def __init__(self, weight: torch.Tensor, tp_rank: int, num_kv_head_replicas: int):
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.tp_rank, self.num_kv_head_replicas = tp_rank, num_kv_head_replicas


class Rank(nn.Module):
    def __init__(self, projection: Projection, norm: torch.Tensor):
        super().__init__()
        self.projection, self.norm = projection, nn.Parameter(norm)
        self.tied = self.norm


@pytest.mark.parametrize("num_kv_heads", [1, 2])
def test_tensor_parallel_ranks_together_are_the_whole_model(num_kv_heads: int):
    queries, norm = torch.randn(16, 8), torch.randn(8)
    keys, values = torch.randn(4 * num_kv_heads, 8), torch.randn(4 * num_kv_heads, 8)
    ranks = []
    for rank in (0, 1):
        own = slice(4 * rank, 4 * rank + 4) if num_kv_heads == 2 else slice(None)
        weight = torch.cat([queries[8 * rank : 8 * rank + 8], keys[own], values[own]])
        ranks.append(of_model(Rank(Projection(weight, rank, 2 // num_kv_heads), norm)))
    assert merged(ranks) == whole([queries, keys, values, norm])
