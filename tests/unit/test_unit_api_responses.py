# SPDX-License-Identifier: Apache-2.0
"""Answers by values: what a job's body means, what a status means, what a token answer holds."""

import base64
import json
import sys
from typing import Any

import pytest

from lucidworks_provider.client import jobs
from lucidworks_provider.client.auth.source import token_source
from lucidworks_provider.client.auth.token import parse_token_response, token_request
from lucidworks_provider.client.http.messages import Response, check_status, parse_json, vendor_message
from lucidworks_provider.client.http.messages import retry_after as read_retry_after
from lucidworks_provider.client.jobs import CHUNKING, SMALL_BODY, JobState, parse_poll
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.errors import (
    AuthenticationError,
    ForbiddenError,
    InputError,
    MalformedResponseError,
    RateLimitError,
    RequestRefusedError,
    ResponseError,
    ServiceError,
    TokenRefusedError,
    UnknownResourceError,
)

PAYLOAD = [{"chunks": ["x"]}]


@pytest.mark.parametrize(
    ("state", "bodies"),
    [
        (JobState.RESULT, [{"status": one, "chunkedData": PAYLOAD} for one in ("ready", "Succeeded")]),
        (JobState.RESULT, [{"status": "RETRIEVED", "chunkedData": PAYLOAD}, {"chunkedData": PAYLOAD}]),
        (JobState.RESULT, [{"data": {"status": "READY", "chunkedData": PAYLOAD}}]),
        (JobState.RESULT, [{"status": "READY", "data": {"chunkedData": PAYLOAD}}]),
        (JobState.RESULT, [{"error": None, "chunkedData": PAYLOAD}]),
        (JobState.EMPTY, [{"status": "READY"}, {"status": "COMPLETED"}]),
        (JobState.EMPTY, [{"status": "READY", "chunkedData": nothing} for nothing in (None, [])]),
        (JobState.EMPTY, [{"data": {"chunkingId": "j", "status": "READY", "chunkedData": []}}]),
        (JobState.GONE, [{"status": "RETRIEVED"}, {"status": "RETRIEVED", "chunkedData": []}]),
        (JobState.FAILED, [{"status": one} for one in ("Failure", "TIMED_OUT", "cancelled", "EXPIRED")]),
        (JobState.FAILED, [{"status": "ERROR", "message": "m"}, {"status": "ERROR", "chunkedData": PAYLOAD}]),
        (JobState.FAILED, [{"error": "no capacity"}, {"status": "FAILED"}]),
        (JobState.FAILED, [{"errorCode": "E7", "errorSummary": "no capacity", "errorCauses": []}]),
        (JobState.PENDING, [{}, {"error": None}, {"status": "SUBMITTED"}, {"status": "RUNNING"}]),
        (JobState.PENDING, [{"status": "SUBMITTED", "chunkedData": []}]),
        (JobState.PENDING, [{"status": "SUBMITTED", "error": "of somebody else"}]),
        # The status of the request is not that of the job.
        (JobState.PENDING, [{"status": "success", "data": {"chunkingId": "j", "status": "SUBMITTED"}}]),
        (JobState.FAILED, [{"status": 200, "data": {"chunkingId": "j", "status": "ERROR"}}]),
        (JobState.PENDING, [{"status": one, "chunkedData": PAYLOAD} for one in ("RUNNING", "ARCHIVED")]),
        (JobState.UNREADABLE, [[], "text"]),
    ],
)
def test_the_table_of_job_states(state: JobState, bodies: list[object]) -> None:
    assert [one for one in bodies if parse_poll(json.dumps(one).encode(), CHUNKING).state is not state] == []


def test_a_large_body_is_kept_without_being_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "parse_json", lambda body: pytest.fail("decoded"))
    body = b'{"status": "READY", "chunkedData": %b} \n' % LARGE_PAYLOAD
    for bom in (b"", b"\xef\xbb\xbf \n"):
        assert parse_poll(bom + body, CHUNKING).state is JobState.RESULT


LARGE = b"x" * SMALL_BODY
LARGE_PAYLOAD = b'[{"chunks": ["' + LARGE + b'"], "spans": [[0, 1]], "status": "FAILED"}]'


