# SPDX-License-Identifier: Apache-2.0
"""
Sends the documents of a run and collects their chunks.

::

    plan ──> intend ──> submit ──> poll ──> journal ──> part
             (Intents)  (InFlightLimit)  (BodyBudget)

An event loop submits and polls, a thread reads documents ahead, and a thread writes parts.
:class:`PollDelayEstimator` decides when a job is polled first.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from itertools import islice
from typing import Any

from tenacity import RetryCallState, retry_if_exception_type, wait_fixed

from lucidworks_provider import metrics
from lucidworks_provider.client.jobs import CHUNKING
from lucidworks_provider.corpus.journal import BodyLocation, Journal, SegmentKey
from lucidworks_provider.corpus.parts import (
    CompletedDocument,
    Part,
    PartWriter,
    RejectedError,
    SegmentResult,
    WriteResult,
    not_covered,
    raise_first,
)
from lucidworks_provider.corpus.plan import Candidate, SegmentRequest
from lucidworks_provider.corpus.run_database import Reject, RunDatabase
from lucidworks_provider.corpus.stats import RunStats
from lucidworks_provider.documents.document import Reason, RejectedDocument
from lucidworks_provider.errors import (
    BudgetExceededError,
    ForbiddenError,
    InputError,
    LucidworksError,
    NoJobIdError,
    OutputBusyError,
    RateLimitError,
    RequestRefusedError,
    StorageError,
    SubmissionUnknownError,
    TooManyRejectsError,
    UnknownResourceError,
)
from lucidworks_provider.jobs.decisions import JobEnd, PollOutcome, job_decision, next_wait
from lucidworks_provider.jobs.polling import shielded, wait_for_job
from lucidworks_provider.jobs.record import QuarantineReason
from lucidworks_provider.jobs.task import JOB_POSSIBLE, Budget, submit_again
from lucidworks_provider.retrying import policy, retry_async, retry_on
from lucidworks_provider.threads import in_thread

log = logging.getLogger(__name__)

# Jobs at once at first; one more for each that ends, so that a cold service does not get hundreds.
FIRST_WINDOW = 128
# Texts of the documents in flight, and bodies that are not yet in a part.
TEXT_BYTES = 48_000_000
BODY_BYTES = 32_000_000
# GETs at once. Each waits for a group of the journal, so there are more of them than sockets.
LEAST_GETS, MOST_GETS = 2, 256
# Assumed size of the first body. The expected size is the largest one, which decays over some twenty bodies.
FIRST_BODY = 6_000_000
DECAY = 0.85


@dataclass(frozen=True, slots=True)
class Service:
    """
    Calls of the service, on an event loop.

    :param submit: performs the POST for a text and returns the job's id.
    :param fetch: performs the GET of a job and returns the body.
    :param client: open during the run; its argument is called with the outcome of each request.
    :param rate: requests a second that the rate limiter allows; None before the first 429.
    :param refused_for: seconds for which the service has refused everything.
    """

    submit: Callable[[str], Awaitable[str]]
    fetch: Callable[[str], Awaitable[bytes]]
    client: Callable[[Callable[[int | str], None]], AbstractAsyncContextManager[object]] = nullcontext
    rate: Callable[[], float | None] = lambda: None
    refused_for: Callable[[], float] = lambda: 0.0


class InFlightLimit:
    """
    Limits the documents in flight, and the bytes of their texts; acquired by one coroutine only.

    :param most: documents.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = min(FIRST_WINDOW, most)
        self._bytes = 0
        self.in_flight = 0
        self._room: asyncio.Future[None] | None = None

    async def acquire(self, size: int) -> None:
        """Wait for room; a single document may have any size."""
        while self.in_flight and (self.in_flight >= self._limit or self._bytes + size > TEXT_BYTES):
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        self.in_flight += 1
        self._bytes += size

    def release(self, size: int) -> None:
        """Return the room of a document that was written to a part, or rejected."""
        self.in_flight -= 1
        self._bytes -= size
        self._limit = min(self._most, self._limit + 1)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


