"""Signals interrupt at once, but wait while the policy is between two versions."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest

from archer.runtime.stopping import Interrupted, StopSignals


@pytest.fixture
def stop() -> Iterator[StopSignals]:
    with StopSignals() as signals:
        yield signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_interrupts_at_once_and_names_itself(
    stop: StopSignals, number: signal.Signals, status: int
):
    with pytest.raises(Interrupted, match=number.name) as interrupted:
        signal.raise_signal(number)
    assert interrupted.value.exit_status == status


def test_a_deferred_signal_waits_for_the_end_of_the_stage(stop: StopSignals):
    events = []
    with pytest.raises(Interrupted), stop.deferred():
        signal.raise_signal(signal.SIGTERM)
        events.append("stage complete")
    assert events == ["stage complete"]


def test_a_second_signal_does_not_wait(stop: StopSignals):
    events = []
    with pytest.raises(Interrupted), stop.deferred():
        signal.raise_signal(signal.SIGINT)
        events.append("after the first")
        signal.raise_signal(signal.SIGINT)
        events.append("after the second")
    assert events == ["after the first"]


def test_an_error_of_the_stage_goes_before_the_signal(stop: StopSignals):
    with pytest.raises(ValueError, match="real"), stop.deferred():
        signal.raise_signal(signal.SIGTERM)
        raise ValueError("the real error")


def test_a_signal_whose_exception_was_lost_stops_the_next_stage(stop: StopSignals):
    with contextlib.suppress(Interrupted):  # as in a destructor, where Python ignores exceptions
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Interrupted), stop.deferred():
        pytest.fail("the stage must not begin")


def test_nothing_swallows_an_interruption(stop: StopSignals):
    with pytest.raises(Interrupted):
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            pytest.fail("an ordinary handler took it")


def test_leaving_names_the_signal_that_ray_made_anonymous():
    with pytest.raises(Interrupted, match="SIGTERM"), StopSignals():
        with contextlib.suppress(Interrupted):
            signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt


def test_leaving_gives_the_signals_back():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
