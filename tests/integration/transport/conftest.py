# SPDX-License-Identifier: Apache-2.0
"""Both clients, the connection, and scripted servers that end with the test."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from transport_wire import MODES, Application, Connect, Mode, Script, Serve, Step, connection_json, scripted

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
