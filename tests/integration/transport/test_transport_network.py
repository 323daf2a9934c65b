# SPDX-License-Identifier: Apache-2.0
"""
On one network both clients behave alike: private authorities, proxies, redirects, broken answers.

Each test runs over requests and over aiohttp against real sockets.
"""

import os
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from transport_wire import (
    Application,
    Connect,
    Mode,
    Serve,
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
from lucidworks_provider.emulator import running
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

PASSWORD = "pr0xy-p@ss"


@dataclass(frozen=True)
class Tls:
    url: str
    ca: str
    other_ca: str
    state: Any

    @property
    def probe(self) -> str:
        """A page of the emulator that needs no token."""
        return f"{self.url}/_emulator/stats"


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    folder: Path = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    cert, key, ca, other = (folder / f"{name}.pem" for name in ("cert", "key", "ca", "other"))
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    trustme.CA().cert_pem.write_to_path(other)
    with running(ssl_certfile=cert, ssl_keyfile=key) as started:
        yield Tls(started.url, str(ca), str(other), started.state)


# --- private authorities


def test_untrusted_authority_names_the_cure(mode: Mode, tls: Tls) -> None:
    with pytest.raises(ConfigurationError, match=r"'wire'.*`ca_bundle`"):
        send(mode, settings(tls.url), get(tls.probe))


def test_early_hints_over_tls(mode: Mode, tls: Tls) -> None:
    tls.state.faults.inject(Fault.from_json({"kind": "early-hints", "match": "usecases"}))
    answer = send(mode, settings(tls.url, ca_bundle=tls.ca), get(f"{tls.url}/ai/usecases"))
    assert answer.status == 401
    assert tls.state.faults.open() == []


def test_trusted_by_the_connection(mode: Mode, tls: Tls) -> None:
    assert send(mode, settings(tls.url, ca_bundle=tls.ca), get(tls.probe)).status == 200


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_trusted_by_the_environment(
    mode: Mode, tls: Tls, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, tls.ca)
    assert send(mode, settings(tls.url), get(tls.probe)).status == 200


def test_the_connection_wins_over_the_environment(
    mode: Mode, tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.other_ca)
    assert send(mode, settings(tls.url, ca_bundle=tls.ca), get(tls.probe)).status == 200
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.ca)
    with pytest.raises(ConfigurationError):
        send(mode, settings(tls.url, ca_bundle=tls.other_ca), get(tls.probe))


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_not_verified(mode: Mode, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    assert send(mode, settings(tls.url, verify=False), get(tls.probe)).status == 200
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.other_ca)
    assert send(mode, settings(tls.url, verify=False), get(tls.probe)).status == 200


