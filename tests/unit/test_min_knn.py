"""The Min-kNN distance against a definition written out, and what the probe makes of it."""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_model import write_tokenizer
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from archer.errors import ConfigError
from archer.evaluate import CONF
from archer.evaluation.config import EvaluateConfig, load_evaluate_config
from archer.evaluation.min_knn import REPORT_FILE, check_probe, min_knn_distance, run_probe
from archer.evaluation.statistics import ranking_interval
from archer.metrics import write_rollouts
from archer.types import Completion, Prompt, RewardResult, Sample

TOKENS = st.lists(st.integers(0, 3), max_size=8).map(tuple)


@cache
def edits(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Levenshtein's distance, straight from its recursion."""
    if not a or not b:
        return len(a) + len(b)
    if a[0] == b[0]:
        return edits(a[1:], b[1:])
    return 1 + min(edits(a[1:], b), edits(a, b[1:]), edits(a[1:], b[1:]))


@given(st.lists(TOKENS, min_size=2, max_size=5), st.integers(1, 5))
def test_the_distance_is_the_definition(responses: list[tuple[int, ...]], neighbours: int):
    nearest = sorted(
        min(edits(a, b) / max(len(a), len(b), 1) for j, b in enumerate(responses) if j != i)
        for i, a in enumerate(responses)
    )[:neighbours]
    assert min_knn_distance(responses, neighbours) == pytest.approx(np.mean(nearest))


def test_three_responses_by_hand():
    # 1-2: one substitution of 4; 1-3 and 2-3: nothing in common.
    responses = [[1, 2, 3, 4], [1, 2, 3, 5], [9, 8, 7, 6]]
    assert min_knn_distance(responses, 2) == pytest.approx(0.25)
    assert min_knn_distance(responses, 3) == pytest.approx((0.25 + 0.25 + 1) / 3)


def test_the_area_under_the_curve_counts_pairs():
    everything = np.ones((2, 3), bool)
    value, low, high = ranking_interval(np.array([0.1, 0.5]), np.array([0.5, 0.6, 0.2]), everything)
    assert value == pytest.approx((3 + 1.5) / 6)  # 0.1 is below all, 0.5 below one and ties one
    assert 0 <= low < value < high <= 1


def test_only_compared_pairs_count():
    compared = np.array([[True, False], [False, True]])
    value, *_ = ranking_interval(np.array([0.0, 1.0]), np.array([0.5, 0.5]), compared)
    assert value == 0.5
    assert np.isnan(ranking_interval(np.zeros(2), np.ones(2), ~np.ones((2, 2), bool))[0])


def test_the_interval_covers_the_truth():
    """Two normal samples a standard deviation apart: the chance is 0.760."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(100):
        values, others = rng.normal(0, 1, 40), rng.normal(1, 1, 40)
        _, low, high = ranking_interval(values, others, np.ones((40, 40), bool), num_resamples=300)
        hits += low <= 0.7602 <= high
    assert 88 <= hits <= 100


def sample(problem: str, index: int, text: str, correct: bool) -> Sample:
    tokens = np.zeros(len(text), np.int32)
    return Sample(
        prompt=Prompt(problem, np.zeros(1, np.int32), "?", "1", "sums"),
        index=index,
        completion=Completion("", tokens, np.zeros(len(text), np.float32), "stop", 0),
        text=text,
        result=RewardResult(float(correct), correct, "ok"),
    )


class Workshop:
    """Sets of samples on disk, and a probe of them."""

    def __init__(self, folder: Path):
        self.folder = folder
        write_tokenizer(folder / "model")
        self.files: dict[str, Path] = {}

    def add(self, name: str, problems: dict[str, list[tuple[str, bool]]]) -> None:
        self.files[name] = self.folder / f"samples_{name}.jsonl.gz"
        write_rollouts(
            self.files[name],
            (
                sample(problem, index, *found)
                for problem, responses in problems.items()
                for index, found in enumerate(responses)
            ),
        )

    def probe(self, **probe: object) -> dict[str, dict[str, Any]]:
        """What `python -m archer.evaluate` reports of the files."""
        files = {name: str(path) for name, path in self.files.items()}
        config = load_evaluate_config(
            {
                "model": {"name": "none", "path": str(self.folder / "model")},
                "data": {"name": "arithmetic", "task": "arithmetic"},  # not looked at
                "reward": {"name": "math"},
                "probe": {"name": "min_knn", "neighbours": 2, "samples": files} | probe,
                "output": str(self.folder),
            }
        )
        check_probe(config)
        run_probe(config)
        return json.loads((self.folder / REPORT_FILE).read_text())["sets"]


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_a_set_with_twins_looks_trained_on_beside_one_without(workshop: Workshop):
    alike = [("abcd", True), ("abcd", True), ("abce", False)]
    apart = [("abcd", True), ("wxyz", True), ("0123", False)]
    workshop.add("seen", {f"seen-{i}": alike for i in range(4)})
    workshop.add("unseen", {f"unseen-{i}": apart for i in range(4)})
    found = workshop.probe(reference="unseen")

    assert found["seen"]["distance"] == 0
    assert found["unseen"]["distance"] == 1
    assert found["seen"]["auc"] == found["seen"]["matched_auc"] == 1
    assert found["seen"]["matched_pairs"] == 16
    assert "auc" not in found["unseen"]
    assert found["seen"]["problems"][0] == {
        "id": "seen-0", "distance": 0, "accuracy": pytest.approx(2 / 3), "num_responses": 3,
        "num_cut": 0,
    }  # fmt: skip


def test_what_accuracy_explains_is_gone_among_equally_hard_problems(workshop: Workshop):
    """Right responses are alike here and wrong ones differ, in both sets the same way."""
    easy = [("abcd", True), ("abcd", True), ("abcd", True), ("abcd", True)]
    hard = [("abcd", True), ("wxyz", False), ("0123", False), ("5678", False)]
    workshop.add("one", {"a": easy, "b": easy, "c": easy, "d": hard})
    workshop.add("other", {"a": easy, "b": hard, "c": hard, "d": hard})
    found = workshop.probe(reference="other")["one"]
    assert found["auc"] == pytest.approx((3 * (3 + 0.5) + 1.5) / 16)
    assert found["matched_auc"] == 0.5
    assert found["matched_pairs"] == 3 * 1 + 1 * 3


def test_long_responses_are_cut_and_counted(workshop: Workshop):
    workshop.add("set", {"a": [("abcdX", True), ("abcdYYYY", True), ("abc", False)]})
    found = workshop.probe(max_tokens=4)["set"]
    assert found["distance"] == 0  # of the two nearest, "abcd" and "abcd"
    assert found["cut_frac"] == pytest.approx(2 / 3)
    assert workshop.probe(max_tokens=None)["set"]["distance"] == pytest.approx(2 / 5)


def test_responses_that_could_not_be_judged_have_no_say_in_the_accuracy(workshop: Workshop):
    failed = sample("a", 2, "abc", False)
    failure = RewardResult.failure("crashed", "")
    samples = [sample("a", 0, "abc", True), sample("a", 1, "abc", True)]
    path = workshop.files["set"] = workshop.folder / "samples_set.jsonl.gz"
    write_rollouts(
        path, [*samples, Sample(failed.prompt, 2, failed.completion, failed.text, failure)]
    )
    found = workshop.probe()["set"]
    assert found["accuracy"] == 1
    assert found["problems"][0]["num_responses"] == 3


def test_too_few_responses_are_refused(workshop: Workshop):
    workshop.add("set", {"lonely": [("a", True), ("b", True)]})
    with pytest.raises(ConfigError, match="at most the 2 responses to lonely of set") as caught:
        workshop.probe(neighbours=10)
    assert caught.value.key == "probe.neighbours"
    assert "eval.num_samples" in caught.value.mend


def test_an_unknown_reference_is_refused(workshop: Workshop):
    workshop.add("set", {"a": [("a", True), ("b", True)]})
    with pytest.raises(ConfigError, match="one of the sets set"):
        workshop.probe(reference="sett")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"not gzip", "after row 0"),
        (b'{"problem": 1}\n', "no 'prompt_id'"),
        (b"", "holds no samples"),
    ],
)
def test_files_that_are_no_samples_are_refused(
    workshop: Workshop, content: bytes | None, said: str
):
    path = workshop.files["set"] = workshop.folder / "x.jsonl.gz"
    if content is not None:
        path.write_bytes(content if content == b"not gzip" else gzip.compress(content))
    with pytest.raises(ConfigError, match=said) as caught:
        workshop.probe()
    assert caught.value.key == "probe.samples.set"


def composed(*overrides: str) -> EvaluateConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load_evaluate_config(compose("evaluate", list(overrides)))


def test_the_preset_asks_for_the_papers_samples_and_the_user_has_the_last_word():
    protocol = composed("probe=min_knn", "data=aime24").protocols["aime24"]
    assert (protocol.num_samples, protocol.temperature, protocol.top_p) == (32, 1.0, 1.0)
    own = composed("probe=min_knn", "data=aime24", "eval.num_samples=16").protocols["aime24"]
    assert own.num_samples == 16


def test_too_few_samples_are_refused_before_they_are_drawn():
    with pytest.raises(ConfigError, match="at most the 4 responses to problems of aime24"):
        check_probe(composed("probe=min_knn", "data=aime24", "eval.num_samples=4"))
