"""The check ``disk``: room and permission where a run writes."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from archer.config.keys import ModelConfig, TrainConfig
from archer.diagnosis.finding import GB, Diagnosis, Line, tried
from archer.models.folder import open_model
from archer.planning.memory_model import num_parameters
from archer.planning.shape import known_shape
from archer.runtime.run_directory import check_disk as check_room_for_checkpoints
from archer.runtime.run_directory import nearest_existing

ROOM_OF_A_RUN = 20 * GB
"""Free disk space below which a model of unknown size is likely not to fit."""
RAY_FULL = 0.95
"""Share of its disk in use at which Ray stops placing (``local_fs_capacity_threshold``)."""


def check_disk(config: TrainConfig) -> Diagnosis:
    """Room and permission where the run writes."""
    places = {"run.root": config.run_dir, "run.cache": Path(config.run.cache).expanduser()}
    lines = [_writable(key, folder) for key, folder in places.items()]
    lines.append(_checkpoints(config))
    session = nearest_existing(Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir())))
    usage = shutil.disk_usage(session)
    if usage.used > RAY_FULL * usage.total:
        mend = "Ray places nothing on such a node: free some, or set RAY_TMPDIR to another disk."
        lines.append(Line("fail", f"{session} is {usage.used / usage.total:.0%} full", mend))
    return Diagnosis(tuple(lines))


def _writable(key: str, folder: Path) -> Line:
    existing = nearest_existing(folder)
    try:
        with tempfile.TemporaryFile(dir=existing) as probe:
            probe.write(b"0" * 65536)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        mend = f"Set {key} to a folder of yours, or mend the permissions."
        return Line("fail", f"{key}: nothing can be written to {existing}: {error}", mend)
    free = shutil.disk_usage(existing).free
    return Line("ok", f"{key}: {free / GB:,.0f} GB free at {existing}")


def _checkpoints(config: TrainConfig) -> Line:
    path, size = config.model.path, _num_parameters(config.model)
    if size is not None:
        room = f"room for the checkpoints of {size / GB:.2f} billion parameters"
        return tried(lambda: check_room_for_checkpoints(config, size), room)
    free = shutil.disk_usage(nearest_existing(config.run_dir)).free
    if path is None or free >= ROOM_OF_A_RUN:
        return Line("ok", "room for checkpoints")
    mend = "Free some space, or set run.root to a larger disk; a checkpoint is 16 bytes a weight."
    return Line("warning", f"{free / GB:.0f} GB for checkpoints of {path}", mend)


def _num_parameters(model: ModelConfig) -> int | None:
    """What can be told without downloading it."""
    if model.path is not None and Path(model.path).expanduser().is_dir():
        return open_model(model.path).num_parameters
    shape = None if model.path is None else known_shape(model)
    return None if shape is None else num_parameters(shape)
