# SPDX-License-Identifier: Apache-2.0
"""
One request over aiohttp: an answer, or the same errors as over requests.

All users of one event loop share one client for equal settings: a thousand triggers hold eight sockets,
not a thousand. The client closes with its last user.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import aiohttp
from yarl import URL

from lucidworks_provider import metrics
from lucidworks_provider.client.api.messages import ACCEPT_ENCODING, Answer, Request
from lucidworks_provider.client.http.body import BodyReader
from lucidworks_provider.client.http.request_queue import queue_for
from lucidworks_provider.client.http.sync import CONNECT_TIMEOUT, authorization, unanswered, untrusted
from lucidworks_provider.client.http.tls import proxy_for, trusted
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import ConfigurationError, LucidworksError, NotSentError, TransportError
from lucidworks_provider.threads import in_thread

# Connections per application, and so answers held in memory at once.
CONNECTIONS = 8
# For all sessions of users on one event loop.
LENT_CONNECTIONS = 32
# A loop that ends would cut it short.
_TELLING_SECONDS = 2.0


@dataclass
class AsyncTransport:
    """
    Sends requests for every coroutine of one event loop.

    :param connections: requests at once.
    :param observe: is told the outcome of each request: its status, ``not_sent`` or ``broken``.
    :param slots: held by a reader of results from before its GET until the body lies on storage, so that a
        thousand results that become ready together do not fill the memory.
    """

    settings: LucidworksSettings
    _session: aiohttp.ClientSession
    _context: ssl.SSLContext | bool = True
    connections: int = CONNECTIONS
    observe: Callable[[int | str], None] | None = None
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CONNECTIONS))
    _proxies: dict[tuple[str, str], str | None] = field(default_factory=dict)
    _lent: aiohttp.BaseConnector | None = None

    def __post_init__(self) -> None:
        # In the order of asking, which aiohttp's pool does not keep: who has a connection would get it for ever.
        self._connection = asyncio.Semaphore(self.connections)
        # A loop keeps no hold of its tasks.
        self._telling: set[asyncio.Future[object]] = set()

    async def send(self, request: Request, access_token: str | None = None) -> Answer:
        """
        Send once; raises what :meth:`SyncTransport.send` raises.

        Everybody in this process who calls the same application shares its rate limiter.
        """
        headers = dict(request.headers)
        if value := authorization(request, access_token):
            headers["Authorization"] = value
        url = URL(request.url, encoded=True)
        if request.params:
            url = url.update_query(request.params)
        queue = queue_for(request, self.settings)
        async with self._connection:
            # With a connection in hand: who has a permit sends at once.
            permit = None if queue is None else await queue.aacquire()
            answer = tell = None
            sent = time.monotonic()
            try:
                async with self._session.request(
                    request.method,
                    url,
                    data=request.body,
                    headers=headers,
                    proxy=self._proxy(url),
                    allow_redirects=False,
                ) as response:
                    body = await self._body(response, request)
                sent_back = {k.lower(): v for k, v in response.headers.items()}
                if encoding := _encoding(response):
                    sent_back["content-encoding"] = encoding
                answer = Answer(response.status, sent_back, body)
            except (aiohttp.ClientError, OSError, TimeoutError, TransportError) as err:
                error = err if isinstance(err, TransportError) else translate(err, request, self.settings)
                self._ended(request, unanswered(error), sent)
                raise error from None
            finally:
                if queue is not None and permit is not None:
                    tell = queue.answered(permit, answer)
        if tell is not None:
            # Not waited for: who is cancelled meanwhile would lose an answer that may come only once.
            telling = asyncio.ensure_future(in_thread(tell))
            self._telling.add(telling)
            telling.add_done_callback(self._telling.discard)
        self._ended(request, answer.status, sent)
        return answer

    def _ended(self, request: Request, outcome: int | str, sent: float) -> None:
        metrics.request(request.endpoint, outcome, time.monotonic() - sent)
        if self.observe is not None:
            self.observe(outcome)

    async def _body(self, response: aiohttp.ClientResponse, request: Request) -> bytes:
        what = f"{request.name}: {urlsplit(request.url).netloc}: "
        intake = BodyReader(what, self.settings.timeout, _encoding(response))
        intake.announced(response.content_length)
        # Leaving a body that has not been read closes the connection.
        while piece := await response.content.readany():
            intake.add(piece)
        return intake.whole()

    def _proxy(self, url: URL) -> str | None:
        """Looked up once for each host: the environment stays, and reading it takes longer than a poll."""
        host = url.scheme, url.raw_authority
        if host not in self._proxies:
            self._proxies[host] = proxy_for(str(url))
        return self._proxies[host]

    @property
    def lent(self) -> aiohttp.BaseConnector:
        """Connections for users' own sessions: whoever keeps them all busy does not hold up this package's calls."""
        if self._lent is None:
            self._lent = aiohttp.TCPConnector(limit=LENT_CONNECTIONS, ssl=self._context)
        return self._lent

    async def close(self) -> None:
        """Close the connections, when the fleet has been told what it should know."""
        if self._telling:
            await asyncio.wait(self._telling, timeout=_TELLING_SECONDS)
        if self._lent is not None:
            await self._lent.close()
        await self._session.close()


def _encoding(response: aiohttp.ClientResponse) -> str:
    """The header, which may come in several lines."""
    return ", ".join(response.headers.getall("Content-Encoding", ()))


@dataclass
class _Shared:
    """A transport with those who use it; the lock lets the first of a crowd make it for all."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    transport: AsyncTransport | None = None


