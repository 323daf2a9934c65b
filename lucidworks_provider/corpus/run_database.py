# SPDX-License-Identifier: Apache-2.0
"""
A temporary SQLite database with what a run knows of each document.

It needs a few megabytes of memory for any corpus, and 350 to 700 bytes of disk a document. It is built from the table
of documents, the journal and the source.

==============  ==================================================================
``documents``   rows of the table of documents; ``old``: those with chunks
``source``      documents of the source, with their action
``new``         documents that the run has chunked
``touched``     documents with the same text and another size, etag or file
``files``       files of the source that have to be read
``segments``    intents, jobs and results in the journal; without a job, the text may have been submitted
``rejects``     documents that this run rejects
``failed``      texts that are not sent again
``unfinished``  texts whose jobs had not ended, rejected by an earlier try of the run; ``ended``: the try has ended
``tried``       texts that an earlier try of the run has sent, and that failed
``unknown``     documents of a shard that it did not have before
==============  ==================================================================
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from lucidworks_provider.documents.document import Reason
from lucidworks_provider.errors import InputError, StorageError

_TABLES = """
CREATE TABLE documents (id TEXT PRIMARY KEY, status TEXT, hash TEXT, size INTEGER, etag TEXT, file TEXT, part TEXT,
    first INTEGER, chunks INTEGER, tokens INTEGER, change TEXT, version INTEGER, presence TEXT, reason TEXT,
    detail TEXT, attempts INTEGER, rejected_hash TEXT, doc_file TEXT, doc_row INTEGER, present INTEGER,
    moved INTEGER DEFAULT 0, dropped INTEGER DEFAULT 0, altered INTEGER DEFAULT 0) WITHOUT ROWID;
CREATE VIEW old AS SELECT id, hash, size, etag, file, chunks, part, first, tokens FROM documents
    WHERE hash IS NOT NULL;
CREATE TABLE new (id TEXT PRIMARY KEY, hash TEXT, size INTEGER, etag TEXT, file TEXT, chunks INTEGER, part TEXT,
    first INTEGER, tokens INTEGER) WITHOUT ROWID;
CREATE TABLE source (id TEXT PRIMARY KEY, action INTEGER) WITHOUT ROWID;
CREATE TABLE touched (id TEXT PRIMARY KEY, size INTEGER, etag TEXT, file TEXT) WITHOUT ROWID;
CREATE TABLE files (path TEXT PRIMARY KEY, uri TEXT, size INTEGER, etag TEXT, format TEXT) WITHOUT ROWID;
CREATE TABLE unknown (id TEXT PRIMARY KEY, hash TEXT, bytes INTEGER, requests INTEGER) WITHOUT ROWID;
CREATE TABLE segments (id TEXT, hash TEXT, start INTEGER, length INTEGER, job TEXT, log TEXT, offset INTEGER,
    bytes INTEGER, PRIMARY KEY (id, hash, start, length)) WITHOUT ROWID;
CREATE TABLE rejects (id TEXT PRIMARY KEY, reason TEXT, detail TEXT, attempts INTEGER, file TEXT, hash TEXT)
    WITHOUT ROWID;
