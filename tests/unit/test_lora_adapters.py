"""Adapters on a model in this process: which layers learn, and what is served of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from archer.config.keys import LoraConfig, WarmStartConfig
from archer.errors import ConfigError
from archer.warm_start import make_model
from archer.workers import lora
from archer.workers.model import PolicyModel

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
TOKENS = torch.arange(4, 20)[None]


def adapted(tied: bool = True, **config: Any) -> tuple[Any, Any, PolicyModel]:
    """A tiny model, peft's view of it and the policy's, with adapters that change its outputs."""
    torch.manual_seed(0)
    shape = WarmStartConfig(hidden_size=64, num_layers=2, tie_embeddings=tied)
    causal_lm: Any = make_model(shape, 100)
    peft_model = lora.add_adapters(causal_lm, LoraConfig(rank=4, **config))
    for weight in lora.adapter_weights(causal_lm):
        torch.nn.init.normal_(weight.base, std=0.1)
    return causal_lm, peft_model, PolicyModel(causal_lm)


def logits(causal_lm: Any) -> torch.Tensor:
    with torch.no_grad():
        return causal_lm(TOKENS).logits


@pytest.mark.parametrize("targets", [None, ["v_proj", "up_proj"]])
def test_only_the_targets_learn(targets: list[str] | None):
    _, _, policy = adapted(targets=targets)
    learned = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert all(".lora_" in name for name in learned)
    assert {name.split(".lora_")[0].rpartition(".")[2] for name in learned} == (
        LAYERS if targets is None else set(targets)
    )
    assert len(learned) == 2 * 2 * len(targets or LAYERS)  # A and B, in two blocks


def test_target_that_only_the_worker_can_refuse():
    """Pickled weights cannot be looked into before a worker loads them."""
    with pytest.raises(ConfigError, match=r"model\.lora\.targets='qproj'"):
        adapted(targets=["q_proj", "qproj"])


@pytest.mark.parametrize("tied", [True, False])
def test_served_weights_are_a_model_without_adapters(tied: bool):
    causal_lm, _, policy = adapted(tied)
    before = {name: p.detach().clone() for name, p in policy.named_parameters()}
    served = {weight.name: weight.merged() for weight in lora.served_weights(policy)}

    shape = WarmStartConfig(hidden_size=64, num_layers=2, tie_embeddings=tied)
    plain = make_model(shape, 100)
    assert served.keys() == dict(plain.named_parameters()).keys()
    plain.load_state_dict(served, strict=not tied)
    torch.testing.assert_close(logits(plain), logits(causal_lm), atol=1e-5, rtol=0)
    for name, parameter in policy.named_parameters():
        assert torch.equal(parameter, before[name])


def test_products_are_not_rounded_before_the_sum():
    """In bfloat16 1 + 2^-8 lies halfway between two numbers; rounding B A loses what decides."""
    base = torch.nn.Parameter(torch.ones(1, 1, dtype=torch.bfloat16))
    b = torch.nn.Parameter(torch.tensor([[2.0**-8, 2.0**-17]], dtype=torch.bfloat16))
    a = torch.nn.Parameter(torch.ones(2, 1, dtype=torch.bfloat16))
    merged = lora.Weight("w", base, (b, a, 1.0)).merged()
    assert merged.dtype == torch.bfloat16
    assert merged.item() == 1 + 2.0**-7


def test_without_updates_the_base_speaks_and_the_adapters_come_back():
    causal_lm, peft_model, _ = adapted()
    own = logits(causal_lm)
    with lora.without_updates(peft_model):
        base = logits(causal_lm)
        assert all(w.base.requires_grad for w in lora.adapter_weights(causal_lm))
    assert (own - base).abs().max() > 0.01
    assert torch.equal(logits(causal_lm), own)
    with torch.no_grad():
        for weight in lora.adapter_weights(causal_lm):
            weight.base.zero_()
    assert torch.equal(logits(causal_lm), base)


def test_recomputed_activations_give_the_same_gradient():
    def gradients(recompute: bool) -> list[torch.Tensor]:
        torch.manual_seed(0)
        causal_lm: Any = make_model(WarmStartConfig(hidden_size=64, num_layers=2), 100).train()
        if recompute:
            causal_lm.gradient_checkpointing_enable()
        lora.add_adapters(causal_lm, LoraConfig(rank=4))
        weights = lora.adapter_weights(causal_lm)
        for weight in weights:
            torch.nn.init.normal_(weight.base, std=0.1)
        causal_lm(TOKENS, use_cache=False).logits.log_softmax(-1)[..., 5].sum().backward()
        return [weight.base.grad for weight in weights if weight.base.grad is not None]

    plain, recomputed = gradients(False), gradients(True)
    assert len(plain) == len(recomputed) == 2 * 2 * len(LAYERS)
    assert all(torch.equal(a, b) for a, b in zip(plain, recomputed, strict=True))
