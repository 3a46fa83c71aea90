"""RewardWorker: verifier processes behind the streaming protocol of the pools."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Any

from archer.config.keys import RewardConfig
from archer.rewards import resolve_reward
from archer.rewards.pool.processes import VerifierProcesses
from archer.types import RewardResult, ScoreRequest

QUEUED_PER_PROCESS = 8
"""Requests that wait for a verifier process: few, for their tests may take megabytes each."""


def max_outstanding(config: RewardConfig) -> int:
    """Requests that keep all verifier processes busy until more are sent."""
    is_async = resolve_reward(config.name, config.args).is_async
    return config.num_workers * (QUEUED_PER_PROCESS + (config.concurrency if is_async else 1))


class RewardWorker:
    """Judges responses in its own verifier processes; a plain class, used as an async Ray actor.

    Every submitted request comes back from ``next_finished`` exactly once.

    Args:
        config: the reward function and its limits.
        variables: values of ``config.env``; by default those of the process it runs in.
    """

    def __init__(self, config: RewardConfig, variables: Mapping[str, str] | None = None):
        self._description = f"{config.num_workers} verifier process(es) for {config.name}"
        self._processes = VerifierProcesses(config, variables)
        self._facts: dict[str, Any] | None = None
        self._pending: dict[str, asyncio.Task[RewardResult]] = {}
        self._finished: list[tuple[str, RewardResult]] = []
        self._has_finished = asyncio.Event()

    async def ready(self) -> dict[str, Any]:
        """Start the verifier processes; returns what the log shows as proof of what runs.

        Raises:
            ConfigError: the reward function does not load.
            VerifierStartError: a process did not come up.
        """
        if self._facts is None:
            self._facts = await self._processes.start()
        facts = "".join(f", {name}: {value}" for name, value in self._facts.items())
        return {"pid": os.getpid(), "engine": self._description + facts}

    async def submit(self, requests: Sequence[ScoreRequest]) -> None:
        """Queue responses and return, once those that take no process are judged."""
        for request in requests:
            if result := self._processes.quick(request):
                self._finish(request.id, result)
                await asyncio.sleep(0)  # deadlines of others fall due meanwhile
            else:
                task = asyncio.create_task(self._processes.judge(request), name=request.id)
                self._pending[request.id] = task
                task.add_done_callback(self._collect)

    async def next_finished(self) -> list[tuple[str, RewardResult]]:
        """Wait for at least one result, then return all that came since the last call."""
        await self._has_finished.wait()
        self._has_finished.clear()
        finished, self._finished = self._finished, []
        return finished

    async def abort(self, ids: Sequence[str]) -> None:
        """Give up requests; the pending ones come back as failures with the detail ``aborted``."""
        for id in ids:
            if id in self._pending:
                self._pending[id].cancel()

    def _collect(self, task: asyncio.Task[RewardResult]) -> None:
        id = task.get_name()
        del self._pending[id]
        if task.cancelled():
            result = RewardResult.failure("skipped", "aborted")
        elif error := task.exception():
            result = RewardResult.failure("crashed", f"{type(error).__name__}: {error}")
        else:
            result = task.result()
        self._finish(id, result)

    def _finish(self, id: str, result: RewardResult) -> None:
        self._finished.append((id, result))
        self._has_finished.set()
