# SPDX-License-Identifier: Apache-2.0
"""
A TLS proxy of a server, in a thread, with faults of handshakes and connections::

    with TlsDoor("lucidworks.test", target_port, folder) as door:
        ...  # clients trust door.bundle
        door.show(Papers.STRANGER)  # for new connections
        door.cut()
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import threading
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Self

import trustme

if TYPE_CHECKING:
    from pathlib import Path

HOST = "127.0.0.1"
_PIECE = 1 << 18


class Papers(Enum):
    """The response to a handshake."""

    GOOD = "a certificate of the authority in the bundle"
    STRANGER = "a certificate of an unknown authority"
    NONE = "an alert instead of a certificate"


@dataclass(eq=False)
class _Link:
    """A connection; busy from the first byte of a request to the first of its response."""

    outside: asyncio.StreamWriter
    inside: asyncio.StreamWriter
    busy: bool = False


class TlsDoor:
    """
    :param name: of its certificates.
    :param target: port of the server.
    :param folder: for the bundle.
    :ivar port: of the proxy.
    :ivar refused: handshakes that failed.
    """

    def __init__(self, name: str, target: int, folder: Path) -> None:
        self.bundle = folder / "authority.pem"
        self.target = target
        self.port = 0
        self.refused = 0
        self._papers = Papers.GOOD
        authority, stranger = trustme.CA(), trustme.CA()
        folder.mkdir(parents=True, exist_ok=True)
        authority.cert_pem.write_to_path(self.bundle)
        self._good, self._stranger = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2))
        authority.issue_cert(name).configure_cert(self._good)
        stranger.issue_cert(name).configure_cert(self._stranger)
        self._good.sni_callback = self._choose
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="tls-door", daemon=True)
        self._started = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(10):
            raise RuntimeError("the TLS proxy did not start")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def show(self, papers: Papers) -> None:
        """Set the response to the handshakes of new connections."""
        self._papers = papers

    def cut(self) -> int:
        """Reset all connections; the number of those with a request without a response."""

        async def now() -> int:
            links = list(self._links)
            for link in links:
                _reset(link.outside)
                link.inside.transport.abort()
            return sum(link.busy for link in links)

        return asyncio.run_coroutine_threadsafe(now(), self._loop).result(10)

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int | None:
        if self._papers is Papers.GOOD:
            return None
        self.refused += 1
        if self._papers is Papers.NONE:
            return int(ssl.ALERT_DESCRIPTION_INTERNAL_ERROR)
        connection.context = self._stranger
        return None

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        # Failed handshakes are intended, so they have no traceback.
        self._loop.set_exception_handler(lambda loop, context: None)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, HOST, 0, ssl=self._good))
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, outside: asyncio.StreamWriter) -> None:
        try:
            responses, inside = await asyncio.open_connection(HOST, self.target)
        except OSError:
            _reset(outside)
            return
        link = _Link(outside, inside)
        self._links.add(link)
        both = [
            asyncio.ensure_future(self._requests(reader, link)),
            asyncio.ensure_future(self._responses(responses, link)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if both[1].done() and isinstance(both[1].exception(), ConnectionResetError):
                _reset(outside)
        finally:
            self._links.discard(link)
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            inside.transport.abort()
            outside.close()

    async def _requests(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while piece := await reader.read(_PIECE):
            link.busy = True
            link.inside.write(piece)
            await link.inside.drain()

    async def _responses(self, reader: asyncio.StreamReader, link: _Link) -> None:
        while piece := await reader.read(_PIECE):
            link.outside.write(piece)
            await link.outside.drain()
            link.busy = False


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
