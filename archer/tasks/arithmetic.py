r"""Column addition with a chain of thought.

The prompt ``58+67=?\n`` asks for the columns from right to left, each on a line of its own, with
``+1`` where a carry comes in, and for the sum in a box::

    8+7=15
    5+6+1=12
    \boxed{125}

About 8e7 problems exist and an answer can hardly be guessed, so what is learned is the procedure.
"""

from __future__ import annotations

from random import Random

from archer.tasks.task import Problem, Task

FORGET_CARRY = 0.45
"""Probability that the teacher overlooks a carry, at each column that has one."""
PHANTOM_CARRY = 0.3 * FORGET_CARRY
"""Probability that the teacher adds a carry that is not there."""
SLIP = 0.06
"""Probability that the teacher is off by one in a column's sum."""


def draw(rng: Random) -> Problem:
    """Two numbers of 2, 3 or 4 digits each; the number of digits is the level."""
    digits = rng.choice((2, 3, 4))
    a, b = (rng.randrange(10 ** (digits - 1), 10**digits) for _ in range(2))
    return Problem(f"{a}+{b}=?\n", str(a + b), digits)


def noisy_trace(problem: Problem, rng: Random) -> str:
    """Columns and boxed sum as the teacher writes them, right in about 43 % of all cases."""
    return write_columns(problem, rng, FORGET_CARRY, PHANTOM_CARRY, SLIP)


def write_columns(
    problem: Problem, rng: Random, forget: float = 0.0, phantom: float = 0.0, slip: float = 0.0
) -> str:
    """Columns and boxed sum. An error carries on: later columns trust what was written before."""
    a, b = problem.prompt.removesuffix("=?\n").split("+")
    lines, result, carry = [], "", 0
    for x, y in zip(reversed(a), reversed(b), strict=True):
        if rng.random() < (forget if carry else phantom):
            carry = 1 - carry
        total = int(x) + int(y) + carry
        if rng.random() < slip:
            total = min(max(total + rng.choice((-1, 1)), 0), 19)
        lines.append(f"{x}+{y}{'+1' if carry else ''}={total}\n")
        carry, digit = divmod(total, 10)
        result = f"{digit}{result}"
    return "".join(lines) + rf"\boxed{{{carry or ''}{result}}}"


ARITHMETIC = Task(
    name="arithmetic",
    alphabet="\n" + "".join(map(chr, range(32, 127))),
    max_response_tokens=64,
    draw=draw,
    trace=noisy_trace,
)
