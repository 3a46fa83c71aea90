"""Rehearsal: right answers of the start model, stored once and mixed into every batch.

Before the first step the start model samples some of the training prompts. Those that it always
solves have nothing to teach: they leave the training set, and one answer to each is stored with the
start model's log-probs in ``rehearsal.jsonl.gz``. Some of these answers, a new choice each step,
then stand beside the sampled responses, for an objective that keeps the policy near them
(arXiv 2509.07430). They join after rewards and advantages, so they enter no statistics.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import ray

from archer.batch import assemble, build_batch, mask_impossible
from archer.collector import SampleStream, sample_requests
from archer.config.keys import TrainConfig
from archer.console import Console
from archer.errors import CheckpointError
from archer.evaluation.sampling import sample_groups
from archer.metrics import write_atomically
from archer.runtime.actors import Actors
from archer.seeds import derive_seed
from archer.types import ROW_COLUMNS, Batch, Group, Prompt

FILE = "rehearsal.jsonl.gz"
"""In the run directory; one line a response."""


@dataclass(frozen=True)
class Rehearsal:
    """Stored responses, each to a prompt of its own."""

    prompt_ids: tuple[str, ...]
    """Without the epoch."""
    responses: Batch

    def mix(self, batch: Batch, count: int, seed: int) -> Batch:
        """The batch, followed by ``count`` responses of a seeded choice, or by all there are."""
        order = np.random.default_rng(seed).permutation(len(self.responses))
        return _append(batch, self.responses.select(order[:count]))


def choose_prompts(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """The prompts that the start model samples: a seeded choice, or all there are."""
    rng = np.random.default_rng(derive_seed(seed, "rehearsal prompts"))
    return [prompts[i] for i in rng.permutation(len(prompts))[:count]]


def sample_solved(
    stream: SampleStream,
    prompts: Sequence[Prompt],
    config: TrainConfig,
    advance: Callable[[], None],
) -> list[Group]:
    """One right response to each prompt whose responses are all right."""
    assert config.algo.rehearsal is not None, "checked with the config"
    asked = [
        (
            prompt,
            sample_requests(
                prompt,
                config.algo.rehearsal.samples,
                lambda i, prompt=prompt: derive_seed(config.seed, "rehearsal", prompt.id, i),
                temperature=config.sampling.temperature,
                top_p=1.0,
                max_tokens=config.sampling.max_response_tokens,
            ),
        )
        for prompt in prompts
    ]
    return [
        Group(group.prompt, group.samples[:1])
        for group in sample_groups(stream, asked, advance)
        if all(s.result.is_valid and s.result.correct for s in group.samples)
    ]


def store_solved(
    prompts: Sequence[Prompt],
    config: TrainConfig,
    stream: SampleStream,
    actors: Actors,
    console: Console,
) -> int:
    """Sample, and write what is always solved with the log-probs of the start model.

    The policy must still be the start model. Returns how many responses were stored.
    """
    assert config.algo.rehearsal is not None, "checked with the config"
    chosen = choose_prompts(prompts, config.algo.rehearsal.prompts, config.seed)
    with console.progress("sampling for rehearsal", len(chosen)) as advance:
        groups = sample_solved(stream, chosen, config, advance)
    batch = build_batch(groups, config.algo, config.sampling.max_response_tokens)
    with actors.turns.saving():  # on shared GPUs engines make room for the policy
        parts = actors.policy.call("compute_logprobs", ray.put(batch))
    batch = batch.with_columns(ref_logprobs=assemble(batch, parts, "logprobs"))
    write(config.run_dir, [group.prompt.id for group in groups], batch)
    console.note(
        f"rehearsal: the start model always solves {len(groups)} of {len(chosen)} prompts; "
        "they leave the training set"
    )
    if not groups:
        console.note(
            "The run goes on without rehearsal. For more such prompts raise "
            "algo.rehearsal.prompts or lower algo.rehearsal.samples."
        )
    return len(groups)


def write(run_dir: Path, prompt_ids: Sequence[str], batch: Batch) -> None:
    """The file, whole or not at all."""
    assert batch.ref_logprobs is not None
    lines = []
    for i, prompt_id in enumerate(prompt_ids):
        prompt = slice(*batch.prompt_offsets[i : i + 2])
        response = slice(*batch.offsets[i : i + 2])
        row = {
            "prompt_id": prompt_id,
            "prompt_tokens": batch.prompt_tokens[prompt].tolist(),
            "response_tokens": batch.response_tokens[response].tolist(),
            "rollout_logprobs": batch.rollout_logprobs[response].tolist(),
            "ref_logprobs": batch.ref_logprobs[response].tolist(),
        }
        lines.append(json.dumps(row) + "\n")
    write_atomically(run_dir / FILE, gzip.compress("".join(lines).encode(), mtime=0))


def read(run_dir: Path, step: int) -> Rehearsal | None:
    """What the run stored; None before it did.

    Args:
        step: steps that the run has done. After the first the file cannot be made anew.

    Raises:
        CheckpointError: the file is damaged, or a run that is under way has lost it.
    """
    path = run_dir / FILE
    if not path.exists() and step == 0:
        return None
    try:
        content = path.read_bytes()
        if not content:
            raise EOFError("it is empty")  # gzip takes that for an archive of nothing
        rows = [json.loads(line) for line in gzip.decompress(content).splitlines()]
        return Rehearsal(tuple(row["prompt_id"] for row in rows), _batch(rows))
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        mend = "Delete it: the start model samples it again."
        if step:
            mend = "Copy it from a backup, or start a new run under another run.name."
        expected = f"the stored responses as they were written ({error or type(error).__name__})"
        raise CheckpointError("algo.rehearsal", str(path), expected, mend) from error


def _batch(rows: Sequence[dict[str, Any]]) -> Batch:
    def flat(name: str, dtype: type) -> np.ndarray:
        return np.array([value for row in rows for value in row[name]], dtype=dtype)

    def offsets(name: str) -> np.ndarray:
        return np.cumsum([0, *(len(row[name]) for row in rows)], dtype=np.int64)

    count = len(rows)
    tokens = flat("response_tokens", np.int32)
    batch = Batch(
        prompt_tokens=flat("prompt_tokens", np.int32),
        prompt_offsets=offsets("prompt_tokens"),
        response_tokens=tokens,
        offsets=offsets("response_tokens"),
        rollout_logprobs=flat("rollout_logprobs", np.float32),
        advantages=np.zeros(len(tokens), np.float32),
        mask=np.ones(len(tokens), bool),
        group_ids=np.arange(count),
        rewards=np.full(count, np.nan),
        correct=np.ones(count, bool),
        is_stored=np.ones(count, bool),
        ref_logprobs=flat("ref_logprobs", np.float32),
    )
    return mask_impossible(batch)


def _append(sampled: Batch, stored: Batch) -> Batch:
    """Stored responses after sampled ones, as groups of their own.

    A column that only one side has is 0 on the other, where nothing may read it; corrections are 1.
    """
    first = sampled.group_ids.max(initial=-1) + 1
    stored = stored.with_columns(group_ids=first + np.arange(len(stored)))
    columns: dict[str, Any] = {}
    for name in (f.name for f in fields(Batch) if f.name != "prepared"):
        parts = [getattr(side, name) for side in (sampled, stored)]
        given = next((part for part in parts if part is not None), None)
        if given is None:
            continue
        if name in ("offsets", "prompt_offsets"):
            columns[name] = np.concatenate([parts[0], parts[0][-1] + parts[1][1:]])
            continue
        blank = 1 if name == "corrections" else 0
        for i, side in enumerate((sampled, stored)):
            if parts[i] is None:
                size = len(side) if name in ROW_COLUMNS else len(side.response_tokens)
                parts[i] = np.full(size, blank, given.dtype)
        columns[name] = np.concatenate(parts)
    return Batch(**columns)
