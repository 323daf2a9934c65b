# SPDX-License-Identifier: Apache-2.0
"""
The end of a run: what becomes of each document, and the commits of both tables.

::

    settle           scratch: a row in `upserts` for each document of which something changes
    publish          the run and a file of upserts below `runs`; commit of `chunks`, then of `documents`
    finish_run       the second commit, where a run died between the two

Nothing that a reader sees changes before the commit of ``chunks``. Whoever dies before it leaves files that no
version names, and the journal; whoever dies after it leaves the note and the upserts, from which the next run makes
the commit of ``documents``. They are outside both tables, where no VACUUM looks.
"""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from lucidworks_provider.client.api.chunking import ChunkingOptions
from lucidworks_provider.corpus.dataset import (
    CHUNKS,
    DESCRIBES,
    DIMENSION,
    DOCUMENTS,
    OPTIONS,
    RUN,
    RUNS,
    below,
    new_name,
)
from lucidworks_provider.corpus.parts import GROUP_ROWS, PART_BYTES, PART_ROWS, ParquetFile, Part
from lucidworks_provider.corpus.run_database import REJECTED, SAME, RunDatabase
from lucidworks_provider.corpus.tables import OWN, Tables, documents_schema, row_places
from lucidworks_provider.delta.cleanup import clean_log, vacuum
from lucidworks_provider.delta.log import (
    RETENTION,
    DataFile,
    Table,
    commit,
    metadata_action,
    protocol_action,
    read_table,
    txn_action,
    write_checkpoint,
)
from lucidworks_provider.delta.rows import read_file_rows
from lucidworks_provider.delta.schema import delta_schema
from lucidworks_provider.delta.vectors import read_vector, write_vectors
from lucidworks_provider.errors import InputError, OutputBusyError, StorageError
from lucidworks_provider.jobs.chunk_columns import stored_chunk_schema
from lucidworks_provider.storage import (
    arrow_place,
    discard,
    names_in,
    read_file,
    reading,
    write_file,
    writing,
)

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

# A file of which more than this share is masked is copied without those rows.
COPY_SHARE = 0.2
# Every night adds a file. So many small ones are worth being copied into one.
SMALL_BYTES = PART_BYTES // 8
SMALL_FILES = 16
# Commits after which readers start from a checkpoint.
CHECKPOINT_EVERY = 30
# Names of the files that :func:`~lucidworks_provider.corpus.dataset.new_name` has named.
_OUR_FILES = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}\.parquet")
# Notes of so many runs are kept.
KEPT_NOTES = 30
# Somebody else may commit between our reading and our commit.
COMMITS = 5
# Bytes of a file.
_COPIED_AT_ONCE = 4 << 20
# Properties by which VACUUM and log cleanup of other writers keep what readers need.
_RETENTIONS = ("delta.deletedFileRetentionDuration", "delta.logRetentionDuration")

_UPSERTS = """
CREATE TABLE upserts (id TEXT PRIMARY KEY, status TEXT, hash TEXT, size INTEGER, etag TEXT, file TEXT, part TEXT,
    first INTEGER, chunks INTEGER, tokens INTEGER, change TEXT, reason TEXT, detail TEXT, attempts INTEGER,
    rejected_hash TEXT) WITHOUT ROWID
"""
# As it was, in everything.
_UNCHANGED = f"status = 'ok' AND action IS {SAME} AND t.id IS NULL AND NOT moved AND NOT dropped"
# As a document stands, with what was learned of its file.
_AS_IT_IS = """
    d.id, {status}, {hash}, coalesce(t.size, d.size), coalesce(t.etag, d.etag), coalesce(t.file, d.file),
    d.part, d.first, d.chunks, d.tokens, NULL, NULL, NULL, 0, NULL
"""
_WITHOUT_CHUNKS = (
    "d.id, {status}, {hash}, d.size, d.etag, d.file, NULL, NULL, 0, 0, {change}, NULL, NULL, 0, NULL"
)


@dataclass(frozen=True, slots=True)
class Counts:
    """Documents of which something has changed since the last run."""

    added: int
    changed: int
    vanished: int
    removed: int


