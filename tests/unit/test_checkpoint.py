"""Checkpoints are whole or absent, and one that does not fit is refused with the reason."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from archer.checkpoint import Checkpoints, TrainerState, file_sizes
from archer.errors import CheckpointError, ConfigError

IDENTITY = {"model": "tiny", "world_size": 2}


def state_of(step: int) -> TrainerState:
    return TrainerState(step, prompt_position=7 * step, keep_frac=0.25, skipped_in_a_row=1)


def write(folder: Path) -> None:
    (folder / "hf" / "model.safetensors").write_bytes(b"weights")
    (folder / "rng_0.pt").write_bytes(b"random")


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "checkpoints", keep=2, identity=IDENTITY)


def test_what_was_saved_is_loaded(checkpoints: Checkpoints):
    saved = checkpoints.save(state_of(3), write)
    assert checkpoints.latest() == saved
    assert checkpoints.load(saved) == TrainerState(3, 21, 0.25, 1)
    assert (saved / "hf" / "model.safetensors").read_bytes() == b"weights"


def test_a_new_run_has_no_checkpoint(checkpoints: Checkpoints):
    assert checkpoints.latest() is None


def test_the_oldest_go_and_steps_are_ordered_as_numbers(checkpoints: Checkpoints):
    for step in (9, 10, 100):
        checkpoints.save(state_of(step), write)
    assert sorted(p.name for p in checkpoints.folder.iterdir()) == ["step_000010", "step_000100"]
    assert checkpoints.latest() == checkpoints.path(100)


def test_a_full_disk_leaves_the_previous_checkpoint_whole_and_no_rest(checkpoints: Checkpoints):
    checkpoints.save(state_of(3), write)

    def fills_the_disk(folder: Path) -> None:
        write(folder)
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(state_of(6), fills_the_disk)
    assert [p.name for p in checkpoints.folder.iterdir()] == ["step_000003"]
    assert checkpoints.load(checkpoints.path(3)) == state_of(3)


def test_a_crash_while_writing_leaves_nothing_that_counts(checkpoints: Checkpoints):
    checkpoints.save(state_of(3), write)
    left_by_kill = checkpoints.folder / ".step_000006.tmp"
    (left_by_kill / "hf").mkdir(parents=True)
    write(left_by_kill)
    assert checkpoints.latest() == checkpoints.path(3)
    checkpoints.save(state_of(6), write)  # the same name again, over the rest
    assert checkpoints.load(checkpoints.path(6)) == state_of(6)
    assert not left_by_kill.exists()


def test_what_workers_wrote_elsewhere_is_no_checkpoint(checkpoints: Checkpoints):
    checkpoints.save(state_of(3), write)

    def write_elsewhere(folder: Path) -> list[dict[str, int]]:
        write(folder)
        return [file_sizes(folder), {"rng_1.pt": 6, "zero/of_rank_1.pt": 900}]

    with pytest.raises(ConfigError, match=r"run.root=.*rng_1.pt, zero/of_rank_1.pt did not arrive"):
        checkpoints.save(state_of(6), write_elsewhere)
    assert [p.name for p in checkpoints.folder.iterdir()] == ["step_000003"]


@pytest.mark.parametrize("size", [0, 5, 7])
def test_a_file_that_is_here_with_another_size_did_not_arrive(checkpoints: Checkpoints, size: int):
    def write_more(folder: Path) -> list[dict[str, int]]:
        write(folder)
        assert file_sizes(folder) == {"hf/model.safetensors": 7, "rng_0.pt": 6}
        return [{"rng_0.pt": size}]

    with pytest.raises(ConfigError, match=r"rng_0.pt did not arrive"):
        checkpoints.save(state_of(3), write_more)


def test_a_torn_file_is_refused_by_name(checkpoints: Checkpoints):
    saved = checkpoints.save(state_of(3), write)
    (saved / "hf" / "model.safetensors").write_bytes(b"weigh")
    with pytest.raises(CheckpointError, match=r"hf/model.safetensors.*torn or was changed.*Delete"):
        checkpoints.load(saved)


def test_a_missing_file_is_refused_by_name(checkpoints: Checkpoints):
    saved = checkpoints.save(state_of(3), write)
    (saved / "rng_0.pt").unlink()
    with pytest.raises(CheckpointError, match=r"rng_0.pt, which is missing"):
        checkpoints.load(saved)


@pytest.mark.parametrize("text", ["", "{", "{}", "null", "[]"])
def test_a_torn_description_is_refused(checkpoints: Checkpoints, text: str):
    saved = checkpoints.save(state_of(3), write)
    (saved / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"a readable state.json"):
        checkpoints.load(saved)


def test_another_runs_checkpoint_is_refused_with_the_difference(checkpoints: Checkpoints):
    saved = checkpoints.save(state_of(3), write)
    other = Checkpoints(checkpoints.folder, keep=2, identity={**IDENTITY, "world_size": 4})
    with pytest.raises(CheckpointError, match=r"world_size=4, it has 2"):
        other.load(saved)


def test_another_format_is_refused(checkpoints: Checkpoints):
    saved = checkpoints.save(state_of(3), write)
    description = json.loads((saved / "state.json").read_text())
    (saved / "state.json").write_text(json.dumps(description | {"format": 99}))
    with pytest.raises(CheckpointError, match=r"checkpoint format 1, it has 99"):
        checkpoints.load(saved)
