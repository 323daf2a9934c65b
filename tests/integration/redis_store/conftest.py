# SPDX-License-Identifier: Apache-2.0
"""A real Redis server for each test."""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis_server import PASSWORD, RedisServer


def _missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI is where these tests must run", pytrace=False)
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def redis_binary() -> str:
    """Where ``redis-server`` is; installed if that can be done."""
    if (
        importlib.util.find_spec("redis") is None
        or importlib.util.find_spec("airflow.providers.redis") is None
    ):
        _missing("the extra `redis`")
    if shutil.which("redis-server") is None and shutil.which("apt-get") and os.geteuid() == 0:
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", "redis-server"]):
            subprocess.run(["apt-get", "-qq", *arguments], check=False)
    found = shutil.which("redis-server")
    if found is None:
        _missing("redis-server (Debian: apt-get install redis-server)")
    assert found is not None
    return found


@pytest.fixture
def idle_server(redis_binary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisServer]:
    """A server that the test starts, with options of its own."""
    server = RedisServer(redis_binary, tmp_path, monkeypatch)
    yield server
    server.stop()


@pytest.fixture
def server(idle_server: RedisServer) -> RedisServer:
    """A server with a password, and an Airflow connection that leads to it."""
    idle_server.start(password=PASSWORD)
    return idle_server
