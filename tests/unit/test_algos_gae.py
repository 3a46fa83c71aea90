"""Advantages and targets of a critic, its loss, and the bonus of heads that disagree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from algo_inputs import reward_batch

from archer.algos import OBJECTIVES, resolve_algorithm
from archer.algos.cde import CDECriticArgs, cde_critic
from archer.algos.credit import assign_credit
from archer.algos.gae import GAEArgs, critic_metrics, gae, gae_returns
from archer.algos.value_loss import value_loss
from archer.config.keys import AlgoConfig, load_config
from archer.errors import ConfigError
from archer.types import Batch

VALUES = [0.5, 0.6, 0.8]


def value_batch(
    values: list[float], lengths: list[int], rewards: list[float], **more: Any
) -> Batch:
    """Responses with these values, and each reward on the last token."""
    token_rewards = np.zeros(sum(lengths), np.float32)
    ends = np.cumsum(lengths)
    for end, length, reward in zip(ends, lengths, rewards, strict=True):
        if length and not np.isnan(reward):
            token_rewards[end - 1] = reward
    columns = {
        "values": np.array(values, np.float32),
        "value_std": np.zeros(len(values), np.float32),
        "token_rewards": token_rewards,
    }
    return reward_batch(rewards, lengths=lengths, **columns | more)


def raw(batch: Batch, **args: float) -> np.ndarray:
    return gae(batch, GAEArgs(whiten=False, **args), {})


@pytest.mark.parametrize(
    ("lam", "advantages", "returns"),
    [(1.0, [0.5, 0.4, 0.2], [1.0, 1.0, 1.0]), (0.95, [0.4705, 0.39, 0.2], [0.9705, 0.99, 1.0])],
)
def test_advantages_and_returns_of_one_response(lam, advantages, returns):
    batch = value_batch(VALUES, [3], [1.0])
    np.testing.assert_allclose(raw(batch, lam=lam), advantages, rtol=1e-4)
    np.testing.assert_allclose(gae_returns(batch, GAEArgs(lam=lam)), returns, rtol=1e-4)


def test_discount_counts_the_tokens_to_the_outcome():
    returns = gae_returns(value_batch(VALUES, [3], [1.0]), GAEArgs(gamma=0.9))
    np.testing.assert_allclose(returns, [0.81, 0.9, 1.0], rtol=1e-6)


def test_lambda_0_looks_one_token_ahead():
    np.testing.assert_allclose(
        raw(value_batch(VALUES, [3], [1.0]), lam=0.0), [0.1, 0.2, 0.2], rtol=1e-5
    )


def test_responses_do_not_see_each_other():
    batch = value_batch([0.3, *VALUES, 0.7], [1, 3, 0, 1], [0.0, 1.0, 1.0, 1.0])
    np.testing.assert_allclose(raw(batch), [-0.3, 0.5, 0.4, 0.2, 0.3], rtol=1e-5)


def test_tokens_off_the_mask_are_stepped_over():
    """Values and rewards there are garbage; the trace goes on behind them."""
    batch = value_batch(
        [0.5, np.nan, 0.6, 0.8, np.inf],
        [5],
        [1.0],
        mask=[True, False, True, True, False],
        token_rewards=[0.0, np.nan, 0.0, 1.0, np.nan],
    )
    np.testing.assert_allclose(raw(batch, lam=0.95), [0.4705, 0, 0.39, 0.2, 0], rtol=1e-4)
    returns = gae_returns(batch, GAEArgs(lam=0.95))
    np.testing.assert_allclose(returns, [0.9705, 0, 0.99, 1.0, 0], rtol=1e-4)


def test_responses_without_a_reward_teach_nothing():
    batch = value_batch([*VALUES, 0.4, 0.9], [3, 2], [1.0, np.nan], mask=[True] * 5)
    advantages = gae(batch, GAEArgs(), {})
    assert advantages[:3].any() and not advantages[3:].any()
    assert not gae_returns(batch, GAEArgs())[3:].any()


def test_whitening_spans_all_responses_and_leaves_the_returns_alone():
    batch = value_batch([*VALUES, 0.1], [3, 1], [1.0, 0.0])
    advantages = np.array([0.5, 0.4, 0.2, -0.1])
    expected = (advantages - advantages.mean()) / advantages.std(ddof=1)
    np.testing.assert_allclose(gae(batch, GAEArgs(), {}), expected, rtol=1e-5)
    np.testing.assert_allclose(gae_returns(batch, GAEArgs()), [1, 1, 1, 0], atol=1e-7)


@pytest.mark.parametrize("lengths", [[1], [0], [2]])
def test_too_little_to_whiten_is_exactly_0(lengths):
    """One token, none, or two of one advantage."""
    batch = value_batch([0.25] * sum(lengths), lengths, [1.0])
    assert not gae(batch, GAEArgs(), {}).any()


def test_credit_fills_in_what_the_critic_learns():
    algo = AlgoConfig.model_validate({"name": "ppo", "advantage": "gae", "critic": {}})
    batch = value_batch([*VALUES, 0.1], [3, 1], [1.0, 0.0])
    batch, metrics = assign_credit(batch, resolve_algorithm(algo), 0.0, 0.0, {})
    assert batch.returns is not None and batch.returns.dtype == np.float32
    np.testing.assert_allclose(batch.returns, [1, 1, 1, 0], atol=1e-7)
    np.testing.assert_allclose(batch.advantages[3], -1.323, atol=1e-3)
    assert metrics["critic/value_mean"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("values", "explained"), [([1.0, 1.0, 0.0], 1.0), ([0.5] * 3, 0.0), ([0.0, 0.0, 1.0], -3.0)]
)
def test_explained_variance_is_that_of_the_returns(values, explained):
    batch = value_batch(values, [2, 1], [1.0, 0.0])
    batch = batch.with_columns(returns=gae_returns(batch, GAEArgs()))
    metrics = critic_metrics(batch, GAEArgs(), batch.advantages)
    assert metrics["critic/explained_variance"] == pytest.approx(explained)


def test_explained_variance_of_equal_returns_is_not_a_number():
    batch = value_batch([0.5], [1], [1.0])
    batch = batch.with_columns(returns=gae_returns(batch, GAEArgs()))
    metrics = critic_metrics(batch, GAEArgs(), batch.advantages)
    assert np.isnan(metrics["critic/explained_variance"])


def test_value_loss_takes_the_worse_of_value_and_clipped_value():
    """Old value 0, clip 0.5: away from the target, past the clip on the way to it, and back."""
    values = torch.tensor([[0.3], [1.0], [1.0]], dtype=torch.float64, requires_grad=True)
    returns = torch.tensor([-1.0, 2.0, 0.0], dtype=torch.float64)
    loss, is_clipped = value_loss(values, torch.zeros_like(returns), returns, clip=0.5)
    assert loss.flatten().tolist() == pytest.approx([0.845, 1.125, 0.5])
    assert is_clipped.flatten().tolist() == [False, True, False]
    loss.sum().backward()
    assert values.grad is not None
    assert values.grad.flatten().tolist() == pytest.approx([1.3, 0.0, 1.0])


def test_value_loss_without_a_clip_is_a_square_for_every_head():
    values = torch.tensor([[1.0, 3.0]], dtype=torch.float64, requires_grad=True)
    loss, is_clipped = value_loss(values, torch.zeros(1), torch.ones(1), clip=None)
    assert loss.tolist() == [[0.0, 2.0]] and not is_clipped.any()
    loss.sum().backward()
    assert values.grad is not None and values.grad.tolist() == [[0.0, 2.0]]


def test_curiosity_follows_the_heads_after_the_token():
    """kappa 3, alpha 0.5: half the next deviation, at most a third of the advantage."""
    batch = value_batch(
        [0.0] * 5,
        [3, 2],
        [1.0, 0.0],
        value_std=np.array([9.0, 0.2, 4.0, 9.0, 1.0], np.float32),
        advantages=np.array([0.6, -0.6, 0.6, 0.0, 0.6], np.float32),
    )
    bonus = cde_critic(batch, CDECriticArgs(), 0.0) - batch.advantages
    np.testing.assert_allclose(bonus, [0.1, 0.2, 0, 0, 0], atol=1e-7)


def test_curiosity_steps_over_tokens_off_the_mask():
    batch = value_batch(
        [0.0] * 3,
        [3],
        [1.0],
        mask=[True, False, True],
        value_std=np.array([9.0, np.nan, 0.2], np.float32),
        advantages=np.array([3.0, 0.0, 3.0], np.float32),
    )
    changed = cde_critic(batch, CDECriticArgs(), 0.0)
    np.testing.assert_allclose(changed, [3.1, 0, 3], rtol=1e-6)


def test_ppo_is_the_clipped_surrogate_without_a_reference():
    objective = OBJECTIVES["ppo"]
    assert objective.needs(objective.config()) == {"old_logprobs"}


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"critic": None}, r"algo\.critic=None.* needs values"),
        ({"advantage": "grpo"}, r"algo\.critic=.*uses no values"),
        ({"advantage": "grpo", "bonus": "cde_critic"}, r"algo\.advantage='grpo'"),
        ({"critic": {"num_heads": 2}}, r"algo\.critic\.clip=0\.5"),
        ({"bonus": "cde_critic"}, r"algo\.critic\.num_heads=1"),
    ],
)
def test_a_critic_that_cannot_work_is_refused(change, refused):
    load_config(ppo_config({}))
    with pytest.raises(ConfigError, match=refused):
        load_config(ppo_config(change))


def ppo_config(changes: dict[str, Any]) -> dict[str, Any]:
    return {
        "algo": {"name": "ppo", "advantage": "gae", "critic": {}} | changes,
        "model": {"name": "tiny", "warm_start": {}},
        "data": {"name": "arithmetic", "task": "arithmetic", "max_prompt_tokens": 32},
        "reward": {"name": "math"},
        "sampling": {"max_response_tokens": 64},
    }
