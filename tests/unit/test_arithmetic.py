import json
from itertools import islice
from random import Random

import pytest

from archer.tasks import TASKS, Problem
from archer.tasks.arithmetic import ARITHMETIC, draw, noisy_trace, write_columns


def boxed(trace: str) -> str:
    return trace.rpartition("\\boxed{")[2].removesuffix("}")


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_columns_of_a_hand_worked_sum():
    # 8+7 = 15, write 5 carry 1; 5+6+1 = 12, write 2 carry 1; the last carry leads the sum.
    trace = write_columns(Problem("58+67=?\n", "125", 2), Random(0))
    assert trace == "8+7=15\n5+6+1=12\n\\boxed{125}"


def test_forgotten_carry_shows_in_the_sum():
    trace = write_columns(Problem("58+67=?\n", "125", 2), Random(0), forget=1.0)
    assert trace == "8+7=15\n5+6=11\n\\boxed{115}"


def test_phantom_carry_shows_in_the_sum():
    trace = write_columns(Problem("21+34=?\n", "55", 2), Random(0), phantom=1.0)
    assert trace == "1+4+1=6\n2+3+1=6\n\\boxed{66}"


def test_slip_carries_on_into_the_next_column():
    # 5+4 = 9; one too many is 10, and its carry is then believed: 1+2+1 = 4, again off by one.
    problem = Problem("15+24=?\n", "39", 2)
    traces = {write_columns(problem, Random(seed), slip=1.0) for seed in range(50)}
    assert traces == {
        "5+4=8\n1+2=2\n\\boxed{28}",
        "5+4=8\n1+2=4\n\\boxed{48}",
        "5+4=10\n1+2+1=3\n\\boxed{30}",
        "5+4=10\n1+2+1=5\n\\boxed{50}",
    }


def test_noise_free_trace_is_always_right():
    rng = Random(1)
    for problem in (draw(rng) for _ in range(500)):
        assert boxed(write_columns(problem, rng)) == problem.answer


def test_answer_is_the_sum_and_level_the_number_of_digits():
    rng = Random(2)
    problems = [draw(rng) for _ in range(300)]
    for problem in problems:
        a, b = problem.prompt.removesuffix("=?\n").split("+")
        assert problem.answer == str(int(a) + int(b))
        assert len(a) == len(b) == problem.level
    assert {p.level for p in problems} == {2, 3, 4}


def test_noisy_teacher_is_right_in_two_of_five_cases():
    rng = Random(3)
    right = [boxed(noisy_trace(p, rng)) == p.answer for p in (draw(rng) for _ in range(2000))]
    assert 0.38 < sum(right) / len(right) < 0.48  # 0.43, four standard errors of 0.011 either way


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_prompts_and_traces_keep_to_alphabet_and_length(task):
    rng = Random(4)
    for problem in islice(task.problems(rng), 500):
        trace = task.trace(problem, rng)
        assert set(problem.prompt + trace) <= set(task.alphabet)
        assert len(trace) + 1 <= task.max_response_tokens


def test_no_problem_occurs_twice_or_in_both_files(tmp_path):
    ARITHMETIC.write_dataset(tmp_path / "data", train_size=2000, eval_size=500, seed=0)
    train, held_out = (
        [row["problem"] for row in read(tmp_path / "data" / f"{split}.jsonl")]
        for split in ("train", "eval")
    )
    assert len(train) == 2000
    assert len(held_out) == 500
    assert len({*train, *held_out}) == 2500


def test_held_out_problems_stay_held_out_under_every_seed(tmp_path):
    held_out = ARITHMETIC.write_dataset(tmp_path / "a", train_size=1, eval_size=500, seed=0)
    other = ARITHMETIC.write_dataset(tmp_path / "b", train_size=5000, eval_size=1, seed=1)
    held_out_problems = {row["problem"] for row in read(held_out / "eval.jsonl")}
    assert held_out_problems.isdisjoint(row["problem"] for row in read(other / "train.jsonl"))


def test_more_problems_than_the_smallest_level_has(tmp_path):
    # 8100 two-digit problems exist; the rest then comes from the larger levels.
    folder = ARITHMETIC.write_dataset(tmp_path / "data", train_size=30_000, eval_size=1, seed=0)
    assert len({row["problem"] for row in read(folder / "train.jsonl")}) == 30_000


def test_rows_have_the_documented_fields(tmp_path):
    folder = ARITHMETIC.write_dataset(tmp_path / "data", train_size=3, eval_size=1, seed=0)
    rows = read(folder / "train.jsonl")
    assert [row["id"] for row in rows] == ["0", "1", "2"]
    assert all(row.keys() == {"id", "problem", "answer", "level"} for row in rows)
    assert all(row["problem"].endswith("=?\n") for row in rows)


def test_same_arguments_same_bytes_and_another_seed_other_problems(tmp_path):
    first, again, other = (
        ARITHMETIC.write_dataset(tmp_path / name, 50, 20, seed)
        for name, seed in (("first", 0), ("again", 0), ("other", 1))
    )
    for file in ("train.jsonl", "eval.jsonl"):
        assert (first / file).read_bytes() == (again / file).read_bytes()
        assert (first / file).read_bytes() != (other / file).read_bytes()


def test_cache_name_changes_with_its_parts():
    assert ARITHMETIC.cache_name(1, "x") == ARITHMETIC.cache_name(1, "x")
    assert ARITHMETIC.cache_name(1, "x") != ARITHMETIC.cache_name(2, "x")
