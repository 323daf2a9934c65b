# SPDX-License-Identifier: Apache-2.0
"""A dataset beside the documents that it was made of."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from lucidworks_provider.documents.document import Document, Unreadable, content_hash
from lucidworks_provider.documents.inspect_rows import Faults, check_spans
from lucidworks_provider.documents.source import SourceFile, list_source

if TYPE_CHECKING:
    from lucidworks_provider.documents.readers import Reading

_TABLES = """
    CREATE TABLE indexed (id TEXT PRIMARY KEY, hash TEXT, size INT, stamp TEXT, file TEXT, chunks INT, part INT,
        seen INT DEFAULT 0) WITHOUT ROWID;
    CREATE TABLE found (id TEXT PRIMARY KEY, hash TEXT, chunks INT, part INT, spans BLOB) WITHOUT ROWID;
    CREATE TABLE rejects (id TEXT PRIMARY KEY) WITHOUT ROWID;
"""
# So much of it stays in memory, KB.
_CACHE = 32_000


class Database(AbstractContextManager["Database"]):
    """What an inspection has to remember of each document: on the local disk, and gone at its end."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="lucidworks-")
        self._db = sqlite3.connect(Path(self._folder.name) / "documents.db", isolation_level=None)
        # Nobody reads it after a crash.
        pragmas = f"PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -{_CACHE};"
        self._db.executescript(f"{pragmas} {_TABLES} BEGIN")

    def run(self, sql: str, *values: Any) -> sqlite3.Cursor:
        """Execute a statement."""
        return self._db.execute(sql, values)

    def one(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row, if there is one."""
        found: tuple[Any, ...] | None = self._db.execute(sql, values).fetchone()
        return found

    def add(self, sql: str, *values: Any) -> bool:
        """Whether the row was new."""
        return self._db.execute(sql, values).rowcount > 0

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._folder.cleanup()


def compare(
    db: Database, faults: Faults, source: str, read: Reading | None, sample: set[str] | None
) -> list[str]:
    """
    Read the source and hold the dataset against it.

    :param db: with the index, what was found in the data, and the rejects.
    :param sample: ids that are compared; None for all.
    :return: what is worth knowing and no fault.
    :raises InputError: there is no such source, or a column is missing.
    """
    from lucidworks_provider.documents.readers import Reading, check_file, read_file_documents

    how = read or Reading()
    files = None if sample is None else _files_of(db, sample)
    compared = 0
    for file in list_source(source):
        if files is not None and file.path not in files:
            continue
        check_file(file, how)
        for one in read_file_documents(file, how):
            if sample is None or one.id in sample:
                compared += 1
                _document(db, faults, file, one)
    notes = [f"Compared with {source}: {compared:,} documents."]
    vanished, first = db.one("SELECT count(*), min(id) FROM indexed WHERE NOT seen") or (0, None)
    if vanished and sample is None:
        notes.append(
            f"Documents that are not in the source any more ({vanished:,}): {first!r}, …; prune=True removes them."
        )
    return notes


def _files_of(db: Database, ids: set[str]) -> set[str]:
    return {found[0] for one in ids if (found := db.one("SELECT file FROM indexed WHERE id = ?", one))}


def _document(db: Database, faults: Faults, file: SourceFile, one: Document | Unreadable) -> None:
    row = db.one(
        """SELECT i.hash, i.size, i.stamp, f.spans FROM indexed i LEFT JOIN found f ON f.id = i.id WHERE i.id = ?""",
        one.id,
    )
    if row is not None:
        db.run("UPDATE indexed SET seen = 1 WHERE id = ?", one.id)
    if db.one("SELECT 1 FROM rejects WHERE id = ?", one.id):
        # No version of it has to be in the dataset, or an older one is.
        return
    if isinstance(one, Unreadable):
        faults.add(
            "documents that cannot be read, and are no rejects", f"{one.id!r} ({one.reason}: {one.detail})"
        )
    elif row is None:
        faults.add("documents of the source that are neither in the dataset nor rejects", repr(one.id))
    elif row[0] != content_hash(one.text):
        same_file = (file.size, file.stamp) == (row[1], row[2])
        faults.add(
            "documents whose content_hash is not that of their text"
            if same_file
            else "documents that were changed after they were chunked",
            repr(one.id),
        )
    elif row[3] and (wrong := check_spans(row[3], one.text)):
        faults.add(
            "documents with chunks that are not the text between their spans",
            f"{one.id!r} ({wrong:,} chunks)",
        )
