"""The evaluation loop, its numbers and its command's checks, without Ray."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_fixtures import write_records
from fake_model import write_model
from full_disk import full_disk
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from preparing import Prepared, source, training

from archer.collector import SampleStream
from archer.config.keys import Protocol
from archer.console import Console
from archer.errors import ConfigError, RunError
from archer.evaluate import RESULTS_FILE, evaluate_model, sample_problems, with_eta
from archer.evaluation.config import EvaluateConfig, load_evaluate_config
from archer.evaluation.journal import JOURNAL_FILE, Journal
from archer.evaluation.measures import (
    Verdict,
    eval_metrics,
    pass_sizes,
    problem_row,
    verdict_matrix,
    verdicts,
)
from archer.evaluation.results import SetResult, measure_set
from archer.evaluation.sampling import eval_requests, sample_groups
from archer.metrics import read_rollouts, rollout_row
from archer.preflight import check_eval_inputs
from archer.types import Completion, Group, Prompt, RewardResult, Sample, SampleRequest

CONF = Path(__file__).parents[2] / "conf"


BENCHMARKS = (
    "++data.sets.easy={role: eval, sources: {a: {hub: x/y, files: [f]}}, num_samples: 4, "
    "temperature: 0.8, top_p: 0.95, max_response_tokens: 32768}",
    "++data.sets.hard={role: eval, sources: {a: {hub: x/y, files: [f]}}, num_samples: 64, "
    "max_response_tokens: 99}",
    "++data.sets.mine={role: train, sources: {a: {hub: x/y, files: [f]}}}",
)
LIMIT = "sampling.max_response_tokens=64"


def prompt(id: str) -> Prompt:
    return Prompt(id, np.array([1], np.int32), "1+1", "2", "sums")


def sample(of: Prompt, index: int, verdict: str) -> Sample:
    """``verdict``: ``+`` right, ``-`` wrong, ``?`` the verifier failed, ``0`` no answer."""
    result = RewardResult(float(verdict == "+"), verdict == "+", "ok", answer=verdict)
    if verdict == "0":
        result = RewardResult(0.0, False, "no_answer")
    if verdict == "?":
        result = RewardResult.failure("timeout", "too slow")
    tokens = np.arange(index + 1, dtype=np.int32)
    logprobs = np.zeros(index + 1, np.float32)
    return Sample(
        of, index, Completion(f"{of.id}/{index}", tokens, logprobs, "stop", 0), "", result
    )


def groups(*rows: str) -> tuple[Group, ...]:
    prompts = [prompt(f"set-{number}") for number in range(len(rows))]
    return tuple(
        Group(p, tuple(sample(p, i, verdict) for i, verdict in enumerate(row)))
        for p, row in zip(prompts, rows, strict=True)
    )


def recorded(*problems: str) -> list[list[Verdict]]:
    """By way of the rows of a journal."""
    return [
        [Verdict.of_row(json.loads(json.dumps(rollout_row(s)))) for s in group.samples]
        for group in groups(*problems)
    ]


def measured(*problems: str) -> SetResult:
    protocol = Protocol(num_samples=len(problems[0]), max_response_tokens=7)
    return measure_set(recorded(*problems), protocol, dropped={})


class FakeStream(SampleStream):
    """Answers the last request first, two samples at a time; sample 0 of each problem is right."""

    def __init__(self) -> None:
        self.requests: list[SampleRequest] = []
        self._waiting: list[Sample] = []

    def ask(self, of, requests) -> None:
        self.requests += requests
        self._waiting += [sample(of, i, "+" if i == 0 else "-") for i in range(len(requests))]

    def wait(self) -> list[Sample]:
        return [self._waiting.pop() for _ in range(min(2, len(self._waiting)))]


class DyingStream(FakeStream):
    """Judges by the seed of a request; ends the process, as it were, after some samples."""

    def __init__(self, life: float = math.inf) -> None:
        super().__init__()
        self._life = life

    def ask(self, of, requests) -> None:
        self.requests += requests
        verdicts = ["+-?0"[request.seed % 4] for request in requests]
        self._waiting += [sample(of, i, verdict) for i, verdict in enumerate(verdicts)]

    def wait(self) -> list[Sample]:
        found = super().wait()
        self._life -= len(found)
        if self._life < 0:
            raise KeyboardInterrupt
        return found


def compose_command(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("evaluate", list(overrides))


def load(*overrides: str) -> EvaluateConfig:
    return load_evaluate_config(compose_command(*overrides))


def test_samples_are_put_in_order_however_they_arrive():
    stream, finished = FakeStream(), []
    protocol = Protocol(num_samples=3, temperature=0.6, top_p=0.9, max_response_tokens=7)
    asked = eval_requests([prompt("set-1"), prompt("set-2")], protocol, seed=0)
    found = sample_groups(stream, asked, on_group=lambda: finished.append(1))
    assert [g.prompt.id for g in found] == ["set-1", "set-2"]
    assert [[s.index for s in g.samples] for g in found] == [[0, 1, 2]] * 2
    assert len(finished) == 2
    request = stream.requests[0]
    assert (request.temperature, request.top_p, request.max_tokens) == (0.6, 0.9, 7)


def test_seeds_follow_from_run_problem_and_sample_alone():
    def seeds(ids: list[str], seed: int) -> dict[str, int]:
        protocol = Protocol(num_samples=2, max_response_tokens=7)
        asked = eval_requests([prompt(id) for id in ids], protocol, seed)
        return {request.id: request.seed for _, requests in asked for request in requests}

    alone, together = seeds(["set-1"], 0), seeds(["set-0", "set-1"], 0)
    assert len(set(together.values())) == 4
    assert alone.items() <= together.items()
    assert alone != seeds(["set-1"], 1)


def test_metrics_leave_out_what_the_verifier_failed_on():
    metrics = eval_metrics(verdicts(groups("++--", "??+-", "????")))
    assert metrics["avg@4"] == 0.5  # 2 of 4 and 1 of 2; the third problem has no verdict
    # Two right of four: 1 - C(2,2)/C(4,2) = 5/6. One of two: 1 - C(1,2)/C(2,2) = 1.
    assert metrics["pass@2"] == pytest.approx((5 / 6 + 1) / 2)
    assert metrics["pass@4"] == 1.0  # of the second problem pass@2
    assert metrics["failure_frac"] == 0.5  # 6 of 12
    assert metrics["response_tokens_mean"] == 2.5  # 1, 2, 3, 4 tokens each


def test_verdicts_tell_wrong_from_failed():
    right, wrong, failed = verdict_matrix(verdicts(groups("+-?")))[0]
    assert (right, wrong) == (1.0, 0.0)
    assert math.isnan(failed)


def test_what_is_read_back_from_a_journal_is_judged_the_same():
    problems = ("+++-", "+--?", "----", "0+++")
    of_trainer, of_command = eval_metrics(verdicts(groups(*problems))), measured(*problems).record()
    assert {key: of_command[key] for key in of_trainer} == of_trainer


@pytest.mark.parametrize(("n", "sizes"), [(1, [1]), (3, [1, 2, 3]), (8, [1, 2, 4, 8])])
def test_pass_at_k_is_shown_for_powers_of_two_and_n(n: int, sizes: list[int]):
    assert pass_sizes(n) == sizes


def test_every_score_of_a_set_has_an_interval_around_it():
    found = measured("+++-", "+---", "----", "++++")
    assert found.majority is not None
    assert found.avg.value == found.majority.value == 0.5  # most answers: the first and the last
    assert found.pass_at[3].value == pytest.approx((1 + 3 / 4 + 0 + 1) / 4)
    assert list(found.pass_at) == [1, 2, 3, 4]
    for score in (found.avg, found.majority, *found.pass_at.values()):
        assert score.low < score.value < score.high


def test_a_problem_without_a_verdict_counts_in_no_score():
    assert measured("++--", "????").pass_at == measured("++--").pass_at
    nothing = measured("????").record()
    assert nothing["avg@4"] is None and nothing["pass@4_hi"] is None


def test_programs_have_no_majority():
    found = measured("0-00", "0000").majority
    assert found is not None and found.value == 0.0
    assert measured("00", "00").majority is None


def test_a_problem_has_a_row_of_its_own():
    (group,) = groups("+-?+")
    (samples,) = recorded("+-?+")
    row = problem_row("set", group.prompt, samples)
    assert row == {
        "id": 0,
        "source": "sums",
        "num_samples": 4,
        "num_correct": 2,
        "num_valid": 3,
        "response_tokens_mean": 2.5,
        "truncated": 0,
        "majority_correct": 1.0,
        "prompt": "1+1",
    }
    named = replace(group.prompt, extra={"id": "aime-7"})
    assert problem_row("set", named, samples)["id"] == "aime-7"


@pytest.mark.parametrize("life", [1, 9, 22])
def test_a_killed_evaluation_goes_on_as_if_it_had_not_been_killed(tmp_path: Path, life: int):
    problems = {name: [prompt(f"{name}-{i}") for i in range(3)] for name in ("easy", "hard")}
    prompts = [p for found in problems.values() for p in found]

    config = load("data=jsonl", *BENCHMARKS, "eval.num_samples=4", LIMIT)

    def journal_in(folder: str) -> Journal:
        (tmp_path / folder).mkdir(exist_ok=True)
        return Journal(config.model_copy(update={"output": str(tmp_path / folder)}))

    def sample_all(folder: str, life: float = math.inf) -> int:
        """How many requests it took."""
        stream = DyingStream(life)
        with journal_in(folder) as journal, suppress(KeyboardInterrupt), Console(0, 0) as console:
            missing = {
                name: [p for p in found if not journal.has(p)] for name, found in problems.items()
            }
            sample_problems(config, missing, stream, journal, console)
        return len(stream.requests)

    def rows(folder: str) -> list[Any]:
        with journal_in(folder) as journal:
            return [journal.rows(p) if journal.has(p) else None for p in prompts]

    assert sample_all("whole") == 24
    sample_all("killed", life)
    num_done = sum(found is not None for found in rows("killed"))
    assert num_done == life // 4  # those asked for last are answered first, one by one
    assert sample_all("killed") == 24 - 4 * num_done
    assert rows("killed") == rows("whole")


def test_the_command_takes_any_model_and_file():
    mine = ("data=jsonl", "data.eval.mine=a.jsonl", LIMIT)
    config = load("model.path=some/folder", *mine, "output=there")
    assert config.data.eval == {"mine": "a.jsonl"}
    assert config.output_dir == Path("there")


def test_every_set_has_its_own_protocol():
    config = load("data=jsonl", *BENCHMARKS)
    easy = Protocol(num_samples=4, temperature=0.8, top_p=0.95, max_response_tokens=32768)
    hard = Protocol(num_samples=64, temperature=1.0, top_p=1.0, max_response_tokens=99)
    assert config.protocols == {"easy": easy, "hard": hard}
    assert config.max_sequence_tokens == config.data.max_prompt_tokens + 32768
    assert config.output_dir == Path("evaluations/tiny-easy+hard-seed0")


def test_only_some_of_the_sets_are_evaluated_a_training_set_among_them_if_named():
    chosen = load("data=jsonl", *BENCHMARKS, "eval.sets=[mine,hard]", "eval.num_samples=16", LIMIT)
    assert set(chosen.protocols) == {"mine", "hard"}
    assert chosen.data.sets["mine"].role == "train"  # the recipe is that of its preparation
    assert list(load("eval.sets=[arithmetic]").protocols) == ["arithmetic"]


@pytest.mark.parametrize(
    ("override", "has_own"),
    [
        ("seed=1", True),
        ("eval.num_samples=2", True),
        ("eval.temperature=0.6", False),
        ("eval.top_p=1", False),
        ("sampling.max_response_tokens=8192", False),
        ("eval.max_problems=4", False),
        ("data.prompt_template='{problem}!'", False),
        ("data.chat_template=true", True),  # as every checkpoint's run says
        ("data.chat_template=false", False),
        ("data.sets.easy.num_samples=2", True),
        ("data.sets.hard.temperature=0.1", True),
        ("data.sets.easy.temperature=0.1", False),
        ("data.sets.easy.template='{problem}'", False),
        ("data.sets.easy={top_p: 0.5}", False),
        ("reward.num_workers=2", True),
        ("reward=random", False),
        ("reward.truncated=score", False),
        ("reward.args.extract=[boxed]", False),
    ],
)
def test_a_set_is_sampled_and_judged_as_published_or_not(override: str, has_own: bool):
    given = ["data", override.partition("=")[0]]
    assert load("data=jsonl", *BENCHMARKS, override).has_own_protocol("easy", given) == has_own


def test_what_the_user_says_holds_for_every_set():
    config = load("data=jsonl", *BENCHMARKS, "eval.top_p=0.9", "sampling.max_response_tokens=99")
    assert [p.top_p for p in config.protocols.values()] == [0.9, 0.9]
    assert [p.num_samples for p in config.protocols.values()] == [4, 64]
    assert config.max_response_tokens == 99


def test_an_embedded_task_brings_its_response_limit():
    assert load().protocols["arithmetic"].max_response_tokens == 64


def test_results_of_two_models_do_not_share_a_folder_by_default():
    folders = {load(o).output_dir for o in ("seed=0", "seed=1", "model=r1-distill-1.5b")}
    assert len(folders) == 3


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["data=jsonl"], "data.eval"),
        (["data=jsonl", "data.eval.mine=a.jsonl"], "sampling.max_response_tokens"),
        (["eval.sets=[arithmetics]"], "eval.sets"),
        (["data.eval.mine=a.jsonl"], "data.eval"),
        (["++trainer.num_steps=3"], "trainer"),
        (["++sampling.temperature=0.5"], "sampling.temperature"),
        (["++eval.every=3"], "eval.every"),
    ],
)
def test_what_an_evaluation_does_not_take_is_refused(overrides: list[str], key: str):
    with pytest.raises(ConfigError) as caught:
        load(*overrides)
    assert caught.value.key == key


def test_the_training_file_is_not_read(tmp_path: Path):
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text('{"problem": "9+1", "answer": "10"}\n')
    config = load(
        f"model.path={write_model(tmp_path / 'model')}",
        "data=jsonl",
        "data.train=gone.jsonl",
        f"data.eval.mine={held_out}",
        "data.max_prompt_tokens=64",
        "sampling.max_response_tokens=64",
    )
    inputs = check_eval_inputs(config)
    assert [p.id for p in inputs.evals["mine"].prompts] == ["mine-1"]


def test_a_refused_evaluation_leaves_no_folder(tmp_path: Path):
    config = load(
        f"model.path={write_model(tmp_path / 'model')}", "data=jsonl", "data.eval.mine=gone.jsonl",
        "data.max_prompt_tokens=64", "sampling.max_response_tokens=64",
        f"output={tmp_path / 'new' / 'out'}",
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"gone\.jsonl"):
        evaluate_model(config)
    assert not (tmp_path / "new").exists()


def test_a_training_set_is_evaluated_from_its_rows_as_prepared(tmp_path: Path):
    write_records(tmp_path / "sums.jsonl", [{"problem": "9+1", "answer": "10", "id": "a"}])
    made = Prepared(
        tmp_path,
        {"sums": training({"sums": source(tmp_path, "sums.jsonl")}, template="What is {problem}?")},
    )
    command = ("data=jsonl", *BENCHMARKS, "eval.sets=[sums]", LIMIT, "data.max_prompt_tokens=64")
    words = (f"model.path={write_model(tmp_path / 'model')}", f"run.cache={made.cache}")
    composed = compose_command(*command, *words)
    composed.data.sets.sums = made.config.data.sets["sums"].model_dump()
    inputs = check_eval_inputs(load_evaluate_config(composed))
    (prompt,) = inputs.evals["sums"].prompts  # the benchmarks beside it need not be there
    assert "What is 9+1?" in prompt.text
    assert problem_row("sums", prompt, recorded("+")[0])["id"] == "sums-1"


def finished(tmp_path: Path, *verdicts: str) -> EvaluateConfig:
    """An evaluation of two problems that has only its results left to write."""
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text('{"problem": "9+1", "answer": "10"}\n{"problem": "1+1", "answer": "2"}\n')
    config = load(
        f"model.path={write_model(tmp_path / 'model')}", "data=jsonl",
        f"data.eval.mine={held_out}", "data.max_prompt_tokens=64",
        "sampling.max_response_tokens=64", "eval.num_samples=4", f"output={tmp_path / 'out'}",
    )  # fmt: skip
    journalled(config, "mine", *verdicts)
    return config


def journalled(config: EvaluateConfig, name: str, *verdicts: str) -> None:
    config.output_dir.mkdir()
    with Journal(config) as journal:
        for problem, row in zip(
            check_eval_inputs(config).evals[name].prompts, verdicts, strict=True
        ):
            samples = [sample(problem, i, verdict) for i, verdict in enumerate(row)]
            journal.append(problem, [rollout_row(s) for s in samples])


@pytest.mark.parametrize(
    ("word", "judgement"),
    [("seed=0", "in interval"), ("++data.sets.sums.top_p=1.0", "other protocol")],
)
def test_a_published_figure_is_judged_by_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str, judgement: str
):
    write_records(tmp_path / "sums.jsonl", [{"problem": "9+1", "answer": "10", "id": "a"}])
    recipe = {"role": "eval", "sources": {"sums": source(tmp_path, "sums.jsonl")}}
    recipe |= {"published": {"tiny": {"avg@1": 100.0}}, "max_response_tokens": 64, "top_p": 1.0}
    made = Prepared(tmp_path, {"sums": recipe})
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composed = compose(
            "evaluate",
            [
                "data=jsonl", f"model.path={write_model(tmp_path / 'model')}",
                f"run.cache={made.cache}", "data.max_prompt_tokens=64", "eval.num_samples=1",
                f"output={tmp_path / 'out'}", word,
            ],
            return_hydra_config=True,
        )  # fmt: skip
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)  # and again after the test
    HydraConfig.instance().set_config(composed)
    del composed.hydra
    composed.data.sets.sums = made.config.data.sets["sums"].model_dump()
    config = load_evaluate_config(composed)
    journalled(config, "sums", "+")
    [figure] = evaluate_model(config)["sums"].published
    assert figure.judgement == judgement


@pytest.mark.parametrize(("verdicts", "avg"), [(("++--", "+???"), 0.75), (("????", "????"), None)])
def test_a_finished_journal_becomes_the_results_without_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdicts: tuple[str, ...], avg: float | None
):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", refuse)
    config = finished(tmp_path, *verdicts)
    evaluate_model(config)
    record = json.loads((config.output_dir / RESULTS_FILE).read_text())
    measures = record["sets"]["mine"]
    assert (measures["avg@4"], record["average"]["avg"]) == (avg, avg)
    assert (measures["top_p"], measures["max_response_tokens"]) == (1.0, 64)
    assert record["config"]["eval"]["num_samples"] == 4
    problems = (config.output_dir / "problems_mine.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in problems] == [1, 2]
    assert len(list(read_rollouts(config.output_dir / "samples_mine.jsonl.gz"))) == 8
    shown = "-" if avg is None else "75.0"
    assert f"| mine | 4 | {shown}" in (config.output_dir / "results.md").read_text()
    assert not (config.output_dir / JOURNAL_FILE).exists()


def test_a_disk_too_full_for_the_results_keeps_what_was_sampled(tmp_path: Path):
    config = finished(tmp_path, "++--", "----")
    with pytest.raises(RunError, match="Free some space"), full_disk(10):
        evaluate_model(config)
    assert not (config.output_dir / RESULTS_FILE).exists()
    assert evaluate_model(config)["mine"].avg.value == 0.25


def test_the_rest_takes_as_long_as_the_pace_so_far_promises():
    seconds, shown = iter([0.0, 10.0, 30.0]), []
    count = with_eta(lambda num, text: shown.append((num, text)), 4, lambda: next(seconds))
    count()
    count()
    assert shown == [(1, "ETA 0:30"), (1, "ETA 0:30")]  # 3 of 10 s each, then 2 of 15 s


def test_results_are_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("archer.evaluate.StopSignals.install", lambda self: None)
    (tmp_path / RESULTS_FILE).write_text("{}")
    with pytest.raises(ConfigError, match="another output=FOLDER"):
        evaluate_model(load(f"output={tmp_path}"))
