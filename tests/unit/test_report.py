"""report.html of a made-up run."""

import json
import math

import numpy as np
import pytest
import yaml

from archer.comparison.charts import smooth
from archer.comparison.html import shorten
from archer.config.keys import LoggerConfig
from archer.errors import ConfigError
from archer.metrics import MetricsLog, RolloutLog
from archer.report import (
    curve_picture,
    eval_rows,
    ledger_totals,
    main,
    pick_samples,
    time_means,
    time_split,
    write_report,
)
from archer.types import Completion, Group, Prompt, RewardResult, Sample

CONFIG = {
    "seed": 0,
    "algo": {"name": "archer", "loss": {"clip_reasoning": 0.5}},
    "model": {"name": "tiny"},
    "data": {"name": "arithmetic"},
    "trainer": {"num_steps": 60},
    "cluster": {"device": "cpu"},
}
HOSTILE = "</pre><script>alert('model')</script> & \\boxed{12}"


def make_fake_run(run_dir, num_steps=60, response=HOSTILE):
    """A run directory such as the trainer leaves: a reward that rises, evaluations, rollouts."""
    rng = np.random.default_rng(0)
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
    (run_dir / "environment.json").write_text(
        json.dumps({"versions": {"vllm": "0.32.0"}, "hosts": ["node-a"], "python": "3.11.9"})
    )
    log = MetricsLog(run_dir, LoggerConfig(wandb="off"), CONFIG, run_dir.name)
    rollouts = RolloutLog(run_dir, keep=16)
    for step in range(num_steps + 1):
        progress = step / num_steps
        metrics = _step_metrics(progress, rng) if step else {}
        if step % 20 == 0:
            metrics |= _eval_metrics(progress)
        log.log(step, metrics)
        if step in (1, num_steps):
            rollouts.write(step, _groups(progress, rng, response))
        if step in (0, num_steps):
            rollouts.write(step, _groups(progress, rng, response), name="eval_arithmetic")
    log.close()
    return run_dir


def _step_metrics(progress, rng):
    accuracy = 0.4 + 0.45 * progress + rng.normal(0, 0.04)
    return {
        "reward/mean": accuracy,
        "reward/accuracy": accuracy - 0.02,
        "reward/no_answer_frac": 0.1 * (1 - progress),
        "reward/failure_frac": 0.0,
        "rollout/truncated_frac": 0.05 * (1 - progress),
        "rollout/response_tokens_mean": 40 + 10 * progress + rng.normal(),
        "rollout/mismatch_logprob_mean": abs(rng.normal(0, 1e-3)),
        "rollout/mismatch_logprob_max": abs(rng.normal(0, 1e-2)),
        "policy/entropy": 0.4 - 0.2 * progress + rng.normal(0, 0.01),
        "policy/frac_reasoning": 0.2 + rng.normal(0, 0.005),
        "policy/clip_frac": 0.01 + abs(rng.normal(0, 0.002)),
        "policy/clip_frac_reasoning": 0.02,
        "policy/clip_frac_knowledge": float("nan"),
        "policy/kl": 0.002 * progress,
        "policy/grad_norm": 0.5 + abs(rng.normal(0, 0.1)),
        "time/rollout_s": 1.1 + rng.normal(0, 0.05),
        "time/logprobs_s": 0.3,
        "time/update_s": 0.6,
        "time/weight_sync_s": 0.05,
        "time/step_s": 2.2,
        "throughput/tokens_per_s": 2500 + rng.normal(0, 80),
        "memory/driver_rss_mb": 400.0,
        "ledger/submitted": 160.0,
        "ledger/trained": 128.0,
        "ledger/uniform": 24.0,
        "ledger/surplus": 8.0,
    }


def _eval_metrics(progress):
    average = 0.4 + 0.45 * progress
    return {
        "eval/arithmetic/avg@8": average,
        "eval/arithmetic/avg@8_lo": average - 0.05,
        "eval/arithmetic/avg@8_hi": average + 0.05,
        **{f"eval/arithmetic/pass@{k}": average ** (1 / k) for k in (1, 2, 4, 8)},
    }


def _groups(progress, rng, response):
    groups = []
    for row in range(8):
        prompt = Prompt(f"0-{row}", np.array([5], np.int32), f"{row}7+5=?\n", "12", "arithmetic")
        samples = []
        for index in range(4):
            right = bool(rng.random() < 0.4 + 0.5 * progress)
            completion = Completion(
                f"0-{row}/{index}", np.arange(9), np.full(9, -0.2, np.float32), "stop", 1
            )
            result = RewardResult(float(right), right, "ok" if right else "no_answer")
            samples.append(Sample(prompt, index, completion, response, result))
        groups.append(Group(prompt, tuple(samples)))
    return groups


