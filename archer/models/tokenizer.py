"""Text to tokens and back, on the driver.

The only tokenizer of a run: engines and trainers exchange token ids. It reads ``tokenizer.json`` as
it is, through the one class of transformers that does so without importing torch.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from archer.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


class Tokenizer:
    # The casts: transformers types each method by all that its options could make it return.

    def __init__(self, backend: PreTrainedTokenizerFast, folder: Path):
        self._backend, self._folder = backend, folder

    @property
    def has_chat_template(self) -> bool:
        return self._backend.chat_template is not None

    @property
    def eos_token_id(self) -> int | None:
        return cast(int | None, self._backend.eos_token_id)

    def chat_template_reads(self, variable: str) -> bool:
        """Whether the chat template has a variable of that name for its user to set."""
        if variable in ("messages", "add_generation_prompt"):  # ours
            return False
        return bool(re.search(rf"\b{re.escape(variable)}\b", str(self._backend.chat_template)))

    def render(
        self, messages: Sequence[dict[str, str]], variables: Mapping[str, Any] | None = None
    ) -> str:
        """Chat messages as text, up to where the assistant's answer begins.

        Args:
            variables: of the chat template, such as Qwen3's ``enable_thinking``.

        Raises:
            jinja2.TemplateError: the template refuses these messages, e.g. a system role.
        """
        text = self._backend.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, **(variables or {})
        )
        return cast(str, text)

    def encode(self, texts: Sequence[str], add_special_tokens: bool) -> list[np.ndarray]:
        """Tokens of each text, int32 [T].

        Args:
            add_special_tokens: False for rendered chats, whose template wrote BOS already.
        """
        ids = self._backend(list(texts), add_special_tokens=add_special_tokens)["input_ids"]
        return [np.array(tokens, dtype=np.int32) for tokens in ids]

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """Text of the tokens without EOS and its like, spaces exactly as sampled."""
        text = self._backend.decode(
            list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return cast(str, text)

    def save(self, folder: Path) -> None:
        """Copy the tokenizer's files as they are: a rewritten config may load as another class."""
        for pattern in (
            "tokenizer*",
            "special_tokens_map.json",
            "chat_template*",
            "vocab*",
            "merges.txt",
        ):
            for file in self._folder.glob(pattern):
                shutil.copy(file, folder)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a model folder.

    Raises:
        ConfigError: the folder has no readable ``tokenizer.json``.
    """
    from transformers import PreTrainedTokenizerFast

    expected = "a model folder with its tokenizer"
    if not (folder / "tokenizer.json").is_file():
        raise ConfigError(
            "model.path",
            str(folder),
            expected,
            "tokenizer.json is missing. Copy it from the original model, or write it with "
            "AutoTokenizer.from_pretrained(ORIGINAL).save_pretrained(FOLDER).",
        )
    try:
        backend = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the Rust parser raises plain Exception
        mend = f"tokenizer.json or tokenizer_config.json cannot be read: {error}. Copy it again."
        raise ConfigError("model.path", str(folder), expected, mend) from error
    return Tokenizer(backend, folder)
