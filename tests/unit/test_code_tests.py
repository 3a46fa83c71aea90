"""Truths in the shapes of data sets: how they are read, and which are refused."""

import json
import time

import pytest

from archer.rewards import REWARDS, sandbox
from archer.rewards.code.cases import cases
from archer.rewards.code_verifier import code_reward
from archer.rewards.extraction import code_block
from archer.types import ScoreRequest


def only(truth):
    (case,) = cases(truth)
    return case


def test_lists_of_lines_are_joined():
    case = only({"inputs": [["2", "3"]], "outputs": [["5", "6"]]})
    assert case.execution.stdin == "2\n3"
    assert case.accepts(b"5\n6\n")
    assert not case.accepts(b"5 6\n")


def test_one_json_argument_a_line():
    test = {"input": '[1, 2]\n"a"\n', "output": "[3]", "testtype": "functional"}
    case = only([test | {"metadata": {"func_name": "f"}}])
    assert case.execution.kind == "call"
    assert case.execution.entry_point == "f"
    assert json.loads(case.execution.arguments) == [[1, 2], "a"]
    assert case.accepts(b"[3]")
    assert not case.accepts(b"3")


def test_only_taco_wraps_its_outputs():
    taco = only({"fn_name": "f", "inputs": [[1]], "outputs": [[5]]})
    plain = only({"fn_name": "f", "tests": [{"input": [1], "output": [5]}]})
    assert taco.accepts(b"5")
    assert taco.accepts(b"[5]")
    assert not plain.accepts(b"5")


def test_values_compare_as_in_python():
    case = only({"fn_name": "f", "tests": [{"input": [], "output": [1, True, 0.5]}]})
    assert case.accepts(b"[1.0, 1, 0.5]")
    assert not case.accepts(b'["1", 1, 0.5]')
    for hostile in (b"", b"[NaN, 1, 0.5]", b"[" * 100_000, b"1" * 100_000, b"\xff"):
        assert not case.accepts(hostile)


def test_text_is_json_or_a_python_literal_or_a_script():
    tests = {
        "language": "python",
        "test_cases": [{"type": "stdin_stdout", "input": "1", "output": "2"}],
    }
    for text in (json.dumps(tests), repr(tests | {"x": None}), json.dumps(json.dumps(tests))):
        assert only(text).execution.stdin == "1"
    assert only("assert f(1) == 2").execution.kind == "evaluate"


def test_keys_that_only_other_rows_have_do_not_matter():
    case = only({"inputs": ["1"], "outputs": ["2"], "functional": None, "fn_name": None})
    assert case.execution.kind == "stdin"


REFUSED = {
    "no tests": {"tests": []},
    "no outputs": {"inputs": ["1"], "outputs": []},
    "another language": {"language": "cpp", "test_cases": [{"input": "1", "output": "1"}]},
    "unknown keys": {"answer": "42"},
    "a number": "42",
    "a plain text": "the answer",
    "empty": "",
    "a test without output": {"tests": [{"input": "1"}]},
    "no function name": [{"input": "1", "output": "1", "testtype": "functional"}],
    "arguments that are no list": {"fn_name": "f", "tests": [{"input": 1, "output": 1}]},
    "arguments that are no JSON": {"fn_name": "f", "tests": [{"input": "a b", "output": "1"}]},
    "a checker of calls": {
        "fn_name": "f",
        "official_tests": [{"input": [1], "output": 1}],
        "generated_checker": "print(1)",
    },
    "tests that are no objects": {"tests": ["1"]},
    "null": None,
    "inputs that are no list": {"inputs": 5},
    "test cases that are no list": {"test_cases": 5},
    "a script that is no text": {"functional": 5},
    "a language that is no text": {"language": 5, "tests": [{"input": "1", "output": "1"}]},
    "inputs that are an object": {"inputs": {"a": 1}, "outputs": {"b": 2}},
    "null as input": {"inputs": [None], "outputs": ["1"]},
    "null as output": {"tests": [{"input": "1", "output": None}]},
    "a function name that is a number": {"fn_name": 5, "inputs": [[1]], "outputs": [1]},
    "a function name that is code": {"fn_name": "f; import os", "inputs": [[1]], "outputs": [1]},
    "a checker that is a number": {
        "official_tests": [{"input": "1", "output": "1"}],
        "generated_checker": 5,
    },
    "metadata that is no object": [{"input": "1", "output": "1", "metadata": "[1]"}],
}


