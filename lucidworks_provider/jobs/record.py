# SPDX-License-Identifier: Apache-2.0
"""
What a task stores outside of the process that may be killed: the record of its jobs, and their bodies as they arrive.

Both are in a folder beside the result file (:class:`ResultDirectory`). The service has no idempotency key, no list of
jobs and no cancel, so a lost id is paid work lost. The record has the intents before the POSTs, the job ids right
after them, and the manifest when the result file is written:

================================  ==============================================================
a new attempt finds               it
================================  ==============================================================
no record, or other input         starts; the ids of another input are orphans, and logged
a result of the same generation   returns the manifest: the last attempt was killed before it returned it
a result of another generation    starts: clearing a task that succeeded means to do it again
job ids                           waits for those jobs
jobs that ended in ERROR          submits them again
jobs without a result             waits for them; submits them again if the task was cleared
intents without an id             applies ``on_unknown_submission``: the outcome of these POSTs is unknown
================================  ==============================================================

The *generation* of a task instance is its ``max_tries``: clearing raises it, automatic retries do not.

A record is stored in parts of ``PART`` positions, and a part is written when it has changed, so that a submission
costs the same whether the task has ten jobs or thirty thousand. The first part has the rest of the record too. Each
part is beside the result file, so that a triggerer can check that it sees the worker's storage, and in Airflow's task
state store (3.3 and later), so that a retry on another host finds it. The newer copy of a part is used.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, Protocol, TypeVar

from tenacity import AsyncRetrying, retry, wait_exponential, wait_random_exponential

from lucidworks_provider.errors import StorageError
from lucidworks_provider.metrics import count
from lucidworks_provider.retrying import retry_on
from lucidworks_provider.storage import (
    discard,
    discard_folder,
    exists,
    list_folder,
    names_in,
    read_file,
    split_uri,
    write_file,
)
from lucidworks_provider.threads import in_thread

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])

VERSION = 1
# Positions of a part: 25 KB of ids. Airflow warns about values of 64 KB in its task state store.
PART = 500
_HEAD = ("fingerprint", "generation", "nonce", "size", "result", "digest")
_POSITIONS = ("jobs", "failed", "empty")
_SETS = ("intents", "resubmitted")
_STATE_NAME = "lucidworks_jobs"
# Ids that a log line names.
_NAMED = 20
# Attempts to store a result that the service may return only once, and the longest wait between them in seconds: a
# full disk is emptied, and a storage recovers. Together less than the slack of Airflow's own timeout.
SAVE_ATTEMPTS = 29
SAVE_WAIT = 5.0
_WRITE_CHECK = "writable"
REJECTED = ".refused"
# Bodies, and their bytes, that a worker keeps in memory until it reads them.
_CACHED, _CACHE_BYTES = 1000, 32_000_000

_retry_write: Callable[[F], F] = retry(
    **retry_on(
        StorageError,
        attempts=4,
        wait=wait_random_exponential(multiplier=0.2, max=5),
        what="Writing a job's state",
    )
)


class QuarantineReason(Enum):
    """Why a body is quarantined. Each may be the only copy of a result."""

    UNKNOWN_STATUS = "aside"
    """A payload with a status that is not documented."""
    PARTIAL = "partial"
    """A payload of a job that has not ended."""
    OTHER_JOB = "other.json"
    """It names another job than the one that was polled."""
    UNDECODED = "undecoded"
    """Its content encoding is unknown."""
    UNUSABLE = "unusable"
    """It is not a valid result."""


class ResultStore(Protocol):
    """Where a job's body is stored before it is read."""

    async def exists(self) -> bool:
        """Whether the result is stored already."""

    async def save(self, body: bytes) -> None:
        """Return when the result is stored."""

    async def quarantine(self, body: bytes, reason: QuarantineReason, encoding: str = "") -> str:
        """Store a body that is not the result, or not yet; where, for messages."""

    async def restore(self, reason: QuarantineReason) -> bool:
        """Make a quarantined body the result; whether there is one."""


