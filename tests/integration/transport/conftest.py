# SPDX-License-Identifier: Apache-2.0
"""Both clients, the connection, and scripted servers that end with the test."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import trustme
from transport_wire import (
    MODES,
    Application,
    Connect,
    Mode,
    Script,
    Serve,
    Step,
    Tls,
    connection_json,
    scripted,
)

from lucidworks_provider.emulator import running
from lucidworks_provider.emulator.server import RunningEmulator


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> Mode:
    chosen: Mode = request.param
    return chosen


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Connect:
    """Make one server, or several by name, the default connection."""

    def change(url: str, *, secret: str | None = None, **extra: Any) -> None:
        connection = connection_json(url, **extra).replace("demo-secret", secret or "demo-secret")
        monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", connection)

    return change


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server that plays steps."""
    with ExitStack() as servers:
        yield lambda *steps, **options: servers.enter_context(scripted(*steps, **options))


@pytest.fixture
def application(emulator: RunningEmulator, connect: Connect, serve: Serve) -> Application:
    """Start an application that plays steps, and connect to it; tokens are the emulator's."""

    def start(*steps: Step) -> Script:
        server = serve(*steps)
        connect(emulator.url, application_url=server.url)
        return server

    return start


@pytest.fixture
def issued(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every token that the emulator issues."""
    tokens: list[str] = []
    issue = emulator.state.tokens.issue

    def noting(*args: Any, **options: Any) -> Any:
        text, token = issue(*args, **options)
        tokens.append(text)
        return text, token

    monkeypatch.setattr(emulator.state.tokens, "issue", noting)
    return tokens


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tls]:
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    cert, key, ca, other = (folder / f"{name}.pem" for name in ("cert", "key", "ca", "other"))
    issued.cert_chain_pems[0].write_to_path(cert)
    issued.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    trustme.CA().cert_pem.write_to_path(other)
    with running(ssl_certfile=cert, ssl_keyfile=key) as started:
        yield Tls(started.url, str(ca), str(other), str(folder / "missing.pem"), started.state)
