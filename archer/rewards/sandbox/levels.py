"""How a jail starts at each level of isolation, and the choice among them.

``A``: a user, pid, mount, network, ipc and uts namespace by bubblewrap, with seccomp and resource
limits, and Landlock where the kernel has it. ``B``: no namespaces; Landlock, seccomp and resource
limits. Started by root, both run as a user of their own.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from archer.errors import ConfigError
from archer.rewards.sandbox.execution import Executor, SandboxError
from archer.rewards.sandbox.seccomp import AUDIT_ARCH, program_filter

if TYPE_CHECKING:  # a verifier process without a sandbox starts sooner without it
    from archer.config.keys import SandboxConfig

logger = logging.getLogger(__name__)

Level = Literal["A", "B", "unsafe"]

SANDBOX_UID = 64_986
"""User and group of programs where root starts them: owns nothing, and fits the 65,536 ids that
containers map."""
_OWN_USER_THREADS = 64
_SHARED_USER_THREADS = 256
"""Threads for programs of a user that has other processes, whose threads the kernel counts too."""
_COUNT_EVERY_S = 10.0
_ENV = {
    "LANG": "C",  # needs no files, so that setlocale works; -X utf8 sets the encoding
    "PYTHONCOERCECLOCALE": "0",
    "PATH": "/usr/bin:/bin",
    "HOME": "/tmp",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0",  # the same program gives the same output
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_PYTHON_FLAGS = ("-s", "-S", "-B", "-X", "utf8")  # not -I, which would ignore PYTHONHASHSEED
DEVICES = ("/dev/null", "/dev/zero", "/dev/random", "/dev/urandom")
_LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
_SITE_FOLDERS = ("site-packages", "dist-packages")
_HIDDEN_PLACE = "/sys"
"""Where root's own mount namespace holds what the sandbox's user cannot reach by name."""
_PACKAGE = "archer.rewards.sandbox.inside"
_OPEN = "files that all users may read"

BOOT = """
import json, socket, sys, types
control = socket.socket(fileno=0)
boot = json.load(open(socket.recv_fds(control, 1, 1)[1][0]))
for name, text in boot["modules"].items():
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = []
    exec(compile(text, name, "exec"), module.__dict__)
serve = module.serve
for name in boot["modules"]:
    del sys.modules[name]
serve(control, boot["settings"])
"""
"""What an interpreter in a jail is started with: it takes its code from a file in memory, whose
descriptor comes over its control socket."""


@dataclass(frozen=True)
class Interpreter:
    """What a Python needs from the disk."""

    executable: str
    path: tuple[str, ...]
    """Its ``sys.path`` without site-packages."""
    library_folders: tuple[str, ...]
    """Folders of the shared libraries that it and its extension modules load."""

    @property
    def folders(self) -> list[str]:
        """Without those inside others."""
        return _outermost([*self.path, *self.library_folders])

    @property
    def site_folders(self) -> list[str]:
        """Installed packages inside ``folders``, which programs need not read."""
        return [
            found
            for folder in self.path
            for name in _SITE_FOLDERS
            if os.path.isdir(found := os.path.join(folder, name))
        ]

    @property
    def readable(self) -> list[str]:
        """``folders`` without ``site_folders``, as Landlock needs it: it cannot subtract."""
        paths = [
            entry.path
            for folder in self.path
            for entry in os.scandir(folder)
            if entry.name not in _SITE_FOLDERS
        ]
        for folder in self.library_folders:
            if any(path.startswith(folder + "/") for path in self.path):
                paths += [entry.path for entry in os.scandir(folder) if ".so" in entry.name]
            else:
                paths.append(folder)
        return paths


def _environment() -> dict[str, str]:
    """What interpreters in a jail start with; in particular no credentials."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ}
    return _ENV | kept  # a cluster's Python may not start without its libraries


def _outermost(folders: Iterable[str]) -> list[str]:
    found: list[str] = []
    for folder in sorted(set(folders)):
        if not any(folder.startswith(outer + "/") for outer in found):
            found.append(folder)
    return found


