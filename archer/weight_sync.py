"""Policy weights -> every rollout engine, with a version, verified.

Order of one push, held by a test on fakes: send (start, update, finish) -> commit the version and
drop the prefix cache -> compare fingerprints -> echo. A changed bit of any weight changes the
fingerprint, so a stale or partial sync is an error at once and never a slow failure. The echo asks
each engine for the log-probs of fixed tokens: the same values must also lie in the right places.

Transports are vLLM's weight-transfer backends: ``nccl`` between different GPUs, ``ipc`` on shared
ones, and ``shm`` (ours, registered in ``workers/vllm_cpu.py``) on a CPU.
"""

from __future__ import annotations

import math
import mmap
import os
import socket
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from archer.errors import WeightSyncError
from archer.runtime.turns import Turns, ask_engines
from archer.workers.group import NoAnswer, WorkerDied, WorkerGroup
from archer.workers.pool import StreamingPool

if TYPE_CHECKING:
    import torch

ECHO_TOLERANCE = {"float32": 1e-4, "bfloat16": 0.25}
"""Largest |log-prob difference| between engine and trainer that counts as the same weights; kernels
that compute in bfloat16 differ by a few hundredths on the same weights."""


PROBE_S = 10.0
"""How long an engine may take to say that it lives; it hangs otherwise."""


class WeightSync:
    """Driver side: pushes a version of the policy to all engines of the pool.

    Args:
        policy: the ZeRO ranks; every rank takes part in every push.
        rollouts: the pool of engines.
        backend: ``shm``, ``nccl`` or ``ipc``.
        echo_tokens: int32 [n], tokens whose log-probs are compared after each push.
        dtype: compute type, which sets the tolerance.
        timeout_s: deadline of one push.
        turns: who holds the memory of shared GPUs.
    """

    def __init__(
        self,
        policy: WorkerGroup,
        rollouts: StreamingPool,
        *,
        backend: str,
        echo_tokens: np.ndarray,
        dtype: str,
        timeout_s: float,
        turns: Turns,
    ):
        # A push has a deadline of its own: a broadcast whose peer died never returns.
        self.policy, self.rollouts, self.backend = policy.within(timeout_s), rollouts, backend
        self.echo_tokens, self.tolerance = echo_tokens, ECHO_TOLERANCE[dtype]
        self.timeout_s, self.turns = timeout_s, turns
        self.version = 0
        self._connected: list[ActorHandle] = []
        rollouts.prepare = self._refresh

    def push(self, version: int) -> dict[str, float]:
        """Send the current policy weights to every engine as ``version``.

        An engine that died before or meanwhile is replaced, as often as the pool allows.

        Raises:
            WeightSyncError: the deadline passed, an engine refused, or holds other weights.
            WorkerDied: policy ranks died, or wait for ever for an engine that did.
        """
        self.version = version
        while True:
            self.rollouts.ensure_alive()
            num_restarts = self.rollouts.num_restarts
            try:
                return self._push(self.rollouts.actors)
            except NoAnswer:
                raise
            except (WorkerDied, RayActorError, WeightSyncError):
                # The death of an engine shows in many ways, that of a policy rank among them.
                self.rollouts.ensure_alive()
                if self.rollouts.num_restarts == num_restarts:
                    raise

    def _refresh(self, actor: ActorHandle) -> None:
        """Bring a restarted engine to the current version."""
        self._push([actor])

    def _push(self, actors: list[ActorHandle]) -> dict[str, float]:
        began = time.monotonic()
        self.turns.syncing()
        if actors != self._connected:
            self.policy.call("connect", self.backend, actors)
            self._connected = list(actors)
        self._send(actors)
        fingerprint = self.policy.call("fingerprint")[0]
        expected = self.policy.call("echo", self.echo_tokens)[0]
        self.turns.sampling()
        self._ask(actors, "commit_version", self.version)
        self._compare_fingerprints(actors, fingerprint)
        return {
            "weight_sync/echo_diff": self._compare_echoes(actors, expected),
            "weight_sync/push_s": time.monotonic() - began,
        }

    def _send(self, actors: list[ActorHandle]) -> None:
        try:
            self.policy.call("send_weights")
        except (RayTaskError, NoAnswer) as error:
            if isinstance(error, NoAnswer) and any(map(_is_dead, actors)):
                raise  # ranks that hang in a broadcast to a dead engine must be replaced
            raise WeightSyncError(
                f"weight version {self.version} did not reach every engine: {error}"
            ) from error

    def _compare_fingerprints(self, actors: list[ActorHandle], expected: int) -> None:
        for i, found in enumerate(self._ask(actors, "fingerprint")):
            if found != expected:
                raise WeightSyncError(
                    f"engine {i} lacks weight version {self.version}: its weights have the "
                    f"fingerprint {found:016x}, the trainer's {expected:016x}"
                )

    def _compare_echoes(self, actors: list[ActorHandle], expected: np.ndarray) -> float:
        worst = 0.0
        for i, echoed in enumerate(self._ask(actors, "echo", self.echo_tokens.tolist())):
            difference = float(np.abs(echoed - expected).max(initial=0.0))
            if not difference <= self.tolerance:
                raise WeightSyncError(
                    f"engine {i} computes otherwise than the trainer with weight version "
                    f"{self.version}: log-probs differ by up to {difference:.3g} "
                    f"(allowed {self.tolerance:g})"
                )
            worst = max(worst, difference)
        return worst

    def _ask(self, actors: list[ActorHandle], method: str, *args: Any) -> list[Any]:
        return ask_engines(actors, method, *args, timeout_s=self.timeout_s)


