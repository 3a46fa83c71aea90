"""``archer.choose``: training rows by how often a model solves them."""

import errno
import io
import json

import pytest
from dataset_fixtures import write_records
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from preparing import Prepared, source, training
from rich.console import Console as RichConsole

from archer.choose import choose, load_choose_config
from archer.config import CONF
from archer.console import Console
from archer.data import files
from archer.data.pass_rates import choose_rows, read_pass_rates
from archer.data.rows import read_rows
from archer.errors import ConfigError


def write_rates(path, *counts):
    """A table with lines of id, samples and those of them that are right."""
    lines = [
        {"id": id, "num_samples": n, "num_correct": c, "source": "sums", "other": 1}
        for id, n, c in counts
    ]
    return write_records(path, lines)


@pytest.fixture
def rows(tmp_path):
    records = [
        {"problem": f"p{i}", "answer": "1", "extra_info": {"id": f"s-{i}"}} for i in range(5)
    ]
    return write_records(tmp_path / "rows.jsonl", records)


def chosen(rows, rates, keep, template="{problem}"):
    output = io.StringIO()
    outcome = choose_rows(read_rows(rows, "data.train"), template, rates, keep, output)
    return [json.loads(line) for line in output.getvalue().splitlines()], dict(outcome)


def run(**keys):
    """What the command says."""
    output = io.StringIO()
    with Console(0, 0, RichConsole(file=output, width=200)) as console:
        choose(load_choose_config(OmegaConf.create(keys)), console)
    return output.getvalue()


def test_rows_of_middling_difficulty_are_kept_and_all_others_are_counted(tmp_path, rows):
    table = write_rates(
        tmp_path / "t.jsonl", ("s-0", 8, 0), ("s-1", 8, 1), ("s-2", 8, 4), ("s-3", 8, 8)
    )
    records, outcome = chosen(rows, read_pass_rates(table), (0.125, 0.5))
    assert [record["prompt"] for record in records] == ["p1", "p2"]
    assert records[0]["extra_info"] == {"id": "s-1"}
    assert records[0]["reward_model"]["ground_truth"] == "1"
    assert outcome == {"kept": 2, "too hard": 1, "too easy": 1, "without a figure": 1}


def test_rows_without_a_name_go_by_their_number(tmp_path):
    rows = write_records(tmp_path / "plain.jsonl", [{"problem": p, "answer": "1"} for p in "ab"])
    table = write_rates(tmp_path / "t.jsonl", (1, 2, 0), ("2", 2, 1))
    records, _ = chosen(rows, read_pass_rates(table), (0.1, 0.9))
    assert [record["prompt"] for record in records] == ["b"]


def test_samples_without_a_verdict_say_nothing_of_the_model(tmp_path, rows):
    lines = [
        {"id": "s-0", "num_samples": 8, "num_correct": 0, "num_valid": 0},
        {"id": "s-1", "num_samples": 8, "num_correct": 4, "num_valid": 4},
        {"id": "s-2", "num_samples": 8, "num_correct": 2, "num_valid": 4},
    ]
    rates = read_pass_rates(write_records(tmp_path / "t.jsonl", lines))
    assert rates == {"s-0": None, "s-1": 1.0, "s-2": 0.5}
    _, outcome = chosen(rows, rates, (0.01, 0.99))
    assert outcome == {"kept": 1, "too easy": 1, "without a figure": 3}


