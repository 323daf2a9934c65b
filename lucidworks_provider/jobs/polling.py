# SPDX-License-Identifier: Apache-2.0
"""
The polling loop of operators, sensors and triggers.

:func:`perform` runs a decision of :mod:`~lucidworks_provider.jobs.decisions` with a :class:`Poller`: of a job, or
of a model or deployment.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice
from typing import Any, Protocol, Self, TypeVar

from lucidworks_provider import metrics
from lucidworks_provider.client.http.messages import Call
from lucidworks_provider.client.http.rate_limiter import acquired_by
from lucidworks_provider.client.jobs import SMALL_BODY, JobKind, JobState, PollResult, parse_poll, poll_job
from lucidworks_provider.client.models import Deployment, Model, Progress
from lucidworks_provider.errors import (
    AcquireTimeoutError,
    AuthenticationError,
    ConfigurationError,
    ContentEncodingError,
    ForbiddenError,
    LucidworksError,
    RateLimitError,
    RequestRefusedError,
    ResponseError,
    StorageError,
    UnknownResourceError,
)
from lucidworks_provider.jobs.decisions import (
    WINDOW,
    CheckStorage,
    Command,
    JobEnd,
    JobsOutcome,
    Notify,
    Poll,
    PollOutcome,
    ResourceState,
    SaveNotified,
    Sleep,
    is_not_now,
    job_decision,
    state_decision,
    unknown_state,
)
from lucidworks_provider.jobs.record import QuarantineReason, ResultDirectory, ResultStore, read_job_record
from lucidworks_provider.metrics import count, duration
from lucidworks_provider.threads import in_thread

log = logging.getLogger(__name__)

# How long a cancellation waits for a body that the service has returned and that is not stored yet.
_LAST_WRITE = 30.0

T = TypeVar("T")
Fetch = Callable[[str, float | None], Awaitable[bytes]]


class AsyncHook(Protocol):
    """The part of :class:`~lucidworks_provider.hooks.lucidworks.LucidworksHook` that polling needs."""

    async def acall(self, call: Call[T], *, attempts: int | None = None) -> T:
        """Perform a call."""

    def shared_client(self) -> AbstractAsyncContextManager[Any]:
        """Keep the client of this event loop open."""

    def forget_connection(self) -> None:
        """Read the connection again at the next call."""


class Poller:
    """Performs the commands of a decision, except :class:`~lucidworks_provider.jobs.decisions.Sleep`."""

    async def poll(self, begin_by: float | None) -> Any:
        """
        :param begin_by: of :class:`~lucidworks_provider.jobs.decisions.Poll`, in seconds since the epoch.
        """
        raise NotImplementedError

    async def is_stored(self) -> bool:
        return False

    async def save_notified(self, notified: bool) -> bool:
        """Return whether it is saved, or there is no store."""
        return True


async def perform(decision: Generator[Command, Any, T], poller: Poller) -> T:
    """
    Run a decision to its outcome, or to its next :class:`~lucidworks_provider.jobs.decisions.Notify`.

    After a ``Notify``, another call with the same decision continues.
    """
    reply: Any = None
    while True:
        try:
            command = decision.send(reply)
        except StopIteration as stop:
            outcome: T = stop.value
            return outcome
        match command:
            case CheckStorage():
                reply = await poller.is_stored()
            case Poll(begin_by):
                reply = await poller.poll(begin_by)
            case Sleep(seconds):
                await asyncio.sleep(seconds)
                reply = None
            case SaveNotified(notified):
                reply = await poller.save_notified(notified)
            case Notify():
                return command  # type: ignore[return-value]  # T of the one decision that yields it


@dataclass(slots=True)
class JobPoller(Poller):
    """
    Polls a job and stores its body as it arrives.

    :param fetch: performs one GET of a job id and returns the body; it may not begin after a time of
        ``time.monotonic``, if there is one.
    :param slots: held for each GET until its body is stored; bounds the bodies in memory.
    :param redact: removes the task's keys from what is logged; the triggerer does not know them.
    :param unsaved: why a body of this job, or of one that shares the list, could not be stored. None is requested
        then.
    :param forbidden: the last response, if it was a 403.
    :param other_jobs: responses that were about another job.
    :param quarantined: digest of a body with an unknown status that may be the result.
    """

    job_id: str
    kind: JobKind
    store: ResultStore
    fetch: Fetch
    slots: AbstractAsyncContextManager[object]
    redact: Callable[[str], str] = str
    unsaved: list[StorageError] = field(default_factory=list)
    forbidden: ForbiddenError | None = None
    other_jobs: int = 0
    quarantined: bytes = b""

    async def is_stored(self) -> bool:
        return await self.store.exists()

    async def poll(self, begin_by: float | None) -> PollResult | None:
        if begin_by is not None:
            begin_by += time.monotonic() - time.time()
        try:
            async with acquired_by(self.slots, begin_by):
                if self.unsaved:
                    raise StorageError(f"No more results are read: {self.unsaved[0]}")
                return await shielded(self._saved(begin_by))
        except AcquireTimeoutError:
            return None

    async def _saved(self, begin_by: float | None) -> PollResult:
        try:
            return await self._poll(begin_by)
        except StorageError as err:
            self.unsaved.append(err)
            raise

    async def _poll(self, begin_by: float | None) -> PollResult:
        self.forbidden = None
        try:
            body = await self.fetch(self.job_id, begin_by)
        except (ForbiddenError, RequestRefusedError, UnknownResourceError) as err:
            return await self._refused(err)
        except ContentEncodingError as err:
            err.kept(await self.store.quarantine(err.body, QuarantineReason.UNDECODED, err.encoding))
            raise
        except LucidworksError as err:
            if not err.retryable or isinstance(err, AcquireTimeoutError):
                raise
            # A 429 is expected, and there may be many.
            level = logging.INFO if isinstance(err, RateLimitError) else logging.WARNING
            await self._log(level, "no response: %s", err)
            return PollResult(JobState.UNREADABLE, message=str(err), retry_after=err.retry_after)
        if len(body) <= SMALL_BODY:
            result = parse_poll(body, self.kind, self.job_id)
        else:
            result = await in_thread(parse_poll, body, self.kind, self.job_id)
        if result.other_job:
            self.other_jobs += 1
            if self.other_jobs == 1:
                return await self._other_job(result, body)
            # The service may name jobs in its own way. The content is validated when the result is read.
            if result.state is JobState.GONE and await self.store.restore(QuarantineReason.OTHER_JOB):
                await self._warn("gone; the earlier body with another job's id may be the result.")
                return PollResult(JobState.RESULT)
        return await self._stored(result, body)

    async def _refused(self, err: ResponseError) -> PollResult:
        if 300 <= err.status < 400 and not is_not_now(err):
            raise err
        self.forbidden = err if isinstance(err, ForbiddenError) else None
        await self._warn("refused (polling continues): %s", err)
        return PollResult(JobState.GONE if is_not_now(err) else JobState.REFUSED, message=str(err))

    async def _other_job(self, result: PollResult, body: bytes) -> PollResult:
        """The first response about another job: a cache or a mix-up."""
        message = f"The response is about job {result.other_job}."
        await self._warn("%s Polling again.", message)
        if result.has_payload:
            kept = await self.store.quarantine(body, QuarantineReason.OTHER_JOB)
            await in_thread(log.warning, "The result of job %s is kept in %s", result.other_job, kept)
        return PollResult(JobState.PENDING, message=message, other_job=result.other_job)

    async def _stored(self, result: PollResult, body: bytes) -> PollResult:
        match result.state:
            case JobState.RESULT:
                await self.store.save(body)
            case JobState.PENDING if result.has_payload and result.in_progress:
                await self.store.quarantine(body, QuarantineReason.PARTIAL)
                await self._warn("a payload with status %r, which may be incomplete, is kept.", result.status)
            case JobState.PENDING if result.has_payload:
                digest = hashlib.sha256(body).digest()
                same, self.quarantined = digest == self.quarantined, digest
                if same:
                    await self._warn(
                        "received the same payload twice with status %r; accepted it as the result.",
                        result.status,
                    )
                    await self.store.save(body)
                    return PollResult(JobState.RESULT, result.status)
                await self.store.quarantine(body, QuarantineReason.UNKNOWN_STATUS)
                await self._warn("a payload with status %r is quarantined.", result.status)
            case JobState.PENDING if self.quarantined and result.status and not result.in_progress:
                # The payload was returned once; later responses have the status alone.
                await self.store.restore(QuarantineReason.UNKNOWN_STATUS)
                return PollResult(JobState.RESULT, result.status)
            case JobState.GONE | JobState.EMPTY if await self.store.restore(QuarantineReason.UNKNOWN_STATUS):
                await self._warn("gone; the quarantined payload is the result.")
                return PollResult(JobState.RESULT)
            case JobState.GONE if result.status and await self.store.restore(QuarantineReason.PARTIAL):
                await self._warn("gone; the payload that was kept while the job ran is the result.")
                return PollResult(JobState.RESULT)
            case JobState.UNREADABLE:
                await self._warn("the response is not a JSON object; it starts: %r", result.message)
        return result

    async def _warn(self, message: str, *values: object) -> None:
        await self._log(logging.WARNING, message, *values)

    async def _log(self, level: int, message: str, *values: object) -> None:
        # In a thread: in a triggerer the log is a pipe whose reader may be busy for a second.
        await in_thread(log.log, level, "Job %s: %s", self.job_id, self.redact(message % values))


async def wait_for_job(
    job_id: str,
    decision: Generator[Command, bool | PollResult | None, PollOutcome],
    *,
    store: ResultStore,
    fetch: Fetch,
    slots: AbstractAsyncContextManager[object],
    kind: JobKind,
    restore_at_timeout: bool = True,
    redact: Callable[[str], str] = str,
    unsaved: list[StorageError] | None = None,
) -> PollOutcome:
    """
    Poll a job until it ends, and store its body as it arrives.

    :param decision: a new :func:`~lucidworks_provider.jobs.decisions.job_decision`.
    :param fetch: see :class:`JobPoller`.
    :param slots: held for each GET until its body is stored; bounds the bodies in memory.
    :param restore_at_timeout: use a payload with an unknown status where nothing better came before the deadline.
    :param redact: removes keys from what is logged.
    :param unsaved: see :class:`JobPoller`; shared by the jobs of a task.
    :raises LucidworksError: a failure that another poll cannot cure.
    """
    poller = JobPoller(job_id, kind, store, fetch, slots, redact, [] if unsaved is None else unsaved)
    outcome = await perform(decision, poller)
    gone = outcome.end is JobEnd.GONE
    # An earlier process may have stored it, and the service may return it only once.
    if (gone or (outcome.end is JobEnd.TIMEOUT and restore_at_timeout)) and (
        await store.restore(QuarantineReason.UNKNOWN_STATUS)
        or (gone and await store.restore(QuarantineReason.PARTIAL))
    ):
        ended = "gone" if gone else "timed out"
        await in_thread(log.warning, "Job %s: %s; the quarantined payload is the result.", job_id, ended)
        return PollOutcome(JobEnd.COLLECTED)
    if gone and poller.forbidden is not None:
        raise poller.forbidden from None
    return outcome


class WaitProgress:
    """
    Logs how many results are stored: after 30 seconds, then at twice the time, at least every five minutes.

    :param total: results of the task.
    :param stored: those that are stored already.
    :param deadline: seconds since the epoch.
    """

    FIRST, LONGEST = 30.0, 300.0

    def __init__(self, total: int, stored: int, deadline: float) -> None:
        self._total, self._stored, self._deadline = total, stored, deadline
        self._began = time.monotonic()
        self._next = self.FIRST

    async def update(self, number: int) -> None:
        """
        Log in a thread: in a triggerer the log is a pipe whose reader may be busy for a second.

        :param number: of results that this wait has stored.
        """
        waited = time.monotonic() - self._began
        if waited >= self._next:
            self._next = waited + min(max(waited, self.FIRST), self.LONGEST)
            left = duration(max(0.0, self._deadline - time.time()))
            await in_thread(log.info, "%s stored, at most %s left.", self._counted(number), left)

    async def end(self, number: int) -> None:
        """:param number: of results that this wait has stored."""
        took = duration(time.monotonic() - self._began)
        await in_thread(log.info, "%s stored after %s.", self._counted(number), took)

    def _counted(self, number: int) -> str:
        return f"{self._stored + number:,} of {count(self._total, 'result')}"


async def wait_for_jobs(
    hook: AsyncHook,
    kind: JobKind,
    results: ResultDirectory,
    *,
    nonce: str,
    poll_interval: float,
    deadline: float,
    redact: Callable[[str], str] = str,
) -> JobsOutcome:
    """
    Check that this process sees the task's storage and can write there, then wait for jobs whose results are not
    stored. The service may return a result only once.

    :param nonce: of the task's record.
    :param deadline: seconds since the epoch.
    :param redact: removes keys from what is logged.
    :raises StorageError: results cannot be stored; no other one is requested.
    :raises LucidworksError: a failure that another poll cannot cure, after the other jobs have ended.
    """
    record = await in_thread(read_job_record, results)
    if record is None or record.nonce != nonce:
        return JobsOutcome(unshared=socket.gethostname())
    stored = await in_thread(results.stored, record.awaited)
    missing = {p: job for p, job in record.awaited.items() if p not in stored}
    jobs = dict(islice(missing.items(), WINDOW))
    # Each once: documents with one text may have one job, whose result the service may return only once.
    job_ids = list(dict.fromkeys(jobs.values()))
    size, left = record.size, len(missing) - len(jobs)
    # The rest of a record of thousands of jobs is not needed while they are polled.
    del record, missing
    if jobs:
        try:
            await in_thread(results.check_writable)
        except StorageError as err:
            raise StorageError(f"No result was read: {err}") from err
        log.info(
            "Waiting for %s, for at most %s.",
            count(len(job_ids), "job"),
            duration(max(0.0, deadline - time.time())),
        )
    durations: list[float] = []
    unsaved: list[StorageError] = []
    progress = WaitProgress(size, len(stored), deadline)
    async with hook.shared_client() as client:

        async def fetch(job_id: str, begin_by: float | None) -> bytes:
            await progress.update(len(durations))
            # One attempt: a retry inside of the client would hold a slot, and outlast the deadline.
            return await hook.acall(poll_job(kind, job_id).beginning_by(begin_by), attempts=1)

        async def wait(job_id: str) -> PollOutcome:
            started = time.monotonic()
            with metrics.waiting() as job:
                outcome = await wait_for_job(
                    job_id,
                    job_decision(
                        poll_interval=poll_interval, deadline=deadline, now=time.time, durations=durations
                    ),
                    store=results.of(job_id),
                    fetch=fetch,
                    slots=client.slots,
                    kind=kind,
                    redact=redact,
                    unsaved=unsaved,
                )
                job.ending = outcome.end.value
            if outcome.end is JobEnd.COLLECTED:
                durations.append(time.monotonic() - started)
            return outcome

        if len(job_ids) == 1:
            # As in most tasks. A thousand of them in a triggerer need no asyncio.Task each, beside Airflow's own.
            outcomes: list[PollOutcome | BaseException] = [await wait(*job_ids)]
        else:
            outcomes = await asyncio.gather(*map(wait, job_ids), return_exceptions=True)
    ended: dict[str, PollOutcome] = {}
    for job_id, outcome in zip(job_ids, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            raise outcome
        ended[job_id] = outcome
    summary = JobsOutcome.of({position: ended[job_id] for position, job_id in jobs.items()}, left)
    await progress.end(summary.collected)
    return summary


async def wait_for_state(
    hook: AsyncHook,
    *,
    kind: str,
    resource_id: str,
    target: str,
    poll_interval: float,
    deadline: float,
    started: float | None = None,
    confirm_until: float = 0.0,
    model_id: str | None = None,
) -> dict[str, Any]:
    """
    Wait until a model or a deployment is in a state, or cannot get there.

    :param kind: ``model`` or ``deployment``.
    :param target: see :mod:`~lucidworks_provider.jobs.decisions`.
    :param deadline: seconds since the epoch.
    :param started: when waiting began, seconds since the epoch, if before this call.
    :param confirm_until: see :func:`~lucidworks_provider.jobs.decisions.state_decision`.
    :param model_id: of a deployment whose model is known.
    :return: the arguments that name the resource and the fields of a
        :class:`~lucidworks_provider.jobs.decisions.StateOutcome`: ``dag.test()`` gives a task the event and nothing
        else.
    """
    decision = state_decision(
        target,
        poll_interval=poll_interval,
        deadline=deadline,
        now=time.time,
        started=started,
        confirm_until=confirm_until,
    )
    async with ResourcePoller(hook, kind, resource_id, model_id, target) as poller:
        outcome = await perform(decision, poller)
    return {"kind": kind, "resource_id": resource_id, "target": target, **outcome.as_json()}


@dataclass(slots=True)
class ResourcePoller(Poller):
    """
    Polls a model or a deployment, with one client until its block ends.

    :param kind: ``model`` or ``deployment``.
    :param model_id: of a deployment whose model is known: its own list is requested before that of the customer.
    :param target: the state that is waited for. It is not logged: the task that resumes logs it.
    :param save: stores whether the current state was notified.
    """

    hook: AsyncHook
    kind: str
    resource_id: str
    model_id: str | None = None
    target: str = ""
    save: Callable[[bool], Awaitable[bool]] | None = None
    _logged: tuple[str, ...] = field(default=(), init=False)
    _client: AbstractAsyncContextManager[Any] | None = field(default=None, init=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._client is not None:
            client, self._client = self._client, None
            await client.__aexit__(None, None, None)

    async def save_notified(self, notified: bool) -> bool:
        return self.save is None or await self.save(notified)

    async def poll(self, begin_by: float | None) -> ResourceState | LucidworksError:
        """Errors are replies: the decision is what to do about them."""
        try:
            if self._client is None:
                client = self.hook.shared_client()
                await client.__aenter__()
                self._client = client
            if begin_by is not None:
                begin_by += time.monotonic() - time.time()
            result = await get_state(self.hook, self.kind, self.resource_id, self.model_id, begin_by)
        except AcquireTimeoutError as err:
            return err
        except LucidworksError as err:
            await self._log(log.warning, "no response, polling again: %s", str(err))
            if isinstance(err, AuthenticationError | ConfigurationError):
                # A watcher polls without end, and the connection may be corrected.
                await self.__aexit__()
                self.hook.forget_connection()
            return err
        state = (result.state or "").upper()
        if self.target.upper() not in {result.progress.name, state}:
            await self._log(log.info, "%s", result.state or "no such resource")
        if message := unknown_state(result):
            await in_thread(_warn_once, self.kind, self.resource_id, message)
        return result

    async def _log(self, write: Callable[..., None], message: str, value: str) -> None:
        """Log what differs from the poll before."""
        if self._logged != (message, value):
            self._logged = message, value
            await in_thread(write, f"%s %s: {message}", self.kind.capitalize(), self.resource_id, value)


@lru_cache(maxsize=1024)
def _warn_once(kind: str, resource_id: str, message: str) -> None:
    log.warning("%s %s: %s Waiting continues.", kind.capitalize(), resource_id, message)


async def get_state(
    hook: AsyncHook,
    kind: str,
    resource_id: str,
    model_id: str | None = None,
    begin_by: float | None = None,
) -> ResourceState:
    """
    Request the state of a model or a deployment once.

    :param begin_by: in the clock of ``time.monotonic``: a request that waits for others until then is not sent.
    :raises LucidworksError: no response. A resource that does not exist is a response.
    """
    # Waits for jobs do not need the Models API.
    from lucidworks_provider.client.models import find_deployment, get_model

    found: Model | Deployment | None = None
    if kind == "model":
        with contextlib.suppress(UnknownResourceError):
            found = await hook.acall(get_model(resource_id).beginning_by(begin_by), attempts=1)
    else:
        call = find_deployment(resource_id, model_id).beginning_by(begin_by)
        found = await hook.acall(call, attempts=1)
    return (
        ResourceState(Progress.GONE, None)
        if found is None
        else ResourceState(found.progress, found.state or "")
    )


async def shielded(step: Awaitable[T]) -> T:
    """Finish a step before a cancellation takes effect: the service may return a result only once."""
    running = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        done, _ = await asyncio.wait([running], timeout=_LAST_WRITE)
        for ended in done:
            _ = ended.cancelled() or ended.exception()  # retrieved, so that asyncio does not log it
        raise