# Documents read per call of a thread.
READ_AHEAD = 32
READ_AHEAD_CHARACTERS = 4_000_000
# Texts whose intents are recorded and which are not yet submitted.
LEAST_INTENTS, MOST_INTENTS = 16, 256
# Texts that have intents, as a multiple of those submitted during the last group; the larger one if a submission has
# waited for its intent.
INTENTS_AHEAD, INTENTS_AHEAD_AFTER_WAIT = 1.25, 2.0


class Intents:
    """
    The intents of the texts that are submitted next.

    There are a few more of them than texts that were submitted during the last group of the journal: with fewer,
    submissions would wait for the journal. With more, more texts than necessary might have been submitted when the
    process is killed.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._limit = FIRST_WINDOW
        # Not yet submitted, and whether the text was, or may have been, submitted before.
        self._unsent: dict[SegmentKey, bool] = {}
        # Submissions since the first intent of the group, and whether one has waited for its intent.
        self._begun = 0
        self._waited = False
        self._group: asyncio.Future[str] | None = None
        # Of the documents before their admission.
        self._characters = 0
        self._room = asyncio.Event()

    async def add(self, candidate: Candidate) -> asyncio.Future[str] | None:
        """Wait for room for a document; returns the group of its intents, None if it has none."""
        while len(self._unsent) >= self._limit or (
            self._characters and self._characters + candidate.size > READ_AHEAD_CHARACTERS
        ):
            self._room.clear()
            await self._room.wait()
        self._characters += candidate.size
        group = None
        for segment in candidate.segments:
            if not segment.job:
                group = self._record(segment.key, again=segment.again)
        return group

    def admit(self, candidate: Candidate) -> None:
        """A document that was added is no longer read ahead."""
        self._characters -= candidate.size
        self._room.set()

    async def stored(self, group: asyncio.Future[str] | None) -> None:
        """Wait for what :meth:`add` has returned."""
        if group is not None and not group.done():
            self._waited = True
            await self._journal.stored(group)

    async def require(self, key: SegmentKey) -> None:
        """Store the intent of a further submission of a text, unless there is one."""
        if key not in self._unsent:
            await self._journal.stored(self._record(key, again=True))

    def begin(self, key: SegmentKey) -> bool:
        """A submission begins; returns whether the text was, or may have been, submitted before."""
        self._begun += 1
        self._room.set()
        # Absent if two documents have the same id and text.
        return self._unsent.pop(key, True)

    def withdraw(self) -> None:
        """Nothing more is submitted."""
        for key, again in self._unsent.items():
            self._journal.withdraw(key, again=again)
        self._unsent.clear()

    def _record(self, key: SegmentKey, *, again: bool) -> asyncio.Future[str]:
        again |= key in self._unsent
        self._unsent[key] = again
        group = self._journal.intend(key, again=again)
        if self._group is not None and group is not self._group:
            ahead = INTENTS_AHEAD_AFTER_WAIT if self._waited else INTENTS_AHEAD
            expected = int(self._begun * ahead)
            self._limit = min(MOST_INTENTS, max(LEAST_INTENTS, self._limit // 2, expected))
            self._begun, self._waited = 0, False
        self._group = group
        return group


class BodyBudget:
    """
    A fair semaphore for GETs, held until the body is stored; the larger the bodies, the fewer at once.

    Bodies in memory that are not yet in a part count as well.
    """

    def __init__(self) -> None:
        self._taken = 0
        self._expected = float(FIRST_BODY)
        self._unwritten = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """GETs at once."""
        return max(LEAST_GETS, min(MOST_GETS, int(BODY_BYTES / max(1.0, self._expected))))

    async def __aenter__(self) -> None:
        if self._free() and not self._queue:
            self._taken += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                await self.__aexit__()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._taken -= 1
        self._next()

    def observe(self, size: int) -> None:
        """Adapt the limit to the size of a body."""
        self._expected = max(size, self._expected * DECAY)
        self._next()

    def hold(self, size: int) -> None:
        """Count a body that stays in memory until :meth:`release`."""
        self._unwritten += size

    def release(self, size: int) -> None:
        """End what :meth:`hold` began."""
        self._unwritten -= size
        self._next()

    def _free(self) -> bool:
        return self._taken < self.limit and self._unwritten < BODY_BYTES

    def _next(self) -> None:
        while self._queue and self._free():
            turn = self._queue.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)


SHARE = 0.95
_SHORTER = 0.99
_LONGER = math.exp(-math.log(_SHORTER) * SHARE / (1 - SHARE))
# Jitter, half of it up and half down.
_SPREAD = 0.1
FIRST_DELAY = 0.5
SHORTEST_DELAY = 0.05
_REMEMBERED = 512


class PollDelayEstimator:
    """
    Decides when to poll a job first, from the jobs before it.

    A poll of an unfinished job is a request without a result, so the first poll of a job waits for as long as most
    jobs have taken. A first poll that finds its job ready shortens the next wait a little, one that comes too early
    lengthens it a lot. The two balance where the share ``SHARE`` of first polls finds a result: stochastic
    approximation of a quantile (Robbins and Monro, 1951).

    :param longest: seconds, the longest wait between two polls.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._first = min(FIRST_DELAY, longest)
        # Seconds from submission to result, of the last jobs.
        self.durations: deque[float] = deque(maxlen=_REMEMBERED)

    def first_wait(self, spread: Callable[[], float] = random.random) -> float:
        """Seconds from the submission to the first poll."""
        return self._first * (1 - _SPREAD / 2 + _SPREAD * spread())

    def ready(self, age: float) -> None:
        """
        The first poll of a job found it ready.

        :param age: seconds since its submission. A job that was polled later than is now usual does not count:
            hundreds of jobs are in flight with earlier waits.
        """
        if self._first > age * (1 - _SPREAD):
            self._first = max(SHORTEST_DELAY, self._first * _SHORTER)

    def late(self, age: float) -> None:
        """
        The first poll of a job found it unfinished, and a later one ready.

        :param age: seconds since its submission at the last poll that found it unfinished. A wait that is already
            longer stays.
        """
        if self._first < age * (1 + _SPREAD):
            self._first = min(self._longest, self._first * _LONGER)


