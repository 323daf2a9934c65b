# SPDX-License-Identifier: Apache-2.0
"""
Dropping a connection without an answer.

ASGI has no word for it: an application that returns without answering makes the server say 500. So the HTTP
protocol class notes its transports here, by the two ends of the connection, and a fault looks its own one up.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any, TypeAlias

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_Ends: TypeAlias = tuple[tuple[str, int | None] | None, tuple[str, int] | None]
_transports: dict[_Ends, asyncio.Transport] = {}


class DroppableH11Protocol(H11Protocol):
    """Uvicorn's HTTP/1.1 with a register of open connections."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note the connection."""
        super().connection_made(transport)
        _transports[self.server, self.client] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        _transports.pop((self.server, self.client), None)
        super().connection_lost(exc)


async def drop(scope: MutableMapping[str, Any], *, reset: bool = False) -> None:
    """
    Cut the connection of a request and return once the server knows.

    :param reset: with a RST, where a close would say good-bye.
    """
    transport = _transport(scope)
    if reset and (connection := transport.get_extra_info("socket")) is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    for _ in range(3):  # connection_lost runs in a later turn of the loop; TLS takes one more
        await asyncio.sleep(0)


def write(scope: MutableMapping[str, Any], data: bytes) -> None:
    """Write to the connection of a request, past the server."""
    _transport(scope).write(data)


def _transport(scope: MutableMapping[str, Any]) -> asyncio.Transport:
    server, client = scope.get("server"), scope.get("client")
    transport = _transports.get((server and tuple(server), client and tuple(client)))
    if transport is None:
        # Not served by this package's own server, for example by an in-process test client.
        raise ConnectionAbortedError("connection dropped by a fault")
    return transport
