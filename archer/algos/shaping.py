"""Reward shapers: what is added to a verdict before advantages are computed.

Plain functions of one scored response. ``shaped_reward`` adds up those that the config turns on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from archer.types import Sample

if TYPE_CHECKING:
    from archer.config.keys import ShapingConfig


def shaped_reward(sample: Sample, shaping: ShapingConfig, max_response_tokens: int) -> float:
    """The reward the algorithm sees; NaN stays NaN."""
    tokens, result = sample.completion.tokens, sample.result
    if not result.is_valid:
        return math.nan
    reward = shaping.scale * result.reward + shaping.offset
    if shaping.cosine_length is not None:
        pairs = shaping.cosine_length
        start, end = pairs.right if result.correct else pairs.wrong
        reward = cosine(len(tokens) / max_response_tokens, start, end)
    if shaping.overlong_buffer:
        reward += shaping.overlong_factor * overlong_penalty(
            len(tokens), max_response_tokens, shaping.overlong_buffer
        )
    if sample.completion.finish_reason == "length":
        reward -= shaping.truncated_penalty
    if result.status == "no_answer":
        reward -= shaping.no_answer_penalty
    if shaping.repetition_penalty:
        reward -= shaping.repetition_penalty * repeated_frac(tokens, shaping.repetition_ngram)
    return reward


def overlong_penalty(num_tokens: int, max_response_tokens: int, buffer: int) -> float:
    """DAPO's soft length penalty (arXiv 2503.14476, eq. 13): 0, falling to -1 over the buffer."""
    return min(0.0, (max_response_tokens - buffer - num_tokens) / buffer)


def cosine(progress: float, start: float, end: float) -> float:
    """From ``start`` to ``end`` along half a cosine as ``progress`` goes from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2


def repeated_frac(tokens: np.ndarray, size: int) -> float:
    """Share of a response's n-grams that stand in it more than once over; 0 for short responses."""
    if len(tokens) < size:
        return 0.0
    windows = np.lib.stride_tricks.sliding_window_view(tokens, size)
    return 1 - len(np.unique(windows, axis=0)) / len(windows)
