"""The probe: it must find every hole where there is no sandbox, and none where one holds."""

import errno
import json
import os
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from archer.config.keys import SandboxConfig
from archer.errors import ConfigError
from archer.rewards.sandbox import Execution, Outcome, SandboxError, probe
from archer.rewards.sandbox.attempts import ATTEMPTS, Canaries, attempt_all
from archer.rewards.sandbox.host import Host
from archer.rewards.sandbox.jail import Jail
from archer.rewards.sandbox.levels import open_level, plan


class NoSandbox:
    """Runs programs as naive graders do: this user, no limits, the last line printed counts."""

    level = "B"

    def run(self, execution: Execution) -> Outcome:
        source = execution.source
        if execution.kind == "call":
            arguments = json.loads(execution.arguments)
            source += f"\nprint(__import__('json').dumps({execution.entry_point}(*{arguments})))"
        done = subprocess.run(
            [sys.executable, "-c", source],
            input=execution.stdin.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            close_fds=False,
        )
        output = done.stdout
        if execution.kind == "call":
            output = output.strip().rpartition(b"\n")[2]
        return Outcome("ok" if done.returncode == 0 else "runtime_error", output)

    def close(self) -> None:
        pass


class RunsNothing:
    """A sandbox that stops every attempt, and every honest program."""

    level = "B"

    def run(self, execution: Execution) -> Outcome:
        return Outcome("runtime_error", b"", "it never started")

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def unprotected():
    """Findings without a sandbox."""
    before = _traces()
    with Canaries() as canaries:
        folder = Path(json.loads(canaries.describe())["folder"])
        findings = list(attempt_all(NoSandbox(), canaries))
    assert _traces() == before
    places = [Path(place) for place in ("/tmp", "/dev/shm", "/var/tmp", os.getcwd(), "~")]
    left = [folder, *(place.expanduser() / canaries.token for place in places)]
    assert not any(path.exists() for path in left)
    return findings


def _traces():
    """What a probe could leave in this process."""
    children = {child.pid for child in psutil.Process().children()}
    return len(os.listdir("/proc/self/fd")), children, dict(os.environ)


def test_without_a_sandbox_honest_programs_run_and_no_guarantee_holds(unprotected):
    honest, *others = unprotected
    assert honest.has_held, honest.detail
    assert [f.guarantee for f in others if f.has_held] == []
    assert len(others) == len(ATTEMPTS) + 2


def test_without_a_sandbox_every_single_action_is_reported(unprotected):
    """No attempt may be blind: each action in it must succeed where nothing stops it."""
    reported = " ".join(finding.detail for finding in unprotected)
    actions = [
        "/etc/passwd", "/var/tmp/archer-probe-", "the names in /dev/shm", "writing in /dev/shm",
        "overwriting a file", "truncating a file", "a symbolic link", "a folder",
        "the mode of a file", "the times of a file", "deleting a file", "a TCP listener", "UDP",
        "a unix socket", "an abstract socket", "fork", "posix_spawn",
        "the environment of a process", "the command line of a process", "the list of processes",
        "priority", "affinity", "SIGKILL", "the environment of the trainer",
        "an open file of the trainer", "a file in memory", "shared memory", "another personality",
        "512 MB",
    ]  # fmt: skip
    assert [action for action in actions if f"reached: {action}" not in reported] == []


def test_damage_is_seen_whatever_the_program_says(unprotected):
    details = " ".join(finding.detail for finding in unprotected)
    for damage in ("listener", "process of ours was killed", "files of this machine were changed"):
        assert damage in details


def test_programs_that_never_ran_prove_nothing():
    with Canaries() as canaries:
        findings = list(attempt_all(RunsNothing(), canaries, only_quick=True))
    assert not findings[0].has_held
    held = [finding.layer for finding in findings if finding.has_held]
    assert held == ["verdict"]  # a value that does not arrive is not forged


def test_a_level_that_leaks_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(probe, "open_executor", lambda config: NoSandbox())
    with pytest.raises(ConfigError) as caught:
        probe.open_proven(SandboxConfig(level="B"))
    text = str(caught.value)
    assert "reward.sandbox.level='B'" in text
    assert "no socket can be opened" in text
    assert "allow_unsafe_code_execution=true" in text
    assert "archer.doctor sandbox" in text


def test_the_driver_refuses_or_warns(monkeypatch):
    monkeypatch.setattr(probe, "open_level", lambda level, config: RunsNothing())
    with pytest.raises(ConfigError, match="honest programs run"):
        probe.check_sandbox(SandboxConfig())
    report = probe.check_sandbox(SandboxConfig(allow_unsafe_code_execution=True))
    assert report.level is None
    assert "rights of this user" in report.warning
    assert len(report.levels) == 1  # the first that starts is the one that would be used


