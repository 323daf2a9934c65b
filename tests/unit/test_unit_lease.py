# SPDX-License-Identifier: Apache-2.0
"""One writer for an output: the decisions by values, many tasks in virtual time, and the shell on real files."""

from __future__ import annotations

import heapq
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucidworks_provider.corpus import lease
from lucidworks_provider.corpus.holder import Holder
from lucidworks_provider.corpus.lease import (
    NOTICE,
    RENEW,
    SETTLE,
    TTL,
    Claim,
    Lease,
    Pause,
    Read,
    Say,
    Seen,
    Write,
)
from lucidworks_provider.errors import LucidworksError, OutputBusyError

ME = Holder("nightly", "monday", "chunk", -1, 1, "host-a", 11)
OTHER = Holder("backfill", "2026-01-01", "chunk", 3, 1, "host-b", 22)
MINE = Claim(ME, "mine")


def theirs(beat: int = 0, holder: Holder = OTHER) -> Seen:
    return Seen(Claim(holder, "theirs", beat, since="2026-11-23T01:00:00+00:00"))


class Conversation:
    """Drives the generator by hand, with a clock that only moves when it pauses."""

    def __init__(self, wait_seconds: float = 3600) -> None:
        self.time = 0.0
        self.steps = lease.acquire(
            MINE, wait_seconds=wait_seconds, output="s3://b/out", now=lambda: self.time
        )
        self.said: list[str] = []
        self.command = self._next(None)

    def _next(self, reply: Seen | None) -> object:
        try:
            command = self.steps.send(reply)
            while isinstance(command, Say):
                self.said.append(command.text)
                command = self.steps.send(None)
        except StopIteration:
            return None
        return command

    def sees(self, seen: Seen) -> object:
        """Answer a read; returns what is done about it, after pausing for as long as is asked."""
        assert self.command == Read()
        self.command = self._next(seen)
        done = self.command
        while isinstance(self.command, Write | Pause):
            self.time += self.command.seconds if isinstance(self.command, Pause) else 0
            self.command = self._next(None)
        return done


# --- The table -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "seen",
    [
        Seen(),
        theirs(holder=replace(ME, try_number=0, host="elsewhere")),
        replace(theirs(), ended=True),
    ],
    ids=["nothing", "an earlier try", "a process that has ended"],
)
def test_what_is_claimed_at_once(seen: Seen) -> None:
    talk = Conversation()
    assert talk.sees(seen) == Write(MINE)
    assert talk.time == SETTLE
    talk.sees(Seen(MINE))
    assert talk.command is None


def test_a_lost_race_is_a_wait_for_the_winner() -> None:
    talk = Conversation()
    talk.sees(Seen())
    assert talk.sees(theirs()) == Pause(lease.LOOK)
    assert talk.sees(Seen()) == Write(MINE)


@pytest.mark.parametrize("wait_seconds", [0, 10, 3600])
def test_a_beat_that_stands_still_is_dead_after_the_ttl_however_patient_one_is(wait_seconds: float) -> None:
    talk = Conversation(wait_seconds)
    while talk.sees(theirs()) != Write(MINE):
        assert talk.time <= TTL
    assert talk.time == pytest.approx(TTL + SETTLE, abs=lease.LOOK)
    assert "has not moved for 60 s; taking it over from task chunk[3] of DAG backfill" in talk.said[-1]


def test_who_does_not_wait_fails_when_the_other_moves() -> None:
    talk = Conversation(0)
    for _ in range(4):
        talk.sees(theirs(beat=7))
    with pytest.raises(OutputBusyError) as caught:
        talk.sees(theirs(beat=8))
    assert caught.value.retryable
    assert str(caught.value).startswith(
        "s3://b/out is being written by task chunk[3] of DAG backfill, run 2026-01-01, try 1 (process 22 on "
        "host-b), since 2026-11-23T01:00:00+00:00 (waited 8 s)."
    )


def test_who_waits_says_so_now_and_then_and_gives_up_in_time() -> None:
    talk = Conversation(200)
    beat = count()

    def watch() -> None:
        while True:
            talk.sees(theirs(next(beat)))

    with pytest.raises(OutputBusyError, match="waited 200 s"):
        watch()
    assert len(talk.said) == 4
    assert all("run 2026-01-01" in text and "since 2026-11-23" in text for text in talk.said)


def test_a_slow_write_is_followed_by_a_long_look() -> None:
    """It may have gone over the claim of one who holds the lease by now, and who notices within ``NOTICE``."""
    talk = Conversation()
    talk.command = talk._next(Seen())
    assert talk.command == Write(MINE)
    talk.time += SETTLE
    assert talk._next(None) == Pause(NOTICE)
    assert NOTICE > RENEW


