"""Corrections for a verifier that errs: values, expectations, scale and audit."""

from __future__ import annotations

import numpy as np
import pytest
from algo_inputs import reward_batch
from pydantic import ValidationError

from archer.algos import ADVANTAGES
from archer.algos.advantages import Advantage, grpo
from archer.algos.pgbc import PGBCArgs, pgbc
from archer.algos.pgfc import pgfc
from archer.algos.rloo import rloo
from archer.runtime.alerts import Alerts

ONE_ACCEPTED = [1.0, 0.0, 0.0, 0.0]


def run(name: str, rewards: list[float], state: dict | None = None, **args):
    advantage: Advantage = ADVANTAGES[name]
    batch, config = reward_batch(rewards), advantage.config(**args)
    advantages = advantage.estimate(batch, config, {} if state is None else state)
    assert advantage.audit is not None
    return advantages, advantage.audit(batch, config, advantages)


@pytest.mark.parametrize(
    ("name", "accepted", "rejected"),
    [("pgbc", 1.428571, -0.476190), ("pgfc", 0.2, -0.8)],
)
def test_one_accepted_of_four(name, accepted, rejected):
    advantages, _ = run(name, ONE_ACCEPTED)
    assert advantages.dtype == np.float32
    np.testing.assert_allclose(advantages, [accepted, *[rejected] * 3], rtol=1e-4)
    halved, _ = run(name, ONE_ACCEPTED, scale=2.0)
    np.testing.assert_allclose(halved, advantages / 2, rtol=1e-6)


def test_backward_correction_is_right_on_average():
    rho0, rho1, truth = 0.1, 0.2, np.array([1.0, 0.0, 0.0])
    expected = np.zeros(3)
    for verdicts in np.ndindex(2, 2, 2):
        accepted = np.where(truth == 1, 1 - rho1, rho0)
        probability = np.prod(np.where(verdicts, accepted, 1 - accepted))
        expected += probability * pgbc(np.array(verdicts, dtype=float), rho0, rho1)
    np.testing.assert_allclose(expected, rloo(truth), atol=1e-6)


def test_forward_correction_is_right_on_average_up_to_a_factor():
    rho0, rho1 = 0.1, 0.2
    accepted, rejected = pgfc(np.array([1.0, 0.0]), rho1)
    assert (1 - rho1) * accepted + rho1 * rejected == pytest.approx(0.0)  # of a right response
    assert rho0 * accepted + (1 - rho0) * rejected == pytest.approx(-(1 - rho0 - rho1))


def test_forward_correction_keeps_uniform_groups():
    advantages, _ = run("pgfc", [1.0, 1.0, np.nan])
    np.testing.assert_allclose(advantages, [0.2, 0.2, 0.0], rtol=1e-6)


def test_a_group_deviation_would_cancel_both_corrections():
    observed = np.array(ONE_ACCEPTED)
    for corrected in ((observed - 0.1) / 0.7, pgfc(observed, 0.2)):
        np.testing.assert_allclose(grpo(corrected), [1.5, -0.5, -0.5, -0.5], rtol=1e-4)


@pytest.mark.parametrize("name", ["pgbc", "pgfc"])
def test_the_running_scale_remembers_earlier_batches(name):
    state: dict[str, float] = {}
    plain, _ = run(name, ONE_ACCEPTED)
    first, _ = run(name, ONE_ACCEPTED, state, scale="ema")
    np.testing.assert_array_equal(first, plain)  # a batch does not scale itself
    square = float(np.square(plain).mean())
    two_right, _ = run(name, [1.0, 1.0, 0.0, np.nan])
    second, _ = run(name, [1.0, 1.0, 0.0, np.nan], state, scale="ema")
    np.testing.assert_allclose(second, two_right / np.sqrt(square), rtol=1e-5)
    square = 0.99 * square + 0.01 * float(np.square(two_right[:3]).mean())
    assert state == {"square": pytest.approx(square, rel=1e-5)}


@pytest.mark.parametrize("rewards", [[1.0, 1.0], [np.nan], []])
def test_the_running_scale_survives_batches_that_say_nothing(rewards):
    state: dict[str, float] = {}
    advantages, audit = run("pgbc", rewards, state, scale="ema")
    assert advantages.tolist() == [0.0] * len(rewards)
    assert state == {}
    assert np.isnan(audit["advantage/audit_cosine"])


def test_the_audit_tells_a_correction_from_another_learning_rate():
    _, backward = run("pgbc", ONE_ACCEPTED)
    assert backward["advantage/audit_cosine"] == pytest.approx(1.0, abs=1e-9)
    assert backward["advantage/audit_max_diff"] == pytest.approx(1 / 0.7 - 1, rel=1e-5)
    _, forward = run("pgfc", ONE_ACCEPTED)
    # of (0.2, -0.8, -0.8, -0.8) and (0, -1, -1, -1)
    assert forward["advantage/audit_cosine"] == pytest.approx(2.4 / np.sqrt(1.96 * 3))
    assert forward["advantage/audit_max_diff"] == pytest.approx(0.2)
    _, none = run("pgfc", ONE_ACCEPTED, rho1=0.0)
    assert none["advantage/audit_max_diff"] == 0.0
    assert [bool(Alerts().check(audit)) for audit in (backward, forward, none)] == [
        True,
        False,
        True,
    ]


def test_a_verifier_that_is_wrong_more_often_than_right_is_refused():
    with pytest.raises(ValidationError, match="rho0 \\+ rho1 must be below 1"):
        PGBCArgs(rho0=0.5, rho1=0.5)
