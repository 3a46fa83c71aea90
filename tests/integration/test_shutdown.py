"""Ctrl-C, SIGTERM and a hung engine: one line, the right exit status, nothing left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import Run, undisturbed

pytestmark = pytest.mark.integration

ENDLESS = ("trainer.num_steps=1000", "run.save_every=0", "eval.every=0", "algo=dapo")
EXIT_WITHIN_S = 30


@pytest.fixture
def started() -> Iterator[list[Run]]:
    """Runs of a test; whatever they leave is killed."""
    runs: list[Run] = []
    yield runs
    for run in runs:
        run.kill_all()


def assert_clean_end(run: Run, number: signal.Signals) -> None:
    began = time.monotonic()
    assert run.wait(EXIT_WITHIN_S) == 128 + number, run.output
    assert run.orphans(EXIT_WITHIN_S - (time.monotonic() - began)) == []
    assert f"archer: stopped by {number.name}" in run.output
    assert "Traceback" not in run.output


def test_ctrl_c_while_training_saves_the_last_whole_step(tmp_path: Path, started: list[Run]):
    # From an exported folder: DeepSpeed, vLLM and the tokenizer of a new run load it.
    folder = undisturbed().checkpoint(6) / "hf"
    run = Run(tmp_path, *ENDLESS, f"model.path={folder}")
    started.append(run)
    run.wait_for_step(2)
    os.killpg(run.driver.pid, signal.SIGINT)  # a terminal sends it to the whole group
    assert_clean_end(run, signal.SIGINT)
    last = max(run.metrics)
    assert [p.name for p in (run.folder / "checkpoints").iterdir()] == [f"step_{last:06d}"]
    assert f"saved step {last}" in run.output


def test_sigterm_while_actors_start(tmp_path: Path, started: list[Run]):
    run = Run(tmp_path, *ENDLESS)
    started.append(run)
    run.wait_for(lambda: run.has("ray::RolloutWorker"))
    run.driver.terminate()
    assert_clean_end(run, signal.SIGTERM)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_warm_start(tmp_path: Path, started: list[Run], number: signal.Signals):
    run = Run(tmp_path, *ENDLESS, f"run.cache={tmp_path / 'cache'}")
    started.append(run)
    run.wait_for(lambda: run.has("archer.warm_start"))
    os.killpg(run.driver.pid, number)
    assert_clean_end(run, number)
    assert not list((tmp_path / "cache").glob("models/*.safetensors"))


def test_a_hung_engine_ends_the_run_with_a_message(tmp_path: Path, started: list[Run]):
    run = Run(tmp_path, *ENDLESS, "cluster.step_timeout_s=10", faults=("stop:engine-0@rollout:1",))
    started.append(run)
    assert run.wait() == 1, run.output
    assert "for 10 s (cluster.step_timeout_s)" in run.output
    assert "Traceback" not in run.output
    assert run.orphans() == []
