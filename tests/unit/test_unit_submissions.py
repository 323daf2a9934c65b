# SPDX-License-Identifier: Apache-2.0
"""The submissions of a task: what the record says before each POST, after a failure, and after a kill."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest

from lucidworks_provider.client.http.aio import CONNECTIONS
from lucidworks_provider.client.jobs import CHUNKING, JobKind
from lucidworks_provider.errors import (
    InputError,
    LucidworksError,
    MalformedAnswerError,
    NoJobIdError,
    StorageError,
    SubmissionUnknownError,
)
from lucidworks_provider.jobs.record import JobRecord, resume
from lucidworks_provider.jobs.state_store import JobStateStore, ResultDirectory
from lucidworks_provider.jobs.task import SUBMISSIONS, Budget, JobTask

PARTS = 30


class Kill(BaseException):
    """The process is gone."""


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
        record = self.results.read_record()
        if record is None or position not in record.intents:
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
    parts: ClassVar[str] = "parts"
    service: Service
    count: int = PARTS  # type: ignore[assignment]
    fingerprint: str = "f"  # type: ignore[assignment]

    def name(self, position: int) -> str:
        return f"Part {position}"

    async def submit(self, position: int) -> str:
        return await self.service.post(position)

    parse = open = add = manifest = None  # type: ignore[assignment]


Parts.__abstractmethods__ = frozenset()  # type: ignore[attr-defined]


@dataclass
class Stage:
    """A task whose attempts share a storage."""

    folder: Path
    writes: int = 0

    def __post_init__(self) -> None:
        self.results = ResultDirectory(f"{self.folder}/_r.parquet")
        self.service = Service(self.results)

    def attempt(self, policy: str = "resubmit") -> JobRecord:
        store = JobStateStore(self.results, None)
        task = Parts(f"{self.folder}/r.parquet", store, Hook(), policy == "resubmit", Budget(), self.service)  # type: ignore[arg-type]
        record, _ = resume(store.load(), fingerprint="f", generation=0)
        return asyncio.run(task.submit_missing(record))

    @property
    def record(self) -> JobRecord:
        found = self.results.read_record()
        assert found is not None
        return found


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    made = Stage(tmp_path)
    write = ResultDirectory.write_record

    def counting(self: ResultDirectory, record: JobRecord) -> None:
        made.writes += 1
        write(self, record)

    monkeypatch.setattr(ResultDirectory, "write_record", counting)
    return made


def test_parts_are_submitted_several_at_a_time_each_after_its_intent(stage: Stage) -> None:
    record = stage.attempt()
    assert record.jobs == {p: f"job-{p}" for p in range(PARTS)}
    assert stage.record == record
    assert record.intents == set()
    assert stage.service.most == SUBMISSIONS
    assert stage.service.without_intent == []
    assert stage.service.began[: SUBMISSIONS + 1] == list(range(SUBMISSIONS + 1))
    assert stage.writes <= PARTS + 1, "no more than one for each part, and the first"


def test_answers_that_arrive_during_a_write_share_the_next_one(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = JobStateStore.save

    def slow(self: JobStateStore, record: JobRecord) -> JobRecord:
        time.sleep(0.03)
        return save(self, record)

    monkeypatch.setattr(JobStateStore, "save", slow)
    stage.attempt()
    assert stage.writes <= PARTS // 2


@pytest.mark.parametrize("at", [0, 5, 11, PARTS - 1])
def test_a_kill_loses_the_ids_of_the_posts_in_flight_at_most(stage: Stage, at: int) -> None:
    def dying(position: int) -> str:
        if position == at:
            raise Kill
        return f"job-{position}"

    stage.service.answer = dying
    with pytest.raises(Kill):
        stage.attempt()
    killed = stage.record
    assert at in killed.intents
    assert len(killed.intents) <= SUBMISSIONS
    assert set(stage.service.began) <= killed.jobs.keys() | killed.intents
    first, stage.service.began = set(stage.service.began), []
    stage.service.answer = "job-{}".format
    record = stage.attempt()
    assert record.jobs == {p: f"job-{p}" for p in range(PARTS)}
    assert first & set(stage.service.began) <= killed.intents, "these alone are submitted twice"
    assert sorted(stage.service.began) == sorted(set(range(PARTS)) - killed.jobs.keys())


def test_by_policy_an_attempt_after_a_kill_names_the_posts_in_flight(stage: Stage) -> None:
    stage.results.write_record(JobRecord("f", 0).submitted(0, "job-0").intending([3, 4]))
    with pytest.raises(SubmissionUnknownError, match=r"^Part 3, Part 4: An earlier attempt"):
        stage.attempt("fail")
    assert stage.service.began == []
    assert stage.attempt().jobs.keys() == set(range(PARTS))


def test_a_service_that_refuses_everything_gets_one_post(stage: Stage) -> None:
    def refusing(position: int) -> str:
        raise LucidworksError("no such model")

    stage.service.answer = refusing
    with pytest.raises(LucidworksError, match=r"^Part 0: no such model"):
        stage.attempt()
    assert stage.service.began == [0]


UNKNOWN = [SubmissionUnknownError("no answer."), NoJobIdError("no id", status=200)]
NO_JOB = [InputError("too long"), LucidworksError("refused")]


@pytest.mark.parametrize("error", [*UNKNOWN, *NO_JOB, ValueError("a bug")], ids=lambda e: type(e).__name__)
def test_a_failure_stops_submissions_and_keeps_the_ids_of_those_in_flight(
    stage: Stage, error: Exception
) -> None:
    def failing(position: int) -> str:
        if position == 10:
            raise error
        return f"job-{position}"

    stage.service.answer = failing
    with pytest.raises(type(error)) as caught:
        stage.attempt("fail")
    assert ("Part 10: " in str(caught.value)) == isinstance(error, LucidworksError)
    record = stage.record
    assert record.jobs.keys() == set(stage.service.began) - {10}, "none in flight is lost"
    assert len(stage.service.began) < PARTS
    assert record.intents == (set() if error in NO_JOB else {10})


def test_an_id_that_another_part_has_is_an_error(stage: Stage) -> None:
    stage.service.answer = lambda position: f"job-{position % 20}"
    with pytest.raises(MalformedAnswerError, match=r"Part 2\d: .* job of Part \d") as caught:
        stage.attempt()
    assert not caught.value.retryable
    assert len(set(stage.record.jobs.values())) == len(stage.record.jobs)


def test_an_unknown_outcome_is_resubmitted_by_policy(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lucidworks_provider.retrying.FIRST_WAIT", 0.001)
    lost = [4, 4, 17]

    def losing(position: int) -> str:
        if position in lost:
            lost.remove(position)
            raise SubmissionUnknownError("no answer.")
        return f"job-{position}"

    stage.service.answer = losing
    assert stage.attempt().jobs == {p: f"job-{p}" for p in range(PARTS)}
    assert stage.service.without_intent == []
    assert len(stage.service.began) == PARTS + 3


def test_a_record_that_cannot_be_written_stops_submissions(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save, failures = JobStateStore.save, [StorageError("no space left")]
    saved: dict[int, str] = {}
    unsaved: dict[int, str] = {}

    def failing(self: JobStateStore, record: JobRecord) -> JobRecord:
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
    assert len(record.jobs) < PARTS
    assert record.intents == set()
    assert unsaved
    assert [one.getMessage() for one in caplog.records if "could not be saved" in one.getMessage()] == [
        f"Part {p}: the id of job {job} could not be saved on storage." for p, job in sorted(unsaved.items())
    ]


def test_the_log_has_the_number_of_jobs_and_no_id(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    stage.attempt()
    (line,) = caplog.messages
    assert line.startswith(f"Submitted {PARTS} jobs in ")
    caplog.clear()
    stage.attempt()
    assert caplog.messages == []


def test_the_window_is_that_of_the_clients_connections() -> None:
    assert SUBMISSIONS == CONNECTIONS