class JournalResultStore:
    """
    The :class:`~lucidworks_provider.jobs.record.ResultStore` of one job.

    :param keep_in_memory: keep the body in memory as well, because it is written to a part at once.
    :param fresh: the job was submitted by this process, so its duration is known.
    """

    def __init__(
        self, runner: JobRunner, segment: SegmentRequest, job: str, *, keep_in_memory: bool, fresh: bool
    ) -> None:
        self._runner = runner
        self._keep_in_memory = keep_in_memory
        self._fresh = fresh
        self._segment = segment
        self._job = job
        self._started = time.monotonic()
        # Seconds until the last response about the job, a 429 being none, and until the one before.
        self._polled: float | None = None
        self._unfinished: float | None = None
        self._quarantined: dict[QuarantineReason, BodyLocation] = {}
        self._quarantined_sizes: dict[QuarantineReason, int] = {}
        self._result: BodyLocation | None = None
        self._body: bytes | None = None

    async def fetch(self, job: str) -> bytes:
        """Perform the GET."""
        self._unfinished, answered = self._polled, True
        try:
            return await self._runner.service.fetch(job)
        except LucidworksError as err:
            answered = not err.retryable
            raise
        finally:
            if answered:
                self._polled = time.monotonic() - self._started

    async def exists(self) -> bool:
        """False: the plan has already searched the journal."""
        return False

    async def save(self, body: bytes) -> None:
        """Write the body to the journal."""
        if self._fresh:  # otherwise it may have been ready for long
            seconds = time.monotonic() - self._started
            self._runner.delays.durations.append(seconds)
            if self._unfinished is None:
                self._runner.delays.ready(seconds)
            else:
                self._runner.delays.late(self._unfinished)
        self._runner.body_budget.observe(len(body))
        self._result = await self._write(body)
        if self._keep_in_memory:
            self._body = body
            self._runner.body_budget.hold(len(body))

    async def quarantine(self, body: bytes, reason: QuarantineReason, encoding: str = "") -> str:
        """Write it to the journal, once if it has the size of the one before; a resumed run polls the job again."""
        if self._quarantined_sizes.get(reason) != len(body):
            self._quarantined[reason] = await self._write(body, unconfirmed=True)
            self._quarantined_sizes[reason] = len(body)
        return "the journal"

    async def restore(self, reason: QuarantineReason) -> bool:
        """Use a quarantined body as the result."""
        self._result = self._quarantined.get(reason)
        return self._result is not None

    def result(self) -> SegmentResult:
        """The result."""
        assert self._result is not None  # noqa: S101
        seconds = time.monotonic() - self._started
        return SegmentResult(self._segment, self._job, self._result, self._body, seconds)

    async def _write(self, body: bytes, *, unconfirmed: bool = False) -> BodyLocation:
        return await self._runner.journal.write_body(
            self._segment.key, self._job, body, unconfirmed=unconfirmed
        )


