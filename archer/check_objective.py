"""Tries an objective out on a policy of 49 parameters: is it what training takes it for?

    python -m archer.check_objective archer
    python -m archer.check_objective grpo beta=0.04 kl=k2
    python -m archer.check_objective my_module.OBJECTIVE 'loss={clip: 0.3}'

Exit status: 0 if all checks pass, 1 if one fails, 2 for an unknown objective or parameter.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from archer.algos import resolve_algorithm
from archer.config.command_line import run_or_explain
from archer.config.keys import AlgoConfig
from archer.errors import ConfigError
from archer.objective_checks.checks import CHECKS, Finding, run_checks
from archer.objective_checks.subject import Subject


def load_subject(argv: Sequence[str]) -> Subject:
    """NAME, then parameters of the objective: key=value, or loss={...} as Hydra takes it.

    Raises:
        ConfigError: no such objective, or a parameter that it does not take.
    """
    name, *words = argv
    for word in words:
        if "=" not in word:
            expected = "one objective at a time, then its parameters KEY=VALUE"
            mend = f"Write {word}=VALUE if it is a parameter; else leave {word!r} out."
            raise ConfigError("the command line", " ".join(argv), expected, mend)
    given: Any = OmegaConf.to_container(OmegaConf.from_dotlist(words))
    loss = given.pop("loss", {})
    if not isinstance(loss, dict):
        raise ConfigError("loss", loss, "parameters {key: value}", "Write 'loss={clip: 0.3}'.")
    loss |= given
    algorithm = resolve_algorithm(AlgoConfig(name=name, loss=loss))
    return Subject(algorithm.objective, algorithm.loss_config)


def report(findings: dict[str, Finding]) -> Group:
    """The table of checks, and below it, where lines have room, what the failed ones found."""
    table = Table("check", "result", "figure", "what it means", box=None)
    failures = []
    for check in CHECKS:
        finding = findings.get(check.name)
        if finding is None:
            table.add_row(check.name, "-", "", check.meaning, style="dim")
        elif finding.has_passed:
            table.add_row(check.name, Text("ok", "green"), Text(finding.figure), check.meaning)
        else:
            table.add_row(check.name, Text("FAIL", "bold red"), "", check.meaning)
            failures.append(Text(f"{check.name}: {finding.figure}"))
    return Group(table, *([Text(), *failures] if failures else []))


def main(argv: Sequence[str]) -> None:
    if not argv or any(word in ("-h", "--help") for word in argv):
        print(__doc__)
        return
    torch.set_num_threads(1)  # the tensors hold dozens of numbers
    findings = run_checks(run_or_explain(lambda: load_subject(argv)))
    Console(highlight=False).print(report(findings))
    sys.exit(0 if all(finding.has_passed for finding in findings.values()) else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
