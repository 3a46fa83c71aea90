"""Every file of conf/ as a run that stops before its first actor, on a machine without GPU or hub.

A folder with a character tokenizer stands in for hub models, and invented records, prepared like
the real ones, for hub data.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import import_module
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from dataset_fixtures import (
    CODE,
    MATHS,
    STDIN_TESTS,
    deepcoder_record,
    livecodebench_record,
    verl,
    write_records,
)
from fake_model import CHAT_TEMPLATE, write_model, write_tokenizer
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from rich.console import Console as RichConsole

from archer.config.keys import CacheConfig, SandboxConfig, load_config
from archer.console import Console
from archer.errors import ConfigError
from archer.main import train
from archer.prepare import PrepareConfig, prepare
from archer.rewards.sandbox import probe
from archer.rewards.sandbox.probe import SandboxReport

CONF = Path(__file__).parents[2] / "conf"
PARTS = (CONF / "data/set", CONF / "data/source")
"""Files that others of the group are made of."""
GROUPS = sorted({path.name for path in CONF.iterdir() if path.is_dir()} - {"probe"})
"""All but archer.evaluate's own, which tests/unit/test_min_knn.py composes."""
OPTIONS = {
    group: [
        f"{group}={path.relative_to(CONF / group).with_suffix('').as_posix()}"
        for path in sorted((CONF / group).rglob("*.yaml"))
        if path.parent not in PARTS
    ]
    for group in GROUPS
}
BESIDE_EACH_OTHER = ("algo", "cluster", "data", "logger", "model")
"""One run tries an option of each, as composing takes most of the time."""
CHOICES = [
    *zip_longest(*(OPTIONS[group] for group in BESIDE_EACH_OTHER)),
    *((option,) for group in GROUPS if group not in BESIDE_EACH_OTHER for option in OPTIONS[group]),
]
NUM_ROWS = 64
"""As many prompts as any preset has in a step."""
TRUTHS: dict[str, Any] = {
    "code": {"tests": STDIN_TESTS},
    "ifeval": {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    "json_schema": {"type": "object"},
}
"""Ground truths for rewards that read more than a text."""


def like(table: Mapping[str, tuple[Any, ...]], name: str, column: str) -> Callable[[str], Any]:
    """Records like that of the table, with the problem in a column."""
    return lambda problem: table[name][1] | {column: problem}


RECORDS: dict[str, Callable[[str], Any]] = {
    "rows": lambda problem: verl("42", problem),
    "verl_math": lambda problem: verl("42", problem),
    "verl_code": lambda problem: verl(json.dumps({"inputs": ["1"], "outputs": ["1"]}), problem),
    "math": like(MATHS, "plain", "problem"),
    "boxed_solution": like(MATHS, "MATH", "problem"),
    "gsm8k": like(MATHS, "gsm8k", "question"),
    "olympiadbench": like(MATHS, "olympiad", "question"),
    "dapo_processed": like(MATHS, "dapo_processed", "prompt"),
    "numina": like(MATHS, "numina", "problem"),
    "livecodebench": lambda problem: livecodebench_record(question_content=problem),
    "deepcoder": lambda problem: deepcoder_record(STDIN_TESTS, problem=problem),
    "taco": like(CODE, "TACO", "question"),
    "primeintellect": like(CODE, "S6", "prompt"),
    "codeforces": like(CODE, "S10", "description"),
    "kodcode": like(CODE, "S8", "question"),
    "humaneval_plus": like(CODE, "HumanEval+", "prompt"),
    "mbpp_plus": like(CODE, "MBPP+", "prompt"),
}
"""Shape to a record with this problem."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dry_run")
    write_model(
        folder / "model",
        max_position_embeddings=1 << 20,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    thinking = "{% if enable_thinking %}{% endif %}"  # Qwen3's presets turn it off
    write_tokenizer(folder / "model", CHAT_TEMPLATE + thinking)
    return folder


@pytest.fixture(scope="module", autouse=True)
def sandbox_tried_once() -> Iterator[None]:
    """Seconds each; all presets have the same."""
    reports: dict[str, SandboxReport] = {}
    try_it = probe.check_sandbox

    def look_up(config: SandboxConfig) -> SandboxReport:
        settings = config.model_dump_json()
        if settings not in reports:
            reports[settings] = try_it(config)
        return reports[settings]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "check_sandbox", look_up)
        yield


@pytest.fixture(scope="module")
def judge() -> Iterator[str]:
    """Where something answers, as the server of `reward=judge` would."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def composed(folder: Path, *overrides: str) -> DictConfig:
    """With nothing that a hub or the default cache would have to give."""
    own = (
        f"model.path={folder / 'model'}",
        f"run.root={folder / 'runs'}",
        f"run.cache={folder / 'cache'}",
        f"data.train_size={NUM_ROWS}",
        "logger=files",
        "trainer.dry_run=true",
    )
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [*own, *overrides])
    OmegaConf.set_struct(config, False)
    for name, wanted in config.data.sets.items():
        wanted.expected_rows = None
        for source, files in wanted.sources.items():
            count = NUM_ROWS if wanted.role == "train" else 8
            files.folder = str(write_source(folder / f"{name}-{source}", files, count))
            files.expected_records = None
    roles = {wanted.role for wanted in config.data.sets.values()}
    if not (config.data.task or config.data.train or "train" in roles):
        config.data.train = rows(folder, "math")
    return config


def write_source(folder: Path, source: DictConfig, count: int) -> Path:
    """The files of a source, with records that it wants."""
    where = {wanted.column: wanted_value(wanted) for wanted in source.get("where", [])}
    record = RECORDS[source.shape]
    records = [record(f"Of {folder.name}, add {n} and 1.") | where for n in range(count)]
    files = [folder / file.replace("*", "0") for file in source.files]
    for i, path in enumerate(files):
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_records(path, records[i :: len(files)])
    return folder


