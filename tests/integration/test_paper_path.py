"""From published files to a comparison, with the commands that a user types.

Two invented data sets in published shapes: sums as verl's parquet, and programs as LiveCodeBench's
JSONL with its encoded tests, which the sandbox runs.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from archer.config.keys import WarmStartConfig
from archer.metrics import read_metrics, read_rollouts
from archer.tasks import TASKS, Problem
from archer.tasks.list_programs import write_function
from archer.warm_start import build_model

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
NUM_TRAIN, NUM_HELD_OUT = 24, 8

BARE_PROMPT = "{{ messages[0].content }}"
PROGRAM_PROMPT = (
    "{% set words = messages[0].content.split('f: ') %}f: {{ words[1].split('\\n')[0] }}{{ '\\n' }}"
)
"""The start model knows the one line of a problem, not what LiveCodeBench has around it."""


@dataclass(frozen=True)
class Case:
    """A data set on disk, and the model that begins to solve it."""

    task: str
    warm_start_steps: int
    chat_template: str
    preset: str
    write: Callable[[Path, str, Sequence[Problem]], None]
    algorithms: tuple[str, ...]


def write_verl(folder: Path, name: str, problems: Sequence[Problem]) -> None:
    rows = [
        {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": problem.prompt}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": problem.answer},
            "extra_info": {"split": name, "index": index},
        }
        for index, problem in enumerate(problems)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")


def write_livecodebench(folder: Path, name: str, problems: Sequence[Problem]) -> None:
    lines = []
    for index, problem in enumerate(problems):
        assert isinstance(problem.answer, dict)
        public, *private = [test | {"testtype": "functional"} for test in problem.answer["tests"]]
        encoded = base64.b64encode(zlib.compress(pickle.dumps(json.dumps(private)))).decode()
        record = {
            "question_title": "Lists",
            "question_content": problem.prompt,
            "platform": "leetcode",
            "question_id": f"{name}-{index}",
            "contest_id": "1",
            "contest_date": "2024-10-01T00:00:00",
            "starter_code": "def f(x):\n    ",
            "difficulty": "easy",
            "public_test_cases": json.dumps([public]),
            "private_test_cases": encoded,
            "metadata": json.dumps({"func_name": "f"}),
        }
        lines.append(json.dumps(record) + "\n")
    (folder / f"{name}.jsonl").write_text("".join(lines))


SUMS = Case(
    "arithmetic",
    1200,
    BARE_PROMPT,
    """
name: paper
max_prompt_tokens: 16
sets:
  learnt:
    role: train
    sources:
      sums: {{folder: {0}, files: [learnt.parquet]}}
  held_out:
    role: eval
    num_samples: 4
    max_response_tokens: 64
    sources:
      sums: {{folder: {0}, files: [held_out.parquet]}}
""",
    write_verl,
    ("archer", "grpo"),
)
PROGRAMS = Case(
    "list_programs",
    400,
    PROGRAM_PROMPT,
    """
# @package _global_
defaults:
  - override /reward: code
data:
  name: paper
  max_prompt_tokens: 32
  sets:
    learnt:
      role: train
      sources:
        lcb_code: {{folder: {0}, files: [learnt.jsonl], shape: livecodebench}}
    held_out:
      role: eval
      num_samples: 4
      sources:
        lcb_code: {{folder: {0}, files: [held_out.jsonl], shape: livecodebench}}
sampling:
  max_response_tokens: 112
