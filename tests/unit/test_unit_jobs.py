# SPDX-License-Identifier: Apache-2.0
"""The job protocol by values: the record across attempts, and waiting for one job."""

import asyncio
import json
import time
from contextlib import nullcontext
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucidworks_provider.client.jobs import PREDICTION, JobState, PollResult
from lucidworks_provider.errors import StorageError, UnknownResourceError
from lucidworks_provider.jobs.decisions import (
    EMPTY_POLLS,
    FIRST_WAIT,
    GONE_PATIENCE,
    LAST_POLLS,
    NEVER_SEEN,
    NOT_POLLED,
    REFUSALS,
    REREADS,
    CheckStorage,
    JobEnd,
    JobsOutcome,
    Poll,
    PollOutcome,
    Sleep,
    job_decision,
    next_wait,
    unseen_patience,
)
from lucidworks_provider.jobs.polling import wait_for_job
from lucidworks_provider.jobs.record import (
    PART,
    JobRecord,
    JobStateStore,
    MemoryResultStore,
    QuarantineReason,
    ResultDirectory,
    fingerprint_of,
    read_job_record,
    resume,
)
from lucidworks_provider.storage import names_in, write_file
from tests.task_state import TaskStateStore

PENDING = PollResult(JobState.PENDING, "SUBMITTED")
RESULT = PollResult(JobState.RESULT, "READY")
FAILED = PollResult(JobState.FAILED, "ERROR", "why")
UNREADABLE = PollResult(JobState.UNREADABLE, "", "<html>")
BUSY = replace(UNREADABLE, message="429", retry_after=30.0)
RETRIEVED = PollResult(JobState.GONE, "RETRIEVED")
UNKNOWN_ID = PollResult(JobState.GONE, "", "404")
EMPTY = PollResult(JobState.EMPTY, "READY")
REFUSED = PollResult(JobState.REFUSED, "", "400")


class World:
    """Plays one conversation: polls see the script's entries in turn, the last one for ever."""

    def __init__(
        self,
        *script: PollResult,
        deadline: float = 1000.0,
        stored_at: float = inf,
        begins_until: float = inf,
    ) -> None:
        self.script, self.deadline, self.stored_at = list(script), deadline, stored_at
        self.begins_until = begins_until
        self.now = 0.0
        self.times: list[float] = []

    @property
    def polls(self) -> int:
        return len(self.times)

    def run(
        self, poll_interval: float = 5.0, confirm_seconds: float = 0.0, *, until: float = inf, **how: Any
    ) -> PollOutcome | None:
        """The outcome; None if there is none by then."""
        how |= {"poll_interval": poll_interval, "confirm_seconds": confirm_seconds}
        self.now, self.times = 0.0, []
        conversation = job_decision(deadline=self.deadline, now=lambda: self.now, **how)
        reply: Any = None
        while self.now < until:
            try:
                command = conversation.send(reply)
            except StopIteration as stop:
                return stop.value
            match command:
                case CheckStorage():
                    reply = self.now >= self.stored_at
                case Poll(begin_by) if self.now >= self.begins_until:
                    assert begin_by is not None
                    self.now = max(self.now, begin_by)
                    reply = None
                case Poll():
                    reply = self.script[min(self.polls, len(self.script) - 1)]
                    self.times.append(self.now)
                case Sleep(seconds):
                    assert seconds > 0
                    self.now += seconds
                    reply = None
        return None

    def ends(self, **how: Any) -> JobEnd:
        outcome = self.run(**how)
        assert outcome is not None
        return outcome.end


