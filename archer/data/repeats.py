"""Rows whose problem came before in the same set."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from archer.data.answers import Answers, Pair, are_spelled_alike, contradictions
from archer.data.overlap import Example, beginning, hashed, normal_form, problem_of
from archer.data.rows import GroundTruth, Row
from archer.rewards.math_verifier import MAX_ANSWER_CHARS

DUPLICATE, CONFLICT = "duplicate problem", "conflicting truths"
NUM_EXAMPLES = 5
"""Of each reason that two texts make, for the report."""


@dataclass(frozen=True)
class _Repeat:
    source: str
    id: str
    text: str
    """Beginning of the problem as it stands here."""
    place: int
    """Of the first row with this problem, among the first rows of all problems."""
    answers: Pair | None
    """The first row's and its own, if these are written so differently that they may contradict
    each other. Tests never do: others only ask for more or less."""


@dataclass
class Duplicates:
    """Problems seen so far, by 8 bytes of a hash, with the answers that each came with first."""

    dropped: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """Source to how many of its rows are left out for which reason."""
    conflicting: set[int] = field(default_factory=set)
    """Places of the first rows that others contradict, known once ``settle`` has been called."""
    _places: dict[int, int] = field(default_factory=dict)
    _answers: list[Answers | None] = field(default_factory=list)
    _disputed: list[_Repeat] = field(default_factory=list)
    _shown: dict[str, list[_Repeat]] = field(default_factory=lambda: defaultdict(list))
    """Reason to the first few that were left out for it."""

    def add(self, source: str, id: str, row: Row, has_tests: bool) -> bool:
        """Whether the problem is new; the row is left out if it is not.

        Args:
            has_tests: whether the truth is tests and not an answer.
        """
        problem = problem_of(row)
        place = self._places.setdefault(hashed(normal_form(problem)), len(self._answers))
        answers = None if has_tests else _answers_of(row.ground_truth)
        if place == len(self._answers):
            self._answers.append(answers)
            return True
        first = self._answers[place]
        if first is None or answers is None or are_spelled_alike(first, answers):
            self._drop(_Repeat(source, id, beginning(problem), place, None), DUPLICATE)
        else:
            text = beginning(problem)
            self._disputed.append(_Repeat(source, id, text, place, (first, answers)))
        return False

    def settle(self) -> None:
        """Decide which differently written answers contradict each other.

        Raises:
            RunError: no verifier process starts.
        """
        different = contradictions({r.answers for r in self._disputed if r.answers is not None})
        for repeat in self._disputed:
            self._drop(repeat, CONFLICT if repeat.answers in different else DUPLICATE)

    def examples(self, place: int, id: str, problem: str) -> Iterator[tuple[str, Example]]:
        """Reasons and examples of rows that repeat the first row at this place."""
        for reason, repeats in self._shown.items():
            for repeat in repeats:
                if repeat.place == place:
                    shared = " / ".join(map(", ".join, repeat.answers or ()))
                    yield reason, Example(repeat.id, id, repeat.text, beginning(problem), shared)

    def _drop(self, repeat: _Repeat, reason: str) -> None:
        self.dropped[repeat.source][reason] += 1
        if reason == CONFLICT:
            self.conflicting.add(repeat.place)
        if len(self._shown[reason]) < NUM_EXAMPLES:
            self._shown[reason].append(repeat)


def _answers_of(truth: GroundTruth) -> Answers | None:
    match truth:
        case str() if len(truth) <= MAX_ANSWER_CHARS:
            return (truth,)
        case [str(), *_]:
            return tuple(map(str, truth))
    return None
