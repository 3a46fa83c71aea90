"""avg@k, pass@k, bootstrap intervals, and intervals over problems and seeds."""

from itertools import combinations
from math import comb

import numpy as np
import pytest

from archer.evaluation.statistics import (
    avg_at_k,
    avg_per_problem,
    bootstrap_interval,
    difference_estimate,
    holm,
    mean_estimate,
    pass_at_k,
    pass_per_problem,
    t_quantile,
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


def test_a_problem_without_a_valid_sample_is_left_out():
    correct = np.array([[NAN, NAN], [1, NAN], [1, 0]])
    np.testing.assert_equal(avg_per_problem(correct), [NAN, 1.0, 0.5])
    np.testing.assert_equal(pass_per_problem(correct, 2), [NAN, 1.0, 1.0])
    assert avg_at_k(correct) == 0.75
    assert np.isnan(avg_at_k(correct[:1]))


def test_a_failed_verdict_takes_no_problem_out_of_pass_at_k():
    correct = np.array([[1, 1, 1, NAN], [0, 0, 0, 0]])
    assert [pass_at_k(correct, k) for k in range(1, 5)] == [0.5] * 4


def test_pass_at_k_never_falls_with_k():
    correct = np.random.default_rng(0).choice([0.0, 1.0, NAN], (50, 8), p=[0.5, 0.2, 0.3])
    curve = np.array([pass_per_problem(correct, k) for k in range(1, 9)])
    assert (np.diff(curve, axis=0)[:, ~np.isnan(curve[0])] > -1e-12).all()


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


NUM_TRIALS = 2000
SAMPLES = 8
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(60)


def simulated_trials(rng, num_seeds, num_problems, seed_std, k, accuracy=0.62, edge=0.3):
    """Two algorithms trained and evaluated many times over, and their true scores.

    The log-odds of a problem are its difficulty, and what the algorithm, the seed, and the seed on
    this very problem add to it. Returns scores [trials, S, P] of both, and the two true means.
    """
    of_count = np.arange(SAMPLES + 1) / SAMPLES  # right samples -> score
    if k > 1:
        of_count = pass_per_problem(np.tril(np.ones((SAMPLES + 1, SAMPLES)), -1), k)
    trials, difficulty, algorithm, seed_and_problem = NUM_TRIALS, 1.5, 0.3, 0.3
    of_seed = seed_std / (accuracy * (1 - accuracy) * 0.77)  # accuracy -> log-odds, on average
    problems = rng.normal(0, difficulty, (trials, 1, num_problems))
    scores, truths = [], []
    for centre in (np.log(accuracy / (1 - accuracy)) + edge, np.log(accuracy / (1 - accuracy))):
        log_odds = (
            centre
            + problems
            + rng.normal(0, algorithm, (trials, 1, num_problems))
            + rng.normal(0, of_seed, (trials, num_seeds, 1))
            + rng.normal(0, seed_and_problem, (trials, num_seeds, num_problems))
        )
        scores.append(of_count[rng.binomial(SAMPLES, 1 / (1 + np.exp(-log_odds)))])
        spread = np.sqrt(difficulty**2 + algorithm**2 + seed_and_problem**2 + of_seed**2)
        right = 1 / (1 + np.exp(-centre - spread * NODES))
        chances = np.array(
            [comb(SAMPLES, c) * right**c * (1 - right) ** (SAMPLES - c) for c in range(SAMPLES + 1)]
        )
        truths.append(of_count @ chances @ WEIGHTS / WEIGHTS.sum())
    return *scores, *truths


@pytest.mark.parametrize("num_seeds", [3, 5])
@pytest.mark.parametrize("num_problems", [64, 128])
@pytest.mark.parametrize(("k", "seed_std"), [(1, 0.0), (1, 0.02), (1, 0.05), (4, 0.02)])
def test_intervals_of_a_known_difference_contain_it_as_often_as_they_claim(
    num_seeds, num_problems, k, seed_std
):
    rng = np.random.default_rng(0)
    scores, others, truth, other_truth = simulated_trials(rng, num_seeds, num_problems, seed_std, k)
    covered = [
        estimate.low <= truth - other_truth <= estimate.high
        for estimate in (
            difference_estimate(a, b, k / SAMPLES) for a, b in zip(scores, others, strict=True)
        )
    ]
    assert 0.93 <= np.mean(covered) <= 0.97


def test_near_the_ceiling_the_interval_of_a_mean_covers_nine_times_in_ten():
    rng = np.random.default_rng(0)
    scores, _, truth, _ = simulated_trials(rng, 3, 128, 0.0, k=4, accuracy=0.9)
    estimates = [mean_estimate(a, 4 / SAMPLES) for a in scores]
    assert truth > 0.98
    assert np.mean([e.low <= truth <= e.high for e in estimates]) >= 0.9
    assert all(0 <= e.low <= e.value <= e.high <= 1 for e in estimates)


def test_with_one_seed_each_the_interval_is_that_of_a_paired_bootstrap_over_problems():
    rng = np.random.default_rng(0)
    hardness = rng.uniform(0, 1, 128)
    scores, others = (rng.binomial(8, hardness, (1, 128)) / 8 for _ in range(2))
    estimate = difference_estimate(scores, others, 1 / 8)
    low, high = bootstrap_interval((scores - others)[0], num_resamples=20000)
    assert not estimate.covers_seeds
    assert estimate.seeds == (0.0, 0.0)
    np.testing.assert_allclose([estimate.low, estimate.high], [low, high], atol=2e-3)
    unpaired = np.hypot(scores.std(), others.std()) * 1.96 / np.sqrt(128)
    assert estimate.high - estimate.value < 0.6 * unpaired


def test_variances_by_hand():
    scores = np.array([[0.0, 0.5, 1.0], [0.5, 0.5, 0.5]])  # two seeds of equal mean
    others = np.array([[0.0, 0.0, 0.0], [0.3, 0.3, 0.3]])
    estimate = difference_estimate(scores, others, 1 / 8)
    assert estimate.value == pytest.approx(0.35)
    assert estimate.problems == pytest.approx(0.0625 / 3)  # differences 0.1, 0.35, 0.6
    assert estimate.noise == pytest.approx((0.25 / 2 / 6, 0.0))  # four corners of 0.25 off
    raw = 0.045 / 2  # seed means 0 and 0.3, two of them; those of `scores` do not differ
    share = 1 - (0.25 / 2 / 6) / raw
    assert estimate.seeds == pytest.approx((0.0, share * raw))
    variance = 0.0625 / 3 + share * raw
    spread = (0.0625 / 3) ** 2 / 2 + share**0.5 * raw**2
    assert estimate.degrees == pytest.approx(variance**2 / spread)


def test_swapping_the_two_mirrors_the_interval():
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 40)), rng.random((5, 40))
    there, back = difference_estimate(a, b, 0.1), difference_estimate(b, a, 0.1)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p_value == back.p_value


