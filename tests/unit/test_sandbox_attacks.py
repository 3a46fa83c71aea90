"""Hostile programs, run at each level of isolation that this machine offers, with real targets."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from attacks import Attack, Targets, control_python, forged_answers, load_attacks
from other_user import as_nobody, why_not

from archer.config.keys import RewardConfig, SandboxConfig
from archer.errors import ConfigError
from archer.rewards.pool.processes import VerifierProcesses
from archer.rewards.sandbox import Execution, Executor, Limits
from archer.rewards.sandbox.levels import open_executor
from archer.types import RewardResult, ScoreRequest

MEMORY_MB, OUTPUT_BYTES = 512, 1 << 20
LIMITS = Limits(time_s=5.0, wall_s=10.0, memory_mb=MEMORY_MB, output_bytes=OUTPUT_BYTES)
SHORT_LIMITS = Limits(time_s=0.5, wall_s=1.0, memory_mb=MEMORY_MB, output_bytes=OUTPUT_BYTES)
"""For programs that must be ended by them."""
ATTACKS = load_attacks()
CONTROL_UID = 64_001
IS_ROOT = os.geteuid() == 0
HERE = Path(__file__)


def named(attacks: list[Attack]) -> list[pytest.param]:
    return [pytest.param(attack, id=attack.name) for attack in attacks]


@pytest.fixture(scope="module", params=["A", "B"])
def level(request) -> str:
    try:
        open_executor(SandboxConfig(level=request.param)).close()
    except ConfigError as error:
        pytest.skip(f"level {request.param} is not available here: {error}")
    return request.param


@pytest.fixture(scope="module")
def targets() -> Iterator[Targets]:
    with Targets(MEMORY_MB) as targets:
        yield targets


@pytest.fixture(scope="module")
def sandbox(level, targets) -> Iterator[Executor]:
    executor = open_executor(SandboxConfig(level=level))
    yield executor
    executor.close()


@pytest.fixture(scope="module")
def idle_processes(sandbox) -> int:
    """How many processes a sandbox is that runs nothing."""
    sandbox.run(Execution("print(1)"))
    return num_descendants()


def num_descendants() -> int:
    """Without the dead that this process inherited and nobody has waited for."""
    family = psutil.Process().children(recursive=True)
    return len([child for child in family if child.status() != psutil.STATUS_ZOMBIE])


def wait_until(condition, timeout_s=5.0) -> bool:
    end = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < end:
        time.sleep(0.02)
    return condition()


@pytest.mark.parametrize("attack", named(ATTACKS))
def test_an_attack_is_stopped(attack, sandbox, targets, idle_processes):
    limits = SHORT_LIMITS if "timeout" in attack.ends else LIMITS
    stdin = targets.describe() + "x" * (attack.input_mb << 20)
    outcome = sandbox.run(Execution(attack.source, stdin=stdin, limits=limits))
    lines = outcome.output.decode(errors="replace").splitlines()
    assert [line for line in lines if line.startswith("breached")] == []
    assert outcome.ending in attack.ends, outcome.error
    assert outcome.ending != "ok" or lines[-1] == "held"
    assert outcome.wall_s < limits.wall_s + 1
    assert targets.damage() == []
    assert targets.leftovers() == []
    assert wait_until(lambda: num_descendants() <= idle_processes), "a process is left"
    after = sandbox.run(Execution("print(input())", stdin="as before"))
    assert (after.ending, after.output) == ("ok", b"as before\n")


@pytest.mark.skipif(not IS_ROOT, reason="needs another user, so that this one is not attacked")
@pytest.mark.parametrize("attack", named([attack for attack in ATTACKS if attack.has_control]))
def test_an_attack_succeeds_without_a_sandbox(attack):
    """Else it proves nothing that it is stopped in one."""
    with Targets(MEMORY_MB, CONTROL_UID) as targets:
        secret = {"ATTACK_SECRET": targets.secret}
        command = [control_python(), "-I", "-c", attack.source]
        as_user = {"user": CONTROL_UID, "group": CONTROL_UID, "extra_groups": []}
        said = subprocess.run(
            command, input=targets.describe(), capture_output=True, text=True, cwd="/tmp",
            close_fds=False, env=secret, timeout=60, **as_user,
        ).stdout  # fmt: skip
        did = targets.damage() + targets.leftovers()
        targets.clean_up()
    assert "breached" in said or did


def test_a_program_finds_nothing_of_the_one_before(sandbox):
    places = "import os, tempfile\nplaces = ['/tmp', os.getcwd(), '/dev/shm', '/var/tmp']\n"
    leave = """
import builtins, sys, random
for place in places:
    try:
        os.makedirs(place + "/left/over")
        open(place + "/left.txt", "w").write("x")
    except OSError:
        pass