# By path and time of change: loading some hundred authorities takes 18 ms.
_contexts: dict[tuple[str, int], ssl.SSLContext] = {}
# Per loop: a client belongs to the loop that it was made in.
_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[LucidworksSettings, _Shared]] = WeakKeyDictionary()


def shared_transport(
    settings: LucidworksSettings, connections: int | None = None
) -> AbstractAsyncContextManager[AsyncTransport]:
    """
    The running loop's transport for these settings, made for the first user and closed after the last.

    :param connections: requests at once, as the first user wants it; ``CONNECTIONS`` unless given.
    """
    return _Use(settings, connections or CONNECTIONS)


class _Use(AbstractAsyncContextManager[AsyncTransport]):
    """Of a shared transport. Each request is one, so this is no generator: that takes a tenth of the request."""

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
    # Loading a bundle of authorities takes tens of milliseconds: not on a loop that others wait for.
    context = await asyncio.get_running_loop().run_in_executor(None, _ssl_context, settings)
    connector = aiohttp.TCPConnector(limit=connections, ssl=context)
    # Decompressed by Intake: aiohttp's own errors name no encoding.
    headers = {"Accept-Encoding": ACCEPT_ENCODING}
    session = client_session(settings, connector, headers=headers, auto_decompress=False)
    return AsyncTransport(settings, session, context, connections)


def client_session(
    settings: LucidworksSettings, connector: aiohttp.BaseConnector, **options: Any
) -> aiohttp.ClientSession:
    """A client with the connection's limits. Proxies come as an option or with each request."""
    return aiohttp.ClientSession(
        connector=connector,
        # Like requests: the time between bytes counts, not the whole of a large answer.
        timeout=aiohttp.ClientTimeout(
            total=None,
            sock_connect=min(CONNECT_TIMEOUT, settings.timeout),
            sock_read=settings.timeout,
        ),
        # Proxies are decided in `tls`; trusting the environment would also read ~/.netrc.
        trust_env=False,
        cookie_jar=aiohttp.DummyCookieJar(),
        **options,
    )


def _ssl_context(settings: LucidworksSettings) -> ssl.SSLContext | bool:
    bundle = trusted(settings)
    if isinstance(bundle, bool):
        return bundle
    try:
        changed = Path(bundle).stat().st_mtime_ns
        if (bundle, changed) not in _contexts:
            # Like requests, take a folder of hashed certificates too.
            folder = Path(bundle).is_dir()
            made = ssl.create_default_context(
                capath=bundle if folder else None, cafile=None if folder else bundle
            )
            _contexts.clear()  # of a bundle that was replaced
            _contexts[bundle, changed] = made
        return _contexts[bundle, changed]
    except (OSError, ssl.SSLError) as err:
        raise ConfigurationError(
            f"Connection {settings.conn_id!r}: {bundle} is no usable bundle of authorities ({type(err).__name__})."
        ) from None


def translate(err: Exception, request: Request, settings: LucidworksSettings) -> LucidworksError:
    """The same errors that :func:`lucidworks_provider.client.http.sync.translate` makes."""
    host = urlsplit(request.url).netloc
    what = f"{request.name}: {host}: "
    if isinstance(err, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return untrusted(host, settings)
    if isinstance(err, aiohttp.ClientSSLError | ssl.SSLError):
        return NotSentError(f"{what}the TLS handshake failed ({type(err).__name__})")
    if isinstance(err, aiohttp.ClientProxyConnectionError | aiohttp.ClientHttpProxyError):
        return NotSentError(f"{what}the proxy of the environment did not connect ({type(err).__name__})")
    if isinstance(err, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return NotSentError(f"{what}no connection ({type(err).__name__})")
    if isinstance(err, TimeoutError):
        return TransportError(f"{what}no answer within {settings.timeout:g} s")
    return TransportError(f"{what}the connection broke ({type(err).__name__})")