def settle(scratch: RunDatabase, *, keep_old: bool, prune: bool) -> Counts:
    """
    Decide what becomes of each document.

    :param keep_old: False when the configuration changed: old chunks and new ones do not mix.
    :param prune: remove documents that the source does not have.
    """
    scratch.run("DROP TABLE IF EXISTS upserts")
    scratch.run(_UPSERTS)
    # New chunks. A document may have been chunked by an earlier try and have left the source since.
    scratch.run(
        "INSERT INTO upserts SELECT n.id, 'ok', n.hash, coalesce(t.size, n.size), coalesce(t.etag, n.etag), "
        "coalesce(t.file, n.file), n.part, n.first, n.chunks, n.tokens, "
        "CASE WHEN coalesce(d.present, 0) THEN 'changed' ELSE 'added' END, NULL, NULL, 0, NULL "
        "FROM new n JOIN seen ON seen.id = n.id LEFT JOIN documents d ON d.id = n.id "
        "LEFT JOIN touched t ON t.id = n.id"
    )
    # All others of which something may change: most are what they were, and are looked at once.
    scratch.run("DROP TABLE IF EXISTS others")
    columns = "SELECT d.*, seen.action AS action, t.id IS NOT NULL AS touched"
    joined = "documents d LEFT JOIN seen ON seen.id = d.id LEFT JOIN touched t ON t.id = d.id"
    may_change = f"NOT ({_UNCHANGED} AND {int(keep_old)}) AND d.id NOT IN (SELECT id FROM upserts)"  # noqa: S608
    scratch.run(f"CREATE TEMP TABLE others AS {columns} FROM {joined} WHERE {may_change}")
    vanished = scratch.count(
        "SELECT count(*) FROM others WHERE present AND action IS NULL AND status != 'vanished'"
    )
    insert = (
        "INSERT OR IGNORE INTO upserts SELECT {columns} FROM others d LEFT JOIN touched t ON t.id = d.id "
        "WHERE {which}"
    )

    def without_chunks(which: str, *, hash: str = "NULL", change: str = "'deleted'") -> None:
        columns = _WITHOUT_CHUNKS.format(status="'deleted'", hash=hash, change=change)
        scratch.run(insert.format(columns=columns, which=which))

    def as_it_is(which: str, status: str) -> None:
        scratch.run(insert.format(columns=_AS_IT_IS.format(status=status, hash="d.hash"), which=which))

    # Somebody has deleted chunks of these, and they are to stay away until their text changes.
    without_chunks("dropped", hash="CASE WHEN action IS NULL THEN NULL ELSE d.hash END")
    if prune:
        without_chunks("present AND action IS NULL")
    if not keep_old:
        without_chunks("present")
    as_it_is("present AND action IS NULL AND (status != 'vanished' OR moved)", "'vanished'")
    # What was rejected before and has left the source.
    without_chunks("NOT present AND action IS NULL AND status = 'rejected'", change="NULL")
    # What is as it was, and has another etag, another place, or was rejected or away in between; and rejects, which
    # keep the chunks that they had.
    was = "CASE WHEN present THEN 'ok' ELSE d.status END"
    as_it_is(f"action = {SAME} AND (moved OR touched OR (present AND status != 'ok'))", was)
    as_it_is(f"action = {REJECTED}", was)
    scratch.run(
        "INSERT OR IGNORE INTO upserts SELECT id, 'rejected', NULL, NULL, NULL, file, NULL, NULL, 0, 0, NULL, NULL, "
        "NULL, 0, NULL FROM rejects"
    )
    scratch.run(
        "UPDATE upserts SET status = 'rejected', reason = r.reason, detail = r.detail, attempts = r.attempts, "
        "rejected_hash = r.hash FROM rejects r WHERE r.id = upserts.id"
    )
    # What is exactly as it was, such as a reject that was not tried again.
    names = ("status", "size", "etag", "file", "reason", "detail", "attempts", "rejected_hash")
    same = " AND ".join(f"d.{name} IS upserts.{name}" for name in names)
    as_before = f"SELECT 1 FROM documents d WHERE d.id = upserts.id AND NOT d.moved AND {same}"  # noqa: S608
    scratch.run(f"DELETE FROM upserts WHERE change IS NULL AND EXISTS ({as_before})")  # noqa: S608
    count = {
        name: scratch.count("SELECT count(*) FROM upserts WHERE change = ?", name)
        for name in ("added", "changed", "deleted")
    }
    return Counts(count["added"], count["changed"], vanished, count["deleted"])


def count_after(scratch: RunDatabase) -> tuple[int, int]:
    """Documents and chunks that the tables will have."""
    old = "FROM documents WHERE present AND id NOT IN (SELECT id FROM upserts WHERE change IS NOT NULL)"
    new = "FROM upserts WHERE change IN ('added', 'changed')"
    counts = [scratch.one(f"SELECT count(*), coalesce(sum(chunks), 0) {which}") for which in (old, new)]
    return sum(count[0] for count in counts), sum(count[1] for count in counts)


