# SPDX-License-Identifier: Apache-2.0
"""
Where a task keeps its :class:`~lucidworks_provider.jobs.record.JobRecord`: beside its result, and in
Airflow's task state store where there is one (3.3 and later).

Beside the result, since whoever collects the results must prove that it sees the same storage. In the
state store too, since a retry may run on another host.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from lucidworks_provider.errors import StorageError
from lucidworks_provider.jobs.record import JobRecord, newest, resume
from lucidworks_provider.storage import (
    discard,
    discard_folder,
    exists,
    names_in,
    read_file,
    split_uri,
    write_file,
)

log = logging.getLogger(__name__)

# What is written here cannot be had again, so a storage that fails for a moment is tried again.
_patiently = retry(
    retry=retry_if_exception_type(StorageError),
    stop=stop_after_attempt(4),
    wait=wait_random_exponential(multiplier=0.2, max=5),
    reraise=True,
)

_STATE_NAME = "lucidworks_jobs"
_RECORD = "record.json"
_INPUT = "input.json"
_PROOF = "writable"
_REFUSED = ".refused"
# Bytes of bodies that a worker remembers until it reads them.
_REMEMBERED = 32_000_000


class TaskStateStore(Protocol):
    """What is used of ``context["task_state_store"]``."""

    def get(self, key: str, default: Any = None) -> Any:
        """Read."""

    def set(self, key: str, value: Any) -> None:
        """Write."""


@dataclass(frozen=True, slots=True)
class ResultDirectory:
    """
    The folder beside a result file that holds a task's record and the bodies that arrived.

    :param folder: its URI.
    """

    folder: str
    # By URI; None in a triggerer, which keeps bodies for others to read.
    _remembered: dict[str, bytes] | None = field(default=None, compare=False, repr=False)

    @classmethod
    def beside(cls, result_uri: str, *task: object) -> ResultDirectory:
        """The folder of one task instance of one run: a retry finds it again, another run does not."""
        parent, name = split_uri(result_uri)
        digest = hashlib.sha256("\0".join(map(str, task)).encode()).hexdigest()[:16]
        # Readers of Parquet folders pass over names that start with an underscore.
        return cls(f"{parent}/_{name}.{digest}", {})

    @property
    def table(self) -> str:
        """The folder of rows that can be read from their source only once."""
        return f"{self.folder}.table"

    def uri(self, position: int, job_id: str) -> str:
        """Where the body of a document's job goes. Another job of the same document has another name."""
        return f"{self.folder}/{position:05d}-{hashlib.sha256(job_id.encode()).hexdigest()[:12]}.json"

    def there(self, position: int, job_id: str) -> bool:
        """Whether that body has arrived."""
        return exists(self.uri(position, job_id))

    def arrived(self, jobs: Mapping[int, str]) -> frozenset[int]:
        """Positions of the jobs whose bodies have arrived, by one listing."""
        names = set(names_in(self.folder))
        return frozenset(p for p, job in jobs.items() if split_uri(self.uri(p, job))[1] in names)

    @_patiently
    def keep(self, position: int, job_id: str, body: bytes) -> None:
        """Put a body where it belongs; whole or not at all."""
        uri = self.uri(position, job_id)
        write_file(uri, body)
        if (kept := self._remembered) is not None:
            if len(body) + sum(map(len, list(kept.values()))) <= _REMEMBERED:
                kept[uri] = body
            else:
                kept.pop(uri, None)

    def keep_aside(self, position: int, job_id: str, body: bytes) -> None:
        """Keep a body that may or may not be the result."""
        write_file(self.uri(position, job_id) + ".aside", body)

    def use_aside(self, position: int, job_id: str) -> bool:
        """Make that body the result, if there is one: nothing better will come."""
        body = read_file(self.uri(position, job_id) + ".aside")
        if body is None:
            return False
        self.keep(position, job_id, body)
        return True

    def keep_other(self, position: int, job_id: str, body: bytes) -> str:
        """Keep what names another job than the one that was asked for; the URI. It outlives the task."""
        uri = self._other(position, job_id)
        write_file(uri, body)
        return uri

    def use_other(self, position: int, job_id: str) -> bool:
        """Make that the job's result, if there is something."""
        body = read_file(self._other(position, job_id))
        if body is None:
            return False
        self.keep(position, job_id, body)
        return True

    @_patiently
    def keep_undecoded(self, position: int, job_id: str, body: bytes, encoding: str) -> str:
        """Keep a body in an unknown encoding; the URI. It outlives the task, and a later one does not replace it."""
        coding = re.sub(r"\W+", "-", encoding)[:32]
        uri = f"{self._beside(position, job_id)}.{hashlib.sha256(body).hexdigest()[:8]}.{coding}"
        write_file(uri, body)
        return uri

    def _other(self, position: int, job_id: str) -> str:
        return f"{self._beside(position, job_id)}.other.json"

    def _beside(self, position: int, job_id: str) -> str:
        return f"{self.folder}.{position:05d}-{hashlib.sha256(job_id.encode()).hexdigest()[:12]}"

    def take(self, position: int, job_id: str) -> bytes | None:
        """Read a body, if it has arrived; from memory, once, if this process has just kept it."""
        uri = self.uri(position, job_id)
        if self._remembered and (body := self._remembered.pop(uri, None)) is not None:
            return body
        return read_file(uri)

    def drop(self, position: int, job_id: str) -> None:
        """Remove a body, if the storage allows it: no other job has its name."""
        discard(self.uri(position, job_id))

    def set_aside(self, position: int, job_id: str) -> str:
        """Keep a body that cannot be used, for somebody to look at."""
        uri = self.uri(position, job_id) + ".unusable"
        write_file(uri, self.take(position, job_id) or b"")
        self.drop(position, job_id)
        return uri

    def refuse(self, name: str) -> None:
        """Note that the answer of that name was of no use."""
        write_file(f"{self.folder}/{name}{_REFUSED}", b"")

    def refused(self) -> frozenset[str]:
        """The names that :meth:`refuse` has noted."""
        return frozenset(n.removesuffix(_REFUSED) for n in names_in(self.folder) if n.endswith(_REFUSED))

    def prove(self) -> None:
        """
        Find out whether bodies can be kept here, before any of them is handed out.

        :raises StorageError: they cannot.
        """
        # A full disk takes a file without a byte in it.
        write_file(f"{self.folder}/{_PROOF}", b" " * 4096)

    def keep_input(self, data: bytes) -> None:
        """Keep what a function returned, for the part of its task that runs after a wait."""
        write_file(f"{self.folder}/{_INPUT}", data)

    def read_input(self) -> bytes | None:
        """What :meth:`keep_input` kept."""
        return read_file(f"{self.folder}/{_INPUT}")

    def read_record(self) -> JobRecord | None:
        """The record as this process sees it."""
        return _parse(read_file(f"{self.folder}/{_RECORD}"), self.folder)

    def write_record(self, record: JobRecord) -> None:
        """Write the record; raises StorageError when the place cannot be written."""
        write_file(f"{self.folder}/{_RECORD}", record.to_json())


