"""Whether this machine can carry the run: packages, CPUs, GPUs. Nothing here imports torch."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from ctypes import CDLL
from importlib.util import find_spec

from archer.algos import resolve_algorithm
from archer.config.keys import CommonConfig, TrainConfig
from archer.errors import ConfigError

REWARD_WORKER_CPUS = 0.1
"""CPU share counted for one verifier process; they are idle most of the time."""


def check_machine(config: CommonConfig) -> None:
    """Packages, and the CPUs or GPUs of a cluster that is to be started here.

    Raises:
        ConfigError: the run cannot work here; says why and how to mend it.
    """
    _check_packages(config)
    _check_attention(config)
    cluster = config.cluster
    if cluster.address is None:
        if cluster.num_nodes > 1:
            raise ConfigError(
                "cluster.num_nodes",
                cluster.num_nodes,
                "1 without cluster.address",
                "Start Ray on the nodes and set cluster.address=auto.",
            )
        if cluster.device == "cuda":
            _check_gpus(cluster.gpus_per_node)
        else:
            _check_cpus(config)


def num_workers(config: CommonConfig) -> int:
    """Rollout workers, and when training the policy, reference and critic workers."""
    cluster = config.cluster
    if not isinstance(config, TrainConfig):
        return cluster.rollout_replicas
    return cluster.rollout_replicas + len(zero_roles(config)) * cluster.policy_workers


def zero_roles(config: TrainConfig) -> list[str]:
    """Who holds a model under ZeRO: the policy, and what the algorithm needs beside it."""
    needs, roles = resolve_algorithm(config.algo).needs, ["policy"]
    # Under LoRA the policy without its adapters is the reference.
    if "ref_logprobs" in needs and config.model.lora is None:
        roles.append("reference")
    if "values" in needs:
        roles.append("critic")
    return roles


def visible_gpus() -> int:
    """NVIDIA GPUs that this process may use, found without torch."""
    try:
        command = ["nvidia-smi", "--list-gpus"]
        listing = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return 0
    present = sum(line.startswith("GPU ") for line in listing.stdout.splitlines())
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return present
    return min(present, sum(name.strip() not in ("", "-1") for name in allowed.split(",")))


def _check_packages(config: CommonConfig) -> None:
    device = config.cluster.device
    for package in required_packages(config):
        if find_spec(package) is None:
            raise ConfigError(
                "cluster.device",
                device,
                f"an environment with the package {package}",
                f"Install the {device} stack: `make train` does, or "
                f"pip install --no-deps -r requirements/{device}.txt.",
            )
    if device == "cpu" and platform.system() == "Linux":
        _check_numa()


def required_packages(config: CommonConfig) -> list[str]:
    """Packages that a run imports beside those every command needs."""
    packages = ["ray", "vllm"]
    if isinstance(config, TrainConfig):
        packages += ["deepspeed"] if config.model.lora is None else ["deepspeed", "peft"]
    return packages


def _check_attention(config: CommonConfig) -> None:
    cluster, needed = config.cluster, {"device": "cuda", "dtype": "bfloat16", "packing": "packed"}
    if not isinstance(config, TrainConfig) or config.model.attention != "varlen":
        return
    for key, value in needed.items():
        if getattr(cluster, key) != value:
            raise ConfigError(
                "model.attention",
                "varlen",
                f"sdpa or eager with cluster.{key}={getattr(cluster, key)}",
                f"Set model.attention=sdpa, or cluster.{key}={value}.",
            )


def _check_numa() -> None:
    # Without it vLLM starts, and then lacks its own operators.
    try:
        CDLL("libnuma.so.1")
    except OSError as error:
        raise ConfigError(
            "cluster.device",
            "cpu",
            f"the system library libnuma.so.1, which vLLM needs on a CPU ({error})",
            "Install it: apt-get install libnuma1, or dnf install numactl-libs.",
        ) from error


def _check_cpus(config: CommonConfig) -> None:
    available, workers, cluster = available_cpus(), num_workers(config), config.cluster
    verifiers = config.reward.num_workers * REWARD_WORKER_CPUS
    demand = round(workers * cluster.cpus_per_worker + verifiers, 6)
    if demand <= available:
        return
    share = math.floor((available - verifiers) / workers * 100 + 1e-6) / 100
    mend = "Lower cluster.policy_workers, cluster.rollout_replicas or reward.num_workers"
    if share > 0:
        mend += f", or share the CPUs with cluster.cpus_per_worker={share}"
    raise ConfigError(
        "cluster.cpus_per_worker",
        cluster.cpus_per_worker,
        f"a demand of at most the {available} CPUs of this machine, {workers} workers and "
        f"{config.reward.num_workers} verifiers need {demand:.1f}",
        f"{mend}.",
    )


def available_cpus() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _check_gpus(wanted: int) -> None:
    visible = visible_gpus()
    if visible == 0:
        raise ConfigError(
            "cluster.device",
            "cuda",
            "a visible NVIDIA GPU, there is none",
            "Check nvidia-smi and CUDA_VISIBLE_DEVICES, or set cluster=local.",
        )
    if visible < wanted:
        raise ConfigError(
            "cluster.gpus_per_node",
            wanted,
            f"at most the {visible} visible GPUs",
            f"Set cluster.gpus_per_node={visible}, or check CUDA_VISIBLE_DEVICES.",
        )