@dataclass(slots=True)
class MemoryResultStore:
    """The body of one job, for a caller that has no storage for it."""

    body: bytes | None = None
    quarantined: dict[QuarantineReason, bytes] = field(default_factory=dict)

    async def exists(self) -> bool:
        return self.body is not None

    async def save(self, body: bytes) -> None:
        self.body = body

    async def quarantine(self, body: bytes, reason: QuarantineReason, encoding: str = "") -> str:
        self.quarantined[reason] = body
        return "memory"

    async def restore(self, reason: QuarantineReason) -> bool:
        self.body = self.quarantined.get(reason)
        return self.body is not None


@dataclass(frozen=True, slots=True)
class ResultDirectory:
    """
    The folder beside a result file with a task's record and the bodies of its jobs.

    :param folder: its URI.
    :param cache: bodies by URI; None in a triggerer, whose bodies are read by another process.
    """

    folder: str
    cache: dict[str, bytes] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def beside(cls, result_uri: str, *task: object) -> ResultDirectory:
        """The folder of one task instance of one run: the same for each retry, another for each run."""
        parent, name = split_uri(result_uri)
        digest = hashlib.sha256("\0".join(map(str, task)).encode()).hexdigest()[:16]
        # Readers of Parquet folders ignore names that start with an underscore.
        return cls(f"{parent}/_{name}.{digest}", {})

    @property
    def table(self) -> str:
        """The folder of rows whose source can be read only once."""
        return f"{self.folder}.table"

    def of(self, job_id: str) -> FileResultStore:
        """The body of a job."""
        return FileResultStore(self, job_id)

    def stored(self, jobs: Mapping[int, str]) -> dict[int, int]:
        """The bytes of the stored bodies of jobs, by position and by one listing."""
        sizes = {entry.name: entry.size for entry in list_folder(self.folder)}
        names = {position: self.of(job_id).name for position, job_id in jobs.items()}
        return {position: sizes[name] for position, name in names.items() if name in sizes}

    def names(self) -> frozenset[str]:
        """Of all files; see :attr:`FileResultStore.name` and :attr:`FileResultStore.rejected_name`."""
        return frozenset(names_in(self.folder))

    @_retry_write
    def check_writable(self) -> None:
        """
        Check that bodies can be stored here, before the service hands one out.

        :raises StorageError: they cannot.
        """
        # A full disk accepts an empty file.
        write_file(f"{self.folder}/{_WRITE_CHECK}", b" " * 4096)

    def clear(self, keep: str) -> None:
        """Delete all but one file, if the storage allows it."""
        try:
            names = self.names()
        except StorageError as err:
            log.warning("Files that are no longer needed remain: %s", err)
            return
        discard(*[f"{self.folder}/{name}" for name in names if name != keep])


