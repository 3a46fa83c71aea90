"""The plan's account of memory, what it refuses, and the change it suggests."""

from __future__ import annotations

import inspect
import json
from functools import cache
from pathlib import Path

import pytest
from fake_model import write_model
from hydra import compose, initialize_config_dir

from archer.config import CONF
from archer.config.keys import LoraConfig, ShapeConfig, TrainConfig, load_config
from archer.errors import ConfigError
from archer.models.folder import read_shape
from archer.plan import PlanConfig, load_plan_config, report
from archer.planning import memory_plan
from archer.planning.memory_model import (
    GIB,
    HEAD_CHUNK,
    ZeroRank,
    engine,
    kv_bytes_per_token,
    lora_parameters,
    num_parameters,
)
from archer.planning.memory_plan import (
    REFUSED,
    ROOM,
    Limits,
    check_plan,
    find_change,
    limits_here,
    make_plan,
)
from archer.planning.shape import check_shape, model_shape
from archer.planning.time_model import GPUS, step_time
from archer.preflight import check_inputs

GPUS_OF_80_GIB = Limits(gpu=80 * GIB, cpu=None)
PUBLISHED = {
    "r1-distill-1.5b": 1_777_088_000,
    "r1-distill-7b": 7_615_616_512,
    "qwen2.5-math-1.5b": 1_543_714_304,
    "qwen2.5-math-7b": 7_615_616_512,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
}
"""Parameters of the hub's models."""
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml") if path.stem != "tiny")
SHORT = ("data.max_prompt_tokens=1024", "sampling.max_response_tokens=3072")
LIMITS = {"qwen2.5-math-1.5b": SHORT, "qwen2.5-math-7b": SHORT}
"""Of models whose window does not hold the plan's own 2048 + 32,768 tokens."""
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
SMALL = ShapeConfig(
    hidden_size=64,
    intermediate_size=256,
    num_layers=2,
    num_heads=4,
    num_kv_heads=1,
    head_dim=16,
    vocab_size=1000,
    max_position=4096,
)


@cache
def load(*overrides: str) -> PlanConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_plan_config(compose("plan", list(overrides)))


def shape_of(config: TrainConfig) -> ShapeConfig:
    assert config.model.shape is not None
    return config.model.shape


@pytest.mark.parametrize("model", MODELS)
def test_parameters_of_the_presets_are_those_of_the_hub(model: str):
    # Biases are left out.
    assert num_parameters(shape_of(load(f"model={model}"))) == pytest.approx(
        PUBLISHED[model], rel=1e-4
    )


@pytest.mark.parametrize("cluster", ["1x8", "2x8", "2x8_disaggregated"])
@pytest.mark.parametrize("model", MODELS)
def test_every_model_fits_the_clusters_of_80_gib_gpus_with_its_longest_responses(
    model: str, cluster: str
):
    config = load(f"model={model}", f"cluster={cluster}", *LIMITS.get(model, ()))
    check_shape(config, shape_of(config))
    plan = make_plan(config, shape_of(config), GPUS_OF_80_GIB)
    assert plan.fits, plan.limiting
    assert plan.engine.full_sequences >= 4


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_fits_its_cluster(experiment: str):
    config = load(f"experiment={experiment}")
    shape = model_shape(config.model)
    assert shape is not None
    assert make_plan(config, shape, GPUS_OF_80_GIB).load <= ROOM


def test_one_gpu_is_enough_for_the_paper_model():
    config = load("cluster=1x1")
    assert make_plan(config, shape_of(config), GPUS_OF_80_GIB).fits


def test_keys_and_values_of_a_token():
    # 28 layers of 2 heads of 128 numbers, keys and values, in bfloat16.
    assert kv_bytes_per_token(shape_of(load()), 2) == 2 * 28 * 2 * 128 * 2


def test_kv_cache_is_what_the_share_of_the_gpu_leaves():
    config = load("cluster.gpu_memory_utilization=0.5")
    half = engine(config, shape_of(config), 80 * GIB)
    assert half.awake.total == pytest.approx(40 * GIB)
    held = half.kv_cache / kv_bytes_per_token(shape_of(config), 2) / config.max_sequence_tokens
    assert half.full_sequences == pytest.approx(held)
    given = load("cluster.kv_cache_bytes=1000000000")
    assert engine(given, shape_of(given), 80 * GIB).kv_cache == 1e9


@pytest.mark.parametrize(
    ("stage", "weights", "optimizer"),
    # Per parameter and rank of 4: bfloat16 weights; float32 master weights and two moments.
    [(2, 2, 12 / 4), (3, 2 / 4 + 2, 12 / 4)],
)
def test_zero_shares_out_the_states(stage: int, weights: float, optimizer: float):
    config = load("cluster=2x8_disaggregated", "cluster.policy_workers=4")
    cluster = config.cluster.model_copy(update={"zero_stage": stage})
    states = ZeroRank(config.model_copy(update={"cluster": cluster}), SMALL).states()
    count = num_parameters(SMALL)
    assert states.weights == weights * count
    assert states.optimizer == optimizer * count


