"""Ctrl-C and SIGTERM: at once where it is safe, else at the end of the stage; a second signal always at once."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupted(BaseException):
    """A signal asked the run to stop. Not an ``Exception``: nothing on the way may swallow it."""

    def __init__(self, signal_number: int):
        self.signal_number = signal_number
        super().__init__(signal.Signals(signal_number).name)


class StopSignals:
    """Turns SIGINT and SIGTERM into ``Interrupted`` where the policy is in a whole state.

    While tokens are sampled nothing of the policy changes, so a signal interrupts at once. During an update
    it waits for the stage to end. A second signal does not wait.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._is_interruptible = False

    def install(self) -> None:
        """Take over both signals. After ``ray.init``, which sets its own handler."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_second = self._received is not None
        self._received = number
        if self._is_interruptible or is_second:
            self._is_interruptible = False
            raise Interrupted(number)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        if self._received is not None:
            raise Interrupted(self._received)
        self._is_interruptible = True
        try:
            yield
        finally:
            self._is_interruptible = False
