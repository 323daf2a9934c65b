# SPDX-License-Identifier: Apache-2.0
"""The Lucidworks AI API with types, for code with and without an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from lucidworks_provider.api import chunking
from lucidworks_provider.api.messages import Answer, Request, check_status, parse_object, without
from lucidworks_provider.api.tokens import PREDICT_SCOPE
from lucidworks_provider.errors import (
    LucidworksError,
    MalformedAnswerError,
    ServiceError,
    SubmissionUnknownError,
    TokenRefusedError,
    TransportError,
)
from lucidworks_provider.hooks.auth import LucidworksAuthHook, load

if TYPE_CHECKING:
    from lucidworks_provider.auth.source import TokenSource
    from lucidworks_provider.transport.aio import AsyncTransport
    from lucidworks_provider.transport.sync import SyncTransport

T = TypeVar("T")


class LucidworksHook(LucidworksAuthHook):
    """
    Calls Lucidworks AI with the fleet's token, retries what may be retried, and returns values with types.

    Every method exists twice, for threads and (with an ``a`` before its name) for event loops. A hook keeps
    one connection for its synchronous calls, so threads have one each.

    :param lucidworks_conn_id: the connection.

    .. seealso:: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-async-chunking-api
    """

    _transport: SyncTransport | None = None

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
        request = chunking.submit_request((await self.aget_settings()).application_base, options, text)
        return await self._acall(request, chunking.read_submission)

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
        return self._call(request, chunking.read_submission)

    def get_chunking(self, job_id: str) -> chunking.ChunkingResult:
        """
        Ask for a job's state and, once it is ready, its result.

        **The answer that carries the result may be the only one**: store it before anything else.

        :param job_id: what :meth:`submit_chunking` returned.
        :raises UnknownResourceError: no such job, or its result is no longer kept.
        :raises MalformedAnswerError: no JSON object, or a result whose parts do not fit together.
        """
        return _result(self.poll_chunking(job_id), job_id)

    async def aget_chunking(self, job_id: str) -> chunking.ChunkingResult:
        """:meth:`get_chunking` for an event loop."""
        return _result(await self.apoll_chunking(job_id), job_id)

    def poll_chunking(self, job_id: str, *, attempts: int | None = None) -> bytes:
        """
        The body of a job's GET as it came, for callers that put it on storage before they read it.

        :param job_id: what :meth:`submit_chunking` returned.
        :param attempts: how often to ask where the failure may pass.
        :raises UnknownResourceError: no such job, or its result is no longer kept.
        """
        request = chunking.poll_request(self.get_settings().application_base, job_id)
        return self._call(request, _body, attempts)

    async def apoll_chunking(self, job_id: str, *, attempts: int | None = None) -> bytes:
        """:meth:`poll_chunking` for an event loop."""
        request = chunking.poll_request((await self.aget_settings()).application_base, job_id)
        return await self._acall(request, _body, attempts)

    @asynccontextmanager
    async def shared_client(self) -> AsyncIterator[AsyncTransport]:
        """Keep the running loop's client open while this is held, instead of one per call."""
        aio = await load("lucidworks_provider.transport.aio")
        async with aio.shared_transport(await self.aget_settings()) as transport:
            yield transport

    def close(self) -> None:
        """Close the connections that this hook holds."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _call(self, request: Request, read: Callable[[Answer], T], attempts: int | None = None) -> T:
        from tenacity import Retrying

        from lucidworks_provider.transport.retry import policy
        from lucidworks_provider.transport.sync import SyncTransport

        transport = self._transport = self._transport or SyncTransport(self.get_settings())
        exchange = _Exchange(request, self._source(self.get_settings(), PREDICT_SCOPE))

        def once() -> T:
            token = exchange.source.get(exchange.refused)
            return read(exchange.judge(transport.send(request, token), token))

        try:
            return Retrying(**policy(replayable=request.replayable, attempts=attempts))(once)
        except LucidworksError as err:
            raise _explain(err, request, self.lucidworks_conn_id) from None

    async def _acall(self, request: Request, read: Callable[[Answer], T], attempts: int | None = None) -> T:
        from tenacity import AsyncRetrying

        from lucidworks_provider.transport.retry import policy

        exchange = _Exchange(request, self._source(await self.aget_settings(), PREDICT_SCOPE))
        async with self.shared_client() as transport:

            async def once() -> T:
                token = await exchange.source.aget(exchange.refused)
                return read(exchange.judge(await transport.send(request, token), token))

            try:
                return await AsyncRetrying(**policy(replayable=request.replayable, attempts=attempts))(once)
            except LucidworksError as err:
                raise _explain(err, request, self.lucidworks_conn_id) from None


@dataclass
class _Exchange:
    """What both kinds of call do with an answer."""

    request: Request
    source: TokenSource
    refused: str | None = None

    def judge(self, answer: Answer, token: str) -> Answer:
        """Note what the answer says about the token; raise what it says about the request."""
        answer = without(answer, token)
        self.refused = token if answer.status == 401 else None
        if answer.status != 401:
            self.source.accepted(token)
        check_status(answer, self.request.name)
        return answer


def _body(answer: Answer) -> bytes:
    return answer.body


def _result(body: bytes, job_id: str) -> chunking.ChunkingResult:
    return chunking.read_result(parse_object(body, f"Chunking job {job_id}"), job_id)


def _explain(err: LucidworksError, request: Request, conn_id: str) -> LucidworksError:
    """What an error that survived its retries means for the caller, with the connection that it is about."""
    from lucidworks_provider.transport.retry import NOTHING_DONE

    if not str(err).startswith("Connection "):
        err.args = (f"Connection {conn_id!r}: {err}", *err.args[1:])
    said = str(err).rstrip(".")
    if isinstance(err, TokenRefusedError):
        return TokenRefusedError(
            f"{said}. Several access tokens were refused. Another system that asks for tokens with the same client "
            "id causes that (give it an integration of its own), or an application that is not entitled to this.",
            status=err.status,
        )
    unknown = isinstance(err, ServiceError | MalformedAnswerError | TransportError)
    if request.replayable or not unknown or isinstance(err, NOTHING_DONE):
        return err
    return SubmissionUnknownError(
        f"{said}. The service may have created a job whose id is unknown.",
        retry_after=err.retry_after if isinstance(err, ServiceError) else None,
    )
