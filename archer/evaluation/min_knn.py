"""Was a set of problems in the RL training of a model? The Min-kNN distance (arXiv 2602.11792).

RL makes the responses to a prompt alike, most of all to those it trained on. The score of a problem
is small where many of its responses have a near twin::

    nearest(i) = min over j != i of  edits(tokens of i, tokens of j) / length of the longer
    score      = mean of the `neighbours` smallest nearest(i)

It also falls with accuracy, whatever the training, so that a score alone says little: sets are
compared with a reference that the model cannot have trained on, and once more among problems that
are solved equally often. See docs/probe.md.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist
from rich.table import Table

from archer.console import Console
from archer.errors import ConfigError
from archer.evaluation.config import EvaluateConfig, ProbeConfig
from archer.evaluation.results import Score, or_null
from archer.evaluation.statistics import (
    bootstrap_interval,
    mean_over_problems,
    ranking_interval,
)
from archer.metrics import read_rollouts, write_atomically
from archer.models.folder import tokenizer_folder
from archer.models.tokenizer import Tokenizer, load_tokenizer
from archer.runtime.run_directory import check_writable
from archer.runtime.stopping import StopSignals
from archer.warm_start import start_model

REPORT_FILE = "probe_min_knn.json"
MATCHED = 1 / 16
"""Problems whose shares of right responses differ by at most this count as equally hard."""


@dataclass(frozen=True)
class Problem:
    """The responses to one problem."""

    id: str
    responses: tuple[str, ...]
    verdicts: tuple[bool, ...]
    """Of the responses that could be judged."""

    @property
    def accuracy(self) -> float:
        """Share of right responses; NaN where none could be judged."""
        return sum(self.verdicts) / len(self.verdicts) if self.verdicts else math.nan


@dataclass(frozen=True)
class ProblemScore:
    """The Min-kNN distance of one problem."""

    id: str
    distance: float
    """Between 0, where twins are identical, and 1."""
    accuracy: float
    num_responses: int
    num_cut: int
    """Responses longer than what was compared of them."""

    def record(self) -> dict[str, Any]:
        """The problem's entry in the report."""
        return asdict(self) | {"accuracy": or_null(self.accuracy)}


@dataclass(frozen=True)
class SetMeasures:
    """What the probe says of a set, with 95 % intervals over its problems."""

    num_problems: int
    distance: Score
    accuracy: float
    """Mean over problems; NaN where no response could be judged."""
    cut_frac: float
    """Share of responses longer than what was compared of them."""
    auc: Score | None = None
    """Chance that a problem of the set has a smaller distance than one of the reference, above one
    half if the set looks trained on; None for the reference itself."""
    matched_auc: Score | None = None
    """The same over pairs of problems that are solved equally often; NaN if there are none."""
    matched_pairs: int | None = None

    def record(self) -> dict[str, Any]:
        """The set's entry in the report; null where there is no number."""
        record: dict[str, Any] = {
            "num_problems": self.num_problems,
            "accuracy": or_null(self.accuracy),
            "cut_frac": self.cut_frac,
        }
        scores = {"distance": self.distance, "auc": self.auc, "matched_auc": self.matched_auc}
        for name, score in scores.items():
            if score is not None:
                values = {name: score.value, f"{name}_lo": score.low, f"{name}_hi": score.high}
                record |= {key: or_null(value) for key, value in values.items()}
        if self.matched_pairs is not None:
            record["matched_pairs"] = self.matched_pairs
        return record


def min_knn_distance(responses: Sequence[Sequence[int]], neighbours: int) -> float:
    """Mean of the ``neighbours`` smallest distances of a response to the one nearest to it.

    Args:
        responses: tokens of at least two responses.
        neighbours: at most the number of responses.
    """
    distances = cdist(
        responses, responses, scorer=Levenshtein.normalized_distance, dtype=np.float32, workers=-1
    )
    np.fill_diagonal(distances, np.inf)
    nearest = np.sort(distances.min(axis=1))
    return float(nearest[:neighbours].mean())


def read_problems(path: Path, key: str) -> list[Problem]:
    """Group a file of samples, as evaluations and runs write them, by problem.

    Args:
        key: config key that named the file; errors are about it.

    Raises:
        ConfigError: the file is missing, damaged or of another kind.
    """
    rows: dict[str, list[Mapping[str, Any]]] = {}
    expected = "a samples_*.jsonl.gz of archer.evaluate, or rollouts of a run"
    try:
        for row in read_rollouts(path):
            rows.setdefault(row["prompt_id"], []).append(row)
        problems = [
            Problem(
                name,
                tuple(row["response"] for row in found),
                # A reward of null is a verifier that failed.
                tuple(row["correct"] for row in found if row["reward"] is not None),
            )
            for name, found in rows.items()
        ]
    except (OSError, EOFError, ValueError) as error:
        num_read = sum(map(len, rows.values()))
        mend = f"It cannot be read after row {num_read}: {error}. Check the path, or sample again."
        raise ConfigError(key, str(path), expected, mend) from error
    except KeyError as error:
        mend = f"Its rows have no {error}. Name a file with prompt_id, response, reward, correct."
        raise ConfigError(key, str(path), expected, mend) from error
    if not problems:
        raise ConfigError(key, str(path), expected, "It holds no samples. Sample again.")
    return problems


