# SPDX-License-Identifier: Apache-2.0
"""No secret in a log record, in an exception or in a ``repr``, whatever goes wrong, at the level DEBUG."""

import asyncio
import base64
import json
import logging
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from transport_wire import (
    MODES,
    Connect,
    Mode,
    Serve,
    answer,
    call,
    fault,
    get_token,
    kill,
    submit,
)

from lucidworks_provider.client.auth.source import token_source
from lucidworks_provider.client.auth.token import AccessToken, parse_token_response, token_request
from lucidworks_provider.client.chunking import get_chunking
from lucidworks_provider.client.http.messages import Response
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.emulator.tokens import Scope
from lucidworks_provider.errors import AuthenticationError, LucidworksError
from lucidworks_provider.hooks.lucidworks import LucidworksHook

SECRET = "demo-secret"
BASIC = base64.b64encode(b"demo-client:demo-secret").decode()


@pytest.fixture
def everything(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """All that was logged at DEBUG, by any logger, with arguments and tracebacks."""
    caplog.set_level(logging.DEBUG)
    quiet = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
    levels = [(logger, logger.level) for logger in quiet]
    for logger in quiet:
        logger.setLevel(logging.DEBUG)

    def shown() -> str:
        for logger, level in levels:
            logger.setLevel(level)
        rows = [
            f"{record.getMessage()} {record.args!r} {record.exc_text or ''} {record.exc_info!r}"
            for record in caplog.records
        ]
        return "\n".join(rows)

    return shown


def shown_by(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.args)


def test_wrong_credentials(
    mode: Mode,
    emulator: RunningEmulator,
    everything: Callable[[], str],
    connect: Connect,
) -> None:
    connect(emulator.url, secret="wr0ng-s3cret")
    hook = LucidworksHook()
    with pytest.raises(AuthenticationError, match="The client id or the client secret is wrong") as caught:
        get_token(mode, hook)
    encoded = base64.b64encode(b"demo-client:wr0ng-s3cret").decode()
    for text in (shown_by(caught.value), everything(), repr(hook), repr(vars(hook))):
        assert "wr0ng-s3cret" not in text
        assert encoded not in text
    assert [record.status for record in emulator.state.log] == [401]


@pytest.mark.parametrize("status", [200, 302, 400, 401, 500])
@pytest.mark.parametrize("endpoint", ["token", "submit"])
def test_a_server_that_echoes_what_it_was_sent(
    mode: Mode,
    emulator: RunningEmulator,
    issued: list[str],
    everything: Callable[[], str],
    status: int,
    endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    connect: Connect,
    serve: Serve,
) -> None:
    server = serve(b"")
    play = server.next_step

    def echo(heard: Any) -> bytes:
        play(heard)
        # First of all what must not be shown: a message quotes only the start of a page.
        rows = sorted(heard.headers.items(), key=lambda row: row[0] != "authorization")
        page = "\n".join(f"{name}: {value}" for name, value in rows)
        return answer(status, page, Content_Type="text/plain")

    monkeypatch.setattr(server, "next_step", echo)
    host = {"auth_url": server.url} if endpoint == "token" else {"application_url": server.url}
    connect(emulator.url, **host)
    hook = LucidworksHook()
    with pytest.raises(LucidworksError) as caught:
        submit(mode, hook)
    hook.close()
    assert server.heard
    for text in (shown_by(caught.value), everything()):
        for secret in (SECRET, BASIC, *issued):
            assert secret not in text


def test_a_server_that_quotes_the_secret(mode: Mode, connect: Connect, serve: Serve) -> None:
    page = json.dumps({"error_description": f"demo-client and {SECRET} do not match"})
    server = serve(answer(401, page))
    connect(server.url)
    with pytest.raises(AuthenticationError) as caught:
        get_token(mode, LucidworksHook())
    assert SECRET not in shown_by(caught.value)


def test_nothing_leaks_on_the_whole_way(
    emulator: RunningEmulator,
    issued: list[str],
    everything: Callable[[], str],
) -> None:
    hook, errors = LucidworksHook(), []
    for mode in MODES:
        fault(emulator, "503", "token")
        fault(emulator, "429", "submit", retry_after=0.01)
        job_id = submit(mode, hook)
        kill(emulator)
        fault(emulator, "html", "poll")
        for _ in range(2):
            try:
                call(mode, hook, get_chunking(job_id))
            except LucidworksError as err:
                errors.append(err)
        assert call(mode, hook, get_chunking(job_id)).chunks
        for kind in ("500", "disconnect-after", "html", "cut-json", "unauthorized"):
            fault(emulator, kind, "submit", times=4 if kind == "unauthorized" else 1)
            try:
                submit(mode, hook)
            except LucidworksError as err:
                errors.append(err)
            emulator.state.faults.clear()
        kill(emulator)
    session = hook.get_conn()
    assert session.get("/ai/usecases").status_code == 200
    last = issued[-1]
    # Requests a token of the other scope, which leaves this one valid.
    assert hook.test_connection()[0]
    assert len(errors) >= 2 * 5
    assert len(issued) >= 5

    settings = hook.get_settings()
    source = token_source(settings, Scope.PREDICT.value)
    request = token_request(settings, Scope.PREDICT.value)
    body = json.dumps({"access_token": last, "expires_in": 60}).encode()
    reply = Response(200, {"x-token": last}, body)
    grant = parse_token_response(reply)
    held = source.peek()
    assert held is not None
    assert held.value == last

    async def client() -> str:
        async with hook.shared_client() as transport:
            return repr(transport)

    objects = [
        *(hook, settings, source, vars(source), session, session.auth, request, reply, grant, held),
        AccessToken.from_response(grant, 0.0),
    ]
    texts = [everything(), asyncio.run(client()), *map(repr, objects), *map(str, objects)]
    texts += [repr(vars(hook)), *map(shown_by, errors)]
    for text in texts:
        for secret in (SECRET, BASIC, *issued):
            assert secret not in text
    assert "Attempt 1 failed" in texts[0]  # it was listened to


def test_the_search_for_secrets_finds_a_leak(
    mode: Mode, emulator: RunningEmulator, issued: list[str], everything: Callable[[], str]
) -> None:
    token = get_token(mode, LucidworksHook())
    logging.getLogger("lucidworks_provider.anything").debug("%s", token)
    assert issued[0] in everything()
