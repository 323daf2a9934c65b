# SPDX-License-Identifier: Apache-2.0
"""
What a run over a corpus has got from the service and not yet put into the dataset.

The service hands a job's id and a job's result out once, and a process may die at any moment. So both go to
files beside the dataset, in group commits: what arrives within a quarter of a second is one new file, since
object stores cannot append. A group is the most that a killed process loses beside what was on its way.

::

    journal/head.json                 the folder of the current run, its configuration, and whether it has ended
    journal/RUN/00000007-…-work.log   SUBMITTED(document, piece, job), BODY and ASIDE(the same, bytes)
    journal/RUN/00000009-…-kept.log   PART(written), FAILED(document), END(of an attempt)

A file of *work* goes when the chunks of all its documents stand in a part; what is *kept* stays until the
snapshot names the parts. Each record is a line of JSON; a body's bytes follow its line. A line also has the number
of submissions and of resubmissions of the run up to then, so that they are those of all its tries: a file of work
goes only after a file of what is kept has been written, with numbers at least as large.

Only the folder that ``head.json`` names counts, and only until ``head.json`` says that the run has ended. Files of
earlier runs have no effect, so the journal is correct where the storage refuses deletions. With ``keep_raw`` the
run's folder is ``raw/RUN``, which is not removed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from tenacity import wait_fixed

from lucidworks_provider.corpus.dataset import HEAD, JOURNAL, RAW, below, new_name
from lucidworks_provider.errors import InputError, StorageError
from lucidworks_provider.jobs.wait import finish
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

_WORK, _KEPT = "-work.log", "-kept.log"
# Seconds and bytes of a group: what a kill may lose, against files a second.
GROUP_SECONDS = 0.25
GROUP_BYTES = 8_000_000
# Attempts to write to a storage that fails, and seconds between them: one minute.
WRITE_ATTEMPTS = 30
WRITE_WAIT = 2.0


@dataclass(frozen=True, slots=True)
class PieceKey:
    """
    A document's piece, in one version of the document.

    :param start: characters of the document before it.
    :param length: its characters.
    """

    document_id: str
    content_hash: str
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a body lies: the file's name, and bytes from its start."""

    file: str
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Record:
    """
    One line of the journal.

    :param job: its id, of SUBMITTED and BODY.
    :param place: where the bytes of a BODY are.
    :param value: of PART, FAILED and END.
    """

    kind: Literal["submitted", "body", "aside", "part", "failed", "end"]
    key: PieceKey | None = None
    job: str = ""
    place: Place | None = None
    value: Any = None
    file: str = ""


