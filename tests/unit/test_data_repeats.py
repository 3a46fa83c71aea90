"""Problems that come twice in a set: which of their rows are left out, and what is said of them."""

import pytest

from archer.data.answers import contradictions
from archer.data.overlap import Example
from archer.data.repeats import Duplicates
from archer.data.rows import Row

DUPLICATE, CONFLICT = "duplicate problem", "conflicting truths"


def settled(*rows, has_tests=False):
    """What became of (problem, truth) rows of a source s."""
    duplicates = Duplicates()
    for number, (problem, truth) in enumerate(rows, start=1):
        duplicates.add("s", f"s-{number}", Row(number, problem, truth, "sums"), has_tests)
    duplicates.settle()
    return duplicates


def dropped(*rows, **keys):
    return dict(settled(*rows, **keys).dropped["s"])


def test_a_repeated_problem_is_dropped_and_one_with_two_truths_is_marked():
    found = settled(("a", "1"), ("b", "2"), (" a", "1"), ("b", "3"), ("c", "4"), ("b", "2"))
    assert found.dropped["s"] == {DUPLICATE: 2, CONFLICT: 1}
    assert found.conflicting == {1}  # b, the second problem


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("5", "$5$"),
        ("5", "5.0"),
        ("5", ["5"]),
        ("5", "05"),
        ("0.5", r"\frac{1}{2}"),
        (["1", "2"], ["2", "1"]),
        (["1", "2"], "1"),
    ],
)
def test_answers_that_are_one_text_or_number_do_not_conflict(first, second):
    assert dropped(("a", first), ("a", second)) == {DUPLICATE: 1}


def test_answers_conflict_where_the_maths_reward_says_so():
    same = [
        (r"2\sqrt{3}", r"2 \sqrt 3"),
        ("x=5", "5"),
        (r"336^\circ", "336"),
        ("50%", r"50\%"),
        (r"\text{(A)}", "A"),
        ("(x+1)^2", "x^2+2x+1"),
    ]
    different = [("5", "6"), (r"\sqrt{2}", r"\sqrt{3}"), ("A", "B"), (r"\frac{1", "1")]
    pairs = [((first,), (second,)) for first, second in same + different]
    assert contradictions(pairs) == set(pairs[len(same) :])


def test_other_tests_of_a_problem_contradict_nothing():
    few = [{"input": "1\n", "output": "1\n"}]
    many = [*few, {"input": "2\n", "output": "2\n"}]
    assert dropped(("a", few), ("a", many)) == {DUPLICATE: 1}
    assert dropped(("a", "[1]"), ("a", "[2]"), has_tests=True) == {DUPLICATE: 1}


def test_instructions_that_all_prompts_have_do_not_make_problems_the_same():
    duplicates = Duplicates()
    rows = [Row(1, f"Do as I say: {p}", "1", "sums", {"problem": p}) for p in ("a", "b", "a")]
    assert [duplicates.add("s", "", row, False) for row in rows] == [True, True, False]


def test_examples_name_both_rows_and_the_answers():
    found = settled(("a", "1"), ("b", "2"), (" a", "1"), ("b", "3"))
    assert list(found.examples(0, "s-1", "a")) == [(DUPLICATE, Example("s-3", "s-1", "a", "a", ""))]
    assert list(found.examples(1, "s-2", "b")) == [
        (CONFLICT, Example("s-4", "s-2", "b", "b", "2 / 3"))
    ]
    many = settled(*[("a", "1")] * 20)
    assert len(list(many.examples(0, "s-1", "a"))) == 5
