# SPDX-License-Identifier: Apache-2.0
"""The test button: what it says of each host, and that it cuts nobody off."""

import json
from typing import Any

import pytest

from lucidworks_provider.client.auth.source import forget_sources
from lucidworks_provider.client.use_cases import list_use_cases
from lucidworks_provider.emulator.faults import Fault
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.hooks.lucidworks import LucidworksHook

PREDICT, MODEL = "machinelearning.predict", "machinelearning.model"


def press(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[bool, str]:
    """The outcome for the emulator's connection with some fields changed."""
    connection = json.loads(emulator.conn_json(share_via="memory"))
    for name, value in changes.items():
        (connection if name in connection else connection["extra"])[name] = value
    monkeypatch.setenv("AIRFLOW_CONN_TESTED", json.dumps(connection))
    return LucidworksHook("tested").test_connection()


def issued(emulator: RunningEmulator) -> int:
    return sum(call.endpoint == "token" and call.status == 200 for call in emulator.state.log)


def order(emulator: RunningEmulator, kind: str, match: str, **more: Any) -> None:
    emulator.state.faults.inject(Fault.from_json({"match": match, "kind": kind, "times": 1, **more}))


def test_all_three_hosts(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    good, said = press(emulator, monkeypatch)
    assert good
    assert said == (
        f"Application ({emulator.url}), scope {PREDICT}: works with a new access token of {emulator.url}. "
        f"Models API ({emulator.url}), scope {MODEL}: works with a new access token of {emulator.url}."
    )
    asked = [call.endpoint for call in emulator.state.log]
    assert asked == ["token", "usecases", "token", "list-models"]


def test_without_a_customer_id_the_models_api_is_not_tried(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, said = press(emulator, monkeypatch, customer_id=None)
    assert good
    assert said.endswith("Models API: not tested, because the connection has no Customer ID.")
    assert [call.endpoint for call in emulator.state.log] == ["token", "usecases"]


def test_the_live_token_is_borrowed_and_stays_alive(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = LucidworksHook()
    token = hook.get_token()

    good, said = press(emulator, monkeypatch)

    assert good
    assert "works with the shared access token." in said
    assert hook.get_token() == token
    hook.call(list_use_cases())
    assert issued(emulator) == 2  # the hook's, and one of the other scope
    assert [call.status for call in emulator.state.log if call.status != 200] == []


def test_a_wrong_secret(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    good, said = press(emulator, monkeypatch, password="wrong-secret-value")
    assert not good
    assert f"scope {PREDICT}: no access token." in said
    assert "Check Client ID and Client Secret." in said
    assert "wrong-secret-value" not in said


def test_one_host_that_is_not_there(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    good, said = press(emulator, monkeypatch, models_url="http://127.0.0.1:9")
    assert not good
    assert f"Application ({emulator.url}), scope {PREDICT}: works" in said
    assert f"Models API (http://127.0.0.1:9), scope {MODEL}: does not work" in said
    assert "127.0.0.1:9: no connection" in said


def test_another_customers_id(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    good, said = press(emulator, monkeypatch, customer_id="somebody-else")
    assert not good
    assert f"scope {MODEL}: does not work with a new access" in said
    assert "HTTP 40" in said


@pytest.mark.parametrize(
    ("kind", "good", "words"),
    [
        ("429", True, "; the rate limit is reached (429)."),
        ("503", False, "HTTP 503"),
        ("unauthorized", False, "another system requests tokens with the same client id"),
        ("disconnect", False, "the connection broke"),
    ],
)
def test_an_application_that_does_not_serve(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch, kind: str, good: bool, words: str
) -> None:
    order(emulator, kind, "usecases")
    found = press(emulator, monkeypatch)
    assert found[0] is good
    assert words in found[1]
    # Once: the button answers in seconds, and issued no second token to find out.
    assert [call.endpoint for call in emulator.state.log].count("usecases") == 1
    assert issued(emulator) == 2


def test_a_list_that_is_elsewhere_does_not_speak_against_the_connection(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, said = press(emulator, monkeypatch, use_cases_path="/ai/elsewhere")
    assert good
    assert "is not at use_cases_path (404)" in said
    assert "was not tested" in said


@pytest.mark.parametrize(
    ("match", "kind", "good", "words"),
    [
        ("usecases", "html", True, "responds, but not with a known list. Whether it accepts"),
        ("list-models", "html", False, "does not work with a new access token"),
    ],
)
def test_a_page_in_place_of_a_list(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch, match: str, kind: str, good: bool, words: str
) -> None:
    """The shape of the list of use cases is an assumption, that of models is documented."""
    order(emulator, kind, match)
    found = press(emulator, monkeypatch)
    assert found[0] is good
    assert words in found[1]


def test_no_token_is_quoted(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    token = LucidworksHook().get_token()
    order(emulator, "503", "usecases")
    _, said = press(emulator, monkeypatch)
    forget_sources()
    assert token not in said
    assert "demo-secret" not in said


def test_a_connection_that_cannot_be_used(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    good, said = press(emulator, monkeypatch, timeout="soon")
    assert not good
    assert "timeout" in said
    assert not list(emulator.state.log)
