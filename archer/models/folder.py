"""What the driver must know of a model without loading it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from archer.config.keys import ShapeConfig
from archer.errors import ConfigError

TOKENIZER_FILES = ("*.json", "*.jinja")
HUB_FILES = (*TOKENIZER_FILES, "*.py", "*.safetensors")
ATTENTION_EXTRAS = ("attn_logit_softcapping", "attention_dropout")
"""Keys of ``config.json`` that change what attention computes."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class ModelFolder:
    path: Path
    """Folder on this machine; of a hub model, its snapshot in the hub's cache."""
    name: str
    """What workers load: the absolute folder, or the hub id, which each node caches itself."""
    vocab_size: int
    window: int | None
    """Longest sequence in tokens; None where the model declares no limit."""
    eos_token_ids: tuple[int, ...]
    """Tokens that end a response, as ``generation_config.json`` or ``config.json`` lists them."""
    num_parameters: int
    shape: ShapeConfig | None
    """Its sizes; None of an architecture that they do not describe."""
    layers: frozenset[str]
    """Names of the weight matrices of its blocks, such as ``q_proj``; empty where the weights are
    pickled and cannot be looked into."""
    attention_extras: tuple[str, ...]
    """Those of ``ATTENTION_EXTRAS`` that it sets."""


def open_model(path: str) -> ModelFolder:
    """Check a model's files and read its limits. Hub models are downloaded at first use.

    Raises:
        ConfigError: no such folder or hub model, or a file is missing or torn.
    """
    is_local = Path(path).expanduser().is_dir()
    folder = Path(path).expanduser() if is_local else _fetch(path)
    config = _read_json(path, folder / "config.json")
    text_config = config.get("text_config", config)  # where multimodal models keep these keys
    if not isinstance(text_config.get("vocab_size"), int):
        _refuse(
            path,
            "a language model",
            "config.json has no vocab_size. Is it the folder of another kind of model?",
        )
    num_parameters, layers = _read_weights(path, _weight_files(path, folder))
    generation = folder / "generation_config.json"
    eos = _read_json(path, generation).get("eos_token_id") if generation.is_file() else None
    eos = config.get("eos_token_id", text_config.get("eos_token_id")) if eos is None else eos
    return ModelFolder(
        path=folder,
        name=str(folder.resolve()) if is_local else path,
        vocab_size=text_config["vocab_size"],
        window=text_config.get("max_position_embeddings"),
        eos_token_ids=() if eos is None else tuple(eos) if isinstance(eos, list) else (eos,),
        num_parameters=num_parameters,
        layers=layers,
        shape=_shape(text_config),
        attention_extras=tuple(key for key in ATTENTION_EXTRAS if text_config.get(key)),
    )


def read_shape(path: str) -> ShapeConfig | None:
    """Sizes of a model, from its ``config.json`` alone; None of an architecture they do not fit.

    Raises:
        ConfigError: no such folder or hub model, or the file is missing or torn.
    """
    config = _read_json(path, tokenizer_folder(path) / "config.json")
    return _shape(config.get("text_config", config))


def _shape(config: dict[str, Any]) -> ShapeConfig | None:
    """From the keys of ``config.json``; experts and soft caps (Gemma 2) are not described."""
    has_experts = "num_experts" in config or "num_local_experts" in config
    if has_experts or config.get("attn_logit_softcapping"):
        return None
    try:
        heads, hidden = config["num_attention_heads"], config["hidden_size"]
        return ShapeConfig(
            hidden_size=hidden,
            intermediate_size=config["intermediate_size"],
            num_layers=config["num_hidden_layers"],
            num_heads=heads,
            num_kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=config.get("head_dim") or hidden // heads,
            vocab_size=config["vocab_size"],
            max_position=config["max_position_embeddings"],
            tie_embeddings=config.get("tie_word_embeddings", False),
            qk_norm=str(config.get("model_type")).startswith("qwen3"),
        )
    except (KeyError, TypeError, ValueError):  # pydantic's ValidationError is a ValueError
        return None