# POSTs at once, including those in the queue of the rate limiter, so that a GET does not wait behind hundreds.
SUBMISSIONS = 32
# Submissions of a text whose POSTs get no response, and the shortest wait between them.
SUBMIT_ATTEMPTS = 3
SUBMIT_WAIT = 5.0
# Responses that may have a cause common to all documents: many rejects in a row stop the run.
_REFUSED = (RequestRefusedError, ForbiddenError, UnknownResourceError)


@dataclass(frozen=True, slots=True)
class PipelineSettings:
    """
    Limits and checks of a pipeline.

    :param timeout: seconds for each job.
    :param poll_interval: the longest time between two polls of a job, seconds.
    :param refuse_truncated: reject documents whose chunks do not cover their text.
    :param lenient: warn about results that may be good, and do not reject them.
    :param max_tokens: submit nothing more when the results of this try have used so many.
    """

    max_in_flight: int = 512
    timeout: float = 3600.0
    poll_interval: float = 30.0
    refuse_truncated: bool = False
    lenient: bool = False
    max_tokens: int | None = None


@dataclass
class JobRunner:
    """Submits the segments of a run and waits for their jobs."""

    service: Service
    journal: Journal
    stats: RunStats
    settings: PipelineSettings

    def __post_init__(self) -> None:
        # The tokens of this try, and the bodies in memory.
        self.budget = Budget(max_tokens=self.settings.max_tokens)
        self.body_budget = BodyBudget()
        self.delays = PollDelayEstimator(self.settings.poll_interval)
        self.intents = Intents(self.journal)
        self._submitting = asyncio.Semaphore(SUBMISSIONS)
        # Set after the first submission.
        self.submitted = asyncio.Event()
        # The text of each job that is being polled.
        self._texts_by_job: dict[str, tuple[str, int, int]] = {}

    async def segment(self, segment: SegmentRequest, *, alone: bool) -> SegmentResult:
        """
        Submit a segment and wait for its result.

        :param alone: it is the whole document.
        :raises RejectedError: a failure of this segment.
        :raises BudgetExceededError: the segment was not submitted.
        :raises LucidworksError: a failure common to all documents.
        """
        if segment.body is not None:
            self.stats.reused()
            return SegmentResult(segment, segment.job, segment.body)
        job, again = segment.job, False
        if job:
            self.stats.reused()
        while True:
            fresh = not job
            job = job or await self._submit(segment)
            self._register_job(job, segment)
            store = JournalResultStore(self, segment, job, keep_in_memory=alone, fresh=fresh)
            try:
                with metrics.waiting() as waited:
                    if fresh:
                        await asyncio.sleep(self.delays.first_wait())
                    ended = await self._wait(job, store)
                    waited.ending = ended.end.value
            finally:
                self._texts_by_job.pop(job, None)
            match ended.end:
                case JobEnd.COLLECTED:
                    return store.result()
                case JobEnd.FAILED:
                    raise RejectedError(Reason.FAILED, f"Job {job}: {ended.message}")
                case JobEnd.EMPTY:
                    raise RejectedError(Reason.EMPTY_RESULT, f"Job {job}: {ended.message}")
                case JobEnd.TIMEOUT:
                    raise self._unfinished(
                        Reason.TIMEOUT,
                        f"Job {job} was not ready within {self.settings.timeout:g} s. {ended.message}",
                    )
            if again:
                raise RejectedError(
                    Reason.GONE,
                    f"Job {job}: its result is gone, as was that of an earlier job. {ended.message}",
                )
            log.warning(
                "Job %s: its result is gone; %r is submitted again. %s",
                job,
                segment.key.document_id,
                ended.message,
            )
            job, again = "", True

    def _register_job(self, job: str, segment: SegmentRequest) -> None:
        """
        Record the text of a job.

        :raises RejectedError: another text has this job id, so one of the two would get the other's result.
        """
        text = segment.key[1:]
        if self._texts_by_job.setdefault(job, text) != text:
            raise RejectedError(
                Reason.MALFORMED,
                f"For this submission the service returned job {job}, which is another document's.",
            )

    async def _wait(self, job: str, store: JournalResultStore) -> PollOutcome:
        try:
            return await wait_for_job(
                job,
                job_decision(
                    poll_interval=self.settings.poll_interval,
                    deadline=time.time() + self.settings.timeout,
                    now=time.time,
                    wait=partial(next_wait, first=SHORTEST_DELAY),
                    # The lease excludes other readers.
                    gone_patience=0.0,
                    durations=self.delays.durations,
                ),
                store=store,
                # Without a limit of the wait for the rate limiter: a run ends when the service refuses everything.
                fetch=lambda job, begin_by: store.fetch(job),
                slots=self.body_budget,
                kind=CHUNKING,
            )
        except InputError as err:
            # The id cannot be part of a URL.
            return PollOutcome(JobEnd.GONE, str(err))
        except _REFUSED as err:
            # The job exists. The response may be a proxy's, or a permission may be missing for a while.
            raise self._unfinished(Reason.REFUSED, f"Job {job}: {err}") from None

    @staticmethod
    def _unfinished(reason: Reason, detail: str) -> RejectedError:
        return RejectedError(reason, detail.rstrip(), job_unfinished=True)

    async def _submit(self, segment: SegmentRequest) -> str:
        name = f"Document {segment.key.document_id!r}"
        try:
            return await submit_again(self._submit_once, segment, name, SUBMIT_ATTEMPTS, shortest=SUBMIT_WAIT)
        except InputError as err:
            raise RejectedError(Reason.INVALID, str(err)) from None
        except _REFUSED as err:
            raise RejectedError(Reason.REFUSED, str(err)) from None
        except (NoJobIdError, SubmissionUnknownError) as err:
            raise RejectedError(Reason.FAILED, str(err)) from None

    async def _submit_once(self, segment: SegmentRequest) -> str:
        await self.intents.require(segment.key)
        async with self._submitting:
            self.budget.check_tokens()
            await self.journal.writable()
            # The job's id is recorded even when this is cancelled.
            return await shielded(self._post(segment))

    def _while_rate_limited(self) -> dict[str, Any]:
        """Retry 429s without limit while other requests are accepted: with a low limit there are many."""
        common = policy(replayable=False, attempts=sys.maxsize, refused_for=self.service.refused_for)

        def stop(state: RetryCallState) -> bool:
            return self.service.refused_for() > 0 and bool(common["stop"](state))

        return common | {"retry": retry_if_exception_type(RateLimitError), "stop": stop}

    async def _post(self, segment: SegmentRequest) -> str:
        again = self.intents.begin(segment.key)
        if again:
            self.stats.resubmitted()
        try:
            job = await retry_async(self.service.submit, segment.text, **self._while_rate_limited())
        except JOB_POSSIBLE:
            raise
        except LucidworksError:
            self.journal.withdraw(segment.key, again=again)
            raise
        self.journal.submitted(segment.key, job)
        self.stats.submitted(time.monotonic())
        self.submitted.set()
        return job


