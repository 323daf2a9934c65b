# SPDX-License-Identifier: Apache-2.0
"""Parquet files as pyarrow, Polars and DuckDB write them are read value by value as pyarrow reads them whole."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidworks_provider.documents.document import Document, Reason, RejectedDocument
from lucidworks_provider.documents.readers import ReadOptions, read_file_documents
from lucidworks_provider.documents.source import list_source

ROWS = 500
IDS = [f"doc-{n}" for n in range(ROWS)]
# Some repeat, one in eleven is missing, and they outgrow small pages and dictionaries.
TEXTS = [f"Größe {n % 7} " + "y" * (n % 70) if n % 11 else None for n in range(ROWS)]
TYPES = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "binary_view": pa.binary_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "dictionary of large_string": pa.dictionary(pa.int16(), pa.large_string()),
    "dictionary of binary": pa.dictionary(pa.int64(), pa.binary()),
}
# Of small pages and row groups, so that each file has many.
SMALL: dict[str, Any] = {"row_group_size": 130, "data_page_size": 256, "write_batch_size": 10}
ENCODINGS: dict[str, dict[str, Any]] = {
    "plain": {"use_dictionary": False},
    "dictionary": {"use_dictionary": True},
    "dictionary, then plain": {"use_dictionary": True, "dictionary_pagesize_limit": 200},
    "DELTA_LENGTH_BYTE_ARRAY": {
        "use_dictionary": False,
        "column_encoding": {"text": "DELTA_LENGTH_BYTE_ARRAY"},
    },
    "DELTA_BYTE_ARRAY": {"use_dictionary": ["id"], "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
}


def table(kind: pa.DataType) -> pa.Table:
    """Columns that are read, beside nested ones whose fields have the same names."""

    def column(values: Any) -> pa.Array:
        array = pa.array(values)
        return array.dictionary_encode().cast(kind) if pa.types.is_dictionary(kind) else array.cast(kind)

    return pa.table(
        {
            "meta": [{"id": n, "text": "no", "tags": [{"text": "no"}]} for n in range(ROWS)],
            "id": column(IDS),
            "text": column(TEXTS),
            "tags": [[str(n)] * (n % 3) for n in range(ROWS)],
        }
    )


def read(path: Path, how: ReadOptions | None = None) -> list[Document | RejectedDocument]:
    [file] = list_source(str(path))
    return list(read_file_documents(file, how or ReadOptions()))


def as_pyarrow(path: Path) -> Iterator[tuple[str, str | None]]:
    whole = pq.read_table(path, columns=["id", "text"])
    for document_id, text in zip(*(column.to_pylist() for column in whole.columns), strict=True):
        found = document_id.decode() if isinstance(document_id, bytes) else str(document_id)
        yield found, text.decode() if isinstance(text, bytes) else text


def is_read(path: Path) -> bool:
    whole = list(as_pyarrow(path))
    assert len(whole) == ROWS
    expected = [(document_id, Reason.EMPTY if text is None else text) for document_id, text in whole]
    assert [(one.id, one.text if isinstance(one, Document) else one.reason) for one in read(path)] == expected
    return True


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("kind", TYPES)
def test_pyarrow(kind: str, encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    for version, schema, codec in product(["1.0", "2.0"], [True, False], ["snappy", "zstd"]):
        if schema and kind.startswith("dictionary") and encoding.startswith("DELTA"):
            continue  # pyarrow cannot read these itself; see below
        options = {"data_page_version": version, "store_schema": schema, "compression": codec}
        pq.write_table(table(TYPES[kind]), path, **SMALL, **ENCODINGS[encoding], **options)
        assert is_read(path), options


def test_what_pyarrow_cannot_read(tmp_path: Path) -> None:
    """A column that is a dictionary to Arrow, and not in the file: the reason names the encoding."""
    path = tmp_path / "f.parquet"
    pq.write_table(table(TYPES["dictionary"]), path, **ENCODINGS["DELTA_BYTE_ARRAY"])
    with pytest.raises(OSError, match="Not yet implemented"):
        pq.read_table(path)
    [one] = read(path)
    assert isinstance(one, RejectedDocument)
    assert (one.id, one.reason) == ("f.parquet", Reason.INVALID)
    assert "It cannot be read as Parquet after row 0: OSError: Not yet implemented:" in one.detail
    assert "DeltaByteArray" in one.detail


def test_encodings_that_differ_between_row_groups(tmp_path: Path) -> None:
    """Row groups of different writers, as in a merged file."""
    path, whole = tmp_path / "f.parquet", table(pa.string())
    parts = [whole.slice(start, 100) for start in range(0, ROWS, 100)]
    parts[1] = parts[1].set_column(2, "text", pa.array(["the same"] * 100))
    with pq.ParquetWriter(path, whole.schema, dictionary_pagesize_limit=3000, data_page_size=512) as writer:
        for part in parts:
            writer.write_table(part)
    metadata = pq.ParquetFile(path).metadata
    assert metadata.num_row_groups == len(parts)
    assert is_read(path)


@pytest.mark.parametrize("data_pages", [None, 300])
@pytest.mark.parametrize("kind", [pl.String, pl.Binary, pl.Categorical, pl.Enum(["a", "b"])])
def test_polars(kind: Any, data_pages: int | None, tmp_path: Path) -> None:
    path, texts = tmp_path / "f.parquet", pl.Series("text", TEXTS)
    if isinstance(kind, pl.Enum):
        texts = pl.Series("text", ["a", "b"] * (ROWS // 2))
    frame = pl.DataFrame({"meta": [{"text": "no"}] * ROWS, "id": range(ROWS), "text": texts.cast(kind)})
    frame.write_parquet(path, row_group_size=130, data_page_size=data_pages)
    assert is_read(path)


@pytest.mark.parametrize("version", ["V1", "V2"])
@pytest.mark.parametrize("codec", ["snappy", "zstd", "uncompressed"])
def test_duckdb(version: str, codec: str, tmp_path: Path) -> None:
    path, source = tmp_path / "f.parquet", tmp_path / "source.parquet"
    pq.write_table(table(pa.string()), source)
    options = f"FORMAT parquet, PARQUET_VERSION {version}, CODEC '{codec}', ROW_GROUP_SIZE 2048"
    duckdb.connect(config={"threads": 1}).execute(f"COPY '{source}' TO '{path}' ({options})")
    assert is_read(path)


def test_duckdbs_encodings_without_dictionaries(tmp_path: Path) -> None:
    """V2 writes texts that do not repeat as DELTA_LENGTH_BYTE_ARRAY."""
    path = tmp_path / "f.parquet"
    rows = f"SELECT range AS id, 'text ' || md5(range::text) AS text FROM range({ROWS})"  # noqa: S608
    duckdb.connect(config={"threads": 1}).execute(f"COPY ({rows}) TO '{path}' (PARQUET_VERSION V2)")
    assert "DELTA_LENGTH_BYTE_ARRAY" in pq.ParquetFile(path).metadata.row_group(0).column(1).encodings
    assert is_read(path)


def test_thousands_of_row_groups(tmp_path: Path) -> None:
    path = tmp_path / "f.parquet"
    rows = 4000
    pq.write_table(
        pa.table({"id": range(rows), "text": [f"text {n}" for n in range(rows)]}), path, row_group_size=1
    )
    found = read(path)
    assert [(one.id, one.text) for one in found if isinstance(one, Document)] == [
        (str(n), f"text {n}") for n in range(rows)
    ]


def test_a_dictionary_of_large_texts_in_bounded_memory(tmp_path: Path) -> None:
    """Ten texts of 10 MB for 1,000 rows: 64 rows at once would be 640 MB."""
    path = tmp_path / "f.parquet"
    texts = pa.array([f"{n}" + "x" * 10_000_000 for n in range(10)])
    rows = pa.DictionaryArray.from_arrays(pa.array([n % 10 for n in range(1000)], pa.int32()), texts)
    pq.write_table(
        pa.table({"id": range(1000), "text": rows}),
        path,
        dictionary_pagesize_limit=1 << 30,
        compression="none",
        store_schema=False,
    )
    del texts, rows
    before, most = pa.total_allocated_bytes(), 0
    [file] = list_source(str(path))
    for number, one in enumerate(read_file_documents(file, ReadOptions(max_document_bytes=1000))):
        assert isinstance(one, RejectedDocument)
        assert one.reason is Reason.TOO_LARGE
        most = max(most, pa.total_allocated_bytes())
        if number == 100:
            break
    # The dictionary itself, its page, and a row.
    assert most - before < 350_000_000