def test_the_template_is_in_the_output_which_is_trained_on_as_it_is(rows):
    [record], _ = chosen(rows, {"s-1": 0.5}, (0.1, 0.9), "Solve: {problem}")
    assert record["prompt"] == "Solve: p1"
    assert record["extra_info"] == {"id": "s-1", "problem": "p1"}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", ["at least one problem"]),
        ('{"id": "a", "num_samples": 2, "num_correct": 1}\n{"id": "b", "num_sam', ["Line 2"]),
        ('{"id": "a", "num_samples": 2}\n', ["Line 1", "num_correct"]),
        ('{"id": "a", "num_samples": 2, "num_correct": 3}\n', ["Line 1", "larger than"]),
        ('{"id": 1, "num_samples": 2, "num_correct": 2, "num_valid": 1}\n', ["larger than"]),
        ('{"id": "a", "num_samples": 2, "num_correct": 1}\n' * 2, ["Line 2", "'a' again"]),
    ],
)
def test_a_table_that_is_broken_is_refused(tmp_path, lines, words):
    table = tmp_path / "t.jsonl"
    table.write_text(lines)
    with pytest.raises(ConfigError) as error:
        read_pass_rates(table)
    assert all(word in str(error.value) for word in [*words, "pass_rates", str(table)])


def test_a_table_of_another_set_or_a_range_that_is_empty_is_refused(tmp_path, rows):
    with pytest.raises(ConfigError, match="whose first is 's-0'"):
        chosen(rows, {"other-1": 0.5}, (0.1, 0.9))
    with pytest.raises(ConfigError, match="4 without a figure, 1 too easy"):
        chosen(rows, {"s-1": 1.0}, (0.1, 0.9))
    with pytest.raises(ConfigError, match="no such file"):
        read_pass_rates(tmp_path / "absent.jsonl")


def test_the_rows_of_a_prepared_set_become_a_file_to_train_on(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"problem": f"{i}+1?", "answer": i} for i in range(4)])
    sets = {"x": training({"s": source(tmp_path, "a.jsonl")}, template="Solve: {problem}")}
    Prepared(tmp_path, sets)
    table = write_rates(tmp_path / "problems_x.jsonl", ("s-1", 4, 0), ("s-2", 4, 2), ("s-3", 4, 4))
    output = tmp_path / "chosen.jsonl"
    said = run(
        data={"name": "x", "sets": sets},
        run={"cache": str(tmp_path / "cache")},
        pass_rates=str(table),
        output=str(output),
    )
    assert [row.prompt for row in read_rows(output, "data.train")] == ["Solve: 1+1?"]
    assert "1 rows kept; left out 1 too hard, 1 too easy, 1 without a figure" in said


def test_what_cannot_be_chosen_from_or_written_is_refused(tmp_path, rows):
    table = str(write_rates(tmp_path / "t.jsonl", ("s-1", 2, 1)))
    keys = {"pass_rates": table, "output": str(tmp_path / "no" / "chosen.jsonl")}
    with pytest.raises(ConfigError, match="training rows to choose from"):
        run(data={"name": "x"}, **keys)
    with pytest.raises(ConfigError, match="No such file or directory"):
        run(data={"name": "jsonl", "train": str(rows)}, **keys)
    with pytest.raises(ConfigError, match="lower end first"):
        run(data={"name": "jsonl", "train": str(rows)}, keep=[0.9, 0.1], **keys)


@pytest.mark.parametrize("key", ["data.train", "pass_rates"])
def test_a_file_that_may_not_be_read_is_refused_by_its_own_key(tmp_path, monkeypatch, rows, key):
    table = write_rates(tmp_path / "t.jsonl", ("s-1", 2, 1))
    locked = {"data.train": rows, "pass_rates": table}[key]

    def open_unlocked(path, *args):
        if path == locked:  # modes of files say nothing to root
            raise PermissionError(errno.EACCES, "Permission denied")
        return open(path, *args)

    monkeypatch.setattr(files, "open", open_unlocked, raising=False)
    data, output = {"name": "jsonl", "train": str(rows)}, str(tmp_path / "chosen.jsonl")
    with pytest.raises(ConfigError, match="Permission denied") as error:
        run(data=data, pass_rates=str(table), output=output)
    assert (error.value.key, error.value.value) == (key, str(locked))


def test_the_command_composes():
    words = ["data=deepscaler", "pass_rates=t.jsonl", "output=o.jsonl", "keep=[0.1,0.9]"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = load_choose_config(compose("choose", words))
    assert (config.keep, config.output) == ((0.1, 0.9), "o.jsonl")
