"""A short soak of the reward pool; ``benchmarks/soak_rewards.py`` is the long one."""

import asyncio

import pytest

from archer.config.keys import SandboxConfig
from archer.errors import ConfigError
from archer.rewards.sandbox.levels import open_executor
from archer.types import RewardResult
from benchmarks.soak_rewards import REWARD, Report, soak
from benchmarks.workload import workload


@pytest.fixture(autouse=True, scope="module")
def sandbox_is_available():
    try:
        open_executor(SandboxConfig()).close()
    except ConfigError as error:
        pytest.skip(str(error))


def test_mixed_and_hostile_responses_are_all_judged_rightly_and_in_time():
    report = asyncio.run(soak(workload(300)))
    assert report.problems(300) == []
    assert report.statuses["ok"] > 200
    assert report.statuses["timeout"] > 0  # the hostile were there
    assert len(report.resident_mb) == 6


def test_every_score_is_answered_once_while_processes_are_killed():
    report = asyncio.run(soak(workload(150, seed=1), kill_every_s=1.5))
    assert report.problems(150) == []
    assert report.kills.total() > 0
    # Two deaths on one response, and it is given up; killing is rarer than that.
    assert report.statuses["crashed (masked)"] + report.statuses["verifier_error (masked)"] < 5


def test_a_wrong_lost_or_late_answer_would_be_noticed():
    (task,) = workload(1, seed=2)
    assert not task.is_hostile

    report = Report()
    report.add(task, RewardResult(1.0, not task.is_right, "ok"), REWARD.timeout_s + 1.5)
    report.add(task, RewardResult(1.0, task.is_right, "ok"), 0.0)
    problems = report.problems(2)
    assert [problem.split()[0] for problem in problems] == ["1", "an", "1"]
