"""Records to rows: what training and evaluation need of a data set, whatever it is called there.

Two shapes are understood here: verl's rows, with chat messages in ``prompt`` and the truth in
``reward_model.ground_truth``, and plain ones with a problem and an answer. ``shapes.py`` reads
those of published data sets. See docs/data.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from archer.data.files import DataFile, Record, column_names, read_records
from archer.data.stored_truth import StoredTruth

PROMPT_COLUMNS = ("prompt", "problem", "question")
TRUTH_COLUMNS = ("answer", "ground_truth")
SOURCE_COLUMNS = ("data_source", "source")
EXTRA_COLUMN = "extra_info"
COLUMNS = ("reward_model", *PROMPT_COLUMNS, *TRUTH_COLUMNS, *SOURCE_COLUMNS, EXTRA_COLUMN)

Messages = tuple[dict[str, str], ...]
"""A chat, each message with its ``role`` and ``content``."""
GroundTruth = str | list[str] | dict[str, Any] | list[dict[str, Any]] | StoredTruth
"""A string, a list of strings any of which is right, or what a code reward runs. Or where a long
string is, which a run does not keep."""


@dataclass(frozen=True)
class Row:
    number: int
    """Line of a JSONL file, position in an array or a table; the first is 1."""
    prompt: str | Messages
    """A plain problem, or chat messages."""
    ground_truth: GroundTruth
    source: str
    """``data_source`` or ``source`` of the row, else the name of the file."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """``extra_info`` of the row where that is an object, as plain JSON values."""
    remark: str = ""
    """What a report should count of the row, e.g. ``without its system message``."""


def read_rows(path: str | Path, key: str) -> Iterator[Row]:
    """Stream the rows of a prompt file.

    Args:
        key: config key that holds the path, e.g. ``data.train``; errors name it.

    Raises:
        ConfigError: the file is missing, torn, empty or of another kind, or a row lacks its prompt
            or its truth.
    """
    file = DataFile(Path(path).expanduser(), key)
    number, records = 0, read_records(file, COLUMNS)
    names = column_names(file)
    if names is not None and not set(names) & set(PROMPT_COLUMNS):
        _refuse_columns(file, 1, "prompt", PROMPT_COLUMNS, names)
    for number, record in records:
        yield read_row(file, number, record)
    if not number:
        file.refuse("at least one row", "The file is empty. Was it written to the end?")


def read_row(file: DataFile, number: int, record: Any) -> Row:
    """A row of verl's shape or of the plain one.

    Raises:
        ConfigError: it lacks its prompt or its truth; names the file, the row and the column.
    """
    if not isinstance(record, Mapping):
        kind = type(record).__name__
        file.refuse(
            "JSON objects",
            f"Row {number} is a {kind}. Write it as {{'problem': ..., 'answer': ...}}.",
        )
    prompt, extra = prompt_of(file, number, record), record.get(EXTRA_COLUMN)
    if not _is_unicode(text_of(prompt)):
        mend = f"Row {number}: the prompt has half of a surrogate pair. Mend or delete that row."
        file.refuse("prompts in Unicode, which tokenizers take", mend)
    return Row(
        number,
        prompt,
        truth_of(file, number, record),
        source_of(record) or file.path.stem,
        plain_json(extra) if isinstance(extra, Mapping) else {},
    )


def source_of(record: Record) -> str:
    """What the record itself says; empty where it says nothing."""
    return str(next((record[c] for c in SOURCE_COLUMNS if record.get(c)), ""))


def prompt_of(file: DataFile, number: int, record: Record) -> str | Messages:
    """The problem or the chat of a row.

    Raises:
        ConfigError: it has none.
    """
    column = next((c for c in PROMPT_COLUMNS if record.get(c) is not None), None)
    if column is None:
        _refuse_columns(file, number, "prompt", PROMPT_COLUMNS, record)
    match record[column]:
        case str(text) if text.strip():
            return text
        case [*messages] if messages and all(_is_message(m) for m in messages):
            return tuple({"role": m["role"], "content": m["content"]} for m in messages)
    file.refuse(
        "a problem or chat messages in every row",
        f"Row {number}: {column!r} is {shown(record[column])}. Give it a non-empty text, or a "
        "list of {'role': ..., 'content': ...} with texts in both.",
    )


def text_of(prompt: str | Messages) -> str:
    """All that a prompt says."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(message["content"] for message in prompt)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(value.get(name), str) for name in ("role", "content")
    )


