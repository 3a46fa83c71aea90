"""The critic: its gradient, its heads, and whole runs with one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from critic_probes import critic_config, start_critics
from probes import random_batch
from runs import TWO_RANKS, Run
from safetensors.torch import load_file
from test_gradients import LENGTHS, WIDE, differing, relative_difference

from archer.batch import assemble
from archer.types import Batch
from archer.workers.group import WorkerGroup

NUM_HEADS, SEED = 4, 0


@pytest.fixture(scope="module")
def benches(local_ray: None) -> Iterator[dict[int, WorkerGroup]]:
    """Critic groups by world size."""
    groups = {size: start_critics(size) for size in (1, 2)}
    yield groups
    for group in groups.values():
        group.kill()


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(tie_embeddings=False)


@pytest.fixture(scope="module")
def batch() -> Batch:
    batch = random_batch(LENGTHS)
    rng = np.random.default_rng(1)
    returns, values = rng.normal(size=(2, len(batch.mask))).astype(np.float32)
    return batch.with_columns(returns=returns, values=values)


@pytest.fixture(scope="module")
def head_weights(benches: dict[int, WorkerGroup], model: Path, batch: Batch) -> np.ndarray:
    """float32 [R, heads]"""
    benches[1].call("use", str(model), 0)
    return benches[1].call("head_weights", batch, SEED)[0]


@pytest.fixture(scope="module")
def plain(
    benches: dict[int, WorkerGroup], model: Path, batch: Batch, head_weights: np.ndarray
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Values, and the gradient of their loss, by one pass of torch and transformers."""
    from transformers import AutoModelForCausalLM

    [rows] = benches[1].call("head_rows")
    trunk = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).model
    weight = torch.from_numpy(rows.copy()).requires_grad_()
    bias = torch.zeros(NUM_HEADS, requires_grad=True)
    values = []
    for i in range(len(batch)):
        prompt = batch.prompt_tokens[batch.prompt_offsets[i] : batch.prompt_offsets[i + 1]]
        response = batch.response_tokens[batch.offsets[i] : batch.offsets[i + 1]]
        tokens = torch.from_numpy(np.concatenate([prompt, response])).long()
        hidden = trunk(tokens[None]).last_hidden_state[0]
        values.append((hidden @ weight.T + bias)[len(prompt) - 1 : -1])
    values = torch.cat(values)
    error = values - torch.from_numpy(batch.returns)[:, None]
    (0.5 * error.square() * torch.from_numpy(head_weights.copy())).sum().backward()
    gradients = {f"model.{name}": p.grad.numpy() for name, p in trunk.named_parameters()}
    assert weight.grad is not None and bias.grad is not None
    gradients |= {"heads.weight": weight.grad.numpy(), "heads.bias": bias.grad.numpy()}
    return values.detach().numpy(), gradients


@pytest.mark.parametrize(
    ("world_size", "stage", "micro_batch_tokens", "packing"),
    [
        (1, 0, WIDE, "padded"),
        (1, 0, 1, "padded"),
        (1, 1, 64, "packed"),
        (2, 0, 64, "padded"),
        (2, 1, WIDE, "packed"),
        (2, 2, 1, "padded"),
        (2, 3, 64, "packed"),
    ],
)
def test_gradient_is_that_of_one_plain_backward_pass(
    benches: dict[int, WorkerGroup],
    model: Path,
    batch: Batch,
    plain: tuple[np.ndarray, dict[str, np.ndarray]],
    world_size: int,
    stage: int,
    micro_batch_tokens: int,
    packing: str,
):
    bench = benches[world_size]
    bench.call("use", str(model), stage)
    for answer in bench.call("gradients", batch, micro_batch_tokens, packing):
        assert relative_difference(answer["gradients"], plain[1]) <= 1e-5


@pytest.mark.parametrize(
    ("stage", "dtype", "tolerance"),
    [(1, "float32", 1e-5), (3, "float32", 1e-5), (2, "bfloat16", 0.02)],
)
def test_values_are_the_mean_of_the_heads_before_each_token(
    benches: dict[int, WorkerGroup],
    model: Path,
    batch: Batch,
    plain: tuple[np.ndarray, dict[str, np.ndarray]],
    stage: int,
    dtype: str,
    tolerance: float,
):
    benches[2].call("use", str(model), stage, "", dtype)
    parts = benches[2].call("compute_values", batch)
    expected, _ = plain
    np.testing.assert_allclose(assemble(batch, parts, "values"), expected.mean(1), atol=tolerance)
    np.testing.assert_allclose(assemble(batch, parts, "value_std"), expected.std(1), atol=tolerance)
    assert expected.std(1).min() > 0.01  # heads that began alike would agree


