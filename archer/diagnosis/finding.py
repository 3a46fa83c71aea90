"""What a check of ``python -m archer.doctor`` found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from rich.console import RenderableType
from rich.text import Text

from archer.config.keys import TrainConfig
from archer.errors import ConfigError

GB = 1e9
"""In bytes."""
Status = Literal["ok", "warning", "fail"]
_BY_WEIGHT: tuple[Status, ...] = ("fail", "warning", "ok")


@dataclass(frozen=True)
class Line:
    """One thing that was looked at."""

    status: Status
    found: str
    mend: str = ""
    """What to do about it; empty where all is well."""

    @property
    def text(self) -> Text:
        """For people: what was found, and below it in yellow the mend."""
        return Text.assemble(self.found, (f"\n{self.mend}", "yellow") if self.mend else "")


@dataclass(frozen=True)
class Diagnosis:
    """What a check found."""

    lines: tuple[Line, ...]
    page: RenderableType | None = None
    """More for people, shown when the check was asked for by its name."""
    figures: dict[str, Any] = field(default_factory=dict)
    """More for programs, as JSON."""

    @property
    def status(self) -> Status:
        """The worst of the lines'."""
        present = {line.status for line in self.lines}
        return next(status for status in _BY_WEIGHT if status in present)

    def made_optional(self, reason: str) -> Diagnosis:
        """The same where nothing depends on it: failures become warnings."""
        lines = [
            replace(line, status="warning", found=f"{line.found}; not needed, as {reason}")
            if line.status == "fail"
            else line
            for line in self.lines
        ]
        return replace(self, lines=tuple(lines))

    def for_programs(self) -> dict[str, Any]:
        """As ``--json`` prints it: ``status``, ``lines``, and the check's own figures."""
        return {
            "status": self.status,
            "lines": [asdict(line) for line in self.lines],
            **self.figures,
        }


Check = Callable[[TrainConfig], Diagnosis]
"""Looks at this machine for a run. Raises ConfigError for a setting that makes no sense at all."""


def failure(found: str, mend: str) -> Diagnosis:
    """A diagnosis of one line, where a check gave none itself."""
    return Diagnosis((Line("fail", found, mend),))


def tried(action: Callable[[], Any], found: str) -> Line:
    """The line of something that raises ConfigError where it does not work."""
    try:
        action()
    except ConfigError as error:
        expected = f"{error.key}={error.value!r}: expected {error.expected}"
        return Line("fail", expected, error.mend)
    return Line("ok", found)
