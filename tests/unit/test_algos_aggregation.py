"""Token weights over a mini-batch, worked by hand."""

import numpy as np
import pytest

from archer.algos import AGGREGATIONS

LOSSES = [[1.0, 3.0], [2.0, 2.0, 2.0, 2.0], [8.0]]


def aggregate(name: str, losses: list[list[float]], group_ids: list[int]) -> float:
    lengths = np.array([len(row) for row in losses])
    weights = AGGREGATIONS[name](lengths, np.array(group_ids), 8)
    assert weights.dtype == np.float64
    return float(sum(w * sum(row) for w, row in zip(weights, losses, strict=True)))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("token-mean", 20 / 7),
        ("seq-mean-token-mean", 4.0),
        ("seq-mean-token-sum", 20 / 3),
        ("seq-sum-norm", 20 / 24),
        ("group-token-mean", (12 / 6 + 8) / 2),  # the first two responses share a prompt
    ],
)
def test_three_responses_of_two_prompts(name, expected):
    assert aggregate(name, LOSSES, [7, 7, 3]) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_a_response_without_loss_tokens_counts_nowhere(name):
    without = aggregate(name, LOSSES, [0, 0, 1])
    assert aggregate(name, [*LOSSES, [], []], [0, 0, 1, 1, 2]) == pytest.approx(without, rel=1e-12)


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_a_mini_batch_without_loss_tokens_weighs_nothing(name):
    assert AGGREGATIONS[name](np.array([0, 0]), np.array([0, 1]), 8).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", AGGREGATIONS)
def test_group_ids_need_not_be_contiguous(name):
    order = [2, 0, 1]
    shuffled = aggregate(name, [LOSSES[i] for i in order], [[0, 1, 0][i] for i in order])
    assert shuffled == pytest.approx(aggregate(name, LOSSES, [0, 1, 0]), rel=1e-12)
