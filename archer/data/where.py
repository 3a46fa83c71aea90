"""Which records a source wants, by what their columns hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from archer.data.config import Condition
from archer.data.files import DataFile, Record, column_names


def meets_all(file: DataFile, number: int, record: Record, conditions: Sequence[Condition]) -> bool:
    """Whether a record meets all conditions.

    Raises:
        ConfigError: it has no such column, or a value that cannot be compared with the range.
    """
    return all(_meets(file, number, record, condition) for condition in conditions)


def columns_of(conditions: Sequence[Condition]) -> set[str]:
    """Columns that have to be read: which dots lead into objects depends on the record."""
    parts = [condition.column.split(".") for condition in conditions]
    return {".".join(words[: end + 1]) for words in parts for end in range(len(words))}


def _meets(file: DataFile, number: int, record: Record, condition: Condition) -> bool:
    try:
        value = _plain(column(record, condition.column))
    except KeyError:
        names = column_names(file) or (record if isinstance(record, Mapping) else [])
        there = ", ".join(names) or "no columns"
        mend = f"Row {number} has only {there}. Mend the name in where."
        file.refuse(f"a column {condition.column!r}, which where asks for", mend)
    if condition.one_of is not None and value not in condition.one_of:
        return False
    return _is_within(file, number, value, condition)


def column(record: Any, name: str) -> Any:
    """The value of a column; dots lead into objects, whose keys may themselves have dots. Below a
    null everything is null.

    Raises:
        KeyError: there is no such column.
    """
    if record is None:
        return None
    if not isinstance(record, Mapping):
        raise KeyError(name)
    if name in record:
        return record[name]
    for place, character in enumerate(name):
        if character == "." and name[:place] in record:
            return column(record[name[:place]], name[place + 1 :])
    raise KeyError(name)


def _is_within(file: DataFile, number: int, value: Any, condition: Condition) -> bool:
    """``min`` is inside the range and ``below`` is not; null is in no range."""
    low, high = condition.min, condition.below
    if low is None and high is None:
        return True
    if value is None:
        return False
    try:
        return (low is None or value >= low) and (high is None or value < high)
    except TypeError as error:
        mend = f"Row {number}: {condition.column!r} is {value!r}. Write the limits of where alike."
        limits = ", ".join(repr(limit) for limit in (low, high) if limit is not None)
        file.refuse(f"values that can be compared with {limits}", mend, error)


def _plain(value: Any) -> Any:
    """JSON's decimals as numbers, parquet's dates as texts."""
    if isinstance(value, Decimal):
        return float(value)
    return value.isoformat() if hasattr(value, "isoformat") else value
