# SPDX-License-Identifier: Apache-2.0
"""
The two Delta tables of a catalogue: what a run reads of them before it starts, and the new row of each document.

::

    OUTPUT/chunks/       a row for each chunk; readers and consumers refer to its versions
    OUTPUT/documents/    a row for each document that the source has ever had: its status, and where its chunks are

A run commits ``chunks`` first. The transaction identifier :data:`RUN` has the number of the run in both tables, which
shows the next run that one died between its two commits. In ``documents`` the identifier :data:`DESCRIBES` has the
version of ``chunks`` that its rows describe, and :data:`OWN` the version that the run has committed. If one of the
tables is at another version, another program has changed it: :func:`reconcile` reads the positions again, and finds
documents with missing chunks.

At the end of a run :func:`build_upserts` decides the new row of each document, by queries over the run database.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus.dataset import (
    CHUNKS,
    DESCRIBES,
    DIMENSION,
    DOCUMENTS,
    NAMES,
    OPTIONS,
    RUN,
    below,
)
from lucidworks_provider.corpus.run_database import REJECTED, SAME, TODO, RunDatabase
from lucidworks_provider.delta.log import DataFile, Table, check_writable, file_uri, read_table
from lucidworks_provider.delta.rows import read_rows
from lucidworks_provider.errors import InputError, StorageError
from lucidworks_provider.jobs.columns import chunk_schema
from lucidworks_provider.metrics import count
from lucidworks_provider.storage import is_missing, names_in, split_uri

if TYPE_CHECKING:
    import pyarrow as pa

    from lucidworks_provider.corpus.shards import Shard

log = logging.getLogger(__name__)

# Transaction identifier in ``documents``: its version after the commit of a run.
OWN = "lucidworks-documents"
# Examples in messages.
_NAMED = 3


def shard_transaction(name: str) -> str:
    """Transaction identifier: the number of a shard's last published run."""
    return f"lucidworks-shard-{name}"


def documents_schema() -> pa.Schema:
    """
    The columns of ``documents``.

    ``content_hash``, ``size`` and ``etag`` describe the text of the chunks, ``chunk_file`` and ``first_row`` their
    position. ``source_file`` is the file that had the document last. ``version`` is that of ``chunks`` in which they
    changed last. ``presence`` has the versions in which the document was added and deleted, in turn.
    """
    import pyarrow as pa

    text, whole = pa.string(), pa.int64()
    return pa.schema(
        [
            pa.field("document_id", text, nullable=False),
            pa.field("status", text, nullable=False),
            pa.field("content_hash", text),
            pa.field("size", whole),
            pa.field("etag", text),
            pa.field("source_file", text),
            pa.field("chunk_file", text),
            pa.field("first_row", whole),
            pa.field("chunks", pa.int32(), nullable=False),
            pa.field("tokens", whole, nullable=False),
            pa.field("change", text),
            pa.field("version", whole),
            pa.field("presence", pa.list_(whole), nullable=False),
            pa.field("reason", text),
            pa.field("detail", text),
            pa.field("attempts", pa.int32(), nullable=False),
            pa.field("rejected_hash", text),
        ]
    )


@dataclass(frozen=True)
class CatalogueOptions(ChunkingOptions):
    """
    How all chunks of a catalogue are made.

    :param id_column: of the source's records: another one makes other documents of them.
    :param text_column: another one makes other texts of the same documents.
    """

    id_column: str = "id"
    text_column: str = "text"

    def as_json(self) -> dict[str, Any]:
        """The options as plain JSON, in a fixed order."""
        return {**super().as_json(), "id_column": self.id_column, "text_column": self.text_column}


