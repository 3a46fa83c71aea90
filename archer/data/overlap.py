"""Problems that are the same, or have so much in common that one gives the other away."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from archer.data.rows import Row, text_of

SHARE = 0.5
"""Of a benchmark problem's words, more than this has to be in another problem; all of them if they
are fewer than one and a half runs."""
STOCK_PROBLEMS, STOCK_CANDIDATES = 3, 10
"""A run of words that so many problems of the benchmarks have, or more than so many candidates, is
a stock phrase: it gives no problem away."""
WHOLE_SHARE = 0.9
"""Who has more than this of a problem's words has the problem, however many others have it too."""
MIN_SIGNS = 8
"""Words and signs of a short problem that is looked for inside of others too."""
SHOWN_CHARS = 100
"""Of each text in an example."""

_WIDE = re.compile("[\uff01-\uffef]+")  # Unicode's block of half and full width forms
_WORD = re.compile(r"\\[^\W\d_]+|([^\W\d_]{2,})")
_SIGN = re.compile(r"\\[^\W\d_]+|\\[][(),;:!]|[^\W_]+|[^\w\s${}.,;:!?~]")
_END = re.compile(r"[.?](?![\w.,])|\n|$")
"""Of a sentence or a line; no decimal point."""
_SPELLINGS = {
    **dict.fromkeys([r"\dfrac", r"\tfrac", r"\cfrac"], r"\frac"),
    **dict.fromkeys([r"\ldots", r"\cdots"], r"\dots"),
    **dict.fromkeys(["\\" + sign for sign in "[](),;:!"], ""),
    **dict.fromkeys([r"\left", r"\right", r"\displaystyle", r"\text", r"\mathrm"], ""),
}


@dataclass(frozen=True)
class Example:
    """A row of a set and what it was found to repeat, for a reader to judge."""

    row: str
    """Id of the row, as the next."""
    other: str
    """Of the row before it, or of the benchmark's problem."""
    row_text: str
    """Beginning of its problem, as the next."""
    other_text: str
    shared: str
    """The words that both have, or the answers that contradict each other."""


@dataclass(frozen=True)
class Overlap:
    """What a problem has of a benchmark's."""

    origin: str
    """Of the benchmark's problem, e.g. ``aime24/aime24-7``."""
    text: str
    """Its beginning."""
    shared: str
    """The longest run of words that both have."""


def normal_form(problem: str) -> str:
    """What has to be equal for two problems to be the same one: Unicode's NFC, one width of each
    character, and one space for any run of white space. Case and punctuation count."""
    text = unicodedata.normalize("NFC", problem)
    text = _WIDE.sub(lambda wide: unicodedata.normalize("NFKC", wide[0]), text)
    return " ".join(text.split())


def words_of(problem: str) -> list[str]:
    """What is said in words of two or more letters, without case: no numbers, no LaTeX."""
    return [word for word in _WORD.findall(normal_form(problem).casefold()) if word]


def signs_of(problem: str) -> str:
    """All words, numbers and signs, between spaces, in one spelling of LaTeX; without case,
    brackets that only group, and punctuation."""
    signs = _SIGN.findall(normal_form(problem).casefold())
    return " ".join(["", *filter(None, (_SPELLINGS.get(sign, sign) for sign in signs)), ""])


def problem_of(row: Row) -> str:
    """The problem of a row without what all prompts of its set have in common."""
    bare = row.extra.get("problem")
    return bare if isinstance(bare, str) else text_of(row.prompt)


@dataclass(frozen=True)
class _Problem:
    """One of a benchmark."""

    origin: str
    text: str
    words: list[str]


