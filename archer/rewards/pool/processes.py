"""Verifier processes with a killing deadline.

Model output is hostile: computer algebra on it may hang inside C code, where neither a signal
handler nor a thread can stop it. So every request is judged in a child process, which is killed at
the deadline.

Each request yields exactly one result. A child handles one request at a time, or up to
``reward.concurrency`` where the reward function is async, and only a child that has replied in time
is used again. Late and broken ones are killed, their replies with them.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import psutil

from archer.data.stored_truth import StoredTruth
from archer.errors import ConfigError
from archer.rewards import resolve_reward
from archer.rewards.pool.frames import as_message, pack, receive
from archer.types import RewardResult, ScoreRequest

if TYPE_CHECKING:
    from archer.config.keys import RewardConfig

RECYCLE_AFTER = 2000
"""Answers after which a child is replaced: sympy's caches only grow."""
RECYCLE_BYTES = 400 << 20
"""Resident memory above which it is replaced."""
START_TIMEOUT_S = 120.0
ATTEMPTS = 2
WORKED_FRAC = 0.25
"""Of the deadline, in CPU time: with less the machine was busy, and the answer may not be slow."""
GRACE_S = 0.5
"""A child that judges several requests keeps their deadlines itself; one that is so late hangs."""
_KEPT_ENV = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "LD_LIBRARY_PATH")


class VerifierStartError(RuntimeError):
    """A verifier process did not come up."""


