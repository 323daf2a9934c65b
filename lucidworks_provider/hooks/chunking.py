# SPDX-License-Identifier: Apache-2.0
"""Asynchronous chunking, as methods of a hook."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from lucidworks_provider.client.api import chunking
from lucidworks_provider.client.api.jobs import CHUNKING, read_submission
from lucidworks_provider.client.api.messages import parse_object
from lucidworks_provider.hooks.calls import CallingHook

_read_submission = partial(read_submission, kind=CHUNKING)


class ChunkingMethods(CallingHook):
    """
    One text in, chunks and their vectors out.

    .. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-async-chunking-api
    """

    def submit_chunking(
        self,
        text: str,
        *,
        chunker: str,
        model_id: str,
        data_type: str | None = "passage",
        chunker_config: Mapping[str, Any] | None = None,
        model_config: Mapping[str, Any] | None = None,
    ) -> str:
        """
        Submit one text to be chunked and vectorised.

        :param text: at most 1,000,000 bytes of UTF-8.
        :param chunker: ``dynamic-newline``, ``dynamic-sentence``, ``regex-splitter``, ``semantic`` or ``sentence``.
        :param model_id: an embedding model, or the deployment id of a custom one.
        :param data_type: ``passage`` for what is searched, ``query`` for what one searches with.
        :param chunker_config: the chunker's options.
        :param model_config: ``vectorQuantizationMethod``, ``dimReductionSize``.
        :return: the job's id. **Keep it at once**: the service has no list of jobs.
        :raises InputError: refused before anything was sent.
        :raises SubmissionUnknownError: sent, and no answer came: a job may exist.
        """
        options = chunking.ChunkingOptions(chunker, model_id, data_type, chunker_config, model_config)
        return self.submit_text(options, text)

    async def asubmit_chunking(
        self,
        text: str,
        *,
        chunker: str,
        model_id: str,
        data_type: str | None = "passage",
        chunker_config: Mapping[str, Any] | None = None,
        model_config: Mapping[str, Any] | None = None,
    ) -> str:
        """:meth:`submit_chunking` for an event loop. Never in a trigger: a restarted trigger would submit again."""
        options = chunking.ChunkingOptions(chunker, model_id, data_type, chunker_config, model_config)
        return await self.asubmit_text(options, text)

    def submit_text(
        self,
        options: chunking.ChunkingOptions,
        text: str,
        *,
        max_bytes: int = chunking.MAX_TEXT_BYTES,
    ) -> str:
        """:meth:`submit_chunking` with options that are validated already."""
        base = self.get_settings().application_base
        request = chunking.submit_request(base, options, text, max_bytes=max_bytes)
        return self._call(request, _read_submission)

    async def asubmit_text(
        self,
        options: chunking.ChunkingOptions,
        text: str,
        *,
        max_bytes: int = chunking.MAX_TEXT_BYTES,
    ) -> str:
        """:meth:`submit_text` for an event loop."""
        base = (await self.aget_settings()).application_base
        request = chunking.submit_request(base, options, text, max_bytes=max_bytes)
        return await self._acall(request, _read_submission)

    def get_chunking(self, job_id: str) -> chunking.ChunkingResult:
        """
        Ask for a job's state and, once it is ready, its result.

        **The answer that carries the result may be the only one**: store it before anything else.

        :param job_id: what :meth:`submit_chunking` returned.
        :raises UnknownResourceError: no such job, or its result is no longer kept.
        :raises MalformedAnswerError: no JSON object, or a result whose parts do not fit together.
        """
        return _result(self.poll_job(CHUNKING, job_id), job_id)

    async def aget_chunking(self, job_id: str) -> chunking.ChunkingResult:
        """:meth:`get_chunking` for an event loop."""
        return _result(await self.apoll_job(CHUNKING, job_id), job_id)


def _result(body: bytes, job_id: str) -> chunking.ChunkingResult:
    return chunking.read_result(parse_object(body, f"Chunking job {job_id}"), job_id)
