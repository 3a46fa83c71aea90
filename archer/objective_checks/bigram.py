"""A policy of 49 parameters and random mini-batches for it: what objectives are tried out on.

The policy is a table of logits: which token follows which. It runs through the same head as a real
model, so that everything an objective can read carries the gradient that it has in training.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch

from archer.algos import Need, NoiseFloor
from archer.algos.credit import last_loss_token
from archer.algos.logprobs import HeadOutput, chunked_logprobs
from archer.types import ROW_COLUMNS, Batch

VOCAB_SIZE = 7
DISTANCES = (0.3, 1e-4, 1.0)
"""Standard deviation of old log-probs around the current ones, for rows in turn: no trust region,
however narrow or wide, clips all of them or none."""


def random_policy(seed: int = 0) -> torch.Tensor:
    """Logits of the next token by previous token: float32 [V, V], with gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(VOCAB_SIZE, VOCAB_SIZE, generator=generator).requires_grad_()


def forward(batch: Batch, policy: torch.Tensor, floor: NoiseFloor | None = None) -> HeadOutput:
    """Log-probs of the response tokens, and what else a head computes, in the policy's type."""
    previous = np.roll(batch.response_tokens, 1)
    rows = np.flatnonzero(batch.response_lengths)
    previous[batch.offsets[rows]] = batch.prompt_tokens[batch.prompt_offsets[rows + 1] - 1]
    identity = torch.eye(VOCAB_SIZE, dtype=policy.dtype)
    targets = torch.from_numpy(batch.response_tokens).long()
    hidden = policy[torch.from_numpy(previous).long()]
    return chunked_logprobs(hidden, identity, targets, temperature=1.0, floor=floor)


def random_batch(
    masks: Sequence[str], needs: Collection[Need], policy: torch.Tensor, seed: int = 0
) -> Batch:
    """One response for each string: "1" is a token in the loss, "0" one outside.

    Two responses share a prompt. Of what plug-ins may need, only ``needs`` is there. With
    ``rehearsal`` every third response is a stored one, and those have ``ref_logprobs``.
    """
    rng = np.random.default_rng(seed)
    count, lengths = len(masks), np.array([len(mask) for mask in masks], dtype=np.int64)
    num_tokens = int(lengths.sum())
    row = np.repeat(np.arange(count), lengths)
    mask = np.array([token == "1" for token in "".join(masks)], dtype=bool)
    is_stored = (np.arange(count) % 3 == 2) & ("rehearsal" in needs)
    rewards = np.where(is_stored, np.nan, rng.integers(0, 2, count).astype(np.float64))
    advantages = rng.normal(size=count)[row] + 0.2 * rng.normal(size=num_tokens)
    batch = Batch(
        prompt_tokens=rng.integers(0, VOCAB_SIZE, count, dtype=np.int32),
        prompt_offsets=np.arange(count + 1),
        response_tokens=rng.integers(0, VOCAB_SIZE, num_tokens, dtype=np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        rollout_logprobs=np.zeros(num_tokens, np.float32),
        advantages=np.where(mask & ~is_stored[row], advantages, 0).astype(np.float32),
        mask=mask,
        group_ids=np.where(is_stored, count + np.arange(count), np.arange(count) // 2),
        rewards=rewards,
        correct=rewards > 0,
        is_stored=is_stored,
    )
    return batch.with_columns(**_columns(batch, needs, policy, rng))


def _columns(
    batch: Batch, needs: Collection[Need], policy: torch.Tensor, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """What workers and reward functions would have added to the batch."""
    row, num_tokens = batch.rows, len(batch.rows)
    now = forward(batch, policy.detach().float()).logprobs.numpy()

    def near(centre: np.ndarray | float, distance: np.ndarray | float) -> np.ndarray:
        return (centre + distance * rng.normal(size=num_tokens)).astype(np.float32)

    old, ref = near(now, np.array(DISTANCES)[row % len(DISTANCES)]), near(now, 0.5)
    is_noise = np.arange(num_tokens) % 5 == 3
    needed = {
        "old_logprobs": old,
        "old_entropy": abs(near(0, 1)),
        "old_logsumexp": near(0, 1),
        "ref_logprobs": ref,
        "fresh_logprobs": near(now, 0.05),
        "values": near(0, 1),
        "greedy": np.zeros(len(batch)),
        "old_proxy_logprobs": np.where(is_noise, np.float32(-np.inf), near(old, 0.3)),
    }
    given = {name: values for name, values in needed.items() if name in needs}
    if "greedy" in given:
        given["greedy_rewards"] = given.pop("greedy")
    if "rehearsal" in needs and "ref_logprobs" not in needs:
        given["ref_logprobs"] = np.where(batch.is_stored[row], ref, np.float32(0))
    token_rewards = np.zeros(num_tokens, np.float32)
    rewarded = np.flatnonzero((last_loss_token(batch) >= 0) & ~batch.is_stored)
    token_rewards[last_loss_token(batch)[rewarded]] = batch.rewards[rewarded]
    return {"rollout_logprobs": near(old, 0.02), "token_rewards": token_rewards, **given}


def with_padding(batch: Batch, count: int) -> Batch:
    """Every response with ``count`` more tokens, all outside the loss."""
    ends = np.repeat(batch.offsets[1:], count)
    columns = {
        name: np.insert(values, ends, 0)
        for name, values in vars(batch).items()
        if isinstance(values, np.ndarray)
        and name not in (*ROW_COLUMNS, "offsets", "prompt_tokens", "prompt_offsets")
    }
    return batch.with_columns(
        **columns, offsets=batch.offsets + count * np.arange(len(batch.offsets))
    )
