"""Whether a run fits the memory it is given, and which change of its settings would.

``memory_model`` says what each process holds; here those that share a GPU or a node come together,
moment by moment.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import psutil

from archer.config.checks import check_common, check_training
from archer.config.keys import ClusterConfig, ShapeConfig, TrainConfig
from archer.config.schema import override
from archer.errors import ConfigError
from archer.planning.memory_model import (
    ASLEEP,
    CPU_PROCESS,
    CUDA_CONTEXT,
    GIB,
    GPU_PROCESS,
    SEND_BUFFERS,
    WIDTH,
    Engine,
    Footprint,
    ZeroRank,
    engine,
    head_parameters,
    num_parameters,
)
from archer.runtime.machine import zero_roles

ROOM = 0.9
"""Share of the memory that a suggested change may fill: PyTorch's allocator leaves gaps."""
REFUSED = 1.15
"""The account may be off by so much (docs/plan.md): a launch is refused only beyond it."""

Moment = dict[str, Footprint]
"""Process to what it holds."""
Ranks = dict[str, ZeroRank]
"""Role to one of its ranks."""


@dataclass(frozen=True)
class Limits:
    """Memory that there is, in bytes; None where that is not known."""

    gpu: float | None
    """Of one GPU."""
    cpu: float | None
    """Of a node, or of this machine where all runs on it."""


def limits_here(cluster: ClusterConfig) -> Limits:
    """What this machine has; a driver that sees GPUs is on a node like the others."""
    seen = None if cluster.device == "cpu" else _gpu_memory()
    gpu = cluster.gpu_memory_gb * GIB if cluster.gpu_memory_gb else seen
    is_node = cluster.device == "cpu" or seen is not None
    return Limits(gpu, _cpu_memory() if is_node else None)


@dataclass(frozen=True)
class Pool:
    """Memory that processes share: that of one GPU, or the CPU memory of a node."""

    name: str
    capacity: float | None
    """Bytes; None where it is not known."""
    moments: dict[str, Moment]

    @property
    def fullest(self) -> str:
        """The moment that needs most."""
        return max(self.moments, key=lambda name: total(self.moments[name]))

    @property
    def needed(self) -> float:
        """Bytes in the fullest moment."""
        return total(self.moments[self.fullest])

    @property
    def load(self) -> float:
        """Needed share of the capacity; 0 where that is not known."""
        return self.needed / self.capacity if self.capacity else 0.0

    @property
    def limiting(self) -> str:
        """The largest term of the fullest moment."""
        terms = {
            f"{term.name.replace('_', ' ')} of the {process}": getattr(footprint, term.name)
            for process, footprint in self.moments[self.fullest].items()
            for term in fields(footprint)
        }
        term = max(terms, key=lambda name: terms[name])
        return f"{term}, {terms[term] / GIB:.1f} GiB"


@dataclass(frozen=True)
class Plan:
    """What a run takes."""

    pools: list[Pool]
    engine: Engine
    num_parameters: int

    @property
    def tightest(self) -> Pool:
        """The memory of which the largest share is needed."""
        return max(self.pools, key=lambda pool: pool.load)

    @property
    def load(self) -> float:
        """What is needed over what there is, where that is the largest.

        A KV cache that does not hold one sequence is too small, and vLLM refuses it.
        """
        cache = 1 / self.engine.full_sequences if self.engine.full_sequences else float("inf")
        return max(self.tightest.load, cache if cache > 1 else 0.0)

    @property
    def fits(self) -> bool:
        """Whether nothing is short, by the account as it is: see ``REFUSED`` for its error."""
        return self.load <= 1

    @property
    def limiting(self) -> str:
        """What is short, in words."""
        pool = self.tightest
        if self.engine.full_sequences < 1 and pool.load <= 1:
            return f"the KV cache holds {self.engine.full_sequences:.2f} sequences of full length"
        return f"{pool.name}, {pool.fullest}: {pool.limiting}"


