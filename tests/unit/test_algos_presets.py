"""Every preset in conf/algo loads, and means what the objective's own defaults mean."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from archer.algos import ADVANTAGES, AGGREGATIONS, BONUSES, OBJECTIVES, resolve_objective
from archer.config.keys import AlgoConfig, TrainConfig, load_config
from archer.errors import ConfigError

ROOT = Path(__file__).parents[2]
PRESETS = sorted((ROOT / "conf" / "algo").glob("*.yaml"))


def load(path: Path) -> AlgoConfig:
    return AlgoConfig.model_validate(OmegaConf.to_container(OmegaConf.load(path)))


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_preset_is_valid_and_lists_every_parameter(path):
    algo = load(path)
    assert algo.name == path.stem  # it names the run directory
    loss = resolve_objective(algo.name).config.model_validate(algo.loss)
    assert algo.advantage in ADVANTAGES
    assert algo.aggregation in AGGREGATIONS
    assert (
        loss.model_dump() == algo.loss
    )  # a key missing in the yaml could not be overridden by name


@pytest.mark.parametrize("name", OBJECTIVES)
def test_preset_agrees_with_the_defaults_of_the_objective(name):
    algo = load(ROOT / "conf" / "algo" / f"{name}.yaml")
    assert OBJECTIVES[name].config.model_validate(algo.loss) == OBJECTIVES[name].config()


def test_the_documented_command_selects_a_custom_objective(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    overrides = [
        "+algo=grpo",
        "algo.name=examples.custom_objective.my_objective.OBJECTIVE",
        "~algo.loss",
        "+algo.loss={clip: 0.3}",
    ]
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        algo = AlgoConfig.model_validate(OmegaConf.to_container(compose(overrides=overrides).algo))
    objective = resolve_objective(algo.name)
    assert objective.config.model_validate(algo.loss).clip == 0.3
    assert algo.aggregation == "seq-mean-token-mean"


def composed(*overrides: str) -> TrainConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return load_config(compose("config", list(overrides)))


def test_a_preset_without_its_advantage_says_what_else_to_drop():
    overrides = ["algo=ppo", "algo.advantage=grpo"]
    with pytest.raises(ConfigError, match=r"gamma.*'~algo\.advantage_args'"):
        composed(*overrides)
    algo = composed(*overrides, "~algo.advantage_args", "algo.critic=null").algo
    assert (algo.advantage, algo.advantage_args) == ("grpo", {})


def test_the_reverse_kl_of_dph_rl_is_one_override_away():
    overrides = ["algo=dph_rl", "algo.loss.divergence=reverse_kl"]
    with pytest.raises(ConfigError, match=r"Set algo\.rehearsal=null"):
        composed(*overrides)
    assert composed(*overrides, "algo.rehearsal=null").algo.rehearsal is None


def test_an_unknown_objective_is_named_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"algo\.name='archr'.*Did you mean 'archer'\?"):
        resolve_objective("archr")


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_preset_lists_the_defaults_of_its_estimator_and_bonus(path):
    algo = load(path)
    assert algo.advantage_args == ADVANTAGES[algo.advantage].config().model_dump()
    assert algo.bonus_args == BONUSES[algo.bonus].config().model_dump()
