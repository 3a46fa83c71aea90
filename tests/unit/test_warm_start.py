import json
import os
import signal
import subprocess
import sys
import time
from itertools import islice
from random import Random

import pytest

from archer import warm_start
from archer.config.keys import WarmStartConfig
from archer.errors import ConfigError
from archer.runtime.cache import build_once
from archer.tasks.arithmetic import ARITHMETIC
from archer.warm_start import (
    EOS,
    IGNORED,
    PAD,
    batches,
    build_model,
    learning_rate_factor,
    make_tokenizer,
    train,
)

TINY = WarmStartConfig(steps=3, batch_size=2, hidden_size=64, num_layers=1)


def silent(step: int, total: int, loss: float) -> None:
    pass


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A three-step model, and the reports of its training."""
    reports = []
    cache = tmp_path_factory.mktemp("cache")
    folder = build_model(TINY, cache, lambda *report: reports.append(report))
    return cache, folder, reports


def test_built_folder_loads_as_the_causal_model_it_declares(built):
    from transformers import AutoModelForCausalLM

    _, folder, _ = built
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["Qwen2ForCausalLM"]
    assert config["max_position_embeddings"] == 256
    assert (config["eos_token_id"], config["pad_token_id"], config["vocab_size"]) == (2, 0, 100)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_untied_head_is_saved_as_a_weight_of_its_own(tmp_path):
    from safetensors import safe_open

    train(TINY.model_copy(update={"tie_embeddings": False}), ARITHMETIC, tmp_path, silent)
    with safe_open(tmp_path / "model.safetensors", "numpy") as weights:
        head, embedding = (
            weights.get_tensor(k) for k in ("lm_head.weight", "model.embed_tokens.weight")
        )
    assert head.shape == embedding.shape == (100, 64)
    assert (head != embedding).any()


@pytest.mark.parametrize("loader", ["AutoTokenizer", "PreTrainedTokenizerFast"])
def test_tokenizer_gives_back_the_text_exactly(built, loader):
    import transformers

    tokenizer = getattr(transformers, loader).from_pretrained(built[1])
    text = "\n\n  a ,b .c 's don't  \\boxed{12} \n" + ARITHMETIC.alphabet
    tokens = tokenizer.encode(text)
    assert len(tokens) == len(text)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.decode([*tokens, EOS], skip_special_tokens=True) == text
    assert tokenizer.encode("\n !") == [4, 5, 6]
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, len(tokenizer)) == (0, 2, 100)
    assert tokenizer.chat_template is None


def test_training_reports_its_last_step(built):
    (step, total, loss), *_ = built[2]
    assert (step, total) == (3, 3)
    assert 2.0 < loss < 8.0  # a model that knows nothing is near log(100) = 4.6


def test_second_call_returns_the_same_folder_without_training(built):
    cache, folder, _ = built
    before = (folder / "model.safetensors").stat().st_mtime_ns

    def refuse(step: int, total: int, loss: float) -> None:
        raise AssertionError("trained again")

    assert build_model(TINY, cache, refuse) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before


def test_same_config_gives_the_same_weights_and_another_seed_others(built, tmp_path):
    weights = (built[1] / "model.safetensors").read_bytes()
    for seed, is_same in ((0, True), (1, False)):
        folder = tmp_path / str(seed)
        train(TINY.model_copy(update={"seed": seed}), ARITHMETIC, folder, silent)
        assert ((folder / "model.safetensors").read_bytes() == weights) == is_same


def test_every_setting_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(warm_start, "build_once", lambda folder, build: folder)
    configs = [TINY, *(TINY.model_copy(update=u) for u in ({"seed": 1}, {"steps": 4}))]
    assert len({build_model(c, tmp_path, silent) for c in configs}) == 3


def test_interrupted_build_stops_the_training_and_leaves_nothing(tmp_path, monkeypatch):
    endless = tmp_path / "python"
    endless.write_text(
        """#!/bin/sh\necho '{"step": 1, "total": 3, "loss": 4.6}'\nexec sleep 60\n"""
    )
    endless.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(endless))

    def interrupt(step: int, total: int, loss: float) -> None:
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        build_model(TINY, tmp_path, interrupt)
    assert time.monotonic() - start < 20
    assert [p for p in (tmp_path / "models").iterdir() if p.suffix != ".lock"] == []


