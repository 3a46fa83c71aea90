"""Trusts no sandbox that it has not tried to break out of.

``check_sandbox`` is the whole test, for the driver and ``python -m archer.doctor sandbox``;
``open_proven`` runs the quick half on the very sandbox that a verifier process is going to use.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from archer.config.keys import SandboxConfig
from archer.errors import ConfigError
from archer.rewards.sandbox.attempts import Canaries, Finding, attempt_all, attempt_limits
from archer.rewards.sandbox.execution import Executor, SandboxError
from archer.rewards.sandbox.host import Host
from archer.rewards.sandbox.levels import Level, check_settings, open_executor, open_level

KEY = "reward.sandbox.level"
ACCEPT = "reward.sandbox.allow_unsafe_code_execution=true"
_CANDIDATES: dict[str, tuple[Level | Literal["remote"], ...]] = {
    "auto": ("A", "B"),  # in the order in which open_executor tries them
    "A": ("A",),
    "B": ("B",),
    "remote": ("remote",),
}


@dataclass(frozen=True)
class LevelReport:
    """What one level of isolation does on this machine."""

    level: str
    findings: tuple[Finding, ...] = ()
    failure: str = ""
    """Why it does not start; then there are no findings."""

    @property
    def holds(self) -> bool:
        return not self.failure and all(finding.has_held for finding in self.findings)

    @property
    def problems(self) -> str:
        leaks = [
            f"{finding.layer}: not true that {finding.guarantee} ({finding.detail})"
            for finding in self.findings
            if not finding.has_held
        ]
        return self.failure or "; ".join(leaks)


@dataclass(frozen=True)
class SandboxReport:
    """Which level was asked for, and what came of those that were tried."""

    asked: str
    levels: tuple[LevelReport, ...]
    host: Host
    url: str | None = None
    """Of the service, with ``asked="remote"``."""

    @property
    def level(self) -> str | None:
        """The level that programs run at: the first that starts, if it holds."""
        started = next((report for report in self.levels if not report.failure), None)
        return started.level if started and started.holds else None

    @property
    def warning(self) -> str:
        """What has to be said at every start; empty where a level holds."""
        if self.level is not None:
            return ""
        return (
            f"no sandbox holds here, and {ACCEPT}: programs that the model writes run with the "
            "rights of this user. They can read its files, reach the network and change verdicts."
        )

    def error(self) -> ConfigError:
        """Why nothing may run, layer by layer, and what to do."""
        if self.asked == "remote":
            return ConfigError(
                "reward.sandbox.url",
                self.url,
                "a service that runs programs within their limits",
                f"{self.levels[0].problems}. Start the service, or correct the address.",
            )
        tried = " ".join(
            " ".join([f"{report.level}: {report.problems}.", *self.host.mends(report.level)])
            for report in self.levels
        )
        wanted = " or ".join(report.level for report in self.levels)
        return ConfigError(
            KEY,
            self.asked,
            f"a sandbox of level {wanted} that holds on this machine",
            f"{tried} `python -m archer.doctor sandbox` shows every attempt; to run programs "
            f"without a sandbox all the same, set {ACCEPT}.",
        )


def check_sandbox(config: SandboxConfig) -> SandboxReport:
    """Try to break out of the sandbox that programs are going to run in; takes about a second.

    Returns:
        The report, whose ``warning`` is to be shown.

    Raises:
        ConfigError: a key is wrong, or no level that is asked for holds and the risk is not
            accepted.
    """
    report = examine(config, stop_at_first=True)
    is_accepted = config.allow_unsafe_code_execution and config.level != "remote"
    if report.level is None and not is_accepted:
        raise report.error()
    return report


def examine(config: SandboxConfig, *, stop_at_first: bool = False) -> SandboxReport:
    """Try the levels that are asked for, whatever comes of them.

    Raises:
        ConfigError: a key is wrong, so that no level can be tried.
    """
    check_settings(config)
    reports: list[LevelReport] = []
    for level in _CANDIDATES[config.level]:
        reports.append(_try_level(config, level))
        if stop_at_first and not reports[-1].failure:
            break
    return SandboxReport(config.level, tuple(reports), Host.read(), config.url)


def open_proven(config: SandboxConfig) -> Executor:
    """The sandbox for this process, after a quick attempt to break out of it (0.1 s).

    Raises:
        ConfigError: it does not start, or does not hold, and the risk is not accepted.
    """
    with Canaries(with_files=False) as canaries:
        executor = open_executor(config)
        if executor.level in ("remote", "unsafe"):
            return executor  # nothing of it can be, or is to be, proved here
        report = _attempt(executor, canaries, only_quick=True)
    if not report.holds and not config.allow_unsafe_code_execution:
        executor.close()
        raise SandboxReport(config.level, (report,), Host.read()).error()
    return executor


def _try_level(config: SandboxConfig, level: Level | Literal["remote"]) -> LevelReport:
    with Canaries() as canaries:
        try:
            executor = open_executor(config) if level == "remote" else open_level(level, config)
        except ConfigError as error:
            return LevelReport(level, failure=f"needs {error.expected}. {error.mend}".rstrip("."))
        report = _attempt(executor, canaries)
    executor.close()
    return report


def _attempt(executor: Executor, canaries: Canaries, *, only_quick: bool = False) -> LevelReport:
    level = executor.level
    try:
        if level == "remote":
            return LevelReport(level, tuple(attempt_limits(executor, canaries)))
        return LevelReport(level, tuple(attempt_all(executor, canaries, only_quick=only_quick)))
    except SandboxError as error:
        return LevelReport(level, failure=str(error))