@dataclass(frozen=True, slots=True)
class Note:
    """
    What is kept of a run below ``runs`` from the moment before its first commit.

    :param number: of its lease, and the version of its application transaction.
    :param me: the task instance, so that its retry knows that it is done.
    :param journal: its folder, of which the tables have everything but jobs that were not ready.
    :param parts: paths of the files that the run has written.
    :param returned: what its task returns.
    :param version: of ``chunks`` after it; None while it is only staged.
    :param upserts: the file of new rows of ``documents``, as the ``add`` of its log; until the commit they are in
        :func:`rows_path`.
    :param transactions: of ``documents``, beside those of every run.
    :param base: number of the run before it in ``documents``, onto which the second commit belongs.
    """

    number: int
    me: Mapping[str, Any]
    journal: str
    returned: Mapping[str, Any]
    version: int | None = None
    upserts: Mapping[str, Any] | None = None
    transactions: Mapping[str, int] = field(default_factory=dict)
    base: int = 0
    parts: Sequence[str] = ()


def note_run(place: str, note: Note) -> None:
    """Write the note, over that of an earlier attempt of the same run."""
    write_file(_note_uri(place, note.number), json.dumps(asdict(note), indent=1).encode())


def read_note(place: str, number: int) -> Note | None:
    """
    The note of a run, None where there is none.

    :raises InputError: it is not one.
    """
    if (data := read_file(_note_uri(place, number))) is None:
        return None
    try:
        return Note(**json.loads(data))
    except (ValueError, TypeError):
        raise InputError(
            f"{_note_uri(place, number)} is not the note of a run. Restore it, or choose another output."
        ) from None


def run_numbers(place: str, suffix: str = ".json") -> list[int]:
    """Numbers of the runs that are noted, or that have another file there, the last one first."""
    names = (name.removesuffix(suffix) for name in names_in(below(place, RUNS)))
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def _note_uri(place: str, number: int) -> str:
    return below(place, f"{RUNS}/{number:08}.json")


def rows_path(number: int) -> str:
    """Where the new rows of ``documents`` of a run are until it has committed them, below the output."""
    return f"{RUNS}/{number:08}.parquet"


# -- chunks --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TableSettings:
    """
    How both tables are written.

    :param dimension: of the vectors; 0 where there is none.
    :param deletion_vectors: mask replaced rows; else copy files without them.
    :param retention: seconds for which older versions can be read.
    """

    options: ChunkingOptions
    dimension: int = 0
    deletion_vectors: bool = True
    retention: float = RETENTION

    @property
    def properties(self) -> Mapping[str, str]:
        """Of both tables."""
        return dict.fromkeys(_RETENTIONS, f"interval {math.ceil(self.retention)} seconds")


def publish(
    output: str,
    scratch: RunDatabase,
    tables: Tables,
    parts: Sequence[Part],
    settings: TableSettings,
    *,
    number: int,
    note: Callable[[int, int, Mapping[str, Any] | None], None],
    check: Callable[[], None],
    transactions: Mapping[str, int] | None = None,
) -> tuple[int, int] | None:
    """
    Commit a run that :func:`settle` has decided.

    :param parts: files that the run has written.
    :param number: of the run's lease.
    :param note: notes the run, with the versions of ``chunks`` and ``documents``, and the file of new rows of
        ``documents`` as an ``add`` of the log.
    :param check: raises when the lease is lost.
    :param transactions: of ``documents``, beside those of every run.
    :return: the versions of ``chunks`` and ``documents``; None where somebody else has committed meanwhile, and
        everything is to be decided again.
    """
    chunks = _Commit(below(output, CHUNKS), tables.chunks, deletion_vectors=settings.deletion_vectors)
    _write_chunks(chunks, scratch, parts, settings)
    if not chunks.actions and tables.documents is not None and not scratch.one("SELECT 1 FROM upserts"):
        return chunks.version - 1, tables.documents.version
    version = chunks.version if chunks.actions else chunks.version - 1
    upserts = _write_upserts(below(output, rows_path(number)), scratch, version)
    documents_version = 0 if tables.documents is None else tables.documents.version + 1
    note(version, documents_version, None if upserts is None else upserts.add()["add"])
    check()
    if chunks.actions and not chunks.commit({RUN: number}, "WRITE"):
        return None
    marks = {RUN: number, DESCRIBES: version, **(transactions or {})}
    return version, _commit_documents(
        output,
        scratch,
        tables.documents,
        upserts,
        marks,
        properties=settings.properties,
        deletion_vectors=settings.deletion_vectors,
    )


