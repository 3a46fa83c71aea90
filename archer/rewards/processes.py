"""Verifier processes with a killing deadline.

Model output is hostile: computer algebra on it may hang inside C code, where neither a signal
handler nor a thread can stop it. So every request is judged in a child process, which is killed at
the deadline.

Each request yields exactly one result: a child handles one request at a time, and only a child that
has replied is used again. Cancelled, late and broken ones are killed, their replies with them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from archer.errors import ConfigError
from archer.rewards.frames import pack, receive
from archer.types import RewardResult, ScoreRequest

RECYCLE_AFTER = 2000
"""Answers after which a child is replaced: sympy's caches only grow."""
START_TIMEOUT_S = 120.0
ATTEMPTS = 2
_KEPT_ENV = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH")


class VerifierStartError(RuntimeError):
    """A verifier process did not come up."""


class VerifierProcesses:
    """A pool of child processes that judge responses; use it from one event loop.

    Args:
        name: reward function, as ``resolve_reward`` takes it.
        args: its keyword arguments.
        num_workers: child processes.
        timeout_s: wall-clock seconds one request may be worked on; waiting for a free child and
            starting one do not count.
    """

    def __init__(self, name: str, args: Mapping[str, Any], num_workers: int, timeout_s: float):
        self._name, self._args = name, dict(args)
        self._num_workers, self._timeout_s = num_workers, timeout_s
        self._idle: asyncio.Queue[_Child | BaseException] = asyncio.Queue()
        self._starting: set[asyncio.Task[_Child]] = set()
        self._children: set[_Child] = set()

    async def start(self) -> None:
        """Start the children and load the reward function in each.

        Raises:
            ConfigError: the reward function does not load.
            VerifierStartError: a process did not come up.
        """
        for _ in range(self._num_workers):
            self._spawn()
        try:
            await asyncio.gather(*self._starting)
        except BaseException:
            await self.close()
            raise

    async def score(self, request: ScoreRequest) -> RewardResult:
        """Judge one response. Never raises on account of the request or of the reward function."""
        try:
            frame = pack(asdict(request))
        except (TypeError, ValueError) as error:
            return RewardResult.failure("verifier_error", f"the request is not JSON: {error}")
        seconds, detail = 0.0, ""
        for _ in range(ATTEMPTS):
            try:
                child = await self._take()
            except (ConfigError, VerifierStartError) as error:
                detail = str(error)
                continue
            start = time.perf_counter()
            try:
                async with asyncio.timeout(self._timeout_s - seconds):
                    reply = await child.ask(frame)
                return replace(RewardResult(**reply), seconds=seconds + time.perf_counter() - start)
            except TimeoutError:
                detail = f"no verdict within {self._timeout_s:g} s"
                return RewardResult.failure("timeout", detail, self._timeout_s)
            except (EOFError, ConnectionError):
                seconds += time.perf_counter() - start
                detail = f"{ATTEMPTS} verifier processes died on this response"
            finally:
                self._give_back(child)
        return RewardResult.failure("crashed", detail, seconds)

    async def close(self) -> None:
        """Kill the children. Call it when no ``score`` is pending."""
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        children, self._children = self._children, set()
        await asyncio.gather(*(child.end() for child in children))

    async def _take(self) -> _Child:
        while True:
            child = await self._idle.get()
            if isinstance(child, BaseException):
                self._spawn()
                raise child
            if child.is_alive:
                return child
            self._spawn(replacing=child)  # died while idle: no request is to blame

    def _give_back(self, child: _Child) -> None:
        if child.is_busy or child.num_answers >= RECYCLE_AFTER:
            self._spawn(replacing=child)
        else:
            self._idle.put_nowait(child)

    def _spawn(self, replacing: _Child | None = None) -> None:
        """Start a child in the background; it, or why it failed, arrives in the idle queue."""
        if replacing is not None:
            replacing.kill()
        task = asyncio.create_task(self._start_child(replacing))
        self._starting.add(task)
        task.add_done_callback(self._arrived)

    async def _start_child(self, replacing: _Child | None) -> _Child:
        if replacing is not None:
            await replacing.end()
            self._children.discard(replacing)
        try:
            child = _Child()
        except OSError as error:
            raise VerifierStartError(f"a verifier process did not start: {error}") from error
        self._children.add(child)
        await child.load(self._name, self._args)
        return child

    def _arrived(self, task: asyncio.Task[_Child]) -> None:
        self._starting.discard(task)
        if not task.cancelled():
            self._idle.put_nowait(task.exception() or task.result())


class _Child:
    """One verifier process and the socket to it.

    Constructed on the thread of the event loop: the kernel kills the process when that thread ends.
    """

    def __init__(self):
        self._socket, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "archer.rewards.child", str(fd), str(os.getpid())],
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=_environment(),
                start_new_session=True,  # Ctrl-C is for the driver; its own children die with it
            )
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self.is_busy = False
        self.num_answers = 0

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    async def load(self, name: str, args: dict[str, Any]) -> None:
        """Connect, and load the reward function.

        Raises:
            ConfigError, VerifierStartError: see ``VerifierProcesses.start``.
        """
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                self._reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
                reply = await self.ask(pack({"name": name, "args": args}))
        except (OSError, EOFError) as error:
            await self.end()
            status = f"{error!r}, exit status {self._process.returncode}"
            raise VerifierStartError(f"a verifier process did not start: {status}") from error
        if "error" in reply:
            await self.end()
            expected = "a function that loads in a verifier process"
            raise ConfigError("reward.name", name, expected, reply["error"])

    async def ask(self, frame: bytes) -> dict[str, Any]:
        """Send a request and wait for the reply. If this does not return, the child is spoilt.

        Raises:
            EOFError, ConnectionError: the child died.
        """
        assert self._reader is not None and self._writer is not None, "load() comes first"
        self.is_busy = True
        self._writer.write(frame)
        await self._writer.drain()
        reply = await receive(self._reader)
        self.is_busy = False
        self.num_answers += 1
        return reply

    def kill(self) -> None:
        """Kill the process and whatever it started."""
        if self.is_alive:
            # It may end this moment by itself.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Kill, reap and close."""
        self.kill()
        (self._writer or self._socket).close()  # the writer owns the socket once it exists
        await asyncio.to_thread(self._process.wait)


def _environment() -> dict[str, str]:
    """What a child needs; in particular no credentials."""
    return {
        **{key: os.environ[key] for key in _KEPT_ENV if key in os.environ},
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "PYTHONHASHSEED": "0",  # the order of sympy's sets, and with it a verdict, may depend on it
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
