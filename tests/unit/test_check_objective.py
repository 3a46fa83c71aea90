"""check_objective passes right objectives and says what is wrong with wrong ones."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from algo_inputs import gradient, token_inputs
from rich.console import Console

from archer import check_objective
from archer.algos import LossOutput, Need, Objective, ObjectiveConfig, TokenInputs
from archer.algos.clipping import MAX_LOG_RATIO, importance_ratio
from archer.algos.masks import mean_over, row_ids, sanitise
from archer.errors import ConfigError
from archer.objective_checks.bigram import random_policy
from archer.objective_checks.checks import CHECKS, check_gradient, run_checks
from archer.objective_checks.subject import Subject

ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.usefixtures("one_thread")


def subject(
    loss: Callable[[TokenInputs], torch.Tensor | LossOutput], *needs: Need, prepare=None
) -> Subject:
    """An objective of a loss that returns a scalar, or all of a ``LossOutput``."""

    def with_metrics(tokens: TokenInputs, config: ObjectiveConfig) -> LossOutput:
        output = loss(tokens)
        return output if isinstance(output, LossOutput) else LossOutput(output)

    config = ObjectiveConfig()
    declared: frozenset[Need] = frozenset({"old_logprobs", *needs})
    objective = Objective(ObjectiveConfig, with_metrics, lambda config: declared, prepare)
    return Subject(objective, config)


def failures(candidate: Subject) -> set[str]:
    return {name for name, finding in run_checks(candidate).items() if not finding.has_passed}


def surrogate(tokens: TokenInputs) -> torch.Tensor:
    """-r A of each token: right, as long as the tokens are sanitised."""
    return -importance_ratio(tokens.logprobs, tokens.old_logprobs) * tokens.advantages


def weighted(tokens: TokenInputs) -> torch.Tensor:
    tokens = sanitise(tokens)
    return (surrogate(tokens) * tokens.loss_weights).sum()


# Right objectives


def held_constant(tokens: TokenInputs) -> torch.Tensor:
    """The same weight on each log-prob, made constant in three ways."""
    tokens = sanitise(tokens)
    ratio = importance_ratio(tokens.logprobs, tokens.old_logprobs)
    with torch.no_grad():
        capped = importance_ratio(tokens.logprobs, tokens.old_logprobs).clamp(max=2.0)
    factor = ratio.detach() + capped + ratio.data.square()
    return (-factor * tokens.advantages * tokens.logprobs * tokens.loss_weights).sum()


class Exp(torch.autograd.Function):
    """exp with a backward of its own."""

    slope = 1.0

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.exp()

    @classmethod
    def backward(cls, ctx, grad):
        (x,) = ctx.saved_tensors
        return cls.slope * grad * x.exp()


class WrongExp(Exp):
    slope = 0.9


def with_own_backward(exp: type[Exp]) -> Callable[[TokenInputs], torch.Tensor]:
    def loss(tokens: TokenInputs) -> torch.Tensor:
        tokens = sanitise(tokens)
        log_ratio = (tokens.logprobs - tokens.old_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        return -(exp.apply(log_ratio) * tokens.advantages * tokens.loss_weights).sum()

    return loss


def surprising(batch, config, rng) -> dict[str, np.ndarray]:
    """Tokens below the median log-prob of the whole mini-batch."""
    return {"selected": batch.old_logprobs < np.median(batch.old_logprobs[batch.mask])}


def over_selected(tokens: TokenInputs) -> torch.Tensor:
    tokens = sanitise(tokens)
    return (surrogate(tokens) * tokens.get("selected_weights")).sum()


@pytest.mark.parametrize(
    "candidate",
    [
        pytest.param(subject(weighted), id="weighted sum"),
        pytest.param(subject(held_constant), id="stopped gradients"),
        pytest.param(subject(with_own_backward(Exp)), id="own backward"),
        pytest.param(subject(over_selected, prepare=surprising), id="selection in prepare"),
    ],
)
def test_a_right_objective_passes_every_check(candidate):
    findings = run_checks(candidate)
    assert list(findings) == [check.name for check in CHECKS]
    assert {name: f.figure for name, f in findings.items() if not f.has_passed} == {}


# Wrong ones


def mean_of_tokens(tokens: TokenInputs) -> torch.Tensor:
    tokens = sanitise(tokens)
    return surrogate(tokens).sum() / tokens.mask.sum().clamp(min=1)


def plain_sum(tokens: TokenInputs) -> torch.Tensor:
    return surrogate(sanitise(tokens)).sum()


def quantile_of_micro_batch(tokens: TokenInputs) -> torch.Tensor:
    tokens = sanitise(tokens)
    if not tokens.mask.any():
        return weighted(tokens)
    threshold = tokens.get("old_entropy")[tokens.mask].quantile(0.5)
    factor = torch.where(tokens.get("old_entropy") > threshold, 2.0, 1.0)
    return (factor * surrogate(tokens) * tokens.loss_weights).sum()


def whitened_in_micro_batch(tokens: TokenInputs) -> torch.Tensor:
    tokens = sanitise(tokens)
    advantages = tokens.advantages - tokens.advantages.sum() / tokens.mask.sum().clamp(min=1)
    ratio = importance_ratio(tokens.logprobs, tokens.old_logprobs)
    return -(ratio * advantages * tokens.loss_weights).sum()


def masked_by_multiplication(tokens: TokenInputs) -> torch.Tensor:
    return (surrogate(tokens) * tokens.loss_weights * tokens.mask).sum()


def gradient_off_the_mask(tokens: TokenInputs) -> torch.Tensor:
    stray = torch.where(tokens.mask, 0.0, tokens.logprobs).nan_to_num(0.0, 0.0, 0.0).sum()
    return weighted(tokens) + stray - stray.detach()


def reference_not_declared(tokens: TokenInputs) -> torch.Tensor:
    tokens = sanitise(tokens)
    d = tokens.logprobs - tokens.get("ref_logprobs")
    return ((surrogate(tokens) + d.square()) * tokens.loss_weights).sum()


def edits_the_mask(tokens: TokenInputs) -> torch.Tensor:
    tokens.mask.logical_and_(tokens.advantages > 0)
    return weighted(tokens)


def entropy_bonus(tokens: TokenInputs) -> torch.Tensor:
    tokens = sanitise(tokens)
    return ((surrogate(tokens) - tokens.entropy) * tokens.loss_weights).sum()


def over_padded_width(tokens: TokenInputs) -> torch.Tensor:
    width = tokens.offsets.diff()[row_ids(tokens.offsets, len(tokens.mask))]
    tokens = sanitise(tokens)
    return (surrogate(tokens) * tokens.loss_weights / width).sum()


def by_place_in_the_batch(tokens: TokenInputs) -> torch.Tensor:
    place = 1 + row_ids(tokens.offsets, len(tokens.mask))
    tokens = sanitise(tokens)
    return (surrogate(tokens) * tokens.loss_weights / place).sum()


def unbounded_ratio(tokens: TokenInputs) -> torch.Tensor:
    tokens = sanitise(tokens)
    ratio = torch.exp(tokens.logprobs - tokens.old_logprobs)
    return -(ratio * tokens.advantages * tokens.loss_weights).sum()


def over_largest_advantage(tokens: TokenInputs) -> torch.Tensor:
    tokens = sanitise(tokens)
    largest = tokens.advantages.abs().amax() if len(tokens.mask) else 1.0
    return (surrogate(tokens) / largest * tokens.loss_weights).sum()


def of_metric(metric: Callable[[TokenInputs], dict]) -> Callable[[TokenInputs], LossOutput]:
    return lambda tokens: LossOutput(weighted(tokens), metric(tokens))


def mean_instead_of_sums(tokens: TokenInputs) -> dict:
    total, count = mean_over(tokens.logprobs, tokens.mask)
    return {"policy/logprob": (total / count.clamp(min=1), torch.tensor(1.0))}


def attached(tokens: TokenInputs) -> dict:
    return {"policy/logprob": (sanitise(tokens).logprobs.sum(), tokens.mask.sum())}


def only_where_there_are_tokens(tokens: TokenInputs) -> dict:
    return {"policy/logprob": mean_over(tokens.logprobs, tokens.mask)} if tokens.mask.any() else {}


@pytest.mark.parametrize(
    ("check", "candidate"),
    [
        ("micro-batches", subject(mean_of_tokens)),
        ("weights", subject(plain_sum)),
        ("micro-batches", subject(quantile_of_micro_batch, "old_entropy")),
        ("micro-batches", subject(whitened_in_micro_batch)),
        ("mask", subject(masked_by_multiplication)),
        ("mask", subject(gradient_off_the_mask)),
        ("gradient", subject(with_own_backward(WrongExp))),
        ("inputs", subject(edits_the_mask)),
        ("padding", subject(over_padded_width)),
        ("order", subject(by_place_in_the_batch)),
        ("range", subject(unbounded_ratio)),
        ("degenerate", subject(over_largest_advantage)),
        ("micro-batches", subject(of_metric(mean_instead_of_sums))),
        ("metrics", subject(of_metric(attached))),
        ("metrics", subject(of_metric(only_where_there_are_tokens))),
    ],
)
def test_a_wrong_objective_fails_the_check_of_what_is_wrong(check, candidate):
    assert check in failures(candidate)


@pytest.mark.parametrize(
    ("check", "candidate"),
    [
        ("weights", subject(plain_sum)),
        ("mask", subject(masked_by_multiplication)),
        ("gradient", subject(with_own_backward(WrongExp))),
        ("gradient", subject(entropy_bonus)),
        ("padding", subject(over_padded_width)),
        ("range", subject(unbounded_ratio)),
        ("metrics", subject(of_metric(attached))),
    ],
)
def test_one_mistake_fails_one_check(check, candidate):
    assert failures(candidate) == {check}


def test_a_bonus_of_the_entropy_is_told_that_training_detaches_it():
    finding = check_gradient(subject(entropy_bonus))
    assert finding == (False, "the entropy carries no gradient in training")


def two_not_declared(tokens: TokenInputs) -> torch.Tensor:
    values = sanitise(tokens).get("old_entropy")
    return reference_not_declared(tokens) + (values * tokens.loss_weights).sum()


@pytest.mark.parametrize(
    ("loss", "undeclared"),
    [
        (reference_not_declared, ["ref_logprobs"]),
        (two_not_declared, ["old_entropy", "ref_logprobs"]),
    ],
)
def test_undeclared_needs_are_named_and_the_other_checks_wait(loss, undeclared):
    findings = run_checks(subject(loss))
    assert list(findings) == ["runs", "needs"]
    assert findings["runs"].has_passed
    assert findings["needs"] == (False, f"undeclared: {', '.join(undeclared)}")
    assert "needs" not in failures(subject(loss, *undeclared))


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (lambda tokens: tokens.no_such_field, "no_such_field"),
        (lambda tokens: LossOutput(weighted(tokens).detach()), "detached"),
        (lambda tokens: LossOutput(surrogate(tokens)), "shape ["),
    ],
)
def test_an_objective_that_is_broken_altogether_says_how_and_runs_no_further(loss, said):
    findings = run_checks(subject(loss))
    assert list(findings) == ["runs"]
    assert not findings["runs"].has_passed
    assert said in findings["runs"].figure


def test_a_loss_that_returns_nothing_is_told_so():
    nothing: Any = lambda tokens, config: None  # noqa: E731
    candidate = subject(weighted)
    candidate = replace(candidate, objective=replace(candidate.objective, loss=nothing))
    finding = run_checks(candidate)["runs"]
    assert finding == (False, "returns NoneType, not a LossOutput")


def test_a_kink_under_the_batch_is_counted_and_left_out():
    """|x| where x is exactly 0: no derivative there, and none is asked for."""

    def kinked(tokens: TokenInputs) -> torch.Tensor:
        tokens = sanitise(tokens)
        here = torch.zeros_like(tokens.mask)
        here[0] = True
        distance = torch.where(here, tokens.logprobs - FIRST, 0).abs()
        return weighted(tokens) + 10 * (distance * tokens.loss_weights).sum()

    candidate = subject(kinked)
    policy = random_policy().detach().double()
    FIRST = candidate.tokens(candidate.prepare(candidate.batch()), policy).logprobs[0].item()
    finding = check_gradient(candidate)
    assert finding.has_passed
    assert "at a kink" in finding.figure


# The command


def run_command(monkeypatch, capsys, *argv: str) -> tuple[int, str]:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    with pytest.raises(SystemExit) as stop:
        check_objective.main(argv)
    captured = capsys.readouterr()
    return int(stop.value.code or 0), captured.out + captured.err


WRONG = subject(plain_sum).objective
EXAMPLE = "examples.custom_objective.my_objective.OBJECTIVE"


@pytest.mark.parametrize(
    ("argv", "status", "shown"),
    [
        (["grpo", "beta=0.04", "kl=k2"], 0, "finite differences"),
        (["grpo", "loss={beta: 0.04, kl: k2}"], 0, "finite differences"),
        (["test_check_objective.WRONG"], 1, "FAIL"),
        (["grop"], 2, "Did you mean 'grpo'?"),
        (["grpo", "bta=1"], 2, "algo.loss.bta"),
        (["grpo", "beta"], 2, "KEY=VALUE"),
        (["archer", "dapo"], 2, "one objective at a time"),
        (["grpo", "loss=3"], 2, "{key: value}"),
    ],
)
def test_the_command_prints_a_table_and_exits_with_a_verdict(
    monkeypatch, capsys, argv, status, shown
):
    code, output = run_command(monkeypatch, capsys, *argv)
    assert code == status
    assert shown in output


@pytest.mark.parametrize("argv", [[], ["--help"], ["grpo", "-h"]])
def test_the_command_explains_itself(capsys, argv):
    check_objective.main(argv)
    assert "python -m archer.check_objective archer" in capsys.readouterr().out


def test_failures_are_told_below_the_table_and_checks_not_run_are_no_failures():
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(check_objective.report(run_checks(subject(two_not_declared))))
    lines = console.export_text().splitlines()
    assert lines[-1] == "needs: undeclared: old_entropy, ref_logprobs"
    rows = {line.split()[0]: line.split()[1] for line in lines[1 : 1 + len(CHECKS)]}
    expected = {check.name: "-" for check in CHECKS}
    assert rows == expected | {"runs": "ok", "needs": "FAIL"}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\ndef (:\n", ".py, line 2: SyntaxError"),
        ("x = 1\ny = x / 0\n", ".py, line 2: ZeroDivisionError"),
        ("import no_such_library\n", ".py, line 1: ModuleNotFoundError: No module named"),
        ("x = 1\n", "' has no attribute 'OBJECTIVE'"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_place(
    monkeypatch, tmp_path, source, said
):
    name = tmp_path.name  # of this test alone: a module is imported once
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError) as error:
        check_objective.load_subject([f"{name}.OBJECTIVE"])
    assert f"{name}{said}" in error.value.mend


def test_a_module_that_is_not_there_is_told_where_modules_are_sought():
    with pytest.raises(ConfigError, match="PYTHONPATH"):
        check_objective.load_subject(["no_such_module.OBJECTIVE"])


# The example


def test_the_example_objective_passes(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT))
    code, output = run_command(monkeypatch, capsys, EXAMPLE, "clip=0.3")
    assert code == 0, output


def test_the_example_is_the_geometric_mean_of_clipped_ratios(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    objective = check_objective.load_subject([EXAMPLE]).objective
    tokens = token_inputs(np.exp([0.6, -0.1, 0.3]).tolist(), 1.0)
    output = objective.loss(tokens, objective.config())
    assert output.loss.item() == pytest.approx(-1.221403, rel=1e-4)
    third = -1.221403 / 3
    assert gradient(output, tokens) == pytest.approx([0.0, third, third], rel=1e-4)
    # The lower bound holds a bad token: exp((-0.4 + 0.1) / 2), and no upper one does.
    tokens = token_inputs(np.exp([-0.6, 0.1]).tolist(), -1.0)
    assert objective.loss(tokens, objective.config()).loss.item() == pytest.approx(np.exp(-0.15))
