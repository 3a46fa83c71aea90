"""What the keys of a recipe decide: what a set is compared with, counted against and worded as."""

import pytest
from dataset_fixtures import write_records
from rich.console import Console as RichConsole

from archer.config.schema import validate
from archer.console import Console
from archer.data.config import DataConfig
from archer.data.preparation import prepare_sets
from archer.data.prepared import prepared_rows
from archer.data.rows import read_rows
from archer.errors import ConfigError

LEAKED = "Ann has 4 red hats, 4 blue hats and a very old green coat; how many hats in all?"
OWN = "Ben walks nine miles each morning before he feeds his two loud dogs; how far in a week?"


class Sets:
    """Sets of one source each, prepared in a cache of their own."""

    def __init__(self, tmp_path, **recipes):
        self.cache, sets = tmp_path / "cache", {}
        for name, (role, problems, keys) in recipes.items():
            records = [{"problem": problem, "answer": "7"} for problem in problems]
            write_records(tmp_path / f"{name}.jsonl", records)
            files = {"folder": str(tmp_path), "files": [f"{name}.jsonl"], "shape": "math"}
            of_source = {k: keys[k] for k in keys if k == "expected_records"}
            of_set = {k: keys[k] for k in keys if k != "expected_records"}
            sets[name] = {"role": role, "sources": {"s": files | of_source}, **of_set}
        self.sets = validate(DataConfig, {"name": "x", "sets": sets}).sets

    def prepare(self):
        with Console(0, 0, RichConsole(quiet=True)) as console:
            return prepare_sets(self.sets, self.cache, False, console)

    def prompts(self, name):
        paths = prepared_rows([name], self.sets, self.cache)
        return [row.prompt for row in read_rows(paths[name], "data.train")]


def test_a_training_set_is_compared_with_every_benchmark_beside_it(tmp_path):
    made = Sets(
        tmp_path,
        mine=("train", [LEAKED, OWN], {}),
        second=("eval", [LEAKED], {}),
        first=("eval", [LEAKED], {}),
    )
    assert made.sets["mine"].benchmarks == ["first", "second"]  # in whatever order composed
    assert made.sets["first"].benchmarks == []
    made.prepare()
    assert made.prompts("mine") == [OWN]
    assert made.prompts("first") == [LEAKED]


def test_an_empty_list_switches_that_off(tmp_path):
    switched_off = {"decontaminate_against": []}
    made = Sets(tmp_path, mine=("train", [LEAKED], switched_off), bench=("eval", [LEAKED], {}))
    assert made.prepare()["mine"].examples == {}
    assert made.prompts("mine") == [LEAKED]


@pytest.mark.parametrize("key", ["expected_records", "expected_rows"])
def test_a_benchmark_has_exactly_as_many_as_expected_and_a_training_set_nearly(tmp_path, key):
    problems = [f"What is {number} + 1?" for number in range(199)]
    Sets(tmp_path, mine=("train", problems, {key: 200})).prepare()
    with pytest.raises(ConfigError, match=rf"{key}=200.*There are 199.*{key}=null"):
        Sets(tmp_path, bench=("eval", problems, {key: 200})).prepare()


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ([{"column": "level"}], "one_of, min or below for the column 'level'"),
        ([{"colunm": "level", "min": 5}], "sources.s.where"),
        ({"level": {"min": 5}}, "expected list"),
    ],
)
def test_conditions_that_say_nothing_are_refused_with_the_configuration(where, words):
    source = {"hub": "a/b", "files": ["f"], "where": where}
    sets = {"mine": {"role": "train", "sources": {"s": source}}}
    with pytest.raises(ConfigError) as error:
        validate(DataConfig, {"name": "x", "sets": sets})
    assert words in str(error.value) and "sets.mine.sources.s.where" in error.value.key
