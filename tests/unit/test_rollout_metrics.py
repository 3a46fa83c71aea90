"""Figures of a step, and the warnings they raise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from algo_inputs import reward_batch

from archer.batch import mask_impossible
from archer.rollout_metrics import batch_metrics, reward_metrics, rollout_metrics
from archer.runtime.alerts import Alerts
from archer.types import Batch, Completion, Group, Prompt, RewardResult, Sample

PROMPT = Prompt("0-0", np.zeros(2, np.int32), "q", "t", "s")


def sample(index: int, num_tokens: int, result: RewardResult, reason: str = "stop") -> Sample:
    tokens = np.arange(num_tokens, dtype=np.int32)
    logprobs = np.zeros(num_tokens, np.float32)
    completion = Completion(f"0-0/{index}", tokens, logprobs, reason, 0)  # type: ignore[arg-type]
    return Sample(PROMPT, index, completion, "", result)


def test_rollout_figures_by_hand():
    right, wrong = RewardResult(1.0, True, "ok"), RewardResult(0.0, False, "no_answer")
    failed = RewardResult.failure("timeout", "slow")
    group = Group(
        PROMPT,
        (
            sample(0, 4, right),
            sample(1, 10, wrong, "length"),
            sample(2, 0, wrong),
            sample(3, 6, failed),
        ),
    )
    metrics = rollout_metrics([group], [group], lambda s: s.result.reward - 2 * s.index)
    assert metrics["reward/mean"] == metrics["reward/accuracy"] == 1 / 3
    assert metrics["reward/shaped_mean"] == (1 - 2 - 4) / 3
    assert metrics["reward/shaped_std"] == np.std([1, -2, -4])
    assert metrics["reward/no_answer_frac"] == 2 / 3
    assert metrics["reward/failure_frac"] == 0.25
    assert metrics["rollout/response_tokens_mean"] == 5
    assert metrics["rollout/response_tokens_right"] == 4
    assert metrics["rollout/response_tokens_wrong"] == 5
    assert metrics["rollout/truncated_frac"] == metrics["rollout/empty_frac"] == 0.25
    assert metrics["rollout/solve_all_frac"] == metrics["rollout/solve_none_frac"] == 0


def test_figures_of_the_verifiers_by_hand():
    parts = {"format": 1.0, "math": 0.0}
    results = [
        RewardResult(0.3, False, "ok", components=parts, seconds=0.1, queue_s=2.0),
        RewardResult(0.0, False, "memory", components=parts | {"math": math.nan}, seconds=0.3),
        RewardResult(0.0, False, "timeout", seconds=0.2),
        RewardResult(math.nan, False, "timeout", seconds=8.0, deaths=2),
    ]
    metrics = reward_metrics(results)
    assert metrics["reward/status/timeout"] == 0.5
    assert metrics["reward/status/ok"] == metrics["reward/status/memory"] == 0.25
    assert metrics["reward/status/crashed"] == 0
    assert metrics["reward/component/format"] == 1.0
    assert metrics["reward/component/math"] == 0.0  # where it failed it has no value
    assert metrics["reward/queue_s_mean"] == 0.5
    assert metrics["reward/queue_s_max"] == 2.0
    assert metrics["reward/verify_s_mean"] == pytest.approx(8.6 / 4)
    # Between the third of 0.3 s and the fourth of 8 s, at 0.95 * 3 = 2.85.
    assert metrics["reward/verify_s_p95"] == pytest.approx(0.3 + 0.85 * 7.7)
    assert metrics["reward/verifier_deaths"] == 2


def test_greedy_responses_have_a_figure_of_their_own():
    right, failed = RewardResult(1.0, True, "ok"), RewardResult.failure("timeout", "slow")
    sampled = (sample(0, 4, RewardResult(0.0, False, "ok")),)
    groups = [
        Group(PROMPT, sampled, greedy=sample(1, 9, result, "length")) for result in (right, failed)
    ]
    metrics = rollout_metrics(groups, groups, lambda s: s.result.reward)
    assert metrics["reward/greedy_accuracy"] == 1
    assert metrics["reward/mean"] == metrics["rollout/truncated_frac"] == 0
    assert metrics["rollout/response_tokens_max"] == 4
    plain = [Group(PROMPT, sampled)]
    assert "reward/greedy_accuracy" not in rollout_metrics(plain, plain, lambda s: 0.0)


def batch(**columns: np.ndarray) -> Batch:
    return reward_batch(
        [1.0, 0.0],
        lengths=[2, 2],
        advantages=np.array([1, 1, 0, -1], np.float32),
        mask=[True, True, True, False],
        **columns,
    )


def test_batch_figures_leave_masked_tokens_out():
    metrics = batch_metrics(batch())
    assert metrics["advantage/mean"] == np.float32(2 / 3)
    assert metrics["advantage/zero_frac"] == 1 / 3
    assert (metrics["policy/loss_tokens"], metrics["policy/masked_tokens"]) == (3, 1)


def test_tokens_of_no_probability_leave_the_loss():
    old = np.array([-1, -np.inf, -1, -1], np.float32)
    assert mask_impossible(batch(old_logprobs=old)).mask.tolist() == [True, False, True, False]
    assert mask_impossible(batch()).mask.tolist() == [True, True, True, False]


def test_each_warning_is_said_once():
    alerts = Alerts()
    assert alerts.check({"policy/entropy": 0.1, "rollout/truncated_frac": 0.1}) == []
    first = alerts.check({"policy/entropy": 0.3, "rollout/truncated_frac": 0.5})
    assert [line.split(" is ")[0] for line in first] == [
        "warning: rollout/truncated_frac",
        "warning: policy/entropy",
    ]
    assert alerts.check({"policy/entropy": 0.3, "rollout/truncated_frac": 0.5}) == []
    assert alerts.check({"policy/entropy": math.nan}) == []
