# SPDX-License-Identifier: Apache-2.0
"""
The commits of both tables at the end of a run, their maintenance, and the records of runs.

::

    publish           decides the upserts, writes them and the record of the run, commits ``chunks`` and ``documents``
    complete_run      makes the commit of ``documents`` for a run that died between the two
    maintain          checkpoints, VACUUM, log cleanup

Readers see nothing of a run before its commit of ``chunks``. A run that dies earlier leaves its journal and
files that no version refers to.

A run writes its record, ``runs/NNNNNNNN.json`` below the output or the folder of a shard, before its first commit.
The next run completes an interrupted run from it, and a retry of the same task returns what it says. Records are
outside both tables, where no VACUUM removes them.
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
from typing import TYPE_CHECKING, Any, Literal

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
from lucidworks_provider.corpus.lease import Holder, Lease
from lucidworks_provider.corpus.parts import GROUP_ROWS, PART_BYTES, PART_ROWS, ParquetFile, Part
from lucidworks_provider.corpus.run_database import RunDatabase
from lucidworks_provider.corpus.tables import (
    OWN,
    CatalogueOptions,
    Counts,
    Tables,
    build_upserts,
    check_columns,
    documents_schema,
    load_documents,
    move_documents,
    read_tables,
    reconcile,
    row_places,
)
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
from lucidworks_provider.jobs.columns import stored_chunk_schema
from lucidworks_provider.storage import discard, exists, names_in, read_file, reading, write_file, writing

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

# A file of which more than this share is masked is copied without those rows.
COPY_SHARE = 0.2
# Every run adds a file; this many small ones are copied into one.
SMALL_BYTES = PART_BYTES // 8
SMALL_FILES = 16
# Commits between two checkpoints.
CHECKPOINT_EVERY = 30
# What :func:`~lucidworks_provider.corpus.dataset.new_name` returns, as the name of a data file.
_OUR_FILES = re.compile(r"\d{8}T\d{6}-[0-9a-f]{8}\.parquet")
# Attempts to commit on top of versions of other writers.
COMMITS = 5
_COPY_BYTES = 4 << 20
# Other writers' VACUUM and log cleanup honour these properties.
_RETENTIONS = ("delta.deletedFileRetentionDuration", "delta.logRetentionDuration")


@dataclass(frozen=True, slots=True)
class TableSettings:
    """
    How both tables are written.

    :param dimension: of the vectors; 0 if unknown.
    :param deletion_vectors: mask replaced rows; otherwise copy files without them.
    :param retention: seconds for which older versions can be read.
    :param prune: as for :func:`~lucidworks_provider.corpus.tables.build_upserts`.
    :param on_missing_chunks: as for :func:`~lucidworks_provider.corpus.tables.reconcile`.
    """

    options: CatalogueOptions
    dimension: int = 0
    deletion_vectors: bool = True
    retention: float = RETENTION
    prune: bool = False
    on_missing_chunks: Literal["resend", "drop"] = "resend"

    @property
    def properties(self) -> Mapping[str, str]:
        """Table properties of both tables."""
        return dict.fromkeys(_RETENTIONS, f"interval {math.ceil(self.retention)} seconds")

    def keep_old(self, tables: Tables) -> bool:
        """Whether chunks of the tables may stay: they have the same options, and vectors of the same length."""
        same_length = 0 in {self.dimension, tables.dimension} or self.dimension == tables.dimension
        return tables.options == self.options.as_json() and same_length


def publish(
    output: str,
    db: RunDatabase,
    tables: Tables,
    parts: Sequence[Part],
    settings: TableSettings,
    *,
    lease: Lease,
    task: Mapping[str, Any],
    journal: str,
    last: RunRecord | None,
    returned: Callable[[Counts], dict[str, Any]],
    report: Callable[[Mapping[str, Any]], None],
    transactions: Mapping[str, int] | None = None,
) -> tuple[dict[str, Any], bool]:
    """
    Decide the new rows of ``documents``, and commit both tables; again if another writer has committed before.

    :param parts: files that the run has written.
    :param lease: on the output; checked before the first commit.
    :param task: identifies the task instance.
    :param journal: folder of the run's journal.
    :param last: the last run in the tables.
    :param returned: what the task returns, without the versions.
    :param report: writes the report.
    :param transactions: of a publication of shards, the transaction identifiers of ``documents`` in addition to those
        of every run.
    :return: what the task returns, and whether anything was committed.
    :raises InputError: data files were removed before their commit.
    :raises OutputBusyError: another run has committed, or another writer before each attempt.
    """
    number, keep_old = tables.number(lease.number), settings.keep_old(tables)
    if keep_old and not settings.dimension:
        settings = replace(settings, dimension=tables.dimension)
    for _ in range(COMMITS):
        counts = build_upserts(db, keep_old=keep_old, prune=settings.prune)
        if (found := find_returned_before_clear(last, task, parts, counts)) is not None:
            return found, False
        _check_files(output, parts, of_shards=transactions is not None)
        chunks = _Commit(below(output, CHUNKS), tables.chunks, deletion_vectors=settings.deletion_vectors)
        chunks.actions += [file.remove(_now()) for file in tables.lost.values()]
        _write_chunks(chunks, db, parts, settings)
        # Consumers of changes may have the version before.
        new = chunks.actions or db.one(f"SELECT 1 {_UPSERTS} WHERE {_NEW_VERSION}")
        version = chunks.version if new else chunks.version - 1
        documents = -1 if tables.documents is None else tables.documents.version
        # Versions of other writers are recorded: readers of changes find them, and positions are read once.
        changed = new or tables.documents is None or tables.changed_by_others
        changed = changed or db.one("SELECT 1 FROM upserts")
        result = {
            **returned(counts),
            "since": tables.version,
            "version": version,
            "documents_version": documents + bool(changed),
        }
        report(result)
        if not changed:
            return result, False
        upserts = _write_upserts(below(output, rows_path(number)), db, version)
        action = None if upserts is None else upserts.add()["add"]
        record = RunRecord(number, task, journal, result, version, action, transactions or {}, tables.run)
        write_run_record(output, record)
        lease.renew()
        if not new or chunks.commit({RUN: number}, "WRITE"):
            committed = _commit_documents(
                output,
                db,
                tables.documents,
                upserts,
                {RUN: number, DESCRIBES: version, **(transactions or {})},
                properties=settings.properties,
                deletion_vectors=settings.deletion_vectors,
            )
            return _correct_record(output, record, committed), True
        before, tables = tables, read_tables(output, tables).without(tables.lost)
        if tables.chunks is None or tables.chunks_run != before.chunks_run:
            raise OutputBusyError(
                f"{output}: another run has committed. Nothing more is written; a retry resumes from the journal."
            )
        log.info("%s: another writer has committed; its files are read again.", output)
        if (table := tables.documents) is not None and table is not before.documents:
            _find_document_rows(db, table)
        reconcile(db, tables, settings.on_missing_chunks)
    raise _concurrent_commits_error(below(output, CHUNKS))


def _check_files(output: str, parts: Sequence[Part], *, of_shards: bool) -> None:
    """:raises InputError: data files were removed before their commit, e.g. after the retention."""
    names = set(names_in(below(output, CHUNKS)))
    for part in parts:
        if part.path and part.path not in names:
            cure = "Run the tasks of the shards again, which send" if of_shards else "A retry sends"
            gone = InputError(
                f"{output}: {CHUNKS}/{part.path} is gone. It was written longer ago than the retention, or another "
                f"program removed it, e.g. by VACUUM. {cure} its documents again."
            )
            raise gone if of_shards else gone.as_retryable()


class _Commit:
    """
    Collects the actions of one commit.

    :param table: the snapshot to commit on top of; None to create the table.
    """

    def __init__(self, uri: str, table: Table | None, *, deletion_vectors: bool) -> None:
        self.uri = uri
        self.table = table
        self.version = 0 if table is None else table.version + 1
        self.actions: list[dict[str, Any]] = []
        # A changed retention is committed with other actions only.
        self._retention: list[dict[str, Any]] = []
        self._vectors = deletion_vectors

    @property
    def files(self) -> Mapping[str, DataFile]:
        """Files of the snapshot."""
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
        Add the protocol and metadata actions, if they differ from those of the snapshot.

        :param retention: properties that do not make a commit by themselves.
        :raises InputError: the snapshot has columns of another program.
        """
        table = self.table
        if table is not None:
            # Another writer may have added some since the tables were read.
            check_columns(table, schema)
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
        """The bitmap of a file's deleted rows, which starts with those of the snapshot."""
        from pyroaring import BitMap64

        if path not in masks:
            vector = self.files[path].vector if path in self.files else None
            masks[path] = BitMap64() if vector is None else read_vector(self.uri, vector)
        return masks[path]

    def replace(self, masks: Mapping[str, Any], new: Mapping[str, DataFile]) -> list[str]:
        """
        Add files, and mask rows where that is cheaper than a copy.

        :param masks: bitmaps of deleted rows, by path.
        :param new: files by path.
        :return: files that the caller has to copy.
        """
        copied, vectors = [], {}
        for path, rows in masks.items():
            records = (new.get(path) or self.files[path]).records
            if records is not None and len(rows) >= records:
                self.remove(path)
            elif records is None or not self._vectors or len(rows) > COPY_SHARE * records:
                # Another writer may have left out the number of rows.
                copied.append(path)
            else:
                vectors[path] = rows
        unmasked = {path: file for path, file in {**self.files, **new}.items() if path not in masks}
        small = [path for path, file in unmasked.items() if file.size < SMALL_BYTES]
        if len(small) >= SMALL_FILES:
            copied += small
        for path, vector in write_vectors(self.uri, vectors).items():
            self.remove(path)
            self.add(replace(new.get(path) or self.files[path], vector=vector))
        for path, file in new.items():
            if path not in masks and path not in copied:
                self.add(file)
        return copied

    def add(self, file: DataFile) -> None:
        """Add a file, or replace its deletion vector."""
        self.actions.append(file.add())

    def remove(self, path: str) -> None:
        """Remove a file, if the snapshot has it."""
        if path in self.files:
            self.actions.append(self.files[path].remove(_now()))

    def commit(self, transactions: Mapping[str, int], operation: str) -> bool:
        """
        Create the version.

        :return: False if another writer has created it.
        """
        txns = [txn_action(name, version, _now()) for name, version in transactions.items()]
        actions = [*txns, *self._retention, *self.actions]
        return commit(self.uri, self.version, actions, operation=operation)


