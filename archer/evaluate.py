"""avg@k, pass@k and maj@k of a model on held-out problems, with the engines of training.

    python -m archer.evaluate model=r1-distill-1.5b cluster=1x8 data=aime24,aime25
    python -m archer.evaluate model=runs/default/RUN cluster=1x8 data=math500 eval.num_samples=8
    python -m archer.evaluate probe=min_knn model=... data=aime24,aime25 probe.reference=aime25

Writes ``results.json``, ``results.md``, and of each set ``problems_<set>.jsonl`` and every sample,
``samples_<set>.jsonl.gz``. The same command goes on where it was killed. See docs/evaluate.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig
from rich.console import Console as RichConsole

from archer.config import CONF
from archer.config.command_line import given_keys, run_hydra, run_or_explain
from archer.console import Console, format_duration
from archer.errors import ConfigError, RunError
from archer.evaluation.config import EvaluateConfig, load_evaluate_config
from archer.evaluation.journal import Journal
from archer.evaluation.measures import Verdict, problem_row
from archer.evaluation.min_knn import check_probe, run_probe
from archer.evaluation.results import (
    SetResult,
    compare_published,
    figures_of,
    mean_avg,
    measure_set,
    or_null,
    published_mean_avg,
)
from archer.evaluation.table import NOTE, markdown_tables, protocol_lines, screen_table
from archer.metrics import rollout_row, write_atomically, write_rows
from archer.preflight import EvalInputs, check_eval_inputs, check_tools
from archer.runtime.run_directory import check_writable
from archer.runtime.stopping import StopSignals
from archer.types import Prompt
from archer.warm_start import start_model

if TYPE_CHECKING:
    from archer.collector import SampleStream

RESULTS_FILE = "results.json"
TABLE_FILE = "results.md"


def evaluate_model(config: EvaluateConfig) -> dict[str, SetResult]:
    """Check everything, sample what no earlier process has, judge, and write the output folder.

    Raises:
        ConfigError: the evaluation cannot work as configured.
        RunError: the results could not be written.
        Interrupted: a signal ended it; the problems finished so far are in the journal.
    """
    began = time.monotonic()
    with StopSignals() as stop, Console(0, 0) as console:
        _check_output(config)
        for warning in check_tools(config):
            console.note(warning)
        if args := config.data.chat_template_args:  # perhaps those of the model's run
            console.note(f"chat template with {', '.join(f'{k}={v}' for k, v in args.items())}")
        model_path = start_model(config.model, Path(config.run.cache), console)
        inputs = check_eval_inputs(config, model_path)
        with Journal(config) as journal:
            _sample_missing(config, inputs, journal, console, stop)
            try:
                results = {name: _write_set(config, inputs, name, journal) for name in inputs.evals}
                _write_results(config, inputs, results, time.monotonic() - began)
            except OSError as error:
                raise RunError(
                    f"the results could not be written ({error}). Free some space; the same "
                    "command makes them from what was sampled."
                ) from error
            journal.remove()
    return results


def _check_output(config: EvaluateConfig) -> None:
    folder = config.output_dir
    if (folder / RESULTS_FILE).exists():
        raise ConfigError(
            "output",
            str(folder),
            f"a folder without {RESULTS_FILE}",
            "It holds a finished evaluation: choose another output=FOLDER, or delete that one. To "
            "probe its samples, with nothing sampled anew, choose another output=FOLDER and set "
            f"probe.samples.NAME={folder}/samples_NAME.jsonl.gz for each set NAME.",
        )
    check_writable("output", str(folder), folder)


def _sample_missing(
    config: EvaluateConfig,
    inputs: EvalInputs,
    journal: Journal,
    console: Console,
    stop: StopSignals,
) -> None:
    """Sample and judge the problems that are not in the journal."""
    missing = {
        name: [prompt for prompt in found.prompts if not journal.has(prompt)]
        for name, found in inputs.evals.items()
    }
    total = sum(len(found.prompts) for found in inputs.evals.values())
    num_missing = sum(map(len, missing.values()))
    if num_missing < total:
        console.note(f"going on after {total - num_missing} of {total} problems")
    if not num_missing:
        return

    from archer.collector import SampleStream
    from archer.runtime import cluster as ray_cluster

    cluster = config.cluster
    try:
        console.stage(f"starting {cluster.rollout_replicas} vLLM engine(s)")
        ray_cluster.start_ray(cluster)
        stop.install()
        rewards = ray_cluster.start_rewards(config)
        rollouts = ray_cluster.start_rollouts(config, inputs, ray_cluster.Placement(cluster))
        ready = {
            f"{pool.name} {i}": actor.ready.remote()
            for pool in (rollouts, rewards)
            for i, actor in enumerate(pool.actors)
        }
        ray_cluster.wait_until_ready(list(ready.values()), cluster.start_timeout_s, list(ready))
        stream = SampleStream(rollouts, rewards, inputs.tokenizer, cluster.step_timeout_s)
        sample_problems(config, missing, stream, journal, console)
    finally:
        ray_cluster.stop_ray()


def sample_problems(
    config: EvaluateConfig,
    problems: Mapping[str, Sequence[Prompt]],
    stream: SampleStream,
    journal: Journal,
    console: Console,
) -> None:
    """Sample and judge the problems of all sets in one go, into the journal as they finish.

    One set after the other would leave the engines idle while the longest responses of each end.
    """
    from archer.evaluation.sampling import eval_requests, stream_groups

    protocols = config.protocols
    asked = [
        pair
        for name, prompts in problems.items()
        for pair in eval_requests(prompts, protocols[name], config.seed)
    ]
    num_samples = sum(len(requests) for _, requests in asked)
    sets = f"{len(problems)} sets" if len(problems) > 2 else " and ".join(problems)
    with console.progress(f"evaluating {sets}", num_samples) as advance:
        on_sample = with_eta(advance, num_samples)
        for group in stream_groups(stream, asked, on_sample):
            journal.append(group.prompt, [rollout_row(sample) for sample in group.samples])


def with_eta(
    advance: Callable[[int, str], None],
    total: int,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[], None]:
    """Counts one more of ``total``, and says how long the rest will take at the pace so far."""
    start, done = clock(), 0

    def count() -> None:
        nonlocal done
        done += 1
        advance(1, f"ETA {format_duration((clock() - start) / done * (total - done))}")

    return count


def _write_set(
    config: EvaluateConfig, inputs: EvalInputs, name: str, journal: Journal
) -> SetResult:
    """Write the files of a complete set, and measure it."""
    found = inputs.evals[name]
    problems = [journal.rows(prompt) for prompt in found.prompts]
    samples = config.output_dir / f"samples_{name}.jsonl.gz"
    write_rows(samples, [row for rows in problems for row in rows])
    verdicts = [[Verdict.of_row(row) for row in rows] for rows in problems]
    table = map(partial(problem_row, name), found.prompts, verdicts)
    text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in table)
    write_atomically(config.output_dir / f"problems_{name}.jsonl", text.encode())
    result = measure_set(verdicts, config.protocols[name], found.dropped)
    if name not in config.data.sets:
        return result
    figures = figures_of(config.model, config.data.sets[name].published)
    has_own = config.has_own_protocol(name, given_keys())
    same_protocol = has_own and not any(found.dropped.values())
    return replace(result, published=compare_published(figures, result, same_protocol))


def _write_results(
    config: EvaluateConfig, inputs: EvalInputs, results: Mapping[str, SetResult], seconds: float
) -> None:
    """``results.md``, and last ``results.json``, with which the evaluation is complete."""
    header = f"# {config.model.name}\n\nModel `{inputs.model_path}`, seed {config.seed}.\n{NOTE}\n"
    table = config.output_dir / TABLE_FILE
    write_atomically(table, (header + markdown_tables(results)).encode())
    record = {
        "model": inputs.model_path,
        "seconds": round(seconds, 1),
        "average": {
            "avg": or_null(mean_avg(results)),
            "published_avg": or_null(published_mean_avg(results)),
        },
        "sets": {name: result.record() for name, result in results.items()},
        "config": config.model_dump(mode="json"),
    }
    text = json.dumps(record, indent=1, allow_nan=False)
    write_atomically(config.output_dir / RESULTS_FILE, text.encode())


def _run(config: EvaluateConfig) -> None:
    """Evaluate, probe, and print.

    Raises:
        RunError: the verifier failed so often that the table means little.
    """
    check_probe(config)
    output = RichConsole(highlight=False)
    if not output.is_terminal:
        output.width = 200  # nobody's screen is too narrow
    if config.probe.samples:  # of an earlier evaluation
        output.print(run_probe(config))
        return
    results = evaluate_model(config)
    _print_results(config, results, output)
    if config.probe.name is not None:
        output.print(run_probe(config))
    _check_failures(config, results)


def _print_results(
    config: EvaluateConfig, results: Mapping[str, SetResult], output: RichConsole
) -> None:
    output.print(screen_table(results))
    files = [str(config.output_dir / name) for name in (TABLE_FILE, RESULTS_FILE)]
    for line in [*protocol_lines(results), *files]:
        output.print(line, soft_wrap=True, markup=False)


def _check_failures(config: EvaluateConfig, results: Mapping[str, SetResult]) -> None:
    limit = config.reward.max_failure_frac
    for name, result in results.items():
        failed = result.samples.failure_frac
        if failed > limit:
            raise RunError(
                f"the verifier failed on {failed:.0%} of the samples of {name}, more than "
                f"reward.max_failure_frac={limit:.0%}. "
                f"The samples in {config.output_dir} hold their status."
            )


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def _hydra_main(composed: DictConfig) -> None:
    run_or_explain(lambda: _run(load_evaluate_config(composed)))


def main() -> None:
    run_hydra(_hydra_main, CONF, EvaluateConfig)


if __name__ == "__main__":
    main()
