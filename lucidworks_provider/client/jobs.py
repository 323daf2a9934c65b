# SPDX-License-Identifier: Apache-2.0
"""
The state of a job, by the response to its GET. The same for chunking and predictions.

===========================  ===================================  =========================================
status                       with its payload                     without
===========================  ===================================  =========================================
READY, or a word of success  RESULT: maybe the only copy          EMPTY: polled again, a few times
RETRIEVED                    RESULT                               GONE: it was read before
ERROR, or a word of failure  FAILED                               FAILED
(no status)                  RESULT                               FAILED with a field of errors, else PENDING
SUBMITTED, RUNNING, …        PENDING; the payload is kept         PENDING
                             and is the result if it is gone
anything else                PENDING; the payload is set aside    PENDING, until the deadline
                             and is the result if it comes twice
===========================  ===================================  =========================================

SUBMITTED, READY, ERROR and RETRIEVED are documented; the other words are common for such services. Only the top
level of a body is about the job, or the one object in it that has the job's id or payload. A body with the id of
another job is ignored the first time.

Source: sections 6.3 and 7.3 of the API reference.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from lucidworks_provider.client.http.messages import (
    Call,
    Request,
    Response,
    check_status,
    endpoint,
    excerpt,
    get,
    parse_json,
    parse_object,
    path_segment,
    printable,
    reason_in,
    reports_failure,
)
from lucidworks_provider.errors import NoJobIdError, RequestRefusedError

log = logging.getLogger(__name__)

# Decoded in a tenth of a millisecond, on an event loop as well: a hop to a thread takes as long.
SMALL_BODY = 32 * 1024
_EDGE = 4096
_FIELD = re.compile(r'\s*"((?:[^"\\]|\\.)*)"\s*:\s*')
_COMMA = re.compile(r"\s*,")
_OBJECTS = re.compile(r"\[\s*\{")
_AFTER_A_LIST = re.compile(r'\]\s*,(?=\s*")')
# Ids are UUIDs in all examples; the words of a status are short.
_LONGEST_ID = 256
_LONGEST_STATUS = 80

_SUCCEEDED = frozenset(
    {"READY", "SUCCESS", "SUCCEEDED", "SUCCESSFUL", "COMPLETE", "COMPLETED", "DONE", "FINISHED"}
)
_GOING_ON = frozenset(
    {
        "SUBMITTED", "PENDING", "QUEUED", "WAITING", "SCHEDULED", "ACCEPTED", "CREATED", "STARTING", "STARTED",
        "RUNNING", "PROCESSING", "PROGRESSING", "INPROGRESS", "ACTIVE", "PARTIAL", "RETRYING",
    }
)  # fmt: skip
_FAILED = frozenset(
    {
        "CANCELLED", "CANCELED", "CANCELLING", "EXPIRED", "ABORTED", "REJECTED", "TERMINATED", "KILLED", "STOPPED",
        "TIMEOUT", "TIMEDOUT", "DEAD", "DELETED", "INVALID",
    }
)  # fmt: skip
# Names of fields with ids of something else.
_OTHER_IDS = (
    "request", "trace", "correlation", "span", "session", "transaction", "customer", "application", "app",
    "client", "user", "account", "tenant", "organization", "org", "model", "deployment", "batch",
)  # fmt: skip
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class JobKind:
    """
    One of the two kinds of asynchronous job.

    :param name: in words, and in a trigger's row.
    :param path: below the application's base URL.
    :param id_field: of the response to a submission.
    :param payload_field: of the response that carries the result.
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
    EMPTY = "empty"
    """A status of success without a result."""
    REFUSED = "refused"
    """The request for this job was refused."""
    UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class PollResult:
    """
    The state of a job by one GET.

    :param status: as the service sent it; empty if it sent none.
    :param message: the reason of a failure, or the start of an unreadable body.
    :param has_payload: whether the body has a result, whatever the status.
    :param in_progress: whether the status is one of a job that has not ended, so that a payload is incomplete.
    :param other_job: the id in the body, if it is of another job.
    :param retry_after: seconds that the service asked to wait, if it did.
    """

    state: JobState
    status: str = ""
    message: str = ""
    has_payload: bool = False
    in_progress: bool = False
    other_job: str = ""
    retry_after: float | None = None