@dataclass(frozen=True, slots=True)
class Tables:
    """
    Snapshots of both tables; None before the first run.

    :param lost: data files that are not in ``chunks``, as they are gone; the next commit removes them.
    """

    chunks: Table | None = None
    documents: Table | None = None
    lost: Mapping[str, DataFile] = field(default_factory=dict)

    @property
    def version(self) -> int | None:
        """Version of ``chunks``."""
        return None if self.chunks is None else self.chunks.version

    @property
    def options(self) -> Mapping[str, Any] | None:
        """Options of the chunks."""
        return None if self.chunks is None else json.loads(self.chunks.configuration[OPTIONS])

    @property
    def dimension(self) -> int:
        """Of the vectors; 0 if unknown."""
        return 0 if self.chunks is None else int(self.chunks.configuration.get(DIMENSION, 0))

    @property
    def transactions(self) -> Mapping[str, int]:
        """Transaction identifiers of ``documents``."""
        return {} if self.documents is None else self.documents.transactions

    @property
    def run(self) -> int:
        """Number of the last complete run."""
        return self.transactions.get(RUN, 0)

    def staged(self, shard: Shard) -> int:
        """Number of the last published run of a shard."""
        return self.transactions.get(shard_transaction(shard.name), 0)

    @property
    def chunks_run(self) -> int:
        """Number of the last run that committed ``chunks``."""
        return 0 if self.chunks is None else self.chunks.transactions.get(RUN, 0)

    @property
    def incomplete_run(self) -> int | None:
        """Number of a run that committed ``chunks`` and not ``documents``."""
        return self.chunks_run if self.chunks_run > self.run else None

    @property
    def changed_by_others(self) -> bool:
        """Whether another program has committed to one of the tables since the last run, e.g. OPTIMIZE or RESTORE."""
        if self.documents is None or self.chunks is None:
            return False
        versions = (self.documents.version, self.chunks.version)
        return versions != (self.transactions.get(OWN), self.transactions.get(DESCRIBES))

    def without(self, lost: Mapping[str, DataFile]) -> Tables:
        """The tables without data files that are gone."""
        if self.chunks is None or not lost:
            return self
        files = self.chunks.files
        left = {path: file for path, file in files.items() if path not in lost}
        newest = {path: files.get(path, file) for path, file in lost.items()}
        return replace(self, chunks=replace(self.chunks, files=left), lost=newest)

    def number(self, lease: int) -> int:
        """The number of a new run: that of its lease, but larger than the last one even if leases were removed."""
        return max(lease, self.run + 1, self.chunks_run + 1)


def read_tables(output: str, known: Tables | None = None) -> Tables:
    """
    Read the tables of an output.

    :param known: earlier snapshots, from which only later commits are read.
    :raises InputError: another program made them, they use unsupported features, or one is missing.
    :raises StorageError: the folder cannot be read.
    """
    known = known or Tables()
    chunks = read_table(below(output, CHUNKS), known=known.chunks)
    documents = read_table(below(output, DOCUMENTS), known=known.documents)
    if chunks is None:
        if documents is not None:
            raise InputError(
                f"{output} has a table {DOCUMENTS} and no table {CHUNKS}, which was removed. Restore it, or choose "
                "another output."
            )
        return Tables()
    for table in (chunks, documents):
        if table is not None:
            check_writable(table)
    if OPTIONS not in chunks.configuration:
        raise InputError(
            f"{chunks.uri} is a Delta table that this operator has not written: it has no property {OPTIONS}. Choose "
            "another output."
        )
    if documents is None and RUN not in chunks.transactions:
        raise InputError(f"{output} has a table {CHUNKS} and no table {DOCUMENTS}. Choose another output.")
    check_columns(chunks, chunk_schema({}, 0, with_hash=True))
    if documents is not None:
        check_columns(documents, documents_schema())
    return Tables(chunks, documents)


def check_files(tables: Tables, *, full_refresh: bool) -> Tables:
    """
    Detect data files of ``chunks`` that are gone, or whose deletion vectors are, e.g. by a bucket's lifecycle rule.

    :param full_refresh: the run sends all documents again, and may remove such files from the table.
    :return: the tables without them.
    :raises StorageError: there are some, and the run must not remove them; names one.
    """
    if (chunks := tables.chunks) is None:
        return tables
    listed: dict[str, set[str]] = {}
    lost: dict[str, DataFile] = {}
    example = ""
    for file in chunks.files.values():
        for path in file.paths:
            folder, name = split_uri(uri := file_uri(chunks.uri, path))
            if folder not in listed:
                listed[folder] = set(names_in(folder))
            if name not in listed[folder]:
                lost[file.path], example = file, uri
    if lost and not full_refresh:
        raise StorageError(
            f"{example} is missing, though its table refers to it. Restore it, or run once with full_refresh=True, "
            f"which removes {count(len(lost), 'data file')} from the table and sends every document again. Nothing "
            "was sent."
        )
    if lost:
        log.warning(
            "%s: %s or their deletion vectors are gone, e.g. %s; full_refresh removes them from the table.",
            chunks.uri,
            count(len(lost), "data file"),
            example,
        )
    return tables.without(lost)


