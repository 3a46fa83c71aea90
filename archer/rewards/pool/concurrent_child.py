"""How a verifier process serves an async reward function: many requests at a time on an event loop.

Each is cancelled at its own deadline; a process that blocks its loop is killed from outside.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from archer.data.stored_truth import with_truth
from archer.rewards.pool.frames import as_request, pack, receive
from archer.rewards.pool.verdict import as_result, describe
from archer.types import RewardResult, ScoreRequest

AsyncJudge = Callable[[ScoreRequest], Awaitable[Any]]


def run(judge: AsyncJudge, connection: socket.socket) -> None:
    """Serve until the other side closes the connection."""
    asyncio.run(serve(judge, connection))


async def serve(judge: AsyncJudge, connection: socket.socket) -> None:
    """Judge requests side by side, in the order in which they are done."""
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    tasks: dict[int, asyncio.Task[None]] = {}

    async def answer(number: int, request: ScoreRequest) -> None:
        result = await verdict_in_time(judge, request)
        writer.write(pack({"number": number, **vars(result)}))

    try:
        while True:
            message = await receive(reader)
            if "cancel" in message:
                if message["cancel"] in tasks:
                    tasks[message["cancel"]].cancel()
            else:
                number = message.pop("number")
                task = asyncio.create_task(answer(number, as_request(message)))
                tasks[number] = task
                task.add_done_callback(lambda _, number=number: tasks.pop(number))
    except EOFError:
        return


async def verdict_in_time(judge: AsyncJudge, request: ScoreRequest) -> RewardResult:
    """``verdict`` of an async function, which is cancelled at the deadline."""
    limit = asyncio.timeout(request.time_limit_s)
    try:
        async with limit:
            return as_result(await judge(with_truth(request)))
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        if limit.expired():
            detail = f"no verdict within {request.time_limit_s:g} s"
            return RewardResult.failure("timeout", detail)
        return RewardResult.failure("verifier_error", describe(error))
