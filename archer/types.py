"""What flows through archer: Prompt -> Completion -> Sample -> Group -> Batch.

Everything here is numpy or plain Python, so that the driver never imports torch. Responses are
stored *ragged*: end to end in one flat array with offsets, never padded. Per-token arrays are
aligned with the response tokens: entry t holds the quantity for predicting response token t under
the sampling temperature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np

FinishReason = Literal["stop", "length", "abort"]
RewardStatus = Literal["ok", "no_answer", "timeout", "crashed", "verifier_error"]


@dataclass(frozen=True)
class Prompt:
    """One question of the dataset, ready to be sampled from."""

    id: str
    """Unique within a run: ``<epoch>-<row>`` for training, ``<set>-<row>`` for evaluation."""
    tokens: np.ndarray
    """int32 [P], chat template applied."""
    text: str
    ground_truth: Any
    """Whatever the reward function takes as the truth: a string or a list of strings for maths."""
    source: str
    """Data source name, for metrics and for choosing grading rules."""


@dataclass(frozen=True)
class SampleRequest:
    """One response to be sampled by a rollout engine."""

    id: str
    """``<prompt id>/<sample index>``; unique among the requests in flight."""
    prompt_tokens: np.ndarray
    """int32 [P]"""
    seed: int
    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True)
class Completion:
    """What a rollout engine returns for one request."""

    request_id: str
    tokens: np.ndarray
    """int32 [n], including the EOS the model emitted."""
    logprobs: np.ndarray
    """float32 [n]: log-probability of each token as the engine sampled it
    (``rollout_logprobs``)."""
    finish_reason: FinishReason
    weight_version: int
    """Version of the policy that sampled the tokens."""


@dataclass(frozen=True)
class RewardResult:
    """Outcome of scoring one response.

    ``ok`` and ``no_answer`` are verdicts about the response. The other statuses say that the
    *verifier* failed: the reward is NaN and the sample is left out of the loss and of the group
    statistics.
    """

    reward: float
    correct: bool
    status: RewardStatus
    detail: str = ""
    seconds: float = 0.0

    @property
    def is_valid(self) -> bool:
        return self.status in ("ok", "no_answer")

    @classmethod
    def failure(cls, status: RewardStatus, detail: str, seconds: float = 0.0) -> RewardResult:
        return cls(float("nan"), False, status, detail, seconds)


@dataclass(frozen=True)
class ScoreRequest:
    """One response to be judged by the reward pool."""

    id: str
    response: str
    ground_truth: Any
    prompt: str = ""
    source: str = ""
    finish_reason: FinishReason = "stop"


@dataclass(frozen=True)
class Sample:
    """One scored response."""

    prompt: Prompt
    index: int
    """Position within the group, 0 <= index < group_size."""
    completion: Completion
    text: str
    result: RewardResult


@dataclass(frozen=True)
class Group:
    """All samples of one prompt, ordered by index."""

    prompt: Prompt
    samples: tuple[Sample, ...]

    @property
    def rewards(self) -> np.ndarray:
        """float64 [G]; NaN where the verifier failed."""
        return np.array([s.result.reward for s in self.samples], dtype=np.float64)

    @property
    def is_uniform(self) -> bool:
        """True when the valid verdicts agree, so that group-relative advantages vanish.

        Decided on the raw verdict, not on a shaped reward: a length penalty must not defeat it.
        """
        return len({s.result.correct for s in self.samples if s.result.is_valid}) <= 1


@dataclass(frozen=True)
class Batch:
    """Flat ragged batch of N responses with R response tokens and S prompt tokens in total."""

    prompt_tokens: np.ndarray  # int32 [S]
    prompt_offsets: np.ndarray  # int64 [N+1]
    response_tokens: np.ndarray  # int32 [R]
    offsets: np.ndarray  # int64 [N+1] into every per-token array
    rollout_logprobs: np.ndarray  # float32 [R]
    advantages: np.ndarray  # float32 [R], 0 where the mask is False
    mask: np.ndarray  # bool [R], True on tokens that enter the loss
    group_ids: np.ndarray  # int64 [N]
    old_logprobs: np.ndarray | None = None  # float32 [R], policy before the update
    old_entropy: np.ndarray | None = None  # float32 [R]
    ref_logprobs: np.ndarray | None = None  # float32 [R]
    loss_weights: np.ndarray | None = (
        None  # float32 [R], over one optimizer mini-batch; 0 off the mask
    )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def response_lengths(self) -> np.ndarray:
        """int64 [N]"""
        return np.diff(self.offsets)

    @property
    def total_lengths(self) -> np.ndarray:
        """int64 [N]: prompt plus response."""
        return np.diff(self.offsets) + np.diff(self.prompt_offsets)

    def with_columns(self, **columns: np.ndarray | None) -> Batch:
        return replace(self, **columns)

    def select(self, rows: Sequence[int] | np.ndarray) -> Batch:
        """The given rows, in the given order, as a new batch."""
        rows = np.asarray(rows, dtype=np.int64)
        prompt_index, prompt_offsets = _ragged_index(self.prompt_offsets, rows)
        index, offsets = _ragged_index(self.offsets, rows)
        columns: dict[str, Any] = {
            "prompt_tokens": self.prompt_tokens[prompt_index],
            "prompt_offsets": prompt_offsets,
            "offsets": offsets,
            "group_ids": self.group_ids[rows],
        }
        for f in fields(self):
            if f.name not in columns:
                values = getattr(self, f.name)
                columns[f.name] = None if values is None else values[index]
        return Batch(**columns)


def _ragged_index(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat positions of the given rows, and the offsets of the result."""
    pieces = [np.arange(offsets[r], offsets[r + 1]) for r in rows]
    new_offsets = np.concatenate([[0], np.cumsum([len(p) for p in pieces])]).astype(np.int64)
    return (np.concatenate(pieces) if pieces else np.zeros(0, np.int64)), new_offsets


@dataclass(frozen=True)
class UpdateResult:
    """What one rank reports of one call of ``PolicyWorker.update``."""

    sums: dict[str, tuple[float, float]]
    """Metric -> (numerator, denominator); both add over ranks."""
    maxima: dict[str, float]
    grad_norm: float
    """Mean over the optimizer steps whose norm was finite; the same on every rank."""
    num_steps: int
    num_skipped: int
    """Optimizer steps skipped because a gradient was not finite."""
    num_empty: int
    """Mini-batches without a token in the loss: no optimizer step, and not in ``num_steps``."""
    ended_skipping: int
    """How many of the last steps in a row were skipped."""