@dataclass
class Ngrams:
    """Runs of ``size`` words of the benchmarks' problems, by which these are found in candidates.

    One run in common says little, since contests have stock phrases. So runs that several problems
    or many candidates have do not count, and most of the words in a problem's other runs have to be
    in common. Who has nearly all of a long problem is found whatever others have: what leaked often
    is no phrase. Problems of fewer words than a run are compared as a whole, sign for sign.
    """

    size: int
    _problems: list[_Problem] = field(default_factory=list)
    _said: set[str] = field(default_factory=set)
    """The words of each."""
    _starts: dict[str, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    """Run to (problem, place of its first word)."""
    _candidates: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    """Run to hashes of candidates with it, no more than tell that they are many."""
    _wholes: dict[str, int] = field(default_factory=dict)
    """Signs of a problem to the problem."""
    _short: list[str] = field(default_factory=list)
    """Those of problems that may stand inside of others."""

    def add(self, origin: str, problem: str) -> None:
        """Have a problem found from now on; ``origin`` is what ``Overlap`` will call it."""
        number, words, signs = len(self._problems), words_of(problem), signs_of(problem)
        self._problems.append(_Problem(origin, beginning(problem), words))
        if signs.strip():
            self._wholes.setdefault(signs, number)
        if len(words) < self.size and signs.count(" ") > MIN_SIGNS:
            self._short.append(signs)
        said = " ".join(words)
        if said not in self._said:  # a problem that two benchmarks have makes no phrase common
            self._said.add(said)
            for start, run in enumerate(self._runs(words)):
                self._starts[run].append((number, start))

    def meet(self, candidate: str) -> bool:
        """Whether ``find`` has to look at a candidate, once all have been met: only then is it
        known what many of them have."""
        words = words_of(candidate)
        met = self._starts.keys() & set(self._runs(words))
        for run in met:
            if len(self._candidates[run]) <= STOCK_CANDIDATES:
                self._candidates[run].add(hashed(" ".join(words)))
        return bool(met) or self._find_whole(candidate) is not None

    def find(self, candidate: str) -> Overlap | None:
        """The problem of a benchmark that is most of all in a candidate, if one is."""
        whole = self._find_whole(candidate)
        if whole is not None:
            problem = self._problems[whole]
            return Overlap(problem.origin, problem.text, problem.text)
        runs = self._runs(words_of(candidate))
        shared, telling = self._places(runs), self._places(filter(self._is_telling, runs))
        found = {n: share for n in shared if (share := self._share(n, shared[n], telling[n]))}
        if not found:
            return None
        best = max(found, key=lambda n: found[n])
        problem = self._problems[best]
        first, last = _longest_run(telling[best] or shared[best])
        words = " ".join(problem.words[first : last + 1])
        return Overlap(problem.origin, problem.text, beginning(words))

    def _share(self, number: int, shared: set[int], telling: set[int]) -> float:
        """Of a problem's words that are shared; 0 where these are too few.

        Args:
            shared: places of words in runs that the candidate has.
            telling: those of them that are in no stock phrase.
        """
        words = self._problems[number].words
        runs = self._runs(words)
        is_long = len(words) >= 1.5 * self.size
        share = len(shared) / len(self._places(runs)[number])
        if is_long and share > WHOLE_SHARE:
            return share
        if not telling:
            return 0.0
        share = len(telling) / len(self._places(filter(self._is_telling, runs))[number])
        return share if share == 1 or (is_long and share > SHARE) else 0.0

    def _find_whole(self, candidate: str) -> int | None:
        signs = signs_of(candidate)
        inside = (s for s in self._short if s in signs and _has_end(candidate, s))
        return self._wholes.get(signs if signs in self._wholes else next(inside, ""))

    def _runs(self, words: list[str]) -> list[str]:
        starts = range(len(words) - self.size + 1)
        return [" ".join(words[start : start + self.size]) for start in starts]

    def _is_telling(self, run: str) -> bool:
        return len(self._candidates.get(run, ())) <= STOCK_CANDIDATES

    def _places(self, runs: Iterable[str]) -> dict[int, set[int]]:
        """Problems with some of these runs, and the words' places in them; phrases that several
        problems have count for none."""
        places: dict[int, set[int]] = defaultdict(set)
        for run in self._starts.keys() & set(runs):
            starts = self._starts[run]
            if len({number for number, _ in starts}) < STOCK_PROBLEMS:
                for number, start in starts:
                    places[number].update(range(start, start + self.size))
        return places


def beginning(text: str) -> str:
    """As much of a text as an example shows, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARS else f"{line[: SHOWN_CHARS - 3]}..."


def _has_end(problem: str, signs: str) -> bool:
    """Whether a sentence or a line of the problem ends with these signs."""
    return any(signs_of(problem[: end.start()]).endswith(signs) for end in _END.finditer(problem))


def _longest_run(numbers: Iterable[int]) -> tuple[int, int]:
    """First and last of the longest run of numbers that follow each other."""
    ends: dict[int, int] = {}
    for number in sorted(numbers, reverse=True):
        ends[number] = ends.get(number + 1, number)
    return max(ends.items(), key=lambda run: run[1] - run[0])


def hashed(text: str) -> int:
    """8 bytes of a hash."""
    digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big")
