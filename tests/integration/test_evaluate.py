"""``python -m archer.evaluate`` as a user runs it, beside a training run of the same model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from runs import NUM_PROBLEMS, NUM_SAMPLES, undisturbed

from archer.config.keys import DataConfig
from archer.metrics import read_rollouts
from archer.prompts import dataset_files

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SIZE = (f"eval.max_problems={NUM_PROBLEMS}", f"eval.num_samples={NUM_SAMPLES}")


def start(command: str, *overrides: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"archer.{command}", *overrides],
        cwd=ROOT,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(command: str, *overrides: str) -> str:
    process = start(command, *overrides)
    try:
        output, errors = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, errors
    return output


def results(folder: Path) -> dict[str, float]:
    return json.loads((folder / "results.json").read_text())["sets"]["arithmetic"]


def test_it_gives_the_numbers_of_the_trainers_first_evaluation(tmp_path: Path):
    output = run("evaluate", *SIZE, f"output={tmp_path}")
    before = undisturbed().metrics[0]
    found = results(tmp_path)
    for measure in ("avg@4", "avg@4_lo", "avg@4_hi", "pass@1", "pass@2", "pass@4"):
        assert found[measure] == before[f"eval/arithmetic/{measure}"]
    assert 0.1 < found["avg@4"] < 0.9
    assert f"{found['avg@4']:.3f} [" in output
    assert f"evaluating arithmetic {NUM_PROBLEMS}/{NUM_PROBLEMS}" in output

    samples = list(read_rollouts(tmp_path / "samples_arithmetic.jsonl.gz"))
    assert len(samples) == NUM_PROBLEMS * NUM_SAMPLES
    assert sum(s["correct"] for s in samples) / len(samples) == found["avg@4"]
    assert {s["ground_truth"] for s in samples if s["correct"]} <= {
        s["ground_truth"] for s in samples
    }


def test_it_reads_a_checkpoint_and_a_file_of_ones_own(tmp_path: Path):
    task = DataConfig(name="arithmetic", task="arithmetic")
    held_out = dataset_files(task, Path("~/.cache/archer").expanduser())["data.eval.arithmetic"]
    run(
        "evaluate",
        f"model.path={undisturbed().checkpoint(6) / 'hf'}",
        "data=jsonl",
        f"data.eval.arithmetic={held_out}",
        "data.chat_template=false",
        "data.max_prompt_tokens=16",
        *SIZE,
        f"output={tmp_path}",
    )
    after = undisturbed().metrics[6]
    assert results(tmp_path)["avg@4"] == after["eval/arithmetic/avg@4"]


def test_ctrl_c_ends_it_with_its_processes(tmp_path: Path):
    process = start(
        "evaluate", "eval.max_problems=10", "eval.num_samples=512", f"output={tmp_path}"
    )
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if "evaluating" in line:
                break
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGINT
    assert errors.splitlines() == ["archer: stopped by SIGINT"]
    assert not (tmp_path / "results.json").exists()
    deadline = time.monotonic() + 20
    while (alive := [p for p in family if p.is_running()]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert alive == []
