"""``python -m archer.compare`` on made-up runs."""

import json
import math
import shutil
import subprocess
import warnings

import numpy as np
import pytest
import yaml

from archer.compare import limits, main, markdown, numbers, verdict
from archer.comparison import charts
from archer.comparison.page import compare, run_budget, seed_curve, stage_seconds
from archer.comparison.runs import find_runs, group_runs, read_held_out
from archer.config.keys import LoggerConfig
from archer.errors import ConfigError
from archer.evaluation.statistics import avg_at_k, pass_at_k
from archer.metrics import MetricsLog, RolloutLog
from archer.runtime.environment import checkout_commit
from archer.types import Completion, Group, Prompt, RewardResult, Sample

PROBLEMS, SAMPLES, STEPS = 64, 8, 4
SKILL = {"archer": 0.9, "dapo": 0.89, "grpo": 0.6}


def make_run(
    folder, algo="grpo", seed=1, steps=STEPS, num_steps=STEPS, text="", keep=None, **changes
):
    """A run directory such as the trainer leaves, better at the task the more ``SKILL`` it has.

    Args:
        steps: how far it came, of ``num_steps``.
        text: stands before every held-out problem; another text is another set.
        keep: samples kept of an evaluation.
        changes: config values by dotted key with ``__`` for the dots; ``versions`` for packages.
    """
    versions = changes.pop("versions", {"torch": "2.13.0"})
    config = {
        "seed": seed,
        "algo": {"name": algo, "loss": {"eps": 0.2}},
        "model": {"name": "tiny"},
        "data": {"name": "arithmetic"},
        "run": {"root": str(folder), "name": f"{algo}-seed{seed}"},
        "trainer": {"num_steps": num_steps, "group_size": SAMPLES, "epochs": 1},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        section = config
        for name in parents:
            section = section.setdefault(name, {})
        section[last] = value
    run_dir = folder / f"{algo}-seed{seed}{''.join(map(str, changes.values()))}"
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    (run_dir / "environment.json").write_text(json.dumps({"versions": versions, "host": "a"}))
    log = MetricsLog(run_dir, LoggerConfig(wandb="off"), config, run_dir.name)
    rng = np.random.default_rng([seed, sum(map(ord, algo))])
    for step in range(steps + 1):
        metrics = _step_metrics(step) if step else {}
        if step % 2 == 0:
            metrics |= _evaluate(
                run_dir, step, SKILL[algo] * (step + 1) / (STEPS + 1), rng, text, keep
            )
        log.log(step, metrics)
    log.close()
    return run_dir


def _step_metrics(step):
    return {
        "reward/mean": 0.1 * step,
        "policy/entropy": 1.0 / step,
        "policy/optimizer_steps": 2.0,
        "rollout/prompts": 10.0,
        "rollout/response_tokens_mean": 20.0,
        "ledger/submitted": 90.0,
        "time/rollout_s": float(step),
        "time/update_s": 1.0,
        "time/eval_s": 5.0 if step % 2 == 0 else 0.0,
        "time/step_s": step + 1.0 + (5.0 if step % 2 == 0 else 0.0),
    }


def _evaluate(run_dir, step, skill, rng, text, keep):
    hardness = np.random.default_rng(0).uniform(0.5, 1.0, PROBLEMS)  # problems are the same in all
    correct = rng.random((PROBLEMS, SAMPLES)) < (skill * hardness)[:, None]
    groups = [_group(row, f"{text}{row}+1=?", verdicts) for row, verdicts in enumerate(correct)]
    RolloutLog(run_dir, keep).write(step, groups, name="eval_arithmetic")
    correct = correct.astype(float)
    scores = {f"eval/arithmetic/pass@{k}": pass_at_k(correct, k) for k in (1, 4)}
    return {"eval/arithmetic/avg@8": avg_at_k(correct), **scores}


def _group(row, text, verdicts):
    prompt = Prompt(f"arithmetic-{row}", np.array([5], np.int32), text, "2", "arithmetic")
    completion = Completion("0", np.arange(3), np.full(3, -0.2, np.float32), "stop", 1)
    samples = [
        Sample(prompt, i, completion, "2", RewardResult(float(right), bool(right), "ok"))
        for i, right in enumerate(verdicts)
    ]
    return Group(prompt, tuple(samples))


@pytest.fixture
def runs(tmp_path):
    for algo in SKILL:
        for seed in (1, 2, 3):
            make_run(tmp_path / "runs", algo, seed)
    return tmp_path / "runs"


def warnings_of(*folders):
    return "\n".join(compare(folders).warnings)


def test_a_difference_that_is_there_is_resolved_and_one_that_is_not_is_not(runs):
    comparison = compare([runs])
    assert [a.label for a in comparison.algorithms] == ["archer", "dapo", "grpo"]
    assert comparison.warnings == ()
    found = {
        frozenset((d.first, d.second)): d for d in comparison.differences if d.measure == "avg@8"
    }
    clear, close = found[frozenset(("archer", "grpo"))], found[frozenset(("archer", "dapo"))]
    assert clear.first == "archer" and clear.is_resolved and clear.estimate.low > 0.1
    assert verdict(clear).startswith(f"archer > grpo by {clear.estimate.value:.3f} [")
    assert not close.is_resolved and "not resolved at this budget" in verdict(close)


def test_the_numbers_are_those_of_the_logged_evaluations(runs):
    comparison = compare([runs])
    for result in comparison.results:
        algorithm = next(a for a in comparison.algorithms if a.label == result.algorithm)
        logged = [run.lines[-1][f"eval/arithmetic/{result.measure}"] for run in algorithm.runs]
        assert result.estimate.value == pytest.approx(np.mean(logged))
    assert {result.measure for result in comparison.results} == {"avg@8", "pass@4"}
    assert comparison.held_out[0].step == STEPS


def test_a_pair_that_only_chance_sets_apart_needs_to_pass_holm(runs):
    comparison = compare([runs])
    for measure in ("avg@8", "pass@4"):
        of_measure = [d for d in comparison.differences if d.measure == measure]
        smallest = min(of_measure, key=lambda d: d.estimate.p_value)
        assert len(of_measure) == 3
        assert smallest.holm_p == pytest.approx(min(3 * smallest.estimate.p_value, 1.0))


def test_the_page_needs_no_network_and_says_what_it_found(runs, tmp_path, capsys):
    out, numbers_file, picture = (tmp_path / name for name in ("a.html", "a.json", "a.png"))
    main([str(runs), "--out", str(out), "--json", str(numbers_file), "--picture", str(picture)])
    page = out.read_text()
    assert "src=" not in page and "@import" not in page and "<link" not in page
    assert "<script" not in page
    for expected in (
        "archer &gt; grpo by",
        "not resolved at this budget",
        "algo.name",
        "seeds 1, 2, 3",
        "Held-out arithmetic avg@8",
        "Entropy",
        "samples generated",
    ):
        assert expected in page
    assert "nan" not in page.partition("<svg")[0]
    assert picture.read_bytes().startswith(b"\x89PNG")
    shown = " ".join(capsys.readouterr().out.split())  # without the padding of the table
    assert "| seeds | 3 | 3 | 3 |" in shown and "| avg@8 | 0." in shown and str(out) in shown
    saved = json.loads(numbers_file.read_text())
    assert len(saved["differences"]) == 6 and saved["budgets"]["grpo"]["steps"] == STEPS


def test_variants_of_one_algorithm_are_named_by_what_sets_them_apart(tmp_path):
    for seed in (1, 2):
        make_run(tmp_path, "grpo", seed)
        make_run(tmp_path, "grpo", seed, algo__loss__eps=0.3)
    make_run(tmp_path, "dapo", 1, run__resume="never", cluster__max_num_seqs=8)
    groups = group_runs(find_runs([tmp_path]))
    assert [(a.label, a.seeds) for a in groups] == [
        ("dapo", [1]),
        ("grpo eps=0.2", [1, 2]),
        ("grpo eps=0.3", [1, 2]),
    ]


def test_runs_that_were_given_a_name_keep_it(tmp_path):
    for seed in (1, 2):
        make_run(tmp_path, "grpo", seed)
        make_run(tmp_path, "grpo", seed, algo__loss__eps=0.3, run__name=f"wide-seed{seed}")
    groups = group_runs(find_runs([tmp_path]))
    assert [(a.label, a.seeds) for a in groups] == [("grpo", [1, 2]), ("wide", [1, 2])]


def test_one_run_gives_a_table_without_pairs(tmp_path):
    run_dir = make_run(tmp_path)
    comparison = compare([run_dir])
    assert comparison.differences == () and len(comparison.results) == 2
    assert "| avg@8 | 0." in " ".join(markdown(comparison).split())
    main([str(run_dir), "--out", str(tmp_path / "one.html")])
    assert "Final scores on arithmetic" in (tmp_path / "one.html").read_text()


def test_with_one_seed_each_the_page_says_that_training_luck_is_not_in_the_interval(tmp_path):
    make_run(tmp_path, "archer")
    make_run(tmp_path, "grpo")
    comparison = compare([tmp_path])
    assert "One seed only of archer, grpo" in "\n".join(comparison.warnings)
    assert "luck of training is not in this interval" in limits(comparison.differences[0])


def test_runs_are_compared_where_all_were_evaluated_and_that_is_said(tmp_path):
    make_run(tmp_path, "archer")
    make_run(tmp_path, "grpo", steps=3)
    comparison = compare([tmp_path])
    assert comparison.held_out[0].step == 2
    text = "\n".join(comparison.warnings)
    assert "grpo-seed1 is not finished: step 3 of 4" in text
    assert "compared at step 2" in text and "archer-seed1 at 4" in text


def test_differences_beyond_the_algorithm_are_pointed_out(tmp_path):
    make_run(tmp_path, "archer", 1)
    make_run(tmp_path, "archer", 2)
    make_run(
        tmp_path, "grpo", 1, num_steps=9, model__name="big", trainer__epochs=4,
        eval__temperature=0.7, versions={"torch": "2.12.0"},
    )  # fmt: skip
    text = warnings_of(tmp_path)
    for expected in (
        "different lengths: [4, 9]",
        "seeds are not the same: archer: [1, 2]; grpo: [1]",
        "Not the same model: model.name tiny or big",
        "Not the same trainer: trainer.epochs 1 or 4",
        "Not the same eval: eval.temperature (absent) or 0.7",
        "Not the same versions: torch 2.13.0 or 2.12.0",
    ):
        assert expected in text


def test_other_problems_under_the_same_ids_are_not_paired(tmp_path):
    make_run(tmp_path, "archer")
    make_run(tmp_path, "grpo", text="other ")
    comparison = compare([tmp_path])
    assert comparison.differences == ()
    assert "share 0 of 128 problems" in "\n".join(comparison.warnings)


def test_an_evaluation_that_was_not_kept_whole_is_refused(tmp_path):
    make_run(tmp_path, "archer")
    make_run(tmp_path, "grpo", keep=100)
    comparison = compare([tmp_path])
    assert comparison.held_out == () and comparison.results == ()
    main([str(tmp_path), "--out", str(tmp_path / "a.html"), "--picture", str(tmp_path / "a.png")])
    assert "Training reward" in (tmp_path / "a.html").read_text()
    assert "not every verdict of step 4 was kept by grpo-seed1" in "\n".join(comparison.warnings)


@pytest.mark.parametrize(("num_failed", "num_dropped"), [(7, 0), (8, 1)])
def test_a_failed_verifier_drops_the_problem_it_leaves_without_a_verdict(
    tmp_path, num_failed, num_dropped
):
    make_run(tmp_path, "archer")
    held_out = read_held_out(find_runs([tmp_path]), [])[0]
    verdicts = next(iter(held_out.verdicts.values()))
    avg, pass_at_4 = held_out.measures
    row = next(iter(verdicts.values()))
    row[:num_failed] = math.nan
    for measure in (avg, pass_at_4):
        scores = measure.scores(np.array([list(verdicts.values())]))
        assert np.isnan(scores).sum() == num_dropped


def test_budgets_add_up_and_unequal_ones_are_pointed_out(tmp_path):
    budget = run_budget(find_runs([make_run(tmp_path, "archer")])[0])
    assert (budget.steps, budget.optimizer_steps, budget.prompts) == (4, 8, 40)
    assert (budget.samples, budget.tokens) == (360, 40 * 20 * SAMPLES)
    assert budget.seconds == 2 + 3 + 4 + 5  # without the evaluations
    make_run(tmp_path, "grpo", steps=2)
    assert "Not equal samples: archer was given 360, 2.0 times the 180 of grpo" in warnings_of(
        tmp_path
    )


def test_stages_are_medians_over_the_steps_that_have_them(tmp_path):
    make_run(tmp_path, "archer")
    stages = stage_seconds(group_runs(find_runs([tmp_path]))[0])
    assert stages == {"rollout": 2.5, "update": 1.0, "eval": 5.0}


def test_a_curve_ends_where_the_first_seed_ends(tmp_path):
    make_run(tmp_path, "grpo", 1)
    make_run(tmp_path, "grpo", 2, steps=3)
    series = seed_curve(group_runs(find_runs([tmp_path]))[0], "reward/mean")
    assert series.x == [1, 2, 3]
    np.testing.assert_allclose(series.y, [0.1, 0.2, 0.3])
    assert series.low is not None


def test_what_is_no_run_is_refused_in_one_message(tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"expected a run directory \(config\.yaml and metrics"):
        compare([tmp_path / "nowhere"])
    empty = make_run(tmp_path)
    (empty / "metrics.jsonl").write_text('{"step": 0, "eva')  # torn in its first line
    with pytest.raises(ConfigError, match="a run that has logged a step"):
        compare([empty])
    with pytest.raises(SystemExit) as stopped:
        main([str(empty)])
    assert stopped.value.code == 2 and "archer: RUN is not usable" in capsys.readouterr().err


def test_a_run_without_a_step_is_left_out_and_a_torn_line_is_not_read(tmp_path):
    whole, empty = make_run(tmp_path, "archer"), make_run(tmp_path, "grpo")
    (empty / "metrics.jsonl").write_text("")
    with (whole / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "rew')
    comparison = compare([tmp_path, whole])  # named twice, read once
    assert [(a.label, len(a.runs)) for a in comparison.algorithms] == [("archer", 1)]
    assert "grpo-seed1 has not logged a step" in "\n".join(comparison.warnings)


def test_the_json_has_no_nan(runs):
    json.dumps(numbers(compare([runs])), allow_nan=False)


def test_the_first_word_objectives_goes_to_the_other_command(monkeypatch):
    import archer.objective_checks.compare_objectives

    seen = []
    monkeypatch.setattr(archer.objective_checks.compare_objectives, "main", seen.append)
    main(["objectives", "algo=grpo"])
    assert seen == [["algo=grpo"]]


@pytest.mark.parametrize(
    ("name", "seeds", "label"),
    [
        ("clip0.2", [2], "clip0.2"),
        ("v2", [2], "v2"),
        ("lr1e-1", [1], "lr1e-1"),
        ("grpo-seed11", [1], "grpo-seed11"),
        ("wide-seed{}", [1], "wide"),
        ("wide_{}", [1, 2], "wide"),
        ("lr1e-1", [1, 2], "lr1e-1"),
    ],
)
def test_only_a_seed_is_taken_off_a_name(tmp_path, name, seeds, label):
    for seed in seeds:
        make_run(tmp_path, "grpo", seed, run__name=name.format(seed))
    assert [a.label for a in group_runs(find_runs([tmp_path]))] == [label]


def test_no_two_algorithms_have_one_label(tmp_path):
    make_run(tmp_path, "dapo", run__name="grpo")
    make_run(tmp_path, "grpo", run__name="")
    make_run(tmp_path, "archer", algo__x=1, run__name="")
    make_run(tmp_path, "archer", 2, algo__x="1", run__name="")
    for package in ("mine", "yours"):
        make_run(tmp_path, "grpo", algo__name=f"{package}.losses.LOSS", run__name="")
    assert [a.label for a in group_runs(find_runs([tmp_path]))] == [
        "archer x=1 (1)",
        "archer x=1 (2)",
        "dapo",
        "grpo",
        "losses.LOSS name=mine.losses.LOSS",
        "losses.LOSS name=yours.losses.LOSS",
    ]


@pytest.mark.parametrize("file", ["config.yaml", "environment.json", "rollouts/eval_arithmetic"])
def test_a_torn_file_is_named(tmp_path, file):
    run_dir = make_run(tmp_path)
    for torn in run_dir.glob(f"{file}*"):
        torn.write_bytes(torn.read_bytes()[:-20] if torn.suffix == ".gz" else b"{a: [")
    with pytest.raises(ConfigError, match=file):
        compare([run_dir])


def test_a_config_without_a_seed_is_refused_by_name(tmp_path):
    file = make_run(tmp_path) / "config.yaml"
    config = yaml.safe_load(file.read_text())
    del config["seed"]
    file.write_text(yaml.safe_dump(config))
    with pytest.raises(ConfigError, match=r"config\.yaml.*no seed"):
        compare([tmp_path])


def test_a_page_in_no_folder_is_refused_before_the_runs_are_read(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "nowhere"), "--out", str(tmp_path / "none/x.html")])
    assert "archer: --out is not usable" in capsys.readouterr().err


def test_the_colour_of_an_interval_is_that_of_its_verdict():
    colour = "var(--c0)"
    resolved, not_resolved = (
        charts.interval_chart({"a": charts.Interval(0.2, 0.1, 0.3, is_resolved)})
        for is_resolved in (True, False)
    )
    assert colour in resolved and colour not in not_resolved


def test_long_labels_leave_room_for_the_charts(tmp_path):
    for algo in SKILL:
        make_run(tmp_path, algo, run__name=f"{algo} {'x' * 60}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        names = ("--out", "a.html"), ("--picture", "a.png")
        main([str(tmp_path), *(w for o, name in names for w in (o, str(tmp_path / name)))])


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_commit_of_a_checkout_is_known_and_whether_it_was_changed(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert checkout_commit(tmp_path) == ""
    git("init")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert checkout_commit(tmp_path) == commit
    (tmp_path / "file").write_text("b")
    assert checkout_commit(tmp_path) == f"{commit}-dirty"


def test_runs_of_different_commits_are_pointed_out(tmp_path):
    for algo in ("dapo", "grpo"):
        run_dir = make_run(tmp_path, algo)
        (run_dir / "environment.json").write_text(json.dumps({"commit": f"of-{algo}"}))
    assert "Not the same commit of archer: of-dapo or of-grpo" in warnings_of(tmp_path)
