"""Rollout engines and policy on shared GPUs take turns in their memory."""

from __future__ import annotations

import ray

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

    def _engines(self, method: str, *args: object) -> None:
        ray.get(
            [getattr(a, method).remote(*args) for a in self.rollouts.actors], timeout=self.timeout_s
        )
