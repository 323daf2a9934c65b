# SPDX-License-Identifier: Apache-2.0
"""
Documents of Parquet files, read in batches of some megabytes, and of one version of a Delta table.

The URI of a data file of a Delta table is ``TABLE@vVERSION``, its path that of the log; its etag changes with its
deletion vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from lucidworks_provider.delta import check_installed
from lucidworks_provider.documents.document import Document, Reason, RejectedDocument
from lucidworks_provider.documents.records import ReadOptions, missing_column, read_record
from lucidworks_provider.documents.source import SourceFile, open_file
from lucidworks_provider.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lucidworks_provider.delta.log import Table

# Limit of the rows of a batch.
_ROWS = 64
# Limits of the texts of a batch: by the average of the row group, and if every row had the whole dictionary.
_BATCH_BYTES = 8_000_000
_LONGEST_BATCH_BYTES = 64_000_000
_BUFFER = 1 << 20


def read_parquet(file: SourceFile, options: ReadOptions) -> Iterator[Document | RejectedDocument]:
    """
    A document for each row. A row without a valid id is named by ``<path>:<row>``, and the rest of a damaged file by
    its path.

    :raises InputError: the columns are missing, or neither text nor whole numbers.
    :raises StorageError: the file cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    with open_file(file) as opened:
        try:
            parquet = pq.ParquetFile(opened, buffer_size=_BUFFER, pre_buffer=False)
            _check_columns(file, parquet.schema_arrow, options)
            read_as = options
            if not _is_binary(parquet.schema_arrow.field(options.text_column).type):
                # The encoding is that of other files, and of bytes.
                read_as = replace(options, encoding="utf-8")
            for document_id, text in _rows(parquet, options):
                row += 1
                yield read_record(f"{file.path}:{row}", document_id, text, read_as)
        except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as err:
            detail = f"It cannot be read as Parquet after row {row:,}: {type(err).__name__}: {err!s:.200}"
            yield RejectedDocument(file.path, Reason.INVALID, detail)


def _check_columns(file: SourceFile, schema: pa.Schema, options: ReadOptions) -> None:
    """:raises InputError: the columns of the options are missing, or neither texts nor whole numbers."""
    import pyarrow.types as kinds

    for name in (options.id_column, options.text_column):
        if schema.names.count(name) != 1:
            raise missing_column(file.uri, name, schema.names)
        kind = schema.field(name).type
        if kinds.is_dictionary(kind):
            kind = kind.value_type
        readable = is_textual(kind) or (name == options.id_column and kinds.is_integer(kind))
        if not readable and not kinds.is_null(kind):
            raise InputError(
                f"{file.uri}: column {name!r} is of type {kind}; id_column must have texts or whole numbers, "
                "and text_column texts."
            )


def is_textual(kind: pa.DataType) -> bool:
    """Whether a column of this type has texts, or bytes that may be texts."""
    import pyarrow as pa

    # Older writers have bytes only, and none guarantees valid UTF-8.
    return kind in {
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
    }


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return kind in {pa.binary(), pa.large_binary(), pa.binary_view()}


def _rows(parquet: pq.ParquetFile, options: ReadOptions) -> Iterator[tuple[object, object]]:
    columns = [options.id_column, options.text_column]
    for number in range(parquet.metadata.num_row_groups):
        batches = parquet.iter_batches(
            batch_size=_batch_rows(parquet.metadata.row_group(number), options.text_column),
            row_groups=[number],
            columns=columns,
            use_threads=False,
        )
        for batch in batches:
            yield from zip(*(_values(batch.column(name)) for name in columns), strict=True)


def _batch_rows(group: pq.RowGroupMetaData, name: str) -> int:
    """The size of a batch. Many rows may have the same text of a dictionary."""
    columns = map(group.column, range(group.num_columns))
    column = next((one for one in columns if one.path_in_schema == name), None)
    if column is None:
        # A column of a Delta table that the file does not have.
        return _ROWS
    size = column.total_uncompressed_size
    dictionary = 0
    if any("DICTIONARY" in encoding for encoding in column.encodings):
        offset = column.dictionary_page_offset
        compressed = 0 if offset is None else column.data_page_offset - offset
        # Without its offset, the dictionary may be the whole column.
        dictionary = size * compressed // column.total_compressed_size if compressed > 0 else size
    by_average = _BATCH_BYTES * group.num_rows // max(size, 1)
    return int(max(1, min(_ROWS, by_average, _LONGEST_BATCH_BYTES // max(dictionary, 1))))


def _values(column: pa.Array) -> Iterator[object]:
    """Values, texts as bytes, as they may not be valid UTF-8."""
    import pyarrow as pa
    import pyarrow.types as kinds

    if kinds.is_dictionary(column.type):
        column = column.dictionary_decode()
    if is_textual(column.type):
        column = column.cast(pa.large_binary())
    return (value.as_py() for value in column)


def read_delta(file: SourceFile, options: ReadOptions) -> Iterator[Document | RejectedDocument]:
    """
    A document for each row that is not deleted.

    :raises InputError: the columns are missing, or neither text nor whole numbers.
    :raises StorageError: the file cannot be read.
    """
    import pyarrow as pa

    from lucidworks_provider.delta.rows import ROW, read_rows
    from lucidworks_provider.delta.schema import arrow_schema

    check_installed()
    table = _table(file.uri)
    _check_columns(file, arrow_schema(table.schema), options)
    columns = [options.id_column, options.text_column]
    rows = read_rows(
        table,
        columns=columns,
        files=[file.path],
        with_position=True,
        batch_rows=lambda group: _batch_rows(group, options.text_column),
        buffer_size=_BUFFER,
    )
    row = -1
    try:
        for batch in rows:
            values = (batch.column(name).to_pylist() for name in (ROW, *columns))
            for row, document_id, text in zip(*values, strict=True):
                yield read_record(f"{file.path}:{row + 1}", document_id, text, options)
    except (pa.ArrowException, UnicodeDecodeError) as err:
        detail = f"It is corrupt after row {row + 1:,}: {type(err).__name__}: {err!s:.200}"
        yield RejectedDocument(file.path, Reason.INVALID, detail)


@lru_cache(maxsize=4)
def _table(uri: str) -> Table:
    """The snapshot of a version, cached for all its files."""
    from lucidworks_provider.delta.log import read_table

    place, _, version = uri.rpartition("@v")
    table = read_table(place, int(version))
    if table is None:
        raise InputError(f"source: {place} is no longer a Delta table.")
    return table
