"""A verifier process: reads requests from its socket, judges them on its main thread, replies.

Started by ``processes`` as ``python -m archer.rewards.pool.child <socket> <parent pid>``. It has no
clock: whoever waits for the reply kills the process when the deadline passes. What an
async reward function does instead stands in ``concurrent_child``.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import resource
import socket
import sys
import warnings
from collections.abc import Callable
from functools import partial
from io import BufferedRWPair
from typing import Any

from archer.data.stored_truth import with_truth
from archer.rewards import resolve_reward, sandbox
from archer.rewards.pool.frames import as_request, pack, read_frame
from archer.rewards.pool.verdict import describe, verdict
from archer.runtime.lifetime import die_with
from archer.types import ScoreRequest

MEMORY_BYTES = 2 << 30
"""Address space of the process, so that a response cannot take the machine's memory."""

Judge = Callable[[ScoreRequest], Any]


def main() -> None:
    fd, parent_pid = map(int, sys.argv[1:])
    die_with(parent_pid)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The soft limit only: the sandbox's processes have limits of their own.
    _, hard_limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, hard_limit))
    logging.disable(logging.CRITICAL)  # math-verify logs whole responses
    warnings.simplefilter("ignore")
    with socket.socket(fileno=fd) as connection, connection.makefile("rwb") as stream:
        hello = read_frame(stream)
        if hello is None:
            return
        try:
            judge, facts = load(hello)
        except Exception as error:
            send(stream, 0, error=describe(error))
            return
        is_async = inspect.iscoroutinefunction(judge)
        send(stream, 0, facts=facts, is_async=is_async)
        if is_async:
            # Others start sooner without asyncio.
            from archer.rewards.pool.concurrent_child import run

            run(judge, connection)
        else:
            serve(judge, stream)


def load(hello: dict[str, Any]) -> tuple[Judge, dict[str, Any]]:
    """The reward function with its arguments bound, its imports done and its sandbox open, and what
    is to be told about it.
    """
    args = hello["args"]
    reward = resolve_reward(hello["name"], args)
    for module in reward.preload:
        importlib.import_module(module)
    sandbox.configure(hello["sandbox"])
    facts = {}
    if reward.uses_sandbox(args):
        facts["sandbox"] = sandbox.executor().level
    elif reward.is_self_contained:
        from archer.rewards.sandbox.reader import confine_reader

        facts |= confine_reader()
    return partial(reward.judge, **args), facts


def serve(judge: Judge, stream: BufferedRWPair) -> None:
    """Judge one request after another until the other side closes the connection."""
    while (message := read_frame(stream)) is not None:
        number = message.pop("number")
        result = verdict(lambda request: judge(with_truth(request)), as_request(message))
        send(stream, number, **vars(result))


def send(stream: BufferedRWPair, number: int, **reply: Any) -> None:
    stream.write(pack({"number": number, **reply}))
    stream.flush()


if __name__ == "__main__":
    main()