@dataclass(frozen=True, slots=True)
class FileResultStore:
    """
    The body of one job in a :class:`ResultDirectory`.

    :param job_id: or any other name, where there is no job. Documents with one text may have one job.
    """

    results: ResultDirectory
    job_id: str

    @property
    def _stem(self) -> str:
        return hashlib.sha256(self.job_id.encode()).hexdigest()[:24]

    @property
    def name(self) -> str:
        return f"{self._stem}.json"

    @property
    def uri(self) -> str:
        return f"{self.results.folder}/{self.name}"

    @property
    def rejected_name(self) -> str:
        """Of the file that :meth:`mark_rejected` writes."""
        return f"{self.job_id}{REJECTED}"

    async def exists(self) -> bool:
        return await in_thread(exists, self.uri)

    async def save(self, body: bytes) -> None:
        """
        Write the body atomically.

        :raises StorageError: after minutes.
        """
        policy = retry_on(
            StorageError,
            attempts=SAVE_ATTEMPTS,
            wait=wait_exponential(multiplier=0.2, max=SAVE_WAIT),
            what=f"Storing the result of {self.job_id}",
        )
        # The loop waits, and not one of the few threads. The log line is written in a thread.
        policy["before_sleep"] = partial(in_thread, policy["before_sleep"])
        await AsyncRetrying(**policy)(in_thread, write_file, self.uri, body)
        if (cache := self.results.cache) is not None:
            cache.pop(self.uri, None)
            if len(cache) < _CACHED and len(body) + sum(map(len, cache.values())) <= _CACHE_BYTES:
                cache[self.uri] = body

    def read(self) -> bytes | None:
        """Read the body, if it is stored; from memory, once, if this process wrote it."""
        if (cache := self.results.cache) and (body := cache.pop(self.uri, None)) is not None:
            return body
        return read_file(self.uri)

    def delete(self) -> None:
        """Delete the body, if the storage allows it."""
        discard(self.uri)

    async def quarantine(self, body: bytes, reason: QuarantineReason, encoding: str = "") -> str:
        """
        Store a body that is not the job's result, or not yet.

        What names another job or is undecoded outlives the task.

        :param encoding: of an undecoded body.
        :return: its URI.
        """
        return await in_thread(self._quarantine, body, reason, encoding)

    async def restore(self, reason: QuarantineReason) -> bool:
        """Make a quarantined body the job's result; whether there is one."""
        body = await in_thread(read_file, self._quarantine_uri(reason))
        if body is None:
            return False
        await self.save(body)
        return True

    @property
    def unusable_uri(self) -> str:
        """Of a body that is not a valid result."""
        return self._quarantine_uri(QuarantineReason.UNUSABLE)

    def reject(self) -> str:
        """Move a body that is not a valid result to the quarantine; its URI there."""
        if (body := self.read()) is not None:
            self._quarantine(body, QuarantineReason.UNUSABLE)
            self.delete()
        return self.unusable_uri

    @_retry_write
    def mark_rejected(self, reason: str, generation: int | None) -> None:
        """
        Record that the response of that name was not valid.

        :param generation: of the task instance, whose other attempts do not pay for it again; None if they may.
        """
        found = json.dumps({"reason": reason, "generation": generation})
        write_file(f"{self.results.folder}/{self.rejected_name}", found.encode())

    def rejection(self, generation: int) -> str | None:
        """Why the response of that name was not valid, if an attempt of this generation does not request it again."""
        found = json.loads(read_file(f"{self.results.folder}/{self.rejected_name}") or "{}")
        return str(found["reason"]) if found.get("generation") == generation else None

    @_retry_write
    def _quarantine(self, body: bytes, reason: QuarantineReason, encoding: str = "") -> str:
        uri = self._quarantine_uri(reason)
        if reason is QuarantineReason.UNDECODED:
            # Named by its content: a later one does not replace it.
            coding = re.sub(r"\W+", "-", encoding)[:32]
            uri = f"{uri}.{hashlib.sha256(body).hexdigest()[:8]}.{coding}"
        write_file(uri, body)
        return uri

    def _quarantine_uri(self, reason: QuarantineReason) -> str:
        match reason:
            case QuarantineReason.UNKNOWN_STATUS | QuarantineReason.PARTIAL | QuarantineReason.UNUSABLE:
                return f"{self.uri}.{reason.value}"
            case QuarantineReason.OTHER_JOB:
                return f"{self.results.folder}.{self._stem}.{reason.value}"
        return f"{self.results.folder}.{self._stem}"


class TaskStateStore(Protocol):
    """The part of ``context["task_state_store"]`` that is used."""

    def get(self, key: str, default: Any = None) -> Any:
        """Read."""

    def set(self, key: str, value: Any) -> None:
        """Write."""

    def delete(self, key: str) -> None:
        """Remove."""


