# SPDX-License-Identifier: Apache-2.0
"""The submissions of a task: what the record says before each POST, after a failure, and after a kill."""

import asyncio
import json
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lucidworks_provider.client.http.aio import CONNECTIONS
from lucidworks_provider.client.jobs import CHUNKING, JobKind
from lucidworks_provider.errors import (
    EmptyResultError,
    InputError,
    JobFailedError,
    LucidworksError,
    MalformedResponseError,
    NoJobIdError,
    ResultGoneError,
    StorageError,
    SubmissionUnknownError,
)
from lucidworks_provider.jobs import task
from lucidworks_provider.jobs.decisions import JobsOutcome
from lucidworks_provider.jobs.record import PART, JobRecord, JobStateStore, ResultDirectory, read_job_record
from lucidworks_provider.jobs.task import SUBMISSIONS, JobTask, submit_again
from tests.task_state import TaskStateStore

PARTS = 30
ALL = {position: f"job-{position}" for position in range(PARTS)}


class Kill(BaseException):
    """The process is gone."""


def raising(error: BaseException, *positions: int) -> Callable[[int], str]:
    """An answer to the POSTs, with an error for these."""
    left = list(positions)

    def answer(position: int) -> str:
        if position in left:
            left.remove(position)
            raise error
        return f"job-{position}"

    return answer


class Hook:
    """Opens no connection."""

    @asynccontextmanager
    async def shared_client(self) -> AsyncIterator[None]:
        yield


@dataclass
class Service:
    """Answers POSTs, and notes what the record on storage says when each of them begins."""

    results: ResultDirectory
    answer: Callable[[int], str] = "job-{}".format
    began: list[int] = field(default_factory=list)
    in_flight: int = 0
    most: int = 0
    without_intent: list[int] = field(default_factory=list)

    async def post(self, position: int) -> str:
        name = f"record-{position // PART}.json" if position >= PART else "record.json"
        if position not in json.loads((Path(self.results.folder) / name).read_text())["intents"]:
            self.without_intent.append(position)
        self.began.append(position)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        try:
            # The parts of a window are answered in another order than they were sent.
            await asyncio.sleep(0.001 * (1 + 7 * position % 5))
            return self.answer(position)
        finally:
            self.in_flight -= 1


@dataclass(frozen=True)
class Parts(JobTask[Any]):
    """A task of parts that have nothing but a position."""

    kind: ClassVar[JobKind] = CHUNKING
    noun: ClassVar[str] = "parts"
    service: Service
    count: int = PARTS  # type: ignore[assignment]
    fingerprint: str = "f"  # type: ignore[assignment]

    def name(self, position: int) -> str:
        return f"Part {position}"

    async def submit(self, position: int) -> str:
        return await self.service.post(position)

    def redact(self, text: str) -> str:
        return text.replace("key", "***")

    parse = open = add = None  # type: ignore[assignment]


Parts.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


@dataclass
class CountingState(TaskStateStore):
    """:param seconds: that a write takes."""

    seconds: float = 0.0
    writes: list[int] = field(default_factory=list)

    def set(self, key: str, value: Any) -> None:
        time.sleep(self.seconds)
        self.writes.append(len(value))
        super().set(key, value)


@dataclass
class Stage:
    """A task whose attempts share a storage."""

    folder: Path
    size: int = PARTS
    state: CountingState = field(default_factory=CountingState)

    def __post_init__(self) -> None:
        self.results = ResultDirectory(f"{self.folder}/_r.parquet")
        self.service = Service(self.results)

    def begin(self, policy: str = "resubmit") -> tuple[Parts, JobRecord]:
        store = JobStateStore(self.results, self.state)
        hook: Any = Hook()
        uri = f"{self.folder}/r.parquet"
        parts = Parts(uri, store, hook, policy == "resubmit", self.service, self.size)
        return parts, store.begin("f", 0, self.size, uri)

    def submitted(self, policy: str = "resubmit") -> tuple[Parts, JobRecord]:
        """A task that has submitted what it may."""
        parts, record = self.begin(policy)
        asyncio.run(parts.submit_missing(record))
        return parts, record

    def attempt(self, policy: str = "resubmit") -> JobRecord:
        return self.submitted(policy)[1]

    def store(self, record: JobRecord, positions: Iterable[int]) -> None:
        """A wait has stored these results."""
        for position in positions:
            asyncio.run(self.results.of(record.jobs[position]).save(b"{}"))

    @property
    def record(self) -> JobRecord:
        found = read_job_record(self.results)
        assert found is not None
        return found


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


