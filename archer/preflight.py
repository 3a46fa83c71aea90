"""Everything that can be wrong before a run starts, found on the driver before any actor exists.

``check_setup`` takes seconds and needs no model, so it comes before a warm start is trained;
``check_inputs`` reads the model's files and every prompt. The first problem found is raised.
Evaluation needs less than training: ``check_tools`` and ``check_eval_inputs`` are its share.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from archer.config.checks import check_lora_targets, check_window
from archer.config.keys import CommonConfig, RewardConfig, ShapeConfig, TrainConfig
from archer.config.schema import suggestion
from archer.data.prepared import is_prepared, stand_ins, stored_rows
from archer.data.rows import Row, read_rows
from archer.errors import ConfigError
from archer.evaluation.config import EvaluateConfig
from archer.models.folder import ModelFolder, open_model
from archer.models.tokenizer import Tokenizer, load_tokenizer
from archer.planning.memory_plan import check_plan
from archer.prompts import (
    PromptSet,
    check_chat_template,
    dataset_files,
    eval_files,
    load_prompts,
)
from archer.rewards import resolve_reward
from archer.rewards.checks import check_reward
from archer.runtime.machine import check_machine
from archer.runtime.run_directory import check_disk, check_run_directory, check_writable
from archer.warm_start import MAX_POSITIONS, check_warm_start


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
    shape: ShapeConfig | None
    """Sizes of the model; None of an architecture that they do not describe."""


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
    """The machine, the reward, the cache, and what is known of a model to be warm-started.

    Returns:
        Warnings for the user.

    Raises:
        ConfigError: responses cannot be sampled and judged here; says why and how to mend it.
    """
    warnings = _check_machine(config) + check_reward(config.reward)
    check_warm_start(config.model, config.data)
    if config.model.path is None and config.model.warm_start is not None:
        check_window(config, MAX_POSITIONS)
        _prompt_files(config)  # sets that are not prepared are told before it is trained
    cache = Path(config.run.cache).expanduser()
    check_writable("run.cache", config.run.cache, cache)
    return warnings + stand_ins(config.data.sets, cache)


def check_setup(config: TrainConfig) -> list[str]:
    """The machine, the reward, the cache and the run directory.

    A dry run may be of a run for other machines: what this one lacks is a warning.

    Returns:
        Warnings for the user.

    Raises:
        ConfigError: the run cannot work here; says why and how to mend it.
    """
    warnings = check_tools(config)
    check_run_directory(config)
    return warnings


def _check_machine(config: CommonConfig) -> list[str]:
    if isinstance(config, TrainConfig) and config.trainer.dry_run:
        return not_here(lambda: check_machine(config))
    check_machine(config)
    return []


def not_here(check: Callable[[], None]) -> list[str]:
    """What a check of this machine refuses, as a line of a dry run; none where all is well."""
    try:
        check()
    except ConfigError as error:
        return [f"not on this machine: {error}"]
    return []


def check_inputs(config: TrainConfig, model_path: str | Path | None = None) -> Inputs:
    """Read and check the data, the model's files and the tokenizer of a training run.

    Args:
        model_path: the model, where it is not ``config.model.path``: a warm-started one.

    Raises:
        ConfigError: names the key or file, the row if there is one, and how to mend it.
    """
    rows = _read_data(config)
    _check_sources(config, rows)
    model, tokenizer = _open_model(config, model_path)
    _check_attention(config, model)
    if model.shape is not None and not config.trainer.dry_run:
        check_plan(config, model.shape)
    prompts = _load_prompts(config, rows, model, tokenizer)
    train = prompts.pop("data.train")
    if len(train.prompts) < config.trainer.prompts_per_step:
        raise ConfigError(
            "trainer.prompts_per_step",
            config.trainer.prompts_per_step,
            f"at most the {len(train.prompts)} usable training prompts",
            "Lower it, or train on more prompts.",
        )
    if config.model.lora is not None and model.layers:
        check_lora_targets(config.model.lora, model.layers)
    if not config.trainer.dry_run:
        check_disk(config, model.num_parameters)
    return Inputs(**vars(_eval_inputs(model, tokenizer, prompts)), train=train)


def check_eval_inputs(config: EvaluateConfig, model_path: str | Path | None = None) -> EvalInputs:
    """``check_inputs`` for an evaluation, which reads the sets that it evaluates only."""
    rows = _read_data(config)
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
        shape=model.shape,
    )


def _prompt_files(config: CommonConfig) -> dict[str, Path]:
    """Config key to prompt file, of all that a run reads or that an evaluation evaluates."""
    cache = Path(config.run.cache).expanduser()
    if isinstance(config, EvaluateConfig):
        return eval_files(config.data, config.protocols, cache)
    return dataset_files(config.data, cache)


def _read_data(config: CommonConfig) -> dict[str, _Rows]:
    """Rows of every prompt file by config key, before anything large is downloaded for them."""
    limit = config.eval.max_problems
    return {
        key: _judgeable(config.reward, key, path, None if key == "data.train" else limit)
        for key, path in _prompt_files(config).items()
    }


def _open_model(
    config: CommonConfig, model_path: str | Path | None
) -> tuple[ModelFolder, Tokenizer]:
    path = model_path or config.model.path
    assert path is not None, "a warm-started model has to be passed in"
    model = open_model(str(path))
    tokenizer = load_tokenizer(model.path)
    check_window(config, model.window)
    check_chat_template(config.data, tokenizer)
    return model, tokenizer


def _check_attention(config: TrainConfig, model: ModelFolder) -> None:
    if config.model.attention == "varlen" and model.attention_extras:
        raise ConfigError(
            "model.attention",
            "varlen",
            f"eager with a model whose config.json sets {model.attention_extras[0]}",
            "The kernel of varlen does not know it: set model.attention=eager.",
        )


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


def _judgeable(config: RewardConfig, key: str, path: Path, limit: int | None) -> _Rows:
    """The first rows of a file, without those that no response can be judged by.

    Raises:
        ConfigError: the file is refused, or such rows are, or none is left.
    """
    reward = resolve_reward(config.name, config.args)
    # A verifier process that needs no files has given them up.
    is_stored = is_prepared(path) and not reward.is_self_contained
    rows = stored_rows(path, key) if is_stored else ((row, row) for row in read_rows(path, key))
    kept: list[Row] = []
    problem: tuple[int, ValueError] | None = None
    num_problems = 0
    for whole, row in islice(rows, limit):
        try:
            reward.check(whole.ground_truth, whole.source, config.args)
        except ValueError as error:
            problem, num_problems = problem or (whole.number, error), num_problems + 1
        else:
            kept.append(row)
    if problem and (config.bad_truths == "stop" or not kept):
        number, first = problem
        also = f" {num_problems - 1} more rows are like it." if num_problems > 1 else ""
        raise ConfigError(
            key,
            str(path),
            f"truths that reward={config.name} can judge by",
            f"Row {number}: {_brief(str(first))}.{also} Choose a reward that reads them, "
            "drop these rows, or let reward.bad_truths=drop leave them out.",
        ) from first
    return _Rows(kept, num_problems)


def _check_sources(config: TrainConfig, rows: dict[str, _Rows]) -> None:
    """Refuse limits of sources that are neither in the rows nor, as where ``eval.max_problems``
    reads only some of them, in the recipes: presets bring limits of their own."""
    sources = {row.source for found in rows.values() for row in found.judgeable}
    for recipe in config.data.sets.values():
        sources |= {source.data_source or name for name, source in recipe.sources.items()}
    reward = config.reward
    for key, limits in (
        ("max_concurrency", reward.max_concurrency),
        ("source_timeout_s", reward.source_timeout_s),
    ):
        for name in limits.keys() - sources:
            raise ConfigError(
                f"reward.{key}.{name}",
                limits[name],
                f"a data source of the run: {_brief(', '.join(sorted(sources)))}",
                f"Fix its name, or remove it.{suggestion(name, sorted(sources))}",
            )


def _brief(text: str, num_chars: int = 300) -> str:
    """Its beginning and its end: a reward may name what is wrong before or after the value."""
    half = num_chars // 2
    return text if len(text) <= num_chars else f"{text[:half]} ... {text[-half:]}"


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
