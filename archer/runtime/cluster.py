"""Ray and placement: with conf/cluster/, the place where CPU and GPU differ."""

from __future__ import annotations

import os
import re
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import (
    NodeAffinitySchedulingStrategy,
    PlacementGroupSchedulingStrategy,
)

from archer.config.keys import ClusterConfig, CommonConfig, TrainConfig
from archer.errors import ConfigError
from archer.preflight import EvalInputs, Inputs
from archer.rewards.pool.processes import passed_variables
from archer.types import SampleRequest
from archer.weight_sync import free_port
from archer.workers.group import RankHost, WorkerDied, WorkerGroup, last_words
from archer.workers.pool import StreamingPool
from archer.workers.reward import RewardWorker, max_outstanding
from archer.workers.rollout import RolloutSpec, RolloutWorker

QUIET = {
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
}
ON_CPU = {
    # "auto" would pin every engine of the machine to the same core.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # Two small sampler helpers are compiled even in eager mode: 20 s at the first request, for
    # nothing.
    "TORCHDYNAMO_DISABLE": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "DS_ACCELERATOR": "cpu",
}
FOR_IPC = {
    # Handles of CUDA memory are pickled on their way from the actor to its engine process. vLLM
    # wants to be asked, as whoever writes to their socket could run code: it is a Unix socket that
    # only the two hold.
    "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
}


GPU_SHARES = {"policy": 0.3, "reference": 0.1, "critic": 0.3, "engine": 0.3}
"""What Ray books of a GPU for each of those that take turns on it. Memory is theirs to divide."""
HOW_TO_START_RAY = (
    "Start it on the first node with `ray start --head`, on the others with `ray start "
    "--address=HEAD:6379`; `python -m archer.launch` writes scripts that do. RAY_AUTH_MODE and the "
    "token must be the same everywhere. On a single node a run with cluster.address=null, and "
    "without RAY_ADDRESS, starts it."
)


def start_ray(cluster: ClusterConfig) -> None:
    """Join the configured Ray cluster, or start one on this machine for this run.

    Raises:
        ConfigError: it cannot be joined, or does not start.
    """
    if ray.is_initialized():
        return
    options: dict[str, Any] = {
        "logging_level": "ERROR",
        "log_to_driver": False,
        "include_dashboard": False,
    }
    if cluster.address is not None:
        options = {"address": cluster.address, "logging_level": "ERROR", "log_to_driver": False}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray would overwrite CUDA_VISIBLE_DEVICES of actors without a GPU in a coming version; keep it
    # as it is.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = cluster.address
    if address in (None, "auto"):  # Ray looks there first
        address = os.environ.get("RAY_ADDRESS") or address
    try:
        _check_reachable(address or "")
        ray.init(**options)
    except Exception as error:  # of many types, and each means that there is no Ray for this run
        reason = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        raise ConfigError(
            "cluster.address" if address == cluster.address else "RAY_ADDRESS",
            address,
            f"a Ray cluster that can be {'started' if address is None else 'joined'}",
            f"{reason}. {'See its logs in /tmp/ray.' if address is None else HOW_TO_START_RAY}",
        ) from error


