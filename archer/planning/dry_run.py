"""What a training run would do, for `trainer.dry_run=true`: all of it but the actors."""

from __future__ import annotations

from archer.config.keys import ShapeConfig, TrainConfig
from archer.planning.memory_model import GIB
from archer.planning.memory_plan import check_plan, limits_here, make_plan
from archer.preflight import Inputs, not_here
from archer.prompts import PromptLoader, describe_prompts
from archer.runtime.machine import zero_roles
from archer.runtime.run_directory import check_disk, nearest_existing

SHOWN_CHARACTERS = 400
"""Of the first prompt."""


def describe_run(config: TrainConfig, inputs: Inputs) -> list[str]:
    """Lines on the model, the prompts, a step, the length of the run, its workers and memory."""
    trainer = config.trainer
    num_updates = trainer.epochs * trainer.prompts_per_step // trainer.mini_batch_prompts
    passes = trainer.num_steps * trainer.prompts_per_step / len(inputs.train.prompts)
    first = PromptLoader(inputs.train.prompts, config.seed).next()
    window = "no limit" if inputs.window is None else f"{inputs.window:,} tokens"
    existing = nearest_existing(config.run_dir)
    return [
        f"run: {config.run_dir}" + ("" if existing == config.run_dir else f", new in {existing}"),
        *not_here(lambda: check_disk(config, inputs.num_parameters)),
        f"model: {inputs.model_path}, {inputs.num_parameters:,} parameters, window {window}",
        *describe_prompts({"train": inputs.train} | inputs.evals),
        f"first prompt, {len(first.tokens)} tokens: {first.text[:SHOWN_CHARACTERS]!r}",
        f"step: {trainer.prompts_per_step} prompts x {trainer.group_size} responses of up to "
        f"{config.sampling.max_response_tokens:,} tokens, {num_updates} optimizer steps of "
        f"{trainer.mini_batch_prompts * trainer.group_size} responses",
        f"length: {trainer.num_steps} steps, {trainer.num_steps * num_updates:,} optimizer steps, "
        f"{passes:.2f} passes over the prompts",
        f"workers: {_describe_workers(config)}",
        *_describe_memory(config, inputs.shape),
    ]


def _describe_workers(config: TrainConfig) -> str:
    cluster = config.cluster
    ranks = ", ".join(f"{cluster.policy_workers} {role}" for role in zero_roles(config))
    engines = f"{cluster.rollout_replicas} vLLM"
    place = "CPUs of one machine"
    if cluster.device == "cuda":
        engines += f" x {cluster.tensor_parallel} GPUs"
        place = f"{cluster.num_nodes} x {cluster.gpus_per_node} GPUs, {cluster.layout}"
    return f"{ranks} (ZeRO-{cluster.zero_stage}), {engines}, on {place}"


def _describe_memory(config: TrainConfig, shape: ShapeConfig | None) -> list[str]:
    """Where it is tightest, by the plan; refused only if the nodes' own memory is given."""
    if shape is None:
        return ["memory: not known of this architecture"]
    if config.cluster.gpu_memory_gb is not None:
        check_plan(config, shape)
        lacking = []
    else:
        lacking = not_here(lambda: check_plan(config, shape))
    pool = make_plan(config, shape, limits_here(config.cluster)).tightest
    available = "" if pool.capacity is None else f" of {pool.capacity / GIB:.1f}"
    return [
        f"memory: {pool.needed / GIB:.1f}{available} GiB in {pool.name} ({pool.fullest}; most is "
        f"{pool.limiting}); see python -m archer.plan",
        *lacking,
    ]
