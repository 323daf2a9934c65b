# SPDX-License-Identifier: Apache-2.0
"""Faults of the body: the operation is executed, and its response is changed."""

from __future__ import annotations

import asyncio
import json
import unicodedata
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from starlette.responses import Response, StreamingResponse

from lucidworks_provider.emulator.connections import drop, write
from lucidworks_provider.emulator.errors import ApiError
from lucidworks_provider.emulator.faults import Fault

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

Body = dict[str, Any]
_Change = Callable[[Body, Fault], Body]
_IDS = ("chunkingId", "predictionId")
_PAYLOADS = ("chunkedData", "predictions")


def altered(whole: Response, fault: Fault) -> Response:
    """The response with its content changed; an error, and what has nothing to change, stays as it is."""
    if whole.status_code != 200:
        return whole
    body = _CHANGES[fault.kind](json.loads(bytes(whole.body)), fault)
    return Response(json.dumps(body, ensure_ascii=False), media_type="application/json")


def _each(names: tuple[str, ...], value: Callable[[], Any]) -> _Change:
    """Replace fields, where they are."""
    return lambda body, fault: body | {name: value() for name in names if name in body}


def _previous(body: Body, fault: Fault) -> Body:
    """What came first, again and again."""
    if fault.kept is None and any(body.get(name) for name in _PAYLOADS):
        fault.kept = body
    return body if fault.kept is None else fault.kept


def _same_id(body: Body, fault: Fault) -> Body:
    fault.kept = fault.kept or {name: body[name] for name in _IDS if name in body}
    return body | fault.kept


def _id_name(body: Body, fault: Fault) -> Body:
    name = fault.value or "id"
    return {name if one in _IDS else one: value for one, value in body.items()}


def _no_id(body: Body, fault: Fault) -> Body:
    return {name: value for name, value in body.items() if name not in _IDS} | {"requestId": str(uuid4())}


def _items(change: Callable[[Body], object]) -> _Change:
    """Change each element of ``chunkedData`` in place."""

    def chunks(body: Body, fault: Fault) -> Body:
        for item in body.get("chunkedData") or []:
            change(item)
        return body

    return chunks


def _texts(change: Callable[[str], str]) -> _Change:
    return _items(lambda item: item.update(chunks=list(map(change, item["chunks"]))))


def _without(which: Callable[[int], slice]) -> _Change:
    """Leave out some of the chunks, with their spans and vectors."""

    def cut(item: Body) -> None:
        for listed in item.values():
            del listed[which(len(listed))]

    return _items(cut)


def _twice(body: Body, fault: Fault) -> Body:
    return body | {"chunkedData": body["chunkedData"] * 2} if body.get("chunkedData") else body


def _vectors(change: Callable[[list[float]], list[float]]) -> _Change:
    def vectors(body: Body, fault: Fault) -> Body:
        items = body.get("chunkedData") or []
        holders = [one for item in items for one in item.get("vectors", [])] + (body.get("predictions") or [])
        for holder in holders:
            if "vector" in holder:
                holder["vector"] = change(holder["vector"])
        return body

    return vectors


def _first_prediction(sent: Body) -> _Change:
    def first(body: Body, fault: Fault) -> Body:
        if body.get("predictions"):
            body["predictions"][0] = dict(sent)
        return body

    return first


def _reversed(body: Body, fault: Fault) -> Body:
    """With the index of each, from 0 or from the value of the fault."""
    first = int(fault.value or 0)
    for at, one in enumerate(body.get("predictions") or [], first):
        one["index"] = at
    return body | {"predictions": body["predictions"][::-1]} if "predictions" in body else body


def _index(body: Body, fault: Fault) -> Body:
    """With the numbers of the fault as `index`, the last of them for the rest."""
    numbers = [int(one) for one in (fault.value or "0,0,1").split(",")]
    for at, one in enumerate(body.get("predictions") or []):
        one["index"] = numbers[min(at, len(numbers) - 1)]
    return body


def _labels(body: Body, fault: Fault) -> Body:
    for one in body.get("predictions") or []:
        if isinstance(labels := one.get("labels"), dict):
            listed = [{"label": name, "score": score} for name, score in labels.items()]
            one["labels"] = next(iter(labels), "") if fault.value == "text" else listed
    return body


_INJECTED = "An injected fault."
_CHANGES: dict[str, _Change] = {
    "null-payload": _each(_PAYLOADS, lambda: None),
    "empty-payload": _each(_PAYLOADS, list),
    "no-chunks": _without(lambda count: slice(None)),
    "envelope": lambda body, fault: {fault.value or "data": body},
    "status": lambda body, fault: body | {"status": fault.value or "FAILED", "message": _INJECTED},
    "error-body": lambda body, fault: {"error": fault.value or _INJECTED},
    "other-id": _each(_IDS, lambda: str(uuid4())),
    "previous-response": _previous,
    "same-id": _same_id,
    "id-name": _id_name,
    "no-id": _no_id,
    "lower-case": _texts(str.lower),
    "composed": _texts(lambda text: unicodedata.normalize("NFC", text)),
    "other-text": _texts(lambda text: "Entirely unrelated pancakes"),
    "cut-chunks": _without(lambda count: slice((count + 1) // 2, None)),
    "no-first-chunk": _without(lambda count: slice(0, 1)),
    "no-middle-chunk": _without(lambda count: slice(count // 2, count // 2 + 1)),
    "twice": _twice,
    "long-vectors": _vectors(lambda vector: vector * 2),
    "whole-numbers": _vectors(lambda vector: [round(number * 1000) for number in vector]),
    "fractions": _vectors(lambda vector: [number + 0.5 for number in vector]),
    "zeros": _vectors(lambda vector: [0.0 for _ in vector]),
    "item-error": _first_prediction({"error": _INJECTED, "response": None}),
    "item-nothing": _first_prediction({}),
    "reversed": _reversed,
    "index": _index,
    "labels": _labels,
}

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


class _Reset(Response):
    """Half of the body, whose whole length was announced; then the connection is reset."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        half = bytes(self.body)[: len(bytes(self.body)) // 2]
        await send({"type": "http.response.body", "body": half, "more_body": True})
        # For the half to arrive: a reset overtakes what the other side has not read yet.
        await asyncio.sleep(0.05)
        await drop(scope, reset=True)


def encoded(whole: Response, fault: Fault) -> Response:
    """The JSON in an encoding that was not accepted, as from a proxy that compresses everything."""
    body = (brotli if fault.kind == "br" else zstandard)(bytes(whole.body))
    headers = {"content-encoding": fault.kind}
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
    """An interim response (103 Early Hints) before the response."""

    def __init__(self, whole: Response) -> None:
        super().__init__(status_code=whole.status_code)
        self._whole = whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        write(scope, b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        await self._whole(scope, receive, send)


BREAKERS: dict[str, Callable[[Response, Fault], Response]] = {
    "cut-json": cut,
    "endless": endless,
    "drip": drip,
    "reset": lambda whole, _: _Reset(whole.body, whole.status_code, media_type="application/json"),
    **dict.fromkeys(_CHANGES, altered),
    # As from a gateway that did not wait.
    "error-after": lambda whole, _: ApiError(500, _INJECTED).response(),
    "br": encoded,
    "zstd": encoded,
    "early-hints": lambda whole, _: _Hinted(whole),
}
