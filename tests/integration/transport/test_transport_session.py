# SPDX-License-Identifier: Apache-2.0
"""Sessions of ``get_conn`` and ``aget_conn``: they outlive a token, and send it to the connection's hosts only."""

import asyncio
import io
import json
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
from transport_wire import (
    Application,
    Connect,
    Mode,
    Serve,
    Tls,
    answer,
    dead_port,
    fault,
    kill,
    listening,
    proxying,
    read_request,
)

from lucidworks_provider.client.http.messages import MODEL_SCOPE, PREDICT_SCOPE
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.errors import ConfigurationError, InputError
from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook
from lucidworks_provider.threads import import_in_thread

BODY = json.dumps({"batch": [{"text": "One. Two."}]}).encode()
SUBMIT = "/ai/async-chunking/sentence/gte-small"
JSON = {"Content-Type": "application/json"}
REFUSED = answer(401, b"{}")
# Of a call, its status.
Session = Callable[..., int]
Open = Callable[..., Session]


@pytest.fixture
def opened(mode: Mode) -> Iterator[Open]:
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
def session(emulator: RunningEmulator, opened: Open) -> Session:
    return opened()


async def status(session: aiohttp.ClientSession, **options: Any) -> int:
    async with session.get("/ai/usecases", **options) as response:
        await response.read()
        return response.status


# --- the token


def test_it_carries_the_token_and_outlives_it(session: Session, emulator: RunningEmulator) -> None:
    assert session() == 200
    kill(emulator)
    assert session() == 200
    assert session(f"{emulator.url}/ai/usecases") == 200
    assert emulator.state.log.issued[PREDICT_SCOPE] == 2
    assert [one.status for one in emulator.state.log if one.endpoint == "usecases"] == [200, 401, 200, 200]


def test_it_uses_the_token_that_another_hook_got(session: Session, emulator: RunningEmulator) -> None:
    session()
    kill(emulator)
    other = LucidworksAuthHook()
    other.get_token(refused=other.get_token())
    assert session() == 200
    assert emulator.state.log.issued[PREDICT_SCOPE] == 2


def test_an_endless_401_is_returned_to_the_caller(session: Session, emulator: RunningEmulator) -> None:
    fault(emulator, "unauthorized", "usecases", times=9)
    assert session() == 401
    assert emulator.state.log.endpoints["usecases"] == 3


async def test_a_401_raises_on_the_callers_request_and_only_if_it_stays(
    emulator: RunningEmulator,
) -> None:
    async with LucidworksAuthHook().aget_conn() as session:
        await status(session)
        kill(emulator)
        assert await status(session, raise_for_status=True) == 200
        fault(emulator, "unauthorized", "usecases", times=9)
        with pytest.raises(aiohttp.ClientResponseError, match="401"):
            await status(session, raise_for_status=True)


async def test_a_token_that_dies_under_many_calls_is_replaced_once(emulator: RunningEmulator) -> None:
    async with LucidworksAuthHook().aget_conn() as session:
        await status(session)
        kill(emulator)
        assert await asyncio.gather(*(status(session) for _ in range(20))) == [200] * 20
    assert emulator.state.log.issued[PREDICT_SCOPE] == 2


def test_the_scope_decides_the_host(
    emulator: RunningEmulator, connect: Connect, serve: Serve, opened: Open
) -> None:
    models = serve(answer())
    connect(emulator.url, models_url=models.url)
    assert opened(MODEL_SCOPE)("/customers/c/ai/models") == 200
    assert opened()() == 200
    assert [one.line for one in models.heard] == ["GET /customers/c/ai/models HTTP/1.1"]
    token = LucidworksAuthHook().get_token(MODEL_SCOPE)
    assert models.heard[0].headers["authorization"] == f"Bearer {token}"


# --- bodies after a 401


def file_of(content: bytes, position: int = 0) -> io.BytesIO:
    file = io.BytesIO(content)
    file.seek(position)
    return file


