# SPDX-License-Identifier: Apache-2.0
"""
One writer for an output: a late nightly run and a backfill must not write into each other.

``lease.json`` beside the dataset says who writes: ``{holder, nonce, beat}``. The holder moves the beat every
``RENEW`` seconds. Hosts have clocks that differ, so no time in it is compared with anything: who watches a beat
that does not move for ``TTL`` seconds of the watcher's own monotonic clock takes its holder for dead.

===========================================  ==========================================================
what stands there                            what a task does that wants to write
===========================================  ==========================================================
nothing, or a claim that was released        claim
an earlier try of the same task instance     claim: Airflow has given that one up (``kill -9``, and a retry)
a process of this machine that has ended     claim
a beat that moves                            wait and look again, or fail, naming the holder
a beat that does not move                    watch it for ``TTL``; then claim, whatever ``wait`` allows
===========================================  ==========================================================

To claim is to write, to wait ``SETTLE``, and to read back; stores have no compare-and-set, so of several writers
the last one stands, and the others find that out and start from the top. That is Fischer's timed mutex: it is
right as long as nobody needs longer than ``SETTLE`` from its look to the end of its write. Who notices that it
needed longer waits until a holder that it may have overwritten has noticed too (``NOTICE``).

A holder that was taken for dead, or an earlier try that still lives, finds another's claim at its next renewal
and stops with :class:`~lucidworks_provider.errors.OutputBusyError`. It must renew right before it commits as well:
what remains is the moment between that and the replacement of ``snapshot.json``.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar, cast

from lucidworks_provider.corpus.holder import Holder
from lucidworks_provider.documents.dataset import LEASE, below
from lucidworks_provider.errors import OutputBusyError, StorageError
from lucidworks_provider.storage import read_file, remove_file, write_file

__all__ = ["Holder", "Lease"]

log = logging.getLogger(__name__)
T = TypeVar("T")

# Seconds. Three renewals may be late or fail before anybody takes the holder for dead.
RENEW = 15.0
TTL = 60.0
# More than a look and a write take on a store that is well: 0.2 s on S3.
SETTLE = 1.0
# Longer than a holder needs to renew, and to hear that it lost.
NOTICE = 20.0
# Between two looks at a lease that another one holds, and between two sentences about that.
LOOK = 2.0
SAY = 60.0
# How often a read that fails is tried; a wait of an hour must not end with one of them.
READS = 3
# Between two renewals that fail.
_BREATH = 1.0


@dataclass(frozen=True, slots=True)
class Claim:
    """
    The content of the file.

    :param holder: None for a file that this version cannot read: somebody's, all the same.
    :param nonce: random, of one acquisition.
    :param beat: grows while the holder lives.
    :param since: when it was acquired, by the holder's clock; for people only.
    :param released: the holder has ended, and the storage did not allow to remove the file.
    """

    holder: Holder | None
    nonce: str
    beat: int = 0
    since: str = ""
    released: bool = False

    def moved(self) -> Claim:
        """One beat later."""
        return replace(self, beat=self.beat + 1)

    def to_json(self) -> bytes:
        """For storage."""
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Claim:
        """Whatever the file holds, it is a claim: one that cannot be read is named by its content."""
        try:
            plain = json.loads(data)
            claim = cls(**plain | {"holder": Holder(**plain["holder"])})
            if isinstance(claim.nonce, str) and isinstance(claim.holder.try_number, int):  # type: ignore[union-attr]
                return claim
        except (ValueError, TypeError, KeyError):
            pass
        return cls(None, f"unreadable-{hashlib.sha256(data).hexdigest()}")

    def __str__(self) -> str:
        return (
            f"{self.holder or 'somebody whose lease cannot be read'}, since {self.since or 'an unknown time'}"
        )


# -- the decisions: values only ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Read:
    """Command: read the lease. Reply: :class:`Seen`."""


@dataclass(frozen=True, slots=True)
class Write:
    """Command: write a claim over whatever stands there."""

    claim: Claim


@dataclass(frozen=True, slots=True)
class Pause:
    """Command: let time pass, in seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Say:
    """Command: tell whoever reads the log."""

    text: str


@dataclass(frozen=True, slots=True)
class Seen:
    """
    Reply to :class:`Read`.

    :param ended: the process of the claim is known to be gone.
    """

    claim: Claim | None = None
    ended: bool = False


