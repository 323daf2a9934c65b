# SPDX-License-Identifier: Apache-2.0
"""
The write-ahead log of a run: intents, job ids and results that are not yet in a part.

The service returns a job's id and its result only once, so a process that dies must not lose them. Both go to
files below the output, in group commits: one file has the records of a quarter of a second, as object stores cannot
append. A killed process loses at most the last group and the requests in flight. A text is submitted after its intent
is stored, so the next process has an intent for each submission whose id was lost.

::

    journal/head.json                 the folder of the current run, its configuration, whether it sends all
                                      documents again, and whether it has ended
    journal/RUN/00000007-…-work.log   INTENDED(segment), WITHDRAWN(segment), SUBMITTED(segment, job),
                                      BODY(segment, job, bytes), UNCONFIRMED(the same)
    journal/RUN/00000009-…-kept.log   PART(files), FAILED(document, segments), UNFINISHED(document),
                                      END(of an attempt)

A work file is deleted when all its documents are in parts; kept files stay until the parts are committed. A record is
a line of JSON; the bytes of a body follow its line. The last line of each file has the number of submissions and
resubmissions so far, with those that are intended. A work file is deleted after a later file was written, so the last
file has the counts of all attempts.

Only the folder that ``head.json`` names is valid, and only until ``head.json`` says that the run has ended. Files of
earlier runs have no effect, so the journal is correct on a storage that refuses deletions. With ``keep_raw`` the
folder is ``raw/RUN``, which is not removed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from tenacity import wait_fixed

from lucidworks_provider.corpus.dataset import JOURNAL, RAW, below, new_name
from lucidworks_provider.errors import InputError, StorageError
from lucidworks_provider.jobs.polling import shielded
from lucidworks_provider.retrying import retry_async, retry_on
from lucidworks_provider.storage import (
    discard,
    discard_folder,
    names_in,
    read_file,
    read_range,
    write_file,
)
from lucidworks_provider.threads import in_thread

log = logging.getLogger(__name__)

HEAD = f"{JOURNAL}/head.json"
_WORK, _KEPT = "-work.log", "-kept.log"
# Limits of a group; more per group are fewer files a second, and more to lose. The first group has only intents, and
# nothing is submitted before it is stored.
GROUP_SECONDS = 0.25
FIRST_GROUP_SECONDS = 0.05
GROUP_BYTES = 8_000_000
# Attempts to write to a storage that fails, and seconds between them: one minute.
WRITE_ATTEMPTS = 30
WRITE_WAIT = 2.0


class SegmentKey(NamedTuple):
    """
    Identifies a segment of one version of a document.

    :param start: position of its first character.
    :param length: in characters.
    """

    document_id: str
    content_hash: str
    start: int
    length: int


class BodyLocation(NamedTuple):
    """Position of a body in a file of the journal, in bytes."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Record:
    """
    A record of the journal.

    :param job: id, of SUBMITTED, BODY and UNCONFIRMED.
    :param location: of the bytes of a BODY.
    :param value: of PART, FAILED, UNFINISHED, END and SENT; of INTENDED and WITHDRAWN ``again``, as in
        :meth:`Journal.intend`.
    """

    kind: Literal[
        "intended",
        "withdrawn",
        "submitted",
        "body",
        "unconfirmed",
        "part",
        "failed",
        "unfinished",
        "end",
        "sent",
    ]
    key: SegmentKey | None = None
    job: str = ""
    location: BodyLocation | None = None
    value: Any = None


@dataclass
class _Group:
    """Records of one file."""

    lines: list[bytes] = field(default_factory=list)
    size: int = 0
    documents: set[str] = field(default_factory=set)

    def add(self, plain: dict[str, Any], body: bytes = b"") -> int:
        """:return: bytes before the body."""
        line = json.dumps(plain | {"bytes": len(body)}).encode() + b"\n"
        start = self.size + len(line)
        self.lines += [line, body, b"\n"]
        self.size = start + len(body) + 1
        return start