builtins.left = sys.modules["left"] = os.environ["LEFT"] = "x"
len.__self__.left = random.left = "x"
"""
    look = """
import builtins, sys, random
found = [place for place in places if os.path.exists(place + "/left")]
found += [n for n in ("left",) if n in sys.modules or hasattr(builtins, n) or hasattr(random, n)]
print(found, os.environ.get("LEFT"))
"""
    assert sandbox.run(Execution(places + leave)).ending == "ok"
    assert sandbox.run(Execution(places + look)).output == b"[] None\n"


def test_nothing_is_left_when_a_sandbox_closes(level):
    before = num_descendants()
    executor = open_executor(SandboxConfig(level=level))
    executor.run(Execution("import time\ntime.sleep(100)", limits=SHORT_LIMITS))
    descriptors = psutil.Process().num_fds()
    executor.close()
    assert wait_until(lambda: num_descendants() <= before)
    assert psutil.Process().num_fds() < descriptors


SCORE_A_SLEEPER = """
import asyncio, sys
sys.path[:0] = {path!r}
from archer.config.keys import RewardConfig, SandboxConfig
from archer.rewards.pool.processes import VerifierProcesses
from archer.types import ScoreRequest
truth = {{"tests": [{{"input": "", "output": "1"}}]}}
request = ScoreRequest("0", "```python\\nimport time\\ntime.sleep(99)\\n```", truth)
async def main():
    sandbox = SandboxConfig(level={level!r})
    processes = VerifierProcesses(
        RewardConfig(name="code", timeout_s=100.0, num_workers=2, sandbox=sandbox)
    )
    await processes.start()
    print("ready", flush=True)
    await asyncio.gather(*(processes.score(request) for _ in range(2)))
