"""Verdicts on the samples of a held-out set, and what is counted of them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from archer.evaluation.statistics import (
    avg_at_k,
    avg_per_problem,
    bootstrap_interval,
    majority_per_problem,
    pass_at_k,
)
from archer.types import Group, Prompt, Sample

PROMPT_CHARS = 200
"""Of a prompt in ``problems_<set>.jsonl``."""


@dataclass(frozen=True)
class Verdict:
    """What the numbers of an evaluation need of one sample."""

    correct: float
    """1 right, 0 wrong, NaN where the verifier failed."""
    status: str
    answer: str | None
    num_tokens: int
    is_truncated: bool

    @classmethod
    def of(cls, sample: Sample) -> Verdict:
        result, completion = sample.result, sample.completion
        return cls(
            correct=float(result.correct) if result.is_valid else math.nan,
            status=result.status,
            answer=result.answer,
            num_tokens=len(completion.tokens),
            is_truncated=completion.finish_reason == "length",
        )

    @classmethod
    def of_row(cls, row: Mapping[str, Any]) -> Verdict:
        """Of a sample as ``rollout_row`` wrote it, which has null for the reward of a failure."""
        return cls(
            correct=math.nan if row["reward"] is None else float(row["correct"]),
            status=row["status"],
            answer=row["answer"],
            num_tokens=row["num_tokens"],
            is_truncated=row["finish_reason"] == "length",
        )


Problems = Sequence[Sequence[Verdict]]
"""The verdicts of a set, problem by problem, as many on each."""


def verdicts(groups: Sequence[Group]) -> list[list[Verdict]]:
    """The verdicts on the samples of each group."""
    return [[Verdict.of(sample) for sample in group.samples] for group in groups]


def verdict_matrix(problems: Problems) -> np.ndarray:
    """float [P, n]: 1 right, 0 wrong, NaN where the verifier failed."""
    return np.array([[verdict.correct for verdict in problem] for problem in problems])


@dataclass(frozen=True)
class SampleStats:
    """Of the samples of a set, whatever their problems."""

    response_tokens_mean: float
    truncated_frac: float
    failure_frac: float
    """Samples without a verdict."""
    status_frac: dict[str, float]

    @classmethod
    def of(cls, problems: Problems) -> SampleStats:
        samples = [verdict for problem in problems for verdict in problem]
        statuses = sorted(Counter(v.status for v in samples).items())
        return cls(
            response_tokens_mean=float(np.mean([v.num_tokens for v in samples])),
            truncated_frac=float(np.mean([v.is_truncated for v in samples])),
            failure_frac=float(np.mean([math.isnan(v.correct) for v in samples])),
            status_frac={status: count / len(samples) for status, count in statuses},
        )

    def metrics(self) -> dict[str, float]:
        return {
            "response_tokens_mean": self.response_tokens_mean,
            "truncated_frac": self.truncated_frac,
            "failure_frac": self.failure_frac,
            **{f"status/{status}": share for status, share in self.status_frac.items()},
        }


def eval_metrics(problems: Problems) -> dict[str, float]:
    """What a training run logs: ``avg@n`` with its interval, ``pass@k``, lengths, statuses."""
    correct = verdict_matrix(problems)
    n = correct.shape[1]
    low, high = bootstrap_interval(avg_per_problem(correct))
    return {
        f"avg@{n}": avg_at_k(correct),
        f"avg@{n}_lo": low,
        f"avg@{n}_hi": high,
        **{f"pass@{k}": pass_at_k(correct, k) for k in pass_sizes(n)},
        **SampleStats.of(problems).metrics(),
    }


def pass_sizes(num_samples: int) -> list[int]:
    """The k of pass@k that are shown: 1, 2, 4 … and n itself."""
    return sorted({2**i for i in range(num_samples.bit_length())} | {num_samples})


def problem_row(name: str, prompt: Prompt, problem: Sequence[Verdict]) -> dict[str, Any]:
    """A line of ``problems_<set>.jsonl``.

    The id is that of the data's ``extra_info``, else the number of the row. Null stands for the
    majority where there are no answers, or no verdicts.
    """
    answers = [verdict.answer for verdict in problem]
    (majority,) = majority_per_problem(verdict_matrix([problem]), [answers])
    has_majority = any(answer is not None for answer in answers) and not math.isnan(majority)
    return {
        "id": prompt.extra.get("id", int(prompt.id.removeprefix(f"{name}-"))),
        "source": prompt.source,
        "num_samples": len(problem),
        "num_correct": sum(verdict.correct == 1 for verdict in problem),
        "num_valid": sum(not math.isnan(verdict.correct) for verdict in problem),
        "response_tokens_mean": sum(verdict.num_tokens for verdict in problem) / len(problem),
        "truncated": sum(verdict.is_truncated for verdict in problem),
        "majority_correct": float(majority) if has_majority else None,
        "prompt": prompt.text[:PROMPT_CHARS],
    }
