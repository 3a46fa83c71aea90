"""What objectives make of one recorded batch.

    python -m archer.compare objectives rollouts=runs/default/RUN algo=archer,dapo,grpo
    python -m archer.compare objectives rollouts=RUN algo=all step=40 out=objectives.html

Every objective gets the same rollouts, the same weights, and its preset of conf/algo/; the whole
batch is one mini-batch. Prints its loss, the norm of its gradient, clips and KL by class of token,
and the cosines between the gradients. Keys:

    rollouts=RUN     a run directory, or one training step in its rollouts/
    algo=NAME,...    presets of conf/algo/, or all; a dotted path names your own objective, which
                     gets its default parameters and all else from the preset grpo
    step=N           recorded step of the run; its last by default
    policy=FOLDER    model whose gradient is taken; by default the run's first checkpoint that has
                     seen the step
    micro_batch_tokens=N   bounds the memory; by default the run's
    out=FILE         writes the tables as .html, .md or .json too
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from archer.comparison.html import markdown_table, number, render_page
from archer.config import CONF
from archer.config.command_line import run_or_explain
from archer.config.keys import AlgoConfig, PositiveInt
from archer.config.schema import Section, suggestion, validate
from archer.errors import ConfigError
from archer.metrics import write_atomically
from archer.models.folder import open_model
from archer.objective_checks.replay import open_replay

if TYPE_CHECKING:
    from archer.objective_checks.gradients import Comparison


class CompareObjectivesConfig(Section):
    """The keys above."""

    rollouts: str
    algo: str
    step: PositiveInt | None = None
    policy: str | None = None
    micro_batch_tokens: PositiveInt | None = None
    out: str | None = None


def main(argv: Sequence[str]) -> None:
    if not argv or any(word in ("-h", "--help") for word in argv):
        print(__doc__)
        return
    run_or_explain(lambda: _run(load_objectives_config(argv)))


def load_objectives_config(argv: Sequence[str]) -> CompareObjectivesConfig:
    """Parse and validate ``KEY=VALUE`` words.

    Raises:
        ConfigError: names the key, the value, what was expected and how to mend it.
    """
    config = validate(CompareObjectivesConfig, OmegaConf.from_dotlist(list(argv)))
    if config.out is not None and Path(config.out).suffix not in FORMATS:
        expected = f"a file that ends in one of {', '.join(FORMATS)}"
        raise ConfigError("out", config.out, expected, "Name it so.")
    if config.out is not None and not Path(config.out).absolute().parent.is_dir():
        raise ConfigError("out", config.out, "a file in an existing folder", "Create the folder.")
    return config


def load_presets(words: str) -> dict[str, AlgoConfig]:
    """The ``algo`` sections of presets of ``conf/algo/``, by name.

    Args:
        words: names with commas between them, or ``all``. A dotted path of a user's objective
            takes the place of grpo's in the preset grpo, with its default parameters.

    Raises:
        ConfigError: no such preset; the message lists the known ones.
    """
    known = sorted(path.stem for path in (CONF / "algo").glob("*.yaml"))
    names = known if words == "all" else [word.strip() for word in words.split(",")]
    for name in names:
        if name not in known and "." not in name:
            mend = f"Choose some of them.{suggestion(name, known)}"
            raise ConfigError("algo", name, f"all, or of {', '.join(known)}", mend)
    with initialize_config_dir(str(CONF.absolute()), version_base="1.3"):
        return {name: _load_preset(name, known) for name in names}


def _load_preset(name: str, known: Sequence[str]) -> AlgoConfig:
    if name in known:
        return validate(AlgoConfig, compose("config", [f"algo={name}"]).algo)
    return _load_preset("grpo", known).model_copy(update={"name": name, "loss": {}})


def as_markdown(comparison: Comparison) -> str:
    """Facts, the table of objectives, the cosines, and what was left out."""
    header, rows = objective_rows(comparison)
    numbered = list(enumerate(comparison.measured, start=1))
    cosines = [
        [f"{i} {one.algo}", *(number(value, digits=2) for value in row)]
        for (i, one), row in zip(numbered, comparison.cosines, strict=True)
    ]
    parts = [
        "\n".join(f"- {label}: {text}" for label, text in comparison.facts.items()),
        markdown_table(header, rows),
        markdown_table(["cosine of gradients", *(str(i) for i, _ in numbered)], cosines),
        "\n".join(f"- {n} is left out: {why}" for n, why in comparison.left_out.items()),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_html(comparison: Comparison) -> str:
    """The same as one self-contained page."""
    header, rows = objective_rows(comparison)
    return render_page("objectives.html", comparison=comparison, header=header, rows=rows)


def as_json(comparison: Comparison) -> str:
    """The numbers; NaN as null, as JSON has no word for it."""
    return json.dumps(_without_nan(asdict(comparison)), indent=1, allow_nan=False) + "\n"


FORMATS = {".html": as_html, ".md": as_markdown, ".json": as_json}


def objective_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and cells of the table of objectives."""
    header = ["objective", "groups", "loss", "gradient norm"]
    header += ["clipped knowledge", "clipped reasoning", "KL knowledge", "KL reasoning"]
    header += ["no gradient"]
    rows = [
        [
            *(one.algo, str(one.num_groups), f"{one.loss:.3g}", f"{one.grad_norm:.3g}"),
            *map(_percent, (*one.clipped.values(), *one.kl.values(), one.untouched)),
        ]
        for one in comparison.measured
    ]
    return header, rows


def _run(config: CompareObjectivesConfig) -> None:
    algos = load_presets(config.algo)
    replay = open_replay(config.rollouts, config.step)
    policy = config.policy or replay.trained_policy()
    try:
        open_model(policy)
    except ConfigError as error:
        raise ConfigError("policy", policy, error.expected, error.mend) from error

    from transformers.utils import logging

    from archer.objective_checks.gradients import compare  # torch, which takes seconds to import

    logging.disable_progress_bar()
    comparison = compare(
        replay,
        algos,
        policy,
        config.micro_batch_tokens or replay.config.trainer.micro_batch_tokens,
        on_done=lambda name: print(f"measured {name}", file=sys.stderr, flush=True),
    )
    print(as_markdown(comparison))
    if config.out is not None:
        out = Path(config.out)
        write_atomically(out, FORMATS[out.suffix](comparison).encode())


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.3g}%"


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
