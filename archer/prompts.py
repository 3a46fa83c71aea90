"""Rows to prompts, and the order in which training meets them."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from jinja2 import TemplateError

from archer.config.keys import DataConfig
from archer.data.prepared import prepared_rows
from archer.data.rows import Row
from archer.errors import ConfigError
from archer.models.tokenizer import Tokenizer
from archer.seeds import derive_seed
from archer.tasks import TASKS
from archer.types import Prompt

TASK_SEED = 0
"""Seed of an embedded task's problems. Not the run's: its seeds share one held-out set."""
ENCODE_CHUNK = 1024
"""Texts tokenised in one call; bounds what the tokenizer holds beside the ids."""


@dataclass(frozen=True)
class PromptSet:
    prompts: tuple[Prompt, ...]
    dropped: dict[str, int]
    """Rows left out, by reason."""


def dataset_files(data: DataConfig, cache: Path) -> dict[str, Path]:
    """Config key to prompt file: ``data.train`` and one ``data.eval.<set>`` for each held-out set.

    Raises:
        ConfigError: a set has not been prepared, or there are several to train on.
    """
    if data.task is not None:
        return _task_files(data, data.task, cache)
    files = {"data.train": Path(data.train)} if data.train else {}
    files |= {f"data.eval.{name}": Path(path) for name, path in data.eval.items()}
    names: dict[str, str] = {}
    for name, recipe in data.sets.items():
        key = "data.train" if recipe.role == "train" else f"data.eval.{name}"
        if key in files or key in names:
            raise ConfigError(
                f"data.sets.{name}.role",
                recipe.role,
                f"no other {key}",
                "A run has one: list them as sources of one set, or choose one preset.",
            )
        names[key] = name
    rows = prepared_rows(data.sets, data.sets, cache)
    return files | {key: rows[name] for key, name in names.items()}


def eval_files(data: DataConfig, names: Collection[str], cache: Path) -> dict[str, Path]:
    """Config key to prompt file of an evaluation: one ``data.eval.<set>`` for each of its sets.

    Training sets may be among them. Sets that are not need not be prepared.

    Raises:
        ConfigError: a set has not been prepared.
    """
    if data.task is not None:
        files = _task_files(data, data.task, cache)
        return {key: path for key, path in files.items() if key != "data.train"}
    rows = prepared_rows([name for name in names if name not in data.eval], data.sets, cache)
    return {
        f"data.eval.{name}": Path(data.eval[name]) if name in data.eval else rows[name]
        for name in names
    }


def _task_files(data: DataConfig, name: str, cache: Path) -> dict[str, Path]:
    """The files of an embedded task, written to ``<cache>/data/`` at first use."""
    task = TASKS[name]
    source = inspect.getsource(sys.modules[task.draw.__module__])
    content = json.dumps([source, data.train_size, data.eval_size, TASK_SEED])
    folder = cache / "data" / f"{name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    task.write_dataset(folder, data.train_size, data.eval_size, TASK_SEED)
    return {"data.train": folder / "train.jsonl", f"data.eval.{name}": folder / "eval.jsonl"}


def load_prompts(
    key: str, rows: Iterable[Row], data: DataConfig, tokenizer: Tokenizer
) -> PromptSet:
    """Render, tokenise and drop what is too long.

    Args:
        key: config key of the file. Prompts of ``data.eval.<set>`` have ids ``<set>-<row>``,
            those of ``data.train`` just ``<row>``; ``PromptLoader`` puts the epoch before it.

    Raises:
        ConfigError: the chat template is needed but off, or refuses messages, or no prompt is left.
    """
    prefix = f"{key.removeprefix('data.eval.')}-" if key.startswith("data.eval.") else ""
    rows, kept = iter(rows), []
    too_long: list[int] = []
    while chunk := list(islice(rows, ENCODE_CHUNK)):
        texts = [render_prompt(key, row, data, tokenizer) for row in chunk]
        tokens = tokenizer.encode(texts, add_special_tokens=not data.chat_template)
        for row, text, ids in zip(chunk, texts, tokens, strict=True):
            if len(ids) > data.max_prompt_tokens:
                too_long.append(len(ids))
                continue
            id = f"{prefix}{row.number}"
            kept.append(Prompt(id, ids, text, row.ground_truth, row.source, row.extra))
    if not kept:
        shortest = min(too_long)
        raise ConfigError(
            "data.max_prompt_tokens",
            data.max_prompt_tokens,
            f"a limit that keeps some of the {len(too_long)} prompts of {key}",
            f"The shortest has {shortest} tokens: raise it to {shortest} or more.",
        )
    return PromptSet(tuple(kept), {"too_long": len(too_long)})


def template_of(key: str, data: DataConfig) -> str:
    """The text around the problems of a file.

    Args:
        key: config key of the file; that of a prepared set ends in its name, or is ``data.train``.
    """
    if data.prompt_template is not None:
        return data.prompt_template
    if key == "data.train":
        trained_on = (recipe.template for recipe in data.sets.values() if recipe.role == "train")
        return next(trained_on, "{problem}")
    recipe = data.sets.get(key.split(".", 2)[-1])
    return "{problem}" if recipe is None else recipe.template


def render_prompt(key: str, row: Row, data: DataConfig, tokenizer: Tokenizer) -> str:
    """The text that the model continues.

    Raises:
        ConfigError: the chat template is needed but off, or refuses the messages.
    """
    if isinstance(row.prompt, str):
        text = template_of(key, data).replace("{problem}", row.prompt)
        if not data.chat_template:
            return text
        messages: Sequence[dict[str, str]] = [{"role": "user", "content": text}]
    else:
        messages = row.prompt
        if not data.chat_template:
            raise ConfigError(
                "data.chat_template",
                False,
                f"true, because row {row.number} of {key} holds chat messages",
                "Set data.chat_template=true, or write the prompts as plain text.",
            )
    try:
        return tokenizer.render(messages, data.chat_template_args)
    except TemplateError as error:
        roles = ", ".join(m["role"] for m in messages)
        mend = f"Row {row.number} ({roles}): {error}. Change these messages, or drop the row."
        raise ConfigError(key, roles, "messages that the chat template accepts", mend) from error


def check_chat_template(data: DataConfig, tokenizer: Tokenizer) -> None:
    """Refuse a model without the chat template, or the variables of it, that prompts need.

    Raises:
        ConfigError: names the key, and what the model has.
    """
    if data.chat_template and not tokenizer.has_chat_template:
        raise ConfigError(
            "data.chat_template",
            True,
            "false, because this model's tokenizer has no chat template",
            "Set data.chat_template=false, or add a chat_template.jinja to the model folder.",
        )
    for name, value in data.chat_template_args.items():
        if not tokenizer.chat_template_reads(name):
            raise ConfigError(
                f"data.chat_template_args.{name}",
                value,
                "a variable of this model's chat template",
                f"Remove it with ~data.chat_template_args.{name}, or fix its name.",
            )


def describe_prompts(sets: Mapping[str, PromptSet]) -> list[str]:
    """A line for each set: prompts kept, and those dropped by reason."""
    return [
        f"prompts {name}: {len(found.prompts)}"
        + "".join(f", {count} dropped as {why}" for why, count in found.dropped.items() if count)
        for name, found in sets.items()
    ]


class PromptLoader:
    """Endless stream of training prompts; every epoch has its own order.

    The order follows from the seed alone, so ``position`` is the whole state to save.
    """

    def __init__(self, prompts: Sequence[Prompt], seed: int):
        assert prompts, "preflight refuses an empty dataset"
        self._prompts, self._seed = tuple(prompts), seed
        self.position = 0
        self._order_epoch = -1
        self._order = np.zeros(0, dtype=np.int64)

    def __len__(self) -> int:
        """Prompts in one epoch."""
        return len(self._prompts)

    def leave_out(self, ids: Collection[str]) -> None:
        """Train without these prompts, given by their ids without the epoch. Before the first."""
        self._prompts = tuple(p for p in self._prompts if p.id not in ids)

    def next(self) -> Prompt:
        """The prompt at ``position``, with its epoch in the id: ``<epoch>-<row>``."""
        epoch, index = divmod(self.position, len(self._prompts))
        if epoch != self._order_epoch:
            self._order_epoch, self._order = epoch, self._permutation(epoch)
        self.position += 1
        prompt = self._prompts[self._order[index]]
        return replace(prompt, id=f"{epoch}-{prompt.id}")

    def rewind(self, position: int) -> None:
        """Continue at a position saved earlier, before or after the present one."""
        self.position = position

    def _permutation(self, epoch: int) -> np.ndarray:
        """int64 [len(prompts)]"""
        seed = np.random.SeedSequence(derive_seed(self._seed, "prompt order", epoch))
        return np.random.Generator(np.random.PCG64(seed)).permutation(len(self._prompts))
