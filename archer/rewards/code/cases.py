"""The truth of a coding problem, in any of the shapes that data sets use, as cases to run.

A case is one execution and the judgement of its output; the expected output stays with the
judgement and never becomes part of an execution.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

from archer.rewards.code.assertions import AssertionGroup, parse_script
from archer.rewards.code.compare import plain_json, same_text
from archer.rewards.code.value_codec import ENCODER, decode
from archer.rewards.sandbox import Execution

MAX_PYTHON_LITERAL = 4 << 20
"""Characters; Python's parser takes about a hundred times as much memory."""
TRUTHS_KEPT = 16
"""Parsed truths kept for the other samples of the group; one may hold megabytes of tests."""

STDIN_TYPES = ("stdin", "stdin_stdout")
SCRIPTS = ("functional", "test_script", "test_code", "test")
EXPECTED = (
    "tests [{input, output}], inputs and outputs, test_cases, official_tests, or assertions in "
    f"{', '.join(SCRIPTS)}, assert_case or test_list"
)


@dataclass(frozen=True)
class Case:
    execution: Execution
    """All but the program and its limits."""
    judge: Callable[[bytes], bool]
    """Whether an output is right; raises what ``accepts`` catches if it is not even well-formed."""
    reference_bytes: int = 0
    """Size of the expected output, for bounding the program's."""
    checker: Checker | None = None
    """Decides in place of ``judge``."""

    @property
    def size(self) -> int:
        """How much there is to work on."""
        e = self.execution
        return len(e.stdin) + len(e.arguments) + len(e.setup)

    def accepts(self, output: bytes) -> bool:
        """Whether the output of an execution that ended well is right."""
        try:
            return self.judge(output)
        except (ValueError, TypeError, RecursionError):
            return False


@dataclass(frozen=True)
class Checker:
    """A program that decides where several outputs are right.

    It runs as ``checker.py input.txt correct_output.txt solution_output.txt`` and prints a score
    from 0 to 1, as those of https://huggingface.co/datasets/open-r1/codeforces do.
    """

    source: str
    input: str
    correct_output: str

    def execution(self, output: bytes) -> Execution:
        files = {
            "input.txt": self.input,
            "correct_output.txt": self.correct_output,
            "solution_output.txt": output.decode(errors="replace"),
        }
        return Execution(self.source, argv=tuple(files), files=files)

    @staticmethod
    def accepts(output: bytes) -> bool:
        """Whether the first word it printed is the full score."""
        try:
            return float(output.split(maxsplit=1)[0]) >= 1.0
        except (IndexError, ValueError):
            return False


def cases(ground_truth: Any, max_tests: int | None = None) -> tuple[Case, ...]:
    """The cases of a truth, or the same ``max_tests`` of them at every call.

    Half of such a choice are the cases with the largest inputs, the others are drawn with the truth
    itself as the seed; they keep their order.

    Raises:
        ValueError: the truth has none of the known shapes, or asks for something that cannot be
            judged outside of the sandbox; or no tests were asked for.
    """
    return _cases_of_text(_as_text(ground_truth, max_tests), max_tests)


def check_cases(ground_truth: Any, max_tests: int | None = None) -> None:
    """Raise what ``cases`` would, and keep nothing."""
    _read_cases(_as_text(ground_truth, max_tests), max_tests)


def _as_text(ground_truth: Any, max_tests: int | None) -> str:
    if max_tests is not None and max_tests < 1:
        raise ValueError(f"max_tests={max_tests}: without a test every program would pass")
    return ground_truth if isinstance(ground_truth, str) else json.dumps(ground_truth)


@lru_cache(maxsize=TRUTHS_KEPT)
def _cases_of_text(text: str, max_tests: int | None) -> tuple[Case, ...]:
    return _read_cases(text, max_tests)


def _read_cases(text: str, max_tests: int | None) -> tuple[Case, ...]:
    try:
        found = _read(_value(text))
    except (TypeError, AttributeError, SyntaxError) as error:  # a number for a list, say
        raise ValueError(f"the ground truth holds what no tests do: {error}") from error
    if not found:
        raise ValueError("the ground truth has no tests")
    if max_tests is None or len(found) <= max_tests:
        return tuple(found)
    by_size = sorted(range(len(found)), key=lambda i: found[i].size, reverse=True)
    num_largest = (max_tests + 1) // 2
    seed = hashlib.sha256(text.encode(errors="surrogatepass")).digest()
    drawn = Random(seed).sample(sorted(by_size[num_largest:]), max_tests - num_largest)
    return tuple(found[i] for i in sorted(by_size[:num_largest] + drawn))


