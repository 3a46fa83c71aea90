"""Records of every published shape, through the real readers, to rows that a reward can judge."""

import datetime
import json
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_fixtures import (
    CALL_TESTS,
    CODE,
    CODEFORCES,
    CONTAINERS,
    DAPO,
    KEY,
    KODCODE,
    MATHS,
    MBPP_PLUS,
    STDIN_TESTS,
    TACO,
    dapo_records,
    deepcoder_record,
    livecodebench_record,
    packed,
    primeintellect_record,
    refusal_of,
    row_of,
    rows_of,
    user,
    verl,
    write_records,
)

from archer.data.files import DataFile, read_records
from archer.data.rows import read_rows
from archer.data.shapes import SHAPES, Unusable
from archer.errors import ConfigError
from archer.rewards.code.cases import cases


def reason_of(tmp_path, shape, record):
    with pytest.raises(Unusable) as caught:
        row_of(tmp_path, shape, record)
    return str(caught.value)


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("case", MATHS)
def test_maths(tmp_path, case, suffix):
    shape, record, problem, truth = MATHS[case]
    (row,) = rows_of(write_records(tmp_path / f"a.{suffix}", [record]), shape)
    problem = tuple(problem) if isinstance(problem, list) else problem
    assert (row.prompt, row.ground_truth, row.number) == (problem, truth, 1)
    json.dumps(row.extra)


@pytest.mark.parametrize("suffix", CONTAINERS)
@pytest.mark.parametrize("case", CODE)
def test_code(tmp_path, case, suffix):
    shape, record, kind, accepted = CODE[case]
    (row,) = rows_of(write_records(tmp_path / f"a.{suffix}", [record]), shape)
    first = cases(row.ground_truth)[0]
    assert first.execution.kind == kind
    if accepted:
        assert first.accepts(accepted) and not first.accepts(b"-1")
    assert isinstance(row.ground_truth, str), "tests are kept as a text"


@pytest.mark.parametrize("case", MATHS | CODE)
def test_a_prepared_row_reads_back_as_it_was(tmp_path, case):
    shape, record, *_ = (MATHS | CODE)[case]
    row = row_of(tmp_path, shape, record)
    prepared = verl(row.ground_truth) | {"prompt": row.prompt, "extra_info": row.extra}
    (back,) = read_rows(write_records(tmp_path / "b.jsonl", [prepared]), "data.train")
    assert (back.prompt, back.ground_truth, back.extra) == (row.prompt, row.ground_truth, row.extra)


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_tests_as_objects_can_be_trained_on_unprepared(tmp_path, suffix):
    tests = [CALL_TESTS[0] | {"metadata": {"func_name": "sumTop"}}]
    path = write_records(tmp_path / f"a.{suffix}", [verl(tests)])
    (row,) = read_rows(path, "data.train")
    assert row.ground_truth == tests
    assert cases(row.ground_truth)[0].execution.entry_point == "sumTop"


def test_hashes_in_tests_are_no_answer_of_gsm8k(tmp_path):
    maze = {"inputs": ["2 4\n####\n#..#\n"], "outputs": ["####"]}
    row = row_of(tmp_path, "verl_code", verl(json.dumps(maze)))
    assert json.loads(row.ground_truth) == maze


@pytest.mark.parametrize(
    ("record", "extra", "source"),
    [
        (verl("42"), {"id": 0, "index": 0, "split": "train"}, "sums"),
        (
            {"unique_id": "test/algebra/1.json", "level": 5, "problem": "p", "answer": "1"},
            {"id": "test/algebra/1.json", "level": 5},
            "",
        ),
        (
            {"problem": "p", "answer": "1", "source": "olympiads", "uuid": "u", "messages": ["m"]},
            {"id": "u", "source": "olympiads"},
            "",
        ),
    ],
)
def test_a_problem_keeps_its_name_and_labels(tmp_path, record, extra, source):
    """A label named ``source`` is no data source: rewards go by the latter."""
    row = row_of(tmp_path, "verl_math" if "prompt" in record else "math", record)
    assert (row.extra, row.source) == (extra, source)


def test_labels_that_are_no_numbers_become_null(tmp_path):
    """Strict readers of JSON refuse NaN, which is the null of a float column."""
    record = verl("1", extra_info={"rate": float("nan"), "most": float("inf")}, year=float("nan"))
    assert row_of(tmp_path, "verl_math", record).extra == {"rate": None, "most": None}


def test_what_the_data_calls_problem_does_not_tell_rows_apart(tmp_path):
    record = verl("1", "Find 1.", extra_info={"problem": "algebra"})
    assert row_of(tmp_path, "verl_math", record).extra == {}
    task = {"prompt": "Solve it.", "problem_statement": None} | primeintellect_record()
    row = row_of(tmp_path, "primeintellect", task | {"extra_info": {"problem": "algebra"}})
    assert row.extra["problem"] == "Add two numbers.\n"


