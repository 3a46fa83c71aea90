"""Prepared sets in the cache: which of them a recipe means, and that it is whole or absent."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from dataset_fixtures import write_records
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from preparing import Prepared, benchmark_and_training, source, training

from archer.config import CONF
from archer.config.command_line import with_same_data
from archer.data.config import SetConfig
from archer.data.prepared import prepared_folder, prepared_rows, stand_ins
from archer.errors import ConfigError
from archer.prompts import dataset_files

ROOT = Path(__file__).parents[2]
BOXED = "{problem}\nPut your answer within \\boxed{}."


def test_prepared_sets_stay_as_they_are_until_their_files_change_or_force_asks(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"problem": "1+1?", "answer": "2"}])
    sets = {"x": training({"s": source(tmp_path, "a.jsonl")})}
    before = Prepared(tmp_path, sets).reports
    again = Prepared(tmp_path, sets)
    assert "prepared already" in again.output.getvalue()
    assert again.reports == before
    assert "prepared already" not in Prepared(tmp_path, sets, force=True).output.getvalue()
    write_records(tmp_path / "a.jsonl", [{"problem": p, "answer": "2"} for p in ("1+1?", "3-1?")])
    assert Prepared(tmp_path, sets).reports["x"].rows == 2
    with pytest.raises(ConfigError, match=r"a folder with a\.jsonl"):
        Prepared(tmp_path, {"x": training({"s": source(tmp_path / "gone", "a.jsonl")})})


def test_another_folder_in_place_of_the_hub_is_another_content(tmp_path):
    def prepared(folder):
        published = {**source(tmp_path / folder, "a.jsonl"), "hub": "org/sums"}
        return Prepared(tmp_path, {"x": training({"s": published})})

    for folder, problem in (("one", "1+1?"), ("two", "2+2?")):
        (tmp_path / folder).mkdir()
        write_records(tmp_path / folder / "a.jsonl", [{"problem": problem, "answer": "2"}])
    assert prepared("one").prompts("x") == ["1+1?"]
    made = prepared("two")
    assert made.prompts("x") == ["2+2?"]
    [told] = stand_ins(made.sets, made.cache)  # as runs do
    assert str(tmp_path / "two") in told and "in place of org/sums" in told
    assert told in made.output.getvalue()
    assert stand_ins(made.sets, tmp_path / "empty") == []


def test_the_order_of_the_sources_counts(tmp_path):
    """Of a problem that two of them have, the first one's row stays."""
    for name in "ab":
        write_records(tmp_path / f"{name}.jsonl", [{"problem": "1+1?", "answer": "2"}])
    sources = {name: source(tmp_path, f"{name}.jsonl") for name in "ab"}
    for order in ("ab", "ba"):
        made = Prepared(tmp_path, {"x": training({name: sources[name] for name in order})})
        assert [row.source for row in made.rows("x")] == [order[0]]


def test_a_forced_preparation_that_fails_leaves_the_old_set(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"problem": "1+1?", "answer": "2"}])
    sets = {"x": training({"s": source(tmp_path, "a.jsonl")})}
    made = Prepared(tmp_path, sets)
    (tmp_path / "a.jsonl").write_text('{"problem": "1+1')
    with pytest.raises(ConfigError, match="torn"):
        Prepared(tmp_path, sets, force=True)
    assert made.prompts("x") == ["1+1?"]


def test_the_folder_follows_the_content_and_not_the_place_of_the_files(tmp_path):
    published = {"hub": "org/name", "files": ["a.jsonl"]}

    of_set = ("expected_rows", "role", "top_p", "template", "overlaps", "decontaminate_against")

    def folder(**keys):
        changed = {key: keys.pop(key) for key in list(keys) if key in of_set}
        wanted = {"role": "train", "sources": {"s": published | keys}} | changed
        return prepared_folder("x", SetConfig.model_validate(wanted), tmp_path)

    same = [{"folder": "/mnt/copy"}, {"expected_records": 5}, {"expected_rows": 5}]
    same += [{"role": "eval"}, {"top_p": 0.5}, {"template": BOXED}]
    other = [{"revision": "abc"}, {"where": [{"column": "a", "min": 1}]}, {"hub": "org/b"}]
    other += [{"overlaps": "keep"}, {"decontaminate_against": ["y"]}]
    assert {folder(**keys) for keys in same} == {folder()}
    assert len({folder(), *(folder(**keys) for keys in other)}) == 1 + len(other)
    places = {folder(hub=None, folder=place) for place in ("/a", "/b")}
    assert len(places) == 2


def test_two_training_sets_in_one_run_are_refused(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"problem": "1+1?", "answer": 2}])
    sets = {name: training({"s": source(tmp_path, "a.jsonl")}) for name in ("x", "y")}
    made = Prepared(tmp_path, sets)
    with pytest.raises(ConfigError, match=r"data\.sets\.y\.role.*sources of one set"):
        dataset_files(made.config.data, made.cache)


# -- whole or absent


def test_a_set_that_is_absent_or_damaged_is_never_read(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"problem": "1+1?", "answer": "2"}])
    sets = {"x": training({"s": source(tmp_path, "a.jsonl")})}
    made = Prepared(tmp_path, sets)
    rows = made.folder("x") / "rows.jsonl"
    content = rows.read_text()
    for damaged in (content[:-9], content.replace("1+1", "1-1"), ""):
        rows.write_text(damaged)
        with pytest.raises(ConfigError, match=r"Rows\.jsonl is damaged, or was edited: x\."):
            made.rows("x")
    assert Prepared(tmp_path, sets).prompts("x") == ["1+1?"]  # repaired without force
    (made.folder("x") / "report.json").write_text("{")
    with pytest.raises(ConfigError, match="Not prepared"):
        made.rows("x")