ALLOW_EVERYTHING = struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000).hex()  # BPF: return ALLOW


def broken_level_b(**settings):
    """What is found at level B with some of its layers taken off."""
    try:
        whole = plan("B", SandboxConfig())
        with Canaries() as canaries:
            (stage,) = whole.stages
            broken = {**stage, "settings": stage["settings"] | settings}
            jail = Jail(replace(whole, stages=(broken,)))
            findings = list(attempt_all(jail, canaries))
    except (ConfigError, SandboxError) as error:
        pytest.skip(f"level B does not start here: {error}")
    jail.close()
    return {finding.guarantee: finding.detail for finding in findings if not finding.has_held}


def test_a_missing_file_layer_is_found():
    broken = broken_level_b(landlock="off")
    assert "reached: /etc/passwd" in broken["no file but those of the interpreter can be read"]
    assert "reached: writing in" in broken["no place that outlives the program can be written"]
    assert "no socket can be opened" not in broken


def test_a_missing_system_call_filter_is_found():
    broken = broken_level_b(filter=ALLOW_EVERYTHING, own_pid=[])
    assert "a listener of ours was connected to" in broken["no socket can be opened"]
    assert "reached: fork" in broken["no process can be started"]
    assert "reached: the mode of a file" in broken["no file can be changed"]
    assert "reached: shared memory" in broken["no shared memory, and no way to more rights"]
    assert "no file but those of the interpreter can be read" not in broken


def test_the_unconfined_jail_is_found_wanting():
    with Canaries() as canaries:
        jail = open_level("unsafe", SandboxConfig())
        findings = list(attempt_all(jail, canaries, only_quick=True))
        jail.close()
    broken = {finding.layer for finding in findings if not finding.has_held}
    assert broken >= {"files", "network", "processes", "kernel"}


@pytest.mark.parametrize("level", ["A", "B"])
def test_a_level_that_starts_here_holds(level):
    try:
        report = probe.check_sandbox(SandboxConfig(level=level))
    except ConfigError as error:
        if f"needs level {level} to start" not in error.mend:
            raise
        pytest.skip(f"level {level} does not start here: {error}")
    assert (report.level, report.warning) == (level, "")


def test_the_quick_half_is_quick():
    try:
        executor = probe.open_proven(SandboxConfig())
    except ConfigError as error:
        pytest.skip(f"no level starts here: {error}")
    with Canaries(with_files=False) as canaries:
        start = time.perf_counter()
        findings = list(attempt_all(executor, canaries, only_quick=True))
        seconds = time.perf_counter() - start
    executor.close()
    assert all(finding.has_held for finding in findings)
    assert seconds < 1.0  # 0.06 s on a machine that is not busy


DEBIAN = Host(
    system="Linux", kernel="6.1.0", uid=1000, distribution=("debian",), bubblewrap="0.8.0",
    landlock_abi=2, landlock_errno=0, has_seccomp_filter=False, max_user_namespaces=10_000,
    unprivileged_userns=None, apparmor_restricts_userns=None, max_processes=4096,
)  # fmt: skip


@pytest.mark.parametrize(
    ("level", "facts", "expected"),
    [
        ("A", {"bubblewrap": None}, "apt-get install bubblewrap"),
        ("A", {"bubblewrap": None, "distribution": ("rocky", "rhel")}, "dnf install bubblewrap"),
        ("A", {"max_user_namespaces": 0}, "user.max_user_namespaces"),
        ("A", {"unprivileged_userns": 0}, "kernel.unprivileged_userns_clone"),
        ("A", {"apparmor_restricts_userns": 1}, "apparmor_restrict_unprivileged_userns"),
        ("A", {"has_seccomp_filter": True}, "allows unshare, clone, mount and pivot_root"),
        ("A", {"system": "Darwin"}, "level=remote"),
        ("B", {"landlock_abi": 0, "landlock_errno": errno.ENOSYS}, "5.13"),
        ("B", {"landlock_abi": 0, "landlock_errno": errno.EOPNOTSUPP}, "lsm="),
        ("B", {"landlock_abi": 0, "landlock_errno": errno.EPERM}, "landlock_restrict_self"),
    ],
)
def test_what_stands_in_the_way_is_named(level, facts, expected):
    (mend,) = replace(DEBIAN, **facts).mends(level)
    assert expected in mend


def test_nothing_is_mended_where_nothing_is_known_to_be_wrong():
    assert DEBIAN.mends("A") == DEBIAN.mends("B") == []
