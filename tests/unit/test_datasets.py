import datetime
import itertools
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from archer.data.rows import read_rows
from archer.errors import ConfigError

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "2+3?"}]
VERL_ROW = {
    "data_source": "sums",
    "prompt": MESSAGES,
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "5"},
    "extra_info": {"index": 0},
}


def write_lines(path, *records):
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def rows_of(path):
    return list(read_rows(path, "data.train"))


def truths_of(path):
    return [row.ground_truth for row in rows_of(path)]


def write_as(path, records):
    """The same records in the container that the suffix names."""
    if path.suffix == ".jsonl":
        return write_lines(path, *records)
    if path.suffix == ".json":
        path.write_text(json.dumps(records, indent=1))
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    return path


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_verl_rows_are_the_same_from_every_container(tmp_path, suffix):
    path = write_as(tmp_path / f"train.{suffix}", [VERL_ROW, VERL_ROW])
    first, second = rows_of(path)
    assert first.prompt == tuple(MESSAGES)
    assert type(first.prompt[0]) is dict, "a chat template needs plain dicts, not numpy structs"
    assert (first.ground_truth, first.source, first.number, second.number) == ("5", "sums", 1, 2)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_extra_info_comes_as_plain_json(tmp_path, suffix):
    extra = {"index": 7, "hint": {"weights": [0.25, 1]}}
    records = [VERL_ROW | {"extra_info": extra}, VERL_ROW | {"extra_info": {"split": "a"}}]
    first, second = rows_of(write_as(tmp_path / f"train.{suffix}", records))
    assert json.loads(json.dumps(first.extra)) == extra
    assert second.extra == {"split": "a"}


def test_extra_info_may_hold_what_json_does_not(tmp_path):
    extra = {"day": datetime.date(2026, 1, 2), "raw": b"x"}
    (row,) = rows_of(write_as(tmp_path / "a.parquet", [VERL_ROW | {"extra_info": extra}]))
    assert row.extra == {"day": "2026-01-02", "raw": "b'x'"}


@pytest.mark.parametrize("extra", [None, "text", [1]])
def test_extra_info_that_is_no_object_is_passed_over(tmp_path, extra):
    (row,) = rows_of(write_lines(tmp_path / "a.jsonl", VERL_ROW | {"extra_info": extra}))
    assert row.extra == {}


