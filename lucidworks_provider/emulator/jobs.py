# SPDX-License-Identifier: Apache-2.0
"""
The asynchronous jobs and their four documented states (section 6.3).

A job stays ``SUBMITTED`` for a number of polls and a time, is ``READY`` with its results exactly once, and
``RETRIEVED`` from then on. No intermediate state is listed by the vendor, so a running job shows
``SUBMITTED`` [A]. Retention and the response for an unknown id are not documented [A]: 24 hours, then as if the
id had never existed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias
from uuid import uuid4

from starlette.responses import JSONResponse, Response

from lucidworks_provider.emulator.errors import ApiError
from lucidworks_provider.emulator.rules import InvalidValue
from lucidworks_provider.emulator.settings import EmulatorSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from lucidworks_provider.emulator.calls import Call


class JobState(StrEnum):
    """The values of ``status``."""

    SUBMITTED = "SUBMITTED"
    READY = "READY"
    ERROR = "ERROR"
    RETRIEVED = "RETRIEVED"


class JobKind(StrEnum):
    """The two APIs with jobs; an id of one means nothing to the other."""

    CHUNKING = "chunking"
    PREDICTION = "prediction"

    @property
    def id_field(self) -> str:
        return f"{self}Id"


class JobFailure(Exception):
    """The job ends in ERROR; the message becomes ``message``."""


JobResult: TypeAlias = "Callable[[bool], str]"
"""Gives the JSON of the fields with the results; True: in an older published shape, if there is one."""


@dataclass
class Job:
    """One job; ``work`` is dropped once its results were returned, since they may be large."""

    created: float
    work: Future[JobResult] | None
    kind: JobKind = JobKind.CHUNKING
    legacy: bool = False
    forced: JobState | None = None
    message: str = ""
    polls: int = 0
    taken: bool = False
    job_id: str = field(default_factory=lambda: str(uuid4()))


class JobRegistry:
    """All jobs of one emulator, in order of submission."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._jobs: dict[str, Job] = {}

    def add(self, kind: JobKind, work: Future[JobResult] | None, settings: EmulatorSettings) -> Job:
        """Accept a job, and drop those over their retention."""
        while self._jobs:
            oldest = next(iter(self._jobs))
            if self.find(oldest, settings) is not None:
                break
        job = Job(self._clock(), work, kind)
        self._jobs[job.job_id] = job
        return job

    def find(self, job_id: str, settings: EmulatorSettings) -> Job | None:
        """Return a job that is not over its retention."""
        job = self._jobs.get(job_id.lower())
        if job is not None and self._clock() - job.created >= settings.retention:
            self.forget(job_id)
            return None
        return job

    def forget(self, job_id: str) -> None:
        """Drop a job as the end of retention does."""
        job = self._jobs.pop(job_id.lower(), None)
        if job is not None and job.work is not None:
            job.work.cancel()

    def cancel(self) -> None:
        """Forget every job, and do not begin what is still to be done."""
        for job_id in list(self._jobs):
            self.forget(job_id)

    def due(self, job: Job, settings: EmulatorSettings) -> bool:
        """Return whether the next poll may return results."""
        if job.forced is not None or job.taken:
            return job.forced is JobState.READY
        return job.polls >= settings.pending_polls and self._clock() - job.created >= settings.pending_seconds

    def poll(self, job: Job, settings: EmulatorSettings) -> tuple[JobState, JobResult | None]:
        """Count one GET; return the state and, if this GET carries it, the result. Never blocks."""
        state = self.peek(job, settings)
        job.polls += 1
        work = job.work
        if work is None or state not in {JobState.READY, JobState.RETRIEVED} or not work.done():
            return state, None
        if state is JobState.RETRIEVED:
            return state, work.result() if settings.retrieved == "payload" else None
        job.taken, job.forced = True, None
        if settings.retrieved != "payload":
            job.work = None
        return state, work.result()

    def force(self, job: Job, state: JobState, message: str) -> None:
        """Force a state of a job; SUBMITTED never ends, READY returns its results, once."""
        if state is JobState.READY and job.work is None:
            raise InvalidValue("state: the job has no results, or they are no longer kept.")
        job.forced, job.message = state, message
        job.taken = state is JobState.RETRIEVED

    def message(self, job: Job) -> str:
        """Return why a job failed: as it was ordered, or as its work did."""
        if job.forced is JobState.ERROR or job.work is None:
            return job.message
        return str(job.work.exception())

    def all(self) -> list[Job]:
        return list(self._jobs.values())

    def count_by_state(self, settings: EmulatorSettings) -> dict[str, int]:
        counts = Counter(self.peek(job, settings) for job in self.all())
        return {state: counts[state] for state in JobState}

    def peek(self, job: Job, settings: EmulatorSettings) -> JobState:
        """Return the state without counting a poll."""
        if job.taken:
            return JobState.RETRIEVED
        if job.forced is not None and job.forced is not JobState.READY:
            return job.forced
        if job.work is None or not job.work.done() or not self.due(job, settings):
            return JobState.SUBMITTED
        return JobState.ERROR if job.work.exception() is not None else JobState.READY


