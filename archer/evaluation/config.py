"""The keys of ``python -m archer.evaluate`` alone, and how each set is sampled by them."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

from omegaconf import DictConfig
from pydantic import Field

from archer.config.checks import check_common, check_evaluation
from archer.config.keys import CommonConfig, HeldOutConfig, Protocol, set_fields
from archer.config.schema import NonNegativeFloat, PositiveInt, Section, store_defaults, validate
from archer.tasks import TASKS


class ProtocolConfig(HeldOutConfig):
    """What `archer.evaluate` samples. What is empty is as the set has it in `data.sets`."""

    sets: list[str] = Field(default=[])
    """Evaluate only these of the sets that `data` brings, a training set among them if you like;
    empty takes all that are held out."""
    num_samples: PositiveInt | None = None
    """Samples per problem, n of avg@n and pass@k; 8 where the set does not say."""
    temperature: NonNegativeFloat | None = None
    """0 is greedy; 1 where the set does not say."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """1 where the set does not say."""


class ProbeConfig(Section):
    """Whether a model was trained on what it is evaluated on (docs/probe.md)."""

    name: Literal["min_knn"] | None = None
    """The Min-kNN distance of arXiv 2602.11792; empty for no probe."""
    neighbours: PositiveInt = 10
    """So many of a problem's responses count, those nearest to another one."""
    max_tokens: PositiveInt | None = 8192
    """Beginning of a response that is compared, as the time grows with its square; empty for all of
    it."""
    reference: str | None = None
    """A set that the model cannot have been trained on; the others are compared with it."""
    samples: dict[str, str] = Field(default={})
    """Set to a file of samples from an earlier evaluation or run, instead of new ones."""


OF_ASKING = ("template", "temperature", "top_p", "max_response_tokens")
"""Keys of a set that decide how it is worded and sampled."""
OF_JUDGING = ("name", "args", "truncated", "timeout_s", "source_timeout_s")
"""Keys of the reward that decide what a response is worth."""


class EvaluateConfig(CommonConfig):
    """Everything `python -m archer.evaluate` takes."""

    eval: ProtocolConfig = ProtocolConfig()
    output: str | None = None
    """Folder for the results; empty means `evaluations/<model>-<sets>-seed<seed>`."""
    probe: ProbeConfig = ProbeConfig()

    @property
    def output_dir(self) -> Path:
        sets = "+".join(self.protocols)
        return Path(self.output or f"evaluations/{self.model.name}-{sets}-seed{self.seed}")

    @property
    def protocols(self) -> dict[str, Protocol]:
        """How each set is sampled: as the user says, else as the set does."""
        given = set_fields(self.eval) | set_fields(self.sampling)
        return {name: Protocol(**own | given) for name, own in self.own_protocols.items()}

    @property
    def own_protocols(self) -> dict[str, dict[str, Any]]:
        """The sets to evaluate, with those fields of a protocol that each of them brings."""
        data, chosen = self.data, self.eval.sets
        own: dict[str, dict[str, Any]] = {name: {} for name in data.eval}
        own |= {
            name: set_fields(recipe)
            for name, recipe in data.sets.items()
            if recipe.role == "eval" or name in chosen
        }
        if data.task is not None:
            own = {data.task: {"max_response_tokens": TASKS[data.task].max_response_tokens}}
        return {name: fields for name, fields in own.items() if not chosen or name in chosen}

    def has_own_protocol(self, name: str, given: Collection[str]) -> bool:
        """Whether all problems of a set are used, worded, sampled and judged as its preset says.

        How many samples are drawn of each makes no difference.

        Args:
            given: keys that the user set, whose values are no longer the preset's.
        """
        decisive = [f"data.sets.{name}.{key}" for key in OF_ASKING]
        decisive += [f"reward.{key}" for key in OF_JUDGING]
        changes = [key for key in given if key != "data"]  # which chooses the preset
        if any(_overlap(change, key) for change in changes for key in decisive):
            return False
        used = self.protocols[name]
        unsaid = {"max_response_tokens": used.max_response_tokens}
        own = Protocol(**unsaid | self.own_protocols[name] | {"num_samples": used.num_samples})
        data = self.data
        as_worded = data.chat_template and data.prompt_template is None
        return used == own and as_worded and self.eval.max_problems is None

    @property
    def max_response_tokens(self) -> int:
        return max(protocol.max_response_tokens for protocol in self.protocols.values())


def _overlap(key: str, other: str) -> bool:
    """Whether one of two dotted keys is the other, or in its section."""
    key, other = f"{key}.", f"{other}."
    return key.startswith(other) or other.startswith(key)


def load_evaluate_config(composed: DictConfig | dict[str, Any]) -> EvaluateConfig:
    """Validate a composed configuration of the evaluation command.

    Raises:
        ConfigError: names the key, the value, what was expected and how to mend it.
    """
    config = validate(EvaluateConfig, composed)
    check_common(config)
    check_evaluation(config)
    return config


store_defaults("evaluate_base", EvaluateConfig)