@pytest.mark.parametrize(
    ("body", "state"),
    [
        (b'{"chunkedData": %p}', JobState.RESULT),
        (b'{"status": "RETRIEVED", "chunkedData": %p}', JobState.RESULT),
        (b'{"chunkedData": %p, "status":"ready"}', JobState.RESULT),
        (b'{"chunkedData": %p , "x": [1], "status":"ready"}', JobState.RESULT),
        (b'{"status": "ERROR", "chunkedData": %p}', JobState.FAILED),
        (b'{"status": "RUNNING", "chunkedData": %p}', JobState.PENDING),
        (b'{"chunkedData": %p, "status" : "PARTIAL"}', JobState.PENDING),
        # Within a text, or further down, it is no status.
        (rb'{"x": "\"status\": \"RUNNING\"", "chunkedData": %p}', JobState.RESULT),
        (b'{"x": {"status": "RUNNING"}, "chunkedData": %p}', JobState.RESULT),
        # Not at the top level, or not there.
        (b'{"status": "READY", "data": {"chunkedData": %p}}', JobState.RESULT),
        (b'{"status": "READY", "message": "' + LARGE + b'", "chunkedData": %p}', JobState.RESULT),
        (b'{"status": "READY", "chunkedData": null, "message": "' + LARGE + b'"}', JobState.EMPTY),
        (b'{"status": "READY", "chunkedData": [], "message": "' + LARGE + b'"}', JobState.EMPTY),
        (b'{"status": "SUBMITTED", "chunkedData": [], "message": "' + LARGE + b'"}', JobState.PENDING),
        (b'{"status": "RETRIEVED", "message": "' + LARGE + b'", "chunkedData": null}', JobState.GONE),
    ],
)
def test_a_large_body_says_as_much_as_a_small_one(body: bytes, state: JobState) -> None:
    large = body.replace(b"%p", LARGE_PAYLOAD)
    for one in (large, large.replace(LARGE, b"x")):
        assert parse_poll(one, CHUNKING).state is state


@pytest.mark.parametrize("payload", [b"null", b"[]", LARGE_PAYLOAD])
@pytest.mark.parametrize(
    ("named", "other"),
    [("j-1", ""), (" J-1", ""), ("J1", ""), ("j-2", "j-2"), (7, "7"), (None, ""), ("", "")],
)
def test_the_id_in_a_body_is_compared(payload: bytes, named: object, other: str) -> None:
    identity = b'"chunkingId": ' + json.dumps(named).encode()
    for body in (b"{" + identity + b', "chunkedData": %p}', b'{"chunkedData": %p, ' + identity + b"}"):
        assert parse_poll(body.replace(b"%p", payload), CHUNKING, "j-1").other_job == other


@pytest.mark.parametrize(
    "body",
    [
        b'{"status": "READY", "chunkedData": [{"chu',
        b'{"status": "READY", "chunkedData": [{"chunks": ["' + LARGE,
        b"<html>" + LARGE,
    ],
)
def test_a_cut_body_and_a_page_are_unreadable_and_show_their_start(body: bytes) -> None:
    seen = parse_poll(body, CHUNKING)
    assert (seen.state, seen.message[:18]) == (JobState.UNREADABLE, body[:18].decode())


def nested(value: object, levels: int) -> object:
    for _ in range(levels):
        value = {"error": value}
    return value


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"status": "ERROR", "message": "too long"}, "too long"),
        ({"status": "ERROR", "error": {"code": 7}}, '{"code": 7}'),
        ({"status": "ERROR"}, "no reason"),
        ({"status": "ERROR", "errorSummary": "too long"}, "too long"),
        ({"status": "ERROR", "error": {"error_description": "too long"}}, "too long"),
        ({"status": "ERROR", "error": nested("too long", 900)}, ""),
        ({"status": "ERROR", "errors": [{"message": "a"}, "b", {"code": 1}]}, 'a; b; {"code": 1}'),
        ({"status": "ERROR", "error": {"message": "deep"}}, "deep"),
        ({"status": "ERROR", "message": "Bearer abcdefghijklmnop"}, "***"),
    ],
)
def test_the_reason_of_a_failure(body: dict[str, Any], words: str) -> None:
    assert words in parse_poll(json.dumps(body).encode(), CHUNKING).message


@pytest.mark.parametrize(
    ("status", "error", "retryable"),
    [
        (400, RequestRefusedError, False),
        (401, TokenRefusedError, True),
        (403, ForbiddenError, False),
        (404, UnknownResourceError, False),
        (410, UnknownResourceError, False),
        (413, RequestRefusedError, False),
        (422, RequestRefusedError, False),
        (429, RateLimitError, True),
        (500, ServiceError, True),
        (503, ServiceError, True),
        (301, RequestRefusedError, False),
        (100, RequestRefusedError, False),
    ],
)
def test_the_table_of_statuses(status: int, error: type[ResponseError], retryable: bool) -> None:
    with pytest.raises(error) as caught:
        check_status(Response(status, {}, b'{"message": "vendor words"}'), "Do it")
    assert type(caught.value) is error
    assert caught.value.retryable is retryable
    assert caught.value.status == status
    assert str(caught.value).startswith(f"Do it: HTTP {status}: vendor words")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error": "invalid_client", "error_description": "bad secret"}', "invalid_client: bad secret"),
        (b'{"errorCode": "E0000004", "errorSummary": "Authentication failed"}', "Authentication failed"),
        (b'{"error": {"message": "nested"}}', "nested"),
        (b'{"status": 400, "error": "Bad Request", "message": "why"}', "Bad Request: why"),
        (b"plain words", "plain words"),
        (b"", "(no body)"),
        (b'{"odd": 1}', '{"odd": 1}'),
    ],
)
def test_error_bodies_of_every_kind_give_their_words(body: bytes, words: str) -> None:
    assert vendor_message(body) == words


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "-7"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT", "date": "Wed, 21 Oct 2026 07:28:00 GMT"}, 10.0),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:10 GMT"}, None),
    ],
)
def test_retry_after(headers: dict[str, str], seconds: float | None) -> None:
    assert read_retry_after(Response(429, headers, b"")) == seconds


