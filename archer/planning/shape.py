"""Sizes of the model a configuration names, known without loading it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from yaml import safe_load

from archer.config import CONF
from archer.config.checks import check_lora_targets, check_window
from archer.config.keys import ModelConfig, ShapeConfig, TrainConfig
from archer.models.folder import read_shape
from archer.planning.memory_model import linear_layers

TINY_VOCABULARY = 128
"""At least that of the embedded tasks' tokenizers."""


def model_shape(model: ModelConfig) -> ShapeConfig | None:
    """Sizes of the model, from its folder, the config, or the hub; None for another architecture.

    Raises:
        ConfigError: no such folder, or the hub cannot be reached.
    """
    shape = known_shape(model)
    return read_shape(model.path) if shape is None and model.path is not None else shape


def known_shape(model: ModelConfig) -> ShapeConfig | None:
    """Sizes of the model; None where the hub would have to tell them, or of another architecture.

    Raises:
        ConfigError: its folder has no readable ``config.json``.
    """
    if model.path is None:
        start = model.warm_start
        assert start is not None, "checked with the config"
        return ShapeConfig(
            hidden_size=start.hidden_size,
            intermediate_size=3 * start.hidden_size,
            num_layers=start.num_layers,
            num_heads=max(1, start.hidden_size // 32),
            num_kv_heads=max(1, start.hidden_size // 64),
            head_dim=32,
            vocab_size=TINY_VOCABULARY,
            max_position=256,
            tie_embeddings=start.tie_embeddings,
        )
    if Path(model.path).expanduser().is_dir():
        return read_shape(model.path)
    # A preset's sizes say nothing of another model.path that is set beside it.
    presets = _preset_shapes()
    return presets.get(model.path) if model.shape in presets.values() else model.shape


@cache
def _preset_shapes() -> dict[str, ShapeConfig]:
    """Sizes of the hub models that have a preset, by hub id."""
    presets = [safe_load(file.read_text()) for file in CONF.glob("model/*.yaml")]
    return {each["path"]: ShapeConfig(**each["shape"]) for each in presets if "shape" in each}


def check_shape(config: TrainConfig, shape: ShapeConfig) -> None:
    """What sizes alone refuse.

    Raises:
        ConfigError: sequences longer than the model's window, or LoRA of layers that it lacks.
    """
    check_window(config, shape.max_position)
    if config.model.lora is not None:
        check_lora_targets(config.model.lora, linear_layers(shape))