class VerifierProcesses:
    """A pool of child processes that judge responses; use it from one event loop.

    Args:
        config: the reward function, how many processes and their limits.
        variables: values of ``config.env``; by default this process's own.
    """

    def __init__(self, config: RewardConfig, variables: Mapping[str, str] | None = None):
        self._config, self._variables = config, variables
        self._quick: partial[RewardResult | None] | None = None
        self._slow_is_wrong: Callable[[str], bool] | None = None
        self._limits = {s: asyncio.Semaphore(n) for s, n in config.max_concurrency.items()}
        self._numbers = count(1)
        self._slots: asyncio.Queue[_Child | BaseException] = asyncio.Queue()
        self._starting: set[asyncio.Task[_Child]] = set()
        self._children: set[_Child] = set()

    async def start(self) -> dict[str, Any]:
        """Start the children and load the reward function in each.

        Returns:
            What a child reports about itself, such as how it is isolated.

        Raises:
            ConfigError: the reward function does not load, or a variable of ``reward.env`` is not
                set.
            VerifierStartError: a process did not come up.
        """
        if self._variables is None:
            self._variables = passed_variables(self._config.env)
        reward = resolve_reward(self._config.name, self._config.args)
        self._slow_is_wrong = reward.slow_is_wrong
        if reward.quick is not None:
            self._quick = partial(reward.quick, **self._config.args)
        for _ in range(self._config.num_workers):
            self._spawn()
        try:
            children = await asyncio.gather(*self._starting)
        except BaseException:
            await self.close()
            raise
        return children[0].facts

    async def score(self, request: ScoreRequest) -> RewardResult:
        """Judge one response. Never raises on account of the request or of the reward function."""
        return self.quick(request) or await self.judge(request)

    def quick(self, request: ScoreRequest) -> RewardResult | None:
        """The verdict where it takes no verifier process, else None."""
        if request.finish_reason == "length" and self._config.truncated == "wrong":
            return RewardResult(0.0, False, "ok", detail="truncated")
        # A truth is read from disk where that holds up nobody else.
        if self._quick is None or isinstance(request.ground_truth, StoredTruth):
            return None
        start = time.perf_counter()
        try:
            result = self._quick(request)
        except Exception:  # the process will meet the same, and tells what it was
            return None
        if result is None:
            return None
        # `replace` takes as long as many a verdict.
        timed: dict[str, Any] = {**vars(result), "seconds": time.perf_counter() - start}
        return RewardResult(**timed)

    async def judge(self, request: ScoreRequest) -> RewardResult:
        """The verdict of a verifier process; like ``score``, it never raises."""
        start = time.perf_counter()
        async with self._limits.get(request.source, contextlib.nullcontext()):
            result = await self._judge(request)
        elapsed = time.perf_counter() - start
        return replace(result, queue_s=max(0.0, elapsed - result.seconds))

    async def _judge(self, request: ScoreRequest) -> RewardResult:
        limit_s = self._config.source_timeout_s.get(request.source, self._config.timeout_s)
        seconds, deaths, detail = 0.0, 0, ""
        while deaths < ATTEMPTS and seconds < limit_s:
            try:
                child = await self._take()
            except (ConfigError, VerifierStartError) as error:
                deaths, detail = deaths + 1, str(error)
                continue
            number, start = next(self._numbers), time.perf_counter()
            cpu_start = child.cpu_s()
            time_left = limit_s - seconds
            try:
                sent = {"number": number, "time_limit_s": time_left}
                frame = pack(as_message(request) | sent)
                async with asyncio.timeout(time_left + child.grace_s):
                    reply = await child.ask(number, frame)
                seconds += time.perf_counter() - start
                return replace(RewardResult(**reply), seconds=seconds, deaths=deaths)
            except (TypeError, ValueError, RecursionError) as error:
                detail = f"the request or the reply is not JSON: {error}"
                return RewardResult.failure("verifier_error", detail, seconds)
            except TimeoutError:
                child.is_spoilt = True
                worked_s = child.cpu_s() - cpu_start
                result = self._late(request, limit_s, worked_s / time_left)
                return replace(result, seconds=limit_s, deaths=deaths + 1)
            except (EOFError, ConnectionError):
                child.is_spoilt = True
                seconds += time.perf_counter() - start
                deaths, detail = deaths + 1, f"{ATTEMPTS} verifier processes died on this response"
            except asyncio.CancelledError:
                child.give_up(number)
                raise
            finally:
                self._give_back(child)
        return replace(RewardResult.failure("crashed", detail, seconds), deaths=deaths)

    def _late(self, request: ScoreRequest, limit_s: float, worked_frac: float) -> RewardResult:
        """What a response is worth on which a process worked so much of its deadline."""
        detail = f"no verdict within {limit_s:g} s"
        is_slow = worked_frac >= WORKED_FRAC
        if is_slow and self._slow_is_wrong is not None and self._slow_is_wrong(request.source):
            return RewardResult(0.0, False, "timeout", detail)
        return RewardResult.failure("timeout", detail)

    async def close(self) -> None:
        """Kill the children. Call it when no ``score`` is pending."""
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        children, self._children = self._children, set()
        await asyncio.gather(*(child.end() for child in children))

    async def _take(self) -> _Child:
        while True:
            child = await self._slots.get()
            if isinstance(child, BaseException):
                self._spawn()
                raise child
            if child.is_fit:
                return child
            self._discard(child)  # died while idle, say: no request is to blame

    def _give_back(self, child: _Child) -> None:
        if child.is_fit:
            self._slots.put_nowait(child)
        else:
            self._discard(child)

    def _discard(self, child: _Child) -> None:
        """Replace a child; one that is only worn first answers what it is still at."""
        is_at_work = child.num_pending and child.is_alive and not child.is_spoilt
        if not child.is_replaced and not is_at_work:
            child.is_replaced = True
            child.kill()
            self._spawn(replacing=child)

    def _spawn(self, replacing: _Child | None = None) -> None:
        """Start a child in the background; it, or why it failed, arrives among the slots."""
        task = asyncio.create_task(self._start_child(replacing))
        self._starting.add(task)
        task.add_done_callback(self._arrived)

    async def _start_child(self, replacing: _Child | None) -> _Child:
        if replacing is not None:
            await replacing.end()
            self._children.discard(replacing)
        try:
            child = _Child(self._variables or {})
        except OSError as error:
            raise VerifierStartError(f"a verifier process did not start: {error}") from error
        self._children.add(child)
        await child.load(self._config)
        return child

    def _arrived(self, task: asyncio.Task[_Child]) -> None:
        self._starting.discard(task)
        if task.cancelled():
            return
        if error := task.exception():
            self._slots.put_nowait(error)
        else:
            for _ in range(task.result().num_slots):
                self._slots.put_nowait(task.result())


