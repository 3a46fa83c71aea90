"""The terminal: one live line while a run trains; without a terminal, one plain line a step."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from rich.console import Console as RichConsole
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

FIELDS = (  # metric, label, format
    ("reward/mean", "reward", "{:.3f}"),
    ("reward/accuracy", "accuracy", "{:.3f}"),
    ("policy/entropy", "entropy", "{:.3f}"),
    ("throughput/tokens_per_s", "tok/s", "{:,.0f}"),
)
ETA_WINDOW = 10
"""Recent steps whose mean duration predicts the rest: responses grow while a run learns."""


@dataclass(frozen=True)
class _Activity:
    """What the live line says while something other than a step is going on."""

    label: str
    started: float
    done: int = 0
    total: int = 0
    detail: str = ""


class Console:
    """Shows a run. Close it, or use it as a context manager, so that the terminal is left in order.

    Args:
        num_steps: steps of the whole run; 0 for commands that do not train.
        start_step: steps already done when the run resumes.
        output: where to write; standard output by default.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        num_steps: int,
        start_step: int,
        output: RichConsole | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._num_steps = num_steps
        self._step = start_step
        self._output = output or RichConsole(highlight=False, soft_wrap=True)
        self._clock = clock
        self._start = clock()
        self._metrics: Mapping[str, float] = {}
        self._durations: deque[float] = deque(maxlen=ETA_WINDOW)
        self._activity: _Activity | None = None
        self._live: Live | None = None
        if self._output.is_terminal:
            self._live = Live(
                get_renderable=self._live_line,
                console=self._output,
                refresh_per_second=4,
                transient=True,
            )
            self._live.start()

    def stage(self, text: str) -> None:
        """Say what a wait is for, e.g. ``starting 1 vLLM engine``; the next stage or step ends it.

        Without a terminal, stages between the first step and the last stay silent: one line a step.
        """
        self._activity = _Activity(text, self._clock())
        is_between_steps = bool(self._durations) and self._step < self._num_steps
        if self._live is None and not is_between_steps:
            self._print(text)

    def status(self, text: str) -> None:
        """Say how far a stage is, on the live line only."""
        self._activity = _Activity(text, self._clock())

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report that ``step`` steps are done; evaluation results stay on the screen."""
        self._activity = None
        self._step, self._metrics = step, metrics
        if "time/step_s" in metrics:
            self._durations.append(metrics["time/step_s"])
        fields = step_fields(metrics)
        if self._live is None and fields:
            eta = f"ETA {format_duration(self._eta_s())}"
            self._print("  ".join([f"step {step}/{self._num_steps}", *fields, eta]))
        for line in eval_lines(step, metrics):
            self._print(line)

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self._print(text)

    def show(self, table: Table) -> None:
        """Print a table that stays."""
        self._output.print(table)

    @contextmanager
    def progress(self, label: str, total: int) -> Iterator[Callable[..., None]]:
        """Count towards a total; yields ``advance(count=1, detail="")``.

        Without a terminal a line is printed about every tenth of the way.
        """
        self._activity = activity = _Activity(label, self._clock(), total=total)

        def advance(count: int = 1, detail: str = "") -> None:
            nonlocal activity
            before = activity.done
            activity = replace(activity, done=before + count, detail=detail)
            self._activity = activity
            if self._live is None and total and activity.done * 10 // total > before * 10 // total:
                self._print(f"{label} {activity.done}/{total}  {detail}".rstrip())

        try:
            yield advance
        finally:
            self._activity = None

    def close(self) -> None:
        """Remove the live line. May be called twice."""
        if self._live is not None:
            self._live.stop()

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _print(self, text: str) -> None:
        # Text, not str: rich would read [brackets] in a message as markup.
        elapsed = format_duration(self._clock() - self._start)
        self._output.print(Text(f"[{elapsed}] {text}"))

    def _eta_s(self) -> float:
        if not self._durations:
            return float("nan")
        return sum(self._durations) / len(self._durations) * (self._num_steps - self._step)

    def _live_line(self) -> Table:
        activity = self._activity
        if activity is not None and activity.total:
            words = [f"{activity.label} {activity.done}/{activity.total}", activity.detail]
            return _line(activity.done, activity.total, words)
        words = []
        if self._num_steps:
            words = [f"step {self._step}/{self._num_steps}", *step_fields(self._metrics)]
        if self._durations:
            words.append(f"ETA {format_duration(self._eta_s())}")
        if activity is not None:
            elapsed = format_duration(self._clock() - activity.started)
            words.append(f"{activity.label} ({elapsed})")
        return _line(self._step, self._num_steps, words)


def step_fields(metrics: Mapping[str, float]) -> list[str]:
    """``["reward 0.500", ...]`` for those of FIELDS that are present."""
    return [f"{label} {fmt.format(metrics[key])}" for key, label, fmt in FIELDS if key in metrics]


def eval_lines(step: int, metrics: Mapping[str, float]) -> list[str]:
    """One line for each evaluated set: avg@k with its interval, and pass@k."""
    sets: dict[str, list[str]] = {}
    for key, value in metrics.items():
        group, _, rest = key.partition("/")
        name, _, measure = rest.rpartition("/")
        if group != "eval" or not measure.startswith(("avg@", "pass@")):
            continue
        if measure.endswith(("_lo", "_hi")):
            continue
        text = f"{measure} {value:.3f}"
        if f"{key}_lo" in metrics:
            text += f" [{metrics[f'{key}_lo']:.3f}, {metrics[f'{key}_hi']:.3f}]"
        sets.setdefault(name, []).append(text)
    return [f"step {step} eval {name}:  {'  '.join(texts)}" for name, texts in sets.items()]


def format_duration(seconds: float) -> str:
    """``1:05`` or ``2:03:04``; ``-`` for NaN."""
    if math.isnan(seconds):
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _line(done: int, total: int, words: list[str]) -> Table:
    """A progress bar and words beside it, cut at the edge of the terminal rather than wrapped."""
    line = Table.grid(padding=(0, 2))
    line.add_column(width=20)
    line.add_column(no_wrap=True, overflow="ellipsis")
    bar = ProgressBar(total=max(total, 1), completed=done, width=20) if total else Text("")
    line.add_row(bar, Text("  ".join(word for word in words if word)))
    return line