_DESCRIBE = """
import importlib, json, os, sys
for name in "ctypes ssl sqlite3 decimal lzma bz2 zlib readline".split():
    try:
        importlib.import_module(name)
    except ImportError:
        pass
with open("/proc/self/maps") as maps:
    files = {line.split(None, 5)[5].strip() for line in maps if line.count("/")}
path = [os.path.realpath(folder) for folder in sys.path if folder and os.path.isdir(folder)]
libraries = {os.path.dirname(os.path.realpath(file)) for file in files if ".so" in file}
libraries = sorted(l for l in libraries if not any((l + "/").startswith(p + "/") for p in path))
executable = os.path.realpath(sys.executable)
print(json.dumps({"executable": executable, "path": path, "library_folders": libraries}))
"""


@cache
def interpreter(python: str) -> Interpreter:
    """Ask a Python where its files are.

    Raises:
        ConfigError: it does not run.
    """
    try:
        said = subprocess.run(
            [python, *_PYTHON_FLAGS, "-c", _DESCRIBE],
            capture_output=True, check=True, timeout=60, env=_environment(), cwd="/",
        )  # fmt: skip
        facts = json.loads(said.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        mend = f"It does not run ({error}). Name one that does, such as /usr/bin/python3."
        raise ConfigError("reward.sandbox.python", python, "a Python interpreter", mend) from error
    return Interpreter(facts["executable"], tuple(facts["path"]), tuple(facts["library_folders"]))


@dataclass(frozen=True)
class Plan:
    """How to start a jail."""

    level: Level
    command: tuple[str, ...]
    stages: tuple[dict[str, Any], ...]
    """What the interpreters that the command starts one after the other run, see ``BOOT``."""
    counts_threads: bool = True
    """Whether programs share their user's limit of threads with processes outside."""
    preloads: tuple[str, ...] = ()
    """Modules that are loaded once, when a program first mentions them."""

    @property
    def env(self) -> dict[str, str]:
        return _environment()

    def max_threads(self) -> int:
        """RLIMIT_NPROC for a program started now."""
        if not self.counts_threads:
            return _OWN_USER_THREADS
        uid = SANDBOX_UID if os.geteuid() == 0 else os.geteuid()
        period = int(time.monotonic() / _COUNT_EVERY_S)
        return _count_threads(uid, period) + _SHARED_USER_THREADS


@lru_cache(maxsize=1)
def _count_threads(uid: int, period: int) -> int:
    """Threads of a user's processes; counted anew in every ``period``."""
    count = 0
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        except OSError:  # it has ended
            continue
        if int(fields["Uid"].split()[0]) == uid:
            count += int(fields["Threads"])
    return count


def check_settings(config: SandboxConfig) -> None:
    """Refuse what no choice of a level would mend, before any level is tried.

    Raises:
        ConfigError: names the key that is wrong: ``url``, ``python`` or ``python_path``.
    """
    if config.level == "remote":
        from archer.rewards.sandbox.remote import parse_url

        parse_url(config.url)
        return
    if config.url is not None:
        expected = f"nothing, as level={config.level} runs programs on this machine"
        mend = "Set reward.sandbox.level=remote to use the service, or drop the URL."
        raise ConfigError("reward.sandbox.url", config.url, expected, mend)
    if platform.system() == "Linux":  # elsewhere there is no level that would use them
        _checked_interpreter(config)


def _checked_interpreter(config: SandboxConfig) -> Interpreter:
    python = interpreter(config.python or os.path.realpath(sys.executable))
    for folder in python.path:
        if not _is_open_to_programs(folder):
            mend = (
                f"Programs run as another user, who may not read its {folder}: name another "
                f"interpreter, such as /usr/bin/python3, or run `chmod -R o+rX {folder}`."
            )
            raise ConfigError("reward.sandbox.python", python.executable, _OPEN, mend)
    for folder in config.python_path:
        if not os.path.isabs(folder) or not os.path.isdir(folder):
            mend = "Correct the path, or take it off the list."
            expected = "folders that exist, by their absolute paths"
            raise ConfigError("reward.sandbox.python_path", folder, expected, mend)
        if not _is_open_to_programs(folder):
            mend = f"Run `chmod -R o+rX {folder}`, or choose another."
            raise ConfigError("reward.sandbox.python_path", folder, _OPEN, mend)
    return python


def plan(level: Level, config: SandboxConfig) -> Plan:
    """How to start a jail of a level here.

    Raises:
        ConfigError: something that the level needs is missing.
    """
    if platform.system() != "Linux":
        raise _unavailable(level, "Linux", "Use reward.sandbox.level=remote.")
    if platform.machine() not in AUDIT_ARCH:
        expected = f"one of the processors {', '.join(AUDIT_ARCH)}, not {platform.machine()}"
        raise _unavailable(level, expected, "Use reward.sandbox.level=remote.")
    python = _checked_interpreter(config)
    return _plan_a(python, config) if level == "A" else _plan_b(python, config, level)


def _plan_b(python: Interpreter, config: SandboxConfig, level: Level) -> Plan:
    is_confined = level == "B"
    settings = _settings(python, config) | {
        "landlock": "required" if is_confined else "off",
        "uid": SANDBOX_UID if is_confined and os.geteuid() == 0 else None,
        "parent_pid": os.getpid(),
        "is_confined": is_confined,
    }
    command = (python.executable, *_PYTHON_FLAGS, "-c", BOOT)
    return Plan(level, command, (_stage("zygote", settings),), preloads=_preloads(config))


def _plan_a(python: Interpreter, config: SandboxConfig) -> Plan:
    bwrap = shutil.which("bwrap")
    if bwrap is None:
        raise _unavailable("A", "bubblewrap (bwrap) on PATH", "Install the package bubblewrap.")
    settings = _settings(python, config) | {
        "landlock": "optional",
        "uid": None,
        "parent_pid": None,  # in another pid namespace
        "is_confined": True,
        "tmp_mb": config.tmp_mb,
        "kept_in_tmp": [path for path in (*python.folders, *config.python_path) if _in_tmp(path)],
    }
    boot = (python.executable, *_PYTHON_FLAGS, "-c", BOOT)
    sources = [*python.folders, python.executable, *config.python_path]
    is_root = os.geteuid() == 0
    binds = {
        path: f"{_HIDDEN_PLACE}/{number}"
        for number, path in enumerate(sources)
        if is_root and not _is_reachable(path)
    }
    enter = {
        "uid": SANDBOX_UID if is_root else None,
        "command": (bwrap, *_bubblewrap_flags(python, config, binds), *boot),
        "parent_pid": os.getpid(),
        "binds": binds,
        "place": _HIDDEN_PLACE,
    }
    stages = (_stage("enter", enter), _stage("zygote", settings))
    return Plan("A", boot, stages, _counts_over_namespaces(), _preloads(config))


def _bubblewrap_flags(
    python: Interpreter, config: SandboxConfig, binds: dict[str, str]
) -> list[str]:
    # CAP_SYS_ADMIN lets the zygote mount a /tmp with a quota; then it drops that too.
    flags = "--unshare-all --die-with-parent --new-session --cap-drop ALL --cap-add CAP_SYS_ADMIN"
    mounts = [(binds.get(path, path), path) for path in (*python.folders, python.executable)]
    result = flags.split()
    for name in ("lib", "lib64"):
        if os.path.islink(f"/{name}"):
            result += ["--symlink", os.readlink(f"/{name}"), f"/{name}"]
    for source, target in mounts:
        result += ["--ro-bind", source, target]
    for loader in filter(os.path.exists, _LOADERS):
        folder, name = os.path.split(loader)
        target = os.path.join(os.path.realpath(folder), name)
        if not any(target.startswith(folder + "/") for folder in python.folders):
            result += ["--ro-bind", os.path.realpath(loader), target]
    for folder in python.site_folders:
        result += ["--tmpfs", folder, "--remount-ro", folder]
    for folder in config.python_path:
        result += ["--ro-bind", binds.get(folder, folder), folder]
    for device in DEVICES:
        result += ["--dev-bind", device, device]
    return [*result, "--dir", "/tmp", "--chdir", "/", "--remount-ro", "/", "--"]


def _settings(python: Interpreter, config: SandboxConfig) -> dict[str, Any]:
    program = program_filter()
    return {
        "path": [*python.path, *config.python_path],
        "readable": [*python.readable, *config.python_path, *DEVICES],
        "filter": program.code.hex(),
        "own_pid": program.own_pid,
        "tmp_mb": 0,
    }


def _stage(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """A boot message: the modules, the one to run last."""
    folder = Path(__file__).parent / "inside"
    parents = [_PACKAGE.rsplit(".", depth)[0] for depth in range(_PACKAGE.count("."), 0, -1)]
    modules = dict.fromkeys([*parents, _PACKAGE], "")
    needed = ["confine", "enter"] if name == "enter" else ["confine", "runner", "zygote"]
    for module in needed:
        modules[f"{_PACKAGE}.{module}"] = (folder / f"{module}.py").read_text()
    return {"modules": modules, "settings": settings}


def _preloads(config: SandboxConfig) -> tuple[str, ...]:
    return ("numpy",) if config.python_path else ()


def _is_open_to_programs(folder: str) -> bool:
    """Where programs run as another user, others must be let in; not so to the folders above."""
    return os.geteuid() != 0 or os.stat(folder).st_mode & 0o005 == 0o005


def _in_tmp(path: str) -> bool:
    return path.startswith("/tmp/")


def _is_reachable(path: str) -> bool:
    """Whether any user can: all folders above may be entered, and it may be read."""
    parents = [*Path(path).parents]
    return all(parent.stat().st_mode & 0o001 for parent in parents) and bool(
        os.stat(path).st_mode & 0o004
    )


def _counts_over_namespaces() -> bool:
    """Before Linux 5.14 a user's threads were counted over all user namespaces."""
    major, minor = platform.release().split(".")[:2]
    return (int(major), int("".join(filter(str.isdigit, minor)))) < (5, 14)


def _unavailable(level: str, expected: str, mend: str) -> ConfigError:
    return ConfigError("reward.sandbox.level", level, expected, mend)


def open_level(level: Level, config: SandboxConfig) -> Executor:
    """A jail of exactly this level.

    Raises:
        ConfigError: it does not start here.
    """
    from archer.rewards.sandbox.jail import Jail

    try:
        return Jail(plan(level, config))
    except SandboxError as error:
        raise _unavailable(level, f"level {level} to start", f"It did not: {error}.") from error


def open_executor(config: SandboxConfig) -> Executor:
    """The sandbox that the configuration asks for; ``auto`` takes the strongest that starts.

    Raises:
        ConfigError: a key is wrong, or none starts and unsafe execution is not allowed.
    """
    check_settings(config)
    if config.level == "remote":
        from archer.rewards.sandbox.remote import RemoteExecutor

        return RemoteExecutor(config)
    levels: tuple[Level, ...] = ("A", "B") if config.level == "auto" else (config.level,)
    problems = []
    for level in levels:
        try:
            return open_level(level, config)
        except ConfigError as error:
            problems.append(str(error))
    if config.allow_unsafe_code_execution:
        logger.warning(
            "reward.sandbox.allow_unsafe_code_execution=true, and no sandbox starts here: programs "
            "that the model wrote run with the rights of this user. (%s)",
            " ".join(problems),
        )
        return open_level("unsafe", config)
    expected = f"a sandbox of level {' or '.join(levels)} that starts on this machine"
    mend = (
        f"{' '.join(problems)} `python -m archer.doctor sandbox` says more; "
        "reward.sandbox.allow_unsafe_code_execution=true runs programs without a sandbox."
    )
    raise ConfigError("reward.sandbox.level", config.level, expected, mend)
