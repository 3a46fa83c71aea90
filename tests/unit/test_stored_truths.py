"""Long truths of prepared sets stay on disk until a verifier process judges by them."""

import asyncio
import hashlib
import json
import os
import pickle
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from dataset_fixtures import verl, write_records
from fake_model import write_model
from omegaconf import OmegaConf

from archer.config.keys import RewardConfig, SandboxConfig
from archer.console import Console
from archer.data.prepared import prepared_rows, stored_rows
from archer.data.stored_truth import LONGEST_KEPT, StoredTruth, StoredTruthError
from archer.errors import ConfigError
from archer.evaluation.config import load_evaluate_config
from archer.metrics import rollout_row
from archer.preflight import check_eval_inputs
from archer.prepare import load_prepare_config, prepare
from archer.rewards.pool.processes import VerifierProcesses
from archer.rewards.reward import Reward
from archer.rewards.sandbox.levels import open_executor
from archer.types import Completion, Prompt, RewardResult, Sample, ScoreRequest

LONG_LINE = 'é\t"\\ \u2028 😀 ' * (LONGEST_KEPT // 8)
LONG = json.dumps({"inputs": [LONG_LINE, "1\n"], "outputs": [LONG_LINE, "1\n"]})
SHORT = json.dumps({"inputs": ["1\n"], "outputs": ["1\n"]})
COPY = "```python\nimport sys\nsys.stdout.write(sys.stdin.read())\n```"
ONE = "```python\nprint(1)\n```"


def fingerprint(request: ScoreRequest) -> RewardResult:
    """A reward of our own: the response is the truth's hash."""
    truth = str(request.ground_truth)  # would hide that it is none
    is_right = hashlib.sha256(truth.encode()).hexdigest() == request.response
    return RewardResult(float(is_right), is_right, "ok")


async def fingerprint_async(request: ScoreRequest) -> RewardResult:
    return fingerprint(request)


QUICK = Reward(fingerprint, quick=fingerprint)
MIXED = {
    "sources": {
        "own": {"name": "test_stored_truths.QUICK"},
        "exact": {"name": "exact"},
    }
}


class PreparedTruths:
    """A set of rows with these truths, prepared in a cache of its own."""

    def __init__(self, folder, truths):
        self.folder, self.cache = folder, folder / "cache"
        records = [verl(truth, f"Task {i}?") for i, truth in enumerate(truths)]
        write_records(folder / "tasks.jsonl", records)
        source = {"folder": str(folder), "files": ["tasks.jsonl"], "shape": "rows"}
        self.sets = {"tasks": {"role": "eval", "sources": {"tasks": source}}}
        run = {"cache": str(self.cache)}
        composed = OmegaConf.create({"data": {"name": "x", "sets": self.sets}, "run": run})
        config = load_prepare_config(composed)
        with Console(0, 0) as console:
            prepare(config, console)
        self.rows = prepared_rows(["tasks"], config.data.sets, self.cache)["tasks"]

    def truths(self):
        """As they are read, and as they are kept."""
        pairs = list(stored_rows(self.rows, "data.eval.tasks"))
        return [w.ground_truth for w, _ in pairs], [kept.ground_truth for _, kept in pairs]

    def prompts(self, reward, **data):
        model = self.folder / "model"
        if not model.exists():
            write_model(model)
        config = load_evaluate_config(
            {
                "data": {"name": "x", "sets": self.sets, "max_prompt_tokens": 64} | data,
                "model": {"name": "fake", "path": str(model)},
                "reward": reward,
                "run": {"cache": str(self.cache)},
                "sampling": {"max_response_tokens": 64},
            }
        )
        return check_eval_inputs(config).evals["tasks"].prompts


@pytest.fixture
def prepared(tmp_path):
    return PreparedTruths(tmp_path, [SHORT, LONG, "x" * LONGEST_KEPT, "y" * (LONGEST_KEPT + 1)])


def judge_all(requests, **fields):
    async def main():
        processes = VerifierProcesses(RewardConfig(num_workers=1, **fields))
        await processes.start()
        try:
            return [await processes.score(request) for request in requests]
        finally:
            await processes.close()

    return asyncio.run(main())


# -- reading


def test_long_truths_stay_in_the_file_and_are_read_as_they_were(prepared):
    whole, kept = prepared.truths()
    assert whole == [SHORT, LONG, "x" * LONGEST_KEPT, "y" * (LONGEST_KEPT + 1)]
    assert kept[0] == whole[0] and kept[2] == whole[2]
    assert [kept[1].read(), kept[3].read()] == [whole[1], whole[3]]


def test_a_place_is_found_from_any_folder_and_after_pickling(prepared, monkeypatch):
    monkeypatch.chdir(prepared.cache)
    relative = prepared.rows.relative_to(prepared.cache)
    kept = [row.ground_truth for _, row in stored_rows(relative, "data.eval.tasks")][1]
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(kept))
    assert again == kept and hash(again) == hash(kept) and again.read() == LONG
    assert len(pickle.dumps(kept)) < 1000


