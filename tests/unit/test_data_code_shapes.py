"""Records of programming tasks: what a prompt shows, what judges, what packed tests may do."""

import base64
import json
import os
import pickle
import time
import tracemalloc
import zlib

import pytest
from dataset_fixtures import (
    CALL_TESTS,
    CODEFORCES,
    HUMANEVAL_PLUS,
    KODCODE,
    MBPP_PLUS,
    STDIN_TESTS,
    TACO,
    livecodebench_record,
    livecodebench_records,
    packed,
    primeintellect_record,
    refusal_of,
    row_of,
    rows_of,
    write_records,
)

from archer.data import code_records
from archer.rewards.code.cases import cases


class Touch:
    """What a pickle may ask for: here to make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_runs_nothing(tmp_path, protocol):
    trap = tmp_path / "sprung"
    payload = packed(Touch(trap), protocol)
    message = refusal_of(
        tmp_path, "livecodebench", livecodebench_record(private_test_cases=payload)
    )
    assert "more than one text" in message
    assert not trap.exists()


@pytest.mark.parametrize("number", [3, 200, 5000])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_packed_tests_of_every_protocol(tmp_path, protocol, number):
    """Of every size too: short, long and very long texts have operations of their own."""
    payload = packed(json.dumps(STDIN_TESTS * number), protocol)
    row = row_of(tmp_path, "livecodebench", livecodebench_record(private_test_cases=payload))
    assert len(cases(row.ground_truth)) == 1 + number


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04X\x02\x00\x00\x00[]r\xff\xff\xff\x7f.",  # LONG_BINPUT: 32 GiB of memo
        b"\x80\x04\x8d" + (1 << 40).to_bytes(8, "little") + b"[].",  # a text of 1 TiB
        b"\x80\x04" + b"\x94" * 10_000_000 + b".",
        b"\x80\x04\x8c\x02[]\x94",
    ],
)
def test_a_pickle_of_a_few_bytes_takes_no_more_than_that(tmp_path, data):
    payload = base64.b64encode(zlib.compress(data)).decode()
    began = time.process_time()
    tracemalloc.start()
    record = livecodebench_record(private_test_cases=payload)
    refusal_of(tmp_path, "livecodebench", record)
    assert tracemalloc.get_traced_memory()[1] < 64 << 20
    tracemalloc.stop()
    assert time.process_time() - began < 1


def test_packed_tests_may_not_inflate_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(code_records, "MAX_INFLATED_BYTES", 1 << 20)
    payload = packed(" " * (2 << 20))
    message = refusal_of(
        tmp_path, "livecodebench", livecodebench_record(private_test_cases=payload)
    )
    assert "larger than 1 MiB" in message


def test_livecodebench_has_two_forms_of_prompt(tmp_path):
    stdin, call, _ = rows_of(
        write_records(tmp_path / "test.jsonl", livecodebench_records()), "livecodebench"
    )
    assert stdin.prompt.startswith("You are an expert Python programmer.")
    assert "two numbers.\n### Format: Read the inputs from stdin" in stdin.prompt
    assert "```python\n# YOUR CODE HERE\n```\n\n### Answer: (use" in stdin.prompt
    assert "numbers.\n### Format: You will use the following starter code" in call.prompt
    assert (
        "```python\nclass Solution:\n    def sumTop(self, nums, k):\n        \n```" in call.prompt
    )
    assert call.extra["problem"] == "Sum the first k numbers.\n", "what duplicates are found by"
    assert [row.extra["contest_date"][:10] for row in (stdin, call)] == ["2024-08-01", "2025-01-31"]


def test_public_and_private_tests_are_both_judged_by(tmp_path):
    row = row_of(tmp_path, "livecodebench", livecodebench_records()[1])
    first, second = cases(row.ground_truth)
    assert json.loads(first.execution.arguments) == [[1, 2, 3], 2], "one argument a line"
    assert first.execution.entry_point == second.execution.entry_point == "sumTop"


def test_lists_of_lines_and_wrapped_outputs_of_taco(tmp_path):
    lines = row_of(tmp_path, "taco", TACO)
    assert cases(lines.ground_truth)[0].execution.stdin == "2\n3"
    assert lines.extra["difficulty"] == "EASY"
    assert "tags" not in lines.extra


def test_boilerplate_of_primeintellect_gives_way_to_the_form(tmp_path):
    row = row_of(tmp_path, "primeintellect", primeintellect_record())
    assert row.extra["problem"] == "Add two numbers.\n"
    assert "Now solve the problem" not in row.prompt


def test_a_statement_of_codeforces_is_put_together(tmp_path):
    row = row_of(tmp_path, "codeforces", CODEFORCES)
    assert row.extra["problem"] == (
        "Print the sum of two numbers.\n\nLimits: 2 seconds, 256 MB\n\n"
        "Input\nTwo numbers.\n\nOutput\nTheir sum.\n\nExample\n1 2\n\n3\n\n"
        "Note\nThe sum of 2 and 3 is 5.\n"
    )
    assert row.extra["id"] == "1234/A"


def test_a_checker_of_codeforces_decides(tmp_path):
    row = row_of(tmp_path, "codeforces", CODEFORCES | {"generated_checker": "print(1)"})
    assert cases(row.ground_truth)[0].checker.source == "print(1)"


def test_kodcode_shows_the_declaration(tmp_path):
    row = row_of(tmp_path, "kodcode", KODCODE)
    assert "```python\ndef add(a, b):\n```" in row.prompt
    renamed = {k: v for k, v in KODCODE.items() if k != "test"} | {"test_code": KODCODE["test"]}
    assert row_of(tmp_path, "kodcode", renamed).ground_truth == row.ground_truth


def test_mbpp_shows_one_assertion(tmp_path):
    prompt = row_of(tmp_path, "mbpp_plus", MBPP_PLUS).prompt
    assert "assert add(2, 3) == 5" in prompt and "add(0, 0)" not in prompt


def test_humaneval_gives_the_head_of_the_function(tmp_path):
    row = row_of(tmp_path, "humaneval_plus", HUMANEVAL_PLUS)
    assert row.prompt == HUMANEVAL_PLUS["prompt"].strip()
    assert row.extra["id"] == "HumanEval/900"


def test_struct_keys_that_only_other_rows_have_do_not_matter(tmp_path):
    """Arrow gives all structs of a column the same keys."""
    infos = [
        {"language": "python", "test_cases": STDIN_TESTS},
        {"language": "python", "test_cases": [CALL_TESTS[0] | {"fn_name": "f", "type": "call"}]},
    ]
    records = [primeintellect_record() | {"verification_info": info} for info in infos]
    stdin, call = rows_of(write_records(tmp_path / "a.parquet", records), "primeintellect")
    assert cases(stdin.ground_truth)[0].execution.kind == "stdin"
    assert cases(call.ground_truth)[0].execution.entry_point == "f"
