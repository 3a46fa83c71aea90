"""IFEval's instructions, each followed and not followed, and the reward made of them."""

import asyncio
import json
import time
from importlib.util import find_spec
from typing import Any

import pytest

from archer.config.keys import RewardConfig
from archer.rewards import resolve_reward
from archer.rewards.instructions import INSTRUCTIONS, split_sentences
from archer.rewards.pool.processes import VerifierProcesses
from archer.types import RewardResult, ScoreRequest

needs_langdetect = pytest.mark.skipif(
    find_spec("langdetect") is None, reason="langdetect is not installed"
)
ENGLISH = "this is a simple sentence that anyone who reads english can understand without help"

CASES: list[tuple[str, dict[str, Any], str, bool]] = [
    ("keywords:existence", {"keywords": ["Tea", "c++"]}, "I like tea and C++.", True),
    ("keywords:existence", {"keywords": ["tea", "milk"]}, "I like tea.", False),
    ("keywords:frequency", _at_least := {"keyword": "tea", "frequency": 2, "relation": "at least"},
     "Tea, tea", True),
    ("keywords:frequency", _at_least, "Tea", False),
    ("keywords:frequency", {**_at_least, "relation": "less than"}, "Tea", True),
    ("keywords:frequency", {**_at_least, "relation": "less than"}, "Tea tea", False),
    ("keywords:forbidden_words", {"forbidden_words": ["tea"]}, "A teapot.", True),
    ("keywords:forbidden_words", {"forbidden_words": ["tea"]}, "TEA!", False),
    ("keywords:letter_frequency",
     _letters := {"letter": "e", "let_frequency": 3, "let_relation": "at least"}, "Eee", True),
    ("keywords:letter_frequency", _letters, "ee", False),
    ("length_constraints:number_sentences",
     _three := {"num_sentences": 3, "relation": "less than"}, "One. Two!", True),
    ("length_constraints:number_sentences", _three, "One. Two! Three?", False),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", True),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\na\n***\nb\n***", True),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\n***\nb", False),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n\nb", False),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "a b, c", True),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "a - b", False),
    ("length_constraints:nth_paragraph_first_word",
     _nth := {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Hello"},
     'x\n\n"hello, you', True),
    ("length_constraints:nth_paragraph_first_word", _nth, "hello\n\nx", False),
    ("length_constraints:nth_paragraph_first_word", _nth, "x\n\nhello\n\ny", False),
    ("length_constraints:nth_paragraph_first_word", _nth, "x", False),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] and [b c]", True),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] and [b", False),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye\n\np. s. me", True),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye\nP.P.S. me", True),
    ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye\nP.S. me", False),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n  - b\n** c", True),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n* b\n* c", False),
    ("detectable_format:constrained_response", {}, "Well. My answer is no.", True),
    ("detectable_format:constrained_response", {}, "No.", False),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* *b*", True),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "*a* * *", False),
    ("detectable_format:multiple_sections",
     _sections := {"section_spliter": "Section", "num_sections": 2},
     "Section 1\na\nSection 2\nb", True),
    ("detectable_format:multiple_sections", _sections, "Section 1\na\nSection\nb", False),
    ("detectable_format:json_format", {}, '```json\n{"a": [1]}\n```', True),
    ("detectable_format:json_format", {}, '{"a": 1}', True),
    ("detectable_format:json_format", {}, 'Here: {"a": 1}', False),
    ("detectable_format:json_format", {}, "[" * 100_000, False),
    ("detectable_format:title", {}, "<<poem of joy>>\nRoses", True),
    ("detectable_format:title", {}, "<< >>\nRoses", False),
    ("detectable_format:title", {}, "<<poem\n>>", False),
    ("combination:two_responses", {}, "a ****** b", True),
    ("combination:two_responses", {}, "a ****** a", False),
    ("combination:two_responses", {}, "a ****** b ****** c", False),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "say it. It.", True),
    ("combination:repeat_prompt", {"prompt_to_repeat": "Say it."}, "It. Say it.", False),
    ("startend:end_checker", {"end_phrase": "The end."}, '"So. the END."\n', True),
    ("startend:end_checker", {"end_phrase": "The end."}, "The end. Bye", False),
    ("startend:quotation", {}, ' "a" ', True),
    ("startend:quotation", {}, '"', False),
    ("change_case:capital_word_frequency",
     _capitals := {"capital_frequency": 2, "capital_relation": "at least"}, "A WELL-KNOWN b", True),
    ("change_case:capital_word_frequency", _capitals, "WELL-KNOWN b", False),
    ("punctuation:no_comma", {}, "a; b", True),
    ("punctuation:no_comma", {}, "a, b", False),
]  # fmt: skip
LANGUAGE_CASES = [
    ("language:response_language", {"language": "en"}, ENGLISH, True),
    ("language:response_language", {"language": "de"}, ENGLISH, False),
    ("language:response_language", {"language": "de"}, "Das ist ein ganz einfacher Satz.", True),
    ("language:response_language", {"language": "de"}, "123", True),
    ("change_case:english_capital", {}, ENGLISH.upper(), True),
    ("change_case:english_capital", {}, ENGLISH, False),
    ("change_case:english_lowercase", {}, ENGLISH, True),
    ("change_case:english_lowercase", {}, "das ist ein ganz einfacher deutscher satz", False),
]


