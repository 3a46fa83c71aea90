"""Where a run's numbers go: ``metrics.jsonl``, ``rollouts/``, wandb. Keys: docs/metrics.md."""

from __future__ import annotations

import gzip
import json
import math
import netrc
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast
from urllib.parse import urlparse
from uuid import uuid4

import numpy as np

from archer.errors import ConfigError

if TYPE_CHECKING:
    from archer.config.keys import LoggerConfig
    from archer.types import Group, Sample

METRICS_FILE = "metrics.jsonl"
ROLLOUTS_FOLDER = "rollouts"
TRUTH_CHARS = 2000
"""Of a ground truth in a row of ``rollouts/``."""
TRAINING = "step"
"""Name of the rollout files that hold training samples."""
WandbMode = Literal["online", "offline", "disabled", "shared"]


class MetricsLog:
    """Appends one line a step to ``metrics.jsonl`` and mirrors it to wandb.

    Each line is on disk when ``log`` returns. Reopening drops a line torn by a crash.
    """

    def __init__(
        self, run_dir: Path, logger: LoggerConfig, resolved_config: dict[str, Any], run_name: str
    ):
        run_dir.mkdir(parents=True, exist_ok=True)
        self._path = run_dir / METRICS_FILE
        _drop_torn_line(self._path)
        self._file = self._path.open("a", encoding="utf-8")
        self._wandb = WandbSink(run_dir, logger, resolved_config, run_name)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one step; NaN and infinities become null, as JSON has no word for them."""
        self._file.write(_metrics_line(step, metrics))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._wandb.log(step, metrics)

    def line(self, step: int) -> dict[str, float]:
        """The metrics of ``step``; empty when it has no line yet."""
        lines = (line for line in read_metrics(self._path.parent) if line.pop("step") == step)
        return next(lines, {})

    def amend(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add to the line of ``step``, the last one, or begin it."""
        earlier = [line for line in read_metrics(self._path.parent) if line["step"] < step]
        self._rewrite([*earlier, {"step": step, **self.line(step), **metrics}])
        self._wandb.log(step, metrics)

    def rewind(self, step: int) -> None:
        """Forget the lines after ``step``: a run resumed from there writes them again."""
        self._rewrite([line for line in read_metrics(self._path.parent) if line["step"] <= step])

    def _rewrite(self, lines: list[dict[str, float]]) -> None:
        self._file.close()
        text = "".join(_metrics_line(int(line.pop("step")), line) for line in lines)
        write_atomically(self._path, text.encode())
        self._file = self._path.open("a", encoding="utf-8")

    def close(self) -> None:
        self._file.close()
        self._wandb.close()


def read_metrics(run_dir: Path) -> list[dict[str, float]]:
    """Lines of ``metrics.jsonl``, null as NaN, less a torn last one; empty without a file.

    Raises:
        ConfigError: a line other than the last is not JSON; names the file and the line.
    """
    path = run_dir / METRICS_FILE
    if not path.exists():
        return []
    complete, _, _torn = path.read_text(encoding="utf-8").rpartition("\n")
    return [_parse_line(path, n, line) for n, line in enumerate(complete.splitlines(), start=1)]


class WandbSink:
    """wandb if it was asked for and can start; otherwise nothing. Never an error.

    The id of the wandb run is kept in the run directory: a resumed run continues its curves.
    """

    def __init__(
        self, run_dir: Path, logger: LoggerConfig, resolved_config: dict[str, Any], run_name: str
    ):
        self._run: Any = None
        mode = wandb_mode(logger.wandb, _has_wandb_key())
        if mode is None:
            return
        try:
            import wandb  # slow to import, and absent from a minimal install

            id_file = run_dir / "wandb_id"
            if not id_file.exists():
                id_file.write_text(uuid4().hex[:8])
            self._run = wandb.init(
                project=logger.project,
                name=run_name,
                id=id_file.read_text(),
                resume="allow",
                dir=run_dir,
                config=resolved_config,
                mode=mode,
                # The console owns the terminal; a dead network costs 30 s, not the default 90.
                settings=wandb.Settings(silent=True, console="off", init_timeout=30),
            )
            # wandb's own step may not go back, ours does when a run resumes from a checkpoint.
            self._run.define_metric("*", step_metric="step")
        except Exception as error:
            self._give_up(error)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._run is None:
            return
        try:
            self._run.log({"step": step, **metrics})
        except Exception as error:
            self._give_up(error)

    def close(self) -> None:
        if self._run is None:
            return
        try:
            self._run.finish()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        reason = str(error).partition("\n")[0] or type(error).__name__
        print(f"wandb is off for this run ({reason}); metrics.jsonl has it all", file=sys.stderr)


def wandb_mode(setting: str, has_key: bool) -> WandbMode | None:
    """What to pass to ``wandb.init(mode=...)``; None leaves wandb alone.

    ``online`` without a key would stop and ask at the terminal, so it records offline, for a
    later ``wandb sync``.
    """
    match setting:
        case "auto":
            mode = os.environ.get("WANDB_MODE", "online")  # wandb itself refuses other words
            return cast(WandbMode, mode) if has_key else None
        case "online":
            return "online" if has_key else "offline"
        case "offline":
            return "offline"
        case _:
            return None


