"""Prepares published data sets once, for training and evaluation to read.

    python -m archer.prepare data=aime24,aime25,math500
    python -m archer.prepare data=dapo_math_17k model=r1-distill-1.5b
    python -m archer.prepare data=aime24 data.sets.aime24.sources.aime24.folder=/mnt/aime_2024

Each set of ``data.sets`` goes to ``<run.cache>/data/<set>-<hash of its recipe>/``: ``rows.jsonl``,
and a report as ``report.json`` and ``report.md``. See docs/prepare.md.
"""

from __future__ import annotations

from pathlib import Path

import hydra
from omegaconf import DictConfig

from archer.config import CONF
from archer.config.command_line import run_hydra, run_or_explain
from archer.config.keys import CacheConfig, ModelConfig
from archer.config.schema import Section, store_defaults, validate
from archer.console import Console
from archer.data.config import DataConfig
from archer.data.preparation import check_recipes, prepare_sets, write_report
from archer.data.prepared import ROWS_FILE, prepared_folder
from archer.data.report import Report, length_line
from archer.data.rows import read_rows
from archer.data.token_lengths import token_lengths
from archer.errors import ConfigError
from archer.models.folder import tokenizer_folder
from archer.models.tokenizer import Tokenizer, load_tokenizer
from archer.prompts import check_chat_template
from archer.runtime.run_directory import check_writable
from archer.runtime.stopping import StopSignals
from archer.tasks import TASKS
from archer.warm_start import check_warm_start, start_model

UNNAMED = "none"
"""Name of a model given by its path only."""


class PrepareConfig(Section):
    """Everything `python -m archer.prepare` takes."""

    data: DataConfig
    model: ModelConfig = ModelConfig(name=UNNAMED)
    """Model whose tokenizer counts the tokens of the prompts; `model=` chooses one."""
    run: CacheConfig = CacheConfig()
    force: bool = False
    """Prepare again what is prepared already."""


store_defaults("prepare_base", PrepareConfig)


def load_prepare_config(composed: DictConfig) -> PrepareConfig:
    """Validate a composed configuration; what a preset says to runs only is left out.

    Raises:
        ConfigError: names the key, the value, what was expected and how to mend it.
    """
    composed = DictConfig(
        {key: composed[key] for key in PrepareConfig.model_fields if key in composed}
    )
    config = validate(PrepareConfig, composed)
    if not config.data.sets:
        presets = sorted({path.stem for path in (CONF / "data").glob("*.yaml")} - {*TASKS, "jsonl"})
        raise ConfigError(
            "data",
            config.data.name,
            "a preset of published sets",
            f"Choose one or more of {', '.join(presets)}. Embedded tasks and files of rows need no "
            "preparation.",
        )
    check_recipes(config.data.sets)
    return config


def prepare(config: PrepareConfig, console: Console) -> dict[str, Report]:
    """Prepare every set of the configuration, and count the tokens of its prompts for the model.

    Returns:
        Reports by set.

    Raises:
        ConfigError: files cannot be had, are broken, or hold something else than expected; or the
            model has not the chat template that its prompts need.
    """
    cache = Path(config.run.cache).expanduser()
    check_writable("run.cache", config.run.cache, cache / "data")
    tokenizer = _tokenizer(config, cache, console)
    reports = prepare_sets(config.data.sets, cache, config.force, console)
    if tokenizer is None:
        return reports
    return {
        name: _with_token_lengths(config, name, report, tokenizer, console)
        for name, report in reports.items()
    }


def _tokenizer(config: PrepareConfig, cache: Path, console: Console) -> Tokenizer | None:
    """That of the model, checked before anything is prepared for it; None without a model."""
    check_warm_start(config.model, config.data)
    path = start_model(config.model, cache, console) or config.model.path
    if path is None:
        return None
    tokenizer = load_tokenizer(tokenizer_folder(str(path)))
    check_chat_template(config.data, tokenizer)
    return tokenizer


def _with_token_lengths(
    config: PrepareConfig, name: str, report: Report, tokenizer: Tokenizer, console: Console
) -> Report:
    """The report, also where it is kept, with the lengths of the prompts for the model."""
    key = f"data.sets.{name}"
    model = config.model.name if config.model.name != UNNAMED else str(config.model.path)
    cache = Path(config.run.cache).expanduser()
    folder = prepared_folder(name, config.data.sets[name], cache)
    console.stage(f"counting the tokens of {name}")
    lengths = token_lengths(key, read_rows(folder / ROWS_FILE, key), config.data, tokenizer)
    console.note(f"{name}: {length_line(lengths, f'tokens of {model}')}")
    report = report.model_copy(update={"prompt_tokens": report.prompt_tokens | {model: lengths}})
    write_report(folder, report)
    return report


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="prepare")
def _hydra_main(composed: DictConfig) -> None:
    def run() -> None:
        with StopSignals(), Console(0, 0) as console:
            prepare(load_prepare_config(composed), console)

    run_or_explain(run)


def main() -> None:
    run_hydra(_hydra_main, CONF, PrepareConfig)


if __name__ == "__main__":
    main()
