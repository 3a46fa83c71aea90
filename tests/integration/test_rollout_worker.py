"""The real vLLM engine: seeds, batches, long prompts, aborts, and ratios of the first update."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import ray
import torch
from engine_calls import DEADLINE_S, collect, request, run_alone
from probes import EOS, MAX_RESPONSE_TOKENS

from archer.batch import assemble, build_batch
from archer.collector import sample_requests
from archer.config.keys import AlgoConfig
from archer.errors import RunError
from archer.runtime.cluster import FOR_IPC
from archer.types import Group, Prompt, RewardResult, Sample
from archer.weight_sync import WeightSync
from archer.workers.group import WorkerGroup
from archer.workers.pool import StreamingPool


@pytest.fixture(scope="module")
def pool(engines: Callable[..., StreamingPool]) -> StreamingPool:
    return engines(tie_embeddings=True)


@pytest.mark.parametrize("batch_size", [2, 40])
def test_seeded_request_does_not_depend_on_what_else_is_decoded(
    pool: StreamingPool, batch_size: int
):
    actor = pool.actors[0]
    alone = run_alone(actor, [request(0)])["0"]
    together = run_alone(actor, [request(i) for i in range(batch_size)])["0"]
    assert alone.tokens.tolist() == together.tokens.tolist()
    assert alone.logprobs.tobytes() == together.logprobs.tobytes()


def test_engines_agree_on_a_seeded_request(pool: StreamingPool):
    first, second = (run_alone(actor, [request(1)])["1"] for actor in pool.actors)
    assert first.tokens.tolist() == second.tokens.tolist()
    assert first.logprobs.tobytes() == second.logprobs.tobytes()


def test_other_seed_gives_other_tokens(pool: StreamingPool):
    first, second = (run_alone(pool.actors[0], [request(0, seed=s)])["0"] for s in (0, 1))
    assert first.tokens.tolist() != second.tokens.tolist()


def test_prompts_that_do_not_fit_one_engine_step_neither_kill_it_nor_change_samples(
    pool: StreamingPool,
):
    """Together they exceed 8192 tokens, so vLLM cuts a prompt in two and discards a draw."""
    actor = pool.actors[0]
    prompts = [request(i, num_prompt_tokens=220) for i in range(100, 145)]
    together = run_alone(actor, prompts)
    for prompt in prompts:
        alone = run_alone(actor, [prompt])[prompt.id]
        assert together[prompt.id].tokens.tolist() == alone.tokens.tolist()
        np.testing.assert_allclose(together[prompt.id].logprobs, alone.logprobs, atol=1e-5)


def test_completion_holds_eos_and_reasons(pool: StreamingPool):
    completions = run_alone(pool.actors[0], [request(i, max_tokens=24) for i in range(40)])
    for completion in completions.values():
        assert len(completion.tokens) == len(completion.logprobs) <= 24
        ended = completion.tokens[-1] == EOS
        assert completion.finish_reason == ("stop" if ended else "length")
        assert EOS not in completion.tokens[:-1]
    assert {c.finish_reason for c in completions.values()} == {"stop", "length"}


def test_abort_returns_what_there_is_once(pool: StreamingPool):
    actor = pool.actors[0]
    endless = [request(i, max_tokens=200) for i in range(200, 232)]
    ray.get(actor.submit.remote(endless))
    first = ray.get(actor.next_finished.remote(), timeout=DEADLINE_S)  # some EOS comes early
    ray.get(actor.abort.remote([r.id for r in endless]))
    rest = collect(actor, len(endless) - len(first))
    assert not rest.keys() & dict(first).keys()
    assert rest.keys() | dict(first).keys() == {r.id for r in endless}
    aborted = [c for c in rest.values() if c.finish_reason == "abort"]
    assert aborted
    assert all(len(c.tokens) == len(c.logprobs) < 200 for c in aborted)
    assert any(len(c.tokens) for c in aborted)


def test_abort_right_after_submit_is_not_lost(pool: StreamingPool):
    requests = [request(i, max_tokens=200) for i in range(300, 340)]
    pool.submit(requests)
    pool.abort([r.id for r in requests])
    reasons = []
    while polls := pool.polls():
        ready, _ = ray.wait(polls, num_returns=1, timeout=DEADLINE_S)
        reasons += [completion.finish_reason for _, completion in pool.take(ready[0])]
    assert len(reasons) == len(requests)
    assert "length" not in reasons
    assert reasons.count("abort") > len(requests) / 2  # an early EOS may still win


def test_a_request_that_the_engine_refuses_is_an_error_and_harms_no_other(pool: StreamingPool):
    pool.submit([request(400, temperature=-1.0), request(401)])
    results: list[tuple[str, object]] = []
    with pytest.raises(RunError, match=r"^rollout worker failed. .*Request 400: .*temperature"):
        while polls := pool.polls():
            ready, _ = ray.wait(polls, num_returns=1, timeout=DEADLINE_S)
            results += pool.take(ready[0])
    assert run_alone(pool.actors[0], [request(402)]).keys() <= {"401", "402"}


def test_ipc_handles_reach_the_engine_process_if_it_may_unpickle(pool: StreamingPool):
    """Of GPUs only the handle is missing here; CUDA's are tuples of this shape."""
    handle = (
        *(torch.Tensor, torch.Size([8]), (1,), 0, torch.UntypedStorage, torch.uint8, 0),
        *(b"memory", 8, 0, b"counter", 0, b"event", True),
    )
    payload = {"names": ["head"], "shapes": [[8]], "ipc_handles": {"GPU-0": handle}}
    arrived = ray.get(pool.actors[0].__ray_call__.remote(through_msgpack, payload, FOR_IPC))
    as_lists = [list(part) if isinstance(part, tuple) else part for part in handle]
    assert arrived == {**payload, "ipc_handles": {"GPU-0": as_lists}}
    with pytest.raises(TypeError, match="VLLM_ALLOW_INSECURE_SERIALIZATION"):
        ray.get(pool.actors[0].__ray_call__.remote(through_msgpack, payload, {}))


