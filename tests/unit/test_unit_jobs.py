# SPDX-License-Identifier: Apache-2.0
"""The job protocol by values: the record across attempts, and waiting for one job."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucidworks_provider.client.jobs import JobState, PollResult
from lucidworks_provider.jobs.decisions import (
    EMPTY_POLLS,
    FIRST_WAIT,
    GONE_PATIENCE,
    NEVER_SEEN,
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
from lucidworks_provider.jobs.record import JobRecord, fingerprint_of, newest, resume

PENDING = PollResult(JobState.PENDING, "SUBMITTED")
RESULT = PollResult(JobState.RESULT, "READY")
FAILED = PollResult(JobState.FAILED, "ERROR", "why")
UNREADABLE = PollResult(JobState.UNREADABLE, "", "<html>")
RETRIEVED = PollResult(JobState.GONE, "RETRIEVED")
UNKNOWN_ID = PollResult(JobState.GONE, "", "404")
EMPTY = PollResult(JobState.EMPTY, "READY")
REFUSED = PollResult(JobState.REFUSED, "", "400")


class World:
    """Plays one conversation: polls see the script's entries in turn, the last one for ever."""

    def __init__(self, *script: PollResult, deadline: float = 1000.0, stored_at: float | None = None) -> None:
        self.script = list(script)
        self.deadline = deadline
        self.stored_at = stored_at
        self.now = 0.0
        self.polls = 0
        self.times: list[float] = []

    def run(self, poll_interval: float = 5.0, confirm_seconds: float = 0.0) -> PollOutcome:
        conversation = job_decision(
            poll_interval=poll_interval,
            deadline=self.deadline,
            now=lambda: self.now,
            confirm_seconds=confirm_seconds,
        )
        reply: Any = None
        while True:
            try:
                command = conversation.send(reply)
            except StopIteration as stop:
                return stop.value
            match command:
                case CheckStorage():
                    reply = self.stored_at is not None and self.now >= self.stored_at
                case Poll():
                    reply = self.script[min(self.polls, len(self.script) - 1)]
                    self.polls += 1
                    self.times.append(self.now)
                case Sleep(seconds):
                    assert seconds > 0
                    self.now += seconds
                    reply = None


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
    ],
)
def test_the_table_of_waiting(script: list[PollResult], end: JobEnd, polls: int) -> None:
    world = World(*script)
    assert world.run().end is end
    assert world.polls == polls


def test_pages_of_html_do_not_fail_a_job_but_are_told_at_the_deadline() -> None:
    watched = World(UNREADABLE, deadline=100.0).run()
    assert (watched.end, watched.message) == (JobEnd.TIMEOUT, "<html>")


def test_what_lies_on_storage_is_not_asked_for() -> None:
    world = World(RETRIEVED, stored_at=0)
    assert world.run().end is JobEnd.COLLECTED
    assert world.polls == 0


def test_a_result_that_another_reader_took_is_waited_for() -> None:
    world = World(RETRIEVED, stored_at=GONE_PATIENCE / 2)
    assert world.run().end is JobEnd.COLLECTED


def test_a_result_that_nobody_stores_is_gone_after_the_patience() -> None:
    world = World(RETRIEVED)
    assert world.run().end is JobEnd.GONE
    assert GONE_PATIENCE <= world.now <= GONE_PATIENCE + 10


def test_a_404_of_an_old_job_is_asked_about_again() -> None:
    """A gateway that restarts says it too."""
    world = World(*[PENDING] * 8, UNKNOWN_ID, RESULT)
    assert world.run().end is JobEnd.COLLECTED


def test_an_unknown_id_is_given_time_while_the_job_is_young() -> None:
    world = World(UNKNOWN_ID)
    assert world.run().end is JobEnd.GONE
    assert world.now >= NEVER_SEEN + GONE_PATIENCE


@pytest.mark.parametrize(
    ("durations", "seconds"), [([], NEVER_SEEN), ([1.0], NEVER_SEEN), ([1.0] * 50 + [900.0] * 50, 900.0)]
)
def test_the_patience_with_an_unknown_id_grows_with_the_jobs_that_were_seen(
    durations: list[float], seconds: float
) -> None:
    assert unseen_patience(durations) == seconds


def test_the_end_of_a_failed_job_is_told_within_a_poll_interval() -> None:
    """Whatever its age."""
    world = World(*[PENDING] * 30, FAILED)
    assert world.run(poll_interval=30.0).end is JobEnd.FAILED
    assert world.polls == 30 + REREADS + 1
    assert world.now - world.times[30] <= 30.0


def test_the_deadline_ends_the_wait_with_a_last_look() -> None:
    world = World(PENDING, deadline=100.0)
    assert world.run().end is JobEnd.TIMEOUT
    assert world.now == pytest.approx(100.0)


def test_a_job_ready_at_the_deadline_is_collected() -> None:
    world = World(*[PENDING] * 3, RESULT, deadline=12.0)
    assert world.run().end is JobEnd.COLLECTED


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
        ([PollResult(JobState.PENDING, "RUNNING", has_payload=True, going_on=True)], JobEnd.TIMEOUT, 1),
        ([PollResult(JobState.PENDING, other_job="b"), RESULT], JobEnd.COLLECTED, 2),
    ],
)
def test_a_poke_polls_again_only_where_one_response_does_not_decide(
    script: list[PollResult], end: JobEnd, polls: int
) -> None:
    poke = World(*script, deadline=0.0)
    assert poke.run(confirm_seconds=30.0).end is end
    assert poke.polls == polls
    assert poke.now <= 30.0


