# SPDX-License-Identifier: Apache-2.0
"""
The lease on an output, which allows one writer: a late nightly run and a backfill must not mix their writes.

``lease/NNNNNNNN.json`` holds a :class:`LeaseRecord`; only the file with the largest number is valid. A task acquires
the lease by creating the next number, which the storage allows to one task only.

===========================================  ============================================================
newest file                                  the next task
===========================================  ============================================================
none, or released                            creates the next number
an earlier try of the same task instance     creates the next number: Airflow has given that try up
a process of this machine that has ended     creates the next number
a heartbeat that changes                     waits, or fails and names the holder
no heartbeat for ``TTL_SECONDS``             creates the next number, whatever ``wait_seconds`` is
===========================================  ============================================================

Clocks of hosts differ, so the waiting process measures ``TTL_SECONDS`` with its own monotonic clock. Only the holder
rewrites its file. A renewal that finds a larger number, or no file, ends the holder's work.

The newest file is never removed, so numbers only grow. A process that was suspended between its listing and its
creation may create a number that was used and removed; the listing after each creation shows a larger one.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

from tenacity import Retrying, wait_fixed

from lucidworks_provider.corpus.dataset import LEASE, below
from lucidworks_provider.errors import InputError, OutputBusyError, StorageError
from lucidworks_provider.retrying import retry_on
from lucidworks_provider.storage import create_file, discard, names_in, read_file, write_file

log = logging.getLogger(__name__)
T = TypeVar("T")

# Seconds. Three renewals may be late or fail before the holder counts as dead.
RENEW_SECONDS, TTL_SECONDS = 11.0, 45.0
# Between two reads of a lease that another task holds, and between two log messages about it.
POLL_SECONDS, LOG_SECONDS = 2.0, 60.0
# One failed read must not end a wait of an hour.
READ_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Holder:
    """A try of a task instance, and its process."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    host: str  # for messages
    pid: int
    process: str = ""  # boot, container and start time, as process ids are reused

    @classmethod
    def here(cls, *, dag_id: str, run_id: str, task_id: str, map_index: int, try_number: int) -> Holder:
        """The holder for this process."""
        process = f"{_machine()} {_started(pid := os.getpid())}"
        return cls(dag_id, run_id, task_id, map_index, try_number, socket.gethostname(), pid, process)

    @property
    def instance(self) -> tuple[str, str, str, int]:
        """Identifies the task instance."""
        return (self.dag_id, self.run_id, self.task_id, self.map_index)

    def follows(self, other: Holder | None) -> bool:
        """Whether this is a later try of the same task instance."""
        return other is not None and self.instance == other.instance and self.try_number > other.try_number

    def ended(self) -> bool:
        """Whether the process is known to have ended; False for one of another machine."""
        machine, _, started = self.process.rpartition(" ")
        return machine == _machine() and _started(self.pid) not in {started, None}

    def __str__(self) -> str:
        index = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return (
            f"task {self.task_id}{index} of DAG {self.dag_id}, run {self.run_id}, try {self.try_number} "
            f"(process {self.pid} on {self.host})"
        )


def _machine() -> str:
    """Identifies the boot and the container, within which a process id is unique."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """When a process started, in ticks since the boot; empty if it has ended, None if that cannot be read."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        pass
    except (OSError, OverflowError):
        return ""
    try:
        # The name may hold spaces and brackets. After it: the state, and 19 fields later the start.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return "" if fields[0] in {"Z", "X"} else fields[19]


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """The content of a lease file."""

    holder: Holder | None  # None: unreadable, e.g. written in part; it counts as held
    nonce: str  # random, new for each acquisition
    heartbeat: int = 0
    since: str = ""  # by the holder's clock, for messages
    released: bool = False

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> LeaseRecord:
        """Parse a file; any content counts as a record."""
        try:
            plain = json.loads(data)
            return cls(**plain | {"holder": Holder(**plain["holder"])})
        except (ValueError, TypeError, KeyError, AttributeError):
            return cls(None, f"unreadable: {data!r}")

    def __str__(self) -> str:
        return (
            f"{self.holder or 'a task whose lease cannot be read'}, since {self.since or 'an unknown time'}"
        )


# -- decisions, without I/O ----------------------------------------------------------------------------


class ReadNewest(NamedTuple):
    """Command: find the largest number, and read its file if ``read``."""

    read: bool = True


