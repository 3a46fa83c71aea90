"""Writes docs/configuration.md from the config classes, where every key and its meaning stand.

python -m archer.config.reference            write the page
python -m archer.config.reference --check    fail when the page is out of date
"""

from __future__ import annotations

import argparse
import json
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from archer.algos import OBJECTIVES
from archer.config.keys import TrainConfig
from archer.config.schema import section_in, section_of

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"

INTRO = """\
# Configuration

Every key that `python -m archer.main` takes. Set one with `section.key=value`; `algo=`, `model=`,
`data=`, `reward=`, `cluster=`, `logger=` and `experiment=` choose a file of `conf/` that sets many.
Defaults below are those of the code; what a file of `conf/` sets wins over them, and the command
line wins over both. `python -m archer.main --cfg job` prints the outcome. Unknown keys and wrong
types are refused.

This page is generated: edit the config classes and run `make docs`.
"""


def render() -> str:
    """The whole page."""
    parts = [INTRO, *_sections(TrainConfig, "")]
    for name, objective in sorted(OBJECTIVES.items()):
        parts.append(_section(objective.config, f"algo.loss of algo.name={name}", "algo.loss."))
    return "\n".join(parts)


def _sections(section: type[BaseModel], prefix: str) -> list[str]:
    """The table of a section, followed by those of the sections inside it."""
    parts = [_section(section, prefix.rstrip(".") or "Top level", prefix)]
    for name, field in section.model_fields.items():
        if inner := section_of(field.annotation):
            parts += _sections(inner, f"{prefix}{name}.")
        elif inner := section_in(field.annotation):
            parts += _sections(inner, f"{prefix}{name}.NAME.")
    return parts


def _section(section: type[BaseModel], title: str, prefix: str) -> str:
    lines = [f"## {title}\n", f"{_one_line(section.__doc__)}\n"]
    rows = [_row(prefix + name, field) for name, field in section.model_fields.items()]
    if rows:
        lines += ["| key | type | default | meaning |", "| --- | --- | --- | --- |", *rows]
    return "\n".join(lines) + "\n"


def _row(key: str, field: FieldInfo) -> str:
    inner, each = section_of(field.annotation), section_in(field.annotation)
    if each is not None:
        kind, default = "mapping of sections", "`{}`"
        meaning = f"{_one_line(field.description)} See [{key}.NAME](#{_anchor(key)}name)."
    elif inner is not None:
        kind = "section, or null" if type(None) in get_args(field.annotation) else "section"
        default = "null" if field.default is None else ""
        meaning = f"{_one_line(inner.__doc__)} See [{key}](#{_anchor(key)})."
    else:
        kind = _type(field.annotation, field.metadata)
        default = "required" if field.is_required() else f"`{json.dumps(field.default)}`"
        meaning = _one_line(field.description)
    return "| " + " | ".join(_cell(text) for text in (f"`{key}`", kind, default, meaning)) + " |"


def _anchor(key: str) -> str:
    return key.lower().replace(".", "")


def _type(annotation: Any, constraints: Iterable[Any] = ()) -> str:
    """A type as a user reads it, e.g. ``int >= 1 or null``."""
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        metadata = [m for c in arguments[1:] for m in getattr(c, "metadata", [c])]
        return _type(arguments[0], metadata)
    if origin in (Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin is tuple:
        return f"[{', '.join(_type(argument) for argument in arguments)}]"
    if origin is dict:
        values = "" if arguments[1] is Any else f" of {_type(arguments[1])}"
        return f"mapping{values}"
    if annotation is type(None):
        return "null"
    bounds = " and ".join(filter(None, map(_bound, constraints)))
    name = getattr(annotation, "__name__", str(annotation))
    return f"{name} {bounds}".strip()


def _bound(constraint: Any) -> str:
    match constraint:
        case annotated_types.Ge(ge=limit):
            return f">= {limit}"
        case annotated_types.Gt(gt=limit):
            return f"> {limit}"
        case annotated_types.Le(le=limit):
            return f"<= {limit}"
        case annotated_types.Lt(lt=limit):
            return f"< {limit}"
        case _:
            return ""


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write docs/configuration.md.")
    parser.add_argument("--check", action="store_true", help="only say whether the page is current")
    if not parser.parse_args().check:
        PAGE.write_text(render(), encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != render():
        raise SystemExit(f"{PAGE} is out of date. Run: make docs")


if __name__ == "__main__":
    main()
