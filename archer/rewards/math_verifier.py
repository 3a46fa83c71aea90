r"""The maths reward: is the answer of a response equal to the reference?

Everything cheap is decided here, for the whole pool by ``math_quick``; what needs computer algebra
goes to ``equivalence``, which may take for ever on hostile input and is therefore only ever called
inside a verifier process.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

from archer.errors import ConfigError
from archer.rewards.extraction import EXTRACTORS, boxed_answer, extract_answer, final_text
from archer.rewards.maths.normalise import comparison_key, normalise
from archer.rewards.maths.plain_numbers import PlainNumber, are_far_apart, is_huge, plain_number
from archer.rewards.reward import Reward
from archer.types import RewardResult, ScoreRequest

BOXED = ("boxed",)
MAX_QUICK_CHARS = 10_000
"""Of text behind the reasoning: what ``math_quick`` reads on the pool's event loop."""
MAX_ANSWER_CHARS = 400
MAX_NESTING = 10
"""Of brackets: math-verify's parser takes exponentially long on them, seconds at 12."""
MAX_LIST_ITEMS = 64
DETAIL_CHARS = 100
SHOWN_CHARS = 80
"""Of a bad ground truth in an error."""

_NOT_ANSWERS = ("proof", "notfound", "nan", "null", "n/a", "[]")
"""What datasets write where a problem has no final answer."""
_BRACE = re.compile(r"\\.|([{}])", re.DOTALL)
_DIGIT_GROUP = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass(frozen=True)
class Reference:
    """One acceptable answer, ready for comparison."""

    text: str
    """Normalised."""
    key: str
    number: PlainNumber | None
    """The value, if it is a plain number and nothing else."""
    listing: str | None
    """The text as a list of values, where its source writes lists with bare commas."""


def math_reward(request: ScoreRequest, extract: Sequence[str] = BOXED) -> RewardResult:
    """1 when the answer of the response equals a reference, 0 when not or when there is none.

    The ground truth is a string or number, or a list of them of which any may match. There is no
    time limit here: the pool kills the process.

    Args:
        request: the response to judge.
        extract: where answers stand, keys of ``extraction.EXTRACTORS``, tried in this order.

    Raises:
        ValueError: the ground truth holds nothing to compare with.
    """
    references = references_of(request.ground_truth, request.source)
    answer = extract_answer(request.response, extract)
    if answer is None:
        return RewardResult(0.0, False, "no_answer")
    return _verdict(answer, is_correct(answer, references))


def math_quick(request: ScoreRequest, extract: Sequence[str] = BOXED) -> RewardResult | None:
    """``math_reward`` where it needs no computer algebra: the same verdict, or None."""
    text = final_text(request.response)
    if len(text) > MAX_QUICK_CHARS:
        return None
    try:
        references = references_of(request.ground_truth, request.source)
    except ValueError:
        return None  # for math_reward to report
    answer = extract_answer(text, extract)
    if answer is None:
        return RewardResult(0.0, False, "no_answer")
    correct = decide_quickly(answer, references)
    return None if correct is None else _verdict(answer, correct)


def check_math_truth(ground_truth: Any, extract: Sequence[str] = BOXED) -> None:
    """Whether answers can be compared with a ground truth.

    Raises:
        ValueError: it is null, empty, a placeholder, broken LaTeX, or of another type.
    """
    references_of(ground_truth)


def is_correct(answer: str, references: Sequence[Reference]) -> bool:
    """Whether an answer equals any of the references."""
    correct = decide_quickly(answer, references)
    if correct is not None:
        return correct
    text = normalise(answer)
    if is_huge(text) and all(reference.number is not None for reference in references):
        return False
    # Imports sympy, which takes half a second: never on the driver.
    from archer.rewards.maths.equivalence import is_equivalent

    return any(
        is_equivalent(text, reference.text)
        or (reference.listing and is_equivalent(_as_listing(text), reference.listing))
        for reference in references
    )


def decide_quickly(answer: str, references: Sequence[Reference]) -> bool | None:
    """The verdict of ``is_correct`` where text, size or exact arithmetic settles it, else None."""
    number, key = plain_number(answer), answer
    if number is None:
        text = normalise(answer)
        number, key = plain_number(text), comparison_key(text)
    if any(key == reference.key for reference in references):
        return True
    if number is None:
        return None if _is_tractable(text) else False
    is_certain = True
    for reference in references:
        if number == reference.number:
            return True
        is_certain &= reference.number is not None and are_far_apart(number, reference.number)
    return False if is_certain else None