@dataclass(slots=True)
class JobRecord:
    """
    Changed by its methods, and stored by :class:`JobStateStore`.

    :param fingerprint: of everything that is submitted.
    :param generation: of the task instance that submits.
    :param size: jobs that the task needs; each has a position from 0.
    :param nonce: random; a process that reads it sees the writer's storage, and not another disk with the same path.
    :param record_id: random; parts of another record are ignored.
    :param revision: increases with every write, to find the newer of two copies.
    :param jobs: job id by position.
    :param intents: the positions that are being submitted.
    :param resubmitted: positions whose result was gone and that this attempt submitted again.
    :param failed: the service's message by the position of a job that ended in ERROR; empty if it is not kept.
    :param empty: as ``failed``, of a job that is ready without a result; a retry polls it again, and an attempt
        after clearing submits again.
    :param result: the manifest, once the result file is written.
    :param digest: of the table with the columns that are passed through, once the result file is written.
    :param new: it was never stored, and the folder may have the bodies of another one.
    :param replaced: parts of that one, which the task state store may have.
    :param stale: the parts that are not in storage and in the task state store as they are here.
    """

    fingerprint: str
    generation: int
    size: int = 0
    nonce: str = field(default_factory=lambda: uuid.uuid4().hex)
    record_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    revision: int = 0
    jobs: dict[int, str] = field(default_factory=dict)
    intents: set[int] = field(default_factory=set)
    resubmitted: set[int] = field(default_factory=set)
    failed: dict[int, str] = field(default_factory=dict)
    empty: dict[int, str] = field(default_factory=dict)
    result: Mapping[str, Any] | None = None
    digest: str = ""
    new: bool = field(default=True, compare=False)
    replaced: int = field(default=0, compare=False)
    stale: tuple[set[int], set[int]] = field(default_factory=lambda: ({0}, {0}), compare=False)

    @property
    def parts(self) -> range:
        return range(max(1, -(-self.size // PART)))

    @property
    def awaited(self) -> dict[int, str]:
        """The jobs that may still have a result."""
        return {p: job for p, job in self.jobs.items() if p not in self.failed and p not in self.empty}

    def missing(self) -> list[int]:
        """Positions that need a submission."""
        return [p for p in range(self.size) if p not in self.jobs]

    def intend(self, positions: Iterable[int]) -> None:
        self.intents.update(self._changed(positions))

    def withdraw(self, positions: Iterable[int]) -> None:
        """POSTs created no job, or were not sent."""
        self.intents.difference_update(self._changed(positions))

    def begin_wait(self) -> None:
        """
        A wait is about to begin.

        With a new nonce: the record of an earlier attempt, on another host's disk, must not be accepted for this one.
        """
        self.withdraw(list(self.intents))
        self.nonce = uuid.uuid4().hex
        self._changed([0])

    def submitted(self, position: int, job_id: str) -> None:
        self.withdraw([position])
        self.jobs[position] = job_id

    def mark_failed(self, messages: Mapping[int, str]) -> None:
        """:param messages: by the position of a job that ended in ERROR."""
        self._changed(messages)
        self.failed |= messages

    def mark_empty(self, messages: Mapping[int, str]) -> None:
        """:param messages: by the position of a job that is ready without a result."""
        self._changed(messages)
        self.empty |= messages

    def mark_gone(self, position: int) -> None:
        """A result is gone: it is submitted again, once in an attempt."""
        self._changed([position])
        del self.jobs[position]
        self.resubmitted.add(position)

    def unusable(self, generation: int) -> set[int]:
        """Positions of jobs that an attempt of this generation does not wait for again."""
        cleared = generation != self.generation
        return {*self.failed, *(self.empty if cleared else ())}

    def resume(self, generation: int) -> None:
        """
        Another attempt begins.

        It may submit each position again once. Clearing a task that failed over an unknown submission, or over a job
        without a result, is the decision to submit again.
        """
        self._changed([0, *self.failed, *self.empty, *self.resubmitted, *self.intents])
        for position in self.unusable(generation):
            del self.jobs[position]
        self.failed.clear()
        self.empty.clear()
        self.resubmitted.clear()
        if generation != self.generation:
            self.intents.clear()
        self.generation = generation
        self.new = False

    def finish(self, manifest: Mapping[str, Any], digest: str = "") -> None:
        """The result file is written: save its manifest, and discard the rest of the record."""
        self.result, self.digest = dict(manifest), digest
        self.intents.clear()
        for stale in self.stale:
            stale.clear()
        self._changed([0])

    def part(self, number: int) -> str:
        positions = range(number * PART, (number + 1) * PART)
        plain: dict[str, Any] = {"version": VERSION, "record_id": self.record_id, "revision": self.revision}
        if not number:
            plain |= {name: getattr(self, name) for name in _HEAD}
        for name in _POSITIONS:
            values = getattr(self, name)
            plain[name] = {str(p): values[p] for p in positions if p in values}
        for name in _SETS:
            plain[name] = sorted(p for p in getattr(self, name) if p in positions)
        return json.dumps(plain)

    def _changed(self, positions: Iterable[int]) -> Iterable[int]:
        positions = list(positions)
        for stale in self.stale:
            stale.update(position // PART for position in positions)
        return positions


@dataclass(frozen=True, slots=True)
class JobStateStore:
    """
    Loads and saves a task's record.

    :param state: the task state store, or None below Airflow 3.3.
    """

    results: ResultDirectory
    state: TaskStateStore | None

    def load(self) -> JobRecord | None:
        """The newer copy of each part."""
        if self.state is None:
            return read_job_record(self.results)
        return _assemble(_files(self.results), self._from_state)

    def begin(
        self, fingerprint: str, generation: int, size: int, result_uri: str, digest: str = ""
    ) -> JobRecord:
        """
        What an attempt starts from; see :func:`resume`.

        :param result_uri: the file that must still exist if the record has a result.
        :param digest: see :class:`JobRecord`.
        """
        record, message = resume(self.load(), fingerprint=fingerprint, generation=generation, size=size)
        if record.result is not None:
            why = f"{result_uri} no longer exists" if not exists(result_uri) else ""
            if record.digest != digest:
                why = f"Ids or columns have changed since {result_uri} was written"
            if why:
                message = f"{why}: submitting again."
                record = JobRecord(fingerprint, generation, size, revision=record.revision)
        if message:
            log.info("%s", message)
        return record

    def save(self, record: JobRecord) -> bool:
        """
        Write the parts that have changed to both copies.

        :return: whether the task state store has all of them.
        :raises StorageError: one could not be written on storage; the task state store has it.
        """
        on_storage, in_state = record.stale
        record.revision += bool(on_storage or in_state)
        parts = {number: record.part(number) for number in sorted(on_storage)}
        try:
            for number, text in parts.items():
                _write_part(self.results, number, text)
                on_storage.discard(number)
        finally:
            # A submitted id must be in one place at least.
            for number in sorted(in_state) if self.state is not None else ():
                text = parts.get(number) or record.part(number)
                if not set_state(self.state, _state_name(number), text):
                    break
                in_state.discard(number)
        return self.state is not None and not in_state

    def discard_replaced(self, record: JobRecord) -> None:
        """Delete what the record that a new one replaces has left, if the storage and the state store allow it."""
        discard_folder(self.results.folder)
        self._delete_parts(range(len(record.parts), record.replaced))
        record.new = False

    def restore(self, record: JobRecord) -> None:
        """
        Write the whole record again if the first part on storage is of another attempt.

        A process of an older attempt that still runs, after a heartbeat gap, writes its own copy of a part.
        """
        head = _files(self.results)(0)
        if head is None or head["nonce"] != record.nonce:
            log.warning("An older attempt has overwritten the job record; it is written again.")
            for stale in record.stale:
                stale.update(record.parts)
            self.save(record)

    def close(self, record: JobRecord) -> None:
        """
        Save the record of a task whose result is written, and delete the bodies.

        The record beside the result stays where no state store has it: without it, or with an older copy because
        Airflow's API server was away, a retry would repeat everything. A failed deletion is not an error.

        :raises StorageError: neither has the result.
        """
        try:
            in_state = self.save(record)
        except StorageError as err:
            in_state = self.state is not None and not record.stale[1]
            if not in_state:
                raise
            log.warning("The result is recorded in Airflow's task state store only: %s", err)
        if not in_state:
            self.results.clear(_file_name(0))
            return
        discard_folder(self.results.folder)
        self._delete_parts(record.parts[1:])

    def _delete_parts(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if not _called(self.state, "delete", _state_name(number)):
                break

    def _from_state(self, number: int) -> dict[str, Any] | None:
        return _read_part(get_state(self.state, _state_name(number)), number, "the task state store")


def read_job_record(results: ResultDirectory) -> JobRecord | None:
    """The record on storage, as this process sees it."""
    return _assemble(_files(results))


def resume(found: JobRecord | None, *, fingerprint: str, generation: int, size: int) -> tuple[JobRecord, str]:
    """
    Decide what a new attempt starts from (see the table above).

    :param found: changed, if the attempt continues with it.
    :return: the record to continue with, and a message for the log; empty in a first attempt.
    """
    if found is None:
        return JobRecord(fingerprint, generation, size), ""
    # Revisions continue: a store that misses a write then has the older copy.
    new = JobRecord(fingerprint, generation, size, revision=found.revision)
    # A record with a result has had its other parts deleted.
    new.replaced = len(found.parts) if found.result is None else 0
    if found.fingerprint != fingerprint:
        ids = list(found.jobs.values())
        named = ", ".join(ids[:_NAMED]) or "none"
        more = f" and {len(ids) - _NAMED:,} more" if len(ids) > _NAMED else ""
        return new, f"The input changed since the last attempt; its jobs are orphans: {named}{more}"
    if found.result is not None and found.generation != generation:
        return new, "Cleared after a success: submitting again."
    if found.result is not None:
        return found, "The last attempt has written the result."
    unusable = found.unusable(generation)
    again = f"; {len(unusable):,} without a usable result are submitted again" if unusable else ""
    resumed = f"Resuming {count(len(found.jobs) - len(unusable), 'job')} of an earlier attempt{again}."
    found.resume(generation)
    return found, resumed


def get_state(state: TaskStateStore | None, name: str) -> Any:
    """
    Read from the task state store; None if there is no store or no such value.

    :raises StorageError: Airflow's API server does not respond. Without the value, an attempt would repeat what an
        earlier one has done.
    """
    try:
        return None if state is None else state.get(name)
    except Exception as err:
        raise StorageError(f"{name} could not be read from Airflow's task state store: {err}") from err


def set_state(state: TaskStateStore | None, name: str, value: str) -> bool:
    """
    Write into the task state store, if there is one and Airflow's API server responds.

    :return: whether it was written.
    """
    return _called(state, "set", name, value)


def _called(state: TaskStateStore | None, method: str, name: str, *value: str) -> bool:
    if state is None:
        return False
    try:
        getattr(state, method)(name, *value)
    except Exception:
        log.warning("%s could not be written to Airflow's task state store.", name, exc_info=True)
        return False
    return True


def _assemble(*copies: Callable[[int], dict[str, Any] | None]) -> JobRecord | None:
    """
    A record of the newest copy of each part: a process may be killed between writing one and the other.

    :param copies: storage, and the task state store where there is one.
    """
    heads = [copy(0) for copy in copies]
    head = _newest(heads)
    if head is None:
        return None
    record = JobRecord(**{name: head[name] for name in (*_HEAD, "record_id")})
    record.stale = (set(), set())
    record.new = False
    for number in record.parts if record.result is None else range(1):
        found = [copy(number) for copy in copies] if number else heads
        found = [part if part and part["record_id"] == record.record_id else None for part in found]
        newest = _newest(found)
        if newest is None:
            continue
        record.revision = max(record.revision, newest["revision"])
        for name in (*_POSITIONS, *_SETS):
            getattr(record, name).update(newest[name])
        for stale, part in zip(record.stale, found, strict=False):
            if part is None or part["revision"] != newest["revision"]:
                stale.add(number)
    return record


def _newest(parts: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    return max((part for part in parts if part is not None), key=lambda part: part["revision"], default=None)


def _files(results: ResultDirectory) -> Callable[[int], dict[str, Any] | None]:
    return lambda number: _read_part(
        read_file(f"{results.folder}/{_file_name(number)}"), number, results.folder
    )


@_retry_write
def _write_part(results: ResultDirectory, number: int, text: str) -> None:
    write_file(f"{results.folder}/{_file_name(number)}", text.encode())


def _file_name(number: int) -> str:
    return f"record-{number}.json" if number else "record.json"


def _state_name(number: int) -> str:
    return f"{_STATE_NAME}_{number}" if number else _STATE_NAME


def _read_part(text: object, number: int, where: str) -> dict[str, Any] | None:
    """None for anything that :meth:`JobRecord.part` of this version has not written."""
    if not isinstance(text, str | bytes):
        return None
    try:
        plain = json.loads(text)
        if plain["version"] != VERSION:
            raise ValueError(plain["version"])
        names = ("record_id", "revision", *(() if number else _HEAD))
        part = {name: plain[name] for name in names}
        for name in _POSITIONS:
            part[name] = {int(position): str(value) for position, value in plain[name].items()}
        for name in _SETS:
            part[name] = set(plain[name])
    except (ValueError, TypeError, KeyError, AttributeError):
        log.warning("The job record in %s cannot be read (another version's?); its jobs are orphans.", where)
        return None
    return part


def fingerprint_of(options: Mapping[str, Any], documents: Iterable[tuple[str, str]]) -> str:
    """A digest of the options and of every document's id and text."""
    digest = hashlib.sha256(json.dumps(options, sort_keys=True).encode())
    for document_id, text in documents:
        for part in (document_id.encode(), text.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()