def test_the_token_request_is_the_documented_one() -> None:
    settings = LucidworksSettings("lw", "id", "hidden", auth_url="https://identity", auth_server_id="aus1")
    request = token_request(settings, "sc")
    assert (request.method, request.url) == ("POST", "https://identity/oauth2/aus1/v1/token")
    assert (request.params, request.body) == ((("scope", "sc"), ("grant_type", "client_credentials")), None)
    assert dict(request.headers) == {
        "Accept": "application/json",
        "Cache-Control": "no-cache",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    assert "hidden" not in repr(request)


def _jwt(claims: object) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJ4.{payload}.sig"


DATED = {"date": "Wed, 21 Oct 2026 07:28:00 GMT"}
ODD_CLAIMS: tuple[Any, ...] = ({"exp": "soon"}, {"exp": 1e999}, [])


@pytest.mark.parametrize(
    ("fields", "headers", "lifetime", "server_time"),
    [
        ({"expires_in": 3600}, DATED, 3600, 1792567680),
        ({"expires_in": 3600}, {**DATED, "age": "40"}, 3600, None),  # a cache's
        ({"expires_in": "120"}, {}, 120, None),
        ({"access_token": _jwt({"iat": 100, "exp": 160})}, DATED, 60, 1792567680),
        ({"access_token": "opaque"}, {}, 3600, None),
        ({"expires_in": -5}, {}, 3600, None),
        # The clock of the server is its date, else it follows from the token's own expiry.
        ({"access_token": _jwt({"exp": 5000}), "expires_in": 600}, DATED, 600, 1792567680),
        ({"access_token": _jwt({"exp": 5000}), "expires_in": 600}, {}, 600, 4400.0),
        *(({"access_token": _jwt(one), "expires_in": 600}, {}, 600, None) for one in ODD_CLAIMS),
    ],
)
def test_the_lifetime_of_a_token_and_the_servers_clock(
    fields: dict[str, Any], headers: dict[str, str], lifetime: float, server_time: float | None
) -> None:
    body = {"access_token": "opaque", "token_type": "Bearer"} | fields
    grant = parse_token_response(Response(200, headers, json.dumps(body).encode()))
    assert (grant.lifetime, grant.server_time) == (lifetime, server_time)
    assert grant.access_token not in repr(grant)


@pytest.mark.parametrize(
    ("status", "error", "what"),
    [
        *((status, "invalid_client", "Client ID and Client Secret") for status in (200, 400, 401, 403)),
        (400, "invalid_scope", "the scopes of the integration"),
        *((status, "unknown", "the fields auth_url and auth_server_id") for status in (302, 404, 405, 410)),
    ],
)
def test_a_refused_request_for_a_token_is_not_retryable_and_says_what_to_check(
    status: int, error: str, what: str
) -> None:
    with pytest.raises(AuthenticationError, match=f"{error}: no.*Check {what}") as caught:
        parse_token_response(
            Response(status, {}, json.dumps({"error": error, "error_description": "no"}).encode())
        )
    assert caught.value.retryable is False


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"access_token": ""}', b'{"access_token": 5}', b"[]"])
def test_a_success_without_a_token_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedResponseError):
        parse_token_response(Response(200, {}, body))


def test_an_unknown_scope_is_refused() -> None:
    with pytest.raises(InputError, match=r"machinelearning\.predict, machinelearning\.model"):
        token_source(LucidworksSettings("lw", "i", "s", share_via="memory"), "predict")


@pytest.mark.parametrize("parser", ["orjson", "json"])
def test_nearly_valid_json_is_read(parser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if parser == "json":
        monkeypatch.setitem(sys.modules, "orjson", None)
    read = {"response": "cut \ufffd", "score": None}
    assert parse_json(b'{"response": "cut \\ud83d", "score": NaN}') == read
    assert parse_json(b'{"response": "\\ud83d\\ude00"}') == {"response": "\U0001f600"}
    # As msgpack, JSON and Arrow can hold them: without infinities, whole numbers of 64 bits.
    large = b'{"score": 1e999, "low": -1e999, "count": ' + b"9" * 400 + b', "id": 1' + b"0" * 19 + b"}"
    assert parse_json(large) == {"score": None, "low": None, "count": None, "id": 1e19}
    assert parse_json(b'{"least": -9223372036854775808, "tokens": 1234567890123456789}') == {
        "least": -(2**63),
        "tokens": 1234567890123456789,
    }
    assert parse_json(b"<html>") is None
