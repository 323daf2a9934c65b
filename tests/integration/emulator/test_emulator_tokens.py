# SPDX-License-Identifier: Apache-2.0
"""The token endpoint and the worth of bearer tokens (section 2 of the vendor facts)."""

import base64
import json
from typing import Any

import pytest
from emulator_client import AUTH, HEADERS, MODEL, PREDICT, Caller

from lucidworks_provider.emulator import EmulatorSettings
from lucidworks_provider.emulator.server import RunningEmulator

SETTINGS = EmulatorSettings(clients={"demo-client": "demo-secret", "second": "pä:ss"})


@pytest.fixture
def caller(emulator: RunningEmulator) -> Caller:
    emulator.state.reset()
    return Caller(emulator)


def use(caller: Caller, token: str) -> int:
    return caller.call("GET", "/ai/usecases", token).status_code


def test_documented_response_and_jwt(caller: Caller) -> None:
    answer = caller.ask_token()
    body = answer.json()
    assert answer.status_code == 200
    assert (body["token_type"], body["expires_in"], body["scope"]) == ("Bearer", 3600, PREDICT)
    assert 500 <= len(body["access_token"]) <= 1000
    header, payload, signature = body["access_token"].split(".")
    assert "=" not in header + payload + signature
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["exp"] - claims["iat"] == 3600
    assert (claims["scp"], claims["cid"], claims["sub"]) == ([PREDICT], "demo-client", "demo-client")
    assert claims["jti"]


def test_one_live_token_per_client_and_scope(caller: Caller) -> None:
    other = Caller(caller.emulator, client=("second", "pä:ss"))
    foreign = other.ask_token(auth=("second", "pä:ss".encode())).json()["access_token"]
    model = caller.ask_token(MODEL).json()["access_token"]
    first = caller.ask_token().json()["access_token"]
    assert use(caller, first) == 200
    second = caller.ask_token().json()["access_token"]
    dead = caller.call("GET", "/ai/usecases", first)
    assert dead.status_code == 401
    assert "superseded" in dead.json()["message"]
    assert first not in dead.text
    assert use(caller, second) == 200
    assert use(caller, foreign) == 200
    assert use(caller, model) == 403  # alive, but of the wrong scope


def test_a_dead_token_may_be_refused_with_403(caller: Caller) -> None:
    caller.set(dead_token="403")
    first = caller.ask_token().json()["access_token"]
    second = caller.ask_token().json()["access_token"]
    assert (use(caller, first), use(caller, second), use(caller, "unknown")) == (403, 200, 401)


def test_two_scopes_in_one_token(caller: Caller) -> None:
    body = caller.ask_token(f"{PREDICT} {MODEL}").json()
    assert body["scope"] == f"{PREDICT} {MODEL}"
    assert use(caller, body["access_token"]) == 200
    caller.ask_token(MODEL)
    assert use(caller, body["access_token"]) == 401


def test_switches_both_live_and_no_scope_check(caller: Caller) -> None:
    caller.set(both_tokens_live=True, scope_check=False)
    first, model = caller.ask_token().json()["access_token"], caller.ask_token(MODEL).json()["access_token"]
    caller.ask_token()
    assert use(caller, first) == use(caller, model) == 200


def test_expiry_kill_unknown_and_missing(caller: Caller) -> None:
    caller.log_in()
    caller.advance(3599)
    assert use(caller, caller.token) == 200
    caller.advance(2)
    assert "expired" in caller.call("GET", "/ai/usecases").json()["message"]
    caller.log_in()
    assert caller.control("POST", "/tokens/kill", scope=MODEL) == {"killed": 0}
    assert caller.control("POST", "/tokens/kill") == {"killed": 1}
    assert "deleted" in caller.call("GET", "/ai/usecases").json()["message"]
    assert "unknown" in caller.call("GET", "/ai/usecases", "abc").json()["message"]
    missing = caller.call("GET", "/ai/usecases", headers={"Authorization": "Basic abc"})
    assert (missing.status_code, missing.headers["WWW-Authenticate"]) == (401, "Bearer")


GRANT = {"grant_type": "client_credentials"}
TWICE = base64.b64encode(base64.b64encode(b"demo-client") + b":" + base64.b64encode(b"demo-secret")).decode()


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"auth": ("demo-client", "wrong")}, 401, "invalid_client"),
        ({"auth": ("nobody", "")}, 401, "invalid_client"),
        ({"auth": None}, 401, "invalid_client"),
        ({"auth": None, "headers": {**HEADERS, "Authorization": f"Basic {TWICE}"}}, 401, "invalid_client"),
        ({"auth": None, "headers": {**HEADERS, "Authorization": "Basic ###"}}, 401, "invalid_client"),
        ({"params": GRANT}, 400, "invalid_request"),
        ({"params": {"scope": PREDICT}}, 400, "invalid_request"),
        ({"params": {"scope": PREDICT, "grant_type": "password"}}, 400, "unsupported_grant_type"),
        ({"params": {"scope": "other", **GRANT}}, 400, "invalid_scope"),
        ({"params": {"scope": [PREDICT, MODEL], **GRANT}}, 400, "invalid_request"),
        *(({"headers": {**HEADERS, name: "text/plain"}}, 400, "invalid_request") for name in HEADERS),
        ({"path": "/oauth2/other/v1/token"}, 404, "Not Found"),
    ],
)
def test_refusals(caller: Caller, changes: dict[str, Any], status: int, error: str) -> None:
    answer = caller.ask_token(**changes)
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert caller.control("GET", "/stats")["live_tokens"] == 0
    changed = [name for name, value in changes.get("headers", {}).items() if value == "text/plain"]
    assert all(name in answer.json()["error_description"] for name in changed)


def test_form_body_is_accepted_unless_query_only(caller: Caller) -> None:
    form = {"params": None, "data": {"scope": PREDICT, "grant_type": "client_credentials"}}
    assert caller.ask_token(**form).status_code == 200
    caller.set(query_only=True)
    assert caller.ask_token(**form).json()["error"] == "invalid_request"
    assert caller.ask_token().status_code == 200
    assert caller.call("GET", f"/oauth2/{AUTH}/v1/token").status_code == 405
