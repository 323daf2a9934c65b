# SPDX-License-Identifier: Apache-2.0
"""
Access to the connection below a request, to drop it or to write past the server.

ASGI has no word for it: an application that returns without a response makes the server say 500.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

if TYPE_CHECKING:
    from collections.abc import MutableMapping


class DroppableH11Protocol(H11Protocol):
    """Uvicorn's HTTP/1.1, which puts the transport into the state of each request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


async def drop(scope: MutableMapping[str, Any], *, reset: bool = False) -> None:
    """
    Cut the connection of a request and return once the server knows.

    :param reset: with a RST instead of an orderly close.
    """
    transport = _transport(scope)
    if reset and (connection := transport.get_extra_info("socket")) is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
    for _ in range(3):  # connection_lost runs in a later turn of the loop; TLS takes one more
        await asyncio.sleep(0)


def write(scope: MutableMapping[str, Any], data: bytes) -> None:
    _transport(scope).write(data)


def _transport(scope: MutableMapping[str, Any]) -> asyncio.Transport:
    transport: asyncio.Transport | None = scope.get("state", {}).get("transport")
    if transport is None:
        # Not served by this package's own server, for example by an in-process test client.
        raise ConnectionAbortedError("connection dropped by a fault")
    return transport