def tokenizer_folder(path: str) -> Path:
    """A folder with the model's tokenizer; of a hub model nothing else is downloaded.

    Raises:
        ConfigError: no such folder or hub model.
    """
    folder = Path(path).expanduser()
    return folder if folder.is_dir() else _fetch(path, TOKENIZER_FILES)


def _fetch(path: str, files: Sequence[str] = HUB_FILES) -> Path:
    """Download files of a hub model, or find them in the hub's cache."""
    if Path(path).expanduser().is_file():
        _refuse(path, "a model folder", "This is a file. Name the folder that holds config.json.")

    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(snapshot_download(path, allow_patterns=list(files)))
    except HFValidationError as error:
        mend = f"There is no such folder in {Path.cwd()}, and it is no hub id. Check the path."
        _refuse(path, "an existing model folder or a hub id", mend, error)
    except OSError as error:  # every network, permission and cache error of the hub client
        reason = str(error).strip().partition("\n")[0]
        _refuse(
            path,
            "an existing model folder or a reachable hub id",
            f"There is no such folder, and the hub gives no such model: {reason} Check the name "
            "and the network, log in if the model is gated, or download it elsewhere "
            f"(hf download {path}) and give the folder.",
            error,
        )


def _weight_files(path: str, folder: Path) -> list[Path]:
    """The files that hold the weights: one, or the shards an index lists."""
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = sorted(set(_read_json(path, index).get("weight_map", {}).values()))
            missing = [shard for shard in shards if not (folder / shard).is_file()]
            if missing or not shards:
                listed = ", ".join(missing) or "every shard"
                _refuse(
                    path, f"all shards of {index.name}", f"Missing: {listed}. Download them again."
                )
            return [folder / shard for shard in shards]
        if (folder / name).is_file():
            return [folder / name]
    mend = (
        "Add them; of a hub model only safetensors are fetched: give the folder of `hf download`."
    )
    _refuse(path, "a model folder with weights", f"It has neither {' nor '.join(WEIGHTS)}. {mend}")


def _read_weights(path: str, files: Iterable[Path]) -> tuple[int, frozenset[str]]:
    """Number of parameters, and names of the weight matrices of the blocks."""
    from safetensors import SafetensorError, safe_open

    total, layers = 0, set()
    for file in files:
        if file.suffix != ".safetensors":
            total += file.stat().st_size // 2  # pickled: cannot be looked into; take two bytes each
            continue
        try:
            with safe_open(file, "np") as tensors:
                shapes = {k: tensors.get_slice(k).get_shape() for k in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            mend = f"{file.name} is torn, or a Git LFS pointer: {error}. Download it again."
            _refuse(path, "complete weights", mend, error)
        total += sum(map(prod, shapes.values()))
        layers |= {_layer_name(k) for k, shape in shapes.items() if _is_in_block(k, shape)}
    return total, frozenset(layers)


def _layer_name(key: str) -> str:
    return key.removesuffix(".weight").rpartition(".")[2]


def _is_in_block(key: str, shape: list[int]) -> bool:
    """Blocks are numbered; embeddings and the head are not, and norms have one dimension."""
    return len(shape) == 2 and any(part.isdigit() for part in key.split("."))


def _read_json(path: str, file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        _refuse(path, "a model folder", f"It has no {file.name}. Add it, or check the path.", error)
    except ValueError as error:
        _refuse(
            path, f"a readable {file.name}", f"It is not JSON: {error}. Download it again.", error
        )
    if not isinstance(content, dict):
        _refuse(path, f"a readable {file.name}", "It is not a JSON object. Download it again.")
    return content


def _refuse(path: str, expected: str, mend: str, cause: Exception | None = None) -> NoReturn:
    raise ConfigError("model.path", path, expected, mend) from cause