class _Commit:
    """
    One commit in the making: actions on top of a version.

    :param table: None where the commit creates it.
    """

    def __init__(self, uri: str, table: Table | None, *, deletion_vectors: bool) -> None:
        self.uri = uri
        self.table = table
        self.version = 0 if table is None else table.version + 1
        self.actions: list[dict[str, Any]] = []
        # Not worth a commit of its own.
        self._retention: list[dict[str, Any]] = []
        self._vectors = deletion_vectors

    @property
    def files(self) -> Mapping[str, DataFile]:
        """Of the version below."""
        return {} if self.table is None else self.table.files

    def describe(
        self,
        schema: pa.Schema,
        name: str,
        description: str,
        configuration: Mapping[str, str],
        retention: Mapping[str, str],
    ) -> None:
        """
        Add protocol and metadata where they are not so yet.

        :param retention: properties that go with the next commit and make none.
        """
        table = self.table
        has_vectors = table is not None and "deletionVectors" in table.writer_features
        if table is None or (self._vectors and not has_vectors):
            self.actions.append(protocol_action(deletion_vectors=self._vectors))
        before = {} if table is None else table.configuration
        wanted = {**before, **configuration, **retention}
        if self._vectors:
            wanted["delta.enableDeletionVectors"] = "true"
        same = table is not None and table.schema == delta_schema(schema)
        if same and before == wanted:
            return
        metadata = metadata_action(
            schema,
            name=name,
            description=description,
            configuration=wanted,
            id=str(uuid.uuid4()) if table is None else table.id,
            created_ms=_now() if table is None else int(table.metadata.get("createdTime") or 0),
        )
        (self._retention if same and {**before, **retention} == wanted else self.actions).append(metadata)

    def mask_of(self, path: str, masks: dict[str, Any]) -> Any:
        """The bitmap of a file's rows that shall not be seen, from those that are not seen before."""
        from pyroaring import BitMap64

        if path not in masks:
            vector = self.files[path].vector if path in self.files else None
            masks[path] = BitMap64() if vector is None else read_vector(self.uri, vector)
        return masks[path]

    def replace(self, masks: Mapping[str, Any], new: Mapping[str, DataFile]) -> list[str]:
        """
        Add files and mask rows, as far as that is better than a copy.

        :param masks: all rows of a file that shall not be seen.
        :param new: files by their paths.
        :return: files that are to be copied; the caller does.
        """
        copied, vectors = [], {}
        for path, rows in masks.items():
            records = (new.get(path) or self.files[path]).records
            if records is not None and len(rows) >= records:
                self.remove(path)
            elif records is None or not self._vectors or len(rows) > COPY_SHARE * records:
                # Another writer may have left out how many rows a file has.
                copied.append(path)
            else:
                vectors[path] = rows
        rest = {path: file for path, file in {**self.files, **new}.items() if path not in masks}
        small = [path for path, file in rest.items() if file.size < SMALL_BYTES]
        if len(small) >= SMALL_FILES:
            copied += small
        written = write_vectors(self.uri, vectors) if vectors else {}
        for path, vector in written.items():
            self.remove(path)
            self.add(replace(new.get(path) or self.files[path], vector=vector))
        for path, file in new.items():
            if path not in masks and path not in copied:
                self.add(file)
        return copied

    def add(self, file: DataFile) -> None:
        """A new file, or one with another mask."""
        self.actions.append(file.add())

    def remove(self, path: str) -> None:
        """A file, if the version below has it."""
        if path in self.files:
            self.actions.append(self.files[path].remove(_now()))

    def commit(self, transactions: Mapping[str, int], operation: str) -> bool:
        """
        Write the version.

        :return: False if somebody else has written it.
        """
        marks = [txn_action(name, version, _now()) for name, version in transactions.items()]
        actions = [*marks, *self._retention, *self.actions]
        return commit(self.uri, self.version, actions, operation=operation)


