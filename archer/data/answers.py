"""Whether two answers to one problem contradict each other, by the judgement of the maths reward.

Sets that share a problem write its answer in their own ways: ``2\\sqrt{3}`` and ``2 \\sqrt 3``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence

from archer.config.keys import RewardConfig
from archer.errors import RunError
from archer.rewards.math_verifier import MAX_ANSWER_CHARS, canonical, math_quick
from archer.rewards.pool.processes import VerifierProcesses, VerifierStartError
from archer.types import ScoreRequest

Answers = tuple[str, ...]
"""Of one problem, each of which is right."""
Pair = tuple[Answers, Answers]

VERIFIERS = RewardConfig(name="math", num_workers=2)


def are_spelled_alike(first: Answers, second: Answers) -> bool:
    """Whether an answer of both is the same text or the same plain number."""
    return first == second or not _spellings(first).isdisjoint(_spellings(second))


def contradictions(pairs: Collection[Pair]) -> set[Pair]:
    """Those of which neither has an answer that is right by the other.

    What takes computer algebra is decided in verifier processes, since it may take for ever; what
    is not found equal within their deadline counts as different.

    Raises:
        RunError: no verifier process starts.
    """
    different, undecided = set(), []
    for pair in pairs:
        verdicts = [math_quick(request) for request in _requests(pair)]
        if any(verdict is not None and verdict.correct for verdict in verdicts):
            continue
        if None in verdicts:
            undecided.append(pair)
        else:
            different.add(pair)
    return different | asyncio.run(_judged(undecided)) if undecided else different


async def _judged(pairs: Sequence[Pair]) -> set[Pair]:
    """Those that verifier processes do not find equal."""
    verifiers = VerifierProcesses(VERIFIERS)
    try:
        await verifiers.start()
        verdicts = await asyncio.gather(*(_are_equal(verifiers, pair) for pair in pairs))
    except VerifierStartError as error:
        raise RunError(str(error)) from error
    finally:
        await verifiers.close()
    return {pair for pair, are_equal in zip(pairs, verdicts, strict=True) if not are_equal}


async def _are_equal(verifiers: VerifierProcesses, pair: Pair) -> bool:
    for request in _requests(pair):
        if (await verifiers.score(request)).correct:
            return True
    return False


def _requests(pair: Pair) -> Iterator[ScoreRequest]:
    """Each answer of one as a response to the problem with the other's."""
    for answers, truth in (pair, pair[::-1]):
        for answer in answers:
            yield ScoreRequest("", rf"\boxed{{{answer}}}", list(truth))


def _spellings(answers: Answers) -> set[str]:
    return {canonical(answer[:MAX_ANSWER_CHARS]) for answer in answers}
