"""Everything that can be wrong before a run starts, found on the driver before any actor exists.

``check_setup`` takes seconds and needs no model, so it comes before a warm start is trained;
``check_inputs`` reads the model's files and every prompt. The first problem found is raised.
Evaluation needs less than training: ``check_tools`` and ``check_eval_inputs`` are its share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from archer.config.keys import CommonConfig, RewardConfig, TrainConfig
from archer.config.schema import suggestion
from archer.datasets import Row, read_rows
from archer.errors import ConfigError
from archer.models.folder import ModelFolder, open_model
from archer.models.tokenizer import Tokenizer, load_tokenizer
from archer.prompts import PromptSet, dataset_files, load_prompts
from archer.rewards import resolve_reward
from archer.rewards.checks import check_reward
from archer.runtime.machine import check_machine
from archer.runtime.run_directory import check_disk, check_run_directory, check_writable


@dataclass(frozen=True)
class EvalInputs:
    """What an evaluation starts from, checked."""

    tokenizer: Tokenizer
    evals: dict[str, PromptSet]
    """Set name to prompts."""
    model_path: str
    """Absolute folder or hub id, for every worker to load on its own node."""
    eos_token_ids: tuple[int, ...]
    """Any of these ends a response; the tokenizer's own comes first."""
    window: int | None
    """Longest sequence of the model in tokens; None where it declares no limit."""
    vocab_size: int
    num_parameters: int


@dataclass(frozen=True)
class Inputs(EvalInputs):
    """What a training run starts from, checked."""

    train: PromptSet


@dataclass(frozen=True)
class _Rows:
    """Rows of a prompt file, and how many were left out because nothing can be judged by them."""

    judgeable: list[Row]
    num_unjudgeable: int


def check_tools(config: CommonConfig) -> list[str]:
    """The machine, the reward and the cache.

    Returns:
        Warnings for the user.

    Raises:
        ConfigError: responses cannot be sampled and judged here; says why and how to mend it.
    """
    check_machine(config)
    warnings = check_reward(config.reward)
    check_writable("run.cache", config.run.cache, Path(config.run.cache).expanduser())
    return warnings


def check_setup(config: TrainConfig) -> list[str]:
    """The machine, the reward, the cache and the run directory.

    Returns:
        Warnings for the user.

    Raises:
        ConfigError: the run cannot work here; says why and how to mend it.
    """
    warnings = check_tools(config)
    check_run_directory(config)
    return warnings


def check_inputs(config: TrainConfig, model_path: str | Path | None = None) -> Inputs:
    """Read and check the data, the model's files and the tokenizer of a training run.

    Args:
        model_path: the model, where it is not ``config.model.path``: a warm-started one.

    Raises:
        ConfigError: names the key or file, the row if there is one, and how to mend it.
    """
    rows = _read_data(config)
    _check_sources(config.reward, rows)
    model, tokenizer = _open_model(config, model_path)
    prompts = _load_prompts(config, rows, model, tokenizer)
    train = prompts.pop("data.train")
    if len(train.prompts) < config.trainer.prompts_per_step:
        raise ConfigError(
            "trainer.prompts_per_step",
            config.trainer.prompts_per_step,
            f"at most the {len(train.prompts)} usable training prompts",
            "Lower it, or train on more prompts.",
        )
    check_disk(config, model.num_parameters)
    return Inputs(**vars(_eval_inputs(model, tokenizer, prompts)), train=train)


def check_eval_inputs(config: CommonConfig, model_path: str | Path | None = None) -> EvalInputs:
    """``check_inputs`` for an evaluation, which reads the held-out sets only."""
    rows = _read_data(config, only="data.eval.")
    model, tokenizer = _open_model(config, model_path)
    return _eval_inputs(model, tokenizer, _load_prompts(config, rows, model, tokenizer))


def _eval_inputs(
    model: ModelFolder, tokenizer: Tokenizer, prompts: dict[str, PromptSet]
) -> EvalInputs:
    return EvalInputs(
        tokenizer=tokenizer,
        evals={key.removeprefix("data.eval."): found for key, found in prompts.items()},
        model_path=model.name,
        eos_token_ids=_eos_token_ids(model, tokenizer),
        window=model.window,
        vocab_size=model.vocab_size,
        num_parameters=model.num_parameters,
    )


def _read_data(config: CommonConfig, only: str = "data.") -> dict[str, _Rows]:
    """Rows of every prompt file by config key, before anything large is downloaded for them."""
    files = {
        key: path
        for key, path in dataset_files(config.data, Path(config.run.cache).expanduser()).items()
        if key.startswith(only)
    }
    limit = config.eval.max_problems
    rows = {
        key: list(islice(read_rows(path, key), None if key == "data.train" else limit))
        for key, path in files.items()
    }
    return {key: _judgeable(config.reward, key, files[key], found) for key, found in rows.items()}


