"""A killed run continues as the same run, from a checkpoint that is checked."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from runs import TWO_OF_EACH, Run, undisturbed

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A run whose driver was killed between two checkpoints."""
    run = Run(tmp_path_factory.mktemp("resume"), *TWO_OF_EACH, faults=("driver@update:4",))
    assert run.wait() == -signal.SIGKILL, run.output
    yield run
    run.kill_all()


def test_a_killed_driver_leaves_no_orphans(killed: Run):
    """Ray's own two agents try for a minute to tell the dead driver about it, then end as well."""
    agents = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
    assert killed.orphans(patience_s=20, besides=agents) == []


def test_a_resumed_run_equals_one_that_was_never_killed(killed: Run):
    """Also what two processes with one seed must do: agree in every number that is not a time."""
    assert sorted(killed.metrics) == [0, 1, 2, 3, 4]
    resumed = Run(killed.folder.parents[1], *TWO_OF_EACH)
    try:
        assert resumed.wait() == 0, resumed.output
    finally:
        resumed.kill_all()
    assert "resuming after step 3" in resumed.output
    assert resumed.metrics == undisturbed().metrics
    assert weights(resumed) == weights(undisturbed())


def weights(run: Run) -> bytes:
    return (checkpoint_of(run, 6) / "hf" / "model.safetensors").read_bytes()


def checkpoint_of(run: Run, step: int) -> Path:
    return run.folder / "checkpoints" / f"step_{step:06d}"


def test_transformers_loads_the_hugging_face_folder():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = checkpoint_of(undisturbed(), 6) / "hf"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    tokens = tokenizer("1+1=", return_tensors="pt").input_ids
    assert model(tokens).logits.isfinite().all()


def test_a_torn_checkpoint_is_refused_before_any_actor_starts(tmp_path: Path):
    root = copy_of(undisturbed(), tmp_path)
    torn = root / "default" / "run" / "checkpoints" / "step_000006" / "hf" / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    run = Run(root, *TWO_OF_EACH, "trainer.num_steps=7")
    assert run.wait(60) == 2
    assert "hf/model.safetensors" in run.output and "torn" in run.output
    assert "starting" not in run.output and "Traceback" not in run.output


def test_a_foreign_checkpoint_is_refused_before_any_actor_starts(tmp_path: Path):
    root = copy_of(undisturbed(), tmp_path)
    (root / "default" / "run" / "config.yaml").unlink()  # whose check would come first
    run = Run(root, *TWO_OF_EACH, "cluster.zero_stage=2")
    assert run.wait(60) == 2
    assert "zero_stage=2, it has 1" in run.output
    assert "starting" not in run.output and "Traceback" not in run.output


def copy_of(run: Run, root: Path) -> Path:
    shutil.copytree(run.folder, root / "default" / "run")
    return root
