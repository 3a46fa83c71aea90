"""What an evaluation has finished, problem by problem: one that was killed goes on after it.

One JSON object a line: the configuration first, then a problem with all its samples. A line that a
crash tore is dropped and its problem sampled again, with the same seeds.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

from archer.config.schema import override, validate
from archer.errors import ConfigError, RunError
from archer.evaluation.config import EvaluateConfig
from archer.runtime.run_directory import differences
from archer.types import Prompt

JOURNAL_FILE = "journal.jsonl"
MAY_CHANGE = (
    "output", "run.*", "cluster.*", "reward.num_workers", "reward.concurrency", "probe.*",
    "data.sets.*.published*",
)  # fmt: skip
"""Keys that do not decide what is sampled and how it is judged."""
NUMERIC = ("cluster.device", "cluster.dtype")
"""Keys among them that change the numbers a model computes."""

Rows = list[dict[str, Any]]
"""The samples of one problem, as ``rollout_row`` gives them."""


@dataclass(frozen=True)
class _Entry:
    """Where a finished problem is in the file."""

    digest: str
    """Of its prompt and truth."""
    offset: int
    """Bytes before its line."""


class Journal:
    """The journal in the output folder of an evaluation; nobody else writes it meanwhile.

    Raises:
        ConfigError: another process is at it, it was begun with other settings, or it is damaged.
    """

    def __init__(self, config: EvaluateConfig):
        self._folder = config.output_dir
        self._path = self._folder / JOURNAL_FILE
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = self._path.open("a+b")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            mend = "Wait until that one has ended, or choose another output=FOLDER."
            expected = "a folder that no other evaluation is writing to"
            raise ConfigError("output", str(self._folder), expected, mend) from None
        self._problems: dict[str, _Entry] = {}
        recorded = self._read()
        if recorded is not None:
            self._check_config(recorded, config)
        else:
            self._write({"config": config.model_dump(mode="json")})

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if not self._problems:  # nothing to go on from
            self._path.unlink(missing_ok=True)

    def has(self, prompt: Prompt) -> bool:
        """Whether a problem is finished.

        Raises:
            ConfigError: it was another one when its samples were drawn.
        """
        entry = self._problems.get(prompt.id)
        if entry is None:
            return False
        if entry.digest != _digest(prompt):
            name = prompt.id.rpartition("-")[0]
            raise ConfigError(
                f"data.eval.{name}",
                prompt.id,
                f"the problem with which the evaluation in {self._folder} began",
                "Its prompt or its truth has changed since. Choose another output=FOLDER, or "
                f"delete {self._path} to begin again.",
            )
        return True

    def rows(self, prompt: Prompt) -> Rows:
        """The samples of a finished problem, in their order, read from the file."""
        self._file.seek(self._problems[prompt.id].offset)
        return json.loads(self._file.readline())["samples"]

    def append(self, prompt: Prompt, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record a finished problem; it is on disk when this returns.

        Raises:
            RunError: it cannot be written; what is there stays usable.
        """
        digest, offset = _digest(prompt), self._file.seek(0, os.SEEK_END)
        self._write({"prompt_id": prompt.id, "digest": digest, "samples": rows})
        self._problems[prompt.id] = _Entry(digest, offset)

    def remove(self) -> None:
        """Once the results hold all that is in it."""
        self._path.unlink()

    def _write(self, line: Mapping[str, Any]) -> None:
        try:
            # By a handle of its own: one that could not write tries again when it is closed.
            with self._path.open("ab") as file:
                file.write(json.dumps(line, default=str).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise RunError(
                f"{self._path} could not be written ({error}). Free some space; the same command "
                "goes on after the problems that it holds."
            ) from error

    def _read(self) -> dict[str, Any] | None:
        """Find the problems, and cut off a torn last line; returns the configuration, if any."""
        recorded, offset = None, 0
        self._file.seek(0)
        for number, line in enumerate(self._file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                if number == 1:
                    recorded = dict(entry["config"])
                else:
                    self._problems[entry["prompt_id"]] = _Entry(entry["digest"], offset)
            except (ValueError, TypeError, KeyError) as error:
                mend = f"Line {number} is damaged: {error!r}. Delete that line, or the file."
                expected = "the lines of a journal"
                raise ConfigError("output", str(self._path), expected, mend) from error
            offset += len(line)
        self._file.truncate(offset)
        return recorded

    def _check_config(self, recorded: dict[str, Any], config: EvaluateConfig) -> None:
        try:
            # Validated, so that a key added since it began takes its default on both sides.
            before = validate(EvaluateConfig, recorded)
        except ConfigError as error:
            mend = f"{error} Choose another output=FOLDER, or delete that file."
            expected = "the journal of this version of archer"
            raise ConfigError("output", str(self._path), expected, mend) from error
        began, now = (c.model_dump(mode="json") for c in (before, config))
        for key, old, new in differences(began, now):
            if _decides(key):
                raise ConfigError(
                    key,
                    new,
                    f"{old!r}, with which the evaluation in {self._folder} began",
                    f"To go on with that one set {override(key, old)}; for a new one choose "
                    f"another output=FOLDER, or delete {self._path}.",
                )


def _decides(key: str) -> bool:
    return key in NUMERIC or not any(fnmatch(key, pattern) for pattern in MAY_CHANGE)


def _digest(prompt: Prompt) -> str:
    content = json.dumps([prompt.text, prompt.ground_truth, prompt.source], default=str)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
