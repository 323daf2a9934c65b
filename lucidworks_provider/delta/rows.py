# SPDX-License-Identifier: Apache-2.0
"""The rows of a snapshot as Arrow batches, without those that deletion vectors mask."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from lucidworks_provider.delta.log import DataFile, Table, file_uri
from lucidworks_provider.delta.schema import arrow_schema
from lucidworks_provider.delta.vectors import read_vector
from lucidworks_provider.errors import InputError, StorageError
from lucidworks_provider.storage import arrow_place, is_missing, local_path, naming, read_file, reading

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from pyroaring import BitMap64

FILE, ROW = "_file", "_row"
# Larger files of object stores are read in ranges.
_WHOLE_BYTES = 4_000_000


def read_rows(
    table: Table,
    *,
    columns: Sequence[str] | None = None,
    files: Iterable[str] | None = None,
    with_position: bool = False,
    batch_rows: int | Callable[[pq.RowGroupMetaData], int] = 2048,
    buffer_size: int = 0,
) -> Iterator[pa.RecordBatch]:
    """
    The rows of a snapshot, a row group at a time.

    :param columns: all of them if it is None; in the order given.
    :param files: paths of the files to read; all of them if it is None.
    :param with_position: add ``_file`` and ``_row``, the position in the file.
    :param batch_rows: rows of a batch, or a function of the row group.
    :param buffer_size: bytes of a column that are read at once; 0 for all of a row group.
    :raises InputError: the table has no such column or file, or a column of an unsupported type.
    :raises StorageError: a data file or a deletion vector is missing or cannot be read; names it.
    """
    import pyarrow as pa

    schema = arrow_schema(table.schema)
    if columns is not None:
        if unknown := [name for name in columns if name not in schema.names]:
            raise InputError(f"{table.uri} has no column {', '.join(map(repr, unknown))}.")
        if not columns and not with_position:
            raise InputError("columns is empty; name at least one.")
        schema = pa.schema([schema.field(name) for name in columns])
    for path in table.files if files is None else files:
        if (file := table.files.get(path)) is None:
            raise InputError(f"Version {table.version} of {table.uri} has no file {path}.")
        deleted = read_vector(table.uri, file.vector) if file.vector else None
        yield from read_file_rows(
            table.uri,
            file,
            schema,
            deleted=deleted,
            with_position=with_position,
            batch_rows=batch_rows,
            buffer_size=buffer_size,
        )


def read_file_rows(
    uri: str,
    file: DataFile,
    schema: pa.Schema,
    *,
    deleted: BitMap64 | None = None,
    with_position: bool = False,
    batch_rows: int | Callable[[pq.RowGroupMetaData], int] = 2048,
    buffer_size: int = 0,
) -> Iterator[pa.RecordBatch]:
    """
    The rows of one data file, whether a version of its table refers to it or not.

    :param uri: of the table.
    :param schema: the columns to read.
    :param deleted: rows to leave out.
    :raises StorageError: it is missing or cannot be read; names it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    place = file_uri(uri, file.path)
    parts = {
        name: _partition_value(file, schema.field(name))
        for name in file.partition_values
        if name in schema.names
    }
    source: Any
    with ExitStack() as opened:
        with _readable(place):
            filesystem, source = arrow_place(place)
            if local_path(place) is None and file.size <= _WHOLE_BYTES:
                # One request instead of three.
                if (data := read_file(place)) is None:
                    raise FileNotFoundError(place)
                filesystem, source = None, pa.BufferReader(data)
            elif buffer_size:
                # Keeps blocks of several columns, unlike the files of fsspec.
                filesystem, source = None, opened.enter_context(reading(place))
            # Spark may write timestamps as int96, which pyarrow would take for nanoseconds.
            parquet = pq.ParquetFile(
                source,
                filesystem=filesystem,
                buffer_size=buffer_size,
                pre_buffer=not buffer_size,
                coerce_int96_timestamp_unit="us",
                # Detects vectors that were damaged on the disk.
                page_checksum_verification=True,
            )
            opened.enter_context(parquet)
        stored = set(parquet.schema_arrow.names)
        wanted = [name for name in schema.names if name in stored and name not in parts]
        position = 0
        for group in range(parquet.num_row_groups):
            metadata = parquet.metadata.row_group(group)
            rows = metadata.num_rows
            if deleted is not None and deleted.range_cardinality(position, position + rows) == rows:
                position += rows
                continue
            # One row group at a time, as pyarrow would read all of them ahead.
            size = batch_rows if isinstance(batch_rows, int) else batch_rows(metadata)
            batches = parquet.iter_batches(
                batch_size=size, row_groups=[group], columns=wanted, use_threads=False
            )
            while True:
                with _readable(place):
                    if (batch := next(batches, None)) is None:
                        break
                    arrays = [_column(batch, field, parts) for field in schema]
                names = schema
                if with_position:
                    arrays += [
                        pa.repeat(file.path, batch.num_rows),
                        pa.array(range(position, position + batch.num_rows), pa.int64()),
                    ]
                    names = schema.append(pa.field(FILE, pa.string())).append(pa.field(ROW, pa.int64()))
                found = pa.RecordBatch.from_arrays(arrays, schema=names)
                if deleted is not None:
                    found = _masked(found, deleted, position)
                position += batch.num_rows
                if found.num_rows:
                    yield found


def _masked(batch: pa.RecordBatch, deleted: Any, position: int) -> pa.RecordBatch:
    import pyarrow as pa
    from pyroaring import BitMap64

    end = position + batch.num_rows
    if not deleted.range_cardinality(position, end):
        return batch
    kept = BitMap64(range(position, end)) - deleted
    return batch.take(pa.array([row - position for row in kept], pa.int64()))


def _column(batch: pa.RecordBatch, field: pa.Field, parts: dict[str, pa.Scalar]) -> pa.Array:
    import pyarrow as pa

    if field.name in parts:
        return pa.repeat(parts[field.name], batch.num_rows)
    if field.name not in batch.schema.names:
        # Added to the table after the file was written.
        return pa.nulls(batch.num_rows, field.type)
    column = batch.column(field.name)
    return column if column.type == field.type else column.cast(field.type)


def _partition_value(file: DataFile, field: pa.Field) -> pa.Scalar:
    import pyarrow as pa

    text = file.partition_values.get(field.name)
    if not text:
        return pa.scalar(None, field.type)
    try:
        if not pa.types.is_timestamp(field.type):
            return pa.scalar(text).cast(field.type)
        moment = datetime.fromisoformat(text)
        if field.type.tz is not None and moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return pa.scalar(moment, field.type)
    except (ValueError, pa.ArrowException) as err:
        raise InputError(f"{file.path} has {text!r} as its partition value {field.name!r}: {err}") from err


@contextmanager
def _readable(place: str) -> Iterator[None]:
    try:
        with naming("read", place):
            yield
    except StorageError as err:
        if not is_missing(err):
            raise
        raise StorageError(
            f"{place} is missing, though its table refers to it. A vacuum or another process removed it."
        ) from err.__cause__
