"""``python -m archer.main [overrides]``: compose, validate, launch, report.

python -m archer.main                                      the embedded default, on a CPU
python -m archer.main algo=dapo seed=1                     another objective
python -m archer.main -m algo=archer,dapo,grpo seed=1,2,3  a comparison, one run after the other
python -m archer.main trainer.dry_run=true                 all but the actors: check, and tell
python -m archer.main --cfg job                            the composed configuration
"""

from __future__ import annotations

from pathlib import Path

import hydra
import yaml
from omegaconf import DictConfig

from archer.config import CONF
from archer.config.command_line import run_hydra, run_or_explain
from archer.config.keys import TrainConfig, load_config
from archer.console import Console
from archer.planning.dry_run import describe_run
from archer.preflight import check_inputs, check_setup
from archer.report import write_report
from archer.runtime.stopping import StopSignals
from archer.warm_start import start_model


def train(config: TrainConfig) -> None:
    """Check everything, train, and write the report."""
    with StopSignals() as stop, Console(config.trainer.num_steps, 0) as console:
        for warning in check_setup(config):
            console.note(warning)
        model_path = start_model(config.model, Path(config.run.cache), console)
        inputs = check_inputs(config, model_path)
        if config.trainer.dry_run:
            for line in describe_run(config, inputs):
                console.note(line)
            return
        resolved = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        config.run_dir.mkdir(parents=True, exist_ok=True)
        (config.run_dir / "config.yaml").write_text(resolved)
        console.note(f"run directory {config.run_dir}")
        from archer.trainer import Trainer

        trainer = Trainer(config, inputs, console, stop)
        try:
            trainer.run()
        except KeyboardInterrupt:
            trainer.save_if_newer()
            raise
        finally:
            trainer.close()
            _report(config.run_dir, console)


def _report(run_dir: Path, console: Console) -> None:
    try:
        console.note(f"report {write_report(run_dir)}")
    except Exception as error:  # a chart that cannot be drawn must not hide how the run ended
        console.note(f"no report, {type(error).__name__}: {error}")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _hydra_main(composed: DictConfig) -> None:
    run_or_explain(lambda: train(load_config(composed)))


def main() -> None:
    run_hydra(_hydra_main, CONF, TrainConfig)


if __name__ == "__main__":
    main()
