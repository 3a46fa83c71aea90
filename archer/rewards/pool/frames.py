"""Messages between the pool and a verifier process: a length, then JSON. Never pickle.

Escaped to ASCII, so that lone surrogates in model text survive the trip.
"""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from io import BufferedIOBase, BufferedRWPair
from typing import TYPE_CHECKING, Any

from archer.data.stored_truth import StoredTruth
from archer.types import ScoreRequest

if TYPE_CHECKING:  # a verifier process starts sooner without it
    import asyncio

_LENGTH = struct.Struct(">I")


def pack(message: dict[str, Any]) -> bytes:
    """Encode a message.

    Raises:
        TypeError, ValueError, RecursionError: it holds something that is not JSON.
    """
    payload = json.dumps(message).encode("ascii")
    return _LENGTH.pack(len(payload)) + payload


def read_frame(stream: BufferedIOBase | BufferedRWPair) -> dict[str, Any] | None:
    """The next message, or None at the end of the stream."""
    header = stream.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        return None
    return json.loads(stream.read(_LENGTH.unpack(header)[0]))


async def receive(reader: asyncio.StreamReader) -> dict[str, Any]:
    """The next message.

    Raises:
        EOFError: the other side is gone.
    """
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return json.loads(await reader.readexactly(length))


def as_message(request: ScoreRequest) -> dict[str, Any]:
    """A request in JSON values; of a truth that stays on disk, where it is."""
    truth = request.ground_truth
    if not isinstance(truth, StoredTruth):
        return dict(vars(request))
    return {**vars(request), "ground_truth": None, "stored_truth": vars(truth)}


def as_request(message: dict[str, Any]) -> ScoreRequest:
    """What ``as_message`` was called with."""
    stored = message.pop("stored_truth", None)
    request = ScoreRequest(**message)
    return request if stored is None else replace(request, ground_truth=StoredTruth(**stored))
