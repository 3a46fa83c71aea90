"""The tiny start model: supervised training on an embedded task, built once and kept.

``build_model`` runs on the driver and imports no torch. The training is a process of its own,
``python -m archer.warm_start``, which reports its progress as lines of JSON on stdout.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from archer.config.keys import ModelConfig, WarmStartConfig
from archer.console import Console
from archer.data.config import DataConfig
from archer.errors import ConfigError
from archer.runtime.cache import build_once
from archer.tasks import TASKS, Task

if TYPE_CHECKING:
    import torch
    from transformers import Qwen2ForCausalLM, Qwen2Tokenizer

RECIPE_VERSION = 1
"""Raise it when a change to this file gives other weights for the same config."""
SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
PAD, BOS, EOS, UNK = range(len(SPECIAL_TOKENS))
MAX_POSITIONS = 256
IGNORED = -100
"""Label of tokens without a loss, torch's default ``ignore_index``."""
REPORT_EVERY = 10
HEAD_SIZE = 32

Progress = Callable[[int, int, float], None]
"""Called with the steps done, the steps in all, and the loss of the last step in nats per token."""


def start_model(model: ModelConfig, cache_dir: Path, console: Console) -> Path | None:
    """The folder of the start model where the configuration asks for one to be built, else None."""
    if model.path is not None or model.warm_start is None:
        return None
    with console.progress("warm start", model.warm_start.steps) as advance:
        done = 0

        def progress(step: int, total: int, loss: float) -> None:
            nonlocal done
            advance(step - done, f"loss {loss:.3f}")
            done = step

        return build_model(model.warm_start, cache_dir, progress)


def check_warm_start(model: ModelConfig, data: DataConfig) -> None:
    """Refuse prompts that the start model to be built cannot read, before a minute goes into it.

    Raises:
        ConfigError: they need a chat template.
    """
    if model.path is None and model.warm_start is not None and data.chat_template:
        raise ConfigError(
            "data.chat_template",
            True,
            "false, because the model that model.warm_start builds has no chat template",
            "Choose a model, such as model=r1-distill-1.5b, or set data.chat_template=false.",
        )


def build_model(config: WarmStartConfig, cache_dir: Path, progress: Progress) -> Path:
    """The Hugging Face folder of the warm-started model, built at first use.

    Args:
        cache_dir: the model goes to ``<cache_dir>/models/``, under a name that changes with the
            config, the task's source and ``RECIPE_VERSION``.
        progress: hears about the training; never called when the model exists already.

    Raises:
        ConfigError: ``hidden_size`` cannot be split into pairs of heads.
        RuntimeError: the training process failed; holds the end of what it wrote to stderr.
    """
    if config.hidden_size % (2 * HEAD_SIZE):
        raise ConfigError(
            "model.warm_start.hidden_size",
            config.hidden_size,
            f"a multiple of {2 * HEAD_SIZE}",
            f"Heads are {HEAD_SIZE} wide and come in pairs: round it up or down.",
        )

    def build(folder: Path) -> None:
        _train_in_subprocess(config, folder, progress)

    recipe = config.model_dump(mode="json", exclude={"task"})  # the name begins with the task
    name = TASKS[config.task].cache_name(RECIPE_VERSION, recipe)
    return build_once(cache_dir.expanduser() / "models" / name, build)


def _train_in_subprocess(config: WarmStartConfig, folder: Path, progress: Progress) -> None:
    arguments = ["--config", config.model_dump_json(), "--folder", str(folder)]
    command = [sys.executable, "-m", "archer.warm_start", *arguments]
    # One thread: small matrices gain nothing from more, and the order of float sums stays fixed.
    # And a named accelerator: DeepSpeed, which transformers imports by way of accelerate, would
    # otherwise tell on stdout which one it found.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
    with (
        tempfile.TemporaryFile("w+", errors="replace") as stderr,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
        ) as process,
    ):
        try:
            assert process.stdout is not None
            for line in process.stdout:
                report = json.loads(line)
                progress(report["step"], report["total"], report["loss"])
        except BaseException:
            process.kill()
            raise
        if process.wait() != 0:
            stderr.seek(0)
            message = stderr.read()[-2000:].strip() or "no message"
            raise RuntimeError(
                f"The warm start of model=tiny ended with status {process.returncode}: {message}"
            )


