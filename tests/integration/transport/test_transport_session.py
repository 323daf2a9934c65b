# SPDX-License-Identifier: Apache-2.0
"""The session of ``get_conn``: it outlives its token, and shows it to the hosts of the connection only."""

from __future__ import annotations

import io
import json
import time
from typing import TYPE_CHECKING

import pytest
import requests
from transport_wire import answer, connection_json, scripted

from lucidworks_provider.client.http.messages import MODEL_SCOPE
from lucidworks_provider.emulator.faults import Fault
from lucidworks_provider.emulator.tokens import Scope
from lucidworks_provider.errors import InputError
from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lucidworks_provider.emulator.server import RunningEmulator

PREDICT = "machinelearning.predict"
BODY = json.dumps({"batch": [{"text": "One. Two."}]}).encode()
SUBMIT = "/ai/async-chunking/sentence/gte-small"
JSON = {"Content-Type": "application/json"}


@pytest.fixture
def session(emulator: RunningEmulator) -> Iterator[requests.Session]:
    with LucidworksAuthHook().get_conn() as opened:
        yield opened


def kill(emulator: RunningEmulator) -> None:
    assert emulator.state.tokens.kill(list(Scope)) == 1


def test_it_carries_the_token_and_outlives_it(session: requests.Session, emulator: RunningEmulator) -> None:
    assert session.get("/ai/usecases").status_code == 200
    kill(emulator)
    answered = session.get("/ai/usecases")
    assert answered.status_code == 200
    assert [one.status_code for one in answered.history] == [401]
    assert emulator.state.log.issued[PREDICT] == 2
    assert session.get(f"{emulator.url}/ai/usecases").history == []


def test_it_uses_the_token_that_somebody_else_got(
    session: requests.Session, emulator: RunningEmulator
) -> None:
    session.get("/ai/usecases")
    kill(emulator)
    other = LucidworksAuthHook()
    other.get_token(refused=other.get_token())
    assert session.get("/ai/usecases").status_code == 200
    assert emulator.state.log.issued[PREDICT] == 2


def test_an_endless_401_is_handed_to_the_caller(session: requests.Session, emulator: RunningEmulator) -> None:
    emulator.state.faults.inject(Fault.from_json({"kind": "unauthorized", "match": "usecases", "times": 9}))
    assert session.get("/ai/usecases").status_code == 401
    assert emulator.state.log.endpoints["usecases"] == 3


@pytest.mark.parametrize("kind", ["bytes", "file", "file-from-the-middle"])
def test_a_body_is_sent_again_as_a_whole(
    session: requests.Session, emulator: RunningEmulator, kind: str
) -> None:
    session.get("/ai/usecases")
    kill(emulator)
    data: object = BODY
    if kind != "bytes":
        data = io.BytesIO(b"skipped" + BODY if kind == "file-from-the-middle" else BODY)
        data.seek(7 if kind == "file-from-the-middle" else 0)
    answered = session.post(SUBMIT, data=data, headers=JSON)
    assert (answered.status_code, len(answered.history)) == (200, 1)
    assert answered.json()["status"] == "SUBMITTED"


def test_a_stream_that_cannot_be_sent_twice_is_not_sent_cut(
    session: requests.Session, emulator: RunningEmulator
) -> None:
    session.get("/ai/usecases")
    kill(emulator)
    answered = session.post(SUBMIT, data=iter([BODY[:5], BODY[5:]]), headers=JSON)
    # The token's refusal is the truth; "the body is not JSON" would be a lie about the caller's body.
    assert answered.status_code == 401


def test_it_is_not_sent_elsewhere(session: requests.Session, emulator: RunningEmulator) -> None:
    with scripted(answer()) as foreign:
        with pytest.raises(InputError, match="it is not sent to"):
            session.get(f"{foreign.url}/ai/usecases")
        with pytest.raises(InputError):
            session.get(emulator.url.replace("http://", "https://"))
        assert foreign.heard == []


def test_a_foreign_401_after_a_redirect_is_not_answered_with_it(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        scripted(answer(401, b"{}")) as foreign,
        scripted(answer(302, b"", Location=f"{foreign.url}/x")) as own,
    ):
        connection = connection_json(emulator.url, application_url=own.url)
        monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", connection)
        LucidworksAuthHook().get_conn().get("/ai/usecases")
        assert [one.headers.get("authorization") for one in foreign.heard] == [None]


def test_a_host_in_capitals_is_the_same_host(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = emulator.url.replace("127.0.0.1", "LocalHost")
    monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", connection_json(emulator.url, application_url=url))
    assert LucidworksAuthHook().get_conn().get("/ai/usecases").status_code == 200


def test_the_scope_decides_the_host(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(answer()) as models:
        connection = connection_json(emulator.url, models_url=models.url)
        monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", connection)
        hook = LucidworksAuthHook()
        assert hook.get_conn(MODEL_SCOPE).get("/customers/c/ai/models").status_code == 200
        assert hook.get_conn().get("/ai/usecases").status_code == 200
        assert [one.line for one in models.heard] == ["GET /customers/c/ai/models HTTP/1.1"]
        assert models.heard[0].headers["authorization"] == f"Bearer {hook.get_token(MODEL_SCOPE)}"


def test_there_is_a_timeout_by_default(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", connection_json(emulator.url, timeout=0.2))
    session = LucidworksAuthHook().get_conn()
    session.get("/ai/usecases")
    emulator.state.settings = emulator.state.settings.patched({"latency": 0.5})
    with pytest.raises(requests.exceptions.ReadTimeout):
        session.get("/ai/usecases")
    assert session.get("/ai/usecases", timeout=5).status_code == 200
    while emulator.state.log.endpoints["usecases"] < 3:  # the one that was given up ends too
        time.sleep(0.02)