@pytest.mark.parametrize(
    ("script", "end", "polls"),
    [
        ([RESULT], JobEnd.COLLECTED, 1),
        ([PENDING, PENDING, RESULT], JobEnd.COLLECTED, 3),
        ([FAILED] * (REREADS + 1), JobEnd.FAILED, REREADS + 1),
        ([FAILED, RESULT], JobEnd.COLLECTED, 2),
        ([FAILED, PENDING, FAILED, FAILED, RESULT], JobEnd.COLLECTED, 5),
        ([UNREADABLE] * 10 + [RESULT], JobEnd.COLLECTED, 11),
        ([UNREADABLE, RESULT], JobEnd.COLLECTED, 2),
        ([RETRIEVED, RESULT], JobEnd.COLLECTED, 2),
        ([RETRIEVED, PENDING, RESULT], JobEnd.COLLECTED, 3),
        ([UNKNOWN_ID, RESULT], JobEnd.COLLECTED, 2),
        ([UNKNOWN_ID] * 20 + [RESULT], JobEnd.COLLECTED, 21),
        ([EMPTY, RESULT], JobEnd.COLLECTED, 2),
        ([EMPTY], JobEnd.EMPTY, EMPTY_POLLS),
        ([EMPTY, RETRIEVED], JobEnd.EMPTY, 2),
        ([REFUSED, RESULT], JobEnd.COLLECTED, 2),
        ([REFUSED], JobEnd.GONE, REFUSALS),
        # A gateway that restarts says 404 of an old job too.
        ([*[PENDING] * 8, UNKNOWN_ID, RESULT], JobEnd.COLLECTED, 10),
        # A 429 has no information about the job, however long it is waited for.
        (
            [PENDING, UNKNOWN_ID, replace(UNREADABLE, retry_after=60.0), UNKNOWN_ID, RESULT],
            JobEnd.COLLECTED,
            5,
        ),
    ],
)
def test_the_table_of_waiting(script: list[PollResult], end: JobEnd, polls: int) -> None:
    world = World(*script)
    assert (world.ends(), world.polls) == (end, polls)


