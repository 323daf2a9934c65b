# SPDX-License-Identifier: Apache-2.0
"""One writer for an output: the decisions by values, many tasks in virtual time, and the shell on real files."""

import errno
import heapq
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_store import memory_store

from lucidworks_provider import storage
from lucidworks_provider.corpus import lease
from lucidworks_provider.corpus.lease import (
    POLL_SECONDS,
    RENEW_SECONDS,
    TTL_SECONDS,
    Create,
    Holder,
    Lease,
    LeaseRecord,
    Newest,
    ReadNewest,
    Sleep,
    Write,
)
from lucidworks_provider.errors import InputError, OutputBusyError, StorageError

T = TypeVar("T")
ME = Holder("nightly", "monday", "chunk", -1, 1, "host-a", 11)
OTHER = Holder("backfill", "2026-01-01", "chunk", 3, 1, "host-b", 22)
MINE = LeaseRecord(ME, "mine")
THEIRS = LeaseRecord(OTHER, "theirs", since="2026-11-23T01:00:00+00:00")


class Conversation:
    """Drives the generator by hand, with a clock that only moves when it pauses."""

    def __init__(self, wait_seconds: float = 3600) -> None:
        self.time = 0.0
        self.number = 0
        self.steps = lease.acquire(
            MINE, wait_seconds=wait_seconds, output="s3://b/out", now=lambda: self.time
        )
        assert next(self.steps) == ReadNewest()

    def sees(self, number: int, claim: LeaseRecord | None = None, *, ended: bool = False) -> object:
        """Answer a read; return the next step, None if the lease is held."""
        try:
            done = self.steps.send(Newest(number, claim, ended))
            self.time += done.seconds if isinstance(done, Sleep) else 0
            assert self.steps.send(Newest()) == ReadNewest()
        except StopIteration as stop:
            self.number = stop.value
            return None
        return done


@pytest.mark.parametrize(
    "seen",
    [
        Newest(),
        Newest(7, replace(THEIRS, released=True)),
        Newest(7),
        Newest(7, replace(THEIRS, holder=replace(ME, try_number=0, host="elsewhere"))),
        Newest(7, THEIRS, ended=True),
    ],
    ids=["nothing", "released", "removed meanwhile", "an earlier try", "a process that has ended"],
)
def test_the_next_number_is_created_at_once(seen: Newest) -> None:
    talk = Conversation(0)
    assert talk.sees(*seen[:2], ended=seen.ended) == Create(seen.number + 1, MINE)
    assert talk.sees(seen.number + 1, MINE) is None
    assert (talk.time, talk.number) == (0, seen.number + 1)


def test_a_lost_race_is_a_wait_for_the_winner() -> None:
    talk = Conversation()
    assert talk.sees(0) == Create(1, MINE)
    assert talk.sees(1, THEIRS) == Sleep(POLL_SECONDS)
    assert talk.sees(1, replace(THEIRS, released=True)) == Create(2, MINE)


def test_an_old_number_that_is_created_again_is_not_the_lease() -> None:
    talk = Conversation()
    assert talk.sees(4, replace(THEIRS, released=True)) == Create(5, MINE)
    assert talk.sees(6, replace(THEIRS, released=True)) == Create(7, MINE)
    assert talk.sees(7, MINE) is None
    assert talk.number == 7


