# SPDX-License-Identifier: Apache-2.0
"""The test button: what it says of each host, and that it ends the token of no other user."""

import json
import time
from typing import Any

import pytest
from transport_wire import fault

from lucidworks_provider.client.use_cases import list_use_cases
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.hooks.lucidworks import LucidworksHook

PREDICT, MODEL = "scope machinelearning.predict", "scope machinelearning.model"
NEW = "works with a new access token of URL."
BOTH = ["token", "usecases", "token", "list-models"]


def press(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[bool, str]:
    """The outcome for the emulator's connection with some fields changed."""
    connection = json.loads(emulator.conn_json(share_via="memory"))
    for name, value in changes.items():
        (connection if name in connection else connection["extra"])[name] = value
    monkeypatch.setenv("AIRFLOW_CONN_TESTED", json.dumps(connection))
    return LucidworksHook("tested").test_connection()


# What is changed in the connection and broken in the service; whether it is good, what is asked, what is said.
CASES: dict[str, tuple[Any, ...]] = {
    "all": ({}, (), True, BOTH, f"Application (URL), {PREDICT}: {NEW} Models API (URL), {MODEL}: {NEW}"),
    "no customer": (
        *({"customer_id": None}, (), True, BOTH[:2]),
        "Models API: not tested, because the connection has no Customer ID.",
    ),
    "no application": (
        *({"host": None, "application_url": None}, (), True, BOTH[2:]),
        "Application: not tested, because the connection has no Application ID.",
        f"Models API (URL), {MODEL}: {NEW}",
    ),
    "neither": (
        *({"host": None, "application_url": None, "customer_id": None}, (), False, []),
        "host (Application ID) is missing; set it, or `application_url`.",
    ),
    "another customer": (
        *({"customer_id": "somebody-else"}, (), False, BOTH),
        *(f"{MODEL}: does not work with a new access", "HTTP 40"),
    ),
    "wrong secret": (
        *({"password": "wrong-secret-value"}, (), False, ["token", "token"]),
        *(f"{PREDICT}: no access token.", "Check Client ID and Client Secret."),
    ),
    "one host is dead": (
        *({"models_url": "http://127.0.0.1:9"}, (), False, BOTH[:3]),
        *(f"Application (URL), {PREDICT}: works", "127.0.0.1:9: no connection"),
        f"Models API (http://127.0.0.1:9), {MODEL}: does not work",
    ),
    "unusable": ({"timeout": "soon"}, (), False, [], "timeout"),
    # Each host is asked once: the button answers in seconds, and issues no second token to find out.
    "busy": ({}, ("429", "usecases"), True, BOTH, "; the rate limit is reached (429)."),
    "down": ({}, ("503", "usecases"), False, BOTH, "HTTP 503"),
    "refused": (
        *({}, ("unauthorized", "usecases"), False, BOTH),
        "another system requests tokens with the same client id",
    ),
    "broken": ({}, ("disconnect", "usecases"), False, BOTH, "the connection broke"),
    # The shape of the list of use cases is an assumption, that of models is documented.
    "a page": ({}, ("html", "usecases"), True, BOTH, "but not with a known list. Whether it accepts"),
    "a page of models": ({}, ("html", "list-models"), False, BOTH, "does not work with a new access token"),
    "no list": (
        *({"use_cases_path": "/ai/elsewhere"}, (), True, ["token", "unknown", *BOTH[2:]]),
        *("is not at use_cases_path (404)", "was not tested"),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_what_it_says_of_each_host(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch, issued: list[str], case: Any
) -> None:
    changes, faulty, good, asked, *words = case
    if faulty:
        fault(emulator, *faulty)
    found, said = press(emulator, monkeypatch, **changes)
    assert found is good
    assert [one for one in words if one.replace("URL", emulator.url) not in said] == []
    assert [secret for secret in ("demo-secret", "wrong-secret-value", *issued) if secret in said] == []
    assert [call.endpoint for call in emulator.state.log] == asked


def test_the_live_token_is_borrowed_and_stays_alive(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch, issued: list[str]
) -> None:
    hook = LucidworksHook()
    token = hook.get_token()

    good, said = press(emulator, monkeypatch)

    assert good
    assert "works with the shared access token." in said
    assert token not in said
    assert hook.get_token() == token
    hook.call(list_use_cases())
    assert len(issued) == 2  # the hook's, and one of the other scope
    assert [call.status for call in emulator.state.log if call.status != 200] == []


def test_it_does_not_wait_for_the_rate_limiter(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault(emulator, "429", "usecases", times=4, retry_after=60)
    began = time.monotonic()
    for _ in range(4):
        _, said = press(emulator, monkeypatch, customer_id=None)
        assert "the rate limit is reached (429)" in said
    assert time.monotonic() - began < 30
