"""LoRA with real DeepSpeed, vLLM and Ray: adapters learn, the base stays, engines get the sum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from lora_probes import LORA, start_bench
from probes import random_batch
from runs import Run
from safetensors.numpy import load_file
from test_gradients import LENGTHS, differing, plain_gradient, relative_difference

from archer.batch import assemble
from archer.types import Batch
from archer.weight_sync import WeightSync
from archer.workers.group import WorkerGroup
from archer.workers.pool import StreamingPool

SCALE = LORA.alpha / LORA.rank


@pytest.fixture(scope="module")
def bench(local_ray: None) -> Iterator[WorkerGroup]:
    """Two policy ranks with adapters."""
    group = start_bench(2)
    yield group
    group.kill()


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(tie_embeddings=True)


@pytest.fixture(scope="module")
def batch() -> Batch:
    return random_batch(LENGTHS)


def adapted(bench: WorkerGroup, model: Path, stage: int, purpose: str) -> dict[str, np.ndarray]:
    """A policy whose adapters two updates took far from zero; returns them."""
    bench.call("use", str(model), stage, purpose)
    bench.call("update", random_batch(LENGTHS, seed=1), [0, 1], 0.05)
    return bench.call("adapters")[0]


def merged(base: dict[str, np.ndarray], adapters: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """W + alpha / rank B A, by hand."""
    weights = dict(base)
    for name in (key for key in adapters if key.endswith(".lora_A.default.weight")):
        layer = name.removesuffix(".lora_A.default.weight")
        update = adapters[f"{layer}.lora_B.default.weight"] @ adapters[name]
        weights[f"{layer.removeprefix('base_model.model.')}.weight"] = (
            base[f"{layer.removeprefix('base_model.model.')}.weight"] + SCALE * update
        )
    return weights


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_policy_starts_as_its_base_to_the_bit(bench: WorkerGroup, model: Path, stage: int):
    bench.call("use", str(model), stage, "start")
    base = load_file(model / "model.safetensors")
    for weights in bench.call("full_weights"):
        assert weights.keys() == base.keys()
        assert all(np.array_equal(weights[name], base[name]) for name in base)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_gradient_of_the_adapters_is_the_chain_rule_on_that_of_the_merged_weights(
    bench: WorkerGroup,
    model: Path,
    batch: Batch,
    tmp_path: Path,
    stage: int,
):
    adapters = adapted(bench, model, stage, "gradient")
    bench.call("export", str(tmp_path))
    of_merged = plain_gradient(tmp_path, batch)

    answers = bench.call("gradients", batch, 64, "padded")

    expected = {}
    for name in (key for key in adapters if ".lora_A." in key):
        b_name = name.replace(".lora_A.", ".lora_B.")
        own = name.removeprefix("base_model.model.")
        gradient = of_merged[own.replace(".lora_A.default", "")]
        expected[own] = SCALE * adapters[b_name].T @ gradient
        expected[b_name.removeprefix("base_model.model.")] = SCALE * gradient @ adapters[name].T
    for answer in answers:
        assert relative_difference(answer["gradients"], expected) <= 1e-5


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_update_moves_all_adapters_and_nothing_else(
    bench: WorkerGroup, model: Path, batch: Batch, stage: int
):
    before = adapted(bench, model, stage, "update")
    bench.call("update", batch, [0], 1e-2)
    after = bench.call("adapters")[0]
    assert all(not np.array_equal(before[name], after[name]) for name in before)
    base = load_file(model / "model.safetensors")
    for weights in bench.call("full_weights"):
        for name, weight in merged(base, after).items():
            np.testing.assert_allclose(weights[name], weight, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("stage", [1, 3])
def test_merged_folder_is_the_adapted_policy_and_peft_loads_the_adapters(
    bench: WorkerGroup, model: Path, tmp_path: Path, stage: int
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    adapters = adapted(bench, model, stage, "export")
    bench.call("save", str(tmp_path))
    bench.call("export", str(tmp_path / "hf"))
    tokens = np.random.default_rng(0).integers(4, 100, 60, dtype=np.int32)
    expected = bench.call("echo", tokens)[0]

    def logprobs(network: torch.nn.Module) -> np.ndarray:
        ids = torch.from_numpy(tokens).long()
        with torch.no_grad():
            log_p = network(ids[None]).logits[0, :-1].log_softmax(-1)
        return log_p.gather(1, ids[1:, None])[:, 0].numpy()

    hf, report = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    np.testing.assert_allclose(logprobs(hf), expected, atol=1e-5)
    base = AutoModelForCausalLM.from_pretrained(model)
    assert np.abs(logprobs(base) - expected).max() > 0.01
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter")
    np.testing.assert_allclose(logprobs(loaded), expected, atol=1e-5)
    files = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    for name, tensor in adapters.items():
        assert np.array_equal(files[name.replace(".default", "")], tensor)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_new_ranks_go_on_from_a_checkpoint_to_the_bit(
    bench: WorkerGroup, model: Path, batch: Batch, tmp_path: Path, stage: int
):
    adapted(bench, model, stage, "saved")
    bench.call("save", str(tmp_path))
    sizes = [path.stat().st_size for path in (tmp_path / "zero").iterdir()]
    bench.call("update", batch, [1], 1e-2)
    expected = bench.call("state")

    bench.call("use", str(model), stage, "resumed")
    bench.call("load", str(tmp_path))
    bench.call("update", batch, [1], 1e-2)

    for old, new in zip(expected, bench.call("state"), strict=True):
        assert differing(old, new) == set()
    num_base = sum(tensor.size for tensor in load_file(model / "model.safetensors").values())
    assert sum(sizes) < 4 * num_base, "the base is in the checkpoint"


@pytest.mark.parametrize("stage", [1, 3])
def test_engines_agree_with_the_adapted_policy_after_an_update(
    bench: WorkerGroup,
    engines: Callable[..., StreamingPool],
    synced: Callable[..., WeightSync],
    model: Path,
    batch: Batch,
    stage: int,
):
    adapted(bench, model, stage, "sync")
    sync = synced(engines(tie_embeddings=True), policy=bench)
    sync.push(version=1)  # compares fingerprints too
    [before, _] = echoes(sync)
    bench.call("update", batch, [0], 1e-2)
    metrics = sync.push(version=2)
    assert metrics["weight_sync/echo_diff"] < 1e-4
    for echo in echoes(sync):
        assert np.abs(echo - before).max() > 0.01  # an engine with the weights of before would show
        np.testing.assert_allclose(echo, bench.call("echo", sync.echo_tokens)[0], atol=1e-4)


def echoes(sync: WeightSync) -> list[np.ndarray]:
    return ray.get([actor.echo.remote(sync.echo_tokens.tolist()) for actor in sync.rollouts.actors])


@pytest.mark.parametrize("stage", [1, 3])
def test_frozen_base_says_what_a_reference_worker_would(
    bench: WorkerGroup,
    policy_bench: WorkerGroup,
    model: Path,
    batch: Batch,
    stage: int,
):
    def column(parts: list) -> np.ndarray:
        return assemble(batch, parts, "logprobs")

    policy_bench.call("use", str(model), stage)
    expected = column(policy_bench.call("compute_logprobs", batch))
    adapted(bench, model, stage, "reference")
    own = column(bench.call("compute_logprobs", batch))
    assert np.abs(own - expected).max() > 0.01
    gradients = bench.call("gradients", batch, 64, "padded")

    found = column(bench.call("compute_reference_logprobs", batch))

    assert np.array_equal(found, expected)
    assert np.array_equal(column(bench.call("compute_logprobs", batch)), own)
    again = bench.call("gradients", batch, 64, "padded")
    for before, after in zip(gradients, again, strict=True):
        assert relative_difference(after["gradients"], before["gradients"]) == 0


def test_run_goes_on_without_a_rank_it_lost_and_serves_a_model_without_adapters(tmp_path: Path):
    run = Run(
        tmp_path,
        "model.lora={}",
        "optimizer.learning_rate=1e-3",
        "trainer.num_steps=3",
        "run.save_every=2",
        "eval.every=0",
        "eval.max_problems=4",
        "eval.num_samples=1",
        faults=("policy-0@update:2",),
    )
    assert run.wait() == 0, run.output
    assert "LoRA: " in run.output and " parameters learn" in run.output
    assert "policy 0: " in run.output and "reference 0: " not in run.output
    assert "resuming after step 2" in run.output
    assert run.metrics[3]["weight_sync/echo_diff"] < 1e-4
    checkpoint = run.checkpoint(3)
    assert (checkpoint / "adapter" / "adapter_config.json").is_file()
    weights = load_file(checkpoint / "hf" / "model.safetensors")
    assert not any("lora" in name or "base_layer" in name for name in weights)
