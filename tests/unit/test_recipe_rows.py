"""What becomes of the records of a set as a whole: rows, and what the report says of the others."""

import json

from dataset_fixtures import CODE, MATHS, deepcoder_record, user, verl, write_records
from preparing import Prepared, source, training

from archer.data.prepared import FORMAT

PINNED = (2, "e494e199427757b56d0e293285e61abf67d6ae32f5effb217564630cec96d077")
"""The format, and the SHA-256 of the fixtures' rows in it."""


def prepared(tmp_path, records, **keys):
    write_records(tmp_path / "a.jsonl", records)
    made = Prepared(tmp_path, {"x": training({"s": source(tmp_path, "a.jsonl", **keys)})})
    return made, made.reports["x"].sources["s"].counts


def test_rows_that_change_have_another_format(tmp_path):
    """Else what users have prepared before goes on being used as if it were the same."""
    sources = {}
    for number, (shape, record, *_) in enumerate([*MATHS.values(), *CODE.values()]):
        path = write_records(tmp_path / f"{number}.jsonl", [record])
        sources[f"s{number}"] = source(tmp_path, path.name, shape=shape)
    made = Prepared(tmp_path, {"x": training(sources, deduplicate=False)})
    mend = "Rows are others than before, or fixtures: raise FORMAT if they are rows, then pin this"
    assert (FORMAT, made.reports["x"].sha256) == PINNED, mend


def test_a_task_that_comes_again_with_more_tests_stays_once(tmp_path):
    few = [{"input": "1\n", "output": "1\n"}]
    many = [*few, {"input": "2\n", "output": "2\n"}]
    records = [deepcoder_record(tests) for tests in (few, many)]
    made, counts = prepared(tmp_path, records, shape="deepcoder")
    assert [row.extra["id"] for row in made.rows("x")] == ["s-1"]
    assert counts.dropped == {"duplicate problem": 1}


def test_spellings_of_an_answer_cost_no_problem_and_contradictions_are_shown(tmp_path):
    answers = {"a": (r"2\sqrt{3}", r"2 \sqrt 3"), "b": ("5", "6"), "c": ("336", r"336^\circ")}
    records = [{"problem": p, "answer": a} for p, pair in answers.items() for a in pair]
    made, counts = prepared(tmp_path, records)
    assert made.prompts("x") == ["a", "c"]
    assert counts.dropped == {"duplicate problem": 2, "conflicting truths": 2}
    assert counts.records == counts.kept + sum(counts.dropped.values())
    (example,) = made.reports["x"].examples["conflicting truths"]
    assert (example.row, example.other, example.shared) == ("s-4", "s-3", "5 / 6")
    assert "5 / 6" in (made.folder("x") / "report.md").read_text()


def test_what_the_data_calls_problem_drops_nothing(tmp_path):
    records = [verl(str(n), f"{n}+0?", extra_info={"problem": "algebra"}) for n in range(5)]
    made, counts = prepared(tmp_path, records, shape="verl_math")
    assert counts.kept == len(made.rows("x")) == 5
    assert all("problem" not in row.extra for row in made.rows("x"))


def test_a_system_message_that_is_left_out_is_counted(tmp_path):
    turns = [{"role": "system", "content": "Think."}, *user("1+1?")]
    records = [verl("2") | {"prompt": turns}, verl("3", "1+2?")]
    _, counts = prepared(tmp_path, records, shape="verl_math")
    assert (counts.kept, counts.marked) == (2, {"without its system message": 1})


def test_rows_are_json_that_strict_readers_take(tmp_path):
    infinite = {"rate": float("inf"), "none": float("nan")}
    made, _ = prepared(tmp_path, [verl("1", extra_info=infinite)], shape="verl_math")
    text = (made.folder("x") / "rows.jsonl").read_text()

    def refuse(constant):
        raise AssertionError(constant)

    assert json.loads(text, parse_constant=refuse)["extra_info"]["rate"] is None
