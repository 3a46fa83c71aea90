"""Runs programs that a model wrote: no network, no files of ours, bounded in every resource.

    verdict side                         inside the jail
    jail.py ──execution, as a frame────▶ inside/zygote.py ──fork per execution──▶ inside/runner.py
            ◀─output, exit status, time─ (never runs model code)                  (the program)

``levels`` knows how to start a jail at each level of isolation and ``probe`` tries to break out of
one before it is trusted. The program never learns what is expected of it: outputs are compared on
the verdict side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from archer.rewards.sandbox.execution import Execution, Executor, Limits, Outcome, SandboxError

if TYPE_CHECKING:
    from archer.config.keys import SandboxConfig

__all__ = [
    "Execution",
    "Executor",
    "Limits",
    "Outcome",
    "SandboxError",
    "close",
    "configure",
    "executor",
    "limits",
]

Use = Literal["programs", "checkers"]

_settings: dict[str, Any] = {}
_opened: dict[Use, Executor] = {}


def configure(settings: Mapping[str, Any]) -> None:
    """Say which sandbox this process uses, in the keys of ``SandboxConfig``; opens nothing yet."""
    close()
    _settings.clear()
    _settings.update(settings)


def close() -> None:
    """Close what this process has opened."""
    while _opened:
        _opened.popitem()[1].close()


def executor(use: Use = "programs") -> Executor:
    """The sandbox of this process, opened at the first call.

    Checkers are told expected outputs, so they have a sandbox of their own: nothing that they leave
    in its memory is there for a program to find.

    Raises:
        ConfigError: no configured level of isolation holds here.
    """
    if use not in _opened:
        from archer.rewards.sandbox.levels import open_executor
        from archer.rewards.sandbox.probe import open_proven

        _opened[use] = open_proven(_config()) if use == "programs" else open_executor(_config())
    return _opened[use]


def limits(time_s: float, wall_s: float) -> Limits:
    """Limits of an execution, with what is configured for this process."""
    config = _config()
    return Limits(time_s, wall_s, config.memory_mb, config.output_mb << 20)


def _config() -> SandboxConfig:
    from archer.config.keys import SandboxConfig

    return SandboxConfig(**_settings)
