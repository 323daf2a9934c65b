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
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lucidworks_provider.api.messages import (
    Answer,
    Request,
    excerpt,
    get,
    path_segment,
    printable,
    read_object,
    scrub,
)
from lucidworks_provider.errors import MalformedAnswerError, RequestRefusedError

# A pending or failed job answers with a line or two.
SMALL_BODY = 4 * 1024
_EDGE = 4096
_STATUS = re.compile(rb'"status"\s*:\s*"([^"\\]*)"')
_LONGEST_MESSAGE = 500
# Ids are UUIDs in all examples; the words of a status are short.
_LONGEST_ID = 256
_LONGEST_STATUS = 80


@dataclass(frozen=True, slots=True)
class JobKind:
    """
    One of the two kinds of asynchronous job.

    :param name: in words, and in a trigger's row.
    :param path: below the application's base URL.
    :param id_field: of the answer to a submission.
    :param payload_field: of the answer that carries the result.
    """

    name: str
    path: str
    id_field: str
    payload_field: str

    @property
    def submitting(self) -> str:
        """The submission's name in messages."""
        return f"Submit {self.name} job"


CHUNKING = JobKind("chunking", "/ai/async-chunking", "chunkingId", "chunkedData")
PREDICTION = JobKind("prediction", "/ai/async-prediction", "predictionId", "predictions")
KINDS: Mapping[str, JobKind] = {kind.name: kind for kind in (CHUNKING, PREDICTION)}


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


def poll_request(base_url: str, kind: JobKind, job_id: str) -> Request:
    """Build the GET of a job. What it answers may be the only copy of a result."""
    # Repeating it is right even where the first answer got lost: then the second one tells.
    return get(
        f"Poll {kind.name} job {job_id}",
        f"{base_url}{kind.path}/{path_segment(job_id, f'{kind.name} job id')}",
        endpoint=f"poll_{kind.name}",
    )


def read_submission(answer: Answer, kind: JobKind) -> str:
    """The job's id. Its presence decides, not the status: one page's example of it even shows ``READY``."""
    body = read_object(answer, kind.submitting)
    job_id = body.get(kind.id_field)
    if isinstance(job_id, str | int) and not isinstance(job_id, bool):
        named = str(job_id).strip()
        # It goes to logs, into a URL and into databases.
        if 0 < len(named) <= _LONGEST_ID and printable(named) == named:
            return named
    seen = state_of(body, payload_field=kind.payload_field)
    if seen.state is JobState.FAILED:
        raise RequestRefusedError(
            f"{kind.submitting}: status {seen.status}: {seen.message}", status=answer.status
        )
    said = f"without a usable `{kind.id_field}`; it starts: {excerpt(answer.body)!r}"
    raise MalformedAnswerError(f"{kind.submitting}: HTTP {answer.status} {said}", status=answer.status)


def sight(body: bytes, *, payload_field: str) -> Sighting:
    """
    Decide what a GET's body means, without decoding a large result.

    Decoding twelve megabytes of vectors takes a third of a second, and on a triggerer's event loop that
    stalls everybody. A large body with the payload's field in it, and with no other
    status than one that a result has, is kept, and the worker reads it.

    :param payload_field: the field that holds the result, e.g. ``chunkedData``.
    """
    if len(body) > SMALL_BODY and f'"{payload_field}"'.encode() in body:
        # A status stands before or behind the payload; quotes within the payload's texts are escaped.
        found = _STATUS.search(body, 0, _EDGE) or _STATUS.search(body, len(body) - _EDGE)
        status = _word(found[1].decode(errors="replace")) if found else ""
        known = status.upper() in {"", "READY", "RETRIEVED", "ERROR"}
        # Whoever reads the body finds out about an ERROR.
        return Sighting(JobState.RESULT if known else JobState.PENDING, status, has_payload=True)
    try:
        decoded = json.loads(body)
    except (ValueError, RecursionError):
        decoded = None
    if not isinstance(decoded, dict):
        return Sighting(JobState.UNREADABLE, message=excerpt(body))
    return state_of(decoded, payload_field=payload_field)


def state_of(decoded: Mapping[str, Any], *, payload_field: str) -> Sighting:
    """Apply the table above to a decoded body."""
    status = _word(decoded.get("status"))
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


def _word(status: object) -> str:
    return printable(str(status or ""))[:_LONGEST_STATUS]


def _failure(decoded: Mapping[str, Any]) -> str:
    for name in ("message", "error", "errorMessage", "detail"):
        value = decoded.get(name)
        if value:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            return scrub(text)[:_LONGEST_MESSAGE]
    return "the service gave no reason"
