"""The commands of the README, docs/ and examples/ are commands that archer takes.

Each is composed and validated as it is typed. Nothing is read or started, so that words in capitals
may stand for files and runs.
"""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

import archer.evaluate  # noqa: F401  its defaults are what conf/evaluate.yaml begins with
from archer.check_objective import load_subject
from archer.choose import ChooseConfig, load_choose_config
from archer.config import CONF
from archer.config.command_line import check_overrides, data_lists, model_paths
from archer.config.compose import compose_training
from archer.config.keys import TrainConfig, load_config
from archer.data.prepared import prepared_folder
from archer.doctor import CHECKS
from archer.evaluation.config import EvaluateConfig, load_evaluate_config
from archer.launch import main as launch
from archer.objective_checks.compare_objectives import load_objectives_config
from archer.plan import PlanConfig, load_plan_config
from archer.prepare import PrepareConfig, load_prepare_config
from archer.score import ScoreConfig, load_score_config

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    {ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/README.md")}
    - {ROOT / "docs" / "configuration.md"}  # generated
)
COMMAND = re.compile(r"python -m archer\.(\w+)((?: +'[^']*'| +[^\s`'|#&>(]+)*)")
ALONE = re.compile(r"`'?(\w+)=([\w.,/-]+)'?`")
COMPOSED = {
    "main": ("config", TrainConfig, load_config),
    "evaluate": ("evaluate", EvaluateConfig, load_evaluate_config),
    "choose": ("choose", ChooseConfig, load_choose_config),
    "plan": ("plan", PlanConfig, load_plan_config),
    "prepare": ("prepare", PrepareConfig, load_prepare_config),
    "score": ("score", ScoreConfig, load_score_config),
}


def commands(page: Path) -> set[tuple[str, ...]]:
    """Names of commands with their arguments; `...` and `…` stand for more of them."""
    text = page.read_text().replace("\\\n", " ")
    return {
        (name, *(word for word in shlex.split(words) if word not in ("...", "…", "model=...")))
        for name, words in COMMAND.findall(text)
        if words  # else it is the command's name
    }


ALL = sorted({command for page in PAGES for command in commands(page)})


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_the_command_is_one_that_archer_takes(command: tuple[str, ...]):
    name, *words = command
    if name in COMPOSED:
        check_composed(name, [word for word in words if word not in ("-m", "--help")])
    elif name == "doctor":
        compose_training([word for word in words if word not in CHECKS and word != "--json"])
    elif name == "launch":
        launch([word for word in words if not word.startswith("output=")])
    elif name == "check_objective" and "NAME" not in words:
        load_subject(words)
    elif name == "compare" and words[:1] == ["objectives"] and len(words) > 1:
        load_objectives_config(words[1:])


def check_composed(name: str, words: list[str]) -> None:
    if name == "main" and len(words) == 1 and ALONE.fullmatch(f"`{words[0]}`"):
        check_overrides(words, CONF)  # test_dry_run.py composes every option of every group
    else:
        composed(name, words)


def composed(name: str, words: list[str]) -> Any:
    """The configuration of a command; of a sweep, that of its first run."""
    file, keys, load = COMPOSED[name]
    words = model_paths([first_of_sweep(word) for word in data_lists(words)], CONF)
    check_overrides(words, CONF, keys)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return load(compose(file, words))


def first_of_sweep(word: str) -> str:
    override = OverridesParser.create().parse_override(word)
    if not override.is_sweep_override():
        return word
    return f"{override.key_or_group}={next(override.sweep_string_iterator())}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_options_that_stand_alone_exist(page: Path):
    for group, options in ALONE.findall(page.read_text()):
        if (CONF / group).is_dir() and options.islower() and options != "all":
            check_overrides([f"{group}=[{options}]"], CONF)


def test_reproducing_prepares_the_sets_that_its_runs_read():
    prepared: set[Path] = set()
    read: set[Path] = set()
    for name, *words in commands(ROOT / "docs" / "reproduce.md"):
        if name in ("prepare", "main", "evaluate", "choose"):
            config = composed(name, words)
            sets, cache = config.data.sets, Path(config.run.cache)
            folders = {prepared_folder(set_name, sets[set_name], cache) for set_name in sets}
            (prepared if name == "prepare" else read).update(folders)
    assert len(read) > 8
    assert read <= prepared


@pytest.mark.parametrize(("page", "least"), [("reproduce.md", 10), ("papers.md", 30)])
def test_the_pages_for_reproducing_give_commands(page: str, least: int):
    assert len(commands(ROOT / "docs" / page)) >= least
