"""The configuration of a training run, composed without running it, for commands beside it."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import compose, initialize_config_dir

from archer.config import CONF
from archer.config.command_line import check_overrides, data_lists, model_paths
from archer.config.keys import TrainConfig, load_config


def compose_training(overrides: Sequence[str]) -> TrainConfig:
    """What ``python -m archer.main`` would run with the same overrides.

    Raises:
        ConfigError: an override or a value that the training command refuses.
    """
    words = model_paths(data_lists(list(overrides)), CONF)
    check_overrides(words, CONF, TrainConfig)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_config(compose("config", words))
