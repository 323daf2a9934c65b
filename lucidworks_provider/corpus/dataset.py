# SPDX-License-Identifier: Apache-2.0
"""
Reads the tables of a catalogue: chunks, documents, and changes between two versions.

::

    OUTPUT/chunks/       Delta table: a row for each chunk
    OUTPUT/documents/    Delta table: a row for each document, with the version of ``chunks`` that changed it last

Any Delta reader can read them as well. This module returns vectors as lists of a fixed size, and the documents that
have changed between two versions.
"""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING

from lucidworks_provider.corpus.run_database import ON_TEMPORARY_DISK
from lucidworks_provider.delta import check_installed
from lucidworks_provider.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

    from lucidworks_provider.delta.log import Table

# Names below the output.
CHUNKS, DOCUMENTS = "chunks", "documents"
JOURNAL, RAW, RUNS, SHARDS, LEASE = "journal", "raw", "runs", "shards", "lease"
REPORT, REJECTS = "report.html", "rejects.jsonl"
NAMES = {CHUNKS, DOCUMENTS, JOURNAL, LEASE, RAW, REJECTS, REPORT, RUNS, SHARDS, "listings"}
# Properties of the table of chunks.
OPTIONS, DIMENSION = "lucidworks.options", "lucidworks.dimension"
# Transaction identifier in both tables: the number of the last run.
RUN = "lucidworks-run"
# Transaction identifier in the documents: the version of the chunks that they describe.
DESCRIBES = "lucidworks-chunks"
# Documents that have changed; may be larger than the memory.
_CHANGED = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16000;
CREATE TABLE changed (id TEXT PRIMARY KEY, change TEXT, file TEXT, chunks INTEGER) WITHOUT ROWID;
BEGIN;
"""


def below(output: str, path: str) -> str:
    """The URI of a path below a folder."""
    return f"{output.rstrip('/')}/{path}"


def new_name() -> str:
    """A unique name for a file or folder, which sorts by time."""
    return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{uuid.uuid4().hex[:8]}"


class Dataset:
    """
    One version of a table, read lazily. Polars, DuckDB and pandas accept it by the Arrow PyCapsule interface.

    :param snapshot: the version of the Delta table that is read.
    :param version: its number.
    :param schema: of its columns.
    """

    def __init__(self, table: Table, schema: pa.Schema) -> None:
        self.snapshot = table
        self.version = table.version
        self.schema = schema

    def __len__(self) -> int:
        """Number of rows, from the log if it has it."""
        counts = [file.live for file in self.snapshot.files.values()]
        if None in counts:
            return sum(batch.num_rows for batch in self.to_batches(columns=self.schema.names[:1]))
        return sum(count or 0 for count in counts)

    def to_batches(
        self, columns: Sequence[str] | None = None, filter: pc.Expression | None = None
    ) -> Iterator[pa.RecordBatch]:
        """
        Iterate over the rows.

        :param columns: all if not given.
        :param filter: an expression of ``pyarrow.compute``.
        :raises InputError: there is no such column, or another program has added vectors of another length.
        :raises StorageError: a file is missing or cannot be read.
        """
        import pyarrow as pa

        from lucidworks_provider.delta.rows import read_rows

        wanted = self._selected(columns)
        # The filter may need columns that are not selected.
        names = wanted.names if filter is None else self.schema.names
        for batch in read_rows(self.snapshot, columns=names):
            found = pa.Table.from_batches([batch])
            if filter is not None:
                found = found.filter(filter)
            for part in self.cast(found.select(wanted.names), wanted).to_batches():
                if part.num_rows:
                    yield part

    def cast(self, rows: pa.Table, schema: pa.Schema) -> pa.Table:
        """
        Rows of the Delta table with the types of this module.

        :raises InputError: they have other types, e.g. vectors of another length.
        """
        import pyarrow as pa

        try:
            return rows.cast(schema)
        except pa.ArrowInvalid as err:
            raise InputError(
                f"{self.snapshot.uri} has rows with vectors of another length, or with nulls, which another program "
                f"has added: {err} The command inspect names them. Delete them from the table."
            ) from err

    def to_table(self, columns: Sequence[str] | None = None, filter: pc.Expression | None = None) -> pa.Table:
        """:meth:`to_batches` as one table in memory."""
        import pyarrow as pa

        wanted = self._selected(columns)
        return pa.Table.from_batches(self.to_batches(columns, filter), schema=wanted)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        import pyarrow as pa

        reader = pa.RecordBatchReader.from_batches(self.schema, self.to_batches())
        return reader.__arrow_c_stream__(requested_schema)

    def _selected(self, columns: Sequence[str] | None) -> pa.Schema:
        import pyarrow as pa

        if columns is None:
            return self.schema
        if unknown := [name for name in columns if name not in self.schema.names]:
            raise InputError(f"{self.snapshot.uri} has no column {', '.join(map(repr, unknown))}.")
        return pa.schema([self.schema.field(name) for name in columns])


def open_dataset(output: str, version: int | None = None) -> Dataset:
    """
    Open the chunks of a catalogue.

    :param output: URI of the folder of its tables, on any storage that ``ObjectStoragePath`` supports.
    :param version: of the table ``chunks``; the newest if not given.
    :raises InputError: there is no such table or version, or the ``documents`` extra is not installed.
    :raises StorageError: the log cannot be read.
    """
    from lucidworks_provider.jobs.columns import chunk_schema

    table = open_delta_table(output, CHUNKS, version)
    if OPTIONS not in table.configuration:
        raise InputError(f"{table.uri} was made by another program: it has no property {OPTIONS}.")
    options = json.loads(table.configuration[OPTIONS])
    dimension = int(table.configuration.get(DIMENSION, 0))
    return Dataset(table, chunk_schema(options, dimension, with_hash=True))


def open_documents(output: str, version: int | None = None) -> Dataset:
    """
    Open the documents of a catalogue: the source, the status and the last version of each.

    :param version: of the table ``documents``; the newest if not given.
    :raises InputError: as :func:`open_dataset`.
    """
    from lucidworks_provider.delta.schema import arrow_schema

    table = open_delta_table(output, DOCUMENTS, version)
    return Dataset(table, arrow_schema(table.schema))


def open_delta_table(output: str, name: str, version: int | None) -> Table:
    """:raises InputError: there is no such table or version, or the extra is not installed."""
    check_installed()
    from lucidworks_provider.delta.log import read_table

    table = read_table(below(output, name), version)
    if table is None:
        raise InputError(f"{output} holds no catalogue: there is no Delta table {name}. Has a run succeeded?")
    return table


def changes(output: str, since: int | None, until: int | None = None) -> Iterator[pa.RecordBatch]:
    """
    The documents of a catalogue that differ between two versions, and their chunks.

    Each batch has the columns of :func:`open_dataset` and ``change`` before them: ``added``, ``changed`` or
    ``deleted``. All rows of a document are in one batch, by ``chunk_index``. A document without chunks, such as a
    deleted one, has one row, in which all other columns but ``document_id`` are null. The two versions are compared:
    a document that changed twice is in the result once. One that was added and deleted in between is in it as
    ``deleted``, as a load that failed may have inserted it.

    The ids are in a temporary SQLite database, so memory does not grow with the number of documents. Where another
    program has spread the rows of a document, its rows are collected in memory.

    :param since: version of ``chunks`` that the consumer has; None for none, which yields all documents, those that
        were deleted as well.
    :param until: version of ``chunks`` to read; the newest published one if not given.
    :return: batches; none if nothing has changed.
    :raises InputError: there is no such catalogue or version.
    :raises StorageError: a file is missing or cannot be read, or the temporary disk is full.
    """
    check_installed()
    import pyarrow as pa

    documents = _documents_until(output, until)
    described = documents.transactions[DESCRIBES]
    if since is not None and since > described:
        raise InputError(f"since is {since}, and the version that {output} is read at is {described}.")
    chunks = open_dataset(output, described)
    schema = pa.schema([pa.field("change", pa.string(), nullable=False)])
    for field in chunks.schema:
        schema = schema.append(field.with_nullable(field.name != "document_id"))
    # An empty name is a temporary database.
    with ON_TEMPORARY_DISK, closing(sqlite3.connect("", isolation_level=None, check_same_thread=False)) as db:
        db.executescript(_CHANGED)
        for some in _changed(documents, since):
            db.executemany("INSERT OR REPLACE INTO changed VALUES (?, ?, ?, ?)", some)
        yield from _without_chunks(db, schema)
        yield from _with_chunks(chunks, db, schema)


def version_of(output: str, until: int | None = None) -> int:
    """
    The version of ``chunks`` that :func:`changes` reads, for a consumer to store as its next ``since``.

    :param until: as for :func:`changes`.
    """
    return _documents_until(output, until).transactions[DESCRIBES]


def _documents_until(output: str, until: int | None) -> Table:
    """The newest version of the documents that describes chunks of at most this version."""
    from lucidworks_provider.delta.log import read_table

    newest = open_delta_table(output, DOCUMENTS, None)
    if DESCRIBES not in newest.transactions:
        raise InputError(f"{newest.uri} was made by another program: no run of a corpus has committed to it.")
    if until is None or newest.transactions[DESCRIBES] <= until:
        return newest
    # Binary search, as later versions describe later ones.
    low, high, best = 0, newest.version - 1, None
    while low <= high:
        middle = (low + high) // 2
        try:
            table = read_table(newest.uri, middle)
        except InputError:
            # The log before it was cleaned up.
            low = middle + 1
            continue
        assert table is not None  # noqa: S101
        if table.transactions.get(DESCRIBES, -1) <= until:
            best, low = table, middle + 1
        else:
            high = middle - 1
    if best is None or DESCRIBES not in best.transactions:
        raise InputError(
            f"{output} no longer has a published state of version {until}: its log was cleaned up."
        )
    return best


def _changed(documents: Table, since: int | None) -> Iterator[Iterator[tuple[str, str, str | None, int]]]:
    """Changed documents: id, change, file of the chunks, number of chunks."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from lucidworks_provider.delta.rows import read_rows

    columns = ["document_id", "version", "presence", "chunk_file", "first_row", "chunks"]
    for rows in read_rows(documents, columns=columns):
        version = rows.column("version")
        batch = rows.filter(pc.is_valid(version) if since is None else pc.greater(version, since))
        presence = batch.column("presence")
        is_now = pc.bit_wise_and(pc.list_value_length(presence), 1)
        was = [0] * batch.num_rows
        if since is not None:
            # Each version in `presence` has added or deleted the document.
            early = pc.filter(
                pc.list_parent_indices(presence), pc.less_equal(pc.list_flatten(presence), since)
            )
            for row in early.to_pylist():
                was[row] ^= 1
        # Without a first row, the chunks may be in several files.
        file = pc.if_else(pc.is_valid(batch.column("first_row")), batch.column("chunk_file"), pa.scalar(None))
        found = (batch.column("document_id"), file, batch.column("chunks"), is_now)
        yield (
            (one, "deleted" if not now else "changed" if before else "added", file, count)
            for one, file, count, now, before in zip(*(one.to_pylist() for one in found), was, strict=True)
        )


