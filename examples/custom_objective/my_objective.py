"""An objective of your own: CISPO (arXiv 2506.13585) clips the ratio, not the gradient."""

from __future__ import annotations

from pydantic import PositiveFloat

from archer.algos import LossOutput, Objective, ObjectiveConfig, TokenInputs
from archer.algos.clipping import importance_ratio
from archer.algos.masks import mean_over, sanitise


class CISPOConfig(ObjectiveConfig):
    """Parameters of CISPO."""

    cap: PositiveFloat = 5.0
    """Largest importance weight."""


def cispo_loss(tokens: TokenInputs, config: CISPOConfig) -> LossOutput:
    """-min(r, cap) A logprob, with the weight held constant: every token keeps a gradient."""
    tokens = sanitise(tokens)
    ratio = importance_ratio(tokens.logprobs, tokens.old_logprobs).detach()
    loss = -ratio.clamp(max=config.cap) * tokens.advantages * tokens.logprobs
    metrics = {"policy/capped_frac": mean_over(ratio > config.cap, tokens.mask)}
    return LossOutput((loss * tokens.loss_weights).sum(), metrics)


OBJECTIVE = Objective(CISPOConfig, cispo_loss, needs=lambda config: frozenset({"old_logprobs"}))
