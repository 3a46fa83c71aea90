"""The command line, checked before Hydra composes it, and errors shown as one message."""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from hydra._internal.utils import get_args_parser  # the only way to tell flags from overrides
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, ValueType
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel
from yaml import YAMLError, safe_load

from archer.config.keys import TrainConfig
from archer.config.schema import free_keys, known_keys, suggestion
from archer.errors import ConfigError, RunError
from archer.runtime.run_directory import CONFIG_FILE
from archer.runtime.stopping import Interrupted

PRESETS = re.compile(r"data=[\w./-]+(,[\w./-]+)+")
"""Several presets of data, as they are typed."""

Result = TypeVar("Result")


def check_overrides(argv: list[str], conf_dir: Path, config: type[BaseModel] = TrainConfig) -> None:
    """Refuse overrides that Hydra or the typed config would refuse later and less helpfully.

    Additions (``+x=``, ``++x=``), deletions (``~x``) and ``hydra.*`` are left to Hydra.

    Args:
        argv: the arguments after the program's name.
        conf_dir: the primary folder of configuration groups.
        config: the typed config of the command, which says what keys there are.

    Raises:
        ConfigError: a malformed override, an unknown key, or a group option that does not exist.
    """
    args, rest = get_args_parser().parse_known_args(argv)
    modes = ("run", "multirun", "cfg", "info", "shell_completion")
    chosen = [f"--{mode.replace('_', '-')}" for mode in modes if getattr(args, mode)]
    if len(chosen) > 1:
        raise ConfigError("the command line", " ".join(chosen), "one of these flags", "Choose one.")
    known = known_keys(config)
    for word in rest:
        if word.startswith("-"):
            raise _unknown_flag(word, known)
    words = args.overrides + rest
    overrides = [_parse(word, known) for word in words]
    if args.config_path is not None:  # somebody's own groups, not ours to know
        return
    data = [o.get_value_string() for o in overrides if o.key_or_group == "data" and _changes(o)]
    if len(data) > 1:  # Hydra would take the last
        presets = ",".join(value.strip("[]") for value in data)
        mend = f"Choose one, or write data={presets} for all of them."
        raise ConfigError("data", " and ".join(data), "to be given once", mend)
    groups = _group_options(_folders(args, conf_dir))
    if not issubclass(config, TrainConfig):  # fewer sections, and no experiments
        groups = {name: options for name, options in groups.items() if name in known}
    free = tuple(f"{key}." for key in free_keys(config))
    # A search path set on the command line may bring options that no folder here has.
    is_open = any(o.key_or_group == "hydra.searchpath" for o in overrides)
    for override in overrides:
        key = override.key_or_group
        if key.split(".")[0].split("/")[0] == "hydra" or not _changes(override):
            continue
        if key in groups:
            if not is_open:
                _check_choices(override, groups[key])
        elif key not in known and not key.startswith(free):
            is_training = issubclass(config, TrainConfig)
            where = "docs/configuration.md" if is_training else "this command; --cfg job shows them"
            raise _unknown_key(override, [*groups, *known], where)


def run_hydra(hydra_main: Callable[[], Any], conf_dir: Path, config: type[BaseModel]) -> None:
    """Check the command line, then let Hydra compose the configuration and run the command."""
    # Hydra would print its own errors, with a shortened traceback and exit status 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"

    def run() -> None:
        sys.argv[1:] = data_lists(sys.argv[1:])
        if "model" in config.model_fields:
            sys.argv[1:] = model_paths(sys.argv[1:], conf_dir)
        check_overrides(sys.argv[1:], conf_dir, config)
        sys.argv[1:] = overrides_first(sys.argv[1:])
        hydra_main()

    run_or_explain(run)


def data_lists(argv: list[str]) -> list[str]:
    """The same arguments, with ``data=a,b`` as Hydra writes a list of presets: ``data=[a,b]``.

    With ``-m`` the comma stays what it is there, a sweep.
    """
    if {"-m", "--multirun"} & {*argv}:
        return argv
    return [f"data=[{word[5:]}]" if PRESETS.fullmatch(word) else word for word in argv]