def poll_request(base_url: str, kind: JobKind, job_id: str) -> Request:
    """Build the GET of a job. Its response may be the only copy of a result."""
    # Replayable: if a response was lost, the next one shows that the result is gone.
    return get(
        f"Poll {kind.name} job {job_id}",
        f"{base_url}{kind.path}/{path_segment(job_id, f'{kind.name} job id')}",
        endpoint=f"poll_{kind.name}",
    )


def read_submission(response: Response, kind: JobKind) -> str:
    """
    The job's id, with any status but one of failure: an example of the vendor shows ``READY``.

    An id with another name is accepted with a warning, if there is only one.

    :raises RequestRefusedError: the response has a status of failure.
    :raises NoJobIdError: there is no id; sending the request again would create another job.
    :raises MalformedResponseError: no JSON object.
    """
    check_status(response, kind.submitting)
    if cut := _id_in_cut_response(response.body, kind):
        return cut
    body = parse_object(response.body, kind.submitting, status=response.status)
    seen = state_of(body, kind)
    if seen.state is JobState.FAILED:
        # Before the search for an id: an error may have one.
        raise refused(kind.submitting, seen, response.status)
    if named := _usable_id(body.get(kind.id_field)):
        return named
    found = {named for name, value in _fields(body) if (named := _job_id(name, value, kind))}
    if len(found) == 1:
        [named] = found
        log.warning("%s: no `%s`; the id %s is in another field.", kind.submitting, kind.id_field, named)
        return named
    said = f"without a usable `{kind.id_field}`; it starts: {excerpt(response.body)!r}"
    raise NoJobIdError(f"{kind.submitting}: HTTP {response.status} {said}", status=response.status)


def _id_in_cut_response(body: bytes, kind: JobKind) -> str | None:
    """The id in a response that was cut after it."""
    if not _is_cut(body):
        return None
    found = re.match(rf'\s*\{{\s*"{kind.id_field}"\s*:\s*"([^"\\]*)"', body.decode(errors="replace"))
    return _usable_id(found[1]) if found else None


def _is_cut(body: bytes) -> bool:
    """Whether a body cannot be a whole object."""
    return not body.rstrip().endswith(b"}")


