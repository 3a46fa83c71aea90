"""The exact reward: is the answer, as text, one of the references?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from archer.rewards.arguments import check, check_bool
from archer.rewards.extraction import EXTRACTORS, extract_answer, final_text
from archer.rewards.reward import Reward
from archer.types import RewardResult, ScoreRequest

DETAIL_CHARS = 100
ANSWER_CHARS = 400
"""Of an answer that others are compared with."""


def exact_reward(
    request: ScoreRequest, extract: Sequence[str] = (), ignore_case: bool = False
) -> RewardResult:
    """1 when the answer equals a reference but for white space, else 0.

    White space at both ends is dropped and any run of it counts as one space. The ground truth is a
    string or number, or a list of them of which any may match.

    Args:
        request: the response to judge.
        extract: where the answer stands, keys of ``extraction.EXTRACTORS`` tried in this order; by
            default it is all that follows the reasoning.
        ignore_case: whether letters are equal in either case.

    Raises:
        ValueError: the ground truth holds nothing to compare with.
    """
    references = _references(request.ground_truth)
    found = extract_answer(request.response, extract) if extract else final_text(request.response)
    answer = _normalise(found or "")
    if not answer:
        return RewardResult(0.0, False, "no_answer")
    detail = answer[:DETAIL_CHARS]
    if ignore_case:
        answer, references = answer.casefold(), [text.casefold() for text in references]
    correct = answer in references
    return RewardResult(float(correct), correct, "ok", detail, answer=answer[:ANSWER_CHARS])


def check_exact_truth(ground_truth: Any, **args: Any) -> None:
    _references(ground_truth)


def specialise_exact(extract: Sequence[str] = (), ignore_case: bool = False) -> Reward:
    """``exact_reward``, its arguments checked.

    Raises:
        ConfigError: no such place for an answer, or not true or false.
    """
    check_bool("ignore_case", ignore_case)
    is_list = isinstance(extract, Sequence) and not isinstance(extract, str)
    is_good = is_list and all(isinstance(m, str) and m in EXTRACTORS for m in extract)
    check("extract", extract, is_good, f"a list of {', '.join(EXTRACTORS)}, or [] for all the text")
    return EXACT


def _references(ground_truth: Any) -> list[str]:
    """The acceptable answers, normalised."""
    values = ground_truth if isinstance(ground_truth, list | tuple) else [ground_truth]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError(f"ground truth {value!r} is neither a string nor a number")
    references = [_normalise(str(value)) for value in values]
    if not all(references) or not references:
        raise ValueError(f"ground truth {ground_truth!r} is empty")
    return references


def _normalise(text: str) -> str:
    return " ".join(text.split())


EXACT = Reward(
    exact_reward,
    quick=exact_reward,
    check_truth=check_exact_truth,
    is_self_contained=True,
    specialise=specialise_exact,
)
