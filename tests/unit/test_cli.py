"""The command line is refused before Hydra runs, with a message that says what to type instead."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from archer.config import CONF
from archer.config.command_line import check_overrides, data_lists, overrides_first, run_or_explain
from archer.config.compose import compose_training
from archer.config.keys import RewardConfig, load_config
from archer.config.reference import PAGE, render
from archer.errors import ConfigError


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    algos = ("algo/archer", "algo/dapo", "algo/grpo")
    return _write_options(tmp_path / "conf", *algos, "model/tiny", "experiment/arms/rho_0.7")


def _write_options(folder: Path, *options: str) -> Path:
    for option in options:
        path = folder / f"{option}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return folder


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["algo=archer", "trainer.num_steps=3"],
        ["algo=archer,dapo", "seed=1,2,3", "-m"],
        ["-m", "algo=choice(grpo,dapo)", "seed=range(1,4)"],
        ["algo=glob(*)", "-m"],
        ["algo=[grpo,dapo]"],
        ["algo=archer.yaml"],
        ["experiment=arms/rho_0.7"],
        ["model=null"],
        ["seed=-1"],
        ["data.prompt_template='{problem} = ?'"],
        ["optimizer.betas=[0.9,0.95]", "model.warm_start=null", "model.warm_start.steps=5"],
        ["algo.loss.anything=1", "reward.args.unit.nested=cm", "data.eval.my_set=set.jsonl"],
        ["+new.key=1", "++other=2", "~model.path", "~model"],
        ["hydra.run.dir=x", "hydra/launcher=basic"],
        ["--cfg", "job", "--resolve"],
        ["--help"],
        ["--info"],
        ["--config-path", "/elsewhere", "mine=1"],
        ["hydra.searchpath=[file:///elsewhere]", "algo=theirs"],
    ],
)
def test_what_hydra_and_the_config_accept_passes(conf: Path, argv: list[str]):
    check_overrides(argv, conf)


@pytest.mark.parametrize(
    ("argv", "key", "mend"),
    [
        (["algo=archr"], "algo", "Did you mean 'archer'?"),
        (["-m", "algo=grpo,dappo"], "algo", "Did you mean 'dapo'?"),
        (["model=huge"], "model", "conf/model/huge.yaml"),
        (["trainer.num_step=3"], "trainer.num_step", "Did you mean 'trainer.num_steps'?"),
        (["num_steps=3"], "num_steps", "Did you mean 'trainer.num_steps'?"),
        (["temperature=1"], "temperature", "'sampling.temperature' or 'eval.temperature'"),
        (["alog=grpo"], "alog", "Did you mean 'algo'?"),
        (["seeds=1", "-m"], "seeds", "Did you mean 'seed'?"),
        (["seed=1", "-m", "trainer.q_zz=2"], "trainer.q_zz", "Known in trainer: num_steps,"),
        (["algo.lss.clip=1"], "algo.lss.clip", "docs/configuration.md"),
        (["trainer.num_steps"], "trainer.num_steps", "KEY=VALUE. Did you mean"),
        (["=3"], "=3", "KEY=VALUE"),
        (["data=aime24", "data=amc23"], "data", "data=aime24,amc23 for all of them"),
        (["data=aime24", "data=[amc23,math]"], "data", "data=aime24,amc23,math for all of them"),
        (["data.prompt_template={problem} ="], "data.prompt_template", "Quote"),
        (["seed=rnge(1,3)", "-m"], "seed", "Unknown function 'rnge'"),
    ],
)
def test_mistakes_are_refused_with_the_way_out(conf: Path, argv: list[str], key: str, mend: str):
    with pytest.raises(ConfigError) as caught:
        check_overrides(argv, conf)
    assert caught.value.key == key
    assert mend in str(caught.value)


def test_an_unknown_option_lists_the_known_ones(conf: Path):
    with pytest.raises(ConfigError, match="'ppo': expected one of archer, dapo, grpo"):
        check_overrides(["algo=ppo"], conf)


@pytest.mark.parametrize("flag", ["--config-dir", "-cd"])
def test_config_dir_brings_its_own_options(conf: Path, tmp_path: Path, flag: str):
    mine = _write_options(tmp_path / "mine", "algo/my_algo", "model/my_model")
    check_overrides([flag, str(mine), "algo=my_algo", "model=tiny"], conf)
    with pytest.raises(ConfigError, match="my_algo"):
        check_overrides(["algo=my_algo"], conf)


def test_another_command_brings_its_own_keys(conf: Path):
    check_overrides(["name=mine", "args.unit=cm"], conf, RewardConfig)
    with pytest.raises(ConfigError, match=r"a key of this command.*timeout_s"):
        check_overrides(["timeout=3"], conf, RewardConfig)


@pytest.mark.parametrize(
    ("argv", "ordered"),
    [
        ("seed=1 -m algo=a,b", "seed=1 algo=a,b -m"),
        ("--config-dir mine seed=1 --cfg job algo=a", "seed=1 algo=a --config-dir mine --cfg job"),
        ("--info searchpath", "--info searchpath"),
    ],
)
def test_overrides_may_stand_anywhere(argv: str, ordered: str):
    assert overrides_first(argv.split()) == ordered.split()


def _fail():
    raise ConfigError("trainer.group_size", 1, "at least 2", "Raise it.")


def test_a_config_error_is_one_message_and_status_2(capsys, monkeypatch):
    monkeypatch.delenv("ARCHER_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as caught:
        run_or_explain(_fail)
    assert caught.value.code == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    for part in ("trainer.group_size", "1", "at least 2", "Raise it."):
        assert part in shown.err


def test_archer_traceback_lets_the_error_through(monkeypatch):
    monkeypatch.setenv("ARCHER_TRACEBACK", "1")
    with pytest.raises(ConfigError):
        run_or_explain(_fail)


def test_other_errors_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_or_explain(lambda: 1 / 0)


def test_the_result_of_a_command_comes_back():
    assert run_or_explain(lambda: 7) == 7


def test_the_committed_configuration_reference_is_current():
    assert PAGE.read_text(encoding="utf-8") == render(), "run: make docs"


def test_several_presets_of_data_become_a_list_and_nothing_else_does():
    typed = ["data=aime24,mine/lcb_v5", "seed=1,2", "data=[a,b]", "data=a", "data.eval.x=a,b"]
    listed = ["data=[aime24,mine/lcb_v5]", *typed[1:]]
    assert data_lists(typed) == listed
    assert data_lists(["-m", *typed]) == ["-m", *typed]  # there a comma is a sweep


@pytest.mark.parametrize(
    ("typed", "composed"),
    [
        ("data=deepscaler,gsm8k", ["data=[deepscaler,gsm8k]"]),
        ("model=Qwen/Qwen3-4B", ["model=qwen3-4b"]),
        ("model=org/name", ["~model", "model.path=org/name", "model.name=name"]),
    ],
)
def test_training_composes_beside_the_command_what_may_be_typed(typed: str, composed: list[str]):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        expected = load_config(compose("config", composed))
    assert compose_training([typed]) == expected
