"""Ground truths that stay on disk: the tests of one program can take tens of megabytes.

A run keeps where in a prepared set such a truth stands. The verifier process that judges by it
reads it there, so that it passes neither through the driver's memory nor through Ray.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from archer.types import ScoreRequest

LONGEST_KEPT = 64 << 10
"""Characters of a truth that is not worth a read of the disk."""
TRUTHS_KEPT = 16
"""Truths that a process keeps once it has read them, for the other samples of their groups."""


class StoredTruthError(RuntimeError):
    """A truth is no longer where it was."""


@dataclass(frozen=True)
class StoredTruth:
    """A text in a file of JSON that nobody edits."""

    path: str
    """Absolute: verifier processes run in other folders."""
    offset: int
    length: int
    """Bytes of its JSON."""
    sha256: str
    """Of these bytes."""

    def __str__(self) -> str:
        """The same wherever the file is."""
        return f"<text of {self.length} bytes, SHA-256 {self.sha256}>"

    def read(self) -> str:
        """The truth itself.

        Raises:
            StoredTruthError: the file is gone or cannot be read, or holds something else there.
        """
        return _read(self)


def store_truth(truth: str, path: Path, offset: int, line: bytes) -> StoredTruth | None:
    """Where the line of a file that starts at ``offset`` has a truth; None if not as one text."""
    content = json.dumps(truth).encode()
    start = line.find(content)
    if start < 0:
        return None
    digest = hashlib.sha256(content).hexdigest()
    return StoredTruth(str(path.absolute()), offset + start, len(content), digest)


def with_truth(request: ScoreRequest) -> ScoreRequest:
    """The request with its truth in memory.

    Raises:
        StoredTruthError: as ``StoredTruth.read``.
    """
    truth = request.ground_truth
    return (
        replace(request, ground_truth=truth.read()) if isinstance(truth, StoredTruth) else request
    )


@lru_cache(maxsize=TRUTHS_KEPT)
def _read(stored: StoredTruth) -> str:
    try:
        with open(stored.path, "rb") as file:
            file.seek(stored.offset)
            content = file.read(stored.length)
    except OSError as error:
        raise StoredTruthError(f"{stored.path}: {error.strerror}. Prepare the set again") from error
    if hashlib.sha256(content).hexdigest() != stored.sha256:
        raise StoredTruthError(
            f"{stored.path} is no longer the file that the run began with. Start the run again"
        )
    return json.loads(content)
