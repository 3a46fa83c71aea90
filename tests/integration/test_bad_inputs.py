"""What a user can get wrong, through the real command line: one message, status 2, and no Ray.

Most cases call ``main()`` in this process, where Ray may not be started; a few run the command as a
user does, with a ``ray`` on the path that ends the process when it is imported.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fake_model import write_model

import archer.evaluate
import archer.main

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


class Setup:
    """Files of a run that would start; ``base`` are the overrides that choose them."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.model = write_model(folder / "model")
        self.train, self.held_out = folder / "train.jsonl", folder / "held_out.jsonl"
        self.write(self.train, [{"problem": f"{n}+1", "answer": str(n + 1)} for n in range(32)])
        self.write(self.held_out, [{"problem": "9+1", "answer": "10"}])
        self.base = [
            f"model.path={self.model}",
            "data=jsonl",
            f"data.train={self.train}",
            f"data.eval.held_out={self.held_out}",
            "data.max_prompt_tokens=64",
            "logger=files",
            f"run.root={folder / 'runs'}",
            f"run.cache={folder / 'cache'}",
        ]

    @staticmethod
    def write(path: Path, rows: list[Any]) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@dataclass(frozen=True)
class Case:
    overrides: str
    """Words of the command line; ``{folder}`` is where the files lie."""
    key: str
    value: str
    """As the message shows it; ``{folder}`` as above."""
    mend: str
    spoil: Callable[[Setup], Any] = field(default=lambda setup: None, repr=False)
    command: str = "main"

    @property
    def id(self) -> str:
        return f"{self.key}={self.value}"


def evaluate_case(*args: Any, **kwargs: Any) -> Case:
    return Case(*args, command="evaluate", **kwargs)


def rows(*records: Any) -> Callable[[Setup], None]:
    return lambda setup: setup.write(setup.train, list(records))


def recorded_run(**sections: dict[str, Any]) -> Callable[[Setup], None]:
    """Leave a run directory as the same run with other settings would."""

    def spoil(setup: Setup) -> None:
        import yaml
        from hydra import compose, initialize_config_dir

        from archer.config.keys import load_config

        with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
            config = load_config(compose("config", setup.base))
        plain = config.model_dump(mode="json")
        for name, values in sections.items():
            plain[name] |= values
        config.run_dir.mkdir(parents=True)
        (config.run_dir / "config.yaml").write_text(yaml.safe_dump(plain))

    return spoil


def torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


PROBLEM = {"problem": "p", "answer": "1"}

COMMAND_LINE = [
    Case("trainer.num_step=3", "trainer.num_step", "'3'", "'trainer.num_steps'"),
    Case("num_steps=3", "num_steps", "'3'", "'trainer.num_steps'"),
    Case("lr=1e-6", "lr", "'1e-6'", "no such key"),
    Case("alog=grpo", "alog", "'grpo'", "Did you mean 'algo'?"),
    Case("algo=grpoo", "algo", "'grpoo'", "Did you mean 'grpo'?"),
    Case("model=huge", "model", "'huge'", "conf/model/huge.yaml"),
    Case("-m algo=grpo,dapoo", "algo", "'dapoo'", "Did you mean 'dapo'?"),
    Case("trainer.num_steps", "trainer.num_steps", "None", "KEY=VALUE"),
    Case("--num-steps=3", "--num-steps=3", "None", "trainer.num_steps=3"),
    Case("data.prompt_template={problem}:", "data.prompt_template", "'{problem}:'", "Quote"),
    Case("+algo=grpo", "the command line", "+algo=grpo", "Multiple values for algo"),
    Case("~trainer.nothing", "the command line", "~trainer.nothing", "trainer.nothing"),
    Case("-m --cfg job", "the command line", "--multirun --cfg", "Choose one"),
    Case("--config-name nothing", "the command line", "--config-name nothing", "nothing"),
    Case(
        "--config-dir {folder}/mine +mine=torn", "the command line", "+mine=torn", "torn.yaml",
        lambda s: ((s.folder / "mine/mine").mkdir(parents=True),
                   (s.folder / "mine/mine/torn.yaml").write_text("trainer: {num_steps: [")),
    ),
]  # fmt: skip

