# SPDX-License-Identifier: Apache-2.0
"""
The asynchronous client, over ``aiohttp``: a transport, and sessions for users' own calls.

All users of one event loop share one transport for equal settings, so that a thousand triggers need eight sockets.
The transport is closed with its last user.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp import MultipartWriter
from aiohttp.payload import BytesPayload, IOBasePayload, Payload
from yarl import URL

from lucidworks_provider import metrics
from lucidworks_provider.client.http.messages import ACCEPT_ENCODING, Request, Response
from lucidworks_provider.client.http.rate_limiter import RequestQueue, acquired_by, queue_for
from lucidworks_provider.client.http.transport import (
    LEAST_SPEED,
    AllowedHosts,
    BodyReader,
    Failure,
    base_url,
    endpoint_of,
    failure_error,
    failure_outcome,
    headers_of,
    proxy_for,
    ssl_context,
    timeouts,
)
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import TransportError
from lucidworks_provider.retrying import TOKEN_ROUNDS
from lucidworks_provider.threads import in_thread

if TYPE_CHECKING:
    from aiohttp.connector import Connection

    from lucidworks_provider.client.auth.source import TokenSource

# Connections to an application, and to the Models API; and so responses in memory at once.
CONNECTIONS = 8
# Connections of all sessions of users on one event loop.
SESSION_CONNECTIONS = 32
# Bytes of a status line or a header at most.
_LONGEST_LINE = 65_536
# Seconds to wait for updates of the shared pause when a transport is closed.
_PAUSE_UPDATE_TIMEOUT = 2.0


@dataclass
class AsyncTransport:
    """
    Sends requests for every coroutine of one event loop.

    :param connections: requests at once to the application, and to the Models API.
    :param observe: called with the outcome of each request: its status, ``not_sent`` or ``broken``.
    :param slots: hold one from before the GET of a result until its body is stored, so that a thousand results that
        become ready together do not fill the memory.
    """

    settings: LucidworksSettings
    _session: aiohttp.ClientSession
    _context: ssl.SSLContext | bool = True
    connections: int = CONNECTIONS
    observe: Callable[[int | str], None] | None = None
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONNECTIONS))
    _proxies: dict[tuple[str, str], str | None] = field(default_factory=dict)
    _session_connector: aiohttp.BaseConnector | None = None

    def __post_init__(self) -> None:
        # First in, first out, unlike aiohttp's pool. By queue: requests that wait for the end of a pause hold theirs.
        self._connections: defaultdict[RequestQueue | None, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(self.connections)
        )
        # Event loops keep only weak references to tasks.
        self._pause_updates: set[asyncio.Future[object]] = set()

    async def send(self, request: Request, access_token: str | None = None) -> Response:
        """
        Send once, when the rate limiter of the application permits it.

        Raises what :meth:`SyncTransport.send` raises.
        """
        url = URL(request.url, encoded=True)
        if request.params:
            url = url.update_query(request.params)
        queue = queue_for(request, self.settings)
        begin_by = request.begin_by
        # Most requests may wait for any time, and do without the generator.
        connection = self._connections[queue]
        async with connection if begin_by is None else acquired_by(connection, begin_by):
            # After the connection: a permit is for immediate use.
            permit = None if queue is None else await queue.aacquire(begin_by)
            response = update_pause = None
            sent = time.monotonic()
            try:
                async with asyncio.timeout(_seconds_until_body(request, self.settings)):
                    received = await self._session.request(
                        request.method,
                        url,
                        data=request.body,
                        headers=headers_of(request, access_token),
                        proxy=self._proxy(url),
                        allow_redirects=False,
                    )
                async with received:
                    body = await self._body(received, request)
                sent_back = {k.lower(): v for k, v in received.headers.items()}
                if encoding := _encoding(received):
                    sent_back["content-encoding"] = encoding
                response = Response(received.status, sent_back, body)
            except (aiohttp.ClientError, OSError, UnicodeError, TransportError) as err:
                error = (
                    err
                    if isinstance(err, TransportError)
                    else failure_error(failure_of(err), err.__cause__ or err, request, self.settings)
                )
                self._ended(request, failure_outcome(error), sent)
                raise error from None
            finally:
                if queue is not None and permit is not None:
                    update_pause = queue.ended(permit, response)
        if update_pause is not None:
            # Not awaited: a cancellation meanwhile would lose a response that may come only once.
            update = asyncio.ensure_future(in_thread(update_pause))
            self._pause_updates.add(update)
            update.add_done_callback(self._pause_updates.discard)
        self._ended(request, response.status, sent)
        return response

    def _ended(self, request: Request, outcome: int | str, sent: float) -> None:
        metrics.request(request.endpoint, outcome, time.monotonic() - sent)
        if self.observe is not None:
            self.observe(outcome)

    async def _body(self, response: aiohttp.ClientResponse, request: Request) -> bytes:
        body = BodyReader(request, self.settings.timeout, _encoding(response), response.content_length)
        # Leaving a body that has not been read closes the connection.
        while True:
            # aiohttp's timeout is one between bytes, also of a trailer and of the line before a chunk.
            async with asyncio.timeout(self.settings.timeout):
                data = await response.content.readany()
            if not data:
                return body.body()
            body.add(data)

    def _proxy(self, url: URL) -> str | None:
        """Cached per host: reading the environment takes longer than a poll."""
        host = url.scheme, url.raw_authority
        if host not in self._proxies:
            self._proxies[host] = proxy_for(str(url))
        return self._proxies[host]

    @property
    def session_connector(self) -> aiohttp.BaseConnector:
        """The connections of users' own sessions, apart from those of this package."""
        if self._session_connector is None:
            self._session_connector = aiohttp.TCPConnector(limit=SESSION_CONNECTIONS, ssl=self._context)
        return self._session_connector

    async def close(self) -> None:
        """Close the connections, after pending updates of the shared pause."""
        try:
            if self._pause_updates:
                await asyncio.wait(self._pause_updates, timeout=_PAUSE_UPDATE_TIMEOUT)
        finally:
            if self._session_connector is not None:
                await self._session_connector.close()
            await self._session.close()


