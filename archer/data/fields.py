"""One record as the shapes see it: its columns by name, and complaints that say where they are."""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from archer.data.files import DataFile, Record, column_names, is_deep
from archer.data.rows import (
    EXTRA_COLUMN,
    GroundTruth,
    Messages,
    Row,
    is_absent,
    plain_json,
    plain_values,
    shown,
)

ID_COLUMNS = (
    "id",
    "ID",
    "unique_id",
    "uuid",
    "question_id",
    "problem_id",
    "problem_idx",
    "task_id",
    "idx",
)
"""Where data sets keep a problem's own name, which becomes ``extra_info.id``."""
KEPT_COLUMNS = (
    "answer_type",
    "contest_date",
    "difficulty",
    "domain",
    "gpt_difficulty",
    "gpt_pass_percentage",
    "is_multiple_answer",
    "level",
    "llama8b_solve_rate",
    "platform",
    "problem_type",
    "rating",
    "source",
    "subject",
    "subset",
    "type",
    "unit",
    "url",
    "year",
)
"""What else goes into ``extra_info`` where a record has it."""
COMMON_COLUMNS = ("data_source", EXTRA_COLUMN, *ID_COLUMNS, *KEPT_COLUMNS)

MAX_PYTHON_LITERAL = 4 << 20
"""Characters; Python's parser takes about a hundred times as much memory."""


class Unusable(Exception):
    """A well-formed record that nothing can be learnt or judged by.

    Its text is the reason it is counted under in the report, such as ``no answer``.
    """


@dataclass(frozen=True)
class Fields:
    """The record of that number in that file."""

    file: DataFile
    number: int
    record: Record

    def first(self, *columns: str) -> tuple[str, Any]:
        """The first of these columns with something in it, and its value; where all are empty the
        first that the record has, and null or blank.

        Raises:
            ConfigError: it has none of them.
        """
        there = [column for column in columns if column in self.record]
        if there:
            filled = (column for column in there if not is_absent(self.record[column]))
            column = next(filled, there[0])
            return column, self.record[column]
        names = ", ".join(column_names(self.file) or self.record) or "no columns"
        self.file.refuse(
            f"a column {' or '.join(columns)}",
            f"Row {self.number} has only {names}. Name the file and the shape that belong together "
            "in this source, or rename the column.",
        )

    def text(self, *columns: str) -> str:
        """The text in the first of these columns with something in it; empty where none has.

        Raises:
            ConfigError: the record has none of the columns, or no text in it.
        """
        column, value = self.first(*columns)
        if value is None:
            return ""
        return value if isinstance(value, str) else self.refuse(column, "a text")

    def problem(self, *columns: str) -> str:
        """The text in the first of these columns with something in it.

        Raises:
            Unusable: all are null or blank.
            ConfigError: as ``text``.
        """
        text = self.text(*columns)
        if not text.strip():
            raise Unusable("no problem")
        return text

    def optional_text(self, column: str) -> str:
        """The text in a column that older or other releases may lack; empty without one."""
        return self.text(column) if column in self.record else ""

    def parsed(self, *columns: str, literal: bool = False) -> Any:
        """What the JSON in a column stands for, or the value itself where it is no text.

        Args:
            literal: accept a Python literal too.

        Raises:
            Unusable: as ``parsed_text``.
            ConfigError: the record has none of the columns, or what is there is torn or nested too
                deep to be read.
        """
        column, value = self.first(*columns)
        if not isinstance(value, str):
            return plain_values(value)
        if not value.strip():
            return None
        try:
            return self.parsed_text(column, value)
        except json.JSONDecodeError as error:
            if literal and len(value) <= MAX_PYTHON_LITERAL:
                try:
                    return ast.literal_eval(value)
                except (ValueError, SyntaxError, MemoryError, RecursionError):
                    pass
            self.refuse(column, "whole JSON", f"It breaks: {error}.")

    def parsed_text(self, column: str, text: str) -> Any:
        """What a JSON text of that column stands for.

        Raises:
            json.JSONDecodeError: it is no JSON.
            Unusable: it has a number of more digits than Python converts.
            ConfigError: it is nested too deep to be read.
        """
        try:
            value = json.loads(text)
        except RecursionError:
            value = None
        except json.JSONDecodeError:
            raise
        except ValueError as error:  # sys.get_int_max_str_digits()
            raise Unusable("number of too many digits") from error
        else:
            if not is_deep(value):
                return value
        self.refuse(column, "JSON of a sensible depth", "It is nested without end.")

    def refuse(self, column: str, expected: str, finding: str = "") -> NoReturn:
        """The record is broken: its file is another one, or damaged."""
        finding = finding or f"It is {shown(self.record.get(column))}."
        self.file.refuse(
            f"{expected} in {column!r} of every row",
            f"Row {self.number}, {column!r}: {finding} Name the shape that the file has, or "
            "download it again if it is damaged.",
        )

    def row(self, prompt: str | Messages, truth: GroundTruth, problem: str | None = None) -> Row:
        """The row of a prompt and a truth, with all else that the record says about itself.

        Args:
            problem: what is the prompt's own, where all prompts of the shape have more in common.
        """
        record = self.record
        extra = {c: record[c] for c in KEPT_COLUMNS if not is_absent(record.get(c))}
        own = record.get(EXTRA_COLUMN)
        extra |= own if isinstance(own, Mapping) else {}
        extra.pop("problem", None)  # whatever that is, rows are told apart by what they ask
        ids = [record[c] for c in ID_COLUMNS if record.get(c) is not None]
        ids += [extra["index"]] if "index" in extra else []
        extra = ({"id": ids[0]} if ids else {}) | extra
        extra |= {} if problem is None else {"problem": problem}
        source = str(record.get("data_source") or "")
        return Row(self.number, prompt, truth, source, plain_json(extra))


def columns(*names: str) -> Collection[str]:
    """All that a reader of these columns looks at, what every shape keeps included."""
    return frozenset((*names, *COMMON_COLUMNS))
