"""The code reward on programs that are really run, at every level of isolation that holds here."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from archer.config.keys import SandboxConfig
from archer.errors import ConfigError
from archer.rewards import code_reward, sandbox
from archer.rewards.sandbox.levels import open_level
from archer.types import ScoreRequest

CORPUS = [
    json.loads(line)
    for line in (Path(__file__).parent / "corpus/code.jsonl").open(encoding="utf-8")
]
SUM = {"tests": [{"input": "2 3\n", "output": "5\n"}]}
ADD = "```\na, b = map(int, input().split())\nprint(a + b)\n```"


@pytest.fixture(scope="module", params=["A", "B"])
def level(request):
    """This process's sandbox at one level; small, so that memory hogs are done soon."""
    settings = {"level": request.param, "memory_mb": 512}
    try:
        open_level(request.param, SandboxConfig(**settings)).close()
    except ConfigError as error:
        pytest.skip(f"level {request.param} does not hold here: {error}")
    sandbox.configure(settings)
    yield request.param
    sandbox.configure({})


def judge(response, truth, deadline_s=30.0, **args):
    request = ScoreRequest("0", response, truth, time_limit_s=deadline_s)
    return code_reward(request, **args)


@pytest.mark.parametrize("case", CORPUS, ids=lambda case: case["name"])
def test_the_corpus(level, case):
    response = case["response"] if "response" in case else f"```python\n{case['program']}\n```"
    result = judge(response, case["truth"], time_limit_s=2.0)
    verdict = (result.status, result.correct, result.reward)
    assert verdict == (case["status"], case["correct"], float(case["correct"])), result.detail


def test_all_tests_together_end_before_the_deadline(level):
    truth = {"tests": [{"input": str(i), "output": str(i)} for i in range(100)]}
    start = time.monotonic()
    result = judge("```\nimport time\ntime.sleep(0.2)\nprint(input())\n```", truth, 3.0)
    assert (result.reward, result.status) == (0.0, "timeout")
    assert 2.0 < time.monotonic() - start < 8.0  # all of them would take 20


FORGED_SET = """
import json, os
def f():
    items = [i * (2**61 - 1) for i in range(40_000)]
    os.write(3, json.dumps([{"type": "set", "of": items}]).encode())
    os._exit(0)
"""
HOSTILE_VALUES = {
    "set": ("assert f() == {1}", FORGED_SET),
    "list": ("assert set(f()) == {1}", "def f(): return [i * (2**61 - 1) for i in range(40_000)]"),
}


@pytest.mark.parametrize("name", HOSTILE_VALUES)
def test_values_that_share_a_hash_are_wrong_in_time(level, name):
    script, program = HOSTILE_VALUES[name]
    start = time.monotonic()
    result = judge(f"```\n{program}\n```", {"test": script})
    assert (result.reward, result.status, result.detail) == (0.0, "ok", "test 1 of 1: wrong output")
    assert time.monotonic() - start < 8.0


def test_judging_ends_before_the_deadline(level):
    """With a verdict: not with a process that the pool has to kill."""
    script = "assert all(v != w for v in f() for w in range(9_000_000))"
    start = time.monotonic()
    result = judge("```\ndef f(): return [-1]\n```", {"test": script}, 2.0)
    assert (result.reward, result.correct) == (0.0, False)
    assert time.monotonic() - start < 2.0


def test_the_last_test_has_the_limits_of_the_first(level):
    """Else a program could tell them apart: it can read its CPU limit."""
    reader = "import resource as r, time\ntime.sleep(0.4)\nprint(r.getrlimit(r.RLIMIT_CPU))"
    truth = {"tests": [{"input": "", "output": "(4, 4)"}] * 2}
    assert judge(f"```\n{reader}\n```", truth, 3.0, time_limit_s=3.0).correct


def test_a_failure_names_the_test_and_neither_input_nor_output(level):
    truth = {"tests": [{"input": "1", "output": "1"}, {"input": "271828", "output": "314159"}]}
    wrong = judge("```\nprint(input().replace('271828', '0'))\n```", truth)
    assert wrong.detail == "test 2 of 2: wrong output"
    raised = judge("```\nx = input()\nif x != '1':\n    int(x + '!')\nprint(x)\n```", truth)
    assert raised.detail == "test 2 of 2: runtime_error ValueError"