async def stream(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def form(*fields: Any, multipart: bool = False) -> dict[str, aiohttp.FormData]:
    made = aiohttp.FormData(default_to_multipart=multipart)
    for number, value in enumerate(fields):
        made.add_field(f"field{number}", value)
    return {"data": made}


BODIES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "bytes": lambda _: {"data": BODY, "headers": JSON},
    "str": lambda _: {"data": BODY.decode(), "headers": JSON},
    "json": lambda _: {"json": json.loads(BODY)},
    "buffer": lambda _: {"data": file_of(BODY), "headers": JSON},
    "middle": lambda _: {"data": file_of(b"skipped" + BODY, 7), "headers": JSON},
    "file": lambda path: {"data": path.open("rb"), "headers": JSON},
    "text-file": lambda path: {"data": path.open("r"), "headers": JSON},
    "gzip": lambda _: {"data": BODY, "headers": JSON, "compress": "gzip"},
    "chunked": lambda _: {"data": BODY, "headers": JSON, "chunked": True},
    "none": lambda _: {},
    "form": lambda _: form("a", "b"),
    "form-file": lambda _: form(file_of(BODY)),
    "form-both": lambda _: form("a", file_of(b"skipped" + BODY, 7)),
    "multipart": lambda _: form("a", "b", multipart=True),
    "multipart-file": lambda _: form(file_of(BODY), multipart=True),
    "multipart-both": lambda _: form("a", file_of(b"skipped" + BODY, 7), multipart=True),
}


@pytest.mark.parametrize("kind", BODIES)
async def test_a_body_is_sent_again_as_a_whole(application: Application, tmp_path: Path, kind: str) -> None:
    (tmp_path / "body").write_bytes(BODY)
    server = application(REFUSED, answer())
    async with (
        LucidworksAuthHook().aget_conn() as session,
        session.post(SUBMIT, **BODIES[kind](tmp_path / "body")) as response,
    ):
        assert response.status == 200
    first, second = server.heard
    assert first.body == second.body
    assert {**first.headers, "authorization": ""} == {**second.headers, "authorization": ""}
    assert b"skipped" not in first.body
    if kind != "gzip" and "form" not in kind and "multipart" not in kind:
        assert json.loads(first.body or b"null") == (None if kind == "none" else json.loads(BODY))


@pytest.mark.parametrize("kind", ["bytes", "buffer", "middle"])
def test_a_body_of_requests_is_sent_again_as_a_whole(emulator: RunningEmulator, kind: str) -> None:
    with LucidworksAuthHook().get_conn() as session:
        session.get("/ai/usecases")
        kill(emulator)
        assert session.post(SUBMIT, **BODIES[kind](Path())).status_code == 200
    assert [one.status for one in emulator.state.log if one.endpoint == "submit"] == [401, 200]
    assert len(emulator.state.jobs.all()) == 1


def test_a_stream_that_cannot_be_sent_twice_is_not_sent_cut(
    application: Application, opened: Open, mode: Mode
) -> None:
    parts = (BODY[:5], BODY[5:])
    of_aiohttp = [{"data": stream(*parts)}, form("a", stream(*parts), multipart=True)]
    for body in [{"data": iter(parts)}] if mode == "sync" else of_aiohttp:
        server = application(REFUSED, answer())
        # The error is the refused token; "the body is not JSON" would blame the caller's body.
        assert opened()(SUBMIT, "POST", **body) == 401
        [heard] = server.heard
        assert BODY in heard.body


def hasty(bodies: list[bytes]) -> Callable[[socket.socket], None]:
    """Refuses the first request when it has read its head; reads the next ones to their end."""

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            if not bodies:
                bodies.append(b"")
                while reader.readline().strip():
                    pass
                connection.sendall(REFUSED)
                # Neither read on nor closed: a client that still sends here waits.
                reader.readline(1)
                time.sleep(1)
            elif request := read_request(reader):
                bodies.append(request.body)
                connection.sendall(answer())

    return serve


@pytest.mark.parametrize("kind", ["stream", "file"])
async def test_a_401_that_comes_before_the_body_was_sent(
    emulator: RunningEmulator, connect: Connect, tmp_path: Path, kind: str
) -> None:
    block = b"0123456789abcdef" * 65536
    (tmp_path / "large").write_bytes(block * 32)
    bodies: list[bytes] = []
    with listening(hasty(bodies)) as listener, (tmp_path / "large").open("rb") as file:
        connect(emulator.url, application_url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        data = file if kind == "file" else stream(*[block] * 32)
        async with (
            LucidworksAuthHook().aget_conn() as session,
            session.post(SUBMIT, data=data) as response,
        ):
            sent = (response.status, bodies[1:] == [block * 32])
    assert (sent, len(bodies)) == (((200, True), 2) if kind == "file" else ((401, False), 1))


# --- the hosts


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
    serve: Serve, application: Application
) -> None:
    """aiohttp's session refuses the redirect."""
    foreign = serve(REFUSED)
    application(answer(302, b"", Location=f"{foreign.url}/x"))
    LucidworksAuthHook().get_conn().get("/ai/usecases")
    assert [one.headers.get("authorization") for one in foreign.heard] == [None]