def test_wrong_host_name(mode: Mode, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def resolve(host: Any, *args: Any, **options: Any) -> Any:
        return real("127.0.0.1" if host in {"other.test", b"other.test"} else host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(ConfigurationError, match=r"other\.test"):
        send(mode, settings(tls.url, ca_bundle=tls.ca), get(tls.probe.replace("127.0.0.1", "other.test")))


@pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
def test_the_session_trusts_like_the_transports(
    tls: Tls, monkeypatch: pytest.MonkeyPatch, connect: Connect
) -> None:
    def status(**extra: object) -> int:
        connect(tls.url, **extra)
        return LucidworksHook().get_conn().get("/ai/usecases").status_code

    assert status(ca_bundle=tls.ca) == 200
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", tls.other_ca)
    assert status(ca_bundle=tls.ca) == 200
    assert status(verify=False) == 200
    with pytest.raises(requests.exceptions.SSLError):
        status()


@pytest.fixture(params=["missing", "no-pem"])
def bad_bundle(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / f"{request.param}.pem"
    if request.param == "no-pem":
        path.write_text("this is no certificate\n")
    return str(path)


def test_an_unusable_bundle_of_the_environment(
    mode: Mode, tls: Tls, bad_bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bad_bundle)
    with pytest.raises(ConfigurationError):
        send(mode, settings(tls.url), get(tls.probe))


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
        monkeypatch.setenv(
            f"{scheme.upper()}_PROXY", f"http://user:{PASSWORD.replace('@', '%40')}@{proxy.address}"
        )
        url = server.url if scheme == "http" else tls.probe
        assert send(mode, settings(url, ca_bundle=tls.ca), get(url)).status == 200
        assert (len(proxy.heard), proxy.refused) == (1, 0)


def test_proxy_that_refuses_the_password(mode: Mode, tls: Tls, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxying("user:other") as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD.replace('@', '%40')}@{proxy.address}")
        with pytest.raises(NotSentError, match="proxy") as caught:
            send(mode, settings(tls.url, ca_bundle=tls.ca), get(tls.probe))
        assert proxy.refused == 1
    assert_hides(caught.value, PASSWORD, PASSWORD.replace("@", "%40"))


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_dead_proxy(mode: Mode, scheme: str, tls: Tls, monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://user:secretive@127.0.0.1:{dead_port()}")
    server = serve(answer())
    url = server.url if scheme == "http" else tls.probe
    with pytest.raises(NotSentError, match="proxy") as caught:
        send(mode, settings(url, ca_bundle=tls.ca), get(url))
    assert server.heard == []
    assert_hides(caught.value, "secretive")


@pytest.mark.parametrize(
    "address",
    ["http://user:hidden@[::1", "http://127.0.0.1:port", "socks5://127.0.0.1:1", "ftp://127.0.0.1:1"],
)
def test_unusable_proxy(mode: Mode, address: str, monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    monkeypatch.setenv("HTTP_PROXY", address)
    server = serve(answer())
    with pytest.raises((NotSentError, ConfigurationError)) as caught:
        send(mode, settings(server.url), get(server.url))
    assert server.heard == []
    assert_hides(caught.value, "hidden")


@pytest.mark.parametrize("exempt", ["127.0.0.1", "*", "example.org,127.0.0.0/8"])
def test_no_proxy(mode: Mode, exempt: str, monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{dead_port()}")
    monkeypatch.setenv("NO_PROXY", exempt)
    server = serve(answer())
    assert send(mode, settings(server.url), get(server.url)).status == 200


def test_no_proxy_for_another_host_does_not_help(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "example.org")
    with scripted(answer()) as server, proxying() as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://{proxy.address}")
        send(mode, settings(server.url), get(server.url))
        assert len(proxy.heard) == 1


# --- what must not change a request


def test_cookies_are_not_kept_for_others(mode: Mode, serve: Serve) -> None:
    server = serve(answer(Set_Cookie="route=1; Path=/"), answer())
    for _ in range(2):
        send(mode, settings(server.url), get(server.url))
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


def test_unknown_host(mode: Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(NotSentError, match=r"nothing\.invalid: no connection"):
        send(mode, settings("https://nothing.invalid"), get("https://nothing.invalid/x"))


def test_no_response_in_time(mode: Mode, serve: Serve) -> None:
    server = serve(lambda connection: time.sleep(3))
    began = time.monotonic()
    with pytest.raises(TransportError, match=r"no response within 0\.2 s") as caught:
        send(mode, settings(server.url, timeout=0.2), get(server.url))
    assert time.monotonic() - began < 2.5
    assert not isinstance(caught.value, NotSentError)


def test_a_slow_response_that_keeps_coming_is_waited_for(mode: Mode, serve: Serve) -> None:
    def trickle(connection: socket.socket) -> None:
        for byte in answer(body=b'{"a": 1}', Connection="close").partition(b"\r\n\r\n"):
            connection.sendall(byte)
            time.sleep(0.25)

    server = serve(trickle)
    assert send(mode, settings(server.url, timeout=0.5), get(server.url)).body == b'{"a": 1}'


def _reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(
    "step",
    [
        lambda connection: None,
        _reset,
        answer(body=b'{"status": "RE', length=1000),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nabc",
        b"no http at all\r\n\r\n",
        answer(body=b"\x1f\x8b not gzip", Content_Encoding="gzip"),
    ],
    ids=["closed", "reset", "cut", "cut-chunk", "garbage", "bad-gzip"],
)
def test_broken_responses(mode: Mode, step: Any, serve: Serve) -> None:
    server = serve(step)
    with pytest.raises(TransportError) as caught:
        send(mode, settings(server.url), get(server.url))
    assert not isinstance(caught.value, NotSentError)
    assert caught.value.retryable
    assert "broke (str)" not in str(caught.value)
    assert len(server.heard) == 1


@pytest.fixture
def outcomes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What metrics count, in the order of requests."""
    counted: list[str] = []
    monkeypatch.setattr(metrics, "request", lambda endpoint, outcome, seconds: counted.append(str(outcome)))
    return counted


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
    ("step", "counted"),
    [
        (lambda connection: None, "broken"),
        (_reset, "broken"),
        (answer(body=b'{"status": "RE', length=1000), "broken"),
        (lambda connection: time.sleep(0.5), "broken"),
        (answer(503), "503"),
    ],
    ids=["closed", "reset", "cut", "timeout", "503"],
)
def test_metrics_count_what_follows_a_connection(
    mode: Mode, outcomes: list[str], step: Any, counted: str
) -> None:
    with scripted(step) as server, suppress(TransportError):
        send(mode, settings(server.url, timeout=0.2), get(server.url))
    assert outcomes == [counted]


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


def assert_hides(error: BaseException, *secrets: str) -> None:
    """An error shows no secret, and drags no error of another library along, which may quote a proxy's address."""
    for secret in secrets:
        assert secret not in str(error)
        assert secret not in repr(error)
    assert error.__cause__ is None
    assert error.__suppress_context__
