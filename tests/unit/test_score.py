"""``python -m archer.score``, end to end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from archer.config import RewardConfig
from archer.score import load_score_config, parse_case

ROOT = Path(__file__).parents[2]


def run_score(folder, lines, *overrides):
    """(finished process, output records or None) of scoring the lines."""
    source, output = folder / "cases.jsonl", folder / "scores.jsonl"
    source.write_text("".join(line + "\n" for line in lines))
    command = [sys.executable, "-m", "archer.score", f"input={source}", f"output={output}"]
    process = subprocess.run([*command, *overrides], cwd=ROOT, capture_output=True, text=True)
    written = output.read_text().splitlines() if output.exists() else None
    return process, written and [json.loads(line) for line in written]


def case(response, ground_truth="5", **fields):
    return json.dumps({"response": response, "ground_truth": ground_truth, **fields})


def test_scores_come_in_order_with_ids_and_verifier_failures_are_told(tmp_path):
    lines = [
        case(r"\boxed{9^{9^{9}}}", id="slow"),
        case(r"\boxed{5}", id="right"),
        case(r"\boxed{6}", id={"any": "json"}),
        case("no box"),
        case(r"\boxed{7}", ["6", "7"], id="listed", unknown_key=1),
    ]
    process, records = run_score(tmp_path, lines, "reward.num_workers=2", "reward.timeout_s=1.0")
    assert process.returncode == 0, process.stderr
    assert process.stdout == ""
    assert [list(r) for r in records] == [["id", "score", "correct", "status", "seconds"]] * 5
    assert [(r["id"], r["score"], r["correct"], r["status"]) for r in records] == [
        ("slow", 0.0, False, "timeout"),
        ("right", 1.0, True, "ok"),
        ({"any": "json"}, 0.0, False, "ok"),
        (4, 0.0, False, "no_answer"),
        ("listed", 1.0, True, "ok"),
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cases.jsonl", "scores.jsonl"]


def test_malformed_lines_are_reported_and_the_rest_is_scored(tmp_path):
    lines = [
        case(r"\boxed{5}"),
        '{"response": "torn',
        "",
        '{"response": 5, "ground_truth": "5"}',
        '{"response": "x"}',
        "[1]",
        case(r"\boxed{5}", None),
        case(r"\boxed{5}", id="last"),
    ]
    process, records = run_score(tmp_path, lines)
    assert process.returncode == 1
    assert [(r["id"], r["score"]) for r in records] == [(1, 1.0), ("last", 1.0)]
    for expected in ("line 2: not JSON", "line 4: response", "line 5: ground_truth", "line 6:"):
        assert expected in process.stderr
    assert "5 malformed" in process.stderr


def test_the_example_reward_scores_its_cases(tmp_path):
    lines = (ROOT / "examples/custom_reward/cases.jsonl").read_text().splitlines()
    name = "reward.name=examples.custom_reward.concise.concise_math"
    process, records = run_score(tmp_path, lines, name, "+reward.args.max_chars=100")
    assert process.returncode == 0, process.stderr
    assert {r["id"]: r["score"] for r in records} == {
        "short": pytest.approx(1 - 0.5 * 10 / 100),
        "long": pytest.approx(1 - 0.5 * 79 / 100),
        "wrong": 0.0,
    }


def test_a_config_error_names_the_key_and_leaves_no_file(tmp_path):
    process, records = run_score(tmp_path, [case("x")], "reward.name=mth")
    assert (process.returncode, records) == (2, None)
    assert "reward.name" in process.stderr
    assert "Did you mean 'math'?" in process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["cases.jsonl"]


@pytest.mark.parametrize("name", ["math", "format"])
def test_reward_presets_repeat_the_defaults(name):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        composed = compose("score", [f"reward={name}", "input=a", "output=b"])
    assert load_score_config(composed).reward == RewardConfig(name=name)


def test_deeply_nested_json_is_malformed_not_fatal():
    with pytest.raises(ValueError, match="not JSON"):
        parse_case(b"[" * 100_000)
