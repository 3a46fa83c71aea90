"""pass@k and maj@n against the enumeration of every draw, and what luck alone does to avg@n."""

from itertools import combinations, product

import numpy as np
import pytest

from archer.evaluation.statistics import (
    avg_at_k,
    majority_per_problem,
    mean_over_problems,
    pass_per_problem,
    sampling_error,
)

NAN = float("nan")


@pytest.mark.parametrize("n", range(1, 10))
def test_pass_at_k_is_the_share_of_draws_with_a_right_sample_for_all_small_n_c_k(n: int):
    for c, k in product(range(n + 1), range(1, n + 1)):
        row = [1.0] * c + [0.0] * (n - c)
        draws = [max(draw) for draw in combinations(row, k)]
        assert pass_per_problem(np.array([row]), k)[0] == pytest.approx(np.mean(draws), abs=1e-12)


@pytest.mark.parametrize(
    ("correct", "answers", "majority"),
    [
        ([1, 1, 0], ["7", "7", "8"], 1.0),
        ([1, 0, 0], ["7", "8", "8"], 0.0),
        ([1, 0, 0], ["7", "8", "9"], 1 / 3),  # a tie is shared
        ([1, 0, 0, 0], ["7", "8", None, None], 0.5),  # who has no answer has no vote
        ([0, 0], [None, None], 0.0),
        ([1, NAN, NAN], ["7", "8", "8"], 1.0),  # nor has one without a verdict
        ([1, 1, 0, 0], ["1/2", "0.5 exactly", "2", "2"], 0.0),  # two spellings split their votes
    ],
)
def test_the_majority_answers_for_the_problem(correct, answers, majority: float):
    assert majority_per_problem(np.array([correct]), [answers])[0] == pytest.approx(majority)


def test_a_problem_without_a_verdict_is_left_out_of_the_majority():
    correct = np.array([[NAN, NAN], [1.0, 1.0]])
    assert np.isnan(majority_per_problem(correct, [["1", "1"], ["2", "2"]])[0])
    found = majority_per_problem(correct, [["1", "1"], ["2", "2"]])
    assert mean_over_problems(found) == 1.0


def test_the_sampling_error_is_what_repeats_of_the_evaluation_differ_by():
    rng = np.random.default_rng(0)
    rates = rng.uniform(size=30)
    repeats = (rng.uniform(size=(400, 30, 16)) < rates[:, None]).astype(float)
    spread = np.std([avg_at_k(correct) for correct in repeats])
    stated = np.mean([sampling_error(correct) for correct in repeats])
    assert stated == pytest.approx(spread, rel=0.1)  # 400 repeats give the spread within 4 %


def test_one_sample_says_nothing_of_its_luck():
    assert np.isnan(sampling_error(np.array([[1.0], [0.0]])))
    assert np.isnan(sampling_error(np.array([[NAN, NAN]])))
