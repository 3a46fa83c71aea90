"""From rewards to the advantages of tokens: the whole pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from algo_inputs import reward_batch

from archer.algos import resolve_algorithm
from archer.algos.credit import assign_credit
from archer.config.keys import AlgoConfig
from archer.types import Batch


def credit(
    batch: Batch, progress: float = 0.0, state: dict | None = None, **algo: Any
) -> tuple[Batch, dict[str, float]]:
    config = AlgoConfig(name="grpo", loss={"beta": 0.0}, **algo)
    state = {} if state is None else state
    return assign_credit(batch, resolve_algorithm(config), config.kl_in_reward, progress, state)


def drifted(**columns) -> Batch:
    """Two responses, the first off the reference by 0.1, 0.2 and 0.3 per token."""
    return reward_batch(
        [1.0, 0.0],
        lengths=[3, 1],
        **{"old_logprobs": [-1.0, -1.0, -1.0, -1.0], "ref_logprobs": [-1.1, -1.2, -1.3, -1.0]}
        | columns,
    )


# KL in the reward


def test_the_kl_penalty_lies_on_the_tokens_it_comes_from():
    batch, metrics = credit(drifted(), advantage="grpo_nostd", kl_in_reward=0.5)
    np.testing.assert_allclose(batch.token_rewards, [-0.05, -0.1, 0.85, 0.0], rtol=1e-5)
    assert metrics["reward/kl"] == pytest.approx(0.6 / 4)


def test_group_estimators_take_the_sum_of_the_penalty():
    batch, _ = credit(drifted(), advantage="grpo_nostd", kl_in_reward=0.5)
    np.testing.assert_allclose(batch.rewards, [0.7, 0.0], rtol=1e-5)
    np.testing.assert_allclose(batch.advantages, [0.35, 0.35, 0.35, -0.35], rtol=1e-5)


def test_returns_to_go_see_only_the_penalty_to_come():
    batch, _ = credit(drifted(), advantage="reinforce_pp", kl_in_reward=0.5)
    returns = np.array([0.7, 0.75, 0.85, 0.0])
    expected = (returns - returns.mean()) / returns.std(ddof=1)
    np.testing.assert_allclose(batch.advantages, expected, rtol=1e-5)


@pytest.mark.filterwarnings("error")
def test_tokens_off_the_mask_have_no_penalty_and_no_advantage():
    without = [-1.0, -np.inf, -1.0, -1.0]
    batch = drifted(
        old_logprobs=without,
        ref_logprobs=[-1.1, -np.inf, -1.3, -1.0],
        mask=[True, False, True, True],
    )
    batch, metrics = credit(batch, advantage="reinforce_pp", kl_in_reward=0.5)
    np.testing.assert_allclose(batch.token_rewards, [-0.05, 0.0, 0.85, 0.0], rtol=1e-5)
    assert metrics["reward/kl"] == pytest.approx(0.4 / 3)
    assert batch.advantages.dtype == np.float32
    assert batch.advantages[1] == 0.0
    assert np.isfinite(batch.advantages).all()


# Where the outcome lies


def test_the_outcome_lies_on_the_last_loss_token():
    batch = reward_batch([1.0, 2.0, 3.0, 4.0], lengths=[2, 0, 3, 1])
    batch = batch.with_columns(mask=np.array([True, True, True, False, False, False]))
    batch, _ = credit(batch)
    assert batch.token_rewards is not None
    assert batch.token_rewards.tolist() == [0.0, 1.0, 3.0, 0.0, 0.0, 0.0]


# Bonuses


def test_a_bonus_on_rewards_comes_before_the_estimator():
    batch = reward_batch([1.0, -1.0], lengths=[2, 1], old_logprobs=[-0.2, -0.2, -0.1])
    curious = {"advantage": "grpo_nostd", "bonus": "cde"}
    after, metrics = credit(batch, **curious)
    assert after.token_rewards is not None
    np.testing.assert_allclose(after.rewards, [1.2, -0.9], rtol=1e-6)
    np.testing.assert_allclose(after.token_rewards, [0.0, 1.2, -0.9], rtol=1e-6)
    np.testing.assert_allclose(after.advantages, [1.05, 1.05, -1.05], rtol=1e-6)
    assert metrics["rollout/surprise_right"] == pytest.approx(0.2)
    late, _ = credit(batch, progress=0.5, **curious)
    np.testing.assert_allclose(late.advantages, [1.0, 1.0, -1.0], rtol=1e-6)


def test_a_bonus_on_advantages_comes_after_the_estimator():
    batch = reward_batch([1.0, -1.0], lengths=[3, 1], old_entropy=[0.5, 9.0, np.nan, 0.5])
    batch = batch.with_columns(mask=np.array([True, True, False, True]))
    after, _ = credit(batch, advantage="grpo_nostd", bonus="entropy_adv")
    np.testing.assert_allclose(after.rewards, [1.0, -1.0])
    np.testing.assert_allclose(after.advantages, [1.2, 1.5, 0.0, -0.8], rtol=1e-6)


# Responses without a reward of their own


@pytest.mark.parametrize("advantage", ["grpo", "reinforce_pp", "reinforce_pp_baseline", "pgfc"])
def test_stored_responses_enter_no_statistics_and_get_no_advantage(advantage):
    columns = {"old_logprobs": [-1.0] * 4, "ref_logprobs": [-2.0, -1.0, -1.0, -2.0]}
    batch = reward_batch([np.nan, 1.0, 0.0, np.nan], group_ids=[5, 0, 0, 0], **columns)
    batch = batch.with_columns(
        mask=np.array([True, True, True, False]), is_stored=np.array([True, False, False, False])
    )
    args = {"advantage": advantage, "kl_in_reward": 0.5}
    after, metrics = credit(batch, **args)
    alone, alone_metrics = credit(batch.select([1, 2]), **args)
    assert after.advantages[[0, 3]].tolist() == [0.0, 0.0]
    assert after.token_rewards is not None
    assert after.token_rewards[0] == 0.0
    np.testing.assert_array_equal(after.advantages[1:3], alone.advantages)
    assert metrics == alone_metrics


def test_a_response_masked_out_of_the_loss_pays_the_kl_penalty_of_its_peers():
    """Else it would be the best of its group for being cut."""
    batch = reward_batch(
        [1.0] * 4, old_logprobs=[-1.0] * 4, ref_logprobs=[-1.5] * 4, mask=[True, True, True, False]
    )
    after, _ = credit(batch, kl_in_reward=0.1)
    assert after.rewards.tolist() == pytest.approx([0.95] * 4)
    assert after.advantages.tolist() == [0.0] * 4


def test_groups_that_teach_and_groups_of_one_are_counted():
    rewards = [1.0, 0.0, 1.0, 1.0, 1.0, np.nan, np.nan, np.nan]
    _, metrics = credit(reward_batch(rewards, group_ids=[0, 0, 1, 1, 2, 2, 3, 3]))
    assert metrics["advantage/num_informative_groups"] == 1
    assert metrics["advantage/num_lone_groups"] == 1


def test_a_step_without_groups():
    batch, metrics = credit(reward_batch([], lengths=[]), advantage="reinforce_pp")
    assert len(batch.advantages) == 0
    assert metrics["advantage/num_informative_groups"] == 0


# What goes with the estimator


def test_audit_metrics_and_running_means_reach_the_trainer():
    state: dict[str, float] = {}
    batch = reward_batch([1.0, 0.0, 0.0, 0.0])
    scaled = {"advantage": "pgfc", "advantage_args": {"scale": "ema"}}
    _, metrics = credit(batch, state=state, **scaled)
    assert metrics["advantage/audit_cosine"] == pytest.approx(2.4 / np.sqrt(1.96 * 3))
    assert state == {"square": pytest.approx((0.04 + 3 * 0.64) / 4)}
