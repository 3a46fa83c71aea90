"""What an objective is: a frozen config, a pure loss over flat per-token tensors, and its needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from archer.algos._torch import torch

Need = Literal["old_logprobs", "old_entropy", "entropy", "ref_logprobs"]
"""Per-token quantities an objective may ask for; the trainer computes only those.

``old_*`` come from the policy before the update, ``entropy`` from the forward of the update itself,
``ref_logprobs`` from the frozen reference policy.
"""


class ObjectiveConfig(BaseModel):
    """Base of every objective's config: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


@dataclass(frozen=True)
class TokenInputs:
    """N responses with R tokens, flat. Everything is detached except ``logprobs``."""

    logprobs: torch.Tensor  # float32 [R], carries the gradient
    old_logprobs: torch.Tensor  # float32 [R]
    rollout_logprobs: torch.Tensor  # float32 [R]
    advantages: torch.Tensor  # float32 [R]
    loss_weights: torch.Tensor  # float32 [R], aggregation over the whole mini-batch; 0 off the mask
    mask: torch.Tensor  # bool [R], True on tokens that enter the loss
    offsets: torch.Tensor  # int64 [N+1]
    entropy: torch.Tensor | None = None  # float32 [R], old or current as the objective declared
    ref_logprobs: torch.Tensor | None = None  # float32 [R]


@dataclass(frozen=True)
class LossOutput:
    """A scalar *sum* and (numerator, denominator) pairs: both add over micro-batches and ranks."""

    loss: torch.Tensor
    metrics: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class Objective:
    """An entry of ``OBJECTIVES``, or what a user's dotted path points to."""

    config: type[ObjectiveConfig]
    loss: Callable[[TokenInputs, Any], LossOutput]
    needs: Callable[[Any], frozenset[Need]]