def test_failed_training_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')")
    with pytest.raises(RuntimeError, match=r"status 1: [\s\S]*no torch here"):
        build_model(TINY, tmp_path / "cache", silent)
    assert [p for p in (tmp_path / "cache/models").iterdir() if p.suffix != ".lock"] == []


def test_width_that_cannot_be_cut_into_heads_is_refused(tmp_path):
    config = TINY.model_copy(update={"hidden_size": 96})
    with pytest.raises(ConfigError, match=r"model\.warm_start\.hidden_size=96: .*multiple of 64"):
        build_model(config, tmp_path, silent)


def test_killed_builder_leaves_no_folder_and_the_next_one_builds(tmp_path):
    folder = tmp_path / "thing"
    hangs = (
        "import pathlib, sys, time; from archer.runtime.cache import build_once\n"
        "build_once(pathlib.Path(sys.argv[1]), "
        "lambda t: ((t / 'half').touch(), time.sleep(60)))"
    )
    builder = subprocess.Popen([sys.executable, "-c", hangs, str(folder)])
    try:
        deadline = time.monotonic() + 10
        while not list(tmp_path.glob("thing.tmp-*/half")) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert list(tmp_path.glob("thing.tmp-*/half"))
    finally:
        os.kill(builder.pid, signal.SIGKILL)
        builder.wait()
    assert not folder.exists()
    build_once(folder, lambda temporary: (temporary / "whole").touch())
    assert [p.name for p in folder.iterdir()] == ["whole"]
    assert list(tmp_path.glob("thing.tmp-*")) == []


def test_second_builder_waits_for_the_first_and_takes_its_result(tmp_path):
    script = (
        "import pathlib, sys, time; from archer.runtime.cache import build_once\n"
        "def build(t):\n"
        "    print('built')\n"
        "    time.sleep(0.5)\n"
        "build_once(pathlib.Path(sys.argv[1]), build)"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "thing")]
    builders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = [builder.communicate(timeout=20)[0] for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0]
    assert sorted(printed) == ["", "built\n"]


def test_driver_side_imports_no_torch():
    check = "import sys, archer.warm_start; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check]).returncode == 0


def test_loss_is_on_the_response_and_its_eos_only():
    tokenizer = make_tokenizer(ARITHMETIC.alphabet)
    tokens, labels = next(batches(TINY.model_copy(update={"batch_size": 8}), ARITHMETIC, tokenizer))
    assert (tokens == PAD).any()
    for row, targets in zip(tokens.tolist(), labels.tolist(), strict=True):
        start = row.index(4) + 1  # the line break that ends the prompt
        end = row.index(EOS) + 1
        assert targets[:start] == [IGNORED] * start
        assert targets[start:end] == row[start:end]
        assert set(targets[end:]) <= {IGNORED}
        assert set(row[end:]) <= {PAD}


def test_learning_rate_rises_linearly_and_ends_at_its_floor():
    assert learning_rate_factor(0, 700) == pytest.approx(1 / 20)
    assert learning_rate_factor(19, 700) == 1.0
    assert learning_rate_factor(360, 700) == pytest.approx(0.525)  # half way: 0.05 + 0.95 / 2
    assert learning_rate_factor(700, 700) == pytest.approx(0.05)


def test_warm_start_never_sees_a_held_out_problem():
    problems = list(islice(ARITHMETIC.problems(Random(0)), 1000))
    assert not any(problem.is_held_out for problem in problems)
    assert all(p.is_held_out for p in islice(ARITHMETIC.problems(Random(0), held_out=True), 100))
