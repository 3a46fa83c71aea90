"""Advantages of one group, worked by hand."""

import numpy as np
import pytest

from archer.algos import ADVANTAGES

ONE_RIGHT = np.array([1.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [("grpo", 1.499997, -0.499999), ("grpo_nostd", 0.75, -0.25), ("rloo", 1.0, -0.333333)],
)
def test_one_right_answer_of_four(name, right, wrong):
    advantages = ADVANTAGES[name](ONE_RIGHT)
    assert advantages.dtype == np.float32
    np.testing.assert_allclose(advantages, [right, wrong, wrong, wrong], rtol=1e-5)


@pytest.mark.parametrize("name", ADVANTAGES)
@pytest.mark.parametrize(
    "rewards",
    [
        [0.9, 0.9, 0.9],
        [0.9, float(np.float32(0.9)), 0.9],  # equal up to float32 rounding
        [1.0],
        [1.0, np.nan],
        [np.nan, np.nan],
        [],
    ],
)
def test_rewards_that_say_nothing_give_exactly_zero(name, rewards):
    advantages = ADVANTAGES[name](np.array(rewards, dtype=np.float64))
    assert advantages.tolist() == [0.0] * len(rewards)


@pytest.mark.parametrize("name", ADVANTAGES)
def test_a_failed_verifier_is_left_out_of_the_statistics(name):
    with_failure = ADVANTAGES[name](np.array([1.0, np.nan, 0.0, 0.0, 0.0]))
    assert with_failure[1] == 0.0
    np.testing.assert_array_equal(np.delete(with_failure, 1), ADVANTAGES[name](ONE_RIGHT))