def _fields(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields of the top level, and of the objects one level down."""
    for name, value in body.items():
        if isinstance(value, Mapping):
            yield from value.items()
        else:
            yield name, value


def _job_id(name: str, value: object, kind: JobKind) -> str | None:
    """The value, if it may be the job's id."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    if plain == kind.id_field.lower():
        return _usable_id(value)
    if any(other in plain for other in _OTHER_IDS):
        return None
    is_id = plain.endswith("id") or (isinstance(value, str) and _UUID.fullmatch(value.strip()))
    return _usable_id(value) if is_id else None


def _usable_id(value: object) -> str | None:
    if isinstance(value, str | int) and not isinstance(value, bool):
        named = str(value).strip()
        # It is used in logs, URLs and databases.
        if 0 < len(named) <= _LONGEST_ID and printable(named) == named:
            return named
    return None


def parse_poll(body: bytes, kind: JobKind, job_id: str | None = None) -> PollResult:
    """
    Parse the body of a GET without decoding a large result.

    Decoding twelve megabytes of vectors takes a third of a second, which would block a triggerer's event loop. Of a
    large body only the fields before and after the payload are decoded.

    :param job_id: of the job; without it any id in the body is accepted.
    """
    decoded: Any = None
    if len(body) > SMALL_BODY:
        if _is_cut(body):
            return PollResult(JobState.UNREADABLE, message=excerpt(body))
        decoded = _around_payload(body, kind.payload_field)
    if decoded is None:
        decoded = parse_json(body)
    if not isinstance(decoded, Mapping):
        return PollResult(JobState.UNREADABLE, message=excerpt(body))
    return state_of(decoded, kind, job_id)


def _around_payload(body: bytes, payload_field: str) -> Mapping[str, Any] | None:
    """
    The top-level fields of a large body, with True for its payload.

    :return: None where the payload is not a list of objects at the top level that begins within the first bytes.
    """
    head = body[:_EDGE].decode(errors="replace").lstrip("\ufeff \t\r\n")
    if not head.startswith("{"):
        return None
    fields: dict[str, Any] = {}
    at, decoder = 1, json.JSONDecoder()
    while (found := _FIELD.match(head, at)) and found[1] != payload_field:
        try:
            fields[found[1]], at = decoder.raw_decode(head, found.end())
        except (ValueError, RecursionError):
            return None
        if (comma := _COMMA.match(head, at)) is None:
            return None
        at = comma.end()
    if found is None or _OBJECTS.match(head, found.end()) is None:
        return None
    tail = body[-_EDGE:].decode(errors="replace")
    for list_end in _AFTER_A_LIST.finditer(tail):
        try:
            # Only the end of the top level closes the one open bracket.
            fields |= json.loads("{" + tail[list_end.end() :])
        except (ValueError, RecursionError):
            continue
        break
    return {**fields, payload_field: True}


def top_level(decoded: Mapping[str, Any], kind: JobKind) -> Mapping[str, Any]:
    """The fields about a job, if an envelope contains some of them."""
    if kind.payload_field in decoded:
        return decoded
    inner = [
        one
        for one in decoded.values()
        if isinstance(one, Mapping) and (kind.payload_field in one or kind.id_field in one)
    ]
    # Its own status is the job's; that beside it may be the request's.
    return {**decoded, **inner[0]} if len(inner) == 1 else decoded


def is_other_job(decoded: Mapping[str, Any], kind: JobKind, job_id: str) -> str:
    """The id in a body if it is of another job, else an empty text."""
    named = _usable_id(decoded.get(kind.id_field))
    return named if named is not None and _plain_id(named) != _plain_id(job_id) else ""


def _plain_id(job_id: str) -> str:
    return job_id.strip().lower().replace("-", "")


def state_of(decoded: Mapping[str, Any], kind: JobKind, job_id: str | None = None) -> PollResult:
    """Apply the table above to a decoded body."""
    decoded = top_level(decoded, kind)
    status = _word(decoded.get("status"))
    has_payload = bool(decoded.get(kind.payload_field))
    word = re.sub(r"[^A-Z]", "", status.upper())
    in_progress = word in _GOING_ON
    message = ""
    if (
        "FAIL" in word
        or "ERROR" in word
        or word in _FAILED
        or (not word and not has_payload and reports_failure(decoded))
    ):
        state, message = JobState.FAILED, reason_in(decoded) or "the service gave no reason"
        has_payload = False
    elif word == "RETRIEVED":
        state = JobState.RESULT if has_payload else JobState.GONE
    elif word in _SUCCEEDED:
        state = JobState.RESULT if has_payload else JobState.EMPTY
    elif not word and has_payload:
        state = JobState.RESULT
    else:
        state, message = JobState.PENDING, reason_in(decoded) or ""
    other = is_other_job(decoded, kind, job_id) if job_id is not None else ""
    return PollResult(state, status, message, has_payload, in_progress, other)


def _word(status: object) -> str:
    return printable(str(status or ""))[:_LONGEST_STATUS]


def refused(name: str, seen: PollResult, status: int) -> RequestRefusedError:
    """
    The error for a response that reports a failure.

    :param name: of the request.
    :param status: of the response, a success.
    """
    reported = f"status {seen.status}: " if seen.status else ""
    return RequestRefusedError(f"{name}: HTTP {status}: {reported}{seen.message}", status=status)


def poll_job(kind: JobKind, job_id: str) -> Call[bytes]:
    """
    The unparsed body of a job's GET, for callers that store it before they parse it.

    **It may carry the only copy of a result.**

    :param kind: :data:`~lucidworks_provider.client.jobs.CHUNKING` or ``PREDICTION``.
    :param job_id: what the submission returned.
    :raises UnknownResourceError: no such job, or its result is no longer kept.
    """
    return endpoint(lambda settings: poll_request(settings.application_base, kind, job_id), _body)


def _body(response: Response) -> bytes:
    return response.body