# -- chunks --------------------------------------------------------------------------------------------


def _write_chunks(target: _Commit, db: RunDatabase, parts: Sequence[Part], settings: TableSettings) -> None:
    """Add the run's files, and mask or copy those with replaced rows."""
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
    masks = _chunk_masks(target, db, new)
    if copied := target.replace(masks, new):
        move_documents(db, _copy(target, copied, masks, new, schema))


def _chunk_masks(target: _Commit, db: RunDatabase, new: Mapping[str, DataFile]) -> dict[str, Any]:
    """The rows of each file of chunks that the commit deletes, with those deleted before."""
    masks: dict[str, Any] = {}
    # The rows of a published run whose record was lost are in the journal and in the table: they are not replaced.
    replaced = (
        "FROM upserts u JOIN documents d ON d.id = u.id "
        "WHERE u.change IN ('changed', 'deleted') AND d.present AND d.chunks > 0 "
        "AND (u.first IS NULL OR (u.part, u.first) IS NOT (d.part, d.first))"
    )
    for path, first, chunks in db.rows(
        f"SELECT d.part, d.first, d.chunks {replaced} AND d.first IS NOT NULL"
    ):
        if path not in target.files:
            raise InputError(
                f"{target.uri} has no file {path}, in which the table {DOCUMENTS} has documents. One of the two "
                "tables was restored. Restore the other one as well, or choose another output."
            )
        target.mask_of(path, masks).add_range(first, first + chunks)
    # Each with the file that has its new rows; that of a published run is in the table already.
    scattered: dict[str, str | None] = {
        row[0]: None for row in db.rows(f"SELECT u.id {replaced} AND d.first IS NULL")
    }
    # A new document, of which another program has added rows: two sets of chunks would be found.
    scattered |= db.rows(
        "SELECT u.id, u.part FROM upserts u JOIN foreign_ids f ON f.id = u.id WHERE u.change = 'added'"
    )
    if scattered and target.table is not None:
        for path, row, document_id in row_places(target.table):
            if document_id in scattered and path != scattered[document_id]:
                target.mask_of(path, masks).add(row)
    # A later part may have some of the documents again, and the source may have lost others.
    current = "FROM upserts WHERE part = ? AND change IS NOT NULL"
    for path, file in new.items():
        if db.count(f"SELECT sum(chunks) {current}", path) != file.records:
            mask = target.mask_of(path, masks)
            mask.add_range(0, file.records or 0)
            for first, chunks in db.rows(f"SELECT first, chunks {current}", path):
                mask.remove_range(first, first + chunks)
    return masks


