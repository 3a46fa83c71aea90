"""N copies of a plain class as Ray actors that are called together: the ranks of one ZeRO group."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RayTaskError

from archer.errors import RunError

DEATH_NOTICE_S = 10.0
"""How long Ray may take to notice that a process is gone."""


class WorkerDied(RunError):
    """A worker process is gone or does not answer; its state is lost."""


class NoAnswer(WorkerDied):
    """A worker did not answer within its deadline: it hangs, or what it waits for does."""


class RankHost:
    """The actor around one rank; imports the worker there, so the driver needs no torch."""

    def __init__(self, worker: str, *args: Any):
        module, _, name = worker.rpartition(".")
        self._worker = getattr(importlib.import_module(module), name)(*args)

    def call(self, method: str, *args: Any) -> Any:
        return getattr(self._worker, method)(*args)


class WorkerGroup:
    """Ranks that always act together.

    Args:
        actors: one ``RankHost`` handle a rank, rank order.
        name: what to call them in messages, e.g. ``policy``.
        timeout_s: deadline of one call; a hung collective is a dead group.
    """

    def __init__(self, actors: Sequence[ActorHandle], name: str, timeout_s: float):
        self.actors, self.name, self.timeout_s = list(actors), name, timeout_s

    def __len__(self) -> int:
        return len(self.actors)

    def start(self, method: str, *args: Any) -> list[ray.ObjectRef]:
        """Call a method on every rank and return at once."""
        return [actor.call.remote(method, *args) for actor in self.actors]

    def finish(self, refs: list[ray.ObjectRef], method: str) -> list[Any]:
        """Results of ``start``, rank order.

        Raises:
            WorkerDied: a rank died, or (``NoAnswer``) the deadline passed.
        """
        try:
            pending, deadline_s = list(refs), self.timeout_s
            # One dead rank leaves its peers waiting in a collective: look at whichever answers
            # first.
            while pending:
                done, pending = ray.wait(pending, num_returns=1, timeout=deadline_s)
                if not done:
                    raise GetTimeoutError
                ray.get(done)
            return ray.get(refs)
        except RayTaskError as error:
            # The peers of a dead rank often fail first, each collective library in its own words.
            if isinstance(error.cause, RayActorError) or _any_dead(refs):
                raise WorkerDied(f"{self.name} worker lost a peer during {method}()") from error
            raise
        except RayActorError as error:
            raise WorkerDied(f"{self.name} worker died during {method}()") from error
        except GetTimeoutError:
            raise NoAnswer(
                f"{self.name} workers gave no answer to {method}() within {self.timeout_s:.0f} s"
            ) from None

    def call(self, method: str, *args: Any) -> list[Any]:
        return self.finish(self.start(method, *args), method)

    def within(self, timeout_s: float) -> WorkerGroup:
        """The same ranks with another deadline."""
        return WorkerGroup(self.actors, self.name, timeout_s)

    def kill(self) -> None:
        for actor in self.actors:
            ray.kill(actor, no_restart=True)


def last_words(error: BaseException) -> str:
    """What ended a worker or a call to it, without Ray's traceback."""
    if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException):
        return last_words(error.cause)
    if isinstance(error, RayError):
        return (str(error).splitlines() or [""])[-1].strip() or type(error).__name__
    return str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}"


def _any_dead(refs: list[ray.ObjectRef]) -> bool:
    """Whether the actor behind one of the calls is gone; a healthy one may never answer."""
    done, _ = ray.wait(refs, num_returns=len(refs), timeout=DEATH_NOTICE_S)
    return any(_is_dead(ref) for ref in done)


def _is_dead(ref: ray.ObjectRef) -> bool:
    try:
        ray.get(ref)
    except RayActorError:
        return True
    except RayTaskError:
        pass
    return False
