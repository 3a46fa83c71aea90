"""``archer.prepare`` from files to rows that a run reads, and what it says of bad ones."""

import subprocess
import sys
from pathlib import Path

import pytest
from dataset_fixtures import CODE, MATHS, dapo_records, write_records
from preparing import HATS, Prepared, benchmark_and_training, refused, source, training

from archer.data.files import DataFile, read_records
from archer.data.overlap import problem_of
from archer.data.prepared import read_report
from archer.data.shapes import SHAPES

ROOT = Path(__file__).parents[2]
BOXED = "{problem}\nPut your answer within \\boxed{}."


# -- rows and reports


def test_sources_become_one_set_of_rows_that_a_run_reads(tmp_path):
    sums = [{"problem": "1+1?", "answer": "025", "id": 7}, {"problem": "2+2?", "answer": None}]
    write_records(tmp_path / "sums.parquet", sums)
    write_records(tmp_path / "more.json", [{"question": "3+3?", "answer": 6, "level": "easy"}])
    sources = {
        "sums": source(tmp_path, "sums.parquet"),
        "more": source(
            tmp_path,
            "more.json",
            data_source="maths",
            where=[{"column": "level", "one_of": ["easy"]}],
        ),
    }
    made = Prepared(tmp_path, {"x": training(sources, template=BOXED)})
    first, second = made.rows("x")
    assert first.prompt == "1+1?"  # the template is left to runs
    assert (first.ground_truth, first.source) == ("025", "sums")
    assert first.extra == {"id": "sums-1", "problem_id": 7}
    assert (second.prompt, second.source, second.extra["id"]) == ("3+3?", "maths", "more-1")
    report = made.reports["x"]
    assert report.sources["sums"].counts.dropped == {"no answer": 1}
    assert (report.sources["sums"].counts.records, report.sources["sums"].counts.kept) == (2, 1)
    assert report.sources["more"].files[0].num_bytes == (tmp_path / "more.json").stat().st_size
    assert report.prompt_chars.longest == len(first.prompt)
    counts = [line.split() for line in made.output.getvalue().splitlines()[:-1]]
    assert ["x", "sums", "more"] in counts and ["no", "answer", "1", "0"] in counts
    page = made.page("x")
    assert "| records | sums | more |" in page and "| no answer | 1 | 0 |" in page


def test_every_shape_reaches_a_run_as_it_was_read(tmp_path):
    fixtures = [(shape, record) for shape, record, *_ in (*MATHS.values(), *CODE.values())]
    sources, expected = {}, []
    for number, (shape, record) in enumerate(fixtures):
        path = write_records(tmp_path / f"{number}.jsonl", [record])
        sources[f"s{number}"] = source(tmp_path, path.name, shape=shape)
        [(_, read)] = read_records(DataFile(path, "data.train"))
        expected.append(SHAPES[shape](DataFile(path, "data.train"), 1, read))
    made = Prepared(tmp_path, {"x": training(sources, deduplicate=False)})
    found = [(row.prompt, row.ground_truth) for row in made.rows("x")]
    assert found == [(row.prompt, row.ground_truth) for row in expected]
    problems = [problem_of(row) for row in made.rows("x")]
    assert problems == [problem_of(row) for row in expected]


def test_chat_messages_stay_as_they_are(tmp_path):
    messages = [{"role": "user", "content": "Say 5."}]
    record = {"prompt": messages, "reward_model": {"ground_truth": "5"}, "data_source": "own"}
    write_records(tmp_path / "chats.parquet", [record])
    rows = source(tmp_path, "chats.parquet", shape="rows")
    made = Prepared(tmp_path, {"x": training({"s": rows})})
    assert made.prompts("x") == [tuple(messages)]
    assert made.rows("x")[0].source == "own"


def test_a_hundredfold_repetition_becomes_single_problems_without_contradictions(tmp_path):
    write_records(tmp_path / "dapo.parquet", dapo_records())
    repeated = source(tmp_path, "dapo.parquet", shape="verl_math")
    made = Prepared(tmp_path, {"x": training({"s": repeated})})
    report = made.reports["x"]
    counts = report.sources["s"].counts
    assert counts.records == counts.kept + sum(counts.dropped.values())
    assert counts.dropped.keys() == {"duplicate problem", "conflicting truths"}
    assert [problem_of(row) for row in made.rows("x")] == ["Find 20+14.", "求 2+3。"]
    assert report.rows == counts.kept == 2  # not the one with two answers
    kept = Prepared(tmp_path, {"x": training({"s": repeated}, deduplicate=False)}).reports["x"]
    assert kept.rows == counts.records