def make_plan(config: TrainConfig, shape: ShapeConfig, limits: Limits) -> Plan:
    """Account for the memory of a run."""
    found = engine(config, shape, limits.gpu)
    ranks = {role: ZeroRank(config, shape, role) for role in zero_roles(config)}
    cluster = config.cluster
    if cluster.device == "cpu":
        pools = [_machine_pool(config, found, ranks, limits.cpu)]
    else:
        if cluster.layout == "colocated":
            gpus = [_shared_gpu(found, ranks, limits.gpu)]
        else:
            gpus = [_policy_gpu(ranks, limits.gpu), _engine_gpu(found, limits.gpu)]
        pools = [*gpus, _node_pool(cluster, found, ranks, limits.cpu)]
    return Plan(pools, found, num_parameters(shape))


def total(moment: Moment) -> float:
    """Bytes of all processes."""
    return sum(footprint.total for footprint in moment.values())


def _shared_gpu(found: Engine, ranks: Ranks, capacity: float | None) -> Pool:
    """``turns.py``: engines sleep while ranks work; ranks are in CPU memory while engines sample.

    PyTorch keeps what it freed for its own process. The policy gives it back only when it leaves,
    so that what it once took counts until then; reference and critic leave after each pass.
    """
    asleep = Footprint(runtime=CUDA_CONTEXT + ASLEEP)
    away = {role: Footprint(runtime=rank.runtime) for role, rank in ranks.items()}
    policy = ranks["policy"]
    moments = {"rollout": {"engine": found.awake} | away}
    for role in ranks:
        if role != "policy":
            moments[f"log-probs, {role}"] = (
                away
                | {"engine": asleep, "policy": policy.forward()}
                | {role: ranks[role].forward()}
            )
    updated = away | {"engine": asleep, "policy": policy.peak()}
    moments["update"] = updated
    if "critic" in ranks:
        moments["update, critic"] = updated | {"critic": ranks["critic"].peak()}
    buffer = max(SEND_BUFFERS["ipc"], head_parameters(policy.shape) * policy.width)
    sending = replace(policy.states(), buffers=buffer)
    moments["weight sync"] = away | {
        "engine": Footprint(weights=found.weights, buffers=buffer, runtime=asleep.runtime),
        "policy": max(policy.peak(), sending, key=lambda footprint: footprint.total),
    }
    return Pool("each GPU", capacity, moments)


def _policy_gpu(ranks: Ranks, capacity: float | None) -> Pool:
    """Processes keep what they once took, so that all peaks add."""
    peaks = {role: rank.peak() for role, rank in ranks.items()}
    sending = replace(ranks["policy"].states(), buffers=SEND_BUFFERS["nccl"])
    if sending.total > peaks["policy"].total:
        peaks["policy"] = sending
    return Pool("each GPU of the policy", capacity, {"update": peaks})


def _engine_gpu(found: Engine, capacity: float | None) -> Pool:
    received = replace(found.awake, buffers=SEND_BUFFERS["nccl"])
    moments = {"rollout": {"engine": found.awake}, "weight sync": {"engine": received}}
    return Pool("each GPU of the engines", capacity, moments)


def _node_pool(cluster: ClusterConfig, found: Engine, ranks: Ranks, capacity: float | None) -> Pool:
    """CPU memory of a node: of processes, and of what leaves the GPUs."""
    num_ranks = min(cluster.gpus_per_node, cluster.policy_workers)
    engine_gpus = min(cluster.gpus_per_node, cluster.rollout_replicas * cluster.tensor_parallel)
    backup = found.weights if cluster.layout == "colocated" else 0.0
    # An engine is an actor and the process that holds its model.
    engines = Footprint(weights=backup, runtime=2 * GPU_PROCESS).times(engine_gpus)
    moments = {"start": {"engines": engines}, "training": {"engines": engines}}
    for role, rank in ranks.items():
        process = Footprint(runtime=GPU_PROCESS)
        # Every rank reads the whole model before ZeRO shares it out.
        loaded = replace(process, weights=rank.num_parameters * rank.width)
        moments["start"][role] = loaded.times(num_ranks)
        moments["training"][role] = _off_gpu(rank, process).times(num_ranks)
    return Pool("CPU memory of a node", capacity, moments)


