"""The checks of ``archer.check_objective``: what training takes every objective for."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from typing import Any, NamedTuple, get_args

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from archer import batch as batching
from archer.algos import (
    AGGREGATIONS,
    LossOutput,
    Need,
    TokenInputs,
)
from archer.objective_checks.bigram import forward, random_policy, with_padding
from archer.objective_checks.subject import Subject, difference, map_floats
from archer.types import Batch

LOGPROBS = (
    "old_logprobs",
    "old_proxy_logprobs",
    "rollout_logprobs",
    "ref_logprobs",
    "fresh_logprobs",
)
TOLERANCE = 1e-5
"""Relative. Exact arithmetic would give 0; float32 gives about 1e-7."""
STEP = 1e-6
KINK = 1e-3
"""One-sided slopes that differ by more than this share of the gradient: no derivative there."""
MAX_LOG_RATIO = 100.0
"""exp of this is infinite in float32."""


class Finding(NamedTuple):
    """What a check says."""

    has_passed: bool
    figure: str


def micro_batch_cuts(batch: Batch) -> dict[str, list[np.ndarray]]:
    """Ways of cutting a mini-batch into micro-batches: rows of each."""
    rows, lengths = np.arange(len(batch)), batch.total_lengths
    return {
        "one by one": np.split(rows, rows[1:]),
        "two by two": np.split(rows, rows[2::2]),
        "10 tokens, padded": batching.micro_batches(lengths, 10, "padded"),
        "10 tokens, packed": batching.micro_batches(lengths, 10, "packed"),
        "longest first": batching.micro_batches(lengths, 1 << 20, "packed"),
    }


class StopGradients(TorchFunctionMode):
    """Keeps constant what a loss takes for constant: ``detach()``, ``.data`` and ``no_grad``.

    Finite differences would otherwise move it. The first pass through the loss records the
    values; every pass after ``replay`` gets them again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._recorded: list[torch.Tensor] = []
        self._replayed: Iterator[torch.Tensor] | None = None
        self._is_grad_off = False

    def replay(self) -> StopGradients:
        self._replayed = iter(self._recorded)
        return self

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        # Entering and leaving no_grad; the forward of a custom Function does not pass here.
        if func is torch._C._set_grad_enabled:
            self._is_grad_off = not args[0]
            return output
        stops = (torch.Tensor.detach, torch.Tensor.data.__get__)  # type: ignore[attr-defined]
        if self._is_grad_off or func in stops:
            return tree_map_only(torch.Tensor, self._constant, output)
        return output

    def _constant(self, value: torch.Tensor) -> torch.Tensor:
        if self._replayed is not None:
            return next(self._replayed)
        self._recorded.append(value.clone())
        return value


# The checks


def check_runs(subject: Subject) -> Finding:
    everything = _declaring(subject, frozenset(get_args(Need)))
    tokens = everything.tokens(everything.prepare(everything.batch()), random_policy())
    output: Any = everything.loss(tokens)
    if not isinstance(output, LossOutput):
        return Finding(False, f"returns {type(output).__name__}, not a LossOutput")
    if output.loss.ndim:
        return Finding(False, f"the loss has shape {list(output.loss.shape)}, not one number")
    if not output.loss.requires_grad:
        return Finding(False, "the loss carries no gradient: it is detached from logprobs")
    return Finding(True, "")


def check_needs(subject: Subject) -> Finding:
    try:
        subject.run(subject.prepare(subject.batch()))
    except Exception as error:  # whatever a user's loss raises
        # Rehearsal brings ref_logprobs along and would hide that they are missing.
        undeclared = sorted({*get_args(Need)} - {"rehearsal"} - subject.needs)
        needs = subject.needs.union(undeclared)
        missing = [need for need in undeclared if not _runs(_declaring(subject, needs - {need}))]
        return Finding(False, f"undeclared: {', '.join(missing)}" if missing else _one_line(error))
    return Finding(True, f"{len(subject.needs)} declared")


def _declaring(subject: Subject, needs: frozenset[Need]) -> Subject:
    return replace(subject, objective=replace(subject.objective, needs=lambda config: needs))


