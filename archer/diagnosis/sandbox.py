"""The sandbox check of ``python -m archer.doctor``: its line, its page, its figures."""

from __future__ import annotations

from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from archer.config.keys import TrainConfig
from archer.diagnosis.finding import Diagnosis, Line
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
_MEND = f"Provide what a level needs, use level=remote, or accept the risk: {ACCEPT}."


def check_sandbox(config: TrainConfig) -> Diagnosis:
    """Every level that is asked for, even those below one that holds."""
    report = examine(config.reward.sandbox)
    figures = {
        "asked": report.asked,
        "level": report.level,
        "column": _column(report),
        "host": asdict(report.host),
        "levels": [{**asdict(level), "holds": level.holds} for level in report.levels],
    }
    return Diagnosis((_line(report),), _page(report), figures)


def _line(report: SandboxReport) -> Line:
    if report.level is None:
        problems = "; ".join(f"{level.level}: {level.problems}" for level in report.levels)
        return Line("fail", f"programs of the model must not run here ({problems})", _MEND)
    return Line("ok", f"level {report.level}: {_LEVELS[report.level]}")


def _page(report: SandboxReport) -> Group:
    parts: list[RenderableType] = [Text(), _machine(report.host)]
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
        return Text(f"Programs of the model must not run here. {_MEND}", "bold red")
    if report.level == "remote":
        return Text("Programs of the model run on the service. Its walls are not tested.", "bold")
    column = f'column "{_column(report)}" of the guarantees in docs/sandbox.md'
    return Text(f"Programs of the model run at level {report.level}: {column}.", "bold green")


def _column(report: SandboxReport) -> str | None:
    """Which column of the guarantees in docs/sandbox.md this machine is in."""
    if report.level in (None, "remote"):
        return report.level
    return f"{report.level}, {'root' if report.host.uid == 0 else 'user'}"
