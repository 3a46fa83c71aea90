"""The answers that a majority is made of: what rewards say a response answered."""

from __future__ import annotations

import pytest

from archer.rewards.exact import exact_reward
from archer.rewards.math_verifier import MAX_ANSWER_CHARS, math_quick, math_reward
from archer.rewards.pool.verdict import as_result
from archer.types import RewardResult, ScoreRequest


def request(answer: str, truth: str = "7") -> ScoreRequest:
    return ScoreRequest("r", f"So \\boxed{{{answer}}}", truth)


@pytest.mark.parametrize(
    "spellings",
    [
        ["1200", "1,200", "1200.0", r"\$1200", "01200", "1200."],
        [r"\frac{1}{2}", r"\dfrac{1}{2}", "1/2", "0.5", r"\frac12"],
        [r"\sqrt{2} + 1", r"\sqrt{2}+1", r"\sqrt{2}+1."],
    ],
)
def test_spellings_of_one_answer_vote_together(spellings: list[str]):
    assert len({math_reward(request(text)).answer for text in spellings}) == 1


def test_different_answers_vote_apart():
    answers = {math_reward(request(text)).answer for text in ("7", "-7", "70", "x", "2x")}
    assert len(answers) == 5


def test_the_quick_verdict_votes_for_the_same_answer():
    for text in ("007", "8", r"\text{(B)}", "x + 1"):
        quick = math_quick(request(text))
        assert quick is None or quick.answer == math_reward(request(text)).answer


def test_who_does_not_answer_has_no_vote():
    assert math_reward(ScoreRequest("r", "I cannot tell.", "7")).answer is None
    assert exact_reward(ScoreRequest("r", " ", "7")).answer is None


def test_an_endless_answer_is_cut():
    answer = math_reward(request("x+" * 5000 + "x")).answer
    assert answer is not None and len(answer) <= MAX_ANSWER_CHARS


def test_exact_answers_agree_but_for_white_space_and_case_where_it_is_ignored():
    texts = ("Paris", " Paris  ", "PARIS")
    asked = [ScoreRequest("r", text, "paris") for text in texts]
    assert {exact_reward(r).answer for r in asked} == {"Paris", "PARIS"}
    ignored = [exact_reward(r, ignore_case=True) for r in asked]
    assert {result.answer for result in ignored} == {"paris"}
    assert all(result.correct and result.detail in ("Paris", "PARIS") for result in ignored)


def test_an_answer_survives_the_way_from_a_verifier_process():
    assert as_result(RewardResult(1.0, True, "ok", answer="7")).answer == "7"
    assert as_result(RewardResult(1.0, True, "ok", answer=7)).answer == "7"  # pyright: ignore[reportArgumentType]
    assert as_result(1.0).answer is None
