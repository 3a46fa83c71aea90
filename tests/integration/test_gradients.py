"""One mini-batch has one gradient, however DeepSpeed and we cut, lay out, deal and shard it.

With ARCHER_ALL_OBJECTIVES=1 (``make test-gradients``) every objective meets every aggregation at
every point of the grid, 45 minutes; without, each point gets one pair of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from probes import random_batch, run_config, start_bench

from archer import batch as batching
from archer.algos import AGGREGATIONS, OBJECTIVES, Algorithm, NoiseFloor, resolve_algorithm
from archer.algos.logprobs import HeadOutput
from archer.config.keys import AlgoConfig
from archer.types import Batch
from archer.workers.group import WorkerGroup
from archer.workers.token_inputs import token_inputs

LENGTHS = [1, 7, 9, 20, 0, 32, 12, 3, 5, 32]
"""One token, no token, unequal: 0 is the response that ended at once."""
STORED = [3, 5, 7]
"""Rows that are rehearsed ones, for objectives that rehearse."""
WIDE = 10_000
"""Budget that leaves one micro-batch a rank."""
SETTINGS = {
    "whole-padded": (WIDE, "padded"),
    "several-padded": (64, "padded"),
    "one-row-padded": (1, "padded"),
    "whole-packed": (WIDE, "packed"),
    "several-packed": (64, "packed"),
}
MINI_BATCHES = ("only", "last")
"""All rows at once, or the ragged rest that 5 prompts leave with 2 in a mini-batch."""
GRID = list(product((1, 2), (0, 1, 2, 3), SETTINGS, MINI_BATCHES))
LOSSES = {name: (name, {}) for name in OBJECTIVES} | {
    # The tiny model is nearly uniform: by default no token lies below the floor.
    "lp_reg full": ("lp_reg", {"kl": "full", "kappa": 0.9, "rho": 0.5}),
}


def cases() -> Iterator[tuple[str, str, int, int, str, str]]:
    """Loss, aggregation, world size, ZeRO stage, setting, mini-batch."""
    if os.environ.get("ARCHER_ALL_OBJECTIVES"):
        yield from ((*pair, *point) for pair in product(LOSSES, AGGREGATIONS) for point in GRID)
        return
    losses, aggregations = list(LOSSES), list(AGGREGATIONS)
    for i, at in enumerate(np.random.default_rng(0).permutation(len(GRID))):
        yield losses[i % len(losses)], aggregations[i % len(aggregations)], *GRID[at]


CASES = list(cases())


@pytest.fixture(scope="module")
def benches(local_ray: None, policy_bench: WorkerGroup) -> Iterator[dict[int, WorkerGroup]]:
    """Policy groups by world size."""
    single = start_bench(1)
    yield {1: single, 2: policy_bench}
    single.kill()


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(tie_embeddings=False)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return random_batch(LENGTHS)


@pytest.fixture(scope="module")
def expected() -> dict[tuple[str, str, str], dict[str, np.ndarray]]:
    """Plain gradients by loss, aggregation and mini-batch, as far as they are known."""
    return {}


def algo_config(loss: str, aggregation: str) -> AlgoConfig:
    name, parameters = LOSSES[loss]
    return AlgoConfig(name=name, loss=parameters, aggregation=aggregation)


def batch_for(algorithm: Algorithm, mini_batch: str) -> Batch:
    batch = random_batch(LENGTHS, stored=STORED if "rehearsal" in algorithm.needs else ())
    if mini_batch == "only":
        return batch
    rows = batching.mini_batches(batch, 2, seed=8)[-1]  # a seed that leaves tokens in the loss
    return batch.select(rows)


def plain_gradient(
    model_path: Path, batch: Batch, algo: AlgoConfig | None = None
) -> dict[str, np.ndarray]:
    """One backward pass of the whole mini-batch by torch and transformers, with whole logits."""
    from transformers import AutoModelForCausalLM

    config = run_config()
    algo = algo or config.algo
    algorithm = resolve_algorithm(algo)
    objective, loss_config = algorithm.objective, algorithm.loss_config
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    logits = []
    for i in range(len(batch)):
        prompt = batch.prompt_tokens[batch.prompt_offsets[i] : batch.prompt_offsets[i + 1]]
        response = batch.response_tokens[batch.offsets[i] : batch.offsets[i + 1]]
        tokens = torch.from_numpy(np.concatenate([prompt, response])).long()
        logits.append(model(tokens[None]).logits[0, len(prompt) - 1 : -1])
    scaled = torch.cat(logits) / config.sampling.temperature
    head = plain_head(scaled, batch, objective.noise_floor(loss_config))
    if "fresh_logprobs" in algorithm.needs:
        batch = batch.with_columns(fresh_logprobs=head.logprobs.detach().numpy())
    limit = config.sampling.max_response_tokens
    prepared = batching.prepare(batch, objective, loss_config, algo.aggregation, limit, seed=0)
    weights = batching.loss_weights(prepared, algo.aggregation, limit)
    inputs = token_inputs(prepared.with_columns(loss_weights=weights), head, torch.device("cpu"))
    objective.loss(inputs, loss_config).loss.backward()
    return {name: p.grad.numpy() for name, p in model.named_parameters()}


def plain_head(logits: torch.Tensor, batch: Batch, floor: NoiseFloor | None) -> HeadOutput:
    """What the chunked head computes, from whole logits [R, V] and left to autograd."""
    log_p = logits.log_softmax(-1)
    logprobs = log_p.gather(1, torch.from_numpy(batch.response_tokens).long()[:, None])[:, 0]
    entropy = -(log_p.exp() * log_p).sum(-1)
    head = HeadOutput(logprobs, entropy, logits.logsumexp(-1).detach())
    if floor is None:
        return head
    assert floor.is_relative
    threshold = log_p.detach().amax(-1) + np.log(floor.probability)
    kept = log_p.masked_fill(log_p < threshold[:, None], -torch.inf)
    return head._replace(log_kept_mass=kept.logsumexp(-1), is_kept=logprobs >= threshold)


def relative_difference(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Norm of the difference over that of the expected gradient, for the worst parameter."""
    assert actual.keys() == expected.keys()
    return max(
        float(np.linalg.norm(actual[name] - expected[name]) / np.linalg.norm(expected[name]))
        for name in expected
    )


