"""Groups -> one flat Batch; its loss weights; shares of ranks; micro-batches.

Loss weights are computed once, over the whole optimizer mini-batch, before it is cut up. A
micro-batch loss is then a plain weighted sum, so neither micro-batch size nor packing nor world
size can change the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from archer.algos import AGGREGATIONS, Objective
from archer.algos.shaping import shaped_reward
from archer.config.keys import AlgoConfig
from archer.types import Batch, Group, RankColumns, Sample


def build_batch(groups: Sequence[Group], algo: AlgoConfig, max_response_tokens: int) -> Batch:
    """Shaped rewards of complete groups, then everything end to end; advantages come later."""

    def shaped(sample: Sample) -> float:
        if _is_cut(sample) and algo.overlong == "drop":
            return math.nan
        return shaped_reward(sample, algo.shaping, max_response_tokens)

    samples = [sample for group in groups for sample in group.samples]
    sizes = [len(group.samples) for group in groups]
    # Types are given because there may be no group at all: dynamic sampling can drop every one.
    lengths = np.array([len(s.completion.tokens) for s in samples], dtype=np.int64)
    in_loss = np.array([_enters_loss(s, algo) for s in samples], dtype=bool)
    greedy = [math.nan if g.greedy is None else shaped(g.greedy) for g in groups]
    return Batch(
        prompt_tokens=_concat([s.prompt.tokens for s in samples], np.int32),
        prompt_offsets=_offsets([len(s.prompt.tokens) for s in samples]),
        response_tokens=_concat([s.completion.tokens for s in samples], np.int32),
        offsets=_offsets(lengths),
        rollout_logprobs=_concat([s.completion.logprobs for s in samples], np.float32),
        advantages=np.zeros(lengths.sum(), np.float32),
        mask=np.repeat(in_loss, lengths),
        group_ids=np.repeat(np.arange(len(groups)), sizes),
        rewards=np.array([shaped(s) for s in samples], dtype=np.float64),
        correct=np.array([s.result.correct for s in samples], dtype=bool),
        is_stored=np.zeros(len(samples), dtype=bool),
        greedy_rewards=np.repeat(np.array(greedy, np.float64), sizes),
    )


def mask_impossible(batch: Batch) -> Batch:
    """Take tokens out of the loss whose probability is 0 to the trainer: they have no ratio."""
    known = [c for c in (batch.old_logprobs, batch.ref_logprobs) if c is not None]
    possible = np.logical_and.reduce([np.isfinite(column) for column in known] or [batch.mask])
    return batch.with_columns(mask=batch.mask & possible)


def assemble(batch: Batch, parts: Sequence[RankColumns], name: str) -> np.ndarray:
    """One column of all ranks' rows, put back into batch order: float32 [R]."""
    whole = np.empty(len(batch.response_tokens), dtype=np.float32)
    for part in parts:
        if len(part.rows):
            pieces = [np.arange(batch.offsets[r], batch.offsets[r + 1]) for r in part.rows]
            whole[np.concatenate(pieces)] = part.columns[name]
    return whole


def _is_cut(sample: Sample) -> bool:
    return sample.completion.finish_reason == "length"


def _enters_loss(sample: Sample, algo: AlgoConfig) -> bool:
    return sample.result.is_valid and not (_is_cut(sample) and algo.overlong != "keep")


def _concat(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(arrays).astype(dtype) if arrays else np.zeros(0, dtype)


def _offsets(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def loss_weights(batch: Batch, aggregation: str, max_response_tokens: int) -> np.ndarray:
    """Weight of every response token's loss over this mini-batch: float32 [R], 0 off the mask.

    Stored responses are a population of their own, with counts of their own. ``corrections`` scale
    a token's weight and leave the counts alone.
    """
    is_stored = batch.is_stored[batch.rows]
    sampled, stored = (
        _aggregate(batch, mask, aggregation, max_response_tokens)
        for mask in (batch.mask & ~is_stored, batch.mask & is_stored)
    )
    weights = sampled + stored
    if batch.corrections is not None:
        weights = weights * np.where(batch.mask, batch.corrections, 0)
    return weights.astype(np.float32)


def prepare(
    batch: Batch,
    objective: Objective,
    config: Any,
    aggregation: str,
    max_response_tokens: int,
    seed: int,
) -> Batch:
    """The mini-batch with what ``Objective.prepare`` says of its tokens."""
    if objective.prepare is None:
        return batch
    prepared = dict(objective.prepare(batch, config, np.random.default_rng(seed)))
    if "selected" in prepared:
        prepared["selected"] = prepared["selected"] & batch.mask
        chosen = batch.with_columns(mask=prepared["selected"])
        prepared["selected_weights"] = loss_weights(chosen, aggregation, max_response_tokens)
    return batch.with_columns(prepared=prepared)


def _aggregate(
    batch: Batch, mask: np.ndarray, aggregation: str, max_response_tokens: int
) -> np.ndarray:
    num_tokens = np.bincount(batch.rows, mask, len(batch)).astype(np.int64)
    weights = AGGREGATIONS[aggregation](num_tokens, batch.group_ids, max_response_tokens)
    return np.where(mask, weights[batch.rows], 0)


def mini_batches(batch: Batch, num_groups: int, seed: int) -> list[np.ndarray]:
    """Rows of each mini-batch: whole groups, shuffled. The last one may be smaller.

    Stored responses are spread over the mini-batches that the sampled ones make, none more of them.
    """
    rng = np.random.default_rng(seed)
    groups = np.unique(batch.group_ids[~batch.is_stored])
    rng.shuffle(groups)
    pieces = [groups[i : i + num_groups] for i in range(0, len(groups), num_groups)]
    stored = np.unique(batch.group_ids[batch.is_stored])
    rng.shuffle(stored)
    shares = np.array_split(stored, len(pieces)) if pieces else []
    return [
        np.flatnonzero(np.isin(batch.group_ids, np.concatenate([piece, share])))
        for piece, share in zip(pieces, shares, strict=True)
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
    one, zero, false = np.zeros(1, np.int32), np.zeros(1, np.float32), np.zeros(1, bool)
    offsets, group = np.array([0, 1], dtype=np.int64), np.zeros(1, np.int64)
    return Batch(
        *(one, offsets, one, offsets, zero, zero),
        mask=false,
        group_ids=group,
        rewards=np.zeros(1),
        correct=false,
        is_stored=false,
    )
