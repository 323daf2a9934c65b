# SPDX-License-Identifier: Apache-2.0
"""Proxies that compress answers in their own way, or send interim answers: both clients alike."""

import gzip
import zlib

import pytest
from transport_wire import (
    Application,
    Mode,
    Serve,
    answer,
    call,
    fault,
    get,
    get_token,
    proxying,
    send,
    settings,
    submit,
)

from lucidworks_provider.client.chunking import get_chunking
from lucidworks_provider.client.http import sync
from lucidworks_provider.client.use_cases import list_use_cases
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.errors import (
    ContentEncodingError,
    RequestRefusedError,
    TransportError,
    UnknownResourceError,
)
from lucidworks_provider.hooks.lucidworks import LucidworksHook

pytestmark = pytest.mark.usefixtures("plain_network", "short_waits", "forgotten_tokens")

JSON = b'{"a": "' + b"x" * 100_000 + b'"}'
HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"


def raw_deflate(data: bytes) -> bytes:
    engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return engine.compress(data) + engine.flush()


ACCEPTED = {
    "gzip": ("gzip", gzip.compress(JSON)),
    "case": ("GZIP", gzip.compress(JSON)),
    "x-gzip": ("x-gzip", gzip.compress(JSON)),
    "members": ("gzip", gzip.compress(JSON[:1000]) + gzip.compress(JSON[1000:])),
    "padding": ("gzip", gzip.compress(JSON) + b"\0\0padding"),
    "deflate": ("deflate", zlib.compress(JSON)),
    "raw": ("deflate", raw_deflate(JSON)),
    "both": ("deflate, gzip", gzip.compress(zlib.compress(JSON))),
    "left": ("gzip", JSON),
    "identity": ("identity", JSON),
    "empty": ("", JSON),
}


@pytest.mark.parametrize(("encoding", "body"), ACCEPTED.values(), ids=ACCEPTED)
def test_what_is_accepted_is_decoded(mode: Mode, encoding: str, body: bytes, serve: Serve) -> None:
    server = serve(answer(body=body, Content_Encoding=encoding))
    assert send(mode, settings(server.url), get(server.url)).body == JSON
    assert server.heard[0].headers["accept-encoding"] == "gzip, deflate"


@pytest.mark.parametrize("encoding", ["br", "zstd", "compress", "gzip, br", "br, gzip"])
@pytest.mark.parametrize("replayable", [True, False], ids=["poll", "submission"])
def test_another_encoding_is_named_and_nothing_is_repeated(
    mode: Mode, encoding: str, replayable: bool, application: Application
) -> None:
    server = application(answer(body=b"\x0b\x02\x80{}\x03", Content_Encoding=encoding))
    hook = LucidworksHook()
    with pytest.raises(ContentEncodingError, match=rf"Content-Encoding '{encoding}'.*proxy") as caught:
        call(mode, hook, list_use_cases()) if replayable else submit(mode, hook)
    assert not caught.value.retryable
    assert len(server.heard) == 1


@pytest.mark.parametrize(
    ("status", "error"), [(404, UnknownResourceError), (400, RequestRefusedError), (307, RequestRefusedError)]
)
def test_an_error_counts_by_its_status_whatever_its_encoding(
    mode: Mode, status: int, error: type[Exception], application: Application
) -> None:
    application(answer(status, b"\x0b\x02\x80{}\x03", Content_Encoding="br"))
    with pytest.raises(error, match=f"HTTP {status}: a body in Content-Encoding 'br'"):
        submit(mode, LucidworksHook())


def test_a_busy_service_behind_such_a_proxy_is_asked_again(mode: Mode, application: Application) -> None:
    server = application(answer(503, b"\x0b\x02\x80{}\x03", Content_Encoding="br"), answer(body=b"[]"))
    assert call(mode, LucidworksHook(), list_use_cases()) == {}
    assert len(server.heard) == 2


@pytest.mark.parametrize("kind", ["br", "zstd"])
def test_the_emulator_encodes_so(mode: Mode, emulator: RunningEmulator, kind: str) -> None:
    hook = LucidworksHook()
    fault(emulator, kind, "submit")
    with pytest.raises(ContentEncodingError, match=kind):
        submit(mode, hook)
    assert emulator.state.log.endpoints["submit"] == 1
    assert submit(mode, hook)


def test_an_unreadable_token_is_not_requested_again(mode: Mode, emulator: RunningEmulator) -> None:
    fault(emulator, "br", "token", times=100)
    for _ in range(5):
        with pytest.raises(ContentEncodingError, match=r"Token request.*'br'"):
            get_token(mode, LucidworksHook())
    assert emulator.state.log.endpoints["token"] == 1


@pytest.mark.parametrize("status", [100, 102, 103, 199])
@pytest.mark.parametrize("number", [1, 3])
def test_interim_responses_are_skipped(mode: Mode, status: int, number: int, serve: Serve) -> None:
    hints = HINTS.replace(b"103", str(status).encode()) * number
    server = serve(lambda connection: connection.sendall(hints + answer(body=b'{"a": 1}')))
    found = send(mode, settings(server.url), get(server.url))
    assert (found.status, found.body, found.headers.get("link")) == (200, b'{"a": 1}', None)


def test_interim_responses_through_a_proxy(mode: Mode, monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    server = serve(lambda connection: connection.sendall(HINTS + answer(body=b'{"a": 1}')))
    with proxying() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        assert send(mode, settings(server.url), get(server.url)).body == b'{"a": 1}'
    assert proxy.heard


def test_interim_responses_without_an_end(serve: Serve) -> None:
    """Of requests: with aiohttp, the time alone is limited."""
    hints = HINTS * (sync.MOST_INTERIM + 1)
    server = serve(lambda connection: connection.sendall(hints + answer()))
    with pytest.raises(TransportError, match="connection broke"):
        send("sync", settings(server.url), get(server.url))


def test_early_hints_of_the_emulator(mode: Mode, emulator: RunningEmulator) -> None:
    fault(emulator, "early-hints", "any", times=20)
    hook = LucidworksHook()
    job_id = submit(mode, hook)
    assert call(mode, hook, get_chunking(job_id)).job_id == job_id
    assert hook.get_conn().get("/ai/usecases").status_code == 200
    with hook.get_conn().get("/ai/usecases", stream=True) as response:
        assert response.raw.fileno() > 0  # for select and child processes
    assert [record.fault for record in emulator.state.log] == ["early-hints"] * 5
