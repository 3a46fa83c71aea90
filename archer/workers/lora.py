"""LoRA (arXiv 2106.09685): the policy learns low-rank updates of its linear layers, by peft.

A layer computes W x + (alpha / rank) B A x. W is frozen, A starts random and B at zero, so that the
policy starts as its base. Engines and the Hugging Face folder get one weight W + (alpha / rank) B A
under the name it has without LoRA, and need to know nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from archer.config.checks import check_lora_targets
from archer.config.keys import LoraConfig

ADAPTER = "default"
"""peft's name of the only adapter of a model."""


def add_adapters(causal_lm: Any, config: LoraConfig) -> Any:
    """Freeze a Hugging Face model and put an update beside each of its target layers, in place.

    Returns:
        peft's view of the model.

    Raises:
        ConfigError: it has no layer of a target's name.
    """
    import peft

    known = linear_layers(causal_lm)
    check_lora_targets(config, known)
    return peft.get_peft_model(
        causal_lm,
        peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # it is only ever divided
            target_modules=config.targets or sorted(known),
            task_type="CAUSAL_LM",
        ),
    )


def linear_layers(causal_lm: nn.Module) -> set[str]:
    """Names of the linear layers, such as ``q_proj``, without the head."""
    head = causal_lm.get_output_embeddings()  # type: ignore[operator]
    return {
        name.rpartition(".")[2]
        for name, module in causal_lm.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


@dataclass(frozen=True)
class Weight:
    """A tensor as others know it: a parameter, and the update that belongs to it."""

    name: str
    base: nn.Parameter
    update: tuple[nn.Parameter, nn.Parameter, float] | None = None
    """B [out, rank], A [rank, in] and alpha / rank."""

    @property
    def parts(self) -> list[nn.Parameter]:
        """The parameters that ZeRO-3 must have gathered for ``merged``."""
        return [self.base] if self.update is None else [self.base, *self.update[:2]]

    def merged(self) -> torch.Tensor:
        """Its present values; the base's own memory where there is no update."""
        base = self.base.detach()
        if self.update is None:
            return base
        b, a, scale = self.update
        # In float32: of a small update bfloat16 would lose a part in the product and the rest in
        # the sum.
        return (base.float() + scale * (b.detach().float() @ a.detach().float())).to(base.dtype)


def served_weights(module: nn.Module) -> list[Weight]:
    """The weights of a model, with or without adapters, under Hugging Face names. A tied head
    appears once."""
    layers = _adapted_layers(module)
    served = []
    for name, parameter in module.named_parameters():
        layer, is_base, leaf = name.rpartition(".base_layer.")
        if is_base:
            update = _update_of(layers[layer]) if leaf == "weight" else None
            served.append(Weight(f"{layer}.{leaf}", parameter, update))
        elif ".lora_" not in name:
            served.append(Weight(name, parameter))
    return served


def adapter_weights(module: nn.Module) -> list[Weight]:
    """A and B of every adapted layer, under the names that peft's file has them by."""
    return [
        Weight(f"base_model.model.{name}", parameter)
        for name, parameter in module.named_parameters()
        if ".lora_" in name
    ]


def save_adapters(peft_model: Any, weights: dict[str, torch.Tensor], folder: Path) -> None:
    """``adapter_config.json`` and ``adapter_model.safetensors``, as ``PeftModel`` loads them.

    Args:
        weights: of ``adapter_weights``, whole.
    """
    # Told not to save embeddings, peft does not ask the hub whether their size changed.
    peft_model.save_pretrained(folder, state_dict=weights, save_embedding_layers=False)


@contextmanager
def without_updates(peft_model: Any) -> Iterator[None]:
    """The model as its frozen base.

    peft's own ``disable_adapter`` takes ``requires_grad`` from the parameters, under DeepSpeed's
    hooks, and changes which modules run, which ZeRO-3 prefetches by. A scale of 0 does neither.
    """
    from peft.helpers import rescale_adapter_scale

    with rescale_adapter_scale(peft_model, 0.0):
        yield


def _adapted_layers(module: nn.Module) -> dict[str, Any]:
    return {name: layer for name, layer in module.named_modules() if hasattr(layer, "lora_A")}


def _update_of(layer: Any) -> tuple[nn.Parameter, nn.Parameter, float]:
    return (
        layer.lora_B[ADAPTER].weight,
        layer.lora_A[ADAPTER].weight,
        layer.scaling[ADAPTER],
    )
