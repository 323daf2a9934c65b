# SPDX-License-Identifier: Apache-2.0
"""An answer without an end, or one that drips, is given up; every other one is read as it is, by both clients."""

import gzip
import socket
import time

import pytest
from transport_wire import Mode, answer, get, scripted, send, settings

from lucidworks_provider.client.http import transport as http_body
from lucidworks_provider.client.http.transport import BodyReader
from lucidworks_provider.errors import NotSentError, TransportError

pytestmark = pytest.mark.usefixtures("plain_network", "short_waits", "forgotten_tokens")

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSED = b"HTTP/1.1 200 OK\r\n\r\n"
REDIRECT = b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n"


@pytest.mark.parametrize("head", [CHUNKED, answer(body=b"", length=1 << 40), UNTIL_CLOSED, REDIRECT])
def test_a_response_without_an_end(mode: Mode, head: bytes) -> None:
    sent = 0

    def endless(connection: socket.socket) -> None:
        nonlocal sent
        connection.sendall(head)
        piece = b"x" * 65536
        while True:
            connection.sendall(b"10000\r\n%b\r\n" % piece if head == CHUNKED else piece)
            sent += len(piece)

    with scripted(endless) as server:
        with pytest.raises(TransportError, match="not read") as caught:
            send(mode, settings(server.url), get(server.url))
        assert not isinstance(caught.value, NotSentError)
        assert caught.value.retryable
        # The sockets' buffers hold bytes that were sent and not read.
        assert sent < http_body.MOST_BYTES + (16 << 20)


def test_a_small_response_that_unpacks_to_a_large_one(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_body, "MOST_BYTES", 100_000)
    with (
        scripted(answer(body=gzip.compress(b"x" * 10_000_000), Content_Encoding="gzip")) as server,
        pytest.raises(TransportError, match="more than 100000 bytes"),
    ):
        send(mode, settings(server.url), get(server.url))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_response_that_drips(mode: Mode, chunked: bool) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(CHUNKED + b"1000\r\n" if chunked else answer(body=b"", length=4096))
        for _ in range(100):
            connection.sendall(b"x")
            time.sleep(0.1)

    with scripted(drip) as server:
        began = time.monotonic()
        with pytest.raises(TransportError, match=r"only \d+ bytes of the response in"):
            send(mode, settings(server.url, timeout=0.5), get(server.url))
        assert time.monotonic() - began < 2


def test_a_response_that_takes_long_because_it_is_large(mode: Mode) -> None:
    def slowly(connection: socket.socket) -> None:
        connection.sendall(answer(body=b"", length=40_000))
        for _ in range(8):
            connection.sendall(b"x" * 5000)
            time.sleep(0.1)

    with scripted(slowly) as server:
        assert send(mode, settings(server.url, timeout=0.3), get(server.url)).body == b"x" * 40_000


JSON = b'{"a": 1}'
WHOLE = {
    "empty": (answer(body=b""), b""),
    "no-content": (answer(204, b""), b""),
    "small": (answer(body=JSON), JSON),
    "gzip": (answer(body=gzip.compress(JSON * 100_000), Content_Encoding="gzip"), JSON * 100_000),
    "long-header": (answer(body=JSON, Set_Cookie="x" * 65_000), JSON),
    "chunked": (CHUNKED + b"8\r\n%b\r\n8\r\n        \r\n0\r\n\r\n" % JSON, JSON + b" " * 8),
}


@pytest.mark.parametrize(("wire", "body"), WHOLE.values(), ids=WHOLE)
def test_every_other_response_is_read_as_it_is(mode: Mode, wire: bytes, body: bytes) -> None:
    with scripted(wire) as server:
        assert send(mode, settings(server.url), get(server.url)).body == body


def test_the_speed_counts_only_after_the_timeout(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(http_body.time, "monotonic", lambda: now)
    one = BodyReader(get("http://127.0.0.1"), timeout=10)
    now = 9.9
    one.add(b"x")
    now = 10.0 + 30_001 / http_body.LEAST_SPEED - 0.1
    one.add(b"x" * 30_000)
    now += 0.2
    with pytest.raises(TransportError, match=r"only 30002 bytes of the response in 13\.1 s"):
        one.add(b"x")