@dataclass(frozen=True, slots=True)
class JobStateStore:
    """
    Loads and saves a task's record.

    :param state: the task state store, or None below Airflow 3.3.
    """

    bodies: ResultDirectory
    state: TaskStateStore | None

    def load(self) -> JobRecord | None:
        """The newer of the two copies."""
        stored = self.state.get(_STATE_NAME) if self.state is not None else None
        in_state = _parse(stored if isinstance(stored, str) else None, "the task state store")
        return newest([self.bodies.read_record(), in_state])

    def begin(self, fingerprint: str, life: int, result_uri: str) -> JobRecord:
        """
        What an attempt starts from; see :func:`~lucidworks_provider.jobs.record.resume`.

        :param result_uri: of the file, which must still be there if the record says so.
        """
        record, said = resume(self.load(), fingerprint=fingerprint, life=life)
        if record.result is not None and not exists(result_uri):
            said = f"{result_uri} has vanished: submitting again."
            record = JobRecord(fingerprint, life, revision=record.revision)
        log.info("%s", said)
        return record

    def save(self, record: JobRecord) -> JobRecord:
        """
        Write both copies.

        :raises StorageError: the one on storage could not be written; the other one has been.
        """
        self._save(record)
        return record

    def _save(self, record: JobRecord) -> bool:
        """Write both copies; whether there is one in the state store."""
        try:
            self._write(record)
        finally:
            # An id that the service has handed out must be in one place at least.
            noted = note(self.state, _STATE_NAME, record.to_json().decode())
        return noted

    @_patiently
    def _write(self, record: JobRecord) -> None:
        self.bodies.write_record(record)

    def close(self, record: JobRecord, bodies: Callable[[], Mapping[int, str]] | None = None) -> None:
        """
        The result stands: write that down, and remove the bodies.

        Where no state store has taken the record, the one beside the result must stay, or a retry would do everything
        again: by an older copy if Airflow's API server was away just now. What cannot be removed is no failure.

        :param bodies: gives their names by position, where they are not of the record's jobs.
        """
        if self._save(record):
            discard_folder(self.bodies.folder)
            return
        names = (record.jobs if bodies is None else bodies()).items()
        kept = [self.bodies.uri(position, name) for position, name in names]
        discard(f"{self.bodies.folder}/{_INPUT}", f"{self.bodies.folder}/{_PROOF}", *kept)


def note(state: TaskStateStore | None, name: str, value: str) -> bool:
    """
    Write into the task state store, if there is one and Airflow's API server answers.

    :return: whether it is there.
    """
    if state is None:
        return False
    try:
        state.set(name, value)
    except Exception:
        log.warning("%s could not be written to Airflow's task state store.", name, exc_info=True)
        return False
    return True


def _parse(data: bytes | str | None, where: str) -> JobRecord | None:
    if data is None:
        return None
    record = JobRecord.from_json(data)
    if record is None:
        log.warning("The job record in %s cannot be read (another version's?); its jobs are orphans.", where)
    return record