def _seconds_until_body(request: Request, settings: LucidworksSettings) -> float:
    """Limit connecting, the upload and the headers: aiohttp limits the time between bytes, also of headers."""
    return sum(timeouts(settings)) + len(request.body or b"") / LEAST_SPEED


def _encoding(response: aiohttp.ClientResponse) -> str:
    """The header, which may be repeated."""
    return ", ".join(response.headers.getall("Content-Encoding", ()))


@dataclass
class _Shared:
    """A transport and the number of its users; the lock is held while it is created."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    transport: AsyncTransport | None = None


# A session belongs to the loop in which it was created.
_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[LucidworksSettings, _Shared]] = WeakKeyDictionary()


def shared_transport(
    settings: LucidworksSettings, connections: int | None = None
) -> AbstractAsyncContextManager[AsyncTransport]:
    """
    The transport of the running loop for these settings: opened for the first user and closed after the last.

    :param connections: requests at once to each API; the first user decides. ``CONNECTIONS`` unless given.
    """
    return _SharedTransport(settings, connections or CONNECTIONS)


class _SharedTransport(AbstractAsyncContextManager[AsyncTransport]):
    """A class: a generator would add 10 % to the time of a request."""

    __slots__ = ("_connections", "_mine", "_settings", "_shared")

    def __init__(self, settings: LucidworksSettings, connections: int) -> None:
        self._settings = settings
        self._connections = connections

    async def __aenter__(self) -> AsyncTransport:
        loop = asyncio.get_running_loop()
        if (mine := _shared.get(loop)) is None:
            mine = _shared[loop] = {}
        if (shared := mine.get(self._settings)) is None:
            shared = mine[self._settings] = _Shared()
        self._mine, self._shared = mine, shared
        shared.users += 1
        try:
            if shared.transport is None:
                async with shared.lock:
                    if shared.transport is None:
                        shared.transport = await _new_transport(self._settings, self._connections)
        except BaseException:
            await self.__aexit__()
            raise
        return shared.transport

    async def __aexit__(self, *_: object) -> None:
        shared = self._shared
        shared.users -= 1
        if shared.users == 0:
            self._mine.pop(self._settings, None)
            if shared.transport is not None:
                await shared.transport.close()


async def _new_transport(settings: LucidworksSettings, connections: int) -> AsyncTransport:
    context = await asyncio.get_running_loop().run_in_executor(None, ssl_context, settings)
    # To the application and to the Models API, which may be one host.
    connector = _Connector(limit=2 * connections, ssl=context)
    # Decompressed by BodyReader: aiohttp's errors name no encoding.
    headers = {"Accept-Encoding": ACCEPT_ENCODING}
    session = client_session(
        settings,
        connector,
        # Also of the response to a CONNECT. Not for users' sessions: it includes the wait for another's connection.
        connect_timeout=timeouts(settings)[0],
        headers=headers,
        auto_decompress=False,
        middlewares=(_send_once,),
    )
    return AsyncTransport(settings, session, context, connections)


class _Connector(aiohttp.TCPConnector):
    async def connect(self, req: aiohttp.ClientRequest, *args: Any, **options: Any) -> Connection:
        """Distinguish a failed CONNECT, after which nothing was sent: aiohttp has the same errors for a response."""
        try:
            return await super().connect(req, *args, **options)
        except (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError):
            raise
        except (aiohttp.ClientOSError, aiohttp.ClientResponseError, aiohttp.ServerDisconnectedError) as err:
            raise aiohttp.ClientProxyConnectionError(req.connection_key, OSError()) from err


async def _send_once(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Prevent aiohttp from repeating a request whose connection broke, which would not be counted."""
    try:
        return await handler(request)
    except aiohttp.ClientConnectorError:
        raise  # nothing was sent
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as err:
        raise aiohttp.ClientConnectionError from err