def test_a_host_in_capitals_is_the_same_host(
    emulator: RunningEmulator, connect: Connect, opened: Open
) -> None:
    connect(emulator.url, application_url=emulator.url.replace("127.0.0.1", "LocalHost"))
    assert opened()() == 200


async def test_a_url_with_a_path_of_its_own(
    emulator: RunningEmulator, connect: Connect, serve: Serve
) -> None:
    server = serve(answer())
    connect(emulator.url, application_url=f"{server.url}/gateway/")
    async with LucidworksAuthHook().aget_conn() as session:
        for url in ("ai/usecases", "/ai/usecases"):
            assert (await session.get(url)).status == 200
    assert [one.line.split()[1] for one in server.heard] == ["/gateway/ai/usecases", "/ai/usecases"]


# --- the network


UNTRUSTED = (requests.exceptions.SSLError, aiohttp.ClientConnectorCertificateError)


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@pytest.mark.parametrize(
    ("environment", "extra", "error"),
    [
        (None, {"ca_bundle": "ca"}, None),
        ("other_ca", {"ca_bundle": "ca"}, None),
        ("other_ca", {"verify": False}, None),
        ("other_ca", {}, UNTRUSTED),
        ("ca", {}, None),
    ],
    ids=str,
)
def test_it_trusts_like_the_transports(
    opened: Open,
    connect: Connect,
    tls: Tls,
    monkeypatch: pytest.MonkeyPatch,
    environment: str | None,
    extra: dict[str, Any],
    error: Any,
) -> None:
    connect(tls.url, ca_bundle=tls.ca)
    LucidworksAuthHook().get_token()
    if environment:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", getattr(tls, environment))
    connect(tls.url, **({"ca_bundle": tls.ca} if "ca_bundle" in extra else extra))
    with pytest.raises(error) if error else nullcontext():
        assert opened()() == 200


async def test_a_missing_bundle_is_named(connect: Connect, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(tls.url, ca_bundle=tls.ca)
    await LucidworksAuthHook().aget_token()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.missing)
    connect(tls.url)
    with pytest.raises(ConfigurationError, match="REQUESTS_CA_BUNDLE"):
        async with LucidworksAuthHook().aget_conn() as session:
            await session.get("/ai/usecases")


@pytest.mark.parametrize("password", [None, "pr0xy-p@ss"])
def test_it_takes_the_proxy_of_the_environment(
    application: Application, opened: Open, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    LucidworksAuthHook().get_token()
    server = application(answer())
    with proxying(password and f"user:{password}") as proxy:
        user = f"user:{password.replace('@', '%40')}@" if password else ""
        monkeypatch.setenv("HTTP_PROXY", f"http://{user}{proxy.address}")
        assert opened()() == 200
        assert [one.line for one in proxy.heard] == [f"GET {server.url}/ai/usecases HTTP/1.1"]
        assert proxy.refused == 0


def test_it_heeds_no_proxy(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{dead_port()}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert session() == 200


def test_there_is_a_timeout_by_default(
    mode: Mode, emulator: RunningEmulator, connect: Connect, opened: Open
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


async def test_it_is_closed_and_keeps_no_connection(emulator: RunningEmulator) -> None:
    async with LucidworksAuthHook().aget_conn() as session:
        await status(session)
        kill(emulator)
        await status(session)
        assert session.connector is not None
        # The 401 gave its connection back: one has been enough.
        assert sum(len(kept) for kept in session.connector._conns.values()) == 1
    assert session.closed


async def test_a_module_is_loaded_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coroutine that comes while another loads it must not get half of it."""
    (tmp_path / "takes_its_time.py").write_text("import time; time.sleep(0.3); VALUE = 7")
    monkeypatch.syspath_prepend(tmp_path)

    async def one(number: int) -> int:
        await asyncio.sleep(number / 50)
        return int((await import_in_thread("takes_its_time")).VALUE)

    assert await asyncio.gather(*map(one, range(10))) == [7] * 10