def test_the_page_holds_the_run_and_needs_no_network(tmp_path):
    page = write_report(make_fake_run(tmp_path / "archer-tiny")).read_text()
    for expected in ("60 of 60", "0.850", "+0.450", "0.350 to 0.450", "clip_reasoning: 0.5"):
        assert expected in page
    assert "vllm: 0.32.0" in page and "Step 60, evaluation on arithmetic" in page
    assert "src=" not in page and "@import" not in page and "<link" not in page
    assert "nan" not in page.partition("<svg")[0]


def test_model_text_cannot_become_markup(tmp_path):
    page = write_report(make_fake_run(tmp_path / "run")).read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_a_run_that_has_not_finished_a_step_still_gets_a_page(tmp_path):
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    assert "No step has been logged yet" in write_report(tmp_path).read_text()


def test_a_folder_that_is_no_run_is_refused_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"folder with config\.yaml"):
        write_report(tmp_path)
    with pytest.raises(SystemExit, match="error: run directory"):
        main([str(tmp_path)])


def test_the_command_writes_page_and_picture(tmp_path, capsys):
    run_dir = make_fake_run(tmp_path / "run")
    main([str(run_dir), "--picture", str(tmp_path / "curve.png")])
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert str(run_dir / "report.html") in capsys.readouterr().out


def test_a_picture_of_a_run_without_intervals_can_be_drawn(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 0, "eval/a/avg@8": 0.4}\n{"step": 1, "reward/mean": 0.5, "eval/a/avg@8": 0.6}\n'
    )
    assert curve_picture(tmp_path, tmp_path / "curve.png").exists()


def test_eval_rows_compare_first_and_last_in_order_of_k():
    lines = [
        {"step": 0, "eval/a/pass@16": 0.9, "eval/a/pass@2": 0.5, "eval/a/avg@8": 0.4},
        {"step": 5, "reward/mean": 0.3},
        {"step": 9, "eval/a/pass@16": 1.0, "eval/a/pass@2": 0.6, "eval/a/avg@8": 0.5},
    ]
    rows = eval_rows(lines)
    assert [row.measure for row in rows] == ["avg@8", "pass@2", "pass@16"]
    assert (rows[0].before.value, rows[0].after.value, rows[0].after.step) == (0.4, 0.5, 9)
    assert math.isnan(rows[0].before.low)
    assert eval_rows(lines[:1])[0].after is None


def test_time_no_stage_claims_is_shown_as_other():
    lines = [
        {"step": 0, "eval/a/avg@8": 0.4},
        {"step": 1, "time/rollout_s": 1.0, "time/update_s": 2.0, "time/step_s": 3.5},
        {"step": 2, "time/rollout_s": 1.0, "time/step_s": 1.0},
    ]
    steps, parts = time_split(lines)
    assert steps == [1, 2]
    assert parts == {"rollout": [1.0, 1.0], "update": [2.0, 0.0], "other": [0.5, 0.0]}
    assert time_means(lines)["update"] == (1.0, pytest.approx(2.0 / 4.5))
    assert time_means([]) == {}


def test_ledger_counts_add_up_over_steps():
    lines = [{"step": 1, "ledger/trained": 3.0}, {"step": 2, "ledger/trained": 4.0}]
    assert ledger_totals(lines) == {"trained": 7}


def test_samples_show_right_and_wrong_of_different_prompts():
    rows = [{"prompt_id": f"p{i // 2}", "correct": i % 4 == 0, "n": i} for i in range(12)]
    assert [row["n"] for row in pick_samples(rows)] == [0, 4, 1, 2]


def test_long_text_keeps_both_ends():
    assert shorten("a" * 10 + "b" * 10, limit=4) == "aa\n[… 16 characters left out …]\nbb"
    assert shorten("short", limit=5) == "short"


def test_smoothing_keeps_a_constant_and_bridges_nan():
    values = [1.0, 1.0, float("nan"), 1.0, 1.0]
    np.testing.assert_allclose(smooth(values, 3), np.ones(5))
    np.testing.assert_allclose(smooth([0.0, 3.0, 6.0], 3), [1.5, 3.0, 4.5])
