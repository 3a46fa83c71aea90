"""Folders that are built once and kept: complete or absent, whoever builds and whenever it dies."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from glob import escape
from pathlib import Path

from filelock import FileLock, Timeout


def build_once(
    folder: Path,
    build: Callable[[Path], None],
    is_whole: Callable[[Path], bool] = Path.is_dir,
    waits: Callable[[], None] = lambda: None,
) -> Path:
    """Have ``build(temporary)`` fill ``folder``, unless it exists already.

    The work is done in a temporary sibling that is renamed at the end, so a build that dies leaves
    no ``folder``. Of several processes one builds and the others wait for it; the lock dies with
    its holder.

    Args:
        folder: where the result belongs. Its name must identify the content, since an existing
            folder is returned as it is. A link is followed: its target is replaced.
        is_whole: whether ``folder`` is there as it should be; one that is not gets replaced.
        waits: called before a wait for another process, which may take long.
    """
    if is_whole(folder):
        return folder
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_name(f"{target.name}.lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        waits()
        lock.acquire()
    try:
        if is_whole(folder):
            return folder
        for torn in target.parent.glob(f"{escape(target.name)}.tmp-*"):
            shutil.rmtree(torn, ignore_errors=True)
        temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}")
        temporary.mkdir()
        try:
            build(temporary)
            if target.exists():
                shutil.rmtree(target)
            temporary.rename(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    finally:
        lock.release()
    return folder
