# SPDX-License-Identifier: Apache-2.0
"""
One writer for an output: a late nightly run and a backfill must not write into each other.

``lease/NNNNNNNN.json`` holds ``{holder, nonce, beat, since, released}``; the file with the largest number counts. A
task acquires the lease by creating the next number, which the storage allows to one task only.

===========================================  ============================================================
newest file                                  a task that wants to write
===========================================  ============================================================
none, or released                            creates the next number
an earlier try of the same task instance     creates the next number: Airflow has given that try up
a process of this machine that has ended     creates the next number
a beat that moves                            waits, or fails and names the holder
a beat that has not moved for ``TTL``        creates the next number, whatever ``wait_seconds`` is
===========================================  ============================================================

Clocks of hosts differ: ``TTL`` is measured by the monotonic clock of the process that watches the beat. Only its
holder rewrites a file. A renewal that finds a larger number, or its file removed, ends the holder's work.

The newest file is never removed, so numbers only grow. A process that was suspended between its listing and its
creation may create a number that was used and removed; the listing that follows each creation shows a larger one.
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

from lucidworks_provider.errors import InputError, OutputBusyError, StorageError
from lucidworks_provider.retrying import retry_on
from lucidworks_provider.storage import create_file, discard, names_in, read_file, write_file

log = logging.getLogger(__name__)
T = TypeVar("T")

# The folder below the output.
LEASE = "lease"
# Seconds. Three renewals may be late or fail before the holder counts as dead.
RENEW, TTL = 15.0, 60.0
# Between two looks at a lease that another task holds, and between two log messages about that.
LOOK, SAY = 2.0, 60.0
# One failed read must not end a wait of an hour.
READ_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Holder:
    """A try of a task instance, and the process that it runs in."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int
    host: str  # for people
    pid: int
    process: str = ""  # boot, container and start time: what distinguishes it from others with its number

    @classmethod
    def here(cls, *, dag_id: str, run_id: str, task_id: str, map_index: int, try_number: int) -> Holder:
        """A try in this process."""
        process = f"{_machine()} {_started(pid := os.getpid())}"
        return cls(dag_id, run_id, task_id, map_index, try_number, socket.gethostname(), pid, process)

    @property
    def instance(self) -> tuple[str, str, str, int]:
        """What all tries have in common."""
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
    """This boot of this machine and this container: where a process number is unique."""
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
class Claim:
    """The content of a file."""

    holder: Holder | None  # None: it cannot be read, e.g. was written in part; it counts as held
    nonce: str  # random, of one acquisition
    beat: int = 0
    since: str = ""  # by the holder's clock, for people
    released: bool = False

    def to_json(self) -> bytes:
        """For storage."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Claim:
        """Any content is a claim."""
        try:
            plain = json.loads(data)
            return cls(**plain | {"holder": Holder(**plain["holder"])})
        except (ValueError, TypeError, KeyError):
            return cls(None, f"unreadable: {data!r}")

    def __str__(self) -> str:
        return (
            f"{self.holder or 'a task whose lease cannot be read'}, since {self.since or 'an unknown time'}"
        )


# -- the decisions: values only ------------------------------------------------------------------------


class Look(NamedTuple):
    """Command: find the largest number, and read its file if ``read``."""

    read: bool = True


class Create(NamedTuple):
    """Command: create a file if it is absent. The next look shows whether it was."""

    number: int
    claim: Claim


class Write(NamedTuple):
    """Command: replace the own file."""

    number: int
    claim: Claim


class Pause(NamedTuple):
    """Command: wait."""

    seconds: float


class Seen(NamedTuple):
    """Reply to a command, of which only :class:`Look` fills it."""

    number: int = 0  # 0: there is no file
    claim: Claim | None = None
    ended: bool = False  # its process is known to have ended


Command = Look | Create | Write | Pause


def acquire(
    mine: Claim, *, wait_seconds: float, output: str, now: Callable[[], float]
) -> Generator[Command, Seen, int]:
    """Acquire the lease as the table above says; returns its number."""
    started = now()
    watched, still_since, moved, logged = Seen(), started, False, float("-inf")
    while True:
        seen = yield Look()
        other, waited = seen.claim, now() - started
        if other is not None and other.nonce == mine.nonce:
            return seen.number
        if other is None or other.released:
            pass
        elif seen.ended or (mine.holder is not None and mine.holder.follows(other.holder)):
            log.info("%s: taking its lease over from %s.", output, other)
        else:
            if seen != watched:
                moved, watched, still_since = watched.claim is not None, seen, now()
            if now() - still_since < TTL:
                if moved and waited >= wait_seconds:
                    raise OutputBusyError(
                        f"{output} is being written by {other} (waited {waited:.0f} s). Two runs must not write into "
                        "each other: let it end, e.g. with max_active_runs=1, or set on_busy='wait' and a longer "
                        "busy_timeout."
                    )
                if waited >= min(LOOK, wait_seconds) and now() - logged >= SAY:
                    logged, most = now(), wait_seconds
                    log.info(
                        "%s is being written by %s; waited %.0f s for it, at most %.0f s.",
                        *(output, other, waited, most),
                    )
                yield Pause(LOOK)
                continue
            log.info("%s: its lease has not moved for %.0f s; taking it over from %s.", output, TTL, other)
        yield Create(seen.number + 1, mine)


def renew(mine: Claim, number: int, *, output: str) -> Generator[Command, Seen, Claim]:
    """Move the beat of a lease; returns the new content of its file."""
    newest = (yield Look(read=False)).number
    if newest < number:
        raise OutputBusyError(
            f"{output}: this task's lease is gone. Its file in {LEASE}/ was removed. Nothing more is written; "
            "a retry continues with what has been kept."
        )
    if newest > number:
        other = (yield Look()).claim
        raise OutputBusyError(
            f"{output} is now written by {other or 'another task'}. This task did not renew its lease within "
            f"{TTL:.0f} s, or Airflow started another try of it. Nothing more is written."
        )
    mine = replace(mine, beat=mine.beat + 1)
    yield Write(number, mine)
    return mine


# -- the shell: blocks, so on an event loop it runs in a thread ----------------------------------------


class Lease:
    """
    A task's right to write into an output. A thread moves the beat, also during a long listing or copy.

    :param output: the dataset's folder.
    :ivar number: of the lease, larger than that of every earlier one: what fences a commit.
    """

    def __init__(self, output: str) -> None:
        self.output = output
        self.number = 0
        self._folder = f"{output.rstrip('/')}/{LEASE}"
        self._mine: Claim | None = None
        self._lost: OutputBusyError | None = None
        # One renewal at a time.
        self._lock = threading.Lock()
        self._renewed_at = 0.0
        self._released = threading.Event()

    def acquire(self, holder: Holder, wait_seconds: float) -> None:
        """
        Acquire the lease.

        :param wait_seconds: how long to wait for a holder that lives; 0 for not at all. A beat that does not move is
            watched for ``TTL`` in any case.
        :raises InputError: the storage cannot create a file only if it is absent.
        :raises OutputBusyError: another task holds it.
        :raises StorageError: it cannot be read or written.
        """
        mine = Claim(holder, uuid.uuid4().hex, since=datetime.now(UTC).isoformat(timespec="seconds"))
        self._mine, self._lost, self.number = mine, None, 0
        try:
            steps = acquire(mine, wait_seconds=wait_seconds, output=self.output, now=time.monotonic)
            self.number = self._perform(steps)
        except BaseException:
            # The task is being stopped, and may have created a file already.
            self.release()
            raise
        self._renewed_at, self._released = time.monotonic(), threading.Event()
        threading.Thread(
            target=self._keep, args=(self._released,), name="lucidworks-lease", daemon=True
        ).start()

    def renew(self) -> None:
        """
        Move the beat, and so find out whether the lease is still held: from time to time, and before a commit.

        :raises OutputBusyError: it is lost; stop.
        :raises StorageError: it cannot be read or written.
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
        """Release the lease. Never raises: a lease that is not released expires."""
        self._released.set()
        with self._lock:
            mine, self._mine = self._mine, None
            if mine is None or self._lost is not None or not self.number:
                return
            uri = self._uri(self.number)
            try:
                if (data := read_file(uri)) is not None and Claim.from_json(data).nonce == mine.nonce:
                    write_file(uri, replace(mine, released=True).to_json())
                    discard(*(self._uri(number) for number in self._numbers() if number < self.number))
            except StorageError as err:
                log.warning("The lease could not be released, and expires after %.0f s: %s", TTL, err)

    def _keep(self, released: threading.Event) -> None:
        # The storage's connection was read when the lease was acquired; a plain thread must not ask Airflow for it.
        while not released.wait(max(RENEW / 15, self._renewed_at + RENEW - time.monotonic())):
            if time.monotonic() - self._renewed_at < RENEW:
                continue
            try:
                self.renew()
            except OutputBusyError:  # the task's next renewal raises it
                return
            except StorageError as err:
                log.warning("The lease could not be renewed, trying again: %s", err)

    def _perform(self, steps: Generator[Command, Seen, T]) -> T:
        try:
            command = next(steps)
            while True:
                command = steps.send(self._reply(command))
        except StopIteration as stop:
            return cast("T", stop.value)

    def _reply(self, command: Command) -> Seen:
        match command:
            case Look(read):
                policy = retry_on(
                    StorageError,
                    attempts=READ_ATTEMPTS,
                    wait=wait_fixed(LOOK),
                    what=f"Reading the lease of {self.output}",
                )
                seen: Seen = Retrying(**policy)(self._look, read)
                return seen
            case Create(number, claim):
                self._create(number, claim)
            case Write(number, claim):
                write_file(self._uri(number), claim.to_json())
            case Pause(seconds):
                time.sleep(seconds)
        return Seen()

    def _look(self, read: bool) -> Seen:
        number = max(self._numbers(), default=0)
        if not number or not read or (data := read_file(self._uri(number))) is None:
            return Seen(number)
        claim = Claim.from_json(data)
        return Seen(number, claim, claim.holder is not None and claim.holder.ended())

    def _create(self, number: int, claim: Claim) -> None:
        uri, self.number = self._uri(number), number
        # A storage that ignores the condition replaces the file, and is found out by a second creation.
        if create_file(uri, claim.to_json()) and create_file(uri, replace(claim, beat=1).to_json()):
            discard(uri)
            raise InputError(
                f"{self.output}: this storage replaces a file that may only be created where there is none, so two "
                "runs could write at once. Nothing was sent. What works: a local disk, gcsfs, adlfs, and s3fs 2025.2 "
                "or newer with a server that supports If-None-Match."
            )

    def _numbers(self) -> list[int]:
        return [int(name[:8]) for name in names_in(self._folder) if re.fullmatch(r"\d{8}\.json", name)]

    def _uri(self, number: int) -> str:
        return f"{self._folder}/{number:08}.json"