def test_output_far_beyond_what_is_expected_is_cut_short(level):
    result = judge("```\nprint('x' * 2_000_000)\n```", SUM)
    assert result.status == "output_limit"


def test_checkers_have_a_sandbox_of_their_own(level):
    """What one is told must not lie in the memory that programs start from."""
    truth = {
        "official_tests": [{"input": "1", "output": "2"}],
        "generated_checker": "import sys\nprint(1, open('correct_output.txt').read())",
    }
    assert judge(ADD.replace("a + b", "0").replace("a, b", "*_,"), truth).correct
    assert sandbox.executor("checkers").pid != sandbox.executor("programs").pid


def test_two_programs_share_nothing(level):
    leave = "```\nimport builtins\nbuiltins.left = 1\nbuiltins.print = None\nsum = None\n1/0\n```"
    assert judge(leave, SUM).status == "runtime_error"
    find = ADD.replace("print", "import builtins\nassert not hasattr(builtins, 'left')\nprint")
    assert judge(find, SUM).correct


def test_nothing_that_a_program_gets_tells_what_is_expected(level, monkeypatch):
    """A program can read its limits, so not even the length of an answer may be in them."""
    jail, got = sandbox.executor(), []

    class Recorder:
        def run(self, execution):
            got.append(replace(execution, limits=replace(execution.limits, time_s=0, wall_s=0)))
            return jail.run(execution)

    monkeypatch.setattr(sandbox, "executor", lambda use: Recorder())
    for answer in ("YES", "NO", "9" * 5000):
        judge(ADD, {"tests": [{"input": "2 3\n", "output": answer}]})
    assert len(got) == 3 and len({repr(execution) for execution in got}) == 1
    assert got[0].limits.output_bytes == 16 << 20


def test_an_output_far_longer_than_the_expected_one_is_not_compared(level):
    flood = judge("```\nprint('5' * 3_000_000)\n```", SUM)
    assert (flood.status, flood.reward) == ("output_limit", 0.0)


GCD = {"fn_name": "gcd", "inputs": [[12, 18]], "outputs": [6]}
PRELUDE_NAMES = {
    "a function of the prelude": GCD,
    "one of operator": {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]},
    "a builtin": {"fn_name": "len", "inputs": [["ab"]], "outputs": [2]},
    "asserted": {"test": "assert gcd(12, 18) == 6"},
    "asserted later": {"test": "r = gcd(12, 18)\nassert r == 6"},
    "asserted of a builtin": {"test": "assert sum([1, 2]) == 3"},
    "checked": {"entry_point": "gcd", "test": "def check(f):\n    assert f(12, 18) == 6"},
    "imported by the problem": {
        "import_prefix": "from math import *",
        "test": "assert gcd(12, 18) == 6",
    },
    "raised": {"test": "import pytest\nwith pytest.raises(TypeError):\n    gcd('a')"},
}


@pytest.mark.parametrize("truth", PRELUDE_NAMES.values(), ids=PRELUDE_NAMES)
def test_a_program_that_defines_nothing_passes_nothing(level, truth):
    result = judge("```\npass\n```", truth)
    assert (result.reward, result.status) == (0.0, "runtime_error")
    assert "NameError" in result.detail


OWN = {
    "own": "def gcd(a, b):\n    return a if b == 0 else gcd(b, a % b)",
    "imported": "from math import gcd",
    "around the one it was given": "class Solution:\n    def gcd(self, a, b): return gcd(a, b)",
    "assigned": "gcd = gcd",
}


@pytest.mark.parametrize("program", OWN.values(), ids=OWN)
def test_a_name_of_the_prelude_may_be_the_programs(level, program):
    assert judge(f"```\n{program}\n```", GCD).reward == 1.0


def test_asserted_names_of_the_prelude_may_be_the_programs(level):
    truth = {"import_prefix": "import math", "test": "assert gcd(12, 18) == 6"}
    program = "from __future__ import annotations\ndef gcd(a, b): return math.gcd(a, b)"
    assert judge(f"```\n{program}\n```", truth).reward == 1.0
