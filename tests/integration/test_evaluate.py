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

from archer.config import DataConfig
from archer.metrics import read_metrics, read_rollouts
from archer.prompts import dataset_files

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
NUM_PROBLEMS, NUM_SAMPLES = 128, 8


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


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run directory of one training step, with evaluations before and after it."""
    root = tmp_path_factory.mktemp("runs")
    small = ("prompts_per_step=4", "mini_batch_prompts=2", "group_size=4", "num_steps=1")
    run(
        "main",
        *(f"trainer.{key}" for key in small),
        f"run.root={root}",
        "run.name=one",
        "logger=files",
    )
    return root / "default" / "one"


def test_it_gives_the_numbers_of_the_trainers_first_evaluation(trained: Path, tmp_path: Path):
    output = run("evaluate", f"eval.num_samples={NUM_SAMPLES}", f"output={tmp_path}")
    before = read_metrics(trained)[0]
    found = results(tmp_path)
    for measure in ("avg@8", "avg@8_lo", "avg@8_hi", "pass@1", "pass@2", "pass@4", "pass@8"):
        assert found[measure] == before[f"eval/arithmetic/{measure}"]
    assert 0.1 < found["avg@8"] < 0.9
    assert f"{found['avg@8']:.3f} [" in output
    assert f"evaluating arithmetic {NUM_PROBLEMS}/{NUM_PROBLEMS}" in output

    samples = list(read_rollouts(tmp_path / "samples_arithmetic.jsonl.gz"))
    assert len(samples) == NUM_PROBLEMS * NUM_SAMPLES
    assert sum(s["correct"] for s in samples) / len(samples) == found["avg@8"]
    assert {s["ground_truth"] for s in samples if s["correct"]} <= {
        s["ground_truth"] for s in samples
    }


def test_it_reads_a_checkpoint_and_a_file_of_ones_own(trained: Path, tmp_path: Path):
    task = DataConfig(name="arithmetic", task="arithmetic")
    held_out = dataset_files(task, Path("~/.cache/archer").expanduser())["data.eval.arithmetic"]
    run(
        "evaluate",
        f"model.path={trained / 'checkpoints/step_000001/hf'}",
        "data=jsonl",
        f"data.eval.arithmetic={held_out}",
        "data.chat_template=false",
        "data.max_prompt_tokens=16",
        f"output={tmp_path}",
    )
    after = read_metrics(trained)[1]
    assert results(tmp_path)["avg@8"] == after["eval/arithmetic/avg@8"]


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