def test_a_column_that_is_empty_gives_way_to_one_that_is_not(tmp_path):
    """SYNTHETIC-1 has its problems in ``prompt`` where ``problem_statement`` is null."""
    record = primeintellect_record() | {"problem_statement": None}
    assert row_of(tmp_path, "primeintellect", record).extra["problem"] == "Add two numbers.\n"
    record = {"problem": "p", "answer": None, "final_answer": "5"}
    assert row_of(tmp_path, "math", record).ground_truth == "5"


def test_tests_may_hold_what_only_parquet_knows(tmp_path):
    tests = {"inputs": ["1\n"], "outputs": ["2\n"], "day": datetime.date(2026, 1, 2), "raw": b"x"}
    path = write_records(tmp_path / "a.parquet", [{"problem": "p", "ground_truth": tests}])
    (row,) = rows_of(path, "rows")
    assert row.ground_truth == tests | {"day": "2026-01-02", "raw": "b'x'"}


@pytest.mark.parametrize(
    ("shape", "record"),
    [
        ("verl_math", verl("5", "a" + " " * 200_000 + "b")),
        ("gsm8k", {"question": "p", "answer": "#### a" + " " * 200_000 + "b"}),
        ("boxed_solution", {"problem": "p", "solution": r"\boxed" + " " * 200_000 + "{5}"}),
    ],
)
def test_long_runs_of_spaces_take_no_time(tmp_path, shape, record):
    began = time.process_time()
    row_of(tmp_path, shape, record)
    assert time.process_time() - began < 1


def test_labels_of_skywork_survive(tmp_path):
    difficulty = {"DeepSeek-R1-Distill-Qwen-1.5B": 3}
    record = verl('["42"]', extra_info={"index": 1, "model_difficulty": difficulty})
    row = row_of(tmp_path, "verl_math", record)
    assert row.extra["model_difficulty"] == difficulty


# Mathematics


@pytest.mark.parametrize(
    ("prompt", "problem"),
    [
        (DAPO.format("Find 2+3."), "Find 2+3."),
        (DAPO.format("A\n\nB").replace("$Answer (without quotes)", r"\boxed{$Answer}"), "A\n\nB"),
        ("p Let's think step by step and output the final answer within \\boxed{}.", "p"),
        ("p\nPlease reason step by step, and put your final answer within \\boxed{}.", "p"),
        ("p\n\nPresent the answer in LaTex format: \\boxed{Your answer}", "p"),
        ("Solve the following: Answer: 5.", "Solve the following: Answer: 5."),
    ],
)
def test_a_problem_without_its_instructions(tmp_path, prompt, problem):
    assert row_of(tmp_path, "verl_math", verl("1", prompt)).prompt == problem


def test_instructions_may_be_a_system_turn(tmp_path):
    turns = [{"role": "system", "content": "Think."}, *user("p")]
    row = row_of(tmp_path, "verl_math", verl("1") | {"prompt": turns})
    assert (row.prompt, row.remark) == ("p", "without its system message")
    assert row_of(tmp_path, "verl_math", verl("1", "p")).remark == ""


def test_a_conversation_is_no_problem(tmp_path):
    message = refusal_of(tmp_path, "verl_math", verl("1") | {"prompt": user("p") * 2})
    assert "one turn" in message and "2 turns" in message


def test_a_chat_stays_one_where_rows_are_used_as_they_are(tmp_path):
    row = row_of(tmp_path, "rows", dapo_records(1)[3])
    assert row.prompt == tuple(user(DAPO.format("求 2+3。")))
    assert row.source == "math_dapo"


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"First \boxed{1}, then $\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"So $\boxed 5$.", "5"),
        (r"So $\boxed \frac{1}{2}$ it is.", r"\frac{1}{2}"),
        (r"So $\fbox{7}$.", "7"),
        (r"About \boxed{3.2} \mathrm{~kg}.", "3.2"),
    ],
)
def test_the_last_box_of_a_solution(tmp_path, solution, answer):
    row = row_of(tmp_path, "boxed_solution", {"problem": "p", "solution": solution})
    assert row.ground_truth == answer


def test_a_context_stands_before_its_question(tmp_path):
    record = {"context": "Let x be 2.", "question": "Find x.", "final_answer": ["2"]}
    assert row_of(tmp_path, "olympiadbench", record).prompt == "Let x be 2.\nFind x."


def test_all_answers_of_olympiadbench_are_asked_for(tmp_path):
    """A list of truths would mean that any of them is right."""
    record = {"question": "p", "final_answer": ["1", "2"], "is_multiple_answer": True}
    assert row_of(tmp_path, "olympiadbench", record).ground_truth == "1,2"