""",
    write_livecodebench,
    ("archer",),
)


def command(name: str, *words: str) -> str:
    """Standard output of a command of archer that has to succeed."""
    done = subprocess.run(
        [sys.executable, "-m", f"archer.{name}", *words],
        cwd=ROOT,
        env=os.environ | {"RAY_AUTH_MODE": "disabled"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return done.stdout


def start_model(folder: Path, case: Case) -> Path:
    """The warm-started model of the task, with a chat template."""
    config = WarmStartConfig(task=case.task, steps=case.warm_start_steps)  # pyright: ignore
    built = build_model(config, Path("~/.cache/archer"), lambda *_: None)
    shutil.copytree(built, folder)
    (folder / "chat_template.jinja").write_text(case.chat_template)
    return folder


@pytest.mark.parametrize("case", [SUMS, PROGRAMS], ids=["sums in verl's parquet", "LiveCodeBench"])
def test_the_papers_path(tmp_path: Path, case: Case):
    files, conf = tmp_path / "files", tmp_path / "conf" / "data"
    files.mkdir()
    conf.mkdir(parents=True)
    (conf / "paper.yaml").write_text(case.preset.format(files).lstrip())
    drawn = TASKS[case.task].problems(Random(0))
    problems = list({p.prompt: p for p in islice(drawn, 100)}.values())
    learnt, held_out = problems[:NUM_TRAIN], problems[NUM_TRAIN:][:NUM_HELD_OUT]
    case.write(files, "held_out", held_out)
    # One problem of the benchmark has found its way into the training set, and one is there twice.
    case.write(files, "learnt", [*learnt, held_out[0], learnt[0]])
    model = start_model(tmp_path / "model", case)
    common = [
        f"--config-dir={tmp_path / 'conf'}",
        "data=paper",
        f"model.path={model}",
        f"run.cache={tmp_path / 'cache'}",
    ]

    command("prepare", *common)
    reports = {
        path.parent.name.rpartition("-")[0]: json.loads(path.read_text())
        for path in (tmp_path / "cache" / "data").glob("*/report.json")
    }
    assert {name: report["rows"] for name, report in reports.items()} == {
        "learnt": NUM_TRAIN,
        "held_out": NUM_HELD_OUT,
    }
    (source,) = reports["learnt"]["sources"].values()
    assert source["counts"]["dropped"] == {"duplicate problem": 1, "in held_out": 1}

    for algorithm in case.algorithms:
        command(
            "main",
            *common,
            f"algo={algorithm}",
            f"run.root={tmp_path / 'runs'}",
            *("trainer.num_steps=2", "trainer.prompts_per_step=4", "trainer.group_size=4"),
            *("trainer.mini_batch_prompts=4", "eval.num_samples=4", "logger=files"),
        )
    runs = sorted((tmp_path / "runs" / "default").iterdir())
    assert len(runs) == len(case.algorithms)
    trained = {row["prompt"] for run in runs for row in rollouts(run / "rollouts", "step")}
    assert trained
    assert trained <= {problem.prompt for problem in learnt}
    if case is PROGRAMS:
        check_programs(runs[0])

    output = tmp_path / "evaluation"
    checkpoint = runs[0] / "checkpoints" / "step_000002" / "hf"
    command(
        "evaluate",
        *(word for word in common if not word.startswith("model.path")),
        f"model.path={checkpoint}",
        f"output={output}",
    )
    measures = json.loads((output / "results.json").read_text())["sets"]["held_out"]
    last = read_metrics(runs[0])[-1]
    assert measures["num_samples"] == 4
    assert measures["avg@4"] == last["eval/held_out/avg@4"]
    samples = list(read_rollouts(output / "samples_held_out.jsonl.gz"))
    assert {row["correct"] for row in samples} == {True, False}
    assert {row["prompt"] for row in samples} == {problem.prompt for problem in held_out}

    said = command("compare", str(tmp_path / "runs"), f"--out={tmp_path / 'compare.html'}")
    assert all(algorithm in said for algorithm in case.algorithms)
    assert "held_out" in (tmp_path / "compare.html").read_text()


def check_programs(run: Path) -> None:
    """The sandbox ran what the model wrote, and the verdicts are those that were due."""
    workers = json.loads((run / "environment.json").read_text())["workers"]
    assert any(line.startswith("reward 0") and "sandbox: " in line for line in workers), workers
    rows = rollouts(run / "rollouts", "step")
    assert {row["correct"] for row in rows} == {True, False}
    assert {"ok", "runtime_error"} <= {row["status"] for row in rows}
    for row in rows:
        # What the teacher writes without bugs; reversing has two spellings.
        problem = Problem(row["prompt"], "", 0)
        if row["response"] in {write_function(problem, Random(seed)) for seed in range(20)}:
            assert row["correct"], row
    steps = [line for line in read_metrics(run) if "reward/failure_frac" in line]
    assert steps
    assert all(line["reward/failure_frac"] == 0 for line in steps)


def rollouts(folder: Path, name: str) -> list[dict[str, Any]]:
    return [row for path in folder.glob(f"{name}_*.jsonl.gz") for row in read_rollouts(path)]
