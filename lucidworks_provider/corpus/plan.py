# SPDX-License-Identifier: Apache-2.0
"""
Decides what a run sends: documents that are new or have changed.

==================================  =========================================================================
a file of one document              skipped unopened if the tables have its path, size and etag; otherwise it is
                                    read, and skipped if its text has the same hash
a file of many records              skipped unopened if all documents that the tables have of it have its size and
                                    etag, and none was rejected; otherwise read twice: all ids before the first
                                    submission (duplicate ids are an error), then the texts
inline documents                    read as a file of many records
==================================  =========================================================================
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from lucidworks_provider.corpus.journal import BodyLocation, SegmentKey
from lucidworks_provider.corpus.run_database import REJECTED, SAME, TODO, Reject, Row, RunDatabase
from lucidworks_provider.documents.document import Document, Reason, RejectedDocument, content_hash
from lucidworks_provider.documents.source import Format, SourceFile, read_files_ahead
from lucidworks_provider.documents.split import split
from lucidworks_provider.errors import InputError

log = logging.getLogger(__name__)

_RECORDS = {Format.JSON_LINES, Format.CSV, Format.PARQUET, Format.DELTA}
# The file of inline documents.
INLINE = SourceFile("", "", 0, "", Format.JSON_LINES)


@dataclass(frozen=True, slots=True)
class SegmentRequest:
    """
    A segment to be chunked, with what the journal has of it.

    :param job: id of a job that was submitted; empty for none.
    :param body: where the job's result is in the journal.
    :param again: the text was, or may have been, submitted by an earlier try, and the job is lost.
    """

    key: SegmentKey
    text: str
    job: str = ""
    body: BodyLocation | None = None
    again: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document to be chunked."""

    document: Document
    content_hash: str
    file: SourceFile
    segments: tuple[SegmentRequest, ...]

    @property
    def size(self) -> int:
        """Approximate bytes in memory."""
        return len(self.document.text)


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """
    What a scan of the source has found.

    :param documents: in the source.
    :param candidates: documents that may have to be sent.
    :param requests: submissions that they take; an exact scan counts them.
    :param bytes: of the candidates in the source.
    """

    documents: int
    candidates: int
    requests: int
    bytes: int


