"""Invented records in the shapes of published data sets, and files of them in every container."""

import base64
import gzip
import json
import pickle
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from archer.data.files import DataFile, read_records
from archer.data.shapes import SHAPES
from archer.errors import ConfigError

KEY = "data.sets.x.sources.main"
CONTAINERS = ("jsonl", "json", "parquet", "jsonl.gz", "json.gz")


def write_records(path, records):
    """The same records in the container that the name ends with."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
        return path
    if path.name.removesuffix(".gz").endswith(".json"):
        content = json.dumps(records, ensure_ascii=False)
    else:
        content = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    data = content.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def rows_of(path, shape):
    """What a preparation reads: only the columns that the shape names."""
    file = DataFile(path, KEY)
    return [
        SHAPES[shape](file, n, record) for n, record in read_records(file, SHAPES[shape].columns)
    ]


def row_of(tmp_path, shape, record):
    (row,) = rows_of(write_records(tmp_path / "a.jsonl", [record]), shape)
    return row


def refusal_of(tmp_path, shape, record):
    """The message about a second row that is broken; it names its place."""
    path = write_records(tmp_path / "a.jsonl", [record])
    with pytest.raises(ConfigError) as caught:
        rows_of(path, shape)
    assert caught.value.key == KEY
    message = str(caught.value)
    assert str(path) in message and "Row 1" in message
    return message


def packed(value, protocol=4):
    """As LiveCodeBench packs its private tests."""
    return base64.b64encode(zlib.compress(pickle.dumps(value, protocol))).decode()


def user(text):
    return [{"role": "user", "content": text}]


def verl(truth, prompt="What is 17+25?", **columns):
    return {
        "data_source": "sums",
        "prompt": user(prompt),
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": truth},
        "extra_info": {"split": "train", "index": 0},
    } | columns


STDIN_TESTS = [{"input": "2 3\n", "output": "5\n"}]
CALL_TESTS = [{"input": "[1, 2, 3]\n2", "output": "5", "testtype": "functional"}]
SCRIPT = "def check(candidate):\n    assert candidate(a = 2, b = 3) == 5\n\n"

DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of "
    "the form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
    '{}\n\nRemember to put your answer on its own line after "Answer:".'
)


def dapo_records(repeats=100):
    """Every problem ``repeats`` times; the second has two answers, the third is in Chinese."""
    sums = [("Find 20+14.", "34"), ("Find $6^2$.", "36"), ("Find $6^2$.", "63"), ("求 2+3。", "5")]
    records = [
        verl(
            answer,
            DAPO.format(problem),
            data_source="math_dapo",
            ability="MATH",
            extra_info={"index": f"uuid-{number}"},
        )
        for number, (problem, answer) in enumerate(sums)
    ]
    return records * repeats


def livecodebench_record(day="2024-08-10", **columns):
    """A problem on standard input."""
    tests = [test | {"testtype": "stdin"} for test in STDIN_TESTS]
    return {
        "question_title": "Sum",
        "question_content": "Print the sum of two numbers.\n",
        "platform": "atcoder",
        "question_id": "abc000_a",
        "contest_id": "abc000",
        "contest_date": f"{day}T00:00:00",
        "starter_code": "",
        "difficulty": "easy",
        "public_test_cases": json.dumps(tests),
        "private_test_cases": packed(json.dumps([tests[0] | {"input": "1 1\n", "output": "2\n"}])),
        "metadata": "{}",
    } | columns


def livecodebench_records():
    """Both forms, private tests plain and packed, on the edges of the papers' windows."""
    functional = {
        "question_content": "Sum the first k numbers.\n",
        "platform": "leetcode",
        "starter_code": "class Solution:\n    def sumTop(self, nums, k):\n        ",
        "public_test_cases": json.dumps(CALL_TESTS),
        "private_test_cases": json.dumps(CALL_TESTS),
        "metadata": json.dumps({"func_name": "sumTop"}),
    }
    return [
        livecodebench_record("2024-08-01", question_id="first"),
        livecodebench_record("2025-01-31", question_id="last", **functional),
        livecodebench_record("2025-02-01", question_id="next"),
    ]


