# SPDX-License-Identifier: Apache-2.0
"""
What a run knows about each document, in a database on the worker's own disk.

A hundred thousand documents in dictionaries are a hundred megabytes; ten million do not fit at all. This takes
a few megabytes of memory whatever the corpus, and about 500 bytes of disk a document. Nothing in it has to
outlive the process: it is made from the table of documents, the journal and the source.
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from lucidworks_provider.documents.document import Reason

_TABLES = """
CREATE TABLE documents (id TEXT PRIMARY KEY, status TEXT, hash TEXT, size INTEGER, etag TEXT, file TEXT, part TEXT,
    first INTEGER, chunks INTEGER, tokens INTEGER, change TEXT, version INTEGER, presence TEXT, reason TEXT,
    detail TEXT, attempts INTEGER, rejected_hash TEXT, doc_file TEXT, doc_row INTEGER, present INTEGER,
    moved INTEGER DEFAULT 0, dropped INTEGER DEFAULT 0) WITHOUT ROWID;
CREATE VIEW old AS SELECT id, hash, size, etag, file, chunks, part, first, tokens FROM documents
    WHERE hash IS NOT NULL;
CREATE TABLE new (id TEXT PRIMARY KEY, hash TEXT, size INTEGER, etag TEXT, file TEXT, chunks INTEGER, part TEXT,
    first INTEGER, tokens INTEGER) WITHOUT ROWID;
CREATE TABLE seen (id TEXT PRIMARY KEY, action INTEGER) WITHOUT ROWID;
CREATE TABLE touched (id TEXT PRIMARY KEY, size INTEGER, etag TEXT, file TEXT) WITHOUT ROWID;
CREATE TABLE files (path TEXT PRIMARY KEY, uri TEXT, size INTEGER, etag TEXT, format TEXT) WITHOUT ROWID;
CREATE TABLE unknown (id TEXT PRIMARY KEY, hash TEXT, bytes INTEGER) WITHOUT ROWID;
CREATE TABLE pieces (id TEXT, hash TEXT, start INTEGER, length INTEGER, job TEXT, log TEXT, offset INTEGER,
    bytes INTEGER, PRIMARY KEY (id, hash, start, length)) WITHOUT ROWID;
CREATE TABLE rejects (id TEXT PRIMARY KEY, reason TEXT, detail TEXT, attempts INTEGER, file TEXT, hash TEXT)
    WITHOUT ROWID;
CREATE TABLE failed (id TEXT PRIMARY KEY, hash TEXT, reason TEXT, detail TEXT, attempts INTEGER) WITHOUT ROWID;
CREATE INDEX new_file ON new (file);
CREATE TABLE before (id TEXT PRIMARY KEY, attempts INTEGER, file TEXT) WITHOUT ROWID;
"""

# What becomes of a document that the source has.
SAME, TODO, REJECTED = 0, 1, 2


class Row(NamedTuple):
    """
    A document whose chunks stand in a file.

    :param size: bytes of its source file.
    :param etag: etag or time of change of its source file.
    :param part: the file of its chunks, below the table; None where it has none.
    :param first: its first row there.
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
    A document that is left out.

    :param attempts: runs that have tried it.
    :param hash: of its text, where that was sent.
    """

    id: str
    reason: str
    detail: str
    attempts: int
    file: str
    hash: str | None = None


class RunDatabase:
    """
    A database that goes with the process. Every method may be called from any thread.

    :raises OSError: no space for it.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lucidworks-corpus-")
        self._lock = threading.Lock()
        self._db = sqlite3.connect(
            Path(self._folder.name) / "scratch.db", check_same_thread=False, isolation_level=None
        )
        # Nothing in it outlives the process, so nothing needs to be safe on the disk; and nothing else opens it, so
        # no statement needs to lock the file and to look whether another process has changed it.
        self._db.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-32000; "
            f"PRAGMA locking_mode=EXCLUSIVE; {_TABLES}"
        )

    def close(self) -> None:
        """Remove it."""
        self._db.close()
        self._folder.cleanup()

    def __enter__(self) -> RunDatabase:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, statement: str, *values: Any) -> None:
        """One statement."""
        with self._lock:
            self._db.execute(statement, values)

    def many(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """One statement for many rows, as one transaction or within the one that is open."""
        with self._lock:
            open_here = not self._db.in_transaction
            if open_here:
                self._db.execute("BEGIN")
            try:
                self._db.executemany(statement, rows)
            finally:
                if open_here:
                    self._db.execute("COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write once what many statements change; whatever is raised, since there is no way back."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("COMMIT")

    def one(self, query: str, *values: Any) -> Any:
        """The first row, or None."""
        with self._lock:
            return self._db.execute(query, values).fetchone()

    def count(self, query: str, *values: Any) -> int:
        """The number that a query returns."""
        return int(self.one(query, *values)[0] or 0)

    def rows(self, query: str, *values: Any, at_once: int = 1000) -> Iterator[Any]:
        """All rows, some at a time. What the query reads must not change meanwhile."""
        with self._lock:
            cursor = self._db.execute(query, values)
        while True:
            with self._lock:
                some = cursor.fetchmany(at_once)
            if not some:
                return
            yield from some

    def forget_run(self) -> None:
        """What is known of the run itself, and not of the dataset."""
        for table in ("new", "pieces"):
            self.run(f"DELETE FROM {table}")  # noqa: S608
        self.forget_failures()

    def forget_failures(self) -> None:
        """Let documents be sent again, but for those that would bring the same, and be paid for, again."""
        self.run("DELETE FROM failed WHERE reason != ?", Reason.EMPTY_RESULT)

    # -- what is asked often --------------------------------------------------------------------------

    def known(self, document_id: str, *, old: bool) -> Row | None:
        """The document as this run has written it, else (if ``old``) as the table has it."""
        row = self.one("SELECT * FROM new WHERE id = ?", document_id)
        if row is None and old:
            row = self.one("SELECT * FROM old WHERE id = ?", document_id)
        return Row(*row) if row else None

    def add_new(self, rows: Iterable[Row]) -> None:
        """Documents of a part of this run; the later row of a document counts."""
        self.many("INSERT OR REPLACE INTO new VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def see(self, document_id: str, action: int) -> bool:
        """:return: False when the source has had a document of this id before."""
        with self._lock:
            changed = self._db.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (document_id, action))
            return changed.rowcount == 1

    def set_action(self, document_id: str, action: int) -> None:
        """Know better what becomes of a document."""
        self.run("INSERT OR REPLACE INTO seen VALUES (?, ?)", document_id, action)

    def reject(self, reject: Reject) -> None:
        """A document that will not be in the dataset, or only in the version that it had."""
        self.set_action(reject.id, REJECTED)
        self.run("INSERT OR REPLACE INTO rejects VALUES (?, ?, ?, ?, ?, ?)", *reject)