def with_same_data(command: str, default: Iterable[str]) -> str:
    """Another command, for the data that Hydra composed the present one with.

    Args:
        command: e.g. ``prepare``.
        default: presets of data to name where Hydra did not start the present one.
    """
    words = [f"data={','.join(default)}"]
    if HydraConfig.initialized():
        hydra = HydraConfig.get()
        given = hydra.overrides.task
        chosen = [word for word in given if word.startswith("data=")]  # a list is no choice below
        chosen = [word.replace("=[", "=").removesuffix("]") for word in chosen]
        sources = hydra.runtime.config_sources
        folders = [source.path for source in sources if source.provider == "command-line"]
        words = [
            *(chosen or [f"data={hydra.runtime.choices['data']}"]),
            *(word for word in given if word.lstrip("+~").startswith(("data.sets.", "run.cache="))),
            *(f"--config-dir={folder}" for folder in folders),
        ]
    return f"python -m archer.{command} {shlex.join(words)}"


def given_keys() -> list[str]:
    """Keys and groups set on the command line; none where Hydra did not start the command."""
    words = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    return [word.partition("=")[0].lstrip("+~") for word in words]


def model_paths(argv: list[str], conf_dir: Path) -> list[str]:
    """The same arguments, with ``model=PATH`` as the keys that say so.

    A hub id that one of the presets has stands for this preset. A checkpoint brings the chat
    template settings that its run had; what is set on the command line goes before them.

    Args:
        argv: PATH is a Hugging Face folder, a hub id, a checkpoint, or a run directory, which
            stands for its last checkpoint.
        conf_dir: the primary folder of configuration groups.
    """
    args, _ = get_args_parser().parse_known_args(argv)
    options = _group_options(_folders(args, conf_dir)).get("model", set())
    words = []
    for word in argv:
        path = word.removeprefix("model=")
        if path == word or path in options or not _is_path(path):
            words.append(word)
        elif preset := _preset_of(path, conf_dir):
            words.append(f"model={preset}")
        else:
            folder = model_folder(path)
            words = ["~model", f"model.path={_quoted(str(folder))}",
                     f"model.name={_quoted(_model_name(folder))}",
                     *_chat_settings(folder), *words]  # fmt: skip
    return words


def _is_path(model: str) -> bool:
    return Path(model).expanduser().is_dir() or ("/" in model and "," not in model)


def model_folder(path: str) -> Path:
    """The Hugging Face folder of a run's last checkpoint or of a checkpoint; else the path."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        return Path(path)
    folder = folder.resolve()
    for state in sorted(folder.glob("checkpoints/step_*/state.json"))[-1:]:
        folder = state.parent
    return folder / "hf" if (folder / "state.json").is_file() else folder


def _model_name(folder: Path) -> str:
    """The last part; of a checkpoint, its run and its step."""
    run = _run_of(folder)
    return folder.name if run is None else f"{run.name}-{folder.parent.name}"


def _run_of(folder: Path) -> Path | None:
    """The run directory that the Hugging Face folder of a checkpoint is in."""
    is_checkpoint = folder.name == "hf" and folder.parent.parent.name == "checkpoints"
    return folder.parents[2] if is_checkpoint else None


def _chat_settings(folder: Path) -> list[str]:
    """How the run of a checkpoint rendered its prompts, as overrides; none without its config."""
    run = _run_of(folder)
    if run is None or not (run / CONFIG_FILE).is_file():
        return []
    data = safe_load((run / CONFIG_FILE).read_text(encoding="utf-8"))["data"]
    settings = {"chat_template": data["chat_template"]} | {
        f"chat_template_args.{name}": value for name, value in data["chat_template_args"].items()
    }
    return [f"data.{key}={json.dumps(value)}" for key, value in settings.items()]


def _preset_of(hub_id: str, conf_dir: Path) -> str | None:
    """The preset of a hub model, if there is one."""
    for file in sorted(conf_dir.glob("model/*.yaml")):
        if f"\npath: {hub_id}\n" in file.read_text():
            return file.stem
    return None


def _quoted(text: str) -> str:
    """As a value in Hydra's override syntax."""
    return "'" + text.replace("'", "\\'") + "'"


def overrides_first(argv: list[str]) -> list[str]:
    """The same arguments, flags last: Hydra takes no override after a flag that follows another."""
    args, rest = get_args_parser().parse_known_args(argv)
    overrides = args.overrides + rest
    return [*overrides, *(word for word in argv if word not in overrides)]


