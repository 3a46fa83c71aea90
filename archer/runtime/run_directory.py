"""Whether a run may use its directory: writable, with room, and not another run's."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from archer.config.keys import TrainConfig, load_config
from archer.config.schema import override
from archer.errors import CheckpointError, ConfigError

CONFIG_FILE = "config.yaml"
TRACES = (CONFIG_FILE, "metrics.jsonl", "checkpoints")
"""A directory that holds any of these is in use."""
MAY_CHANGE = (
    # How long, where, and what is recorded.
    "trainer.num_steps", "run.*", "logger.*", "eval.*", "cluster.address", "cluster.*_timeout_s",
    "trainer.max_restarts", "trainer.max_skipped_updates", "trainer.dry_run",
    "reward.num_workers", "reward.concurrency",
    # Speed and memory, never the objective: what one mends after running out of memory.
    "trainer.micro_batch_tokens", "model.gradient_checkpointing", "cluster.kv_cache_bytes",
    "cluster.gpu_memory_utilization", "cluster.max_num_seqs", "cluster.cpus_per_worker",
    # What only the plan or an evaluation of its own reads.
    "cluster.gpu_memory_gb", "model.shape*", "data.sets.*.published*",
)  # fmt: skip
"""Keys that a resumed run may set anew."""

HF_BYTES_PER_PARAMETER = 4
"""At most, of the Hugging Face copy; all that a checkpoint holds of weights that LoRA freezes."""
CHECKPOINT_BYTES_PER_PARAMETER = 12 + HF_BYTES_PER_PARAMETER
"""With the fp32 master weights and two Adam moments of weights that learn."""


def check_run_directory(config: TrainConfig) -> None:
    """Refuse a directory that is another run's, or that cannot be written.

    Raises:
        ConfigError: not writable, or in use with ``run.resume=never``.
        CheckpointError: it belongs to a run with another config.
    """
    folder = config.run_dir
    if config.run.resume == "never" and any((folder / name).exists() for name in TRACES):
        raise ConfigError(
            "run.resume",
            "never",
            f"a new run directory, {folder} is in use",
            "Give the run another run.name, or set run.resume=auto to continue it.",
        )
    if (folder / CONFIG_FILE).is_file():
        _check_same_run(config, folder / CONFIG_FILE)
    check_writable("run.root", config.run.root, folder)


def nearest_existing(path: Path) -> Path:
    """The path, or the first of its parents that is there."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def check_writable(key: str, value: str, folder: Path) -> None:
    """Refuse a folder that cannot be written; one that is not there yet is not created.

    Args:
        key, value: what the user set to choose the folder.

    Raises:
        ConfigError: no file can be created there.
    """
    try:
        with tempfile.TemporaryFile(dir=nearest_existing(folder)):
            pass
    except OSError as error:
        raise ConfigError(
            key,
            value,
            f"a place where {folder} can be written",
            f"{error}. Set {key} to a folder of yours, or mend the permissions.",
        ) from error


def check_disk(config: TrainConfig, num_parameters: int) -> None:
    """Refuse to start a run whose checkpoints will not fit.

    Raises:
        ConfigError: the disk is too full.
    """
    present = len(list((config.run_dir / "checkpoints").glob("step_*")))
    # A new checkpoint is complete before the oldest is deleted.
    count = max(1, config.run.keep_checkpoints + 1 - present)
    per_parameter = CHECKPOINT_BYTES_PER_PARAMETER
    if config.model.lora is not None:
        per_parameter = HF_BYTES_PER_PARAMETER
    if config.algo.critic is not None:
        per_parameter += CHECKPOINT_BYTES_PER_PARAMETER
    needed = count * num_parameters * per_parameter
    free = shutil.disk_usage(nearest_existing(config.run_dir)).free
    if free < needed:
        raise ConfigError(
            "run.root",
            config.run.root,
            f"{needed / 1e6:,.0f} MB free for {count} checkpoints, there are {free / 1e6:,.0f} MB",
            "Free some space, set run.root to a larger disk, or lower run.keep_checkpoints.",
        )


def differences(
    recorded: Mapping[str, Any], now: Mapping[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    """Dotted keys whose values differ, with both values; a section that only one has is a value."""
    for name in {**recorded, **now}:
        key, old, new = prefix + name, recorded.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{key}.")
        elif old != new:
            yield key, old, new


def first_difference(recorded: TrainConfig, config: TrainConfig) -> tuple[str, Any, Any] | None:
    """The first key, with both values, that a resumed run must not change."""
    began, now = (c.model_dump(mode="json") for c in (recorded, config))
    for key, old, new in differences(began, now):
        if not any(fnmatch(key, pattern) for pattern in MAY_CHANGE):
            return key, old, new
    return None


def _check_same_run(config: TrainConfig, recorded: Path) -> None:
    try:
        # Validated, so that a key added since the run began takes its default on both sides.
        before = load_config(yaml.safe_load(recorded.read_text(encoding="utf-8")))
    except (ConfigError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(
            "run.name",
            config.run_name,
            f"a run directory with a readable {CONFIG_FILE}",
            f"{recorded} is torn, or another version of archer wrote it: "
            f"{' '.join(str(error).split())}. Choose another run.name.",
        ) from error
    difference = first_difference(before, config)
    if difference is not None:
        key, old, new = difference
        raise CheckpointError(
            key,
            new,
            f"{old!r}, with which the run in {config.run_dir} began",
            f"To continue that run set {override(key, old)}; for a new run choose another "
            "run.name.",
        )
