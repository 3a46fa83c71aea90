"""Stored answers of the start model: which, kept how, and how they join a batch."""

from __future__ import annotations

import gzip
import json
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from algo_inputs import reward_batch
from hypothesis import given
from hypothesis import strategies as st

from archer.batch import loss_weights, mini_batches
from archer.collector import SampleStream
from archer.config.keys import TrainConfig
from archer.errors import CheckpointError
from archer.prompts import PromptLoader
from archer.rehearsal import FILE, Rehearsal, choose_prompts, read, sample_solved, write
from archer.types import Batch, Completion, Prompt, RewardResult, Sample

IDS = ["7", "3", "11"]


def prompt(id: str) -> Prompt:
    return Prompt(id, np.ones(1, np.int32), f"question {id}", "truth", "source")


def stored_batch() -> Batch:
    """Responses of 2, 0 and 3 tokens to prompts of 1, 2 and 3."""
    return reward_batch(
        [1.0] * 3,
        lengths=[2, 0, 3],
        prompt_tokens=np.arange(6, dtype=np.int32),
        prompt_offsets=np.array([0, 1, 3, 6]),
        response_tokens=np.arange(10, 15, dtype=np.int32),
        rollout_logprobs=np.float32([-0.1, -1 / 3, -2.5, -1e-7, -8.0]),
        ref_logprobs=np.float32([-0.2, -2 / 3, -2.25, -3e-7, -9.0]),
    )


def sampled_batch(**columns: Any) -> Batch:
    return reward_batch([1.0, 0.0, 1.0, 0.0], [0, 0, 1, 1], lengths=[1, 2, 1, 1], **columns)


@pytest.fixture
def rehearsal(tmp_path) -> Rehearsal:
    write(tmp_path, IDS, stored_batch())
    found = read(tmp_path, step=0)
    assert found is not None
    return found


# The file


def test_what_is_read_is_what_was_written(rehearsal):
    written, found = stored_batch(), rehearsal.responses
    assert rehearsal.prompt_ids == tuple(IDS)
    for name in (
        *("prompt_tokens", "prompt_offsets", "response_tokens", "offsets"),
        *("rollout_logprobs", "ref_logprobs"),
    ):
        a, b = getattr(found, name), getattr(written, name)
        assert a.dtype == b.dtype and np.array_equal(a, b), name
    assert found.is_stored.all() and found.mask.all() and np.isnan(found.rewards).all()


def test_none_always_solved_is_kept_too(tmp_path):
    write(tmp_path, [], stored_batch().select([]))
    found = read(tmp_path, step=5)
    assert found is not None and found.prompt_ids == () and len(found.responses) == 0


def test_an_impossible_token_stays_out_of_the_loss(tmp_path):
    batch = stored_batch()
    logprobs = np.array(batch.ref_logprobs)
    logprobs[1] = -np.inf
    write(tmp_path, IDS, batch.with_columns(ref_logprobs=logprobs))
    found = read(tmp_path, step=0)
    assert found is not None and found.responses.mask.tolist() == [True, False, True, True, True]


def test_a_new_run_has_no_file_and_a_run_under_way_needs_it(tmp_path):
    assert read(tmp_path, step=0) is None
    with pytest.raises(CheckpointError, match=r"rehearsal\.jsonl\.gz.*No such file.*new run"):
        read(tmp_path, step=3)


def cut(content: bytes) -> bytes:
    return content[:-9]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :]


def other_rows(content: bytes) -> bytes:
    return gzip.compress(json.dumps({"prompt_id": "7"}).encode())


@pytest.mark.parametrize("damage", [cut, flip, other_rows, lambda content: b"", lambda c: b"text"])
@pytest.mark.parametrize(("step", "mend"), [(0, "Delete it"), (3, "backup")])
def test_a_damaged_file_is_refused_with_what_to_do(rehearsal, tmp_path, damage, step, mend):
    file = tmp_path / FILE
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(CheckpointError, match=rf"rehearsal\.jsonl\.gz.*as they were.*{mend}"):
        read(tmp_path, step)


# The mixture


def test_stored_responses_follow_the_sampled_ones_as_groups_of_their_own(rehearsal):
    sampled = sampled_batch(token_rewards=np.arange(5, dtype=np.float32))
    mixed = rehearsal.mix(sampled, count=9, seed=0)
    assert mixed.is_stored.tolist() == [False] * 4 + [True] * 3
    assert mixed.group_ids.tolist() == [0, 0, 1, 1, 2, 3, 4]
    for row in range(4, 7):
        tokens = mixed.response_tokens[slice(*mixed.offsets[row : row + 2])].tolist()
        prompt_tokens = mixed.prompt_tokens[slice(*mixed.prompt_offsets[row : row + 2])].tolist()
        assert (prompt_tokens, tokens) in [([0], [10, 11]), ([1, 2], []), ([3, 4, 5], [12, 13, 14])]
    back = mixed.select(range(4))
    for f in fields(Batch):
        before = getattr(sampled, f.name)
        if f.name not in ("ref_logprobs", "prepared"):
            after = getattr(back, f.name)
            assert (after is None) == (before is None), f.name
            assert before is None or np.array_equal(before, after), f.name


def test_a_reference_of_the_sampled_tokens_is_kept(rehearsal):
    ref = np.float32([-1, -2, -3, -4, -5])
    mixed = rehearsal.mix(sampled_batch(ref_logprobs=ref), count=9, seed=0)
    assert mixed.ref_logprobs[:5].tolist() == ref.tolist()
    assert sorted(mixed.ref_logprobs[5:]) == sorted(stored_batch().ref_logprobs)