def test_only_later_tries_of_the_same_instance_follow() -> None:
    later = replace(ME, try_number=2, host="host-c", pid=5)
    assert later.follows(ME)
    assert not ME.follows(later)
    assert not replace(ME, pid=99).follows(ME)
    for other in ({"map_index": 0}, {"run_id": "tuesday"}, {"dag_id": "x"}, {"task_id": "x"}):
        assert not replace(later, **other).follows(ME)
    assert not later.follows(None)


def renewal(seen: Seen, *, write_seconds: float = 0.0, since: float = RENEW) -> tuple[Claim, float]:
    """One renewal; what it wrote, and when it was through."""
    clock = [1000.0]
    steps = lease.renew(MINE, renewed_at=clock[0] - since, output="out", now=lambda: clock[0])
    reply: Seen | None = None
    try:
        while True:
            command = steps.send(reply)
            reply = seen if isinstance(command, Read) else None
            clock[0] += write_seconds if isinstance(command, Write) else 0
            clock[0] += command.seconds if isinstance(command, Pause) else 0
            if isinstance(command, Write):
                seen = Seen(command.claim)
    except StopIteration as stop:
        return stop.value, clock[0] - 1000


def test_a_holder_moves_its_beat() -> None:
    assert renewal(Seen(MINE)) == (MINE.moved(), 0)
    assert renewal(Seen(MINE), since=10 * TTL) == (MINE.moved(), 0), "nobody took it"
    assert renewal(Seen(MINE), write_seconds=SETTLE)[1] == SETTLE + NOTICE


@pytest.mark.parametrize(
    ("seen", "words"),
    [(theirs(), "out is now written by task chunk"), (Seen(), "out: this task's lease is gone")],
    ids=["another", "nothing"],
)
def test_a_holder_that_lost_hears_it(seen: Seen, words: str) -> None:
    with pytest.raises(OutputBusyError, match=words):
        renewal(seen)


def test_a_holder_that_stood_still_between_look_and_write_does_not_trust_its_own_writing() -> None:
    with pytest.raises(OutputBusyError, match="stood still for 100 s"):
        renewal(Seen(MINE), write_seconds=85)


def test_a_later_try_takes_back_what_the_zombie_wrote() -> None:
    assert renewal(theirs(holder=replace(ME, try_number=0)))[0] == MINE.moved()


def test_any_file_is_somebodys_claim() -> None:
    claim = Claim(ME, "nonce", 4, "then")
    assert Claim.from_json(claim.to_json()) == claim
    for data in (
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"holder": null, "nonce": "x"}',
        b'{"holder": {}, "nonce": 1}',
    ):
        strange = Claim.from_json(data)
        assert strange.holder is None
        assert strange == Claim.from_json(data)
        assert "cannot be read" in str(strange)
    assert Claim.from_json(b"{}") != Claim.from_json(b"[]")


# --- Many tasks in virtual time ------------------------------------------------------------------------


