# SPDX-License-Identifier: Apache-2.0
"""Answers whose operation is done and whose body goes wrong on its way, each from what would have been the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response, StreamingResponse

from lucidworks_provider.emulator.connections import drop, write
from lucidworks_provider.emulator.faults import Fault, FaultKind
from lucidworks_provider.emulator.unkind_answers import UNKIND, altered

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

# "Without an end" ends here, so that a client that reads on does not keep the emulator busy for ever.
_ENDLESS_BYTES = 1 << 30
_ENDLESS_PIECE = b" " * (1 << 18)


def cut(whole: Response, fault: Fault) -> Response:
    """Half of the JSON, as if that were all."""
    body = bytes(whole.body)
    return Response(body[: len(body) // 2], whole.status_code, media_type="application/json")


def endless(whole: Response, fault: Fault) -> Response:
    """The JSON begins, and never closes."""

    async def body() -> AsyncIterator[bytes]:
        yield bytes(whole.body)[:1]
        for _ in range(_ENDLESS_BYTES // len(_ENDLESS_PIECE)):
            yield _ENDLESS_PIECE

    return StreamingResponse(body(), whole.status_code, media_type="application/json")


def drip(whole: Response, fault: Fault) -> Response:
    """Byte by byte, with a pause after each."""

    async def body() -> AsyncIterator[bytes]:
        for byte in bytes(whole.body):
            yield bytes([byte])
            await asyncio.sleep(fault.delay)

    length = {"content-length": str(len(bytes(whole.body)))}
    return StreamingResponse(body(), whole.status_code, length, media_type="application/json")


def error(whole: Response, fault: Fault) -> Response:
    """500, as from a gateway that did not wait."""
    return JSONResponse({"status": 500, "error": "Internal Server Error", "message": "Failed on order."}, 500)


class _Reset(Response):
    """Half of the body, whose whole length was announced; then the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(bytes(self.body)) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        # For the half to arrive: a reset overtakes what the other side has not read yet.
        await asyncio.sleep(0.05)
        await drop(scope, reset=True)


def reset(whole: Response, fault: Fault) -> Response:
    """See :class:`_Reset`."""
    return _Reset(whole.body, whole.status_code, media_type="application/json")


def encoded(whole: Response, fault: Fault) -> Response:
    """The JSON in an encoding that was not asked for, as from a proxy that compresses everything."""
    body = (brotli if fault.kind is FaultKind.BR else zstandard)(bytes(whole.body))
    headers = {"content-encoding": fault.kind.value}
    return Response(body, whole.status_code, headers, media_type="application/json")


# Both formats can store data uncompressed, so no library is needed.


def brotli(data: bytes) -> bytes:
    """Encode by RFC 7932: meta-blocks of stored bytes, then an empty last one."""
    blocks = [data[at : at + 65536] for at in range(0, len(data), 65536)]
    stream = b""
    for number, block in enumerate(blocks):
        # First a zero bit for the window; in each block "not last", "four nibbles", length, "stored".
        header = ((len(block) - 1) << 3 | 1 << 19) << (number == 0)
        stream += header.to_bytes(3, "little") + block
    return stream + (b"\x03" if blocks else b"\x06")


def zstandard(data: bytes) -> bytes:
    """Encode by RFC 8878: a frame of raw blocks."""
    blocks = [data[at : at + 65536] for at in range(0, len(data), 65536)] or [b""]
    # One segment, whose size takes eight bytes.
    stream = b"\x28\xb5\x2f\xfd\xe0" + len(data).to_bytes(8, "little")
    for number, block in enumerate(blocks):
        last = number == len(blocks) - 1
        stream += (len(block) << 3 | last).to_bytes(3, "little") + block
    return stream


class _Hinted(Response):
    """An interim answer (103 Early Hints) before the answer."""

    def __init__(self, whole: Response) -> None:
        super().__init__()
        self._whole = whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        write(scope, b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        await self._whole(scope, receive, send)


def hinted(whole: Response, fault: Fault) -> Response:
    """See :class:`_Hinted`."""
    return _Hinted(whole)


BREAKERS: dict[FaultKind, Callable[[Response, Fault], Response]] = {
    FaultKind.CUT_JSON: cut,
    FaultKind.ENDLESS: endless,
    FaultKind.DRIP: drip,
    FaultKind.RESET: reset,
    **dict.fromkeys(UNKIND, altered),
    FaultKind.ERROR_AFTER: error,
    FaultKind.BR: encoded,
    FaultKind.ZSTD: encoded,
    FaultKind.EARLY_HINTS: hinted,
}