def _runs(subject: Subject) -> bool:
    try:
        subject.run(subject.prepare(subject.batch()))
    except Exception:  # whatever a user's loss raises
        return False
    return True


def check_gradient(subject: Subject) -> Finding:
    batch = subject.prepare(subject.batch())
    policy = random_policy().detach().double().requires_grad_()
    tokens, constants = subject.tokens(batch, policy), StopGradients()
    tokens = replace(tokens, entropy=tokens.entropy.requires_grad_())
    with constants:
        output = subject.loss(tokens)
    gradient, of_entropy = torch.autograd.grad(
        output.loss, (policy, tokens.entropy), allow_unused=True, materialize_grads=True
    )
    if of_entropy.any():
        return Finding(False, "the entropy carries no gradient in training")
    floor = subject.objective.noise_floor(subject.config)

    def loss_at(policy: torch.Tensor) -> torch.Tensor:
        head = forward(batch, policy, floor)
        moved = replace(tokens, logprobs=head.logprobs, log_kept_mass=head.log_kept_mass)
        with constants.replay():
            return subject.loss(moved).loss

    here, centre = output.loss.detach(), policy.detach()
    steps = STEP * torch.eye(centre.numel(), dtype=centre.dtype).view(-1, *centre.shape)
    ahead = torch.stack([loss_at(centre + step) - here for step in steps]) / STEP
    behind = torch.stack([here - loss_at(centre - step) for step in steps]) / STEP
    scale = gradient.abs().max()
    is_smooth = (ahead - behind).abs() <= KINK * scale
    error = ((ahead + behind) / 2 - gradient.flatten())[is_smooth].abs().max() / scale
    kinks = f", {int((~is_smooth).sum())} at a kink" if not is_smooth.all() else ""
    has_passed = bool(scale > 0 and is_smooth.float().mean() > 0.5 and error <= TOLERANCE)
    return Finding(has_passed, f"{float(error):.0e}{kinks}" if scale > 0 else "no gradient at all")


def check_mask(subject: Subject) -> Finding:
    batch, policy = subject.batch(), random_policy()
    mask = torch.from_numpy(batch.mask)
    loss, expected = _token_gradients(subject, subject.tokens(subject.prepare(batch), policy))
    changes = []
    for garbage in (torch.nan, torch.inf, -torch.inf):
        with np.errstate(invalid="ignore"):  # the garbage is meant to be there
            dirty = subject.prepare(_garbage_off_the_mask(batch, garbage))
        tokens = subject.tokens(dirty, policy)
        fill = functools.partial(torch.where, mask, other=tokens.logprobs.new_tensor(garbage))
        dirty_loss, gradients = _token_gradients(subject, map_floats(tokens, fill))
        changes += [
            (gradients - expected).norm() / expected.norm(),
            gradients[:, ~mask].norm(),
            (dirty_loss - loss).abs(),
        ]
    return _worst(float(change.nan_to_num(torch.inf)) for change in changes)


def _garbage_off_the_mask(batch: Batch, garbage: float) -> Batch:
    """In all columns of float32, which are those with a value for each token."""
    columns = {
        name: np.where(batch.mask, values, np.float32(garbage))
        for name, values in vars(batch).items()
        if isinstance(values, np.ndarray) and values.dtype == np.float32
    }
    return batch.with_columns(**columns)


