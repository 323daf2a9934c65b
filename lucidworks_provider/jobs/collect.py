# SPDX-License-Identifier: Apache-2.0
"""Waiting for jobs: the one shell around :func:`~lucidworks_provider.jobs.watch.watch`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_fixed

from lucidworks_provider import metrics
from lucidworks_provider.api.jobs import JobState, Sighting, sight
from lucidworks_provider.errors import LucidworksError, StorageError, UnknownResourceError
from lucidworks_provider.jobs.ledger import Bodies
from lucidworks_provider.jobs.watch import Command, Ending, Look, Poll, Sleep, Watched, watch
from lucidworks_provider.threads import in_thread

log = logging.getLogger(__name__)

# A full disk is emptied, a storage that is away comes back: so often, and after so many seconds, what was handed out
# once is offered to it again from memory. All in all less than the slack that Airflow's own timeout has.
KEEP_TRIES = 24
KEEP_PAUSE = 5.0
# How long a shutdown waits for a body that the service has handed out and storage has not got yet.
_LAST_WRITE = 30.0

T = TypeVar("T")


class Keeper(Protocol):
    """Where a job's body is put before anybody reads it."""

    async def there(self) -> bool:
        """Whether it lies there already."""

    async def keep(self, body: bytes) -> None:
        """Return when it lies on storage."""

    async def keep_aside(self, body: bytes) -> None:
        """Keep what came with a status that nobody has documented."""

    async def use_aside(self) -> bool:
        """Make what was kept aside the result, if there is something."""


@dataclass(frozen=True, slots=True)
class InFolder:
    """
    A job's body beside its task's result.

    :param job_id: or any other name, where there is no job.
    """

    bodies: Bodies
    position: int
    job_id: str

    async def there(self) -> bool:
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


async def follow(
    job_id: str,
    conversation: Generator[Command, bool | Sighting | None, Watched],
    *,
    keeper: Keeper,
    fetch: Callable[[str], Awaitable[bytes]],
    slots: AbstractAsyncContextManager[object],
    payload_field: str,
) -> Watched:
    """
    Wait for one job, and put its body on storage as it arrives.

    :param conversation: a :func:`watch` that has not begun.
    :param fetch: performs the GET of a job id once and returns the body; waiting and repeating is done here.
    :param slots: taken for each GET until its body is stored; bounds the bodies held in memory.
    :param payload_field: the field of a body that holds the result.
    :raises LucidworksError: a failure that waiting cannot cure.
    """

    async def fetch_and_keep() -> Sighting:
        try:
            body = await fetch(job_id)
        except UnknownResourceError as err:
            body, seen = b"", Sighting(JobState.GONE, message=str(err))
        except LucidworksError as err:
            if not err.retryable:
                raise
            await in_thread(_warn, "Job %s: no answer for now: %s", job_id, err)
            return Sighting(JobState.UNREADABLE, message=str(err))
        else:
            seen = sight(body, payload_field=payload_field)
        match seen.state:
            case JobState.RESULT:
                await keeper.keep(body)
            case JobState.PENDING if seen.has_payload:
                await keeper.keep_aside(body)
                await in_thread(
                    _warn, "Job %s: a payload with the unknown status %r is kept aside.", job_id, seen.status
                )
            case JobState.GONE if await keeper.use_aside():
                await in_thread(_warn, "Job %s: gone; the payload that came before is the result.", job_id)
                return Sighting(JobState.RESULT)
            case JobState.UNREADABLE:
                await in_thread(
                    _warn, "Job %s: an answer that is no JSON object; it starts: %r", job_id, seen.message
                )
        return seen

    reply: bool | Sighting | None = None
    while True:
        try:
            command = conversation.send(reply)
        except StopIteration as stop:
            ended: Watched = stop.value
            if ended.ending is Ending.TIMEOUT and await keeper.use_aside():
                # Nothing better has come than what came with an unknown status.
                await in_thread(_warn, "Job %s: out of time; the payload that came is the result.", job_id)
                return Watched(Ending.COLLECTED)
            return ended
        match command:
            case Look():
                reply = await keeper.there()
            case Poll():
                async with slots:
                    reply = await finish(fetch_and_keep())
            case Sleep(seconds):
                await asyncio.sleep(seconds)
                reply = None


async def collect(
    jobs: Mapping[int, str],
    *,
    bodies: Bodies,
    fetch: Callable[[str], Awaitable[bytes]],
    slots: asyncio.Semaphore,
    payload_field: str,
    poll_interval: float,
    deadline: float,
) -> dict[int, Watched]:
    """
    :func:`follow` every job of a task until all have ended.

    :param jobs: job id by the document's position.
    :param deadline: seconds since the epoch.
    :raises LucidworksError: a failure that waiting cannot cure, after the other jobs have ended.
    """

    async def one(position: int, job_id: str) -> Watched:
        with metrics.waiting() as job:
            ended = await follow(
                job_id,
                watch(poll_interval=poll_interval, deadline=deadline, now=time.time),
                keeper=InFolder(bodies, position, job_id),
                fetch=fetch,
                slots=slots,
                payload_field=payload_field,
            )
            job.ending = ended.ending.value
        return ended

    if len(jobs) == 1:
        # As in most tasks. A thousand of them in a triggerer need no asyncio.Task each, beside Airflow's own.
        return {p: await one(p, job) for p, job in jobs.items()}
    endings = await asyncio.gather(*(one(p, job) for p, job in jobs.items()), return_exceptions=True)
    for ending in endings:
        if isinstance(ending, BaseException):
            raise ending
    return {p: e for p, e in zip(jobs, endings, strict=True) if isinstance(e, Watched)}


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
