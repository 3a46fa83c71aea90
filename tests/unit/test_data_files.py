"""Files of records: streams of bounded memory in every container, clear words about torn ones."""

import codecs
import gzip
import json
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_fixtures import CONTAINERS, write_records

from archer.data.files import DataFile, read_records
from archer.errors import ConfigError

RECORDS = [{"problem": "求 2+3。", "answer": "05", "day": "2024-08-01"}, {"problem": "q"}]
MANY = [{"problem": "p" * 500, "answer": str(number)} for number in range(2000)]


def file(path):
    return DataFile(path, "data.sets.x.sources.main")


def refusal(path):
    with pytest.raises(ConfigError) as caught:
        list(read_records(file(path)))
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_texts_stay_texts_in_every_container(tmp_path, suffix):
    path = write_records(tmp_path / f"a.{suffix}", RECORDS)
    first, second = read_records(file(path))
    assert first == (1, RECORDS[0])
    assert second[0] == 2 and second[1]["problem"] == "q"


def test_a_dot_in_the_name_is_no_suffix(tmp_path):
    path = write_records(tmp_path / "train.v1.5-of-2.jsonl.gz", RECORDS)
    assert len(list(read_records(file(path)))) == 2


def peak_mib(path):
    """Most that Python holds while the records of a file go by."""
    tracemalloc.start()
    num_records = sum(1 for _ in read_records(file(path)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return num_records, peak / 2**20


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_large_file_is_never_held_whole(tmp_path, suffix):
    """50 MB, in an array all on one line."""
    records = [{"problem": str(number) + "x" * 100_000} for number in range(500)]
    path = write_records(tmp_path / f"a.{suffix}", records)
    num_records, peak = peak_mib(path)
    assert num_records == 500
    assert peak < (25 if suffix == "parquet" else 5), "parquet: a batch of rows"


def test_large_parquet_rows_come_a_few_at_a_time(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    tests = [f"{number}" * 4_000_000 for number in range(8)]
    pq.write_table(pa.table({"tests": tests}), path, use_dictionary=False)
    sizes = []
    original = pq.ParquetFile.iter_batches

    def noting(self, batch_size, **kwargs):
        sizes.append(batch_size)
        return original(self, batch_size, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noting)
    assert len(list(read_records(file(path)))) == 8
    assert sizes == [4]


@pytest.mark.parametrize("suffix", CONTAINERS)
def test_a_file_cut_short_is_refused_after_what_could_be_read(tmp_path, suffix):
    path = write_records(tmp_path / f"a.{suffix}", MANY)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 4])
    message = refusal(path)
    assert "again" in message or "Mend or delete that line" in message


def test_a_gzip_with_other_content_is_refused(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(b'{"problem": "p"}\n')
    assert "a complete gzip file" in refusal(path)


def test_damage_inside_a_gzip_is_found(tmp_path):
    path = write_records(tmp_path / "a.json.gz", MANY)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert "again" in refusal(path)


def test_damage_inside_a_parquet_file_is_found(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(MANY), path, write_page_checksum=True)
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    assert "It cannot be read after row" in refusal(path)


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
@pytest.mark.parametrize("opening", ["[", '{"a":'])
def test_nesting_without_end_is_refused(tmp_path, suffix, opening):
    depth = 10_000  # of which ijson.items would take 250 MB
    closing = {"[": "]", "{": "}"}[opening[0]]
    bomb = '{"problem": ' + opening * depth + "1" + closing * depth + "}"
    path = tmp_path / f"a.{suffix}"
    path.write_text(f"[{bomb}]" if suffix == "json" else bomb)
    tracemalloc.start()
    assert "Row 1 is nested without end" in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_one_depth_is_too_deep_in_every_container(tmp_path, suffix):
    """What json.loads can still read would overflow the stack of what is done with it."""
    for depth, is_read in ((95, True), (120, False), (900, False)):
        record = '{"a": ' + "[" * depth + "]" * depth + "}"
        path = tmp_path / f"a.{suffix}"
        path.write_text(f"[{record}]" if suffix == "json" else record)
        if is_read:
            assert len(list(read_records(file(path)))) == 1
        else:
            assert "Row 1 is nested without end" in refusal(path)


def test_honest_nesting_is_read(tmp_path):
    record = {"a": [{"b": [{"c": [[[1]]]}]}]}
    for suffix in CONTAINERS:
        ((_, read),) = read_records(file(write_records(tmp_path / f"a.{suffix}", [record])))
        assert json.loads(json.dumps(read)) == record


def test_elements_of_an_array_that_are_no_objects_come_out(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[1, "a", [], {}, null]')
    assert [record for _, record in read_records(file(path))] == [1, "a", [], {}, None]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "json.gz"])
def test_a_mark_of_byte_order_is_passed_over(tmp_path, suffix):
    path = write_records(tmp_path / f"a.{suffix}", RECORDS)
    marked = codecs.BOM_UTF8 + (gzip.decompress if suffix.endswith("gz") else bytes)(
        path.read_bytes()
    )
    path.write_bytes(gzip.compress(marked) if suffix.endswith("gz") else marked)
    assert [record for _, record in read_records(file(path))] == RECORDS


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_a_number_too_long_for_python_is_refused(tmp_path, suffix):
    record = '{"answer": ' + "9" * 5000 + "}"
    path = tmp_path / f"a.{suffix}"
    path.write_text(f'[{{"answer": 1}}, {record}]' if suffix == "json" else f"\n{record}")
    assert "4300 digits" in refusal(path)


@pytest.mark.parametrize(
    "column",
    [
        pa.StringArray.from_buffers(
            1, pa.py_buffer(bytes([0, 0, 0, 0, 2, 0, 0, 0])), pa.py_buffer(b"\xff\xfe")
        ),
        pa.array([2**62], pa.timestamp("us")),
        pa.array([1234567891], pa.timestamp("ns")),
    ],
    ids=["no UTF-8", "a far year", "nanoseconds"],
)
def test_parquet_values_that_python_cannot_represent_are_refused(tmp_path, column):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"year": column}), path)
    assert "values that Python can represent" in refusal(path)


def test_parquet_columns_of_one_name_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table([["p"], ["q"], ["5"]], names=["problem", "problem", "answer"]), path)
    message = refusal(path)
    assert "columns of different names. It has problem more than once" in message


def test_an_empty_gzip_is_an_empty_file(tmp_path):
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(b""))
    assert list(read_records(file(path))) == []


def test_another_kind_of_file_is_refused(tmp_path):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(b"")
    assert "Convert it" in refusal(path)
