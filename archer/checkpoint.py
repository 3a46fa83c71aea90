"""Checkpoints: whole or absent, exact to resume from, and a Hugging Face folder beside the state.

    checkpoints/step_000020/
        state.json   step, prompt position, config and a digest of every other file
        zero/ rng_*  DeepSpeed's shards: weights, optimizer, and each rank's RNG
        critic/      the same of the critic, where there is one
        hf/          config.json, model.safetensors, tokenizer: load with transformers or vLLM
        adapter/     the LoRA adapters alone in peft's format, where the policy learns such

A checkpoint is written under a temporary name, described by ``state.json`` last, then renamed.
``load`` checks every digest, so a file cut off or changed later is refused with the reason.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from archer.errors import CheckpointError, ConfigError

FORMAT = 1


@dataclass(frozen=True)
class TrainerState:
    """What the driver itself has to remember; everything else follows from the seed."""

    step: int
    """Rollout steps completed."""
    prompt_position: int
    keep_frac: float
    skipped_in_a_row: int
    running_means: dict[str, float] = field(default_factory=dict)
    """Of the advantage estimator."""


class Checkpoints:
    """The checkpoints of one run directory.

    Args:
        folder: ``<run>/checkpoints``.
        keep: how many to keep; the oldest go after a new one is complete.
        identity: what a checkpoint must agree with to be resumed from: world size, ZeRO stage, ...
    """

    def __init__(self, folder: Path, keep: int, identity: dict[str, object]):
        self.folder, self.keep, self.identity = folder, keep, identity

    def latest(self) -> Path | None:
        """The newest complete checkpoint."""
        complete = sorted(self.folder.glob("step_*/state.json"))
        return complete[-1].parent if complete else None

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is, or would be."""
        return self.folder / f"step_{step:06d}"

    def save(
        self, state: TrainerState, write: Callable[[Path], Sequence[Mapping[str, int]] | None]
    ) -> Path:
        """Have ``write(folder)`` put its files down, then seal and publish the checkpoint.

        Whatever ``write`` raises passes through; the checkpoints there were are left as they are.

        Args:
            write: returns what each worker sees in the folder, sizes in bytes by relative path, or
                nothing if no worker took part. There is an empty folder ``hf`` to write to.

        Raises:
            ConfigError: a worker sees a file that is not here, so the folder is not the same.
        """
        final = self.path(state.step)
        temporary = final.with_name(f".{final.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            (temporary / "hf").mkdir()
            for sizes in write(temporary) or ():
                self._check_visible(temporary, sizes)
            self._seal(temporary, state)
            shutil.rmtree(final, ignore_errors=True)
            temporary.rename(final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)  # what a full disk left behind
        for old in sorted(self.folder.glob("step_*"))[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return final

    def load(self, checkpoint: Path) -> TrainerState:
        """Verify a checkpoint and return the driver's state.

        Raises:
            CheckpointError: torn, from another format, or from a run it does not fit.
        """
        try:
            description = json.loads((checkpoint / "state.json").read_text())
            files, identity = description["files"], description["identity"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise self._refuse(checkpoint, f"a readable state.json ({error})") from error
        found = description.get("format")
        if found != FORMAT:
            raise self._refuse(checkpoint, f"checkpoint format {FORMAT}, it has {found}")
        for key, expected in self.identity.items():
            found = identity.get(key)
            if found != expected:
                wanted = f"a checkpoint with {key}={expected!r}, it has {found!r}"
                raise self._refuse(checkpoint, wanted)
        for name, digest in files.items():
            path = checkpoint / name
            if not path.is_file():
                raise self._refuse(checkpoint, f"the file {name}, which is missing")
            if _digest(path) != digest:
                wanted = f"{name} as it was written; it is torn or was changed"
                raise self._refuse(checkpoint, wanted)
        return TrainerState(**description["state"])

    def _check_visible(self, folder: Path, sizes: Mapping[str, int]) -> None:
        missing = sorted(name for name, size in sizes.items() if _size(folder / name) != size)
        if missing:
            raise ConfigError(
                "run.root",
                str(self.folder),
                "a folder that all nodes share; of what a worker wrote there, "
                f"{', '.join(missing)} did not arrive",
                "Set run.root to a filesystem shared by all nodes, by the same path on each.",
            )

    def _seal(self, folder: Path, state: TrainerState) -> None:
        description = {
            "format": FORMAT,
            "identity": self.identity,
            "state": asdict(state),
            "files": {str(p.relative_to(folder)): _digest(p) for p in _files(folder)},
        }
        (folder / "state.json").write_text(json.dumps(description, indent=1))

    @staticmethod
    def _refuse(checkpoint: Path, expected: str) -> CheckpointError:
        mend = "Delete this folder to resume from the one before it."
        return CheckpointError("checkpoint", str(checkpoint), expected, mend)


def file_sizes(folder: Path) -> dict[str, int]:
    """Every file below a folder, as this process sees it: sizes in bytes by relative path."""
    return {str(p.relative_to(folder)): p.stat().st_size for p in _files(folder)}


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