# A poll that is due waits this long for the result, so that small texts need exactly the polls of the settings. The
# event loop stays free meanwhile; after it the job is pending like any other.
_PATIENCE = 1.0
_FORCED_ERROR = "The job was made to fail."


def accept(
    call: Call, kind: JobKind, work: Future[JobResult] | None, *, error: str | None = None
) -> Response:
    """Make a job and respond with its id; ``error`` makes one that fails. Every documented success is a 200."""
    job = call.state.jobs.add(kind, work, call.settings)
    job.legacy = call.settings.legacy_shape or call.suffers("legacy-shape")
    if call.suffers("error-job"):
        error = error or _FORCED_ERROR
    if error is not None:
        call.state.jobs.force(job, JobState.ERROR, error)
    elif call.suffers("never-ending"):
        call.state.jobs.force(job, JobState.SUBMITTED, "")
    call.record.job_id, call.record.job_status = job.job_id, JobState.SUBMITTED
    return JSONResponse({kind.id_field: job.job_id, "status": JobState.SUBMITTED})


def _find(call: Call, kind: JobKind, job_id: str) -> Job:
    job = call.state.jobs.find(job_id, call.settings)
    if job is None or job.kind is not kind:
        raise ApiError(404, f"There is no such {kind} job, or its results are no longer kept.")
    return job


async def poll(call: Call, kind: JobKind, job_id: str) -> Response:
    """Return the state of a job and, once, its results."""
    jobs, settings = call.state.jobs, call.settings
    job = _find(call, kind, job_id)
    if job.work is not None and not job.work.done() and jobs.due(job, settings):
        work = asyncio.wrap_future(job.work)
        # The failure is read from the job itself; without this the loop would report it as forgotten.
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait([work], timeout=_PATIENCE)
        # It may be forgotten meanwhile.
        job = _find(call, kind, job_id)
    call.record.job_id = job.job_id
    if call.suffers("error-job"):
        # The documented wording ties ERROR to the GET (section 6.3), so this one passes and the job lives on.
        return _reply(call, job, JobState.ERROR, _FORCED_ERROR)
    if call.suffers("legacy-shape"):
        job.legacy = True
    state, result = jobs.poll(job, settings)
    if state is JobState.RETRIEVED and settings.retrieved == "404":
        raise ApiError(404, f"The results of this {kind} job were fetched before.")
    if result is None:
        return _reply(call, job, state, jobs.message(job) if state is JobState.ERROR else "")
    call.record.job_status = state
    head = f'{{"{kind.id_field}":"{job.job_id}","status":"{state}"'
    return Response(f"{head},{result(job.legacy)}}}".encode(), media_type="application/json")


def _reply(call: Call, job: Job, state: JobState, message: str) -> Response:
    call.record.job_status = state
    shown = {job.kind.id_field: job.job_id, "status": state}
    return JSONResponse(shown | ({"message": message} if message else {}))
