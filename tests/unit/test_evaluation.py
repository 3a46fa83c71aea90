"""The evaluation loop, its numbers and its command's checks, without Ray."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from fake_model import write_model
from hydra import compose, initialize_config_dir
from rich.console import Console

from archer.collector import SampleStream
from archer.config.keys import EvalConfig, EvaluateConfig, load_evaluate_config
from archer.errors import ConfigError
from archer.evaluate import RESULTS_FILE, evaluate_model, results_table, set_results
from archer.evaluation.sampling import Evaluation, eval_metrics, evaluate, pass_sizes, verdicts
from archer.preflight import check_eval_inputs
from archer.types import Completion, Group, Prompt, RewardResult, Sample, SampleRequest

CONF = Path(__file__).parents[2] / "conf"


def prompt(id: str) -> Prompt:
    return Prompt(id, np.array([1], np.int32), "1+1", "2", "sums")


def sample(of: Prompt, index: int, verdict: str) -> Sample:
    """``verdict``: ``+`` right, ``-`` wrong, ``?`` the verifier failed."""
    result = RewardResult(float(verdict == "+"), verdict == "+", "ok")
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


def load(*overrides: str) -> EvaluateConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_evaluate_config(compose("evaluate", list(overrides)))


def test_samples_are_put_in_order_however_they_arrive():
    stream, finished = FakeStream(), []
    config = EvalConfig(num_samples=3, temperature=0.6, top_p=0.9)
    prompts = [prompt("set-1"), prompt("set-2")]
    found = evaluate(stream, "set", prompts, config, 7, seed=0, advance=lambda: finished.append(1))
    assert [g.prompt.id for g in found.groups] == ["set-1", "set-2"]
    assert [[s.index for s in g.samples] for g in found.groups] == [[0, 1, 2]] * 2
    assert found.metrics["eval/set/avg@3"] == pytest.approx(1 / 3)
    assert len(finished) == 2
    request = stream.requests[0]
    assert (request.temperature, request.top_p, request.max_tokens) == (0.6, 0.9, 7)


def test_seeds_follow_from_run_problem_and_sample_alone():
    def seeds(ids: list[str], seed: int) -> dict[str, int]:
        stream = FakeStream()
        evaluate(stream, "set", [prompt(i) for i in ids], EvalConfig(num_samples=2), 7, seed)
        return {request.id: request.seed for request in stream.requests}

    alone, together = seeds(["set-1"], 0), seeds(["set-0", "set-1"], 0)
    assert len(set(together.values())) == 4
    assert alone.items() <= together.items()
    assert alone != seeds(["set-1"], 1)


def test_metrics_leave_out_what_the_verifier_failed_on():
    metrics = eval_metrics("set", groups("++--", "??+-", "????"))
    assert metrics["eval/set/avg@4"] == 0.5  # 2 of 4 and 1 of 2; the third problem has no verdict
    # Two right of four: 1 - C(2,2)/C(4,2) = 5/6. One of two: 1 - C(1,2)/C(2,2) = 1.
    assert metrics["eval/set/pass@2"] == pytest.approx((5 / 6 + 1) / 2)
    assert metrics["eval/set/pass@4"] == 1.0  # only the first problem has four verdicts
    assert metrics["eval/set/failure_frac"] == 0.5  # 6 of 12
    assert metrics["eval/set/response_tokens_mean"] == 2.5  # 1, 2, 3, 4 tokens each


def test_verdicts_tell_wrong_from_failed():
    right, wrong, failed = verdicts(groups("+-?"))[0]
    assert (right, wrong) == (1.0, 0.0)
    assert math.isnan(failed)


@pytest.mark.parametrize(("n", "sizes"), [(1, [1]), (3, [1, 2, 3]), (8, [1, 2, 4, 8])])
def test_pass_at_k_is_given_for_powers_of_two_and_n(n: int, sizes: list[int]):
    assert pass_sizes(n) == sizes


def test_every_score_of_a_set_has_an_interval_around_it():
    found = groups("+++-", "+---", "----", "++++")
    measures = set_results("set", Evaluation(found, eval_metrics("set", found)))
    assert measures["avg@4"] == 0.5
    for score in ("avg@4", "pass@1", "pass@2", "pass@4"):
        assert measures[f"{score}_lo"] <= measures[score] <= measures[f"{score}_hi"]
    assert measures["pass@4_lo"] < measures["pass@4_hi"]


def test_the_table_has_a_column_for_each_set():
    found = groups("+-", "++")
    measures = {"num_problems": 2, **set_results("a", Evaluation(found, eval_metrics("a", found)))}
    output = Console(width=100)
    with output.capture() as captured:
        output.print(results_table({"a": measures, "b": measures}))
    lines = {line.split()[0]: line.split()[1:] for line in captured.get().splitlines()}
    assert "b" in lines["a"]
    assert lines["num_problems"] == ["2", "2"]
    assert lines["avg@2"][0] == "0.750"
    assert lines["avg@2"][1].startswith("[")


def test_the_command_takes_any_model_and_file():
    config = load("model.path=some/folder", "data=jsonl", "data.eval.mine=a.jsonl", "output=there")
    assert config.data.eval == {"mine": "a.jsonl"}
    assert config.output_dir == Path("there")


def test_results_of_two_models_do_not_share_a_folder_by_default():
    folders = {load(o).output_dir for o in ("seed=0", "seed=1", "model=r1-distill-1.5b")}
    assert len(folders) == 3


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["data=jsonl"], "data.eval"),
        (["data.eval.mine=a.jsonl"], "data.eval"),
        (["++trainer.num_steps=3"], "trainer"),
        (["++sampling.temperature=0.5"], "sampling.temperature"),
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
    )
    inputs = check_eval_inputs(config)
    assert [p.id for p in inputs.evals["mine"].prompts] == ["mine-1"]


def test_results_are_never_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("archer.evaluate.StopSignals.install", lambda self: None)
    (tmp_path / RESULTS_FILE).write_text("{}")
    with pytest.raises(ConfigError, match="another output=FOLDER"):
        evaluate_model(load(f"output={tmp_path}"))
