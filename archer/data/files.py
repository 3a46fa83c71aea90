"""Records of JSONL, JSON-array and parquet files, read as streams: no file is ever held whole."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn

from archer.errors import ConfigError

if TYPE_CHECKING:
    from pyarrow.parquet import FileMetaData

Record = Mapping[str, Any]

MAX_NESTING = 100
"""Of lists and objects in a record."""
BATCH_ROWS, BATCH_BYTES = 256, 16 << 20
"""Most that is decoded of a parquet file at a time; one row may alone be larger."""
TORN_GZIP = (EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class DataFile:
    """A file and the config key that named it, which is what its errors are about."""

    path: Path
    key: str

    def refuse(self, expected: str, mend: str, cause: Exception | None = None) -> NoReturn:
        raise ConfigError(self.key, str(self.path), expected, mend) from cause


def read_records(
    file: DataFile, columns: Collection[str] | None = None
) -> Iterator[tuple[int, Record]]:
    """Stream the records of a file with their numbers.

    A number is a line of a JSONL file, or a position in an array or a table; the first is 1. Of
    JSON, decimals come as ``Decimal``: their spelling is kept.

    Args:
        columns: all that is wanted of a parquet file, where it has them; others can be large and
            are never decoded. None for every column.

    Raises:
        ConfigError: the file is missing, torn or of another kind.
    """
    if not file.path.exists():
        file.refuse(
            "an existing file", f"There is no such file. Paths are relative to {Path.cwd()}."
        )
    if file.path.is_dir():
        file.refuse("a file", "This is a directory. Name one of the files in it.")
    match Path(file.path.name.removesuffix(".gz")).suffix:
        case ".parquet":
            return _read_parquet(file, columns)
        case ".jsonl":
            return _read_lines(file)
        case ".json":
            return _read_array(file) if _begins_with_bracket(file) else _read_lines(file)
    file.refuse(
        "a .jsonl, .json or .parquet file, the first two also as .gz",
        "Convert it, or rename it to what it holds.",
    )


def column_names(file: DataFile) -> list[str] | None:
    """Columns of a parquet file; None of others, whose records may differ.

    Raises:
        ConfigError: the file is torn.
    """
    if file.path.suffix != ".parquet":
        return None
    import pyarrow as pa
    from pyarrow.parquet import read_schema

    try:
        return read_schema(file.path).names
    except (pa.ArrowException, OSError) as error:
        mend = f"It cannot be read: {error}. Write or download it again."
        file.refuse("a complete parquet file", mend, error)


def _open(file: DataFile) -> IO[bytes]:
    try:
        return gzip.open(file.path) if file.path.suffix == ".gz" else open(file.path, "rb")  # type: ignore[return-value]
    except OSError as error:
        mend = f"{error.strerror}. Check its permissions."
        file.refuse("a file that can be read", mend, error)


def _begins_with_bracket(file: DataFile) -> bool:
    """Whether a ``.json`` file is one array; otherwise it is read as one object a line."""
    with _open(file) as stream:
        try:
            while byte := stream.read(1):  # an array may be one line of gigabytes
                if not byte.isspace() and byte not in codecs.BOM_UTF8:
                    return byte == b"["
        except TORN_GZIP as error:
            _refuse_gzip(file, 0, error)
    return False


def _read_lines(file: DataFile) -> Iterator[tuple[int, Record]]:
    number = 0
    with _open(file) as stream:
        try:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, _parse_line(file, number, line)
        except TORN_GZIP as error:
            _refuse_gzip(file, number, error)


def _parse_line(file: DataFile, number: int, line: bytes) -> Record:
    try:
        # Numbers keep their spelling: an answer 0.10 must not become 0.1.
        record = json.loads(line, parse_float=Decimal)
    except RecursionError:
        _refuse_nesting(file, number)
    except ValueError as error:
        mend = f"Line {number} is torn or not JSON: {error}. Mend or delete that line."
        file.refuse("one JSON object a line", mend, error)
    return _refuse_nesting(file, number) if is_deep(record) else record


def _read_array(file: DataFile) -> Iterator[tuple[int, Record]]:
    import ijson

    number = 0
    with _open(file) as stream:
        try:
            if stream.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
                stream.seek(0)
            for number, record in enumerate(_elements(ijson.basic_parse(stream)), start=1):
                yield number, record
        except RecursionError:
            _refuse_nesting(file, number + 1)
        except SystemError as error:  # of ijson, from ValueError
            mend = f"Behind row {number} is one: {error.__cause__}. Write it as a text."
            file.refuse("no number that is too long for Python", mend, error)
        except ijson.JSONError as error:
            mend = f"It breaks after row {number}: {error}. Write or download it again."
            file.refuse("a complete JSON array", mend, error)
        except TORN_GZIP as error:
            _refuse_gzip(file, number, error)


def _elements(events: Iterable[tuple[str, Any]]) -> Iterator[Any]:
    """The elements of an array. ``ijson.items`` does the same, but keeps the path to every level:
    a file of 200 kB that does nothing but nest makes it take 20 GB.

    Raises:
        RecursionError: lists and objects are nested deeper than ``MAX_NESTING``.
    """
    from ijson.common import ObjectBuilder

    depth, builder = 0, ObjectBuilder()
    for event, value in events:
        depth += event.startswith("start_") - event.startswith("end_")
        if depth > MAX_NESTING:
            raise RecursionError
        if depth == 0 or (depth == 1 and event == "start_array"):
            continue  # a bracket of the array itself
        builder.event(event, value)
        if depth == 1:
            yield builder.value
            builder = ObjectBuilder()


def is_deep(value: Any, levels: int = MAX_NESTING) -> bool:
    """Whether lists and objects are nested in more than so many levels."""
    if not isinstance(value, dict | list):
        return False
    items = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(is_deep(item, levels - 1) for item in items)


def _refuse_nesting(file: DataFile, number: int) -> NoReturn:
    mend = f"Row {number} is nested without end: that is no data set. Delete it."
    file.refuse("records of a sensible depth", mend)


def _refuse_gzip(file: DataFile, number: int, error: Exception) -> NoReturn:
    mend = f"It breaks after row {number}: {error}. Write or download it again."
    file.refuse("a complete gzip file", mend, error)


def _read_parquet(file: DataFile, columns: Collection[str] | None) -> Iterator[tuple[int, Record]]:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    repeated = [name for name, count in Counter(column_names(file)).items() if count > 1]
    if repeated:
        mend = f"It has {', '.join(repeated)} more than once. Rename or remove one."
        file.refuse("columns of different names", mend)
    number = 0
    try:
        with ParquetFile(file.path, buffer_size=1 << 20, page_checksum_verification=True) as table:
            names = table.schema_arrow.names
            wanted = names if columns is None else [name for name in names if name in columns]
            size = _batch_size(table.metadata)
            for batch in table.iter_batches(batch_size=size, columns=wanted):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (pa.ArrowException, OSError) as error:
        mend = f"It cannot be read after row {number}: {error}. Write or download it again."
        file.refuse("a complete parquet file", mend, error)
    except (ValueError, OverflowError) as error:
        mend = f"Behind row {number} there is one that cannot: {error}. Write that column as text."
        file.refuse("values that Python can represent", mend, error)


def _batch_size(metadata: FileMetaData) -> int:
    """Rows to decode at a time, by what they take on average where they are largest."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    row_bytes = max((g.total_byte_size // max(1, g.num_rows) for g in groups), default=1)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, row_bytes)))
