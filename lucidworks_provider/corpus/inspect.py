# SPDX-License-Identifier: Apache-2.0
"""
Describes the tables of a catalogue, and checks them against each other and against the source.

Each file is read once. Documents and ranges of chunks are in a temporary SQLite database, so memory is constant.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucidworks_provider.corpus.dataset import (
    CHUNKS,
    DESCRIBES,
    DIMENSION,
    DOCUMENTS,
    OPTIONS,
    RUN,
    open_delta_table,
)
from lucidworks_provider.corpus.run_database import ON_TEMPORARY_DISK
from lucidworks_provider.corpus.tables import CatalogueOptions, ids_of_last_run
from lucidworks_provider.delta import check_installed
from lucidworks_provider.documents.document import Document, RejectedDocument, content_hash
from lucidworks_provider.documents.source import SourceFile, list_source
from lucidworks_provider.errors import InputError, StorageError
from lucidworks_provider.storage import find_entry, naming

if TYPE_CHECKING:
    import pyarrow as pa

    from lucidworks_provider.delta.log import Table
    from lucidworks_provider.documents.readers import ReadOptions

# Examples of each problem.
NAMED = 3
UNREADABLE = "files that cannot be read"
# Numbers of vectors in a batch.
AT_ONCE = 1_000_000
# Start, end and digest of a chunk's text.
_SPAN = struct.Struct("<qq8s")
_DOCUMENT = [
    "document_id",
    "status",
    "content_hash",
    "size",
    "etag",
    "source_file",
    "chunk_file",
    "first_row",
]
_DOCUMENT += ["chunks", "tokens", "version", "reason", "presence"]
_CHUNK = ["document_id", "chunk_index", "content_hash", "input_tokens", "start", "end", "text", "vector"]

# A range: consecutive rows of a file with one document, one hash, and ascending chunk_index.
_SCHEMA = """
PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -32000;
CREATE TABLE documents (id TEXT PRIMARY KEY, status TEXT, hash TEXT, size INTEGER, etag TEXT, source TEXT, file TEXT,
    first INTEGER, chunks INTEGER, tokens INTEGER, version INTEGER, reason TEXT, present INTEGER,
    seen INTEGER DEFAULT 0) WITHOUT ROWID;
CREATE TABLE ranges (id TEXT, file TEXT, first INTEGER, count INTEGER, chunk_index INTEGER, hash TEXT, tokens INTEGER,
    spans BLOB);
BEGIN;
"""
# The chunks of each document; another program may have reordered the rows.
_FOUND = """
CREATE INDEX ranges_id ON ranges (id);
CREATE TABLE found AS
    SELECT id, sum(count) AS count, sum(tokens) AS tokens, min(file) AS file, max(file) AS last_file,
        min(first) AS first, max(first + count) AS end, min(hash) AS hash, max(hash) AS last_hash,
        max(chunk_index != expected) AS disorder
    FROM (
        SELECT *, coalesce(lag(chunk_index + count) OVER (PARTITION BY id ORDER BY chunk_index), 0) AS expected
        FROM ranges
    ) GROUP BY id;
