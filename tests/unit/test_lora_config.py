"""What a user can get wrong about LoRA, found before any actor starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_model import VOCAB_SIZE, write_model
from safetensors.numpy import save_file

from archer.config.keys import load_config
from archer.errors import ConfigError
from archer.models.folder import open_model
from archer.preflight import check_inputs
from archer.runtime.machine import zero_roles

WEIGHTS = {
    "model.embed_tokens.weight": (VOCAB_SIZE, 2),
    "model.layers.0.self_attn.q_proj.weight": (2, 2),
    "model.layers.0.self_attn.q_proj.bias": (2,),
    "model.layers.0.mlp.down_proj.weight": (2, 4),
    "model.layers.0.input_layernorm.weight": (2,),
    "lm_head.weight": (VOCAB_SIZE, 2),
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = write_model(tmp_path / "model")
    tensors = {name: np.zeros(shape, np.float32) for name, shape in WEIGHTS.items()}
    save_file(tensors, folder / "model.safetensors")
    return folder


def config(model: Path, lora: dict[str, Any] | None, **algo: Any) -> dict[str, Any]:
    rows = [{"problem": f"{n}+1", "answer": str(n + 1)} for n in range(8)]
    train = model.parent / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "algo": {"name": "grpo", **algo},
        "model": {"name": "fake", "path": str(model), "lora": lora},
        "data": {"name": "sums", "train": str(train), "max_prompt_tokens": 64},
        "reward": {"name": "math"},
        "sampling": {"max_response_tokens": 64},
        "trainer": {"prompts_per_step": 4, "mini_batch_prompts": 2, "group_size": 2},
        "run": {"root": str(model.parent / "runs")},
    }


def test_layers_of_a_model_are_the_matrices_of_its_blocks(model: Path):
    assert open_model(str(model)).layers == {"q_proj", "down_proj"}


@pytest.mark.parametrize("targets", [None, ["q_proj"], ["down_proj", "q_proj"]])
def test_layers_that_are_there_can_be_targets(model: Path, targets: list[str] | None):
    check_inputs(load_config(config(model, {"targets": targets})))


@pytest.mark.parametrize("target", ["qproj", "lm_head", "embed_tokens", "input_layernorm"])
def test_target_that_the_model_lacks_is_refused(model: Path, target: str):
    with pytest.raises(ConfigError) as caught:
        check_inputs(load_config(config(model, {"targets": ["down_proj", target]})))
    assert str(caught.value).startswith(f"model.lora.targets={target!r}: ")
    assert "down_proj, q_proj" in str(caught.value)
    assert ("Did you mean 'q_proj'?" in str(caught.value)) == (target == "qproj")


@pytest.mark.parametrize(
    ("lora", "shown"),
    [
        ({"rank": 0}, "model.lora.rank=0"),
        ({"alpha": 0.0}, "model.lora.alpha=0.0"),
        ({"targets": []}, "model.lora.targets=[]"),
        ({"target": ["q_proj"]}, "Did you mean 'model.lora.targets'?"),
    ],
)
def test_bad_value_is_refused(model: Path, lora: dict[str, Any], shown: str):
    with pytest.raises(ConfigError) as caught:
        load_config(config(model, lora))
    assert shown in str(caught.value)


def test_frozen_base_takes_the_place_of_the_reference_worker(model: Path):
    with_kl = {"loss": {"beta": 0.01}}
    assert zero_roles(load_config(config(model, None, **with_kl))) == ["policy", "reference"]
    assert zero_roles(load_config(config(model, {}, **with_kl))) == ["policy"]


def test_critic_beside_adapters_is_a_whole_network(model: Path):
    ppo = {"name": "ppo", "advantage": "gae", "critic": {}}
    assert "critic" in zero_roles(load_config(config(model, {}, **ppo)))