def _off_gpu(rank: ZeroRank, process: Footprint) -> Footprint:
    """What a rank has in CPU memory beside its process while it is not on its GPU."""
    cluster = rank.cluster
    takes_turns = cluster.layout == "colocated"
    weights = rank.num_parameters * rank.width
    if not rank.num_trained:
        is_off = takes_turns or cluster.offload_reference
        share = weights / rank.ranks if rank.stage == 3 else weights
        return replace(process, weights=share if is_off else 0.0)
    # Master weights and two moments are buffers of the same size.
    optimizer = 3 * _locked(rank.optimizer_bytes() / 3)
    if takes_turns:
        return replace(process, weights=_locked(weights), optimizer=optimizer)
    if cluster.offload_optimizer:
        gradients = _locked(4 * rank.num_trained / rank.ranks)
        return replace(process, gradients=gradients, optimizer=optimizer)
    return process


def _locked(size: float) -> float:
    """Size of a page-locked buffer: PyTorch rounds up to a power of two."""
    return float(1 << (int(size) - 1).bit_length()) if size >= 1 else 0.0


def _machine_pool(config: TrainConfig, found: Engine, ranks: Ranks, capacity: float | None) -> Pool:
    """All processes of a run without GPUs, on this machine."""
    cluster = config.cluster
    # The block of weights for the engines, in shared memory.
    block = num_parameters(ranks["policy"].shape) * WIDTH[cluster.dtype]
    always = {
        "engines": found.awake.times(cluster.rollout_replicas),
        "others": Footprint(runtime=CPU_PROCESS["other"], buffers=block),
    }
    passes = {role: rank.forward().times(rank.ranks) for role, rank in ranks.items()}
    update = {
        role: (rank.resident() if rank.num_trained else rank.states()).times(rank.ranks)
        for role, rank in ranks.items()
    }
    moments = {"log-probs": always | passes, "update": always | update}
    return Pool("this machine", capacity, moments)