@pytest.mark.parametrize(
    ("script", "kept", "payload"),
    [
        # A response without a result, which may be a slip, does not make a part of it the result.
        (["RUNNING 1", "READY", "READY 12"], None, "12"),
        (["RUNNING 1", "RETRIEVED"], None, "1"),
        (["RUNNING 1", "404"], None, "1"),
        (["ARCHIVED 12", "404"], None, "12"),
        (["ARCHIVED 12", "READY"], None, "12"),
        # An earlier process has stored it, and the service returns it only once.
        (["ARCHIVED"], QuarantineReason.UNKNOWN_STATUS, "kept"),
        (["SUBMITTED"], QuarantineReason.PARTIAL, None),
        (["READY"], QuarantineReason.PARTIAL, None),
    ],
)
def test_a_payload_that_is_not_the_result_yet(
    script: list[str], kept: QuarantineReason | None, payload: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lucidworks_provider.jobs.decisions.GONE_PATIENCE", 0.0)
    store = MemoryResultStore(quarantined={kept: b'{"predictions": "kept"}'} if kept else {})
    responses = list(script)

    async def fetch(job_id: str, begin_by: float | None) -> bytes:
        response = responses.pop(0) if responses[1:] else responses[0]
        if response == "404":
            raise UnknownResourceError("no such job", status=404)
        status, _, payload = response.partition(" ")
        return json.dumps({"status": status, "predictions": payload or None}).encode()

    decision = job_decision(poll_interval=0.01, deadline=time.time() + 0.5, now=time.time)
    slots = nullcontext()
    outcome = asyncio.run(wait_for_job("j", decision, store=store, fetch=fetch, slots=slots, kind=PREDICTION))
    assert (outcome.end is JobEnd.COLLECTED) is (payload is not None)
    assert payload is None or json.loads(store.body or b"")["predictions"] == payload


@pytest.mark.parametrize(
    ("world", "end", "least", "most"),
    [
        # The deadline ends the wait with a last poll.
        (World(PENDING, deadline=100.0), JobEnd.TIMEOUT, 100, 100),
        (World(*[PENDING] * 3, RESULT, deadline=12.0), JobEnd.COLLECTED, 5, 12),
        # Pages of HTML do not fail a job.
        (World(UNREADABLE, deadline=100.0), JobEnd.TIMEOUT, 100, 100),
        # Another reader has taken the result, and stores it or does not.
        (World(RETRIEVED, stored_at=GONE_PATIENCE / 2), JobEnd.COLLECTED, 0, GONE_PATIENCE),
        (World(RETRIEVED), JobEnd.GONE, GONE_PATIENCE, GONE_PATIENCE + 10),
        # What it reported before is the reason, and is not submitted again.
        (World(FAILED, RETRIEVED), JobEnd.FAILED, GONE_PATIENCE, GONE_PATIENCE + 10),
        (World(FAILED, UNKNOWN_ID), JobEnd.FAILED, GONE_PATIENCE, GONE_PATIENCE + 10),
        (World(FAILED, PENDING, RETRIEVED), JobEnd.GONE, GONE_PATIENCE, GONE_PATIENCE + 20),
        (World(EMPTY, UNKNOWN_ID), JobEnd.EMPTY, GONE_PATIENCE, GONE_PATIENCE + 10),
        (World(RETRIEVED, UNREADABLE, stored_at=30.0), JobEnd.COLLECTED, 30, 60),
        # An id may be unknown while the job is young.
        (World(UNKNOWN_ID), JobEnd.GONE, NEVER_SEEN + GONE_PATIENCE, 1000),
    ],
)
def test_how_long_a_job_is_waited_for(world: World, end: JobEnd, least: float, most: float) -> None:
    outcome = world.run()
    assert outcome is not None
    assert outcome.end is end
    assert end is not JobEnd.FAILED or outcome.message == FAILED.message
    assert least - 0.001 <= world.now <= most + 0.001
    assert outcome.message == ("<html>" if world.script == [UNREADABLE] else outcome.message)


@pytest.mark.parametrize(
    ("world", "most", "outcome"),
    [
        # The service refuses everything: the rate limiter permits one request per pause.
        (World(BUSY, begins_until=1.0, deadline=100.0), 100.0, (BUSY.message, 30.0)),
        (World(PENDING, BUSY, begins_until=100.0, deadline=100.0), 100.0, (BUSY.message, 30.0)),
        # Other last polls may have a turn a little later.
        (World(PENDING, begins_until=1.0, deadline=100.0), 100.0 + LAST_POLLS, ("", None)),
        (World(PENDING, begins_until=0.0, deadline=100.0), 100.0 + LAST_POLLS, (NOT_POLLED, None)),
        (World(PENDING, begins_until=0.0, deadline=-100.0), LAST_POLLS, (NOT_POLLED, None)),
    ],
)
def test_a_poll_that_cannot_begin_ends_the_wait_at_its_deadline(
    world: World, most: float, outcome: tuple[str, float | None]
) -> None:
    message, retry_after = outcome
    assert world.run() == PollOutcome(JobEnd.TIMEOUT, message or NOT_POLLED, retry_after)
    assert world.now == most


@pytest.mark.parametrize(
    ("durations", "seconds"), [([], NEVER_SEEN), ([1.0], NEVER_SEEN), ([1.0] * 50 + [900.0] * 50, 900.0)]
)
def test_the_patience_with_an_unknown_id_grows_with_the_jobs_that_were_seen(
    durations: list[float], seconds: float
) -> None:
    assert unseen_patience(durations) == seconds


def test_the_end_of_a_failed_job_is_found_within_a_poll_interval() -> None:
    """Whatever its age."""
    world = World(*[PENDING] * 30, FAILED)
    assert world.ends(poll_interval=30.0) is JobEnd.FAILED
    assert world.polls == 30 + REREADS + 1
    assert world.now - world.times[30] <= 30.0


@pytest.mark.parametrize(
    ("script", "end", "polls"),
    [
        ([PENDING], JobEnd.TIMEOUT, 1),
        ([UNREADABLE], JobEnd.TIMEOUT, 1),
        ([UNKNOWN_ID], JobEnd.TIMEOUT, 1),
        ([RESULT], JobEnd.COLLECTED, 1),
        ([FAILED], JobEnd.FAILED, REREADS + 1),
        ([FAILED, RESULT], JobEnd.COLLECTED, 2),
        ([FAILED, PENDING], JobEnd.TIMEOUT, 2),
        ([EMPTY], JobEnd.EMPTY, EMPTY_POLLS),
        ([REFUSED], JobEnd.GONE, REFUSALS),
        ([PollResult(JobState.PENDING, "ODD", has_payload=True), RESULT], JobEnd.COLLECTED, 2),
        ([PollResult(JobState.PENDING, "RUNNING", has_payload=True, in_progress=True)], JobEnd.TIMEOUT, 1),
        ([PollResult(JobState.PENDING, other_job="b"), RESULT], JobEnd.COLLECTED, 2),
    ],
)
def test_a_poke_polls_again_only_where_one_response_does_not_decide(
    script: list[PollResult], end: JobEnd, polls: int
) -> None:
    poke = World(*script, deadline=0.0)
    assert (poke.ends(confirm_seconds=30.0), poke.polls) == (end, polls)
    assert poke.now <= 30.0


def test_the_confirmation_of_a_poke_ends() -> None:
    poke = World(PollResult(JobState.PENDING, other_job="b"), deadline=0.0)
    assert poke.ends(confirm_seconds=30.0) is JobEnd.TIMEOUT
    assert poke.now == pytest.approx(30.0)


@given(age=st.floats(0, 1e6), interval=st.floats(0.01, 600), spread=st.floats(0, 1))
def test_waits_grow_with_age_within_bounds(age: float, interval: float, spread: float) -> None:
    wait = next_wait(age, interval, lambda: spread)
    assert 0.8 * min(FIRST_WAIT, interval) * 0.999 <= wait <= interval
    assert next_wait(age + 100, interval, lambda: spread) >= wait


@pytest.fixture
def store(tmp_path: Path) -> JobStateStore:
    return JobStateStore(ResultDirectory(str(tmp_path)), TaskStateStore())


def with_jobs(*ids: str, generation: int = 2, size: int = 3) -> JobRecord:
    record = JobRecord("f", generation, size)
    for position, job_id in enumerate(ids):
        record.submitted(position, job_id)
    return record


def test_a_record_survives_storage(store: JobStateStore) -> None:
    record = with_jobs("a", "b")
    record.intend([2])
    record.mark_failed({1: "why"})
    record.mark_gone(0)
    assert store.save(record)
    found = store.load()
    assert found == record == read_job_record(store.results)
    assert (found.jobs, found.intents, found.failed) == ({1: "b"}, {2}, {1: "why"})
    assert (found.missing(), found.awaited, found.resubmitted) == ([0, 2], {}, {0})


@pytest.mark.parametrize("data", ["", "{", "[]", "null", '{"version": 2}', '{"version": 1}', '"x"'])
def test_damaged_records_are_none(store: JobStateStore, data: str, caplog: pytest.LogCaptureFixture) -> None:
    write_file(f"{store.results.folder}/record.json", data.encode())
    assert store.load() is None
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize("newer", ["storage", "state"])
def test_the_newer_copy_of_each_part_wins_and_the_other_is_written_again(tmp_path: Path, newer: str) -> None:
    """Another host sees another disk, and Airflow's API server may be away."""
    here, another = (ResultDirectory(f"{tmp_path}/{number}") for number in (1, 2))
    state = TaskStateStore()
    record = with_jobs(*(f"job-{p}" for p in range(2 * PART)), size=2 * PART)
    JobStateStore(here, state).save(record)
    record.intend([PART + 7])
    (JobStateStore(here, None) if newer == "storage" else JobStateStore(another, state)).save(record)
    store = JobStateStore(here, state)
    found = store.load()
    assert found is not None
    assert (found.intents, found.revision, len(found.jobs)) == ({PART + 7}, 2, 2 * PART)
    assert found.stale == ((set(), {1}) if newer == "storage" else ({1}, set()))
    assert store.save(found)
    for copy in (read_job_record(here), JobStateStore(another, state).load()):
        assert copy is not None
        assert (copy.intents, copy.jobs) == (found.intents, found.jobs)


def test_a_change_costs_one_part_of_a_record_whatever_its_size(store: JobStateStore) -> None:
    record = with_jobs(*(f"job-{p}" for p in range(10 * PART)), size=10 * PART)
    store.save(record)
    names = {f"record-{n}.json" if n else "record.json" for n in range(10)}
    assert set(names_in(store.results.folder)) == names

    def files() -> dict[str, bytes]:
        return {name: (Path(store.results.folder) / name).read_bytes() for name in names}

    before = files()
    record.submitted(3 * PART + 1, "another")
    store.save(record)
    after = files()
    assert {name for name in names if before[name] != after[name]} == {"record-3.json"}
    assert len(max(after.values(), key=len)) < 64_000
    record.finish({"uri": "u"})
    store.close(record)
    assert names_in(store.results.folder) == []
    assert list(store.state.values) == ["lucidworks_jobs"]


@pytest.mark.parametrize("down", [False, True])
def test_a_result_is_recorded_if_one_of_the_two_stores_takes_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, down: bool
) -> None:
    """A full disk would fail each retry, and clearing the failed task would repeat what has succeeded."""
    (tmp_path / "file").write_text("")
    store = JobStateStore(ResultDirectory(f"{tmp_path}/file/x"), TaskStateStore(down=down))
    record = with_jobs("a", "b", "c")
    record.finish({"uri": "u"})
    if down:
        with pytest.raises(StorageError):
            store.close(record)
        return
    store.close(record)
    assert "task state store only" in caplog.text
    found = store.load()
    assert found is not None
    assert found.result == {"uri": "u"}
    store.close(found)


