# SPDX-License-Identifier: Apache-2.0
"""
On one network both clients behave alike: private authorities, proxies, redirects, broken answers.

Each test runs over requests and over aiohttp against real sockets.
"""

import gzip
import os
import shutil
import socket
import ssl
import struct
import time
import zlib
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme
from transport_wire import (
    Application,
    Connect,
    Mode,
    Serve,
    Tls,
    answer,
    call,
    dead_port,
    get,
    get_token,
    listening,
    proxying,
    read_request,
    scripted,
    send,
    settings,
    submit,
)

from lucidworks_provider import metrics
from lucidworks_provider.client.chunking import get_chunking
from lucidworks_provider.client.use_cases import list_use_cases
from lucidworks_provider.emulator.faults import Fault
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.errors import (
    ConfigurationError,
    LucidworksError,
    MalformedResponseError,
    NotSentError,
    RequestRefusedError,
    SubmissionUnknownError,
    TransportError,
)
from lucidworks_provider.hooks.lucidworks import LucidworksHook

pytestmark = pytest.mark.usefixtures("plain_network", "short_waits", "forgotten_tokens")

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
GZIP, DEFLATE = gzip.compress(b"0" * 100_000), zlib.compress(b"0" * 100_000)
PASSWORD, QUOTED = "pr0xy-p@ss", "pr0xy-p%40ss"


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _drip(head: bytes, piece: bytes, connection: socket.socket) -> None:
    connection.sendall(head)
    for _ in range(30):
        connection.sendall(piece)
        time.sleep(0.1)


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What metrics count, in the order of requests."""
    counted: list[str] = []
    monkeypatch.setattr(metrics, "request", lambda endpoint, outcome, seconds: counted.append(str(outcome)))
    return counted


# --- private authorities


TRUSTED = ""
UNTRUSTED = r"'wire'.*`ca_bundle`"


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
@pytest.mark.parametrize(
    ("environment", "extra", "error"),
    [
        ({}, {}, UNTRUSTED),
        ({}, {"ca_bundle": "ca"}, TRUSTED),
        ({"REQUESTS_CA_BUNDLE": "ca"}, {}, TRUSTED),
        ({"CURL_CA_BUNDLE": "ca"}, {}, TRUSTED),
        ({"REQUESTS_CA_BUNDLE": "other_ca"}, {"ca_bundle": "ca"}, TRUSTED),
        ({"REQUESTS_CA_BUNDLE": "ca"}, {"ca_bundle": "other_ca"}, UNTRUSTED),
        ({}, {"verify": False}, TRUSTED),
        ({"REQUESTS_CA_BUNDLE": "other_ca"}, {"verify": False}, TRUSTED),
    ],
    ids=str,
)
def test_which_certificates_are_trusted(
    mode: Mode,
    tls: Tls,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    extra: dict[str, Any],
    error: str,
) -> None:
    for name, bundle in environment.items():
        monkeypatch.setenv(name, getattr(tls, bundle))
    extra = {name: getattr(tls, value) if name == "ca_bundle" else value for name, value in extra.items()}
    with pytest.raises(ConfigurationError, match=error) if error else nullcontext():
        assert send(mode, settings(tls.url, **extra), get(tls.probe)).status == 200


def _denied(*args: object, **options: object) -> None:
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("source", ["ca_bundle", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("state", ["removed", "empty", "junk", "locked", "unreadable"])
def test_an_unusable_bundle_is_named(
    mode: Mode, source: str, state: str, tls: Tls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "ca.pem"
    if state in {"empty", "junk"}:
        bundle.write_text("" if state == "empty" else "this is no certificate\n")
    elif state == "locked":
        # As in a folder of another user; root, which may run the tests, can read all folders.
        stat = os.stat
        monkeypatch.setattr(os, "stat", lambda path, **k: (_denied if path == bundle else stat)(path, **k))
    elif state == "unreadable":
        shutil.copy(tls.ca, bundle)
        monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", _denied)
    extra = {"ca_bundle": str(bundle)} if source == "ca_bundle" else {}
    if not extra:
        monkeypatch.setenv(source, str(bundle))
    with pytest.raises(
        ConfigurationError, match=f"'wire': {source} names '{bundle}', which is not a usable CA"
    ):
        send(mode, settings(tls.url, **extra), get(tls.probe))


def test_early_hints_over_tls(mode: Mode, tls: Tls) -> None:
    tls.state.faults.inject(Fault.from_json({"kind": "early-hints", "match": "usecases"}))
    answer = send(mode, settings(tls.url, ca_bundle=tls.ca), get(f"{tls.url}/ai/usecases"))
    assert answer.status == 401
    assert tls.state.faults.open() == []


def test_wrong_host_name(mode: Mode, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **options: Any) -> Any:
        return real("127.0.0.1" if host in {"other.test", b"other.test"} else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ConfigurationError, match=r"other\.test"):
        send(mode, settings(tls.url, ca_bundle=tls.ca), get(tls.probe.replace("127.0.0.1", "other.test")))


# --- proxies


def test_http_through_a_proxy(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(answer()) as server, proxying() as proxy:
        monkeypatch.setenv("HTTP_PROXY" if mode == "async" else "http_proxy", f"http://{proxy.address}")
        assert send(mode, settings(server.url), get(f"{server.url}/a%2Fb?c=d%20e")).status == 200
        assert [one.line for one in proxy.heard] == [f"GET {server.url}/a%2Fb?c=d%20e HTTP/1.1"]
        assert server.heard[0].headers["authorization"] == "Bearer t0ken"


def test_https_through_a_proxy(mode: Mode, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxying() as proxy:
        # Without a scheme, as administrators like to write it.
        monkeypatch.setenv("HTTPS_PROXY", proxy.address)
        assert send(mode, settings(tls.url, ca_bundle=tls.ca), get(tls.probe)).status == 200
        [heard] = proxy.heard
        assert heard.line.startswith("CONNECT 127.0.0.1:")
        assert "authorization" not in heard.headers
        with pytest.raises(ConfigurationError):
            send(mode, settings(tls.url), get(tls.probe))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_with_a_password(mode: Mode, scheme: str, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(answer()) as server, proxying(f"user:{PASSWORD}") as proxy:
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://user:{QUOTED}@{proxy.address}")
        url = server.url if scheme == "http" else tls.probe
        assert send(mode, settings(url, ca_bundle=tls.ca), get(url)).status == 200
        assert (len(proxy.heard), proxy.refused) == (1, 0)


@pytest.mark.parametrize(
    ("scheme", "address", "error"),
    [
        ("https", f"http://user:{QUOTED}@REFUSING", NotSentError),
        ("http", f"http://user:{QUOTED}@DEAD", NotSentError),
        ("https", f"http://user:{QUOTED}@DEAD", NotSentError),
        ("http", f"http://user:{QUOTED}@[::1", (NotSentError, ConfigurationError)),
        ("http", "http://127.0.0.1:port", (NotSentError, ConfigurationError)),
        ("http", "socks5://127.0.0.1:1", (NotSentError, ConfigurationError)),
        ("http", "ftp://127.0.0.1:1", (NotSentError, ConfigurationError)),
    ],
)
def test_a_proxy_that_cannot_be_used(
    mode: Mode,
    scheme: str,
    address: str,
    error: Any,
    tls: Tls,
    monkeypatch: pytest.MonkeyPatch,
    serve: Serve,
) -> None:
    server = serve(answer())
    url = server.url if scheme == "http" else tls.probe
    with proxying("user:other") as proxy:
        address = address.replace("REFUSING", proxy.address).replace("DEAD", f"127.0.0.1:{dead_port()}")
        monkeypatch.setenv(f"{scheme.upper()}_PROXY", address)
        with pytest.raises(error, match="proxy" if error is NotSentError else None) as caught:
            send(mode, settings(url, ca_bundle=tls.ca), get(url))
        assert proxy.refused == (proxy.address in address)
    assert server.heard == []
    for shown in (str(caught.value), repr(caught.value)):
        assert PASSWORD not in shown
        assert QUOTED not in shown
    # An error of another library may quote a proxy's address.
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


CONNECT_RESPONSES = {
    "closes": lambda connection: None,
    "resets": _reset,
    "breaks off": b"HTTP/1.1 2",
    "garbage": b"garbage\r\n\r\n",
    "silent": lambda connection: time.sleep(3),
    "drips": partial(_drip, b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "refuses": answer(502),
}


@pytest.mark.parametrize("step", CONNECT_RESPONSES.values(), ids=CONNECT_RESPONSES)
def test_a_proxy_that_does_not_serve(
    mode: Mode, step: Any, tls: Tls, monkeypatch: pytest.MonkeyPatch, serve: Serve, outcomes: list[str]
) -> None:
    proxy, began = serve(step), time.monotonic()
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    with pytest.raises(NotSentError):
        send(mode, settings(tls.url, ca_bundle=tls.ca, timeout=0.5), get(tls.probe))
    assert time.monotonic() - began < 2
    assert [one.line.split()[0] for one in proxy.heard] == ["CONNECT"]
    assert outcomes == ["not_sent"]


@pytest.mark.parametrize(
    ("exempt", "used"), [("127.0.0.1", 0), ("*", 0), ("example.org,127.0.0.0/8", 0), ("example.org", 1)]
)
def test_no_proxy(mode: Mode, exempt: str, used: int, monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    server = serve(answer())
    with proxying() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        monkeypatch.setenv("NO_PROXY", exempt)
        assert send(mode, settings(server.url), get(server.url)).status == 200
        assert len(proxy.heard) == used


# --- what must not change a request


def test_cookies_are_not_kept(mode: Mode, emulator: RunningEmulator, connect: Connect) -> None:
    with scripted(answer(503, Set_Cookie="route=1; Path=/"), answer(body="[]")) as server:
        connect(emulator.url, application_url=server.url)
        call(mode, LucidworksHook(), list_use_cases())
        assert ["cookie" in one.headers for one in server.heard] == [False, False]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(
    mode: Mode, emulator: RunningEmulator, status: int, connect: Connect
) -> None:
    with (
        scripted(answer()) as elsewhere,
        scripted(answer(status, b"", Location=f"{elsewhere.url}/x")) as server,
    ):
        connect(emulator.url, application_url=server.url)
        with pytest.raises(RequestRefusedError, match=f"HTTP {status}.*redirects are not followed"):
            submit(mode, LucidworksHook())
        assert (len(server.heard), elsewhere.heard) == (1, [])


@pytest.mark.parametrize("location", ["/login?m=\xe9", "http://[::1/x"])
def test_a_redirect_to_anywhere_says_why(
    mode: Mode, emulator: RunningEmulator, location: str, connect: Connect
) -> None:
    body = b'{"message": "please log in"}'
    head = f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: {len(body)}\r\n\r\n"
    with scripted(head.encode("latin-1") + body) as server:
        connect(emulator.url, application_url=server.url)
        with pytest.raises(RequestRefusedError, match=r"please log in \(redirects are not followed\)"):
            submit(mode, LucidworksHook())


def test_a_redirected_token_request_is_not_followed(mode: Mode, connect: Connect) -> None:
    with scripted(answer()) as elsewhere, scripted(answer(307, b"", Location=elsewhere.url)) as server:
        connect(server.url)
        with pytest.raises(LucidworksError, match="redirects are not followed"):
            get_token(mode, LucidworksHook())
        assert elsewhere.heard == []


# --- broken and missing answers


def test_refused(mode: Mode) -> None:
    url = f"http://127.0.0.1:{dead_port()}"
    with pytest.raises(NotSentError, match="no connection"):
        send(mode, settings(url), get(url))


@pytest.mark.parametrize("host", ["a..b", f"{'a' * 64}.invalid"])
def test_a_host_that_cannot_be_looked_up(mode: Mode, host: str) -> None:
    with pytest.raises(NotSentError, match="no connection"):
        send(mode, settings(f"https://{host}"), get(f"https://{host}/x"))


def test_unknown_host(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(NotSentError, match=r"nothing\.invalid: no connection"):
        send(mode, settings("https://nothing.invalid"), get("https://nothing.invalid/x"))


def test_a_slow_response_that_keeps_coming_is_waited_for(mode: Mode, serve: Serve) -> None:
    def trickle(connection: socket.socket) -> None:
        for byte in answer(body=b'{"a": 1}', Connection="close").partition(b"\r\n\r\n"):
            connection.sendall(byte)
            time.sleep(0.25)

    server = serve(trickle)
    assert send(mode, settings(server.url, timeout=0.5), get(server.url)).body == b'{"a": 1}'


def test_a_slow_upload_has_time_in_proportion_to_its_size(mode: Mode) -> None:
    def serve(connection: socket.socket) -> None:
        time.sleep(0.5)
        with connection.makefile("rb") as stream:
            read_request(stream)
        connection.sendall(answer())

    with listening(serve) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        upload = get(url, body=bytes(20_000_000))
        assert send(mode, settings(url, timeout=0.2), upload).status == 200


def test_metrics_count_a_failed_connection_as_not_sent(
    mode: Mode, tls: Tls, outcomes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = f"127.0.0.1:{dead_port()}"
    with pytest.raises(NotSentError):
        send(mode, settings(f"http://{dead}"), get(f"http://{dead}"))
    with pytest.raises(ConfigurationError):  # the certificate is not trusted
        send(mode, settings(tls.url), get(tls.probe))
    for no_tls in (lambda connection: connection.close(), lambda connection: time.sleep(1)):
        with listening(no_tls) as listener:
            url = f"https://127.0.0.1:{listener.getsockname()[1]}"
            with pytest.raises(NotSentError):
                send(mode, settings(url, timeout=0.2), get(url))
    monkeypatch.setenv("HTTP_PROXY", f"http://{dead}")
    with scripted(answer()) as server, pytest.raises(NotSentError):
        send(mode, settings(server.url), get(server.url))
    assert outcomes == ["not_sent"] * 5


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (lambda connection: None, ""),
        (_reset, ""),
        (answer(body=b'{"status": "RE', length=1000), ""),
        (CHUNKED + b"10\r\nabc", ""),
        (b"no http at all\r\n\r\n", ""),
        (answer(body=b"\x1f\x8b not gzip", Content_Encoding="gzip"), ""),
        (answer(body=GZIP[:-9], Content_Encoding="gzip"), "the gzip body is truncated"),
        (
            answer(body=gzip.compress(b"[") + GZIP[:-9], Content_Encoding="gzip"),
            "the gzip body is truncated",
        ),
        (answer(body=DEFLATE[:-9], Content_Encoding="deflate"), "the deflate body is truncated"),
        (lambda connection: time.sleep(3), r"no response within 0\.5 s"),
        (partial(_drip, b"HTTP/1.1 200 OK\r\nX: ", b"x"), r"no response within 0\.5 s"),
        (partial(_drip, b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"), r"no response within 0\.5 s"),
        (partial(_drip, CHUNKED + b"2;", b"x"), r"no response within 0\.5 s"),
        (partial(_drip, CHUNKED + b"2\r\n{}\r\n0\r\nX: ", b"x"), r"no response within 0\.5 s"),
    ],
    ids=[
        *(
            "closed",
            "reset",
            "cut",
            "cut-chunk",
            "garbage",
            "bad-gzip",
            "cut-gzip",
            "cut-member",
            "cut-deflate",
        ),
        *("timeout", "header", "interim", "chunk-extension", "trailer"),
    ],
)
def test_broken_responses(mode: Mode, step: Any, words: str, serve: Serve, outcomes: list[str]) -> None:
    server, began = serve(step), time.monotonic()
    with pytest.raises(TransportError, match=words or None) as caught:
        send(mode, settings(server.url, timeout=0.5), get(server.url))
    assert time.monotonic() - began < 2.5
    assert not isinstance(caught.value, NotSentError)
    assert caught.value.retryable
    assert "broke (str)" not in str(caught.value)
    assert len(server.heard) == 1
    assert outcomes == ["broken"]


def test_metrics_count_a_response_by_its_status(mode: Mode, serve: Serve, outcomes: list[str]) -> None:
    server = serve(answer(503))
    assert send(mode, settings(server.url), get(server.url)).status == 503
    assert outcomes == ["503"]


def test_a_tls_error_after_the_handshake_is_a_broken_connection(
    mode: Mode, outcomes: list[str], tmp_path: Path
) -> None:
    """A submission may have arrived, so it is not repeated."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    def plain(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            read_request(secured.makefile("rb"))
            os.write(secured.fileno(), answer(503))

    with listening(plain) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(TransportError, match="the connection broke") as caught:
            send(mode, settings(url, ca_bundle=str(tmp_path / "ca.pem")), get(url))
    assert not isinstance(caught.value, NotSentError)
    assert outcomes == ["broken"]


