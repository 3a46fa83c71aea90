"""Rewards that are more than the verdict."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from archer.algos.shaping import cosine, overlong_penalty, repeated_frac, shaped_reward
from archer.config.keys import ShapingConfig
from archer.types import Completion, Prompt, RewardResult, Sample

LIMIT = 20
PROMPT = Prompt("0-0", np.zeros(1, np.int32), "", "", "")
RIGHT, WRONG = RewardResult(1.0, True, "ok"), RewardResult(0.0, False, "ok")
NO_ANSWER = RewardResult(0.0, False, "no_answer")


def sample(
    num_tokens: int = 4, result: RewardResult = RIGHT, tokens: Any = None, reason: str = "stop"
) -> Sample:
    tokens = np.arange(num_tokens) if tokens is None else np.array(tokens)
    logprobs = np.zeros(len(tokens), np.float32)
    return Sample(PROMPT, 0, Completion("0-0/0", tokens, logprobs, reason, 0), "", result)  # type: ignore[arg-type]


def shaped(sample: Sample, **shaping: Any) -> float:
    return shaped_reward(sample, ShapingConfig(**shaping), LIMIT)


def test_without_shaping_the_reward_is_the_verdict():
    assert shaped(sample(result=RIGHT)) == 1
    assert shaped(sample(result=NO_ANSWER, reason="length")) == 0
    assert ShapingConfig().active == []


@pytest.mark.parametrize(("num_tokens", "penalty"), [(16384, 0), (18432, -0.5), (20480, -1)])
def test_soft_length_penalty_of_the_paper(num_tokens: int, penalty: float):
    assert overlong_penalty(num_tokens, 20480, 4096) == penalty


def test_verdicts_become_minus_and_plus_one():
    both = {"scale": 2.0, "offset": -1.0}
    assert (shaped(sample(result=RIGHT), **both), shaped(sample(result=WRONG), **both)) == (1, -1)
    assert ShapingConfig(**both).active == ["scale", "offset"]


@pytest.mark.parametrize(
    ("num_tokens", "right", "wrong"),
    [(0, 2, -10), (5, 1.853553, -8.535534), (10, 1.5, -5), (20, 1, 0)],
)
def test_cosine_reward_of_the_paper(num_tokens: int, right: float, wrong: float):
    """Short is best when right, long when wrong; half of the limit is half of the way."""
    paper = {"cosine_length": {}}
    assert shaped(sample(num_tokens), **paper) == pytest.approx(right, rel=1e-4)
    assert shaped(sample(num_tokens, WRONG), **paper) == pytest.approx(wrong, rel=1e-4)


def test_cosine_reward_of_a_cut_response_has_the_papers_penalty():
    cut = sample(LIMIT, WRONG, reason="length")
    assert shaped(cut, cosine_length={}, truncated_penalty=10.0) == pytest.approx(-10)


def test_cosine_is_flat_at_both_ends():
    assert cosine(0.01, 2, 1) == pytest.approx(2, abs=1e-3)
    assert cosine(0.99, 2, 1) == pytest.approx(1, abs=1e-3)


def test_penalties_hit_what_they_name_and_add_up():
    penalties = {"truncated_penalty": 0.5, "no_answer_penalty": 0.25}
    assert shaped(sample(), **penalties) == 1
    assert shaped(sample(reason="length"), **penalties) == 0.5
    assert shaped(sample(result=NO_ANSWER), **penalties) == -0.25
    assert shaped(sample(result=NO_ANSWER, reason="length"), **penalties) == -0.75
    assert shaped(sample(18, reason="length"), overlong_buffer=4, **penalties) == 0


def test_repetition_costs_its_share():
    """Of the four pairs in 1 2 1 2 1 two are new."""
    repeated = sample(tokens=[1, 2, 1, 2, 1])
    assert shaped(repeated, repetition_penalty=0.5, repetition_ngram=2) == 0.75
    assert shaped(repeated, repetition_penalty=0.5) == 1  # shorter than an n-gram of 40


def test_repetition_counts_ngrams_met_before():
    assert repeated_frac(np.arange(19), 20) == 0.0  # shorter than one n-gram
    assert repeated_frac(np.arange(100), 20) == 0.0
    assert repeated_frac(np.zeros(22, int), 20) == 1 - 1 / 3  # three windows, all alike
    assert repeated_frac(np.array([1, 2, 1, 2, 1]), 2) == 0.5
    assert repeated_frac(np.zeros(0, int), 1) == 0.0


def test_a_failed_verifier_has_no_reward_whatever_the_shaping():
    failed = sample(result=RewardResult.failure("timeout", ""), reason="length")
    every = {"cosine_length": {}, "truncated_penalty": 1.0, "repetition_penalty": 1.0}
    assert math.isnan(shaped(failed, **every))