def wanted_value(wanted: Any) -> Any:
    """What `where` lets pass."""
    return wanted.one_of[0] if "one_of" in wanted else wanted.min


def rows(folder: Path, reward: str) -> str:
    """A file of rows that the reward can judge by."""
    path, truth = folder / f"{reward}.jsonl", TRUTHS.get(reward, "1")
    write_records(path, [{"problem": f"{n} + 1", "answer": truth} for n in range(NUM_ROWS)])
    return str(path)


def dry_run(composed: DictConfig, capsys: pytest.CaptureFixture[str]) -> str:
    """What it prints; the data is prepared before."""
    config = load_config(composed)
    if config.data.sets:
        with Console(0, 0, RichConsole(quiet=True)) as console:
            prepare(
                PrepareConfig(data=config.data, run=CacheConfig(cache=config.run.cache)), console
            )
    train(config)
    assert not config.run_dir.parent.exists()
    return capsys.readouterr().out


@pytest.mark.parametrize(
    "overrides", [[option for option in options if option] for options in CHOICES], ids=" ".join
)
def test_every_option_passes_a_dry_run(
    overrides: list[str], folder: Path, judge: str, capsys: pytest.CaptureFixture[str]
):
    group, _, option = overrides[0].partition("=")
    if group == "reward":
        overrides = [*overrides, "data=jsonl", f"data.train={rows(folder, option)}"]
    if option == "judge":
        overrides.append(f"reward.args.base_url={judge}")
    config = composed(folder, *overrides)
    said = dry_run(config, capsys)
    trained_on = [wanted for wanted in config.data.sets.values() if wanted.role == "train"]
    num_sources = sum(len(wanted.sources) for wanted in trained_on) or 1
    assert f"prompts train: {num_sources * NUM_ROWS}\n" in said
    assert "dropped" not in said
    assert "optimizer steps" in said


@pytest.mark.parametrize("command", sorted(path.stem for path in CONF.glob("*.yaml")))
def test_every_command_composes(command: str):
    import_module(f"archer.{command}")  # where its defaults are
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose(command)


def test_it_says_what_the_run_would_do(folder: Path, capsys: pytest.CaptureFixture[str]):
    said = dry_run(
        composed(
            folder,
            "data=jsonl",
            f"data.train={rows(folder, 'math')}",
            "algo=ppo",
            "cluster=2x8",
            "trainer.num_steps=10",
            "trainer.prompts_per_step=32",
            "trainer.mini_batch_prompts=8",
            "trainer.group_size=4",
            "trainer.epochs=2",
        ),
        capsys,
    )
    for line in (
        "parameters, window 1,048,576 tokens",
        "tokens: '<bos><user>",
        "step: 32 prompts x 4 responses of up to 64 tokens, 8 optimizer steps of 32 responses",
        "length: 10 steps, 80 optimizer steps, 5.00 passes over the prompts",
        "16 policy, 16 critic (ZeRO-2), 16 vLLM x 1 GPUs, on 2 x 8 GPUs, colocated",
        "GiB in each GPU",
    ):
        assert line in said


def test_what_this_machine_lacks_is_told_and_what_the_run_lacks_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("PATH", str(folder))  # no nvidia-smi
    data = ("data=jsonl", f"data.train={rows(folder, 'math')}")
    config = composed(folder, "cluster=1x8", "cluster.address=null", *data)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=0))
    said = dry_run(config, capsys)
    assert "not on this machine: cluster.device='cuda'" in said
    assert "not on this machine: run.root=" in said
    assert f"{load_config(config).run_dir}, new in {folder}\n" in said

    config.trainer.prompts_per_step = 2 * NUM_ROWS
    with pytest.raises(ConfigError, match="at most the 64 usable training prompts"):
        dry_run(config, capsys)


def test_memory_is_refused_only_where_that_of_the_nodes_is_given(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("archer.planning.memory_plan._gpu_memory", lambda: 1e6)
    data = ("data=jsonl", f"data.train={rows(folder, 'math')}")
    said = dry_run(composed(folder, "cluster=1x8", "cluster.address=null", *data), capsys)
    assert "not on this machine: cluster='colocated'" in said

    nodes = ("cluster=1x8", "cluster.address=null", "cluster.gpu_memory_gb=0.001")
    with pytest.raises(ConfigError, match="in each GPU"):
        dry_run(composed(folder, *nodes, *data), capsys)


def test_it_leaves_a_run_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]):
    config = composed(folder, "data=jsonl", f"data.train={rows(folder, 'math')}", "run.name=old")
    old = folder / "runs" / "default" / "old"
    recorded = load_config(config).model_dump(mode="json")
    recorded["trainer"]["dry_run"] = False
    old.mkdir(parents=True)
    (old / "config.yaml").write_text(json.dumps(recorded))
    train(load_config(config))
    assert [path.name for path in old.iterdir()] == ["config.yaml"]
    assert "optimizer steps" in capsys.readouterr().out


def test_the_command_ends_well_without_ray(folder: Path):
    words = [f"data.train={rows(folder, 'math')}", f"model.path={folder / 'model'}"]
    program = (
        "import sys, archer.main; archer.main.main();"
        "sys.exit(any(name in sys.modules for name in ('ray', 'torch', 'vllm', 'deepspeed')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "trainer.dry_run=true", "data=jsonl", *words],
        cwd=CONF.parent,
        capture_output=True,
        text=True,
        env=os.environ | {"ARCHER_TRACEBACK": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