def test_parts_are_submitted_several_at_a_time_each_after_its_intent(stage: Stage) -> None:
    record = stage.attempt()
    assert (record.jobs, record.intents) == (ALL, set())
    assert stage.record == record
    assert (stage.service.most, stage.service.without_intent) == (SUBMISSIONS, [])
    assert SUBMISSIONS == CONNECTIONS, "of the client"
    assert stage.service.began[: SUBMISSIONS + 1] == list(range(SUBMISSIONS + 1))
    assert len(stage.state.writes) <= PARTS + 1, "no more than one for each part, and the first"


def test_responses_that_arrive_during_a_write_share_the_next_one(stage: Stage) -> None:
    stage.state.seconds = 0.03
    stage.attempt()
    assert len(stage.state.writes) <= PARTS // 2


@pytest.fixture
def window(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(task, "WINDOW", 20)
    return 20


def test_no_more_jobs_are_outstanding_than_a_window(tmp_path: Path, window: int) -> None:
    stage = Stage(tmp_path, 2 * window + 5)
    parts, record = stage.begin()
    for submitted in (window, 2 * window, 2 * window + 5):
        asyncio.run(parts.submit_missing(record))
        assert record.jobs.keys() == set(range(submitted)), "in order, and one window at a time"
        asyncio.run(parts.submit_missing(record))
        assert len(record.jobs) == submitted, "nothing while the results are outstanding"
        waited = sorted(record.jobs.keys() - stage.results.stored(record.jobs))
        stage.store(record, waited)
        complete = parts.apply_outcome(record, JobsOutcome(collected=len(waited)))
        assert complete == (submitted == stage.size)
    assert stage.record.jobs == record.jobs
    assert stage.service.without_intent == []


@pytest.mark.parametrize(("failed", "stops"), [(1, False), (11, True)])
def test_failed_jobs_of_a_window_end_the_task_at_its_end_or_if_they_are_most(
    tmp_path: Path, window: int, failed: int, stops: bool
) -> None:
    stage = Stage(tmp_path, window + 10)
    parts, record = stage.submitted()
    positions = list(range(failed))
    outcome = JobsOutcome(collected=window - failed, failed=positions, messages={0: "why"})
    if stops:
        with pytest.raises(JobFailedError, match="11 of 30 parts failed"):
            parts.apply_outcome(record, outcome)
        return
    assert not parts.apply_outcome(record, outcome)
    stage.store(record, range(failed, window))
    asyncio.run(parts.submit_missing(record))
    assert len(stage.service.began) == stage.size, "what failed is not submitted again in this attempt"
    with pytest.raises(JobFailedError, match=r"1 of 30 parts failed: Part 0 \(job job-0\): why"):
        parts.apply_outcome(record, JobsOutcome(collected=10))
    stage.store(record, range(window, stage.size))
    stage.attempt()
    assert stage.service.began[stage.size :] == [0]


def test_messages_of_a_wait_are_redacted_before_they_are_stored(stage: Stage) -> None:
    parts, record = stage.submitted()
    record.mark_gone(2)
    record.submitted(2, "another job")
    with pytest.raises(ResultGoneError, match=r"\*\*\* seen"):
        parts.apply_outcome(record, JobsOutcome(gone=[2], messages={2: "key seen"}))
    outcome = JobsOutcome(failed=[0], empty=[1], messages={0: "a key", 1: "my key"})
    with pytest.raises(JobFailedError, match=r"Part 0 \(job job-0\): a \*\*\*\. Clear the task"):
        parts.apply_outcome(record, outcome)
    assert (stage.record.failed, stage.record.empty) == ({0: "a ***"}, {1: "my ***"})


@pytest.mark.parametrize(("stored", "stops"), [(14, False), (4, True)])
def test_results_that_a_restarted_triggerer_has_stored_count_as_well(
    tmp_path: Path, window: int, stored: int, stops: bool
) -> None:
    stage = Stage(tmp_path, 2 * window + 10)
    parts, record = stage.submitted()
    stage.store(record, range(window))
    asyncio.run(parts.submit_missing(record))
    stage.store(record, range(window, window + stored))
    last = JobsOutcome(collected=0, failed=list(range(2 * window - 6, 2 * window)))
    with pytest.raises(JobFailedError, match="6 of 50 parts failed") if stops else nullcontext():
        assert not parts.apply_outcome(record, last)


def test_a_job_without_a_result_does_not_stop_the_next_window_and_is_not_submitted_again(
    tmp_path: Path, window: int
) -> None:
    stage = Stage(tmp_path, window + 10)
    parts, record = stage.submitted()
    stage.store(record, range(1, window))
    assert not parts.apply_outcome(record, JobsOutcome(collected=window - 1, empty=[0], messages={0: "why"}))
    assert 0 not in stage.record.awaited, "it is not polled again in this attempt"
    asyncio.run(parts.submit_missing(record))
    with pytest.raises(EmptyResultError, match=r"1 of 30 parts have no result: Part 0 \(job job-0\): why"):
        parts.apply_outcome(record, JobsOutcome(collected=10))
    assert 0 in stage.attempt().awaited
    assert sorted(stage.service.began) == list(range(stage.size))


def test_a_part_that_an_older_attempt_overwrites_is_written_again_before_the_wait(tmp_path: Path) -> None:
    """Its process still runs: Airflow started another one after a heartbeat gap."""
    stage = Stage(tmp_path, PART + 20)
    parts, older = stage.begin()
    older.begin_wait()
    older.intend([0])
    parts.store.save(older)

    def overwrite(position: int) -> str:
        if position == PART + 10:
            older.submitted(0, "job of the older attempt")
            parts.store.save(older)
        return f"job-{position}"

    stage.service.answer = overwrite
    record = stage.attempt()
    assert stage.record.nonce == record.nonce != older.nonce
    assert stage.record.jobs == record.jobs == {p: f"job-{p}" for p in range(PART + 20)}
    assert parts.store.load() == record


@pytest.mark.parametrize("at", [0, 5, 11, PARTS - 1])
def test_a_kill_loses_the_ids_of_the_posts_in_flight_at_most(stage: Stage, at: int) -> None:
    stage.service.answer = raising(Kill(), at)
    with pytest.raises(Kill):
        stage.attempt()
    killed = stage.record
    assert at in killed.intents
    assert len(killed.intents) <= SUBMISSIONS
    assert set(stage.service.began) <= killed.jobs.keys() | killed.intents
    first, stage.service.began = set(stage.service.began), []
    stage.service.answer = "job-{}".format
    record = stage.attempt()
    assert record.jobs == ALL
    assert first & set(stage.service.began) <= killed.intents, "these alone are submitted twice"
    assert sorted(stage.service.began) == sorted(set(range(PARTS)) - killed.jobs.keys())


def test_by_policy_an_attempt_after_a_kill_names_the_posts_in_flight(stage: Stage) -> None:
    record = JobRecord("f", 0, PARTS)
    record.submitted(0, "job-0")
    record.intend([3, 4])
    JobStateStore(stage.results, None).save(record)
    with pytest.raises(SubmissionUnknownError, match=r"^Part 3, Part 4: An earlier attempt"):
        stage.attempt("fail")
    assert stage.service.began == []
    assert stage.attempt().jobs.keys() == set(range(PARTS))


def test_a_service_that_refuses_everything_gets_one_post(stage: Stage) -> None:
    stage.service.answer = raising(LucidworksError("no such model"), *range(PARTS))
    with pytest.raises(LucidworksError, match=r"^Part 0: no such model"):
        stage.attempt()
    assert stage.service.began == [0]


UNKNOWN = [SubmissionUnknownError("no answer."), NoJobIdError("no id", status=200)]
NO_JOB = [InputError("too long"), LucidworksError("refused")]


@pytest.mark.parametrize("error", [*UNKNOWN, *NO_JOB, ValueError("a bug")], ids=lambda e: type(e).__name__)
def test_a_failure_stops_submissions_and_keeps_the_ids_of_those_in_flight(stage: Stage, error: Any) -> None:
    stage.service.answer = raising(error, 10)
    with pytest.raises(type(error)) as caught:
        stage.attempt("fail")
    assert ("Part 10: " in str(caught.value)) == isinstance(error, LucidworksError)
    record = stage.record
    assert record.jobs.keys() == set(stage.service.began) - {10}, "none in flight is lost"
    assert len(stage.service.began) < PARTS
    assert record.intents == (set() if error in NO_JOB else {10})


def test_an_id_that_another_part_has_is_an_error(stage: Stage) -> None:
    stage.service.answer = lambda position: f"job-{position % 20}"
    with pytest.raises(MalformedResponseError, match=r"Part 2\d: .* job of Part \d") as caught:
        stage.attempt()
    assert not caught.value.retryable
    assert len(set(stage.record.jobs.values())) == len(stage.record.jobs)


def test_an_unknown_outcome_is_resubmitted_by_policy(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lucidworks_provider.retrying.FIRST_WAIT", 0.001)
    stage.service.answer = raising(SubmissionUnknownError("no answer."), 4, 4, 17)
    assert stage.attempt().jobs == ALL
    assert stage.service.without_intent == []
    assert len(stage.service.began) == PARTS + 3


def test_a_record_that_cannot_be_written_stops_submissions(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save, failures = JobStateStore.save, [StorageError("no space left")]
    saved: dict[int, str] = {}
    unsaved: dict[int, str] = {}

    def failing(self: JobStateStore, record: JobRecord) -> bool:
        if len(record.jobs) > 10 and failures:
            unsaved.update({p: job for p, job in record.jobs.items() if p not in saved})
            raise failures.pop()
        saved.update(record.jobs)
        return save(self, record)

    monkeypatch.setattr(JobStateStore, "save", failing)
    with pytest.raises(StorageError, match="no space left"):
        stage.attempt()
    record = stage.record
    assert record.jobs.keys() == set(stage.service.began), "the ids of the POSTs in flight are written"
    assert (len(record.jobs) < PARTS, record.intents, bool(unsaved)) == (True, set(), True)
    assert [one.getMessage() for one in caplog.records if "could not be saved" in one.getMessage()] == [
        f"Part {p}: the id of job {job} could not be saved on storage." for p, job in sorted(unsaved.items())
    ]


@pytest.mark.parametrize("posts", [0, 1])
def test_the_task_state_store_has_no_intents_of_posts_that_were_not_sent(tmp_path: Path, posts: int) -> None:
    """By policy they would block each retry."""
    stage, folder = Stage(tmp_path / "x"), tmp_path / "x"

    def fail_storage(position: int = 0) -> str:
        shutil.rmtree(folder, ignore_errors=True)
        folder.write_text("no folder")
        return f"job-{position}"

    if posts:
        stage.service.answer = fail_storage
    else:
        fail_storage()
    with pytest.raises(StorageError):
        stage.attempt("fail")
    assert len(stage.service.began) == posts
    folder.unlink()
    stage.service.answer = "job-{}".format
    assert stage.attempt("fail").jobs == ALL
    assert len(stage.service.began) == PARTS


def test_parts_of_a_larger_record_do_not_stay_in_the_task_state_store(tmp_path: Path) -> None:
    stage = Stage(tmp_path, 2 * PART + 1)
    JobStateStore(stage.results, stage.state).save(
        JobRecord("another input", 0, stage.size, stale=({0, 1, 2}, {0, 1, 2}))
    )
    assert set(stage.state.values) == {"lucidworks_jobs", "lucidworks_jobs_1", "lucidworks_jobs_2"}
    stage.size = PART
    stage.attempt()
    assert set(stage.state.values) == {"lucidworks_jobs"}


def test_the_log_has_the_number_of_jobs_and_no_id(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    stage.attempt()
    (line,) = caplog.messages
    assert line.startswith(f"Submitted {PARTS} jobs in ")
    caplog.clear()
    stage.attempt()
    assert caplog.messages == [f"Resuming {PARTS} jobs of an earlier attempt."]


def test_a_long_retry_after_is_left_to_the_retries_of_airflow() -> None:
    posts: list[int] = []

    async def down(position: int) -> str:
        posts.append(position)
        raise SubmissionUnknownError("HTTP 503", retry_after=86_400.0)

    with pytest.raises(SubmissionUnknownError, match="1 submission without a response") as caught:
        asyncio.run(submit_again(down, 7, "Part 7", 4, longest_retry_after=120.0))
    assert (posts, caught.value.retry_after) == ([7], 86_400.0)