def test_an_offloaded_optimizer_leaves_the_gpu_for_the_node():
    config = load("cluster=2x8_disaggregated")
    away = load("cluster=2x8_disaggregated", "cluster.offload_optimizer=true")
    shape = shape_of(config)
    assert ZeroRank(config, shape).states().optimizer > 0
    assert ZeroRank(away, shape).states().optimizer == 0
    before, after = (make_plan(c, shape, GPUS_OF_80_GIB).pools[-1] for c in (config, away))
    assert after.name == before.name == "CPU memory of a node"
    gained = after.moments["training"]["policy"].optimizer
    assert gained >= 12 * num_parameters(shape)  # eight ranks with an eighth each


def test_lora_learns_little_and_needs_no_reference():
    config, shape = load("model.lora={}"), shape_of(load())
    learned = lora_parameters(shape, LoraConfig(rank=32, targets=["q_proj"]))
    assert learned == 28 * 32 * (1536 + 12 * 128)
    plan = make_plan(config, shape, GPUS_OF_80_GIB)
    assert all("reference" not in moment for moment in plan.pools[0].moments.values())
    assert ZeroRank(config, shape).states().optimizer < GIB / 10


@pytest.mark.parametrize("rank", [32, 512])
def test_the_frozen_head_of_lora_has_no_gradient(rank: int):
    config = load("model=qwen3-8b", f"model.lora={{rank: {rank}}}")
    shape = shape_of(config)
    moments = ZeroRank(config, shape).update()
    assert moments["head"].gradients == moments["step"].gradients


def test_lora_saves_the_gradients_of_frozen_weights_only():
    def update(*overrides: str) -> float:
        config = load("model=qwen3-8b", "cluster=1x8", *overrides)
        found = engine(config, shape_of(config), 80 * GIB)
        return step_time(config, shape_of(config), found, GPUS["h800"]).update

    assert update("model.lora={}") == pytest.approx(3 / 4 * update())
    plain = "model.gradient_checkpointing=false"
    assert update("model.lora={}", plain) == pytest.approx(2 / 3 * update(plain))


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model=qwen2.5-math-7b", "sampling.max_response_tokens"),
        ("model.lora={targets: [nonsense]}", "model.lora.targets"),
    ],
)
def test_a_plan_of_what_the_model_cannot_take_is_refused(override: str, key: str):
    with pytest.raises(ConfigError) as caught:
        report(load(override))
    assert caught.value.key == key


def test_gradient_checkpointing_keeps_one_layer_and_the_inputs_of_all():
    plain, kept = (load(f"model.gradient_checkpointing={value}") for value in ("false", "true"))
    saved, fewer = (
        ZeroRank(config, shape_of(config)).update()["backward"].activations
        for config in (plain, kept)
    )
    # Two norms in float32 and bfloat16, queries to values and their output, 4 sizes of the MLP.
    layer = 2 * 8 * 1536 + 2 * (2 * 1536 + 2 * 256) + 4 * 12 + 2 * 4 * 8960
    assert saved - fewer == 34816 * (27 * layer - 28 * 2 * 1536)


def test_packed_sequences_need_a_square_mask_without_variable_length_attention():
    shape = shape_of(load())
    squares = [
        ZeroRank(load(f"model.attention={name}"), shape).update()["backward"].activations
        for name in ("sdpa", "varlen")
    ]
    assert squares[0] - squares[1] == pytest.approx(5 * 34816**2)


def test_engine_and_policy_take_turns_on_a_shared_gpu():
    (gpu, _) = make_plan(load(), shape_of(load()), GPUS_OF_80_GIB).pools
    rollout, update = gpu.moments["rollout"], gpu.moments["update"]
    assert rollout["engine"].kv_cache > 0
    assert rollout["policy"].weights == rollout["policy"].optimizer == 0
    assert update["engine"].weights == update["engine"].kv_cache == 0
    assert update["policy"].optimizer > 0