@pytest.mark.parametrize("claim", [THEIRS, LeaseRecord.from_json(b"torn")])
@pytest.mark.parametrize("wait_seconds", [0, 10, 3600])
def test_a_beat_that_does_not_move_expires_after_the_ttl(
    wait_seconds: float, claim: LeaseRecord, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    talk = Conversation(wait_seconds)
    while isinstance(done := talk.sees(3, claim), Sleep):
        assert done.seconds <= POLL_SECONDS
    assert done == Create(4, MINE)
    assert talk.time == pytest.approx(TTL_SECONDS)
    assert f"no heartbeat for {TTL_SECONDS:.0f} s; taking the lease over from {claim}" in caplog.text


def test_a_task_that_does_not_wait_fails_when_the_beat_moves() -> None:
    talk = Conversation(0)
    for _ in range(4):
        assert talk.sees(3, THEIRS) == Sleep(POLL_SECONDS)
    with pytest.raises(OutputBusyError) as caught:
        talk.sees(3, replace(THEIRS, heartbeat=1))
    assert caught.value.retryable
    assert str(caught.value).startswith(
        "s3://b/out is being written by task chunk[3] of DAG backfill, run 2026-01-01, try 1 (process 22 on "
        "host-b), since 2026-11-23T01:00:00+00:00 (waited 8 s)."
    )


def test_a_new_number_is_a_beat_that_moves() -> None:
    talk = Conversation(0)
    assert talk.sees(3, THEIRS) == Sleep(POLL_SECONDS)
    with pytest.raises(OutputBusyError, match="is being written by"):
        talk.sees(4, replace(THEIRS, nonce="of a third task"))


def test_a_task_that_waits_logs_it_now_and_then_and_gives_up_in_time(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    talk = Conversation(200)

    def watch() -> None:
        for heartbeat in count():
            talk.sees(3, replace(THEIRS, heartbeat=heartbeat))

    with pytest.raises(OutputBusyError, match="waited 200 s"):
        watch()
    assert len(caplog.messages) == 4
    assert all("run 2026-01-01" in text and "since 2026-11-23" in text for text in caplog.messages)


@pytest.mark.parametrize(
    ("change", "follows"),
    [
        ({"try_number": 2, "host": "host-c", "pid": 5}, True),
        ({"try_number": 0}, False),
        ({"pid": 99}, False),
        *(({"try_number": 2, name: "other"}, False) for name in ("dag_id", "run_id", "task_id", "map_index")),
    ],
)
def test_only_later_tries_of_the_same_instance_follow(change: dict[str, Any], follows: bool) -> None:
    assert replace(ME, **change).follows(ME) is follows
    assert not replace(ME, **change).follows(None)


def test_a_renewal_is_one_listing_and_one_write() -> None:
    steps = lease.renew(MINE, 3, output="out")
    assert next(steps) == ReadNewest(read=False)
    assert steps.send(Newest(3)) == Write(3, replace(MINE, heartbeat=1))
    with pytest.raises(StopIteration) as stop:
        steps.send(Newest())
    assert stop.value.value == replace(MINE, heartbeat=1)


@pytest.mark.parametrize(
    ("newest", "claim", "words"),
    [
        (4, THEIRS, "out is now written by task chunk"),
        (4, None, "out is now written by another task"),
        (2, None, "out: the file of this task's lease in lease/ was removed"),
        (0, None, "out: the file of this task's lease in lease/ was removed"),
    ],
)
def test_a_lost_lease_is_an_error_and_nothing_is_written(
    newest: int, claim: LeaseRecord | None, words: str
) -> None:
    steps = lease.renew(MINE, 3, output="out")
    next(steps)

    def answer() -> None:
        assert steps.send(Newest(newest)) == ReadNewest()
        steps.send(Newest(newest, claim))

    with pytest.raises(OutputBusyError, match=words):
        answer()


def test_any_content_is_a_claim() -> None:
    claim = LeaseRecord(ME, "nonce", 4, "then")
    assert LeaseRecord.from_json(claim.to_json()) == claim
    whole = claim.to_json()
    for data in (b"", b"{}", b"[]", b"\xff", b'{"holder": null, "nonce": "x"}', whole[:-1], whole[:40]):
        unreadable = LeaseRecord.from_json(data)
        assert unreadable == LeaseRecord(None, unreadable.nonce) == LeaseRecord.from_json(data)
        assert "cannot be read" in str(unreadable)
    assert LeaseRecord.from_json(b"{}") != LeaseRecord.from_json(b"[]")


# One after the other, with kills and suspensions


class Files:
    """
    A folder, and a clock. What takes time is a generator of seconds.

    :param latency: most seconds before and after the effect of an operation.
    :param links: False if a file that is created can be seen in part.
    """

    def __init__(
        self, files: dict[int, LeaseRecord] | None = None, *, latency: float = 0.0, links: bool = True
    ) -> None:
        self.files = files or {}
        self.latency, self.links = latency, links
        self.random = random.Random(0)
        self.dead: set[int] = set()
        self.now = 0.0

    def delay(self) -> float:
        return self.random.uniform(0, self.latency)

    def reply(self, command: object) -> Generator[float, None, Newest]:
        if isinstance(command, Sleep):
            yield command.seconds
            return Newest()
        yield self.delay()
        seen = Newest()
        match command:
            case ReadNewest(read):
                number = max(self.files, default=0)
                yield self.delay()
                claim = self.files.get(number) if read else None
                seen = Newest(number, claim, bool(claim and claim.holder and claim.holder.pid in self.dead))
            case Create(number, claim) if number not in self.files:
                if not self.links:
                    self.files[number] = LeaseRecord.from_json(b"")
                    yield self.delay()
                self.files[number] = claim
            case Write(number, claim):
                self.files[number] = claim
        yield self.delay()
        return seen

    def at_once(self, command: object) -> Newest:
        """Perform a command; meanwhile nothing else happens."""
        steps = self.reply(command)
        try:
            while True:
                self.now += next(steps)
        except StopIteration as stop:
            return cast("Newest", stop.value)

    def play(self, steps: Generator[Any, Newest, T], *, commands: int = 10_000) -> T | None:
        """Perform so many commands; None if the process was killed or suspended before its end."""
        try:
            command = next(steps)
            for _ in range(commands):
                command = steps.send(self.at_once(command))
        except StopIteration as stop:
            return cast("T", stop.value)
        return None

    def acquire(
        self, holder: Holder, nonce: str, *, wait_seconds: float = 3600
    ) -> Generator[Any, Newest, int]:
        claim = LeaseRecord(holder, nonce)
        return lease.acquire(claim, wait_seconds=wait_seconds, output="out", now=lambda: self.now)

    def release(self, number: int, *, deletion: bool = True) -> None:
        self.files[number] = replace(self.files[number], released=True)
        self.files = {one: claim for one, claim in self.files.items() if one >= number or not deletion}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("commands", range(4))
def test_a_process_that_is_killed_at_any_step_delays_the_next_by_its_ttl_at_most(
    commands: int, known: bool
) -> None:
    files = Files({4: replace(THEIRS, released=True)})
    held = files.play(files.acquire(ME, "killed"), commands=commands)
    assert held == (5 if commands == 3 else None)
    files.dead |= {ME.pid} if known else set()
    number = files.play(files.acquire(OTHER, "next", wait_seconds=0))
    assert number == (5 if commands < 2 else 6)
    assert files.now == pytest.approx(0 if known or commands < 2 else TTL_SECONDS, abs=POLL_SECONDS)


def test_a_process_that_was_suspended_before_its_creation_starts_again() -> None:
    """The number that it saw as the next one was used by another task, and its file was removed."""
    files = Files({4: replace(THEIRS, released=True)})
    suspended = files.acquire(ME, "suspended")
    files.play(suspended, commands=1)
    for number in (5, 6):
        assert files.play(files.acquire(OTHER, f"follower {number}")) == number
        files.release(number)
    assert set(files.files) == {6}

    files.at_once(Create(5, LeaseRecord(ME, "suspended")))
    assert set(files.files) == {5, 6}
    assert suspended.send(Newest()) == ReadNewest()
    assert suspended.send(files.at_once(ReadNewest())) == Create(7, LeaseRecord(ME, "suspended"))


def test_a_holder_that_was_suspended_while_others_came_and_went_has_lost() -> None:
    files = Files()
    assert files.play(files.acquire(ME, "suspended")) == 1
    assert files.play(files.acquire(OTHER, "follower")) == 2
    files.release(2)
    with pytest.raises(OutputBusyError, match="is now written by task chunk"):
        files.play(lease.renew(LeaseRecord(ME, "suspended"), 1, output="out"))
    assert set(files.files) == {2}, "it wrote nothing"


# Many tasks in virtual time


class World(Files):
    """
    Tasks that write into one output, and are killed, suspended and tried again.

    A queue of moments decides which of them continues. Checked: no number is held twice; no task loses the lease
    that was not suspended, killed or tried again; and where none is suspended, no two work at once.

    :param deletion: False if the storage forbids it.
    """

    def __init__(self, seed: int, *, latency: float, links: bool, deletion: bool) -> None:
        super().__init__(latency=latency, links=links)
        self.random, self.deletion = random.Random(seed), deletion
        self.queue: list[tuple[float, int, Generator[float, None, None]]] = []
        self.order = count()
        self.inside: dict[Holder, int] = {}
        self.held: set[int] = set()
        self.faults: list[str] = []
        self.commits = 0
        self.suspensions = False

    def start(self, actor: Generator[float, None, None], after: float) -> None:
        heapq.heappush(self.queue, (self.now + after, next(self.order), actor))

    def run(self) -> None:
        while self.queue and self.now < 3000:
            self.now, _, actor = heapq.heappop(self.queue)
            with suppress(StopIteration):
                self.start(actor, next(actor))

    def perform(self, steps: Generator[Any, Newest, T]) -> Generator[float, None, T]:
        try:
            command = next(steps)
            while True:
                command = steps.send((yield from self.reply(command)))
        except StopIteration as stop:
            return cast("T", stop.value)

    def work(self, holder: Holder, seconds: float, *, undisturbed: bool) -> Generator[float, None, None]:
        """Acquire, renew, commit, release."""
        claim = LeaseRecord(holder, f"{holder.instance}-{holder.try_number}")
        try:
            number = yield from self.perform(self.acquire(holder, claim.nonce, wait_seconds=2500))
        except OutputBusyError:
            return
        if number in self.held:
            self.faults.append(f"{self.now:.2f}: {claim} holds {number}, which was held before")
        self.held.add(number)
        done = self.now + seconds
        for other in self.inside:
            # A try whose successor acquires meanwhile stops at its first renewal, before it commits.
            if not self.suspensions and not holder.follows(other) and not other.follows(holder):
                self.faults.append(f"{self.now:.2f}: {claim} works beside {other}")
        self.inside[holder] = number
        try:
            while True:
                yield max(0.0, min(RENEW_SECONDS, done - self.now))
                began, lost = self.now, max(self.files) > number
                claim = yield from self.perform(lease.renew(claim, number, output="out"))
                if lost:
                    self.faults.append(f"{self.now:.2f}: {claim} was renewed after a larger number")
                if began >= done:
                    break
        except OutputBusyError as err:
            if undisturbed:
                self.faults.append(f"{self.now:.2f}: {err}")
            return
        finally:
            self.inside.pop(holder, None)
        self.commits += 1
        yield self.delay()
        if self.files.get(number, MINE).nonce == claim.nonce:
            self.files[number] = replace(claim, released=True)
            yield self.delay()
            self.release(number, deletion=self.deletion)

    def task(
        self,
        holder: Holder,
        *,
        seconds: float,
        killed: float | None,
        suspended: tuple[float, float] | None,
        again: bool,
    ) -> Generator[float, None, None]:
        """
        One try of a task.

        :param seconds: until it commits.
        :param killed: seconds from its start until ``kill -9``.
        :param suspended: seconds from its start, and for how long.
        :param again: another try will take its lease over.
        """
        undisturbed = killed is None and suspended is None and not again
        began, work = self.now, self.work(holder, seconds, undisturbed=undisturbed)
        for step in work:
            if killed is not None and self.now + step - began >= killed:
                yield max(0.0, began + killed - self.now)
                self.inside.pop(holder, None)
                self.dead |= {holder.pid} if holder.pid > 0 else set()
                return
            if suspended is not None and self.now + step - began >= suspended[0]:
                yield step + suspended[1]
                suspended = None
                continue
            yield step


@given(
    seed=st.integers(0, 2**32),
    tasks=st.lists(
        st.tuples(
            st.just(0.0) | st.floats(0, 120),  # when it starts
            st.floats(0, 90),  # how long it works
            st.none() | st.floats(0, 1) | st.floats(0, 100),  # when it is killed
            st.none() | st.tuples(st.floats(0, 60), st.floats(0, 300)),  # when, how long suspended
            st.none() | st.floats(0, 100),  # when Airflow tries it again, whether it lives or not
            st.booleans(),  # whether its process can be looked up
        ),
        min_size=1,
        max_size=5,
    ),
    latency=st.sampled_from([0.0, 0.05, 0.5, 2.0]),
    links=st.booleans(),
    deletion=st.booleans(),
)
@settings(max_examples=150)
def test_no_two_work_at_once_and_no_number_is_held_twice(
    seed: int, tasks: list[Any], latency: float, links: bool, deletion: bool
) -> None:
    world = World(seed, latency=latency, links=links, deletion=deletion)
    world.suspensions = any(suspended is not None for _, _, _, suspended, _, _ in tasks)
    pids = count(1)
    for number, (start, seconds, killed, suspended, again, known) in enumerate(tasks):
        holder = Holder("dag", "run", "task", number, 1, "host", next(pids) * (1 if known else -1))
        first = world.task(
            holder, seconds=seconds, killed=killed, suspended=suspended, again=again is not None
        )
        world.start(first, start)
        if again is not None:
            later = replace(holder, try_number=2, pid=next(pids))
            second = world.task(later, seconds=seconds, killed=None, suspended=None, again=False)
            world.start(second, start + again)
    world.run()
    assert world.faults == []
    if any(killed is None and suspended is None for _, _, killed, suspended, _, _ in tasks):
        assert world.commits, "none came through"


# The shell


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same proportions in tenths of seconds."""
    for name, seconds in (("RENEW", 0.1), ("TTL", 0.6), ("POLL", 0.05), ("LOG", 0.2)):
        monkeypatch.setattr(lease, f"{name}_SECONDS", seconds)


def here(try_number: int = 1, task_id: str = "chunk", **changes: object) -> Holder:
    holder = Holder.here(dag_id="dag", run_id="run", task_id=task_id, map_index=-1, try_number=try_number)
    return replace(holder, **changes)  # type: ignore[arg-type]


def holding(output: object, holder: Holder | None = None) -> Lease:
    held = Lease(str(output))
    held.acquire(holder or here(), 0)
    return held


def names(output: Path) -> list[str]:
    return sorted(path.name for path in (output / "lease").iterdir())


def newest(output: Path) -> LeaseRecord:
    return LeaseRecord.from_json((output / "lease" / names(output)[-1]).read_bytes())


@pytest.mark.usefixtures("quick")
def test_a_thread_moves_the_beat_until_the_release(tmp_path: Path) -> None:
    held = holding(tmp_path)
    assert held.number == 1
    first = newest(tmp_path)
    plain = json.loads((tmp_path / "lease" / "00000001.json").read_text())
    assert set(plain) == {"holder", "nonce", "heartbeat", "since", "released"}
    time.sleep(0.35)
    assert newest(tmp_path).heartbeat >= first.heartbeat + 2
    held.renew()
    held.release()
    last = newest(tmp_path)
    assert last.released
    time.sleep(0.2)
    assert newest(tmp_path) == last, "the thread has ended"
    with pytest.raises(OutputBusyError):
        held.renew()


@pytest.mark.usefixtures("quick")
def test_the_second_waits_for_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    first, second = holding(tmp_path), Lease(str(tmp_path))
    with pytest.raises(OutputBusyError, match="task chunk of DAG dag, run run, try 1"):
        second.acquire(here(task_id="late"), 0)
    threading.Timer(0.5, first.release).start()
    began = time.monotonic()
    second.acquire(here(task_id="late"), 30)
    assert 0.4 < time.monotonic() - began < 10
    assert "is being written by task chunk" in caplog.text
    second.release()


@pytest.mark.usefixtures("quick")
def test_a_later_try_takes_over_and_the_earlier_one_finds_out(tmp_path: Path) -> None:
    zombie = holding(tmp_path)
    retry = holding(tmp_path, here(try_number=2))
    with pytest.raises(OutputBusyError, match="try 2"):
        zombie.renew()
    zombie.release()
    assert newest(tmp_path).holder == here(try_number=2)
    assert not newest(tmp_path).released
    retry.renew()
    retry.release()
    assert names(tmp_path) == ["00000002.json"]


@pytest.mark.usefixtures("quick")
def test_the_thread_finds_out_and_the_next_renewal_raises_it_without_a_look(tmp_path: Path) -> None:
    held = holding(tmp_path)
    (tmp_path / "lease" / "00000001.json").unlink()
    time.sleep(0.25)
    (tmp_path / "lease" / "00000001.json").write_text("not looked at")
    with pytest.raises(OutputBusyError, match="lease in lease/ was removed"):
        held.renew()
    held.release()
    assert (tmp_path / "lease" / "00000001.json").read_text() == "not looked at"


@pytest.mark.usefixtures("quick")
def test_a_store_that_fails_for_a_moment_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = holding(tmp_path)

    def fail(*_: object) -> None:
        raise StorageError("down")

    with monkeypatch.context() as down:
        down.setattr(lease, "write_file", fail)
        down.setattr(lease, "names_in", fail)
        time.sleep(0.3)
        with pytest.raises(StorageError):
            held.renew()
    heartbeat = newest(tmp_path).heartbeat
    time.sleep(0.3)
    assert newest(tmp_path).heartbeat > heartbeat
    held.release()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("content", [b"", b'{"holder": {"dag_id"', b"not JSON"])
def test_a_file_that_cannot_be_read_counts_as_held_until_it_expires(tmp_path: Path, content: bytes) -> None:
    storage.write_file(f"{tmp_path}/lease/00000007.json", content)
    storage.write_file(f"{tmp_path}/lease/README.md", b"of another origin")
    began = time.monotonic()
    held = holding(tmp_path)
    assert time.monotonic() - began >= lease.TTL_SECONDS
    assert held.number == 8
    held.release()
    assert names(tmp_path) == ["00000008.json", "README.md"]


@pytest.mark.usefixtures("quick")
def test_a_storage_that_forbids_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(uri: str) -> None:
        raise StorageError(f"{uri} cannot be removed: AccessDenied")

    monkeypatch.setattr(storage, "remove_file", refuse)
    for number in range(1, 5):
        held = holding(tmp_path, here(task_id=f"task {number}"))
        assert held.number == number
        caplog.clear()
        held.release()
        assert len(caplog.messages) == (number > 1), "one warning, whatever remains"
    assert len(names(tmp_path)) == 4


def test_an_acquisition_that_is_interrupted_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = storage.create_file

    def interrupt(uri: str, data: bytes) -> bool:
        create(uri, data)
        raise KeyboardInterrupt

    monkeypatch.setattr(lease, "create_file", interrupt)
    with pytest.raises(KeyboardInterrupt):
        holding(tmp_path)
    assert newest(tmp_path).released


def test_a_failure_to_create_leaves_the_file_of_another_task_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(uri: str, data: bytes) -> bool:
        storage.write_file(uri, THEIRS.to_json())
        raise StorageError("the reply was lost")

    monkeypatch.setattr(lease, "create_file", fail)
    with pytest.raises(StorageError):
        holding(tmp_path)
    assert newest(tmp_path) == THEIRS


def no_links(self: Path, target: Path) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


def race(output: str, tasks: int) -> list[int]:
    """The numbers that are acquired if all tasks start at once and none waits."""
    leases, start, winners = [Lease(output) for _ in range(tasks)], threading.Barrier(tasks), list[int]()

    def acquire(task: int) -> None:
        start.wait()
        with suppress(OutputBusyError):
            leases[task].acquire(here(task_id=f"task {task}"), 0)
            winners.append(leases[task].number)

    with ThreadPoolExecutor(tasks) as threads:
        list(threads.map(acquire, range(tasks)))
    for held in leases:
        held.release()
    return winners


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("links", [True, False])
@pytest.mark.parametrize("tasks", [2, 4])
def test_of_tasks_that_start_at_once_one_acquires_the_lease(
    tmp_path: Path, tasks: int, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:
        monkeypatch.setattr(Path, "hardlink_to", no_links)
    # Over and over in one folder: each number once, and the newest file remains.
    assert [race(str(tmp_path), tasks) for _ in range(8)] == [[number] for number in range(1, 9)]
    assert names(tmp_path) == ["00000008.json"]


def test_a_storage_that_ignores_the_condition_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    files = memory_store()
    pipe = files.pipe_file
    monkeypatch.setattr(files, "pipe_file", lambda path, data, mode="": pipe(path, data))
    held = Lease("memory://bucket/out")
    with pytest.raises(
        InputError, match=r"this storage ignores conditional creation.* s3fs 2025\.2 "
    ) as caught:
        held.acquire(here(), 0)
    assert not caught.value.retryable
    assert storage.names_in("memory://bucket/out/lease") == []
    with pytest.raises(OutputBusyError, match="does not hold the lease"):
        held.renew()


CHILD = """
import sys, time
from lucidworks_provider.corpus.lease import Holder, Lease
Lease(sys.argv[1]).acquire(Holder.here(dag_id="other", run_id="r", task_id="t", map_index=-1, try_number=1), 0)
print("held", flush=True)
time.sleep(99)
"""


def test_a_killed_process_of_this_machine_is_no_obstacle(tmp_path: Path) -> None:
    """Of whatever task, and at once: with the true intervals."""
    root = Path(lease.__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        other = newest(tmp_path).holder
        assert other is not None
        assert not other.ended()
        child.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 5
        while not other.ended():  # its parent has not waited for it yet
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.wait()
        assert other.ended()
        began = time.monotonic()
        held = holding(tmp_path)
        assert time.monotonic() - began < lease.TTL_SECONDS / 2
        held.release()


def test_a_process_is_known_by_more_than_its_number() -> None:
    me = here()
    assert not me.ended()
    machine, _, started = me.process.rpartition(" ")
    assert replace(me, process=f"{machine} {int(started) + 1}").ended(), "another process had this number"
    assert not replace(me, pid=2**22 + 1, process=f"elsewhere {started}").ended(), "of another machine"
    assert replace(me, pid=2**22 + 1).ended()
    assert not replace(me, process="").ended()
