"""What a loss needs of the vocabulary, from hidden states: never holding all logits.

Peak memory is a few buffers of [chunk, V] instead of [T, V]: the backward pass computes the logits
of each chunk again. Worker only, hence the plain torch import.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from archer.algos.objective import NoiseFloor


class HeadOutput(NamedTuple):
    """Results of ``chunked_logprobs``, [T] each; float32, in nats, where nothing else is said."""

    logprobs: torch.Tensor
    """Of the targets; differentiable."""
    entropy: torch.Tensor
    """Differentiable."""
    logsumexp: torch.Tensor
    """Normaliser of the scaled logits; detached."""
    log_kept_mass: torch.Tensor | None = None
    """log of the probability of all tokens above the noise floor; differentiable."""
    is_kept: torch.Tensor | None = None
    """bool; whether the target is one of them."""

    @property
    def proxy_logprobs(self) -> torch.Tensor | None:
        """Of the targets, renormalised over what is above the noise floor; -inf below it."""
        if self.log_kept_mass is None or self.is_kept is None:
            return None
        return torch.where(self.is_kept, self.logprobs - self.log_kept_mass, -torch.inf)


def chunked_logprobs(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    chunk_tokens: int = 1024,
    bias: torch.Tensor | None = None,
    floor: NoiseFloor | None = None,
) -> HeadOutput:
    """Log-probability of the targets and statistics of softmax(logits / temperature).

    The matrix product runs in the type of ``hidden``, everything after it in float32 (float64 for
    float64). Gradients reach hidden, weight and bias.

    Args:
        hidden: float [T, H], the state that predicts each target
        weight: float [V, H], same type as ``hidden``. Under ZeRO-3 it must be gathered in forward
            and in backward
        targets: int64 [T]
        temperature: the sampling temperature
        chunk_tokens: rows of logits alive at a time
        bias: float [V]
        floor: asks for ``log_kept_mass`` and ``is_kept``
    """
    logprobs, entropy, logsumexp, log_kept_mass, is_kept = ChunkedLogprobs.apply(
        hidden, weight, bias, targets, temperature, chunk_tokens, floor
    )
    if floor is None:
        return HeadOutput(logprobs, entropy, logsumexp)
    return HeadOutput(logprobs, entropy, logsumexp, log_kept_mass, is_kept)


class ChunkedLogprobs(torch.autograd.Function):
    """The function behind ``chunked_logprobs``."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
        chunk_tokens: int,
        floor: NoiseFloor | None,
    ) -> tuple[torch.Tensor, ...]:
        # The parameter itself is saved, no view or cast: ZeRO-3 frees its data between the passes.
        ctx.save_for_backward(hidden, weight, bias, targets)
        ctx.temperature, ctx.chunk_tokens, ctx.floor = temperature, chunk_tokens, floor
        ctx.set_materialize_grads(False)
        logprobs = hidden.new_empty(len(hidden), dtype=_wide_type(hidden))
        entropy, logsumexp = torch.empty_like(logprobs), torch.empty_like(logprobs)
        log_kept_mass = torch.zeros_like(logprobs)
        is_kept = torch.ones_like(logprobs, dtype=torch.bool)
        for rows in _chunks(len(hidden), chunk_tokens):
            log_p, logsumexp[rows] = _log_softmax(hidden[rows], weight, bias, temperature)
            logprobs[rows] = log_p.gather(1, targets[rows, None]).squeeze(1)
            if floor is not None:
                threshold = _log_threshold(log_p, floor)
                is_kept[rows] = logprobs[rows] >= threshold
                log_kept_mass[rows] = _only_kept(log_p, threshold).logsumexp(1)
            entropy[rows] = -log_p.exp().mul_(log_p).sum(1)  # in place: one chunk less
            del log_p  # a bound name would keep it while the next chunk is computed
        ctx.mark_non_differentiable(logsumexp, is_kept)
        return logprobs, entropy, logsumexp, log_kept_mass, is_kept

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any,
        grad_logprobs: torch.Tensor | None,
        grad_entropy: torch.Tensor | None,
        grad_logsumexp: None,
        grad_kept: torch.Tensor | None,
        grad_is_kept: None,
    ) -> tuple[torch.Tensor | None, ...]:
        hidden, weight, bias, targets = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        wide = _wide_type(hidden)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        # Summed over chunks in float32: bfloat16 would round once per chunk.
        grad_weight = torch.zeros_like(weight, dtype=wide) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=wide) if needs_bias else None
        if grad_logprobs is None:
            grad_logprobs = torch.zeros_like(targets, dtype=wide)
        for rows in _chunks(len(hidden), ctx.chunk_tokens):
            log_p, _ = _log_softmax(hidden[rows], weight, bias, ctx.temperature)
            # Before the next line overwrites log_p.
            grad_of_kept = 0 if grad_kept is None else _grad_kept(log_p, grad_kept[rows], ctx.floor)
            grad_logits = _grad_logits(
                log_p,
                targets[rows],
                grad_logprobs[rows],
                None if grad_entropy is None else grad_entropy[rows],
            )
            grad_logits += grad_of_kept
            grad_logits = grad_logits.div_(ctx.temperature).to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[rows] = grad_logits @ weight
            if grad_weight is not None:
                grad_weight += grad_logits.T @ hidden[rows]
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0, dtype=wide)
            del log_p, grad_logits, grad_of_kept  # as in forward
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        grad_bias = None if grad_bias is None else grad_bias.to(bias.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def _chunks(num_tokens: int, chunk_tokens: int) -> list[slice]:
    return [slice(start, start + chunk_tokens) for start in range(0, num_tokens, chunk_tokens)]


def _wide_type(hidden: torch.Tensor) -> torch.dtype:
    return torch.promote_types(hidden.dtype, torch.float32)


def _log_softmax(
    hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """[chunk, V] log-probabilities in float32 or wider, normalised in place; [chunk] normaliser."""
    logits = F.linear(hidden, weight, bias).to(_wide_type(hidden)).div_(temperature)
    logsumexp = logits.logsumexp(1)
    return logits.sub_(logsumexp[:, None]), logsumexp


def _log_threshold(log_p: torch.Tensor, floor: NoiseFloor) -> torch.Tensor:
    """[chunk] log-probability from which on a token is kept; the likeliest one always is."""
    largest = log_p.amax(1)
    log_floor = math.log(floor.probability)
    return largest + log_floor if floor.is_relative else largest.clamp(max=log_floor)


def _only_kept(log_p: torch.Tensor, threshold: torch.Tensor) -> torch.Tensor:
    """[chunk, V] log-probabilities, -inf below the threshold."""
    return log_p.masked_fill(log_p < threshold[:, None], -torch.inf)


def _grad_kept(log_p: torch.Tensor, grad: torch.Tensor, floor: NoiseFloor) -> torch.Tensor:
    """[chunk, V]; d log_kept_mass / dz_v = q_v - p_v, q being p renormalised over the kept set."""
    q = _only_kept(log_p, _log_threshold(log_p, floor)).softmax(1)
    return q.sub_(log_p.exp()).mul_(grad[:, None])


def _grad_logits(
    log_p: torch.Tensor,
    targets: torch.Tensor,
    grad_logprobs: torch.Tensor,
    grad_entropy: torch.Tensor | None,
) -> torch.Tensor:
    """Gradient of the scaled logits z, [chunk, V]. Overwrites ``log_p``.

    d logprob / dz_v = [v = target] - p_v; d entropy / dz_v = -p_v (log p_v + entropy).
    """
    p = log_p.exp()
    pull = grad_logprobs[:, None]
    if grad_entropy is not None:
        entropy = -(p * log_p).sum(1)
        pull = log_p.add_(entropy[:, None]).mul_(grad_entropy[:, None]).add_(pull)
    return p.mul_(pull).neg_().scatter_add_(1, targets[:, None], grad_logprobs[:, None])