def references_of(ground_truth: Any, source: str = "") -> tuple[Reference, ...]:
    r"""The acceptable answers of a ground truth; a JSON list of strings (``["1/2", "0.5"]``) counts
    as a list, the interval ``[1, 2]`` does not.

    Args:
        ground_truth: a string, a number, or a list of them.
        source: name of the data source. OlympiadBench joins the values of a list with bare commas,
            so there ``10,100`` is 10100 or the list of 10 and 100.

    Raises:
        ValueError: nothing can be compared with it.
    """
    values = ground_truth if isinstance(ground_truth, list | tuple) else (ground_truth,)
    texts = tuple(v if isinstance(v, str) else _number_text(v) for v in values)
    if not texts:
        raise ValueError("the ground truth is an empty list")
    return _references(texts, "olympiad" in source.lower())


def _number_text(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"the ground truth is neither a string nor a number: {_shown(value)}")
    return str(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."


@lru_cache(maxsize=4096)  # the samples of a group share their references
def _references(texts: tuple[str, ...], has_bare_lists: bool) -> tuple[Reference, ...]:
    return tuple(
        _reference(item, has_bare_lists) for text in texts for item in _json_strings(text) or [text]
    )


def _reference(truth: str, has_bare_lists: bool) -> Reference:
    text = normalise(boxed_answer(truth) or truth)
    if not text or text.lower() in _NOT_ANSWERS or r"\boxed{}" in text:
        raise ValueError(f"the ground truth is no answer: {_shown(truth)}")
    steps = (1 if brace[1] == "{" else -1 for brace in _BRACE.finditer(text) if brace[1])
    depths = list(accumulate(steps, initial=0))
    if min(depths) < 0 or depths[-1] != 0:
        raise ValueError(f"the ground truth has unbalanced braces: {_shown(truth)}")
    listing = _as_listing(text) if has_bare_lists else text
    if listing == text:
        return Reference(text, comparison_key(text), plain_number(text), None)
    return Reference(text, comparison_key(text), None, listing)


def _json_strings(text: str) -> list[str] | None:
    if not text.lstrip().startswith("["):
        return None
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        return None
    is_list_of_answers = bool(values) and all(isinstance(value, str) for value in values)
    return values if is_list_of_answers else None


def _as_listing(normalised: str) -> str:
    return _DIGIT_GROUP.sub(", ", normalised)


def _verdict(answer: str, correct: bool) -> RewardResult:
    spelling = canonical(answer[:MAX_ANSWER_CHARS])
    return RewardResult(float(correct), correct, "ok", answer[:DETAIL_CHARS], answer=spelling)


def canonical(answer: str) -> str:
    """One spelling for answers that equal each other as text or as plain numbers.

    Those that only computer algebra finds equal keep their own.
    """
    number = plain_number(answer)
    if number is None:
        text = normalise(answer)
        number = plain_number(text)
        if number is None:
            return comparison_key(text)
    return str(number)


def _is_tractable(answer: str) -> bool:
    """False for answers that only cost time: no sensible one is so long, so deep or so wide."""
    if len(answer) > MAX_ANSWER_CHARS:
        return False
    steps = ({"(": 1, "[": 1, "{": 1}.get(c, -1 if c in ")]}" else 0) for c in answer)
    return (
        max(accumulate(steps), default=0) <= MAX_NESTING
        and len(re.findall("[,;]", answer)) < MAX_LIST_ITEMS
    )


def _checked(extract: Sequence[str] = BOXED) -> Reward:
    if isinstance(extract, str) or not extract or not set(extract) <= set(EXTRACTORS):
        expected = f"a list of {', '.join(EXTRACTORS)}"
        mend = "Write for instance 'reward.args.extract=[boxed]'."
        raise ConfigError("reward.args.extract", extract, expected, mend)
    return MATH


MATH = Reward(
    math_reward,
    quick=math_quick,
    check_truth=check_math_truth,
    is_self_contained=True,
    preload=("archer.rewards.maths.equivalence",),
    specialise=_checked,
    slow_is_wrong=lambda source: True,
)
