"""What flows through archer: Prompt -> Completion -> Sample -> Group -> Batch.

Everything here is numpy or plain Python, so that the driver never imports torch. Responses are
stored *ragged*: end to end in one flat array with offsets, never padded. Per-token arrays are
aligned with the response tokens: entry t holds the quantity for predicting response token t under
the sampling temperature.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

FinishReason = Literal["stop", "length", "abort"]
RewardStatus = Literal[
    "ok",
    "no_answer",
    "wrong_format",
    "timeout",
    "memory",
    "output_limit",
    "runtime_error",
    "crashed",
    "verifier_error",
    "skipped",
]


@dataclass(frozen=True)
class Prompt:
    """One question of the dataset, ready to be sampled from."""

    id: str
    """Unique within a run: ``<epoch>-<row>`` for training, ``<set>-<row>`` for evaluation."""
    tokens: np.ndarray
    """int32 [P], chat template applied."""
    text: str
    ground_truth: Any
    """Whatever the reward function takes as the truth: a string or a list of strings for maths. Or
    the ``StoredTruth`` that says where it is."""
    source: str
    """Data source name, for metrics and for choosing grading rules."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """The row's ``extra_info``, for reward functions that want more than the truth."""


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

    A finite reward is a verdict about the response: ``ok`` (judged by what it says), ``no_answer``
    and ``wrong_format`` (nothing to judge), or how its program ended, ``timeout``, ``memory``,
    ``output_limit`` or ``runtime_error``. A reward of NaN says that the *verifier* failed
    (``timeout``, ``crashed``, ``verifier_error``) or was never asked (``skipped``): the sample is
    left out of the loss and of the group statistics.
    """

    reward: float
    correct: bool
    status: RewardStatus
    detail: str = ""
    """Why, for people: the answer found, the first failing test. Never an expected output."""
    components: Mapping[str, float] = field(default_factory=dict)
    """Rewards of the parts of a composite, by name, before their weights."""
    seconds: float = 0.0
    """Time a verifier worked on it."""
    queue_s: float = 0.0
    """Time it waited for one."""
    deaths: int = 0
    """Verifier processes lost on it: they died, were killed at the deadline or did not start."""
    answer: str | None = None
    """The answer found, normalised so that spellings of it agree: what a majority is made of. None
    where there is none, or nothing that responses could agree on, as with programs."""

    @property
    def is_valid(self) -> bool:
        return not math.isnan(self.reward)

    @classmethod
    def failure(cls, status: RewardStatus, detail: str, seconds: float = 0.0) -> RewardResult:
        return cls(math.nan, False, status, detail, seconds=seconds)


@dataclass(frozen=True)
class ScoreRequest:
    """One response to be judged by the reward pool."""

    id: str
    response: str
    ground_truth: Any
    prompt: str = ""
    source: str = ""
    finish_reason: FinishReason = "stop"
    extra: Mapping[str, Any] = field(default_factory=dict)
    """What else its row holds: ``extra_info`` of the data, ``extra`` of a line to score."""
    time_limit_s: float = math.inf
    """Wall-clock seconds until whoever judges it is killed; the pool fills it in."""


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
    greedy: Sample | None = None
    """One more response at temperature 0, where the algorithm asks for it. Never trained on."""

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


ROW_COLUMNS = ("group_ids", "rewards", "correct", "is_stored", "greedy_rewards")
"""Columns of a ``Batch`` with one value a response."""


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
    rewards: np.ndarray  # float64 [N], shaped; NaN where a response has none
    correct: np.ndarray  # bool [N], the verdict
    is_stored: np.ndarray  # bool [N], rehearsed responses of the start model, without a reward
    greedy_rewards: np.ndarray | None = None  # float64 [N], of the prompt's greedy response
    old_logprobs: np.ndarray | None = None  # float32 [R], policy before the update
    old_entropy: np.ndarray | None = None  # float32 [R]
    old_logsumexp: np.ndarray | None = None  # float32 [R], normaliser of its scaled logits
    old_proxy_logprobs: np.ndarray | None = None  # float32 [R], without noise; -inf on noise
    ref_logprobs: np.ndarray | None = None  # float32 [R]
    fresh_logprobs: np.ndarray | None = None  # float32 [R], policy entering the mini-batch
    token_rewards: np.ndarray | None = None  # float32 [R], the outcome on the last token
    values: np.ndarray | None = None  # float32 [R], critic before predicting token t
    value_std: np.ndarray | None = None  # float32 [R], over the heads of the critic
    returns: np.ndarray | None = None  # float32 [R], what the critic learns
    corrections: np.ndarray | None = None  # float32 [R], weights against the engine's mismatch
    loss_weights: np.ndarray | None = (
        None  # float32 [R], over one optimizer mini-batch; 0 off the mask
    )
    prepared: Mapping[str, np.ndarray] = field(default_factory=dict)
    """[R] each, over one optimizer mini-batch: what the objective's ``prepare`` returned."""

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

    @property
    def rows(self) -> np.ndarray:
        """int64 [R]: the response each token belongs to."""
        return np.repeat(np.arange(len(self)), self.response_lengths)

    def with_columns(self, **columns: Any) -> Batch:
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
            "prepared": {name: values[index] for name, values in self.prepared.items()},
        }
        for f in fields(self):
            if f.name not in columns:
                values = getattr(self, f.name)
                at = rows if f.name in ROW_COLUMNS else index
                columns[f.name] = None if values is None else values[at]
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


@dataclass(frozen=True)
class RankColumns:
    """What one rank computed for its rows of a batch."""

    rows: np.ndarray
    """int64 [n]"""
    columns: dict[str, np.ndarray]
    """Per-token values by name, rows end to end in the order of ``rows``; empty if n is 0."""
