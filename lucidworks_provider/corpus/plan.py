# SPDX-License-Identifier: Apache-2.0
"""
What a run has to send: documents that are new, or not what they were.

==================================  =========================================================================
a file of one document              skipped unopened when its path, size and etag stand in the index; else it
                                    is read when its turn comes, and skipped when its text has the same hash
a file of many records              skipped unopened when the index has documents of it with its size and etag,
                                    and none was rejected; else read twice: all ids before the first
                                    submission (two documents with one id are an error), then the texts
documents handed over by a task     like such a file, every time
==================================  =========================================================================
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from lucidworks_provider.corpus.journal import PieceKey, Place
from lucidworks_provider.corpus.run_database import REJECTED, SAME, TODO, Reject, Row, RunDatabase
from lucidworks_provider.documents.document import Document, Reason, RejectedDocument, content_hash
from lucidworks_provider.documents.source import Format, SourceFile
from lucidworks_provider.documents.split import split
from lucidworks_provider.errors import InputError
from lucidworks_provider.threads import read_ahead

log = logging.getLogger(__name__)

# Of files that are read ahead.
_AHEAD_BYTES = 32_000_000
_RECORDS = {Format.JSON_LINES, Format.CSV, Format.PARQUET, Format.DELTA}
# The file name of documents that a task handed over.
HANDED_OVER = SourceFile("", "", 0, "", Format.JSON_LINES)


@dataclass(frozen=True, slots=True)
class Piece:
    """
    What one request carries, and what an earlier try has got for it.

    :param job: an id that was submitted and not answered yet, or empty.
    :param place: a body that lies in the journal.
    """

    key: PieceKey
    text: str
    job: str = ""
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document to be chunked."""

    document: Document
    content_hash: str
    file: SourceFile
    pieces: tuple[Piece, ...]

    @property
    def size(self) -> int:
        """Roughly its bytes in memory."""
        return len(self.document.text)


@dataclass(frozen=True, slots=True)
class Planned:
    """
    :param documents: of the source, as far as they are known without opening files of one document.
    :param candidates: of them, those that may have to be sent.
    :param bytes: of the candidates, as they lie in the source.
    """

    documents: int
    candidates: int
    bytes: int


