"""What a step reports about its samples and its batch; plain numpy over groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from archer.types import Batch, Group, Sample

REPEATED_NGRAM = 20
"""Tokens of an n-gram: repeats of so long a one are the sign of collapse in arXiv 2507.15778."""


def rollout_metrics(kept: Sequence[Group], decided: Sequence[Group]) -> dict[str, float]:
    """``reward/*`` and ``rollout/*`` over all groups that were looked at, dropped ones too."""
    samples = [s for g in decided for s in g.samples]
    valid = [s for s in samples if s.result.is_valid]
    rewards = np.array([s.result.reward for s in valid])
    lengths = np.array([len(s.completion.tokens) for s in samples])
    return {
        "reward/mean": mean(rewards),
        "reward/std": float(rewards.std()) if len(rewards) else math.nan,
        "reward/accuracy": mean([s.result.correct for s in valid]),
        "reward/no_answer_frac": mean([s.result.status == "no_answer" for s in valid]),
        "reward/failure_frac": 1 - len(valid) / len(samples),
        "rollout/prompts": float(len(decided)),
        "rollout/kept_frac": len(kept) / len(decided),
        "rollout/solve_all_frac": mean([all(s.result.correct for s in g.samples) for g in decided]),
        "rollout/solve_none_frac": mean(
            [not any(s.result.correct for s in g.samples) for g in decided]
        ),
        "rollout/response_tokens_mean": mean(lengths),
        "rollout/response_tokens_p50": float(np.quantile(lengths, 0.5)),
        "rollout/response_tokens_p95": float(np.quantile(lengths, 0.95)),
        "rollout/response_tokens_max": float(lengths.max()),
        "rollout/response_tokens_right": mean(_lengths(valid, correct=True)),
        "rollout/response_tokens_wrong": mean(_lengths(valid, correct=False)),
        "rollout/truncated_frac": mean([s.completion.finish_reason == "length" for s in samples]),
        "rollout/empty_frac": mean(lengths == 0),
        "rollout/repetition_frac": mean([repeated_frac(s.completion.tokens) for s in samples]),
    }


def batch_metrics(batch: Batch) -> dict[str, float]:
    """``advantage/*`` and the counts that enter the loss."""
    advantages = batch.advantages[batch.mask]
    return {
        "advantage/mean": mean(advantages),
        "advantage/std": float(advantages.std()) if len(advantages) else math.nan,
        "advantage/max": float(np.abs(advantages).max()) if len(advantages) else math.nan,
        "advantage/zero_frac": mean(advantages == 0),
        "policy/loss_tokens": float(batch.mask.sum()),
        "policy/masked_tokens": float((~batch.mask).sum()),
    }


def repeated_frac(tokens: np.ndarray, size: int = REPEATED_NGRAM) -> float:
    """Share of a response's n-grams that stand in it more than once over; 0 for short responses."""
    if len(tokens) < size:
        return 0.0
    windows = np.lib.stride_tricks.sliding_window_view(tokens, size)
    return 1 - len(np.unique(windows, axis=0)) / len(windows)


def mean(values: Any) -> float:
    """Mean as a float, NaN over nothing."""
    return float(np.mean(values)) if len(values) else math.nan


def _lengths(samples: Sequence[Sample], correct: bool) -> list[int]:
    return [len(s.completion.tokens) for s in samples if s.result.correct == correct]
