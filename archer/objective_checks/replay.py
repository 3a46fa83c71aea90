"""A recorded training step, read back: its groups, and the weights before and after it."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from archer.config.keys import TrainConfig, load_config
from archer.console import Console
from archer.errors import ConfigError
from archer.metrics import ROLLOUTS_FOLDER, TRAINING, read_rollouts
from archer.models.folder import open_model
from archer.runtime.run_directory import CONFIG_FILE
from archer.types import Completion, Group, Prompt, RewardResult, Sample
from archer.warm_start import start_model


@dataclass(frozen=True)
class Replay:
    """One step of a run. Step n was sampled from policy version n - 1 and leaves version n."""

    run_dir: Path
    config: TrainConfig
    step: int
    groups: tuple[Group, ...]
    """All that were sampled to the end, before the algorithm of the run dropped any."""

    def sampling_policy(self) -> str | None:
        """The model that sampled, None where its checkpoint is gone."""
        if self.step == 1:
            return self.start_policy()
        return self._checkpoints().get(self.step - 1)

    def trained_policy(self) -> str:
        """The model of the first checkpoint that has seen the step.

        Raises:
            ConfigError: there is none.
        """
        checkpoints = self._checkpoints()
        seen = [step for step in checkpoints if step >= self.step]
        if not seen:
            have = f"has those of steps {sorted(checkpoints)}" if checkpoints else "has none"
            raise ConfigError(
                "policy",
                None,
                f"a model; the run has no checkpoint of step {self.step} or later, it {have}",
                "Set policy=FOLDER to a Hugging Face folder, or step=N to an earlier step.",
            )
        return checkpoints[min(seen)]

    def start_policy(self) -> str:
        """The model that the run began with: the reference. Built anew if the cache lost it.

        Raises:
            ConfigError: it is not where it was.
        """
        model = self.config.model
        with Console(0, 0) as console:
            path = str(start_model(model, Path(self.config.run.cache), console) or model.path)
        open_model(path)
        return path

    def _checkpoints(self) -> dict[int, str]:
        """Hugging Face folders of the complete checkpoints, by step."""
        found = (self.run_dir / "checkpoints").glob("step_*/state.json")
        return {_number(file.parent): str(file.parent / "hf") for file in found}


def open_replay(rollouts: str, step: int | None) -> Replay:
    """Read one recorded step.

    Args:
        rollouts: a run directory, or one file of its ``rollouts/``.
        step: which one of a run directory; its last by default.

    Raises:
        ConfigError: no run, no such step, or it was not recorded with all that a replay needs.
    """
    given = Path(rollouts)
    is_file = given.is_file() and given.match(f"{ROLLOUTS_FOLDER}/{TRAINING}_*.jsonl.gz")
    run_dir = given.parent.parent if is_file else given
    if not (run_dir / CONFIG_FILE).is_file():
        raise ConfigError(
            "rollouts",
            rollouts,
            f"a run directory with its {CONFIG_FILE}, or a training step in its {ROLLOUTS_FOLDER}/",
            "Give the folder of a run, e.g. rollouts=runs/default/NAME.",
        )
    if is_file and step not in (None, _number(given)):
        mend = "Leave step out, or give the run directory."
        raise ConfigError("step", step, f"{_number(given)}, the step of {given.name}", mend)
    config = _read_config(run_dir / CONFIG_FILE)
    file = given if is_file else _step_file(run_dir, step)
    return Replay(run_dir, config, _number(file), _groups(file, config.trainer.group_size))


def _read_config(file: Path) -> TrainConfig:
    try:
        return load_config(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (ConfigError, yaml.YAMLError) as error:
        raise ConfigError(
            "rollouts",
            str(file.parent),
            f"a run with a readable {CONFIG_FILE}",
            f"It is torn, or another version of archer wrote it: {' '.join(str(error).split())}",
        ) from error


def _step_file(run_dir: Path, step: int | None) -> Path:
    recorded = {_number(f): f for f in (run_dir / ROLLOUTS_FOLDER).glob(f"{TRAINING}_*.jsonl.gz")}
    if not recorded:
        raise ConfigError(
            "rollouts",
            str(run_dir),
            f"recorded training steps in {ROLLOUTS_FOLDER}/",
            "Leave logger.rollouts_per_step empty when you run it.",
        )
    step = max(recorded) if step is None else step
    if step not in recorded:
        known = f"a recorded step, {min(recorded)} to {max(recorded)}"
        raise ConfigError("step", step, known, "Choose one of them.")
    return recorded[step]


def _number(path: Path) -> int:
    """Of a file or folder ``<name>_<step>``."""
    return int(path.name.split(".")[0].rpartition("_")[2])


def _groups(file: Path, group_size: int) -> tuple[Group, ...]:
    samples: dict[str, list[Sample]] = {}
    try:
        rows = list(read_rollouts(file))
    except (EOFError, OSError, ValueError, zlib.error) as error:
        mend = f"It is torn: {error}. Choose another step."
        raise ConfigError("rollouts", str(file), "a whole file of samples", mend) from error
    for row in rows:
        if "tokens" not in row:
            raise ConfigError(
                "rollouts",
                str(file),
                "samples with their tokens and log-probs",
                "They are kept with logger.rollout_tokens=true: run it again so.",
            )
        samples.setdefault(row["prompt_id"], []).append(_sample(row))
    if any(len(group) != group_size for group in samples.values()):
        raise ConfigError(
            "rollouts",
            str(file),
            f"whole groups of trainer.group_size={group_size} samples",
            "Leave logger.rollouts_per_step empty when you run it.",
        )
    return tuple(Group(group[0].prompt, tuple(group)) for group in samples.values())


def _sample(row: Mapping[str, Any]) -> Sample:
    prompt = Prompt(
        id=row["prompt_id"],
        tokens=np.array(row["prompt_tokens"], dtype=np.int32),
        text=row["prompt"],
        ground_truth=row["ground_truth"],
        source="",  # chose the grading rules; the verdict is in
    )
    completion = Completion(
        request_id=f"{row['prompt_id']}/{row['index']}",
        tokens=np.array(row["tokens"], dtype=np.int32),
        logprobs=np.array(row["logprobs"], dtype=np.float32),  # null becomes NaN
        finish_reason=row["finish_reason"],
        weight_version=row["weight_version"],
    )
    reward = float("nan") if row["reward"] is None else row["reward"]
    result = RewardResult(reward, row["correct"], row["status"])
    return Sample(prompt, row["index"], completion, row["response"], result)