def _copy(
    target: _Commit,
    paths: Iterable[str],
    masks: Mapping[str, Any],
    new: Mapping[str, DataFile],
    schema: pa.Schema,
) -> Iterator[list[tuple[str, str, int]]]:
    """
    Replace files by copies without deleted rows; yields documents with their new file and first row.

    Consecutive rows of one document go to one file.
    """
    copy: ParquetFile | None = None
    copy_path, rows, size, last_id = "", 0, 0, ""
    for path in paths:
        if path not in new:
            target.remove(path)
        file = new.get(path) or target.files[path]
        deleted = masks.get(path)
        if deleted is None and file.vector:
            deleted = read_vector(target.uri, file.vector)
        for batch in read_file_rows(target.uri, file, schema, deleted=deleted):
            ids = batch.column("document_id").to_pylist()
            if copy is not None and (rows >= PART_ROWS or size >= PART_BYTES) and ids[0] != last_id:
                target.add(DataFile(copy_path, copy.close(), _now(), rows))
                copy = None
            if copy is None:
                copy_path, rows, size, last_id = f"{new_name()}.parquet", 0, 0, ""
                copy = ParquetFile(below(target.uri, copy_path))
            moved = []
            for row, document_id in enumerate(ids, rows):
                if document_id != last_id:
                    moved.append((document_id, copy_path, row))
                    last_id = document_id
            copy.write(batch)
            rows += batch.num_rows
            size += batch.nbytes
            yield moved
    if copy is not None:
        target.add(DataFile(copy_path, copy.close(), _now(), rows))