# A part is completed at least this often, so that the journal stays small.
PART_SECONDS = 300.0
PROGRESS_SECONDS = 5.0
CHECK_SECONDS = 10.0
CHECK_ATTEMPTS = 7
# Documents appended per call of a thread.
WRITE_AT_ONCE = 32
# Warnings of each kind in the log; the file of rejects has all rejects.
LOGGED_FIRST = 20
# After so many runs in a row that have rejected a document, its unfinished jobs are not polled again.
MAX_POLLED_RUNS = 3
# Reasons that may be common to all documents.
_SYSTEMIC = {Reason.REFUSED, Reason.FAILED, Reason.MALFORMED, Reason.GONE, Reason.EMPTY_RESULT}
# Such rejects in a row after which a document is sent only if one of those in flight is chunked.
MAX_REJECTED_IN_A_ROW = 25


def renewing() -> dict[str, Any]:
    """The policy of renewals of the lease: a storage that fails for a minute does not end the run."""
    return retry_on(
        StorageError, attempts=CHECK_ATTEMPTS, wait=wait_fixed(CHECK_SECONDS), what="Renewing the lease"
    )


class ConsecutiveFailuresError(TooManyRejectsError):
    """:data:`MAX_REJECTED_IN_A_ROW` documents were rejected, and none in flight with them was chunked."""


