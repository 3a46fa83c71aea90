"""What an embedded task is: problems from a distribution, and a teacher who is often wrong."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from archer.errors import ConfigError
from archer.runtime.cache import build_once

HELD_OUT_SHARE = 8
"""One problem in so many belongs to the held-out split."""
MAX_REPEATS = 10_000
"""Draws in a row that bring nothing new, after which a task counts as exhausted."""


@dataclass(frozen=True)
class Problem:
    prompt: str
    """The whole prompt; no template goes around it."""
    answer: str | dict[str, Any]
    """The ground truth, as the task's reward takes it."""
    level: int
    """Difficulty, for metrics by level."""

    @property
    def is_held_out(self) -> bool:
        """Whether the problem is kept for evaluation.

        Decided by the text alone, so that neither the training set nor the warm start, whatever
        their seeds and sizes, can hold a problem of the evaluation set.
        """
        return zlib.crc32(self.prompt.encode()) % HELD_OUT_SHARE == 0


@dataclass(frozen=True)
class Task:
    name: str
    alphabet: str
    """Every character that prompts and traces may contain."""
    max_response_tokens: int
    """Room for any trace, in characters plus EOS."""
    draw: Callable[[Random], Problem]
    """One problem of the task's distribution, of either split."""
    trace: Callable[[Problem, Random], str]
    """A worked answer to learn the format from; often wrong, to leave something to improve."""

    def problems(self, rng: Random, held_out: bool = False) -> Iterator[Problem]:
        """Endless problems of one split; they may repeat."""
        while True:
            problem = self.draw(rng)
            if problem.is_held_out == held_out:
                yield problem

    def cache_name(self, *parts: Any) -> str:
        """Name of a cached folder made from this task, as its source stands, and ``parts``.

        Args:
            parts: JSON-serialisable.
        """
        modules = (sys.modules[__name__], sys.modules[self.draw.__module__])
        content = json.dumps([self.name, *map(inspect.getsource, modules), *parts])
        return f"{self.name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"

    def write_dataset(self, folder: Path, train_size: int, eval_size: int, seed: int) -> Path:
        """Write ``train.jsonl`` and ``eval.jsonl``, rows ``{"id", "problem", "answer", "level"}``.

        No problem occurs twice, within a file or across the two. The same arguments give the same
        bytes. A folder that exists is returned as it is, so its name must identify sizes and seed.

        Raises:
            ConfigError: the task has fewer problems than that.
        """

        def write(temporary: Path) -> None:
            for split, size in (("train", train_size), ("eval", eval_size)):
                rng = Random(f"{self.name}/{split}/{seed}")
                problems = _distinct(self.problems(rng, held_out=split == "eval"))
                rows = [_row(*numbered) for numbered in enumerate(islice(problems, size))]
                if len(rows) < size:
                    expected = f"at most the {len(rows)} problems of {self.name} for it"
                    raise ConfigError(f"data.{split}_size", size, expected, "Lower it.")
                with open(temporary / f"{split}.jsonl", "w", encoding="utf-8") as file:
                    file.writelines(json.dumps(row) + "\n" for row in rows)

        return build_once(folder, write)


def _distinct(problems: Iterator[Problem]) -> Iterator[Problem]:
    """Each problem once, until ``MAX_REPEATS`` draws in a row bring none that is new."""
    seen, repeats = set(), 0
    while repeats < MAX_REPEATS:
        problem = next(problems)
        if problem.prompt in seen:
            repeats += 1
        else:
            seen.add(problem.prompt)
            repeats = 0
            yield problem


def _row(number: int, problem: Problem) -> dict[str, Any]:
    return {
        "id": str(number),
        "problem": problem.prompt,
        "answer": problem.answer,
        "level": problem.level,
    }