def test_what_shares_words_with_a_benchmark_is_left_out_and_named(tmp_path):
    sets = benchmark_and_training(tmp_path)
    made = Prepared(tmp_path, sets)
    assert [row.extra["id"] for row in made.rows("new")] == ["s-1", "s-3"]
    report = made.reports["new"]
    assert report.sources["s"].counts.dropped == {"in old": 2}
    first, second = report.examples["in old"]
    assert (first.row, first.other, second.row, second.other) == ("s-2", "b-1", "s-4", "b-1")
    assert first.row_text.startswith("Solve this: ANN HAS 4")
    assert first.other_text == HATS.format(3)
    assert first.shared.startswith("ann has red hats blue hats and very old")
    page = (made.folder("new") / "report.md").read_text()
    assert all(text in page for text in (first.row_text, first.other_text, first.shared))


def test_overlaps_that_are_kept_are_counted_and_shown(tmp_path):
    sets = benchmark_and_training(tmp_path)
    sets["new"]["overlaps"] = "keep"
    made = Prepared(tmp_path, sets)
    counts = made.reports["new"].sources["s"].counts
    assert (counts.kept, counts.dropped, counts.marked) == (4, {}, {"in old": 2})
    assert [row.extra["id"] for row in made.rows("new")] == ["s-1", "s-2", "s-3", "s-4"]
    page = made.page("new")
    assert "| ... though in old | 2 |" in page and "## in old: 2 of 2" in page


def test_a_set_is_prepared_again_when_its_benchmark_is_another(tmp_path):
    sets = benchmark_and_training(tmp_path)
    before = Prepared(tmp_path, sets).reports["new"]
    write_records(tmp_path / "b.jsonl", [{"problem": "1+1?", "answer": "2"}])
    after = Prepared(tmp_path, sets).reports["new"]
    assert (before.rows, after.rows) == (2, 3)
    write_records(tmp_path / "c.jsonl", [{"problem": "2+2?", "answer": "4"}])
    sets["old"]["sources"]["b"]["files"] = ["c.jsonl"]
    assert Prepared(tmp_path, sets).reports["new"].against != after.against


def test_a_benchmark_that_is_not_there_or_waits_for_itself_is_refused(tmp_path):
    sets = benchmark_and_training(tmp_path)
    sets["new"]["decontaminate_against"] = ["old"]
    alone = {"new": sets["new"]}
    assert "data=...,old" in refused(tmp_path, alone)
    sets["old"]["decontaminate_against"] = ["new"]
    assert "new -> old -> new" in refused(tmp_path, sets)


def test_tokens_are_counted_as_a_run_with_the_model_has_them(tmp_path, tokenizer_folder):
    write_records(tmp_path / "a.jsonl", [{"problem": "1+1", "answer": "2"}])
    sets = {"x": training({"s": source(tmp_path, "a.jsonl")})}
    model = {"name": "bytes", "path": str(tokenizer_folder)}
    data = {"name": "x", "sets": sets, "chat_template": False, "max_prompt_tokens": 2}
    made = Prepared(tmp_path, sets, model=model, data=data)
    found = made.reports["x"].prompt_tokens["bytes"]
    assert (found.median, found.longest, found.limit, found.num_over) == (3, 3, 2, 1)
    assert read_report(made.folder("x")) == made.reports["x"]
    assert made.prompts("x") == ["1+1"]  # a run drops it, by its own limit
    assert "Over data.max_prompt_tokens=2, and left out by a run: 1." in made.output.getvalue()


