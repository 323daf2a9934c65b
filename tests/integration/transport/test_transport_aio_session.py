# SPDX-License-Identifier: Apache-2.0
"""The aiohttp session of ``aget_conn``, where it differs from that of requests (``test_transport_session.py``)."""

import asyncio
import io
import json
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from transport_wire import answer, connection_json, listening, proxying, read_request, scripted

from lucidworks_provider.client.http.messages import PREDICT_SCOPE
from lucidworks_provider.emulator import running
from lucidworks_provider.emulator.faults import Fault
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.emulator.tokens import Scope
from lucidworks_provider.errors import ConfigurationError, InputError
from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook
from lucidworks_provider.threads import import_in_thread

BODY = json.dumps({"batch": [{"text": "One. Two."}]}).encode()
SUBMIT = "/ai/async-chunking/sentence/gte-small"
JSON = {"Content-Type": "application/json"}
REFUSED = answer(401, b"{}")


def connect(monkeypatch: pytest.MonkeyPatch, url: str, **extra: Any) -> LucidworksAuthHook:
    """The hook of a connection to ``url``."""
    monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", connection_json(url, **extra))
    return LucidworksAuthHook()


def kill(emulator: RunningEmulator) -> None:
    assert emulator.state.tokens.kill(list(Scope)) == 1


async def status(session: aiohttp.ClientSession, url: str = "/ai/usecases", **options: Any) -> int:
    async with session.get(url, **options) as response:
        await response.read()
        return response.status


