# SPDX-License-Identifier: Apache-2.0
"""No request has credentials of a ``.netrc`` file: not the first one, and none that follows a redirect."""

import asyncio
from contextlib import nullcontext
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


@pytest.fixture(params=["get_conn", "get_auth", "session.auth", "prepared", "aget_conn", "aget_auth"])
def kind(request: pytest.FixtureRequest) -> Any:
    """The way by which a request gets the token."""
    return request.param


def request_by(kind: str, url: str, method: str = "GET", **options: Any) -> int:
    """The status of a request."""
    hook = LucidworksAuthHook()
    if kind == "get_conn":
        with hook.get_conn() as session:
            return session.request(method, url, **options).status_code
    if kind in {"get_auth", "session.auth", "prepared"}:
        with requests.Session() as session:
            assert session.trust_env
            if kind == "prepared":
                prepared = requests.Request(method, url, auth=hook.get_auth(), **options).prepare()
                return session.send(prepared).status_code
            session.auth, auth = (
                (hook.get_auth(), None) if kind == "session.auth" else (None, hook.get_auth())
            )
            return session.request(method, url, auth=auth, **options).status_code

    async def asynchronously() -> int:
        if kind == "aget_conn":
            opened = hook.aget_conn()
        else:
            opened = aiohttp.ClientSession(trust_env=True, middlewares=(await hook.aget_auth(),))
        async with opened as session, session.request(method, url, **options) as response:
            return response.status

    return asyncio.run(asynchronously())


def authorizations(server: Script) -> list[str | None]:
    return [one.headers.get("authorization") for one in server.heard]


def bearer() -> str:
    return f"Bearer {LucidworksAuthHook().get_token()}"


def test_a_first_request(kind: str, application: Application) -> None:
    server = application(answer())
    assert request_by(kind, f"{server.url}/ai/usecases") == 200
    assert authorizations(server) == [bearer()]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_on_the_same_host(kind: str, application: Application, status: int) -> None:
    server = application(redirect(status, "/second"), redirect(status, "/third"), answer())
    assert request_by(kind, f"{server.url}/first", "POST", data=b"{}") == 200
    assert authorizations(server) == [bearer()] * 3
    after = "POST" if status in {307, 308} else "GET"
    sent = [one.line.split()[:2] for one in server.heard]
    assert sent == [["POST", "/first"], [after, "/second"], [after, "/third"]]


def test_a_redirect_after_a_401(kind: str, application: Application) -> None:
    server = application(REFUSED, redirect(302, "/b"), REFUSED, answer())
    assert request_by(kind, f"{server.url}/a") == 200
    sent = authorizations(server)
    assert [str(one).split()[0] for one in sent] == ["Bearer"] * 4
    assert sent[-1] == bearer()


def test_a_redirect_to_another_host(kind: str, application: Application, serve: Serve) -> None:
    foreign = serve(answer())
    server = application(redirect(302, "/own"), redirect(302, f"{foreign.url}/x"))
    # aiohttp's session refuses other hosts; a client of the user's own sends it nothing.
    refused = pytest.raises(LucidworksError, match="is not sent to")
    with refused if kind.startswith("aget") else nullcontext():
        request_by(kind, f"{server.url}/a")
    assert authorizations(server) == [bearer()] * 2
    assert authorizations(foreign) == ([] if kind.startswith("aget") else [None])


def test_proxies_of_the_environment_are_used(
    kind: str, application: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    LucidworksAuthHook().get_token()
    server, token = application(redirect(302, "/second"), answer()), bearer()
    with proxying() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        assert request_by(kind, f"{server.url}/first") == 200
        assert proxy.heard[0].line.startswith(f"GET {server.url}/first")
        # Of the proxy's netrc entry: a client of the user's own may take it along.
        assert kind == "aget_auth" or "proxy-authorization" not in proxy.heard[0].headers
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