def test_equal_scores_do_not_promise_certainty():
    ones = np.ones((3, 128))
    difference, mean = difference_estimate(ones, ones, 1.0), mean_estimate(ones, 1.0)
    assert difference.is_floored and difference.low < 0 < difference.high
    assert 0.98 < mean.low < mean.high == 1.0
    assert difference.p_value == 1.0


def test_an_interval_excludes_zero_exactly_when_p_is_below_five_percent():
    rng = np.random.default_rng(0)
    base = rng.random((3, 64))
    for shift in np.linspace(-0.2, 0.2, 41):
        estimate = difference_estimate(base + shift, rng.random((3, 64)), 0.1)
        assert estimate.is_resolved == (estimate.p_value < 0.05)


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (10, 2.2281), (127, 1.9788)]
)
def test_student_t(degrees, quantile):
    assert t_quantile(0.95, degrees) == pytest.approx(quantile, rel=1e-4)


def test_more_seeds_or_problems_show_what_fewer_do_not():
    rng = np.random.default_rng(3)
    seeds = rng.normal(0, 0.03, (2, 3, 1))
    noise = rng.normal(0, 0.1, (2, 3, 64))
    lucky = difference_estimate(seeds[0] + noise[0] + 0.02, seeds[1] + noise[1], 0.1)
    assert not lucky.shows_with(3, 64)
    assert lucky.shows_with(3000, 64)
    assert not lucky.shows_with(3, 64000)  # training luck does not average out over problems


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []
