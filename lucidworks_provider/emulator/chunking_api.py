# SPDX-License-Identifier: Apache-2.0
"""Submit and fetch of ``/ai/async-chunking`` (section 7)."""

from __future__ import annotations

import asyncio
import hashlib
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response

from lucidworks_provider.emulator.calls import ApiError, Call
from lucidworks_provider.emulator.chunkers import ChunkerName
from lucidworks_provider.emulator.chunking_request import ChunkingRequest, InvalidRequest, parse_chunking
from lucidworks_provider.emulator.chunking_result import ChunkingResult, compute
from lucidworks_provider.emulator.faults import FaultKind
from lucidworks_provider.emulator.jobs import Answer, Job, JobState
from lucidworks_provider.emulator.models import EmbeddingModel, find_model
from lucidworks_provider.emulator.settings import ChunkOverflow, Oversize

if TYPE_CHECKING:
    from concurrent.futures import Future

# A poll that is due waits this long for the result, so that small texts need exactly the polls ordered. The
# event loop stays free meanwhile; after it the job is pending like any other.
_PATIENCE = 1.0
_FORCED_ERROR = "The job failed on order."


async def submit(call: Call) -> Response:
    """Accept a text; every documented success is a 200."""
    chunker, model = _path(call)
    if call.request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError(400, "The header Content-Type: application/json is missing.")
    try:
        request = parse_chunking(await call.request.body(), chunker, model)
    except InvalidRequest as invalid:
        raise ApiError(400, str(invalid)) from None
    _note_texts(call, request)
    oversize = request.text_bytes > call.settings.max_text_bytes
    if oversize and call.settings.oversize is not Oversize.ERROR_JOB:
        raise ApiError(int(call.settings.oversize.value), _too_large(call))
    job = call.state.jobs.add(None if oversize else _start(call, request), call.settings)
    job.legacy = call.settings.legacy_shape or call.suffers(FaultKind.LEGACY_SHAPE)
    if oversize:
        call.state.jobs.force(job, JobState.ERROR, _too_large(call))
    elif call.suffers(FaultKind.ERROR_JOB):
        call.state.jobs.force(job, JobState.ERROR, _FORCED_ERROR)
    elif call.suffers(FaultKind.NEVER_ENDING):
        call.state.jobs.force(job, JobState.SUBMITTED, "")
    call.record.job_id, call.record.job_status = job.job_id, JobState.SUBMITTED.value
    return JSONResponse({"chunkingId": job.job_id, "status": JobState.SUBMITTED.value})


async def fetch(call: Call) -> Response:
    """Tell the state of a job and, once, its results."""
    job_id = call.request.path_params["chunking_id"]
    job = call.state.jobs.find(job_id, call.settings)
    if job is None:
        raise ApiError(404, "There is no such chunking job, or its results are no longer kept.")
    call.record.job_id = job.job_id
    if call.suffers(FaultKind.ERROR_JOB):
        # The documented wording ties ERROR to the GET (section 6.3), so this one passes and the job lives on.
        return _reply(call, job, Answer(JobState.ERROR, message=_FORCED_ERROR))
    if call.suffers(FaultKind.LEGACY_SHAPE):
        job.legacy = True
    if job.work is not None and call.state.jobs.due(job, call.settings):
        work = asyncio.wrap_future(job.work)
        # The failure is read from the job itself; without this the loop would report it as forgotten.
        work.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait([work], timeout=_PATIENCE)
    answer = call.state.jobs.poll(job, call.settings)
    if answer is None:
        raise ApiError(404, "The results of this chunking job were fetched before.")
    return _reply(call, job, answer)


def _path(call: Call) -> tuple[ChunkerName, EmbeddingModel]:
    chunker, model_id = call.request.path_params["chunker"], call.request.path_params["model_id"]
    call.record.chunker, call.record.model = chunker, model_id
    strict = call.settings.strict_segments
    try:
        name = ChunkerName(chunker if strict else chunker.replace("_", "-"))
    except ValueError:
        raise ApiError(404, "There is no such chunker.") from None
    model = find_model(model_id, call.settings.deployments, strict=strict)
    if model is None:
        raise ApiError(404, "There is no such embedding model or deployment.")
    return name, model


def _note_texts(call: Call, request: ChunkingRequest) -> None:
    call.record.text_bytes = request.text_bytes
    call.record.text_sha256 = hashlib.sha256("".join(request.texts).encode()).hexdigest()


def _too_large(call: Call) -> str:
    return f"The text of the request is larger than {call.settings.max_text_bytes} bytes."


def _start(call: Call, request: ChunkingRequest) -> Future[ChunkingResult]:
    overflow_is_error = call.settings.chunk_overflow is ChunkOverflow.ERROR
    return call.state.workers.submit(compute, request, overflow_is_error=overflow_is_error)


def _reply(call: Call, job: Job, answer: Answer) -> Response:
    call.record.job_status = answer.state.value
    if answer.result is not None:
        body = answer.result.to_json(job.job_id, answer.state.value, legacy=job.legacy)
        return Response(body, media_type="application/json")
    shown = {"chunkingId": job.job_id, "status": answer.state.value}
    if answer.message:
        shown["message"] = answer.message
    return JSONResponse(shown)
