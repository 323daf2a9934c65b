# SPDX-License-Identifier: Apache-2.0
"""
Answers in the documented shape whose content is wrong, as services, gateways and caches sometimes give them.

None of it is documented by the vendor. Each is made from the right answer, so that a client's checks can be tested.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from starlette.responses import Response

from lucidworks_provider.emulator.faults import Fault, FaultKind

Body = dict[str, Any]
_IDS = ("chunkingId", "predictionId")
_PAYLOADS = ("chunkedData", "predictions")


def altered(whole: Response, fault: Fault) -> Response:
    """The answer with its content changed; an error, and what has nothing to change, stays as it is."""
    if whole.status_code != 200:
        return whole
    body = _CHANGES[fault.kind](json.loads(bytes(whole.body)), fault)
    return Response(json.dumps(body, ensure_ascii=False), media_type="application/json")


def _payload(value: Any) -> Callable[[Body, Fault], Body]:
    return lambda body, fault: body | {name: value for name in _PAYLOADS if name in body}


def _no_chunks(body: Body, fault: Fault) -> Body:
    items = body.get("chunkedData")
    return body if items is None else body | {"chunkedData": [{name: [] for name in item} for item in items]}


def _envelope(body: Body, fault: Fault) -> Body:
    return {fault.value or "data": body}


def _status(body: Body, fault: Fault) -> Body:
    return body | {"status": fault.value or "FAILED", "message": "So the emulator was told."}


def _error(body: Body, fault: Fault) -> Body:
    return {"error": fault.value or "So the emulator was told."}


def _other_id(body: Body, fault: Fault) -> Body:
    return body | {name: str(uuid4()) for name in _IDS if name in body}


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


def _texts(change: Callable[[str], str]) -> Callable[[Body, Fault], Body]:
    def chunks(body: Body, fault: Fault) -> Body:
        for item in body.get("chunkedData") or []:
            item["chunks"] = list(map(change, item["chunks"]))
        return body

    return chunks


def _without(which: Callable[[int], slice]) -> Callable[[Body, Fault], Body]:
    """Leave out some of the chunks, with their spans and vectors."""

    def chunks(body: Body, fault: Fault) -> Body:
        for item in body.get("chunkedData") or []:
            for listed in item.values():
                del listed[which(len(listed))]
        return body

    return chunks


def _twice(body: Body, fault: Fault) -> Body:
    return body | {"chunkedData": body["chunkedData"] * 2} if body.get("chunkedData") else body


def _vectors(change: Callable[[list[float]], list[float]]) -> Callable[[Body, Fault], Body]:
    def vectors(body: Body, fault: Fault) -> Body:
        items = body.get("chunkedData") or []
        holders = [one for item in items for one in item.get("vectors", [])] + (body.get("predictions") or [])
        for holder in holders:
            if "vector" in holder:
                holder["vector"] = change(holder["vector"])
        return body

    return vectors


def _first_prediction(sent: Body) -> Callable[[Body, Fault], Body]:
    def first(body: Body, fault: Fault) -> Body:
        if body.get("predictions"):
            body["predictions"][0] = dict(sent)
        return body

    return first


def _reversed(body: Body, fault: Fault) -> Body:
    """With the place of each, from 0 or from what was ordered."""
    first = int(fault.value or 0)
    for at, one in enumerate(body.get("predictions") or [], first):
        one["index"] = at
    return body | {"predictions": body["predictions"][::-1]} if "predictions" in body else body


def _index(body: Body, fault: Fault) -> Body:
    """Numbers that tell no order: ordered ones, the last of them for all that follow."""
    numbers = [int(one) for one in (fault.value or "0,0,1").split(",")]
    for at, one in enumerate(body.get("predictions") or []):
        one["index"] = numbers[min(at, len(numbers) - 1)]
    return body


def _labels(body: Body, fault: Fault) -> Body:
    for one in body.get("predictions") or []:
        if isinstance(one.get("labels"), dict):
            listed = [{"label": name, "score": score} for name, score in one["labels"].items()]
            one["labels"] = listed if fault.value != "text" else listed[0]["label"]
    return body


_CHANGES: dict[FaultKind, Callable[[Body, Fault], Body]] = {
    FaultKind.NULL_PAYLOAD: _payload(None),
    FaultKind.EMPTY_PAYLOAD: _payload([]),
    FaultKind.NO_CHUNKS: _no_chunks,
    FaultKind.ENVELOPE: _envelope,
    FaultKind.STATUS: _status,
    FaultKind.ERROR_BODY: _error,
    FaultKind.OTHER_ID: _other_id,
    FaultKind.PREVIOUS_ANSWER: _previous,
    FaultKind.SAME_ID: _same_id,
    FaultKind.ID_NAME: _id_name,
    FaultKind.NO_ID: _no_id,
    FaultKind.LOWER_CASE: _texts(str.lower),
    FaultKind.COMPOSED: _texts(lambda text: unicodedata.normalize("NFC", text)),
    FaultKind.OTHER_TEXT: _texts(lambda text: "Entirely unrelated pancakes"),
    FaultKind.CUT_CHUNKS: _without(lambda count: slice((count + 1) // 2, None)),
    FaultKind.NO_FIRST_CHUNK: _without(lambda count: slice(0, 1)),
    FaultKind.NO_MIDDLE_CHUNK: _without(lambda count: slice(count // 2, count // 2 + 1)),
    FaultKind.TWICE: _twice,
    FaultKind.LONG_VECTORS: _vectors(lambda vector: vector * 2),
    FaultKind.WHOLE_NUMBERS: _vectors(lambda vector: [round(number * 1000) for number in vector]),
    FaultKind.FRACTIONS: _vectors(lambda vector: [number + 0.5 for number in vector]),
    FaultKind.ZEROS: _vectors(lambda vector: [0.0 for _ in vector]),
    FaultKind.ITEM_ERROR: _first_prediction({"error": "So the emulator was told.", "response": None}),
    FaultKind.ITEM_NOTHING: _first_prediction({}),
    FaultKind.REVERSED: _reversed,
    FaultKind.INDEX: _index,
    FaultKind.LABELS: _labels,
}
UNKIND = frozenset(_CHANGES)