Command = Read | Write | Pause | Say
Conversation = Generator[Command, Seen | None, None]
Renewal = Generator[Command, Seen | None, Claim]


@dataclass
class _Watch:
    """Another's claim, as it was seen over time."""

    claim: Claim | None = None
    since: float = 0.0
    moved: bool = False

    def see(self, claim: Claim, now: float) -> None:
        """It stands there now."""
        if claim != self.claim:
            # Whatever is written anew was written by somebody who lives.
            self.moved = self.claim is not None
            self.claim, self.since = claim, now

    def dead(self, now: float) -> bool:
        """Whether it has stood still for too long."""
        return now - self.since >= TTL


def acquire(mine: Claim, *, wait_seconds: float, output: str, now: Callable[[], float]) -> Conversation:
    """
    Become the writer, as the table above says.

    :param wait_seconds: how long to wait for a holder that lives; 0 to fail as soon as it is seen alive.
    :param output: for messages.
    :param now: a monotonic clock, in seconds.
    :raises OutputBusyError: another one holds it.
    """
    watch, started, said = _Watch(), now(), float("-inf")
    while True:
        looked = now()
        seen = yield Read()
        assert seen is not None  # noqa: S101
        if seen.claim is not None and seen.claim.nonce == mine.nonce:
            return
        if (other := seen.claim) is not None and not _may_take(mine, seen):
            watch.see(other, now())
            if not watch.dead(now()):
                waited = now() - started
                if watch.moved and waited >= wait_seconds:
                    raise _busy(output, other, waited)
                if waited >= min(LOOK, wait_seconds) and now() - said >= SAY:
                    said = now()
                    yield Say(_waiting(output, other, waited, wait_seconds))
                yield Pause(LOOK)
                continue
            yield Say(f"{output}: its lease has not moved for {TTL:.0f} s; taking it over from {other}.")
        elif other is not None:
            yield Say(f"{output}: taking its lease over from {other}.")
        yield Write(mine)
        # Overwritten by us or not: whatever happens to the claim from here on is seen by reading it back.
        yield Pause(SETTLE if now() - looked < SETTLE else NOTICE)


def _may_take(mine: Claim, seen: Seen) -> bool:
    """Whether another's claim is no obstacle, whatever its beat does."""
    assert seen.claim is not None  # noqa: S101
    return seen.ended or (mine.holder is not None and mine.holder.follows(seen.claim.holder))


def renew(mine: Claim, *, renewed_at: float, output: str, now: Callable[[], float]) -> Renewal:
    """
    Move the beat of the lease that is held.

    :param renewed_at: when it was moved last.
    :return: what stands there now.
    :raises OutputBusyError: it is held no more. That nothing is there is no reassurance: another one may have
        taken over, have come to its end and gone while this process stood still.
    """
    looked = now()
    _check_held(mine, (yield Read()), output)
    mine = mine.moved()
    yield Write(mine)
    if now() - looked >= SETTLE:
        # Written blindly, perhaps over another's claim.
        if now() - renewed_at >= TTL:
            raise OutputBusyError(
                f"{output}: this process stood still for {now() - renewed_at:.0f} s, in which another one may have "
                "taken over. Nothing more is written; a retry goes on from what has been kept."
            )
        # A later try of this task would have taken it back by then.
        yield Pause(NOTICE)
        _check_held(mine, (yield Read()), output)
    return mine


def _check_held(mine: Claim, seen: Seen | None, output: str) -> None:
    there = seen.claim if seen is not None else None
    if there is None:
        raise OutputBusyError(
            f"{output}: this task's lease is gone. Somebody removed {LEASE}, or another run took over while this "
            "process stood still. Nothing more is written; a retry goes on from what has been kept."
        )
    # An earlier try may have written in the moment before it looked again.
    if there.nonce != mine.nonce and not (mine.holder and mine.holder.follows(there.holder)):
        raise OutputBusyError(
            f"{output} is now written by {there}. This task did not renew its lease within {TTL:.0f} s, or Airflow "
            "started another try of it. Nothing more is written."
        )


def _busy(output: str, other: Claim, waited: float) -> OutputBusyError:
    return OutputBusyError(
        f"{output} is being written by {other} (waited {waited:.0f} s). Two runs must not write into each other: "
        "let it end, e.g. with max_active_runs=1, or set on_busy='wait' and a longer busy_timeout."
    )


def _waiting(output: str, other: Claim, waited: float, wait_seconds: float) -> str:
    return (
        f"{output} is being written by {other}; waited {waited:.0f} s for it, at most {wait_seconds:.0f} s."
    )


