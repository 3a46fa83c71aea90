"""The table of an evaluation, and published figures beside measured ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from archer.config.keys import ModelConfig, Protocol
from archer.config.schema import validate
from archer.data.config import DataConfig
from archer.errors import ConfigError
from archer.evaluation.measures import SampleStats
from archer.evaluation.results import (
    Published,
    Score,
    SetResult,
    compare_published,
    figures_of,
    mean_avg,
    published_mean_avg,
)
from archer.evaluation.table import markdown_tables, protocol_lines, screen_table

HUB_ID = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
FIGURES = {"avg@64": 30.6, "pass@64": 80.0}
PUBLISHED = {HUB_ID: FIGURES, "archer-math-1.5b": {"avg@64": 48.7}}
BENCHMARKS = {
    "aime24": 64, "aime25": 64, "amc23": 64, "math500": 4,
    "minerva": 8, "olympiad": 4, "lcb_v5": 8, "lcb_v6": 16,
}  # fmt: skip


def score(value: float) -> Score:
    return Score(value, value - 0.1, value + 0.1)


def result(n: int = 64, avg: float = 0.3, **others: Any) -> SetResult:
    measured = SetResult(
        protocol=Protocol(num_samples=n, temperature=0.8, top_p=0.95, max_response_tokens=32768),
        num_problems=30,
        dropped={},
        avg=score(avg),
        avg_error=0.01,
        pass_at={k: score(0.5) for k in range(1, n)} | {n: score(0.8)},
        majority=score(0.4),
        samples=SampleStats(9000.4, 0.125, 0.0, {"ok": 1.0}),
    )
    return replace(measured, **others)


def compared(measured: SetResult, same_protocol: bool = True) -> SetResult:
    return replace(measured, published=compare_published(FIGURES, measured, same_protocol))


def judgements(found: Sequence[Published]) -> dict[str, str]:
    return {figure.measure: figure.judgement for figure in found}


@pytest.mark.parametrize(
    ("name", "path", "measure"),
    [
        ("r1-distill-1.5b", HUB_ID, 30.6),  # the preset
        ("r1", f"/models/{HUB_ID.lower()}/", 30.6),  # a copy of it
        ("Archer-Math-1.5B", "runs/default/RUN/checkpoints/step_000520/hf", 48.7),  # one's own run
        ("r1-distill-1.5b", "/elsewhere/fine-tuned", None),  # no longer the preset's model
        ("tiny", None, None),
    ],
)
def test_a_model_goes_by_its_hub_id_and_its_name(name: str, path: str | None, measure):
    figures = figures_of(ModelConfig(name=name, path=path), PUBLISHED)
    assert figures.get("avg@64") == measure


def test_a_published_figure_stands_beside_the_measured():
    avg, passed = compare_published(FIGURES, result(), same_protocol=True)
    assert (avg.value, avg.difference) == (pytest.approx(0.306), pytest.approx(-0.006))
    assert (avg.judgement, passed.judgement) == ("within noise", "in interval")


@pytest.mark.parametrize(
    ("avg", "judgement"),
    # Two measurements differ by at most 1.96 * sqrt(2) * 0.01 = 2.8 percent, mostly.
    [(0.33, "within noise"), (0.34, "in interval"), (0.42, "outside")],
)
def test_a_difference_is_told_from_the_luck_of_sampling(avg: float, judgement: str):
    assert compared(result(avg=avg)).published[0].judgement == judgement


def test_one_sample_of_each_says_nothing_of_noise():
    (found,) = compared(result(n=1, avg_error=float("nan"))).published
    assert found.judgement == "in interval"


def test_under_another_protocol_there_is_a_difference_but_no_judgement():
    found = compared(result(), same_protocol=False).published
    assert {figure.judgement for figure in found} == {"other protocol"}


def test_fewer_samples_measure_the_same_accuracy_but_not_the_same_pass_rate():
    assert list(judgements(compared(result(n=8)).published)) == ["avg@64"]


def test_a_majority_is_compared_with_one_of_as_many_votes():
    [found] = compare_published({"maj@64": 50.0, "maj@8": 10.0}, result(), same_protocol=True)
    assert (found.measure, found.difference) == ("maj@64", pytest.approx(-0.1))
    voted = replace(result(), published=(found,))
    table = markdown_tables({"aime24": voted}).splitlines()
    assert "| maj@n | published |" in table[0]
    assert "| 40.0 [30.0, 50.0] | 50.0 -10.0 in interval |" in table[2]
    assert compare_published({"maj@64": 50.0}, result(majority=None), same_protocol=True) == ()


@pytest.mark.parametrize("name", ["avg64", "pass@k", "pass@0", "best@8", "avg@64 "])
def test_a_published_figure_has_the_name_of_a_measure(name: str):
    recipe = {"role": "eval", "sources": {}, "published": {HUB_ID: {name: 30.6}}}
    with pytest.raises(ConfigError, match="such as avg@64") as error:
        validate(DataConfig, {"name": "x", "sets": {"a": recipe}})
    assert error.value.value == name


def test_results_without_a_verdict_are_compared_with_nothing():
    nan = score(float("nan"))
    assert compared(result(avg=nan.value, pass_at={64: nan})).published == ()


def test_the_record_keeps_every_score_with_its_interval():
    record = compared(result(n=2, avg_error=float("nan"))).record()
    assert record["avg@2"] == 0.3 and record["avg@2_se"] is None
    assert (record["pass@1"], record["pass@1_lo"], record["pass@2_hi"]) == (0.5, 0.4, 0.9)
    assert (record["top_p"], record["max_response_tokens"]) == (0.95, 32768)
    assert record["status/ok"] == 1.0
    assert record["published"]["avg@64"]["judgement"] == "in interval"


def test_the_table_has_a_row_for_each_set_and_the_mean():
    results = {"aime24": compared(result()), "math500": result(4, avg=0.8)}
    lines = markdown_tables(results).splitlines()
    assert lines[0] == "| set | n | avg@n | published | pass@n | published | maj@n | tokens | cut |"
    assert lines[2] == (
        "| aime24 | 64 | 30.0 [20.0, 40.0] | 30.6 -0.6 within noise | 80.0 [70.0, 90.0] | "
        "80.0 +0.0 in interval | 40.0 [30.0, 50.0] | 9000 | 12.5 |"
    )
    assert lines[4] == "| mean |  | 55.0 |  |  |  |  |  |  |"
    assert mean_avg(results) == pytest.approx(0.55)


def test_the_curve_of_pass_at_k_and_the_protocol_have_tables_of_their_own():
    text = markdown_tables({"aime24": result(4, dropped={"too_long": 2})})
    _, curve, protocol = text.split("\n\n")
    assert curve.splitlines()[0] == "| set | pass@1 | pass@2 | pass@4 |"
    assert protocol.splitlines()[2] == "| aime24 | 30 | 2 | 4 | 0.8 | 0.95 | 32768 |"


def test_the_k_of_a_published_figure_is_told_where_it_is_not_n():
    assert "| 30.6@64 -0.6 within noise |" in markdown_tables({"aime24": compared(result(n=8))})


def test_the_mean_is_compared_only_if_every_set_is():
    known = compared(result())
    assert published_mean_avg({"a": known, "b": result()}) != pytest.approx(0.306)  # NaN
    assert "| mean |  | 30.0 | 30.6 -0.6 |" in markdown_tables({"a": known, "b": known})


def test_programs_have_no_majority_and_failures_are_told():
    failing = result(majority=None, samples=SampleStats(1.0, 0.0, 0.5, {}))
    assert markdown_tables({"lcb": failing}).splitlines()[0].endswith("tokens | cut | failed |")
    assert "maj@n" not in markdown_tables({"lcb": failing})


@pytest.mark.parametrize("same_protocol", [True, False])
def test_the_papers_benchmarks_fit_on_a_screen_of_100_columns(same_protocol: bool):
    figures = {name: {f"avg@{n}": 30.6, f"pass@{n}": 80.0} for name, n in BENCHMARKS.items()}
    results = {}
    for name, n in BENCHMARKS.items():
        measured = result(n)
        found = compare_published(figures[name], measured, same_protocol)
        results[name] = replace(measured, published=found)
    screen = io.StringIO()
    Console(file=screen, width=100).print(screen_table(results))
    lines = screen.getvalue().splitlines()
    assert len(lines) == 1 + len(BENCHMARKS) + 1  # headings and the mean: no cell is wrapped
    assert "..." not in screen.getvalue() and "…" not in screen.getvalue()


def test_sets_that_are_sampled_alike_share_a_line():
    long = Protocol(num_samples=4, max_response_tokens=64)
    results = {"a": result(), "b": result(n=4), "c": result(protocol=long)}
    assert protocol_lines(results) == [
        "a, b: temperature 0.8, top_p 0.95, at most 32768 tokens",
        "c: temperature 1, top_p 1, at most 64 tokens",
    ]
