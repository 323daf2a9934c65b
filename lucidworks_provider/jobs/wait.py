# SPDX-License-Identifier: Apache-2.0
"""Waiting for jobs: the one shell around :func:`~lucidworks_provider.jobs.watch.watch`."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_fixed

from lucidworks_provider import metrics
from lucidworks_provider.client.api.jobs import SMALL_BODY, JobKind, JobState, PollResult, parse_poll
from lucidworks_provider.errors import (
    AnswerError,
    ContentEncodingError,
    ForbiddenError,
    LucidworksError,
    RequestRefusedError,
    StorageError,
    UnknownResourceError,
)
from lucidworks_provider.jobs.state_store import ResultDirectory
from lucidworks_provider.jobs.watch import Command, Ending, Look, Poll, PollOutcome, Sleep, watch
from lucidworks_provider.threads import in_thread

log = logging.getLogger(__name__)

# A full disk is emptied, a storage that is away comes back: so often, and after so many seconds, what was handed out
# once is offered to it again from memory. All in all less than the slack that Airflow's own timeout has.
KEEP_TRIES = 24
KEEP_PAUSE = 5.0
# How long a shutdown waits for a body that the service has handed out and storage has not got yet.
_LAST_WRITE = 30.0

T = TypeVar("T")


class ResultStore(Protocol):
    """Where a job's body is put before anybody reads it."""

    async def there(self) -> bool:
        """Whether it lies there already."""

    async def keep(self, body: bytes) -> None:
        """Return when it lies on storage."""

    async def keep_aside(self, body: bytes) -> None:
        """Keep what came with a status that nobody has documented."""

    async def use_aside(self) -> bool:
        """Make what was kept aside the result, if there is something."""

    async def keep_other(self, body: bytes, job_id: str) -> None:
        """Keep what says that it is the result of another job: it may be the only copy of that one, or of this."""

    async def use_other(self) -> bool:
        """Make that the result, if there is something."""

    async def keep_undecoded(self, error: ContentEncodingError) -> None:
        """Keep a body that cannot be decoded, for somebody to look at: it may be the only copy of a result."""


# Answers that say as little about a job as a 404: a gateway's, a cache's, or of a service that is not ready for it.
_NOT_NOW = frozenset({304, 403, 404, 408, 409, 410, 425})


@dataclass(frozen=True, slots=True)
class FileResultStore:
    """
    A job's body beside its task's result.

    :param job_id: or any other name, where there is no job.
    :param arrived: what a listing has shown of it, which answers the first question.
    """

    bodies: ResultDirectory
    position: int
    job_id: str
    arrived: list[bool] = field(default_factory=list)

    async def there(self) -> bool:
        if self.arrived:
            return self.arrived.pop()
        return await in_thread(self.bodies.there, self.position, self.job_id)

    async def keep(self, body: bytes) -> None:
        """Return when it lies on storage, however long that is away; raises StorageError after minutes."""

        async def tell(state: RetryCallState) -> None:
            error = state.outcome and state.outcome.exception()
            await in_thread(_warn, "The result of %s waits in memory, as %s", self.job_id, error)

        # Waiting is done here and not in the threads, of which there are few.
        tries = AsyncRetrying(
            retry=retry_if_exception_type(StorageError),
            stop=stop_after_attempt(KEEP_TRIES),
            wait=wait_fixed(KEEP_PAUSE),
            before_sleep=tell,
            reraise=True,
        )
        await tries(in_thread, self.bodies.keep, self.position, self.job_id, body)

    async def keep_aside(self, body: bytes) -> None:
        await in_thread(self.bodies.keep_aside, self.position, self.job_id, body)

    async def use_aside(self) -> bool:
        return await in_thread(self.bodies.use_aside, self.position, self.job_id)

    async def keep_other(self, body: bytes, job_id: str) -> None:
        uri = await in_thread(self.bodies.keep_other, self.position, self.job_id, body)
        await in_thread(_warn, "The result of job %s is kept in %s", job_id, uri)

    async def use_other(self) -> bool:
        return await in_thread(self.bodies.use_other, self.position, self.job_id)

    async def keep_undecoded(self, error: ContentEncodingError) -> None:
        uri = await in_thread(
            self.bodies.keep_undecoded, self.position, self.job_id, error.body, error.encoding
        )
        error.kept(uri)


