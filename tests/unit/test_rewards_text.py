"""Rewards that read the text alone: format, exact, regex, json_schema, length, repetition."""

import asyncio
import json
import math
import time

import pytest

from archer.config.keys import RewardConfig
from archer.errors import ConfigError
from archer.rewards import resolve_reward
from archer.rewards.pool.processes import VerifierProcesses
from archer.types import RewardResult, ScoreRequest


def judge(name: str, response: str, truth: object = "", **args: object) -> RewardResult | float:
    reward = resolve_reward(name, args)
    result = reward.judge(ScoreRequest("1", response, truth), **args)
    assert isinstance(result, RewardResult | float)
    return result


def reward_of(name: str, response: str, truth: object = "", **args: object) -> float:
    result = judge(name, response, truth, **args)
    return result.reward if isinstance(result, RewardResult) else result


def through_a_process(name: str, response: str, truth: object, timeout_s: float) -> RewardResult:
    async def score() -> RewardResult:
        processes = VerifierProcesses(RewardConfig(name=name, timeout_s=timeout_s))
        await processes.start()
        try:
            return await processes.score(ScoreRequest("1", response, truth))
        finally:
            await processes.close()

    return asyncio.run(score())


@pytest.mark.parametrize(
    ("response", "truth", "args", "expected"),
    [
        ("Paris", "Paris", {}, 1),
        ("  Paris \n", "Paris", {}, 1),
        ("New   York", "New\nYork", {}, 1),
        ("paris", "Paris", {}, 0),
        ("paris", "Paris", {"ignore_case": True}, 1),
        ("STRASSE", "straße", {"ignore_case": True}, 1),
        ("It is Paris", "Paris", {}, 0),
        ("<think>Rome? Paris</think>Paris", "Paris", {}, 1),
        ("<think>Paris</think>Rome", "Paris", {}, 0),
        ("B", ["A", "B"], {}, 1),
        ("C", ["A", "B"], {}, 0),
        ("27", 27, {}, 1),
        ("27", 27.0, {}, 0),
        (r"So \boxed{B}.", "B", {"extract": ["boxed"]}, 1),
        ("B", "B", {"extract": ["boxed"]}, 0),
        ("Hm.\nAnswer: B", "B", {"extract": ["boxed", "answer"]}, 1),
        ("\ud800", "\ud800", {}, 1),
    ],
)
def test_exact_compares_words(response: str, truth: object, args: dict, expected: float):
    assert reward_of("exact", response, truth, **args) == expected


def test_exact_tells_silence_from_a_wrong_answer():
    for response in ("", "<think>Paris</think>", "<think>Paris"):
        result = judge("exact", response, "Paris")
        assert isinstance(result, RewardResult)
        assert (result.reward, result.status) == (0.0, "no_answer")


@pytest.mark.parametrize("truth", [None, "", "  ", [], [""], True, {"a": 1}, ["a", None]])
def test_exact_refuses_truths_without_content(truth: object):
    with pytest.raises(ValueError, match="ground truth"):
        resolve_reward("exact", {}).check(truth, "", {})


@pytest.mark.parametrize(
    ("response", "truth", "args", "expected"),
    [
        ("the year 1969", r"\b1969\b", {}, 1),
        ("the year 19690", r"\b1969\b", {}, 0),
        ("<think>1969</think>1970", "1969", {}, 0),
        ("one\ntwo", "^two$", {}, 1),
        ("no", ["yes", "n."], {}, 1),
        ("Answer: 3.5", "3.5", {"pattern": r"Answer:\s*{truth}$"}, 1),
        ("Answer: 345", "3.5", {"pattern": r"Answer:\s*{truth}$"}, 0),
        ("aa", None, {"pattern": "a{2}"}, 1),
    ],
)
def test_regex_searches_the_final_text(response: str, truth: object, args: dict, expected: float):
    assert reward_of("regex", response, truth, **args) == expected


def test_regex_refuses_what_is_no_pattern():
    with pytest.raises(ConfigError, match=r"reward\.args\.pattern='\('.*unterminated"):
        resolve_reward("regex", {"pattern": "("})
    for truth in ("(", None, "", []):
        with pytest.raises(ValueError, match=r"ground truth|regular expression"):
            resolve_reward("regex", {}).check(truth, "", {})