def _gpu_memory() -> float | None:
    """Of the smallest NVIDIA GPU of this machine; None where there is none."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return min(float(line) for line in listing.stdout.split()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _cpu_memory() -> float:
    """CPU memory of this machine, or of the container where that is less."""
    limits = [float(psutil.virtual_memory().total)]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        file = Path("/sys/fs/cgroup") / name
        text = file.read_text().strip() if file.is_file() else "max"
        if text.isdigit():
            limits.append(float(text))
    return min(limits)


def find_change(config: TrainConfig, shape: ShapeConfig, limits: Limits) -> dict[str, Any] | None:
    """Settings with which the plan fits, with room; None where none of those that are tried does.

    Tried are those that cost speed, alone and together, then other engines, then more GPUs.
    """
    savings = list(_savings(config))
    together = [
        {key: value for saving in savings[:n] for key, value in saving.items()}
        for n in range(2, len(savings) + 1)
    ]
    for more in _more_gpus(config):
        for engines in _engines(config):
            for saving in ({}, *savings, *together):
                change = {**more, **engines, **saving}
                changed = _changed(config, change)
                if _is_valid(changed) and make_plan(changed, shape, limits).load <= ROOM:
                    return change
    return None


def _is_valid(config: TrainConfig) -> bool:
    try:
        check_common(config)
        check_training(config)
    except ConfigError:
        return False
    return True


def _savings(config: TrainConfig) -> Iterator[dict[str, Any]]:
    """What training can save, by what it costs in speed."""
    model, cluster, trainer = config.model, config.cluster, config.trainer
    on_gpu = cluster.device == "cuda"
    if trainer.micro_batch_tokens > config.max_sequence_tokens:
        yield {"trainer.micro_batch_tokens": config.max_sequence_tokens}
    is_packed = cluster.packing == "packed" and cluster.dtype == "bfloat16"
    if on_gpu and is_packed and model.attention != "varlen":
        yield {"model.attention": "varlen"}
    if not model.gradient_checkpointing:
        yield {"model.gradient_checkpointing": True}
    if cluster.zero_stage < 2:
        yield {"cluster.zero_stage": 2}
    if on_gpu and cluster.layout == "disaggregated":  # neither goes where GPUs are shared
        if not cluster.offload_optimizer:
            yield {"cluster.offload_optimizer": True}
        if cluster.zero_stage < 3:
            yield {"cluster.zero_stage": 3}


def _engines(config: TrainConfig) -> Iterator[dict[str, Any]]:
    """Engines with a larger or smaller share of the memory, or on more GPUs."""
    yield {}
    cluster = config.cluster
    if cluster.device == "cpu":
        return
    if cluster.kv_cache_bytes is None:
        yield from ({"cluster.gpu_memory_utilization": u} for u in (0.85, 0.75, 0.6, 0.5, 0.4, 0.3))
    gpus = cluster.rollout_replicas * cluster.tensor_parallel
    for size in (2, 4, 8):
        if size > cluster.tensor_parallel and gpus % size == 0:
            yield {"cluster.tensor_parallel": size, "cluster.rollout_replicas": gpus // size}


def _more_gpus(config: TrainConfig) -> Iterator[dict[str, Any]]:
    """Two to sixteen times the GPUs: up to eight on a node, then more nodes."""
    yield {}
    cluster = config.cluster
    if cluster.device == "cpu":
        return
    for factor in (2, 4, 8, 16):
        on_node = min(factor, max(1, 8 // cluster.gpus_per_node))
        num_nodes = cluster.num_nodes * factor // on_node
        joins = {"cluster.address": "auto"} if num_nodes > 1 and cluster.address is None else {}
        yield joins | {
            "cluster.num_nodes": num_nodes,
            "cluster.gpus_per_node": cluster.gpus_per_node * on_node,
            "cluster.policy_workers": cluster.policy_workers * factor,
            "cluster.rollout_replicas": cluster.rollout_replicas * factor,
        }


def _changed(config: TrainConfig, change: dict[str, Any]) -> TrainConfig:
    for key, value in change.items():
        section, _, name = key.partition(".")
        inner = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section: inner})
    return config


def check_plan(config: TrainConfig, shape: ShapeConfig) -> None:
    """Refuse a run that needs more memory than there is, beyond the error of the account.

    Raises:
        ConfigError: names the memory, the limiting term, and a change that fits.
    """
    limits = limits_here(config.cluster)
    if config.cluster.device == "cuda" and limits.gpu is None:
        return
    plan = make_plan(config, shape, limits)
    if plan.load <= REFUSED:
        return
    pool = plan.tightest
    available = 0.0 if pool.capacity is None else pool.capacity / GIB
    expected = f"a run whose plan fits; short is {plan.limiting}"
    if pool.load > 1:
        expected = (
            f"at most {available:.0f} GiB in {pool.name}, the plan needs "
            f"{pool.needed / GIB:.0f} GiB ({pool.fullest}; most is {pool.limiting})"
        )
    change = find_change(config, shape, limits)
    raise ConfigError("cluster", config.cluster.layout, expected, advice(change))


def advice(change: dict[str, Any] | None) -> str:
    """What ``find_change`` found, as overrides of a command line, or that it found nothing."""
    if change is None:
        return (
            "No change that the plan knows fits: use larger GPUs or a smaller model, or lower "
            "sampling.max_response_tokens; see python -m archer.plan."
        )
    words = " ".join(override(key, value) for key, value in change.items())
    return f"By the plan this fits: {words}"
