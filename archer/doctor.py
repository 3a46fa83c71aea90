"""Says what this machine can do for a run, by trying it.

    python -m archer.doctor sandbox
    python -m archer.doctor sandbox reward.sandbox.level=B --json

Checks:
    sandbox    tries to break out of the sandbox that programs of the model would
               run in; takes the keys of reward.sandbox (docs/sandbox.md)

--json prints what was found for programs.

Exit status: 0 if all checks pass, 1 if one fails, 2 for a wrong command line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from archer.config.command_line import run_or_explain
from archer.config.keys import SandboxConfig
from archer.config.schema import Section, suggestion, validate
from archer.errors import ConfigError
from archer.rewards.sandbox.host import Host
from archer.rewards.sandbox.probe import ACCEPT, LevelReport, SandboxReport, examine

_LEVELS = {
    "A": "namespaces by bubblewrap, seccomp, limits",
    "B": "Landlock, seccomp, limits",
    "remote": "a service; how it isolates programs is its own matter",
}
_NOT_HIDDEN = {
    "B": "Not hidden at this level: whether a path or a process id that a program guesses is "
    "there, and a file's size and times. Programs have no /tmp.",
}


class DoctorReward(Section):
    """The keys of ``reward`` that a check reads."""

    sandbox: SandboxConfig = SandboxConfig()


class DoctorConfig(Section):
    """What the checks take, under the names that training knows it by."""

    reward: DoctorReward = DoctorReward()


@dataclass(frozen=True)
class Diagnosis:
    """What a check found."""

    has_passed: bool
    page: RenderableType
    """For people."""
    figures: dict[str, Any]
    """The same for programs, as JSON."""


def examine_sandbox(config: DoctorConfig) -> Diagnosis:
    """Every level that is asked for, even those below one that holds."""
    report = examine(config.reward.sandbox)
    figures = {
        "asked": report.asked,
        "level": report.level,
        "column": _column(report),
        "host": asdict(report.host),
        "levels": [{**asdict(level), "holds": level.holds} for level in report.levels],
    }
    return Diagnosis(report.level is not None, _sandbox_page(report), figures)


CHECKS: dict[str, Callable[[DoctorConfig], Diagnosis]] = {"sandbox": examine_sandbox}


def main(argv: Sequence[str]) -> None:
    if any(word in ("-h", "--help") for word in argv):
        print(__doc__)
        return
    words = [word for word in argv if word != "--json"]
    with Console(stderr=True).status("Trying it out, for some seconds"):
        diagnoses = run_or_explain(lambda: diagnose(words))
    if "--json" in argv:
        print(json.dumps({name: found.figures for name, found in diagnoses.items()}, indent=1))
    else:
        console = Console(highlight=False)
        for found in diagnoses.values():
            console.print(found.page)
    sys.exit(0 if all(found.has_passed for found in diagnoses.values()) else 1)


def diagnose(words: Sequence[str]) -> dict[str, Diagnosis]:
    """Run the checks that are named.

    Args:
        words: names of checks, and ``key=value`` overrides.

    Raises:
        ConfigError: no such check or key, or a value that does not fit.
    """
    for word in words:
        if word.startswith("-"):
            mend = "The only flags are --json and --help; write settings without dashes."
            raise ConfigError("the command line", word, "a check, KEY=VALUE or --json", mend)
    names = [word for word in words if "=" not in word]
    for name in names or [""]:
        if name not in CHECKS:
            known = ", ".join(CHECKS)
            hint = suggestion(name, list(CHECKS))
            mend = f"Name a check, as in `python -m archer.doctor {known}`.{hint}"
            raise ConfigError("the check", name, f"one of {known}", mend)
    overrides = OmegaConf.from_dotlist([word for word in words if "=" in word])
    config = validate(DoctorConfig, overrides)
    return {name: CHECKS[name](config) for name in names}


def _sandbox_page(report: SandboxReport) -> Group:
    parts: list[RenderableType] = [_machine(report.host)]
    for level in report.levels:
        parts += [Text(), _level_page(level)]
        if not level.holds:
            parts += [Text(mend, "yellow") for mend in report.host.mends(level.level)]
    return Group(*parts, Text(), _verdict(report))


def _machine(host: Host) -> Text:
    filtered = ", behind a seccomp filter already" if host.has_seccomp_filter else ""
    bubblewrap = f"bubblewrap {host.bubblewrap}" if host.bubblewrap else "no bubblewrap"
    landlock = f"Landlock ABI {host.landlock_abi}" if host.landlock_abi else "no Landlock"
    return Text(f"{host.system} {host.kernel}, user {host.uid}, {bubblewrap}, {landlock}{filtered}")


def _level_page(level: LevelReport) -> RenderableType:
    title = f"level {level.level}: {_LEVELS[level.level]}"
    if level.failure:
        return Group(Text(title, "bold"), Text(f"does not start: {level.failure}", "red"))
    table = Table(
        "layer", "guarantee", "result", title=title, title_justify="left", title_style="bold",
        box=None,
    )  # fmt: skip
    for finding in level.findings:
        result = Text("holds", "green") if finding.has_held else Text("BROKEN", "bold red")
        table.add_row(finding.layer, finding.guarantee, result)
    broken = [
        Text(f"{finding.guarantee}: {finding.detail}", "red")
        for finding in level.findings
        if not finding.has_held
    ]
    caveats = [Text(_NOT_HIDDEN[level.level], "dim")] if level.level in _NOT_HIDDEN else []
    return Group(table, *broken, *caveats)


def _verdict(report: SandboxReport) -> Text:
    if report.level is None:
        mend = f"Provide what a level needs, use level=remote, or accept the risk: {ACCEPT}."
        return Text(f"Programs of the model must not run here. {mend}", "bold red")
    if report.level == "remote":
        return Text("Programs of the model run on the service. Its walls are not tested.", "bold")
    column = f'column "{_column(report)}" of the guarantees in docs/sandbox.md'
    return Text(f"Programs of the model run at level {report.level}: {column}.", "bold green")


def _column(report: SandboxReport) -> str | None:
    """Which column of the guarantees in docs/sandbox.md this machine is in."""
    if report.level in (None, "remote"):
        return report.level
    return f"{report.level}, {'root' if report.host.uid == 0 else 'user'}"


if __name__ == "__main__":
    main(sys.argv[1:])
