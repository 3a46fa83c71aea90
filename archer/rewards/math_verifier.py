r"""The maths reward: is the boxed answer equal to the reference?

Everything cheap is decided here; what needs computer algebra goes to ``equivalence``, which may
take for ever on hostile input and is therefore only ever called inside a verifier process.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

from archer.rewards.extraction import boxed_answer
from archer.rewards.normalise import comparison_key, normalise
from archer.types import RewardResult, ScoreRequest

MAX_ANSWER_CHARS = 400
MAX_NESTING = 40
MAX_LIST_ITEMS = 64
DETAIL_CHARS = 100


def math_reward(request: ScoreRequest) -> RewardResult:
    """1 when the boxed answer equals a reference, 0 when not or when there is none.

    The ground truth is a string or number, or a list of them of which any may match. There is no
    time limit here: the pool kills the process.

    Raises:
        ValueError: the ground truth holds nothing to compare with.
    """
    references = _references(request.ground_truth)
    answer = boxed_answer(request.response)
    if answer is None:
        return RewardResult(0.0, False, "no_answer")
    correct = is_correct(answer, references)
    return RewardResult(float(correct), correct, "ok", detail=answer[:DETAIL_CHARS])


def is_correct(answer: str, references: Sequence[str]) -> bool:
    """Whether the content of a box equals any of the references."""
    answer = normalise(answer)
    references = [normalise(reference) for reference in references]
    if comparison_key(answer) in {comparison_key(reference) for reference in references}:
        return True
    if not _is_tractable(answer):
        return False
    # Imports sympy, which takes half a second: never on the driver.
    from archer.rewards.equivalence import is_equivalent

    return any(is_equivalent(answer, reference) for reference in references)


def _references(ground_truth: object) -> list[str]:
    values = ground_truth if isinstance(ground_truth, list | tuple) else [ground_truth]
    references = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"ground truth {value!r} is neither a string nor a number")
        text = str(value)
        references.append(boxed_answer(text) or text)
    if not any(reference.strip() for reference in references):
        raise ValueError(f"ground truth {ground_truth!r} is empty")
    return references


def _is_tractable(answer: str) -> bool:
    """False for answers that only cost time: no sensible one is so long, so deep or so wide."""
    steps = ({"(": 1, "[": 1, "{": 1}.get(c, -1 if c in ")]}" else 0) for c in answer)
    return (
        len(answer) <= MAX_ANSWER_CHARS
        and max(accumulate(steps), default=0) <= MAX_NESTING
        and len(re.findall("[,;]", answer)) < MAX_LIST_ITEMS
    )
