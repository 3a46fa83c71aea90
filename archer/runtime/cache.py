"""Folders that are built once and kept: complete or absent, whoever builds and whenever it dies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Have ``build(temporary)`` fill ``folder``, unless it exists already.

    The work is done in a temporary sibling that is renamed at the end, so a build that dies leaves
    no ``folder``. Of several processes one builds and the others wait for it; the lock dies with
    its holder.

    Args:
        folder: where the result belongs. Its name must identify the content, since an existing
            folder is returned as it is.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if folder.is_dir():
            return folder
        for torn in folder.parent.glob(f"{folder.name}.tmp-*"):
            shutil.rmtree(torn, ignore_errors=True)
        temporary = folder.with_name(f"{folder.name}.tmp-{os.getpid()}")
        temporary.mkdir()
        try:
            build(temporary)
            temporary.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder
