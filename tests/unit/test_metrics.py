"""metrics.jsonl, rollouts/, the wandb sink and the step timer."""

import json
import math
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from archer.config.keys import LoggerConfig
from archer.errors import ConfigError
from archer.metrics import (
    MetricsLog,
    RolloutLog,
    StepTimer,
    merge_sums,
    read_metrics,
    read_rollouts,
    wandb_mode,
    write_atomically,
)
from archer.types import Completion, Group, Prompt, RewardResult, Sample

OFF = LoggerConfig(wandb="off")
NAN = float("nan")


def open_log(run_dir, logger=OFF):
    return MetricsLog(run_dir, logger, {"seed": 0}, "a run")


def group(prompt_id, rewards):
    prompt = Prompt(prompt_id, np.array([5, 6], np.int32), "1+1=?", "2", "arithmetic")
    samples = []
    for index, reward in enumerate(rewards):
        completion = Completion(
            f"{prompt_id}/{index}",
            np.array([7, 2], np.int32),
            np.array([-0.5, -0.1], np.float32),
            "stop",
            weight_version=3,
        )
        result = RewardResult(reward, reward > 0, "timeout" if math.isnan(reward) else "ok")
        samples.append(Sample(prompt, index, completion, "<b>2", result))
    return Group(prompt, tuple(samples))


def test_lines_are_on_disk_at_once_and_nan_is_null(tmp_path):
    log = open_log(tmp_path / "new")
    log.log(1, {"reward/mean": np.float32(0.5), "policy/kl": NAN, "policy/loss": math.inf})
    line = (tmp_path / "new" / "metrics.jsonl").read_text()
    assert json.loads(line) == {
        "step": 1,
        "reward/mean": 0.5,
        "policy/kl": None,
        "policy/loss": None,
    }
    assert math.isnan(read_metrics(tmp_path / "new")[0]["policy/kl"])


def test_a_torn_last_line_is_skipped_by_readers_and_dropped_on_reopening(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "reward/mean": 0.1}\n{"step": 2, "rewa')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    log = open_log(tmp_path)
    log.log(2, {"reward/mean": 0.2})
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


def test_a_damaged_line_in_the_middle_is_an_error_that_names_it(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\ngarbage\n{"step": 3}\n')
    with pytest.raises(ConfigError, match=r"metrics\.jsonl:2='garbage'"):
        read_metrics(tmp_path)


def test_rewind_forgets_later_steps_and_keeps_nulls(tmp_path):
    log = open_log(tmp_path)
    for step in (1, 2, 3):
        log.log(step, {"policy/kl": NAN})
    log.rewind(2)
    log.log(3, {"policy/kl": 0.5})
    log.close()
    lines = read_metrics(tmp_path)
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert math.isnan(lines[1]["policy/kl"]) and lines[2]["policy/kl"] == 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_run_without_metrics_reads_as_empty(tmp_path):
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize(
    ("setting", "has_key", "mode"),
    [
        ("auto", True, "online"),
        ("auto", False, None),
        ("online", True, "online"),
        ("online", False, "offline"),
        ("offline", False, "offline"),
        ("off", True, None),
    ],
)
def test_wandb_mode(setting, has_key, mode, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert wandb_mode(setting, has_key) == mode


def test_auto_obeys_wandbs_own_switch(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode("auto", has_key=True) == "disabled"


def test_auto_does_not_import_wandb_without_a_key(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would raise
    open_log(tmp_path / "run", LoggerConfig(wandb="auto")).close()
    assert not (tmp_path / "run" / "wandb_id").exists()


def test_missing_wandb_is_said_once_and_costs_no_metrics(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    log = open_log(tmp_path, LoggerConfig(wandb="offline"))
    log.log(1, {"reward/mean": 0.5})
    log.close()
    assert capsys.readouterr().err.count("wandb is off for this run") == 1
    assert read_metrics(tmp_path)[0]["reward/mean"] == 0.5


class FakeWandb(SimpleNamespace):
    """Records what reaches wandb; ``log`` fails from the given step on."""

    def __init__(self, fail_from=math.inf):
        super().__init__(inits=[], logged=[], fail_from=fail_from)

    def Settings(self, **settings):
        return settings

    def init(self, **arguments):
        self.inits.append(arguments)
        return self

    def define_metric(self, *_, **__): ...

    def finish(self): ...

    def log(self, values):
        if values["step"] >= self.fail_from:
            raise ConnectionError("no route to host")
        self.logged.append(values)


def test_a_resumed_run_continues_the_same_wandb_run(tmp_path, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for step in (1, 2):
        log = open_log(tmp_path, LoggerConfig(wandb="offline", project="p"))
        log.log(step, {"reward/mean": 0.5})
        log.close()
    first, second = wandb.inits
    assert first["id"] == second["id"] and first["mode"] == "offline" and first["project"] == "p"
    assert [values["step"] for values in wandb.logged] == [1, 2]


def test_wandb_dying_in_the_middle_is_said_once_and_costs_no_metrics(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(fail_from=2))
    log = open_log(tmp_path, LoggerConfig(wandb="offline"))
    for step in (1, 2, 3):
        log.log(step, {})
    log.close()
    assert capsys.readouterr().err.count("no route to host") == 1
    assert len(read_metrics(tmp_path)) == 3


def test_rollouts_round_trip(tmp_path):
    path = RolloutLog(tmp_path, keep=None).write(12, [group("0-1", [1.0, NAN])])
    assert path == tmp_path / "rollouts" / "step_000012.jsonl.gz"
    right, failed = read_rollouts(path)
    assert right == {
        "prompt_id": "0-1",
        "index": 0,
        "prompt": "1+1=?",
        "ground_truth": "2",
        "response": "<b>2",
        "reward": 1.0,
        "correct": True,
        "status": "ok",
        "answer": None,
        "finish_reason": "stop",
        "num_tokens": 2,
        "mean_logprob": pytest.approx(-0.3),
        "weight_version": 3,
    }
    assert failed["reward"] is None and failed["status"] == "timeout"


def test_kept_rollouts_are_spread_over_the_groups(tmp_path):
    groups = [group(f"0-{i}", [0.0] * 4) for i in range(4)]
    path = RolloutLog(tmp_path, keep=4).write(1, groups, name="eval_x")
    assert path.name == "eval_x_000001.jsonl.gz"
    assert [row["prompt_id"] for row in read_rollouts(path)] == ["0-0", "0-1", "0-2", "0-3"]
    assert RolloutLog(tmp_path, keep=0).write(2, groups) is None


def test_the_same_rollouts_give_the_same_bytes(tmp_path):
    log = RolloutLog(tmp_path, keep=None)
    first = log.write(1, [group("0-1", [1.0])]).read_bytes()
    assert log.write(1, [group("0-1", [1.0])]).read_bytes() == first


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "text, not bytes")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_timer_adds_repeated_stages_and_knows_the_whole_step():
    clock = iter([0.0, 1.0, 3.0, 4.0, 5.0, 10.0]).__next__
    timer = StepTimer(clock)
    for _ in range(2):
        with timer("rollout"):
            pass
    assert timer.metrics() == {"time/rollout_s": 3.0, "time/step_s": 10.0}


def test_sums_are_divided_once():
    short, long = {"policy/kl": (1.0, 1.0)}, {"policy/kl": (0.0, 3.0), "policy/other": (0.0, 0.0)}
    merged = merge_sums([short, long])
    assert merged["policy/kl"] == 0.25  # a mean of means would say 0.5
    assert math.isnan(merged["policy/other"])