CREATE INDEX found_id ON found (id);
CREATE TABLE lost (id TEXT PRIMARY KEY) WITHOUT ROWID;
"""
# Problems of documents and the conditions for them; `d` is the document's row, `f` what was found of its chunks.
_PROBLEMS = {
    "documents whose chunks are missing": "coalesce(f.count, 0) < d.chunks",
    "documents with more chunks than their row says": "f.count > d.chunks",
    "documents whose chunks are not where their row says": (
        "f.count = d.chunks AND d.first IS NOT NULL AND (f.file IS NOT d.file OR f.last_file IS NOT d.file "
        "OR f.first != d.first OR f.end != d.first + d.chunks)"
    ),
    "documents whose chunk_index is not 0, 1, 2, …": "f.count = d.chunks AND f.disorder",
    "documents with another content_hash than their chunks": "f.hash != d.hash OR f.last_hash != d.hash",
    "documents with another number of tokens than their chunks": "f.count = d.chunks AND f.tokens != d.tokens",
    "documents whose status and presence contradict": (
        "d.present != (d.status IN ('ok', 'vanished')) AND d.status != 'rejected' OR NOT d.present AND d.chunks "
        "OR d.status NOT IN ('ok', 'vanished', 'rejected', 'deleted')"
    ),
    "documents of a later version than their table describes": "d.version > :described",
}


@dataclass
class Inspection:
    """
    The result of :func:`inspect`.

    :param about: names and values that describe the tables.
    :param counts: number of problems by kind.
    :param examples: the first documents or files of each kind.
    :param notes: messages that are no problems.
    """

    output: str
    about: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, example: str) -> None:
        """Count a problem."""
        self.counts[kind] += 1
        if self.counts[kind] <= NAMED:
            self.examples.setdefault(kind, []).append(example)

    def problems(self) -> Iterator[str]:
        """A line for each kind of problem."""
        for kind, count in self.counts.items():
            more = ", …" if count > NAMED else ""
            yield f"{kind} ({count:,}): {', '.join(self.examples[kind])}{more}"


def inspect(
    output: str, *, source: str | None = None, read: ReadOptions | None = None, sample: int | None = None
) -> Inspection:
    """
    Describe and check a catalogue.

    :param output: URI of the folder of its tables.
    :param source: compare with these documents; as for the operator.
    :param read: how to read them.
    :param sample: number of documents to compare, chosen at random; all if not given.
    :raises InputError: there is no catalogue or source, or the ``documents`` extra is not installed.
    :raises StorageError: a log or the source cannot be read. An unreadable data file is a problem of the result.
    """
    check_installed()
    with (
        ON_TEMPORARY_DISK,
        tempfile.TemporaryDirectory(prefix="lucidworks-") as folder,
        closing(sqlite3.connect(Path(folder) / "inspect.db", isolation_level=None)) as db,
    ):
        db.executescript(_SCHEMA)
        return _Inspector(output, db).run(source, read, sample)


class _Inspector:
    def __init__(self, output: str, db: sqlite3.Connection) -> None:
        self.db, self.found, self.unlocated = db, Inspection(output), 0
        self.chunks, self.documents = (self._table(name) for name in (CHUNKS, DOCUMENTS))
        marks = self.documents.transactions
        if OPTIONS not in self.chunks.configuration or DESCRIBES not in marks:
            raise InputError(f"{output} has Delta tables of another writer, and no catalogue.")
        # The version of `chunks` that the documents describe.
        self.described = marks[DESCRIBES]
        self._check_versions(marks.get(RUN, 0))
        try:
            self.options = CatalogueOptions(**json.loads(self.chunks.configuration[OPTIONS]))
        except (TypeError, ValueError) as err:
            raise InputError(
                f"{self.chunks.uri}: its property {OPTIONS} is not a configuration: {err}"
            ) from err
        self.dimension = int(self.chunks.configuration.get(DIMENSION, 0))

    def _table(self, name: str, version: int | None = None) -> Table:
        return open_delta_table(self.found.output, name, version)

    def run(self, source: str | None, read: ReadOptions | None, sample: int | None) -> Inspection:
        self._check_columns()
        for path in self.documents.files:
            self._read_documents(path)
        if self.chunks.version != self.described:
            self.db.execute("UPDATE documents SET first = NULL")
        for path in self.chunks.files:
            self.db.executemany("INSERT INTO ranges VALUES (?, ?, ?, ?, ?, ?, ?, ?)", self._ranges(path))
        self._check_documents()
        self.found.about = dict(self._describe())
        if source:
            self._compare(source, read, sample)
        return self.found

    def _check_versions(self, last_run: int) -> None:
        described = self.described
        if described > self.chunks.version:
            # A run may have committed both tables since the first was read.
            self.chunks = self._table(CHUNKS)
        newest, number = self.chunks.version, self.chunks.transactions.get(RUN, 0)
        if number > last_run:
            self.found.add(
                f"runs that have committed {CHUNKS} and not {DOCUMENTS}; the next run completes them",
                f"run {number} with version {newest}; version {described} is checked",
            )
            self.chunks = self._table(CHUNKS, described)
        elif newest > described:
            self.found.notes.append(
                f"Another writer has changed {CHUNKS}: it is at version {newest}, {DOCUMENTS} describes version "
                f"{described}. The next run determines the positions of all chunks again; they were not checked."
            )
        elif newest < described:
            example = f"{newest} is the newest, {DOCUMENTS} describes version {described}"
            self.found.add(f"versions of {CHUNKS} that are lost", example)

    def _check_columns(self) -> None:
        from lucidworks_provider.delta.schema import delta_schema
        from lucidworks_provider.jobs.columns import stored_chunk_schema

        stored = delta_schema(stored_chunk_schema(self.options, self.dimension))
        wanted, columns = (
            {one["name"]: one["type"] for one in schema["fields"]} for schema in (stored, self.chunks.schema)
        )
        for name in sorted(wanted | columns):
            if wanted.get(name) != columns.get(name):
                example = f"{name} is {columns.get(name)}, not {wanted.get(name)}"
                self.found.add(f"columns of {CHUNKS} that differ from its configuration", example)

    def _batches(self, table: Table, path: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The readable rows of a file."""
        from lucidworks_provider.delta.log import file_uri
        from lucidworks_provider.delta.rows import read_rows

        file, uri, rows = table.files[path], file_uri(table.uri, path), 0
        limit = max(1, min(2048, AT_ONCE // max(self.dimension, 1)))
        batches = read_rows(table, columns=columns, files=[path], with_position=True, batch_rows=limit)
        try:
            entry = find_entry(uri)
            if entry is not None and entry.size != file.size:
                example = f"{path} ({entry.size:,} bytes, not {file.size:,})"
                self.found.add("files of another size than the log says", example)
            while True:
                with naming("read", uri):
                    if (batch := next(batches, None)) is None:
                        break
                    # Texts that are not UTF-8 fail here.
                    batch.validate(full=True)
                for column in batch.schema:
                    if not column.nullable and batch.column(column.name).null_count:
                        self.found.add(f"files with rows without {column.name}", path)
                rows += batch.num_rows
                yield batch
        except StorageError as err:
            self.found.add(UNREADABLE, str(err))
        else:
            if file.live not in {rows, None}:
                example = f"{path} ({rows:,}, not {file.live:,})"
                self.found.add("files with another number of rows than the log says", example)

    def _read_documents(self, path: str) -> None:
        insert = f"INSERT OR IGNORE INTO documents VALUES ({', '.join('?' * len(_DOCUMENT))}, 0)"  # noqa: S608
        for batch in self._batches(self.documents, path, _DOCUMENT):
            for *row, presence in _rows(batch, _DOCUMENT):
                if not self.db.execute(insert, (*row, len(presence or ()) % 2)).rowcount:
                    self.found.add(f"documents that are in {DOCUMENTS} twice", f"{row[0]!r} in {path}")

    def _ranges(self, path: str) -> Iterator[tuple[Any, ...]]:
        """Check the rows of a file; yields its ranges."""
        first, count, tokens, spans, last_start = 0, 0, 0, bytearray(), 0
        key: tuple[str, int, str] = "", 0, ""
        for batch in self._batches(self.chunks, path, _CHUNK):
            self._check_spans(batch, path)
            self._check_vectors(batch, path)
            for row, one, index, its_hash, used, start, end, text in _rows(batch, ["_row", *_CHUNK[:-1]]):
                if not count or row != first + count or (one, (index or 0) - count, its_hash) != key:
                    if count:
                        yield key[0], path, first, count, key[1], key[2], tokens, bytes(spans)
                    key = one, index, its_hash
                    first, count, tokens, spans, last_start = row, 0, 0, bytearray(), 0
                count += 1
                tokens += used or 0
                if start is not None and end is not None:
                    if 0 <= start < last_start:
                        self.found.add("chunks that start before the preceding one", f"{one!r} in {path}")
                    last_start = start
                    spans += _SPAN.pack(start, end, _digest(text))
        if count:
            yield key[0], path, first, count, key[1], key[2], tokens, bytes(spans)

    def _check_spans(self, batch: pa.RecordBatch, path: str) -> None:
        import pyarrow.compute as pc

        start, end = batch.column("start"), batch.column("end")
        self.unlocated += start.null_count
        # A check that needs no source.
        wrong = pc.not_equal(pc.subtract(end, start), pc.utf8_length(batch.column("text")))
        wrong = pc.or_(
            pc.fill_null(pc.or_(wrong, pc.less(start, 0)), False), pc.xor(start.is_null(), end.is_null())
        )
        self._add("chunks whose span is not as long as their text", batch.filter(wrong), path)

    def _check_vectors(self, batch: pa.RecordBatch, path: str) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        right = pc.fill_null(pc.equal(pc.list_value_length(batch.column("vector")), self.dimension), False)
        self._add("vectors of another length", batch.filter(pc.invert(right)), path)
        batch, size = batch.filter(right), self.dimension
        if not batch.num_rows or not size:
            return
        flat = pc.list_flatten(batch.column("vector"))
        finite = pc.fill_null(pc.is_finite(flat), False)
        bad = {place // size for place in pc.indices_nonzero(pc.invert(finite)).to_pylist()}
        self._add(
            "vectors with a number that is not finite", batch.take(pa.array(sorted(bad), pa.int64())), path
        )
        # Only vectors that begin with zero are decoded.
        begins = pc.fill_null(pc.equal(flat.take(pa.array(range(0, len(flat), size))), 0), False)
        zero = [
            row
            for row in pc.indices_nonzero(begins).to_pylist()
            if not any(flat[row * size : (row + 1) * size].to_pylist())
        ]
        self._add("vectors that are all zeros", batch.take(pa.array(zero, pa.int64())), path)

    def _add(self, kind: str, wrong: pa.RecordBatch, path: str) -> None:
        for document_id in wrong.column("document_id").to_pylist():
            self.found.add(kind, f"{document_id!r} in {path}")

    def _check_documents(self) -> None:
        self.db.executescript(_FOUND)
        both = "SELECT d.id FROM documents d LEFT JOIN found f ON f.id = d.id WHERE"
        queries = {kind: f"{both} {condition}" for kind, condition in _PROBLEMS.items()}
        unknown = "FROM found f LEFT JOIN documents d ON d.id = f.id WHERE d.id IS NULL"
        lost = self._find_lost() if self.db.execute(f"SELECT 1 {unknown}").fetchone() else "0"
        queries[f"documents with chunks that are not in {DOCUMENTS}"] = f"SELECT f.id {unknown} AND {lost}"
        for kind, query in queries.items():
            for row in self.db.execute(f"{query} ORDER BY 1", {"described": self.described}):
                self.found.add(kind, repr(row[0]))
        others = f"SELECT count(*), min(f.id) {unknown} AND NOT {lost}"
        count, first = self.db.execute(others).fetchone()
        if count:
            self.found.notes.append(
                f"Documents of other programs in {CHUNKS} ({count:,}): {first!r}, …; no run changes or removes their "
                "chunks."
            )

    def _find_lost(self) -> str:
        """A condition for documents without a row that are not those of other programs."""
        try:
            ids = ((one,) for one in ids_of_last_run(self.documents))
            self.db.executemany("INSERT OR IGNORE INTO lost VALUES (?)", ids)
        except StorageError as err:
            self.found.add(UNREADABLE, str(err))
        return "1" if UNREADABLE in self.found.counts else "f.id IN (SELECT id FROM lost)"

    def _describe(self) -> Iterator[tuple[str, str]]:
        for table, name in ((self.chunks, CHUNKS), (self.documents, DOCUMENTS)):
            # A checkpoint has no timestamp.
            written = table.timestamp_ms or table.txns.get(RUN, {}).get("lastUpdated") or 0
            moment = datetime.fromtimestamp(written / 1000, UTC).isoformat(timespec="seconds")
            yield f"{name} table", f"version {table.version} of {moment}"
        for key, value in self.options.as_json().items():
            yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        numbers = {
            "documents": "SELECT count(*) FROM documents WHERE present",
            "chunks": "SELECT sum(count) FROM found",
            "tokens": "SELECT sum(tokens) FROM found",
        }
        for name, query in numbers.items():
            yield name, f"{self.db.execute(query).fetchone()[0] or 0:,}"
        yield "without span", f"{self.unlocated:,}"
        for name, column in (("status", "status"), ("rejects", "reason")):
            rows = self.db.execute(
                f"SELECT {column}, count(*) FROM documents WHERE {column} IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1"  # noqa: S608
            )
            yield name, ", ".join(f"{value} {count:,}" for value, count in rows) or "none"
        files = self.chunks.files.values()
        yield "dimension", f"{self.dimension:,}"
        yield "files", f"{len(files):,}"
        yield "bytes", f"{sum(file.size for file in files):,}"
        yield "masked rows", f"{sum(file.vector.cardinality for file in files if file.vector):,}"

    def _compare(self, source: str, read: ReadOptions | None, sample: int | None) -> None:
        """
        Read the source, and compare its texts with the tables.

        :raises InputError: there is no such source, or a column is missing.
        """
        from lucidworks_provider.documents.readers import ReadOptions, read_file_documents

        how, compared = read or ReadOptions(), 0
        drawn = "SELECT id, source FROM documents WHERE present ORDER BY random() LIMIT ?"
        chosen = None if sample is None else dict(self.db.execute(drawn, (sample,)).fetchall())
        files = None if chosen is None else set(chosen.values())
        for file in list_source(source):
            if files is not None and file.path not in files:
                continue
            for one in read_file_documents(file, how):
                if chosen is None or one.id in chosen:
                    compared += 1
                    self._compare_document(file, one)
        self.found.notes.append(f"Compared with {source}: {compared:,} documents.")
        gone = "SELECT count(*), min(id) FROM documents WHERE present AND NOT seen"
        count, first = self.db.execute(gone).fetchone()
        if count and chosen is None:
            self.found.notes.append(
                f"Documents that the source no longer has ({count:,}): {first!r}, …; prune=True removes them."
            )

    def _compare_document(self, file: SourceFile, one: Document | RejectedDocument) -> None:
        add = self.found.add
        row = self.db.execute(
            "SELECT status, hash, present, size, etag FROM documents WHERE id = ?", (one.id,)
        ).fetchone()
        status, known, present, *etag = row or ("", None, False)
        self.db.execute("UPDATE documents SET seen = 1 WHERE id = ?", (one.id,))
        if status == "rejected":
            # The tables have an older text or none.
            return
        if isinstance(one, RejectedDocument):
            add(
                "documents that cannot be read, and are not rejects",
                f"{one.id!r} ({one.reason}: {one.detail})",
            )
        elif known is None and not present:
            add("documents of the source that are neither in the tables nor rejects", repr(one.id))
        elif known != content_hash(one.text) and etag == [file.size, file.etag]:
            add("documents whose content_hash is not that of their text", repr(one.id))
        elif known != content_hash(one.text):
            add("documents that were changed after they were chunked", repr(one.id))
        else:
            packed = self.db.execute("SELECT spans FROM ranges WHERE id = ?", (one.id,))
            spans = (span for row in packed for span in _SPAN.iter_unpack(row[0]))
            wrong = sum(_digest(one.text[start:end]) != digest for start, end, digest in spans)
            if wrong:
                add(
                    "documents with chunks that are not the text of their spans",
                    f"{one.id!r} ({wrong:,} chunks)",
                )


def _rows(batch: pa.RecordBatch, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    return zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


def _digest(text: str | None) -> bytes:
    return blake2b((text or "").encode(), digest_size=8).digest()
