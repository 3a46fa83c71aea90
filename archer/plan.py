"""Memory and time of a run before anything is launched, from the sizes of its model.

    python -m archer.plan model=r1-distill-1.5b cluster=2x8
    python -m archer.plan experiment=archer_math_1.5b gpu=h100 cluster.gpu_memory_gb=80
    python -m archer.plan model.path=FOLDER cluster=1x8 format=json

Nothing is downloaded where a preset holds the model's sizes. See docs/plan.md.
Exit status: 0 where the plan fits, 1 where it does not, 2 for settings that no run can have.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from typing import Any, Literal

import hydra
from omegaconf import DictConfig
from rich import box
from rich.console import Console
from rich.table import Table

from archer.config import CONF
from archer.config.checks import check_common, check_training
from archer.config.command_line import run_hydra, run_or_explain
from archer.config.keys import TrainConfig
from archer.config.schema import PositiveInt, store_defaults, validate
from archer.errors import ConfigError
from archer.planning.memory_model import GIB
from archer.planning.memory_plan import (
    Plan,
    Pool,
    advice,
    find_change,
    limits_here,
    make_plan,
    total,
)
from archer.planning.shape import check_shape, model_shape
from archer.planning.time_model import GPUS, StepTime, step_time

COLUMNS = {
    "weights": "weights",
    "gradients": "grads",
    "optimizer": "optim",
    "activations": "activ",
    "kv_cache": "KV",
    "buffers": "buffers",
    "runtime": "process",
}
"""Terms of a footprint, and how tables head them."""


class PlanConfig(TrainConfig):
    """Everything `python -m archer.plan` takes: a training run, and the machine it is for."""

    gpu: Literal["a100", "h100", "h800", "h200"] = "h800"
    """Speed of the GPUs; their memory too, where none are here and `cluster.gpu_memory_gb` is
    empty."""
    mean_response_tokens: PositiveInt | None = None
    """For the time estimate; empty assumes 0.3 of the limit."""
    format: Literal["table", "json"] = "table"


store_defaults("plan_base", PlanConfig)


def report(config: PlanConfig) -> bool:
    """Print the plan; whether it fits.

    Raises:
        ConfigError: the sizes of the model are not known, or refuse the run.
    """
    shape = model_shape(config.model)
    if shape is None:
        raise ConfigError(
            "model.path",
            config.model.path,
            "a decoder with gated MLPs",
            "The plan cannot account for this architecture; set model.shape to sizes like its own.",
        )
    check_shape(config, shape)
    gpu = GPUS[config.gpu]
    limits = limits_here(config.cluster)
    if limits.gpu is None:
        limits = replace(limits, gpu=gpu.memory_gib * GIB)
    plan = make_plan(config, shape, limits)
    time = None
    if config.cluster.device == "cuda" and plan.engine.full_sequences:
        time = step_time(config, shape, plan.engine, gpu, config.mean_response_tokens)
    change = None if plan.load <= 1 else find_change(config, shape, limits)
    if config.format == "json":
        print(json.dumps(_figures(config, plan, time, change), indent=1))
    else:
        _show(config, plan, time, change, Console(highlight=False, width=100))
    return plan.fits


def _figures(
    config: PlanConfig, plan: Plan, time: StepTime | None, change: dict[str, Any] | None
) -> dict[str, Any]:
    """The plan as plain data; sizes in bytes, times in seconds."""
    return {
        "fits": plan.fits,
        "limiting": plan.limiting,
        "change": change,
        "num_parameters": plan.num_parameters,
        "pools": [
            {
                "name": pool.name,
                "capacity": pool.capacity,
                "needed": pool.needed,
                "moments": {
                    name: {process: asdict(footprint) for process, footprint in moment.items()}
                    for name, moment in pool.moments.items()
                },
            }
            for pool in plan.pools
        ],
        "kv_cache_bytes": plan.engine.kv_cache,
        "full_sequences": plan.engine.full_sequences,
        "step_s": None if time is None else asdict(time) | {"total": time.total},
        "run_hours": None if time is None else time.total * config.trainer.num_steps / 3600,
    }


def _show(
    config: PlanConfig,
    plan: Plan,
    time: StepTime | None,
    change: dict[str, Any] | None,
    console: Console,
) -> None:
    cluster = config.cluster
    console.print(
        f"{config.model.path or config.model.name}: {plan.num_parameters / 1e9:.2f} B parameters, "
        f"{cluster.dtype}; "
        f"sequences of {config.max_sequence_tokens:,} tokens, micro-batches of "
        f"{config.trainer.micro_batch_tokens:,}; ZeRO-{cluster.zero_stage}, {cluster.layout}"
    )
    for pool in plan.pools:
        _show_pool(pool, console)
    console.print(
        f"KV cache of an engine: {max(0.0, plan.engine.kv_cache) / GIB:.1f} GiB a GPU, "
        f"{plan.engine.full_sequences:.1f} sequences of full length at once"
    )
    if time is not None:
        _show_time(config, time, console)
    if plan.fits:
        console.print(f"Fits; fullest is {plan.tightest.name} with {plan.tightest.load:.0%}.")
        console.print(f"Limiting: {plan.limiting}.")
    else:
        console.print(f"[red]Does not fit.[/] Limiting: {plan.limiting}.")
        console.print(advice(change))


def _show_pool(pool: Pool, console: Console) -> None:
    capacity = "" if pool.capacity is None else f" of {pool.capacity / GIB:.0f}"
    console.print(f"\n[bold]{pool.name}: {pool.needed / GIB:.1f}{capacity} GiB[/]")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
    table.add_column("", no_wrap=True)
    for heading in (*COLUMNS.values(), "all"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, moment in pool.moments.items():
        blanks = [""] * len(COLUMNS)
        table.add_row(name, *blanks, f"{total(moment) / GIB:.1f}", style="bold")
        for process, footprint in moment.items():
            sizes = [*(getattr(footprint, column) for column in COLUMNS), footprint.total]
            table.add_row(f"  {process}", *(f"{s / GIB:.1f}" if s else "" for s in sizes))
    console.print(table)


def _show_time(config: PlanConfig, time: StepTime, console: Console) -> None:
    cluster, steps = config.cluster, config.trainer.num_steps
    hours = time.total * steps / 3600
    console.print(
        f"A step on {config.gpu}, about: {time.total:.0f} s, of which rollout {time.rollout:.0f} "
        f"({time.rollout_bound}), log-probs {time.logprobs:.0f}, update {time.update:.0f}, "
        f"weight sync {time.weight_sync:.0f}"
    )
    gpus = cluster.num_nodes * cluster.gpus_per_node
    console.print(
        f"{steps} steps, without evaluations: {hours:.0f} hours, {hours * gpus:.0f} GPU-hours; "
        "assumptions in docs/plan.md"
    )


def load_plan_config(composed: DictConfig | dict[str, Any]) -> PlanConfig:
    """Validate a composed configuration; data files are not asked for.

    Raises:
        ConfigError: names the key, the value, what was expected and how to mend it.
    """
    config = validate(PlanConfig, composed)
    check_common(config)
    check_training(config)
    return config


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="plan")
def _hydra_main(composed: DictConfig) -> None:
    fits = run_or_explain(lambda: report(load_plan_config(composed)))
    sys.exit(0 if fits else 1)


def main() -> None:
    run_hydra(_hydra_main, CONF, PlanConfig)


if __name__ == "__main__":
    main()
