"""The loop.

    prompts ──▶ rollouts (vLLM) ──samples──▶ rewards (verifier processes) ──▶ Collector
                   ▲                                                             │ groups
                   │                                                             ▼
               WeightSync ◀── PolicyWorker.update ◀── advantages ◀── log-probs, flat Batch

Step n samples from policy version n and leaves version n + 1. The driver holds no model and imports
no torch.
"""

from __future__ import annotations

import json
import resource
import time
from pathlib import Path

from ray.exceptions import RayActorError, RayTaskError

from archer import rehearsal
from archer.algos import resolve_algorithm
from archer.checkpoint import Checkpoints, TrainerState
from archer.collector import Collected, Collector, SampleStream
from archer.config.keys import TrainConfig
from archer.console import Console, eval_lines
from archer.errors import RunError
from archer.evaluation.measures import eval_metrics, verdicts
from archer.evaluation.sampling import eval_requests, sample_groups
from archer.learner import Learner, Update
from archer.metrics import MetricsLog, RolloutLog, StepTimer
from archer.preflight import Inputs
from archer.prompts import PromptLoader, describe_prompts
from archer.rehearsal import Rehearsal
from archer.runtime import cluster as ray_cluster
from archer.runtime.actors import Actors
from archer.runtime.alerts import Alerts
from archer.runtime.environment import describe_environment
from archer.runtime.stopping import StopSignals
from archer.workers.group import WorkerDied

BEGINNING = TrainerState(step=0, prompt_position=0, keep_frac=1.0, skipped_in_a_row=0)


class TrainingFailed(RunError):
    """The run cannot go on; the message says why and the last checkpoint stands."""


class CheckpointNotWritten(RunError):
    """No room, or no right to write; the checkpoint before it stands."""


