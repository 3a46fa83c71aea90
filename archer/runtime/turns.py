"""Rollout engines and policy on shared GPUs take turns in their memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayTaskError

from archer.errors import WeightSyncError
from archer.workers.group import WorkerGroup
from archer.workers.pool import StreamingPool


class Turns:
    """Who holds the GPU memory under ``cluster.layout=colocated``.

    Engines sleep (vLLM's sleep mode, weights kept in CPU memory) while the policy trains; the
    policy's states wait in CPU memory while engines sample. A worker that is offloaded loads itself
    at its next call.

    Args:
        colocated: False makes every method do nothing.
        timeout_s: deadline of one change.
    """

    def __init__(
        self, policy: WorkerGroup, rollouts: StreamingPool, *, colocated: bool, timeout_s: float
    ):
        self.policy, self.rollouts = policy, rollouts
        self.colocated, self.timeout_s = colocated, timeout_s

    def training(self) -> None:
        """Engines let go of the GPUs; the policy comes back by itself."""
        if self.colocated:
            self._engines("sleep")

    def syncing(self) -> None:
        """Room for the engines' weights beside the policy's, which are copied next."""
        if self.colocated:
            self._engines("wake", ["weights"])

    def sampling(self) -> None:
        """The policy lets go; engines get their KV cache back."""
        if self.colocated:
            self.policy.call("offload")
            self._engines("wake", ["kv_cache"])

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Around the writing of a checkpoint, which loads the policy: engines make room for it."""
        self.training()
        yield
        # Not after an error, which ends the run or replaces the policy.
        if self.colocated:
            self.policy.call("offload")
            self._engines("wake", ["weights", "kv_cache"])

    def _engines(self, method: str, *args: object) -> None:
        ask_engines(self.rollouts.actors, method, *args, timeout_s=self.timeout_s)


def ask_engines(
    engines: Sequence[ActorHandle], method: str, *args: Any, timeout_s: float
) -> list[Any]:
    """Call a method of every engine; the answers in their order.

    Raises:
        RayActorError: an engine is dead.
        WeightSyncError: an engine failed, or the deadline passed.
    """
    try:
        return ray.get([getattr(e, method).remote(*args) for e in engines], timeout=timeout_s)
    except GetTimeoutError:
        raise WeightSyncError(
            f"rollout engines gave no answer to {method}() in {timeout_s:.0f} s"
        ) from None
    except RayTaskError as error:
        raise WeightSyncError(f"a rollout engine failed in {method}(): {error.cause}") from error