class Plan:
    """
    :param read: the documents of a file.
    :param check: raises InputError for a file that has not the columns that were named.
    :param reuse: whether what the last snapshot has may be skipped.
    :param max_text_bytes: of one request.
    :param find_elsewhere: of a shard, adds documents that it has seen and that were in files of other shards.
    """

    def __init__(
        self,
        scratch: RunDatabase,
        *,
        read: Callable[[SourceFile], Iterator[Document | RejectedDocument]],
        check: Callable[[SourceFile], None],
        reuse: bool,
        max_text_bytes: int,
        find_elsewhere: Callable[[], None] | None = None,
    ) -> None:
        self._scratch = scratch
        self._read = read
        self._check = check
        self._reuse = reuse
        self._max_text_bytes = max_text_bytes
        self._find_elsewhere = find_elsewhere

    def look(self, files: Iterator[SourceFile], *, exact: bool) -> Planned:
        """
        Go through the source's files without sending anything.

        :param exact: also read files of one document, to know whether their text has changed.
        :raises InputError: an id that two documents have, or a column that is missing.
        """
        scratch, size = self._scratch, 0
        for file in files:
            if file.format in _RECORDS:
                if self._reuse and file is not HANDED_OVER and self._records_same(file):
                    continue
                self._check(file)
                size += self._scan(file)
            elif self._same(file, self._scratch.known(file.path, old=self._reuse)):
                self._see(file.path, SAME, file)
                continue
            else:
                self._see(file.path, TODO, file)
                if exact and not self._differs(file):
                    continue
                size += file.size
            scratch.run(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)",
                file.path,
                file.uri,
                file.size,
                file.etag,
                file.format,
            )
        size -= self._see_elsewhere()
        todo = scratch.count("SELECT count(*) FROM seen WHERE action = ?", TODO)
        return Planned(scratch.count("SELECT count(*) FROM seen"), todo, size)

    def candidates(self) -> Iterator[Candidate | RejectedDocument]:
        """
        The documents to be sent, and those that cannot be read.

        Documents that turn out to be what they were are noted with their new size and etag.
        """
        # The storage is waited for ahead, the database is only used here.
        read = read_ahead(self._open, self._files(), size=lambda file: max(file.size, 0), most=_AHEAD_BYTES)
        with closing(read):
            for file, documents in read:
                for found in documents:
                    if isinstance(found, RejectedDocument):
                        self._reject(found, file)
                        yield found
                    elif candidate := self._candidate(found, file):
                        yield candidate

    def _files(self) -> Iterator[SourceFile]:
        # Row by row, not a cursor: this may go on for hours while the same database is written.
        last = ""
        while row := self._scratch.one(
            "SELECT path, uri, size, etag, format FROM files WHERE path >= ? ORDER BY path LIMIT 1", last
        ):
            yield SourceFile(row[1], row[0], row[2], row[3], Format(row[4]))
            # The least text that is greater.
            last = row[0] + "\0"

    def _open(self, file: SourceFile) -> tuple[SourceFile, Iterable[Document | RejectedDocument]]:
        """A file of one document is read at once, one of many records as it is iterated over."""
        documents = self._read(file)
        return file, documents if file.format in _RECORDS else list(documents)

    def _reject(self, found: RejectedDocument, file: SourceFile) -> None:
        before = self._scratch.one("SELECT attempts FROM before WHERE id = ?", found.id)
        attempts = (before[0] if before else 0) + 1
        self._scratch.reject(Reject(found.id, found.reason, found.detail, attempts, file.path))

    def _candidate(self, document: Document, file: SourceFile) -> Candidate | RejectedDocument | None:
        scratch, digest = self._scratch, content_hash(document.text)
        if file.format in _RECORDS and not scratch.one("SELECT 1 FROM seen WHERE id = ?", document.id):
            # It was not there when the ids were compared.
            scratch.see(document.id, TODO)
        known = scratch.known(document.id, old=self._reuse)
        if known is not None and known.hash == digest:
            if (known.size, known.etag, known.file) != (file.size, file.etag, file.path):
                scratch.run(
                    "INSERT OR REPLACE INTO touched VALUES (?, ?, ?, ?)",
                    document.id,
                    file.size,
                    file.etag,
                    file.path,
                )
            scratch.set_action(document.id, SAME)
            return None
        failed = scratch.one("SELECT * FROM failed WHERE id = ? AND hash = ?", document.id, digest)
        if failed:
            scratch.reject(Reject(document.id, failed[2], failed[3], failed[4], file.path, digest))
            return RejectedDocument(document.id, Reason(failed[2]), failed[3])
        return Candidate(document, digest, file, tuple(self._pieces(document, digest)))

    def _pieces(self, document: Document, digest: str) -> Iterator[Piece]:
        for piece in split(document.text, max_bytes=self._max_text_bytes):
            if not piece.text.strip():
                # The service takes no text without a word, and nothing is missing without it.
                continue
            key = PieceKey(document.id, digest, piece.start, len(piece.text))
            row = self._scratch.one(
                "SELECT job, log, offset, bytes FROM pieces WHERE id = ? AND hash = ? AND start = ? AND length = ?",
                key.document_id,
                key.content_hash,
                key.start,
                key.length,
            )
            job, place = "", None
            if row:
                job, place = row[0], Place(row[1], row[2], row[3]) if row[1] else None
            yield Piece(key, piece.text, job, place)

    @staticmethod
    def _same(file: SourceFile, row: Row | None) -> bool:
        return row is not None and (row.size, row.etag, row.file) == (file.size, file.etag, file.path)

    def _records_same(self, file: SourceFile) -> bool:
        """Mark all documents of a file of records that is what it was."""
        scratch = self._scratch
        # One row with the file's etag says that a run has read it as it is now; a row with another one is of a
        # document that had vanished by then.
        now = (file.path, file.size, file.etag)
        if not scratch.one("SELECT 1 FROM old WHERE file = ? AND size = ? AND etag = ?", *now):
            return False
        if scratch.one("SELECT 1 FROM before WHERE file = ?", file.path):
            return False
        if scratch.one("SELECT 1 FROM new WHERE file = ?", file.path):
            # An unfinished run has found it changed.
            return False
        clash = scratch.one(
            "SELECT old.id FROM old JOIN seen ON seen.id = old.id WHERE old.file = ? AND old.size = ? "
            "AND old.etag = ? LIMIT 1",
            *now,
        )
        if clash:
            raise _twice(clash[0], file)
        scratch.run(
            "INSERT INTO seen SELECT id, ? FROM old WHERE file = ? AND size = ? AND etag = ?", SAME, *now
        )
        return True

    def _scan(self, file: SourceFile) -> int:
        """All ids of a file of records, with a first idea of their action; bytes of the texts that differ."""
        size, unreadable = 0, False
        for found in self._read(file):
            if isinstance(found, RejectedDocument):
                unreadable = True
                self._see(found.id, REJECTED, file)
                continue
            known = self._scratch.known(found.id, old=self._reuse)
            same = known is not None and known.hash == content_hash(found.text)
            self._see(found.id, SAME if same else TODO, file)
            bytes_ = 0 if same else len(found.text.encode())
            size += bytes_
            if known is None and self._find_elsewhere is not None:
                values = (found.id, content_hash(found.text), bytes_)
                self._scratch.run("INSERT OR IGNORE INTO unknown VALUES (?, ?, ?)", *values)
        if unreadable:
            # Whose record that was cannot be told, so nothing that the file held before counts as vanished.
            self._scratch.run(
                "INSERT OR IGNORE INTO seen SELECT id, ? FROM old WHERE file = ?", REJECTED, file.path
            )
        return size

    def _see_elsewhere(self) -> int:
        """Records whose text is known from a file of another shard; their bytes."""
        scratch = self._scratch
        if self._find_elsewhere is None or not self._reuse or not scratch.one("SELECT 1 FROM unknown"):
            return 0
        self._find_elsewhere()
        same = "FROM unknown u JOIN old ON old.id = u.id AND old.hash = u.hash"
        scratch.run(f"UPDATE seen SET action = ? WHERE id IN (SELECT u.id {same})", SAME)  # noqa: S608
        return scratch.count(f"SELECT sum(u.bytes) {same}")

    def _differs(self, file: SourceFile) -> bool:
        """Whether a file of one document has to be sent; if it does not, it is noted so."""
        for found in self._read(file):
            if isinstance(found, RejectedDocument):
                self._reject(found, file)
                return True
            known = self._scratch.known(found.id, old=self._reuse)
            if known is not None and known.hash == content_hash(found.text):
                self._candidate(found, file)
                return False
        return True

    def _see(self, document_id: str, action: int, file: SourceFile) -> None:
        if not self._scratch.see(document_id, action):
            raise _twice(document_id, file)


def _twice(document_id: str, file: SourceFile) -> InputError:
    where = f"{file.uri} has" if file.uri else "The documents have"
    return InputError(
        f"{where} the document id {document_id!r}, which another document has as well. An id names one document: its "
        "chunks replace those of the run before. Make the ids of the source distinct."
    )