def test_a_run_keeps_no_long_truth_in_memory(tmp_path):
    truths = [json.dumps({"inputs": [f"{i}\n" * 100_000], "outputs": ["1"]}) for i in range(40)]
    prepared = PreparedTruths(tmp_path, truths)
    prepared.prompts({"name": "code"})  # modules and caches are there
    tracemalloc.start()
    try:
        prompts = prepared.prompts({"name": "code"})
        left, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    total = sum(map(len, truths))
    assert len(prompts) == 40 and all(isinstance(p.ground_truth, StoredTruth) for p in prompts)
    assert left < total / 20 and peak < total / 2, (left, peak, total)


def test_files_of_the_user_and_rewards_without_files_have_their_truths_in_memory(prepared):
    reward = {"name": "code", "bad_truths": "drop"}
    by_code = prepared.prompts(reward)
    assert [type(prompt.ground_truth) for prompt in by_code] == [str, StoredTruth]
    by_exact = prepared.prompts({"name": "exact"})
    own = prepared.folder / "own.jsonl"
    own.write_bytes(prepared.rows.read_bytes())
    of_user = prepared.prompts(reward, sets={}, eval={"tasks": str(own)})
    assert {type(p.ground_truth) for p in (*by_exact, *of_user)} == {str}
    assert by_code[1].ground_truth.read() == of_user[1].ground_truth == LONG


def test_an_unjudgeable_long_truth_is_refused_before_it_is_stored(prepared):
    with pytest.raises(ConfigError, match=r"data.eval.tasks.*Row 3: .* 1 more rows"):
        prepared.prompts({"name": "code"})


# -- judging


def test_the_code_reward_judges_the_same_from_disk(prepared):
    try:
        open_executor(SandboxConfig()).close()
    except ConfigError as error:
        pytest.skip(str(error))
    stored = prepared.truths()[1][1]
    requests = [ScoreRequest("0", response, LONG) for response in (COPY, ONE, "none")]
    in_memory = judge_all(requests, name="code", timeout_s=60.0)
    on_disk = judge_all(
        [replace(r, ground_truth=stored) for r in requests], name="code", timeout_s=60.0
    )
    verdicts = [[(r.reward, r.status, r.detail) for r in each] for each in (in_memory, on_disk)]
    assert verdicts[0] == verdicts[1]
    assert [reward for reward, *_ in verdicts[0]] == [1.0, 0.0, 0.0]


def test_every_reward_of_a_mixture_reads_stored_truths(prepared):
    """Both decide at once where the truth is in memory; ``exact`` alone could read no files."""
    stored = prepared.truths()[1][3]
    truth = stored.read()
    requests = [
        ScoreRequest("0", response, at, source=source)
        for source, right in (("own", hashlib.sha256(truth.encode()).hexdigest()), ("exact", truth))
        for response in (right, "wrong")
        for at in (truth, stored)
    ]
    results = judge_all(requests, name="by_source", args=MIXED)
    verdicts = [(r.reward, r.status, r.detail) for r in results]
    assert verdicts[::2] == verdicts[1::2]
    assert [reward for reward, *_ in verdicts[::2]] == [1.0, 0.0, 1.0, 0.0]


def changed(path, stored):
    with open(path, "r+b") as file:
        file.seek(stored.offset + stored.length // 2)
        file.write(b"z" if file.read(1) != b"z" else b"a")


def shortened(path, stored):
    os.truncate(path, stored.offset + stored.length - 1)


def removed(path, stored):
    path.unlink()


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("fingerprint", changed),
        ("fingerprint", shortened),
        ("fingerprint", removed),
        ("fingerprint_async", changed),
    ],
)
def test_a_spoilt_file_is_a_failure_of_the_verifier(prepared, name, spoil):
    stored = prepared.truths()[1][1]
    right = hashlib.sha256(LONG.encode()).hexdigest()
    spoil(prepared.rows, stored)
    lost = ScoreRequest("0", "wrong", stored)
    fine = ScoreRequest("1", right, LONG)
    first, second, third = judge_all(
        [lost, replace(lost, response=right), fine], name=f"test_stored_truths.{name}"
    )
    for result in (first, second):
        assert result.status == "verifier_error" and np.isnan(result.reward)
        assert str(prepared.rows) in result.detail
        assert "again" in result.detail
    assert third.reward == 1.0
    with pytest.raises(StoredTruthError):
        stored.read()


# -- what is written of a sample


def test_rollouts_name_a_stored_truth_by_its_hash_wherever_it_is(prepared):
    stored = prepared.truths()[1][1]
    elsewhere = replace(stored, path="/mnt/cache/rows.jsonl", offset=0)
    empty = np.zeros(0, np.int32)
    texts = []
    for truth in (stored, elsewhere):
        completion = Completion("p/0", empty, empty.astype(np.float32), "stop", 0)
        prompt = Prompt("p", empty, "?", truth, "tasks")
        sample = Sample(prompt, 0, completion, "", RewardResult(1.0, True, "ok"))
        texts.append(json.dumps(rollout_row(sample), default=str))
    assert texts[0] == texts[1] and len(texts[0]) < 1000
    assert hashlib.sha256(json.dumps(LONG).encode()).hexdigest() in texts[0]
