"""What a killed evaluation leaves, and what the next one makes of it."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from full_disk import full_disk
from hydra import compose, initialize_config_dir

import archer.evaluate  # noqa: F401 - stores the defaults that conf/evaluate.yaml begins with
from archer.errors import ConfigError, RunError
from archer.evaluation.config import EvaluateConfig, load_evaluate_config
from archer.evaluation.journal import JOURNAL_FILE, Journal
from archer.types import Prompt

CONF = Path(__file__).parents[2] / "conf"
ROWS = [{"prompt_id": "arithmetic-1", "index": 0, "correct": True}]


@cache
def composed(*overrides: str) -> EvaluateConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_evaluate_config(compose("evaluate", list(overrides)))


def load(folder: Path, *overrides: str) -> EvaluateConfig:
    return composed(*overrides).model_copy(update={"output": str(folder)})


def prompt(number: int) -> Prompt:
    text = f"{number}+1="
    return Prompt(f"arithmetic-{number}", np.array([1], np.int32), text, str(number + 1), "sums")


def write(folder: Path, *numbers: int) -> bytes:
    with Journal(load(folder)) as journal:
        for number in numbers:
            journal.append(prompt(number), ROWS)
    return (folder / JOURNAL_FILE).read_bytes()


def test_finished_problems_are_found_again(tmp_path: Path):
    write(tmp_path, 1, 2)
    with Journal(load(tmp_path)) as journal:
        assert journal.has(prompt(1)) and journal.rows(prompt(1)) == ROWS
        assert not journal.has(prompt(3))
        journal.append(prompt(3), [{"index": 1}])
        assert journal.rows(prompt(1)) == ROWS
        assert journal.rows(prompt(3)) == [{"index": 1}]
    with Journal(load(tmp_path)) as journal:
        assert all(journal.has(prompt(number)) for number in (1, 2, 3))


@pytest.mark.parametrize("kept", [1, 10, 100, 0.5])
def test_a_torn_line_is_as_if_it_had_never_been_written(tmp_path: Path, kept: float):
    """A kill may cut the file anywhere, within the line of the configuration too."""
    before = write(tmp_path, 1)
    line = write(tmp_path, 2)[len(before) :]
    size = int(len(line) * kept) if kept < 1 else int(kept)
    for whole, torn in ((before, line[:size]), (b"", before[:size])):
        (tmp_path / JOURNAL_FILE).write_bytes(whole + torn)
        with Journal(load(tmp_path)) as journal:
            assert journal.has(prompt(1)) == bool(whole)
            assert not journal.has(prompt(2))
            journal.append(prompt(2), ROWS)
        with Journal(load(tmp_path)) as journal:
            assert journal.has(prompt(2)) and journal.rows(prompt(2)) == ROWS


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("eval.num_samples=16", "eval.num_samples"),
        ("eval.top_p=0.9", "eval.top_p"),
        ("seed=1", "seed"),
        ("model.path=elsewhere", "model.path"),
        ("reward.timeout_s=3", "reward.timeout_s"),
        ("cluster.dtype=bfloat16", "cluster.dtype"),
        ("data.prompt_template='{problem}?'", "data.prompt_template"),
    ],
)
def test_another_evaluation_is_refused_by_the_key_that_differs(
    tmp_path: Path, override: str, key: str
):
    write(tmp_path, 1)
    with pytest.raises(ConfigError, match="To go on with that one set") as caught:
        Journal(load(tmp_path, override))
    assert caught.value.key == key


def test_machines_may_change(tmp_path: Path):
    write(tmp_path, 1)
    overrides = ("cluster.rollout_replicas=4", "reward.num_workers=3", "run.cache=elsewhere")
    with Journal(load(tmp_path, *overrides)) as journal:
        assert journal.has(prompt(1))


def test_published_figures_may_be_added_and_left_out(tmp_path: Path):
    bench = "++data.sets.x={role: eval, sources: {s: {files: [f]}}, max_response_tokens: 9}"
    figures = "++data.sets.x.published={tiny: {avg@64: 30}}"
    sets = ("data=jsonl", bench)
    for before, after in (((), (figures,)), ((figures,), ())):
        folder = tmp_path / str(len(before))
        folder.mkdir()
        with Journal(load(folder, *sets, *before)) as journal:
            journal.append(prompt(1), ROWS)
        with Journal(load(folder, *sets, *after)) as journal:
            assert journal.has(prompt(1))


@pytest.mark.parametrize("changed", [{"text": "1+2="}, {"ground_truth": "3"}])
def test_a_problem_that_changed_is_refused(tmp_path: Path, changed: dict[str, str]):
    write(tmp_path, 1)
    with (
        Journal(load(tmp_path)) as journal,
        pytest.raises(ConfigError, match="has changed since") as caught,
    ):
        journal.has(replace(prompt(1), **changed))
    assert (caught.value.key, caught.value.value) == ("data.eval.arithmetic", "arithmetic-1")


def test_two_evaluations_do_not_write_one_journal(tmp_path: Path):
    with Journal(load(tmp_path)), pytest.raises(ConfigError, match="no other evaluation"):
        Journal(load(tmp_path))
    Journal(load(tmp_path))


def test_a_full_disk_is_told_and_leaves_a_journal_to_go_on_with(tmp_path: Path):
    size = len(write(tmp_path, 1))
    with (
        pytest.raises(RunError, match="Free some space"),
        full_disk(size + 20),
        Journal(load(tmp_path)) as journal,
    ):
        journal.append(prompt(2), ROWS)
    assert (tmp_path / JOURNAL_FILE).stat().st_size == size + 20
    with Journal(load(tmp_path)) as journal:
        assert journal.has(prompt(1)) and not journal.has(prompt(2))
        journal.append(prompt(2), ROWS)
        assert journal.rows(prompt(2)) == ROWS


def test_a_journal_of_nothing_is_not_kept(tmp_path: Path):
    with Journal(load(tmp_path / "new")):
        assert (tmp_path / "new" / JOURNAL_FILE).exists()
    assert not (tmp_path / "new" / JOURNAL_FILE).exists()


def test_a_damaged_line_is_named(tmp_path: Path):
    content = write(tmp_path, 1, 2)
    first, second, third = content.splitlines(keepends=True)
    (tmp_path / JOURNAL_FILE).write_bytes(first + second[:9] + b"\n" + third)
    with pytest.raises(ConfigError, match="Line 2 is damaged"):
        Journal(load(tmp_path))


def test_a_journal_of_another_version_is_refused(tmp_path: Path):
    (tmp_path / JOURNAL_FILE).write_text(json.dumps({"config": {"seed": 0}}) + "\n")
    with pytest.raises(ConfigError, match="of this version"):
        Journal(load(tmp_path))