def test_a_pattern_that_never_ends_is_killed_and_not_called_wrong():
    result = through_a_process("regex", "a" * 60 + "!", "^(a+)+$", timeout_s=1.0)
    assert result.status == "timeout"
    assert math.isnan(result.reward)
    assert result.seconds < 2.0


def test_format_decides_without_a_process_only_what_needs_no_pattern():
    reward, request = resolve_reward("format", {}), ScoreRequest("1", r"\boxed{1}", None)
    assert reward.quick is not None
    quick = reward.quick(request)
    assert quick is not None and quick.reward == 1.0
    assert reward.quick(request, pattern="x") is None
    assert reward_of("format", "a\nb", pattern="a.b") == 1.0
    assert reward_of("format", "<think>x</think>y", pattern="^<think>.*</think>") == 1.0
    with pytest.raises(ConfigError, match=r"reward\.args\.pattern"):
        resolve_reward("format", {"pattern": "["})


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
}


@pytest.mark.parametrize(
    ("response", "expected", "status"),
    [
        ('{"name": "Ada"}', 1, "ok"),
        ('{"name": "Ada", "age": 36}', 1, "ok"),
        ('{"name": "Ada", "age": -1}', 0, "ok"),
        ('{"age": 36}', 0, "ok"),
        ('"Ada"', 0, "ok"),
        ('Here:\n```json\n{"name": "Ada"}\n```\nDone.', 1, "ok"),
        ('```json\n{"name": 1}\n```\nor\n```json\n{"name": "Ada"}\n```', 1, "ok"),
        ('```\n{"name": "Ada"}\n```\n```python\nprint(1)\n```', 1, "ok"),
        ('```json\n{"name": "Ada"}', 0, "wrong_format"),
        ('Here: {"name": "Ada"}', 0, "wrong_format"),
        ('<think>{"name": "Ada"}</think>', 0, "wrong_format"),
        ('{"name": "Ada", "age": NaN}', 0, "wrong_format"),
        ('{"name": "Ada", "age": 1e999}', 0, "wrong_format"),
        ('{"name": "Ada", "age": ' + "9" * 100_000 + "}", 0, "wrong_format"),
        ("[" * 100_000, 0, "wrong_format"),
        ("", 0, "wrong_format"),
    ],
)
@pytest.mark.parametrize("truth", [PERSON, json.dumps(PERSON)])
def test_json_schema(response: str, expected: float, status: str, truth: object):
    result = judge("json_schema", response, truth)
    assert isinstance(result, RewardResult)
    assert (result.reward, result.correct, result.status) == (expected, bool(expected), status)


UNIQUE = {"$schema": "https://json-schema.org/draft/2020-12/schema", "uniqueItems": True}


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ('[1, true, 0, false, null, "1", [1], {"a": 1}, {"a": "1"}]', 1),
        ("[[1], [1.0]]", 0),
        ('[{"a": 1, "b": 2}, {"b": 2, "a": 1.0}]', 0),
        ("1", 1),
        ('[{"a": [1, 1]}]', 1),
    ],
)
def test_json_schema_finds_items_that_are_there_twice(response: str, expected: float):
    assert reward_of("json_schema", response, UNIQUE) == expected
    inside = UNIQUE | {"items": {"$ref": "#"}}
    assert reward_of("json_schema", f"[0, {response}]", inside) == expected


def test_json_schema_judges_many_items_in_linear_time():
    items = [item for i in range(3000) for item in (f"s{i}", {"a": i}, (2**61 - 1) * i)]
    start = time.monotonic()
    assert reward_of("json_schema", json.dumps(items), UNIQUE) == 1.0
    assert reward_of("json_schema", json.dumps([*items, "s7"]), UNIQUE) == 0.0
    assert time.monotonic() - start < 5.0


@pytest.mark.parametrize("response", ["1" + "0" * 400, "[" + "1," * 200_000 + "1]"])
def test_json_schema_cannot_be_worn_out_by_a_document(response: str):
    result = judge("json_schema", response, {"multipleOf": 0.01})
    assert isinstance(result, RewardResult)
    assert (result.reward, result.status) == (0.0, "wrong_format")