def _value(text: str) -> Any:
    """What a text stands for: JSON, a Python literal, or a script of assertions as it is."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    if len(text) <= MAX_PYTHON_LITERAL:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass
    return {"test_script": text}


def _read(truth: Any) -> list[Case]:
    if isinstance(truth, str):  # JSON within JSON
        truth = _value(truth)
    match truth:
        case [dict(), *_]:
            return _read_tests(truth)
        case [str(), *_]:
            return _read_script("\n".join(truth))
        case Mapping():
            # Arrow gives every row the union of all rows' keys, with None for those it never had.
            return _read_mapping({k: v for k, v in truth.items() if v is not None})
    raise ValueError(f"the ground truth is a {type(truth).__name__}; expected {EXPECTED}")


def _read_mapping(truth: dict[str, Any]) -> list[Case]:
    language = truth.get("language", "python")
    if language.lower() not in ("python", "python3"):
        raise ValueError(f"the ground truth is for {language}; only Python is run")
    name = truth.get("fn_name") or _function_name(truth)
    if "inputs" in truth:
        inputs, outputs = truth["inputs"], truth.get("outputs", [])
        if not (isinstance(inputs, list | tuple) and isinstance(outputs, list | tuple)):
            raise ValueError("inputs and outputs are not two lists")
        if len(inputs) != len(outputs):
            raise ValueError(f"{len(inputs)} inputs but {len(outputs)} outputs")
        pairs = zip(inputs, outputs, strict=True)
        return [_case({"input": i, "output": o}, name, may_wrap=True) for i, o in pairs]
    if "test_cases" in truth:
        return _read_tests(truth["test_cases"], name, may_wrap=True)
    checker = truth.get("checker") or truth.get("generated_checker")
    if not isinstance(checker, str | None):
        raise ValueError(f"the checker is a {type(checker).__name__}, not a program")
    for key in ("tests", "official_tests"):
        if key in truth:
            return _read_tests(truth[key], name, checker=checker)
    prefix = truth.get("import_prefix", "")
    for key in SCRIPTS:
        if key in truth:
            return _read_script(truth[key], truth.get("entry_point"), prefix)
    for key in ("assert_case", "test_list"):
        if key in truth:
            lines = [*truth.get("test_imports", []), truth.get("test_setup_code", ""), *truth[key]]
            return _read_script("\n".join(lines), prefix=prefix)
    raise ValueError(f"the ground truth has {', '.join(truth) or 'no keys'}; expected {EXPECTED}")


def _function_name(holder: Mapping[str, Any]) -> str | None:
    metadata = holder.get("metadata") or {}
    if isinstance(metadata, str):
        metadata = json.loads(metadata)
    if not isinstance(metadata, Mapping):
        raise ValueError(f"metadata is a {type(metadata).__name__}, not an object")
    return metadata.get("func_name")


def _read_tests(
    tests: Any, name: str | None = None, may_wrap: bool = False, checker: str | None = None
) -> list[Case]:
    if isinstance(tests, str):
        tests = _value(tests)
    if isinstance(tests, Mapping):
        return _read(tests)
    if not all(isinstance(test, Mapping) for test in tests):
        raise ValueError("tests is not a list of {input, output}")
    found = [_case(test, name, may_wrap) for test in tests]
    if checker is None:
        return found
    return [_checked(case, checker, test) for case, test in zip(found, tests, strict=True)]


def _case(test: Mapping[str, Any], name: str | None, may_wrap: bool = False) -> Case:
    if "input" not in test or "output" not in test:
        raise ValueError(f"a test has {', '.join(test) or 'no keys'}; expected input and output")
    kind = test.get("testtype") or test.get("type")
    name = test.get("fn_name") or _function_name(test) or name
    if kind in STDIN_TYPES or (kind is None and not name):
        if test["input"] is None or test["output"] is None:
            raise ValueError("a test has null for standard input or output")
        return _stdin_case(_text(test["input"]), _text(test["output"]))
    if not name:
        raise ValueError(f"a {kind} test names no function in fn_name or metadata.func_name")
    if not (isinstance(name, str) and name.isidentifier()):
        raise ValueError(f"no function can be called {name!r}")
    return _call_case(name, test["input"], test["output"], may_wrap)


def _text(value: Any) -> str:
    """Standard input or output, which APPS and TACO also store as a list of lines."""
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value)


def _stdin_case(stdin: str, expected: str) -> Case:
    return Case(
        Execution("", stdin=stdin),
        lambda output: same_text(output.decode(errors="replace"), expected),
        reference_bytes=len(expected),
    )


def _call_case(name: str, arguments: Any, expected: Any, may_wrap: bool) -> Case:
    """A call with a list of arguments and a value, or with texts of one JSON value a line."""
    if isinstance(arguments, str):
        arguments = [_literal(line) for line in arguments.split("\n") if line.strip()]
        expected = _literal(expected) if isinstance(expected, str) else expected
    if not isinstance(arguments, list | tuple):
        raise ValueError(f"the arguments of a call are a {type(arguments).__name__}, not a list")
    try:
        arguments, expected = json.dumps(arguments), json.loads(json.dumps(expected))
    except TypeError as error:
        raise ValueError(f"a call's arguments or result are not JSON: {error}") from error
    answers = [expected]
    if may_wrap and isinstance(expected, list) and len(expected) == 1:
        answers.append(expected[0])
    return Case(
        Execution("", "call", entry_point=name, arguments=arguments),
        lambda output: plain_json(output) in answers,
        reference_bytes=len(json.dumps(expected)),
    )


def _literal(text: str) -> Any:
    try:
        return plain_json(text)
    except ValueError:
        pass
    try:
        return ast.literal_eval(text.strip())
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise ValueError("a call's argument or result is neither JSON nor a literal") from None


def _checked(case: Case, checker: str, test: Mapping[str, Any]) -> Case:
    if case.execution.kind != "stdin":
        raise ValueError("a checker judges standard output; the tests call a function")
    judge = Checker(checker, case.execution.stdin, _text(test["output"]))
    return Case(case.execution, case.judge, case.reference_bytes, checker=judge)


def _read_script(script: str, entry_point: str | None = None, prefix: str = "") -> list[Case]:
    return [_group_case(group, prefix) for group in parse_script(script, entry_point)]


def _group_case(group: AssertionGroup, prefix: str) -> Case:
    execution = Execution(
        "",
        "evaluate",
        prefix=prefix + group.prefix,
        own_names=group.own_names,
        setup=f"{ENCODER}\n{group.setup}",
        expression="_archer_test()",
    )

    def judge(output: bytes) -> bool:
        return group.holds(decode(plain_json(output)))

    return Case(execution, judge, group.size)
