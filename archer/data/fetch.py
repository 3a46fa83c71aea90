"""The files of a source: from the hub or its cache, or from a folder that stands in for it."""

from __future__ import annotations

import errno
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import NoReturn

from archer.data.config import SourceConfig
from archer.data.files import DataFile
from archer.errors import ConfigError

SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})(.*)")
"""How the hub's libraries name the parts of a split: ``train-00000-of-00002.parquet``."""


@dataclass(frozen=True)
class Fetched:
    """Files on this machine, and where they came from."""

    files: tuple[DataFile, ...]
    origin: str
    """Hub id, or the folder that stood in for it."""
    commit: str | None
    """What the revision meant at the hub; None of a folder."""


def check_source(key: str, source: SourceConfig) -> None:
    """Refuse a source that names no files, before any is asked for.

    Raises:
        ConfigError: neither a hub id nor a folder, or a file that is not below it.
    """
    if source.hub is None and source.folder is None:
        mend = f"Set {key}.hub=ID or {key}.folder=FOLDER."
        raise ConfigError(key, None, "a hub id or a folder", mend)
    for name in source.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.name:
            mend = f"Name it as it is called there, and a folder elsewhere by {key}.folder=FOLDER."
            expected = "paths within the repository or the folder"
            raise ConfigError(f"{key}.files", name, expected, mend)


def fetch(key: str, source: SourceConfig) -> Fetched:
    """Find the files of a source, and download those that are neither here nor in the hub's cache.

    The hub's client is asked for the named files only. It obeys ``HF_ENDPOINT`` (a mirror),
    ``HF_HUB_OFFLINE=1`` (its cache only), ``HF_HOME`` and ``HF_TOKEN``.

    Args:
        key: config key of the source, e.g. ``data.sets.aime24.sources.aime24``.

    Raises:
        ConfigError: a file is not there, or the hub cannot be reached or gives no access.
    """
    check_source(key, source)
    paths: list[Path] = []
    for name in source.files:
        found = _find(key, source, name)
        if "*" in name:
            _check_shards(key, name, found)
        paths += found
    files = tuple(DataFile(path, key) for path in paths)
    if source.folder is not None:
        return Fetched(files, str(Path(source.folder).expanduser().resolve()), None)
    assert source.hub is not None, "check_source refuses neither"
    return Fetched(files, source.hub, _commit(paths[0], source.files[0]))


def _find(key: str, source: SourceConfig, name: str) -> list[Path]:
    if source.folder is not None:
        return _in_folder(key, Path(source.folder).expanduser(), name)
    assert source.hub is not None, "check_source refuses neither"
    return _from_hub(key, source.hub, source.revision, name)


def _in_folder(key: str, folder: Path, name: str) -> list[Path]:
    paths = sorted(folder.glob(name)) if "*" in name else [folder / name]
    paths = [path for path in paths if path.is_file()]
    if not paths:
        found = islice((p for p in folder.rglob("*") if p.is_file()), 20)
        there = sorted(p.relative_to(folder).as_posix() for p in found)
        listed = ", ".join(there) or "no files, or does not exist"
        raise ConfigError(
            f"{key}.folder",
            str(folder),
            f"a folder with {name}",
            f"It holds {listed}. Give the folder that has {name} in it, or name other {key}.files.",
        )
    return paths


def _check_shards(key: str, name: str, paths: Sequence[Path]) -> None:
    """Refuse an incomplete set of parts: without the hub, nothing but their names tells it."""
    parts: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for path in paths:
        if match := SHARD.fullmatch(path.as_posix()):
            before, number, total, after = match.groups()
            parts[before, total, after].add(int(number))
    for (before, total, after), numbers in parts.items():
        if missing := sorted(set(range(int(total))) - numbers):
            first = f"{Path(before).name}-{missing[0]:05}-of-{total}{after}"
            raise ConfigError(
                f"{key}.files",
                name,
                f"all {int(total)} parts of {Path(before).name}",
                f"Missing from {Path(before).parent}: {len(missing)}, the first is {first}. Add "
                "them; the hub's cache fills with the hub in reach and without HF_HUB_OFFLINE=1.",
            )


def _from_hub(key: str, hub: str, revision: str, name: str) -> list[Path]:
    from httpx2 import HTTPError
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        with _without_retry_lines():
            if "*" not in name:
                return [Path(hf_hub_download(hub, name, repo_type="dataset", revision=revision))]
            folder = Path(
                snapshot_download(hub, repo_type="dataset", revision=revision, allow_patterns=name)
            )
        if paths := sorted(folder.glob(name)):
            return paths
        raise EntryNotFoundError(f"no file is called {name}")
    # The client's storage backend, written in Rust, raises plain RuntimeErrors.
    except (OSError, HTTPError, RuntimeError, EntryNotFoundError, HFValidationError) as error:
        _explain(key, f"{hub} at {revision}", name, error)


@contextmanager
def _without_retry_lines() -> Iterator[None]:
    """Of the client's many attempts, our one error says what they came to."""
    from huggingface_hub.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _explain(key: str, repository: str, name: str, error: Exception) -> NoReturn:
    """Say which of the hub's many errors it was, and the ways round it."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    reason = str(error.__cause__ or error).strip().partition("\n")[0]
    elsewhere = f"or set {key}.folder=FOLDER to a local copy with {name} in it"
    match error:
        case _ if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            expected, mend = "room on the disk", "Set HF_HOME to a folder on a larger disk"
        case GatedRepoError():
            expected = "a data set that you may read"
            mend = "It is gated: accept its terms on its page and log in with `hf auth login`"
        case LocalEntryNotFoundError():
            expected = "a reachable hub, or the file in the hub's cache"
            mend = f"The hub cannot be reached ({reason}). Set HF_ENDPOINT to a mirror"
        case RevisionNotFoundError():
            expected, mend = "a revision that exists", f"Set {key}.revision to one of its commits"
        case EntryNotFoundError():
            expected = f"a repository with {name}"
            mend = f"There is no such file in it: set {key}.files to those of the split you want"
        case RepositoryNotFoundError():
            expected = "a data set of the hub"
            mend = "There is none of that name, or it is private: log in with `hf auth login`"
        case HFValidationError():
            expected, mend = "a hub id such as owner/name", f"Mend {key}.hub: {reason}"
        case _:
            expected, mend = "a download that ends well", f"It failed: {reason}. Try again"
    raise ConfigError(key, f"{repository}, {name}", expected, f"{mend}, {elsewhere}.") from error


def _commit(path: Path, name: str) -> str:
    """The hub's cache keeps a file as ``snapshots/<commit>/<name>``."""
    return path.parents[len(Path(name).parts) - 1].name