def _write_chunks(
    target: _Commit, scratch: RunDatabase, parts: Sequence[Part], settings: TableSettings
) -> None:
    """Add files, mask what is replaced or removed, copy what is hardly needed any more or small."""
    schema = stored_chunk_schema(settings.options, settings.dimension)
    configuration = {
        OPTIONS: json.dumps(settings.options.as_json(), sort_keys=True),
        DIMENSION: str(settings.dimension),
    }
    description = "Chunks of a corpus, made by Lucidworks AI"
    target.describe(schema, CHUNKS, description, configuration, settings.properties)
    new = {
        part.path: DataFile(part.path, part.bytes, _now(), part.chunks)
        for part in parts
        if part.path and part.path not in target.files
    }
    masks = _chunk_masks(target, scratch, new)
    copied = target.replace(masks, new)
    if not copied:
        return
    scratch.run("CREATE TEMP TABLE IF NOT EXISTS moved (id TEXT PRIMARY KEY, part TEXT, first INTEGER)")
    scratch.run("DELETE FROM moved")
    for placed in _copied(target, copied, masks, new, schema):
        scratch.many("INSERT OR IGNORE INTO moved VALUES (?, ?, ?)", placed)
    as_they_are = _AS_IT_IS.format(status="d.status", hash="d.hash").replace(
        "NULL, NULL, NULL, 0, NULL", "NULL, d.reason, d.detail, d.attempts, d.rejected_hash"
    )
    scratch.run(
        f"INSERT OR IGNORE INTO upserts SELECT {as_they_are} FROM documents d JOIN moved m ON m.id = d.id "  # noqa: S608
        "LEFT JOIN touched t ON t.id = d.id"
    )
    # What stands at several places still does.
    scratch.run(
        "UPDATE upserts SET part = m.part, first = CASE WHEN upserts.first IS NOT NULL THEN m.first END "
        "FROM moved m WHERE m.id = upserts.id"
    )


def _chunk_masks(target: _Commit, scratch: RunDatabase, new: Mapping[str, DataFile]) -> dict[str, Any]:
    """The rows of each file of chunks that shall not be seen after the commit."""
    masks: dict[str, Any] = {}
    replaced = (
        "FROM upserts u JOIN documents d ON d.id = u.id "
        "WHERE u.change IN ('changed', 'deleted') AND d.present AND d.chunks > 0"
    )
    for path, first, chunks in scratch.rows(
        f"SELECT d.part, d.first, d.chunks {replaced} AND d.first IS NOT NULL"
    ):
        if path not in target.files:
            raise InputError(
                f"{target.uri} has no file {path}, in which the table {DOCUMENTS} has documents. Somebody restored "
                "one of the two tables. Restore the other one as well, or choose another output."
            )
        target.mask_of(path, masks).add_range(first, first + chunks)
    scattered = {row[0] for row in scratch.rows(f"SELECT u.id {replaced} AND d.first IS NULL")}
    if scattered and target.table is not None:
        for path, row, document_id in row_places(target.table):
            if document_id in scattered:
                target.mask_of(path, masks).add(row)
    # A part may have documents that a later part has again, or that the source has not any more.
    claimed = "FROM upserts WHERE part = ? AND change IS NOT NULL"
    for path, file in new.items():
        if scratch.count(f"SELECT sum(chunks) {claimed}", path) != file.records:
            mask = target.mask_of(path, masks)
            mask.add_range(0, file.records or 0)
            for first, chunks in scratch.rows(f"SELECT first, chunks {claimed}", path):
                mask.remove_range(first, first + chunks)
    return masks


def _copied(
    target: _Commit,
    paths: Iterable[str],
    masks: Mapping[str, Any],
    new: Mapping[str, DataFile],
    schema: pa.Schema,
) -> Iterator[list[tuple[str, str, int]]]:
    """Replace files by copies of what is left; yields documents with their new file and first row."""
    copy = _Copy(target, schema)
    for path in paths:
        if path not in new:
            target.remove(path)
        file = new.get(path) or target.files[path]
        deleted = (
            masks[path] if path in masks else read_vector(target.uri, file.vector) if file.vector else None
        )
        for batch in read_file_rows(target.uri, file, schema, deleted=deleted):
            yield copy.write(batch)
    copy.close()


