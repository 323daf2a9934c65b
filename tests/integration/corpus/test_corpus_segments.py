# SPDX-License-Identifier: Apache-2.0
"""What a run is made of, each by itself: the journal, the window, the slots, the guess at job times."""

import asyncio
import errno
import math
import random
import sqlite3
import tempfile
import threading
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from lucidworks_provider.corpus import journal as journal_module
from lucidworks_provider.corpus import pipeline
from lucidworks_provider.corpus.journal import Journal, SegmentKey
from lucidworks_provider.corpus.pipeline import (
    MOST_INTENTS,
    BodyBudget,
    InFlightLimit,
    Intents,
    PollDelayEstimator,
)
from lucidworks_provider.corpus.plan import INLINE, Candidate, SegmentRequest
from lucidworks_provider.corpus.run_database import SAME, Row, RunDatabase
from lucidworks_provider.documents.document import Document
from lucidworks_provider.errors import InputError, StorageError
from lucidworks_provider.jobs.decisions import next_wait
from lucidworks_provider.storage import write_file


def key(document: str) -> SegmentKey:
    return SegmentKey(document, "hash", 0, 10)


def begun(output: Path) -> Journal:
    journal = Journal(str(output))
    journal.begin({"chunker": "x"})
    return journal


class Disk:
    """Full for so many writes."""

    def __init__(self, full_for: float = math.inf) -> None:
        self.full_for = full_for

    def __call__(self, uri: str, data: Sequence[bytes]) -> None:
        self.full_for -= 1
        if self.full_for >= 0:
            raise StorageError("no space left")
        write_file(uri, data)