CODEFORCES = {
    "id": "1234/A",
    "title": "Sum",
    "description": "Print the sum of two numbers.",
    "input_format": "Two numbers.",
    "output_format": "Their sum.",
    "interaction_format": None,
    "note": "The sum of 2 and 3 is 5.",
    "examples": [{"input": "1 2\n", "output": "3\n"}],
    "time_limit": 2.0,
    "memory_limit": 256.0,
    "official_tests": STDIN_TESTS,
    "official_tests_complete": True,
    "input_mode": "stdio",
    "generated_checker": None,
    "rating": 800,
}

KODCODE = {
    "version": "v1.0",
    "style": "instruct",
    "subset": "Prefill",
    "question_id": "Prefill_1_I",
    "question": "Add two numbers.\n",
    "test": "from solution import add\n\ndef test_add():\n    assert add(2, 3) == 5\n",
    "test_info": [
        {
            "docstring": "Adds.",
            "function_declaration": "def add(a, b):",
            "function_name": "add",
            "parameter_list": "(a, b)",
        }
    ],
    "gpt_difficulty": "easy",
}

TACO = {
    "question": "Add two numbers.\n",
    "starter_code": "",
    "input_output": json.dumps({"inputs": [["2", "3"]], "outputs": [["5"]]}),
    "difficulty": "EASY",
    "source": "codewars",
    "tags": "['Math']",
}

HUMANEVAL_PLUS = {
    "task_id": "HumanEval/900",
    "prompt": 'def add(a, b):\n    """Add a and b."""\n',
    "canonical_solution": "    return a + b\n",
    "entry_point": "add",
    "test": "def check(candidate):\n    assert candidate(2, 3) == 5\n",
}

MBPP_PLUS = {
    "task_id": 900,
    "code": "def add(a, b):\n    return a + b",
    "prompt": "Write a function to add two numbers.",
    "source_file": "invented",
    "test_imports": [],
    "test_list": ["assert add(2, 3) == 5", "assert add(0, 0) == 0"],
    "test": "inputs = [[2, 3], [0, 0]]\nresults = [5, 0]\n"
    "for i, (inp, exp) in enumerate(zip(inputs, results)):\n    assert add(*inp) == exp\n",
}


def primeintellect_record(written=json.dumps, **info):
    test = {"type": "stdin_stdout", "input": "2 3\n", "output": "5\n", "fn_name": None}
    return {
        "source": "apps",
        "task_type": "verifiable_code",
        "prompt": "Solve the following coding problem using the programming language python:\n\n"
        "Add two numbers.\n\nNow solve the problem and return the code.",
        "verification_info": written({"language": "python", "test_cases": [test]} | info),
        "metadata": "{}",
        "problem_id": "vcp_0",
    }


def deepcoder_record(tests, **columns):
    return {
        "problem": "Add two numbers.\n",
        "solutions": ["print(5)"],
        "tests": json.dumps(tests),
    } | columns


MATHS = {
    # name: (shape, record, problem, truth)
    "verl": ("rows", verl("42"), user("What is 17+25?"), "42"),
    "plain": ("math", {"problem": "17+25?", "answer": "42"}, "17+25?", "42"),
    "aime24": (
        "math",
        {"id": 60, "problem": "p", "solution": "s", "answer": "025", "url": "u", "year": "2024"},
        "p",
        "025",
    ),
    "capitals": ("math", {"ID": "2024-II-4", "Problem": "p", "Answer": 33}, "p", "33"),
    "amc23": ("math", {"id": 1, "question": "p", "answer": 27.0}, "p", "27.0"),
    "minerva": ("math", {"question": "p", "answer": ["42", "42.0"]}, "p", ["42", "42.0"]),
    "gsm8k": ("gsm8k", {"question": "p", "answer": "<<3*4=12>>12\n#### 1,200"}, "p", "1200"),
    "MATH": (
        "boxed_solution",
        {
            "problem": "p",
            "level": "Level 5",
            "type": "Algebra",
            "solution": r"$\boxed{\frac{1}{2}}$.",
        },
        "p",
        r"\frac{1}{2}",
    ),
    "olympiad": (
        "olympiadbench",
        {"id": 7, "context": None, "question": "p", "final_answer": ["$2,5$"], "unit": None},
        "p",
        "$2,5$",
    ),
    "dapo": ("verl_math", dapo_records(1)[0], "Find 20+14.", "34"),
    "dapo_processed": ("dapo_processed", {"prompt": "p", "solution": "34"}, "p", "34"),
    "skywork": ("verl_math", verl('["42"]'), "What is 17+25?", ["42"]),
    "numina": (
        "numina",
        {
            "problem": "p",
            "answer": r"$\frac{1}{2}$",
            "question_type": "math-word-problem",
            "problem_is_valid": "Yes",
            "solution_is_valid": "Yes",
            "source": "olympiads",
        },
        "p",
        r"$\frac{1}{2}$",
    ),
}