VALUES = [
    Case("++trainer.extra=3", "trainer.extra", "3", "Remove it or fix its name"),
    Case("algo.loss.epsilon=0.2", "algo.loss.epsilon", "0.2", "'algo.loss.eps_r'"),
    Case("trainer.num_steps=many", "trainer.num_steps", "'many'", "Set trainer.num_steps"),
    Case("trainer.num_steps=2.5", "trainer.num_steps", "2.5", "Set trainer.num_steps"),
    Case("trainer.group_size=0", "trainer.group_size", "0", "Set trainer.group_size"),
    Case("seed=null", "seed", "None", "Set seed"),
    Case("sampling.temperature=0", "sampling.temperature", "0", "Set sampling.temperature"),
    Case("eval.top_p=1.5", "eval.top_p", "1.5", "Set eval.top_p"),
    Case("algo.reject_uniform=perhaps", "algo.reject_uniform", "'perhaps'", "Set algo"),
    Case("cluster.device=tpu", "cluster.device", "'tpu'", "Set cluster.device"),
    Case("optimizer.betas=[0.9]", "optimizer.betas", "[0.9]", "such a list"),
    Case("trainer=3", "trainer", "3", "Set trainer"),
    Case("seed=${nothing.here}", "seed", "'?'", "Set it on the command line"),
    Case("algo.name=ppoo", "algo.name", "'ppoo'", "one of"),
    Case("algo.name=no_module.OBJECTIVE", "algo.name", "'no_module.OBJECTIVE'", "PYTHONPATH"),
    Case("algo.advantage=gpro", "algo.advantage", "'gpro'", "Did you mean 'grpo'?"),
    Case("algo.bonus=entropy", "algo.bonus", "'entropy'", "Did you mean 'entropy_adv'?"),
    Case("algo.correction=tis_tokn", "algo.correction", "'tis_tokn'", "Did you mean 'tis_token'?"),
    Case("algo=passk algo.shaping.scale=2", "algo.shaping.scale", "2", "choose another advantage"),
    Case("algo=passk algo.kl_in_reward=0.1", "algo.kl_in_reward", "0.1", "in algo.loss"),
    Case("algo=cde algo.shaping.offset=0", "algo.shaping", "{'scale': 2.0}", "no penalty"),
    Case("algo=ppo algo.critic=null", "algo.critic", "None", "Set algo.critic={}"),
    Case("algo.correction=tis_token algo.old_logprobs=rollout",
         "algo.correction", "'tis_token'", "algo.correction=none"),
    Case("algo.correction=icepop +algo.correction_args.low=6",
         "algo.correction_args", "{'low': 6}", "low=6 at most high=5"),
    Case("algo.aggregation=token", "algo.aggregation", "'token'", "Choose one of them"),
    Case("reward.name=maths", "reward.name", "'maths'", "Did you mean 'math'?"),
    Case("reward.name=os.sep", "reward.name", "'os.sep'", "docs/rewards.md"),
    Case("reward.args.speed=1", "reward.args", "{'speed': 1}", "Correct reward.args"),
]  # fmt: skip

