"""avg@k and pass@k of a model on held-out problems, with the engines and verifiers of training.

    python -m archer.evaluate model=r1-distill-1.5b cluster=1x1 data=jsonl \\
        data.eval.aime24=aime24.parquet eval.num_samples=64 sampling.max_response_tokens=32768
    python -m archer.evaluate model.path=runs/default/RUN/checkpoints/step_000060/hf

Writes ``results.json`` and every sample, ``samples_<set>.jsonl.gz``. See docs/evaluate.md.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig
from rich.console import Console as RichConsole
from rich.table import Table

from archer.config import CONF
from archer.config.command_line import run_hydra, run_or_explain
from archer.config.keys import EvaluateConfig, load_evaluate_config
from archer.config.schema import store_defaults
from archer.console import Console
from archer.errors import ConfigError, RunError
from archer.evaluation.statistics import bootstrap_interval, pass_per_problem
from archer.metrics import write_atomically, write_rollouts
from archer.preflight import EvalInputs, check_eval_inputs, check_tools
from archer.runtime.run_directory import check_writable
from archer.runtime.stopping import StopSignals
from archer.warm_start import start_model

if TYPE_CHECKING:
    from archer.evaluation.sampling import Evaluation

RESULTS_FILE = "results.json"

store_defaults("evaluate_base", EvaluateConfig)

Results = dict[str, dict[str, Any]]
"""Set name -> measure, e.g. ``avg@8``, ``avg@8_lo``, ``pass@4`` -> value."""


def evaluate_model(config: EvaluateConfig) -> Results:
    """Check everything, sample, judge, and write the output folder.

    Raises:
        ConfigError: the evaluation cannot work as configured.
        Interrupted: a signal ended it; the samples of complete sets are written.
    """
    began = time.monotonic()
    with StopSignals() as stop, Console(0, 0) as console:
        _check_output(config)
        for warning in check_tools(config):
            console.note(warning)
        model_path = start_model(config.model, Path(config.run.cache), console)
        inputs = check_eval_inputs(config, model_path)
        results = _sample_sets(config, inputs, console, stop)
    record = {
        "model": inputs.model_path,
        "seconds": round(time.monotonic() - began, 1),
        "sets": {name: _without_nan(measures) for name, measures in results.items()},
        "config": config.model_dump(mode="json"),
    }
    text = json.dumps(record, indent=1, allow_nan=False)
    write_atomically(config.output_dir / RESULTS_FILE, text.encode())
    return results


def _check_output(config: EvaluateConfig) -> None:
    folder = config.output_dir
    if (folder / RESULTS_FILE).exists():
        raise ConfigError(
            "output",
            str(folder),
            f"a folder without {RESULTS_FILE}",
            "It holds another evaluation: choose another output=FOLDER, or delete that one.",
        )
    check_writable("output", str(folder), folder)


def _sample_sets(
    config: EvaluateConfig, inputs: EvalInputs, console: Console, stop: StopSignals
) -> Results:
    """Start engines and verifiers, evaluate set by set, and end every process."""
    from archer.collector import SampleStream
    from archer.evaluation.sampling import evaluate
    from archer.runtime import cluster as launch

    cluster = config.cluster
    results = {}
    try:
        console.stage(f"starting {cluster.rollout_replicas} vLLM engine(s)")
        launch.start_ray(cluster)
        stop.install()
        rewards = launch.start_rewards(config)
        rollouts = launch.start_rollouts(config, inputs, launch.Placement(cluster))
        ready = {
            f"{pool.name} {i}": actor.ready.remote()
            for pool in (rollouts, rewards)
            for i, actor in enumerate(pool.actors)
        }
        launch.wait_until_ready(list(ready.values()), cluster.start_timeout_s, list(ready))
        stream = SampleStream(rollouts, rewards, inputs.tokenizer, cluster.step_timeout_s)
        for name, found in inputs.evals.items():
            with console.progress(f"evaluating {name}", len(found.prompts)) as advance:
                outcome = evaluate(
                    stream, name, found.prompts, config.eval,
                    config.sampling.max_response_tokens, config.seed, advance,
                )  # fmt: skip
            samples = [sample for group in outcome.groups for sample in group.samples]
            write_rollouts(config.output_dir / f"samples_{name}.jsonl.gz", samples)
            results[name] = {
                "num_problems": len(found.prompts),
                "dropped": found.dropped,
                "num_samples": config.eval.num_samples,
                **set_results(name, outcome),
            }
    finally:
        launch.stop_ray()
    return results


def set_results(name: str, outcome: Evaluation) -> dict[str, float]:
    """The metrics of one set without their prefix, and the intervals of pass@k."""
    from archer.evaluation.sampling import pass_sizes, verdicts

    prefix = f"eval/{name}/"
    measures = {key.removeprefix(prefix): value for key, value in outcome.metrics.items()}
    correct = verdicts(outcome.groups)
    for k in pass_sizes(correct.shape[1]):
        low, high = bootstrap_interval(pass_per_problem(correct, k))
        measures |= {f"pass@{k}_lo": low, f"pass@{k}_hi": high}
    return measures


def results_table(results: Mapping[str, Mapping[str, Any]]) -> Table:
    """Measures down, sets across; 95 % intervals in brackets."""
    table = Table("", *results, box=None)
    first = next(iter(results.values()))
    scores = [m for m in first if m.startswith(("avg@", "pass@")) and f"{m}_lo" in first]
    for measure in scores:
        cells = [
            f"{r[measure]:.3f} [{r[f'{measure}_lo']:.3f}, {r[f'{measure}_hi']:.3f}]"
            for r in results.values()
        ]
        table.add_row(measure, *[cell.replace("[", r"\[") for cell in cells])
    for measure, form in (
        ("num_problems", "{}"),
        ("response_tokens_mean", "{:.0f}"),
        ("truncated_frac", "{:.3f}"),
        ("failure_frac", "{:.3f}"),
    ):
        table.add_row(measure, *[form.format(r[measure]) for r in results.values()])
    return table


def _without_nan(measures: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no word for NaN."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in measures.items()
    }


def _report(config: EvaluateConfig) -> None:
    """Evaluate, and print the table.

    Raises:
        RunError: the verifier failed so often that the table means little.
    """
    results = evaluate_model(config)
    output = RichConsole(highlight=False)
    output.print(results_table(results))
    output.print(str(config.output_dir / RESULTS_FILE), soft_wrap=True)
    limit = config.reward.max_failure_frac
    for name, measures in results.items():
        if measures["failure_frac"] > limit:
            raise RunError(
                f"the verifier failed on {measures['failure_frac']:.0%} of the samples of {name}, "
                f"more than reward.max_failure_frac={limit:.0%}. "
                f"The samples in {config.output_dir} hold their status."
            )


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="evaluate")
def _hydra_main(composed: DictConfig) -> None:
    run_or_explain(lambda: _report(load_evaluate_config(composed)))


def main() -> None:
    run_hydra(_hydra_main, CONF, EvaluateConfig)


if __name__ == "__main__":
    main()