# -- documents -----------------------------------------------------------------------------------------


_UPSERTS = "FROM upserts u LEFT JOIN documents d ON d.id = u.id"
# Documents whose chunks the run or, since the last run, another program has changed.
_NEW_VERSION = "(u.change IS NOT NULL OR coalesce(d.altered, 0))"


def _write_upserts(uri: str, db: RunDatabase, version: int) -> DataFile | None:
    """
    Write the new rows of ``documents``.

    :return: the file that they become in ``documents``; None if there are none.
    """
    query = (
        "SELECT u.id, u.status, u.hash, u.size, u.etag, u.file, u.part, u.first, u.chunks, u.tokens, "
        f"coalesce(u.change, iif(d.altered, 'changed', d.change)), iif({_NEW_VERSION}, ?, d.version), "
        "coalesce(d.presence, ''), u.reason, u.detail, u.attempts, u.rejected_hash, u.change "
        f"{_UPSERTS} ORDER BY u.id"
    )
    count, schema = db.count("SELECT count(*) FROM upserts"), documents_schema()
    if not count:
        return None
    presence = schema.names.index("presence")
    file = ParquetFile(uri)
    for rows in db.batches(query, version, size=GROUP_ROWS):
        columns: list[Any] = list(zip(*rows, strict=True))
        changes = columns.pop()
        columns[presence] = [
            [
                *map(int, before.split(",") if before else ()),
                *([version] if change in {"added", "deleted"} else []),
            ]
            for before, change in zip(columns[presence], changes, strict=True)
        ]
        file.write_columns(columns, schema)
    return DataFile(f"{new_name()}.parquet", file.close(), _now(), count)