@pytest.mark.parametrize("architecture", ["Qwen2", "Qwen3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_activations_of_a_layer_are_those_autograd_keeps(architecture: str, dtype: str):
    tokens = 512
    kept = [_saved_bytes(architecture, dtype, tokens, layers) for layers in (1, 3)]
    shape = SMALL.model_copy(update={"qk_norm": architecture == "Qwen3"})
    rank = ZeroRank(load(f"cluster.dtype={dtype}"), shape)
    assert rank._saved_by_layer() == pytest.approx((kept[1] - kept[0]) / 2 / tokens, rel=0.01)


def _saved_bytes(architecture: str, dtype: str, tokens: int, layers: int) -> int:
    """What a backward pass through a real model of this size would need."""
    import torch
    import transformers

    config = getattr(transformers, f"{architecture}Config")(
        vocab_size=SMALL.vocab_size,
        hidden_size=SMALL.hidden_size,
        intermediate_size=SMALL.intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=SMALL.num_heads,
        num_key_value_heads=SMALL.num_kv_heads,
        head_dim=SMALL.head_dim,
    )
    model = getattr(transformers, f"{architecture}Model")(config).to(getattr(torch, dtype)).train()
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())


def test_the_chunk_of_the_head_is_the_one_that_is_used():
    from archer.algos.logprobs import chunked_logprobs

    assert inspect.signature(chunked_logprobs).parameters["chunk_tokens"].default == HEAD_CHUNK


def test_a_launch_beyond_the_memory_is_refused_with_a_change_that_fits():
    config = load("model=qwen3-8b", "cluster=2x8_disaggregated", "cluster.gpu_memory_gb=48")
    with pytest.raises(ConfigError) as caught:
        check_plan(config, shape_of(config))
    assert "each GPU of the policy" in caught.value.expected
    limits = Limits(gpu=48 * GIB, cpu=None)
    change = find_change(config, shape_of(config), limits)
    assert change is not None
    for key, value in change.items():
        assert f"{key}={str(value).lower()}" in caught.value.mend
    changed = load(
        "model=qwen3-8b",
        "cluster=2x8_disaggregated",
        *(f"{key}={str(value).lower()}" for key, value in change.items()),
    )
    assert make_plan(changed, shape_of(changed), limits).load <= ROOM


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_variable_length_attention_is_suggested_where_it_runs(packing: str):
    config = load("model.attention=sdpa", f"cluster.packing={packing}")
    suggested = [key for saving in memory_plan._savings(config) for key in saving]
    assert ("model.attention" in suggested) == (packing == "packed")


def test_more_gpus_are_the_last_resort():
    config = load("model=r1-distill-7b", "cluster=1x1")
    change = find_change(config, shape_of(config), GPUS_OF_80_GIB)
    assert change is not None
    assert change["cluster.gpus_per_node"] == change["cluster.policy_workers"] > 1
    assert change["cluster.num_nodes"] == 1


def test_several_nodes_are_joined_not_started():
    config = load("model=qwen3-8b", "cluster=1x1")
    change = find_change(config, shape_of(config), GPUS_OF_80_GIB)
    assert change is not None
    assert change["cluster.num_nodes"] > 1
    assert change["cluster.address"] == "auto"


def test_no_change_fits_what_no_cluster_can_hold():
    config = load("cluster.gpu_memory_gb=2")
    with pytest.raises(ConfigError, match="No change that the plan knows fits"):
        check_plan(config, shape_of(config))


def test_a_cache_below_one_sequence_is_short_whatever_the_gpu():
    config = load("cluster.kv_cache_bytes=100000000")
    plan = make_plan(config, shape_of(config), GPUS_OF_80_GIB)
    assert not plan.fits
    assert "KV cache holds 0.10 sequences" in plan.limiting


def test_a_launch_within_the_error_of_the_account_is_not_refused():
    config = load("model=qwen3-8b")
    needed = make_plan(config, shape_of(config), GPUS_OF_80_GIB).pools[0].needed / GIB
    tight = load("model=qwen3-8b", f"cluster.gpu_memory_gb={needed / 1.1:.1f}")
    tight = tight.model_copy(
        update={"cluster": tight.cluster.model_copy(update={"gpu_memory_utilization": 0.6})}
    )
    assert 1 < make_plan(tight, shape_of(tight), limits_here(tight.cluster)).load <= REFUSED
    check_plan(tight, shape_of(tight))


def test_unknown_gpu_memory_refuses_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")  # no nvidia-smi
    config = load("model=qwen3-8b", "cluster=1x1")
    check_plan(config, shape_of(config))


def test_a_run_on_the_cpu_must_fit_this_machine(monkeypatch: pytest.MonkeyPatch):
    config = load("cluster=local", "cluster.kv_cache_bytes=2000000000", "model.attention=sdpa")
    (machine,) = make_plan(config, shape_of(config), Limits(None, None)).pools
    monkeypatch.setattr(memory_plan, "_cpu_memory", lambda: machine.needed / 2)
    with pytest.raises(ConfigError, match="in this machine"):
        check_plan(config, shape_of(config))


def test_the_default_run_fits_a_laptop():
    config = load("model=tiny", "cluster=local", "data=arithmetic")
    shape = model_shape(config.model)
    assert shape is not None
    assert make_plan(config, shape, Limits(None, None)).pools[0].needed < 8 * GIB


def test_twice_the_ranks_halve_the_update_and_epochs_double_it():
    shape = shape_of(load())

    def update(*overrides: str) -> float:
        config = load(*overrides)
        found = engine(config, shape, 80 * GIB)
        return step_time(config, shape, found, GPUS["h800"]).update

    once = update("cluster=1x8", "trainer.epochs=1")
    assert update("cluster=1x8", "trainer.epochs=2") == pytest.approx(2 * once)
    assert update("cluster=2x8", "trainer.epochs=1") == pytest.approx(once / 2)


def test_few_long_responses_wait_for_the_longest():
    def bound(*overrides: str) -> str:
        config = load(*overrides)
        found = engine(config, shape_of(config), 80 * GIB)
        return step_time(config, shape_of(config), found, GPUS["h800"]).rollout_bound

    assert bound() == "the longest response"
    assert bound("trainer.prompts_per_step=2048") == "the number of tokens"


def test_json_has_the_figures_of_the_plan(capsys: pytest.CaptureFixture[str]):
    config = load("format=json")
    assert report(config)
    figures = json.loads(capsys.readouterr().out)
    assert figures["fits"] is True
    assert figures["num_parameters"] == num_parameters(shape_of(config))
    assert [pool["name"] for pool in figures["pools"]] == ["each GPU", "CPU memory of a node"]
    assert figures["run_hours"] == pytest.approx(figures["step_s"]["total"] * 520 / 3600)


def test_the_page_names_what_is_short_and_what_fits(capsys: pytest.CaptureFixture[str]):
    assert not report(load("model=qwen3-8b", "cluster=1x1"))
    page = capsys.readouterr().out
    assert "Does not fit" in page
    assert "By the plan this fits: cluster." in page


def write_config(folder: Path, **changes: object) -> str:
    content = {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "vocab_size": 1000,
        "max_position_embeddings": 4096,
    }
    (folder / "config.json").write_text(json.dumps(content | changes))
    return str(folder)


def test_sizes_are_read_from_the_folder_of_a_model(tmp_path: Path):
    assert read_shape(write_config(tmp_path)) == SMALL
    wide = read_shape(write_config(tmp_path, model_type="qwen3", head_dim=32))
    assert wide == SMALL.model_copy(update={"head_dim": 32, "qk_norm": True})
    assert read_shape(write_config(tmp_path, attn_logit_softcapping=50.0)) is None


def test_the_folder_of_a_model_comes_before_the_config(tmp_path: Path):
    config = load(f"model.path={write_config(tmp_path)}")
    assert model_shape(config.model) == SMALL


def test_the_sizes_of_a_preset_are_not_those_of_another_model():
    other = load("model.path=Qwen/Qwen3-8B").model
    assert model_shape(other) == shape_of(load("model=qwen3-8b"))
    with pytest.raises(ConfigError, match="/no/such"):
        model_shape(load("model.path=/no/such").model)
    own = load("model.path=/no/such", "model.shape.num_layers=3").model
    assert model_shape(own) == own.shape


def test_a_start_model_has_the_sizes_it_is_planned_with():
    from archer.warm_start import make_model

    model = load("model=tiny", "cluster=local", "data=arithmetic").model
    shape = model_shape(model)
    assert shape is not None and model.warm_start is not None
    parameters = make_model(model.warm_start, shape.vocab_size).parameters()
    # Biases are left out.
    assert num_parameters(shape) == pytest.approx(sum(p.numel() for p in parameters), rel=0.01)


def test_an_architecture_of_experts_has_no_account(tmp_path: Path):
    config = load(f"model.path={write_config(tmp_path, num_experts=8)}")
    with pytest.raises(ConfigError, match="cannot account for this architecture"):
        report(config)


def test_a_launch_makes_the_plan_of_the_model_it_opens(tmp_path: Path):
    rows = [{"problem": f"{n}+1", "answer": str(n + 1)} for n in range(8)]
    train = tmp_path / "train.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = {
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 800,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
    }
    config = load_config(
        {
            "algo": {"name": "grpo"},
            "model": {"name": "huge", "path": str(write_model(tmp_path / "model", **sizes))},
            "data": {
                "name": "sums",
                "train": str(tmp_path / "train.jsonl"),
                "max_prompt_tokens": 64,
            },
            "reward": {"name": "math"},
            "sampling": {"max_response_tokens": 64},
            "trainer": {"prompts_per_step": 4, "mini_batch_prompts": 2},
            "cluster": {"kv_cache_bytes": 1 << 30},
        }
    )
    with pytest.raises(ConfigError, match="in this machine, the plan needs"):
        check_inputs(config)
