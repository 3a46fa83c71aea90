"""Reads run directories for a comparison: which runs are one algorithm, and what each got right."""

from __future__ import annotations

import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from archer.errors import ConfigError
from archer.evaluation.statistics import avg_at_k, avg_per_problem, pass_per_problem
from archer.metrics import METRICS_FILE, ROLLOUTS_FOLDER, read_metrics, read_rollouts
from archer.report import Lines, eval_keys
from archer.runtime.run_directory import CONFIG_FILE, MAY_CHANGE

ENVIRONMENT_FILE = "environment.json"
NEEDED_KEYS = ("seed", "algo.name", "model.name", "data.name")
NEEDED_KEYS += ("trainer.num_steps", "trainer.group_size")
"""Keys of a config that a comparison cannot do without."""
VERDICTS = ("ok", "no_answer")
"""Statuses of a sample that are a verdict; with any other the verifier failed."""


@dataclass(frozen=True)
class Run:
    """One run directory."""

    path: Path
    config: Mapping[str, Any]
    """Dotted keys."""
    lines: Lines
    versions: Mapping[str, str]
    host: str
    commit: str
    """Of archer's checkout, with ``-dirty`` where it was changed; empty if not known."""

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def last_step(self) -> int:
        return int(self.lines[-1]["step"])

    @property
    def num_steps(self) -> int:
        return self.config["trainer.num_steps"]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The config less what runs of one algorithm may differ in: seed, name, length, speed."""
        return {
            key: value
            for key, value in self.config.items()
            if key != "seed" and not any(fnmatch(key, pattern) for pattern in MAY_CHANGE)
        }

    def column(self, key: str) -> np.ndarray:
        """A metric at the steps that have it."""
        return np.array([line[key] for line in self.lines if key in line])


@dataclass(frozen=True)
class Algorithm:
    """Runs whose settings are equal, in the order of their seeds."""

    label: str
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]


@dataclass(frozen=True)
class Measure:
    """``avg@n`` or ``pass@k``."""

    name: str
    kind: str
    k: int

    def scores(self, verdicts: np.ndarray) -> np.ndarray:
        """Verdicts float [S, P, n] -> scores float [S, P], NaN where a problem has none."""
        if self.kind == "avg":
            return np.array([avg_per_problem(correct) for correct in verdicts])
        return np.array([pass_per_problem(correct, self.k) for correct in verdicts])

    def step(self, num_samples: int) -> float:
        """What the first right one of a problem's samples adds to its score."""
        return (1 if self.kind == "avg" else self.k) / num_samples


@dataclass(frozen=True)
class HeldOut:
    """The verdicts of all runs on one held-out set at one step."""

    name: str
    step: int
    measures: tuple[Measure, ...]
    verdicts: Mapping[Path, Mapping[str, np.ndarray]]
    """Run -> problem -> float [n]: 1 right, 0 wrong, NaN where the verifier failed."""

    def num_problems(self, runs: Iterable[Run]) -> int:
        """Problems that any of the runs was asked."""
        return len(set().union(*(self.verdicts[run.path] for run in runs)))

    def shared(self, algorithms: Sequence[Algorithm]) -> list[np.ndarray]:
        """Verdicts float [S, P, n] of each algorithm, on the problems all of their runs share."""
        answers = [self.verdicts[run.path] for a in algorithms for run in a.runs]
        problems = [p for p in answers[0] if all(p in others for others in answers)]
        return [
            np.array([[self.verdicts[run.path][p] for p in problems] for run in a.runs])
            for a in algorithms
        ]