class RolloutLog:
    """Keeps samples as ``rollouts/<name>_<step>.jsonl.gz``, for the report and for reading."""

    def __init__(self, run_dir: Path, keep: int | None, with_tokens: bool = False):
        """
        Args:
            keep: samples per file, spread over the groups; None is all, 0 writes nothing.
            with_tokens: whether training samples can be replayed; see ``write_rollouts``.
        """
        self._folder = run_dir / ROLLOUTS_FOLDER
        self._keep = keep
        self._with_tokens = with_tokens

    def write(self, step: int, groups: Sequence[Group], name: str = TRAINING) -> Path | None:
        """Write one file, whole or not at all. Evaluations pass ``name="eval_<set>"``."""
        samples = _spread([sample for group in groups for sample in group.samples], self._keep)
        if not samples:
            return None
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{name}_{step:06d}.jsonl.gz"
        write_rollouts(path, samples, self._with_tokens and name == TRAINING)
        return path


def write_rollouts(path: Path, samples: Iterable[Sample], with_tokens: bool = False) -> None:
    """One line of JSON a sample, gzipped; the file is whole or absent.

    Args:
        with_tokens: also what a replay needs: token ids, and the engine's log-probs to the last
            bit of a float32.
    """
    write_rows(
        path, (rollout_row(s) | (_replay_columns(s) if with_tokens else {}) for s in samples)
    )


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """What ``rollout_row`` gives as lines of JSON, gzipped; the file is whole or absent."""
    text = "".join(json.dumps(row, default=str) + "\n" for row in rows)
    write_atomically(path, gzip.compress(text.encode(), compresslevel=4, mtime=0))


def read_rollouts(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of one file of ``write_rollouts``, read as they are asked for."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


class StepTimer:
    """Wall time of the stages of one step; a stage that runs twice adds up."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._start = clock()
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = self._clock()
        try:
            yield
        finally:
            self._seconds[stage] = self._seconds.get(stage, 0.0) + self._clock() - start

    def metrics(self) -> dict[str, float]:
        """``time/<stage>_s`` of every stage, and ``time/step_s`` since the timer was made."""
        stages = {f"time/{stage}_s": seconds for stage, seconds in self._seconds.items()}
        return {**stages, "time/step_s": self._clock() - self._start}


def merge_sums(parts: Iterable[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """Add (numerator, denominator) pairs over ranks and micro-batches, then divide once.

    A mean of means would weigh a short micro-batch like a long one. A zero denominator gives NaN.
    """
    totals: dict[str, tuple[float, float]] = {}
    for part in parts:
        for key, (numerator, denominator) in part.items():
            sums = totals.get(key, (0.0, 0.0))
            totals[key] = (sums[0] + float(numerator), sums[1] + float(denominator))
    return {key: num / den if den else float("nan") for key, (num, den) in totals.items()}


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file: a reader, or a crash, sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _metrics_line(step: int, metrics: Mapping[str, float]) -> str:
    values = {key: _finite(float(value)) for key, value in metrics.items()}
    return json.dumps({"step": step, **values}, allow_nan=False) + "\n"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _parse_line(path: Path, number: int, line: str) -> dict[str, float]:
    try:
        values = json.loads(line)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"{path}:{number}",
            line[:80],
            "one JSON object",
            "The file is damaged: delete the line.",
        ) from error
    return {key: float("nan") if value is None else value for key, value in values.items()}


def _drop_torn_line(path: Path) -> None:
    """Cut the file after its last newline."""
    if path.exists():
        with path.open("r+b") as file:
            file.truncate(file.read().rfind(b"\n") + 1)


def _has_wandb_key() -> bool:
    """Whether wandb would find an API key, without importing wandb."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc().authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def _spread(samples: list[Sample], keep: int | None) -> list[Sample]:
    if keep is None or keep >= len(samples):
        return samples
    return [samples[i * len(samples) // keep] for i in range(keep)]


def rollout_row(sample: Sample) -> dict[str, Any]:
    """What is kept of a sample for people and for statistics, as plain JSON values."""
    logprobs = sample.completion.logprobs
    return {
        "prompt_id": sample.prompt.id,
        "index": sample.index,
        "prompt": sample.prompt.text,
        "ground_truth": _shown_truth(sample.prompt.ground_truth),
        "response": sample.text,
        "reward": _finite(sample.result.reward),
        "correct": sample.result.correct,
        "status": sample.result.status,
        "answer": sample.result.answer,
        "finish_reason": sample.completion.finish_reason,
        "num_tokens": len(sample.completion.tokens),
        "mean_logprob": _finite(float(logprobs.mean())) if len(logprobs) else None,
        "weight_version": sample.completion.weight_version,
    }


def _shown_truth(truth: Any) -> Any:
    """The truth, or its beginning: hidden tests take megabytes, and every sample has a row."""
    text = truth if isinstance(truth, str) else json.dumps(truth, default=str)
    return truth if len(text) <= TRUTH_CHARS else f"{text[:TRUTH_CHARS]}..."


def _replay_columns(sample: Sample) -> dict[str, list[Any]]:
    logprobs = sample.completion.logprobs.astype(np.float32)
    return {
        "prompt_tokens": sample.prompt.tokens.tolist(),
        "tokens": sample.completion.tokens.tolist(),
        # numpy prints a float32 with the fewest digits that tell it from its neighbours.
        "logprobs": [_finite(float(str(value))) for value in logprobs],
    }
