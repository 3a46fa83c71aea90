"""The plug-ins of one ``algo`` section, resolved, with their parameters checked."""

from __future__ import annotations

import difflib
import importlib
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import ValidationError

from archer.algos.advantages import Advantage
from archer.algos.bonuses import Bonus
from archer.algos.corrections import Correction
from archer.algos.objective import Need, Objective, PluginConfig
from archer.config.schema import readable
from archer.errors import ConfigError

if TYPE_CHECKING:
    from archer.config.keys import AlgoConfig

Plugin = TypeVar("Plugin")


@dataclass(frozen=True)
class Algorithm:
    """Objective, advantage estimator, bonus and correction of a run, and what they need."""

    objective: Objective
    loss_config: Any
    advantage: Advantage
    advantage_config: Any
    bonus: Bonus
    bonus_config: Any
    correction: Correction
    correction_config: Any
    needs: frozenset[Need]
    """All that the trainer has to compute."""
    driver_needs: frozenset[Need]
    """The part that is needed before the update, even if that is exactly on-policy."""


def resolve_algorithm(algo: AlgoConfig) -> Algorithm:
    """Find every plug-in by name or dotted path and check its parameters.

    Raises:
        ConfigError: an unknown name, or a parameter that the plug-in does not take.
    """
    from archer.algos import ADVANTAGES, BONUSES, CORRECTIONS

    objective = resolve_objective(algo.name)
    advantage = _resolve("algo.advantage", algo.advantage, ADVANTAGES, Advantage)
    bonus = _resolve("algo.bonus", algo.bonus, BONUSES, Bonus)
    correction = _resolve("algo.correction", algo.correction, CORRECTIONS, Correction)
    loss_config = _check("algo.loss", objective.config, algo.loss)
    driver_needs = set(advantage.needs | bonus.needs | objective.prepare_needs(loss_config))
    if algo.correction != "none":
        driver_needs.add("old_logprobs")
    if algo.kl_in_reward:
        driver_needs |= {"old_logprobs", "ref_logprobs"}
    if algo.greedy_fail_only:
        driver_needs.add("greedy")
    return Algorithm(
        objective=objective,
        loss_config=loss_config,
        advantage=advantage,
        advantage_config=_check("algo.advantage_args", advantage.config, algo.advantage_args),
        bonus=bonus,
        bonus_config=_check("algo.bonus_args", bonus.config, algo.bonus_args),
        correction=correction,
        correction_config=_check("algo.correction_args", correction.config, algo.correction_args),
        needs=objective.needs(loss_config) | driver_needs,
        driver_needs=frozenset(driver_needs),
    )


def resolve_objective(name: str) -> Objective:
    """An objective by name, or by the dotted path of one in a user's own module.

    Raises:
        ConfigError: no such objective; the message lists the known ones.
    """
    from archer.algos import OBJECTIVES

    return _resolve("algo.name", name, OBJECTIVES, Objective)


def _resolve(key: str, name: str, known: Mapping[str, Plugin], kind: type[Plugin]) -> Plugin:
    if name in known:
        return known[name]
    module_name, _, attribute = name.rpartition(".")
    if not module_name:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            key, name, f"one of {', '.join(known)} or a dotted path", f"Choose one.{hint}"
        )
    try:
        plugin = getattr(_import(key, name, module_name), attribute)
    except AttributeError as error:
        mend = f"Name an attribute that the module has: {error}."
        raise ConfigError(key, name, "an importable module.attribute", mend) from error
    if not isinstance(plugin, kind):
        raise ConfigError(
            key, name, f"an archer.algos.{kind.__name__}", f"It is a {type(plugin).__name__}."
        )
    return plugin


def _import(key: str, name: str, module_name: str) -> ModuleType:
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises
        is_absent = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(
            f"{error.name}."
        )
        if is_absent:
            mend = f"{error}. Start from the folder that holds the module, or set PYTHONPATH."
        else:
            mend = f"Mend {_place(error)}{type(error).__name__}: {error}."
        raise ConfigError(key, name, "an importable module.attribute", mend) from error


def _place(error: Exception) -> str:
    """File and line of the statement, at the top of its module, that raised."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: "
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{f.filename}, line {f.lineno}: " for f in frames if f.name == "<module>"]
    return lines[-1] if lines else ""


def _check(key: str, config: type[PluginConfig], values: dict[str, Any]) -> PluginConfig:
    try:
        return config.model_validate(values)
    except ValidationError as error:
        raise readable(error, config, f"{key}.") from error
