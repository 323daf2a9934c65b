# SPDX-License-Identifier: Apache-2.0
"""Parquet as a source, some megabytes at a time whatever its row groups are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lucidworks_provider.documents.document import Document, Reason, RejectedDocument
from lucidworks_provider.documents.records import ReadOptions, missing_column, read_record
from lucidworks_provider.documents.source import SourceFile
from lucidworks_provider.errors import InputError
from lucidworks_provider.storage import reading as open_to_read

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# Rows that are read at once. Few, since a text that many rows have may stand in the file once: a writer puts
# up to a megabyte of different texts in front of the rows of a group, and refers to them.
_ROWS = 64
# Bytes of texts that are read at once, by the average of a row group.
_BATCH_BYTES = 8_000_000
# Up to here the different texts of a row group are held, and no text twice.
_HELD_BYTES = 16_000_000
_BUFFER = 1 << 20


def check_installed() -> None:
    """
    Refuse Parquet where pyarrow is not installed.

    :raises InputError: names the extra.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise InputError(
            "Parquet files need pyarrow: pip install 'airflow-provider-lucidworks[documents]', on the workers "
            "too; or leave such files out of the source."
        ) from None


def read_parquet(file: SourceFile, reading: ReadOptions) -> Iterator[Document | RejectedDocument]:
    """
    A document a row. What is wrong with a row is told with ``<path>:<row>`` where its id cannot be used; from
    where the file is broken on, it is told with its path.

    :raises InputError: the columns are missing, or neither text nor whole numbers.
    :raises StorageError: the file cannot be read.
    """
    row = 0
    with open_to_read(file.uri) as opened:
        try:
            parquet = _open(opened)
            check_columns(file, parquet.schema_arrow, reading)
            for document_id, text in _rows(opened, parquet.metadata, reading):
                row += 1
                yield read_record(f"{file.path}:{row}", document_id, text, reading)
        except _broken() as err:
            detail = f"It is no Parquet, or broken behind row {row:,}: {type(err).__name__}: {err!s:.200}"
            yield RejectedDocument(file.path, Reason.INVALID, detail)


def check_parquet(file: SourceFile, reading: ReadOptions) -> None:
    """
    Refuse a file without the columns that were named.

    :raises InputError: names the columns that are there.
    :raises StorageError: the file cannot be read.
    """
    with open_to_read(file.uri) as opened:
        try:
            check_columns(file, _open(opened).schema_arrow, reading)
        except _broken():
            return  # which is for whoever reads it to tell


def _broken() -> tuple[type[Exception], ...]:
    """What pyarrow raises for a file that is not what it should be; not all of it is of its own."""
    import pyarrow as pa

    return (pa.ArrowException, OSError, EOFError)


def _open(opened: Any, **options: Any) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    return pq.ParquetFile(opened, buffer_size=_BUFFER, pre_buffer=False, **options)


def check_columns(file: SourceFile, schema: pa.Schema, reading: ReadOptions) -> None:
    """:raises InputError: the columns that were named are missing, or neither text nor whole numbers."""
    import pyarrow.types as kinds

    for name in (reading.id_column, reading.text_column):
        if schema.names.count(name) != 1:
            raise missing_column(file.uri, name, schema.names)
        kind = schema.field(name).type
        if kinds.is_dictionary(kind):
            kind = kind.value_type
        readable = _is_textual(kind) or (name == reading.id_column and kinds.is_integer(kind))
        if not readable and not kinds.is_null(kind):
            raise InputError(
                f"{file.uri}: column {name!r} is of type {kind}; ids must be texts or whole numbers, and texts texts."
            )


def _is_textual(kind: pa.DataType) -> bool:
    import pyarrow as pa

    # Older writers know no text, only bytes. That a text is one, none of them promises.
    return kind in {
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
    }


def _rows(opened: Any, metadata: pq.FileMetaData, reading: ReadOptions) -> Iterator[tuple[object, object]]:
    columns = [reading.id_column, reading.text_column]
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    sizes = [_size(group, reading.text_column) for group in groups]
    few = max(sizes, default=0) <= _HELD_BYTES
    parquet = _open(opened, metadata=metadata, read_dictionary=columns[1:] if few else None)
    for number, (group, size) in enumerate(zip(groups, sizes, strict=True)):
        batches = parquet.iter_batches(
            batch_size=max(1, min(_ROWS, _BATCH_BYTES * group.num_rows // max(size, 1))),
            row_groups=[number],
            columns=columns,
            use_threads=False,
        )
        for batch in batches:
            yield from zip(*(_values(batch.column(name)) for name in columns), strict=True)


def _size(group: pq.RowGroupMetaData, name: str) -> int:
    """Bytes of a column's different texts, at most."""
    columns = map(group.column, range(group.num_columns))
    return max((one.total_uncompressed_size for one in columns if one.path_in_schema == name), default=0)


def _values(column: pa.Array) -> Iterator[object]:
    """Texts as bytes, since a column of texts may hold some that are none."""
    import pyarrow.types as kinds

    if kinds.is_dictionary(column.type):
        values = _as_bytes(column.dictionary)
        for index in column.indices.to_pylist():
            yield None if index is None else values[index].as_py()
    else:
        yield from (value.as_py() for value in _as_bytes(column))


def _as_bytes(column: pa.Array) -> pa.Array:
    import pyarrow as pa

    return column.cast(pa.large_binary()) if _is_textual(column.type) else column
