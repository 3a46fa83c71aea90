"""Rows to prompts, and the order in which training meets them."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jinja2 import TemplateError

from archer.config.keys import DataConfig
from archer.datasets import Row
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

    An embedded task writes its files to ``<cache>/data/`` at first use.
    """
    if data.task is None:
        train = {"data.train": Path(data.train)} if data.train else {}
        return train | {f"data.eval.{name}": Path(path) for name, path in data.eval.items()}
    task = TASKS[data.task]
    source = inspect.getsource(sys.modules[task.draw.__module__])
    content = json.dumps([source, data.train_size, data.eval_size, TASK_SEED])
    folder = cache / "data" / f"{task.name}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    task.write_dataset(folder, data.train_size, data.eval_size, TASK_SEED)
    return {"data.train": folder / "train.jsonl", f"data.eval.{task.name}": folder / "eval.jsonl"}


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
    rows = list(rows)
    texts = [_render(key, row, data, tokenizer) for row in rows]
    prefix = f"{key.removeprefix('data.eval.')}-" if key.startswith("data.eval.") else ""
    prompts = []
    for start in range(0, len(rows), ENCODE_CHUNK):
        chunk = slice(start, start + ENCODE_CHUNK)
        tokens = tokenizer.encode(texts[chunk], add_special_tokens=not data.chat_template)
        prompts += [
            Prompt(f"{prefix}{row.number}", ids, text, row.ground_truth, row.source, row.extra)
            for row, text, ids in zip(rows[chunk], texts[chunk], tokens, strict=True)
        ]
    kept = tuple(p for p in prompts if len(p.tokens) <= data.max_prompt_tokens)
    if not kept:
        shortest = min(len(p.tokens) for p in prompts)
        raise ConfigError(
            "data.max_prompt_tokens",
            data.max_prompt_tokens,
            f"a limit that keeps some of the {len(prompts)} prompts of {key}",
            f"The shortest has {shortest} tokens: raise it to {shortest} or more.",
        )
    return PromptSet(kept, {"too_long": len(prompts) - len(kept)})


def _render(key: str, row: Row, data: DataConfig, tokenizer: Tokenizer) -> str:
    """The text that the model continues."""
    if isinstance(row.prompt, str):
        text = data.prompt_template.replace("{problem}", row.prompt)
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
        return tokenizer.render(messages)
    except TemplateError as error:
        roles = ", ".join(m["role"] for m in messages)
        mend = f"Row {row.number} ({roles}): {error}. Change these messages, or drop the row."
        raise ConfigError(key, roles, "messages that the chat template accepts", mend) from error


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