def test_json_schema_of_the_arguments_needs_no_truth():
    assert reward_of("json_schema", "3", None, schema={"type": "integer"}) == 1.0
    resolve_reward("json_schema", {"schema": {}}).check(None, "", {"schema": {}})


def test_json_schema_detail_does_not_give_expected_values_away():
    result = judge("json_schema", '{"a": 1}', {"properties": {"a": {"const": "secret"}}})
    assert isinstance(result, RewardResult)
    assert result.detail == "$.a: const"


def test_a_recursive_schema_judges_deep_documents():
    tree = {"properties": {"child": {"$ref": "#"}}, "type": "object"}
    assert reward_of("json_schema", '{"child": {"child": {}}}', tree) == 1.0
    assert reward_of("json_schema", '{"child": {"child": 1}}', tree) == 0.0
    deep = '{"child": ' * 900 + "{}" + "}" * 900
    assert reward_of("json_schema", deep, tree) == 0.0  # no stack overflow, no failure


@pytest.mark.parametrize("truth", [None, "", "x", 1, [], {"type": "number?"}, {"$ref": "#"}])
def test_json_schema_refuses_what_is_no_schema(truth: object):
    with pytest.raises(ValueError):
        resolve_reward("json_schema", {}).check(truth, "", {})
    with pytest.raises(ConfigError, match=r"reward\.args\.schema"):
        resolve_reward("json_schema", {"schema": {"type": 3}})


@pytest.mark.parametrize(("num_words", "expected"), [(0, 1), (10, 1), (15, 0.75), (30, 0), (99, 0)])
def test_length_falls_between_its_bounds(num_words: int, expected: float):
    assert reward_of("length", "word " * num_words, free_words=10, max_words=30) == expected


@pytest.mark.parametrize(
    ("response", "ngram", "expected"),
    [
        ("a b c d", 2, 1),
        ("a b a b", 2, 2 / 3),  # ab, ba, ab
        ("A b a B", 2, 2 / 3),
        ("x x x x x", 2, 1 / 4),
        ("x x x", 4, 1),
        ("", 4, 1),
    ],
)
def test_repetition_is_the_share_of_new_ngrams(response: str, ngram: int, expected: float):
    assert reward_of("repetition", response, ngram=ngram) == expected


@pytest.mark.parametrize(
    ("name", "args", "key"),
    [
        ("length", {"max_words": 0}, "max_words"),
        ("length", {"max_words": 5, "free_words": 5}, "free_words"),
        ("length", {}, "args"),
        ("repetition", {"ngram": 0}, "ngram"),
        ("exact", {"extract": ["bexed"]}, "extract"),
        ("exact", {"extract": "boxed"}, "extract"),
        ("ifeval", {"loose": "yes"}, "loose"),
        ("random", {"probability": 2}, "probability"),
        ("random", {"probability": True}, "probability"),
        ("random", {"seed": "x"}, "seed"),
        ("exact", {"ignore_case": "maybe"}, "ignore_case"),
        ("exact", {"extract": [["boxed"]]}, "extract"),
        ("repetition", {"ngram": True}, "ngram"),
        ("format", {"pattern": 5}, "pattern"),
        ("regex", {"pattern": 5}, "pattern"),
        ("code", {"time_limit_s": 0}, "time_limit_s"),
        ("code", {"time_limit_s": "6"}, "time_limit_s"),
        ("code", {"time_limit_s": math.inf}, "time_limit_s"),
        ("code", {"max_tests": 0}, "max_tests"),
        ("code", {"max_tests": True}, "max_tests"),
        ("time.sleep", {}, "reward.name"),
    ],
)
def test_arguments_are_checked_before_the_run(name: str, args: dict, key: str):
    with pytest.raises(ConfigError) as caught:
        resolve_reward(name, args)
    assert key in caught.value.key
    assert caught.value.mend.startswith(("Set it to ", "Set it below ", "Correct ", "Wrap it "))


def test_schemas_are_judged_in_a_confined_process():
    result = through_a_process("json_schema", '{"name": 1}', PERSON, timeout_s=5.0)
    assert (result.reward, result.detail) == (0.0, "$.name: type")
