"""Problems of benchmarks in training sets: found where they are, and not in stock phrases."""

import pytest

from archer.data.overlap import Ngrams, normal_form, signs_of, words_of


def ngrams(*problems, size=13):
    known = Ngrams(size)
    for number, problem in enumerate(problems, start=1):
        known.add(f"bench/{number}", problem)
    return known


def found(problem, *candidates, size=13):
    """Which of the candidates hold the problem."""
    known = ngrams(problem, size=size)
    for candidate in candidates:
        known.meet(candidate)
    return [known.find(candidate) is not None for candidate in candidates]


def test_problems_are_the_same_whatever_their_spaces_and_widths():
    assert normal_form(" What  is\n2 + 2\uff1f ") == "What is 2 + 2?"
    assert normal_form("Cafe\u0301") == normal_form("Caf\u00e9")
    assert normal_form("Is x = 2?") != normal_form("Is X = 2?")


@pytest.mark.parametrize(
    ("first", "second"),
    [("2² + 3", "22 + 3"), ("x³", "x3"), ("10⁵", "105"), ("½ of 8", "1/2 of 8")],
)
def test_powers_are_not_digits_beside_others(first, second):
    assert normal_form(first) != normal_form(second)


PROBLEM = (
    "Ann has 3 red hats, 4 blue hats and a very old green coat, which she wears on the way to town "
    "whenever rain falls; in how many orders can her hats be worn?"
)


def test_words_are_what_is_said_without_numbers_and_latex():
    assert words_of(r"Let $a_1 = \frac{1}{2}$, \text{and} X2 Find") == ["let", "and", "find"]


@pytest.mark.parametrize(
    "leak",
    [
        PROBLEM,
        f"Solve the following problem step by step. {PROBLEM.upper()} Give the number alone.",
        PROBLEM.replace("3 red", r"$3$ red").replace("hats,", "hats --").replace(";", "."),
        PROBLEM.replace("4 blue", "7 blue"),
        PROBLEM.replace("very ", ""),
        PROBLEM.replace("very ", "").replace("worn", "put on"),
        "Bo has a dog. " * 100 + PROBLEM + " Explain. " * 100,
    ],
)
def test_a_problem_is_found_with_other_words_around_it_and_few_in_it_changed(leak):
    assert found(PROBLEM, leak) == [True]


def test_a_problem_of_few_words_is_found_by_all_of_them():
    few = "Ann has 3 red hats, 4 blue hats and a very old green coat; how many hats in all?"
    assert found(few, f"Well: {few.replace('3', '$3$')} Say.") == [True]
    assert found(few, few.replace("how many hats in all", "how many clothes in all")) == [False]


def test_a_part_of_a_problem_is_not_the_problem():
    assert found(PROBLEM, PROBLEM[:80], PROBLEM[80:], "") == [False] * 3


def test_the_problem_most_of_all_found_is_named_with_the_words_in_common():
    known = ngrams("one two three four five", "two three four five six seven", size=2)
    candidate = "One, two! three four 5 six seven"
    known.meet(candidate)
    overlap = known.find(candidate)
    assert overlap is not None
    assert (overlap.origin, overlap.text) == ("bench/2", "two three four five six seven")
    assert overlap.shared == "two three four"


STOCK = {
    # name: two problems with nothing but the phrase in common
    "AIME's ending": (
        "Tom draws two marbles from a red urn. The probability that the two marbles match is "
        r"$\frac{m}{n}$, where $m$ and $n$ are relatively prime positive integers. Find $m+n$.",
        "A fair die is thrown nine times by Ann. The chance that she wins is "
        r"$\frac{m}{n}$, where $m$ and $n$ are relatively prime positive integers. Find $m+n$.",
    ),
    "a ratio": (
        r"Pick a chord. Its length can be written as $\frac{p}{q}$, where $p$ and $q$ are "
        "relatively prime positive integers. Find $p+q$.",
        r"Area of the kite can be written as $\frac{p}{q}$, where $p$ and $q$ are relatively prime "
        "positive integers. Compute $p-q$.",
    ),
    "a functional equation": (
        r"Let $\mathbb{R}$ be the set of real numbers. Determine all functions "
        r"$f: \mathbb{R} \rightarrow \mathbb{R}$ such that $f(x+y)=f(x)f(y)+7$.",
        r"Let $\mathbb{R}$ be the set of real numbers. Determine all functions "
        r"$f: \mathbb{R} \rightarrow \mathbb{R}$ such that $f(xf(y))=y-x$ for all $x,y$.",
    ),
    "a drawing": (
        "Find the area. [asy] draw((0,0)--(1,0)--(1,1)--(0,1)--cycle); "
        'label("$A$",(0,0),S); [/asy]',
        "How many paths are there? [asy] draw((0,0)--(1,0)--(1,1)--(0,1)--cycle); "
        'label("$A$",(0,0),SW); [/asy]',
    ),
    "numbers in a row": (
        "The sum of 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13 is what?",
        "Which of 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14 is lucky?",
    ),
    "AtCoder's input": (
        "Count snails.\n\nInput\n\nThe input is given from Standard Input in the following format:"
        "\n\nN\nA_1 A_2 \\ldots A_N\n\nOutput\n\nPrint the answer.",
        "Sort hats.\n\nInput\n\nThe input is given from Standard Input in the following format:"
        "\n\nN\nA_1 A_2 \\ldots A_N\n\nOutput\n\nPrint the hats.",
    ),
    "LeetCode's modulus": (
        "Return the number of hops. Since the answer may be very large, return it modulo 10^9 + 7."
        "\n\nExample 1:\n\nInput: nums = [3]",
        "Return the number of knots. Since the answer may be very large, return it modulo 10^9 + 7."
        "\n\nExample 1:\n\nInput: nums = [9]",
    ),
    "LeetCode's subarray": (
        "You are given an array. Find its best window. A subarray is a contiguous non-empty "
        "sequence of elements within an array.",
        "Return the largest xor. A subarray is a contiguous non-empty sequence of elements within "
        "an array.",
    ),
}