@pytest.mark.parametrize("truth", REFUSED.values(), ids=REFUSED)
def test_refused(truth):
    with pytest.raises(ValueError):
        REWARDS["code"].check_truth(truth)


@pytest.mark.parametrize(
    "line", ["```\n", "```python\n", "`" * 1000 + "\n", " " * 999 + "\n", "```"]
)
def test_finding_the_program_takes_one_pass(line):
    response = line * (2_000_000 // len(line))
    start = time.process_time()
    code_block(response)
    assert time.process_time() - start < 2


def test_a_subset_is_fixed_and_keeps_the_largest_inputs():
    sizes = [3, 50, 7, 1, 90, 2, 30, 5, 8, 4]
    truth = {"tests": [{"input": "x" * n, "output": str(n)} for n in sizes]}
    chosen = [len(case.execution.stdin) for case in cases(truth, 5)]
    cases.__globals__["_cases_of_text"].cache_clear()
    assert [len(case.execution.stdin) for case in cases(truth, 5)] == chosen
    assert len(chosen) == 5
    assert {90, 50, 30} <= set(chosen)
    assert sorted(chosen, key=sizes.index) == chosen
    others = {tuple(len(c.execution.stdin) for c in cases(truth | {"id": i}, 5)) for i in range(20)}
    assert len(others) > 1  # the small ones differ from truth to truth


@pytest.mark.parametrize("number", [0, -1])
def test_no_tests_are_never_passed(number):
    truth = {"tests": [{"input": "1", "output": "2"}]}
    with pytest.raises(ValueError, match="max_tests"):
        cases(truth, number)
    with pytest.raises(ValueError, match="max_tests"):
        code_reward(ScoreRequest("1", "```\n0\n```", truth), max_tests=number)


@pytest.mark.parametrize(
    ("info", "is_python"),
    [
        ("", True), ("python", True), ("Python3", True), ("py", True), ("python3.11", True),
        ("{.python}", True), ("{ .python .numberLines }", True), ("python:main.py", True),
        ("python title='a'", True), ("python,linenos", True),
        ("pythonic", False), ("python-repl", False), ("cpp", False), ("c++", False),
        ("{.r}", False), ("5", False), ("{}", False),
    ],
)  # fmt: skip
def test_the_letters_of_a_fence_say_its_language(info, is_python):
    assert (code_block(f"```{info}\nx = 1\n```") is not None) == is_python


class Recorder:
    """Keeps what would go into the sandbox."""

    def __init__(self):
        self.executions = []

    def run(self, execution):
        self.executions.append(execution)
        return sandbox.Outcome("ok", b"")

    def close(self):
        pass


SECRET = 271828182845
TRUTHS = {
    "stdin": {"inputs": ["1"], "outputs": [f"{SECRET}"]},
    "call": {"fn_name": "f", "inputs": [[1]], "outputs": [SECRET]},
    "assertion": {"test": f"assert f(1) == {SECRET}"},
    "variable": {
        "test": f"def test_f():\n    wanted = {SECRET}\n    x = f(1)\n    assert x == wanted"
    },
    "loop": {"test": f"for x, y in [(1, {SECRET})]:\n    assert f(x) == y"},
    "evalplus": {
        "entry_point": "f",
        "test": "def assertion(out, exp, atol):\n    assert out == exp\n"
        f"def check(candidate):\n    inputs = [[1]]\n    results = [{SECRET}]\n"
        "    for inp, exp in zip(inputs, results):\n        assertion(candidate(*inp), exp, 0)",
    },
    "message": {"test": f"assert f(1), 'expected {SECRET}'"},
    "pattern": {
        "test": f"import pytest\nwith pytest.raises(ValueError, match='{SECRET}'):\n    f(1)"
    },
    "parameter": {
        "test": "import pytest\n@pytest.mark.parametrize('x, y', [(1, 271828182845)])\n"
        "def test_f(x, y):\n    assert f(x) == pytest.approx(y)"
    },
    "list": {
        "test": f"assert is_same_list(f(list_node([1])), list_node([{SECRET}]))",
    },
}


@pytest.mark.parametrize("truth", TRUTHS.values(), ids=TRUTHS)
def test_expected_values_never_enter_the_sandbox(truth, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(sandbox, "executor", lambda use: recorder)
    result = code_reward(ScoreRequest("0", "```\ndef f(x): ...\n```", truth))
    assert not result.correct
    assert str(SECRET) not in result.detail
    (execution,) = recorder.executions
    assert str(SECRET) not in repr(execution)
