# SPDX-License-Identifier: Apache-2.0
"""
Asynchronous chunking: one text in, chunks and their vectors out.

.. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-async-chunking-api
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from lucidworks_provider.client.api import chunking
from lucidworks_provider.client.api.http import parse_object
from lucidworks_provider.client.api.jobs import CHUNKING, read_submission
from lucidworks_provider.client.endpoint import Call, Steps, naming_models
from lucidworks_provider.client.jobs import poll_job
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import UnknownResourceError


def submit_chunking(
    text: str,
    *,
    chunker: str,
    model_id: str,
    data_type: str | None = "passage",
    chunker_config: Mapping[str, Any] | None = None,
    model_config: Mapping[str, Any] | None = None,
) -> Call[str]:
    """
    Submit one text to be chunked and vectorised.

    Never in a trigger: a restarted trigger would submit again.

    :param text: at most 1,000,000 bytes of UTF-8.
    :param chunker: ``dynamic-newline``, ``dynamic-sentence``, ``regex-splitter``, ``semantic`` or ``sentence``.
    :param model_id: an embedding model, or the deployment id of a custom one.
    :param data_type: ``passage`` for documents, ``query`` for search queries.
    :param chunker_config: the chunker's options.
    :param model_config: ``vectorQuantizationMethod``, ``dimReductionSize``.
    :return: the job's id. **Store it at once**: the service has no list of jobs.
    :raises InputError: refused before anything is sent.
    :raises UnknownResourceError: no such model; names near ones where the service lists them.
    :raises SubmissionUnknownError: sent, and no response came: a job may exist.
    """
    options = chunking.ChunkingOptions(chunker, model_id, data_type, chunker_config, model_config)
    return submit_text(options, text)


def submit_text(
    options: chunking.ChunkingOptions, text: str, *, max_bytes: int = chunking.MAX_TEXT_BYTES
) -> Call[str]:
    """:func:`submit_chunking` with options that are validated already."""
    return naming_models(
        "embedding",
        options.model_id,
        lambda settings: chunking.submit_request(
            settings.application_base, options, text, max_bytes=max_bytes
        ),
        partial(read_submission, kind=CHUNKING),
        # Others are about the text.
        refusals=(UnknownResourceError,),
    )


def get_chunking(job_id: str) -> Call[chunking.ChunkingResult]:
    """
    The state of a job and, once it is ready, its result.

    **The response that carries the result may be the only one**: store it before anything else.

    :param job_id: what :func:`submit_chunking` returned.
    :raises UnknownResourceError: no such job, or its result is no longer kept.
    :raises MalformedAnswerError: no JSON object, or a result whose parts do not fit together.
    """

    def steps(settings: LucidworksSettings) -> Steps[chunking.ChunkingResult]:
        body = yield from poll_job(CHUNKING, job_id).steps(settings)
        # Not parsed by the exchange, whose retries would request a result that may be returned only once.
        return chunking.read_result(parse_object(body, f"Chunking job {job_id}"), job_id)

    return Call(steps)