def run_or_explain(function: Callable[[], Result]) -> Result:
    """Run a command; say what is wrong with its configuration in one message, exit with status 2.

    ``ARCHER_TRACEBACK=1`` lets the traceback through.
    """
    try:
        return function()
    except (ConfigError, HydraException, OmegaConfBaseException, YAMLError) as found:
        if os.environ.get("ARCHER_TRACEBACK") == "1":
            raise
        error = found if isinstance(found, ConfigError) else _composition_error(found)
        print(
            f"archer: {error.key} is not usable as it stands.\n"
            f"  value     {error.value!r}\n"
            f"  expected  {error.expected}\n"
            f"  mend      {error.mend}",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    except RunError as error:
        if os.environ.get("ARCHER_TRACEBACK") == "1":
            raise
        print(f"archer: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except Interrupted as stop:
        print(f"archer: stopped by {stop}", file=sys.stderr)
        raise SystemExit(stop.exit_status) from None


def _composition_error(error: Exception) -> ConfigError:
    """What Hydra could not compose, in our words; a YAML file that is torn is among it."""
    reason = " ".join(str(error).split())
    arguments = " ".join(sys.argv[1:])
    expected = "a configuration that Hydra can compose"
    return ConfigError("the command line", arguments, expected, f"{reason}.")


def _parse(word: str, known: list[str]) -> Override:
    key, equals, value = word.partition("=")
    if not key or not (equals or key.startswith("~")):
        hint = suggestion(key, known)
        raise ConfigError(word, None, "an override KEY=VALUE", f"Write it as KEY=VALUE.{hint}")
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise ConfigError(
            key,
            value,
            f"a value in Hydra's override syntax ({error})",
            f"Quote special characters, for your shell and for Hydra: '{key}=\"{value}\"'.",
        ) from error


def _changes(override: Override) -> bool:
    return not (override.is_add() or override.is_force_add() or override.is_delete())


def _folders(args: Any, conf_dir: Path) -> list[Path]:
    """Those with configuration groups."""
    return [conf_dir, *([Path(args.config_dir)] if args.config_dir else [])]


def _group_options(folders: list[Path]) -> dict[str, set[str]]:
    """Group name (``a/b`` when nested) -> its options; those in folders within are ``b/option``."""
    groups: dict[str, set[str]] = {}
    for folder in folders:
        for group in (path for path in folder.rglob("*") if path.is_dir()):
            options = groups.setdefault(group.relative_to(folder).as_posix(), set())
            files = group.rglob("*.yaml")
            options.update(f.relative_to(group).as_posix().removesuffix(".yaml") for f in files)
    return groups


def _check_choices(override: Override, options: set[str]) -> None:
    group = override.key_or_group
    for choice in _choices(override):
        name = choice.removesuffix(".yaml")
        if name not in options:
            known = ", ".join(sorted(options)) or "nothing yet"
            raise ConfigError(
                group,
                choice,
                f"one of {known}",
                f"Choose one of them, or add conf/{group}/{name}.yaml."
                f"{suggestion(name, sorted(options))}",
            )


def _choices(override: Override) -> list[str]:
    """The options an override names; none for ``null`` and for globs, which match what exists."""
    if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
        return []
    if override.is_choice_sweep():
        return list(override.sweep_string_iterator())
    value = override.value()
    names = value if isinstance(value, list) else [value]
    return [str(name) for name in names if name is not None]


def _unknown_flag(word: str, known: list[str]) -> ConfigError:
    key, _, value = word.lstrip("-").replace("-", "_").partition("=")
    leaves = [k for k in known if k.rpartition(".")[2] == key]
    hint = leaves[0] if leaves else key
    mend = f"Write {hint}={value or 'VALUE'}, without dashes. For Hydra's flags see --hydra-help."
    return ConfigError(word, None, "an override KEY=VALUE or a flag of Hydra", mend)


def _unknown_key(override: Override, known: list[str], where: str) -> ConfigError:
    key = override.key_or_group
    parent, _, leaf = key.rpartition(".")
    same_leaf = [k for k in known if k.rpartition(".")[2] == leaf]
    siblings = [k.rpartition(".")[2] for k in known if parent and k.rpartition(".")[0] == parent]
    if same_leaf:
        hint = f" Did you mean {' or '.join(map(repr, same_leaf))}?"
    elif siblings:
        close = difflib.get_close_matches(leaf, siblings, n=1)
        known_here = f" Known in {parent}: {', '.join(siblings)}."
        hint = f" Did you mean '{parent}.{close[0]}'?" if close else known_here
    else:
        hint = suggestion(key, known)
    return ConfigError(
        key,
        override.get_value_string(),
        f"a key of {where}",
        f"This command has no such key.{hint}",
    )