def _commit_documents(
    output: str,
    db: RunDatabase,
    table: Table | None,
    upserts: DataFile | None,
    transactions: Mapping[str, int],
    *,
    properties: Mapping[str, str],
    deletion_vectors: bool,
) -> int | None:
    """
    Commit the upserts to ``documents`` in place of the rows that it has of them.

    :return: the version; None if another run has made this commit.
    :raises OutputBusyError: another writer commits before each attempt.
    :raises StorageError: the file of upserts is missing.
    """
    uri, schema = below(output, DOCUMENTS), documents_schema()
    if upserts is not None:
        try:
            _copy_file(below(output, rows_path(transactions[RUN])), below(uri, upserts.path), upserts.size)
        except StorageError:
            # Another run may have made this commit and removed the file.
            if (table := read_table(uri)) is None or table.transactions.get(RUN, 0) < transactions[RUN]:
                raise
            return None
    for _ in range(COMMITS):
        target = _Commit(uri, table, deletion_vectors=deletion_vectors)
        target.describe(
            schema, DOCUMENTS, "Documents of a corpus, and where their chunks are", {}, properties
        )
        masks: dict[str, Any] = {}
        rows = "SELECT doc_file, doc_row FROM documents WHERE doc_row IS NOT NULL"
        for path, row in db.rows(f"{rows} AND id IN (SELECT id FROM upserts)"):  # noqa: S608
            target.mask_of(path, masks).add(row)
        new = {} if upserts is None else {upserts.path: upserts}
        for _moved in _copy(target, target.replace(masks, new), masks, new, schema):
            pass
        if target.commit({**transactions, OWN: target.version}, "MERGE"):
            return target.version
        if (table := read_table(uri, known=table)) is not None:
            if table.transactions.get(RUN, 0) >= transactions[RUN]:
                return None
            _find_document_rows(db, table)
    raise _concurrent_commits_error(uri)


def _find_document_rows(db: RunDatabase, documents: Table) -> None:
    """Load the positions of the rows of ``documents`` again, after a commit of another writer."""
    db.run("UPDATE documents SET doc_row = NULL")
    db.many("UPDATE documents SET doc_file = ?, doc_row = ? WHERE id = ?", row_places(documents))


def _copy_file(source: str, target: str, size: int) -> None:
    if size <= _COPY_BYTES:
        # Fewer requests.
        if (data := read_file(source)) is None:
            raise StorageError(f"{source} is missing.")
        write_file(target, data)
        return
    with reading(source) as file, writing(target) as path, path.open("wb") as copy:
        shutil.copyfileobj(file, copy, _COPY_BYTES)


def _concurrent_commits_error(uri: str) -> OutputBusyError:
    """The error after :data:`COMMITS` attempts."""
    return OutputBusyError(
        f"{uri}: another writer has committed before each of {COMMITS} attempts. Stop it, and try again."
    )


# -- a run that died between its two commits -----------------------------------------------------------


