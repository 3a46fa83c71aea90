"""Requests to one rollout engine, past the pool."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from probes import VOCAB_SIZE
from ray.actor import ActorHandle

from archer.types import Completion, SampleRequest

DEADLINE_S = 60.0


def request(index: int, num_prompt_tokens: int = 10, **changes: Any) -> SampleRequest:
    """Request number ``index``, which has its own prompt and seed."""
    rng = np.random.default_rng(index)
    tokens = rng.integers(4, VOCAB_SIZE, num_prompt_tokens, dtype=np.int32)
    settings = {"seed": index, "temperature": 1.0, "top_p": 1.0, "max_tokens": 24} | changes
    return SampleRequest(f"{index}", tokens, **settings)


def run_alone(actor: ActorHandle, requests: Sequence[SampleRequest]) -> dict[str, Completion]:
    """Completions of requests given to one engine at once."""
    ray.get(actor.submit.remote(list(requests)))
    return collect(actor, len(requests))


def collect(actor: ActorHandle, count: int) -> dict[str, Completion]:
    finished: dict[str, Completion] = {}
    while len(finished) < count:
        for id, completion in ray.get(actor.next_finished.remote(), timeout=DEADLINE_S):
            assert id not in finished
            finished[id] = completion
    return finished