def _check_reachable(address: str) -> None:
    """Raise OSError where nothing listens at ``host:port``; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal() and "://" not in host:  # not auto, or a name that Ray resolves
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()


def reserved_bundles(cluster: ClusterConfig) -> list[list[dict[str, float]]]:
    """The placement groups of a run, none on CPU; a bundle lies on one node, so an engine does too.

    Returns:
        The bundles of the policy's group and, where engines have GPUs of their own, of theirs.
    """
    if cluster.device == "cpu":
        return []
    cpus = len(GPU_SHARES) * cluster.cpus_per_worker
    groups = [[{"GPU": 1, "CPU": cpus}] * cluster.policy_workers]
    if cluster.layout == "disaggregated":
        engine = {"GPU": cluster.tensor_parallel, "CPU": cpus}
        groups.append([engine] * cluster.rollout_replicas)
    return groups


class Placement:
    """Which Ray resources each worker gets.

    On CPU every worker takes ``cpus_per_worker`` anywhere. On GPUs ``colocated`` puts one rank of
    each role and one engine on each GPU; ``disaggregated`` gives engines GPUs of their own.
    """

    def __init__(self, cluster: ClusterConfig):
        self.cluster = cluster
        self._policy: PlacementGroup | None = None
        self._rollout: PlacementGroup | None = None
        groups = [self._reserve(bundles) for bundles in reserved_bundles(cluster)]
        if groups:
            self._policy, self._rollout = groups[0], groups[-1]

    def _reserve(self, bundles: list[dict[str, float]]) -> PlacementGroup:
        group = placement_group(bundles, strategy="PACK")
        try:
            ray.get(group.ready(), timeout=self.cluster.start_timeout_s)
        except GetTimeoutError:
            free = ray.available_resources()
            raise ConfigError(
                "cluster",
                f"{len(bundles)} x ({bundles[0]['GPU']:g} GPUs, {bundles[0]['CPU']:g} CPUs)",
                f"free GPUs and CPUs; Ray has {free.get('GPU', 0):g}, {free.get('CPU', 0):g} left",
                "Use fewer workers, or wait for the nodes to join.",
            ) from None
        return group

    def rank(self, role: str, rank: int) -> dict[str, Any]:
        """Actor options of a rank; those of one number are on one GPU, whatever their role."""
        return self._options(self._policy, rank, gpus=GPU_SHARES[role])

    def engine(self, replica: int) -> dict[str, Any]:
        """Actor options of a rollout engine."""
        is_shared = self.cluster.layout == "colocated"
        options = self._options(
            self._rollout,
            replica,
            gpus=GPU_SHARES["engine"] if is_shared else self.cluster.tensor_parallel,
        )
        if transfer_backend(self.cluster) == "ipc":
            options["runtime_env"]["env_vars"] |= FOR_IPC
        return options

    def rendezvous(self) -> dict[str, Any]:
        """Actor options of a helper on the node of policy rank 0."""
        return self._options(self._policy, 0, gpus=0)

    def _options(self, group: PlacementGroup | None, bundle: int, gpus: float) -> dict[str, Any]:
        environment = dict(QUIET)
        if self.cluster.device == "cpu":
            # More OpenMP threads than free cores spin against each other: a step of 2 s becomes one
            # of 20 s.
            num_threads = max(1, int(self.cluster.cpus_per_worker))
            environment |= ON_CPU | {"OMP_NUM_THREADS": str(num_threads)}
        options: dict[str, Any] = {
            "num_cpus": self.cluster.cpus_per_worker,
            "runtime_env": {"env_vars": environment},
        }
        if group is not None:
            options["num_gpus"] = gpus
            options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
                placement_group=group, placement_group_bundle_index=bundle
            )
        return options


def start_zero_group(
    worker: str, name: str, config: TrainConfig, inputs: Inputs, placement: Placement
) -> WorkerGroup:
    """Start the ranks of one role; returns before they are ready.

    Args:
        worker: dotted path of the class of one rank.
        name: the role, a key of ``GPU_SHARES``.
    """
    num_ranks = config.cluster.policy_workers
    # Rank 0 listens on the node it lands on: ask for a port there.
    options = placement.rendezvous()
    address, port = ray.get(
        ray.remote(_free_address).options(**options).remote(),
        timeout=config.cluster.start_timeout_s,
    )
    actors = [
        _start_actor(
            RankHost,
            placement.rank(name, rank),
            *(worker, config, inputs.model_path, rank, num_ranks, address, port),
        )
        for rank in range(num_ranks)
    ]
    return WorkerGroup(actors, name, config.cluster.step_timeout_s)


def _free_address() -> tuple[str, int]:
    return ray.util.get_node_ip_address(), free_port()


def _start_actor(worker: type, options: dict[str, Any], *args: Any) -> ActorHandle:
    # For the sake of completion in editors, Ray types a handle as "handle or the class itself".
    return cast(ActorHandle, ray.remote(worker).options(**options).remote(*args))


def start_rollouts(config: CommonConfig, inputs: EvalInputs, placement: Placement) -> StreamingPool:
    """Start the vLLM engines; returns before they are ready."""
    cluster = config.cluster
    spec = RolloutSpec(
        model_path=inputs.model_path,
        device=cluster.device,
        dtype=cluster.dtype,
        max_model_len=config.max_sequence_tokens,
        max_num_seqs=cluster.max_num_seqs,
        tensor_parallel=cluster.tensor_parallel,
        kv_cache_bytes=cluster.kv_cache_bytes,
        gpu_memory_utilization=cluster.gpu_memory_utilization,
        weight_transfer=transfer_backend(cluster),
        enable_sleep=cluster.layout == "colocated",
        eos_token_ids=inputs.eos_token_ids,
        trust_remote_code=config.model.trust_remote_code,
        seed=config.seed,
    )

    def spawn(replica: int) -> ActorHandle:
        return _start_actor(
            RolloutWorker, placement.engine(replica) | {"max_concurrency": 1000}, spec
        )

    def cost(request: SampleRequest) -> float:
        return len(request.prompt_tokens) + request.max_tokens

    return StreamingPool(spawn, cluster.rollout_replicas, "rollout", cluster.start_timeout_s, cost)


def start_rewards(config: CommonConfig) -> StreamingPool:
    """Start the reward pool: one actor, on the driver's node, over verifier processes that it can
    kill.

    Raises:
        ConfigError: a variable of ``reward.env`` is not set here.
    """
    reward = config.reward
    variables = passed_variables(reward.env)

    def spawn(_: int) -> ActorHandle:
        # Light and mostly waiting for its processes: it reserves nothing. They read what the driver
        # left in its cache.
        options = {
            "num_cpus": 0,
            "runtime_env": {"env_vars": QUIET},
            "max_concurrency": 1000,
            "scheduling_strategy": NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=False
            ),
        }
        return _start_actor(RewardWorker, options, reward, variables)

    return StreamingPool(
        spawn,
        1,
        "reward",
        config.cluster.start_timeout_s,
        max_outstanding=max_outstanding(reward),
        kind=lambda request: request.source,
        max_of_kind=reward.max_concurrency,
    )


def transfer_backend(cluster: ClusterConfig) -> str:
    """Name of vLLM's weight-transfer backend for this layout."""
    if cluster.device == "cpu":
        return "shm"
    return "ipc" if cluster.layout == "colocated" else "nccl"


