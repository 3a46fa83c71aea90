"""Does the Min-kNN probe tell prompts of the RL training from others? On a model trained here.

    python -m benchmarks.min_knn [--problems 8] [--steps 20] [--seed 0] [KEY=VALUE ...]

Trains the tiny model on one half of a synthetic set, additions, over and over, and probes both
halves with the trained model and, as a control, with the start model. A few minutes on two cores.
Exits with 1 if the interval of the trained model's AUC does not lie above one half, or that of the
start model's does not hold it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from archer.evaluation.min_knn import REPORT_FILE
from archer.tasks.arithmetic import ARITHMETIC, write_columns

NUM_DIGITS = 4
"""The longest sums of the task: of shorter ones the model is soon sure, seen or not."""
DATA = (
    "data=jsonl",
    "data.chat_template=false",
    "data.max_prompt_tokens=16",
    "sampling.max_response_tokens=64",
)
NUM_SAMPLES = 32
NEIGHBOURS = 32
"""All of them, as responses of 30 characters often have an identical twin."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=8, help="in each half")
    parser.add_argument("--steps", type=int, default=20, help="passes over the seen half")
    parser.add_argument("--seed", type=int, default=0, help="of problems, halves and training")
    parser.add_argument("overrides", nargs="*", help="of the training run")
    arguments = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = write_halves(folder, arguments.problems, arguments.seed)
        overrides = [f"seed={arguments.seed}", *arguments.overrides]
        checkpoint = train(files["seen"], arguments.problems, arguments.steps, overrides)
        start, trained = (
            probe(folder / f"probe_{label}", files, model)
            for label, model in (("start", None), ("trained", checkpoint))
        )
    for label, found in (("start", start), ("trained", trained)):
        for half, measures in found.items():
            del measures["problems"]
            print(json.dumps({"model": label, "set": half} | measures))
    is_met = start["seen"]["auc_lo"] <= 0.5 <= start["seen"]["auc_hi"]
    sys.exit(not (is_met and trained["seen"]["auc_lo"] > 0.5))


def write_halves(folder: Path, size: int, seed: int) -> dict[str, Path]:
    """Files of seen and unseen problems, none of them in both and both equally hard.

    Hard is a sum by its carries: the start model forgets each with the same probability.
    """
    drawn = (p for p in ARITHMETIC.problems(Random(seed)) if p.level == NUM_DIGITS)
    problems = list({p.prompt: p for p in islice(drawn, 3 * size)}.values())[: 2 * size]
    problems.sort(key=lambda problem: write_columns(problem, Random(0)).count("+1="))
    files = {"seen": folder / "seen.jsonl", "unseen": folder / "unseen.jsonl"}
    for half, path in enumerate(files.values()):
        rows = ({"problem": p.prompt, "answer": p.answer} for p in problems[half::2])
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return files


def train(seen: Path, num_problems: int, steps: int, overrides: Sequence[str] = ()) -> Path:
    """Train on the seen half, every problem in every step; the folder of the trained model."""
    run(
        "main",
        "algo=grpo",
        "algo.loss.beta=0",  # nothing holds the model back from learning by heart
        *DATA,
        f"data.train={seen}",
        f"trainer.num_steps={steps}",
        f"trainer.prompts_per_step={num_problems}",
        f"trainer.mini_batch_prompts={num_problems // 2}",
        "optimizer.learning_rate=1e-3",  # quick, and what it learns it learns by heart
        "trainer.group_size=16",
        f"run.root={seen.parent}",
        "run.name=run",
        "logger=files",
        *overrides,
    )
    return seen.parent / "default" / "run" / "checkpoints" / f"step_{steps:06d}" / "hf"


def probe(output: Path, files: dict[str, Path], model: Path | None) -> dict[str, dict[str, Any]]:
    """The measures of both halves, compared with the unseen one.

    Args:
        model: None for the start model.
    """
    run(
        "evaluate",
        "probe=min_knn",
        *DATA,
        *(f"data.eval.{name}={path}" for name, path in files.items()),
        f"eval.num_samples={NUM_SAMPLES}",
        f"probe.neighbours={NEIGHBOURS}",
        "probe.reference=unseen",
        f"output={output}",
        *([f"model.path={model}"] if model else []),
    )
    return json.loads((output / REPORT_FILE).read_text())["sets"]


def run(command: str, *overrides: str) -> None:
    subprocess.run([sys.executable, "-m", f"archer.{command}", *overrides], check=True)


if __name__ == "__main__":
    main()
