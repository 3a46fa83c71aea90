"""Attention of packed sequences, with the kernel, which only GPUs have, spelled out."""

import inspect

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import (
    AttentionInterface,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from archer.errors import ConfigError
from archer.workers import attention

LENGTHS = [5, 1, 9]
SIZES = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip


def one_by_one(query, key, value, bounds_q, bounds_k, longest_q, longest_k, **options):
    """What the kernel computes: causal attention of each sequence by itself."""
    window = options["window_size"]
    sequences = []
    for first, end in zip(bounds_q[:-1].tolist(), bounds_q[1:].tolist(), strict=True):
        position = torch.arange(end - first)
        distance = position[:, None] - position
        seen = (distance >= 0) & ((distance <= window[0]) | (window[0] < 0))
        q, k, v = (states[first:end].transpose(0, 1)[None] for states in (query, key, value))
        output = scaled_dot_product_attention(
            q, k, v, attn_mask=seen, scale=options["scale"], enable_gqa=options["enable_gqa"]
        )
        sequences.append(output[0].transpose(0, 1))
    return torch.cat(sequences)


@pytest.fixture
def on_cpu(monkeypatch):
    """Calls of the kernel: each is checked against its signature and answered on the CPU."""
    calls = []

    def kernel(*args, **kwargs):
        calls.append(signature.bind(*args, **kwargs).arguments)
        return one_by_one(*args, **kwargs)

    signature = inspect.signature(attention.varlen_attn)
    monkeypatch.setattr(attention, "varlen_attn", kernel)
    AttentionInterface.register("varlen", attention.varlen_attention)
    return calls


def hidden_states_and_gradient(model, implementation):
    model.set_attn_implementation(implementation)
    tokens = torch.arange(sum(LENGTHS))[None] % SIZES["vocab_size"]
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    hidden = model.model(input_ids=tokens, position_ids=positions, use_cache=False)
    hidden = hidden.last_hidden_state
    weight = model.model.layers[0].self_attn.k_proj.weight
    (gradient,) = torch.autograd.grad(hidden.sin().sum(), weight)
    return hidden.detach(), gradient


@pytest.mark.parametrize(
    "model",
    [
        Qwen2ForCausalLM(Qwen2Config(**SIZES)),
        Qwen3ForCausalLM(Qwen3Config(**SIZES)),
        Qwen3ForCausalLM(
            Qwen3Config(**SIZES, use_sliding_window=True, sliding_window=3, max_window_layers=0)
        ),
    ],
    ids=["qwen2", "qwen3", "sliding-window"],
)
def test_sequences_see_what_they_see_under_a_mask(on_cpu, model):
    model.double().train()  # weights are not seeded: float32 rounding may pass any tolerance
    model.gradient_checkpointing_enable()
    masked = hidden_states_and_gradient(model, "sdpa")
    assert not on_cpu
    packed = hidden_states_and_gradient(model, "varlen")
    torch.testing.assert_close(packed, masked, rtol=1e-5, atol=1e-5)
    assert len(on_cpu) == 2 * SIZES["num_hidden_layers"]  # forward, and again in the backward
    assert on_cpu[0]["cu_seq_q"].tolist() == [0, 5, 6, 15]
    assert on_cpu[0]["cu_seq_q"].dtype == torch.int32
    assert on_cpu[0]["max_q"] == 9
    assert on_cpu[0]["key"].shape == (15, 2, 8)  # heads are shared, not repeated


def call(rows=1, mask=None, **options):
    query, key = (torch.empty(rows, heads, 15, 8, dtype=torch.bfloat16, device="meta")
                  for heads in (4, 2))  # fmt: skip
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    return attention.varlen_attention(
        torch.nn.Identity(), query, key, key, mask, position_ids=positions, scaling=0.5, **options
    )


@pytest.mark.parametrize(
    "options", [{"softcap": 30.0}, {"s_aux": torch.zeros(4)}, {"dropout": 0.1},
                {"mask": torch.ones(1, 1, 15, 15)}], ids=lambda options: next(iter(options)),
)  # fmt: skip
def test_attention_that_the_kernel_does_not_compute_is_refused(options):
    with pytest.raises(ConfigError, match=r"Set model\.attention=eager"):
        call(**options)


def test_rows_are_never_dropped():
    with pytest.raises(AssertionError):
        call(rows=2)


def test_torch_s_own_operator_takes_the_call():
    output, _ = call()
    assert output.shape == (1, 15, 4, 8)