CREATE TABLE failed (id TEXT PRIMARY KEY, hash TEXT, reason TEXT, detail TEXT, attempts INTEGER) WITHOUT ROWID;
CREATE TABLE unfinished (id TEXT PRIMARY KEY, hash TEXT, attempts INTEGER, ended INTEGER DEFAULT 0) WITHOUT ROWID;
CREATE TABLE tried (id TEXT PRIMARY KEY, hash TEXT) WITHOUT ROWID;
CREATE TABLE foreign_ids (id TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE INDEX new_file ON new (file);
"""

# Primary result codes of SQLite about its disk.
_DISK = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
# Has UPDATE … FROM.
_SQLITE = (3, 33)
# Actions of documents of the source.
SAME, TODO, REJECTED = 0, 1, 2


class _OnTemporaryDisk:
    """
    Converts the errors of a temporary database about its disk; a generator would cost as much as a small query.

    :raises StorageError: the disk is full or fails; names the folder.
    """

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, err: BaseException | None, __: object) -> None:
        # The low byte is the primary code.
        if isinstance(err, sqlite3.Error) and getattr(err, "sqlite_errorcode", 0) & 0xFF in _DISK:
            raise _disk_error(err) from err


ON_TEMPORARY_DISK = _OnTemporaryDisk()


def _disk_error(err: Exception) -> StorageError:
    return StorageError(
        f"The temporary database cannot be written: {err}. Its folder on this machine is "
        f"{tempfile.tempdir or 'the temporary one'}; without TMPDIR, SQLite also uses /var/tmp. Free some space, or "
        "set TMPDIR to a folder on a larger disk."
    )


class Row(NamedTuple):
    """
    A document with chunks.

    :param size: of its source file, bytes.
    :param etag: of its source file.
    :param part: path of the file of its chunks; None if it has no chunks.
    :param first: its first row in that file.
    """

    id: str
    hash: str
    size: int
    etag: str
    file: str
    chunks: int
    part: str | None
    first: int | None
    tokens: int


class Reject(NamedTuple):
    """
    A rejected document.

    :param attempts: runs that have rejected it.
    :param hash: of its text, if that was sent.
    """

    id: str
    reason: str
    detail: str
    attempts: int
    file: str
    hash: str | None = None


class RunDatabase:
    """
    The database; thread-safe.

    :raises InputError: the statements need a newer SQLite, e.g. than that of RHEL 8.
    :raises StorageError: its disk is full or fails; also raised by every method.
    """

    def __init__(self) -> None:
        if sqlite3.sqlite_version_info < _SQLITE:
            raise InputError(
                f"A catalogue needs SQLite 3.33 or newer, and Python here has {sqlite3.sqlite_version}."
            )
        self._lock = threading.Lock()
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="lucidworks-corpus-")
        except OSError as err:
            raise _disk_error(err) from err
        with ON_TEMPORARY_DISK:
            self._db = sqlite3.connect(
                Path(self._folder.name) / "run.db", check_same_thread=False, isolation_level=None
            )
            # No durability, and no locks between statements, as no other process opens the file.
            self._db.executescript(
                "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-32000; "
                f"PRAGMA locking_mode=EXCLUSIVE; {_TABLES}"
            )

    def close(self) -> None:
        """Remove the database."""
        self._db.close()
        self._folder.cleanup()

    def __enter__(self) -> RunDatabase:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, statement: str, *values: Any) -> None:
        """Execute a statement."""
        with self._lock, ON_TEMPORARY_DISK:
            self._db.execute(statement, values)

    def many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute a statement for many rows, in one transaction."""
        with self._lock, ON_TEMPORARY_DISK:
            open_here = not self._db.in_transaction
            if open_here:
                self._db.execute("BEGIN")
            try:
                self._db.executemany(statement, rows)
            finally:
                if open_here:
                    self._commit()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Group statements into one transaction, which is committed even after an exception."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            with self._lock, ON_TEMPORARY_DISK:
                self._commit()

    def _commit(self) -> None:
        # After some errors SQLite has ended the transaction.
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    def one(self, query: str, *values: Any) -> Any:
        """The first row, or None."""
        with self._lock, ON_TEMPORARY_DISK:
            return self._db.execute(query, values).fetchone()

    def count(self, query: str, *values: Any) -> int:
        """The number in the first row; 0 for NULL."""
        return int(self.one(query, *values)[0] or 0)

    def rows(self, query: str, *values: Any) -> Iterator[Any]:
        """All rows; the tables of the query must not be written during the iteration."""
        with self._lock, ON_TEMPORARY_DISK:
            cursor = self._db.execute(query, values)
        while True:
            with self._lock, ON_TEMPORARY_DISK:
                some = cursor.fetchmany(1000)
            if not some:
                return
            yield from some

    def batches(self, query: str, *values: Any, size: int) -> Iterator[list[Any]]:
        """:meth:`rows` in lists of ``size``."""
        rows = self.rows(query, *values)
        while batch := list(islice(rows, size)):
            yield batch

    def clear_run(self) -> None:
        """Remove everything that was loaded from the journal."""
        self.clear_failures()
        for table in ("new", "segments", "tried", "unfinished"):
            self.run(f"DELETE FROM {table}")  # noqa: S608

    def clear_failures(self) -> None:
        """Allow failed texts to be sent again, except those with an empty result."""
        self.run("INSERT OR REPLACE INTO tried SELECT id, hash FROM failed")
        self.run("DELETE FROM failed WHERE reason != ?", Reason.EMPTY_RESULT)

    # -- frequent queries and changes -----------------------------------------------------------------

    def known(self, document_id: str, *, old: bool) -> Row | None:
        """The row that this run has written for a document, or (if ``old``) that of the table."""
        row = self.one("SELECT * FROM new WHERE id = ?", document_id)
        if row is None and old:
            row = self.one("SELECT * FROM old WHERE id = ?", document_id)
        return Row(*row) if row else None

    def add_new(self, rows: Iterable[Row]) -> None:
        """Add the documents of a part; a later row of a document replaces an earlier one."""
        self.many("INSERT OR REPLACE INTO new VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def add_to_source(self, document_id: str, action: int) -> bool:
        """Add a document of the source; False if the id is there already."""
        with self._lock, ON_TEMPORARY_DISK:
            changed = self._db.execute("INSERT OR IGNORE INTO source VALUES (?, ?)", (document_id, action))
            return changed.rowcount == 1

    def set_action(self, document_id: str, action: int) -> None:
        """Update the action of a document."""
        self.run("INSERT OR REPLACE INTO source VALUES (?, ?)", document_id, action)

    def attempts(self, document_id: str) -> int:
        """Runs that have rejected a document, if this run rejects it."""
        # A try that was killed did not reject it.
        query = (
            "SELECT max(attempts) FROM (SELECT attempts FROM documents WHERE id = ?1 "
            "UNION ALL SELECT attempts - (NOT ended) FROM unfinished WHERE id = ?1)"
        )
        return self.count(query, document_id) + 1

    def rejected_before(self, document_id: str, digest: str) -> bool:
        """Whether the last run, or an earlier try of this one, has rejected the same text."""
        query = (
            "SELECT 1 FROM documents WHERE id = ?1 AND rejected_hash = ?2 "
            "UNION ALL SELECT 1 FROM tried WHERE id = ?1 AND hash = ?2"
        )
        return self.one(query, document_id, digest) is not None

    def reject(self, reject: Reject) -> None:
        """Reject a document; chunks of an earlier version stay."""
        self.set_action(reject.id, REJECTED)
        self.run("INSERT OR REPLACE INTO rejects VALUES (?, ?, ?, ?, ?, ?)", *reject)
