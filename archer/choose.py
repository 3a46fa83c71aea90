"""Chooses the training problems that a model solves neither always nor never.

    python -m archer.choose data=deepscaler pass_rates=problems_deepscaler.jsonl output=train.jsonl
    python -m archer.main data=jsonl data.train=train.jsonl

Reads the rows of ``data.train``, or of the prepared set that is trained on, and a table of
``archer.evaluate`` with how often the model solved each. See docs/prepare.md.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import hydra
from omegaconf import DictConfig
from pydantic import AfterValidator, Field

from archer.config import CONF
from archer.config.command_line import run_hydra, run_or_explain
from archer.config.keys import CacheConfig
from archer.config.schema import Fraction, Section, store_defaults, validate
from archer.console import Console
from archer.data.config import DataConfig
from archer.data.pass_rates import choose_rows, read_pass_rates
from archer.data.rows import read_rows
from archer.errors import ConfigError
from archer.prompts import dataset_files, template_of
from archer.runtime.stopping import StopSignals


def _ascending(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError("a range [low, high], the lower end first")
    return limits


class ChooseConfig(Section):
    """Everything `python -m archer.choose` takes."""

    data: DataConfig
    run: CacheConfig = CacheConfig()
    pass_rates: str
    """Table of problems that `archer.evaluate` wrote for the training set."""
    keep: Annotated[tuple[Fraction, Fraction], Field(strict=False), AfterValidator(_ascending)] = (
        0.01,
        0.99,
    )
    """Rows whose share of right samples lies within this range are kept."""
    output: str
    """JSONL file for them, to be trained on with `data=jsonl data.train=FILE`."""


store_defaults("choose_base", ChooseConfig)


def load_choose_config(composed: DictConfig) -> ChooseConfig:
    """Validate a composed configuration; what a preset says to runs only is left out.

    Raises:
        ConfigError: names the key, the value, what was expected and how to mend it.
    """
    return validate(
        ChooseConfig,
        DictConfig({key: composed[key] for key in ChooseConfig.model_fields if key in composed}),
    )


def choose(config: ChooseConfig, console: Console) -> None:
    """Write the training rows of middling difficulty to a file of their own, whole or not at all.

    Raises:
        ConfigError: there are no training rows, the table is not of them, or nothing is left.
    """
    rates = read_pass_rates(Path(config.pass_rates))
    cache = Path(config.run.cache).expanduser()
    path = dataset_files(config.data, cache).get("data.train")
    if path is None:
        mend = "Choose the preset that was evaluated, or data=jsonl data.train=FILE."
        raise ConfigError("data.train", None, "training rows to choose from", mend)
    output = Path(config.output)
    partial = output.with_name(f"{output.name}.{os.getpid()}.partial")
    try:
        with open(partial, "x", encoding="utf-8") as chosen:
            rows, template = read_rows(path, "data.train"), template_of("data.train", config.data)
            outcome = choose_rows(rows, template, rates, config.keep, chosen)
            chosen.flush()
            os.fsync(chosen.fileno())
        partial.replace(output)
    except OSError as error:
        expected = "a file in an existing, writable folder with room for it"
        mend = f"{error.strerror}. Nothing was written; set output=FILE."
        raise ConfigError("output", config.output, expected, mend) from error
    finally:
        partial.unlink(missing_ok=True)
    kept = outcome.pop("kept")
    left_out = ", ".join(f"{count:,} {what}" for what, count in outcome.items()) or "none"
    console.note(f"{output}: {kept:,} rows kept; left out {left_out}")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="choose")
def _hydra_main(composed: DictConfig) -> None:
    def run() -> None:
        with StopSignals(), Console(0, 0) as console:
            choose(load_choose_config(composed), console)

    run_or_explain(run)


def main() -> None:
    run_hydra(_hydra_main, CONF, ChooseConfig)


if __name__ == "__main__":
    main()
