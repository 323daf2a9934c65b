# SPDX-License-Identifier: Apache-2.0
"""Submit and fetch of ``/ai/async-chunking`` (section 7)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lucidworks_provider.emulator import job_calls
from lucidworks_provider.emulator.calls import ApiError, Call
from lucidworks_provider.emulator.chunkers import ChunkerName
from lucidworks_provider.emulator.chunking_request import ChunkingRequest, parse_chunking
from lucidworks_provider.emulator.chunking_result import compute
from lucidworks_provider.emulator.jobs import JobKind, JobResult
from lucidworks_provider.emulator.settings import ChunkOverflow, Oversize

if TYPE_CHECKING:
    from concurrent.futures import Future

    from starlette.responses import Response

    from lucidworks_provider.emulator.models import EmbeddingModel


async def submit(call: Call) -> Response:
    """Accept a text."""
    chunker, model = _path(call)
    body = await call.json_body()
    request = parse_chunking(body, chunker, model, ignore_unknown=call.ignore_unknown)
    call.note_texts(request.texts)
    # The UTF-8 size of all texts is what the limit of about 1 MB is read to mean [A].
    if (call.record.text_bytes or 0) <= call.settings.max_text_bytes:
        return job_calls.accept(call, JobKind.CHUNKING, _start(call, request))
    too_large = f"The text of the request is larger than {call.settings.max_text_bytes} bytes."
    if call.settings.oversize is not Oversize.ERROR_JOB:
        raise ApiError(int(call.settings.oversize.value), too_large)
    return job_calls.accept(call, JobKind.CHUNKING, None, error=too_large)


async def fetch(call: Call) -> Response:
    """Tell the state of a job and, once, its results."""
    return await job_calls.poll(call, JobKind.CHUNKING, call.request.path_params["chunking_id"])


def _path(call: Call) -> tuple[ChunkerName, EmbeddingModel]:
    chunker, model_id = call.request.path_params["chunker"], call.request.path_params["model_id"]
    call.record.chunker, call.record.model = chunker, model_id
    try:
        name = ChunkerName(call.segment(chunker))
    except ValueError:
        raise ApiError(404, "There is no such chunker.") from None
    return name, call.embedding_model(model_id)


def _start(call: Call, request: ChunkingRequest) -> Future[JobResult]:
    overflow_is_error = call.settings.chunk_overflow is ChunkOverflow.ERROR
    return call.state.workers.submit(compute, request, overflow_is_error=overflow_is_error)
