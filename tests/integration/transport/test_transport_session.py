# SPDX-License-Identifier: Apache-2.0
"""Sessions of ``get_conn`` and ``aget_conn``: they outlive a token, and send it to the connection's hosts only."""

import asyncio
import io
import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import aiohttp
import pytest
import requests
from transport_wire import Application, Connect, Mode, Serve, answer, dead_port, fault

from lucidworks_provider.client.http.messages import MODEL_SCOPE, PREDICT_SCOPE
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.emulator.tokens import Scope
from lucidworks_provider.errors import InputError
from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook

BODY = json.dumps({"batch": [{"text": "One. Two."}]}).encode()
SUBMIT = "/ai/async-chunking/sentence/gte-small"
JSON = {"Content-Type": "application/json"}
# Of a call, its status.
Session = Callable[..., int]


@pytest.fixture
def opened(mode: Mode) -> Iterator[Callable[..., Session]]:
    """Open a session of either kind."""
    with ExitStack() as ends:
        loop = ends.enter_context(asyncio.Runner())

        def synchronous(scope: str = PREDICT_SCOPE) -> Session:
            session = ends.enter_context(LucidworksAuthHook().get_conn(scope))
            return lambda url="/ai/usecases", method="GET", **more: (
                session.request(method, url, **more).status_code
            )

        def asynchronous(scope: str = PREDICT_SCOPE) -> Session:
            manager = LucidworksAuthHook().aget_conn(scope)
            session = loop.run(manager.__aenter__())
            ends.callback(lambda: loop.run(manager.__aexit__(None, None, None)))

            async def status(url: str = "/ai/usecases", method: str = "GET", **more: Any) -> int:
                async with session.request(method, url, **more) as response:
                    await response.read()
                    return response.status

            return lambda *args, **more: loop.run(status(*args, **more))

        yield synchronous if mode == "sync" else asynchronous


@pytest.fixture
def session(emulator: RunningEmulator, opened: Callable[..., Session]) -> Session:
    return opened()


def kill(emulator: RunningEmulator) -> None:
    assert emulator.state.tokens.kill(list(Scope)) == 1


def test_it_carries_the_token_and_outlives_it(session: Session, emulator: RunningEmulator) -> None:
    assert session() == 200
    kill(emulator)
    assert session() == 200
    assert session(f"{emulator.url}/ai/usecases") == 200
    assert emulator.state.log.issued[PREDICT_SCOPE] == 2
    assert [one.status for one in emulator.state.log if one.endpoint == "usecases"] == [200, 401, 200, 200]


def test_it_uses_the_token_that_somebody_else_got(session: Session, emulator: RunningEmulator) -> None:
    session()
    kill(emulator)
    other = LucidworksAuthHook()
    other.get_token(refused=other.get_token())
    assert session() == 200
    assert emulator.state.log.issued[PREDICT_SCOPE] == 2


def test_an_endless_401_is_handed_to_the_caller(session: Session, emulator: RunningEmulator) -> None:
    fault(emulator, "unauthorized", "usecases", times=9)
    assert session() == 401
    assert emulator.state.log.endpoints["usecases"] == 3


@pytest.mark.parametrize("kind", ["bytes", "file", "file-from-the-middle"])
def test_a_body_is_sent_again_as_a_whole(session: Session, emulator: RunningEmulator, kind: str) -> None:
    session()
    kill(emulator)
    data: object = BODY
    if kind != "bytes":
        data = io.BytesIO(b"skipped" + BODY if kind == "file-from-the-middle" else BODY)
        data.seek(7 if kind == "file-from-the-middle" else 0)
    assert session(SUBMIT, "POST", data=data, headers=JSON) == 200
    assert [one.status for one in emulator.state.log if one.endpoint == "submit"] == [401, 200]
    assert len(emulator.state.jobs.all()) == 1


def test_a_stream_that_cannot_be_sent_twice_is_not_sent_cut(emulator: RunningEmulator) -> None:
    """Of aiohttp's: ``test_transport_aio_session.py``."""
    with LucidworksAuthHook().get_conn() as session:
        session.get("/ai/usecases")
        kill(emulator)
        answered = session.post(SUBMIT, data=iter([BODY[:5], BODY[5:]]), headers=JSON)
    # The token's refusal is the truth; "the body is not JSON" would be a lie about the caller's body.
    assert answered.status_code == 401


def test_it_is_not_sent_elsewhere(
    mode: Mode, session: Session, emulator: RunningEmulator, serve: Serve
) -> None:
    foreign = serve(answer())
    urls = [f"{foreign.url}/ai/usecases", emulator.url.replace("http://", "https://")]
    # To requests, that is a path of the connection's host.
    urls += [f"{foreign.url.removeprefix('http:')}/ai/usecases"] if mode == "async" else []
    for url in urls:
        with pytest.raises(InputError, match="it is not sent to"):
            session(url)
    assert foreign.heard == []
    assert emulator.state.log.issued[PREDICT_SCOPE] == 0


def test_a_foreign_401_after_a_redirect_is_not_answered_with_it(
    emulator: RunningEmulator, serve: Serve, application: Application
) -> None:
    """aiohttp's session refuses the redirect."""
    foreign = serve(answer(401, b"{}"))
    application(answer(302, b"", Location=f"{foreign.url}/x"))
    LucidworksAuthHook().get_conn().get("/ai/usecases")
    assert [one.headers.get("authorization") for one in foreign.heard] == [None]


def test_a_host_in_capitals_is_the_same_host(
    emulator: RunningEmulator, connect: Connect, opened: Callable[..., Session]
) -> None:
    connect(emulator.url, application_url=emulator.url.replace("127.0.0.1", "LocalHost"))
    assert opened()() == 200


def test_the_scope_decides_the_host(
    emulator: RunningEmulator, connect: Connect, serve: Serve, opened: Callable[..., Session]
) -> None:
    models = serve(answer())
    connect(emulator.url, models_url=models.url)
    assert opened(MODEL_SCOPE)("/customers/c/ai/models") == 200
    assert opened()() == 200
    assert [one.line for one in models.heard] == ["GET /customers/c/ai/models HTTP/1.1"]
    token = LucidworksAuthHook().get_token(MODEL_SCOPE)
    assert models.heard[0].headers["authorization"] == f"Bearer {token}"


def test_it_heeds_no_proxy(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{dead_port()}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert session() == 200


def test_there_is_a_timeout_by_default(
    mode: Mode, emulator: RunningEmulator, connect: Connect, opened: Callable[..., Session]
) -> None:
    connect(emulator.url, timeout=0.2)
    session = opened()
    session()
    emulator.state.settings = emulator.state.settings.patched({"latency": 0.5})
    with pytest.raises((requests.exceptions.ReadTimeout, aiohttp.SocketTimeoutError)):
        session()
    assert session(timeout=5 if mode == "sync" else aiohttp.ClientTimeout(sock_read=5)) == 200
    while emulator.state.log.endpoints["usecases"] < 3:  # the one that was given up ends too
        time.sleep(0.02)
