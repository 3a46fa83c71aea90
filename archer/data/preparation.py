"""Sets from their recipes to folders of rows with a report: fetch, build, check, keep.

``prepared.py`` is the other side: it finds these folders, and tells whether they are whole.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from archer.config.schema import suggestion
from archer.console import Console
from archer.data.config import SetConfig, SourceConfig
from archer.data.fetch import Fetched, check_source, fetch
from archer.data.overlap import Ngrams, problem_of
from archer.data.prepared import (
    REPORT_FILE,
    ROWS_FILE,
    is_intact,
    prepared_folder,
    read_report,
    recipe_of,
    stand_ins,
)
from archer.data.recipe import Progress, build_rows, check_rows, shape_of
from archer.data.report import Report, counts_table, make_report, markdown, sha256_of
from archer.data.rows import read_rows
from archer.errors import ConfigError
from archer.metrics import write_atomically
from archer.runtime.cache import build_once

REPORT_PAGE = "report.md"
RECORDS_A_LINE = 100_000
"""Without a terminal, a line is printed about so often."""


def check_recipes(sets: Mapping[str, SetConfig]) -> None:
    """Refuse what is wrong with the recipes themselves, before anything is fetched for them.

    Raises:
        ConfigError: an unknown shape, a source that names no files, or a benchmark that is not
            there or waits for the set itself.
    """
    for name, recipe in sets.items():
        for source, config in recipe.sources.items():
            key = f"data.sets.{name}.sources.{source}"
            check_source(key, config)
            shape_of(key, config)
    benchmarks_first(sets)


def benchmarks_first(sets: Mapping[str, SetConfig]) -> list[str]:
    """Names of the sets, each after those that it must not overlap.

    Raises:
        ConfigError: one of those is not among the sets, or waits for the set itself.
    """
    order: dict[str, None] = {}

    def visit(name: str, behind: tuple[str, ...]) -> None:
        for other in sets[name].benchmarks:
            key = f"data.sets.{name}.decontaminate_against"
            if other not in sets:
                mend = (
                    f"Choose its preset as well, data=...,{other}, or remove it from {key}."
                    f"{suggestion(other, tuple(sets))}"
                )
                raise ConfigError(key, other, f"one of {', '.join(sets)}", mend)
            if other in (*behind, name):
                circle = " -> ".join((*behind, name, other))
                raise ConfigError(key, other, "no circle", f"Break it: {circle}.")
            visit(other, (*behind, name))
        order[name] = None

    for name in sets:
        visit(name, ())
    return list(order)


def prepare_sets(
    sets: Mapping[str, SetConfig], cache: Path, force: bool, console: Console
) -> dict[str, Report]:
    """Prepare every set, benchmarks before what is compared with them.

    Args:
        force: also those that are prepared already.

    Returns:
        Reports by set.

    Raises:
        ConfigError: files cannot be had, are broken, or hold something else than expected; or the
            cache cannot take them.
    """
    reports: dict[str, Report] = {}
    for name in benchmarks_first(sets):
        against = {other: reports[other].sha256 for other in sets[name].benchmarks}
        preparation = _Preparation(name, sets, cache, against, console)
        try:
            reports[name] = preparation.run(force)
        except OSError as error:
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise ConfigError(
                "run.cache",
                str(cache),
                "room on the disk" if is_full else "files that can be read and written",
                f"{error.filename or preparation.folder}: {error.strerror or error}. Nothing of "
                f"{name} was kept. Set run.cache to a folder of yours with room: a set takes about "
                "twice its size while it is prepared.",
            ) from error
    return reports


def write_report(folder: Path, report: Report) -> None:
    """The page first: ``report.json`` is what makes a folder a prepared set."""
    write_atomically(folder / REPORT_PAGE, markdown(report).encode())
    write_atomically(folder / REPORT_FILE, report.model_dump_json(indent=1).encode())


@dataclass(frozen=True)
class _Preparation:
    """One set on its way to its folder."""

    name: str
    sets: Mapping[str, SetConfig]
    cache: Path
    against: dict[str, str]
    """Benchmark to the SHA-256 of its rows, as they are now."""
    console: Console

    @property
    def recipe(self) -> SetConfig:
        return self.sets[self.name]

    @property
    def folder(self) -> Path:
        return prepared_folder(self.name, self.recipe, self.cache)

    def run(self, force: bool) -> Report:
        """The report of the set, which is prepared unless it is there as it should be."""
        is_new = force or not self._is_whole(self.folder)
        if is_new:
            build_once(
                self.folder,
                self._build,
                (lambda _: False) if force else self._is_whole,
                lambda: self.console.stage(f"waiting for another process to prepare {self.name}"),
            )
            _flush(self.folder.parent)
        report = read_report(self.folder)
        assert report is not None, "build_once returns what is whole"
        state = f"{REPORT_PAGE} beside it" if is_new else "prepared already; force=true repeats it"
        rows = self.folder / ROWS_FILE
        self.console.note(f"{self.name}: {report.rows:,} rows, {rows} ({state})")
        notes = stand_ins({self.name: self.recipe}, self.cache)
        for line in (*notes, *self._moving_revisions(report)):
            self.console.note(line)
        return report

    def _is_whole(self, folder: Path) -> bool:
        """Whether there are rows of these files, and cleaned of the benchmarks as they are now."""
        report = read_report(folder)
        return (
            report is not None
            and report.against == self.against
            and is_intact(folder, report)
            and all(self._has_files_of(*item, report) for item in self.recipe.sources.items())
        )

    def _has_files_of(self, source: str, config: SourceConfig, report: Report) -> bool:
        """Whether the files of a local folder are those that were read; the hub is not asked."""
        if config.folder is None:
            return True
        files = fetch(self._key(source), config).files
        read = [file.sha256 for file in report.sources[source].files]
        return [sha256_of(file.path) for file in files] == read

    def _build(self, temporary: Path) -> None:
        began = time.monotonic()
        fetched: dict[str, Fetched] = {}
        for source, config in self.recipe.sources.items():
            self.console.stage(f"fetching {config.folder or config.hub} for {self.name}")
            fetched[source] = fetch(self._key(source), config)
        rows = temporary / ROWS_FILE
        counts = build_rows(
            self.name, self.recipe, fetched, self._benchmarks(), rows, self._progress()
        )
        self.console.show(counts_table(self.name, counts.sources))
        check_rows(self.name, self.recipe, counts)
        seconds = time.monotonic() - began
        recipe = recipe_of(self.recipe)
        report = make_report(self.name, recipe, self.against, fetched, counts, seconds)
        write_report(temporary, report)
        _flush(rows, temporary)

    def _benchmarks(self) -> Ngrams:
        """N-grams of the problems that must not occur in the set."""
        ngrams = Ngrams(self.recipe.ngram)
        for other in self.recipe.benchmarks:
            rows = prepared_folder(other, self.sets[other], self.cache) / ROWS_FILE
            for row in read_rows(rows, f"data.sets.{other}"):
                ngrams.add(f"{other}/{row.extra['id']}", problem_of(row))
        return ngrams

    def _progress(self) -> Progress:
        """Tells the console how many records were read, of how many where that is known."""
        expected = [config.expected_records for config in self.recipe.sources.values()]
        total = f"/{sum(filter(None, expected)):,}" if all(expected) else ""
        began, done = time.monotonic(), 0
        self.console.stage(f"preparing {self.name}")

        def progress() -> None:
            nonlocal done
            done += 1
            if done % 1000 == 0:
                rate = done / (time.monotonic() - began)
                text = f"preparing {self.name} {done:,}{total}, {rate:,.0f}/s"
                tell = self.console.status if done % RECORDS_A_LINE else self.console.stage
                tell(text)

        return progress

    def _moving_revisions(self, report: Report) -> Iterator[str]:
        """A line for each source whose revision may be another commit tomorrow."""
        for source, config in self.recipe.sources.items():
            commit = report.sources[source].commit
            if commit is not None and commit != config.revision:
                yield (
                    f"{self.name}: {config.hub} at {config.revision} was commit {commit}; to have "
                    f"the same again, set {self._key(source)}.revision={commit}"
                )

    def _key(self, source: str) -> str:
        return f"data.sets.{self.name}.sources.{source}"


def _flush(*paths: Path) -> None:
    """Have the disk itself hold files, and the names in folders, before anything builds on it."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
