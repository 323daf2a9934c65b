# SPDX-License-Identifier: Apache-2.0
"""Waiting for many jobs at once: the one shell around :func:`~lucidworks_provider.jobs.watch.watch`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from lucidworks_provider.api.jobs import JobState, Sighting, sight
from lucidworks_provider.errors import LucidworksError, UnknownResourceError
from lucidworks_provider.jobs.ledger import Bodies
from lucidworks_provider.jobs.watch import Ending, Look, Poll, Sleep, Watched, watch
from lucidworks_provider.storage import in_thread

log = logging.getLogger(__name__)

# How long a shutdown waits for a body that the service has handed out and storage has not got yet.
_LAST_WRITE = 30.0


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
    Wait until every job has ended, and put each result's body on storage as it arrives.

    :param jobs: job id by the document's position.
    :param fetch: performs the GET of a job id once and returns the body; waiting and repeating is done here.
    :param slots: taken for each GET until its body is stored; bounds the bodies held in memory.
    :param payload_field: the field of a body that holds the result.
    :param deadline: seconds since the epoch.
    :raises LucidworksError: a failure that waiting cannot cure, after the other jobs have ended.
    """

    async def fetch_and_keep(position: int, job_id: str) -> Sighting:
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
                await in_thread(bodies.keep, position, job_id, body)
            case JobState.PENDING if seen.has_payload:
                await in_thread(bodies.keep_aside, position, job_id, body)
                await in_thread(
                    _warn, "Job %s: a payload with the unknown status %r is kept aside.", job_id, seen.status
                )
            case JobState.GONE if await in_thread(bodies.use_aside, position, job_id):
                await in_thread(_warn, "Job %s: gone; the payload that came before is the result.", job_id)
                return Sighting(JobState.RESULT)
            case JobState.UNREADABLE:
                await in_thread(
                    _warn, "Job %s: an answer that is no JSON object; it starts: %r", job_id, seen.message
                )
        return seen

    async def one(position: int, job_id: str) -> Watched:
        conversation = watch(poll_interval=poll_interval, deadline=deadline, now=time.time)
        reply: bool | Sighting | None = None
        while True:
            try:
                command = conversation.send(reply)
            except StopIteration as stop:
                ended: Watched = stop.value
                if ended.ending is Ending.TIMEOUT and await in_thread(bodies.use_aside, position, job_id):
                    # Nothing better has come than what came with an unknown status.
                    await in_thread(
                        _warn, "Job %s: out of time; the payload that came is the result.", job_id
                    )
                    return Watched(Ending.COLLECTED)
                return ended
            match command:
                case Look():
                    reply = await in_thread(bodies.there, position, job_id)
                case Poll():
                    async with slots:
                        reply = await _finish(fetch_and_keep(position, job_id))
                case Sleep(seconds):
                    await asyncio.sleep(seconds)
                    reply = None

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


async def _finish(step: Awaitable[Sighting]) -> Sighting:
    """Do not drop, when cancelled, what the service may hand out only once."""
    running = asyncio.ensure_future(step)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running], timeout=_LAST_WRITE)
        raise