def test_a_model_without_a_chat_template_is_refused_before_anything_is_prepared(
    tmp_path, tokenizer_folder
):
    sets = {"x": training({"s": source(tmp_path, "absent.jsonl")})}
    words = refused(tmp_path, sets, model={"name": "bytes", "path": str(tokenizer_folder)})
    assert "data.chat_template=True" in words and "has no chat template" in words


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory):
    """A tokenizer of single characters."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("model")
    characters = Tokenizer(models.WordLevel({c: i for i, c in enumerate("?0123+")}, unk_token="?"))
    characters.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    characters.save(str(folder / "tokenizer.json"))
    return folder


# -- bad input


def test_a_missing_column_names_the_file_the_row_and_what_is_there(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"problem": "1+1?", "answer": "2"}, {"task": "3", "n": 1}])
    words = refused(tmp_path, {"x": training({"s": source(tmp_path, "a.jsonl")})})
    expected = ["data.sets.x.sources.s", "a.jsonl", "Row 2", "task, n", "problem"]
    assert all(word in words for word in expected), words


def test_a_truth_of_the_wrong_type_is_refused_with_its_row_and_column(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"problem": "1+1?", "answer": {"value": 2}}])
    words = refused(tmp_path, {"x": training({"s": source(tmp_path, "a.jsonl")})})
    assert all(word in words for word in ("a.jsonl", "Row 1", "'answer'", "{'value': 2}")), words


def test_an_unknown_column_in_where_names_those_there_though_they_are_not_read(tmp_path):
    write_records(tmp_path / "a.parquet", [{"problem": "1+1?", "answer": "2", "note": "n"}])
    wanted = source(tmp_path, "a.parquet", where=[{"column": "levle", "min": 5}])
    words = refused(tmp_path, {"x": training({"s": wanted})})
    assert "Row 1 has only problem, answer, note" in words


def test_where_may_ask_for_a_column_that_the_shape_does_not_read(tmp_path):
    records = [{"problem": f"{i}+1?", "answer": "2", "info": {"round": i}} for i in range(3)]
    write_records(tmp_path / "a.parquet", records)
    wanted = source(tmp_path, "a.parquet", where=[{"column": "info.round", "min": 1, "below": 2}])
    assert Prepared(tmp_path, {"x": training({"s": wanted})}).prompts("x") == ["1+1?"]


@pytest.mark.parametrize("cut", [0.2, 0.9])
def test_a_truncated_parquet_file_is_refused(tmp_path, cut):
    records = [{"problem": f"{i}+1?", "answer": str(i)} for i in range(1000)]
    path = write_records(tmp_path / "a.parquet", records)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * cut)])
    words = refused(tmp_path, {"x": training({"s": source(tmp_path, "a.parquet")})})
    assert "a.parquet" in words and "download it again" in words.lower()


def test_the_wrong_split_is_refused_and_the_files_there_are_named(tmp_path):
    write_records(tmp_path / "train.jsonl", [{"problem": "1+1?", "answer": "2"}])
    words = refused(tmp_path, {"x": training({"s": source(tmp_path, "data/test.jsonl")})})
    expected = ["data.sets.x.sources.s.folder", "a folder with data/test.jsonl", "train.jsonl."]
    assert all(word in words for word in expected), words


@pytest.mark.parametrize("expected", [{"expected_records": 100}, {"expected_records": 90}])
def test_another_number_of_records_than_expected_is_refused(tmp_path, expected):
    records = [{"problem": f"{i}+1?", "answer": "1"} for i in range(95)]
    write_records(tmp_path / "a.jsonl", records)
    wanted = source(tmp_path, "a.jsonl", **expected)
    words = refused(tmp_path, {"x": training({"s": wanted})})
    assert "There are 95" in words and "data.sets.x.sources.s.expected_records=null" in words
    near = source(tmp_path, "a.jsonl", expected_records=96)  # off by 1.04 %
    assert "There are 95" in refused(tmp_path, {"x": training({"s": near})})
    exact = source(tmp_path, "a.jsonl", expected_records=95)
    assert Prepared(tmp_path, {"x": training({"s": exact})}).reports["x"].rows == 95


def test_another_number_of_rows_can_be_accepted_and_is_then_found_without_saying_so(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"problem": "1+1?", "answer": "2"}] * 3)
    files = {"s": source(tmp_path, "a.jsonl")}
    words = refused(tmp_path, {"x": training(files, expected_rows=3)})
    assert "data.sets.x.expected_rows=3" in words and "expected_rows=null" in words
    Prepared(tmp_path, {"x": training(files)})
    assert len(Prepared(tmp_path, {"x": training(files, expected_rows=3)}).rows("x")) == 1


def test_a_set_of_which_nothing_is_left_is_refused_with_the_reasons(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"problem": "1+1?", "answer": None}] * 3)
    words = refused(tmp_path, {"x": training({"s": source(tmp_path, "a.jsonl")})})
    assert "3 no answer" in words


@pytest.mark.parametrize("template", ["", "Solve it.", "{question}"])
def test_a_template_without_the_problem_is_refused(tmp_path, template):
    write_records(tmp_path / "a.jsonl", [{"problem": "1+1?", "answer": "2"}])
    sets = {"x": training({"s": source(tmp_path, "a.jsonl")}, template=template)}
    words = refused(tmp_path, sets)
    assert "data.sets.x.template" in words and "with {problem} in it" in words


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"shape": "gms8k"}, ["sources.s.shape", "Did you mean 'gsm8k'?"]),
        ({"folder": None}, ["sources.s", "a hub id or a folder"]),
        ({"files": ["/data/a.jsonl"]}, ["sources.s.files", "paths within"]),
        ({"files": ["../*/a.jsonl"]}, ["sources.s.files", "paths within"]),
        ({"files": [""]}, ["sources.s.files", "paths within"]),
    ],
)
def test_what_is_wrong_with_a_recipe_is_said_before_anything_is_fetched(tmp_path, change, words):
    sets = {
        "first": training({"s": source(tmp_path, "absent.jsonl")}),
        "x": {"role": "eval", "sources": {"s": source(tmp_path, "a.jsonl") | change}},
    }
    message = refused(tmp_path, sets)
    assert all(word in message for word in words), message


# -- the command line


def test_help_tells_how_to_use_it():
    words = [sys.executable, "-m", "archer.prepare", "--help"]
    shown = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert "data=PRESET[,PRESET...]" in shown.stdout and not shown.stderr


def test_those_who_name_no_preset_are_told_which_there_are(tmp_path):
    words = refused(tmp_path, {})
    assert "aime24, " in words and "jsonl" not in words.partition("Choose")[2]
