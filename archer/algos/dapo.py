"""DAPO: a clip that is wider upwards, and no KL (arXiv 2503.14476).

Dynamic sampling, overlong filtering and the token-level mean are DAPO's too, but not part of the
loss: see `reject_uniform`, `overlong` and `aggregation` in `conf/algo/dapo.yaml`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, NonNegativeFloat

from archer.algos.clipping import ppo_clip
from archer.algos.masks import sanitise
from archer.algos.objective import LossOutput, Need, Objective, ObjectiveConfig, TokenInputs


class DAPOConfig(ObjectiveConfig):
    """Parameters of DAPO."""

    eps_low: NonNegativeFloat = 0.2
    eps_high: NonNegativeFloat = 0.28
    dual_clip: Annotated[float, Field(gt=1)] | None = 10.0
    """Bound on the ratio of tokens with negative advantage; empty for none."""


def dapo_needs(config: DAPOConfig) -> frozenset[Need]:
    return frozenset({"old_logprobs"})


def dapo_loss(tokens: TokenInputs, config: DAPOConfig) -> LossOutput:
    """Clipped surrogate with separate bounds below and above."""
    tokens = sanitise(tokens)
    policy = ppo_clip(tokens, config.eps_low, config.eps_high, config.dual_clip)
    return LossOutput((policy.per_token * tokens.loss_weights).sum(), policy.metrics)


DAPO = Objective(DAPOConfig, dapo_loss, dapo_needs)