def make_tokenizer(alphabet: str) -> Qwen2Tokenizer:
    """One token per character, so that text -> tokens -> text gives back the text exactly.

    ``AutoTokenizer`` gives every qwen2 model a ``Qwen2Tokenizer`` whatever its folder says, hence a
    byte-level BPE that is left without merges. It drops characters outside the alphabet.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    # Byte-level BPE spells space and line break as other, visible characters.
    spelling = ByteLevel(add_prefix_space=False, use_regex=False)
    characters = [spelling.pre_tokenize_str(character)[0][0] for character in alphabet]
    return Qwen2Tokenizer(
        vocab={token: i for i, token in enumerate([*SPECIAL_TOKENS, *characters])},
        merges=[],
        pad_token=SPECIAL_TOKENS[PAD],
        bos_token=SPECIAL_TOKENS[BOS],
        eos_token=SPECIAL_TOKENS[EOS],
        unk_token=SPECIAL_TOKENS[UNK],
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )


def make_model(config: WarmStartConfig, vocab_size: int) -> Qwen2ForCausalLM:
    """A randomly initialised Qwen2 with ``HEAD_SIZE``-wide heads, two query heads per key head."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(config.seed)
    num_heads = config.hidden_size // HEAD_SIZE
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=3 * config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=num_heads,
            num_key_value_heads=num_heads // 2,
            max_position_embeddings=MAX_POSITIONS,
            tie_word_embeddings=config.tie_embeddings,
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
    )
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            torch.nn.init.normal_(module.weight, std=0.7 / module.in_features**0.5)
    # Last: a tied head is the embedding, and its rows must be small for the residual stream.
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=0.05)
    return model


def batches(
    config: WarmStartConfig, task: Task, tokenizer: Qwen2Tokenizer
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """``config.steps`` batches of fresh traces: tokens and labels, int64 [B, T], padded right.

    Labels are the tokens on the response with its EOS, and ``IGNORED`` on prompt and padding.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence

    rng = Random(config.seed)
    problems = task.problems(rng)
    for _ in range(config.steps):
        tokens, labels = [], []
        for problem in islice(problems, config.batch_size):
            prompt = tokenizer.encode(problem.prompt)
            response = [*tokenizer.encode(task.trace(problem, rng)), EOS]
            tokens.append(torch.tensor(prompt + response))
            labels.append(torch.tensor([IGNORED] * len(prompt) + response))
        yield (
            pad_sequence(tokens, batch_first=True, padding_value=PAD),
            pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        )


def train(config: WarmStartConfig, task: Task, folder: Path, progress: Progress) -> None:
    """Train the model from scratch and save it with its tokenizer to ``folder``."""
    import torch

    torch.set_num_threads(1)
    tokenizer = make_tokenizer(task.alphabet)
    model = make_model(config, len(tokenizer))
    optimizer = torch.optim.AdamW(
        model.parameters(), config.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, config.steps)
    )
    for step, (tokens, labels) in enumerate(batches(config, task, tokenizer), start=1):
        # No attention mask: causal attention never looks at the padding on the right.
        logits = model(tokens[:, :-1], use_cache=False).logits  # [B, T-1, V]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % REPORT_EVERY == 0 or step == config.steps:
            progress(step, config.steps, loss.item())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def learning_rate_factor(step: int, num_steps: int, warmup: int = 20, floor: float = 0.05) -> float:
    """Linear warm-up, then half a cosine down to ``floor``; ``step`` counts from 0."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the start model of an embedded task.")
    parser.add_argument("--config", type=WarmStartConfig.model_validate_json, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()

    def report(step: int, total: int, loss: float) -> None:
        print(json.dumps({"step": step, "total": total, "loss": loss}), flush=True)

    train(arguments.config, TASKS[arguments.config.task], arguments.folder, report)


if __name__ == "__main__":
    main()
