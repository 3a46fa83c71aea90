"""The shapes that records of published data sets come in, by name: ``shape`` of a source.

Those of mathematics and code drop records whose truth their reward could not judge, since a run
would refuse to start with one. See docs/data.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from archer.data import code_records, math_records
from archer.data.fields import Fields, Unusable, columns
from archer.data.files import DataFile
from archer.data.rows import COLUMNS, Row, find_truth, is_absent, prompt_of, source_of, truth_of
from archer.rewards import REWARDS

__all__ = ["SHAPES", "Shape", "Unusable"]


@dataclass(frozen=True)
class Shape:
    """A callable that makes a row of the record of that number."""

    read: Callable[[Fields], Row]
    columns: Collection[str]
    """All that it looks at: the others can be large, and need not be read."""
    reward: str = ""
    """What must be able to judge the truth."""

    def __call__(self, file: DataFile, number: int, record: Any) -> Row:
        """A row without the template, whose ``source`` is empty unless the record has its own.

        Raises:
            Unusable: nothing can be learnt or judged by the record; says why.
            ConfigError: a column is missing or damaged; names the file, the row, the column and a
                mend.
        """
        if not isinstance(record, Mapping):
            kind = type(record).__name__
            file.refuse("JSON objects", f"Row {number} is a {kind}. Is this the right file?")
        row = self.read(Fields(file, number, record))
        _check_written(row)
        if self.reward:
            try:
                REWARDS[self.reward].check_truth(row.ground_truth)
            except (ValueError, RecursionError) as error:
                raise Unusable(f"truth that the {self.reward} reward cannot judge") from error
        return row


def _check_written(row: Row) -> None:
    """Raises Unusable for what JSON that others read, or a tokenizer, does not take."""
    content = [row.prompt, row.ground_truth, row.extra]
    try:
        json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise Unusable("text that is not Unicode") from error
    except ValueError as error:
        raise Unusable("number that is infinite or none") from error


def _rows(fields: Fields) -> Row:
    place = (fields.file, fields.number, fields.record)
    if is_absent(find_truth(*place)[1]):
        raise Unusable("no answer")
    row = fields.row(prompt_of(*place), truth_of(*place))
    return replace(row, source=source_of(fields.record))


SHAPES: Mapping[str, Shape] = {
    "rows": Shape(_rows, columns(*COLUMNS)),
    "verl_math": Shape(math_records.verl_math, columns(*COLUMNS), "math"),
    "math": Shape(
        math_records.ProblemAndAnswer(),
        columns(*math_records.PROBLEM, *math_records.ANSWER),
        "math",
    ),
    "dapo_processed": Shape(
        math_records.ProblemAndAnswer(("prompt",), ("solution",)),
        columns("prompt", "solution"),
        "math",
    ),
    "boxed_solution": Shape(
        math_records.boxed_solution, columns(*math_records.PROBLEM, "solution"), "math"
    ),
    "gsm8k": Shape(math_records.gsm8k, columns("question", "answer"), "math"),
    "olympiadbench": Shape(
        math_records.olympiadbench,
        columns("context", "question", "problem", "final_answer", "answer"),
        "math",
    ),
    "numina": Shape(
        math_records.numina,
        columns(
            *math_records.PROBLEM,
            *math_records.ANSWER,
            "question_type",
            "problem_is_valid",
            "solution_is_valid",
        ),
        "math",
    ),
    "verl_code": Shape(code_records.verl_code, columns(*COLUMNS), "code"),
    "livecodebench": Shape(
        code_records.livecodebench,
        columns(
            "question_content",
            "starter_code",
            "public_test_cases",
            "private_test_cases",
            "metadata",
        ),
        "code",
    ),
    "deepcoder": Shape(
        code_records.deepcoder, columns("problem", "tests", "starter_code", "metadata"), "code"
    ),
    "taco": Shape(code_records.taco, columns("question", "input_output", "starter_code"), "code"),
    "primeintellect": Shape(
        code_records.primeintellect,
        columns("prompt", "problem_statement", "verification_info"),
        "code",
    ),
    "codeforces": Shape(
        code_records.codeforces,
        columns(
            "description",
            "input_format",
            "output_format",
            "interaction_format",
            "note",
            "examples",
            "time_limit",
            "memory_limit",
            "official_tests",
            "input_mode",
            "generated_checker",
        ),
        "code",
    ),
    "kodcode": Shape(
        code_records.kodcode, columns("question", "test", "test_code", "test_info"), "code"
    ),
    "humaneval_plus": Shape(
        code_records.humaneval_plus, columns("prompt", "test", "entry_point"), "code"
    ),
    "mbpp_plus": Shape(code_records.mbpp_plus, columns("prompt", "test", "test_list"), "code"),
}
