# SPDX-License-Identifier: Apache-2.0
"""The channel to the supervisor, in processes that inherit it."""

import json
import os
import pathlib
from collections.abc import Callable
from socket import socketpair
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time import task_runner

from lucidworks_provider.errors import ConfigurationError, TokenStoreError
from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook
from lucidworks_provider.hooks.stores.variables import get_variable, set_variable
from lucidworks_provider.hooks.task_channel import has_foreign_channel


class Channel:
    """Records what is sent, also by a forked child."""

    def __init__(self) -> None:
        self.socket, self.other = socketpair()

    def send(self, message: Any) -> None:
        self.socket.sendall(type(message).__name__.encode() + b" ")

    def sent(self) -> bytes:
        self.other.setblocking(False)
        try:
            return self.other.recv(10_000)
        except BlockingIOError:
            return b""


@pytest.fixture
def channel(monkeypatch: pytest.MonkeyPatch) -> Channel:
    found = Channel()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", found, raising=False)
    return found


def in_fork(call: Callable[[], Any]) -> dict[str, Any]:
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            try:
                found = {"result": call()}
            except Exception as err:  # noqa: BLE001 - for the parent
                found = {"error": type(err).__name__, "retryable": getattr(err, "retryable", None)}
            os.write(writer, json.dumps(found).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        return json.load(file)


def settings(conn_id: str) -> str:
    return LucidworksAuthHook(conn_id).get_settings().client_id


@pytest.mark.parametrize(
    "call", [lambda: get_variable("a"), lambda: set_variable("a", "b", "")], ids=["read", "write"]
)
def test_a_forked_child_sends_nothing(channel: Channel, call: Callable[[], Any]) -> None:
    assert in_fork(call) == {"error": TokenStoreError.__name__, "retryable": False}
    assert channel.sent() == b""
    set_variable("a", "b", "")
    assert b"PutVariable" in channel.sent()


def test_a_forked_child_of_a_child_sends_nothing(channel: Channel) -> None:
    found = in_fork(lambda: in_fork(lambda: get_variable("a")))
    assert found == {"result": {"error": TokenStoreError.__name__, "retryable": False}}
    assert channel.sent() == b""


def test_a_forked_child_reads_connections_of_the_environment_only(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"application_url": "https://a.example", "customer_id": "c"}
    here = {"conn_type": "lucidworks", "login": "id", "password": "secret", "host": "app", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_HERE", json.dumps(here))
    assert in_fork(lambda: settings("here")) == {"result": "id"}
    assert in_fork(lambda: settings("stored")) == {"error": ConfigurationError.__name__, "retryable": False}
    assert channel.sent() == b""


def test_a_supervisor_forks_a_task_with_a_channel_of_its_own(channel: Channel) -> None:
    def task() -> bool:
        task_runner.SUPERVISOR_COMMS = Channel()
        return has_foreign_channel()

    assert in_fork(task) == {"result": False}
    assert not has_foreign_channel()


def test_a_channel_whose_descriptor_was_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """As multiprocessing does in a forked child, which may import this package first."""
    one, _other = socketpair()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", SimpleNamespace(socket=one), raising=False)
    assert not has_foreign_channel()
    with pathlib.Path(os.devnull).open() as null:
        os.dup2(null.fileno(), one.fileno())
    assert has_foreign_channel()