@pytest.mark.parametrize("prompt_column", ["prompt", "problem", "question"])
@pytest.mark.parametrize("truth_column", ["answer", "ground_truth"])
def test_plain_rows_name_their_columns_freely(tmp_path, prompt_column, truth_column):
    path = write_lines(tmp_path / "sums.jsonl", {prompt_column: "2+3?", truth_column: "5"})
    (row,) = rows_of(path)
    assert (row.prompt, row.ground_truth, row.source) == ("2+3?", "5", "sums")


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("025", "025"),
        (27, "27"),
        (["42", "42.0"], ["42", "42.0"]),
        ([1, 2], ["1", "2"]),
        ('["42", "6 \\\\times 7"]', ["42", r"6 \times 7"]),
        ("[1, 2]", "[1, 2]"),
        ("[a", "[a"),
        ("First 3+4=7.\n#### 1,200", "1200"),
        ("1,200", "1,200"),
    ],
)
def test_answers_stay_texts(tmp_path, answer, truth):
    path = write_lines(tmp_path / "a.jsonl", {"problem": "?", "answer": answer})
    assert truths_of(path) == [truth]


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_a_decimal_answer_keeps_its_spelling(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    record = '{"problem": "?", "answer": 0.10}'
    path.write_text(f"[{record}]" if suffix == "json" else record)
    assert truths_of(path) == ["0.10"]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_numbers_of_tests_are_numbers(tmp_path, suffix):
    tests = {"fn_name": "half", "inputs": [[1.0]], "outputs": [0.5]}
    path = write_as(tmp_path / f"train.{suffix}", [{"problem": "Halve.", "answer": tests}])
    (truth,) = truths_of(path)
    assert json.loads(json.dumps(truth)) == tests


def test_a_json_file_of_lines_is_read_as_lines(tmp_path):
    path = write_lines(tmp_path / "a.json", {"problem": "p", "answer": "1"})
    assert truths_of(path) == ["1"]


def test_row_numbers_of_jsonl_are_line_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('\n{"problem": "p", "answer": "1"}\n\n{"problem": "q", "answer": "2"}\n')
    assert [row.number for row in rows_of(path)] == [2, 4]


def test_parquet_structs_lose_the_keys_that_only_other_rows_have(tmp_path):
    tests = {"inputs": ["1\n"], "outputs": ["2\n"]}
    script = {"functional": "assert f(1) == 2"}
    records = [
        {"prompt": "p", "reward_model": {"ground_truth": truth}} for truth in (tests, script)
    ]
    path = write_as(tmp_path / "code.parquet", records)
    assert truths_of(path) == [tests, script]


def test_a_parquet_row_without_reward_model_falls_back_on_its_answer(tmp_path):
    records = [VERL_ROW | {"answer": None}, {"prompt": MESSAGES, "answer": "7"}]
    assert truths_of(write_as(tmp_path / "a.parquet", records)) == ["5", "7"]


def test_a_long_array_is_streamed(tmp_path):
    """The first rows come out although the end of the file is torn: nobody loaded it whole."""
    path = tmp_path / "a.json"
    record = json.dumps({"problem": "p" * 200, "answer": "1"})
    path.write_text("[" + ",".join([record] * 2000) + ", {")
    rows = read_rows(path, "data.train")
    assert len(list(itertools.islice(rows, 5))) == 5
    with pytest.raises(ConfigError, match="It breaks after row 2000"):
        list(rows)


def torn_parquet(path):
    whole = write_as(path, [{"problem": "p", "answer": "1"}] * 100).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def plain(**record):
    return json.dumps({"problem": "p", "answer": "1"} | record)


NAN = '{"problem": "p", "answer": NaN}'

BAD_FILES = {
    # name: (file name, content or writer, what the message must say)
    "unknown kind": ("a.csv", "problem,answer", ["a .jsonl, .json or .parquet file", "Convert"]),
    "empty jsonl": ("a.jsonl", "", ["at least one row", "empty"]),
    "only blank lines": ("a.jsonl", "\n\n", ["at least one row"]),
    "empty array": ("a.json", "[]", ["at least one row"]),
    "empty parquet": ("a.parquet", "", ["a complete parquet file"]),
    "torn line": ("a.jsonl", plain() + '\n{"prob', ["Line 2", "Mend or delete that line"]),
    "not utf-8": ("a.jsonl", b'{"problem": "\xff", "answer": "1"}', ["Line 1"]),
    "torn array": ("a.json", "[" + plain() + ",", ["complete JSON array", "after row 1"]),
    "not utf-8 array": ("a.json", b'[{"problem": "\xff"}]', ["complete JSON array"]),
    "torn parquet": ("a.parquet", torn_parquet, ["complete parquet file", "again"]),
    "a list as row": ("a.jsonl", "[1]", ["JSON objects", "Row 1 is a list"]),
    "no prompt column": (
        "a.jsonl",
        '{"text": "p", "answer": "1"}',
        ["prompt, problem, question", "Row 1 has only text, answer", "Rename"],
    ),
    "no prompt column in parquet": (
        "a.parquet",
        lambda path: write_as(path, [{"text": "p", "answer": "1"}]),
        ["prompt, problem, question", "has only text, answer", "Rename"],
    ),
    "no truth column": (
        "a.jsonl",
        plain() + '\n{"problem": "p", "solution": "1"}',
        ["reward_model.ground_truth, answer, ground_truth", "Row 2", "problem, solution"],
    ),
    "null truth": ("a.jsonl", plain(answer=None), ["Row 1", "'answer' is null", "drop the row"]),
    "empty truth": ("a.jsonl", plain(answer=" "), ["'answer' is ' '", "Fill it in"]),
    "NaN truth": ("a.jsonl", NAN, ["Row 1", "nan"]),
    "empty list truth": ("a.jsonl", plain(answer=[]), ["'answer' is []"]),
    "null in a list": ("a.jsonl", plain(answer=["1", None]), ["['1', None]"]),
    "boolean truth": ("a.jsonl", plain(answer=True), ["'answer' is True"]),
    "null verl truth": (
        "a.parquet",
        lambda path: write_as(
            path, [VERL_ROW, VERL_ROW | {"reward_model": {"ground_truth": None}}]
        ),
        ["Row 2", "'reward_model.ground_truth' is null"],
    ),
    "empty prompt": ("a.jsonl", plain(problem=""), ["Row 1", "'problem' is ''", "non-empty"]),
    "half a surrogate pair": (
        "a.jsonl",
        '{"problem": "\\ud800", "answer": "1"}',
        ["Row 1", "in Unicode", "Mend or delete"],
    ),
    "no messages": ("a.jsonl", plain(prompt=[]), ["'prompt' is []", "'role'"]),
    "message without role": ("a.jsonl", plain(prompt=[{"content": "p"}]), ["'role'", "'content'"]),
    "message with parts": (
        "a.jsonl",
        plain(prompt=[{"role": "user", "content": [{"type": "text"}]}]),
        ["with texts in both"],
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_refused_with_its_place_and_mend(tmp_path, case):
    name, content, words = BAD_FILES[case]
    path = tmp_path / name
    if callable(content):
        content(path)
    else:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        list(read_rows(path, "data.eval.sums"))
    message = str(caught.value)
    assert caught.value.key == "data.eval.sums" and str(path) in message
    for word in words:
        assert word in message


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        rows_of(tmp_path / "gone.jsonl")


def test_a_directory_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match="directory"):
        rows_of(tmp_path)
