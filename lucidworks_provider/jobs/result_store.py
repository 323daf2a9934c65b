# SPDX-License-Identifier: Apache-2.0
"""The bodies of a task's jobs, stored as they arrive in a folder beside the result file."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Any, Protocol, TypeVar

from tenacity import AsyncRetrying, retry, wait_fixed, wait_random_exponential

from lucidworks_provider.errors import StorageError
from lucidworks_provider.retrying import retry_on
from lucidworks_provider.storage import (
    discard,
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

retry_write: Callable[[F], F] = retry(
    **retry_on(
        StorageError,
        attempts=4,
        wait=wait_random_exponential(multiplier=0.2, max=5),
        what="Writing a job's state",
    )
)
# Attempts and seconds to store a result that the service may return only once: a full disk is emptied, and a storage
# recovers. Together less than the slack of Airflow's own timeout.
SAVE_ATTEMPTS = 24
SAVE_WAIT = 5.0

_WRITE_CHECK = "writable"
_REJECTED = ".refused"
# Bodies, and their bytes, that a worker keeps in memory until it reads them.
_CACHED, _CACHE_BYTES = 1000, 32_000_000


class QuarantineReason(Enum):
    """Why a body is quarantined. Each may be the only copy of a result."""

    UNKNOWN_STATUS = "aside"
    """A payload with a status that is not documented."""
    OTHER_JOB = "other.json"
    """It names another job than the one that was polled."""
    UNDECODED = "undecoded"
    """Its content encoding is unknown."""
    UNUSABLE = "unusable"
    """It is not a valid result."""


@dataclass(frozen=True, slots=True)
class ResultDirectory:
    """
    The folder beside a result file with a task's record and the bodies of its jobs.

    :param folder: its URI.
    """

    folder: str
    # By URI; None in a triggerer, whose bodies are read by another process.
    _cache: dict[str, bytes] | None = field(default=None, compare=False, repr=False)

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

    def uri(self, position: int, job_id: str) -> str:
        """The body of a document's job. Another job of the same document has another name."""
        return f"{self.folder}/{_body_name(position, job_id)}.json"

    def exists(self, position: int, job_id: str) -> bool:
        return exists(self.uri(position, job_id))

    def stored(self, jobs: Mapping[int, str]) -> dict[int, int]:
        """The bytes of the stored bodies of jobs, by position and by one listing."""
        sizes = {entry.name: entry.size for entry in list_folder(self.folder)}
        names = {p: f"{_body_name(p, job)}.json" for p, job in jobs.items()}
        return {p: sizes[name] for p, name in names.items() if name in sizes}

    @retry_write
    def save(self, position: int, job_id: str, body: bytes) -> None:
        """Write a body atomically."""
        uri = self.uri(position, job_id)
        write_file(uri, body)
        if (cache := self._cache) is not None:
            cache.pop(uri, None)
            if len(cache) < _CACHED and len(body) + sum(map(len, list(cache.values()))) <= _CACHE_BYTES:
                cache[uri] = body

    def read(self, position: int, job_id: str) -> bytes | None:
        """Read a body, if it is stored; from memory, once, if this process wrote it."""
        uri = self.uri(position, job_id)
        if self._cache and (body := self._cache.pop(uri, None)) is not None:
            return body
        return read_file(uri)

    def delete(self, position: int, job_id: str) -> None:
        """Delete a body, if the storage allows it: no other job has its name."""
        discard(self.uri(position, job_id))

    @retry_write
    def quarantine(
        self, position: int, job_id: str, body: bytes, reason: QuarantineReason, encoding: str = ""
    ) -> str:
        """
        Store a body that is not the job's result, or not yet.

        What names another job or is undecoded outlives the task.

        :param encoding: of an undecoded body.
        :return: its URI.
        """
        uri = self._quarantine_uri(position, job_id, reason)
        if reason is QuarantineReason.UNDECODED:
            # Named by its content: a later one does not replace it.
            coding = re.sub(r"\W+", "-", encoding)[:32]
            uri = f"{uri}.{hashlib.sha256(body).hexdigest()[:8]}.{coding}"
        write_file(uri, body)
        return uri

    def restore(self, position: int, job_id: str, reason: QuarantineReason) -> bool:
        """Make a quarantined body the job's result; whether there is one."""
        body = read_file(self._quarantine_uri(position, job_id, reason))
        if body is None:
            return False
        self.save(position, job_id, body)
        return True

    def quarantine_result(self, position: int, job_id: str) -> str:
        """Move a body that is not a valid result to the quarantine; its URI there."""
        uri = self.quarantine(position, job_id, self.read(position, job_id) or b"", QuarantineReason.UNUSABLE)
        self.delete(position, job_id)
        return uri

    def _quarantine_uri(self, position: int, job_id: str, reason: QuarantineReason) -> str:
        match reason:
            case QuarantineReason.UNKNOWN_STATUS | QuarantineReason.UNUSABLE:
                return f"{self.uri(position, job_id)}.{reason.value}"
            case QuarantineReason.OTHER_JOB:
                return f"{self.folder}.{_body_name(position, job_id)}.{reason.value}"
        return f"{self.folder}.{_body_name(position, job_id)}"

    def mark_rejected(self, name: str) -> None:
        """Record that the response of that name was not valid."""
        write_file(f"{self.folder}/{name}{_REJECTED}", b"")

    def rejected(self) -> frozenset[str]:
        """The names that :meth:`mark_rejected` has recorded."""
        return frozenset(n.removesuffix(_REJECTED) for n in names_in(self.folder) if n.endswith(_REJECTED))

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
            names = names_in(self.folder)
        except StorageError as err:
            log.warning("Files that are no longer needed remain: %s", err)
            return
        discard(*[f"{self.folder}/{name}" for name in names if name != keep])


def _body_name(position: int, job_id: str) -> str:
    return f"{position:05d}-{hashlib.sha256(job_id.encode()).hexdigest()[:12]}"


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


@dataclass(frozen=True, slots=True)
class FileResultStore:
    """
    The body of one job in a :class:`ResultDirectory`.

    :param job_id: or any other name, where there is no job.
    """

    results: ResultDirectory
    position: int
    job_id: str

    async def exists(self) -> bool:
        return await in_thread(self.results.exists, self.position, self.job_id)

    async def save(self, body: bytes) -> None:
        """:raises StorageError: after minutes."""
        policy = retry_on(
            StorageError,
            attempts=SAVE_ATTEMPTS,
            wait=wait_fixed(SAVE_WAIT),
            what=f"Storing the result of {self.job_id}",
        )
        # The loop waits, and not one of the few threads. The log line is written in a thread.
        policy["before_sleep"] = partial(in_thread, policy["before_sleep"])
        await AsyncRetrying(**policy)(in_thread, self.results.save, self.position, self.job_id, body)

    async def quarantine(self, body: bytes, reason: QuarantineReason, encoding: str = "") -> str:
        return await in_thread(self.results.quarantine, self.position, self.job_id, body, reason, encoding)

    async def restore(self, reason: QuarantineReason) -> bool:
        return await in_thread(self.results.restore, self.position, self.job_id, reason)


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