def test_corrections_leave_stored_tokens_alone(rehearsal):
    sampled = sampled_batch(corrections=np.full(5, 0.5, np.float32))
    mixed = rehearsal.mix(sampled, count=9, seed=0)
    assert mixed.corrections.tolist() == [0.5] * 5 + [1.0] * 5
    assert rehearsal.mix(sampled_batch(), count=9, seed=0).corrections is None


def test_the_choice_follows_from_the_seed(rehearsal):
    def chosen(seed: int) -> list[int]:
        return rehearsal.mix(sampled_batch(), 2, seed).total_lengths[4:].tolist()

    assert all(len(chosen(seed)) == 2 and chosen(seed) == chosen(seed) for seed in range(5))
    assert len({tuple(chosen(seed)) for seed in range(20)}) > 1


def test_nothing_stored_still_gives_the_reference_column(tmp_path):
    write(tmp_path, [], stored_batch().select([]))
    found = read(tmp_path, step=0)
    assert found is not None
    mixed = found.mix(sampled_batch(), count=4, seed=0)
    assert len(mixed) == 4 and mixed.ref_logprobs.tolist() == [0.0] * 5


def test_each_population_has_its_own_loss_weights(rehearsal):
    mixed = rehearsal.mix(sampled_batch(), count=9, seed=0)
    weights = loss_weights(mixed, "token-mean", 8)
    assert weights == pytest.approx([1 / 5] * 5 + [1 / 5] * 5)
    one = rehearsal.mix(sampled_batch(), count=1, seed=1)
    assert loss_weights(one, "seq-mean-token-mean", 8)[:5] == pytest.approx(
        loss_weights(sampled_batch(), "seq-mean-token-mean", 8)
    )


@given(
    num_groups=st.integers(0, 9),
    num_stored=st.integers(0, 9),
    size=st.integers(1, 10),
    seed=st.integers(0, 99),
)
def test_stored_responses_are_spread_and_make_no_step_more(num_groups, num_stored, size, seed):
    count = num_groups + num_stored
    is_stored = np.arange(count) >= num_groups
    groups = np.random.default_rng(seed).permutation(count).tolist()
    batch = reward_batch([0.0] * count, groups, is_stored=is_stored)
    sampled = batch.select(np.flatnonzero(~is_stored))
    pieces, without = mini_batches(batch, size, seed), mini_batches(sampled, size, seed)
    assert [set(p[~is_stored[p]]) for p in pieces] == [set(p) for p in without]
    shares = [int(is_stored[piece].sum()) for piece in pieces]
    assert sum(shares) == (num_stored if pieces else 0)
    assert max(shares, default=0) - min(shares, default=0) <= 1


# Sampling


class Stream(SampleStream):
    """Judges responses by the letters of the prompt's id: right, wrong, verifier failed."""

    def __init__(self) -> None:
        self.seeds: list[int] = []
        self._waiting: list[Sample] = []

    def ask(self, prompt, requests) -> None:
        for i, request in enumerate(requests):
            assert (request.temperature, request.top_p, request.max_tokens) == (0.7, 1.0, 9)
            self.seeds.append(request.seed)
            result = RewardResult(1.0, True, "ok")
            if prompt.id[i] == "w":
                result = RewardResult(0.0, False, "ok")
            elif prompt.id[i] == "x":
                result = RewardResult.failure("timeout", "")
            tokens = np.full(i + 1, 5, np.int32)
            completion = Completion(request.id, tokens, np.zeros(i + 1, np.float32), "stop", 0)
            self._waiting.append(Sample(prompt, i, completion, "", result))

    def wait(self) -> list[Sample]:
        return [self._waiting.pop()]


def test_prompts_whose_responses_are_all_right_give_one_each():
    config = TrainConfig.model_validate(
        {
            "algo": {"name": "dph_rl", "rehearsal": {"samples": 3}},
            "model": {"name": "m", "path": "m"},
            "data": {"name": "d", "train": "d"},
            "reward": {"name": "math"},
            "sampling": {"temperature": 0.7, "max_response_tokens": 9},
        }
    )
    stream, done = Stream(), []
    prompts = [prompt(id) for id in ("rrr", "rrw", "rrx", "xxx", "www", "rrr ")]
    found = sample_solved(stream, prompts, config, lambda: done.append(1))
    assert [group.prompt.id for group in found] == ["rrr", "rrr "]
    assert [[s.index for s in group.samples] for group in found] == [[0], [0]]
    assert len(done) == 6 and len(set(stream.seeds)) == 18


def test_prompts_are_a_seeded_choice():
    prompts = [prompt(str(i)) for i in range(20)]
    first, again, other = ([p.id for p in choose_prompts(prompts, 5, seed)] for seed in (0, 0, 1))
    assert first == again != other and len(set(first)) == 5
    assert {p.id for p in choose_prompts(prompts, 99, 0)} == {str(i) for i in range(20)}


def test_solved_prompts_are_served_no_more():
    loader = PromptLoader([prompt(str(i)) for i in range(6)], seed=0)
    loader.leave_out({"1", "4"})
    assert len(loader) == 4
    epochs = [[loader.next().id for _ in range(4)] for _ in range(2)]
    for number, epoch in enumerate(epochs):
        assert sorted(epoch) == [f"{number}-{i}" for i in (0, 2, 3, 5)]
