"""avg@k, pass@k and bootstrap intervals."""

from itertools import combinations

import numpy as np
import pytest

from archer.statistics import (
    avg_at_k,
    avg_per_problem,
    bootstrap_interval,
    pass_at_k,
    pass_per_problem,
)

NAN = float("nan")


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_pass_at_k_is_the_share_of_all_subsets_that_hold_a_right_sample(k):
    correct = np.array([[0, 0, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 1, 0, 0], [1, 1, 1, 1, 1]])
    subsets = [[max(row[list(s)]) for s in combinations(range(5), k)] for row in correct]
    np.testing.assert_allclose(pass_per_problem(correct, k), np.mean(subsets, axis=1))
    assert pass_at_k(correct, k) == pytest.approx(np.mean(subsets))


def test_pass_at_one_is_avg_at_k():
    correct = np.random.default_rng(0).integers(0, 2, (20, 8)).astype(float)
    assert pass_at_k(correct, 1) == pytest.approx(avg_at_k(correct))


def test_hand_values():
    correct = np.array([[1, 0, 0, 0], [1, 1, 0, 0]])
    assert avg_at_k(correct) == pytest.approx(0.375)  # (1/4 + 2/4) / 2
    assert pass_at_k(correct, 2) == pytest.approx((1 / 2 + 5 / 6) / 2)  # 1 - 3/6 and 1 - 1/6


def test_pass_at_k_stays_exact_where_binomials_overflow_a_float():
    correct = np.zeros((1, 4000))
    correct[0, 0] = 1
    assert pass_at_k(correct, 2000) == pytest.approx(0.5)  # the one right sample is drawn or not


def test_failed_samples_shrink_the_n_of_their_own_problem():
    correct = np.array([[1, NAN, 0, NAN], [1, 1, 1, 0]])
    np.testing.assert_allclose(avg_per_problem(correct), [0.5, 0.75])
    np.testing.assert_allclose(pass_per_problem(correct, 2), [1.0, 1.0])


def test_a_problem_with_too_few_valid_samples_is_left_out():
    correct = np.array([[NAN, NAN], [1, NAN], [1, 0]])
    np.testing.assert_equal(avg_per_problem(correct), [NAN, 1.0, 0.5])
    np.testing.assert_equal(pass_per_problem(correct, 2), [NAN, NAN, 1.0])
    assert avg_at_k(correct) == 0.75
    assert np.isnan(avg_at_k(correct[:1]))


@pytest.mark.parametrize("k", [0, 5])
def test_k_out_of_range_is_refused(k):
    with pytest.raises(ValueError, match=f"k={k}: expected 1 <= k <= 4"):
        pass_at_k(np.ones((2, 4)), k)


def test_the_interval_covers_the_true_mean_about_as_often_as_it_claims():
    rng = np.random.default_rng(1)
    draws = rng.binomial(8, 0.4, (200, 60)) / 8
    intervals = [bootstrap_interval(draw, num_resamples=200) for draw in draws]
    covered = np.mean([low <= 0.4 <= high for low, high in intervals])
    assert 0.88 <= covered <= 0.99  # nominal 0.95; 200 repeats have a standard error of 0.015


def test_the_interval_is_deterministic_ignores_nan_and_may_be_empty():
    values = np.array([0.0, 1.0, 0.5, 0.25])
    assert bootstrap_interval(values) == bootstrap_interval(np.append(values, NAN))
    assert bootstrap_interval(np.array([0.5, 0.5])) == (0.5, 0.5)
    assert all(np.isnan(bootstrap_interval(np.array([NAN]))))