def _token_gradients(subject: Subject, tokens: TokenInputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss, and its gradient by token: of log-probs, and of the kept mass where there is one."""
    differentiable = {"logprobs": tokens.logprobs, "log_kept_mass": tokens.log_kept_mass}
    leaves = {
        name: values.detach().requires_grad_()
        for name, values in differentiable.items()
        if values is not None
    }
    loss = subject.loss(replace(tokens, **leaves)).loss
    gradients = torch.autograd.grad(
        loss, list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return loss.detach(), torch.stack(gradients)


def check_padding(subject: Subject) -> Finding:
    batch = subject.batch()
    outside = _rows_outside(batch)
    padded = with_padding(batch.select([*range(len(batch)), *outside, *outside]), 3)
    return _worst(
        difference(
            subject.run(subject.prepare(padded, aggregation)),
            subject.run(subject.prepare(batch, aggregation)),
        )
        for aggregation in AGGREGATIONS
    )


def check_micro_batches(subject: Subject) -> Finding:
    differences = []
    for index, aggregation in enumerate(AGGREGATIONS):
        batch = subject.prepare(subject.batch(), aggregation)
        whole, cuts = subject.run(batch), list(micro_batch_cuts(batch).values())
        # A loss does not see the aggregation, only weights: all the cuts once, then one of them.
        tried = cuts if index == 0 else cuts[1:2]
        differences += [difference(subject.run_pieces(batch, pieces), whole) for pieces in tried]
    return _worst(differences)


def check_order(subject: Subject) -> Finding:
    batch = subject.prepare(subject.batch())
    orders = [np.arange(len(batch))[::-1], np.random.default_rng(0).permutation(len(batch))]
    expected = subject.run(batch)
    return _worst(difference(subject.run(batch.select(rows)), expected) for rows in orders)


def _worst(differences: Iterable[float]) -> Finding:
    worst = max(differences)
    return Finding(worst <= TOLERANCE, f"{worst:.0e}")


def check_weights(subject: Subject) -> Finding:
    batch = subject.prepare(subject.batch())
    assert batch.loss_weights is not None
    weights = {
        name: values / 2 if name == "selected_weights" else values
        for name, values in batch.prepared.items()
    }
    lighter = batch.with_columns(loss_weights=batch.loss_weights / 2, prepared=weights)
    whole = subject.run(batch)
    half = replace(whole, loss=whole.loss / 2, gradient=whole.gradient / 2)
    return _worst([difference(subject.run(lighter), half)])


def check_bfloat16(subject: Subject) -> Finding:
    batch, policy = subject.prepare(subject.batch()), random_policy()
    tokens = map_floats(subject.tokens(batch, policy), lambda values: values.bfloat16().float())
    (gradient,) = torch.autograd.grad(subject.loss(tokens).loss, policy)
    expected = subject.run(batch).gradient
    change = (gradient - expected).norm() / expected.norm()
    return Finding(bool(gradient.isfinite().all()), f"{float(change):.0e}")


def check_range(subject: Subject) -> Finding:
    batch = subject.batch()
    shift = MAX_LOG_RATIO * np.where(np.arange(len(batch.mask)) % 2, 1, -1)
    shifted = {
        name: (values + shift).astype(np.float32)
        for name in LOGPROBS
        if (values := getattr(batch, name)) is not None
    }
    far = [batch.with_columns(**{name: values}) for name, values in shifted.items()]
    results = [subject.run(subject.prepare(b)) for b in (*far, batch.with_columns(**shifted))]
    largest = max(float(result.gradient.abs().max()) for result in results)
    return Finding(all(result.is_finite for result in results), f"{largest:.0e}")


def check_degenerate(subject: Subject) -> Finding:
    failed = [name for name, is_defined in _degenerate_cases(subject) if not is_defined]
    return Finding(not failed, ", ".join(failed) or "all")


def _degenerate_cases(subject: Subject) -> Iterable[tuple[str, bool]]:
    batch = subject.batch()
    prepared = subject.prepare(batch)
    yield "no rows", subject.run(prepared.select([])).is_zero
    yield "no token in the loss", subject.run(prepared.select(_rows_outside(batch))).is_zero

    advantages = batch.advantages
    changes = {"all A = 0": 0 * advantages, "A > 0": abs(advantages), "A < 0": -abs(advantages)}
    for name, changed in changes.items():
        changed_batch = batch.with_columns(advantages=changed)
        yield name, subject.run(subject.prepare(changed_batch)).is_finite
    for name, masks in {"one response": ["111"], "one token each": ["1"] * 4}.items():
        yield name, subject.run(subject.prepare(subject.batch(masks))).is_finite

    uniform = torch.zeros_like(random_policy()).requires_grad_()
    now = forward(batch, uniform.detach())
    level = {
        name: (now.entropy if name == "old_entropy" else now.logprobs).numpy()
        for name in (*LOGPROBS, "old_entropy")
        if getattr(batch, name) is not None
    }
    on_policy = subject.prepare(batch.with_columns(**level))
    yield "on policy, equal entropies", subject.run(on_policy, uniform).is_finite


def check_inputs(subject: Subject) -> Finding:
    batch = subject.batch()
    before = copy.deepcopy(batch)
    prepared = subject.prepare(batch)
    changed = _changed(before, batch)
    tokens = subject.tokens(copy.deepcopy(prepared), random_policy())
    before_loss = map_floats(tokens, torch.clone)
    before_loss = replace(before_loss, mask=tokens.mask.clone(), offsets=tokens.offsets.clone())
    subject.loss(tokens)
    changed += _changed(before_loss, tokens)
    return Finding(not changed, ", ".join(changed) or "none")


def _changed(before: Any, after: Any) -> list[str]:
    pairs = {f.name: (getattr(before, f.name), getattr(after, f.name)) for f in fields(before)}
    return [
        name
        for name, (old, new) in pairs.items()
        if isinstance(old, np.ndarray | torch.Tensor)
        and not np.array_equal(_array(old), _array(new), equal_nan=_array(old).dtype.kind == "f")
    ]


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach() if isinstance(values, torch.Tensor) else values)


def check_metrics(subject: Subject) -> Finding:
    batch = subject.prepare(subject.batch())
    whole = subject.run(batch)
    pieces = [subject.run(batch.select(rows)) for rows in ([], [0], _rows_outside(batch))]
    figures = [figure for pair in whole.metrics.values() for figure in pair]
    problems = {
        "names depend on the rows": any(p.metrics.keys() != whole.metrics.keys() for p in pieces),
        "not pairs": any(len(pair) != 2 for pair in whole.metrics.values()),
        "not scalars": any(figure.ndim for figure in figures),
        "attached to the graph": any(figure.requires_grad for figure in figures),
        "not finite": not all(bool(figure.isfinite().all()) for figure in figures),
    }
    found = [problem for problem, is_there in problems.items() if is_there]
    return Finding(not found, ", ".join(found) or f"{len(whole.metrics)} metrics")


def _rows_outside(batch: Batch) -> np.ndarray:
    """Responses without a token in the loss."""
    return np.flatnonzero(np.bincount(batch.rows, batch.mask, len(batch)) == 0)


class Check(NamedTuple):
    """A row of the table."""

    name: str
    run: Callable[[Subject], Finding]
    meaning: str


CHECKS = (
    Check("runs", check_runs, "returns a scalar loss with a gradient"),
    Check("needs", check_needs, "reads no more than it declares"),
    Check("gradient", check_gradient, "autograd agrees with finite differences"),
    Check("mask", check_mask, "NaN off the mask changes nothing"),
    Check("padding", check_padding, "more tokens off the mask change nothing"),
    Check("micro-batches", check_micro_batches, "any cut adds up, for every aggregation"),
    Check("order", check_order, "the order of responses does not matter"),
    Check("weights", check_weights, "a sum weighted by loss_weights"),
    Check("bfloat16", check_bfloat16, "finite; figure: change by rounding"),
    Check("range", check_range, "finite at log-ratios of 100"),
    Check("degenerate", check_degenerate, "empty, masked, uniform, single: all defined"),
    Check("inputs", check_inputs, "changes no input in place"),
    Check("metrics", check_metrics, "pairs of scalars, whatever the rows"),
)


def run_checks(subject: Subject) -> dict[str, Finding]:
    """Every check by name. After ``runs`` or ``needs`` has failed no other could pass."""
    findings: dict[str, Finding] = {}
    for check in CHECKS:
        try:
            findings[check.name] = check.run(subject)
        except Exception as error:  # whatever a user's loss raises
            findings[check.name] = Finding(False, _one_line(error))
        if check.name in ("runs", "needs") and not findings[check.name].has_passed:
            break
    return findings


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