class Plan:
    """
    Compares a source with the tables.

    :param read: returns the documents of a file; thread-safe.
    :param reuse: skip unchanged documents.
    :param max_text_bytes: of the text of one request, with the escapes of JSON.
    :param add_from_other_shards: for a shard, loads the rows of its documents that were in files of other shards.
    """

    def __init__(
        self,
        db: RunDatabase,
        *,
        read: Callable[[SourceFile], Iterator[Document | RejectedDocument]],
        reuse: bool,
        max_text_bytes: int,
        add_from_other_shards: Callable[[], None] | None = None,
    ) -> None:
        self._db = db
        self._read = read
        self._reuse = reuse
        self._max_text_bytes = max_text_bytes
        self._add_from_other_shards = add_from_other_shards
        self._requests = self._bytes = 0
        # Files of which a record without an id, or the rest, cannot be read.
        self._unreadable: set[str] = set()

    def scan(self, files: Iterator[SourceFile], *, exact: bool) -> PlanSummary:
        """
        Compare the files of the source with the tables.

        :param exact: also read files of one document, to find out whether their text has changed, and count requests.
        :raises InputError: two documents have the same id, or a column is missing.
        """
        db = self._db
        # Files are read ahead; the database is used by this thread only.
        with closing(read_files_ahead(self._open, self._unknown_files(files, exact=exact))) as read:
            for file, documents in read:
                if file.format in _RECORDS:
                    self._scan(file, documents, exact=exact)
                    self._add_file(file)
                elif self._differs(file, documents):
                    self._bytes += max(file.size, 0)
                    self._add_file(file)
        for path in self._unreadable:
            # What cannot be read may be any document that the file had before, and that no other file has now.
            # It may have no hash, if another program has deleted chunks of it.
            before = "SELECT id, ? FROM documents WHERE file = ? AND (hash IS NOT NULL OR present)"
            db.run(f"INSERT OR IGNORE INTO source {before}", REJECTED, path)
            # Or one that an earlier try has chunked.
            db.run("INSERT OR IGNORE INTO source SELECT id, ? FROM new WHERE file = ?", REJECTED, path)
        self._skip_from_other_shards()
        todo = db.count("SELECT count(*) FROM source WHERE action = ?", TODO)
        return PlanSummary(db.count("SELECT count(*) FROM source"), todo, self._requests, self._bytes)

    def candidates(self) -> Iterator[Candidate | RejectedDocument]:
        """
        The documents to send, and those that cannot be read.

        Unchanged documents are recorded with their new size and etag.
        """
        with closing(read_files_ahead(self._open, self._files())) as read:
            for file, documents in read:
                for found in _read_again(file, documents):
                    if isinstance(found, RejectedDocument):
                        self._reject(found, file)
                        yield found
                    elif candidate := self._candidate(found, file):
                        yield candidate

    def _unknown_files(self, files: Iterator[SourceFile], *, exact: bool) -> Iterator[SourceFile]:
        """The files that a scan has to read; the others are decided by their metadata."""
        for file in files:
            if file.format in _RECORDS:
                if not self._reuse or file is INLINE or not self._records_same(file):
                    yield file
            elif self._same(file, self._db.known(file.path, old=self._reuse)):
                self._add(file.path, SAME, file)
            else:
                self._add(file.path, TODO, file)
                if exact:
                    yield file
                else:
                    self._bytes += max(file.size, 0)
                    self._add_file(file)

    def _add_file(self, file: SourceFile) -> None:
        """Add a file that has documents to send."""
        values = (file.path, file.uri, file.size, file.etag, file.format)
        self._db.run("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?)", *values)

    def _files(self) -> Iterator[SourceFile]:
        # Not by a cursor: the database is written during the iteration, which may take hours.
        last = ""
        while row := self._db.one(
            "SELECT path, uri, size, etag, format FROM files WHERE path >= ? ORDER BY path LIMIT 1", last
        ):
            yield SourceFile(row[1], row[0], row[2], row[3], Format(row[4]))
            # The next greater text.
            last = row[0] + "\0"

    def _open(self, file: SourceFile) -> tuple[SourceFile, Iterable[Document | RejectedDocument]]:
        return file, self._read(file)

    def _reject(self, found: RejectedDocument, file: SourceFile) -> None:
        attempts = self._db.attempts(found.id)
        self._db.reject(Reject(found.id, found.reason, found.detail, attempts, file.path))

    def _candidate(self, document: Document, file: SourceFile) -> Candidate | RejectedDocument | None:
        db, digest = self._db, content_hash(document.text)
        if not db.one("SELECT 1 FROM source WHERE id = ? AND action != ?", document.id, REJECTED):
            # The file has changed since the scan, or could not be read.
            db.set_action(document.id, TODO)
        known = db.known(document.id, old=self._reuse)
        if known is not None and known.hash == digest:
            if (known.size, known.etag, known.file) != (file.size, file.etag, file.path):
                db.run(
                    "INSERT OR REPLACE INTO touched VALUES (?, ?, ?, ?)",
                    document.id,
                    file.size,
                    file.etag,
                    file.path,
                )
            db.set_action(document.id, SAME)
            return None
        if failed := self._failed(document.id, digest):
            db.reject(Reject(document.id, failed[2], failed[3], failed[4], file.path, digest))
            return RejectedDocument(document.id, Reason(failed[2]), failed[3])
        return Candidate(document, digest, file, tuple(self._segments(document, digest)))

    def _failed(self, document_id: str, digest: str) -> Any:
        return self._db.one("SELECT * FROM failed WHERE id = ? AND hash = ?", document_id, digest)

    def _submissions(self, document: Document) -> int:
        """How often a document is submitted: not for segments that have a job, nor a text that has failed."""
        digest = content_hash(document.text)
        if self._failed(document.id, digest):
            return 0
        return sum(not segment.job for segment in self._segments(document, digest))

    def _segments(self, document: Document, digest: str) -> Iterator[SegmentRequest]:
        for segment in split(document.text, max_bytes=self._max_text_bytes):
            if not segment.text.strip():
                # The service refuses texts without a word.
                continue
            key = SegmentKey(document.id, digest, segment.start, len(segment.text))
            row = self._db.one(
                "SELECT job, log, offset, bytes FROM segments WHERE id = ?1 AND hash = ?2 AND start IN (?3, 0) "
                "AND (start = ?3 AND length = ?4 OR length = 0) ORDER BY length DESC LIMIT 1",
                *key,
            )
            job, body = "", None
            if row:
                job, body = row[0], BodyLocation(*row[1:]) if row[1] else None
            yield SegmentRequest(key, segment.text, job, body, again=row is not None and not job)

    @staticmethod
    def _same(file: SourceFile, row: Row | None) -> bool:
        return row is not None and (row.size, row.etag, row.file) == (file.size, file.etag, file.path)

    def _records_same(self, file: SourceFile) -> bool:
        """Mark all documents of an unchanged file of records; False if the file has changed."""
        db = self._db
        # All documents that the last run found in the file must have its size and etag: it may have returned to an
        # earlier version, whose other documents vanished since. Rejected ones are sent again.
        there = "file = ?1 AND status != 'vanished' AND NOT (status = 'deleted' AND hash IS NULL)"
        same = f"SELECT min(status != 'rejected' AND size IS ?2 AND etag IS ?3) FROM documents WHERE {there}"  # noqa: S608
        if not db.count(same, file.path, file.size, file.etag):
            return False
        if db.one("SELECT 1 FROM new WHERE file = ?", file.path):
            # Changed, according to the journal.
            return False
        clash = f"SELECT id FROM documents JOIN source USING (id) WHERE {there} LIMIT 1"  # noqa: S608
        if twice := db.one(clash, file.path):
            raise _duplicate_id(twice[0], file)
        db.run(f"INSERT INTO source SELECT id, {SAME} FROM documents WHERE {there}", file.path)  # noqa: S608
        return True

    def _scan(
        self, file: SourceFile, documents: Iterable[Document | RejectedDocument], *, exact: bool
    ) -> None:
        """Add all ids of a file of records, and count the texts that have changed."""
        for found in documents:
            if isinstance(found, RejectedDocument):
                if re.fullmatch(rf"{re.escape(file.path)}(:\d+)?", found.id):
                    self._unreadable.add(file.path)
                self._add(found.id, REJECTED, file)
                continue
            known = self._db.known(found.id, old=self._reuse)
            same = known is not None and known.hash == content_hash(found.text)
            self._add(found.id, SAME if same else TODO, file)
            if same:
                continue
            size, requests = len(found.text.encode()), self._submissions(found) if exact else 0
            self._bytes += size
            self._requests += requests
            if known is None and self._add_from_other_shards is not None:
                values = (found.id, content_hash(found.text), size, requests)
                self._db.run("INSERT OR IGNORE INTO unknown VALUES (?, ?, ?, ?)", *values)

    def _skip_from_other_shards(self) -> None:
        """Skip records whose text was in a file of another shard."""
        db = self._db
        if self._add_from_other_shards is None or not self._reuse or not db.one("SELECT 1 FROM unknown"):
            return
        self._add_from_other_shards()
        same = "FROM unknown u JOIN old ON old.id = u.id AND old.hash = u.hash"
        db.run(f"UPDATE source SET action = ? WHERE id IN (SELECT u.id {same})", SAME)  # noqa: S608
        self._bytes -= db.count(f"SELECT sum(u.bytes) {same}")
        self._requests -= db.count(f"SELECT sum(u.requests) {same}")

    def _differs(self, file: SourceFile, documents: Iterable[Document | RejectedDocument]) -> bool:
        """Whether the text of a file of one document has changed; records an unchanged one."""
        for found in documents:
            if isinstance(found, RejectedDocument):
                # It may be readable when it is read again.
                self._db.set_action(found.id, REJECTED)
                return True
            known = self._db.known(found.id, old=self._reuse)
            if known is not None and known.hash == content_hash(found.text):
                self._candidate(found, file)
                return False
            self._requests += self._submissions(found)
        return True

    def _add(self, document_id: str, action: int, file: SourceFile) -> None:
        if not self._db.add_to_source(document_id, action):
            raise _duplicate_id(document_id, file)


def _read_again(
    file: SourceFile, documents: Iterable[Document | RejectedDocument]
) -> Iterator[Document | RejectedDocument]:
    """The documents of a file that the scan has read; a column that is missing now rejects the file."""
    try:
        yield from documents
    except InputError as err:
        yield RejectedDocument(file.path, Reason.INVALID, f"It has changed since the run began: {err}")


def _duplicate_id(document_id: str, file: SourceFile) -> InputError:
    where = f"{file.uri} has" if file.uri else "The documents have"
    return InputError(
        f"{where} the document id {document_id!r}, which another document has as well. A run replaces the "
        "chunks of an id, so each id of the source must be unique."
    )