def truth(*instructions: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    ids, kwargs = zip(*instructions, strict=True)
    return {"key": 1, "instruction_id_list": list(ids), "kwargs": list(kwargs)}


def judge(response: str, ground_truth: Any, **args: bool) -> RewardResult:
    reward = resolve_reward("ifeval", args)
    reward.check(ground_truth, "", args)
    result = reward.judge(ScoreRequest("1", response, ground_truth), **args)
    assert isinstance(result, RewardResult)
    return result


@pytest.mark.parametrize(("id", "kwargs", "response", "follows"), CASES)
def test_each_instruction(id: str, kwargs: dict[str, Any], response: str, follows: bool):
    result = judge(response, truth((id, kwargs)))
    assert (result.correct, result.reward) == (follows, float(follows))


@needs_langdetect
@pytest.mark.parametrize(("id", "kwargs", "response", "follows"), LANGUAGE_CASES)
def test_each_language(id: str, kwargs: dict[str, Any], response: str, follows: bool):
    assert judge(response, truth((id, kwargs))).correct == follows


def test_every_instruction_has_a_case():
    assert len(INSTRUCTIONS) == 25
    for outcome in (True, False):
        tried = {case[0] for case in CASES + LANGUAGE_CASES if case[3] == outcome}
        assert tried == INSTRUCTIONS.keys()


BOTH = truth(
    ("punctuation:no_comma", {}),
    ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}),
)


def test_all_instructions_must_be_followed_unless_shares_count():
    result = judge("a, b", BOTH)
    assert (result.reward, result.correct) == (0.0, False)
    assert "no_comma" in result.detail and "number_words" in result.detail
    assert judge("a, b, c", BOTH).reward == 0.0
    half = judge("a, b, c", BOTH, partial_credit=True)
    assert (half.reward, half.correct) == (0.5, False)
    full = judge("a b c", BOTH, partial_credit=True)
    assert (full.reward, full.correct) == (1.0, True)


def test_loose_forgives_a_first_line_a_last_line_and_asterisks():
    quoted = truth(("startend:quotation", {}))
    for response in ('Sure!\n"a"', '"a"\nThere!', 'Sure!\n"a"\nThere!', '**"a"**'):
        assert not judge(response, quoted).correct
        assert judge(response, quoted, loose=True).correct
    assert not judge('Sure!\nYes!\n"a"', quoted, loose=True).correct


def test_only_text_after_the_reasoning_counts():
    assert judge("<think>a, b</think>a b c", BOTH).correct
    silent = judge("<think>a b c</think> ", BOTH)
    assert (silent.reward, silent.status) == (0.0, "no_answer")


def test_truths_come_as_json_text_and_with_the_null_columns_of_parquet():
    padded = truth(("punctuation:no_comma", {"keywords": None, "num_words": None}))
    assert judge("a", padded).correct
    assert judge("a", json.dumps(padded)).correct
    assert judge("a", {**BOTH, "kwargs": [None, BOTH["kwargs"][1]]}).correct is False


@pytest.mark.parametrize(
    ("ground_truth", "reason"),
    [
        ("42", "not an object"),
        ("{", "Expecting property name"),
        ({"instruction_id_list": []}, "not an object"),
        ({"instruction_id_list": [], "kwargs": []}, "no instructions"),
        ({"instruction_id_list": ["punctuation:no_comma"], "kwargs": []}, "not an object"),
        (truth(("punctuation:no_coma", {})), "no instruction of IFEval"),
        (truth(("keywords:existence", {})), "missing a required argument: 'keywords'"),
        (truth(("punctuation:no_comma", {"letter": "a"})), "unexpected keyword argument"),
        (truth(("keywords:frequency", {**_at_least, "relation": "around"})), "'around'"),
    ],
)
def test_rows_that_cannot_be_judged_are_refused(ground_truth: Any, reason: str):
    with pytest.raises(ValueError, match=reason):
        resolve_reward("ifeval", {}).check(ground_truth, "", {})


@pytest.mark.skipif(find_spec("langdetect") is not None, reason="langdetect is installed")
def test_rows_about_languages_say_what_to_install():
    with pytest.raises(ValueError, match="pip install langdetect"):
        judge(ENGLISH, truth(("language:response_language", {"language": "en"})))


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("One. Two! Three?", 3),
        ("Dr. Who met Mrs. J. Doe.", 1),
        ("It costs 3.50 dollars", 1),
        ('He said "go." Then he left.', 2),
        ("A heading\n\nA line\nanother", 3),
        ("Wait... What?", 2),
        ("", 0),
    ],
)
def test_sentences(text: str, count: int):
    assert len(split_sentences(text)) == count


@pytest.mark.parametrize(
    "piece", ["[", "<<", "*", "***", ". ", '"', "\n", "Section ", "a.", "-", "("]
)
def test_hostile_texts_take_linear_time(piece: str):
    text = piece * (1_000_000 // len(piece))
    start = time.perf_counter()
    for id, kwargs, _, _ in CASES:
        INSTRUCTIONS[id](text, **kwargs)
    assert time.perf_counter() - start < 10


@needs_langdetect
def test_languages_are_told_in_a_confined_process():
    async def score() -> RewardResult:
        processes = VerifierProcesses(RewardConfig(name="ifeval"))
        await processes.start()
        try:
            german = truth(("language:response_language", {"language": "de"}))
            return await processes.score(ScoreRequest("1", ENGLISH, german))
        finally:
            await processes.close()

    assert asyncio.run(score()).detail == "not followed: ['language:response_language']"
