"""The configuration of a training run, composed without running it, for commands beside it."""

from __future__ import annotations

from collections.abc import Sequence

from hydra import compose, initialize_config_dir

from archer.config import CONF
from archer.config.command_line import check_overrides
from archer.config.keys import TrainConfig, load_config


def compose_training(overrides: Sequence[str]) -> TrainConfig:
    """What ``python -m archer.main`` would run with the same overrides.

    Raises:
        ConfigError: an override or a value that the training command refuses.
    """
    check_overrides(list(overrides), CONF, TrainConfig)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_config(compose("config", list(overrides)))