async def waiting(call: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """It does not end at once."""
    task = asyncio.create_task(call)
    await asyncio.sleep(0)
    assert not task.done()
    return task


def logs(output: Path) -> list[Path]:
    return list(output.glob("journal/*/*-work.log"))


def reopened(output: Path) -> Journal:
    """As the next process finds it."""
    journal = Journal(str(output))
    assert journal.head() is not None
    return journal


class TestJournal:
    async def test_what_was_flushed_is_found_by_the_next_process(self, tmp_path: Path) -> None:
        journal = begun(tmp_path)
        journal.submitted(key("a"), "job a")
        journal.append("failed", ["b", "hash", "refused", "no", 1])
        writing = asyncio.create_task(journal.write_groups())
        place = await journal.write_body(key("a"), "job a", b'{"x":\n1}')
        writing.cancel()
        await asyncio.wait([writing])

        found = reopened(tmp_path)
        records = list(found.load())
        assert (found.head() or {})["options"] == {"chunker": "x"}
        assert [record.kind for record in records] == ["submitted", "body", "failed"]
        assert records[0].key == records[1].key == key("a")
        assert records[1].location == place
        assert found.body(place) == b'{"x":\n1}'

    async def test_nothing_counts_as_kept_before_it_is_stored(self, tmp_path: Path) -> None:
        journal = begun(tmp_path)
        written = await waiting(journal.write_body(key("a"), "job a", b"{}"))
        await asyncio.sleep(0.05)
        assert not written.done()
        await journal.flush()
        await written

    @pytest.mark.parametrize("cut", [1, 5, 30])
    async def test_a_torn_file_counts_up_to_the_tear(self, tmp_path: Path, cut: int) -> None:
        journal = begun(tmp_path)
        journal.submitted(key("a"), "job a")
        journal.submitted(key("b"), "job b")
        await journal.flush()
        (file,) = logs(tmp_path)
        jobs, _, _ = file.read_bytes().partition(b'{"kind": "sent"')
        file.write_bytes(jobs[:-cut])

        assert [record.job for record in reopened(tmp_path).load()] == ["job a"]

    async def test_files_go_when_no_document_needs_them(self, tmp_path: Path) -> None:
        journal = begun(tmp_path)
        for documents in ("ab", "bc"):
            for document in documents:
                journal.submitted(key(document), document)
            await journal.flush()
        for document, left in (("a", 2), ("b", 1), ("c", 0)):
            journal.delete(journal.unreferenced([document]))
            assert len(logs(tmp_path)) == left

    async def test_a_follower_does_not_overwrite(self, tmp_path: Path) -> None:
        first, second = begun(tmp_path), reopened(tmp_path)
        for journal, job in ((first, "one"), (second, "two")):
            journal.submitted(key("a"), job)
            await journal.flush()
        assert {record.job for record in reopened(tmp_path).load()} == {"one", "two"}

    async def test_a_disk_that_is_full_for_a_moment(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        journal = begun(tmp_path)
        monkeypatch.setattr(journal_module, "write_file", Disk(full_for=2))
        journal.submitted(key("a"), "job a")
        await journal.flush()
        assert [record.job for record in reopened(tmp_path).load()] == ["job a"]

    async def test_what_could_not_be_written_is_written_later_in_its_order(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        disk = Disk()
        journal = begun(tmp_path)
        monkeypatch.setattr(journal_module, "write_file", disk)
        for document in "ab":
            journal.submitted(key(document), f"job {document}")
            written = await waiting(journal.write_body(key(document), f"job {document}", document.encode()))
            with pytest.raises(StorageError):
                await journal.write("failed", [document])
            with pytest.raises(StorageError):
                await written
        disk.full_for = 0
        journal.append("end", None)
        await journal.flush()
        found = reopened(tmp_path)
        records = list(found.load())
        assert [record.kind for record in records] == [*["submitted", "body", "failed"] * 2, "end"]
        bodies = [record.location for record in records if record.location is not None]
        assert [found.body(place) for place in bodies] == [b"a", b"b"]

    async def test_an_interrupted_write_that_succeeds_later_counts_once(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        began, go_on = threading.Event(), threading.Event()

        def slow(uri: str, data: Sequence[bytes]) -> None:
            began.set()
            go_on.wait(10)
            write_file(uri, data)

        journal = begun(tmp_path)
        monkeypatch.setattr(journal_module, "write_file", slow)
        writing = asyncio.create_task(journal.write("part", {"data": "a"}))
        await asyncio.to_thread(began.wait, 10)
        writing.cancel()
        asyncio.get_running_loop().call_later(0.05, go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await writing
        await journal.flush()
        go_on.set()
        await asyncio.sleep(0.1)
        assert [record.value for record in reopened(tmp_path).load()] == [{"data": "a"}]

    async def test_a_failed_write_raises_in_its_waiters(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        journal = begun(tmp_path)
        monkeypatch.setattr(journal_module, "write_file", Disk())
        written = await waiting(journal.write_body(key("a"), "job a", b"{}"))
        with pytest.raises(StorageError):
            await journal.flush()
        with pytest.raises(StorageError):
            await written


class TestIntents:
    """How many intents there are ahead of the submissions."""

    @pytest.mark.parametrize(
        ("submitted", "waited", "ahead"),
        [(40, False, 50), (40, True, 80), (20, False, 25), (MOST_INTENTS, True, MOST_INTENTS)],
    )
    async def test_as_many_as_are_submitted_until_the_next_group(
        self, tmp_path: Path, submitted: int, waited: bool, ahead: int
    ) -> None:
        journal = begun(tmp_path)
        intents = Intents(journal)
        unsent: list[SegmentKey] = []
        group: asyncio.Future[str] | None = None
        for number in range(8):
            with suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    while True:
                        name = f"{number}-{len(unsent)}"
                        segment = SegmentRequest(key(name), "text")
                        group = await intents.add(
                            Candidate(Document(name, "text"), "hash", INLINE, (segment,))
                        )
                        unsent.append(segment.key)
            last = len(unsent)
            stored = asyncio.create_task(intents.stored(group if waited else None))
            await asyncio.sleep(0)
            await journal.flush()
            await stored
            for one in unsent[:submitted]:
                assert not intents.begin(one)
            del unsent[:submitted]
        assert last == ahead

    async def test_those_that_were_not_submitted_are_withdrawn(self, tmp_path: Path) -> None:
        journal = begun(tmp_path)
        for name, again in (("a", False), ("b", True), ("c", False)):
            journal.intend(key(name), again=again)
        journal.submitted(key("a"), "job a")
        await journal.flush()
        journal.withdraw(key("b"), again=True)
        journal.withdraw(key("c"), again=False)
        await journal.flush()

        found = reopened(tmp_path)
        kinds = [(record.kind, record.key.document_id) for record in found.load() if record.key]
        assert kinds[3:] == [("submitted", "a"), ("withdrawn", "b"), ("withdrawn", "c")]
        assert (found.submissions, found.resubmissions) == (1, 0)


class TestWindow:
    async def test_grows_with_what_ends_up_to_the_most(self) -> None:
        window = InFlightLimit(pipeline.FIRST_WINDOW + 2)
        for _ in range(pipeline.FIRST_WINDOW):
            await window.acquire(1)
        acquired = await waiting(window.acquire(1))
        window.release(1)
        await acquired
        await asyncio.wait_for(window.acquire(1), 1)
        assert window.in_flight == pipeline.FIRST_WINDOW + 1

    async def test_one_document_of_any_size_is_let_in(self) -> None:
        window = InFlightLimit(10)
        await asyncio.wait_for(window.acquire(pipeline.TEXT_BYTES * 2), 1)
        (await waiting(window.acquire(1))).cancel()


class TestSlots:
    async def test_fewer_for_large_bodies(self) -> None:
        slots = BodyBudget()
        for _ in range(200):
            slots.observe(100)
        assert slots.limit == pipeline.MOST_GETS
        slots.observe(12_000_000)
        assert slots.limit == pipeline.LEAST_GETS

    async def test_bodies_that_wait_for_their_part_hold_up_the_next(self) -> None:
        slots = BodyBudget()
        slots.hold(pipeline.BODY_BYTES)
        entered = await waiting(slots.__aenter__())
        slots.release(pipeline.BODY_BYTES)
        await asyncio.wait_for(entered, 1)

    async def test_first_come_first_served_and_none_is_lost_by_a_cancellation(self) -> None:
        slots = BodyBudget()
        for _ in range(slots.limit):
            await slots.__aenter__()
        entered = [await waiting(slots.__aenter__()) for _ in range(3)]
        entered[0].cancel()
        await slots.__aexit__()
        await asyncio.sleep(0)
        assert [one.done() for one in entered[1:]] == [True, False]
        # Cancelled in the very moment in which its turn comes.
        await slots.__aexit__()
        entered[2].cancel()
        await asyncio.sleep(0)
        await asyncio.wait_for(slots.__aenter__(), 1)


@pytest.mark.parametrize("seconds", [0.2, 3.0, 25.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_first_poll_learns_how_long_jobs_take(
    monkeypatch: pytest.MonkeyPatch, seconds: float, seed: int
) -> None:
    monkeypatch.setattr(pipeline, "FIRST_DELAY", 0.5)
    monkeypatch.setattr(pipeline, "SHORTEST_DELAY", 0.05)
    draw = random.Random(seed)
    times = PollDelayEstimator(60.0)
    in_vain = waited = 0.0
    flying: list[tuple[float, float]] = []
    for number in range(6000):
        # Hundreds are on their way with the wait of before.
        flying.append((times.first_wait(draw.random), seconds * draw.uniform(0.8, 1.2)))
        if len(flying) < 300:
            continue
        wait, takes = flying.pop(0)
        if wait >= takes:
            times.ready(wait)
        else:
            polled = wait
            while (later := polled + next_wait(polled, 60.0, draw.random, first=0.05)) < takes:
                polled = later
            times.late(polled)
        if number >= 4000:
            in_vain += wait < takes
            waited += max(0.0, wait - takes)
    assert in_vain / 2000 < 0.2
    assert waited / 2000 < seconds


def test_a_transaction_keeps_what_was_written_before_a_failure() -> None:
    with RunDatabase() as db:
        with suppress(InputError), db.transaction():
            db.add_to_source("a", SAME)
            raise InputError("two documents have one id")
        db.add_new([Row("a", "h", 1, "s", "f", 1, "p", 1, 7)])
        assert db.count("SELECT count(*) FROM source JOIN new ON new.id = source.id") == 1


USES: list[Callable[[RunDatabase, int], object]] = [
    lambda db, n: db.run("INSERT INTO source VALUES (?, 0)", f"{n:0500}"),
    lambda db, n: db.add_to_source(f"{n:0500}", SAME),
    lambda db, n: db.add_new([Row(f"{n:0500}", "h", 1, "s", "f", 1, "p", 1, 7)]),
    lambda db, n: list(db.rows("INSERT INTO source VALUES (?, 0) RETURNING id", f"{n:0500}")),
]


@pytest.mark.parametrize("use", USES)
def test_a_full_temporary_disk_is_an_error_that_names_it(use: Callable[[RunDatabase, int], object]) -> None:
    with RunDatabase() as db:
        db.run("PRAGMA max_page_count = 60")
        message = rf"disk is full\. Its folder on this machine is {tempfile.gettempdir()};.* set TMPDIR"

        def fill() -> None:
            with db.transaction():
                for n in range(10_000):
                    use(db, n)

        with pytest.raises(StorageError, match=message):
            fill()
        # Errors of statements are not about the disk.
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            db.run("SELECT * FROM unknown_table")


def test_no_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        tempfile, "mkdtemp", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    )
    with pytest.raises(StorageError, match=r"No space left on device\. .* set TMPDIR"):
        RunDatabase()


def test_rows_of_a_query_are_read_while_others_write() -> None:
    with RunDatabase() as db:
        db.add_new(Row(str(n), "h", 1, "s", "f", 1, "p", n, 7) for n in range(5000))
        seen = 0
        for row in db.rows("SELECT id FROM new"):
            db.add_to_source(row[0], SAME)
            seen += 1
        assert seen == db.count("SELECT count(*) FROM source") == 5000
        assert db.add_to_source("1", SAME) is False
