"""GRPO: one clip for all tokens, and a KL penalty (arXiv 2402.03300)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat

from archer.algos.clipping import ppo_clip
from archer.algos.kl import KLEstimator, kl_per_token
from archer.algos.masks import mean_over, sanitise
from archer.algos.objective import LossOutput, Need, Objective, ObjectiveConfig, TokenInputs


class GRPOConfig(ObjectiveConfig):
    """Parameters of GRPO."""

    eps: NonNegativeFloat = 0.2
    """Clip of the ratio on both sides."""
    beta: NonNegativeFloat = 0.001
    """KL coefficient; 0 needs no reference model."""
    kl: KLEstimator = "k3"
    dual_clip: Annotated[float, Field(gt=1)] | None = 3.0
    """Bound on the ratio of tokens with negative advantage; empty for none."""


def grpo_needs(config: GRPOConfig) -> frozenset[Need]:
    return frozenset({"old_logprobs", "ref_logprobs"} if config.beta > 0 else {"old_logprobs"})


def grpo_loss(tokens: TokenInputs, config: GRPOConfig) -> LossOutput:
    """Clipped surrogate plus beta * KL on every token."""
    tokens = sanitise(tokens)
    policy = ppo_clip(tokens, config.eps, config.eps, config.dual_clip)
    loss, metrics = policy.per_token, policy.metrics
    if config.beta > 0:
        kl = kl_per_token(tokens, config.kl)
        loss = loss + config.beta * kl
        metrics = {**metrics, "policy/kl": mean_over(kl, tokens.mask)}
    return LossOutput((loss * tokens.loss_weights).sum(), metrics)


GRPO = Objective(GRPOConfig, grpo_loss, grpo_needs)