def _without_chunks(db: sqlite3.Connection, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    cursor = db.execute("SELECT id, change FROM changed WHERE NOT chunks")
    while some := cursor.fetchmany(2048):
        rows = [{"change": change, "document_id": one} for one, change in some]
        yield pa.RecordBatch.from_pylist(rows, schema=schema)


def _with_chunks(chunks: Dataset, db: sqlite3.Connection, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """
    Rows of changed documents. Those that another program has separated are collected and sorted.
    """
    import pyarrow as pa

    from lucidworks_provider.delta.rows import read_rows

    table = chunks.snapshot
    files = [row[0] for row in db.execute("SELECT DISTINCT file FROM changed WHERE chunks")]
    known = all(file in table.files for file in files)
    changed = "SELECT change, chunks FROM changed WHERE id = ? AND chunks"
    waiting: dict[str, list[pa.RecordBatch]] = {}

    def named(rows: pa.RecordBatch, how: list[str]) -> pa.RecordBatch:
        # Rows of other documents in the batch may have vectors of another length.
        columns = (
            chunks.cast(pa.Table.from_batches([rows]), chunks.schema).combine_chunks().to_batches()[0].columns
        )
        return pa.RecordBatch.from_arrays([pa.array(how, pa.string()), *columns], schema=schema)

    for batch in read_rows(table, columns=chunks.schema.names, files=files if known else None):
        rows: dict[str, list[int]] = {}
        for row, document_id in enumerate(batch.column("document_id").to_pylist()):
            rows.setdefault(document_id, []).append(row)
        index = batch.column("chunk_index").to_pylist()
        taken: list[int] = []
        how: list[str] = []
        ready: list[pa.RecordBatch] = []
        for document_id, its in rows.items():
            if (found := db.execute(changed, (document_id,)).fetchone()) is None:
                continue
            change, count = found
            if len(its) >= count:
                taken += sorted(its, key=index.__getitem__)
                how += [change] * len(its)
                continue
            # take() copies; a slice would keep the whole batch.
            together = [*waiting.pop(document_id, ()), batch.take(pa.array(its))]
            if sum(one.num_rows for one in together) < count:
                waiting[document_id] = together
            else:
                ordered = pa.Table.from_batches(together).sort_by("chunk_index").to_batches()
                ready += [named(one, [change] * one.num_rows) for one in ordered]
        if taken:
            ready.append(named(batch.take(pa.array(taken)), how))
        yield from pa.Table.from_batches(ready, schema).combine_chunks().to_batches()
    if waiting:
        raise InputError(
            f"{table.uri}: chunks of {len(waiting):,} documents are missing, e.g. of {next(iter(waiting))!r}. "
            "Another program has deleted them; the next run sends the documents again or drops them."
        )