def find_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs at or below the paths, each once; those without a logged step have no lines.

    Raises:
        ConfigError: a path holds no run.
    """
    folders: dict[Path, None] = {}
    for path in paths:
        found = sorted(
            file.parent.resolve()
            for file in path.rglob(CONFIG_FILE)
            if (file.parent / METRICS_FILE).is_file()
        )
        if not found:
            raise ConfigError(
                "RUN",
                str(path),
                f"a run directory ({CONFIG_FILE} and {METRICS_FILE}), or a folder of some",
                "Give the folder that run.root and run.experiment name, e.g. runs/default.",
            )
        folders |= dict.fromkeys(found)
    return [_read_run(folder) for folder in folders]


def group_runs(runs: Sequence[Run]) -> list[Algorithm]:
    """One algorithm for all runs of equal settings, each with a label of its own.

    The label is the name the user gave to the runs (``run.name``, less the seed), otherwise
    ``algo.name`` and what sets its variants apart where there are several.
    """
    by_settings: dict[str, list[Run]] = {}
    for run in runs:
        by_settings.setdefault(json.dumps(run.settings, sort_keys=True, default=str), []).append(
            run
        )
    groups = list(by_settings.values())
    algorithms = [
        Algorithm(label, tuple(sorted(group, key=lambda run: (run.seed, run.path))))
        for label, group in zip(_labels(groups), groups, strict=True)
    ]
    return sorted(algorithms, key=lambda algorithm: algorithm.label)


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """A label for each group, no two alike."""
    labels = [_name_given(group) for group in groups]
    described = {i for i, label in enumerate(labels) if not label}
    while True:
        order = sorted(described)
        for i, label in zip(order, _described([groups[i] for i in order]), strict=True):
            labels[i] = label
        clashing = [i for i, label in enumerate(labels) if labels.count(label) > 1]
        if described.issuperset(clashing):
            break
        described.update(clashing)
    for n, i in enumerate(clashing, start=1):  # settings that differ and read the same: 1 and "1"
        labels[i] += f" ({n})"
    assert len({*labels}) == len(labels)
    return labels


def _described(groups: Sequence[Sequence[Run]]) -> list[str]:
    """``algo.name`` of each group and the settings that set it apart from others of that name."""
    settings = [group[0].settings for group in groups]
    names = [short_path(of_group["algo.name"]) for of_group in settings]
    labels = []
    for name, of_group in zip(names, settings, strict=True):
        variants = [s for s, other in zip(settings, names, strict=True) if other == name]
        keys = differing_keys(variants)
        words = [f"{_short(key, keys)}={of_group.get(key)}" for key in keys]
        labels.append(" ".join([name, *words]))
    return labels


def short_path(name: str) -> str:
    """The last two parts of a dotted path."""
    return ".".join(name.split(".")[-2:])


def _name_given(group: Sequence[Run]) -> str:
    """``run.name`` without the seed at its end; empty where archer chose it or names differ.

    A number alone is taken for the seed only if without it the names of several seeds agree: a
    name such as ``lr1e-1`` may end in its seed by chance.
    """
    for seed in (r"[-_ ]seed[-_]?{}$", r"[-_ ]{}$"):
        stems = {
            re.sub(seed.format(run.seed), "", run.config.get("run.name") or "") for run in group
        }
        if len(stems) == 1:
            return stems.pop()
    return ""


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that have not the same value in all configs."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if any(c.get(key) != configs[0].get(key) for c in configs)]


def read_held_out(runs: Sequence[Run], warnings: list[str]) -> list[HeldOut]:
    """The held-out sets that all runs know, each at the last step at which all were evaluated.

    Appends to ``warnings`` what is left out, and why.
    """
    evaluated = [_evaluations(run) for run in runs]
    found = []
    for name in sorted(set().union(*evaluated)):
        steps = set.intersection(*(sets.get(name, set()) for sets in evaluated))
        if not steps:
            warnings.append(f"{name} is not compared: the runs have no evaluation in common.")
            continue
        step = max(steps)
        later = [
            f"{run.path.name} at {max(sets[name])}"
            for run, sets in zip(runs, evaluated, strict=True)
            if max(sets[name]) > step
        ]
        if later:
            warnings.append(
                f"{name} is compared at step {step}, the last that all runs evaluated; "
                f"later evaluations are not used: {_some(later)}."
            )
        verdicts = {run.path: _read_verdicts(run, name, step) for run in runs}
        torn = [run.path.name for run in runs if not _is_whole(run, name, step, verdicts[run.path])]
        measures = [_measures(run, name, step) for run in runs]
        shared = tuple(m for m in measures[0] if all(m in others for others in measures))
        if torn:
            warnings.append(
                f"{name} is not compared: not every verdict of step {step} was kept by "
                f"{_some(torn)}. Train with logger.rollouts_per_step=null."
            )
        elif not any(measure.kind == "avg" for measure in shared):
            warnings.append(f"{name} is not compared: eval.num_samples differs between the runs.")
        else:
            found.append(HeldOut(name, step, shared, verdicts))
    return found


def _read_run(folder: Path) -> Run:
    config = _read_config(folder / CONFIG_FILE)
    facts = _read_facts(folder / ENVIRONMENT_FILE)
    return Run(
        path=folder,
        config=config,
        lines=read_metrics(folder),
        versions=facts.get("versions", {}),
        host=facts.get("host", ""),
        commit=facts.get("commit", ""),
    )


def _read_config(file: Path) -> dict[str, Any]:
    try:
        config = dict(_flat(yaml.safe_load(file.read_text(encoding="utf-8"))))
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
        raise _unreadable(file, "a readable config", error) from error
    missing = [key for key in NEEDED_KEYS if key not in config]
    if missing:
        raise _unreadable(file, "the config of a run", f"It has no {', '.join(missing)}")
    return config


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and leaf values of nested settings."""
    pairs = []
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((prefix + name, value))
    return pairs


