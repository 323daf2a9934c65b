# SPDX-License-Identifier: Apache-2.0
"""
Documents of a Delta table: the rows of one version.

Each data file is a file of records. Its URI is ``TABLE@vVERSION``, its path that of the log; its etag changes
with its deletion vector.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from lucidworks_provider.delta import check_installed
from lucidworks_provider.documents.document import Document, Reason, RejectedDocument
from lucidworks_provider.documents.parquet_rows import check_columns
from lucidworks_provider.documents.records import ReadOptions, read_record
from lucidworks_provider.documents.source import SourceFile
from lucidworks_provider.errors import InputError

if TYPE_CHECKING:
    from lucidworks_provider.delta.log import Table


def read_delta(file: SourceFile, options: ReadOptions) -> Iterator[Document | RejectedDocument]:
    """
    A document for each row that is not deleted.

    :raises InputError: as :func:`check_delta`.
    :raises StorageError: the file cannot be read.
    """
    import pyarrow as pa

    from lucidworks_provider.delta.rows import ROW, read_rows

    table = _check(file, options)
    columns = [options.id_column, options.text_column]
    row = -1
    try:
        for batch in read_rows(table, columns=columns, files=[file.path], with_position=True, batch_rows=64):
            values = (batch.column(name).to_pylist() for name in (ROW, *columns))
            for row, document_id, text in zip(*values, strict=True):
                yield read_record(f"{file.path}:{row + 1}", document_id, text, options)
    except (pa.ArrowException, UnicodeDecodeError) as err:
        detail = f"It is broken behind row {row + 1:,}: {type(err).__name__}: {err!s:.200}"
        yield RejectedDocument(file.path, Reason.INVALID, detail)


def check_delta(file: SourceFile, options: ReadOptions) -> None:
    """
    Refuse a table without the columns of the options.

    :raises InputError: names the columns of the table.
    """
    _check(file, options)


def _check(file: SourceFile, options: ReadOptions) -> Table:
    from lucidworks_provider.delta.schema import arrow_schema

    check_installed()
    table = _table(file.uri)
    check_columns(file, arrow_schema(table.schema), options)
    return table


@lru_cache(maxsize=4)
def _table(uri: str) -> Table:
    """The snapshot of a version, cached for all its files."""
    from lucidworks_provider.delta.log import read_table

    place, _, version = uri.rpartition("@v")
    table = read_table(place, int(version))
    if table is None:
        raise InputError(f"source: {place} was a Delta table, and is none any more.")
    return table
