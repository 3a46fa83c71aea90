"""What enters a batch, and that every sample is accounted for; on a stream of made-up verdicts."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, get_args

import numpy as np
import pytest
import ray
from hypothesis import given
from hypothesis import strategies as st

from archer.collector import (
    Collector,
    FiltersExhausted,
    FinalState,
    Ledger,
    RolloutStalled,
    SampleStream,
    TooManyFailures,
    sample_requests,
)
from archer.config.keys import TrainConfig
from archer.errors import LedgerError, WeightSyncError
from archer.prompts import PromptLoader
from archer.types import Completion, Prompt, RewardResult, Sample, SampleRequest

GROUP_SIZE = 4
SEEDS = st.integers(0, 2**31)
VERDICTS = {  # letters stand for right, wrong, and a verifier that failed; after / the greedy one
    "mixed": "rwrw",
    "rare": "rwww",
    "often": "rrrw",
    "solved": "rwrw/r",
    "unsolved": "rwrw/w",
    "unknown": "rwrw/x",
    "right": "rrrr",
    "wrong": "wwww",
    "partly": "rwwx",
    "failed": "rxxx",
}


class FakeStream:
    """Finishes samples in random order, some at each ``wait``; prompt n has the verdicts n."""

    def __init__(self, kinds: Sequence[str], seed: int = 0, greedy: str = ""):
        self.rollouts = self.rewards = SimpleNamespace(num_restarts=0)
        self._kinds, self._order = list(kinds), random.Random(seed)
        self._greedy = greedy  # verdict of every prompt's greedy response, where kinds have none
        self._open: list[Sample] = []
        self.given_up: list[str] = []
        self.seeds: dict[str, int] = {}
        self.temperatures: dict[str, float] = {}
        self.most_open = 0
        self.version = 0  # of the weights that sample

    def ask(self, prompt: Prompt, requests: Sequence[SampleRequest]) -> None:
        # By the prompt and not by the order of asking: a prompt met again has the same verdict.
        verdicts = VERDICTS[self._kinds[int(prompt.text)]].replace("/", "") + self._greedy
        for i, (request, letter) in enumerate(zip(requests, verdicts, strict=True)):
            self.seeds[request.id] = request.seed
            self.temperatures[request.id] = request.temperature
            tokens = np.full(1 + i, 5, np.int32)
            completion = Completion(
                request.id, tokens, np.zeros(1 + i, np.float32), "stop", self.version
            )
            self._open.append(Sample(prompt, i, completion, "", _result(letter)))
        self.most_open = max(self.most_open, len(self._open))

    def wait(self) -> list[Sample]:
        self._order.shuffle(self._open)
        count = self._order.randint(0, min(5, len(self._open)))
        finished, self._open = self._open[:count], self._open[count:]
        return finished

    def give_up(self) -> list[str]:
        self.given_up = [s.completion.request_id for s in self._open]
        self._open = []
        return self.given_up


class Loader(PromptLoader):
    """Prompts in the order of their numbers, so that a test can say which verdict comes when."""

    def __init__(self, count: int = 64):
        empty = np.zeros(1, np.int32)
        super().__init__([Prompt(str(i), empty, str(i), "", "") for i in range(count)], seed=0)

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.arange(len(self._prompts))


def _result(letter: str) -> RewardResult:
    if letter == "x":
        return RewardResult.failure("timeout", "took too long")
    return RewardResult(float(letter == "r"), letter == "r", "ok")


def collector(
    stream: FakeStream, prompts_per_step: int = 2, max_failure_frac: float = 1.0, **algo: object
) -> Collector:
    config = TrainConfig.model_validate(
        {
            "algo": {"name": "grpo", "reject_uniform": True, "max_rounds": 4, **algo},
            "model": {"name": "m", "path": "m"},
            "data": {"name": "d", "train": "d"},
            "reward": {"name": "math", "max_failure_frac": max_failure_frac},
            "trainer": {"prompts_per_step": prompts_per_step, "group_size": GROUP_SIZE},
        }
    )
    return Collector(config, stream, Loader())  # type: ignore[arg-type]


def ids(groups: Sequence) -> list[str]:
    return [group.prompt.id for group in groups]


@given(SEEDS)
def test_groups_are_decided_in_prompt_order_whatever_finishes_first(seed: int):
    stream = FakeStream(["right", "mixed", "failed", "mixed", "mixed"] + ["mixed"] * 9, seed)
    collecting = collector(stream)
    collecting.keep_frac = 0.5  # starts with more prompts than it needs
    collected = collecting.next_batch(step=0)
    assert ids(collected.groups) == ["0-1", "0-3"]
    assert ids(collected.decided) == ["0-0", "0-1", "0-2", "0-3"]
    assert collecting.loader.position == 4
    assert [s.index for s in collected.groups[0].samples] == [0, 1, 2, 3]
    # Four to begin with, a fifth when the first was dropped; the order does not enter.
    assert len(stream.seeds) == 5 * GROUP_SIZE


def test_next_batch_meets_the_prompts_that_were_given_up():
    stream = FakeStream(["mixed"] * 12)
    collecting = collector(stream)
    collecting.keep_frac = 0.25
    first = collecting.next_batch(step=0)
    stream.version = 1
    second = collecting.next_batch(step=1)
    assert ids(first.groups) == ["0-0", "0-1"]
    assert ids(second.groups) == ["0-2", "0-3"]


def test_uniform_groups_are_replaced_until_the_batch_is_full():
    stream = FakeStream(["right", "wrong", "right", "mixed", "wrong", "mixed"] + ["mixed"] * 9)
    collected = collector(stream).next_batch(step=0)
    assert ids(collected.groups) == ["0-3", "0-5"]
    assert collected.metrics["rollout/rounds"] == 3  # 6 prompts looked at, 2 in a step
    assert collected.metrics["rollout/kept_frac"] == pytest.approx(1 / 3)
    assert collected.metrics["ledger/uniform"] == 4 * GROUP_SIZE


def test_refill_stops_at_its_budget():
    stream = FakeStream(["right"] * 64)
    collecting = collector(stream, max_rounds=3)
    collected = collecting.next_batch(step=0)
    assert collected.groups == ()
    assert len(collected.decided) == 6
    assert collecting.loader.position == 6
    assert collected.metrics["ledger/submitted"] == 6 * GROUP_SIZE  # never more than the budget


def test_uniform_groups_stay_unless_the_objective_rejects_them():
    stream = FakeStream(["right", "wrong", "mixed"])
    collected = collector(stream, reject_uniform=False).next_batch(step=0)
    assert ids(collected.groups) == ["0-0", "0-1"]
    assert collected.metrics["ledger/submitted"] == 2 * GROUP_SIZE


@pytest.mark.parametrize(
    ("pass_rate", "kept"),
    [((0.25, 0.5), ["0-1", "0-2"]), ((0.5, 0.75), ["0-2", "0-3"]), ((0.0, 0.25), ["0-0", "0-1"])],
)
def test_groups_outside_the_pass_rate_are_replaced(pass_rate: tuple, kept: list[str]):
    stream = FakeStream(["wrong", "rare", "mixed", "often", "right"] + ["mixed"] * 9)
    collected = collector(stream, reject_uniform=False, pass_rate=pass_rate).next_batch(step=0)
    assert ids(collected.groups) == kept
    dropped = len(collected.decided) - len(kept)
    assert collected.metrics["ledger/off_range"] == dropped * GROUP_SIZE


def test_pass_rate_is_that_of_the_valid_verdicts():
    """One right of three that were judged, one failed."""
    stream = FakeStream(["partly"] * 8)
    kept = collector(stream, pass_rate=(0.3, 0.4)).next_batch(step=0)
    assert ids(kept.groups) == ["0-0", "0-1"]


def test_prompts_solved_by_greedy_decoding_are_replaced():
    kinds = ["solved", "unsolved", "unknown", "solved"] + ["unsolved"] * 9
    stream = FakeStream(kinds)
    collecting = collector(stream, reject_uniform=False, greedy_fail_only=True)
    collected = collecting.next_batch(step=0)
    # Where the verifier of the greedy response failed, nothing says that the prompt is solved.
    assert ids(collected.groups) == ["0-1", "0-2"]
    assert collected.metrics["ledger/solved"] == GROUP_SIZE
    assert collected.metrics["ledger/greedy"] == 3


def test_greedy_response_stands_beside_its_group():
    stream = FakeStream(["solved", "unsolved"])
    collected = collector(stream, name="remax", advantage="remax", reject_uniform=False).next_batch(
        step=0
    )
    assert {stream.temperatures[f"0-0/{i}"] for i in range(GROUP_SIZE)} == {1.0}
    assert stream.temperatures[f"0-0/{GROUP_SIZE}"] == 0.0
    group = collected.groups[0]
    assert [s.index for s in group.samples] == [0, 1, 2, 3]
    assert group.greedy is not None
    assert group.greedy.result.correct
    assert collected.metrics["reward/mean"] == 0.5  # of the samples alone
    assert collected.metrics["reward/greedy_accuracy"] == 0.5
    assert collected.metrics["ledger/trained"] == 2 * GROUP_SIZE
    assert collected.metrics["ledger/submitted"] == 2 * (GROUP_SIZE + 1)


def test_greedy_responses_of_other_weights_are_refused():
    stream = FakeStream(["unsolved"] * 8)
    collecting = collector(stream, greedy_fail_only=True)
    stream.version, ask = 1, stream.ask

    def ask_stale(prompt: Prompt, requests: Sequence[SampleRequest]) -> None:
        ask(prompt, requests)
        last = stream._open[-1]
        stream._open[-1] = replace(last, completion=replace(last.completion, weight_version=0))

    stream.ask = ask_stale
    with pytest.raises(WeightSyncError, match="came from weight version 0"):
        collecting.next_batch(step=1)


def test_the_seeds_of_samples_do_not_depend_on_a_greedy_response():
    with_greedy, without = FakeStream(["unsolved"] * 8), FakeStream(["mixed"] * 8)
    collector(with_greedy, greedy_fail_only=True).next_batch(step=0)
    collector(without).next_batch(step=0)
    assert without.seeds.items() <= with_greedy.seeds.items()


def test_filters_that_leave_too_little_stop_the_run_if_asked_to():
    stream = FakeStream(["right", "mixed"] + ["wrong"] * 62)
    collecting = collector(stream, max_rounds=3, on_exhausted="stop", pass_rate=(0.25, 0.75))
    with pytest.raises(FiltersExhausted) as stopped:
        collecting.next_batch(step=0)
    assert str(stopped.value).startswith(
        "algo.reject_uniform=true and algo.pass_rate=[0.25, 0.75] left 1 of 6 groups after "
        "algo.max_rounds=3, and trainer.prompts_per_step=2 are wanted."
    )


def test_a_full_batch_never_stops_the_run():
    stream = FakeStream(["right", "mixed", "mixed"] + ["wrong"] * 61)
    collected = collector(stream, max_rounds=3, on_exhausted="stop").next_batch(step=0)
    assert ids(collected.groups) == ["0-1", "0-2"]


def test_failed_verifiers_alone_are_no_exhausted_filter():
    stream = FakeStream(["failed"] * 8)
    collecting = collector(stream, reject_uniform=False, on_exhausted="stop")
    assert collecting.next_batch(step=0).groups == ()


def test_batch_may_start_with_no_more_prompts_than_it_needs():
    stream = FakeStream(["mixed"] * 8)
    collector(stream).next_batch(step=0)
    assert stream.most_open == 2 * GROUP_SIZE


def test_failed_verdicts_are_told_apart():
    """A failed verdict leaves its sample out; a single valid one says nothing about its group."""
    stream = FakeStream(["partly", "failed", "mixed"] + ["mixed"] * 9)
    metrics = collector(stream).next_batch(step=0).metrics
    assert metrics["ledger/trained"] == 3 + 4
    assert metrics["ledger/unscored"] == 1
    assert metrics["ledger/failed"] == 4
    assert metrics["reward/failure_frac"] == pytest.approx(4 / 12)
    assert metrics["reward/mean"] == pytest.approx(4 / 8)  # of the valid verdicts alone


@given(
    st.lists(st.sampled_from(["solved", "unsolved", "unknown"]), min_size=8, max_size=8),
    SEEDS,
    st.floats(0.1, 1),
)
def test_what_is_kept_with_greedy_responses_follows_from_the_prompts(
    kinds: list[str], seed: int, keep_frac: float
):
    stream = FakeStream(kinds, seed)
    collecting = collector(stream, greedy_fail_only=True)
    collecting.keep_frac = keep_frac
    kept = collecting.next_batch(step=0).groups
    assert ids(kept) == [f"0-{i}" for i, kind in enumerate(kinds) if kind != "solved"][:2]


@given(
    st.lists(
        st.sampled_from([kind for kind, letters in VERDICTS.items() if "/" not in letters]),
        min_size=8,
        max_size=8,
    ),
    st.booleans(),
    SEEDS,
    st.floats(0.1, 1),
)
def test_every_sample_ends_in_one_state(
    kinds: list[str], with_greedy: bool, seed: int, keep_frac: float
):
    stream = FakeStream(kinds, seed, greedy="rwx"[seed % 3] if with_greedy else "")
    collecting = collector(stream, greedy_fail_only=with_greedy, pass_rate=(0.25, 0.75))
    collecting.keep_frac = keep_frac
    metrics = collecting.next_batch(step=0).metrics
    states = get_args(FinalState)
    assert metrics["ledger/submitted"] == sum(metrics[f"ledger/{state}"] for state in states)
    assert metrics["ledger/submitted"] == len(stream.seeds)
    assert metrics["ledger/surplus"] >= len(stream.given_up)


def test_too_many_failures_stop_the_run_and_say_why():
    stream = FakeStream(["failed", "mixed", "failed"] + ["failed"] * 61)
    with pytest.raises(
        TooManyFailures, match=r"reward\.max_failure_frac=0\.5.*timeout: took too long"
    ):
        collector(stream, max_failure_frac=0.5, max_rounds=4).next_batch(step=0)


def test_samples_of_other_weights_are_refused():
    stream = FakeStream(["mixed"] * 8)
    stream.version = 4
    with pytest.raises(WeightSyncError, match="of step 5 came from weight version 4"):
        collector(stream).next_batch(step=5)


def test_seeds_differ_between_samples_and_steps_and_repeat_in_a_rerun():
    def seeds(step: int) -> dict[str, int]:
        stream = FakeStream(["mixed"] * 8)
        stream.version = step
        collector(stream).next_batch(step)
        return stream.seeds

    assert seeds(0) == seeds(0)
    assert len(set(seeds(0).values()) | set(seeds(1).values())) == 2 * 2 * GROUP_SIZE


def test_progress_ends_full():
    seen: list[tuple[int, int]] = []
    collector(FakeStream(["mixed"] * 8)).next_batch(
        0, lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (2, 2)


def test_ledger_refuses_a_sample_that_was_never_submitted():
    ledger = Ledger()
    with pytest.raises(LedgerError, match="a/0"):
        ledger.settle("a/0", "trained")


def test_ledger_refuses_to_settle_twice():
    ledger = Ledger()
    ledger.submit(["a/0"])
    ledger.settle("a/0", "trained")
    with pytest.raises(LedgerError, match="a/0"):
        ledger.settle("a/0", "surplus")


def test_ledger_refuses_to_submit_twice():
    ledger = Ledger()
    ledger.submit(["a/0"])
    with pytest.raises(LedgerError, match="a/0"):
        ledger.submit(["a/0", "a/1"])


def test_ledger_does_not_close_on_a_lost_sample():
    ledger = Ledger()
    ledger.submit(["a/0", "a/1"])
    ledger.settle("a/0", "trained")
    with pytest.raises(LedgerError, match=r"1 samples unaccounted for: \['a/1'\]"):
        ledger.close()


class FakePool:
    """One poll that is ready once something finished; aborted requests finish by themselves."""

    def __init__(self, aborted_result: Any):
        self.submitted: list[Any] = []
        self.finished: list[tuple[str, Any]] = []
        self._aborted_result = aborted_result
        self._open: set[str] = set()

    def submit(self, requests: Sequence[Any]) -> None:
        self.submitted += requests
        self._open |= {request.id for request in requests}

    def finish(self, id: str, result: Any) -> None:
        self.finished.append((id, result))

    def abort(self, ids: Iterable[str]) -> None:
        self.finished += [
            (id, self._aborted_result(id)) for id in sorted(self._open.intersection(ids))
        ]

    def polls(self) -> list[FakePool]:
        return [self] if self._open else []

    def take(self, poll: FakePool) -> list[tuple[str, Any]]:
        taken, self.finished = self.finished, []
        self._open -= {id for id, _ in taken}
        return taken


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> SampleStream:
    """A real stream between two fake pools; nothing ready means that the deadline has passed."""
    monkeypatch.setattr(ray, "wait", lambda polls, **_: ([p for p in polls if p.finished][:1], []))
    tokenizer = SimpleNamespace(decode=lambda tokens: " ".join(map(str, tokens)))
    rollouts = FakePool(lambda id: completion(id, []))
    rewards = FakePool(lambda id: RewardResult.failure("crashed", "aborted"))
    return SampleStream(rollouts, rewards, tokenizer, timeout_s=5)  # type: ignore[arg-type]


def completion(id: str, tokens: list[int]) -> Completion:
    logprobs = np.zeros(len(tokens), np.float32)
    return Completion(id, np.array(tokens, np.int32), logprobs, "stop", 0)


def ask(stream: SampleStream, count: int) -> Prompt:
    prompt = Prompt("p", np.zeros(1, np.int32), "question", "truth", "source", {"index": 7})
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_tokens": 8}
    stream.ask(prompt, sample_requests(prompt, count, lambda i: i, **sampling))
    return prompt


def test_response_is_scored_while_others_still_decode(stream: SampleStream):
    prompt = ask(stream, 2)
    stream.rollouts.finish("p/1", completion("p/1", [7, 8]))
    assert stream.wait() == []
    [request] = stream.rewards.submitted
    assert (request.id, request.response, request.ground_truth) == ("p/1", "7 8", "truth")
    assert request.extra == {"index": 7}
    stream.rewards.finish("p/1", _result("r"))
    [sample] = stream.wait()
    assert (sample.prompt, sample.index, sample.text) == (prompt, 1, "7 8")
    assert sample.result.reward == 1
    assert sample.completion.tokens.tolist() == [7, 8]


def test_silence_is_an_error_that_names_its_key(stream: SampleStream):
    ask(stream, 1)
    with pytest.raises(RolloutStalled, match=r"5 s \(cluster\.step_timeout_s\)"):
        stream.wait()


def test_giving_up_waits_for_both_pools_and_returns_what_was_open(stream: SampleStream):
    ask(stream, 3)
    stream.rollouts.finish("p/0", completion("p/0", [7]))
    stream.wait()  # p/0 is being scored, the others decode
    assert sorted(stream.give_up()) == ["p/0", "p/1", "p/2"]
    assert stream.rollouts.polls() == stream.rewards.polls() == []
    assert stream.give_up() == []


def test_worker_that_keeps_an_aborted_request_is_an_error(stream: SampleStream):
    ask(stream, 1)
    stream.rollouts.abort = lambda ids: None
    with pytest.raises(RolloutStalled, match="aborted requests were not given back"):
        stream.give_up()