def _read_facts(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except ValueError as error:
        raise _unreadable(file, "readable JSON", error) from error


def _unreadable(file: Path, expected: str, reason: object) -> ConfigError:
    said = " ".join(str(reason).split())
    return ConfigError("RUN", str(file), expected, f"{said}. Mend the file, or leave the run out.")


def _short(key: str, keys: Sequence[str]) -> str:
    """The last part of a key, if no other one ends in it."""
    last = key.rpartition(".")[2]
    return last if sum(k.rpartition(".")[2] == last for k in keys) == 1 else key


def _some(names: Sequence[str], limit: int = 3) -> str:
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def _evaluations(run: Run) -> dict[str, set[int]]:
    """Held-out set -> steps at which it was evaluated."""
    steps: dict[str, set[int]] = {}
    for key, match in eval_keys(run.lines).items():
        logged = {int(line["step"]) for line in run.lines if key in line}
        steps.setdefault(match["set"], set()).update(logged)
    return steps


def _measures(run: Run, name: str, step: int) -> dict[Measure, float]:
    """What one evaluation logged, avg@n first."""
    line = next(line for line in run.lines if line["step"] == step)
    return {
        Measure(match["measure"], match["kind"], int(match["k"])): line[key]
        for key, match in eval_keys([line]).items()
        if match["set"] == name and match["measure"] != "pass@1"  # is avg@n once more
    }


def _read_verdicts(run: Run, name: str, step: int) -> dict[str, np.ndarray]:
    """Problem -> float [n]. A problem is its id and its text: an id counts rows of a file."""
    path = run.path / ROLLOUTS_FOLDER / f"eval_{name}_{step:06d}.jsonl.gz"
    found: dict[str, list[float]] = {}
    try:
        for row in read_rollouts(path) if path.exists() else ():
            verdict = float(row["correct"]) if row["status"] in VERDICTS else math.nan
            found.setdefault(f"{row['prompt_id']} {row['prompt']}", []).append(verdict)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise _unreadable(path, "a whole file of verdicts", error) from error
    return {problem: np.array(verdicts) for problem, verdicts in found.items()}


def _is_whole(run: Run, name: str, step: int, verdicts: Mapping[str, np.ndarray]) -> bool:
    """Whether the verdicts are those from which the run made its averages."""
    averages = {m.k: value for m, value in _measures(run, name, step).items() if m.kind == "avg"}
    sizes = {len(of_problem) for of_problem in verdicts.values()}
    if sizes != set(averages):
        return False
    average = avg_at_k(np.array(list(verdicts.values())))
    return math.isclose(average, averages[sizes.pop()], abs_tol=1e-9)
