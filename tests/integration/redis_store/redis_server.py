# SPDX-License-Identifier: Apache-2.0
"""A Redis server for tests, and the Airflow connection that leads to it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import redis

REDIS_CONN_ID = "shared_redis"
PASSWORD = "pa55-w0rd-of-redis"


class RedisServer:
    """A ``redis-server`` process on a free port of the loopback interface, with nothing on disk."""

    def __init__(self, binary: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._binary = binary
        self._folder = folder
        self._monkeypatch = monkeypatch
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.password: str | None = None

    def start(self, *options: str, password: str | None = None, port: int = 0) -> None:
        """Start it, and set its address for Airflow."""
        self.password = password
        for _ in range(5):
            self.port = port or free_port()
            command = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
            command += ["--appendonly", "no", "--dir", str(self._folder), *options]
            if password:
                command += ["--requirepass", password]
            with (self._folder / "redis.log").open("ab") as output:
                self._process = subprocess.Popen(command, stdout=output, stderr=output)
            if self._answers():
                break
        else:
            pytest.fail((self._folder / "redis.log").read_text())
        self.connect()

    def connect(self, **parts: Any) -> None:
        """
        Write the Airflow connection.

        :param parts: what is different from a connection that works.
        """
        conn = {"conn_type": "redis", "host": "127.0.0.1", "port": self.port, "password": self.password}
        self._monkeypatch.setenv(f"AIRFLOW_CONN_{REDIS_CONN_ID.upper()}", json.dumps(conn | parts))

    def client(self, **options: Any) -> redis.Redis:
        """A client of the test's own, to look behind the curtain."""
        import redis

        return redis.Redis(host="127.0.0.1", port=self.port, **{"password": self.password, **options})

    def signal(self, number: int) -> None:
        """Send the process a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        """Stop it, paused or not."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        end = time.monotonic() + 10
        while time.monotonic() < end and self._process is not None and self._process.poll() is None:
            with socket.socket() as probe:
                probe.settimeout(1)
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    # Whatever it answers (without the password, a refusal), it is there.
                    probe.sendall(b"PING\r\n")
                    if probe.recv(16):
                        return True
            time.sleep(0.01)
        return False


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
