"""Scores saved responses with the verifier processes that training uses.

    python -m archer.score reward=math input=cases.jsonl output=scores.jsonl

Input lines are ``{"response": str, "ground_truth": str or [str]}`` or, for code, ``{"response":
str, "tests": [{"input": str, "output": str}], "fn_name": str}``, the name only where a function is
called. Rewards that need no truth do without. Optional are ``id`` (else the line number),
``prompt``, ``source``, ``finish_reason`` and ``extra``. Output lines, in the same order, are
``{"id", "score", "correct", "status", "seconds"}``; the score is 0 where the verifier failed, as
the status tells. ``details=true`` adds ``detail``, ``components`` and ``is_valid``.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import hydra
from omegaconf import DictConfig
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from archer.config import CONF
from archer.config.command_line import run_hydra, run_or_explain
from archer.config.keys import RewardConfig
from archer.config.schema import Section, store_defaults, validate
from archer.errors import ConfigError, RunError
from archer.rewards import resolve_reward
from archer.rewards.checks import check_reward
from archer.rewards.pool.processes import VerifierProcesses, VerifierStartError
from archer.types import FinishReason, RewardResult, ScoreRequest
from archer.workers.reward import max_outstanding

RESULTS_AHEAD = 10_000
"""Results that may wait for an earlier one, so that a slow response idles nobody."""
LIMITED_AHEAD = 1000
"""Responses of sources in ``reward.max_concurrency`` that may wait without holding others up."""
BREATH = 100
"""Cases between looks at processes and deadlines, where none of them has to wait."""
PROBLEM_CHARS = 300


class ScoreConfig(Section):
    """Everything ``python -m archer.score`` takes."""

    reward: RewardConfig
    input: str
    """JSON lines to read."""
    output: str
    """JSON lines to write; replaced only when all is scored."""
    details: bool = False
    """Write `detail`, `components` and `is_valid` too."""


store_defaults("score_base", ScoreConfig)


class Case(BaseModel):
    """One input line. Further keys are ignored."""

    model_config = ConfigDict(frozen=True, strict=True)

    response: str
    ground_truth: JsonValue = None
    tests: list[JsonValue] | None = None
    """With ``fn_name`` in place of ``ground_truth``, for code."""
    fn_name: str | None = None
    id: JsonValue = None
    prompt: str = ""
    source: str = ""
    finish_reason: FinishReason = "stop"
    extra: dict[str, JsonValue] | None = None

    @property
    def truth(self) -> Any:
        if self.tests is None:
            return self.ground_truth
        return {"tests": self.tests} | ({"fn_name": self.fn_name} if self.fn_name else {})


@dataclass
class Tally:
    """What became of the lines so far."""

    num_scored: int = 0
    num_correct: int = 0
    reward_sum: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    """Verifier failures by status."""
    first_failure: str = ""
    num_malformed: int = 0

    @property
    def num_judged(self) -> int:
        return self.num_scored + self.failures.total()

    def add(self, result: RewardResult) -> None:
        if result.is_valid:
            self.num_scored += 1
            self.num_correct += result.correct
            self.reward_sum += result.reward
        else:
            self.failures[result.status] += 1

    def __str__(self) -> str:
        mean = f", mean {self.reward_sum / self.num_scored:.2f}" if self.num_scored else ""
        text = (
            f"{self.num_judged + self.num_malformed} lines: "
            f"{self.num_scored} scored ({self.num_correct} correct{mean}), "
            f"{self.failures.total()} verifier failures"
        )
        if self.failures:
            kinds = [f"{count} {status}" for status, count in sorted(self.failures.items())]
            text += f" ({', '.join(kinds)})"
        return f"{text}, {self.num_malformed} malformed"


Line = tuple[ScoreRequest, Any, int]
"""What to judge, the id to answer under, and the bytes that it took."""


@hydra.main(config_path=str(CONF), config_name="score", version_base="1.3")
def _hydra_main(composed: DictConfig) -> None:
    num_malformed = run_or_explain(lambda: score(load_score_config(composed)))
    sys.exit(1 if num_malformed else 0)


def main() -> None:
    run_hydra(_hydra_main, CONF, ScoreConfig)


def load_score_config(composed: DictConfig) -> ScoreConfig:
    """Validate a composed configuration.

    Raises:
        ConfigError: names the key, the value, what was expected and how to mend it.
    """
    return validate(ScoreConfig, composed)


def score(config: ScoreConfig) -> int:
    """Score a file; the output appears only when it is complete.

    Returns:
        Number of malformed lines; each was reported on stderr and left out.

    Raises:
        ConfigError: unreadable input, unwritable output, or responses cannot be judged here.
        RunError: the verifier processes do not start.
    """
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    with _open("input", config.input, Path(config.input), "rb") as lines:
        _check_output(config)
        for warning in check_reward(config.reward):
            console.print(warning)
        output = Path(config.output).resolve()
        partial = output.with_name(f"{output.name}.{os.getpid()}.partial")
        try:
            with _open("output", config.output, partial, "x") as scores:
                num_malformed = asyncio.run(_score_lines(config, lines, scores, console))
            partial.replace(output)
        except VerifierStartError as error:
            raise RunError(str(error)) from error
        finally:
            partial.unlink(missing_ok=True)
    return num_malformed


def _check_output(config: ScoreConfig) -> None:
    output = Path(config.output)
    if output.exists() and output.samefile(config.input):
        mend = "The scores would replace the responses: set output=FILE to another file."
        raise ConfigError("output", config.output, f"another file than input={config.input}", mend)
    if output.exists() and not output.is_file():
        expected = "a file, which is replaced when all is scored"
        raise ConfigError("output", config.output, expected, "Set output=FILE.")


async def _score_lines(
    config: ScoreConfig, lines: BinaryIO, scores: TextIO, console: Console
) -> int:
    tally = Tally()

    def reject(number: int, problem: str) -> None:
        tally.num_malformed += 1
        console.print(f"line {number}: {problem}")

    processes = VerifierProcesses(config.reward)
    await processes.start()
    try:
        with _progress(console) as progress:
            total = os.fstat(lines.fileno()).st_size or None
            bar = progress.add_task("scoring", total=total, lines=0, rate=0.0, failures=0)
            requests = _requests(config.reward, lines, reject)
            num_bytes = 0
            async with aclosing(_results(processes, requests, config.reward)) as results:
                async for id, size, result in results:
                    tally.add(result)
                    if not result.is_valid and tally.failures[result.status] == 1:
                        failure = f"{result.status}, id {id!r}: {result.detail!r}"
                        console.print(f"first {failure}")
                        tally.first_failure = tally.first_failure or failure
                    scores.write(json.dumps(output_record(id, result, config.details)) + "\n")
                    num_bytes += size
                    if tally.num_judged % BREATH == 0 or not result.is_valid:
                        _show(progress, bar, tally, num_bytes)
            _show(progress, bar, tally, total or num_bytes)
    finally:
        await processes.close()
    _conclude(config.reward, tally, console)
    return tally.num_malformed


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[lines]} lines, {task.fields[rate]:.0f}/s"),
        TextColumn("{task.fields[failures]} failed"),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )


def _show(progress: Progress, bar: Any, tally: Tally, num_bytes: int) -> None:
    elapsed = progress.tasks[0].elapsed
    rate = tally.num_judged / elapsed if elapsed else 0.0
    failures = tally.failures.total()
    progress.update(bar, completed=num_bytes, lines=tally.num_judged, rate=rate, failures=failures)


def _conclude(config: RewardConfig, tally: Tally, console: Console) -> None:
    failures = tally.failures.total()
    if failures > config.max_failure_frac * tally.num_judged:
        console.print(
            f"WARNING: the verifier failed on {failures} of {tally.num_judged} responses, more "
            f"than reward.max_failure_frac={config.max_failure_frac:g}: these scores mean little. "
            f"First {tally.first_failure}",
            style="bold red",
        )
    console.print(str(tally))


async def _results(
    processes: VerifierProcesses, lines: Iterable[Line], config: RewardConfig
) -> AsyncGenerator[tuple[Any, int, RewardResult], None]:
    """Ids, sizes and results in the order of the lines, of which a bounded number are at work."""
    free = asyncio.Semaphore(max_outstanding(config))
    limited = asyncio.Semaphore(LIMITED_AHEAD)
    ahead: deque[tuple[Any, int, RewardResult | asyncio.Task[RewardResult]]] = deque()
    try:
        for number, (request, id, size) in enumerate(lines):
            verdict = processes.quick(request)
            if verdict is None:
                # Those that wait for their source's turn must not take the room of others.
                room = limited if request.source in config.max_concurrency else free
                await room.acquire()
                verdict = asyncio.create_task(processes.judge(request))
                verdict.add_done_callback(lambda _, room=room: room.release())
            ahead.append((id, size, verdict))
            if number % BREATH == 0:
                await asyncio.sleep(0)
            while ahead and (_is_there(ahead[0][2]) or len(ahead) > RESULTS_AHEAD):
                first_id, first_size, first = ahead[0]
                yield first_id, first_size, await _value(first)
                ahead.popleft()
        while ahead:
            first_id, first_size, first = ahead[0]
            yield first_id, first_size, await _value(first)
            ahead.popleft()
    finally:
        tasks = [verdict for _, _, verdict in ahead if isinstance(verdict, asyncio.Task)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _is_there(verdict: RewardResult | asyncio.Task[RewardResult]) -> bool:
    return isinstance(verdict, RewardResult) or verdict.done()


async def _value(verdict: RewardResult | asyncio.Task[RewardResult]) -> RewardResult:
    return verdict if isinstance(verdict, RewardResult) else await verdict


def _requests(
    config: RewardConfig, lines: BinaryIO, reject: Callable[[int, str], None]
) -> Iterator[Line]:
    """The lines that can be judged, numbered where they have no id; blank ones are skipped."""
    reward = resolve_reward(config.name, config.args)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            case = parse_case(line)
            truth = case.truth
            try:
                reward.check(truth, case.source, config.args)
            except (ValueError, RecursionError) as error:
                if truth is None:
                    raise ValueError(f"no ground_truth and no tests: {error}") from error
                raise
        except (ValueError, RecursionError) as error:
            reject(number, str(error)[:PROBLEM_CHARS])
            continue
        id = number if case.id is None else case.id
        request = ScoreRequest(
            str(id),
            case.response,
            truth,
            case.prompt,
            case.source,
            case.finish_reason,
            case.extra or {},
        )
        yield request, id, len(line)


def parse_case(line: bytes) -> Case:
    """An input line.

    Raises:
        ValueError: one sentence about what is wrong with it.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError("not a JSON object")
    try:
        case = Case.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if case.ground_truth is not None and (case.tests is not None or case.fn_name is not None):
        raise ValueError("ground_truth: stands beside tests or fn_name, which take its place")
    if case.fn_name is not None and case.tests is None:
        raise ValueError("fn_name: stands without tests")
    return case


def output_record(id: Any, result: RewardResult, with_details: bool = False) -> dict[str, Any]:
    """One output line. The score is 0 where the verifier failed, as ``status`` tells."""
    is_valid = result.is_valid
    record = {
        "id": id,
        "score": result.reward if is_valid else 0.0,
        "correct": result.correct,
        "status": result.status,
        "seconds": round(result.seconds, 6),
    }
    if with_details:
        components = {
            name: None if math.isnan(reward) else reward
            for name, reward in result.components.items()
        }
        record |= {"detail": result.detail, "components": components, "is_valid": is_valid}
    return record


def _open(key: str, value: str, path: Path, mode: str) -> Any:
    try:
        return path.open(mode)
    except OSError as error:
        expected = "a readable file" if "r" in mode else "a file in an existing, writable folder"
        raise ConfigError(key, value, expected, f"{error.strerror}: set {key}=FILE.") from error


if __name__ == "__main__":
    main()