UNUSABLE = {
    "null": ("math", {"problem": "p", "answer": None}, "no answer"),
    "blank": ("math", {"problem": "p", "answer": " "}, "no answer"),
    "no list": ("math", {"problem": "p", "answer": []}, "no answer"),
    "a boolean answer": ("math", {"problem": "p", "answer": True}, "no plain answer"),
    "null among answers": ("math", {"problem": "p", "answer": ["1", None]}, "no plain answer"),
    "blank among answers": ("math", {"problem": "p", "answer": ["42", ""]}, "no plain answer"),
    "an infinite test": (
        "rows",
        verl({"inputs": ["1"], "outputs": [float("inf")]}),
        "infinite or none",
    ),
    "null of verl": ("verl_math", verl(None), "no answer"),
    "null of rows": ("rows", verl(None), "no answer"),
    "no problem": ("math", {"problem": None, "answer": "1"}, "no problem"),
    "only instructions": ("verl_math", verl("1", DAPO.format(" ")), "no problem"),
    "proof": ("math", {"problem": "p", "answer": "proof"}, "truth that the math reward"),
    "broken LaTeX": ("math", {"problem": "p", "answer": r"\frac{1}{2"}, "cannot judge"),
    "no hashes": ("gsm8k", {"question": "p", "answer": "It is 12."}, "no answer"),
    "no box": ("boxed_solution", {"problem": "p", "solution": "clear"}, "no answer"),
    "open box": ("boxed_solution", {"problem": "p", "solution": r"\boxed{1"}, "no answer"),
    "numina proof": ("numina", {"problem": "p", "answer": "proof"}, "proof"),
    "numina choice": (
        "numina",
        {"problem": "p", "answer": "A", "question_type": "MCQ"},
        "multiple choice",
    ),
    "numina invalid": (
        "numina",
        {"problem": "p", "answer": "1", "problem_is_valid": "Incomplete"},
        "not valid",
    ),
    "notfound": ("numina", {"problem": "p", "answer": "notfound"}, "cannot judge"),
    "no tests": ("taco", TACO | {"input_output": ""}, "no tests"),
    "no inputs": ("taco", TACO | {"input_output": '{"inputs": []}'}, "no tests"),
    "an empty truth": ("verl_code", verl(""), "no tests"),
    "no LCB tests": (
        "livecodebench",
        livecodebench_record(public_test_cases="[]", private_test_cases="[]"),
        "no tests",
    ),
    "another language": (
        "primeintellect",
        primeintellect_record(language="javascript"),
        "not in Python",
    ),
    "no cases": ("primeintellect", primeintellect_record(test_cases=[]), "no tests"),
    "interactive": ("codeforces", CODEFORCES | {"interaction_format": "Ask."}, "interactive"),
    "files": ("codeforces", CODEFORCES | {"input_mode": "file"}, "reads files"),
    "no official tests": ("codeforces", CODEFORCES | {"official_tests": []}, "no tests"),
    "no script": ("kodcode", KODCODE | {"test": ""}, "no tests"),
    "a script with fixtures": (
        "kodcode",
        KODCODE | {"test": "def test_add(tmp_path):\n    assert add(2, 3) == tmp_path\n"},
        "truth that the code reward cannot judge",
    ),
    "no assertion to show": ("mbpp_plus", MBPP_PLUS | {"test_list": []}, "no tests"),
    "no DeepCoder tests": ("deepcoder", deepcoder_record([]), "no tests"),
    "a number too long for Python": (
        "taco",
        TACO | {"input_output": '{"inputs": [[1]], "outputs": [' + "9" * 5000 + "]}"},
        "number of too many digits",
    ),
    "a number too long for the reward": (
        "verl_code",
        verl('{"fn_name": "f", "inputs": [[1]], "outputs": [' + "9" * 5000 + "]}"),
        "cannot judge",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_what_nothing_can_be_learnt_from_is_counted(tmp_path, case):
    shape, record, reason = UNUSABLE[case]
    assert reason in reason_of(tmp_path, shape, record)


def test_half_of_a_surrogate_pair_is_no_text(tmp_path):
    """No tokenizer takes it; JSON can spell it."""
    path = tmp_path / "a.jsonl"
    for shape, record in (("math", {"problem": "\ud800", "answer": "1"}), ("rows", verl("\ud800"))):
        path.write_text(json.dumps(record))
        with pytest.raises(Unusable, match="not Unicode"):
            rows_of(path, shape)


DEEP = "[" * 100_000 + "]" * 100_000

REFUSED = {
    # name: (shape, record, what the message must say)
    "a missing column": (
        "math",
        {"text": "p", "answer": "1"},
        ["problem or Problem or question", "has only text, answer", "rename"],
    ),
    "an object as answer": ("math", {"problem": "p", "answer": {"a": 1}}, ["'answer'", "a list"]),
    "tests as answer": ("math", {"problem": "p", "answer": STDIN_TESTS}, ["'answer'"]),
    "a number as problem": ("math", {"problem": 5, "answer": "1"}, ["a text in 'problem'", "5"]),
    "a number as tests": ("verl_code", verl(True), ["'reward_model.ground_truth'", "tests"]),
    "torn tests": (
        "taco",
        TACO | {"input_output": '{"inputs": ["1'},
        ["whole JSON", "breaks", "Unterminated"],
    ),
    "deep tests": ("taco", TACO | {"input_output": DEEP}, ["nested without end"]),
    "tests deeper than any are": (
        "taco",
        TACO | {"input_output": '{"inputs": ' + "[" * 900 + "]" * 900 + "}"},
        ["nested without end"],
    ),
    "a deep answer": (
        "math",
        {"problem": "p", "answer": json.loads("[" * 500 + "]" * 500)},
        ["nested without end"],
    ),
    "a deep literal": (
        "primeintellect",
        primeintellect_record() | {"verification_info": "(" * 100_000},
        ["whole JSON", "'verification_info'"],
    ),
    "a list as info": (
        "primeintellect",
        primeintellect_record() | {"verification_info": "[]"},
        ["an object", "'verification_info'"],
    ),
    "a list as metadata": (
        "livecodebench",
        livecodebench_record(metadata="[1]"),
        ["an object", "'metadata'"],
    ),
    "an object as tests": (
        "livecodebench",
        livecodebench_record(public_test_cases="{}x"),
        ["whole JSON", "'public_test_cases'"],
    ),
    "torn base64": (
        "livecodebench",
        livecodebench_record(private_test_cases=packed("[]")[:-3]),
        ["'private_test_cases'", "JSON, plain or packed", "neither"],
    ),
    "torn compression": (
        "livecodebench",
        livecodebench_record(private_test_cases=packed("[]" * 999)[:-8]),
        ["'private_test_cases'", "torn"],
    ),
    "no compression": (
        "livecodebench",
        livecodebench_record(private_test_cases="eJxx"),
        ["'private_test_cases'", "plain or packed"],
    ),
    "a pickled list": (
        "livecodebench",
        livecodebench_record(private_test_cases=packed(STDIN_TESTS)),
        ["holds more than one text"],
    ),
    "packed JSON that is deep": (
        "livecodebench",
        livecodebench_record(private_test_cases=packed(DEEP)),
        ["nested without end"],
    ),
    "packed text that is no JSON": (
        "livecodebench",
        livecodebench_record(private_test_cases=packed("[1")),
        ["'private_test_cases'", "plain or packed"],
    ),
    "no pickle": (
        "livecodebench",
        livecodebench_record(private_test_cases="eJxLBAAAYgBi"),  # zlib of the letter a
        ["neither", "STOP"],
    ),
    "a list as row": ("math", [1], ["Row 1 is a list"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_record_is_refused_with_its_place_and_mend(tmp_path, case):
    shape, record, words = REFUSED[case]
    message = refusal_of(tmp_path, shape, record)
    for word in words:
        assert word in message


def test_a_missing_parquet_column_is_told_with_all_that_are_there(tmp_path):
    path = write_records(tmp_path / "a.parquet", [{"text": "p", "answer": "1", "extra": 2}])
    with pytest.raises(ConfigError, match="has only text, answer, extra"):
        rows_of(path, "math")


ODD = [
    *(None, True, 5, float("nan"), "", "x", "[1]", '{"a": 1}', "null", [], [1], ["x"]),
    *([None], {}, {"a": 1}, [{"a": 1}], '{"inputs": 5}', '{"tests": [{"input": 1}]}', [[]]),
    *('{"inputs": [1], "outputs": 5}', '{"test_cases": 5}', [{"input": None, "output": 5}]),
]


@pytest.mark.parametrize("case", MATHS | CODE)
def test_whatever_a_column_holds_is_a_row_or_said_to_be_none(tmp_path, case):
    shape, record, *_ = (MATHS | CODE)[case]
    file = DataFile(tmp_path / "a.jsonl", KEY)
    for column in record:
        for odd in ODD:
            try:
                row = SHAPES[shape](file, 1, record | {column: odd})
            except (Unusable, ConfigError):
                continue
            assert row.prompt and row.ground_truth


def test_columns_that_a_shape_does_not_need_are_not_decoded(tmp_path):
    path = tmp_path / "a.parquet"
    record = {"problem": "p", "answer": "1", "generations": ["long"] * 3}
    pq.write_table(pa.Table.from_pylist([record]), path)
    (_, read), *_ = read_records(DataFile(path, KEY), SHAPES["numina"].columns)
    assert set(read) == {"problem", "answer"}