@dataclass
class _Group:
    """Lines that wait to be written together."""

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
    Written by one process at a time, which holds the output's lease.

    :param output: the dataset's folder.
    :param keep: keep the files of the runs that begin from here on.
    :ivar submissions: of the run, earlier tries included, once :meth:`load` has been read to its end.
    :ivar resubmissions: those for a text that had been submitted before.
    """

    def __init__(self, output: str, *, keep: bool = False) -> None:
        self.output = output
        self._keep = keep
        # Folder of the current run below the output, once head or begin has set it.
        self.run = ""
        self.submissions = self.resubmissions = 0
        self._removable = True
        self._next = 1
        self._nonce = uuid.uuid4().hex[:8]
        self._work, self._kept = _Group(), _Group()
        self._flushed: asyncio.Future[str] | None = None
        self._full = asyncio.Event()
        self._writing = asyncio.Lock()
        self._writable = asyncio.Event()
        self._writable.set()
        # Groups with their files, in order; more than those of one flush where a flush has failed. A file keeps its
        # name, since a write that failed or was interrupted may come to its end all the same.
        self._unwritten: list[tuple[_Group, str, asyncio.Future[str] | None]] = []
        # Files of work with the documents that still need them, and the other way round.
        self._needed: dict[str, set[str]] = {}
        self._files: dict[str, tuple[str, ...]] = {}

    # -- reading: in a thread ------------------------------------------------------------------------

    def head(self) -> dict[str, Any] | None:
        """
        What :meth:`begin` wrote, or None where there is no unfinished run.

        :return: ``{"run", "options"}``.
        :raises InputError: it cannot be read as that.
        """
        uri = below(self.output, HEAD)
        if (data := read_file(uri)) is None:
            return None
        try:
            head = dict(json.loads(data))
            self.run = str(head["run"])
        except (ValueError, TypeError, KeyError):
            raise InputError(
                f"{uri} is not a journal of this version of the provider. Restore it, or remove the folder "
                f"{below(self.output, JOURNAL)} to submit again what the unfinished run had submitted."
            ) from None
        return None if head.get("ended") else head

    def begin(self, options: Mapping[str, Any]) -> None:
        """Start anew: the first write of a run, and so the proof that the folder takes one."""
        self.run = self._new_run()
        self.submissions = self.resubmissions = 0
        self._write_head(options)

    def load(self) -> Iterator[Record]:
        """All records in the order of writing. A file that is torn counts up to where it is."""
        for name in self._names():
            self._next = max(self._next, int(name.partition("-")[0]) + 1)
            data = read_file(self._uri(name))
            if data is not None:
                yield from self._records(name, data)

    def body(self, place: Place) -> bytes:
        """A body that :meth:`load` told of."""
        return read_range(self._uri(place.file), place.offset, place.length)

    def end(self) -> None:
        """
        The dataset has everything.

        :raises StorageError: that cannot be written.
        """
        self._write_head({}, ended=True)
        discard_folder(below(self.output, JOURNAL))

    def carry_over(self, records: Iterable[Record]) -> None:
        """
        The dataset has everything but these, with which the next run begins.

        One write of the head makes them the ones that count, so no moment of a kill loses them.

        :param records: work that :meth:`load` returned.
        :raises StorageError: they cannot be written.
        """
        options = (self.head() or {}).get("options", {})
        old, run, number, group = self.run, self._new_run(), 1, _Group()
        for record in (*records, None):
            if record is not None:
                group.add(_plain(record), self.body(record.place) if record.place is not None else b"")
            if group.size >= GROUP_BYTES or (record is None and group.lines):
                write_file(below(self.output, f"{run}/{_number(number)}-{self._nonce}{_WORK}"), group.lines)
                number, group = number + 1, _Group()
        self.run, self._next = run, number
        self._needed, self._files = {}, {}
        self._write_head(options)
        if old.startswith(f"{JOURNAL}/"):
            discard_folder(below(self.output, old))

    def _new_run(self) -> str:
        return f"{RAW if self._keep else JOURNAL}/{new_name()}"

    def _write_head(self, options: Mapping[str, Any], *, ended: bool = False) -> None:
        head = {"run": self.run, "options": dict(options), "ended": ended}
        write_file(below(self.output, HEAD), json.dumps(head).encode())

    def _names(self) -> list[str]:
        return sorted(
            name for name in names_in(below(self.output, self.run)) if name.endswith((_WORK, _KEPT))
        )

    def _records(self, name: str, data: bytes) -> Iterator[Record]:
        at = 0
        while at < len(data):
            stop = data.find(b"\n", at)
            try:
                plain = json.loads(data[at:stop])
                length = plain["bytes"]
                submissions, resubmissions = plain.get("sent", (0, 0))
                key = PieceKey(*plain["key"]) if plain["key"] else None
                if stop < 0 or stop + 1 + length >= len(data):
                    raise ValueError
            except (ValueError, TypeError, KeyError):
                log.warning("%s is torn at byte %s; what follows is not known.", self._uri(name), at)
                return
            self.submissions = max(self.submissions, submissions)
            self.resubmissions = max(self.resubmissions, resubmissions)
            if key is not None:
                self._need(name, key.document_id)
            place = Place(name, stop + 1, length) if plain["kind"] == "body" else None
            yield Record(plain["kind"], key, plain["job"], place, plain["value"], name)
            at = stop + 1 + length + 1

    # -- writing: on the loop ------------------------------------------------------------------------

    async def writable(self) -> None:
        """Return when the last write went well: what is submitted meanwhile could not be kept."""
        await self._writable.wait()

    def submitted(self, key: PieceKey, job: str) -> None:
        """A job exists. Nothing waits for this: polling may begin."""
        self.submissions += 1
        self._add_work(Record("submitted", key, job))

    def resubmitted(self) -> None:
        """A text is submitted again: its job or its result is lost, or may be. Written with the next record."""
        self.resubmissions += 1

    async def keep_body(self, key: PieceKey, job: str, body: bytes, *, aside: bool = False) -> Place:
        """
        Return when the body lies on storage, and where.

        :param aside: it came with a status that nobody has documented. Who finds it asks for the job again.
        """
        offset = self._add_work(Record("aside" if aside else "body", key, job), body)
        return Place(await self.flushed(), offset, len(body))

    async def keep(self, kind: Literal["part", "failed", "end"], value: Any) -> None:
        """Return when it lies on storage; it stays until :meth:`end`."""
        self.note(kind, value)
        await self.flush()

    def note(self, kind: Literal["part", "failed", "end"], value: Any) -> None:
        """:meth:`keep`, with the next group."""
        self._kept.add(self._counted(Record(kind, value=value)))
        self._wake()

    def flushed(self) -> asyncio.Future[str]:
        """
        Done when everything that was added up to now lies on storage; fails when it cannot.

        :return: the name of the file of work.
        """
        if self._flushed is None:
            self._flushed = asyncio.get_running_loop().create_future()
        return asyncio.shield(self._flushed)

    async def write_groups(self) -> None:
        """Runs beside the engine: a group every quarter of a second, or when one is large."""
        while True:
            await self._full.wait()
            self._full.clear()
            if self._work.size < GROUP_BYTES:
                await asyncio.sleep(GROUP_SECONDS)
            # Not to be interrupted: what waits was handed out once.
            await finish(self.flush())

    async def flush(self) -> None:
        """
        Write what waits.

        :raises StorageError: it could not be written, several times; so those who wait for it hear as well.
        """
        async with self._writing:
            # In this order: a document has failed after it was submitted.
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
                # They stay for the next flush, as the service does not hand them out again.
                for *_, done in self._unwritten:
                    if done is not None and not done.done():
                        done.set_exception(err if isinstance(err, Exception) else StorageError("interrupted"))
                        done.exception()  # nobody may be waiting
                raise

    def release(self, document_ids: Iterable[str]) -> list[str]:
        """
        The chunks of these documents stand in a part that is kept.

        :return: files that nobody needs any more; :meth:`drop` removes them.
        """
        free: list[str] = []
        for document_id in document_ids:
            for name in self._files.pop(document_id, ()):
                needed = self._needed.get(name)
                if needed is not None:
                    needed.discard(document_id)
                    if not needed:
                        del self._needed[name]
                        free.append(name)
        return free

    def drop(self, files: list[str]) -> None:
        """Remove files of work, if the storage allows it; in a thread."""
        if self._removable and self.run.startswith(f"{JOURNAL}/"):
            self._removable = discard(*map(self._uri, files))

    def _add_work(self, record: Record, body: bytes = b"") -> int:
        offset = self._work.add(self._counted(record), body)
        if record.key is not None:
            self._work.documents.add(record.key.document_id)
        self._wake()
        return offset

    def _counted(self, record: Record) -> dict[str, Any]:
        return _plain(record) | {"sent": [self.submissions, self.resubmissions]}

    def _wake(self) -> None:
        self._full.set()

    def _new_name(self, suffix: str) -> str:
        # A process that has lost the lease does not overwrite its follower's.
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
            self._need(name, document_id)

    def _need(self, name: str, document_id: str) -> None:
        self._needed.setdefault(name, set()).add(document_id)
        files = self._files.get(document_id, ())
        if name not in files:
            self._files[document_id] = (*files, name)

    def _uri(self, name: str) -> str:
        return below(self.output, f"{self.run}/{name}")


def _number(count: int) -> str:
    """Of a file; sorts as the numbers do."""
    return f"{count:08d}"


def _plain(record: Record) -> dict[str, Any]:
    key = None
    if (piece := record.key) is not None:
        key = [piece.document_id, piece.content_hash, piece.start, piece.length]
    return {"kind": record.kind, "key": key, "job": record.job, "value": record.value}
