"""Your own reward: right answers earn more when they are short."""

from archer.rewards import math_reward
from archer.types import RewardResult, ScoreRequest


def concise_math(request: ScoreRequest, max_chars: int = 2000) -> RewardResult:
    """1 for a right answer of no length, falling linearly to 0.5 at ``max_chars`` and beyond."""
    result = math_reward(request)
    if not result.correct:
        return result
    used = min(len(request.response) / max_chars, 1.0)
    return RewardResult(1.0 - 0.5 * used, correct=True, status="ok")