def score_problems(
    name: str,
    problems: Sequence[Problem],
    tokenizer: Tokenizer,
    config: ProbeConfig,
    advance: Callable[[], None],
) -> list[ProblemScore]:
    """The distance of every problem.

    Raises:
        ConfigError: a problem has fewer responses than ``probe.neighbours``.
    """
    scores = []
    for problem in problems:
        _check_enough(config, len(problem.responses), f"{problem.id} of {name}")
        tokens = tokenizer.encode(problem.responses, add_special_tokens=False)
        compared = [response[: config.max_tokens].tolist() for response in tokens]
        num_cut = sum(len(whole) > len(part) for whole, part in zip(tokens, compared, strict=True))
        distance = min_knn_distance(compared, config.neighbours)
        scores.append(ProblemScore(problem.id, distance, problem.accuracy, len(tokens), num_cut))
        advance()
    return scores


def measure_set(
    found: Sequence[ProblemScore], reference: Sequence[ProblemScore] | None = None
) -> SetMeasures:
    """Measures of a set, compared with the reference if there is one."""
    distances = np.array([problem.distance for problem in found])
    accuracies = np.array([problem.accuracy for problem in found])
    measures = SetMeasures(
        num_problems=len(found),
        distance=Score(float(distances.mean()), *bootstrap_interval(distances)),
        accuracy=mean_over_problems(accuracies),
        cut_frac=sum(p.num_cut for p in found) / sum(p.num_responses for p in found),
    )
    if reference is None:
        return measures
    others = np.array([problem.distance for problem in reference])
    gaps = np.subtract.outer(accuracies, np.array([problem.accuracy for problem in reference]))
    is_matched = np.abs(gaps) <= MATCHED
    return replace(
        measures,
        auc=Score(*ranking_interval(distances, others, np.ones_like(is_matched))),
        matched_auc=Score(*ranking_interval(distances, others, is_matched)),
        matched_pairs=int(is_matched.sum()),
    )


def run_probe(config: EvaluateConfig) -> Table:
    """Score the samples of every set, write the report, and return its table.

    Raises:
        ConfigError: a file of samples is unusable or holds too few.
    """
    probe, files = config.probe, {name: Path(p) for name, p in config.probe.samples.items()}
    if not files:
        files = {name: config.output_dir / f"samples_{name}.jsonl.gz" for name in config.protocols}
    check_writable("output", str(config.output_dir), config.output_dir)
    scores = {}
    with StopSignals(), Console(0, 0) as console:
        path = start_model(config.model, Path(config.run.cache), console) or config.model.path
        tokenizer = load_tokenizer(tokenizer_folder(str(path)))
        for name, file in files.items():
            problems = read_problems(file, f"probe.samples.{name}")
            with console.progress(f"comparing responses to {name}", len(problems)) as advance:
                scores[name] = score_problems(name, problems, tokenizer, probe, advance)
    reference = scores[probe.reference] if probe.reference else None
    measures = {
        name: measure_set(found, None if name == probe.reference else reference)
        for name, found in scores.items()
    }
    record = {
        "model": str(path),
        "probe": probe.model_dump(mode="json"),
        "sets": {
            name: measures[name].record() | {"problems": [score.record() for score in found]}
            for name, found in scores.items()
        },
    }
    text = json.dumps(record, indent=1, allow_nan=False)
    config.output_dir.mkdir(parents=True, exist_ok=True)
    write_atomically(config.output_dir / REPORT_FILE, text.encode())
    return probe_table(measures)


def check_probe(config: EvaluateConfig) -> None:
    """What can be wrong with a probe, found before anything is sampled.

    Raises:
        ConfigError: the reference is none of the sets, or too few samples are asked for.
    """
    probe, sets = config.probe, list(config.probe.samples or config.protocols)
    if probe.reference is not None and probe.reference not in sets:
        raise ConfigError(
            "probe.reference",
            probe.reference,
            f"one of the sets {', '.join(sets)}",
            "Name a set that the model cannot have been trained on, and evaluate it too.",
        )
    if probe.name is not None and not probe.samples:
        for name, protocol in config.protocols.items():
            _check_enough(probe, protocol.num_samples, f"problems of {name}")


def _check_enough(config: ProbeConfig, num_responses: int, where: str) -> None:
    if num_responses < max(config.neighbours, 2):
        raise ConfigError(
            "probe.neighbours",
            config.neighbours,
            f"at most the {num_responses} responses to {where}, of which there must be two",
            "Lower it, or sample more responses with eval.num_samples.",
        )


def probe_table(measures: Mapping[str, SetMeasures]) -> Table:
    """Sets down; 95 % intervals in brackets."""
    table = Table("", "problems", "accuracy", "Min-kNN distance", "AUC", "AUC, matched", box=None)
    for name, found in measures.items():
        accuracy = "-" if math.isnan(found.accuracy) else f"{found.accuracy:.3f}"
        scores = map(_cell, (found.distance, found.auc, found.matched_auc))
        table.add_row(name, str(found.num_problems), accuracy, *scores)
    return table


def _cell(score: Score | None) -> str:
    if score is None or math.isnan(score.value):
        return "-"
    return rf"{score.value:.3f} \[{score.low:.3f}, {score.high:.3f}]"
