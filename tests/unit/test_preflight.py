"""What a user can get wrong, and what preflight says about it, without Ray."""

from __future__ import annotations

import json
import shutil
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_model import write_model
from preparing import Prepared, source, training

from archer.config.keys import load_config
from archer.errors import CheckpointError, ConfigError
from archer.preflight import check_inputs, check_setup
from archer.runtime import machine
from archer.runtime.run_directory import CONFIG_FILE, first_difference

EXACT_KL_FREE = {"name": "grpo", "loss": {"beta": 0.0}}


class Setup:
    """A small run that passes every check; cases break it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        self.folder, self.patch = folder, monkeypatch
        self.model = write_model(folder / "model")
        self.train, self.held_out = folder / "train.jsonl", folder / "eval.jsonl"
        self.write_rows(self.train, [{"problem": f"{n}+1", "answer": str(n + 1)} for n in range(8)])
        self.write_rows(self.held_out, [{"problem": "9+1", "answer": "10"}])
        self.config: dict[str, Any] = {
            "algo": EXACT_KL_FREE,
            "model": {"name": "fake", "path": str(self.model)},
            "data": {
                "name": "sums",
                "train": str(self.train),
                "eval": {"held_out": str(self.held_out)},
                "max_prompt_tokens": 64,
            },
            "reward": {"name": "math"},
            "sampling": {"max_response_tokens": 64},
            "trainer": {"prompts_per_step": 4, "mini_batch_prompts": 2, "group_size": 2},
            "run": {"root": str(folder / "runs"), "name": "first"},
        }
        self.cpus(4)

    @staticmethod
    def write_rows(path: Path, rows: list[Any]) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def set(self, **sections: dict[str, Any]) -> None:
        for name, values in sections.items():
            self.config[name] = self.config.get(name, {}) | values

    def cpus(self, count: int) -> None:
        self.patch.setattr(machine, "available_cpus", lambda: count)

    def gpus(self, listing: str) -> None:
        """An nvidia-smi that says this."""
        tool = self.folder / "bin" / "nvidia-smi"
        tool.parent.mkdir()
        tool.write_text(f"#!/bin/sh\necho '{listing}'\n")
        tool.chmod(0o755)
        self.patch.setenv("PATH", str(tool.parent), prepend=":")
        self.patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def hide(self, package: str) -> None:
        real = machine.find_spec
        self.patch.setattr(machine, "find_spec", lambda n: None if n == package else real(n))

    def record_run(self, **sections: dict[str, Any]) -> Path:
        """Leave the run directory as a run with these other settings would."""
        config = load_config(self.config)
        plain = config.model_dump(mode="json")
        for name, values in sections.items():
            plain[name] |= values
        config.run_dir.mkdir(parents=True)
        (config.run_dir / CONFIG_FILE).write_text(yaml.safe_dump(plain))
        return config.run_dir

    def edit_json(self, name: str, **values: Any) -> None:
        path = self.model / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    def check(self):
        config = load_config(self.config)
        check_setup(config)
        return check_inputs(config)


@pytest.fixture
def setup(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return Setup(tmp_path, monkeypatch)


@dataclass(frozen=True)
class Case:
    name: str
    key: str
    says: list[str] = field(repr=False)
    spoil: Callable[[Setup], Any] = field(repr=False)


def index_without_shard(setup: Setup) -> None:
    (setup.model / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (setup.model / "model.safetensors.index.json").write_text(json.dumps(index))
    (setup.model / "model-1.safetensors").write_bytes(b"")


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def without_eos(setup: Setup) -> None:
    setup.edit_json("config.json", eos_token_id=None)
    setup.edit_json("tokenizer_config.json", eos_token=None)


def file_as_run_root(setup: Setup) -> None:
    (setup.folder / "runs").write_text("not a directory")


def full_disk(setup: Setup) -> None:
    usage = namedtuple("usage", "total used free")
    setup.patch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 100))


def torn_run_config(setup: Setup) -> None:
    (setup.record_run() / CONFIG_FILE).write_text("algo: {name: [")


def cuda(setup: Setup, **cluster: Any) -> None:
    setup.set(cluster={"device": "cuda", "gpus_per_node": 2} | cluster)


def no_nvidia_smi(setup: Setup) -> None:
    cuda(setup)
    setup.patch.setenv("PATH", str(setup.folder))


def hidden_gpus(setup: Setup) -> None:
    cuda(setup)
    setup.gpus("GPU 0: H100 (UUID: GPU-1)")
    setup.patch.setenv("CUDA_VISIBLE_DEVICES", "")


def one_gpu_of_two(setup: Setup) -> None:
    cuda(setup)
    setup.gpus("GPU 0: H100 (UUID: GPU-1)")


def soft_caps(setup: Setup) -> None:
    cuda(setup, dtype="bfloat16", zero_stage=2, packing="packed")
    setup.gpus("GPU 0: H100 (UUID: GPU-1)\nGPU 1: H100 (UUID: GPU-2)")
    setup.set(model={"attention": "varlen"})
    setup.edit_json("config.json", attn_logit_softcapping=50.0)


CASES = [
    # The model.
    Case(
        "no model folder",
        "model.path",
        ["/no/such/model", "existing model folder", "Check the path"],
        lambda s: s.set(model={"path": "/no/such/model"}),
    ),
    Case(
        "unknown hub id, offline",
        "model.path",
        ["someone/nothing", "reachable hub id", "hf download someone/nothing"],
        lambda s: s.set(model={"path": "someone/nothing"}),
    ),
    Case(
        "a file as model",
        "model.path",
        ["This is a file", "config.json"],
        lambda s: s.set(model={"path": str(s.model / "config.json")}),
    ),
    Case(
        "no config.json",
        "model.path",
        ["has no config.json", "Add it"],
        lambda s: (s.model / "config.json").unlink(),
    ),
    Case(
        "torn config.json",
        "model.path",
        ["config.json", "not JSON", "Download it again"],
        lambda s: cut_in_half(s.model / "config.json"),
    ),
    Case(
        "not a language model",
        "model.path",
        ["vocab_size", "another kind of model"],
        lambda s: s.edit_json("config.json", vocab_size=None),
    ),
    Case(
        "no weights",
        "model.path",
        ["model.safetensors", "Add them"],
        lambda s: (s.model / "model.safetensors").unlink(),
    ),
    Case(
        "torn weights",
        "model.path",
        ["model.safetensors is torn", "Download it again"],
        lambda s: cut_in_half(s.model / "model.safetensors"),
    ),
    Case(
        "a shard is missing",
        "model.path",
        ["Missing: model-2.safetensors", "Download them again"],
        index_without_shard,
    ),
    Case(
        "no tokenizer",
        "model.path",
        ["tokenizer.json is missing", "Copy it from the original model"],
        lambda s: (s.model / "tokenizer.json").unlink(),
    ),
    Case(
        "torn tokenizer",
        "model.path",
        ["cannot be read", "Copy it again"],
        lambda s: cut_in_half(s.model / "tokenizer.json"),
    ),
    Case(
        "tokenizer of a larger model",
        "model.path",
        ["vocabulary of 20", "tokenizer that belongs to the model"],
        lambda s: s.edit_json("config.json", vocab_size=20),
    ),
    Case("no end token", "model.path", ["ends a response", "eos_token_id"], without_eos),
    Case(
        "sequences longer than the window",
        "sampling.max_response_tokens",
        ["=193", "max_prompt_tokens=64", "window of 256", "Lower either limit"],
        lambda s: s.set(sampling={"max_response_tokens": 193}),
    ),
    # The data.
    Case(
        "missing training file",
        "data.train",
        ["gone.jsonl", "no such file", "relative to"],
        lambda s: s.set(data={"train": "gone.jsonl"}),
    ),
    Case(
        "missing held-out file",
        "data.eval.aime",
        ["gone.parquet", "no such file"],
        lambda s: s.set(data={"eval": {"aime": "gone.parquet"}}),
    ),
    Case(
        "empty training file", "data.train", ["at least one row"], lambda s: s.train.write_text("")
    ),
    Case(
        "null truth",
        "data.train",
        ["Row 2", "'answer' is null", "drop the row"],
        lambda s: s.write_rows(
            s.train, [{"problem": "p", "answer": "1"}, {"problem": "q", "answer": None}]
        ),
    ),
    Case(
        "no truth column",
        "data.eval.held_out",
        ["reward_model.ground_truth, answer, ground_truth", "Row 1", "Rename"],
        lambda s: s.write_rows(s.held_out, [{"problem": "p", "result": "1"}]),
    ),
    Case(
        "tests where answers belong",
        "data.train",
        [
            "reward=math",
            "Row 1: the ground truth is neither a string nor a number: {'inputs'",
            "Choose a reward",
        ],
        lambda s: s.write_rows(
            s.train, [{"problem": "p", "answer": {"inputs": ["1"], "outputs": ["2"]}}]
        ),
    ),
    Case(
        "a long truth that is broken",
        "data.train",
        ["Row 1: the ground truth has unbalanced braces: 'xxx", "xxx..."],
        lambda s: s.write_rows(s.train, [{"problem": "p", "answer": "x" * 400 + "{"}]),
    ),
    Case(
        "every prompt too long",
        "data.max_prompt_tokens",
        ["8 prompts of data.train", "raise it to 21"],  # 1 for <bos>, 6 for <user>, 3, 11
        lambda s: s.set(data={"max_prompt_tokens": 5}),
    ),
    Case(
        "fewer prompts than a step takes",
        "trainer.prompts_per_step",
        ["=16", "the 8 usable training prompts", "Lower it"],
        lambda s: s.set(trainer={"prompts_per_step": 16}),
    ),
    Case(
        "template without the problem",
        "data.prompt_template",
        ["with {problem} in it"],
        lambda s: s.set(data={"prompt_template": "Box it."}),
    ),
    Case(
        "no chat template",
        "data.chat_template",
        ["has no chat template", "Set data.chat_template=false"],
        lambda s: s.edit_json("tokenizer_config.json", chat_template=None),
    ),
    Case(
        "a variable that the chat template does not have",
        "data.chat_template_args.enable_thinking",
        ["variable of this model's chat template", "Remove it"],
        lambda s: s.set(data={"chat_template_args": {"enable_thinking": False}}),
    ),
    Case(
        "a variable of the chat template that is ours",
        "data.chat_template_args.messages",
        ["variable of this model's chat template"],
        lambda s: s.set(data={"chat_template_args": {"messages": []}}),
    ),
    Case(
        "chat messages as plain text",
        "data.chat_template",
        ["row 1 of data.train", "Set data.chat_template=true"],
        lambda s: (
            s.write_rows(s.train, [{"prompt": [{"role": "user", "content": "p"}], "answer": "1"}]),
            s.set(data={"chat_template": False}),
        ),
    ),
    # The reward.
    Case(
        "unknown reward",
        "reward.name",
        ["'maths'", "Did you mean 'math'"],
        lambda s: s.set(reward={"name": "maths"}),
    ),
    Case(
        "unknown argument of the reward",
        "reward.args",
        ["patern", "format"],
        lambda s: s.set(reward={"name": "format", "args": {"patern": "x"}}),
    ),
    Case(
        "truths that nothing can be judged by",
        "data.eval.held_out",
        ["Row 2:", "1 more rows are like it", "reward.bad_truths=drop"],
        lambda s: s.write_rows(
            s.held_out, [{"problem": "p", "answer": answer} for answer in ("1", "{", "}")]
        ),
    ),
    Case(
        "no interpreter for programs",
        "reward.sandbox.python",
        ["'/no/python'", "a Python interpreter", "does not run"],
        lambda s: s.set(reward={"name": "code", "sandbox": {"python": "/no/python"}}),
    ),
    Case(
        "a variable that is not set",
        "reward.env",
        ["'NO_SUCH_KEY'", "a variable that is set", "NO_SUCH_KEY=..."],
        lambda s: s.set(reward={"env": ["NO_SUCH_KEY"]}),
    ),
    # The run directory.
    Case(
        "run root cannot be written",
        "run.root",
        ["can be written", "Set run.root", "permissions"],
        file_as_run_root,
    ),
    Case("full disk", "run.root", ["MB free for 3 checkpoints", "Free some space"], full_disk),
    Case(
        "directory in use",
        "run.resume",
        ["first is in use", "another run.name", "run.resume=auto"],
        lambda s: (s.record_run(), s.set(run={"resume": "never"})),
    ),
    Case(
        "resume with another learning rate",
        "optimizer.learning_rate",
        ["=1e-06", "expected 0.001", "set optimizer.learning_rate=0.001", "another run.name"],
        lambda s: s.record_run(optimizer={"learning_rate": 1e-3}),
    ),
    Case(
        "resume with another objective parameter",
        "algo.loss.beta",
        ["=0.0", "expected 0.5", "another run.name"],
        lambda s: s.record_run(algo={"loss": {"beta": 0.5}}),
    ),
    Case(
        "torn run config", "run.name", ["config.yaml is torn", "another run.name"], torn_run_config
    ),
    # The machine.
    Case(
        "more actors than CPUs",
        "cluster.cpus_per_worker",
        ["2 CPUs of this machine", "5 workers", "need 5.1", "cluster.cpus_per_worker=0.38"],
        lambda s: (s.cpus(2), s.set(cluster={"policy_workers": 4})),
    ),
    Case(
        "the reference needs CPUs too",
        "cluster.cpus_per_worker",
        ["3 workers", "cluster.policy_workers"],
        lambda s: (s.cpus(2), s.set(algo={"loss": {"beta": 0.1}})),
    ),
    Case(
        "more verifiers than CPUs",
        "cluster.cpus_per_worker",
        ["100 verifiers", "reward.num_workers"],
        lambda s: s.set(reward={"num_workers": 100}),
    ),
    Case(
        "two nodes without an address",
        "cluster.num_nodes",
        ["1 without cluster.address", "cluster.address=auto"],
        lambda s: s.set(cluster={"num_nodes": 2}),
    ),
    Case(
        "a limit for no data source",
        "reward.max_concurrency.trian",
        ["a data source of the run", "Did you mean 'train'?"],
        lambda s: s.set(reward={"max_concurrency": {"trian": 4}}),
    ),
    Case(
        "a deadline for no data source",
        "reward.source_timeout_s.trian",
        ["a data source of the run", "Did you mean 'train'?"],
        lambda s: s.set(reward={"source_timeout_s": {"trian": 4}}),
    ),
    Case("no GPU", "cluster.device", ["there is none", "cluster=local"], no_nvidia_smi),
    Case("GPUs hidden", "cluster.device", ["CUDA_VISIBLE_DEVICES"], hidden_gpus),
    Case("fewer GPUs", "cluster.gpus_per_node", ["=2", "the 1 visible"], one_gpu_of_two),
    Case(
        "no vllm",
        "cluster.device",
        ["the package vllm", "make train", "requirements/cpu.txt"],
        lambda s: s.hide("vllm"),
    ),
    Case(
        "a GPU's attention on a CPU",
        "model.attention",
        ["'varlen'", "cluster.device=cpu", "Set model.attention=sdpa"],
        lambda s: s.set(model={"attention": "varlen"}),
    ),
    Case(
        "packed attention of padded sequences",
        "model.attention",
        ["'varlen'", "cluster.packing=padded", "or cluster.packing=packed"],
        lambda s: (
            cuda(s, dtype="bfloat16", zero_stage=2),
            s.set(model={"attention": "varlen"}),
        ),
    ),
    Case(
        "packed attention of a model with soft caps",
        "model.attention",
        ["'varlen'", "sets attn_logit_softcapping", "set model.attention=eager"],
        soft_caps,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_refused_with_key_and_mend(setup, case):
    case.spoil(setup)
    with pytest.raises(ConfigError) as caught:
        setup.check()
    assert caught.value.key == case.key
    message = str(caught.value)
    assert message.startswith(f"{case.key}=")
    for words in case.says:
        assert words in message


def test_good_inputs_come_back_ready_to_train(setup):
    inputs = setup.check()
    assert len(inputs.train.prompts) == 8
    assert inputs.train.dropped == {"too_long": 0, "unjudgeable": 0}
    assert [p.id for p in inputs.evals["held_out"].prompts] == ["held_out-1"]
    assert (inputs.window, inputs.vocab_size, inputs.num_parameters) == (256, 100, 200)
    assert inputs.eos_token_ids == (2,)
    assert inputs.model_path == str(setup.model)
    assert not Path(setup.config["run"]["root"]).exists()


def test_sets_that_are_not_prepared_are_told_before_a_model_is_warm_started(setup, tmp_path):
    source = {"folder": str(tmp_path), "files": ["a.jsonl"]}
    sets = {"own": {"role": "train", "sources": {"s": source}}}
    data = {"name": "own", "train": None, "sets": sets, "chat_template": False}
    setup.set(model={"path": None, "warm_start": {}}, data=data)
    setup.set(run={"cache": str(tmp_path / "cache")})
    with pytest.raises(ConfigError, match="Not prepared with these settings: own"):
        check_setup(load_config(setup.config))


def test_a_folder_that_stood_in_for_the_hub_is_named_by_every_run(setup, tmp_path):
    setup.write_rows(tmp_path / "a.jsonl", [{"problem": "1+1", "answer": "2"}])
    published = {**source(tmp_path, "a.jsonl"), "hub": "org/sums"}
    sets = {"own": training({"s": published})}
    Prepared(tmp_path, sets)
    setup.set(data={"train": None, "sets": sets}, run={"cache": str(tmp_path / "cache")})
    [told] = check_setup(load_config(setup.config))
    assert f"own was prepared from {tmp_path}, in place of org/sums" in told


def test_a_deadline_may_be_of_a_source_whose_rows_are_not_read(setup: Setup, tmp_path: Path):
    setup.write_rows(tmp_path / "a.jsonl", [{"problem": "9+1", "answer": "10"}])
    sources = {name: source(tmp_path, "a.jsonl", data_source=name) for name in ("one", "two")}
    sets = {"bench": {"role": "eval", "sources": sources, "deduplicate": False}}
    Prepared(tmp_path, sets)
    setup.set(data={"sets": sets}, run={"cache": str(tmp_path / "cache")})
    setup.set(eval={"max_problems": 1}, reward={"source_timeout_s": {"two": 4}})
    setup.check()


def test_a_warm_started_model_takes_the_place_of_the_configured_one(setup, tmp_path):
    other = write_model(tmp_path / "warm")
    inputs = check_inputs(load_config(setup.config), model_path=other)
    assert inputs.model_path == str(other)


@pytest.mark.parametrize(
    ("data", "key", "words"),
    [
        ({"chat_template": False, "max_prompt_tokens": 200}, "sampling.max_response_tokens", "256"),
        ({"chat_template": True}, "data.chat_template", "model=r1-distill-1.5b"),
    ],
)
def test_what_a_start_model_cannot_do_is_known_before_it_is_trained(setup, data, key, words):
    setup.set(model={"path": None, "warm_start": {}}, data=data)
    with pytest.raises(ConfigError, match=words) as error:
        check_setup(load_config(setup.config))
    assert error.value.key == key


def test_a_run_of_benchmarks_only_is_told_to_add_a_training_set(setup):
    sets = {"bench": {"role": "eval", "sources": {"s": {"files": ["f"]}}}}
    setup.set(data={"train": None, "sets": sets})
    with pytest.raises(ConfigError, match=r"such as data=\[deepscaler,bench\]"):
        load_config(setup.config)


def test_every_end_token_of_the_generation_config_counts(setup):
    (setup.model / "generation_config.json").write_text('{"eos_token_id": [7, 2]}')
    assert setup.check().eos_token_ids == (2, 7)


def test_only_so_many_held_out_problems_are_taken(setup):
    setup.write_rows(setup.held_out, [{"problem": "p", "answer": "1"}] * 3)
    setup.set(eval={"max_problems": 2})
    assert len(setup.check().evals["held_out"].prompts) == 2


def test_a_run_is_resumed_with_its_own_config(setup):
    setup.record_run()
    setup.check()


def test_a_longer_run_that_needs_less_memory_is_still_the_same_run(setup):
    setup.record_run(trainer={"num_steps": 7, "micro_batch_tokens": 4096}, logger={"wandb": "off"})
    setup.check()


def test_published_figures_may_be_added_to_a_run_that_has_begun(setup):
    bench = {"role": "eval", "sources": {"s": {"files": ["f"]}}}
    recorded, config = (
        load_config(
            setup.config | {"data": setup.config["data"] | {"sets": {"x": bench | figures}}}
        )
        for figures in ({}, {"published": {"tiny": {"avg@64": 30.0}}})
    )
    assert first_difference(recorded, config) is None
    assert first_difference(config, recorded) is None


def test_what_only_the_plan_reads_may_be_told_to_a_run_that_has_begun(setup):
    setup.record_run()
    sizes = dict.fromkeys(("hidden_size", "intermediate_size", "num_layers", "num_heads"), 8)
    sizes |= dict.fromkeys(("num_kv_heads", "head_dim", "vocab_size", "max_position"), 8)
    setup.set(cluster={"gpu_memory_gb": 80}, model={"shape": sizes})
    setup.check()


def test_a_key_that_the_recorded_config_lacks_takes_its_default(setup):
    path = setup.record_run() / CONFIG_FILE
    plain = yaml.safe_load(path.read_text())
    del plain["optimizer"]["weight_decay"]
    path.write_text(yaml.safe_dump(plain))
    setup.check()


def test_the_first_difference_is_named_with_both_values(setup):
    recorded = load_config(setup.config)
    changes = {"optimizer": {"weight_decay": 0.5}, "trainer": {"num_steps": 1}}
    setup.set(algo={"name": "dapo", "loss": {}}, **changes)
    assert first_difference(recorded, load_config(setup.config)) == ("algo.name", "grpo", "dapo")
    assert first_difference(recorded, recorded) is None


def test_a_section_that_the_run_has_not_is_named_as_a_whole(setup):
    setup.record_run(model={"lora": None})
    setup.set(model={"lora": {}})
    with pytest.raises(CheckpointError, match=r"set model\.lora=null;"):
        setup.check()


def test_a_foreign_run_directory_is_left_as_it_was(setup):
    folder = setup.record_run(optimizer={"learning_rate": 1e-3})
    before = (folder / CONFIG_FILE).read_text()
    with pytest.raises(CheckpointError):
        setup.check()
    assert (folder / CONFIG_FILE).read_text() == before


def test_gpus_are_counted_as_far_as_they_are_visible(setup):
    setup.gpus("GPU 0: H100 (UUID: GPU-1)\nGPU 1: H100 (UUID: GPU-2)")
    assert machine.visible_gpus() == 2
    setup.patch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert machine.visible_gpus() == 1


def test_the_suggested_share_of_the_cpus_is_accepted(setup):
    setup.cpus(2)
    setup.set(cluster={"policy_workers": 4, "cpus_per_worker": 0.38})
    setup.check()


def test_an_existing_cluster_is_not_measured_by_this_machine(setup):
    setup.cpus(1)
    setup.set(cluster={"address": "auto", "policy_workers": 4})
    setup.check()


def test_rows_that_nothing_can_be_judged_by_are_left_out_and_counted_on_demand(setup: Setup):
    setup.write_rows(
        setup.train, [{"problem": "p", "answer": a} for a in ["1", "2", "}", "3", "4"]]
    )
    setup.set(reward={"bad_truths": "drop"})
    train = setup.check().train
    assert [prompt.ground_truth for prompt in train.prompts] == ["1", "2", "3", "4"]
    assert train.dropped == {"too_long": 0, "unjudgeable": 1}
    setup.write_rows(setup.train, [{"problem": "p", "answer": "}"}])
    with pytest.raises(ConfigError, match="Row 1"):
        setup.check()


def test_running_programs_without_a_sandbox_is_warned_about_at_every_start(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", "/nowhere")  # no bubblewrap, so no level A
    sandbox = {"level": "A", "allow_unsafe_code_execution": True}
    setup.set(reward={"name": "code", "sandbox": sandbox})
    for _ in range(2):
        (warning,) = check_setup(load_config(setup.config))
        assert warning.startswith("warning: no sandbox holds here")
    setup.set(reward={"name": "math"})
    assert check_setup(load_config(setup.config)) == []