def test_a_forked_child_has_connections_of_its_own(emulator: RunningEmulator, connect: Connect) -> None:
    peers = []

    def serve(connection: socket.socket) -> None:
        peers.append(connection.getpeername())
        with connection, connection.makefile("rb") as stream:
            while read_request(stream):
                connection.sendall(answer(body="[]"))

    with listening(serve) as listener:
        connect(emulator.url, application_url=f"http://127.0.0.1:{listener.getsockname()[1]}")
        with closing(LucidworksHook()) as hook:
            hook.call(list_use_cases())
            if (child := os.fork()) == 0:
                try:
                    hook.call(list_use_cases())
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            hook.call(list_use_cases())
    assert len(peers) == 2


def test_dropped_by_the_emulator(mode: Mode, emulator: RunningEmulator) -> None:
    hook = LucidworksHook()
    get_token(mode, hook)
    emulator.state.faults.inject(Fault.from_json({"kind": "disconnect", "match": "submit"}))
    with pytest.raises(SubmissionUnknownError, match="connection broke"):
        submit(mode, hook)


def test_large_response(mode: Mode, serve: Serve) -> None:
    body = b"x" * 30_000_000
    server = serve(answer(body=body))
    assert send(mode, settings(server.url), get(server.url)).body == body


@pytest.mark.parametrize("content", [b"<html><h1>Please wait</h1></html>", b"[1, 2]", b""])
def test_a_success_that_is_no_json_object(mode: Mode, content: bytes, application: Application) -> None:
    application(answer(body=content, Content_Type="text/html"))
    hook = LucidworksHook()
    with pytest.raises(MalformedResponseError) as caught:
        call(mode, hook, get_chunking("441eb3be-7de6-470a-8141-e416a15c7db1"))
    assert "HTTP 200" in str(caught.value)
    assert repr(content.decode()) in str(caught.value)
    with pytest.raises(SubmissionUnknownError, match="HTTP 200"):
        submit(mode, hook)


@pytest.mark.parametrize("cut", [8, 1])
def test_compressed_data_without_its_end_may_be_complete(mode: Mode, cut: int, serve: Serve) -> None:
    data = gzip.compress(b'{"predictionId": "6a09"}')[:-cut]
    server = serve(answer(body=data, Content_Encoding="gzip"))
    assert send(mode, settings(server.url), get(server.url)).body == b'{"predictionId": "6a09"}'
