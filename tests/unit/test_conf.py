"""Every file of conf/ composes and passes the typed config."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from archer.algos import OBJECTIVES
from archer.config.keys import TrainConfig, load_config

CONF = Path(__file__).parents[2] / "conf"
CHOICES = sorted(
    path.relative_to(CONF).with_suffix("").as_posix().partition("/")[::2]
    for path in CONF.glob("*/**/*.yaml")
)


def load(*overrides: str) -> TrainConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_config(compose("config", list(overrides)))


def test_the_default_needs_nothing_but_a_cpu():
    config = load()
    assert config.cluster.device == "cpu"
    assert config.data.task is not None
    assert config.model.warm_start is not None


@pytest.mark.parametrize(("group", "option"), CHOICES)
def test_every_option_of_every_group_is_valid(group: str, option: str):
    overrides = [f"{group}={option}"]
    if option == "jsonl":
        overrides.append("data.train=some.jsonl")
    load(*overrides)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_has_its_file(name: str):
    assert load(f"algo={name}").algo.name == name


@pytest.mark.parametrize("option", [option for group, option in CHOICES if group == "algo"])
def test_algo_swaps_the_objective_and_nothing_else(option: str):
    default, swapped = load(), load(f"algo={option}")
    same = {"algo": default.algo}
    assert swapped.model_copy(update=same) == default