# -- the shell: blocks, so on an event loop it runs in a thread ----------------------------------------


class Lease:
    """
    This task's right to write into an output. A thread of its own moves the beat, so that neither a long listing
    nor a long copy looks like a death.

    :param output: the dataset's folder.
    """

    def __init__(self, output: str) -> None:
        self.output = output
        self._uri = below(output, LEASE)
        self._mine: Claim | None = None
        self._lost: OutputBusyError | None = None
        # One renewal at a time.
        self._lock = threading.Lock()
        self._renewed_at = 0.0
        self._released = threading.Event()

    def acquire(self, holder: Holder, wait_seconds: float) -> None:
        """
        Become the writer.

        :param wait_seconds: how long to wait for another that lives; 0 for not at all. One that does not move is
            watched for ``TTL`` in any case.
        :raises OutputBusyError: another one writes.
        :raises StorageError: the lease cannot be read or written.
        """
        since = datetime.now(UTC).isoformat(timespec="seconds")
        mine = Claim(holder, uuid.uuid4().hex, since=since)
        try:
            self._perform(acquire(mine, wait_seconds=wait_seconds, output=self.output, now=time.monotonic))
            self._mine, self._lost, self._renewed_at = mine, None, time.monotonic()
        except BaseException:
            # The task is being stopped, and may have claimed already.
            self._mine = mine
            self.release()
            raise
        self._released = threading.Event()
        threading.Thread(
            target=self._keep, args=(self._released,), name="lucidworks-lease", daemon=True
        ).start()

    def renew(self) -> None:
        """
        Move the beat, and so find out whether it is still there: now and then, and right before a commit.

        :raises OutputBusyError: another one writes now; stop.
        :raises StorageError: whether that is so cannot be read.
        """
        with self._lock:
            if self._lost is not None:
                raise self._lost
            if self._mine is None:
                raise OutputBusyError(f"{self.output}: this task does not hold the lease.")
            began = time.monotonic()
            steps = renew(self._mine, renewed_at=self._renewed_at, output=self.output, now=time.monotonic)
            try:
                self._mine = self._perform(steps)
            except OutputBusyError as err:
                self._lost = err
                raise
            self._renewed_at = began

    def release(self) -> None:
        """Let the next one in. Never raises: what is left behind is found dead."""
        self._released.set()
        with self._lock:
            mine, self._mine = self._mine, None
            if mine is None:
                return
            try:
                there = self._read()
                if there is not None and there.nonce == mine.nonce:
                    self._remove(mine)
            except StorageError as err:
                log.warning("The lease could not be released, and expires after %.0f s: %s", TTL, err)

    def _remove(self, mine: Claim) -> None:
        try:
            remove_file(self._uri)
        except StorageError:
            # Not every storage that can be written allows a deletion.
            write_file(self._uri, replace(mine, released=True).to_json())

    def _keep(self, released: threading.Event) -> None:
        """In the thread: what it finds out, the next :meth:`renew` raises."""
        # The storage's connection was read when the lease was acquired; a plain thread must not ask Airflow for it.
        while not released.wait(max(0.0, self._renewed_at + RENEW - time.monotonic()) or _BREATH):
            if time.monotonic() < self._renewed_at + RENEW:
                continue
            try:
                self.renew()
            except OutputBusyError as err:
                if not released.is_set():
                    log.error("%s", err)
                return
            except StorageError as err:
                log.warning("The lease could not be renewed, trying again: %s", err)

    def _perform(self, conversation: Generator[Command, Seen | None, T]) -> T:
        reply: Seen | None = None
        while True:
            try:
                command = conversation.send(reply)
            except StopIteration as stop:
                return cast("T", stop.value)
            reply = None
            match command:
                case Read():
                    claim = self._read()
                    reply = Seen(claim, bool(claim and claim.holder and claim.holder.ended()))
                case Write(claim):
                    write_file(self._uri, claim.to_json())
                case Pause(seconds):
                    time.sleep(seconds)
                case Say(text):
                    log.info("%s", text)

    def _read(self) -> Claim | None:
        for last in (*(False,) * (READS - 1), True):
            try:
                data = read_file(self._uri)
                claim = Claim.from_json(data) if data is not None else None
                return None if claim is None or claim.released else claim
            except StorageError:
                if last:
                    raise
                time.sleep(LOOK)
        raise AssertionError