class Create(NamedTuple):
    """Command: create a file if it is absent. The next :class:`ReadNewest` shows whether it was."""

    number: int
    claim: LeaseRecord


class Write(NamedTuple):
    """Command: replace this task's file."""

    number: int
    claim: LeaseRecord


class Sleep(NamedTuple):
    """Command: wait."""

    seconds: float


class Newest(NamedTuple):
    """Reply to :class:`ReadNewest`; empty for the other commands."""

    number: int = 0  # 0: no file
    record: LeaseRecord | None = None
    ended: bool = False  # the holder's process is known to have ended


Command = ReadNewest | Create | Write | Sleep


def acquire(
    mine: LeaseRecord, *, wait_seconds: float, output: str, now: Callable[[], float]
) -> Generator[Command, Newest, int]:
    """Acquire the lease by the table above; returns its number."""
    started = now()
    last, unchanged_since, alive, logged_at = Newest(), started, False, float("-inf")
    while True:
        newest = yield ReadNewest()
        other, waited = newest.record, now() - started
        if other is not None and other.nonce == mine.nonce:
            return newest.number
        if other is None or other.released:
            pass
        elif newest.ended or (mine.holder is not None and mine.holder.follows(other.holder)):
            log.info("%s: taking the lease over from %s.", output, other)
        else:
            if newest != last:
                alive, last, unchanged_since = last.record is not None, newest, now()
            if (left := unchanged_since + TTL_SECONDS - now()) > 0:
                if alive and waited >= wait_seconds:
                    raise OutputBusyError(
                        f"{output} is being written by {other} (waited {waited:.0f} s). Only one run can write to an "
                        "output: wait until the other run ends, e.g. with max_active_runs=1, or set on_busy='wait' "
                        "and a longer busy_timeout."
                    )
                if waited >= min(POLL_SECONDS, wait_seconds) and now() - logged_at >= LOG_SECONDS:
                    logged_at = now()
                    log.info(
                        "%s is being written by %s; waited %.0f s of at most %.0f s.",
                        *(output, other, waited, wait_seconds),
                    )
                yield Sleep(min(POLL_SECONDS, left))
                continue
            log.info(
                "%s: no heartbeat for %.0f s; taking the lease over from %s.", output, TTL_SECONDS, other
            )
        yield Create(newest.number + 1, mine)


def renew(mine: LeaseRecord, number: int, *, output: str) -> Generator[Command, Newest, LeaseRecord]:
    """Write the next heartbeat; returns the new content of the file."""
    newest = (yield ReadNewest(read=False)).number
    if newest < number:
        raise OutputBusyError(
            f"{output}: the file of this task's lease in {LEASE}/ was removed. Nothing more is written; a retry "
            "resumes from the journal."
        )
    if newest > number:
        other = (yield ReadNewest()).record
        raise OutputBusyError(
            f"{output} is now written by {other or 'another task'}. This task did not renew its lease within "
            f"{TTL_SECONDS:.0f} s, or Airflow started another try of it. Nothing more is written."
        )
    mine = replace(mine, heartbeat=mine.heartbeat + 1)
    yield Write(number, mine)
    return mine


# -- I/O, which blocks ---------------------------------------------------------------------------------