def complete_run(output: str, holder: Holder, wait_seconds: float) -> None:
    """Acquire the lease of the output for :func:`complete_run_with_lease`, if a run is incomplete."""
    if read_tables(output).incomplete_run is None:
        return
    lease = Lease(output)
    lease.acquire(holder, wait_seconds)
    try:
        complete_run_with_lease(output)
    finally:
        lease.release()


def complete_run_with_lease(output: str, known: Tables | None = None) -> Tables:
    """
    Make the commit of ``documents`` for a run that died before it, if there is one.

    :param known: the tables before the lease was acquired.
    :return: the tables after that.
    :raises InputError: the record or the upserts of the run are missing, or one of the tables was restored.
    """
    tables = read_tables(output, known)
    if (number := tables.incomplete_run) is None:
        return tables
    record, rows = read_run_record(output, number), rows_path(number)
    if record is None or (record.upserts is not None and not exists(below(output, rows))):
        raise InputError(
            f"{output}: run {number} has committed {CHUNKS} and not {DOCUMENTS}, and its file "
            f"{rows if record else f'{RUNS}/{number:08}.json'} is gone. Restore it, or choose another output."
        )
    if record.base != tables.run:
        raise InputError(
            f"{output}: run {number} has committed {CHUNKS}, and {DOCUMENTS} is at run {tables.run} instead of "
            f"{record.base}. One of the two tables was restored. Restore {DOCUMENTS} to its newest version, or "
            "choose another output."
        )
    with RunDatabase() as db:
        load_documents(db, tables.documents)
        _complete(output, db, tables, record)
    log.info("Run %s died between its two commits; the second one was made.", number)
    return read_tables(output, tables)


def _complete(output: str, db: RunDatabase, tables: Tables, record: RunRecord) -> None:
    assert tables.chunks is not None  # noqa: S101
    upserts = None if record.upserts is None else DataFile.from_action(record.upserts)
    db.run("CREATE TABLE upserts (id TEXT PRIMARY KEY) WITHOUT ROWID")
    if upserts is not None:
        rows = replace(upserts, path=rows_path(record.number))
        for batch in read_file_rows(output, rows, documents_schema()):
            ids = batch.column("document_id").to_pylist()
            db.many("INSERT INTO upserts VALUES (?)", ((one,) for one in ids))
    committed = _commit_documents(
        output,
        db,
        tables.documents,
        upserts,
        {RUN: record.number, DESCRIBES: record.version or 0, **record.transactions},
        properties={name: text for name, text in tables.chunks.configuration.items() if name in _RETENTIONS},
        deletion_vectors="deletionVectors" in tables.chunks.writer_features,
    )
    _correct_record(output, record, committed)


# -- maintenance ---------------------------------------------------------------------------------------


def maintain(output: str, retention: float, known: Tables) -> None:
    """
    Write checkpoints, and remove what no version within the retention needs.

    :param known: earlier snapshots of the tables.
    :param retention: seconds.
    :raises StorageError: the tables cannot be read, or a checkpoint cannot be written.
    """
    published = 0
    for name, before in ((CHUNKS, known.chunks), (DOCUMENTS, known.documents)):
        table = read_table(below(output, name), known=before)
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
    numbers = run_numbers(output, ".parquet")
    discard(*(below(output, rows_path(number)) for number in numbers if number <= published))
    delete_old_records(output)


def _now() -> int:
    """Milliseconds since the epoch, as in the log."""
    return round(time.time() * 1000)


# -- records of runs ----------------------------------------------------------------------------------


# Older records are removed.
KEPT_RUN_RECORDS = 30