def test_the_confirmation_of_a_poke_ends() -> None:
    poke = World(PollResult(JobState.PENDING, other_job="b"), deadline=0.0)
    assert poke.run(confirm_seconds=30.0).end is JobEnd.TIMEOUT
    assert poke.now == pytest.approx(30.0)


@given(age=st.floats(0, 1e6), interval=st.floats(0.01, 600), spread=st.floats(0, 1))
def test_waits_grow_with_age_within_bounds(age: float, interval: float, spread: float) -> None:
    wait = next_wait(age, interval, lambda: spread)
    assert 0.8 * min(FIRST_WAIT, interval) * 0.999 <= wait <= interval
    assert next_wait(age + 100, interval, lambda: spread) >= wait


def test_a_record_survives_storage() -> None:
    record = (
        JobRecord("f", 2).intending([0, 1]).submitted(0, "a").submitted(1, "b").with_failed([1]).with_gone(0)
    )
    assert JobRecord.from_json(record.to_json()) == record
    assert record.revision == 5
    assert record.missing(3) == [0, 1, 2]
    assert record.resubmitted == {0}


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b'{"version": 2}', b'{"version": 1}', b'"x"'])
def test_damaged_records_are_no_records(data: bytes) -> None:
    assert JobRecord.from_json(data) is None


def test_the_newer_copy_wins() -> None:
    old = JobRecord("f", 0)
    new = old.intending([0])
    assert newest([old, new, None]) == newest([new, old]) == new
    assert newest([None, None]) is None


def test_a_retry_goes_on_with_the_same_jobs() -> None:
    found = JobRecord("f", 2).submitted(0, "a")
    record, said = resume(found, fingerprint="f", generation=2)
    assert record.jobs == {0: "a"}
    assert record.nonce == found.nonce
    assert "Resuming 1 job of" in said


def test_every_wait_has_a_nonce_of_its_own() -> None:
    record = JobRecord("f", 0).submitted(0, "a")
    assert record.awaited().nonce != record.nonce
    assert record.awaited().jobs == record.jobs


def test_a_new_attempt_may_submit_again_what_was_gone_twice() -> None:
    found = JobRecord("f", 2).with_gone(0).submitted(0, "a")
    assert resume(found, fingerprint="f", generation=2)[0].resubmitted == frozenset()


def test_other_input_starts_again_and_names_the_orphans() -> None:
    record, said = resume(JobRecord("f", 2).submitted(0, "job-a"), fingerprint="g", generation=2)
    assert record.jobs == {}
    assert "job-a" in said


def test_a_success_is_returned_to_a_retry_and_repeated_after_a_clear() -> None:
    found = JobRecord("f", 2).submitted(0, "a").collected({"uri": "u"})
    assert resume(found, fingerprint="f", generation=2)[0].result == {"uri": "u"}
    again = resume(found, fingerprint="f", generation=5)[0]
    assert (again.result, again.jobs, again.generation) == (None, {}, 5)


def test_what_starts_again_is_newer_than_what_it_replaces() -> None:
    """One of the two stores may miss every write from here on; its copy is the older one."""
    old = JobRecord("f", 2).submitted(0, "a").submitted(1, "b").collected({"uri": "u"})
    for record, _ in (
        resume(old, fingerprint="f", generation=5),
        resume(old, fingerprint="g", generation=2),
    ):
        assert newest([old, record.intending([0])]) != old


def test_clearing_a_failed_task_keeps_its_jobs_and_settles_the_open_submission() -> None:
    found = JobRecord("f", 2).intending([0, 1, 2, 3]).submitted(0, "a").withdrawn(3)
    assert resume(found, fingerprint="f", generation=2)[0].intents == {1, 2}
    record = resume(found, fingerprint="f", generation=5)[0]
    assert (record.jobs, record.intents, record.generation) == ({0: "a"}, set(), 5)


def test_the_fingerprint_tells_every_part_apart() -> None:
    options = {"chunker": "sentence"}
    seen = {
        fingerprint_of(options, [("a", "bc")]),
        fingerprint_of(options, [("ab", "c")]),
        fingerprint_of(options, [("a", "b"), ("c", "")]),
        fingerprint_of({"chunker": "semantic"}, [("a", "bc")]),
    }
    assert len(seen) == 4


def test_an_outcome_is_small_and_survives_the_event() -> None:
    endings = {p: PollOutcome(JobEnd.FAILED, "x" * 5000) for p in range(500)} | {
        500: PollOutcome(JobEnd.COLLECTED)
    }
    outcome = JobsOutcome.of(endings)
    assert JobsOutcome.from_json(outcome.as_json() | {"of a later version": 1}) == outcome
    assert outcome.collected == 1
    assert len(str(outcome.as_json())) < 6000


def polls_within(seconds: float, *seen: PollResult) -> int:
    """How often a job is asked for that is polled every 50 ms while all is well."""
    clock = [0.0]
    talk = job_decision(
        poll_interval=30.0, deadline=1e6, now=lambda: clock[0], wait=lambda age, interval: 0.05
    )
    script = iter(seen)
    last, polls, reply = seen[-1], 0, None
    while clock[0] < seconds:
        command = talk.send(reply)
        reply = None
        if isinstance(command, CheckStorage):
            reply = False
        elif isinstance(command, Poll):
            polls += 1
            reply = next(script, last)
        else:
            clock[0] += command.seconds
    return polls


def test_a_service_that_does_not_answer_is_asked_ever_more_seldom() -> None:
    # 0.5 to 1 s, 1 to 2 s, … up to 15 to 30 s.
    assert 5 <= polls_within(60.0, UNREADABLE) <= 9
    assert polls_within(60.0, PENDING) == pytest.approx(1200, abs=2)
    # An answer ends it.
    assert polls_within(10.0, UNREADABLE, UNREADABLE, UNREADABLE, PENDING) > 60
