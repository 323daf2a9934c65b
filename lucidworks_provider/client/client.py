# SPDX-License-Identifier: Apache-2.0
"""Performs calls: with the shared token, one retry policy, and errors that name the connection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from lucidworks_provider.client.api.messages import Answer, Request, check_status, read_blanked
from lucidworks_provider.client.auth.redaction import redact_in_logs
from lucidworks_provider.client.auth.source import TokenSource, token_source
from lucidworks_provider.client.endpoint import Call, Exchange
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import (
    LucidworksError,
    MalformedAnswerError,
    NoJobIdError,
    ServiceError,
    SubmissionUnknownError,
    TokenRefusedError,
    TransportError,
)
from lucidworks_provider.threads import import_in_thread

if TYPE_CHECKING:
    from lucidworks_provider.client.http.aio import AsyncTransport
    from lucidworks_provider.client.http.rate_limiter import RateLimitStats
    from lucidworks_provider.client.http.sync import SyncTransport

T = TypeVar("T")

_AIO = "lucidworks_provider.client.http.aio"


class LucidworksClient:
    """
    Performs the calls of :mod:`~lucidworks_provider.client.predictions`,
    :mod:`~lucidworks_provider.client.chunking`, :mod:`~lucidworks_provider.client.models` and
    :mod:`~lucidworks_provider.client.jobs`, for threads and for event loops.

    A client keeps one connection for its synchronous calls, so each thread needs its own.

    :param settings: outside of Airflow with ``share_via="memory"``.
    """

    def __init__(self, settings: LucidworksSettings) -> None:
        self.settings = settings
        self._transport: SyncTransport | None = None

    def call(self, call: Call[T], *, attempts: int | None = None) -> T:
        """
        Perform a call.

        :param attempts: requests at most where a failure may pass; None for the number of the retry policy.
        :raises LucidworksError: names the connection.
        """
        steps = call.steps(self.settings)
        try:
            exchange = next(steps)
            while True:
                try:
                    parsed = self._exchange(exchange, attempts)
                except LucidworksError as err:
                    exchange = steps.throw(err)
                else:
                    exchange = steps.send(parsed)
        except StopIteration as end:
            result: T = end.value
            return result

    async def acall(self, call: Call[T], *, attempts: int | None = None) -> T:
        """:meth:`call` for an event loop."""
        steps = call.steps(self.settings)
        try:
            exchange = next(steps)
            while True:
                try:
                    parsed = await self._aexchange(exchange, attempts)
                except LucidworksError as err:
                    exchange = steps.throw(err)
                else:
                    exchange = steps.send(parsed)
        except StopIteration as end:
            result: T = end.value
            return result

    @asynccontextmanager
    async def shared(self, connections: int | None = None) -> AsyncIterator[AsyncTransport]:
        """
        Keep the connections of the running loop open while this is held, instead of opening one per call.

        :param connections: requests at once; the first user of the loop decides. 8 unless given.
        """
        aio = await import_in_thread(_AIO)
        async with aio.shared_transport(self.settings, connections) as transport:
            yield transport

    @property
    def rate_limit(self) -> RateLimitStats:
        """What this process has learned about the application's rate limit."""
        from lucidworks_provider.client.http.request_queue import queue_of

        return queue_of(self.settings.application_base, self.settings).stats

    def close(self) -> None:
        """Close the connection of the synchronous calls."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _exchange(self, exchange: Exchange[T], attempts: int | None) -> T:
        from lucidworks_provider.client.http.sync import SyncTransport

        transport = self._transport = self._transport or SyncTransport(self.settings)
        request = exchange.request
        state = self._begin(exchange)

        def once() -> T:
            token = state.source.get(state.refused)
            answer = state.note(transport.send(request, token), token)
            if answer.status == 403 and (other := state.source.token_after_403(token, request.endpoint)):
                answer, token = state.note(transport.send(request, other), other), other
            return state.judge(answer, token)

        try:
            try:
                return once()
            except LucidworksError as err:
                again: T = _retrying("Retrying", request, exchange.attempts or attempts)(_after(err, once))
                return again
        except LucidworksError as err:
            raise _explain(err, request, self.settings.conn_id) from None

    async def _aexchange(self, exchange: Exchange[T], attempts: int | None) -> T:
        request = exchange.request
        state = self._begin(exchange)
        aio = await import_in_thread(_AIO)
        async with aio.shared_transport(self.settings) as transport:

            async def once() -> T:
                token = await state.source.aget(state.refused)
                answer = state.note(await transport.send(request, token), token)
                if answer.status == 403 and (
                    other := await state.source.atoken_after_403(token, request.endpoint)
                ):
                    answer, token = state.note(await transport.send(request, other), other), other
                return state.judge(answer, token)

            try:
                try:
                    return await once()
                except LucidworksError as err:
                    retrying = _retrying("AsyncRetrying", request, exchange.attempts or attempts)
                    again: T = await retrying(_aafter(err, once))
                    return again
            except LucidworksError as err:
                raise _explain(err, request, self.settings.conn_id) from None

    def _begin(self, exchange: Exchange[T]) -> _Exchanging[T]:
        for secret in exchange.request.secrets:
            # Out of this process's logs from now on.
            redact_in_logs(secret)
        return _Exchanging(exchange, token_source(self.settings, exchange.request.scope))


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
class _Exchanging(Generic[T]):
    """An exchange, and what its responses say about the token."""

    exchange: Exchange[T]
    source: TokenSource
    refused: str | None = None

    def note(self, answer: Answer, token: str) -> Answer:
        """Record whether the token was accepted."""
        self.refused = token if answer.status == 401 else None
        if answer.status not in {401, 403}:
            self.source.accepted(token, self.exchange.request.endpoint)
        return answer

    def judge(self, answer: Answer, token: str) -> T:
        """Parse the response, or raise what its status means."""
        request = self.exchange.request

        def result(answer: Answer) -> T:
            check_status(answer, request.name)
            return self.exchange.parse(answer)

        return read_blanked(result, answer, token, *request.secrets)


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