ARITHMETIC = [
    Case("trainer.mini_batch_prompts=6", "trainer.mini_batch_prompts", "6", "Change one"),
    Case("trainer.group_size=1", "trainer.group_size", "1", "algo.reject_uniform=false"),
    Case("trainer.prompts_per_step=64", "trainer.prompts_per_step", "64", "Lower it"),
    Case("trainer.micro_batch_tokens=100", "trainer.micro_batch_tokens", "100", "raise the budget"),
    Case("algo.pass_rate=[0.9,0.1]", "algo.pass_rate", "[0.9, 0.1]", "Widen the range"),
    Case("algo.shaping.overlong_buffer=64", "algo.shaping.overlong_buffer", "64", "Lower it"),
    Case("sampling.max_response_tokens=193", "sampling.max_response_tokens", "193", "Lower either"),
    Case("cluster.policy_workers=65", "cluster.policy_workers", "65", "fewer ranks"),
    Case("cluster.rollout_replicas=999", "cluster.cpus_per_worker", "0.5", "cluster.rollout_repl"),
    Case("reward.num_workers=9999", "cluster.cpus_per_worker", "0.5", "reward.num_workers"),
    Case("cluster.layout=colocated", "cluster.layout", "'colocated'", "cluster.device=cuda"),
    Case("cluster=1x1", "cluster.device", "'cuda'", "cluster=local"),
    Case("cluster=1x8 cluster.policy_workers=4", "cluster.policy_workers", "4", "num_nodes * gpus"),
    Case("cluster=1x8 cluster.tensor_parallel=3", "cluster.tensor_parallel", "3", "spans nodes"),
    Case("cluster.num_nodes=2", "cluster.num_nodes", "2", "cluster.address=auto"),
    Case("model.attention=varlen", "model.attention", "'varlen'", "sdpa"),
]

FILES = [
    Case("model.path=/no/such/model", "model.path", "'/no/such/model'", "Check the path"),
    Case("model.path=someone/nothing", "model.path", "'someone/nothing'", "hf download"),
    Case("model.path=null model.warm_start=null", "model.path", "None", "model=tiny"),
    Case("", "model.path", "'{folder}/model'", "tokenizer.json is missing",
         lambda s: (s.model / "tokenizer.json").unlink()),
    Case("", "model.path", "'{folder}/model'", "safetensors is torn",
         lambda s: torn(s.model / "model.safetensors")),
    Case("", "model.path", "'{folder}/model'", "has no config.json",
         lambda s: (s.model / "config.json").unlink()),
    Case("data.train=gone.jsonl", "data.train", "'gone.jsonl'", "no such file"),
    Case("data.train={folder}", "data.train", "'{folder}'", "Name one of the files"),
    Case("data.train=null", "data.train", "None", "Set data.train=FILE"),
    Case("data.train=???", "data.train", "'???'", "Set it: data.train="),
    Case("data.train={folder}/a.csv", "data.train", "'{folder}/a.csv'", "Convert it",
         lambda s: (s.folder / "a.csv").write_text("problem,answer\n")),
    Case("data.task=arithmetic data.train=a.jsonl", "data.train", "'a.jsonl'", "data=jsonl"),
    Case("data.eval.aime=gone.parquet", "data.eval.aime", "'gone.parquet'", "no such file"),
    Case("", "data.train", "'{folder}/train.jsonl'", "empty", rows()),
    Case("", "data.train", "'{folder}/train.jsonl'", "Row 2: 'answer' is null",
         rows(PROBLEM, {"problem": "q", "answer": None})),
    Case("", "data.train", "'{folder}/train.jsonl'", "Row 1 has only problem, result",
         rows({"problem": "p", "result": "1"})),
    Case("", "data.train", "'{folder}/train.jsonl'", "Row 1 has only answer",
         rows({"answer": "1"})),
    Case("", "data.train", "'{folder}/train.jsonl'", "Row 1 is a list", rows(["p", "1"])),
    Case("", "data.train", "'{folder}/train.jsonl'", "torn or not JSON",
         lambda s: torn(s.train)),
    Case("", "data.train", "'{folder}/train.jsonl'", "Row 1: the ground truth is neither a string",
         rows({"problem": "p", "answer": {"tests": ["1"]}})),
    Case("data.max_prompt_tokens=5", "data.max_prompt_tokens", "5", "raise it to"),
    Case("data.prompt_template=Solve", "data.prompt_template", "'Solve'", "with {problem} in it"),
    Case("", "data.chat_template", "True", "=false",
         lambda s: (s.model / "tokenizer_config.json").write_text('{"eos_token": "<eos>"}')),
    Case("run.root=/dev/null/runs", "run.root", "'/dev/null/runs'", "permissions"),
    Case("run.cache=/dev/null/cache", "run.cache", "'/dev/null/cache'", "permissions"),
    Case("run.resume=never", "run.resume", "'never'", "another run.name", recorded_run()),
    Case("", "optimizer.learning_rate", "0.0003", "set optimizer.learning_rate=0.001",
         recorded_run(optimizer={"learning_rate": 1e-3})),
]  # fmt: skip