def wait_until_ready(
    refs: Sequence[ray.ObjectRef], timeout_s: float, names: Sequence[str]
) -> list[dict[str, Any]]:
    """Results of ``ready()`` calls: what each worker says of itself once it runs.

    Args:
        names: of the worker behind each call, for messages.

    Raises:
        ConfigError: they did not start in time, with what Ray still had to give.
        WorkerDied: one did not start, with its reason.
    """
    name_of = dict(zip(refs, names, strict=True))
    pending, deadline = list(refs), time.monotonic() + timeout_s
    while pending:
        done, pending = ray.wait(pending, timeout=max(0.0, deadline - time.monotonic()))
        if not done:
            raise ConfigError(
                "cluster.start_timeout_s",
                timeout_s,
                f"{', '.join(name_of[ref] for ref in pending)} ready in that time; "
                f"Ray has {ray.available_resources()} left",
                "Lower the number of workers or cluster.cpus_per_worker, or raise the timeout.",
            )
        try:
            ray.get(done)
        except (RayTaskError, RayActorError) as error:
            raise WorkerDied(f"{name_of[done[0]]} did not start. {_explain(error)}") from error
    return ray.get(list(refs))


def _explain(error: RayTaskError | RayActorError) -> str:
    """Why a worker failed, where its log is, and the log's last error if it can be read from here.

    vLLM raises little more than "see above": its engine process explains itself in the log.
    """
    reason = last_words(error)
    session = ray.get_runtime_context().get_session_name()
    folder = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", session, "logs")
    pid = re.search(r"pid[=:] *(\d+)", str(error))
    pattern = f"worker-*-{pid[1]}.err" if pid else "worker-*.err"
    texts = [path.read_text(errors="replace") for path in folder.glob(pattern)] if pid else []
    logged = re.findall(r"^\w*(?:Error|Exception): .*", "\n".join(texts), re.MULTILINE)
    more = logged[-1:] if logged and logged[-1] not in reason else []
    return "\n".join([reason, f"Its log, on its node: {folder / pattern}", *more])


def describe_nodes() -> list[dict[str, Any]]:
    """Node addresses and resources, for the run's environment.json."""
    return [
        {"address": n["NodeManagerAddress"], "resources": n["Resources"]}
        for n in ray.nodes()
        if n["Alive"]
    ]


def stop_ray() -> None:
    """End the actors of this run, and the cluster if the run started it.

    Ray kills an actor's process group with it. Verifiers have groups of their own; the kernel ends
    them, and engines whose Ray was killed, with their actor (``lifetime.die_with``).
    """
    ray.shutdown()