asyncio.run(main())
"""


def test_sandboxes_die_with_the_trainer(level):
    script = SCORE_A_SLEEPER.format(path=sys.path, level=level)
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout.readline() == b"ready\n"
        time.sleep(0.5)  # the programs run by now
        family = psutil.Process(trainer.pid).children(recursive=True)
        assert len(family) >= 6  # for each of two: verifier process, zygote, program
        trainer.kill()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


SECRET_ANSWER = "5f0c3a9b6e2d41788c97d1e0a4b35f26"
ANSWER_IN_TESTS = {
    "printed": {"tests": [{"input": "1\n", "output": SECRET_ANSWER}]},
    "returned": {"tests": [{"input": "1", "output": f'"{SECRET_ANSWER}"'}], "fn_name": "answer"},
    "asserted": json.dumps(
        {
            "functional": "def check(candidate):\n"
            f"    assert candidate(x = 1) == '{SECRET_ANSWER}'\n\ncheck(answer)"
        }
    ),
}
"""Ground truths by how the answer is asked for."""


def judge(
    requests: list[ScoreRequest], name: str, timeout_s: float, level: str = "auto", **args
) -> list[RewardResult]:
    """Results of the requests, by verifier processes."""
    config = RewardConfig(
        name=name,
        args=args,
        num_workers=2,
        timeout_s=timeout_s,
        sandbox=SandboxConfig(level=level, memory_mb=MEMORY_MB),
    )

    async def main():
        processes = VerifierProcesses(config)
        await processes.start()
        try:
            return await asyncio.gather(*map(processes.score, requests))
        finally:
            await processes.close()

    return asyncio.run(main())


def test_no_answer_is_judged_right_that_does_not_know_it(level):
    honest = f"def answer(x):\n    return '{SECRET_ANSWER}'\nif __name__ == '__main__':\n"
    programs = {"honest": honest + "    print(answer(1))", **forged_answers()}
    requests = [
        ScoreRequest(f"{name}, {how}", f"```python\n{program}\n```", truth)
        for name, program in programs.items()
        for how, truth in ANSWER_IN_TESTS.items()
    ]
    results = judge(requests, "code", timeout_s=20.0, level=level, time_limit_s=1.0)
    verdicts = {request.id: result for request, result in zip(requests, results, strict=True)}
    # A failure of the verifier would keep the sample out of the loss: a way out of a bad reward.
    assert {id: r for id, r in verdicts.items() if not r.is_valid} == {}
    right = [id for id, result in verdicts.items() if result.correct or result.reward > 0]
    assert right == [f"honest, {how}" for how in ANSWER_IN_TESTS]
    assert not any(SECRET_ANSWER in result.detail for result in results)


RESPONSES = (
    "```python\nprint(1)\n```" * 10_000,
    "```python\n" * 50_000,
    "```" * 300_000,
    "<think>" * 100_000 + "```python\nprint(1)\n```",
    "```python\n\ud800\udfff = '\x00'\nprint(\u2028)\n```",
    "```python\n" + "(" * 100_000 + "\n```",
    "```python\n" + "-" * 1_000_000 + "1\n```",
    "```python\nx = " + "9" * 1_000_000 + "\n```",
    "```python\n" + "if 1:\n" * 99 + "  pass\n```",
    "```python\n" + "lambda: " * 50_000 + "0\n```",
    "```python\n# coding: rot13\nprint(1)\n```",
    "```python\nfrom __future__ import braces\n```",
    "\\boxed{" * 100_000,
)


def test_responses_that_attack_whoever_reads_them(level):
    requests = [
        ScoreRequest(str(number), response, ANSWER_IN_TESTS["printed"])
        for number, response in enumerate(RESPONSES)
    ]
    results = judge(requests, "code", timeout_s=20.0, level=level, time_limit_s=1.0)
    assert [(id, r) for id, r in enumerate(results) if not r.is_valid or r.reward > 0] == []


MATHS_INJECTIONS = (
    "open('{mark}','w')and 2\\pi",
    "open('{mark}','w') or 2",
    "__import__('os').system('touch {mark}')",
    "\\text{{__import__('os').system('touch {mark}')}}",
    "exec(\"open('{mark}','w')\")",
    "eval(\"open('{mark}','w')\")",
    "2 if open('{mark}','w') else 2",
    "[open('{mark}','w') for x in [1]]",
    "(lambda: open('{mark}','w'))()",
    "().__class__.__base__.__subclasses__()",
    "Symbol('x').__class__.__init__.__globals__['__builtins__']['open']('{mark}','w')",
    "sympify(\"open('{mark}','w')\")",
    "parse_expr(\"open('{mark}','w')\")",
    'f\'{{open("{mark}","w")}}\'',
    "2; import os; os.system('touch {mark}')",
    "2\nimport os\nos.system('touch {mark}')",
    "\\input{{|touch {mark}}}",
    "\\write18{{touch {mark}}}",
    "$(touch {mark})",
    "`touch {mark}`",
    "!!python/object/apply:os.system ['touch {mark}']",
    "cos\nsystem\n(S'touch {mark}'\ntR.",
)


@pytest.mark.parametrize("truth", ["2", "2\\pi", "x^2+1"])
def test_maths_answers_are_not_executed(truth, tmp_path):
    mark = tmp_path / "mark"
    tmp_path.chmod(0o777)
    answers = [injection.format(mark=mark) for injection in MATHS_INJECTIONS]
    requests = [ScoreRequest(answer, f"\\boxed{{{answer}}}", truth) for answer in answers]
    results = judge(requests, "math", timeout_s=5.0)
    assert not mark.exists()
    assert [r for r in results if r.status not in ("ok", "no_answer", "timeout")] == []
    assert [q.id for q, r in zip(requests, results, strict=True) if r.reward > 0] == []


def pytest_command(select: str = "") -> list[str]:
    flags = ["-q", "-p", "no:cacheprovider"]
    return [sys.executable, "-m", "pytest", *flags, str(HERE), "-k", select]


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_all_of_this_as_an_unprivileged_user():
    # What reads responses has no rights to lose, and Docker's filter is the same for every user.
    of_any_user = "maths_answers or responses_that_attack or docker"
    command = pytest_command(f"not ({of_any_user})")
    tests = as_nobody(command, capture_output=True, text=True, timeout=600)
    assert tests.returncode == 0, tests.stdout[-10_000:]
    assert re.search(r"\d+ passed", tests.stdout)


PLAIN_DOCKER = [sys.executable, str(HERE.with_name("plain_docker.py"))]


def test_in_plain_docker_level_b_holds():
    """Docker's seccomp profile forbids namespaces and mounts."""
    command = [*PLAIN_DOCKER, *pytest_command("attack_is_stopped or finds_nothing")]
    tests = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert tests.returncode == 0, tests.stdout[-10_000:]
    assert re.search(r"\d+ passed, \d+ skipped", tests.stdout)


OPEN = (
    "from archer.config.keys import SandboxConfig as C; from archer.rewards.sandbox import levels\n"
)


def test_in_plain_docker_the_choice_is_level_b():
    code = OPEN + "print(levels.open_executor(C()).level)"
    said = subprocess.run([*PLAIN_DOCKER, sys.executable, "-c", code], capture_output=True)
    assert said.stdout == b"B\n", said.stderr.decode()


def test_where_nothing_holds_it_refuses_to_run():
    code = OPEN + "levels.open_executor(C())"
    command = [*PLAIN_DOCKER, "--without-landlock", sys.executable, "-c", code]
    said = subprocess.run(command, capture_output=True, text=True)
    assert said.returncode != 0
    for hint in ("reward.sandbox.level", "Landlock", "allow_unsafe_code_execution=true"):
        assert hint in said.stderr
