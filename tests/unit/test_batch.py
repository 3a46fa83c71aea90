"""Groups to batches, loss weights, dealing over ranks, micro-batches."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archer.algos import AGGREGATIONS, resolve_algorithm, resolve_objective
from archer.algos.credit import assign_credit
from archer.batch import (
    build_batch,
    deal,
    empty_row,
    loss_weights,
    micro_batches,
    mini_batches,
    prepare,
)
from archer.config.keys import AlgoConfig
from archer.types import Batch, Completion, Group, Prompt, RewardResult, Sample

MAX_RESPONSE_TOKENS = 10
LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=30).map(np.array)


def sample(
    prompt: Prompt, index: int, num_tokens: int, reward: float, reason: str = "stop"
) -> Sample:
    """Token t of response i is 10 i + t, its log-prob the negative; NaN is a failed verifier."""
    tokens = np.arange(num_tokens, dtype=np.int32) + 10 * index
    completion = Completion(f"{prompt.id}/{index}", tokens, -tokens.astype(np.float32), reason, 0)
    result = RewardResult(reward, reward > 0, "ok")
    if np.isnan(reward):
        result = RewardResult.failure("timeout", "")
    return Sample(prompt, index, completion, "", result)


def group(name: str, prompt_tokens: list[int], *responses: tuple) -> Group:
    prompt = Prompt(name, np.array(prompt_tokens, np.int32), "", "", "")
    return Group(prompt, tuple(sample(prompt, i, *r) for i, r in enumerate(responses)))


def algo(**changes: object) -> AlgoConfig:
    return AlgoConfig(name="grpo", advantage="grpo_nostd", **changes)


def credited(groups: list[Group], config: AlgoConfig) -> Batch:
    """The batch with its advantages."""
    batch = build_batch(groups, config, MAX_RESPONSE_TOKENS)
    return assign_credit(batch, resolve_algorithm(config), 0.0, 0.0, {})[0]


def two_groups() -> list[Group]:
    return [group("a", [1, 2, 3], (2, 1.0), (3, 0.0)), group("b", [4], (0, 1.0), (1, 1.0))]


def test_rows_are_laid_end_to_end():
    batch = credited(two_groups(), algo())
    assert batch.prompt_tokens.tolist() == [1, 2, 3, 1, 2, 3, 4, 4]
    assert batch.prompt_offsets.tolist() == [0, 3, 6, 7, 8]
    assert batch.response_tokens.tolist() == [0, 1, 10, 11, 12, 10]
    assert batch.rollout_logprobs.tolist() == [0, -1, -10, -11, -12, -10]
    assert batch.offsets.tolist() == [0, 2, 5, 5, 6]
    assert batch.group_ids.tolist() == [0, 0, 1, 1]
    # Reward minus the mean of the group: +-0.5 in the first, 0 in the second.
    assert batch.advantages.tolist() == [0.5, 0.5, -0.5, -0.5, -0.5, 0]
    assert batch.mask.all()


def test_selected_rows_keep_their_own_tokens_and_columns():
    batch = credited(two_groups(), algo()).select([3, 1])
    assert batch.prompt_tokens.tolist() == [4, 1, 2, 3]
    assert batch.response_tokens.tolist() == [10, 10, 11, 12]
    assert batch.advantages.tolist() == [0, -0.5, -0.5, -0.5]
    assert batch.group_ids.tolist() == [1, 0]


def test_failed_verifier_leaves_the_loss_and_the_group_mean():
    groups = [group("a", [1], (1, 1.0), (2, np.nan), (1, 0.0))]
    batch = credited(groups, algo())
    assert batch.mask.tolist() == [True, False, False, True]
    assert batch.advantages.tolist() == [0.5, 0, 0, -0.5]


def test_masked_overlong_response_still_counts_in_the_group_mean():
    groups = [group("a", [1], (1, 1.0), (1, 0.0, "length"))]
    batch = credited(groups, algo(overlong="mask"))
    assert batch.mask.tolist() == [True, False]
    assert batch.advantages.tolist() == [0.5, 0]
    kept = credited(groups, algo(overlong="keep"))
    assert kept.advantages.tolist() == [0.5, -0.5]


def test_dropped_overlong_response_leaves_the_group_mean_too():
    """With the cut response the mean would be 2/3; without it it is 1/2."""
    groups = [group("a", [1], (1, 1.0), (1, 0.0), (1, 1.0, "length"))]
    batch = credited(groups, algo(overlong="drop"))
    assert batch.mask.tolist() == [True, True, False]
    assert np.isnan(batch.rewards).tolist() == [False, False, True]
    assert batch.advantages.tolist() == [0.5, -0.5, 0]


def test_dropped_overlong_response_leaves_a_single_one_without_an_advantage():
    groups = [group("a", [1], (1, 1.0), (1, 0.0, "length"))]
    assert credited(groups, algo(overlong="drop")).advantages.tolist() == [0, 0]


def test_a_response_that_ends_at_the_limit_by_itself_is_not_overlong():
    groups = [group("a", [1], (MAX_RESPONSE_TOKENS, 1.0, "stop"), (1, 0.0))]
    assert credited(groups, algo(overlong="drop")).mask.all()


def test_greedy_reward_is_shaped_and_stands_on_every_row_of_its_prompt():
    first, second = two_groups()
    first = replace(first, greedy=sample(first.prompt, 2, 1, 1.0))
    batch = build_batch([first, second], algo(shaping={"scale": 3.0}), MAX_RESPONSE_TOKENS)
    assert batch.greedy_rewards is not None
    assert batch.greedy_rewards[:2].tolist() == [3, 3]
    assert np.isnan(batch.greedy_rewards[2:]).all()
    assert len(batch) == 4
    assert batch.rewards.tolist() == [3, 0, 3, 3]


def test_length_penalty_grows_over_the_buffer():
    """Limit 10 and buffer 4: 6 tokens cost nothing, 8 cost 1/2, 10 cost 1."""
    groups = [group("a", [1], (6, 1.0), (8, 1.0), (10, 1.0))]
    batch = credited(groups, algo(shaping={"overlong_buffer": 4}))
    assert batch.advantages[[0, 6, 14]].tolist() == [0.5, 0, -0.5]


def test_no_group_makes_an_empty_batch():
    batch = credited([], algo())
    assert len(batch) == 0
    assert batch.mask.dtype == bool
    assert batch.advantages.dtype == np.float32
    assert mini_batches(batch, 4, seed=0) == []


def batch_of(lengths: list[int], in_loss: list[bool], group_ids: list[int]) -> Batch:
    num_tokens, zeros = sum(lengths), np.zeros(sum(lengths), np.float32)
    return Batch(
        prompt_tokens=np.ones(len(lengths), np.int32),
        prompt_offsets=np.arange(len(lengths) + 1),
        response_tokens=np.ones(num_tokens, np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        rollout_logprobs=zeros,
        advantages=zeros,
        mask=np.repeat(in_loss, lengths),
        group_ids=np.array(group_ids),
        rewards=np.zeros(len(lengths)),
        correct=np.zeros(len(lengths), dtype=bool),
        is_stored=np.zeros(len(lengths), dtype=bool),
    )


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [  # the weight of one token of the 2-token, the 3-token and the 1-token response
        ("token-mean", [1 / 6, 1 / 6, 1 / 6]),
        ("seq-mean-token-mean", [1 / 6, 1 / 9, 1 / 3]),
        ("seq-mean-token-sum", [1 / 3, 1 / 3, 1 / 3]),
        ("seq-sum-norm", [1 / 30, 1 / 30, 1 / 30]),
        ("group-token-mean", [1 / 10, 1 / 10, 1 / 2]),  # groups of 5 tokens and of 1
    ],
)
def test_loss_weights_ignore_masked_and_empty_responses(aggregation: str, expected: list[float]):
    batch = batch_of([2, 3, 0, 4, 1, 0], [True, True, True, False, True, True], [0, 0, 0, 1, 1, 1])
    weights = loss_weights(batch, aggregation, MAX_RESPONSE_TOKENS)
    assert weights.dtype == np.float32
    assert weights[:2] == pytest.approx(expected[0])
    assert weights[2:5] == pytest.approx(expected[1])
    assert weights[5:9].tolist() == [0, 0, 0, 0]
    assert weights[9:] == pytest.approx(expected[2])


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_mini_batch_without_loss_tokens_weighs_nothing(aggregation: str):
    batch = batch_of([2, 0], [False, True], [0, 0])
    assert loss_weights(batch, aggregation, MAX_RESPONSE_TOKENS).tolist() == [0, 0]


ROWS = st.lists(  # tokens, whether they enter the loss, whether stored, group
    st.tuples(st.integers(0, 6), st.booleans(), st.booleans(), st.integers(0, 3)),
    min_size=1,
    max_size=12,
)


def batch_of_rows(rows: list[tuple[int, bool, bool, int]]) -> Batch:
    """Stored rows get groups of their own, as rehearsal gives them."""
    lengths, in_loss, stored, groups = (list(column) for column in zip(*rows, strict=True))
    ids = [group + 10 * is_stored for group, is_stored in zip(groups, stored, strict=True)]
    return batch_of(lengths, in_loss, ids).with_columns(is_stored=np.array(stored, bool))


@given(ROWS, st.sampled_from(list(AGGREGATIONS)))
def test_sampled_and_stored_responses_are_aggregated_apart(rows: list, aggregation: str):
    """Means weigh 1 in all, sums what a mean of sums weighs; each population by its own counts."""
    batch = batch_of_rows(rows)
    weights = loss_weights(batch, aggregation, MAX_RESPONSE_TOKENS)
    assert (weights[~batch.mask] == 0).all()
    for is_stored in (False, True):
        population = batch.mask & (batch.is_stored[batch.rows] == is_stored)
        counts = np.bincount(batch.rows, population, len(batch))
        if not population.any():
            continue
        mean_length = counts.sum() / np.count_nonzero(counts)
        total = {
            "seq-mean-token-sum": mean_length,
            "seq-sum-norm": mean_length / MAX_RESPONSE_TOKENS,
        }
        assert weights[population].sum() == pytest.approx(total.get(aggregation, 1), rel=1e-5)
        alone = loss_weights(batch.with_columns(mask=population), aggregation, MAX_RESPONSE_TOKENS)
        assert weights[population].tolist() == alone[population].tolist()


@given(ROWS, st.sampled_from(list(AGGREGATIONS)), st.randoms(use_true_random=False))
def test_selected_tokens_are_aggregated_as_if_there_were_no_others(
    rows: list, aggregation: str, random: Random
):
    batch = batch_of_rows(rows)
    selected = np.array([random.random() < 0.5 for _ in batch.mask], bool)
    prepared = prepared_with(batch, selected, aggregation)
    assert prepared.prepared["selected"].tolist() == (selected & batch.mask).tolist()
    alone = batch.with_columns(mask=selected & batch.mask)
    expected = loss_weights(alone, aggregation, MAX_RESPONSE_TOKENS)
    assert prepared.prepared["selected_weights"].tolist() == expected.tolist()
    assert prepared.mask.tolist() == batch.mask.tolist()


def test_corrections_reach_selected_weights():
    batch = batch_of([2], [True], [0]).with_columns(corrections=np.array([3.0, 0.5], np.float32))
    prepared = prepared_with(batch, np.array([True, True]), "token-mean")
    assert prepared.prepared["selected_weights"].tolist() == [1.5, 0.25]


def prepared_with(batch: Batch, selected: np.ndarray, aggregation: str) -> Batch:
    def select(*_: object) -> dict[str, np.ndarray]:
        return {"selected": selected}

    objective = replace(resolve_objective("grpo"), prepare=select)
    return prepare(batch, objective, None, aggregation, MAX_RESPONSE_TOKENS, seed=0)


@given(LENGTHS, st.integers(1, 5))
def test_dealing_gives_every_row_to_one_rank_and_balances(lengths: np.ndarray, num_ranks: int):
    shares = deal(lengths, num_ranks)
    assert len(shares) == num_ranks
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(lengths)))
    loads = [lengths[share].sum() for share in shares]
    assert max(loads) - min(loads) <= lengths.max()


@given(LENGTHS, st.integers(1, 80), st.sampled_from(["padded", "packed"]))
def test_micro_batches_hold_every_row_once_within_the_budget(
    lengths: np.ndarray, max_tokens: int, layout: str
):
    pieces = micro_batches(lengths, max_tokens, layout)
    assert sorted(np.concatenate(pieces).tolist()) == list(range(len(lengths)))
    for piece in pieces:
        own = lengths[piece]
        cost = len(own) * own.max() if layout == "padded" else own.sum()
        assert cost <= max_tokens or len(piece) == 1


def test_micro_batches_count_padding_only_where_there_is_some():
    lengths = np.array([2, 6, 2, 2])
    assert [p.tolist() for p in micro_batches(lengths, 12, "packed")] == [[1, 0, 2, 3]]
    assert [p.tolist() for p in micro_batches(lengths, 12, "padded")] == [[1, 0], [2, 3]]


@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**31))
def test_mini_batches_are_whole_groups_and_cover_all(num_groups: int, size: int, seed: int):
    batch = batch_of([1] * (3 * num_groups), [True] * (3 * num_groups), [0, 1, 2] * num_groups)
    batch = batch.with_columns(group_ids=np.arange(3 * num_groups) % num_groups)
    pieces = mini_batches(batch, size, seed)
    assert sorted(np.concatenate(pieces).tolist()) == list(range(3 * num_groups))
    for piece in pieces:
        ids = batch.group_ids[piece]
        assert len(piece) == 3 * len(set(ids)) <= 3 * size


def test_mini_batches_follow_from_the_seed():
    batch = batch_of([1] * 12, [True] * 12, list(range(12)))
    first, again, other = (
        np.concatenate(mini_batches(batch, 3, seed)).tolist() for seed in (1, 1, 2)
    )
    assert first == again != other


def test_the_row_of_an_idle_rank_has_a_token_to_run_and_none_in_the_loss():
    row = empty_row()
    assert row.total_lengths.tolist() == [2]
    assert not row.mask.any()
