# SPDX-License-Identifier: Apache-2.0
"""Servers that do exactly what a test says, and one face for the synchronous and the asynchronous client."""

import asyncio
import base64
import json
import select
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

from lucidworks_provider.client.chunking import submit_chunking
from lucidworks_provider.client.http.aio import shared_transport
from lucidworks_provider.client.http.messages import Call, Request, Response
from lucidworks_provider.client.http.sync import SyncTransport
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.emulator.faults import Fault
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.emulator.tokens import Scope
from lucidworks_provider.hooks.lucidworks import LucidworksHook

Mode = Literal["sync", "async"]
MODES: tuple[Mode, ...] = ("sync", "async")


def settings(url: str, **changes: Any) -> LucidworksSettings:
    """A connection to one server in place of all hosts."""
    defaults: dict[str, Any] = {"share_via": "memory", "timeout": 10.0}
    urls = {"application_url": url, "auth_url": url, "models_url": url}
    return LucidworksSettings("wire", "demo-client", "demo-secret", **(urls | defaults | changes))


def get(url: str, **changes: Any) -> Request:
    """A request that may be repeated."""
    options: dict[str, Any] = {"headers": {"Accept": "application/json"}, **changes}
    return Request("Look at it", "GET", url, True, "look", **options)


TOKEN = "t0ken"


def send(mode: Mode, wanted: LucidworksSettings, request: Request, token: str | None = TOKEN) -> Response:
    """One request over a client of its own."""
    if mode == "sync":
        with closing(SyncTransport(wanted)) as transport:
            return transport.send(request, token)

    async def asynchronously() -> Response:
        async with shared_transport(wanted) as transport:
            return await transport.send(request, token)

    return asyncio.run(asynchronously())


def call(mode: Mode, hook: LucidworksHook, this: Call[Any], **options: Any) -> Any:
    """Perform a call, in this thread or in an event loop."""
    return hook.call(this, **options) if mode == "sync" else asyncio.run(hook.acall(this, **options))


def get_token(mode: Mode, hook: LucidworksHook, *args: Any, **options: Any) -> str:
    """An access token of the hook, in this thread or in an event loop."""
    if mode == "sync":
        return hook.get_token(*args, **options)
    return asyncio.run(hook.aget_token(*args, **options))


def submit(mode: Mode, hook: LucidworksHook, text: str = "One. Two.") -> str:
    job_id: str = call(mode, hook, submit_chunking(text, chunker="sentence", model_id="gte-small"))
    return job_id


def fault(emulator: RunningEmulator, kind: str, match: str, times: int = 1, **more: Any) -> None:
    emulator.state.faults.inject(Fault.from_json({"kind": kind, "match": match, "times": times, **more}))


def kill(emulator: RunningEmulator) -> None:
    """The one token that is alive dies."""
    assert emulator.state.tokens.kill(list(Scope)) == 1


@dataclass(frozen=True)
class Tls:
    url: str
    ca: str
    other_ca: str
    missing: str
    state: Any

    @property
    def probe(self) -> str:
        """A page of the emulator that needs no token."""
        return f"{self.url}/_emulator/stats"