def check_columns(table: Table, schema: pa.Schema) -> None:
    """
    Refuse a table with columns of another program, as the files and the schema that a run writes do not have them.

    :param schema: the columns of this package.
    :raises InputError: names the columns.
    """
    if others := [one["name"] for one in table.schema["fields"] if one["name"] not in schema.names]:
        raise InputError(
            f"{table.uri} has columns that another program added, and a run would lose: "
            f"{', '.join(map(repr, others))}. Copy them to a table of their own, and RESTORE the version before they "
            "were added; or choose another output."
        )


def check_empty(output: str) -> None:
    """
    Refuse a folder without tables that has other contents.

    :raises InputError: names the contents.
    """
    names = names_in(output)
    if "snapshot.json" in names:
        raise InputError(
            f"{output} holds a dataset of an earlier version of this provider (snapshot.json), which is not "
            "converted. Choose another output; every document is submitted again."
        )
    strange = sorted(name for name in names if name not in NAMES and name[0] not in "._")
    if strange:
        raise InputError(
            f"{output} has no table {CHUNKS} and holds something else ({', '.join(strange[:_NAMED])}, …). Give the "
            "tables a folder of their own."
        )


def load_documents(db: RunDatabase, documents: Table | None, shard: Shard | None = None) -> None:
    """
    Load the rows of ``documents`` into the run database.

    :param shard: only the documents of its files.
    """
    if documents is None:
        return
    db.many(
        f"INSERT OR REPLACE INTO documents VALUES ({', '.join('?' * 20)}, 0, 0, 0)",  # noqa: S608
        _document_rows(documents, shard),
    )
    db.run("CREATE INDEX documents_file ON documents (file)")


def add_documents_of_other_shards(db: RunDatabase, documents: Table | None) -> None:
    """Load the rows of a shard's documents that were in files of other shards."""
    if documents is not None:
        db.many(
            f"INSERT OR IGNORE INTO documents SELECT {', '.join('?' * 20)}, 0, 0, 0 "  # noqa: S608
            f"WHERE EXISTS (SELECT 1 FROM source WHERE id = ? AND action = {TODO})",
            ((*row, row[0]) for row in _document_rows(documents, None)),
        )