class World:
    """
    Tasks that want to write into one output, and die, stand still and are tried again.

    Everything that takes time is a generator of seconds; a queue of moments says who goes on. What is checked:
    nobody commits over what it has not seen, since what a task writes stands on the snapshot that it found when it
    came in; and where nobody stands still, nobody comes in while another one works.
    """

    def __init__(self, seed: int, *, latency: float) -> None:
        self.random = random.Random(seed)
        self.latency = latency
        self.now = 0.0
        self.claim: Claim | None = None
        self.queue: list[tuple[float, int, Generator[float, None, None]]] = []
        self.order = count()
        self.inside: dict[str, Holder] = {}
        self.faults: list[str] = []
        self.commits = 0
        self.died: set[int] = set()
        self.all_are_well = True

    def start(self, actor: Generator[float, None, None], after: float) -> None:
        heapq.heappush(self.queue, (self.now + after, next(self.order), actor))

    def run(self) -> None:
        while self.queue and self.now < 3000:
            self.now, _, actor = heapq.heappop(self.queue)
            with suppress(StopIteration):
                self.start(actor, next(actor))

    def perform(
        self, steps: Generator[object, Seen | None, Claim | None]
    ) -> Generator[float, None, Claim | None]:
        reply: Seen | None = None
        while True:
            try:
                command = steps.send(reply)
            except StopIteration as stop:
                return stop.value
            reply = None
            if isinstance(command, Pause):
                yield command.seconds
            elif isinstance(command, Read | Write):
                yield self.random.uniform(0, self.latency)
                if isinstance(command, Read):
                    ended = self.claim is not None and self.claim.holder is not None
                    reply = Seen(self.claim, ended and self.claim.holder.pid in self.died)
                else:
                    self.claim = command.claim
                yield self.random.uniform(0, self.latency)

    def task(
        self, holder: Holder, *, work: float, dies: float | None, stalls: tuple[float, float] | None
    ) -> object:
        """
        One try of a task.

        :param work: seconds until it commits.
        :param dies: seconds from its start until ``kill -9``.
        :param stalls: seconds from its start, and how long it does nothing then.
        """
        mine = Claim(holder, f"{holder.instance}-{holder.try_number}")

        def living() -> Generator[float, None, None]:
            try:
                yield from self.perform(
                    lease.acquire(mine, wait_seconds=2500, output="out", now=lambda: self.now)
                )
            except OutputBusyError:
                return
            snapshot, renewed_at, claim, done = self.commits, self.now, mine, self.now + work
            for nonce, other in self.inside.items():
                if self.all_are_well and not holder.follows(other):
                    self.faults.append(f"{self.now:.2f}: {mine.nonce} comes in beside {nonce}")
            self.inside[mine.nonce] = holder
            try:
                while True:
                    yield max(0.0, min(RENEW, done - self.now))
                    began = self.now
                    renewed = yield from self.perform(
                        lease.renew(claim, renewed_at=renewed_at, output="out", now=lambda: self.now)
                    )
                    assert renewed is not None
                    claim, renewed_at = renewed, began
                    if began >= done:
                        break
            except OutputBusyError:
                self.inside.pop(mine.nonce, None)
                return
            self.inside.pop(mine.nonce, None)
            if snapshot != self.commits:
                self.faults.append(f"{self.now:.2f}: {mine.nonce} commits over what it has not seen")
            self.commits += 1
            yield self.random.uniform(0, self.latency)
            if self.claim is not None and self.claim.nonce == mine.nonce:
                self.claim = None

        def mortal() -> Generator[float, None, None]:
            began, life = self.now, living()
            pending = stalls
            for seconds in life:
                if dies is not None and self.now + seconds - began >= dies:
                    yield max(0.0, began + dies - self.now)
                    self.inside.pop(f"{holder.instance}-{holder.try_number}", None)
                    if holder.pid > 0:
                        self.died.add(holder.pid)
                    return
                if pending is not None and self.now + seconds - began >= pending[0]:
                    yield seconds + pending[1]
                    pending = None
                    continue
                yield seconds

        return mortal()


SOME = st.one_of(st.none(), st.floats(0, 100))


@given(
    seed=st.integers(0, 2**32),
    tasks=st.lists(
        st.tuples(
            st.floats(0, 120),  # when it starts
            st.floats(0, 90),  # how long it works
            SOME,  # when it dies
            st.one_of(
                st.none(), st.tuples(st.floats(0, 60), st.floats(0, 200))
            ),  # when and how long it stalls
            SOME,  # when Airflow tries it again, whether it lives or not
            st.booleans(),  # whether its process can be looked up
        ),
        min_size=1,
        max_size=4,
    ),
    latency=st.sampled_from([0.0, 0.05, SETTLE / 4 - 0.001]),
)
@settings(max_examples=200, deadline=None)
def test_no_two_work_at_once_and_no_commit_is_lost(seed: int, tasks: list[tuple], latency: float) -> None:  # type: ignore[type-arg]
    world = World(seed, latency=latency)
    world.all_are_well = all(stalls is None for _, _, _, stalls, _, _ in tasks)
    pids = count(1)
    for number, (start, work, dies, stalls, again, known) in enumerate(tasks):
        holder = Holder("dag", "run", "task", number, 1, "host", next(pids) * (1 if known else -1))
        world.start(world.task(holder, work=work, dies=dies, stalls=stalls), start)  # type: ignore[arg-type]
        if again is not None:
            later = replace(holder, try_number=2, pid=next(pids))
            world.start(world.task(later, work=work, dies=None, stalls=None), start + again)  # type: ignore[arg-type]
    world.run()
    assert world.faults == []
    if any(dies is None and stalls is None and again is None for _, _, dies, stalls, again, _ in tasks):
        assert world.commits, "nobody came through"


# --- The shell -----------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same proportions in tenths of seconds."""
    for name, seconds in {
        "RENEW": 0.1,
        "TTL": 0.6,
        "SETTLE": 0.1,
        "NOTICE": 0.3,
        "LOOK": 0.05,
        "SAY": 0.2,
    }.items():
        monkeypatch.setattr(lease, name, seconds)
    monkeypatch.setattr(lease, "_BREATH", 0.05)


def here(try_number: int = 1, task_id: str = "chunk", **changes: object) -> Holder:
    holder = Holder.here(dag_id="dag", run_id="run", task_id=task_id, map_index=-1, try_number=try_number)
    return replace(holder, **changes)  # type: ignore[arg-type]