def test_the_grid_meets_every_objective_and_every_aggregation():
    losses, aggregations, *point = zip(*CASES, strict=True)
    assert set(losses) == set(LOSSES)
    assert set(aggregations) == set(AGGREGATIONS)
    assert set(zip(*point, strict=True)) == set(GRID)


@pytest.mark.parametrize(
    ("loss", "aggregation", "world_size", "stage", "setting", "mini_batch"), CASES
)
def test_gradient_is_that_of_one_plain_backward_pass(
    benches: dict[int, WorkerGroup],
    model: Path,
    expected: dict[tuple[str, str, str], dict[str, np.ndarray]],
    loss: str,
    aggregation: str,
    world_size: int,
    stage: int,
    setting: str,
    mini_batch: str,
):
    algo = algo_config(loss, aggregation)
    batch = batch_for(resolve_algorithm(algo), mini_batch)
    key = (loss, aggregation, mini_batch)
    if key not in expected:
        expected[key] = plain_gradient(model, batch, algo)
    bench = benches[world_size]
    bench.call("use", str(model), stage)
    for answer in bench.call("gradients_of", algo, batch, *SETTINGS[setting]):
        assert relative_difference(answer["gradients"], expected[key]) <= 1e-5


@pytest.mark.parametrize("loss", ["archer", "lp_reg full"])  # one and two outputs of the head
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_rank_with_fewer_micro_batches_adds_nothing(
    benches: dict[int, WorkerGroup], model: Path, stage: int, loss: str
):
    algo = algo_config(loss, "token-mean")
    lengths = [32, 1, 1, 1, 1]  # one long row for rank 0, four short ones for rank 1
    uneven = random_batch(lengths)
    expected = plain_gradient(model, uneven, algo)
    benches[2].call("use", str(model), stage)
    for _ in range(2):  # ranks that no longer agree on what ZeRO-3 gathers next part here
        answers = benches[2].call("gradients_of", algo, uneven, 1, "padded")
        counts = [answer["num_micro_batches"] for answer in answers]
        assert counts[0] != counts[1]
        assert relative_difference(answers[0]["gradients"], expected) <= 1e-5


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_tied_head_adds_both_of_its_gradients(
    benches: dict[int, WorkerGroup], tiny_model: Callable[..., Path], stage: int
):
    tied = tiny_model(tie_embeddings=True)
    batch = random_batch(LENGTHS, seed=1)
    benches[2].call("use", str(tied), stage)
    answers = benches[2].call("gradients", batch, 64, "padded")
    assert relative_difference(answers[0]["gradients"], plain_gradient(tied, batch)) <= 1e-5


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("lm_head.weight", np.nan), ("model.norm.weight", np.inf)],  # one of each parameter group
)
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_non_finite_gradient_of_one_rank_skips_the_step_on_all(
    benches: dict[int, WorkerGroup],
    model: Path,
    batch: Batch,
    stage: int,
    parameter: str,
    value: float,
):
    bench = benches[2]
    bench.call("use", str(model), stage, "poison")
    for update in bench.call("update", batch, [0], 1e-3):  # from here on there are moments
        assert (update.num_steps, update.num_skipped) == (1, 0)
    before = bench.call("state")

    updates = bench.call("poisoned_update", batch, parameter, value, 1)

    assert [(u.num_skipped, u.ended_skipping) for u in updates] == [(1, 1), (1, 1)]
    for old, new in zip(before, bench.call("state"), strict=True):
        assert differing(old, new) == set()

    for update in bench.call("update", batch, [0], 1e-3):
        assert (update.num_skipped, update.ended_skipping) == (0, 0)
        assert np.isfinite(update.grad_norm)
    for old, new in zip(before, bench.call("state"), strict=True):
        assert differing(old, new) == {"weights", "masters", "moments"}
        assert all(np.isfinite(values).all() for values in new["weights"])


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_mini_batch_without_a_token_in_the_loss_moves_nothing(
    benches: dict[int, WorkerGroup], model: Path, batch: Batch, stage: int
):
    bench = benches[2]
    bench.call("use", str(model), stage, "empty")
    bench.call("update", batch, [0], 1e-3)  # from here on there is momentum
    before = bench.call("state")
    for update in bench.call("update", batch.with_columns(mask=batch.mask & False), [0, 1], 1e-3):
        assert (update.num_steps, update.num_skipped, update.num_empty) == (0, 0, 2)
    for old, new in zip(before, bench.call("state"), strict=True):
        assert differing(old, new) == set()


@pytest.mark.parametrize("stage", [2, 3])
def test_bfloat16_micro_batches_add_up_in_float32(
    benches: dict[int, WorkerGroup], model: Path, stage: int
):
    """In bfloat16 the sum of equal parts would stop growing: from 256 on a part is half a bit."""
    bench = benches[1]
    bench.call("use", str(model), stage, "", "bfloat16")
    row = random_batch([12])
    [alone] = bench.call("gradients", row, WIDE, "padded")
    [copies] = bench.call("gradients", row.select(np.zeros(400, np.int64)), 1, "padded")
    assert copies["num_micro_batches"] == 400
    assert relative_difference(copies["gradients"], alone["gradients"]) <= 0.02


def differing(old: dict[str, list[np.ndarray]], new: dict[str, list[np.ndarray]]) -> set[str]:
    """Kinds of state of which any tensor changed by any bit; a kind without tensors counts too."""
    return {
        kind
        for kind in old
        if not old[kind]
        or any(not np.array_equal(a, b) for a, b in zip(old[kind], new[kind], strict=True))
    }
