# SPDX-License-Identifier: Apache-2.0
"""Performs calls: with the shared token, one retry policy, and errors that name the connection."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from lucidworks_provider.client.auth.source import TokenSource, token_source
from lucidworks_provider.client.http.messages import (
    Call,
    Exchange,
    Request,
    Response,
    check_status,
    read_blanked,
)
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import (
    LucidworksError,
    MalformedResponseError,
    NoJobIdError,
    ServiceError,
    SubmissionUnknownError,
    TokenRefusedError,
    TransportError,
)
from lucidworks_provider.retrying import nothing_done, policy, retry_async, retry_call
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

    Not thread-safe for synchronous calls: each thread needs its own.

    :param settings: outside of Airflow with ``share_via="memory"``.
    """

    def __init__(self, settings: LucidworksSettings) -> None:
        self.settings = settings
        self._transport: SyncTransport | None = None
        self._process = os.getpid()

    def call(self, call: Call[T], *, attempts: int | None = None) -> T:
        """
        Perform a call.

        :param attempts: most requests for retryable errors; None for the number of the retry policy.
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

        :param connections: requests at a time to each API, 8 by default; the first caller in the loop decides.
        """
        aio = await import_in_thread(_AIO)
        async with aio.shared_transport(self.settings, connections) as transport:
            yield transport

    @property
    def rate_limit(self) -> RateLimitStats:
        """The rate limit as this process has estimated it: of the Models API if there is no application."""
        from lucidworks_provider.client.http.rate_limiter import queue_of

        return queue_of(self.settings.application_url or self.settings.models_url, self.settings).stats

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

        if self._process != os.getpid():
            # In a forked child, which must not use the connections of its parent.
            self._process, self._transport = os.getpid(), None
        transport = self._transport = self._transport or SyncTransport(self.settings)
        request = exchange.request
        state = self._begin(exchange)

        def attempt() -> T:
            token = state.source.get(state.refused)
            response = state.record(transport.send(request, token), token)
            if response.status == 403 and (other := state.source.token_after_403(token, request.endpoint)):
                response, token = state.record(transport.send(request, other), other), other
            return state.parse(response, token)

        try:
            return retry_call(attempt, **state.policy(attempts))
        except LucidworksError as err:
            raise _explain(err, request, self.settings.conn_id) from None

    async def _aexchange(self, exchange: Exchange[T], attempts: int | None) -> T:
        request = exchange.request
        state = self._begin(exchange)
        aio = await import_in_thread(_AIO)
        async with aio.shared_transport(self.settings) as transport:

            async def attempt() -> T:
                token = await state.source.aget(state.refused)
                response = state.record(await transport.send(request, token), token)
                if response.status == 403 and (
                    other := await state.source.atoken_after_403(token, request.endpoint)
                ):
                    response, token = state.record(await transport.send(request, other), other), other
                return state.parse(response, token)

            try:
                return await retry_async(attempt, **state.policy(attempts))
            except LucidworksError as err:
                raise _explain(err, request, self.settings.conn_id) from None

    def _begin(self, exchange: Exchange[T]) -> _Attempts[T]:
        return _Attempts(exchange, token_source(self.settings, exchange.request.scope), self.settings)


@dataclass
class _Attempts(Generic[T]):
    """The attempts of an exchange: which token was refused, and what a response means."""

    exchange: Exchange[T]
    source: TokenSource
    settings: LucidworksSettings
    refused: str | None = None

    def policy(self, attempts: int | None) -> dict[str, Any]:
        replayable = self.exchange.request.replayable
        attempts = self.exchange.attempts or attempts
        return policy(replayable=replayable, attempts=attempts, refused_for=self._refused_for)

    def _refused_for(self) -> float:
        from lucidworks_provider.client.http.rate_limiter import queue_for

        queue = queue_for(self.exchange.request, self.settings)
        return 0.0 if queue is None else queue.refused_for

    def record(self, response: Response, token: str) -> Response:
        """Record whether the token was accepted."""
        self.refused = token if response.status == 401 else None
        if response.status not in {401, 403}:
            self.source.accepted(token, self.exchange.request.endpoint)
        return response

    def parse(self, response: Response, token: str) -> T:
        """Parse the response, or raise the error of its status."""
        request = self.exchange.request

        def result(response: Response) -> T:
            check_status(response, request.name)
            return self.exchange.parse(response)

        return read_blanked(result, response, token, *request.secrets)


def _explain(err: LucidworksError, request: Request, conn_id: str) -> LucidworksError:
    """The error to raise after all retries: with the connection, and what it means for the caller."""
    if not str(err).startswith("Connection "):
        err.args = (f"Connection {conn_id!r}: {err}", *err.args[1:])
    reason = str(err).rstrip(".")
    if isinstance(err, TokenRefusedError):
        return TokenRefusedError(
            f"{reason}. Several access tokens were refused. Either another system requests tokens with the same "
            "client id (create a separate integration for it), or the application has no permission for this "
            "request.",
            status=err.status,
        )
    unknown = isinstance(err, ServiceError | MalformedResponseError | TransportError)
    # NoJobIdError is a response: sending the request again would create another job.
    known = nothing_done(err) or isinstance(err, NoJobIdError)
    if request.replayable or not unknown or known:
        return err
    return SubmissionUnknownError(
        f"{reason}. The service may have executed it, under an id that is lost.", retry_after=err.retry_after
    )
