"""What happens to a batch between rollouts and weight sync.

groups ─▶ Batch ─ log-probs, values ─▶ advantages ─▶ optimizer steps of policy and critic
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from archer.algos import Algorithm
from archer.algos.credit import assign_credit
from archer.batch import build_batch, mask_impossible
from archer.config.keys import TrainConfig
from archer.metrics import merge_sums
from archer.rehearsal import Rehearsal
from archer.rollout_metrics import batch_metrics, mismatch_metrics
from archer.runtime.actors import Actors
from archer.seeds import derive_seed
from archer.types import Batch, Group, UpdateResult

OLD = {"old_logprobs", "old_entropy", "old_logsumexp", "old_proxy_logprobs"}
"""Needs that one forward pass of the policy before the update answers."""


@dataclass(frozen=True)
class Update:
    """Outcome of all optimizer steps of one rollout batch."""

    results: dict[str, list[UpdateResult]]
    """What each rank reports, by role."""
    metrics: dict[str, float]

    def skipped_in_a_row(self, before: int) -> int:
        """Optimizer steps that were not applied since one was; of the role that is worse off."""
        firsts = [of_ranks[0] for of_ranks in self.results.values()]
        counts = [
            u.ended_skipping + (before if u.num_steps == u.num_skipped else 0)
            for u in firsts
            if u.num_steps
        ]
        return max(counts, default=before)


class Learner:
    """Turns groups into batches and batches into optimizer steps.

    Args:
        rehearsal: stored responses to mix into every batch, if the algorithm rehearses.
    """

    def __init__(
        self,
        config: TrainConfig,
        algorithm: Algorithm,
        actors: Actors,
        rehearsal: Rehearsal | None = None,
    ):
        self.config, self.algorithm = config, algorithm
        self.actors, self.rehearsal = actors, rehearsal

    def batch(self, groups: Sequence[Group]) -> Batch:
        """The groups end to end, with what old policy, reference and critic say of them."""
        algo = self.config.algo
        batch = build_batch(groups, algo, self.config.sampling.max_response_tokens)
        batch = self.actors.add_columns(batch, with_old=self._wants_old())
        if algo.old_logprobs == "rollout":
            batch = batch.with_columns(old_logprobs=batch.rollout_logprobs)
        return mask_impossible(batch)

    def _wants_old(self) -> bool:
        algorithm = self.algorithm
        is_on_policy = self.config.trainer.is_on_policy
        wanted = algorithm.driver_needs if is_on_policy else algorithm.needs
        if self.config.algo.old_logprobs == "rollout":
            wanted = wanted - {"old_logprobs"}
        return bool(wanted & OLD)

    def credit(
        self, batch: Batch, step: int, running_means: dict[str, float]
    ) -> tuple[Batch, dict[str, float]]:
        """Advantages and whatever else rewards lead to; then the stored responses join.

        Args:
            running_means: of the advantage estimator; changed in place.
        """
        progress = step / self.config.trainer.num_steps
        batch, metrics = assign_credit(
            batch, self.algorithm, self.config.algo.kl_in_reward, progress, running_means
        )
        metrics |= batch_metrics(batch)
        if self.config.algo.old_logprobs == "trainer":
            metrics |= mismatch_metrics(batch)
        if self.rehearsal is not None and self.config.algo.rehearsal is not None:
            seed = derive_seed(self.config.seed, "rehearsed", step)
            count = self.config.algo.rehearsal.responses_per_step
            batch = self.rehearsal.mix(batch, count, seed)
            metrics["rehearsal/responses"] = float(batch.is_stored.sum())
        return batch, metrics

    def update(self, batch: Batch, step: int) -> Update:
        """All optimizer steps of the batch: epochs x mini-batches, for each network that learns."""
        trainer = self.config.trainer
        seeds = [
            derive_seed(self.config.seed, "mini-batches", step, epoch)
            for epoch in range(trainer.epochs)
        ]
        rates = self.learning_rates(step)
        seeds_of = {role: seeds if rate > 0 else [] for role, rate in rates.items()}
        results = self.actors.update(batch, seeds_of, rates)
        lr = {f"{role}/lr": rate for role, rate in rates.items()}
        return Update(results, _update_metrics(results) | lr)

    def learning_rates(self, step: int) -> dict[str, float]:
        """By role; 0 for the policy while only the critic learns."""
        optimizer, critic = self.config.optimizer, self.config.algo.critic

        def warmed_up(rate: float, begin: int = 0) -> float:
            done = max(0, step + 1 - begin)
            return rate * min(1.0, done / max(1, optimizer.warmup_steps))

        if "values" not in self.algorithm.needs or critic is None:
            return {"policy": warmed_up(optimizer.learning_rate)}
        return {
            "policy": warmed_up(optimizer.learning_rate, critic.warmup_steps),
            "critic": warmed_up(critic.learning_rate or 10 * optimizer.learning_rate),
        }


def _update_metrics(results: dict[str, list[UpdateResult]]) -> dict[str, float]:
    metrics: dict[str, float] = {}
    for role, of_ranks in results.items():
        first = of_ranks[0]
        metrics |= merge_sums([u.sums for u in of_ranks])
        for name in {n for u in of_ranks for n in u.maxima}:
            metrics[name] = max(u.maxima.get(name, -math.inf) for u in of_ranks)
        metrics |= {
            f"{role}/grad_norm": first.grad_norm,
            f"{role}/optimizer_steps": float(first.num_steps),
            f"{role}/skipped_updates": float(first.num_skipped),
            f"{role}/empty_mini_batches": float(first.num_empty),
        }
    return metrics
