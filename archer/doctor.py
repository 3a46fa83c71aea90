"""Says what this machine can do for a run, by trying it. Takes seconds, a minute at most.

    python -m archer.doctor
    python -m archer.doctor experiment=archer_math_1.5b cluster=2x8
    python -m archer.doctor sandbox ray reward.sandbox.level=B --json

Takes the overrides of archer.main and checks what that very run needs. Without the name of a
check it does them all:
    python     the interpreter and the platform, against those that the locks are made for
    packages   what is installed, against requirements/
    machine    CPUs and memory, as the container and the run see them
    gpus       NVIDIA GPUs, their driver, and InfiniBand between nodes
    shm        the size of /dev/shm
    disk       room in run.root, run.cache and Ray's folder
    network    loopback, the name of this host, open files, proxies
    hub        whether the hub answers, and has what the run takes from it
    ray        starts or joins Ray, and compares what it has with what the run places
    sandbox    tries to break out of the sandbox that programs of the model would
               run in; takes the keys of reward.sandbox (docs/sandbox.md)

--json prints what was found for programs.

Exit status: 0 if no check fails, 1 if one does, 2 for a wrong command line.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import ForkProcess
from pathlib import Path

from rich.console import Console
from rich.table import Table

from archer.config.command_line import run_or_explain
from archer.config.compose import compose_training
from archer.config.keys import TrainConfig
from archer.config.schema import suggestion
from archer.diagnosis import disk, hub, machine, network, ray, sandbox, software
from archer.diagnosis.finding import Check, Diagnosis, failure
from archer.errors import ConfigError
from archer.rewards import resolve_reward

DEADLINE_S = 50.0
"""A check that has not answered by then is cut off. They all run at a time."""

CHECKS: dict[str, Check] = {
    "python": software.check_python,
    "packages": software.check_packages,
    "machine": machine.check_machine,
    "gpus": machine.check_gpus,
    "shm": machine.check_shm,
    "disk": disk.check_disk,
    "network": network.check_network,
    "hub": hub.check_hub,
    "ray": ray.check_ray,
    "sandbox": sandbox.check_sandbox,
}
_COLOURS = {"ok": "green", "warning": "yellow", "fail": "bold red"}


def main(argv: Sequence[str]) -> None:
    if any(word in ("-h", "--help") for word in argv):
        print(__doc__)
        return
    words = [word for word in argv if word != "--json"]
    diagnoses = run_or_explain(lambda: diagnose(words))
    if "--json" in argv:
        print(json.dumps({name: found.for_programs() for name, found in diagnoses.items()}))
    else:
        _show(diagnoses, has_pages=any("=" not in word for word in words))
    sys.exit(1 if any(found.status == "fail" for found in diagnoses.values()) else 0)


def diagnose(words: Sequence[str]) -> dict[str, Diagnosis]:
    """Run the checks that are named, or all of them.

    Args:
        words: names of checks, and overrides of the training command.

    Raises:
        ConfigError: no such check or key, or a value that does not fit.
    """
    for word in words:
        if word.startswith("-"):
            mend = "The only flags are --json and --help; write settings without dashes."
            raise ConfigError("the command line", word, "a check, KEY=VALUE or --json", mend)
    names = [word for word in words if "=" not in word and not word.startswith("~")]
    for name in names:
        if name not in CHECKS:
            known = ", ".join(CHECKS)
            mend = f"Name one, or none for all of them.{suggestion(name, list(CHECKS))}"
            raise ConfigError("the check", name, f"one of {known}", mend)
    config = compose_training([word for word in words if word not in names])
    checks = {name: CHECKS[name] for name in names or CHECKS}
    found = run_checks(checks, config)
    reward = resolve_reward(config.reward.name, config.reward.args)
    if not names and not reward.uses_sandbox(config.reward.args):
        reason = f"reward={config.reward.name} runs no programs"
        found["sandbox"] = found["sandbox"].made_optional(reason)
    return found


def run_checks(
    checks: dict[str, Check], config: TrainConfig, deadline_s: float = DEADLINE_S
) -> dict[str, Diagnosis]:
    """Run checks at a time, each in a process that is killed with all it started.

    Raises:
        ConfigError: a check found a setting that cannot be tried at all.
    """
    sys.stdout.flush()  # or every process would write what is still buffered
    with tempfile.TemporaryDirectory(prefix="archer-doctor-") as folder:
        running = {name: _start(check, config, Path(folder)) for name, check in checks.items()}
        deadline = time.monotonic() + deadline_s
        try:
            return {
                name: _answer(process, answers, deadline, deadline_s)
                for name, (process, answers) in running.items()
            }
        finally:
            for process, _ in running.values():
                _end(process)


def _start(check: Check, config: TrainConfig, folder: Path) -> tuple[ForkProcess, Connection]:
    context = multiprocessing.get_context("fork")  # a fresh interpreter each would take seconds
    answers, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(check, config, folder, sender))
    process.start()
    sender.close()
    return process, answers


def _run(check: Check, config: TrainConfig, folder: Path, sender: Connection) -> None:
    os.setsid()  # so that what it starts can be killed with it
    # Libraries write what they like; it is shown only if the check breaks.
    with (folder / str(os.getpid())).open("w+") as output:
        for stream in (1, 2):
            os.dup2(output.fileno(), stream)
        try:
            sender.send(check(config))
        except ConfigError as error:
            sender.send(error)
        except Exception as error:
            sender.send(failure(f"it broke: {type(error).__name__}: {error}", "Please report it."))


def _answer(
    process: ForkProcess, answers: Connection, deadline: float, deadline_s: float
) -> Diagnosis:
    if not answers.poll(max(0.0, deadline - time.monotonic())):
        return failure(
            f"no answer after {deadline_s:g} s; it was cut off",
            "Try it alone, by its name; a hanging network or file system is the usual reason.",
        )
    try:
        answer = answers.recv()
    except EOFError:
        process.join()
        return failure(f"its process died with exit status {process.exitcode}", "Try it alone.")
    if isinstance(answer, ConfigError):
        raise answer
    return answer


def _end(process: ForkProcess) -> None:
    try:
        os.killpg(process.pid or 0, signal.SIGKILL)
    except ProcessLookupError:  # it ended, or did not get as far as leading a group
        process.kill()
    process.join()


def _show(diagnoses: dict[str, Diagnosis], has_pages: bool) -> None:
    console = Console(highlight=False)
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, found in diagnoses.items():
        for number, line in enumerate(found.lines):
            colour = _COLOURS[line.status]
            table.add_row(f"[{colour}]{line.status}[/]", "" if number else name, line.text)
    console.print(table)
    for found in diagnoses.values():
        if has_pages and found.page is not None:
            console.print(found.page)


if __name__ == "__main__":
    main(sys.argv[1:])
