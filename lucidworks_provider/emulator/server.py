# SPDX-License-Identifier: Apache-2.0
"""The emulator on a real socket, in a thread of this process."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn

from lucidworks_provider.emulator.app import create_app
from lucidworks_provider.emulator.connections import DroppableH11Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from lucidworks_provider.emulator.settings import EmulatorSettings
    from lucidworks_provider.emulator.state import EmulatorState

_START_SECONDS = 15.0
_STOP_SECONDS = 10.0


@dataclass(frozen=True)
class RunningEmulator:
    """A started emulator; ``state`` is for tests in the same process."""

    url: str
    state: EmulatorState

    def conn_json(self, **extra: str) -> str:
        """
        Return an Airflow connection to this emulator, for AIRFLOW_CONN_LUCIDWORKS_DEFAULT.

        :param extra: further fields of its extra, for example ``share_via="memory"`` in a test.
        """
        client_id, secret = next(iter(self.state.settings.clients.items()))
        urls = dict.fromkeys(("auth_url", "application_url", "models_url"), self.url)
        extra = {**urls, "customer_id": self.state.settings.customer_id, **extra}
        connection = {
            "conn_type": "lucidworks",
            "login": client_id,
            "password": secret,
            "host": "emulated-app",
        }
        return json.dumps({**connection, "extra": extra})


@contextmanager
def running(
    settings: EmulatorSettings | None = None,
    port: int = 0,
    *,
    host: str = "127.0.0.1",
    ssl_certfile: str | Path | None = None,
    ssl_keyfile: str | Path | None = None,
) -> Iterator[RunningEmulator]:
    """Serve an emulator until the block ends; port 0 picks a free one."""
    app = create_app(settings)
    state: EmulatorState = app.state.emulator
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, port), family=family, backlog=2048) as listener:
        # asyncio sets it only on sockets that name their protocol, which these do not; without it each response
        # on a kept connection waits 40 ms for the other side's delayed acknowledgement.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        config = uvicorn.Config(
            app,
            http=DroppableH11Protocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            proxy_headers=False,
            access_log=False,
            log_level="warning",
            # An idle connection outlives the pauses between polls, so a client's pool can be tested too.
            timeout_keep_alive=60,
            # A fault that sleeps must not hold up the end of a test.
            timeout_graceful_shutdown=1,
            ssl_certfile=ssl_certfile,
            ssl_keyfile=str(ssl_keyfile) if ssl_keyfile else None,
        )
        # Here, because an error in the server's thread would only be logged.
        config.load()
        server = uvicorn.Server(config)
        thread = threading.Thread(
            target=server.run, args=([listener],), name="lucidworks-emulator", daemon=True
        )
        thread.start()
        try:
            _await_start(server, thread)
            # Of all addresses, the loopback is the one to which the provider sends plain http.
            name = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104
            name = f"[{name}]" if ":" in name else name
            scheme = "https" if ssl_certfile else "http"
            yield RunningEmulator(f"{scheme}://{name}:{listener.getsockname()[1]}", state)
        finally:
            server.should_exit = True
            thread.join(_STOP_SECONDS)
            state.close()


def _await_start(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the emulator did not start")
        time.sleep(0.005)
