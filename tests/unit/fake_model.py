"""A model folder made on the spot: a character tokenizer and weights of the right form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

CHAT_TEMPLATE = (
    "<bos>{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
    "{% endif %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
SPECIAL_TOKENS = ["<pad>", "<bos>", "<eos>", "<unk>"]
VOCAB_SIZE = len(SPECIAL_TOKENS) + 96


def write_tokenizer(folder: Path, chat_template: str | None = CHAT_TEMPLATE) -> Path:
    """One token per character: newline and printable ASCII, ids from 4."""
    alphabet = ["\n", *map(chr, range(32, 127))]
    vocabulary = {token: i for i, token in enumerate([*SPECIAL_TOKENS, *alphabet])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<eos>"}
    if chat_template:
        config["chat_template"] = chat_template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_model(folder: Path, **config: object) -> Path:
    """A folder that preflight accepts; ``config`` overrides keys of ``config.json``."""
    write_tokenizer(folder)
    content = {
        "model_type": "qwen2",
        "vocab_size": VOCAB_SIZE,
        "max_position_embeddings": 256,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(content | config))
    save_file({"embed": np.zeros((VOCAB_SIZE, 2), np.float32)}, folder / "model.safetensors")
    return folder