def client_session(
    settings: LucidworksSettings,
    connector: aiohttp.BaseConnector,
    connect_timeout: float | None = None,
    **options: Any,
) -> aiohttp.ClientSession:
    """A session with the connection's timeouts. Proxies are an option, or set for each request."""
    connect, read = timeouts(settings)
    return aiohttp.ClientSession(
        connector=connector,
        # Like requests: the time between bytes, not of the whole response.
        timeout=aiohttp.ClientTimeout(
            total=None, connect=connect_timeout, sock_connect=connect, sock_read=read
        ),
        # As long as http.client accepts; aiohttp's default is an eighth of it.
        max_line_size=_LONGEST_LINE,
        max_field_size=_LONGEST_LINE,
        # Proxies are decided in `transport`; trusting the environment would also read ~/.netrc.
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        **options,
    )


def failure_of(err: Exception) -> Failure:
    """What an error of aiohttp or the operating system means."""
    if isinstance(err, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return Failure.CERTIFICATE
    if isinstance(err, aiohttp.ClientSSLError | ssl.SSLError):
        return Failure.TLS
    if isinstance(err, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return Failure.PROXY
    # A UnicodeError is of a host that cannot be looked up, such as a..b.
    if isinstance(err, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError | UnicodeError):
        return Failure.CONNECTION
    return Failure.TIMEOUT if isinstance(err, TimeoutError) else Failure.BROKEN


class BearerMiddleware:
    """
    Adds the shared token to a request, and repeats it with the next one after a 401, or once after a 403.

    :param tokens: where they come from.
    :param allowed: the hosts that may see them.
    """

    def __init__(self, tokens: TokenSource, allowed: AllowedHosts) -> None:
        self._tokens = tokens
        self._allowed = allowed

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """
        Send a request. Also called for each redirect, so that other hosts never get the token.

        :raises InputError: the URL is of a host that is not the connection's.
        """
        self._allowed.check(str(request.url))
        endpoint = endpoint_of(request.method, str(request.url))
        other, repeated_after_403 = None, False
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
                other = None if repeated_after_403 else await self._tokens.atoken_after_403(token, endpoint)
                repeated_after_403 = True
            # A stream that was read cannot be sent again; its caller gets the 401.
            if last or not _repeatable(request.body) or (response.status == 403 and other is None):
                break
            # The connection can be used again only after the response was read.
            await response.read()
            response.release()
        return response


def _repeatable(body: Payload | bytes) -> bool:
    """
    Whether a body can be sent again as a whole.

    ``consumed`` is not enough: up to aiohttp 3.14.1, it is False for a stream that was read in part, and for a form
    whose fields were consumed.
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
    """See :meth:`lucidworks_provider.hooks.lucidworks.LucidworksAuthHook.aget_conn`."""
    base = base_url(settings, scope)
    async with (
        # All sessions of a loop share their connections, so that a thousand triggers need a few dozen sockets.
        shared_transport(settings) as transport,
        client_session(
            settings,
            transport.session_connector,
            connector_owner=False,
            base_url=f"{base}/",
            proxy=proxy_for(base),
            middlewares=(middleware,),
        ) as session,
    ):
        yield session
