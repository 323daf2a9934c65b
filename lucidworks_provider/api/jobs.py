# SPDX-License-Identifier: Apache-2.0
"""
What the answer to a job's GET means. The same for chunking and asynchronous predictions.

==============  =================  ==========================================================
status          with its payload   meaning
==============  =================  ==========================================================
SUBMITTED       --                 PENDING
READY           yes                RESULT: this body is the only copy
READY           no                 PENDING: not documented; ask again until the deadline
RETRIEVED       yes                RESULT
RETRIEVED       no                 GONE: somebody has read it before
ERROR           --                 FAILED (its wording ties it to the GET, so ask once or twice more)
(no status)     yes / no           RESULT / PENDING
anything else   --                 PENDING: an unknown status is waited for, until the deadline; a
                                   payload that comes with it is kept aside
==============  =================  ==========================================================

Source: sections 6.3 and 7.3 of the API reference.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lucidworks_provider.api.messages import excerpt, scrub

# A pending or failed job answers with a line or two.
SMALL_BODY = 64 * 1024
_LONGEST_MESSAGE = 500


class JobState(Enum):
    """What to do about a job."""

    PENDING = "pending"
    RESULT = "result"
    FAILED = "failed"
    GONE = "gone"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class Sighting:
    """
    What one GET showed.

    :param status: the service's own word, empty when it gave none.
    :param message: the service's text for a failure, or the start of an unreadable body.
    :param has_payload: whether a result came with it, whatever the status.
    """

    state: JobState
    status: str = ""
    message: str = ""
    has_payload: bool = False


def sight(body: bytes, *, payload_field: str) -> Sighting:
    """
    Decide what a GET's body means, without decoding a large result.

    Decoding twelve megabytes of vectors takes a third of a second, and on a triggerer's event loop that
    stalls everybody. A large body with the payload's field in it is kept, and the worker reads it.

    :param payload_field: the field that holds the result, e.g. ``chunkedData``.
    """
    if len(body) > SMALL_BODY and f'"{payload_field}"'.encode() in body:
        return Sighting(JobState.RESULT, has_payload=True)
    try:
        decoded = json.loads(body)
    except (ValueError, RecursionError):
        decoded = None
    if not isinstance(decoded, dict):
        return Sighting(JobState.UNREADABLE, message=excerpt(body))
    return state_of(decoded, payload_field=payload_field)


def state_of(decoded: Mapping[str, Any], *, payload_field: str) -> Sighting:
    """Apply the table above to a decoded body."""
    status = str(decoded.get("status") or "")
    has_payload = bool(decoded.get(payload_field))
    match status.upper():
        case "ERROR":
            return Sighting(JobState.FAILED, status, _failure(decoded))
        case "RETRIEVED" if not has_payload:
            return Sighting(JobState.GONE, status)
        case "READY" | "RETRIEVED" | "":
            state = JobState.RESULT if has_payload else JobState.PENDING
            return Sighting(state, status, has_payload=has_payload)
        case _:
            return Sighting(JobState.PENDING, status, has_payload=has_payload)


def _failure(decoded: Mapping[str, Any]) -> str:
    for name in ("message", "error", "errorMessage", "detail"):
        value = decoded.get(name)
        if value:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            return scrub(text)[:_LONGEST_MESSAGE]
    return "the service gave no reason"
