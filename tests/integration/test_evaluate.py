"""``python -m archer.evaluate`` as a user runs it, beside a training run of the same model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from runs import NUM_PROBLEMS, NUM_SAMPLES, undisturbed

from archer.metrics import read_rollouts

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def start(output: Path) -> subprocess.Popen[str]:
    """The default evaluation, slowed down to one response at a time so that it can be met."""
    size = (f"eval.max_problems={NUM_PROBLEMS}", f"eval.num_samples={NUM_SAMPLES}")
    words = (*size, "cluster.max_num_seqs=1", f"output={output}")
    return subprocess.Popen(
        [sys.executable, "-m", "archer.evaluate", *words],
        cwd=ROOT,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for_problems(process: subprocess.Popen[str], output: Path, count: int) -> None:
    journal = output / "journal.jsonl"
    deadline = time.monotonic() + 120
    while not journal.exists() or journal.read_bytes().count(b"\n") < 1 + count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)


def stop_by_ctrl_c(output: Path) -> None:
    process = start(output)
    try:
        wait_for_problems(process, output, 2)
        family = psutil.Process(process.pid).children(recursive=True)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGINT
    assert errors.splitlines() == ["archer: stopped by SIGINT"]
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []


def num_problems(output: Path) -> int:
    """Whole lines of the journal, without that of the configuration."""
    return (output / "journal.jsonl").read_bytes().count(b"\n") - 1


def responses(file: Path) -> dict[tuple[str, int], Any]:
    return {(row["prompt_id"], row["index"]): row["response"] for row in read_rollouts(file)}


def test_stopped_and_torn_it_ends_with_the_numbers_of_the_trainers_evaluation(tmp_path: Path):
    stop_by_ctrl_c(tmp_path)
    journal = tmp_path / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-40])  # as when the machine goes down in mid-write
    num_stopped = num_problems(tmp_path)
    assert 0 < num_stopped < NUM_PROBLEMS
    assert not (tmp_path / "results.json").exists()

    process = start(tmp_path)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert f"going on after {num_stopped} of {NUM_PROBLEMS} problems" in output
    assert not journal.exists()

    trainer = undisturbed()
    found = json.loads((tmp_path / "results.json").read_text())["sets"]["arithmetic"]
    for measure in ("avg@4", "avg@4_lo", "avg@4_hi", "pass@1", "pass@2", "pass@4"):
        assert found[measure] == trainer.metrics[0][f"eval/arithmetic/{measure}"]
    samples = tmp_path / "samples_arithmetic.jsonl.gz"
    of_trainer = trainer.folder / "rollouts" / "eval_arithmetic_000000.jsonl.gz"
    assert responses(samples) == responses(of_trainer)
    assert len(responses(samples)) == NUM_PROBLEMS * NUM_SAMPLES

    assert 0.1 < found["avg@4"] < 0.9
    row = f"arithmetic  {NUM_SAMPLES}  {100 * found['avg@4']:.1f} ["
    assert row in output and "ETA 0:00" in output
    assert row.replace("  ", " | ") in (tmp_path / "results.md").read_text()

    rows = list(read_rollouts(samples))
    assert all(s["answer"] == s["ground_truth"] for s in rows if s["correct"])
    problems = [json.loads(line) for line in (tmp_path / "problems_arithmetic.jsonl").open()]
    assert len(problems) == NUM_PROBLEMS
    assert sum(p["num_correct"] for p in problems) == sum(s["correct"] for s in rows)
    assert sum(p["majority_correct"] for p in problems) / NUM_PROBLEMS == found["maj@4"]