@dataclass(slots=True)
class _Asked:
    """
    The GETs of one job, and what has to be known of those before.

    :param forbidden: the last answer was a 403.
    :param others: answers that were about another job.
    :param aside: of a body that was kept aside and may be the result.
    """

    job_id: str
    kind: JobKind
    keeper: ResultStore
    fetch: Callable[[str], Awaitable[bytes]]
    forbidden: ForbiddenError | None = None
    others: int = 0
    aside: bytes = b""

    async def poll(self) -> PollResult:
        """Ask once, and store what may not come again."""
        self.forbidden = None
        try:
            body = await self.fetch(self.job_id)
        except (ForbiddenError, RequestRefusedError, UnknownResourceError) as err:
            return await self._not_now(err)
        except ContentEncodingError as err:
            await self.keeper.keep_undecoded(err)
            raise
        except LucidworksError as err:
            if not err.retryable:
                raise
            await self._warn("no answer for now: %s", err)
            return PollResult(JobState.UNREADABLE, message=str(err))
        if len(body) <= SMALL_BODY:
            seen = parse_poll(body, self.kind, self.job_id)
        else:
            seen = await in_thread(parse_poll, body, self.kind, self.job_id)
        if seen.other_job:
            self.others += 1
            if self.others == 1:
                return await self._of_another(seen, body)
            # A service that names jobs in its own way, maybe. Whoever reads the result looks at what is in it.
            if seen.state is JobState.GONE and await self.keeper.use_other():
                await self._warn("gone; what came before, under the id of another job, may be the result.")
                return PollResult(JobState.RESULT)
        return await self._stored(seen, body)

    async def _not_now(self, err: AnswerError) -> PollResult:
        if 300 <= err.status < 400 and err.status not in _NOT_NOW:
            raise err
        self.forbidden = err if isinstance(err, ForbiddenError) else None
        await self._warn("refused for now: %s", err)
        return PollResult(JobState.GONE if err.status in _NOT_NOW else JobState.REFUSED, message=str(err))

    async def _of_another(self, seen: PollResult, body: bytes) -> PollResult:
        """A cache or a mix-up, once."""
        said = f"The answer is about job {seen.other_job}."
        await self._warn("%s Asking again.", said)
        if seen.has_payload:
            await self.keeper.keep_other(body, seen.other_job)
        return PollResult(JobState.PENDING, message=said)

    async def _stored(self, seen: PollResult, body: bytes) -> PollResult:
        match seen.state:
            case JobState.RESULT:
                await self.keeper.keep(body)
            case JobState.PENDING if seen.has_payload:
                before, self.aside = self.aside, b"" if seen.going_on else hashlib.sha256(body).digest()
                if self.aside and self.aside == before:
                    await self._warn(
                        "the same payload twice, with the status %r: it is the result.", seen.status
                    )
                    await self.keeper.keep(body)
                    return PollResult(JobState.RESULT, seen.status)
                await self.keeper.keep_aside(body)
                await self._warn("a payload with the status %r is kept aside.", seen.status)
            case JobState.PENDING if self.aside and seen.status and not seen.going_on:
                # Handed out once, with the word that it has now.
                await self.keeper.use_aside()
                return PollResult(JobState.RESULT, seen.status)
            case JobState.GONE | JobState.EMPTY if await self.keeper.use_aside():
                await self._warn("gone; the payload that came before is the result.")
                return PollResult(JobState.RESULT)
            case JobState.UNREADABLE:
                await self._warn("an answer that is no JSON object; it starts: %r", seen.message)
        return seen

    async def _warn(self, message: str, *values: object) -> None:
        await in_thread(_warn, f"Job %s: {message}", self.job_id, *values)


