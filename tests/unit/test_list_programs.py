"""The embedded code task: what it asks for, what its teacher writes, and the run it selects."""

import json
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest
from hydra import compose, initialize_config_dir

import archer.evaluate  # noqa: F401 - stores the defaults that conf/evaluate.yaml begins with
from archer.config.keys import load_config
from archer.data.rows import read_rows
from archer.errors import ConfigError
from archer.evaluation.config import load_evaluate_config
from archer.tasks import Problem
from archer.tasks.list_programs import (
    LIST_PROGRAMS,
    OPERATIONS,
    draw,
    hidden_tests,
    noisy_trace,
    read_steps,
    run,
    write_function,
)
from archer.tasks.task import Task

CONF = Path(__file__).parents[2] / "conf"
VALUES = [4, -7, 0, 9, 2, -1, 5]


def compose_config(name, *overrides):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(name, ["data=list_programs", *overrides])


def problem_of(prompt):
    return Problem(prompt, hidden_tests(prompt), 0)


def returned(trace, values):
    """What the teacher's function, which we wrote ourselves, returns; None where it raises."""
    namespace = {}
    exec(trace.removeprefix("```\n").removesuffix("\n```"), namespace)
    try:
        return namespace["f"](list(values))
    except TypeError:
        return None


def is_right(trace, problem):
    tests = [(json.loads(t["input"]), json.loads(t["output"])) for t in problem.answer["tests"]]
    return all(returned(trace, given) == expected for given, expected in tests)


def test_a_program_of_three_steps_worked_by_hand():
    # Sorted: -7 -1 0 2 4 5 9; its first three, doubled.
    assert run("f: sort, take 3, mul 2\n", VALUES) == [-14, -2, 0]
    # Reversed: 5 -1 2 9 0 -7 4; without its first two; each five larger.
    assert run("f: rev, drop 2, add 5\n", VALUES) == [7, 14, 5, -2, 9]


def test_the_function_does_the_steps_in_their_order():
    trace = write_function(problem_of("f: sort, take 3, mul 2\n"), Random(0))
    assert trace == ("```\ndef f(x):\n x=sorted(x)\n x=x[:3]\n x=[v*2 for v in x]\n return x\n```")


def test_reversing_has_two_spellings():
    problem = problem_of("f: rev, add 2\n")
    lines = {write_function(problem, Random(seed)).splitlines()[2] for seed in range(20)}
    assert lines == {" x=x[::-1]", " x=list(reversed(x))"}


def test_teacher_without_bugs_is_always_right():
    rng = Random(1)
    for problem in (draw(rng) for _ in range(300)):
        assert is_right(write_function(problem, rng), problem)


@pytest.mark.parametrize(
    ("name", "bug"), [(name, bug) for name, op in OPERATIONS.items() for bug in op.wrong]
)
def test_every_bug_changes_what_its_line_returns(name, bug):
    n = max(OPERATIONS[name].numbers, default=0)
    trace = f"```\ndef f(x):\n {bug.format(n=n, m=n - 1)}\n return x\n```"
    assert returned(trace, VALUES) != OPERATIONS[name].apply(VALUES, n)


def test_noisy_teacher_is_right_in_a_third_of_all_cases():
    rng = Random(3)
    right = [is_right(noisy_trace(p, rng), p) for p in (draw(rng) for _ in range(2000))]
    assert 0.27 < sum(right) / len(right) < 0.36  # 0.31, four standard errors of 0.01 either way


def test_steps_are_two_or_three_and_none_follows_itself():
    rng = Random(2)
    for problem in (draw(rng) for _ in range(500)):
        names = [name for name, _ in read_steps(problem.prompt)]
        assert len(names) == problem.level in (2, 3)
        assert all(a != b for a, b in pairwise(names))


def test_hidden_tests_belong_to_the_prompt_wherever_it_occurs():
    tests = hidden_tests("f: rev, add 2\n")["tests"]
    assert tests == hidden_tests("f: rev, add 2\n")["tests"]
    assert [t["input"] for t in tests] != [
        t["input"] for t in hidden_tests("f: rev, add 3\n")["tests"]
    ]
    for test in tests:
        values = json.loads(test["input"])
        assert 6 <= len(values) <= 8
        assert json.loads(test["output"]) == [v + 2 for v in reversed(values)]


def test_a_row_keeps_its_tests_on_the_way_to_the_verifier(tmp_path):
    folder = LIST_PROGRAMS.write_dataset(tmp_path / "data", train_size=3, eval_size=1, seed=0)
    for row in read_rows(folder / "train.jsonl", "data.train"):
        assert row.ground_truth == hidden_tests(row.prompt)


def test_more_problems_than_there_are_are_refused(tmp_path):
    coin = Task("coin", "ht", 1, lambda rng: Problem(f"{rng.randrange(40)}", "h", 1), noisy_trace)
    num_held_out = sum(Problem(str(i), "h", 1).is_held_out for i in range(40))
    coin.write_dataset(tmp_path / "all", 40 - num_held_out, num_held_out, seed=0)
    with pytest.raises(ConfigError, match=rf"data\.eval_size=9: .*{num_held_out} problems of coin"):
        coin.write_dataset(tmp_path / "more", 1, 9, seed=0)


def test_data_alone_selects_reward_start_model_and_limits():
    for config in (
        load_config(compose_config("config")),
        load_evaluate_config(compose_config("evaluate")),
    ):
        assert config.reward.name == "code"
        assert config.model.warm_start.task == config.data.task == "list_programs"
        assert config.sampling.max_response_tokens == LIST_PROGRAMS.max_response_tokens


def test_what_the_user_chooses_stays_chosen():
    chosen = ("reward=format", "sampling.max_response_tokens=100", "model.warm_start.steps=7")
    config = load_config(compose_config("config", *chosen))
    assert config.reward.name == "format"
    assert config.sampling.max_response_tokens == 100
    assert config.model.warm_start.steps == 7