def _is_dead(actor: ActorHandle) -> bool:
    try:
        ray.get(actor.ready.remote(), timeout=PROBE_S)
    except RayActorError:
        return True
    except GetTimeoutError:
        pass
    return False


class WeightSource(Protocol):
    """What a sender reads, as vLLM defines it. Iterating is collective under ZeRO-3."""

    def metadata(self) -> list[Any]: ...

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]: ...


class Sender(Protocol):
    """Trainer side of a transport. Every rank calls it, rank 0 talks to the engines."""

    def send_weights(self) -> None: ...

    def shutdown(self) -> None: ...


def open_sender(
    backend: str, engines: list[ActorHandle], source: WeightSource, rank: int, ranks_per_engine: int
) -> Sender:
    """The trainer side of a transport, connected to the given engines. Called on every rank."""
    client = RolloutClient(engines, ranks_per_engine)
    if backend == "shm":
        return ShmSender(client, source, rank)
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    if backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        # Tensors are never split: vLLM's 1 GiB is too little for a large embedding.
        size = max(IPCTrainerInitInfo.packed_buffer_size_bytes, largest_tensor_bytes(source))
        info = IPCTrainerInitInfo(rank=rank, packed=True, packed_buffer_size_bytes=size)
    else:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        info = NCCLTrainerInitInfo(
            rank=rank,
            master_address=ray.util.get_node_ip_address(),
            master_port=free_port(),
            world_size=1 + len(engines) * ranks_per_engine,
            packed=True,
        )
    # vLLM asks for its own base class, which would import vLLM wherever weights are held.
    vllm_source = cast(Any, source)
    return WeightTransferTrainerFactory.trainer_init(info, client=client, source=vllm_source)


def largest_tensor_bytes(source: WeightSource) -> int:
    return max(math.prod(meta.shape) * meta.dtype.itemsize for meta in source.metadata())


class RolloutClient:
    """vLLM's ``VLLMWeightSyncClient`` protocol over rollout actors."""

    def __init__(self, engines: list[ActorHandle], ranks_per_engine: int = 1):
        self.engines, self.ranks_per_engine = engines, ranks_per_engine

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Tell each engine its own first rank: vLLM's trainer takes all for one engine."""
        infos = [dict(init_info) for _ in self.engines]
        if "rank_offset" in init_info:
            for i, info in enumerate(infos):
                info["rank_offset"] += i * self.ranks_per_engine
        ray.get(
            [
                e.init_weight_transfer_engine.remote(info)
                for e, info in zip(self.engines, infos, strict=True)
            ]
        )

    def start_weight_update(self) -> None:
        ray.get([e.start_weight_update.remote() for e in self.engines])

    def update_weights(self, update_info: Any) -> None:
        ray.get([e.update_weights.remote(update_info) for e in self.engines])

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        # The version is committed by the driver, after the prefix cache is dropped.
        ray.get([e.finish_weight_update.remote() for e in self.engines])


class ShmSender:
    """Writes all weights into one block of shared memory, then tells the engines where they lie.

    The block is an anonymous memory file, reached by the engines through ``/proc``: it goes when
    this process goes, however it dies. It is made once and reused: touching fresh pages costs
    several times the copy.
    """

    def __init__(self, client: RolloutClient, source: WeightSource, rank: int):
        self.client, self.source, self.is_sender = client, source, rank == 0
        self._file = os.memfd_create("archer-weights")
        self._block = mmap.mmap(-1, 1)
        if self.is_sender:
            client.init_weight_transfer_engine({})  # ends what a sender that failed left open

    def send_weights(self) -> None:
        # Gather first, on every rank, so that a failing engine cannot leave peers inside a
        # collective.
        layout = self._write()
        if self.is_sender:
            self.client.start_weight_update()
            self.client.update_weights(layout)
            self.client.finish_weight_update()

    def shutdown(self) -> None:
        self._block.close()
        os.close(self._file)

    def _write(self) -> dict[str, Any]:
        names, dtypes, shapes, offsets = [], [], [], []
        end = 0
        for name, tensor in self.source:
            if not self.is_sender:
                continue
            data = tensor.detach().cpu().contiguous()
            num_bytes = data.numel() * data.element_size()
            offset, end = end, end + -(-num_bytes // 64) * 64  # aligned for any dtype
            self._reserve(end)
            self._block[offset : offset + num_bytes] = data.flatten().view(_uint8()).numpy().data
            names.append(name)
            dtypes.append(str(data.dtype).removeprefix("torch."))
            shapes.append(list(data.shape))
            offsets.append(offset)
        return {
            "path": f"/proc/{os.getpid()}/fd/{self._file}",
            "num_bytes": len(self._block),
            "names": names,
            "dtype_names": dtypes,
            "shapes": shapes,
            "offsets": offsets,
        }

    def _reserve(self, size: int) -> None:
        if len(self._block) < size:
            capacity = max(1 << 20, 2 * size)
            os.ftruncate(self._file, capacity)
            self._block = mmap.mmap(self._file, capacity)


def _uint8() -> torch.dtype:
    import torch

    return torch.uint8


def free_port() -> int:
    """A TCP port that is free on this machine right now."""
    with socket.socket() as s:
        s.bind(("", 0))
        return s.getsockname()[1]
