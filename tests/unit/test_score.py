"""``python -m archer.score``, end to end."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from archer.config.keys import RewardConfig
from archer.errors import ConfigError
from archer.rewards.pool.processes import VerifierProcesses
from archer.rewards.sandbox.host import Host
from archer.score import ScoreConfig, _results, load_score_config, parse_case, score
from archer.types import ScoreRequest

ROOT = Path(__file__).parents[2]
HARD_INTEGRAL = r"\boxed{\int_0^{\infty} e^{-x^{7}} \cos(x^3) \log(x)^4 dx}"


def run_score(folder, lines, *overrides, python_path=""):
    """(finished process, output records or None) of scoring the lines."""
    source, output = folder / "cases.jsonl", folder / "scores.jsonl"
    source.write_text("".join(line + "\n" for line in lines))
    command = [sys.executable, "-m", "archer.score", f"input={source}", f"output={output}"]
    process = subprocess.run(
        [*command, *overrides],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": python_path},
    )
    written = output.read_text().splitlines() if output.exists() else None
    return process, written and [json.loads(line) for line in written]


def case(response, ground_truth="5", **fields):
    return json.dumps({"response": response, "ground_truth": ground_truth, **fields})


def test_scores_come_in_order_with_ids_and_verifier_failures_are_told(tmp_path):
    lines = [
        case(HARD_INTEGRAL, r"\pi^2", id="slow"),
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
    for expected in (
        "line 2: not JSON",
        "line 4: response",
        "line 5: no ground_truth and no tests",
        "line 6: not a JSON object",
        "line 7: no ground_truth and no tests",
    ):
        assert expected in process.stderr
    last = process.stderr.splitlines()[-1]
    assert last == ("7 lines: 2 scored (2 correct, mean 1.00), 0 verifier failures, 5 malformed")


@pytest.mark.parametrize("truth", [True, {}, "", [], r"\frac{1}{", {"tests": []}, [["nested"]]])
def test_truths_that_nothing_can_be_judged_by_are_malformed_lines(tmp_path, truth):
    process, records = run_score(tmp_path, [case("x", truth), case(r"\boxed{5}", id="last")])
    assert process.returncode == 1
    assert [r["id"] for r in records] == ["last"]
    assert process.stderr.startswith("line 1: ")
    assert len(process.stderr.splitlines()[0]) < 400


def test_two_truths_in_one_line_are_malformed():
    both = {"response": "x", "ground_truth": "5", "tests": [{"input": "", "output": "5"}]}
    with pytest.raises(ValueError, match="beside tests"):
        parse_case(json.dumps(both).encode())
    with pytest.raises(ValueError, match="without tests"):
        parse_case(b'{"response": "x", "fn_name": "f"}')


@pytest.mark.parametrize(
    "overrides",
    [
        ["reward=format"],
        ["reward=length"],
        ["reward=random"],
        ["reward=json_schema", "+reward.args.schema={type: object}"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_rewards_that_need_no_truth_do_without(tmp_path, overrides):
    process, records = run_score(tmp_path, ['{"response": "{}"}'], *overrides)
    assert process.returncode == 0, process.stderr
    assert [r["status"] for r in records] in (["ok"], ["wrong_format"])
    assert "1 lines: 1 scored" in process.stderr


@pytest.mark.skipif(not Host.read().landlock_abi, reason="level B needs Landlock")
def test_code_is_run_in_the_sandbox(tmp_path):
    doubled = [{"input": "4\n", "output": "8\n"}, {"input": "3", "output": "6"}]
    reverse = {"tests": [{"input": "[1, 2]", "output": "[2, 1]"}], "fn_name": "f"}

    def program(text, tests=doubled, **fields):
        response = f"```python\n{text}\n```"
        return json.dumps({"response": response, "tests": tests, **fields})

    lines = [
        program("print(2 * int(input()))"),
        program("print(int(input()) ** 2 // 2)"),  # right on the first test only
        program("print(1 / 0)"),
        program("def f(values):\n    return values[::-1]", **reverse),
        json.dumps({"response": "I cannot do it.", "tests": doubled}),
        program("while True: pass"),
    ]
    process, records = run_score(tmp_path, lines, "reward=code", "reward.args.time_limit_s=0.5")
    assert process.returncode == 0, process.stderr
    assert [(r["score"], r["status"]) for r in records] == [
        (1.0, "ok"),
        (0.0, "ok"),
        (0.0, "runtime_error"),
        (1.0, "ok"),
        (0.0, "no_answer"),
        (0.0, "timeout"),
    ]


def test_the_exit_status_is_0_whatever_the_responses_hold(tmp_path):
    lines = [
        case("\ud800\udfff\x00\x1b[31m" * 100_000 + r"\boxed{5}"),
        case(r"\boxed{" * 100_000),
        case(r"\boxed{" + "(" * 50_000 + "}"),
        case("\ud800", "\ud800", id="\udfff"),
        case(r"\boxed{" + "9" * 10_000 + "}", "9" * 10_000),
        case(r"\boxed{5}", id="last"),
    ]
    process, records = run_score(tmp_path, lines)
    assert process.returncode == 0, process.stderr
    assert len(records) == len(lines)
    assert (records[0]["score"], records[-1]["score"]) == (1.0, 1.0)
    assert records[3]["id"] == "\udfff"


def test_files_larger_than_memory_are_streamed(tmp_path):
    """Through a pipe, so that they need no disk either: 250 MB, of which a part takes a process."""
    pipe, output = tmp_path / "cases", tmp_path / "scores.jsonl"
    os.mkfifo(pipe)
    count, filler = 250, "x" * (1 << 20)

    def write():
        with pipe.open("w") as stream:
            for i in range(count):
                answer = "x + 5 - x" if i % 10 == 0 else "5"
                stream.write(case(f"{filler} \\boxed{{{answer}}}") + "\n")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    command = [sys.executable, "-m", "archer.score", f"input={pipe}", f"output={output}"]
    script = (
        f"import resource, subprocess; subprocess.run({command!r}, check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    process = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    writer.join()
    assert sum(json.loads(line)["correct"] for line in output.open()) == count
    assert int(process.stdout) < 200_000  # kB, of the largest process


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


def link(path, target):
    path.symlink_to(target)


@pytest.mark.parametrize("make_link", [link, lambda path, target: os.link(target, path), None])
def test_the_input_is_never_the_output(tmp_path, make_link):
    source = tmp_path / "cases.jsonl"
    source.write_text(case("x") + "\n")
    output = source if make_link is None else tmp_path / "link"
    if make_link is not None:
        make_link(output, source)
    config = ScoreConfig(reward=RewardConfig(name="math"), input=str(source), output=str(output))
    with pytest.raises(ConfigError) as caught:
        score(config)
    assert caught.value.key == "output"
    assert source.read_text() == case("x") + "\n"


def test_a_linked_output_is_written_through(tmp_path):
    (tmp_path / "cases.jsonl").write_text(case(r"\boxed{5}") + "\n")
    (tmp_path / "scores.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    config = ScoreConfig(
        reward=RewardConfig(name="math"),
        input=str(tmp_path / "cases.jsonl"),
        output=str(tmp_path / "scores.jsonl"),
    )
    assert score(config) == 0
    assert json.loads((tmp_path / "elsewhere.jsonl").read_text())["score"] == 1.0


@pytest.mark.parametrize("output", ["no/such/folder/scores.jsonl", "", "/dev/null"])
def test_an_unwritable_output_is_named_as_the_user_wrote_it(tmp_path, output):
    (tmp_path / "cases.jsonl").write_text(case("x") + "\n")
    config = ScoreConfig(
        reward=RewardConfig(name="math"), input=str(tmp_path / "cases.jsonl"), output=output
    )
    with pytest.raises(ConfigError) as caught:
        score(config)
    assert (caught.value.key, caught.value.value) == ("output", output)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["reward=mth"], "Did you mean 'math'?"),
        (["reward.timeout=1"], "reward.timeout_s"),
        (["input=???"], "Set it: input=..."),
        (["output=no/such/folder/x"], "'no/such/folder/x'"),
    ],
)
def test_mistakes_on_the_command_line_end_with_status_2(tmp_path, overrides, expected):
    process, records = run_score(tmp_path, [case("x")], *overrides)
    assert (process.returncode, records) == (2, None)
    assert expected in process.stderr
    assert "Traceback" not in process.stderr


def test_help_shows_the_line_format_and_no_groups_of_training():
    command = [sys.executable, "-m", "archer.score", "--help"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "input=FILE" in process.stdout
    assert '"ground_truth"' in process.stdout
    assert "experiment" not in process.stdout


def test_details_tell_a_verifier_failure_and_what_was_found(tmp_path):
    process, [record] = run_score(tmp_path, [case(r"\boxed{6}")], "details=true")
    assert process.returncode == 0, process.stderr
    assert (record["status"], record["is_valid"]) == ("ok", True)
    assert (record["detail"], record["components"]) == ("6", {})

    options = ["reward.name=hostile_rewards.misbehave", "details=true", "reward.timeout_s=1.0"]
    lines = [case("0.5"), case("hang"), case("raise")]
    process, records = run_score(tmp_path, lines, *options, python_path=str(ROOT / "tests/unit"))
    assert [(r["status"], r["score"], r["is_valid"]) for r in records] == [
        ("ok", 0.5, True),
        ("timeout", 0.0, False),
        ("verifier_error", 0.0, False),
    ]


def test_a_function_that_always_fails_is_told_loudly_on_one_line(tmp_path):
    name = "reward.name=hostile_rewards.misbehave"
    process, _ = run_score(
        tmp_path, [case("raise"), case("raise")], name, python_path=str(ROOT / "tests/unit")
    )
    assert process.returncode == 0, process.stderr
    warning, last = process.stderr.splitlines()[-2:]
    assert warning.startswith("WARNING: the verifier failed on 2 of 2 responses")
    assert "reward.max_failure_frac=0.5" in warning
    assert "verifier_error, id 1" in warning
    assert last == (
        "2 lines: 0 scored (0 correct), 2 verifier failures (2 verifier_error), 0 malformed"
    )


def test_extra_fields_of_a_line_reach_the_reward(tmp_path):
    lines = [case("weight", extra={"weight": 0.25}), case("weight")]
    name = "reward.name=hostile_rewards.misbehave"
    process, records = run_score(tmp_path, lines, name, python_path=str(ROOT / "tests/unit"))
    assert process.returncode == 0, process.stderr
    assert [r["score"] for r in records] == [0.25, 0.0]


def test_a_slow_source_with_a_limit_holds_up_no_other():
    slow = [case(HARD_INTEGRAL, r"\pi^2", source="slow") for _ in range(40)]
    lines = [*slow, *(case(r"\boxed{x + 5 - x}", source="quick") for _ in range(5))]
    config = RewardConfig(name="math", timeout_s=0.5, num_workers=2, max_concurrency={"slow": 1})

    async def sources_as_judged():
        order, processes = [], VerifierProcesses(config)
        await processes.start()
        judge = processes.judge

        async def noted(request):
            result = await judge(request)
            order.append(request.source)
            return result

        processes.judge = noted
        requests = [
            (ScoreRequest(str(i), c.response, c.ground_truth, source=c.source), i, 0)
            for i, c in enumerate(parse_case(line.encode()) for line in lines)
        ]
        results = _results(processes, requests, config)
        try:
            async for _ in results:
                if order.count("quick") == 5:
                    return order
        finally:
            await results.aclose()
            await processes.close()
        return order

    order = asyncio.run(sources_as_judged())
    assert order.count("quick") == 5
    assert order.count("slow") < 20