def test_each_head_learns_from_half_of_the_responses(batch: Batch, head_weights: np.ndarray):
    """Eight responses are in the loss: one is masked and one is empty."""
    assert critic_config().algo.critic.head_share == 0.5
    learned = [np.unique(batch.rows[head_weights[:, j] > 0]) for j in range(NUM_HEADS)]
    assert [len(rows) for rows in learned] == [4] * NUM_HEADS
    assert len({tuple(rows) for rows in learned}) > 1
    assert not head_weights[~batch.mask].any()
    np.testing.assert_allclose(head_weights.sum(0), 1 / NUM_HEADS, rtol=1e-5)


def test_updates_bring_the_values_to_the_returns(
    benches: dict[int, WorkerGroup], model: Path, batch: Batch
):
    bench = benches[2]
    bench.call("use", str(model), 2, "learning")
    target = np.where(batch.mask, 0.7, 0).astype(np.float32)
    known = batch.with_columns(returns=target)

    def error() -> float:
        values = assemble(known, bench.call("compute_values", known), "values")
        return float(np.abs(values - target)[batch.mask].mean())

    before = error()
    for seed in range(20):
        for update in bench.call("update", known, [seed], 3e-3):
            assert (update.num_steps, update.num_skipped) == (1, 0)
    assert error() < 0.1 * before


@pytest.mark.parametrize("why", ["masked", "rehearsed"])
def test_responses_without_a_return_move_nothing(
    benches: dict[int, WorkerGroup], model: Path, batch: Batch, why: str
):
    bench = benches[2]
    bench.call("use", str(model), 1, "idle")
    bench.call("update", batch, [0], 1e-3)  # from here on there is momentum
    before = bench.call("state")
    nothing = {
        "masked": {"mask": batch.mask & False},
        "rehearsed": {"rewards": np.full(len(batch), np.nan)},
    }
    for update in bench.call("update", batch.with_columns(**nothing[why]), [0], 1e-3):
        assert (update.num_steps, update.num_empty) == (0, 1)
    for old, new in zip(before, bench.call("state"), strict=True):
        assert differing(old, new) == set()


PPO = (*TWO_RANKS, "algo=ppo", "algo.critic.warmup_steps=2", "trainer.num_steps=4")
QUICK = ("run.save_every=2", "eval.max_problems=4", "eval.num_samples=1", "eval.every=0")


def finished(run: Run) -> Run:
    assert run.wait(400) == 0, run.output
    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Four steps of PPO, in the first two of which only the critic learns."""
    run = finished(Run(tmp_path_factory.mktemp("ppo"), *PPO, *QUICK))
    yield run
    run.kill_all()


def states(run: Run) -> dict[str, bytes]:
    """The exported policy, and all that the critic goes on from."""
    folder = run.checkpoint(4)
    files = [folder / "hf" / "model.safetensors", *(folder / "critic").rglob("*.pt")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_only_the_critic_learns_while_it_warms_up(whole: Run):
    steps = [whole.metrics[step] for step in (1, 2, 3, 4)]
    assert [m["policy/optimizer_steps"] for m in steps] == [0, 0, 2, 2]
    assert [m["critic/optimizer_steps"] for m in steps] == [2, 2, 2, 2]
    assert [m["policy/lr"] > 0 for m in steps] == [False, False, True, True]
    for metrics in steps:
        assert metrics["critic/loss"] > 0 and metrics["critic/grad_norm"] > 0
        assert metrics["critic/explained_variance"] is not None
    start = json.loads((whole.checkpoint(2) / "state.json").read_text())["identity"]["model"]
    trained = [load_file(whole.checkpoint(n) / "hf" / "model.safetensors") for n in (2, 4)]
    for name, weight in load_file(Path(start) / "model.safetensors").items():
        assert torch.equal(trained[0][name], weight)
        assert not torch.equal(trained[1][name], weight)


def test_a_run_whose_critic_died_equals_one_whose_did_not(whole: Run, tmp_path: Path):
    """The critic dies in the third step: new ranks of each role start from the last checkpoint."""
    run = finished(Run(tmp_path, *PPO, *QUICK, faults=("critic-1@update:2",)))
    try:
        assert "critic worker" in run.output and "Restarting" in run.output
        assert "resuming after step 2" in run.output
        assert run.metrics == whole.metrics
        assert states(run) == states(whole)
    finally:
        run.kill_all()