CODE = {
    # name: (shape, record, kind of the first case, an output that it accepts)
    "S2": ("verl_code", verl('{"inputs": ["2 3\\n"], "outputs": ["5\\n"]}'), "stdin", b"5"),
    "S3": (
        "verl_code",
        verl(json.dumps({"functional": SCRIPT + "check(Solution().addTwo)"})),
        "evaluate",
        None,
    ),
    "S4": (
        "verl_code",
        verl(json.dumps([CALL_TESTS[0] | {"metadata": {"func_name": "sumTop"}}])),
        "call",
        b"5",
    ),
    "S4 as objects": (
        "verl_code",
        verl([CALL_TESTS[0] | {"metadata": {"func_name": "sumTop"}}]),
        "call",
        b"5",
    ),
    "S5": (
        "verl_code",
        verl('{"fn_name": "add", "inputs": [[2, 3]], "outputs": [[5]]}'),
        "call",
        b"5",
    ),
    "test_code": (
        "verl_code",
        verl(json.dumps({"import_prefix": "", "test_code": SCRIPT, "entry_point": "add"})),
        "evaluate",
        None,
    ),
    "assert_case": (
        "verl_code",
        verl(json.dumps({"assert_case": ["assert add(2, 3) == 5"]})),
        "evaluate",
        None,
    ),
    "S6": ("primeintellect", primeintellect_record(), "stdin", b"5"),
    "S6 as a literal": ("primeintellect", primeintellect_record(repr), "stdin", b"5"),
    "S6 as an object": ("primeintellect", primeintellect_record(dict), "stdin", b"5"),
    "S8": ("kodcode", KODCODE, "evaluate", None),
    "HumanEval+": ("humaneval_plus", HUMANEVAL_PLUS, "evaluate", None),
    "MBPP+": ("mbpp_plus", MBPP_PLUS, "evaluate", None),
    "S10": ("codeforces", CODEFORCES, "stdin", b"5"),
    "livecodebench": ("livecodebench", livecodebench_record(), "stdin", b"5"),
    "livecodebench, a call": ("livecodebench", livecodebench_records()[1], "call", b"5"),
    "TACO": ("taco", TACO, "stdin", b"5"),
    "APPS, a call": (
        "taco",
        TACO | {"input_output": '{"fn_name": "add", "inputs": [[2, 3]], "outputs": [[5]]}'},
        "call",
        b"5",
    ),
    "DeepCoder lcbv5": (
        "deepcoder",
        deepcoder_record(CALL_TESTS, starter_code="def f", metadata={"func_name": "sumTop"}),
        "call",
        b"5",
    ),
    "DeepCoder primeintellect": (
        "deepcoder",
        deepcoder_record([{"fn_name": "add", "input": [2, 3], "output": [5]}], metadata="{}"),
        "call",
        b"5",
    ),
    "DeepCoder taco": (
        "deepcoder",
        deepcoder_record({"inputs": ["2 3\n"], "outputs": ["5\n"]}),
        "stdin",
        b"5",
    ),
    "DeepCoder codeforces": ("deepcoder", deepcoder_record(STDIN_TESTS), "stdin", b"5"),
}
