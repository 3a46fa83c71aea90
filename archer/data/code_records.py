"""Records of programming tasks: a prompt that says what form the program has, and its tests.

The tests stay as the code reward reads them, in JSON texts: they can be large, and a run that holds
them all as objects would hold many times as much.
"""

from __future__ import annotations

import base64
import json
import pickletools
import zlib
from collections.abc import Mapping
from itertools import islice
from typing import Any

from archer.data.fields import Fields, Unusable
from archer.data.rows import (
    GroundTruth,
    Row,
    as_truth,
    find_truth,
    is_absent,
    plain_values,
    prompt_of,
)

TASK = (
    "You are an expert Python programmer. You will be given a question (problem specification) "
    "and will generate a correct Python program that matches the specification and passes all "
    "tests.\n\n{problem}"
)
FROM_STDIN = (
    "### Format: Read the inputs from stdin solve the problem and write the answer to stdout (do "
    "not directly test on the sample inputs). Enclose your code within delimiters as follows. "
    "Ensure that when the python program runs, it reads the inputs, runs the algorithm and writes "
    "output to STDOUT.\n```python\n# YOUR CODE HERE\n```\n\n"
)
FROM_STARTER_CODE = (
    "### Format: You will use the following starter code to write the solution to the problem and "
    "enclose your code within delimiters.\n```python\n{starter_code}\n```\n\n"
)
ANSWER = "### Answer: (use the provided format with backticks)\n\n"
"""LiveCodeBench's prompt (arXiv 2403.07974) as one turn of the user, to the letter as DeepCoder was
trained on it: https://github.com/agentica-project/rllm, ``fetch_live_code_bench_system_prompt``."""
BOILERPLATE = (
    "Solve the following coding problem using the programming language python:",
    "Now solve the problem and return the code.",
)
"""What SYNTHETIC-1 has around its problems; the prompt above says as much."""

MAX_INFLATED_BYTES = 256 << 20
"""Of one problem's private tests."""
TEXT_OPERATIONS = {"UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"}
OTHER_OPERATIONS = {"PROTO", "FRAME", "PUT", "BINPUT", "MEMOIZE", "STOP"}
"""All else that the pickle of a text consists of, each once at most."""


def task(fields: Fields, problem: str, starter_code: str, tests: Mapping[str, Any]) -> Row:
    """The row of a problem, in LiveCodeBench's prompt, with its tests."""
    form = FROM_STARTER_CODE.replace("{starter_code}", starter_code) if starter_code else FROM_STDIN
    prompt = TASK.replace("{problem}", problem) + form + ANSWER
    return fields.row(prompt, json.dumps(tests), problem)


def verl_code(fields: Fields) -> Row:
    """A verl row whose prompt is used as it is."""
    column, value = find_truth(fields.file, fields.number, fields.record)
    if is_absent(value):
        raise Unusable("no tests")
    truth = as_truth(value)
    if truth is None:
        fields.refuse(column, "tests", "They are neither a text nor an object.")
    return fields.row(prompt_of(fields.file, fields.number, fields.record), _as_text(truth))


def _as_text(truth: GroundTruth) -> str:
    return truth if isinstance(truth, str) else json.dumps(truth)


def livecodebench(fields: Fields) -> Row:
    """Public and private tests; the private ones may be packed."""
    tests = [*_list(fields, "public_test_cases"), *_private_tests(fields)]
    if not tests:
        raise Unusable("no tests")
    truth = {"tests": tests} | _function_name(fields)
    return task(fields, fields.problem("question_content"), fields.text("starter_code"), truth)


def _list(fields: Fields, column: str, *keys: str) -> list[Any]:
    """A list, of objects with texts in these keys if there are any; empty where it is null."""
    items = fields.parsed(column) or []
    if not isinstance(items, list):
        fields.refuse(column, "a list")
    for item in items if keys else ():
        if not isinstance(item, Mapping) or not all(isinstance(item.get(k), str) for k in keys):
            fields.refuse(column, f"a list of objects with texts in {' and '.join(keys)}")
    return items


def _private_tests(fields: Fields) -> list[Any]:
    """Plain JSON, or base64 of zlib of a pickled text of JSON, of which nothing is carried out."""
    column = "private_test_cases"
    text = fields.text(column)
    try:
        tests = fields.parsed_text(column, text or "[]")
    except json.JSONDecodeError:
        try:
            tests = fields.parsed_text(column, unpacked(text))
        except (ValueError, zlib.error) as error:
            fields.refuse(column, "JSON, plain or packed", f"It is neither: {error}.")
    return tests if isinstance(tests, list) else fields.refuse(column, "a list of tests")


def unpacked(text: str) -> str:
    """The text in base64 of zlib of its pickle.

    Raises:
        ValueError: it is something else, or inflates to more than ``MAX_INFLATED_BYTES``.
        zlib.error: it is torn.
    """
    inflater = zlib.decompressobj()
    data = inflater.decompress(base64.b64decode(text, validate=True), MAX_INFLATED_BYTES)
    if not inflater.eof:
        raise ValueError(f"it is torn, or larger than {MAX_INFLATED_BYTES >> 20} MiB")
    return _pickled_text(data)