def dead_port() -> int:
    """A port without a listener."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
    return port


@dataclass
class Heard:
    """One request as a server received it."""

    line: str
    headers: Mapping[str, str]
    body: bytes


def answer(
    status: int = 200, body: bytes | str = b"{}", *, length: int | None = None, **headers: str
) -> bytes:
    """The bytes of an answer; ``length`` may be wrong."""
    data = body.encode() if isinstance(body, str) else body
    shown = {
        "Content_Type": "application/json",
        "Content_Length": str(len(data) if length is None else length),
        **headers,
    }
    lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in shown.items())]
    return "\r\n".join([*lines, "", ""]).encode() + data


Step = bytes | Callable[[socket.socket], None]


@dataclass
class Script:
    """
    A server that plays its steps one a request, the last one again and again.

    A step is the bytes of an answer, after which the connection closes if they are not whole; or a function.
    """

    url: str
    steps: list[Step]
    heard: list[Heard] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_step(self, request: Heard) -> Step:
        with self.lock:
            self.heard.append(request)
            return self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]


@contextmanager
def scripted(*steps: Step, port: int = 0) -> Iterator[Script]:
    """Play a script on a real socket."""
    script = Script("", list(steps))

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError), connection.makefile("rb") as stream:
            while (request := read_request(stream)) is not None:
                step = script.next_step(request)
                if callable(step):
                    step(connection)
                    return
                connection.sendall(step)
                head, _, body = step.partition(b"\r\n\r\n")
                if b"content-length: %d\r\n" % len(body) not in head.lower() + b"\r\n":
                    return

    with listening(serve, port) as listener:
        script.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield script


Serve = Callable[..., Script]
Connect = Callable[..., None]
Application = Callable[..., Script]


def read_request(stream: Any) -> Heard | None:
    line = stream.readline().decode("latin-1").strip()
    if not line:
        return None
    headers: dict[str, str] = {}
    while row := stream.readline().decode("latin-1").strip():
        name, _, value = row.partition(":")
        headers[name.lower()] = value.strip()
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(stream.readline(), 16):
            body += stream.read(size)
            stream.readline()
        stream.readline()
    else:
        body = stream.read(int(headers.get("content-length", 0)))
    return Heard(line, headers, body)


@contextmanager
def listening(serve: Callable[[socket.socket], None], port: int = 0) -> Iterator[socket.socket]:
    """Accept connections, each served in a thread."""
    listener = socket.create_server(("127.0.0.1", port), backlog=128)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield listener
    finally:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


@dataclass
class Proxy:
    """A forward proxy: ``heard`` are the requests for it, ``refused`` those without its password."""

    address: str
    heard: list[Heard] = field(default_factory=list)
    refused: int = 0


@contextmanager
def proxying(credentials: str | None = None) -> Iterator[Proxy]:
    """A real proxy for http (absolute form) and https (CONNECT), with Basic authentication if given."""
    proxy = Proxy("")
    expected = None if credentials is None else f"Basic {base64.b64encode(credentials.encode()).decode()}"

    def serve(connection: socket.socket) -> None:
        with connection, suppress(OSError), connection.makefile("rb") as stream:
            request = read_request(stream)
            if request is None:
                return
            if expected is not None and request.headers.get("proxy-authorization") != expected:
                proxy.refused += 1
                connection.sendall(answer(407, b"", Proxy_Authenticate="Basic", Connection="close"))
                return
            proxy.heard.append(request)
            method, target, _ = request.line.split(" ")
            parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
            with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=10) as upstream:
                if method == "CONNECT":
                    connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
                else:
                    path = parts.path + (f"?{parts.query}" if parts.query else "")
                    kept = {n: v for n, v in request.headers.items() if n != "proxy-authorization"}
                    kept["connection"] = "close"
                    rows = [f"{method} {path} HTTP/1.1", *(f"{n}: {v}" for n, v in kept.items()), "", ""]
                    upstream.sendall("\r\n".join(rows).encode("latin-1") + request.body)
                _shovel(connection, upstream)

    with listening(serve) as listener:
        proxy.address = f"127.0.0.1:{listener.getsockname()[1]}"
        yield proxy


def _shovel(one: socket.socket, other: socket.socket) -> None:
    while True:
        for source in select.select([one, other], [], [], 20)[0]:
            data = source.recv(65536)
            if not data:
                return
            (other if source is one else one).sendall(data)


def connection_json(url: str, **extra: Any) -> str:
    """An Airflow connection to one server in place of all hosts."""
    urls = {"auth_url": url, "application_url": url, "models_url": url, "share_via": "memory"}
    return json.dumps(
        {"conn_type": "lucidworks", "login": "demo-client", "password": "demo-secret", "extra": urls | extra}
    )