async def stream(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


# --- the token


async def test_a_token_that_dies_under_many_calls_is_replaced_once(emulator: RunningEmulator) -> None:
    async with LucidworksAuthHook().aget_conn() as session:
        await status(session)
        kill(emulator)
        assert await asyncio.gather(*(status(session) for _ in range(20))) == [200] * 20
    assert emulator.state.log.issued[PREDICT_SCOPE] == 2


async def test_an_endless_401_raises_where_the_caller_asks_for_it(emulator: RunningEmulator) -> None:
    emulator.state.faults.inject(Fault.from_json({"kind": "unauthorized", "match": "usecases", "times": 9}))
    async with LucidworksAuthHook().aget_conn() as session:
        with pytest.raises(aiohttp.ClientResponseError, match="401"):
            await status(session, raise_for_status=True)
    assert emulator.state.log.endpoints["usecases"] == 3


async def test_raising_for_a_status_does_not_hide_a_401(emulator: RunningEmulator) -> None:
    async with LucidworksAuthHook().aget_conn() as session:
        await status(session)
        kill(emulator)
        assert await status(session, raise_for_status=True) == 200


async def test_a_client_of_ones_own(emulator: RunningEmulator) -> None:
    middleware = await LucidworksAuthHook().aget_auth()
    async with aiohttp.ClientSession() as session:
        url = f"{emulator.url}/ai/usecases"
        assert await status(session, url) == 401
        assert await status(session, url, middlewares=(middleware,)) == 200


# --- bodies


def file_of(content: bytes, position: int = 0) -> io.BytesIO:
    file = io.BytesIO(content)
    file.seek(position)
    return file


@pytest.mark.parametrize(
    "body",
    [
        lambda _: {"data": BODY, "headers": JSON},
        lambda _: {"data": BODY.decode(), "headers": JSON},
        lambda _: {"json": json.loads(BODY)},
        lambda _: {"data": file_of(BODY), "headers": JSON},
        lambda _: {"data": file_of(b"skipped" + BODY, 7), "headers": JSON},
        lambda path: {"data": path.open("rb"), "headers": JSON},
        lambda path: {"data": path.open("r"), "headers": JSON},
        lambda _: {"data": BODY, "headers": JSON, "compress": "gzip"},
        lambda _: {"data": BODY, "headers": JSON, "chunked": True},
        lambda _: {},
    ],
    ids=["bytes", "str", "json", "buffer", "middle", "file", "text-file", "gzip", "chunked", "none"],
)
async def test_a_body_is_sent_again_as_a_whole(
    emulator: RunningEmulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: Callable[[Path], dict[str, Any]],
) -> None:
    (tmp_path / "body").write_bytes(BODY)
    with scripted(REFUSED, answer()) as server:
        async with (
            connect(monkeypatch, emulator.url, application_url=server.url).aget_conn() as session,
            session.post(SUBMIT, **body(tmp_path / "body")) as response,
        ):
            assert response.status == 200
        first, second = server.heard
        assert first.body == second.body
        assert {**first.headers, "authorization": ""} == {**second.headers, "authorization": ""}
        if "content-encoding" not in first.headers:
            sent = json.loads(first.body or b"null")
            assert sent == (json.loads(BODY) if body(tmp_path / "body") else None)


def form(*fields: Any, multipart: bool = False) -> aiohttp.FormData:
    made = aiohttp.FormData(default_to_multipart=multipart)
    for number, value in enumerate(fields):
        made.add_field(f"field{number}", value)
    return made


@pytest.mark.parametrize(
    "fields",
    [("a", "b"), (file_of(BODY),), ("a", file_of(b"skipped" + BODY, 7))],
    ids=["texts", "file", "text and file"],
)
@pytest.mark.parametrize("multipart", [False, True])
async def test_a_form_is_sent_again_as_a_whole(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch, fields: tuple[Any, ...], multipart: bool
) -> None:
    fields = tuple(file_of(f.getvalue(), f.tell()) if isinstance(f, io.BytesIO) else f for f in fields)
    with scripted(REFUSED, answer()) as server:
        hook = connect(monkeypatch, emulator.url, application_url=server.url)
        async with (
            hook.aget_conn() as session,
            session.post(SUBMIT, data=form(*fields, multipart=multipart)) as response,
        ):
            assert response.status == 200
        first, second = server.heard
        assert first.body == second.body
        assert b"skipped" not in first.body


@pytest.mark.parametrize(
    "body",
    [
        lambda: stream(BODY[:5], BODY[5:]),
        lambda: form("a", stream(BODY[:5], BODY[5:]), multipart=True),
    ],
    ids=["stream", "form"],
)
async def test_a_stream_that_cannot_be_sent_twice_is_not_sent_cut(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch, body: Callable[[], Any]
) -> None:
    with scripted(REFUSED, answer()) as server:
        hook = connect(monkeypatch, emulator.url, application_url=server.url)
        async with hook.aget_conn() as session, session.post(SUBMIT, data=body()) as response:
            # The token's refusal is the truth; "the body is not JSON" would be a lie about the caller's body.
            assert response.status == 401
        assert BODY in server.heard[0].body
        assert len(server.heard) == 1


def hasty(bodies: list[bytes]) -> Callable[[socket.socket], None]:
    """Refuses the first request when it has read its head; reads the next ones to their end."""

    def serve(connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as reader:
            if not bodies:
                bodies.append(b"")
                while reader.readline().strip():
                    pass
                connection.sendall(REFUSED)
                # Neither read on nor closed: whoever goes on sending here waits.
                reader.readline(1)
                time.sleep(1)
            elif request := read_request(reader):
                bodies.append(request.body)
                connection.sendall(answer())

    return serve


@pytest.mark.parametrize("kind", ["stream", "file"])
async def test_a_401_that_comes_before_the_body_was_sent(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str
) -> None:
    block = b"0123456789abcdef" * 65536
    (tmp_path / "large").write_bytes(block * 32)
    bodies: list[bytes] = []
    with listening(hasty(bodies)) as listener, (tmp_path / "large").open("rb") as file:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        hook = connect(monkeypatch, emulator.url, application_url=url)
        async with (
            hook.aget_conn() as session,
            session.post(SUBMIT, data=file if kind == "file" else stream(*[block] * 32)) as response,
        ):
            if kind == "file":
                assert (response.status, len(bodies)) == (200, 2)
                assert bodies[1] == block * 32
            else:
                assert (response.status, len(bodies)) == (401, 1)


# --- the hosts


@pytest.mark.parametrize("code", [302, 307])
async def test_a_redirect_does_not_carry_it_elsewhere(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    with scripted(answer()) as foreign, scripted(answer(code, b"", Location=f"{foreign.url}/x")) as own:
        async with connect(monkeypatch, emulator.url, application_url=own.url).aget_conn() as session:
            with pytest.raises(InputError, match="it is not sent to"):
                await status(session)
            assert await status(session, allow_redirects=False) == code
        assert ["authorization" in one.headers for one in own.heard] == [True, True]
        assert foreign.heard == []


async def test_a_redirect_to_the_same_host_carries_it(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted(answer(302, b"", Location="/elsewhere"), answer()) as own:
        hook = connect(monkeypatch, emulator.url, application_url=own.url)
        async with hook.aget_conn() as session:
            assert await status(session) == 200
        assert [one.line.split()[1] for one in own.heard] == ["/ai/usecases", "/elsewhere"]
        assert {one.headers["authorization"] for one in own.heard} == {f"Bearer {await hook.aget_token()}"}


async def test_a_url_with_a_path_of_its_own(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted(answer()) as server:
        hook = connect(monkeypatch, emulator.url, application_url=f"{server.url}/gateway/")
        async with hook.aget_conn() as session:
            await status(session, "ai/usecases")
            await status(session, "/ai/usecases")
        assert [one.line.split()[1] for one in server.heard] == ["/gateway/ai/usecases", "/ai/usecases"]


# --- the network


async def test_it_trusts_like_the_transports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, names = trustme.CA(), ("cert", "key", "ca", "other")
    issued = authority.issue_cert("127.0.0.1", "localhost")
    cert, key, ca, other = (tmp_path / f"{name}.pem" for name in names)
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    trustme.CA().cert_pem.write_to_path(other)

    async def answered(**extra: object) -> int:
        async with connect(monkeypatch, started.url, **extra).aget_conn() as session:
            return await status(session)

    with running(ssl_certfile=cert, ssl_keyfile=key) as started:
        assert await answered(ca_bundle=str(ca)) == 200
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
        assert await answered(ca_bundle=str(ca)) == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await untrusting(started.url, monkeypatch, str(ca))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(ca))
        assert await answered() == 200
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
        with pytest.raises(ConfigurationError, match="REQUESTS_CA_BUNDLE"):
            await answered()


async def untrusting(url: str, monkeypatch: pytest.MonkeyPatch, ca: str) -> None:
    """A call whose token was got while the authority was trusted, and which then trusts another."""
    from lucidworks_provider.client.http.aio import open_session

    hook = connect(monkeypatch, url, ca_bundle=ca)
    middleware = await hook.aget_auth()
    await hook.aget_token()
    without = connect(monkeypatch, url).get_settings()
    async with open_session(without, PREDICT_SCOPE, middleware) as session:
        await status(session)


@pytest.mark.parametrize("password", [None, "pr0xy-p@ss"])
async def test_it_takes_the_proxy_of_the_environment(
    emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch, password: str | None
) -> None:
    await LucidworksAuthHook().aget_token()
    with scripted(answer()) as server, proxying(password and f"user:{password}") as proxy:
        user = f"user:{password.replace('@', '%40')}@" if password else ""
        hook = connect(monkeypatch, emulator.url, application_url=server.url)
        monkeypatch.setenv("HTTP_PROXY", f"http://{user}{proxy.address}")
        async with hook.aget_conn() as session:
            assert await status(session) == 200
        assert [one.line for one in proxy.heard] == [f"GET {server.url}/ai/usecases HTTP/1.1"]
        assert proxy.refused == 0


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
    """Whoever comes while the first one is still loading it must not get half of it."""
    (tmp_path / "takes_its_time.py").write_text("import time; time.sleep(0.3); VALUE = 7")
    monkeypatch.syspath_prepend(tmp_path)

    async def one(number: int) -> int:
        await asyncio.sleep(number / 50)
        return int((await import_in_thread("takes_its_time")).VALUE)

    assert await asyncio.gather(*map(one, range(10))) == [7] * 10
