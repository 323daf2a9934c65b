# SPDX-License-Identifier: Apache-2.0
"""An ``aiohttp`` session for users' own calls: it carries the fleet's token and outlives a 401."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import MultipartWriter
from aiohttp.payload import BytesPayload, IOBasePayload, Payload

from lucidworks_provider.client.http.aio import client_session, shared_transport
from lucidworks_provider.client.http.bearer import AllowedHosts, Tokens, base_url, endpoint_of
from lucidworks_provider.client.http.retry import TOKEN_ROUNDS
from lucidworks_provider.client.http.tls import proxy_for
from lucidworks_provider.client.settings import LucidworksSettings

if TYPE_CHECKING:
    import aiohttp


class BearerMiddleware:
    """
    Puts the fleet's token on a request, and on a 401 the next one: the ``BearerAuth`` of aiohttp.

    On a 403 once, if the token may be dead.

    :param tokens: hands them out, and is told what became of them.
    :param allowed: the hosts that may see them.
    """

    def __init__(self, tokens: Tokens, allowed: AllowedHosts) -> None:
        self._tokens = tokens
        self._allowed = allowed

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """
        Send it. Also called for each redirect that is followed, so a token never leads elsewhere.

        :raises InputError: the URL is of a host that is not the connection's.
        """
        self._allowed.check(str(request.url))
        endpoint = endpoint_of(request.method, str(request.url))
        other, doubted = None, False
        for last in (False,) * TOKEN_ROUNDS + (True,):
            token = other or await self._tokens.aget()
            other = None
            request.headers["Authorization"] = f"Bearer {token}"
            response = await handler(request)
            if response.status not in {401, 403}:
                self._tokens.accepted(token, endpoint)
                break
            if response.status == 401:
                self._tokens.invalidate(token)
            else:
                other = None if doubted else await self._tokens.atoken_after_403(token, endpoint)
                doubted = True
            # A stream that has been read cannot be sent again; its caller is told of the 401.
            if last or not _repeatable(request.body) or (response.status == 403 and other is None):
                break
            # The connection can be used again only when the answer has been read.
            await response.read()
            response.release()
        return response


def _repeatable(body: Payload | bytes) -> bool:
    """
    Whether it can be sent again as a whole.

    ``consumed`` alone does not tell: in aiohttp 3.14.1 and before, a stream that has been read in part says no, and
    a form does not ask its fields.
    """
    if isinstance(body, MultipartWriter):
        return all(_repeatable(part) for part, *_ in body)
    return not isinstance(body, Payload) or (
        isinstance(body, BytesPayload | IOBasePayload) and not body.consumed
    )


@asynccontextmanager
async def open_session(
    settings: LucidworksSettings, scope: str, middleware: BearerMiddleware
) -> AsyncIterator[aiohttp.ClientSession]:
    """See :meth:`lucidworks_provider.hooks.auth.LucidworksAuthHook.aget_conn`."""
    base = base_url(settings, scope)
    async with (
        # With connections that all sessions of this loop share: a thousand triggers hold a few dozen sockets.
        shared_transport(settings) as transport,
        client_session(
            settings,
            transport.lent,
            connector_owner=False,
            base_url=f"{base}/",
            proxy=proxy_for(base),
            middlewares=(middleware,),
        ) as session,
    ):
        yield session