class Journal:
    """
    The journal of an output; its writer holds the lease.

    :param output: URI of the folder.
    :param keep: do not remove the files of new runs.
    :ivar submissions: those of the run with all its attempts, and those intended, after :meth:`load` was iterated to
        its end.
    :ivar resubmissions: those of texts that had, or may have, been submitted before.
    """

    def __init__(self, output: str, *, keep: bool = False) -> None:
        self.output = output
        self._keep = keep
        # Folder of the current run below the output; set by head() and begin().
        self.run = ""
        self.submissions = self.resubmissions = 0
        self._removable = True
        self._next = 1
        self._nonce = uuid.uuid4().hex[:8]
        self._work, self._kept = _Group(), _Group()
        # Done when the records of `_work` are stored, with the name of their file.
        self._flushed: asyncio.Future[str] | None = None
        self._full = asyncio.Event()
        self._writing = asyncio.Lock()
        self._writable = asyncio.Event()
        self._writable.set()
        # Groups with their file names, in order; those of a failed flush stay. A file keeps its name, as a write that
        # failed or was interrupted may still succeed.
        self._unwritten: list[tuple[_Group, str, asyncio.Future[str] | None]] = []
        # Work files with the documents that are not yet in a part, and the reverse.
        self._documents_by_file: dict[str, set[str]] = {}
        self._files_by_document: dict[str, tuple[str, ...]] = {}

    @property
    def advice(self) -> str:
        """How to continue if a file of the journal is missing or damaged."""
        return (
            f"Restore it, or remove the folder {below(self.output, JOURNAL)} to submit again what the unfinished run "
            "had submitted."
        )

    # -- reading; blocks ------------------------------------------------------------------------------

    def head(self) -> dict[str, Any] | None:
        """
        Read what :meth:`begin` has written; None if there is no unfinished run.

        :return: ``{"run", "options", "full_refresh"}``.
        :raises InputError: the file is of another version or damaged.
        """
        uri = below(self.output, HEAD)
        if (data := read_file(uri)) is None:
            return None
        try:
            head = dict(json.loads(data))
            self.run = str(head["run"])
        except (ValueError, TypeError, KeyError):
            raise InputError(
                f"{uri} is not a journal of this version of the provider. {self.advice}"
            ) from None
        return None if head.get("ended") else head

    def begin(self, options: Mapping[str, Any], *, full_refresh: bool = False) -> None:
        """Start the journal of a new run; fails if the folder cannot be written."""
        self.run = self._new_run()
        self.submissions = self.resubmissions = 0
        self._write_head(options, full_refresh=full_refresh)

    def load(self) -> Iterator[Record]:
        """All records in the order of writing; of a torn file those before the damage."""
        self.submissions = self.resubmissions = 0
        for name in self._names():
            self._next = max(self._next, int(name.partition("-")[0]) + 1)
            data = read_file(self._uri(name))
            if data is not None:
                yield from self._records(name, data)

    def body(self, location: BodyLocation) -> bytes:
        """Read a body."""
        return read_range(self._uri(location.file), location.offset, location.length)

    def end(self) -> None:
        """
        Mark the run as ended, and remove its journal.

        :raises StorageError: the head cannot be written.
        """
        self._write_head({}, ended=True)
        discard_folder(below(self.output, JOURNAL))

    def carry_over(self, records: Iterable[Record]) -> None:
        """
        End the journal, and start the one of the next run with some of its records.

        Writing the head switches from one to the other, so a kill loses nothing.

        :param records: SUBMITTED and BODY records of :meth:`load`.
        :raises StorageError: the journal cannot be written.
        """
        options = (self.head() or {}).get("options", {})
        old, run, number, group = self.run, self._new_run(), 1, _Group()
        for record in (*records, None):
            if record is not None:
                group.add(_plain(record), self.body(record.location) if record.location is not None else b"")
            if group.size >= GROUP_BYTES or (record is None and group.lines):
                write_file(below(self.output, f"{run}/{_number(number)}-{self._nonce}{_WORK}"), group.lines)
                number, group = number + 1, _Group()
        self.run, self._next = run, number
        self._documents_by_file, self._files_by_document = {}, {}
        self._write_head(options)
        if old.startswith(f"{JOURNAL}/"):
            discard_folder(below(self.output, old))

    def _new_run(self) -> str:
        return f"{RAW if self._keep else JOURNAL}/{new_name()}"

    def _write_head(
        self, options: Mapping[str, Any], *, full_refresh: bool = False, ended: bool = False
    ) -> None:
        head = {"run": self.run, "options": dict(options), "full_refresh": full_refresh, "ended": ended}
        write_file(below(self.output, HEAD), json.dumps(head).encode())

    def _names(self) -> list[str]:
        return sorted(
            name for name in names_in(below(self.output, self.run)) if name.endswith((_WORK, _KEPT))
        )

    def _records(self, name: str, data: bytes) -> Iterator[Record]:
        at, sent, again = 0, 0, 0
        while at < len(data):
            stop = data.find(b"\n", at)
            try:
                plain = json.loads(data[at:stop])
                length = plain["bytes"]
                key = SegmentKey(*plain["key"]) if plain["key"] else None
                if stop < 0 or stop + 1 + length >= len(data):
                    raise ValueError
            except (ValueError, TypeError, KeyError):
                log.warning("%s is torn at byte %s; the rest is ignored.", self._uri(name), at)
                break
            if key is not None:
                self._add_reference(name, key.document_id)
            location = BodyLocation(name, stop + 1, length) if plain["kind"] == "body" else None
            if plain["kind"] == "sent":
                self.submissions, self.resubmissions = plain["value"]
                sent = again = 0
            else:
                change = {"intended": 1, "withdrawn": -1}.get(plain["kind"], 0)
                sent, again = sent + change, again + change * bool(plain["value"])
                yield Record(plain["kind"], key, plain["job"], location, plain["value"])
            at = stop + 1 + length + 1
        # A torn file lacks its last line, which has the counts.
        self.submissions += sent
        self.resubmissions += again

    # -- writing; on the event loop --------------------------------------------------------------------

    async def writable(self) -> None:
        """Wait while writes fail, as job ids could not be stored."""
        await self._writable.wait()

    def intend(self, key: SegmentKey, *, again: bool) -> asyncio.Future[str]:
        """
        Add and count the intent to submit a text; it is written with the next group.

        :param again: the text was, or may have been, submitted before.
        :return: for :meth:`stored`.
        """
        self.submissions += 1
        self.resubmissions += again
        self._add_work(Record("intended", key, value=again))
        return self._group_stored()

    async def stored(self, group: asyncio.Future[str]) -> None:
        """Wait until a group is stored."""
        if not group.done():
            self._full.set()
        await asyncio.shield(group)

    def withdraw(self, key: SegmentKey, *, again: bool) -> None:
        """
        Take back an intent: the text was not submitted, or no job was made.

        :param again: as in :meth:`intend`; an earlier submission remains possible.
        """
        self.submissions -= 1
        self.resubmissions -= again
        self._add_work(Record("withdrawn", key, value=again))

    def submitted(self, key: SegmentKey, job: str) -> None:
        """Add a record of a job; polling need not wait for its write."""
        self._add_work(Record("submitted", key, job))
        self._full.set()

    async def write_body(
        self, key: SegmentKey, job: str, body: bytes, *, unconfirmed: bool = False
    ) -> BodyLocation:
        """
        Write a body; returns its location once it is stored.

        :param unconfirmed: it may not be the result, so a resumed run polls the job again.
        """
        offset = self._add_work(Record("unconfirmed" if unconfirmed else "body", key, job), body)
        self._full.set()
        return BodyLocation(await asyncio.shield(self._group_stored()), offset, len(body))

    async def write(self, kind: Literal["part", "failed", "unfinished", "end"], value: Any) -> None:
        """Write a record that stays until :meth:`end`; returns once it is stored."""
        self.append(kind, value)
        await self.flush()

    def append(self, kind: Literal["part", "failed", "unfinished", "end"], value: Any) -> None:
        """Add a record to the next group; see :meth:`write`."""
        self._kept.add(_plain(Record(kind, value=value)))
        self._full.set()

    async def write_groups(self) -> None:
        """Flush every quarter of a second, or when a group is large; runs as a task of its own."""
        seconds = min(FIRST_GROUP_SECONDS, GROUP_SECONDS)
        while True:
            await self._full.wait()
            self._full.clear()
            if self._work.size < GROUP_BYTES:
                await asyncio.sleep(seconds)
            seconds = min(2 * seconds, GROUP_SECONDS)
            # Not to be cancelled: the service does not return these results again.
            await shielded(self.flush())

    async def flush(self) -> None:
        """
        Write all records that are not stored yet.

        :raises StorageError: all attempts failed; also raised by :meth:`write_body`.
        """
        async with self._writing:
            sent = Record("sent", value=[self.submissions, self.resubmissions])
            for group in (self._work, self._kept):
                if group.lines:
                    group.add(_plain(sent))
            # In this order, as a document fails after its submission.
            self._unwritten += [
                (self._work, self._new_name(_WORK), self._flushed),
                (self._kept, self._new_name(_KEPT), None),
            ]
            self._work, self._kept, self._flushed = _Group(), _Group(), None
            try:
                while self._unwritten:
                    group, name, done = self._unwritten[0]
                    if group.lines:
                        policy = retry_on(
                            StorageError,
                            attempts=WRITE_ATTEMPTS,
                            wait=wait_fixed(WRITE_WAIT),
                            what="Writing the journal",
                        )
                        await retry_async(self._write, group, name, **policy)
                    del self._unwritten[0]
                    if done is not None and not done.done():
                        done.set_result(name)
            except BaseException as err:
                # The groups stay for the next flush.
                for *_, done in self._unwritten:
                    if done is not None and not done.done():
                        done.set_exception(err if isinstance(err, Exception) else StorageError("interrupted"))
                        done.exception()  # marks it as retrieved
                raise

    def unreferenced(self, document_ids: Iterable[str]) -> list[str]:
        """
        Drop the references of documents whose chunks are in a part.

        :return: work files without references, for :meth:`delete`.
        """
        free: list[str] = []
        for document_id in document_ids:
            for name in self._files_by_document.pop(document_id, ()):
                documents = self._documents_by_file.get(name)
                if documents is not None:
                    documents.discard(document_id)
                    if not documents:
                        del self._documents_by_file[name]
                        free.append(name)
        return free

    def delete(self, files: list[str]) -> None:
        """Delete work files, if the storage allows it; blocks."""
        if self._removable and self.run.startswith(f"{JOURNAL}/"):
            self._removable = discard(*map(self._uri, files))

    def _add_work(self, record: Record, body: bytes = b"") -> int:
        if record.key is not None:
            self._work.documents.add(record.key.document_id)
        return self._work.add(_plain(record), body)

    def _group_stored(self) -> asyncio.Future[str]:
        """Done when the records so far are stored, with the name of the file of the last group."""
        if self._flushed is None:
            self._flushed = asyncio.get_running_loop().create_future()
        return self._flushed

    def _new_name(self, suffix: str) -> str:
        # The nonce keeps a process that has lost the lease from overwriting files of its successor.
        name = f"{_number(self._next)}-{self._nonce}{suffix}"
        self._next += 1
        return name

    async def _write(self, group: _Group, name: str) -> None:
        try:
            await in_thread(write_file, self._uri(name), group.lines)
        except StorageError:
            self._writable.clear()
            raise
        self._writable.set()
        for document_id in group.documents:
            self._add_reference(name, document_id)

    def _add_reference(self, name: str, document_id: str) -> None:
        self._documents_by_file.setdefault(name, set()).add(document_id)
        files = self._files_by_document.get(document_id, ())
        if name not in files:
            self._files_by_document[document_id] = (*files, name)

    def _uri(self, name: str) -> str:
        return below(self.output, f"{self.run}/{name}")


class ReadOnlyJournal(Journal):
    """A journal whose changes are in memory only: for a plan, which must not write."""

    def __init__(self, output: str) -> None:
        super().__init__(output)
        self._ended = False
        self._carried_over: list[Record] | None = None

    def head(self) -> dict[str, Any] | None:
        head = None if self._ended else super().head()
        if head is not None and self._carried_over is not None:
            # What :meth:`Journal.carry_over` writes.
            head = {"run": head["run"], "options": head.get("options", {})}
        return head

    def load(self) -> Iterator[Record]:
        yield from super().load() if self._carried_over is None else self._carried_over

    def end(self) -> None:
        self._ended = True

    def carry_over(self, records: Iterable[Record]) -> None:
        self._carried_over = list(records)

    def delete(self, files: list[str]) -> None:
        pass


def _number(count: int) -> str:
    return f"{count:08d}"


def _plain(record: Record) -> dict[str, Any]:
    return {"kind": record.kind, "key": record.key, "job": record.job, "value": record.value}
