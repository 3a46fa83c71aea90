"""Attention of packed sequences, each to itself, without a mask and without a package.

Hugging Face's ``sdpa`` needs a mask with an entry for every two tokens of the micro-batch, its
``flash_attention_2`` a package that has to be compiled. torch brings the same kernel,
FlashAttention-2 (arXiv 2307.08691), under a name of its own:
https://docs.pytorch.org/docs/stable/nn.attention.varlen.html
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.attention.varlen import varlen_attn

from archer.errors import ConfigError


def varlen_attention(
    module: nn.Module,
    query: torch.Tensor,  # bfloat16 [1, query heads, T, D]
    key: torch.Tensor,  # bfloat16 [1, key heads, T, D]
    value: torch.Tensor,  # bfloat16 [1, key heads, T, D]
    attention_mask: torch.Tensor | None,
    *,
    position_ids: torch.Tensor,  # int64 [1, T], 0 where a sequence begins
    scaling: float | None = None,
    sliding_window: int | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each sequence, as Hugging Face's models call it.

    Returns:
        [1, T, query heads, D], and None for the weights, which are never held.

    Raises:
        ConfigError: the model's attention is another: capped (Gemma 2), with sinks (gpt-oss), with
            dropout, or under a mask of its own.
    """
    if dropout or any(extra is not None for extra in (softcap, s_aux, attention_mask)):
        raise ConfigError(
            "model.attention",
            "varlen",
            "eager with a model whose attention has soft caps, sinks, dropout or its own mask",
            "Set model.attention=eager.",
        )
    assert query.shape[0] == 1, "packed sequences are one row"
    begins = (position_ids[0] == 0).nonzero()[:, 0]
    bounds = nn.functional.pad(begins, (0, 1), value=position_ids.shape[1]).int()  # [N + 1]
    longest = int(bounds.diff().max())
    query, key, value = (states[0].transpose(0, 1) for states in (query, key, value))
    output = varlen_attn(
        query,
        key,
        value,
        bounds,
        bounds,
        longest,
        longest,
        scale=scaling,
        # To the left as far as the sequence or the window goes, to the right nothing.
        window_size=(-1 if sliding_window is None else sliding_window - 1, 0),
        enable_gqa=True,
    )
    assert isinstance(output, torch.Tensor)
    return output[None], None
