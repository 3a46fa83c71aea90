"""``model=``: a preset, a folder, a hub id, a checkpoint or a run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir

import archer.evaluate  # noqa: F401 - stores the defaults that conf/evaluate.yaml begins with
from archer.config.command_line import check_overrides, model_paths
from archer.config.keys import ModelConfig
from archer.evaluation.config import EvaluateConfig, load_evaluate_config

CONF = Path(__file__).parents[2] / "conf"


def load(value: str, *others: str) -> EvaluateConfig:
    words = model_paths([*others, f"model={value}"], CONF)
    check_overrides(words, CONF, EvaluateConfig)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_evaluate_config(compose("evaluate", words))


def model(value: str, *others: str) -> ModelConfig:
    return load(value, *others).model


def write_checkpoint(run: Path, step: int) -> Path:
    checkpoint = run / "checkpoints" / f"step_{step:06d}"
    (checkpoint / "hf").mkdir(parents=True)
    (checkpoint / "state.json").touch()
    return checkpoint


def test_a_preset_stays_one():
    assert model_paths(["model=tiny", "seed=1"], CONF) == ["model=tiny", "seed=1"]
    assert model("tiny").warm_start is not None


def test_a_hub_id_is_a_model():
    found = model("some-org/Some-Model-7B")
    assert (found.path, found.name) == ("some-org/Some-Model-7B", "Some-Model-7B")
    assert found.warm_start is None


def test_the_hub_id_of_a_preset_is_the_preset():
    found = model("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B")
    assert found.name == "r1-distill-1.5b"


def test_a_folder_may_have_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "it's a=b, c"
    folder.mkdir()
    assert (model(str(folder)).path, model(str(folder)).name) == (str(folder), folder.name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert model("mine").path == str(tmp_path / "mine")


def test_a_checkpoint_is_its_hugging_face_folder(tmp_path: Path):
    checkpoint = write_checkpoint(tmp_path / "run", 20)
    for path in (checkpoint, checkpoint / "hf"):
        found = model(str(path))
        assert (found.path, found.name) == (str(checkpoint / "hf"), "run-step_000020")


def test_a_run_is_its_last_complete_checkpoint(tmp_path: Path):
    run = tmp_path / "run"
    for step in (20, 100, 60):
        write_checkpoint(run, step)
    (run / "checkpoints" / ".step_000120.tmp" / "hf").mkdir(parents=True)
    assert model(str(run)).path == str(run / "checkpoints/step_000100/hf")


@pytest.mark.parametrize("part", ["", "checkpoints/step_000020", "checkpoints/step_000020/hf"])
def test_a_checkpoint_is_asked_as_its_run_asked(tmp_path: Path, part: str):
    write_checkpoint(tmp_path, 20)
    settings = {"chat_template": True, "chat_template_args": {"enable_thinking": False, "x": "a b"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"data": settings}))
    found = load(str(tmp_path / part), "data=aime24").data
    assert {key: getattr(found, key) for key in settings} == settings
    thinking = load(str(tmp_path / part), "data.chat_template_args.enable_thinking=true").data
    assert thinking.chat_template_args == {"enable_thinking": True, "x": "a b"}


def test_the_user_may_name_it():
    assert model("some-org/Some-Model", "model.name=archer-math-1.5b").name == "archer-math-1.5b"


def test_several_are_left_to_hydra():
    assert model_paths(["model=a/b,c/d"], CONF) == ["model=a/b,c/d"]
