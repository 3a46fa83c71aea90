"""avg@k and pass@k on held-out prompts, for the trainer and for ``python -m archer.evaluate``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from archer.collector import OpenGroup, SampleStream, sample_requests
from archer.config.keys import EvalConfig
from archer.evaluation.statistics import avg_at_k, avg_per_problem, bootstrap_interval, pass_at_k
from archer.seeds import derive_seed
from archer.types import Group, Prompt


@dataclass(frozen=True)
class Evaluation:
    """Verdicts of one held-out set."""

    groups: tuple[Group, ...]
    metrics: dict[str, float]


def evaluate(
    stream: SampleStream,
    name: str,
    prompts: Sequence[Prompt],
    config: EvalConfig,
    max_tokens: int,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Sample every prompt ``num_samples`` times and judge the responses.

    The seeds depend on the run seed, the prompt and the sample index only, so evaluations before
    and after training draw the same random numbers.
    """
    groups = sample_groups(
        stream,
        prompts,
        config.num_samples,
        lambda prompt, index: derive_seed(seed, "eval", prompt.id, index),
        advance,
        temperature=config.temperature,
        top_p=config.top_p,
        max_tokens=max_tokens,
    )
    return Evaluation(groups, eval_metrics(name, groups))


def sample_groups(
    stream: SampleStream,
    prompts: Sequence[Prompt],
    count: int,
    seed: Callable[[Prompt, int], int],
    advance: Callable[[], None],
    **sampling: Any,
) -> tuple[Group, ...]:
    """``count`` judged responses to each prompt, in prompt order.

    Args:
        seed: of a response, given its prompt and its index.
        advance: called after each prompt.
        sampling: temperature, top_p and max_tokens.
    """
    opened = {prompt.id: OpenGroup(prompt, count) for prompt in prompts}
    for prompt in prompts:
        requests = sample_requests(
            prompt, count, lambda index, prompt=prompt: seed(prompt, index), **sampling
        )
        stream.ask(prompt, requests)
    missing = len(prompts) * count
    while missing:
        for sample in stream.wait():
            group = opened[sample.prompt.id]
            group.add(sample)
            missing -= 1
            if group.is_complete:
                advance()
    return tuple(opened[prompt.id].close() for prompt in prompts)


def eval_metrics(name: str, groups: Sequence[Group]) -> dict[str, float]:
    """``eval/<name>/avg@n`` with a 95 % bootstrap interval over problems, and ``pass@k``."""
    correct = verdicts(groups)
    n = correct.shape[1]
    low, high = bootstrap_interval(avg_per_problem(correct))
    prefix = f"eval/{name}"
    metrics = {
        f"{prefix}/avg@{n}": avg_at_k(correct),
        f"{prefix}/avg@{n}_lo": low,
        f"{prefix}/avg@{n}_hi": high,
    }
    for k in pass_sizes(n):
        metrics[f"{prefix}/pass@{k}"] = pass_at_k(correct, k)
    samples = [s for g in groups for s in g.samples]
    metrics[f"{prefix}/response_tokens_mean"] = float(
        np.mean([len(s.completion.tokens) for s in samples])
    )
    metrics[f"{prefix}/truncated_frac"] = float(
        np.mean([s.completion.finish_reason == "length" for s in samples])
    )
    metrics[f"{prefix}/failure_frac"] = float(np.mean([not s.result.is_valid for s in samples]))
    for status, count in sorted(Counter(s.result.status for s in samples).items()):
        metrics[f"{prefix}/status/{status}"] = count / len(samples)
    return metrics


def verdicts(groups: Sequence[Group]) -> np.ndarray:
    """float [P, n]: 1 right, 0 wrong, NaN where the verifier failed."""
    return np.array(
        [
            [float(s.result.correct) if s.result.is_valid else math.nan for s in g.samples]
            for g in groups
        ]
    )


def pass_sizes(num_samples: int) -> list[int]:
    """The k of pass@k: 1, 2, 4 … and n itself."""
    return sorted({2**i for i in range(num_samples.bit_length())} | {num_samples})