async def follow(
    job_id: str,
    conversation: Generator[Command, bool | PollResult | None, PollOutcome],
    *,
    keeper: ResultStore,
    fetch: Callable[[str], Awaitable[bytes]],
    slots: AbstractAsyncContextManager[object],
    kind: JobKind,
) -> PollOutcome:
    """
    Wait for one job, and put its body on storage as it arrives.

    :param conversation: a :func:`watch` that has not begun.
    :param fetch: performs the GET of a job id once and returns the body; waiting and repeating is done here.
    :param slots: taken for each GET until its body is stored; bounds the bodies held in memory.
    :raises LucidworksError: a failure that waiting cannot cure.
    """
    asked = _Asked(job_id, kind, keeper, fetch)
    reply: bool | PollResult | None = None
    while True:
        try:
            command = conversation.send(reply)
        except StopIteration as stop:
            ended: PollOutcome = stop.value
            if ended.ending is Ending.GONE and asked.forbidden is not None:
                raise asked.forbidden from None
            if ended.ending is Ending.TIMEOUT and asked.aside and await keeper.use_aside():
                # Nothing better has come than what came with an unknown status.
                await in_thread(_warn, "Job %s: out of time; the payload that came is the result.", job_id)
                return PollOutcome(Ending.COLLECTED)
            return ended
        match command:
            case Look():
                reply = await keeper.there()
            case Poll():
                async with slots:
                    reply = await finish(asked.poll())
            case Sleep(seconds):
                await asyncio.sleep(seconds)
                reply = None


async def collect(
    jobs: Mapping[int, str],
    *,
    bodies: ResultDirectory,
    fetch: Callable[[str], Awaitable[bytes]],
    slots: asyncio.Semaphore,
    kind: JobKind,
    poll_interval: float,
    deadline: float,
) -> dict[int, PollOutcome]:
    """
    :func:`follow` every job of a task until all have ended.

    :param jobs: job id by the document's position.
    :param deadline: seconds since the epoch.
    :raises LucidworksError: a failure that waiting cannot cure, after the other jobs have ended.
    """

    durations: list[float] = []
    arrived = await in_thread(bodies.arrived, jobs)

    async def one(position: int, job_id: str) -> PollOutcome:
        started = time.monotonic()
        with metrics.waiting() as job:
            ended = await follow(
                job_id,
                watch(poll_interval=poll_interval, deadline=deadline, now=time.time, durations=durations),
                keeper=FileResultStore(bodies, position, job_id, [position in arrived]),
                fetch=fetch,
                slots=slots,
                kind=kind,
            )
            job.ending = ended.ending.value
        if ended.ending is Ending.COLLECTED:
            durations.append(time.monotonic() - started)
        return ended

    if len(jobs) == 1:
        # As in most tasks. A thousand of them in a triggerer need no asyncio.Task each, beside Airflow's own.
        return {p: await one(p, job) for p, job in jobs.items()}
    endings = await asyncio.gather(*(one(p, job) for p, job in jobs.items()), return_exceptions=True)
    for ending in endings:
        if isinstance(ending, BaseException):
            raise ending
    return {p: e for p, e in zip(jobs, endings, strict=True) if isinstance(e, PollOutcome)}


def _warn(message: str, *values: object) -> None:
    """In a thread: in a triggerer the log is a pipe, and whoever should read it may be busy for a second."""
    log.warning(message, *values)


async def finish(step: Awaitable[T]) -> T:
    """Do not drop, when cancelled, what the service may hand out only once."""
    running = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        done, _ = await asyncio.wait([running], timeout=_LAST_WRITE)
        for ended in done:
            # Whoever was cancelled has no use for it.
            _ = ended.cancelled() or ended.exception()
        raise
