"""How many tokens the prompts of a set have for a model."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from statistics import median_low

from archer.data.config import DataConfig
from archer.data.report import TokenLengths
from archer.data.rows import Row
from archer.models.tokenizer import Tokenizer
from archer.prompts import ENCODE_CHUNK, render_prompt


def token_lengths(
    key: str, rows: Iterable[Row], data: DataConfig, tokenizer: Tokenizer
) -> TokenLengths:
    """Of the prompts as a run with this tokenizer has them, templates included.

    Args:
        key: config key of the set, ``data.sets.<set>``.

    Raises:
        ConfigError: the chat template is needed but off, or refuses the messages of a row.
    """
    texts = (render_prompt(key, row, data, tokenizer) for row in rows)
    lengths: list[int] = []
    while chunk := list(islice(texts, ENCODE_CHUNK)):
        tokens = tokenizer.encode(chunk, add_special_tokens=not data.chat_template)
        lengths += [len(ids) for ids in tokens]
    limit = data.max_prompt_tokens
    return TokenLengths(
        median=median_low(lengths),
        longest=max(lengths),
        limit=limit,
        num_over=sum(length > limit for length in lengths),
    )
