# SPDX-License-Identifier: Apache-2.0
"""How a hook sends a request: the fleet's token, one policy of retries, errors that name the connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from lucidworks_provider.client.api.jobs import JobKind, poll_request
from lucidworks_provider.client.api.messages import Answer, Request, check_status, read_blanked
from lucidworks_provider.errors import (
    LucidworksError,
    MalformedAnswerError,
    NoJobIdError,
    ServiceError,
    SubmissionUnknownError,
    TokenRefusedError,
    TransportError,
)
from lucidworks_provider.hooks.auth import LucidworksAuthHook, load

if TYPE_CHECKING:
    from lucidworks_provider.client.auth.source import TokenSource
    from lucidworks_provider.client.http.aio import AsyncTransport
    from lucidworks_provider.client.http.rate_limiter import RateLimitStats
    from lucidworks_provider.client.http.sync import SyncTransport

T = TypeVar("T")

_AIO = "lucidworks_provider.client.http.aio"


class CallingHook(LucidworksAuthHook):
    """Sends the requests that the rooms below build, for threads and for event loops."""

    _transport: SyncTransport | None = None

    def poll_job(self, kind: JobKind, job_id: str, *, attempts: int | None = None) -> bytes:
        """
        The body of a job's GET as it came, for callers that put it on storage before they read it.

        **It may carry the only copy of a result.**

        :param kind: :data:`~lucidworks_provider.client.api.jobs.CHUNKING` or ``PREDICTION``.
        :param job_id: what the submission returned.
        :param attempts: how often to ask where the failure may pass.
        :raises UnknownResourceError: no such job, or its result is no longer kept.
        """
        request = poll_request(self.get_settings().application_base, kind, job_id)
        return self._call(request, _body, attempts)

    async def apoll_job(self, kind: JobKind, job_id: str, *, attempts: int | None = None) -> bytes:
        """:meth:`poll_job` for an event loop."""
        request = poll_request((await self.aget_settings()).application_base, kind, job_id)
        return await self._acall(request, _body, attempts)

    @asynccontextmanager
    async def shared_client(self, connections: int | None = None) -> AsyncIterator[AsyncTransport]:
        """
        Keep the running loop's client open while this is held, instead of one per call.

        :param connections: requests at once; the first user of the client decides. 8 unless given.
        """
        aio = await load(_AIO)
        async with aio.shared_transport(await self.aget_settings(), connections) as transport:
            yield transport

    def rate_limit(self) -> RateLimitStats:
        """What this process knows of the application's rate limit."""
        from lucidworks_provider.client.http.request_queue import queue_of

        settings = self.get_settings()
        return queue_of(settings.application_base, settings).stats

    def close(self) -> None:
        """Close the connections that this hook holds."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def _call(self, request: Request, read: Callable[[Answer], T], attempts: int | None = None) -> T:
        from lucidworks_provider.client.http.sync import SyncTransport

        transport = self._transport = self._transport or SyncTransport(self.get_settings())
        exchange = _Exchange(request, self._source(self.get_settings(), request.scope))

        def once() -> T:
            token = exchange.source.get(exchange.refused)
            answer = exchange.note(transport.send(request, token), token)
            if answer.status == 403 and (other := exchange.source.token_after_403(token, request.endpoint)):
                answer, token = exchange.note(transport.send(request, other), other), other
            return exchange.judge(answer, token, read)

        try:
            try:
                return once()
            except LucidworksError as err:
                again: T = _retrying("Retrying", request, attempts)(_after(err, once))
                return again
        except LucidworksError as err:
            raise _explain(err, request, self.lucidworks_conn_id) from None

    async def _acall(self, request: Request, read: Callable[[Answer], T], attempts: int | None = None) -> T:
        settings = await self.aget_settings()
        exchange = _Exchange(request, self._source(settings, request.scope))
        async with (await load(_AIO)).shared_transport(settings) as transport:

            async def once() -> T:
                token = await exchange.source.aget(exchange.refused)
                answer = exchange.note(await transport.send(request, token), token)
                if answer.status == 403 and (
                    other := await exchange.source.atoken_after_403(token, request.endpoint)
                ):
                    answer, token = exchange.note(await transport.send(request, other), other), other
                return exchange.judge(answer, token, read)

            try:
                try:
                    return await once()
                except LucidworksError as err:
                    again: T = await _retrying("AsyncRetrying", request, attempts)(_aafter(err, once))
                    return again
            except LucidworksError as err:
                raise _explain(err, request, self.lucidworks_conn_id) from None


def _retrying(kind: str, request: Request, attempts: int | None) -> Any:
    """Made when the first try has failed: most do not, and it takes as long as half a request."""
    import tenacity

    from lucidworks_provider.client.http.retry import policy

    return getattr(tenacity, kind)(**policy(replayable=request.replayable, attempts=attempts))


def _after(failure: LucidworksError, once: Callable[[], T]) -> Callable[[], T]:
    """What fails the first time as it did, for a policy that counts from there."""
    failed: list[LucidworksError] = [failure]

    def again() -> T:
        if failed:
            raise failed.pop()
        return once()

    return again


def _aafter(failure: LucidworksError, once: Callable[[], Awaitable[T]]) -> Callable[[], Awaitable[T]]:
    """:func:`_after` for an event loop."""
    failed: list[LucidworksError] = [failure]

    async def again() -> T:
        if failed:
            raise failed.pop()
        return await once()

    return again


@dataclass
class _Exchange:
    """What both kinds of call do with an answer."""

    request: Request
    source: TokenSource
    refused: str | None = None

    def note(self, answer: Answer, token: str) -> Answer:
        """Note what the answer says about the token."""
        self.refused = token if answer.status == 401 else None
        if answer.status not in {401, 403}:
            self.source.accepted(token, self.request.endpoint)
        return answer

    def judge(self, answer: Answer, token: str, read: Callable[[Answer], T]) -> T:
        """Read the answer, or raise what it says about the request."""

        def result(answer: Answer) -> T:
            check_status(answer, self.request.name)
            return read(answer)

        return read_blanked(result, answer, token, *self.request.secrets)


def _body(answer: Answer) -> bytes:
    return answer.body


def _explain(err: LucidworksError, request: Request, conn_id: str) -> LucidworksError:
    """What an error that survived its retries means for the caller, with the connection that it is about."""
    from lucidworks_provider.client.http.retry import NOTHING_DONE

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
    # An answer without an id is one: who sends the request again makes another job.
    known = isinstance(err, (*NOTHING_DONE, NoJobIdError))
    if request.replayable or not unknown or known:
        return err
    return SubmissionUnknownError(
        f"{said}. The service may have done it all the same, under an id that nobody knows.",
        retry_after=err.retry_after if isinstance(err, ServiceError) else None,
    )
