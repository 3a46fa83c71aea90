"""What the config sections have in common: strict fields, defaults for Hydra, readable errors."""

from __future__ import annotations

import difflib
import json
import re
import shlex
from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any, TypeVar, get_args, get_origin

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from archer.errors import ConfigError

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of the config sections: frozen, strict types, unknown keys refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True
    )


AnyConfig = TypeVar("AnyConfig", bound=Section)


def validate(config_class: type[AnyConfig], composed: DictConfig | dict[str, Any]) -> AnyConfig:
    """Resolve interpolations and check keys and types.

    Raises:
        ConfigError: names the key, the value, what was expected and how to mend it.
    """
    try:
        plain = OmegaConf.to_container(
            OmegaConf.create(composed), resolve=True, throw_on_missing=True
        )
    except MissingMandatoryValue as error:
        key = str(error.full_key)
        raise ConfigError(key, "???", "a value", f"Set it: {key}=...") from error
    except OmegaConfBaseException as error:
        key, reason = str(error.full_key or "config"), str(error.msg).partition("\n")[0]
        mend = f"{reason}. Set it on the command line."
        raise ConfigError(key, "?", "a value that resolves", mend) from error
    try:
        return config_class.model_validate(plain)
    except ValidationError as error:
        raise readable(error, config_class) from error


def readable(error: ValidationError, section: type[BaseModel], prefix: str = "") -> ConfigError:
    """The first of pydantic's complaints as ours; ``prefix`` stands before the section's keys."""
    first = error.errors()[0]
    key = (prefix + ".".join(_settable(first["loc"], section))).removesuffix(".")
    value = first["input"]
    match first["type"]:
        case "extra_forbidden":
            siblings = [
                k
                for k in known_keys(section, prefix)
                if k.rpartition(".")[0] == key.rpartition(".")[0]
            ]
            hint = _nearest(key, siblings) or (
                f" Known here: {', '.join(siblings)}." if siblings else ""
            )
            way_out = "Remove it or fix its name."
            if prefix:  # a plug-in's: algo= may have set it, for another plug-in
                way_out = (
                    "Remove it or fix its name; if algo= set it, drop the section with "
                    f"'~{prefix.removesuffix('.')}'."
                )
            return ConfigError(key, value, "a known key", f"There is no such key.{hint} {way_out}")
        case "missing" if isinstance(first["loc"][-1], int):
            return ConfigError(key, list(value), "a longer list", f"Set {key} to such a list.")
        case "missing":
            return ConfigError(key, None, "a value", f"Set it: {key}=...")
        case _:
            expected = first["msg"]
            for opening in ("Value error, ", "Input should be ", "a valid "):
                expected = expected.removeprefix(opening)
            return ConfigError(key, value, expected, f"Set {key} to such a value.")


def _settable(loc: tuple[int | str, ...], section: type[BaseModel]) -> list[str]:
    """The names in pydantic's location of an error that make a key.

    Without what follows a plain field: places in a list and pydantic's own names for the members
    of a union, neither of which can be set.
    """
    names: list[str] = []
    inner: type[BaseModel] | None = section
    places = iter(map(str, loc))
    for name in places:
        names.append(name)
        field = inner.model_fields.get(name) if inner is not None else None
        if field is None:
            break
        inner = section_of(field.annotation)
        if get_origin(field.annotation) is dict:
            inner = section_in(field.annotation)
            names += islice(places, 1)  # the user's own key
        elif inner is None:
            break
    return names


def _nearest(key: str, siblings: list[str]) -> str:
    """`` Did you mean 'x'?`` or nothing; what all the keys begin with does not make them alike."""
    by_name = {sibling.rpartition(".")[2]: sibling for sibling in siblings}
    close = difflib.get_close_matches(key.rpartition(".")[2], by_name, n=1, cutoff=0.5)
    return f" Did you mean {by_name[close[0]]!r}?" if close else ""


def default_values(section: type[BaseModel]) -> dict[str, Any]:
    """Defaults of a section as plain data; `???`, Hydra's word for missing, where there is none."""
    values: dict[str, Any] = {}
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None and field.default is not None:
            values[name] = default_values(inner)
        elif field.is_required():
            values[name] = "???"
        else:
            values[name] = (
                list(field.default) if isinstance(field.default, tuple) else field.default
            )
    return values


def known_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all keys below a section."""
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        inner = section_of(field.annotation)
        if inner is not None:
            keys += known_keys(inner, f"{prefix}{name}.")
    return keys


def free_keys(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of free dictionaries, such as ``algo.loss``, which their owners check."""
    keys = []
    for name, field in section.model_fields.items():
        inner = section_of(field.annotation)
        if inner is not None:
            keys += free_keys(inner, f"{prefix}{name}.")
        elif get_origin(field.annotation) is dict:
            keys.append(prefix + name)
    return keys


def store_defaults(name: str, section: type[BaseModel]) -> None:
    """Let ``defaults: [name, ...]`` in a file of conf/ begin with every key of a section.

    So every key can be overridden and is shown. New keys need no ``+`` inside free dictionaries.
    """
    node = OmegaConf.create(default_values(section))
    for key in free_keys(section):
        OmegaConf.set_struct(OmegaConf.select(node, key), False)
    ConfigStore.instance().store(name, node=node)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The config section behind an annotation such as ``WarmStartConfig | None``, if any."""
    if get_origin(annotation) in (dict, list):  # what is in it is the user's, so it is no section
        return None
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def section_in(annotation: Any) -> type[BaseModel] | None:
    """The config section that a mapping such as ``dict[str, SetConfig]`` holds, if any."""
    return section_of(get_args(annotation)[1]) if get_origin(annotation) is dict else None


def suggestion(word: str, known: list[str] | tuple[str, ...]) -> str:
    """`` Did you mean 'x'?`` or nothing."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else ""


_PLAIN = re.compile(r"(?!(null|true|false)$)[A-Za-z/~][\w./-]*")
"""Texts that Hydra takes as they are."""


def override(key: str, value: Any) -> str:
    """``key=value`` as a command line takes it, quoted for the shell where it has to be."""
    return shlex.quote(f"{key}={_written(value)}")


def _written(value: Any) -> str:
    """A value in Hydra's grammar."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_written, value)) + "]"
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return '"' + value.replace('"', r"\"") + '"'
    return str(value)