EVALUATE = [
    evaluate_case("algo=dapo", "algo", "'dapo'", "no such key"),
    evaluate_case("eval.n=64", "eval.n", "'64'", "Known in eval: max_problems, sets, num_samples"),
    evaluate_case("sampling.temperature=1", "sampling.temperature", "'1'", "eval.temperature"),
    evaluate_case("~data.eval", "data.eval", "{}", "Set data.eval.NAME=FILE"),
    evaluate_case("output=/dev/null/out", "output", "'/dev/null/out'", "permissions"),
    evaluate_case("output={folder}", "output", "'{folder}'", "another output=FOLDER",
                  lambda s: (s.folder / "results.json").write_text("{}")),
]  # fmt: skip

CASES = [*COMMAND_LINE, *VALUES, *ARITHMETIC, *FILES, *EVALUATE]
AS_A_USER = [COMMAND_LINE[0], COMMAND_LINE[9], COMMAND_LINE[11], VALUES[2], ARITHMETIC[7],
             FILES[0], FILES[14], EVALUATE[0]]  # fmt: skip


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Setup]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("ARCHER_TRACEBACK", raising=False)
    yield Setup(tmp_path)
    for number, handler in handlers.items():  # the command takes them over
        signal.signal(number, handler)


def arguments(case: Case, setup: Setup) -> list[str]:
    case.spoil(setup)
    words = [word.replace("{folder}", str(setup.folder)) for word in case.overrides.split()]
    if case.command == "evaluate":
        unknown = ("data.train=", "logger=", "run.root=")
        base = [word for word in setup.base if not word.startswith(unknown)]
        return [*base, "sampling.max_response_tokens=64", *words]
    return setup.base + words


def check_message(case: Case, setup: Setup, shown: str) -> None:
    assert "Traceback" not in shown
    first, value, expected, mend, *rest = shown.splitlines()
    assert rest == []
    assert first == f"archer: {case.key} is not usable as it stands."
    assert case.value.replace("{folder}", str(setup.folder)) in value
    assert expected.removeprefix("  expected  ").strip()
    assert case.mend in mend or case.mend in expected


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_bad_input_ends_with_one_message(case: Case, setup: Setup, monkeypatch, capsys):
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setattr("ray.init", refuse)
    monkeypatch.setattr(sys, "argv", ["archer", *arguments(case, setup)])
    with pytest.raises(SystemExit) as ended:
        (archer.main if case.command == "main" else archer.evaluate).main()
    assert ended.value.code == 2
    check_message(case, setup, capsys.readouterr().err)


def run(case: Case, setup: Setup, **environment: str) -> subprocess.CompletedProcess[str]:
    fake = setup.folder / "path" / "ray" / "__init__.py"
    fake.parent.mkdir(parents=True)
    fake.write_text("raise SystemExit('Ray was imported')")
    return subprocess.run(
        [sys.executable, "-m", f"archer.{case.command}", *arguments(case, setup)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(setup.folder / "path")} | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("case", AS_A_USER, ids=lambda case: case.id)
def test_the_command_itself_exits_with_status_2(case: Case, setup: Setup):
    ended = run(case, setup)
    assert ended.returncode == 2
    check_message(case, setup, ended.stderr)


def test_the_traceback_is_there_when_asked_for(setup: Setup):
    ended = run(VALUES[2], setup, ARCHER_TRACEBACK="1")
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert "archer.errors.ConfigError: trainer.num_steps='many'" in ended.stderr


def test_there_are_enough_cases():
    assert len({(case.command, case.overrides, case.mend) for case in CASES}) >= 60