def standing(output: Path) -> Claim:
    return Claim.from_json((output / "lease.json").read_bytes())


@pytest.mark.usefixtures("quick")
def test_it_beats_by_itself_and_leaves_nothing(tmp_path: Path) -> None:
    held = Lease(str(tmp_path))
    held.acquire(here(), 0)
    first = standing(tmp_path)
    assert set(json.loads((tmp_path / "lease.json").read_text())) == {
        "holder",
        "nonce",
        "beat",
        "since",
        "released",
    }
    time.sleep(0.35)
    assert standing(tmp_path).beat >= first.beat + 2
    held.renew()
    held.release()
    assert list(tmp_path.iterdir()) == []
    time.sleep(0.15)
    assert list(tmp_path.iterdir()) == [], "its thread has ended"
    with pytest.raises(OutputBusyError):
        held.renew()


@pytest.mark.usefixtures("quick")
def test_the_second_waits_for_the_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    first, second = Lease(str(tmp_path)), Lease(str(tmp_path))
    first.acquire(here(), 0)
    with pytest.raises(OutputBusyError, match="task chunk of DAG dag, run run, try 1"):
        second.acquire(here(task_id="late"), 0)
    threading.Timer(0.5, first.release).start()
    began = time.monotonic()
    second.acquire(here(task_id="late"), 30)
    assert 0.4 < time.monotonic() - began < 2
    assert "is being written by task chunk" in caplog.text
    second.release()


@pytest.mark.usefixtures("quick")
def test_a_later_try_takes_over_and_the_zombie_hears_it(tmp_path: Path) -> None:
    zombie, retry = Lease(str(tmp_path)), Lease(str(tmp_path))
    zombie.acquire(here(), 0)
    retry.acquire(here(try_number=2), 0)
    with pytest.raises(OutputBusyError, match="try 2"):
        zombie.renew()
    zombie.release()
    assert standing(tmp_path).holder == here(try_number=2), "the zombie took nothing along"
    retry.renew()
    retry.release()


@pytest.mark.usefixtures("quick")
def test_the_thread_finds_out_and_the_next_renewal_says_so_without_asking(tmp_path: Path) -> None:
    held = Lease(str(tmp_path))
    held.acquire(here(), 0)
    (tmp_path / "lease.json").unlink()
    time.sleep(0.25)
    (tmp_path / "lease.json").write_text("not asked for again")
    with pytest.raises(OutputBusyError, match="lease is gone"):
        held.renew()
    held.release()


@pytest.mark.usefixtures("quick")
def test_a_store_that_fails_for_a_moment_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Lease(str(tmp_path))
    held.acquire(here(), 0)
    from lucidworks_provider.errors import StorageError

    def fail(*_: object) -> None:
        raise StorageError("down")

    with monkeypatch.context() as down:
        down.setattr(lease, "write_file", fail)
        down.setattr(lease, "read_file", fail)
        time.sleep(0.3)
        with pytest.raises(StorageError):
            held.renew()
    beat = standing(tmp_path).beat
    time.sleep(0.3)
    assert standing(tmp_path).beat > beat
    held.release()


CHILD = """
import sys, time
from lucidworks_provider.corpus.lease import Holder, Lease
Lease(sys.argv[1]).acquire(Holder.here(dag_id="other", run_id="r", task_id="t", map_index=-1, try_number=1), 0)
print("held", flush=True)
time.sleep(99)
"""


def test_a_killed_process_of_this_machine_is_no_obstacle(tmp_path: Path) -> None:
    """Of whatever task, and at once: with the true numbers."""
    root = Path(lease.__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        other = standing(tmp_path).holder
        assert other is not None
        assert not other.ended()
        child.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 5
        while not other.ended():  # not buried yet
            assert time.monotonic() < deadline
            time.sleep(0.01)
        child.wait()
        assert other.ended()
        began = time.monotonic()
        held = Lease(str(tmp_path))
        held.acquire(here(), 0)
        assert time.monotonic() - began < 3 * SETTLE
        held.release()


def test_a_process_is_known_by_more_than_its_number() -> None:
    me = here()
    assert not me.ended()
    machine, _, started = me.process.rpartition(" ")
    assert replace(me, process=f"{machine} {int(started) + 1}").ended(), "another process had this number"
    assert not replace(me, pid=2**22 + 1, process=f"elsewhere {started}").ended(), "who knows"
    assert replace(me, pid=2**22 + 1).ended()
    assert not replace(me, process="").ended()


def test_what_is_raised_is_of_the_tree() -> None:
    assert issubclass(OutputBusyError, LucidworksError)
    assert OutputBusyError.retryable
