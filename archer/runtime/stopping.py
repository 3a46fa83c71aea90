"""Ctrl-C and SIGTERM: at once where it is safe, else at the end of the stage."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """A signal asked the run to stop.

    A ``KeyboardInterrupt``, because Ray lets nothing else that a signal handler raises out of its
    calls. It comes out as a plain one; leaving ``StopSignals`` names the signal again.
    """

    def __init__(self, signal_number: int):
        self.signal_number = signal_number
        super().__init__(signal.Signals(signal_number).name)

    @property
    def exit_status(self) -> int:
        """What a shell reports of a program that this signal ended."""
        return 128 + self.signal_number


class StopSignals:
    """Turns SIGINT and SIGTERM into ``Interrupted`` while it is entered.

    At once while actors start, tokens are sampled or log-probs computed: nothing is lost by it.
    Under ``deferred()``, where the policy is between two versions, a signal waits for the end of
    the stage. A second signal does not wait.
    """

    def __init__(self) -> None:
        self._received: int | None = None
        self._is_deferred = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        self._previous = {number: signal.getsignal(number) for number in SIGNALS}
        self.install()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if isinstance(error, KeyboardInterrupt) and self._received is not None:
            raise Interrupted(self._received) from None

    def install(self) -> None:
        """Take over both signals. Again after ``ray.init``, which sets a handler of its own."""
        for number in SIGNALS:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        is_second = self._received is not None
        self._received = number
        if is_second or not self._is_deferred:
            raise Interrupted(number)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Keep a signal back until the block ends. An error in the block goes first."""
        self._raise_if_received()
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        self._raise_if_received()

    def _raise_if_received(self) -> None:
        # Also a signal whose exception was lost, because it came while a destructor ran.
        if self._received is not None:
            raise Interrupted(self._received)