def test_all_sets_that_are_missing_are_named_at_once_with_the_command(tmp_path):
    sets = benchmark_and_training(tmp_path)
    made = Prepared(tmp_path, sets)
    with pytest.raises(ConfigError) as error:
        dataset_files(made.config.data, tmp_path / "elsewhere")
    words = ["Not prepared with these settings: new, old.", "archer.prepare data=new,old", "where"]
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["experiment=dapo_math_1.5b"], "data=archer_math"),
        (["data=[aime24,aime25]", "run.cache=/c", "seed=1"], "data=aime24,aime25 run.cache=/c"),
        (
            ["data=aime24", "data.sets.aime24.ngram=9", "data.max_prompt_tokens=9"],
            "data=aime24 data.sets.aime24.ngram=9",
        ),
    ],
)
def test_the_command_that_prepares_has_the_data_of_the_present_one(words, expected):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", words, return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    try:
        assert with_same_data("prepare", ["x"]) == f"python -m archer.prepare {expected}"
    finally:
        HydraConfig.instance().cfg = None
    assert with_same_data("prepare", ["x", "y"]) == "python -m archer.prepare data=x,y"


def test_a_set_that_was_compared_with_another_benchmark_is_not_read(tmp_path):
    sets = benchmark_and_training(tmp_path)
    made = Prepared(tmp_path, sets)
    before = made.prompts("new")
    assert dataset_files(made.config.data, made.cache).keys() == {"data.train", "data.eval.old"}
    write_records(tmp_path / "b.jsonl", [{"problem": "1+1?", "answer": "2"}])
    Prepared(tmp_path, {"old": sets["old"]})  # the benchmark alone
    with pytest.raises(ConfigError, match="ompared with another old than there is now: new"):
        dataset_files(made.config.data, made.cache)
    own = made.sets["new"]  # composed without that benchmark, as by '~data.sets.old'
    assert prepared_rows(["new"], {"new": own}, made.cache).keys() == {"new"}
    again = Prepared(tmp_path, sets)
    assert dataset_files(again.config.data, again.cache)
    assert "1+1?" in before and "1+1?" not in again.prompts("new")


def many(tmp_path):
    """A set that takes a moment."""
    records = [{"problem": f"{i}+1?", "answer": str(i)} for i in range(5000)]
    write_records(tmp_path / "a.jsonl", records)
    return {"x": training({"s": source(tmp_path, "a.jsonl")}, expected_rows=len(records))}


def test_a_killed_preparation_leaves_nothing_and_the_next_one_succeeds(tmp_path):
    sets = many(tmp_path)
    process = get_context("fork").Process(target=Prepared, args=(tmp_path, sets))
    process.start()
    data = tmp_path / "cache/data"
    deadline = time.monotonic() + 60
    while not any(p.stat().st_size > 1000 for p in data.glob("*.tmp-*/*")):
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.join()
    assert list(data.glob("*.tmp-*"))
    wanted = {"x": SetConfig.model_validate(sets["x"])}
    with pytest.raises(ConfigError, match="Not prepared"):
        prepared_rows(["x"], wanted, tmp_path / "cache")
    made = Prepared(tmp_path, sets)
    assert len(made.rows("x")) == 5000
    assert not list(data.glob("*.tmp-*"))


def test_two_at_a_time_prepare_once_and_the_one_that_waits_says_so(tmp_path):
    sets = many(tmp_path)
    with ThreadPoolExecutor(2) as both:
        made = both.map(lambda _: Prepared(tmp_path, sets), range(2))
        said = [prepared.output.getvalue() for prepared in made]
    assert sum("fetching" in text for text in said) == 1
    assert sum("waiting for another process" in text for text in said) == 1


def test_a_set_whose_folder_was_moved_and_linked_is_replaced_there(tmp_path):
    write_records(tmp_path / "a.jsonl", [{"problem": "1+1?", "answer": "2"}])
    sets = {"x": training({"s": source(tmp_path, "a.jsonl")})}
    made = Prepared(tmp_path, sets)
    moved = made.folder("x").rename(tmp_path / "larger")
    made.folder("x").symlink_to(moved)
    Prepared(tmp_path, sets, force=True)
    assert made.prompts("x") == ["1+1?"]
    assert made.folder("x").is_symlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_is_named_and_nothing_that_looks_whole_is_left(tmp_path):
    records = [{"problem": f"{i}+1?", "answer": str(i)} for i in range(9000)]
    write_records(tmp_path / "a.jsonl", records)
    sets = {"x": training({"s": source(tmp_path, "a.jsonl")})}
    preset = tmp_path / "conf/data/mine.yaml"
    preset.parent.mkdir(parents=True)
    preset.write_text(json.dumps({"name": "mine", "sets": sets}))
    small = tmp_path / "small"
    small.mkdir()
    script = (
        "mount -t tmpfs -o size=1m none $0 || exit 77; "
        '"$@"; status=$?; find $0 -mindepth 2; exit $status'
    )
    options = ["--config-dir", str(tmp_path / "conf"), "data=mine", f"run.cache={small}"]
    run = [sys.executable, "-m", "archer.prepare", *options]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(small), *run],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")
    assert done.returncode == 2, done.stdout
    expected = ["No space left on device", "run.cache", "room on the disk"]
    assert all(words in done.stderr for words in expected), done.stderr
    left = [line for line in done.stdout.splitlines() if line.startswith(str(small))]
    assert all(line.endswith(".lock") for line in left), left