class Trainer:
    """One run, from the first actor to the final evaluation.

    Args:
        config: validated configuration.
        inputs: model, tokenizer and prompts, checked by ``preflight``.
        console: where progress is shown.
        stop: signals that end the run early.
    """

    def __init__(self, config: TrainConfig, inputs: Inputs, console: Console, stop: StopSignals):
        self.config, self.inputs, self.console, self.stop = config, inputs, console, stop
        self.run_dir = config.run_dir
        self.loader = PromptLoader(inputs.train.prompts, config.seed)
        self.metrics = MetricsLog(
            self.run_dir, config.logger, config.model_dump(mode="json"), config.run_name
        )
        self.rollout_log = RolloutLog(
            self.run_dir, config.logger.rollouts_per_step, config.logger.rollout_tokens
        )
        self.checkpoints = Checkpoints(
            self.run_dir / "checkpoints",
            config.run.keep_checkpoints,
            {
                "model": inputs.model_path,
                "world_size": config.cluster.policy_workers,
                "zero_stage": config.cluster.zero_stage,
                "lora": config.model.lora and config.model.lora.model_dump(),
            },
        )
        self.state = BEGINNING
        self.rehearsal: Rehearsal | None = None
        self.has_lost_ranks = False
        self.algorithm = resolve_algorithm(config.algo)
        self.alerts = Alerts()
        self.restarts_left = config.trainer.max_restarts

    def run(self) -> None:
        """Train to the end, recovering from dead workers.

        Raises:
            CheckpointError: the last checkpoint is torn or foreign; raised before any actor starts.
            RunError: the run cannot go on.
            Interrupted: a signal asked it to stop; ``save_if_newer`` saves the last whole step.
        """
        checkpoint = self._read_checkpoint()
        self._read_rehearsal()
        self._start()
        while True:
            try:
                self._restore(checkpoint)
                self._store_rehearsal()
                self.learner = Learner(self.config, self.algorithm, self.actors, self.rehearsal)
                self._train()
                return
            except (WorkerDied, RayActorError) as death:
                self._count_restart(death)
                checkpoint = self._read_checkpoint()

    def _train(self) -> None:
        self._evaluate_if_due()
        for step in range(self.state.step, self.config.trainer.num_steps):
            timer = StepTimer()
            with timer("rollout"):
                collected = self.collector.next_batch(step, self._show_sampling)
            with timer("logprobs"):
                self.actors.turns.training()
                batch = self.learner.batch(collected.groups)
            means = dict(self.state.running_means)
            batch, credit = self.learner.credit(batch, step, means)
            with self.stop.deferred():  # in here policy, engines and state are of two versions
                with timer("update"):
                    update = self.learner.update(batch, step)
                with timer("weight_sync"):
                    sync = self.actors.weight_sync.push(version=step + 1)
                self._finish_step(collected, update, credit | sync, means, timer)
                self._save_if_due()
            self._evaluate_if_due()

    def _show_sampling(self, done: int, wanted: int) -> None:
        self.console.status(f"sampled {done}/{wanted} groups")

    def _finish_step(
        self,
        collected: Collected,
        update: Update,
        extra: dict[str, float],
        running_means: dict[str, float],
        timer: StepTimer,
    ) -> None:
        done = self.state.step + 1
        skipped = update.skipped_in_a_row(self.state.skipped_in_a_row)
        self.state = TrainerState(
            done, self.loader.position, self.collector.keep_frac, skipped, running_means
        )
        self.rollout_log.write(done, collected.decided)
        metrics = collected.metrics | update.metrics | extra | timer.metrics()
        metrics["memory/driver_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        lengths = [len(s.completion.tokens) for g in collected.decided for s in g.samples]
        metrics["throughput/tokens_per_s"] = sum(lengths) / metrics["time/step_s"]
        metrics["throughput/samples_per_s"] = len(lengths) / metrics["time/step_s"]
        self.metrics.log(done, metrics)
        self.console.step(done, metrics)
        for warning in self.alerts.check(metrics):
            self.console.note(warning)
        if skipped >= self.config.trainer.max_skipped_updates:
            raise TrainingFailed(
                f"{skipped} optimizer steps in a row had gradients that were not finite "
                "(trainer.max_skipped_updates). "
                "Lower optimizer.learning_rate or look at rollouts/ of the last steps."
            )

    def _is_due(self, every: int) -> bool:
        step = self.state.step
        return step == self.config.trainer.num_steps or (every > 0 and step % every == 0)

    def _save_if_due(self) -> None:
        if self._is_due(self.config.run.save_every):
            began = time.monotonic()
            self._save()
            self._amend("checkpoint", began, {})

    def _evaluate_if_due(self) -> None:
        """Evaluate, unless the step has its evaluation from before a restart."""
        step = self.state.step
        if not (step == 0 or self._is_due(self.config.eval.every)):
            return
        if not any(key.startswith("eval/") for key in self.metrics.line(step)):
            began = time.monotonic()
            metrics = self._evaluate(step)
            self._amend("eval", began, metrics)
            for line in eval_lines(step, metrics):
                self.console.note(line)

    def _amend(self, stage: str, began: float, metrics: dict[str, float]) -> None:
        """Add a stage that came after the step to the line of the step."""
        seconds = time.monotonic() - began
        step_s = self.metrics.line(self.state.step).get("time/step_s", 0.0) + seconds
        times = {f"time/{stage}_s": seconds, "time/step_s": step_s}
        self.metrics.amend(self.state.step, metrics | times)

    def _evaluate(self, step: int) -> dict[str, float]:
        metrics = {}
        for name, found in self.inputs.evals.items():
            asked = eval_requests(found.prompts, self.config.eval_protocol, self.config.seed)
            with self.console.progress(f"evaluating {name}", len(asked)) as advance:
                groups = sample_groups(self.stream, asked, advance)
            self.rollout_log.write(step, groups, name=f"eval_{name}")
            of_set = eval_metrics(verdicts(groups))
            metrics |= {f"eval/{name}/{key}": value for key, value in of_set.items()}
        return metrics

    def _start(self) -> None:
        """Bring up all actors and record what they are."""
        cluster = self.config.cluster
        self.console.stage(
            f"starting {cluster.rollout_replicas} vLLM engine(s), "
            f"{cluster.policy_workers} policy rank(s)"
        )
        ray_cluster.start_ray(cluster)
        self.stop.install()  # Ray has put its own handlers in place
        self.actors = Actors(self.config, self.inputs, self.algorithm.needs)
        facts = self.actors.wait_until_ready()
        environment = describe_environment(facts, ray_cluster.describe_nodes())
        environment["prompts"] = describe_prompts({"train": self.inputs.train} | self.inputs.evals)
        (self.run_dir / "environment.json").write_text(json.dumps(environment, indent=1))
        for line in [*environment["prompts"], *environment["workers"]]:
            self.console.note(line)
        self.stream = SampleStream(
            self.actors.rollouts, self.actors.rewards, self.inputs.tokenizer, cluster.step_timeout_s
        )
        self.collector = Collector(self.config, self.stream, self.loader)

    def _read_checkpoint(self) -> Path | None:
        """Take the driver's state from the last checkpoint, if there is one."""
        checkpoint = self.checkpoints.latest()
        self.state = BEGINNING if checkpoint is None else self.checkpoints.load(checkpoint)
        return checkpoint

    def _read_rehearsal(self) -> None:
        """Take up the stored responses of the run; their prompts are not trained on."""
        if "rehearsal" not in self.algorithm.needs:
            return
        self.rehearsal = rehearsal.read(self.run_dir, self.state.step)
        if self.rehearsal is None:
            return
        self.loader.leave_out(self.rehearsal.prompt_ids)
        if len(self.loader) < self.config.trainer.prompts_per_step:
            raise TrainingFailed(
                f"the start model always solves {len(self.rehearsal.prompt_ids)} of the "
                f"{len(self.inputs.train.prompts)} training prompts, and those left are fewer than "
                f"trainer.prompts_per_step={self.config.trainer.prompts_per_step}. "
                "Train on harder prompts, or lower algo.rehearsal.prompts in a new run."
            )

    def _store_rehearsal(self) -> None:
        """Sample and store what the start model always solves, unless the run has it."""
        if "rehearsal" not in self.algorithm.needs or self.rehearsal is not None:
            return
        began = time.monotonic()
        num_stored = rehearsal.store_solved(
            self.inputs.train.prompts, self.config, self.stream, self.actors, self.console
        )
        self._read_rehearsal()
        self._amend("rehearsal", began, {"rehearsal/stored": float(num_stored)})

    def _restore(self, checkpoint: Path | None) -> None:
        """Continue from a checkpoint, or begin; either way engines and trainer agree afterwards."""
        if self.has_lost_ranks:
            self.actors.replace_policy()
            self.has_lost_ranks = False
        # After the policy: an engine found dead here is given weights.
        self.stream.give_up()
        if checkpoint is not None:
            self.actors.load(checkpoint)
            self.console.note(f"resuming after step {self.state.step} from {checkpoint}")
        self.metrics.rewind(self.state.step)
        self.loader.rewind(self.state.prompt_position)
        self.collector.keep_frac = self.state.keep_frac
        self.actors.weight_sync.push(version=self.state.step)

    def _save(self) -> None:
        def write(folder: Path) -> list[dict[str, int]]:
            sizes = self.actors.save(folder)
            self.inputs.tokenizer.save(folder / "hf")
            return sizes

        try:
            with self.actors.turns.saving():
                self.checkpoints.save(self.state, write)
        except (OSError, RayTaskError) as error:
            reason = error.cause if isinstance(error, RayTaskError) else error
            raise CheckpointNotWritten(
                f"{self.checkpoints.path(self.state.step)} could not be written; "
                f"the checkpoint before it stands. {type(reason).__name__}: {reason}"
            ) from error

    def save_if_newer(self) -> None:
        """A checkpoint of the last whole step, unless there is one."""
        if self.state.step and not self.checkpoints.path(self.state.step).exists():
            self.console.stage(f"stopping: saving step {self.state.step}")
            self._save()
            self.console.note(f"saved step {self.state.step}; the same command goes on from it")

    def _count_restart(self, death: Exception) -> None:
        """Note that all ranks must be replaced, if another restart is allowed."""
        limit = self.config.trainer.max_restarts
        reason = str(death).splitlines()[0].rstrip(".")
        if self.restarts_left == 0:
            raise TrainingFailed(f"{reason}; trainer.max_restarts={limit} are used up") from death
        self.restarts_left -= 1
        self.console.note(f"{reason}. Restarting from the last checkpoint.")
        self.has_lost_ranks = True

    def close(self) -> None:
        """End every process of the run."""
        ray_cluster.stop_ray()
        self.metrics.close()
