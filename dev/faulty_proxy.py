# SPDX-License-Identifier: Apache-2.0
"""
A proxy of an HTTP server, in a thread, that counts requests, and can delay or fail them::

    with proxy.failing("/execution/variables"):
        ...  # workers cannot read or write Variables
    assert proxy.refused
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar, TCPConnector, web
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HOST = "127.0.0.1"

# Hop-by-hop headers (RFC 9110, 7.6.1), and lengths and encodings, which are set anew.
_HOP_BY_HOP = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("content-length", "content-encoding", "host", "expect"),
    }
)


@dataclass(frozen=True, slots=True)
class Fault:
    """
    :param prefix: of the paths that fail.
    :param status: of the responses.
    :param methods: that fail; by default all.
    :param text: of the responses; JSON by default.
    :param times: requests that fail before the fault ends.
    """

    prefix: str = "/"
    status: int = 503
    methods: frozenset[str] = frozenset()
    text: str = ""
    times: int = 1 << 62

    def hits(self, method: str, path: str) -> bool:
        """Whether a request fails."""
        return path.startswith(self.prefix) and (not self.methods or method in self.methods)


class FaultyProxy:
    """
    Forwards requests to ``target``.

    :ivar passed: forwarded requests by method and path.
    :ivar refused: failed requests by method and path.
    :ivar latency: seconds of delay for each request.
    """

    def __init__(self, target: str) -> None:
        self.target = target.rstrip("/")
        self.port = 0
        self.passed: Counter[tuple[str, str]] = Counter()
        self.refused: Counter[tuple[str, str]] = Counter()
        self.latency = 0.0
        self._faults: tuple[Fault, ...] = ()
        self._hits: Counter[Fault] = Counter()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="faulty-proxy", daemon=True)
        self._started: threading.Event = threading.Event()
        self._ended: asyncio.Event | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            raise RuntimeError("the proxy did not start") from self._error
        return self

    def __exit__(self, *_: object) -> None:
        if self._ended is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(10)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @contextmanager
    def failing(self, prefix: str = "/", **fault: Any) -> Iterator[None]:
        """Fail as with :meth:`fail` during a block."""
        failing = self.fail(prefix, **fault)
        try:
            yield
        finally:
            self.heal(failing)

    def fail(self, prefix: str = "/", *, methods: Iterable[str] = (), **more: Any) -> Fault:
        """
        Fail requests whose path begins with a prefix, until :meth:`heal`.

        :param more: of :class:`Fault`.
        """
        fault = Fault(prefix, methods=frozenset(methods), **more)
        self._faults = (*self._faults, fault)
        return fault

    def heal(self, fault: Fault | None = None) -> None:
        """End one fault, or all."""
        self._faults = tuple(each for each in self._faults if fault is not None and each is not fault)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised by __enter__
            self._error = error
        finally:
            self._started.set()
            self._loop.close()

    async def _serve(self) -> None:
        self._ended = asyncio.Event()
        connector = TCPConnector(limit=0)
        timeout = ClientTimeout(total=300)
        # Without cookies; bodies are forwarded unchanged.
        async with ClientSession(
            connector=connector, timeout=timeout, cookie_jar=DummyCookieJar()
        ) as session:

            async def handle(request: web.Request) -> web.StreamResponse:
                return await self._pass(session, request)

            app = web.Application(client_max_size=2**30)
            app.router.add_route("*", "/{path:.*}", handle)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            await runner.setup()
            try:
                site = web.TCPSite(runner, HOST, 0)
                await site.start()
                self.port = runner.addresses[0][1]
                self._started.set()
                await self._ended.wait()
            finally:
                await runner.cleanup()

    async def _pass(self, session: ClientSession, request: web.Request) -> web.StreamResponse:
        seen = (request.method, request.path)
        for fault in self._faults:
            if fault.hits(*seen):
                self.refused[seen] += 1
                self._hits[fault] += 1
                if self._hits[fault] >= fault.times:
                    self.heal(fault)
                if fault.text:
                    return web.Response(text=fault.text, status=fault.status, content_type="application/xml")
                return web.json_response({"detail": "made to fail"}, status=fault.status)
        body = await request.read()
        await asyncio.sleep(self.latency)
        headers = [(name, value) for name, value in request.headers.items() if not _dropped(name)]
        try:
            async with session.request(
                request.method,
                # Unchanged, because a key can contain ``./``.
                URL(self.target + request.raw_path, encoded=True),
                headers=headers,
                data=body or None,
                allow_redirects=False,
                # Azure's clients sign their headers.
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            ) as received:
                content = await received.read()
                self.passed[seen] += 1
                response = web.Response(status=received.status, body=content)
                for name, value in received.headers.items():
                    if not _dropped(name):
                        response.headers.add(name, value)
                if request.method == "HEAD" and "Content-Length" in received.headers:
                    response.headers["Content-Length"] = received.headers["Content-Length"]
                return response
        except (ClientError, TimeoutError) as error:
            return web.json_response({"detail": f"no response: {type(error).__name__}"}, status=502)


def _dropped(name: str) -> bool:
    return name.lower() in _HOP_BY_HOP