class _Child:
    """One verifier process and the socket to it.

    Constructed on the thread of the event loop: the kernel kills the process when that thread ends.
    """

    def __init__(self, variables: Mapping[str, str]):
        self._socket, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",
                    "-m",
                    "archer.rewards.pool.child",
                    str(fd),
                    str(os.getpid()),
                ],
                pass_fds=[fd],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd="/",
                env=_environment(variables),
                start_new_session=True,  # Ctrl-C is for the driver; its own children die with it
            )
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._replies: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._usage = psutil.Process(self._process.pid)
        self._num_answers = 0
        self._is_worn = False
        self.is_spoilt = False
        """It owes an answer that nobody waits for any more, or it is gone."""
        self.is_replaced = False
        self.num_slots = 1
        """Requests it judges at a time."""
        self.facts: dict[str, Any] = {}

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def is_fit(self) -> bool:
        """Whether it can take another request."""
        return self.is_alive and not self.is_spoilt and not self._is_worn

    @property
    def num_pending(self) -> int:
        return len(self._replies)

    @property
    def grace_s(self) -> float:
        return GRACE_S if self.num_slots > 1 else 0.0

    async def load(self, config: RewardConfig) -> None:
        """Connect, and load the reward function.

        Raises:
            ConfigError, VerifierStartError: see ``VerifierProcesses.start``.
        """
        hello = {"name": config.name, "args": config.args, "sandbox": config.sandbox.model_dump()}
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                reader, self._writer = await asyncio.open_unix_connection(sock=self._socket)
                self._reading = asyncio.create_task(self._read(reader))
                reply = await self.ask(0, pack(hello))
        except (OSError, EOFError) as error:
            await self.end()
            status = f"{error!r}, exit status {self._process.returncode}"
            raise VerifierStartError(f"a verifier process did not start: {status}") from error
        if "error" in reply:
            await self.end()
            expected = "a function that loads in a verifier process"
            raise ConfigError("reward.name", config.name, expected, reply["error"])
        self.facts = reply["facts"]
        self.num_slots = config.concurrency if reply["is_async"] else 1

    async def ask(self, number: int, frame: bytes) -> dict[str, Any]:
        """Send a request and wait for the reply.

        Raises:
            EOFError, ConnectionError: the child died.
        """
        assert self._writer is not None, "load() comes first"
        self._replies[number] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(frame)
            await self._writer.drain()
            reply = await self._replies[number]
        finally:
            del self._replies[number]
        self._num_answers += 1
        self._is_worn = self._num_answers >= RECYCLE_AFTER or self._resident_bytes() > RECYCLE_BYTES
        return reply

    def cpu_s(self) -> float:
        try:
            times = self._usage.cpu_times()
        except psutil.NoSuchProcess:
            return 0.0
        return times.user + times.system

    def _resident_bytes(self) -> int:
        try:
            return self._usage.memory_info().rss
        except psutil.NoSuchProcess:
            return 0

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """Hand replies to those who wait for them, until the child is gone."""
        try:
            while True:
                reply = await receive(reader)
                waiting = self._replies.get(reply.pop("number"))
                if waiting is not None and not waiting.done():
                    waiting.set_result(reply)
        except (EOFError, OSError):
            self._fail()

    def _fail(self) -> None:
        self.is_spoilt = True
        for waiting in self._replies.values():
            if not waiting.done():
                waiting.set_exception(EOFError("the process is gone"))

    def give_up(self, number: int) -> None:
        """Nobody waits for this answer any more."""
        if self.num_slots > 1 and self._writer is not None:
            self._writer.write(pack({"cancel": number}))
        else:
            self.is_spoilt = True

    def kill(self) -> None:
        """Kill the process and whatever it started."""
        if self.is_alive:
            # It may end this moment by itself.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def end(self) -> None:
        """Kill, reap and close."""
        self.kill()
        if self._reading is not None:
            self._reading.cancel()
        self._fail()
        (self._writer or self._socket).close()  # the writer owns the socket once it exists
        await asyncio.to_thread(self._process.wait)


def passed_variables(names: Sequence[str]) -> dict[str, str]:
    """Values of the environment variables that ``reward.env`` names.

    Raises:
        ConfigError: one of them is not set.
    """
    for name in names:
        if name not in os.environ:
            mend = f"Run it with {name}=... in front, or remove it from reward.env."
            raise ConfigError("reward.env", name, "a variable that is set", mend)
    return {name: os.environ[name] for name in names}


def _environment(variables: Mapping[str, str]) -> dict[str, str]:
    """What a child needs; no credentials but those that ``reward.env`` names."""
    return {
        **{key: os.environ[key] for key in _KEPT_ENV if key in os.environ},
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "PYTHONHASHSEED": "0",  # the order of sympy's sets, and with it a verdict, may depend on it
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        **variables,
    }