def test_a_record_that_cannot_be_read_is_not_taken_for_none(
    store: JobStateStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise ConnectionError("no API server")

    monkeypatch.setattr(store.state, "get", away)
    with pytest.raises(StorageError, match=r"lucidworks_jobs could not be read.*no API server") as unread:
        store.load()
    assert unread.value.retryable


def test_parts_of_another_record_are_ignored(store: JobStateStore) -> None:
    store.save(with_jobs(*(f"old-{p}" for p in range(2 * PART)), size=2 * PART))
    found = store.load()
    record, _ = resume(found, fingerprint="g", generation=2, size=2 * PART)
    record.stale[0].add(1)
    record.intend([0])
    record.stale[0].discard(1)
    store.save(record)
    assert store.load() == record
    assert record.jobs == {}


def resumed(found: JobRecord | None, **changes: Any) -> tuple[JobRecord, str]:
    """What an attempt makes of a record, by default with the same input."""
    return resume(found, **{"fingerprint": "f", "generation": 2, "size": 3} | changes)


def test_a_retry_continues_with_the_same_jobs_and_every_wait_has_a_nonce_of_its_own() -> None:
    found = with_jobs("a")
    nonce = found.nonce
    record, said = resumed(found)
    assert (record.jobs, record.nonce, record.new) == ({0: "a"}, nonce, False)
    assert "Resuming 1 job of" in said
    record.begin_wait()
    assert record.nonce != nonce
    assert record.jobs == {0: "a"}


def test_a_new_attempt_submits_again_what_failed_or_was_gone() -> None:
    found = with_jobs("a", "b", "c")
    found.mark_failed({1: ""})
    found.mark_gone(0)
    found.submitted(0, "d")
    assert (found.missing(), found.resubmitted) == ([], {0})
    record, said = resumed(found)
    assert (record.missing(), record.resubmitted, record.failed) == ([1], set(), {})
    assert said == "Resuming 2 jobs of an earlier attempt; 1 without a usable result are submitted again."


@pytest.mark.parametrize(("jobs", "words"), [(1, "orphans: job-0"), (3000, "job-19 and 2,980 more")])
def test_other_input_starts_again_and_names_some_orphans(jobs: int, words: str) -> None:
    found = with_jobs(*(f"job-{p}" for p in range(jobs)), size=jobs)
    record, said = resumed(found, fingerprint="g")
    assert record.jobs == {}
    assert said.endswith(words)


def test_a_success_is_returned_to_a_retry_and_repeated_after_a_clear() -> None:
    found = with_jobs("a")
    found.finish({"uri": "u"})
    assert resumed(found)[0].result == {"uri": "u"}
    again, _ = resumed(found, generation=5)
    assert (again.result, again.jobs, again.generation) == (None, {}, 5)


def test_what_starts_again_is_newer_than_what_it_replaces(store: JobStateStore) -> None:
    """One of the two stores may miss every write from here on; its copy is the older one."""
    for change in ({"generation": 5}, {"fingerprint": "g"}):
        old = with_jobs("a", "b")
        old.finish({"uri": "u"})
        store.save(old)
        record, _ = resumed(store.load(), **change)
        record.intend([0])
        JobStateStore(store.results, None).save(record)
        assert store.load() == record


def test_clearing_a_failed_task_keeps_its_jobs_and_settles_the_open_submission() -> None:
    for generation, intents in ((2, {1, 2}), (5, set())):
        found = JobRecord("f", 2, 4)
        found.intend([0, 1, 2, 3])
        found.submitted(0, "a")
        found.withdraw([3])
        record, _ = resumed(found, generation=generation, size=4)
        assert (record.jobs, record.intents, record.generation) == ({0: "a"}, intents, generation)


def test_the_fingerprint_distinguishes_every_part() -> None:
    one, other = {"chunker": "sentence"}, {"chunker": "semantic"}
    inputs = [
        (one, [("a", "bc")]),
        (one, [("ab", "c")]),
        (one, [("a", "b"), ("c", "")]),
        (other, [("a", "bc")]),
    ]
    assert len({fingerprint_of(*given) for given in inputs}) == 4


def test_an_outcome_is_small_and_survives_the_event() -> None:
    endings = {p: PollOutcome(JobEnd.FAILED, "x" * 5000) for p in range(500)}
    endings[500] = PollOutcome(JobEnd.COLLECTED)
    outcome = JobsOutcome.of(endings)
    assert JobsOutcome.from_json(outcome.as_json() | {"of a later version": 1}) == outcome
    assert outcome.collected == 1
    assert len(str(outcome.as_json())) < 6000


@given(
    script=st.lists(
        st.builds(
            PollResult,
            st.sampled_from([s for s in JobState if s is not JobState.RESULT]),
            st.sampled_from(["", "ODD"]),
        )
        | st.builds(PollResult, st.just(JobState.UNREADABLE), retry_after=st.floats(0, 5000)),
        min_size=1,
        max_size=20,
    ),
    interval=st.floats(0.05, 600),
    deadline=st.floats(0, 3000),
)
def test_no_poll_comes_before_the_retry_after_of_the_response_before(
    script: list[PollResult], interval: float, deadline: float
) -> None:
    world = World(*script, RESULT, deadline=deadline)
    world.run(interval)
    for before, now, seen in zip(world.times, world.times[1:], script, strict=False):
        assert now - before >= min(seen.retry_after or 0.0, deadline - before) * 0.999


def test_a_service_that_does_not_respond_is_asked_ever_more_seldom() -> None:
    def polls_within(seconds: float, *seen: PollResult) -> int:
        """The number of polls of a job that is polled every 50 ms while the service responds."""
        world = World(*seen, deadline=1e6)
        world.run(30.0, until=seconds, wait=lambda age, interval: 0.05)
        return world.polls

    # 0.5 to 1 s, 1 to 2 s, … up to 15 to 30 s.
    assert 5 <= polls_within(60.0, UNREADABLE) <= 9
    assert polls_within(60.0, PENDING) == pytest.approx(1200, abs=2)
    # An answer ends it.
    assert polls_within(10.0, UNREADABLE, UNREADABLE, UNREADABLE, PENDING) > 60
