"""Prompts -> a full batch of informative groups, in one stream.

Samples are scored the moment they finish and groups complete out of order, but groups are *decided*
in prompt order: the batch is the first ``prompts_per_step`` groups of the prompt stream that are
kept. What enters a batch therefore depends on the policy and the seed alone, never on which
response was quick, so short responses are not favoured and a resumed run collects the same batch.
Groups beyond the last kept one are given up, and their prompts are met again at the next step.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import ray

from archer.algos import resolve_algorithm
from archer.algos.filters import drop_reason
from archer.algos.shaping import shaped_reward
from archer.config.keys import TrainConfig
from archer.errors import LedgerError, RunError, WeightSyncError
from archer.models.tokenizer import Tokenizer
from archer.prompts import PromptLoader
from archer.rollout_metrics import rollout_metrics
from archer.seeds import derive_seed
from archer.types import (
    Completion,
    Group,
    Prompt,
    RewardResult,
    Sample,
    SampleRequest,
    ScoreRequest,
)
from archer.workers.pool import StreamingPool

FinalState = Literal[
    "trained", "unscored", "uniform", "solved", "off_range", "failed", "greedy", "surplus"
]
"""Where a sample ends: in the batch; in the batch but out of the loss, its verifier failed; in a
group of equal verdicts; of a prompt that greedy decoding solves; in a group outside
``algo.pass_rate``; in a group with fewer than two verdicts; it was the greedy response; beyond what
the batch needed."""


class RolloutStalled(RunError):
    """Nothing finished for a whole ``cluster.step_timeout_s``."""


class TooManyFailures(RunError):
    """The verifier fails so often that rewards mean nothing."""


class FiltersExhausted(RunError):
    """``algo.on_exhausted=stop``, and the filters left too few groups."""


class Ledger:
    """Every sample submitted ends in exactly one counted state."""

    def __init__(self) -> None:
        self._open: set[str] = set()
        self._states: Counter[str] = Counter()
        self._submitted = 0

    def submit(self, ids: Sequence[str]) -> None:
        if not self._open.isdisjoint(ids):
            raise LedgerError(f"submitted twice: {sorted(self._open.intersection(ids))}")
        self._open.update(ids)
        self._submitted += len(ids)

    def settle(self, id: str, state: FinalState) -> None:
        if id not in self._open:
            raise LedgerError(f"sample {id} settled as {state}, but it is not open")
        self._open.remove(id)
        self._states[state] += 1

    def close(self) -> dict[str, float]:
        """Counts of the step.

        Raises:
            LedgerError: a sample is unaccounted for.
        """
        if self._open or self._submitted != self._states.total():
            raise LedgerError(
                f"{len(self._open)} samples unaccounted for: {sorted(self._open)[:5]}"
            )
        return {"ledger/submitted": float(self._submitted)} | {
            f"ledger/{name}": float(self._states[name]) for name in get_args(FinalState)
        }


@dataclass
class OpenGroup:
    """A prompt whose samples are coming in, in any order."""

    prompt: Prompt
    size: int
    with_greedy: bool = False
    """One more sample, of index ``size``, is the greedy response."""
    _samples: dict[int, Sample] = field(default_factory=dict, init=False)

    def add(self, sample: Sample) -> None:
        self._samples[sample.index] = sample

    @property
    def is_complete(self) -> bool:
        return len(self._samples) == self.size + self.with_greedy

    @property
    def ids(self) -> list[str]:
        """Of all its requests."""
        return [f"{self.prompt.id}/{i}" for i in range(self.size + self.with_greedy)]

    def close(self) -> Group:
        """The group, once it is complete."""
        samples = tuple(self._samples[i] for i in range(self.size))
        return Group(self.prompt, samples, greedy=self._samples.get(self.size))


class SampleStream:
    """Requests in, scored samples out: completions go to the reward pool as soon as they finish."""

    def __init__(
        self,
        rollouts: StreamingPool,
        rewards: StreamingPool,
        tokenizer: Tokenizer,
        timeout_s: float,
    ):
        self.rollouts, self.rewards = rollouts, rewards
        self._tokenizer, self._timeout_s = tokenizer, timeout_s
        self._asked: dict[str, tuple[Prompt, int]] = {}
        self._completed: dict[str, tuple[Completion, str]] = {}

    def ask(self, prompt: Prompt, requests: Sequence[SampleRequest]) -> None:
        """Sample the given requests of one prompt; request i becomes the sample of index i."""
        self._asked |= {request.id: (prompt, i) for i, request in enumerate(requests)}
        self.rollouts.submit(requests)

    def wait(self) -> list[Sample]:
        """Samples scored since the last call; blocks for something to happen, may return none.

        Raises:
            RolloutStalled: nothing finished within the timeout.
        """
        polls = self.rollouts.polls() + self.rewards.polls()
        ready, _ = ray.wait(polls, num_returns=1, timeout=self._timeout_s)
        if not ready:
            raise RolloutStalled(
                f"neither response nor reward for {self._timeout_s:.0f} s (cluster.step_timeout_s)"
            )
        scored: list[Sample] = []
        to_score: list[ScoreRequest] = []
        for poll in ready:
            if poll in self.rewards.polls():
                scored += [self._sample(id, result) for id, result in self.rewards.take(poll)]
            else:
                to_score += [self._score_request(c) for _, c in self.rollouts.take(poll)]
        self.rewards.submit(to_score)
        return scored

    def _score_request(self, completion: Completion) -> ScoreRequest:
        prompt, _ = self._asked[completion.request_id]
        text = self._tokenizer.decode(completion.tokens)
        self._completed[completion.request_id] = (completion, text)
        return ScoreRequest(
            completion.request_id,
            text,
            prompt.ground_truth,
            prompt.text,
            prompt.source,
            completion.finish_reason,
            prompt.extra,
        )

    def _sample(self, id: str, result: RewardResult) -> Sample:
        prompt, index = self._asked.pop(id)
        completion, text = self._completed.pop(id)
        return Sample(prompt, index, completion, text, result)

    def give_up(self) -> list[str]:
        """Abort everything in flight and wait until the workers let go; returns the ids."""
        self.rollouts.abort(self._asked)
        self.rewards.abort(self._asked)
        deadline = time.monotonic() + self._timeout_s
        while polls := self.rollouts.polls() + self.rewards.polls():
            ready, _ = ray.wait(polls, num_returns=1, timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise RolloutStalled(
                    "aborted requests were not given back (cluster.step_timeout_s)"
                )
            pool = self.rewards if ready[0] in self.rewards.polls() else self.rollouts
            pool.take(ready[0])
        ids = list(self._asked)
        self._asked.clear()
        self._completed.clear()
        return ids


@dataclass(frozen=True)
class Collected:
    """One step's rollouts."""

    groups: tuple[Group, ...]
    """Kept groups, prompt order; fewer than ``prompts_per_step`` only when the budget ran out."""
    decided: tuple[Group, ...]
    """All complete groups that were looked at, the dropped ones too: what rewards are reported
    on."""
    metrics: dict[str, float] = field(default_factory=dict)


