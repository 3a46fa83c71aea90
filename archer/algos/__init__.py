"""Objectives, advantage estimators, KL estimators and aggregations.

Needs only torch, numpy and pydantic: ``import archer.algos`` works where Ray, vLLM and DeepSpeed
are absent.
"""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from archer.algos.advantages import ADVANTAGES
from archer.algos.aggregation import AGGREGATIONS
from archer.algos.archer import ARCHER, ARCHER_OFFICIAL
from archer.algos.dapo import DAPO
from archer.algos.grpo import GRPO
from archer.algos.objective import LossOutput, Need, Objective, ObjectiveConfig, TokenInputs
from archer.errors import ConfigError

OBJECTIVES: dict[str, Objective] = {
    "archer": ARCHER,
    "archer_official": ARCHER_OFFICIAL,
    "dapo": DAPO,
    "grpo": GRPO,
}

__all__ = [
    "ADVANTAGES",
    "AGGREGATIONS",
    "OBJECTIVES",
    "LossOutput",
    "Objective",
    "ObjectiveConfig",
    "TokenInputs",
    "objective_needs",
    "resolve_objective",
]


def resolve_objective(name: str) -> Objective:
    """An objective by name, or by the dotted path of one in a user's own module.

    Raises:
        ConfigError: no such objective; the message lists the known ones.
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    module_name, _, attribute = name.rpartition(".")
    if not module_name:
        close = difflib.get_close_matches(name, OBJECTIVES, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ConfigError(
            "algo.name",
            name,
            f"one of {', '.join(OBJECTIVES)} or a dotted path",
            f"Choose one.{hint}",
        )
    try:
        objective = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            "algo.name", name, "an importable module.attribute", f"{error}. Check PYTHONPATH."
        ) from error
    if not isinstance(objective, Objective):
        raise ConfigError(
            "algo.name", name, "an archer.algos.Objective", f"It is a {type(objective).__name__}."
        )
    return objective


def objective_needs(name: str, loss: dict[str, Any]) -> frozenset[Need]:
    """What an objective asks of the trainer under the given ``algo.loss``."""
    objective = resolve_objective(name)
    return objective.needs(objective.config.model_validate(loss))
