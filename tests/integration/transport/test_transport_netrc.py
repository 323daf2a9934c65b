# SPDX-License-Identifier: Apache-2.0
"""No request has credentials of a ``.netrc`` file: not the first one, and none that follows a redirect."""

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
from transport_wire import (
    Application,
    Connect,
    Mode,
    Script,
    Serve,
    answer,
    call,
    get,
    get_token,
    proxying,
    send,
    settings,
)

from lucidworks_provider.client.http.messages import PREDICT_SCOPE
from lucidworks_provider.client.use_cases import list_use_cases
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.errors import LucidworksError
from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook, LucidworksHook

REFUSED = answer(401, b"{}")


def redirect(status: int, to: str) -> bytes:
    return answer(status, b"", Location=to)


@pytest.fixture(autouse=True, params=["NETRC", "HOME"])
def netrc(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, emulator: RunningEmulator
) -> None:
    """An entry for every host of the test, found by either variable."""
    file = tmp_path / ".netrc"
    file.write_text("machine 127.0.0.1 login netrc password entry\ndefault login netrc password entry\n")
    file.chmod(0o600)
    monkeypatch.setenv(request.param, str(file if request.param == "NETRC" else tmp_path))
    assert requests.utils.get_netrc_auth(emulator.url) == ("netrc", "entry")  # other clients find it


def with_get_conn(url: str, method: str = "GET", **options: Any) -> int:
    with LucidworksAuthHook().get_conn() as session:
        return session.request(method, url, **options).status_code


def with_get_auth(url: str, method: str = "GET", **options: Any) -> int:
    with requests.Session() as session:
        assert session.trust_env
        return session.request(method, url, auth=LucidworksAuthHook().get_auth(), **options).status_code


def with_session_auth(url: str, method: str = "GET", **options: Any) -> int:
    with requests.Session() as session:
        session.auth = LucidworksAuthHook().get_auth()
        return session.request(method, url, **options).status_code


def with_prepared_request(url: str, method: str = "GET", **options: Any) -> int:
    with requests.Session() as session:
        prepared = requests.Request(method, url, auth=LucidworksAuthHook().get_auth(), **options).prepare()
        return session.send(prepared).status_code


def with_aget_conn(url: str, method: str = "GET", **options: Any) -> int:
    async def asynchronously() -> int:
        async with (
            LucidworksAuthHook().aget_conn() as session,
            session.request(method, url, **options) as response,
        ):
            return response.status

    return asyncio.run(asynchronously())


def with_aget_auth(url: str, method: str = "GET", **options: Any) -> int:
    async def asynchronously() -> int:
        middleware = await LucidworksAuthHook().aget_auth()
        async with (
            aiohttp.ClientSession(trust_env=True, middlewares=(middleware,)) as session,
            session.request(method, url, **options) as response,
        ):
            return response.status

    return asyncio.run(asynchronously())


SENDERS = [
    with_get_conn,
    with_get_auth,
    with_session_auth,
    with_prepared_request,
    with_aget_conn,
    with_aget_auth,
]


@pytest.fixture(params=SENDERS, ids=lambda sender: sender.__name__)
def sender(request: pytest.FixtureRequest) -> Any:
    return request.param


def authorizations(server: Script) -> list[str | None]:
    return [one.headers.get("authorization") for one in server.heard]


def bearer() -> str:
    return f"Bearer {LucidworksAuthHook().get_token()}"


def test_a_first_request(sender: Any, application: Application) -> None:
    server = application(answer())
    assert sender(f"{server.url}/ai/usecases") == 200
    assert authorizations(server) == [bearer()]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_on_the_same_host(sender: Any, application: Application, status: int) -> None:
    server = application(redirect(status, "/second"), redirect(status, "/third"), answer())
    assert sender(f"{server.url}/first", "POST", data=b"{}") == 200
    assert authorizations(server) == [bearer()] * 3
    after = "POST" if status in {307, 308} else "GET"
    sent = [one.line.split()[:2] for one in server.heard]
    assert sent == [["POST", "/first"], [after, "/second"], [after, "/third"]]


def test_a_redirect_after_a_401(sender: Any, application: Application) -> None:
    server = application(REFUSED, redirect(302, "/b"), REFUSED, answer())
    assert sender(f"{server.url}/a") == 200
    sent = authorizations(server)
    assert [str(one).split()[0] for one in sent] == ["Bearer"] * 4
    assert sent[-1] == bearer()


def test_a_redirect_to_another_host(sender: Any, application: Application, serve: Serve) -> None:
    foreign = serve(answer())
    server = application(redirect(302, "/own"), redirect(302, f"{foreign.url}/x"))
    try:
        sender(f"{server.url}/a")
    except LucidworksError as err:  # aiohttp's sessions refuse other hosts
        assert "is not sent to" in str(err)  # noqa: PT017
    assert authorizations(server) == [bearer()] * 2
    assert [value for value in authorizations(foreign) if value] == []


def test_proxies_of_the_environment_are_used(
    sender: Any, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    LucidworksAuthHook().get_token()
    server, token = application(redirect(302, "/second"), answer()), bearer()
    with proxying() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        assert sender(f"{server.url}/first") == 200
        assert proxy.heard[0].line.startswith(f"GET {server.url}/first")
        # Of the proxy's netrc entry: a client of the user's own may take it along.
        assert sender is with_aget_auth or "proxy-authorization" not in proxy.heard[0].headers
        assert authorizations(server) == [token] * 2


def test_a_token_request(mode: Mode, connect: Connect, serve: Serve) -> None:
    grant = '{"access_token": "granted", "expires_in": 3600, "scope": "%s", "token_type": "Bearer"}'
    server = serve(answer(body=grant % PREDICT_SCOPE))
    connect(server.url)
    assert get_token(mode, LucidworksHook()) == "granted"
    assert authorizations(server) == [requests.auth._basic_auth_str("demo-client", "demo-secret")]


def test_a_request_without_credentials(mode: Mode, serve: Serve) -> None:
    server = serve(answer())
    send(mode, settings(server.url), get(server.url), None)
    assert authorizations(server) == [None]


def test_calls_of_the_hook(mode: Mode, application: Application) -> None:
    server = application(answer(body='{"useCases": []}'))
    call(mode, LucidworksHook(), list_use_cases())
    assert authorizations(server) == [bearer()]
