"""An objective under test: run on batches of a toy policy, whole or in pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_args

import numpy as np
import torch

from archer import batch as batching
from archer.algos import (
    LossOutput,
    Need,
    Objective,
    TokenInputs,
)
from archer.objective_checks.bigram import forward, random_batch, random_policy
from archer.types import Batch
from archer.workers.token_inputs import token_inputs

MASKS = ("11111", "1", "1101011", "", "111", "1011", "0000", "111111111", "01", "11")
"""Ragged responses: without a token, with one, with holes, and wholly outside the loss."""
MAX_RESPONSE_TOKENS = 16


@dataclass(frozen=True)
class Result:
    """Of a loss on one micro-batch, or on several together."""

    loss: torch.Tensor  # scalar
    gradient: torch.Tensor  # [V, V], of the policy
    metrics: dict[str, tuple[torch.Tensor, torch.Tensor]]

    @property
    def is_finite(self) -> bool:
        return bool(self.loss.isfinite() and self.gradient.isfinite().all())

    @property
    def is_zero(self) -> bool:
        figures = [self.loss, self.gradient, *(x for pair in self.metrics.values() for x in pair)]
        return all(bool((figure == 0).all()) for figure in figures)


@dataclass(frozen=True)
class Subject:
    """An objective with its parameters."""

    objective: Objective
    config: Any

    @property
    def needs(self) -> frozenset[Need]:
        return self.objective.needs(self.config)

    def batch(self, masks: Sequence[str] = MASKS) -> Batch:
        return random_batch(masks, self.needs, random_policy())

    def prepare(self, batch: Batch, aggregation: str = "token-mean") -> Batch:
        """The mini-batch as a worker gives it to the loss."""
        batch = batching.prepare(
            batch, self.objective, self.config, aggregation, MAX_RESPONSE_TOKENS, seed=0
        )
        weights = batching.loss_weights(batch, aggregation, MAX_RESPONSE_TOKENS)
        return batch.with_columns(loss_weights=weights)

    def tokens(self, batch: Batch, policy: torch.Tensor) -> TokenInputs:
        """What the loss sees, without what it did not ask for."""
        head = forward(batch, policy, self.objective.noise_floor(self.config))
        tokens = token_inputs(batch, head, policy.device)
        absent = [need for need in get_args(Need) if getattr(batch, need, 0) is None]
        names = {f.name for f in fields(TokenInputs)}
        tokens = replace(tokens, **dict.fromkeys(names.intersection(absent)))
        return map_floats(tokens, lambda values: values.to(policy.dtype))

    def loss(self, tokens: TokenInputs) -> LossOutput:
        return self.objective.loss(tokens, self.config)

    def run(self, batch: Batch, policy: torch.Tensor | None = None) -> Result:
        """Loss, gradient and metrics of a prepared batch."""
        policy = random_policy() if policy is None else policy
        output = self.loss(self.tokens(batch, policy))
        (gradient,) = torch.autograd.grad(output.loss, policy)
        return Result(output.loss.detach(), gradient, output.metrics)

    def run_pieces(
        self, batch: Batch, pieces: Iterable[np.ndarray], policy: torch.Tensor | None = None
    ) -> Result:
        """The sum over micro-batches of a prepared batch."""
        results = [self.run(batch.select(rows), policy) for rows in pieces]
        metrics = {}
        for key in results[0].metrics:
            numerators, denominators = zip(*(r.metrics[key] for r in results), strict=True)
            metrics[key] = (torch.stack(numerators).sum(), torch.stack(denominators).sum())
        return Result(
            torch.stack([r.loss for r in results]).sum(),
            torch.stack([r.gradient for r in results]).sum(0),
            metrics,
        )


def map_floats(tokens: TokenInputs, change: Callable[[torch.Tensor], torch.Tensor]) -> TokenInputs:
    """The same tokens with every column of numbers changed."""

    def changed(values: Any) -> Any:
        is_float = isinstance(values, torch.Tensor) and values.is_floating_point()
        return change(values) if is_float else values

    columns = {f.name: changed(getattr(tokens, f.name)) for f in fields(tokens)}
    columns["prepared"] = {name: changed(values) for name, values in tokens.prepared.items()}
    return replace(tokens, **columns)


def difference(actual: Result, expected: Result) -> float:
    """Largest relative difference of loss, gradient and metric sums; infinite if one is NaN."""
    scale = expected.gradient.norm().clamp(min=1e-12)
    differences = [
        (actual.gradient - expected.gradient).norm() / scale,
        (actual.loss - expected.loss).abs() / expected.loss.abs().clamp(min=float(scale)),
    ]
    if actual.metrics.keys() != expected.metrics.keys():
        return float("inf")
    for key, pair in expected.metrics.items():
        for a, b in zip(actual.metrics[key], pair, strict=True):
            differences.append((a - b).abs() / b.abs().clamp(min=1))
    return max(float(d.detach().nan_to_num(torch.inf)) for d in differences)