class _Copy:
    """Writes the files of :func:`_copied`."""

    def __init__(self, target: _Commit, schema: pa.Schema) -> None:
        self._target, self._schema = target, schema
        self._file: ParquetFile | None = None
        self._path, self._rows, self._bytes, self._last = "", 0, 0, ""

    def write(self, batch: pa.RecordBatch) -> list[tuple[str, str, int]]:
        """Append rows; those of one document stay in one file, if they stand together."""
        if not batch.num_rows:
            return []
        ids = batch.column("document_id").to_pylist()
        if (self._rows >= PART_ROWS or self._bytes >= PART_BYTES) and ids[0] != self._last:
            self.close()
        if self._file is None:
            self._path = f"{new_name()}.parquet"
            self._file = ParquetFile(below(self._target.uri, self._path))
            self._rows, self._bytes, self._last = 0, 0, ""
        placed = []
        for row, document_id in enumerate(ids, self._rows):
            if document_id != self._last:
                placed.append((document_id, self._path, row))
                self._last = document_id
        self._file.write(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        return placed

    def close(self) -> None:
        """Add the file to the commit."""
        if self._file is not None:
            size = self._file.close()
            self._target.add(DataFile(self._path, size, _now(), self._rows))
            self._file = None
            self._rows = self._bytes = 0


# -- documents -----------------------------------------------------------------------------------------


def _write_upserts(uri: str, scratch: RunDatabase, version: int) -> DataFile | None:
    """
    Write the new rows of ``documents``.

    :return: the file that they become in ``documents``; None where there are none.
    """
    import pyarrow as pa

    query = (
        "SELECT u.id, u.status, u.hash, u.size, u.etag, u.file, u.part, u.first, u.chunks, u.tokens, "
        "coalesce(u.change, d.change), CASE WHEN u.change IS NULL THEN d.version ELSE ? END, "
        "coalesce(d.presence, ''), u.reason, u.detail, u.attempts, u.rejected_hash, u.change "
        "FROM upserts u LEFT JOIN documents d ON d.id = u.id ORDER BY u.id"
    )
    count, schema = scratch.count("SELECT count(*) FROM upserts"), documents_schema()
    if not count:
        return None
    presence = schema.names.index("presence")
    file = ParquetFile(uri)
    for rows in _some(scratch.rows(query, version), GROUP_ROWS):
        columns: list[Any] = list(zip(*rows, strict=True))
        changes = columns.pop()
        columns[presence] = [
            [
                *map(int, before.split(",") if before else ()),
                *([version] if change in {"added", "deleted"} else []),
            ]
            for before, change in zip(columns[presence], changes, strict=True)
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        file.write(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return DataFile(f"{new_name()}.parquet", file.close(), _now(), count)


def _some(rows: Iterator[Any], count: int) -> Iterator[list[Any]]:
    while some := list(islice(rows, count)):
        yield some


def _commit_documents(
    output: str,
    scratch: RunDatabase,
    table: Table | None,
    upserts: DataFile | None,
    transactions: Mapping[str, int],
    *,
    properties: Mapping[str, str],
    deletion_vectors: bool,
) -> int:
    """
    Commit new rows of ``documents`` in place of those that their documents have there.

    :return: the version.
    :raises OutputBusyError: somebody else commits again and again.
    :raises StorageError: the rows are missing.
    """
    uri, schema = below(output, DOCUMENTS), documents_schema()
    if upserts is not None:
        try:
            _copy_file(below(output, rows_path(transactions[RUN])), below(uri, upserts.path))
        except StorageError:
            # Another run may have made this commit meanwhile, and have removed them.
            if (table := read_table(uri)) is None or table.transactions.get(RUN, 0) < transactions[RUN]:
                raise
            return table.version
    for _ in range(COMMITS):
        target = _Commit(uri, table, deletion_vectors=deletion_vectors)
        target.describe(
            schema, DOCUMENTS, "Documents of a corpus, and where their chunks are", {}, properties
        )
        masks: dict[str, Any] = {}
        known = "SELECT doc_file, doc_row FROM documents WHERE doc_row IS NOT NULL"
        replaced = f"{known} AND id IN (SELECT id FROM upserts)"  # noqa: S608
        for path, row in scratch.rows(replaced):
            target.mask_of(path, masks).add(row)
        new = {} if upserts is None else {upserts.path: upserts}
        for _ in _copied(target, target.replace(masks, new), masks, new, schema):
            pass
        if target.commit({**transactions, OWN: target.version}, "MERGE"):
            return target.version
        if (table := read_table(uri)) is not None:
            if table.transactions.get(RUN, 0) >= transactions[RUN]:
                # Another run has found this one between its two commits, and has made the second.
                return table.version
            scratch.run("UPDATE documents SET doc_file = NULL")
            scratch.many("UPDATE documents SET doc_file = ?, doc_row = ? WHERE id = ?", row_places(table))
    raise commits_of_others(uri)


def _copy_file(source: str, target: str) -> None:
    with reading(source) as file, writing(target) as path, path.open("wb") as copy:
        shutil.copyfileobj(file, copy, _COPIED_AT_ONCE)


def commits_of_others(uri: str) -> OutputBusyError:
    """The error for a table to which somebody else commits each time before this run can."""
    return OutputBusyError(f"{uri}: somebody else commits to it all the time. Stop that, and try again.")


def finish_run(output: str, scratch: RunDatabase, tables: Tables, note: Note) -> int:
    """
    Make the commit of ``documents`` for a run that died between its two commits.

    :param scratch: with the documents as they are in the table.
    :return: the version.
    """
    assert tables.chunks is not None  # noqa: S101
    upserts = None if note.upserts is None else DataFile.from_action(note.upserts)
    scratch.run("DROP TABLE IF EXISTS upserts")
    scratch.run("CREATE TABLE upserts (id TEXT PRIMARY KEY) WITHOUT ROWID")
    if upserts is not None:
        rows = replace(upserts, path=rows_path(note.number))
        for batch in read_file_rows(output, rows, documents_schema()):
            ids = batch.column("document_id").to_pylist()
            scratch.many("INSERT INTO upserts VALUES (?)", ((one,) for one in ids))
    return _commit_documents(
        output,
        scratch,
        tables.documents,
        upserts,
        {RUN: note.number, DESCRIBES: note.version or 0, **note.transactions},
        properties={name: text for name, text in tables.chunks.configuration.items() if name in _RETENTIONS},
        deletion_vectors="deletionVectors" in tables.chunks.writer_features,
    )


# -- shards --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Staged:
    """
    What the task of a shard has found and made, and no version has yet.

    :param number: of the shard's run.
    :param base: number of the run whose tables it was compared with.
    :param facts: URI of a row for each document that was seen: its action, and its new chunks, file or reject.
    :param on_missing_chunks: of the operator; the same for all shards.
    :param prune: of the operator; the same for all shards.
    :param stats: for the report.
    """

    shard: str
    number: int
    options: Mapping[str, Any]
    dimension: int
    deletion_vectors: bool
    on_missing_chunks: Literal["resend", "drop"]
    prune: bool
    parts: Sequence[Mapping[str, Any]]
    facts: str
    returned: Mapping[str, Any]
    stats: Mapping[str, Any]
    base: int


# The tables that `settle` reads, joined: the columns of each with their types.
_FACTS = {
    "seen": ("id TEXT", "action INTEGER"),
    "new": (
        *("hash TEXT", "size INTEGER", "etag TEXT", "file TEXT", "chunks INTEGER", "part TEXT"),
        *("first INTEGER", "tokens INTEGER"),
    ),
    "touched": ("touched_size INTEGER", "touched_etag TEXT", "touched_file TEXT"),
    "rejects": ("reason TEXT", "detail TEXT", "attempts INTEGER", "reject_file TEXT", "reject_hash TEXT"),
}
_COLUMNS = [column for columns in _FACTS.values() for column in columns]
_READ_FACTS = """
SELECT seen.id, action, n.hash, n.size, n.etag, n.file, n.chunks, n.part, n.first, n.tokens, t.size, t.etag, t.file,
    r.reason, r.detail, r.attempts, r.file, r.hash
FROM seen LEFT JOIN new n ON n.id = seen.id LEFT JOIN touched t ON t.id = seen.id
    LEFT JOIN rejects r ON r.id = seen.id
"""


def stage(place: str, scratch: RunDatabase, staged: Staged, note: Note) -> str:
    """
    Keep what a shard has found, for the task that decides about all shards and commits.

    :param staged: without its ``facts``, which are read from the scratch database.
    :return: the URI of what is staged.
    """
    import pyarrow as pa

    uri = below(place, f"staged/{note.number:08}.json")
    facts = below(place, f"staged/{note.number:08}.parquet")
    types = {"TEXT": pa.string(), "INTEGER": pa.int64()}
    schema = pa.schema([(name, types[kind]) for name, kind in map(str.split, _COLUMNS)])
    file = ParquetFile(facts)
    for some in _some(scratch.rows(_READ_FACTS), GROUP_ROWS):
        arrays = [
            pa.array(column, kind.type) for column, kind in zip(zip(*some, strict=True), schema, strict=True)
        ]
        file.write(pa.RecordBatch.from_arrays(arrays, schema=schema))
    empty = file.close() == 0
    write_file(uri, json.dumps(asdict(replace(staged, facts="" if empty else facts))).encode())
    # Last: who finds the note finds all of it.
    note_run(place, replace(note, returned={**note.returned, "staged": uri}))
    return uri


def forget_staged(place: str, published: int) -> None:
    """Remove what a shard has staged before what is published of it, and its oldest notes."""
    folder = below(place, "staged")
    old = [
        name
        for name in names_in(folder)
        if (number := name.partition(".")[0]).isdigit() and int(number) < published
    ]
    discard(
        *(below(folder, name) for name in old),
        *(_note_uri(place, number) for number in run_numbers(place)[KEPT_NOTES:]),
    )


def read_staged(uri: str) -> Staged:
    """
    What a shard has staged.

    :raises InputError: there is no such file, or it is something else.
    """
    data = read_file(uri)
    try:
        return Staged(**json.loads(data or b""))
    except (ValueError, TypeError):
        raise InputError(
            f"staged: {uri} is not what the task of a shard has staged. Give what those tasks return, and leave "
            "trigger_rule at all_success."
        ) from None


def load_facts(scratch: RunDatabase, shards: Sequence[Staged]) -> None:
    """
    Bring together what all shards have found, for :func:`settle`.

    :raises InputError: two shards have a document with one id.
    """
    import pyarrow.parquet as pq

    names = [column.partition(" ")[0] for column in _COLUMNS]
    scratch.run(f"CREATE TEMP TABLE facts ({', '.join(_COLUMNS)})")
    for staged in shards:
        if not staged.facts:
            continue
        filesystem, path = arrow_place(staged.facts)
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            for batch in file.iter_batches(batch_size=GROUP_ROWS, columns=names):
                rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                scratch.many(f"INSERT INTO facts VALUES ({', '.join('?' * len(names))})", rows)  # noqa: S608
                _add_facts(scratch, staged.shard)
    scratch.run("DROP TABLE temp.facts")


def _add_facts(scratch: RunDatabase, shard: str) -> None:
    # Of a file with an unreadable record every document that it had may still be there. Another shard may have it.
    maybe = f"f.action = {REJECTED} AND f.reason IS NULL"
    maybe_before = f"seen.action = {REJECTED} AND seen.id NOT IN (SELECT id FROM rejects)"  # noqa: S608
    both = "FROM facts f JOIN seen ON seen.id = f.id"
    if twice := scratch.one(f"SELECT f.id {both} WHERE NOT ({maybe}) AND NOT ({maybe_before}) LIMIT 1"):
        raise InputError(
            f"Shard {shard} has the document {twice[0]!r}, which another shard has as well. An id names one "
            "document: make the ids of the source distinct."
        )
    scratch.run(f"DELETE FROM seen WHERE id IN (SELECT f.id {both} WHERE NOT ({maybe}))")  # noqa: S608
    scratch.run(f"DELETE FROM facts AS f WHERE {maybe} AND id IN (SELECT id FROM seen)")  # noqa: S608
    for table, given in (("seen", "1"), ("new", "hash"), ("touched", "touched_file"), ("rejects", "reason")):
        columns = ["id", *(name.partition(" ")[0] for name in _FACTS[table] if name != "id TEXT")]
        scratch.run(
            f"INSERT INTO {table} SELECT {', '.join(columns)} FROM facts WHERE {given} IS NOT NULL"  # noqa: S608
        )
    scratch.run("DELETE FROM facts")


# -- afterwards ----------------------------------------------------------------------------------------


def maintain(output: str, retention: float) -> None:
    """
    Write checkpoints, and remove what no version within the retention needs.

    :param retention: seconds.
    :raises StorageError: the tables cannot be read, or a checkpoint cannot be written.
    """
    published = 0
    for name in (CHUNKS, DOCUMENTS):
        table = read_table(below(output, name))
        if table is None:
            continue
        now = time.time()
        # Other writers commit and write checkpoints, too.
        if table.version - max(table.checkpoint, 0) >= CHECKPOINT_EVERY:
            write_checkpoint(table, retention_s=retention)
        vacuum(table, retention, now, _OUR_FILES)
        clean_log(table, retention, now)
        if name == DOCUMENTS:
            published = table.transactions.get(RUN, 0)
    rows = [number for number in run_numbers(output, ".parquet") if number <= published]
    discard(
        *(below(output, rows_path(number)) for number in rows),
        *(_note_uri(output, number) for number in run_numbers(output)[KEPT_NOTES:]),
    )


def _now() -> int:
    """Milliseconds, for the log."""
    return round(time.time() * 1000)