class Collector:
    """Fills one batch at a time.

    Args:
        stream: rollout and reward pools.
        loader: training prompts; its position moves by the prompts that were decided, no further.
    """

    def __init__(self, config: TrainConfig, stream: SampleStream, loader: PromptLoader):
        self.config, self.stream, self.loader = config, stream, loader
        self.with_greedy = "greedy" in resolve_algorithm(config.algo).needs
        self.keep_frac = 1.0
        """Share of groups kept at the last step: how many prompts to start with. Only speed hangs
        on it."""

    def next_batch(
        self, step: int, on_progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Collected:
        """Sample until ``prompts_per_step`` groups are kept or the budget of prompts is used up."""
        wanted = self.config.trainer.prompts_per_step
        budget = wanted * (self.config.algo.max_rounds if self.config.algo.filters_groups else 1)
        start = self.loader.position
        ledger = Ledger()
        opened: list[OpenGroup] = []
        by_sample: dict[str, OpenGroup] = {}
        kept: list[Group] = []
        decided: list[Group] = []

        while len(kept) < wanted and len(decided) < budget:
            missing = math.ceil((wanted - len(kept)) / max(self.keep_frac, 0.1))
            while len(opened) < min(len(decided) + missing, budget):
                group = self._open(step, ledger, by_sample)
                opened.append(group)
            # One decision, then a look at how many prompts to open: their number follows from the
            # decisions alone, not from how many groups happened to be complete at once.
            if not opened[len(decided)].is_complete:
                for sample in self.stream.wait():
                    by_sample[f"{sample.prompt.id}/{sample.index}"].add(sample)
                continue
            group = opened[len(decided)].close()
            decided.append(group)
            if self._settle(group, ledger):
                kept.append(group)
            on_progress(len(kept), wanted)

        self.stream.give_up()
        for group in opened[len(decided) :]:
            for id in group.ids:
                ledger.settle(id, "surplus")
        self.loader.rewind(start + len(decided))
        self.keep_frac = len(kept) / len(decided)
        collected = Collected(
            tuple(kept), tuple(decided), ledger.close() | self._metrics(kept, decided)
        )
        self._check_versions(step, decided)
        self._check_failures(decided)
        self._check_exhausted(collected)
        return collected

    def _open(self, step: int, ledger: Ledger, by_sample: dict[str, OpenGroup]) -> OpenGroup:
        prompt = self.loader.next()
        group = OpenGroup(prompt, self.config.trainer.group_size, self.with_greedy)
        requests = sample_requests(
            prompt,
            len(group.ids),
            lambda index: derive_seed(self.config.seed, "rollout", step, prompt.id, index),
            temperature=self.config.sampling.temperature,
            top_p=1.0,
            max_tokens=self.config.sampling.max_response_tokens,
        )
        if self.with_greedy:
            requests[-1] = replace(requests[-1], temperature=0.0)
        ledger.submit(group.ids)
        by_sample |= dict.fromkeys(group.ids, group)
        self.stream.ask(prompt, requests)
        return group

    def _settle(self, group: Group, ledger: Ledger) -> bool:
        """Decide a complete group; True if it enters the batch."""
        state = drop_reason(group, self.config.algo) or "trained"
        for sample in group.samples:
            is_out = state == "trained" and not sample.result.is_valid
            ledger.settle(f"{sample.prompt.id}/{sample.index}", "unscored" if is_out else state)
        if group.greedy is not None:
            ledger.settle(f"{group.prompt.id}/{group.greedy.index}", "greedy")
        return state == "trained"

    def _metrics(self, kept: Sequence[Group], decided: Sequence[Group]) -> dict[str, float]:
        pools = (self.stream.rollouts, self.stream.rewards)
        config = self.config

        def shaped(sample: Sample) -> float:
            return shaped_reward(sample, config.algo.shaping, config.sampling.max_response_tokens)

        return rollout_metrics(kept, decided, shaped) | {
            "rollout/rounds": len(decided) / config.trainer.prompts_per_step,
            "rollout/restarts": float(sum(pool.num_restarts for pool in pools)),
        }

    def _check_versions(self, step: int, decided: Sequence[Group]) -> None:
        greedy = [g.greedy for g in decided if g.greedy is not None]
        for sample in [*greedy, *(s for g in decided for s in g.samples)]:
            version = sample.completion.weight_version
            if version != step:
                raise WeightSyncError(
                    f"sample {sample.completion.request_id} of step {step} came from weight "
                    f"version {version}"
                )

    def _check_failures(self, decided: Sequence[Group]) -> None:
        results = [s.result for g in decided for s in g.samples]
        failed = [r for r in results if not r.is_valid]
        limit = self.config.reward.max_failure_frac
        if len(failed) > limit * len(results):
            raise TooManyFailures(
                f"the verifier failed on {len(failed)} of {len(results)} responses, more than "
                f"reward.max_failure_frac={limit:g}. {failed[0].status}: {failed[0].detail}"
            )

    def _check_exhausted(self, collected: Collected) -> None:
        algo, wanted = self.config.algo, self.config.trainer.prompts_per_step
        missing = len(collected.groups) < wanted
        if missing and algo.filters_groups and algo.on_exhausted == "stop":
            filters = {
                "algo.reject_uniform=true": algo.reject_uniform,
                "algo.greedy_fail_only=true": algo.greedy_fail_only,
                f"algo.pass_rate={list(algo.pass_rate)}": algo.pass_rate != (0.0, 1.0),
            }
            raise FiltersExhausted(
                f"{' and '.join(key for key, is_on in filters.items() if is_on)} left "
                f"{len(collected.groups)} of {len(collected.decided)} groups after "
                f"algo.max_rounds={algo.max_rounds}, and trainer.prompts_per_step={wanted} are "
                "wanted. Choose prompts of a fitting difficulty, widen the filters, raise "
                "algo.max_rounds, or set algo.on_exhausted=train."
            )


def sample_requests(
    prompt: Prompt, count: int, seed: Callable[[int], int], **sampling: Any
) -> list[SampleRequest]:
    """``count`` requests for one prompt, each with its own seed."""
    return [
        SampleRequest(f"{prompt.id}/{i}", prompt.tokens, seed(i), **sampling) for i in range(count)
    ]