def _pickled_text(data: bytes) -> str:
    """The text that a pickle holds, found by listing its operations. Carrying them out, even
    without imports, could take any amount of memory: an index into the unpickler's memo is enough.

    Raises:
        ValueError: it is no pickle, or holds anything but one text.
    """
    most = 1 + len(OTHER_OPERATIONS)
    operations = [(kind.name, value) for kind, value, _ in islice(pickletools.genops(data), most)]
    texts = [value for name, value in operations if name in TEXT_OPERATIONS]
    names = {name for name, _ in operations}
    if len(texts) != 1 or "STOP" not in names or names - TEXT_OPERATIONS - OTHER_OPERATIONS:
        raise ValueError("its pickle holds more than one text")
    return str(texts[0])


def _function_name(fields: Fields) -> dict[str, str]:
    metadata = fields.parsed("metadata") if "metadata" in fields.record else {}
    if not isinstance(metadata, Mapping | None):
        fields.refuse("metadata", "an object")
    name = (metadata or {}).get("func_name")
    return {"fn_name": name} if name else {}


def deepcoder(fields: Fields) -> Row:
    """Tests in the form of the set that a problem is from, each of which the code reward reads."""
    found = fields.parsed("tests")
    if not found:
        raise Unusable("no tests")
    match found:
        case Mapping() as truth:  # of TACO
            pass
        case [{"fn_name": str()}, *_] as tests:  # of SYNTHETIC-1, whose outputs may be wrapped
            truth = {"test_cases": tests}
        case [Mapping(), *_] as tests:
            truth = {"tests": tests} | _function_name(fields)
        case _:
            fields.refuse("tests", "a list or an object of tests")
    return task(fields, fields.problem("problem"), fields.optional_text("starter_code"), truth)


def taco(fields: Fields) -> Row:
    """TACO and APPS: inputs and outputs, and the name of a function where one is called."""
    truth = fields.parsed("input_output")
    if not isinstance(truth, Mapping | None):
        fields.refuse("input_output", "an object")
    if not truth or not truth.get("inputs"):
        raise Unusable("no tests")
    return task(fields, fields.problem("question"), fields.text("starter_code"), truth)


def primeintellect(fields: Fields) -> Row:
    """SYNTHETIC-1: tests with their language, as JSON, as a Python literal or as an object."""
    info = fields.parsed("verification_info", literal=True)
    if not isinstance(info, Mapping):
        fields.refuse("verification_info", "an object")
    if info.get("language") not in ("python", "python3", None):
        raise Unusable("not in Python")
    if not info.get("test_cases"):
        raise Unusable("no tests")
    problem = fields.problem("problem_statement", "prompt")
    for words in BOILERPLATE:
        problem = problem.replace(words, "")
    return task(fields, f"{problem.strip()}\n", "", info)


def codeforces(fields: Fields) -> Row:
    """Statement in parts, official tests, and a checker where several outputs are right."""
    if fields.text("interaction_format").strip():
        raise Unusable("interactive")
    if fields.text("input_mode") not in ("", "stdio"):
        raise Unusable("reads files")
    tests = _list(fields, "official_tests")
    if not tests:
        raise Unusable("no tests")
    checker = fields.optional_text("generated_checker")
    truth = {"official_tests": tests} | ({"generated_checker": checker} if checker else {})
    return task(fields, _statement(fields), "", truth)


def _statement(fields: Fields) -> str:
    parts = [fields.problem("description")]
    limits = {
        name: plain_values(fields.record.get(name)) for name in ("time_limit", "memory_limit")
    }
    if all(isinstance(limit, int | float) for limit in limits.values()):
        parts.append("Limits: {time_limit:g} seconds, {memory_limit:g} MB".format_map(limits))
    for title, column in {"Input": "input_format", "Output": "output_format"}.items():
        parts += [f"{title}\n{text}"] if (text := fields.text(column)) else []
    for example in _list(fields, "examples", "input", "output"):
        parts.append(f"Example\n{example['input'].rstrip()}\n\n{example['output'].rstrip()}")
    parts += [f"Note\n{note}"] if (note := fields.text("note")) else []
    return "\n\n".join(parts) + "\n"


def kodcode(fields: Fields) -> Row:
    """A script of pytest; the functions that it imports are the starter code."""
    script = fields.text("test", "test_code")
    if not script.strip():
        raise Unusable("no tests")
    functions = _list(fields, "test_info", "function_declaration")
    if not functions:
        raise Unusable("no function named")
    starter_code = "\n\n".join(f["function_declaration"] for f in functions)
    return task(fields, fields.problem("question"), starter_code, {"test": script})


def humaneval_plus(fields: Fields) -> Row:
    """The head of a function to complete, for a template to say so."""
    truth = {"test": fields.text("test"), "entry_point": fields.text("entry_point")}
    return fields.row(fields.problem("prompt").strip(), json.dumps(truth))


def mbpp_plus(fields: Fields) -> Row:
    """A task in a sentence, with one of MBPP's own assertions to show the function's name."""
    examples = _list(fields, "test_list")
    if not examples:
        raise Unusable("no tests")
    prompt = (
        f"{fields.problem('prompt').strip()}\nYour code should satisfy this assertion:\n"
        f"```python\n{examples[0]}\n```"
    )
    return fields.row(prompt, json.dumps({"test": fields.text("test")}))
