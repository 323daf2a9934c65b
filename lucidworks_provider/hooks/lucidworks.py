# SPDX-License-Identifier: Apache-2.0
"""The hook of the Lucidworks AI API, synchronous and asynchronous."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

from lucidworks_provider.hooks.auth import LucidworksAuthHook

if TYPE_CHECKING:
    from lucidworks_provider.client.client import LucidworksClient
    from lucidworks_provider.client.http.aio import AsyncTransport
    from lucidworks_provider.client.http.messages import Call
    from lucidworks_provider.client.http.rate_limiter import RateLimitStats

T = TypeVar("T")


class LucidworksHook(LucidworksAuthHook):
    """
    Calls Lucidworks AI with the shared access token and retries.

    .. code-block:: python

        from lucidworks_provider.client import use_cases
        from lucidworks_provider.client.predictions import predict

        hook = LucidworksHook()
        vectors = hook.call(predict(use_cases.embedding("e5-small-v2"), ["A tent for two"]))
        vectors = await hook.acall(predict(use_cases.embedding("e5-small-v2"), ["A tent for two"]))

    The calls are the functions of :mod:`~lucidworks_provider.client.predictions`,
    :mod:`~lucidworks_provider.client.chunking`, :mod:`~lucidworks_provider.client.models` and
    :mod:`~lucidworks_provider.client.jobs`. Not thread-safe for synchronous calls: each thread needs its own.

    :param lucidworks_conn_id: the connection.
    """

    _client: LucidworksClient | None = None

    def call(self, call: Call[T], *, attempts: int | None = None) -> T:
        """
        Perform a call.

        :param attempts: most requests for retryable errors; None for the number of the retry policy.
        :raises LucidworksError: names the connection.
        """
        self.get_settings()
        return self._open().call(call, attempts=attempts)

    async def acall(self, call: Call[T], *, attempts: int | None = None) -> T:
        """:meth:`call` for an event loop."""
        await self.aget_settings()
        return await self._open().acall(call, attempts=attempts)

    @asynccontextmanager
    async def shared_client(self, connections: int | None = None) -> AsyncIterator[AsyncTransport]:
        """
        Keep the connections of the running loop open while this is held, instead of opening one per call.

        :param connections: requests at a time, 8 by default; the first caller in the loop decides.
        """
        await self.aget_settings()
        async with self._open().shared(connections) as transport:
            yield transport

    def rate_limit(self) -> RateLimitStats:
        """The rate limit as this process has estimated it."""
        self.get_settings()
        return self._open().rate_limit

    def close(self) -> None:
        """Close the connection of the synchronous calls."""
        if self._client is not None:
            self._client.close()

    def _open(self) -> LucidworksClient:
        from lucidworks_provider.client.client import LucidworksClient

        if self._client is None:
            self._client = LucidworksClient(self.get_settings())
        return self._client
