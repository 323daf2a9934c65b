# SPDX-License-Identifier: Apache-2.0
"""Submit and fetch, as far as chunking and asynchronous predictions do them alike (sections 6.3 and 7.3)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from lucidworks_provider.emulator.calls import ApiError, Call
from lucidworks_provider.emulator.faults import FaultKind
from lucidworks_provider.emulator.jobs import Answer, Job, JobKind, JobResult, JobState

if TYPE_CHECKING:
    from concurrent.futures import Future

# A poll that is due waits this long for the result, so that small texts need exactly the polls ordered. The
# event loop stays free meanwhile; after it the job is pending like any other.
_PATIENCE = 1.0
_FORCED_ERROR = "The job failed on order."


def accept(
    call: Call, kind: JobKind, work: Future[JobResult] | None, *, error: str | None = None
) -> Response:
    """Make a job and answer with its id; ``error`` makes one that fails. Every documented success is a 200."""
    job = call.state.jobs.add(kind, work, call.settings)
    job.legacy = call.settings.legacy_shape or call.suffers(FaultKind.LEGACY_SHAPE)
    if error is not None:
        call.state.jobs.force(job, JobState.ERROR, error)
    elif call.suffers(FaultKind.ERROR_JOB):
        call.state.jobs.force(job, JobState.ERROR, _FORCED_ERROR)
    elif call.suffers(FaultKind.NEVER_ENDING):
        call.state.jobs.force(job, JobState.SUBMITTED, "")
    call.record.job_id, call.record.job_status = job.job_id, JobState.SUBMITTED.value
    return JSONResponse({kind.id_field: job.job_id, "status": JobState.SUBMITTED.value})


async def poll(call: Call, kind: JobKind, job_id: str) -> Response:
    """Tell the state of a job and, once, its results."""
    job = call.state.jobs.find(job_id, call.settings)
    if job is None or job.kind is not kind:
        raise ApiError(404, f"There is no such {kind.value} job, or its results are no longer kept.")
    call.record.job_id = job.job_id
    if call.suffers(FaultKind.ERROR_JOB):
        # The documented wording ties ERROR to the GET (section 6.3), so this one passes and the job lives on.
        return _reply(call, job, Answer(JobState.ERROR, message=_FORCED_ERROR))
    if call.suffers(FaultKind.LEGACY_SHAPE):
        job.legacy = True
    if job.work is not None and not job.work.done() and call.state.jobs.due(job, call.settings):
        work = asyncio.wrap_future(job.work)
        # The failure is read from the job itself; without this the loop would report it as forgotten.
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait([work], timeout=_PATIENCE)
    answer = call.state.jobs.poll(job, call.settings)
    if answer is None:
        raise ApiError(404, f"The results of this {kind.value} job were fetched before.")
    return _reply(call, job, answer)


def _reply(call: Call, job: Job, answer: Answer) -> Response:
    call.record.job_status = answer.state.value
    if answer.result is not None:
        body = answer.result.to_json(job.job_id, answer.state.value, legacy=job.legacy)
        return Response(body, media_type="application/json")
    shown = {job.kind.id_field: job.job_id, "status": answer.state.value}
    if answer.message:
        shown["message"] = answer.message
    return JSONResponse(shown)
