"""Groups -> one flat Batch; its loss weights; shares of ranks; micro-batches.

Loss weights are computed once, over the whole optimizer mini-batch, before it is cut up. A
micro-batch loss is then a plain weighted sum, so neither micro-batch size nor packing nor world
size can change the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from archer.algos import ADVANTAGES, AGGREGATIONS
from archer.config import AlgoConfig
from archer.types import Batch, Group, Sample


def shaped_reward(sample: Sample, algo: AlgoConfig, max_response_tokens: int) -> float:
    """Reward plus DAPO's soft length penalty (arXiv 2503.14476, eq. 13), 0 down to -1."""
    reward = sample.result.reward
    if algo.overlong_buffer:
        excess = len(sample.completion.tokens) - (max_response_tokens - algo.overlong_buffer)
        reward -= max(0.0, excess / algo.overlong_buffer)
    return reward


def build_batch(groups: Sequence[Group], algo: AlgoConfig, max_response_tokens: int) -> Batch:
    """Advantages on complete groups, then everything end to end."""
    estimate = ADVANTAGES[algo.advantage]
    samples, advantages, group_ids = [], [], []
    for g, group in enumerate(groups):
        rewards = np.array([shaped_reward(s, algo, max_response_tokens) for s in group.samples])
        advantages.append(estimate(rewards))
        samples.extend(group.samples)
        group_ids += [g] * len(group.samples)
    # Types are given because there may be no group at all: dynamic sampling can drop every one.
    lengths = np.array([len(s.completion.tokens) for s in samples], dtype=np.int64)
    in_loss = np.array([_enters_loss(s, algo) for s in samples], dtype=bool)
    mask = np.repeat(in_loss, lengths)
    return Batch(
        prompt_tokens=_concat([s.prompt.tokens for s in samples], np.int32),
        prompt_offsets=_offsets([len(s.prompt.tokens) for s in samples]),
        response_tokens=_concat([s.completion.tokens for s in samples], np.int32),
        offsets=_offsets(lengths),
        rollout_logprobs=_concat([s.completion.logprobs for s in samples], np.float32),
        advantages=np.where(
            mask, np.repeat(_concat(advantages, np.float32), lengths), np.float32(0)
        ),
        mask=mask,
        group_ids=np.array(group_ids, dtype=np.int64),
    )


def mask_impossible(batch: Batch) -> Batch:
    """Take tokens out of the loss whose probability is 0 to the trainer: they have no ratio."""
    known = [c for c in (batch.old_logprobs, batch.ref_logprobs) if c is not None]
    possible = np.logical_and.reduce([np.isfinite(column) for column in known] or [batch.mask])
    return batch.with_columns(mask=batch.mask & possible)


def _enters_loss(sample: Sample, algo: AlgoConfig) -> bool:
    is_overlong = sample.completion.finish_reason == "length" and algo.overlong == "mask"
    return sample.result.is_valid and not is_overlong


def _concat(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)


def _offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def loss_weights(batch: Batch, aggregation: str, max_response_tokens: int) -> np.ndarray:
    """Weight of every response token's loss over this mini-batch: float32 [R], 0 off the mask."""
    num_tokens = np.add.reduceat(np.append(batch.mask, False).astype(np.int64), batch.offsets[:-1])
    num_tokens[batch.response_lengths == 0] = 0
    weights = AGGREGATIONS[aggregation](num_tokens, batch.group_ids, max_response_tokens)
    return np.where(batch.mask, np.repeat(weights, batch.response_lengths), 0).astype(np.float32)


def mini_batches(batch: Batch, num_groups: int, seed: int) -> list[np.ndarray]:
    """Rows of each mini-batch: whole groups, shuffled. The last one may be smaller."""
    groups = np.unique(batch.group_ids)
    np.random.default_rng(seed).shuffle(groups)
    return [
        np.flatnonzero(np.isin(batch.group_ids, groups[i : i + num_groups]))
        for i in range(0, len(groups), num_groups)
    ]


def deal(lengths: np.ndarray, num_ranks: int) -> list[np.ndarray]:
    """Rows for each rank, balanced by tokens: longest first, each to the least loaded rank."""
    loads = [0] * num_ranks
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    for row in np.argsort(-lengths, kind="stable"):
        rank = loads.index(min(loads))
        loads[rank] += int(lengths[row])
        shares[rank].append(int(row))
    return [np.array(sorted(share), dtype=np.int64) for share in shares]


def micro_batches(lengths: np.ndarray, max_tokens: int, layout: str) -> list[np.ndarray]:
    """Rows of one rank cut into micro-batches within a token budget, sorted by length.

    The cost of a micro-batch is what its layout makes the model compute: rows times the longest
    when padded, the sum when packed. A sequence is never split.
    """
    pieces: list[list[int]] = []
    for row in np.argsort(-lengths, kind="stable"):
        if pieces:
            rows = [*pieces[-1], int(row)]
            # Sorted downwards, the first row of a piece is its longest.
            cost = len(rows) * lengths[rows[0]] if layout == "padded" else lengths[rows].sum()
            if cost <= max_tokens:
                pieces[-1] = rows
                continue
        pieces.append([int(row)])
    return [np.array(piece, dtype=np.int64) for piece in pieces]


def empty_row() -> Batch:
    """A response that enters no loss, for a rank with fewer micro-batches than its peers."""
    one, zero = np.zeros(1, np.int32), np.zeros(1, np.float32)
    offsets = np.array([0, 1], dtype=np.int64)
    return Batch(one, offsets, one, offsets, zero, zero, np.zeros(1, bool), np.zeros(1, np.int64))
