"""What the default of conf/ and its algorithms promise. That every file of conf/ composes and is
valid is in test_dry_run.py."""

from functools import cache

import pytest
from hydra import compose, initialize_config_dir

from archer.algos import OBJECTIVES
from archer.config import CONF
from archer.config.keys import TrainConfig, load_config

ALGOS = sorted(path.stem for path in (CONF / "algo").glob("*.yaml"))


@cache
def load(*overrides: str) -> TrainConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_config(compose("config", list(overrides)))


def test_the_default_needs_nothing_but_a_cpu():
    config = load()
    assert config.cluster.device == "cpu"
    assert config.data.task is not None
    assert config.model.warm_start is not None


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_its_file(name: str):
    assert load(f"algo={name}").algo.name == name


@pytest.mark.parametrize("option", ALGOS)
def test_algo_swaps_the_objective_and_nothing_else(option: str):
    default, swapped = load(), load(f"algo={option}")
    same = {"algo": default.algo}
    assert swapped.model_copy(update=same) == default