@dataclass(frozen=True, slots=True)
class RunRecord:
    """
    A run, from the moment before its first commit.

    :param number: of its lease, and its transaction identifier.
    :param task: identifies the task instance.
    :param journal: folder of its journal; of a publication of shards, that of the run before.
    :param returned: what its task returns.
    :param version: of ``chunks``; None for a staged shard.
    :param upserts: the ``add`` action of the file of upserts, which is at :func:`rows_path` until its commit.
    :param transactions: transaction identifiers of ``documents`` in addition to those of every run.
    :param base: number of the run that ``documents`` must be at before the second commit.
    :param parts: paths of the files that the run has written; only of a staged shard.
    :param sent: submissions and resubmissions of the journal, which a later run of a shard may continue; only of a
        staged shard.
    """

    number: int
    task: Mapping[str, Any]
    journal: str
    returned: Mapping[str, Any]
    version: int | None = None
    upserts: Mapping[str, Any] | None = None
    transactions: Mapping[str, int] = field(default_factory=dict)
    base: int = 0
    parts: Sequence[str] = ()
    sent: Sequence[int] = (0, 0)


def write_run_record(folder: str, record: RunRecord) -> None:
    """
    Write a record, over that of an earlier attempt of the same run.

    :param folder: URI of the output or of the folder of a shard.
    """
    write_file(_record_uri(folder, record.number), json.dumps(asdict(record), indent=1).encode())


def _correct_record(output: str, record: RunRecord, committed: int | None) -> dict[str, Any]:
    """
    Write the version of ``documents`` to the record, if another program has committed the expected one.

    :param committed: the version; None if another run has made the commit.
    :return: what the task returns.
    """
    if committed is None:
        record = read_run_record(output, record.number) or record
    elif committed != record.returned["documents_version"]:
        record = replace(record, returned={**record.returned, "documents_version": committed})
        write_run_record(output, record)
    return dict(record.returned)


def read_run_record(folder: str, number: int) -> RunRecord | None:
    """
    Read a record; None if there is none.

    :raises InputError: the file is not a record.
    """
    if (data := read_file(_record_uri(folder, number))) is None:
        return None
    try:
        return RunRecord(**json.loads(data))
    except (ValueError, TypeError):
        raise InputError(
            f"{_record_uri(folder, number)} is not the record of a run. Restore it, or choose another output."
        ) from None


def run_numbers(folder: str, suffix: str = ".json") -> list[int]:
    """Numbers of the runs that have a file with this suffix, the last one first."""
    names = (name.removesuffix(suffix) for name in names_in(below(folder, RUNS)))
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def delete_old_records(folder: str) -> None:
    """Keep the last :data:`KEPT_RUN_RECORDS`."""
    discard(*(_record_uri(folder, number) for number in run_numbers(folder)[KEPT_RUN_RECORDS:]))


def _record_uri(folder: str, number: int) -> str:
    return below(folder, f"{RUNS}/{number:08}.json")


def rows_path(number: int) -> str:
    """Path below the output of a run's new rows of ``documents``, until their commit."""
    return f"{RUNS}/{number:08}.parquet"


def find_returned(
    folder: str, task: Mapping[str, Any], published: int | None, *, try_number: int
) -> dict[str, Any] | None:
    """
    What an earlier try of a task has returned, if that try was complete; another task may have run since.

    Before the first try there is none: an equal task is that of a DAG run that was deleted and created again.

    :param published: number of the last run in the tables; None for a shard, whose runs only have to be staged.
    """
    if try_number == 1:
        return None
    expected = published
    for number in run_numbers(folder):
        # A run without its commit is not the base of a later one.
        if expected in {None, number} and (record := read_run_record(folder, number)) is not None:
            if record.task == task:
                log.info("An earlier try of this task was complete, so its result is returned.")
                return dict(record.returned)
            expected = None if published is None else record.base
    return None


def find_returned_before_clear(
    last: RunRecord | None, task: Mapping[str, Any], parts: Sequence[Part], counts: Counts
) -> dict[str, Any] | None:
    """
    What a task returned before it was cleared, if nothing has changed since.

    Tasks after it may not have run with that result, and an empty delta would hide its changes from them.
    """
    if last is None or last.task.get("instance") != task["instance"] or parts or counts != Counts(0, 0, 0, 0):
        return None
    log.info("Nothing has changed since an earlier try of this task, so its result is returned.")
    return dict(last.returned)