def truth_of(file: DataFile, number: int, record: Record) -> GroundTruth:
    """The truth of a row.

    Raises:
        ConfigError: it has none.
    """
    column, value = find_truth(file, number, record)
    truth = as_truth(value)
    if truth is None:
        mend = f"Row {number}: {column!r} is {shown(value)}. Fill it in or drop the row."
        file.refuse("a ground truth in every row", mend)
    return truth


def find_truth(file: DataFile, number: int, record: Record) -> tuple[str, Any]:
    """The column of the truth, and what is in it.

    Raises:
        ConfigError: there is no such column.
    """
    reward_model = record.get("reward_model")
    if isinstance(reward_model, Mapping):
        return "reward_model.ground_truth", reward_model.get("ground_truth")
    column = next((c for c in TRUTH_COLUMNS if c in record), "")
    if not column:
        known = ("reward_model.ground_truth", *TRUTH_COLUMNS)
        _refuse_columns(file, number, "ground truth", known, record)
    return column, record[column]


def is_absent(value: Any) -> bool:
    """Whether a column says that there is nothing: null, NaN (the null of a float column), blank
    or empty."""
    match value:
        case str(text):
            return not text.strip()
        case None | []:
            return True
    return value != value or value == {}


def as_truth(value: Any) -> GroundTruth | None:
    """The truth as strings or tests, or None where nothing could ever match it."""
    match value:
        case bool() | None:
            return None
        case str(text):
            text = gsm8k_answer(text) or text
            return _listed(text) or (text if text.strip() else None)
        case int() | float() | Decimal() if value == value:  # not NaN, the null of a float column
            return str(value)
        case [*items]:
            truths = [as_truth(item) for item in items]
            kinds = {type(truth) for truth in truths}
            return truths if kinds in ({str}, {dict}) else None  # type: ignore[return-value]
        case Mapping():
            return _without_unset(value) or None
    return None


def gsm8k_answer(text: str) -> str | None:
    """The answer in the last line of a worked solution of gsm8k (arXiv 2110.14168): ``#### 1,200``.
    Tests may hold ``####`` elsewhere, as the wall of a maze does."""
    line = text.rstrip().rpartition("\n")[2]
    answer = line.removeprefix("####").strip().replace(",", "")
    return answer if answer and line.startswith("####") else None


def plain_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """An object as strict readers of JSON take it: with null for what is no number or infinite."""
    return json.loads(json.dumps(_without_unset(value)), parse_constant=lambda _: None)


def _without_unset(value: Mapping[str, Any]) -> dict[str, Any]:
    """Arrow gives every row the union of all rows' keys, with None for those it never had."""
    return {key: plain_values(item) for key, item in value.items() if item is not None}


def plain_values(value: Any) -> Any:
    """A value in JSON's own types. Of numbers it is the value that counts, not the spelling; what
    only parquet knows, such as dates and bytes, becomes text."""
    match value:
        case Decimal():
            return float(value)
        case Mapping():
            return {str(key): plain_values(item) for key, item in value.items()}
        case list() | tuple():
            return [plain_values(item) for item in value]
        case str() | int() | float() | None:
            return value
    return str(value)


def _listed(text: str) -> list[str] | None:
    """Skywork-OR1 stores answers as the text ``["42"]``; the interval ``[1, 2]`` is none."""
    if not text.lstrip().startswith('["'):
        return None
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return items if all(isinstance(i, str) and i.strip() for i in items) else None


def _refuse_columns(
    file: DataFile, number: int, what: str, known: tuple[str, ...], present: Any
) -> NoReturn:
    names = ", ".join(present) or "no columns"
    mend = f"Row {number} has only {names}. Rename the one that holds it."
    file.refuse(f"a {what} column: one of {', '.join(known)}", mend)


def shown(value: Any) -> str:
    """A value in an error: as Python writes it, but null as JSON does, and never long."""
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