@dataclass
class Pipeline:
    """
    Sends the documents of a run and collects their chunks, on one event loop.

    The id and the body of each job go to the journal; a thread reads the bodies and appends their chunks to a part.
    When the part is full, the journal records it and deletes the bodies of its documents. After a failure common to
    all documents the journal has everything for a retry.

    :param new_part: opens the next part.
    :param check: raises when the output's lease is lost.
    """

    service: Service
    journal: Journal
    db: RunDatabase
    stats: RunStats
    new_part: Callable[[], PartWriter]
    check: Callable[[], None]
    settings: PipelineSettings = field(default_factory=PipelineSettings)
    parts: list[Part] = field(default_factory=list)
    # Whether a document was not submitted as max_tokens is reached.
    over_budget: bool = False
    # Whether the journal has jobs or results of rejected documents, for the next run.
    for_next_run: bool = False

    def __post_init__(self) -> None:
        self._in_flight_limit = InFlightLimit(self.settings.max_in_flight)
        self.runner = JobRunner(self.service, self.journal, self.stats, self.settings)
        self._ahead: asyncio.Queue[tuple[Candidate, asyncio.Future[str] | None] | None] = asyncio.Queue()
        self._completed: asyncio.Queue[CompletedDocument] = asyncio.Queue()
        self._part: PartWriter | None = None
        self._part_since = 0.0
        self._rejected_in_a_row = 0
        self._last_reject = ""
        # Set when a document in flight has ended.
        self._ended = asyncio.Event()
        self._reported: Counter[str] = Counter()
        self._warnings: Counter[str] = Counter()

    async def run(self, candidates: Iterator[Candidate | RejectedDocument]) -> None:
        """
        Submit all documents, or those that ``max_tokens`` allows, and collect their chunks.

        :raises LucidworksError: a failure common to all documents; a retry resumes the run.
        """
        # Outside of the task group, so that results are still written when it is cancelled.
        journal = asyncio.create_task(self.journal.write_groups())
        try:
            async with asyncio.TaskGroup() as group:
                beside = [
                    group.create_task(_watched(journal)),
                    group.create_task(_periodically(PROGRESS_SECONDS, lambda: in_thread(self._progress))),
                    group.create_task(_periodically(CHECK_SECONDS, self._check)),
                    group.create_task(self._import_early()),
                    group.create_task(self._write_completed()),
                ]
                await self._send_all(candidates)
                await self._completed.join()
                for task in beside:
                    task.cancel()
        except BaseExceptionGroup as failures:
            failure = _first(failures)
            await self._end(journal, failure)
            raise failure from None
        except BaseException:
            await self._end(journal)
            raise
        await self._end(journal)

    async def _end(self, journal: asyncio.Task[None], failure: BaseException | None = None) -> None:
        """Flush the journal and close the part."""
        self._report_metrics()
        journal.cancel()
        await asyncio.wait([journal])
        if isinstance(failure, OutputBusyError):
            # The lease is lost, so nothing may be written.
            if self._part is not None:
                await in_thread(self._part.abandon)
            return
        if isinstance(failure, ConsecutiveFailuresError):
            # The next attempt submits the rejected documents again.
            self.journal.append("end", None)
        self.runner.intents.withdraw()
        # Before the part, whose contents are in the journal.
        await self.journal.flush()
        await self._close_part()

    async def _import_early(self) -> None:
        """Import pyarrow while the first jobs are in progress."""
        await self.runner.submitted.wait()
        for name in ("pyarrow.parquet", "pyarrow.compute"):
            await in_thread(import_module, name)

    async def _check(self) -> None:
        """Renew the lease."""
        await retry_async(in_thread, self.check, **renewing())

    async def _send_all(self, candidates: Iterator[Candidate | RejectedDocument]) -> None:
        async with asyncio.TaskGroup() as documents:
            reading = documents.create_task(self._read_ahead(candidates))
            while (added := await self._ahead.get()) is not None:
                candidate, intents = added
                self.runner.intents.admit(candidate)
                await self._in_flight_limit.acquire(candidate.size)
                await self.runner.intents.stored(intents)
                await self._check_rejects()
                if self.over_budget:
                    self._release(candidate)
                    break
                self.stats.in_flight = self._in_flight_limit.in_flight
                documents.create_task(self._document(candidate))
            reading.cancel()

    async def _check_rejects(self) -> None:
        """
        Before a document is sent: after many rejects in a row, wait until one of those in flight is chunked.

        :raises ConsecutiveFailuresError: none of them was.
        """
        while self._rejected_in_a_row >= MAX_REJECTED_IN_A_ROW and not self.over_budget:
            # The one that is to be sent counts as in flight.
            if self._in_flight_limit.in_flight == 1:
                raise ConsecutiveFailuresError(
                    f"{self._rejected_in_a_row} documents in a row were rejected and none was chunked, so the cause "
                    f"is probably not in them; stopped. The last one, {self._last_reject}"
                )
            self._ended.clear()
            await self._ended.wait()

    async def _read_ahead(self, candidates: Iterator[Candidate | RejectedDocument]) -> None:
        while batch := await in_thread(_take, candidates):
            for candidate in batch:
                if isinstance(candidate, RejectedDocument):
                    self.stats.rejected(candidate.reason)
                else:
                    self._ahead.put_nowait((candidate, await self.runner.intents.add(candidate)))
        self._ahead.put_nowait(None)

    # -- a document ----------------------------------------------------------------------------------

    async def _document(self, candidate: Candidate) -> None:
        # The bodies of many segments are kept in the journal only.
        alone = len(candidate.segments) == 1
        try:
            if alone:
                results = [await self.runner.segment(candidate.segments[0], alone=True)]
            else:
                results = await self._segments(candidate.segments)
        except BudgetExceededError:
            self.over_budget = True
            self._release(candidate)
            self._ahead.put_nowait(None)
        except RejectedError as err:
            self._reject(candidate, err)
            self._release(candidate)
        else:
            self._completed.put_nowait(CompletedDocument(candidate, results))

    async def _segments(self, segments: Sequence[SegmentRequest]) -> list[SegmentResult]:
        """Wait for all, as their jobs cost money, then raise the first failure; other failures go before rejects."""
        calls = (self.runner.segment(segment, alone=False) for segment in segments)
        results = await asyncio.gather(*calls, return_exceptions=True)
        rejects: dict[SegmentKey, RejectedError] = {}
        for segment, result in zip(segments, results, strict=True):
            if isinstance(result, RejectedError):
                rejects[segment.key] = result
            elif isinstance(result, BaseException):
                raise result
        raise_first(rejects)
        return [result for result in results if isinstance(result, SegmentResult)]

    # -- the parts -----------------------------------------------------------------------------------

    async def _write_completed(self) -> None:
        while True:
            batch = [await self._completed.get()]
            while not self._completed.empty() and len(batch) < WRITE_AT_ONCE:
                batch.append(self._completed.get_nowait())
            if self._part is None:
                self._part, self._part_since = self.new_part(), time.monotonic()
            outcomes = await in_thread(self._append, self._part, batch)
            for completed, outcome in zip(batch, outcomes, strict=True):
                if isinstance(outcome, RejectedError):
                    self._reject(completed.candidate, outcome)
                else:
                    self._count(completed, outcome)
                self.runner.body_budget.release(sum(len(result.body or b"") for result in completed.results))
                self._release(completed.candidate)
            if self._part.full or time.monotonic() - self._part_since > PART_SECONDS:
                await self._close_part()
            for _ in batch:
                self._completed.task_done()

    def _append(
        self, part: PartWriter, batch: Sequence[CompletedDocument]
    ) -> list[WriteResult | RejectedError]:
        """In a thread."""
        outcomes: list[WriteResult | RejectedError] = []
        for completed in batch:
            try:
                outcomes.append(
                    part.add(
                        completed,
                        read=self.journal.body,
                        refuse_truncated=self.settings.refuse_truncated,
                        lenient=self.settings.lenient,
                        spend=self.runner.budget.spend,
                    )
                )
            except RejectedError as err:
                outcomes.append(err)
        return outcomes

    async def _close_part(self) -> None:
        writer, self._part = self._part, None
        if writer is None:
            return
        if not writer.rows:
            await in_thread(writer.abandon)
            return
        part = await in_thread(writer.close)
        await self.journal.write("part", asdict(part))
        await in_thread(self.db.add_new, writer.rows)
        self.parts.append(part)
        # After a suspension, a successor may be reading the files.
        await self._check()
        await in_thread(self.journal.delete, self.journal.unreferenced(row.id for row in writer.rows))

    def _count(self, completed: CompletedDocument, written: WriteResult) -> None:
        self._rejected_in_a_row = 0
        seconds = max((result.seconds for result in completed.results if result.seconds), default=None)
        self.stats.chunked(time.monotonic(), seconds, written.sizes, written.tokens)
        document_id = completed.candidate.document.id
        for warning in written.warnings:
            self._warn("result", "Document %r: %s", document_id, warning)
        if written.gap is not None:
            self._warn("gap", "Document %r: %s", document_id, not_covered(written.gap))

    def _warn(self, kind: str, message: str, *values: object) -> None:
        self._warnings[kind] += 1
        if self._warnings[kind] <= LOGGED_FIRST:
            log.warning(message, *values)

    def _reject(self, candidate: Candidate, err: RejectedError) -> None:
        document_id = candidate.document.id
        attempts = self.db.attempts(document_id)
        file, digest, detail = candidate.file.path, candidate.content_hash, err.detail
        # Results of a text that is not sent again are not needed.
        bad = () if err.reason is Reason.EMPTY_RESULT else err.segments
        if err.job_unfinished:
            again = "polls it" if attempts % MAX_POLLED_RUNS else "submits its text"
            detail += f" The next run {again} again."
            self.journal.append("unfinished", [document_id, digest, attempts])
        else:
            value = [document_id, digest, err.reason, detail, attempts, *(key[2:] for key in bad)]
            self.journal.append("failed", value)
        self.for_next_run |= err.job_unfinished or 0 < len(bad) < len(candidate.segments)
        self.db.reject(Reject(document_id, err.reason, detail, attempts, file, digest))
        self.stats.rejected(err.reason)
        self._warn("reject", "Document %r is rejected (%s): %s", document_id, err.reason, detail)
        # A text that was rejected before is no evidence about the service; nor may many of them block each run.
        if err.reason in _SYSTEMIC and not self.db.rejected_before(document_id, digest):
            self._rejected_in_a_row += 1
            self._last_reject = f"{document_id!r}: {detail}"

    def _release(self, candidate: Candidate) -> None:
        self._in_flight_limit.release(candidate.size)
        self._ended.set()
        self.stats.in_flight = self._in_flight_limit.in_flight

    def _progress(self) -> None:
        self.stats.rate = self.service.rate()
        log.info("%s", self.stats.progress(time.monotonic()))
        self._report_metrics()

    def _report_metrics(self) -> None:
        """Report what was done since the last call."""
        stats = self.stats
        done = Counter(
            chunked=stats.documents,
            rejected=stats.rejects,
            skipped=stats.skips,
            chunks=stats.chunks,
            warnings=self._warnings["result"] + self._warnings["gap"],
        )
        news = done - self._reported
        chunks = news.pop("chunks", 0)
        metrics.warnings(news.pop("warnings", 0))
        metrics.documents(news, chunks)
        self._reported = done


def _take(candidates: Iterator[Candidate | RejectedDocument]) -> list[Candidate | RejectedDocument]:
    """The next candidates; blocks."""
    taken: list[Candidate | RejectedDocument] = []
    characters = 0
    for candidate in islice(candidates, READ_AHEAD):
        taken.append(candidate)
        characters += 0 if isinstance(candidate, RejectedDocument) else candidate.size
        if characters >= READ_AHEAD_CHARACTERS:
            break
    return taken


async def _periodically(seconds: float, call: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(seconds)
        await call()


async def _watched(task: asyncio.Task[None]) -> None:
    await asyncio.shield(task)


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first failure of a group, preferably one of this package's errors."""
    flat = [_first(one) if isinstance(one, BaseExceptionGroup) else one for one in failures.exceptions]
    return next((failure for failure in flat if isinstance(failure, LucidworksError)), flat[0])