def _document_rows(documents: Table, shard: Shard | None) -> Iterator[tuple[Any, ...]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    names = documents_schema().names
    file = names.index("source_file")
    for batch in read_rows(documents, columns=names, with_position=True):
        presence = batch.column("presence")
        present = pc.bit_wise_and(pc.list_value_length(presence), 1)
        # Faster than a list per document.
        text = pc.binary_join(presence.cast(pa.list_(pa.string())), ",")
        columns = [batch.column(name) for name in (*names, "_file", "_row")]
        columns[names.index("presence")] = text
        rows = zip(*(column.to_pylist() for column in (*columns, present)), strict=True)
        yield from rows if shard is None else (row for row in rows if shard.has(row[file] or ""))


def load_empty_results(db: RunDatabase) -> None:
    """Load the texts that are not sent again, as they had an empty result."""
    db.run(
        "INSERT INTO failed SELECT id, rejected_hash, reason, detail, attempts FROM documents "
        "WHERE status = 'rejected' AND reason = 'empty_result' AND rejected_hash IS NOT NULL"
    )


def reconcile(
    db: RunDatabase,
    tables: Tables,
    on_missing_chunks: Literal["resend", "drop"],
    *,
    whole: bool = True,
) -> None:
    """
    Detect changes of the tables by other programs since the last run, e.g. OPTIMIZE, DELETE or RESTORE.

    Reads the ids of all chunks if one of the tables is at another version than after the last run, or if data files
    are gone, and nothing otherwise.

    :param on_missing_chunks: ``resend`` documents with missing chunks, or ``drop`` their other chunks until their
        text changes.
    :param whole: the run database has all documents, not only those of a shard.
    """
    chunks = tables.chunks
    if chunks is None or not (tables.changed_by_others or tables.lost):
        return
    db.run("CREATE TEMP TABLE found (id TEXT, hash TEXT, part TEXT, first INTEGER, count INTEGER)")
    db.many("INSERT INTO found VALUES (?, ?, ?, ?, ?)", _ranges(chunks))
    db.run("CREATE INDEX temp.found_id ON found (id)")
    # Chunks with another hash than in `documents`, as after a RESTORE of one table, do not count.
    db.run(
        "CREATE TEMP TABLE sums AS SELECT found.id, sum(count) FILTER (WHERE found.hash IS documents.hash) AS count, "
        "sum(count) AS total, count(*) AS ranges, min(found.part) AS part, min(found.first) AS first "
        "FROM found LEFT JOIN documents ON documents.id = found.id GROUP BY found.id"
    )
    db.run("CREATE UNIQUE INDEX temp.sums_id ON sums (id)")
    # Chunks of deleted documents, as after a RESTORE of `chunks`, or of documents whose rows are gone. They are added
    # so that their chunks are removed. All others are rows of other programs.
    db.run("CREATE TEMP TABLE lost (id TEXT PRIMARY KEY) WITHOUT ROWID")
    unknown = "id NOT IN (SELECT id FROM documents)"
    if whole and tables.documents is not None and db.one(f"SELECT 1 FROM sums WHERE {unknown}"):  # noqa: S608
        db.many(
            "INSERT OR IGNORE INTO lost VALUES (?)", ((one,) for one in ids_of_last_run(tables.documents))
        )
    if whole:
        db.run(
            "INSERT OR IGNORE INTO foreign_ids SELECT id FROM sums "  # noqa: S608
            f"WHERE {unknown} AND id NOT IN (SELECT id FROM lost)"
        )
    known = f"id IN (SELECT id FROM documents WHERE NOT present) OR {unknown} AND id IN (SELECT id FROM lost)"  # noqa: S608
    db.run(
        "INSERT INTO documents (id, status, chunks, tokens, presence, attempts, present, moved, altered) "  # noqa: S608
        f"SELECT id, 'ok', total, 0, '0', 0, 1, 1, 1 FROM sums WHERE {known} "
        "ON CONFLICT (id) DO UPDATE SET hash = NULL, chunks = excluded.chunks, first = NULL, present = 1, moved = 1, "
        "altered = 1, presence = ltrim(presence || ',0', ',')"
    )
    # A document with chunks in several places has no first row; they are searched for when they have to be removed.
    db.run(
        "UPDATE documents SET part = sums.part, first = CASE WHEN sums.ranges = 1 THEN sums.first END, moved = 1 "
        "FROM sums WHERE sums.id = documents.id AND present AND sums.count = documents.chunks "
        "AND sums.total = sums.count AND "
        "(sums.ranges > 1 OR documents.part IS NOT sums.part OR documents.first IS NOT sums.first)"
    )
    missing = (
        "FROM documents LEFT JOIN sums ON sums.id = documents.id "
        "WHERE present AND (coalesce(sums.count, 0) != documents.chunks OR sums.total != sums.count)"
    )
    if count := db.count(f"SELECT count(*) {missing}"):
        some = [row[0] for row in db.rows(f"SELECT documents.id {missing} ORDER BY 1 LIMIT {_NAMED}")]
        log.warning(
            "%s: since the last run another program has removed or replaced chunks of %s documents (%s, …); "
            "on_missing_chunks is %r.",
            chunks.uri,
            f"{count:,}",
            ", ".join(map(repr, some)),
            on_missing_chunks,
        )
        db.run(f"CREATE TEMP TABLE missing AS SELECT documents.id {missing}")
        # Documents without hash and etag are sent again.
        change = "hash = NULL, etag = ''" if on_missing_chunks == "resend" else "dropped = 1"
        db.run(
            f"UPDATE documents SET {change}, first = NULL, altered = 1, "  # noqa: S608
            "chunks = coalesce((SELECT total FROM sums WHERE sums.id = documents.id), 0), moved = 1 "
            "WHERE id IN (SELECT id FROM missing)"
        )
        db.run("DROP TABLE temp.missing")
    db.run("DROP TABLE temp.lost")
    db.run("DROP TABLE temp.sums")
    db.run("DROP TABLE temp.found")


def ids_of_last_run(documents: Table) -> Iterator[str]:
    """
    Ids in the version of ``documents`` that the last run committed, if another program has committed since.

    No more ids, and a warning, if that version can no longer be read.

    :raises StorageError: a file of that version cannot be read.
    """
    own = documents.transactions.get(OWN)
    if own is None or own == documents.version:
        return
    try:
        if (before := read_table(documents.uri, own)) is not None:
            for batch in read_rows(before, columns=["document_id"]):
                yield from batch.column("document_id").to_pylist()
    except (InputError, StorageError) as err:
        if isinstance(err, StorageError) and not is_missing(err):
            raise
        log.warning(
            "%s: another program has removed version %s, so a run cannot find chunks of documents whose rows other "
            "programs have removed: %s",
            documents.uri,
            own,
            err,
        )


def _ranges(chunks: Table) -> Iterator[tuple[str, str, str, int, int]]:
    """Ranges of consecutive rows of one text: document, hash, file, first row, number of rows."""
    last, first, count = ("", "", ""), 0, 0
    for path, row, *about in _places(chunks, "document_id", "content_hash"):
        here = (about[0], about[1], path)
        if count and here == last and row == first + count:
            count += 1
            continue
        if count:
            yield (*last, first, count)
        last, first, count = here, row, 1
    if count:
        yield (*last, first, count)


def row_places(table: Table) -> Iterator[tuple[str, int, str]]:
    """File, position in it and document of each row."""
    yield from _places(table, "document_id")


def _places(table: Table, *columns: str) -> Iterator[tuple[Any, ...]]:
    for batch in read_rows(table, columns=columns, with_position=True):
        yield from zip(*(batch.column(name).to_pylist() for name in ("_file", "_row", *columns)), strict=True)


# -- the new row of each document ---------------------------------------------------------------------


_UPSERTS = """
CREATE TABLE upserts (id TEXT PRIMARY KEY, status TEXT, hash TEXT, size INTEGER, etag TEXT, file TEXT, part TEXT,
    first INTEGER, chunks INTEGER, tokens INTEGER, change TEXT, reason TEXT, detail TEXT, attempts INTEGER,
    rejected_hash TEXT) WITHOUT ROWID
"""


# Documents that certainly get no new row.
_UNCHANGED = f"status = 'ok' AND action IS {SAME} AND t.id IS NULL AND NOT moved AND NOT dropped"


# The current row of a document, with the current facts about its file.
_AS_IT_IS = """
    d.id, {status}, {hash}, coalesce(t.size, d.size), coalesce(t.etag, d.etag), coalesce(t.file, d.file),
    d.part, d.first, d.chunks, d.tokens, NULL, NULL, NULL, 0, NULL
"""


_WITHOUT_CHUNKS = """
    d.id, {status}, {hash}, coalesce(t.size, d.size), coalesce(t.etag, d.etag), coalesce(t.file, d.file),
    NULL, NULL, 0, 0, {change}, NULL, NULL, 0, NULL
"""


@dataclass(frozen=True, slots=True)
class Counts:
    """Documents by what has changed since the last run; ``vanished`` are those that the source no longer has."""

    added: int
    changed: int
    vanished: int
    removed: int


def build_upserts(db: RunDatabase, *, keep_old: bool, prune: bool) -> Counts:
    """
    Fill the table ``upserts``.

    :param keep_old: False after a change of the configuration, when all old chunks are removed.
    :param prune: remove documents that the source no longer has.
    """
    db.run("DROP TABLE IF EXISTS upserts")
    db.run(_UPSERTS)
    # Documents with new chunks. The source may have lost one since an earlier try has chunked it.
    db.run(
        "INSERT INTO upserts SELECT n.id, 'ok', n.hash, coalesce(t.size, n.size), coalesce(t.etag, n.etag), "
        "coalesce(t.file, n.file), n.part, n.first, n.chunks, n.tokens, "
        "CASE WHEN coalesce(d.present, 0) THEN 'changed' ELSE 'added' END, NULL, NULL, 0, NULL "
        "FROM new n JOIN source ON source.id = n.id LEFT JOIN documents d ON d.id = n.id "
        "LEFT JOIN touched t ON t.id = n.id"
    )
    # All others that may change; most do not, so the table is small.
    db.run("DROP TABLE IF EXISTS others")
    columns = "SELECT d.*, source.action AS action, t.id IS NOT NULL AS touched"
    joined = "documents d LEFT JOIN source ON source.id = d.id LEFT JOIN touched t ON t.id = d.id"
    may_change = f"NOT ({_UNCHANGED} AND {int(keep_old)}) AND d.id NOT IN (SELECT id FROM upserts)"  # noqa: S608
    db.run(f"CREATE TEMP TABLE others AS {columns} FROM {joined} WHERE {may_change}")
    vanished = db.count(
        "SELECT count(*) FROM others WHERE present AND action IS NULL AND status != 'vanished'"
    )
    insert = (
        "INSERT OR IGNORE INTO upserts SELECT {columns} FROM others d LEFT JOIN touched t ON t.id = d.id "
        "WHERE {which}"
    )

    def without_chunks(which: str, *, hash: str = "NULL", change: str = "'deleted'") -> None:
        columns = _WITHOUT_CHUNKS.format(status="'deleted'", hash=hash, change=change)
        db.run(insert.format(columns=columns, which=which))

    def as_it_is(which: str, status: str) -> None:
        db.run(insert.format(columns=_AS_IT_IS.format(status=status, hash="d.hash"), which=which))

    # Another program has deleted chunks of these; on_missing_chunks drops them until their text changes.
    without_chunks("dropped", hash="CASE WHEN action IS NULL THEN NULL ELSE d.hash END")
    if prune:
        without_chunks("present AND action IS NULL")
    if not keep_old:
        without_chunks("present")
    as_it_is("present AND action IS NULL AND (status != 'vanished' OR moved)", "'vanished'")
    # Former rejects, and documents without their chunks, that the source no longer has.
    gone = "NOT present AND action IS NULL AND (status = 'rejected' OR hash IS NOT NULL)"
    without_chunks(gone, change="NULL")
    # Unchanged texts whose file, position or status has changed; and rejects, which keep the chunks that they had.
    was = "CASE WHEN present THEN 'ok' ELSE 'deleted' END"
    other = "(present AND status != 'ok') OR status = 'rejected'"
    as_it_is(f"moved OR action = {SAME} AND (touched OR {other})", was)
    as_it_is(f"action = {REJECTED}", was)
    db.run(
        "INSERT OR IGNORE INTO upserts SELECT id, 'rejected', NULL, NULL, NULL, file, NULL, NULL, 0, 0, NULL, NULL, "
        "NULL, 0, NULL FROM rejects"
    )
    db.run(
        "UPDATE upserts SET status = 'rejected', reason = r.reason, detail = r.detail, attempts = r.attempts, "
        "file = r.file, rejected_hash = r.hash FROM rejects r WHERE r.id = upserts.id"
    )
    # Rows that are equal to the current ones, such as rejects that were not sent again.
    names = ("status", "hash", "size", "etag", "file", "reason", "detail", "attempts", "rejected_hash")
    same = " AND ".join(f"d.{name} IS upserts.{name}" for name in names)
    as_before = f"SELECT 1 FROM documents d WHERE d.id = upserts.id AND NOT d.moved AND {same}"  # noqa: S608
    db.run(f"DELETE FROM upserts WHERE change IS NULL AND EXISTS ({as_before})")  # noqa: S608
    count = {
        name: db.count("SELECT count(*) FROM upserts WHERE change = ?", name)
        for name in ("added", "changed", "deleted")
    }
    return Counts(count["added"], count["changed"], vanished, count["deleted"])


def count_after(db: RunDatabase) -> tuple[int, int]:
    """Documents and chunks in the tables after the commit."""
    old = "FROM documents WHERE present AND id NOT IN (SELECT id FROM upserts WHERE change IS NOT NULL)"
    new = "FROM upserts WHERE change IN ('added', 'changed')"
    counts = [db.one(f"SELECT count(*), coalesce(sum(chunks), 0) {which}") for which in (old, new)]
    return sum(count[0] for count in counts), sum(count[1] for count in counts)


def move_documents(db: RunDatabase, moved: Iterable[Iterable[tuple[str, str, int]]]) -> None:
    """
    Add rows for documents whose chunks were copied to other files.

    :param moved: batches of document ids with the new file and first row.
    """
    db.run("CREATE TEMP TABLE IF NOT EXISTS moved (id TEXT PRIMARY KEY, part TEXT, first INTEGER)")
    db.run("DELETE FROM moved")
    for batch in moved:
        db.many("INSERT OR IGNORE INTO moved VALUES (?, ?, ?)", batch)
    columns = _AS_IT_IS.format(status="d.status", hash="d.hash").replace(
        "NULL, NULL, NULL, 0, NULL", "NULL, d.reason, d.detail, d.attempts, d.rejected_hash"
    )
    db.run(
        f"INSERT OR IGNORE INTO upserts SELECT {columns} FROM documents d JOIN moved m ON m.id = d.id "  # noqa: S608
        "LEFT JOIN touched t ON t.id = d.id"
    )
    # Documents whose chunks are in several places stay without a first row.
    db.run(
        "UPDATE upserts SET part = m.part, first = CASE WHEN upserts.first IS NOT NULL THEN m.first END "
        "FROM moved m WHERE m.id = upserts.id"
    )
