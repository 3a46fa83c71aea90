"""``archer.prepare`` on files of a test: its recipes, and one call of the command."""

import io

import pytest
from dataset_fixtures import write_records
from omegaconf import OmegaConf
from rich.console import Console as RichConsole

from archer.console import Console
from archer.data.prepared import prepared_folder, prepared_rows
from archer.data.rows import read_rows
from archer.errors import ConfigError
from archer.prepare import load_prepare_config, prepare

HATS = "Ann has {} red hats, 4 blue hats and a very old green coat; how many hats in all?"


def source(folder, *files, **keys):
    return {"folder": str(folder), "files": list(files), "shape": "math", **keys}


def training(sources, **keys):
    return {"role": "train", "sources": sources, **keys}


class Prepared:
    """One call of the command in a cache of its own."""

    def __init__(self, tmp_path, sets, **keys):
        self.cache = tmp_path / "cache"
        composed = OmegaConf.create(
            {"data": {"name": "x", "sets": sets}, "run": {"cache": str(self.cache)}, **keys}
        )
        self.config = load_prepare_config(composed)
        self.sets = self.config.data.sets
        self.output = io.StringIO()
        console = RichConsole(file=self.output, width=200)
        with Console(0, 0, console) as shown:
            self.reports = prepare(self.config, shown)

    def rows(self, name):
        path = prepared_rows([name], self.sets, self.cache)[name]
        return list(read_rows(path, "data.train"))

    def prompts(self, name):
        return [row.prompt for row in self.rows(name)]

    def folder(self, name):
        return prepared_folder(name, self.sets[name], self.cache)

    def page(self, name):
        return (self.folder(name) / "report.md").read_text()


def refused(tmp_path, sets, **keys):
    """The message, once nothing that looks like a prepared set is left."""
    with pytest.raises(ConfigError) as error:
        Prepared(tmp_path, sets, **keys)
    left = list((tmp_path / "cache").glob("data/*/*"))
    assert not left, left
    return str(error.value)


def benchmark_and_training(tmp_path):
    """A benchmark, and a training set with two of its problems in other words around them."""
    write_records(tmp_path / "b.jsonl", [{"problem": HATS.format(i), "answer": "7"} for i in "345"])
    seen = f"Solve this: {HATS.format(4).upper()} Think!"
    problems = ["1+1?", seen, "2+2?", HATS.format(9)]
    write_records(tmp_path / "t.jsonl", [{"problem": p, "answer": "7"} for p in problems])
    return {
        "new": training({"s": source(tmp_path, "t.jsonl")}),
        "old": {"role": "eval", "sources": {"b": source(tmp_path, "b.jsonl")}},
    }