def through_msgpack(_: object, payload: object, environment: dict[str, str]) -> object:
    """What vLLM's engine process receives of an update."""
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

    with mock.patch.dict(os.environ, environment):
        return MsgpackDecoder().decode(MsgpackEncoder().encode(payload))


def test_first_update_is_exactly_on_policy(
    pool: StreamingPool,
    policy_bench: WorkerGroup,
    tiny_model: Callable[..., Path],
    synced: Callable[..., WeightSync],
):
    """The engine's log-probs, the trainer's, and those of the first update are one policy's."""
    policy_bench.call("use", str(tiny_model(tie_embeddings=True)), 1, "on-policy")
    synced(pool).push(version=1)
    batch = build_batch(rollouts(pool), AlgoConfig(name="archer"), MAX_RESPONSE_TOKENS)

    parts = policy_bench.call("compute_logprobs", batch)
    logprobs, entropy = assemble(batch, parts, "logprobs"), assemble(batch, parts, "entropy")
    np.testing.assert_allclose(logprobs, batch.rollout_logprobs, atol=1e-4)

    batch = batch.with_columns(old_logprobs=logprobs, old_entropy=entropy, ref_logprobs=logprobs)
    for update in policy_bench.call("update", batch, [0], 1e-3):
        assert update.maxima["policy/ratio_max"] == pytest.approx(1, abs=1e-4)
        total, count = update.sums["policy/ratio_mean"]
        assert total / count == pytest.approx(1, abs=1e-5)
        assert update.maxima["rollout/mismatch_logprob_max"] <= 1e-4


def rollouts(pool: StreamingPool) -> list[Group]:
    """Four groups of four samples with made-up verdicts, sampled at the trainer's temperature."""
    groups = []
    for p in range(4):
        prompt = Prompt(f"p{p}", request(p).prompt_tokens, "", "", "")
        requests = sample_requests(
            prompt,
            4,
            lambda i, p=p: 10 * p + i,
            temperature=0.8,
            top_p=1.0,
            max_tokens=MAX_RESPONSE_TOKENS,
        )
        completions = run_alone(pool.actors[p % 2], requests)
        samples = tuple(
            Sample(prompt, i, completions[r.id], "", RewardResult(float(i % 2), bool(i % 2), "ok"))
            for i, r in enumerate(requests)
        )
        groups.append(Group(prompt, samples))
    return groups
