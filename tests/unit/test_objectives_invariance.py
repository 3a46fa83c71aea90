"""However a mini-batch is cut, ordered or padded, every objective gives it one gradient."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from archer.algos import AGGREGATIONS, OBJECTIVES, ObjectiveConfig
from archer.objective_checks.bigram import random_batch, random_policy
from archer.objective_checks.checks import TOLERANCE, run_checks
from archer.objective_checks.subject import Subject, difference

pytestmark = pytest.mark.usefixtures("one_thread")


def switches(config: type[ObjectiveConfig]) -> Iterator[tuple[str, Any]]:
    """Every value of every switch: of fields that are a choice or a bool."""
    for key, field in config.model_fields.items():
        if get_origin(field.annotation) is Literal:
            yield from ((key, option) for option in get_args(field.annotation))
        elif field.annotation is bool:
            yield from ((key, option) for option in (True, False))


def switched() -> Iterator[tuple[str, Subject]]:
    """Every loss with each of its switches thrown, once where several objectives share it."""
    seen = set()
    for name, objective in OBJECTIVES.items():
        for key, option in switches(objective.config):
            values = {key: option}
            if key == "kl" and getattr(objective.config(), "beta", None) == 0:
                values["beta"] = 0.04  # without, no KL is computed
            try:
                config = objective.config.model_validate(values)
            except ValidationError:  # a combination that the objective refuses
                continue
            if config != objective.config() and (objective.loss, key, option) not in seen:
                seen.add((objective.loss, key, option))
                yield f"{name} {key}={option}", Subject(objective, config)


AS_PUBLISHED = {name: Subject(o, o.config()) for name, o in OBJECTIVES.items()}
SUBJECTS = AS_PUBLISHED | dict(switched())


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_objective_passes_every_check(name):
    """Among them: micro-batches of 1, 2 and all responses and of token budgets; every
    aggregation; any order; padding; finite differences."""
    findings = run_checks(SUBJECTS[name])
    assert {check: f.figure for check, f in findings.items() if not f.has_passed} == {}


MASKS = st.lists(st.text("01", max_size=9), min_size=1, max_size=7)


@pytest.mark.parametrize("name", OBJECTIVES)
@settings(max_examples=10, deadline=None, derandomize=True)
@given(masks=MASKS, aggregation=st.sampled_from(sorted(AGGREGATIONS)), seed=st.integers(0, 99))
def test_ragged_mini_batches_of_any_shape_add_up(name, masks, aggregation, seed):
    masks = [*masks, "1"]  # a mini-batch without a token in the loss is never prepared
    subject, policy = AS_PUBLISHED[name], random_policy(seed)
    batch = subject.prepare(random_batch(masks, subject.needs, policy, seed), aggregation)
    whole = subject.run(batch, policy)
    assert whole.is_finite
    order = np.random.default_rng(seed).permutation(len(batch))
    pieces = np.array_split(order, 1 + seed % len(batch))
    assert difference(subject.run_pieces(batch, pieces, policy), whole) <= TOLERANCE