def _open_model(
    config: CommonConfig, model_path: str | Path | None
) -> tuple[ModelFolder, Tokenizer]:
    path = model_path or config.model.path
    assert path is not None, "a warm-started model has to be passed in"
    model = open_model(str(path))
    tokenizer = load_tokenizer(model.path)
    _check_window(config, model)
    _check_templates(config, tokenizer)
    return model, tokenizer


def _load_prompts(
    config: CommonConfig, rows: dict[str, _Rows], model: ModelFolder, tokenizer: Tokenizer
) -> dict[str, PromptSet]:
    prompts = {}
    for key, found in rows.items():
        loaded = load_prompts(key, found.judgeable, config.data, tokenizer)
        dropped = loaded.dropped | {"unjudgeable": found.num_unjudgeable}
        prompts[key] = PromptSet(loaded.prompts, dropped)
    for key, loaded in prompts.items():
        _check_tokens(key, loaded, model)
    return prompts


def _judgeable(config: RewardConfig, key: str, path: Path, rows: Sequence[Row]) -> _Rows:
    """Leave out the rows that no response can be judged by.

    Raises:
        ConfigError: others are to be refused, or none is left.
    """
    reward = resolve_reward(config.name, config.args)
    problems: dict[int, ValueError] = {}
    for row in rows:
        try:
            reward.check(row.ground_truth, row.source, config.args)
        except ValueError as error:
            problems[row.number] = error
    if problems and (config.bad_truths == "stop" or len(problems) == len(rows)):
        number, first = next(iter(problems.items()))
        also = f" {len(problems) - 1} more rows are like it." if len(problems) > 1 else ""
        raise ConfigError(
            key,
            str(path),
            f"truths that reward={config.name} can judge by",
            f"Row {number}: {_brief(str(first))}.{also} Choose a reward that reads them, "
            "drop these rows, or let reward.bad_truths=drop leave them out.",
        ) from first
    return _Rows([row for row in rows if row.number not in problems], len(problems))


def _check_sources(config: RewardConfig, rows: dict[str, _Rows]) -> None:
    sources = {row.source for found in rows.values() for row in found.judgeable}
    for name in config.max_concurrency.keys() - sources:
        raise ConfigError(
            f"reward.max_concurrency.{name}",
            config.max_concurrency[name],
            f"a data source of the run: {_brief(', '.join(sorted(sources)))}",
            f"Fix its name, or remove it.{suggestion(name, sorted(sources))}",
        )


def _brief(text: str, num_chars: int = 300) -> str:
    """Its beginning and its end: a reward may name what is wrong before or after the value."""
    half = num_chars // 2
    return text if len(text) <= num_chars else f"{text[:half]} ... {text[-half:]}"


def _check_window(config: CommonConfig, model: ModelFolder) -> None:
    if model.window is not None and config.max_sequence_tokens > model.window:
        raise ConfigError(
            "sampling.max_response_tokens",
            config.sampling.max_response_tokens,
            f"data.max_prompt_tokens={config.data.max_prompt_tokens} plus this to fit the model's "
            f"window of {model.window} tokens",
            "Lower either limit, or choose a model with a longer window.",
        )


def _check_templates(config: CommonConfig, tokenizer: Tokenizer) -> None:
    data = config.data
    if "{problem}" not in data.prompt_template:
        raise ConfigError(
            "data.prompt_template",
            data.prompt_template,
            "a text with {problem} in it",
            "Put {problem} where the problem belongs.",
        )
    if data.chat_template and not tokenizer.has_chat_template:
        raise ConfigError(
            "data.chat_template",
            True,
            "false, because this model's tokenizer has no chat template",
            "Set data.chat_template=false, or add a chat_template.jinja to the model folder.",
        )


def _check_tokens(key: str, loaded: PromptSet, model: ModelFolder) -> None:
    for prompt in loaded.prompts:
        if not len(prompt.tokens):
            mend = f"Prompt {prompt.id} is {prompt.text!r}. Drop it."
            raise ConfigError(key, prompt.text, "prompts of at least one token", mend)
        largest = int(prompt.tokens.max())
        if largest >= model.vocab_size:
            raise ConfigError(
                "model.path",
                model.name,
                f"token ids below the model's vocabulary of {model.vocab_size}",
                f"Prompt {prompt.id} of {key} has token {largest}: use the tokenizer that belongs "
                "to the model.",
            )


def _eos_token_ids(model: ModelFolder, tokenizer: Tokenizer) -> tuple[int, ...]:
    own = () if tokenizer.eos_token_id is None else (tokenizer.eos_token_id,)
    ids = tuple(dict.fromkeys((*own, *model.eos_token_ids)))
    if not ids:
        raise ConfigError(
            "model.path",
            model.name,
            "a model that says which token ends a response",
            "Set eos_token_id in its generation_config.json.",
        )
    return ids