class Lease:
    """
    The lease of one task. A thread renews it, also during a long listing or copy.

    :param output: URI of the folder to write to.
    :ivar number: larger than that of every earlier lease; the fencing token of the run's commits.
    """

    def __init__(self, output: str) -> None:
        self.output = output
        self.number = 0
        self._folder = below(output, LEASE)
        self._mine: LeaseRecord | None = None
        self._lost: OutputBusyError | None = None
        # One renewal at a time.
        self._lock = threading.Lock()
        self._renewed_at = 0.0
        self._released = threading.Event()

    def acquire(self, holder: Holder, wait_seconds: float) -> None:
        """
        Acquire the lease, and renew it until :meth:`release`.

        :param wait_seconds: for a holder that renews its lease; 0 to fail at once. A holder without a heartbeat is
            always waited for, ``TTL_SECONDS``.
        :raises InputError: the storage cannot create a file conditionally.
        :raises OutputBusyError: another task holds the lease.
        :raises StorageError: the lease cannot be read or written.
        """
        mine = LeaseRecord(holder, uuid.uuid4().hex, since=datetime.now(UTC).isoformat(timespec="seconds"))
        self._mine, self._lost, self.number = mine, None, 0
        try:
            steps = acquire(mine, wait_seconds=wait_seconds, output=self.output, now=time.monotonic)
            self.number = self._perform(steps)
        except BaseException:
            # The file may have been created.
            self.release()
            raise
        self._renewed_at, self._released = time.monotonic(), threading.Event()
        threading.Thread(
            target=self._renew_periodically, args=(self._released,), name="lucidworks-lease", daemon=True
        ).start()

    def renew(self) -> None:
        """
        Write a heartbeat, and check that the lease is still held; also called before each commit.

        :raises OutputBusyError: the lease is lost.
        :raises StorageError: the lease cannot be read or written.
        """
        with self._lock:
            if self._lost is not None:
                raise self._lost
            if self._mine is None:
                raise OutputBusyError(f"{self.output}: this task does not hold the lease.")
            began = time.monotonic()
            try:
                self._mine = self._perform(renew(self._mine, self.number, output=self.output))
            except OutputBusyError as err:
                self._lost = err
                raise
            self._renewed_at = began

    def release(self) -> None:
        """Release the lease; never raises, as an unreleased lease expires."""
        self._released.set()
        with self._lock:
            mine, self._mine = self._mine, None
            if mine is None or self._lost is not None or not self.number:
                return
            uri = self._uri(self.number)
            try:
                if (data := read_file(uri)) is not None and LeaseRecord.from_json(data).nonce == mine.nonce:
                    write_file(uri, replace(mine, released=True).to_json())
                    discard(*(self._uri(number) for number in self._numbers() if number < self.number))
            except StorageError as err:
                log.warning("The lease could not be released and expires in %.0f s: %s", TTL_SECONDS, err)

    def _renew_periodically(self, released: threading.Event) -> None:
        # The storage's connection was read by acquire(); a plain thread must not request it from Airflow.
        while not released.wait(max(RENEW_SECONDS / 15, self._renewed_at + RENEW_SECONDS - time.monotonic())):
            if time.monotonic() - self._renewed_at < RENEW_SECONDS:
                continue
            try:
                self.renew()
            except OutputBusyError:  # the task's next renewal raises it
                return
            except StorageError as err:
                log.warning("Renewing the lease failed, next attempt in %.0f s: %s", RENEW_SECONDS / 15, err)

    def _perform(self, steps: Generator[Command, Newest, T]) -> T:
        try:
            command = next(steps)
            while True:
                command = steps.send(self._reply(command))
        except StopIteration as stop:
            return cast("T", stop.value)

    def _reply(self, command: Command) -> Newest:
        match command:
            case ReadNewest(read):
                policy = retry_on(
                    StorageError,
                    attempts=READ_ATTEMPTS,
                    wait=wait_fixed(POLL_SECONDS),
                    what=f"Reading the lease of {self.output}",
                )
                newest: Newest = Retrying(**policy)(self._read_newest, read)
                return newest
            case Create(number, record):
                self._create(number, record)
            case Write(number, record):
                write_file(self._uri(number), record.to_json())
            case Sleep(seconds):
                time.sleep(seconds)
        return Newest()

    def _read_newest(self, read: bool) -> Newest:
        number = max(self._numbers(), default=0)
        if not number or not read or (data := read_file(self._uri(number))) is None:
            return Newest(number)
        record = LeaseRecord.from_json(data)
        return Newest(number, record, record.holder is not None and record.holder.ended())

    def _create(self, number: int, record: LeaseRecord) -> None:
        uri, self.number = self._uri(number), number
        # A second creation succeeds only on a storage that ignores the condition.
        if create_file(uri, record.to_json()) and create_file(uri, replace(record, heartbeat=1).to_json()):
            discard(uri)
            raise InputError(
                f"{self.output}: this storage ignores conditional creation (If-None-Match), so two runs could write "
                "at once. Nothing was sent. Supported: a local disk, gcsfs, adlfs, and s3fs 2025.2 or newer with a "
                "server that supports If-None-Match."
            )

    def _numbers(self) -> list[int]:
        return [int(name[:8]) for name in names_in(self._folder) if re.fullmatch(r"\d{8}\.json", name)]

    def _uri(self, number: int) -> str:
        return f"{self._folder}/{number:08}.json"