@pytest.mark.parametrize("case", STOCK)
def test_a_stock_phrase_gives_no_problem_away(case):
    problem, other = STOCK[case]
    assert found(problem, other) == [False]
    assert found(problem, f"Think. {problem}\nAnswer!") == [len(signs_of(problem).split()) >= 8]


HEADER = (
    "Each test contains multiple test cases. The first line contains the number of test cases t "
    "(1 <= t <= 10^4). The description of the test cases follows. It is guaranteed that the sum of "
    "n over all test cases does not exceed 2 * 10^5. {}"
)
TASKS = [f"Sort the {thing} by weight." for thing in ("hats", "cups", "coins")]


def test_a_phrase_that_several_problems_have_gives_none_away():
    problems = [HEADER.format(task) for task in TASKS]
    other = HEADER.format("Count the snails.")
    assert ngrams(*problems[:2]).find(other) is not None
    known = ngrams(*problems)
    assert known.find(other) is None
    whole = known.find(problems[1])
    assert whole is not None and whole.origin == "bench/2"


def test_a_phrase_that_many_candidates_have_gives_none_away():
    thing = "abcdefghijk"
    others = [HEADER.format(f"Count the {letter * 2} there are.") for letter in thing]
    assert found(HEADER.format(TASKS[0]), *others[:10]) == [True] * 10
    assert found(HEADER.format(TASKS[0]), *others) == [False] * 11


@pytest.mark.parametrize("leak", [PROBLEM, PROBLEM.replace("hats be", "hats all be")])
def test_a_problem_that_leaked_often_is_no_phrase(leak):
    variants = [f"Exercise {letter * 2}: {leak}" for letter in "abcdefghijklm"]
    assert found(PROBLEM, *variants) == [True] * 13


def test_one_candidate_many_times_makes_no_phrase_common():
    """A set may hold each problem a hundred times, and is not always deduplicated."""
    assert found(PROBLEM, *[f"{n}. {PROBLEM}" for n in range(100)]) == [True] * 100


def test_a_problem_that_two_benchmarks_have_is_no_phrase():
    known = ngrams(PROBLEM, PROBLEM.replace("3", r"\(3\)"), PROBLEM.lower())
    known.meet(PROBLEM)
    assert known.find(PROBLEM + " Explain.") is not None


SHORT = r"Compute $\dfrac{3}{4} + \left( x_{1} - 2 \right)$ at $x_1 = 5$."


@pytest.mark.parametrize(
    ("candidate", "is_found"),
    [
        (SHORT, True),
        (r"compute \(\frac{3}{4}+(x_1\,-2)\) \text{at} x_1=5", True),
        (f"3. {SHORT} Express your answer as an integer.", True),
        (SHORT.replace("4", "5"), False),
        (SHORT.replace("+", "-"), False),
        (SHORT.replace("5", "50"), False),
        ("Compute.", False),
    ],
)
def test_a_short_problem_is_compared_sign_for_sign(candidate, is_found):
    assert found(SHORT, candidate) == [is_found]


ODD = "What is the sum of the first $n$ odd integers?"


@pytest.mark.parametrize(
    ("candidate", "is_found"),
    [
        (f"Well: {ODD} Explain.", True),
        ("What is the sum of the first $n$ odd integers\nSay a number.", True),
        ("What is the sum of the first $n$ odd $integers?$ Say a number.", True),
        (ODD.replace("?", " greater than 10 that are prime?"), False),
        (ODD.replace("?", ", doubled?"), False),
        (ODD.replace("?", ".5 apart?"), False),
    ],
)
def test_a_short_problem_inside_of_another_ends_a_sentence_there(candidate, is_found):
    assert found(ODD, candidate) == [is_found]


def test_the_shortest_problems_are_found_only_where_they_are_all_there_is():
    assert found("Find $x$.", "find x", "Find x such that x + 1 = 3", f"Find x. {PROBLEM}") == [
        True,
        False,
        False,
    ]
    assert found("?", "!", "") == [False, False]
