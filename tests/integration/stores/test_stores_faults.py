# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a store or with access to it: one error within seconds that names the URI and the connection."""

import os
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from store_servers import Store

from lucidworks_provider.documents.source import list_source
from lucidworks_provider.errors import ConfigurationError, LucidworksError
from lucidworks_provider.storage import create_file, read_file, write_file

XML = '<?xml version="1.0" encoding="utf-8"?><Error><Code>{}</Code><Message>No.</Message></Error>'
ACTIONS: dict[str, Callable[[str], Any]] = {
    "read": lambda folder: read_file(f"{folder}/a.txt"),
    "write": lambda folder: write_file(f"{folder}/a.txt", b"a"),
    "create": lambda folder: create_file(f"{folder}/a.txt", b"a"),
    "list": lambda folder: list(list_source(folder)),
}


def error_of(action: Callable[[str], Any], folder: str) -> LucidworksError:
    began = time.monotonic()
    with pytest.raises(LucidworksError) as caught:
        action(folder)
    assert time.monotonic() - began < 5
    assert folder in str(caught.value)
    return caught.value


def login(folder: str) -> str:
    """What an error calls the connection of a URI."""
    conn_id, named, _ = folder.partition("://")[2].rpartition("@")
    return f"connection '{conn_id}'" if named else "the worker's own credentials"


@pytest.fixture(autouse=True)
def opened(folder: str) -> None:
    """The first access imports Airflow's provider."""
    write_file(f"{folder}/first.txt", b"")


@pytest.mark.parametrize("action", ["write", "create"])
def test_a_bucket_that_does_not_exist(store: Store, action: str) -> None:
    folder = f"{store.uri.removesuffix('bucket')}no-such-bucket/folder"
    message = str(error_of(ACTIONS[action], folder))
    assert f"There is no bucket or container 'no-such-bucket' for {login(store.uri)}" in message


def test_a_source_in_a_bucket_that_does_not_exist(store: Store) -> None:
    folder = f"{store.uri.removesuffix('bucket')}no-such-bucket/folder"
    message = str(error_of(ACTIONS["list"], folder))
    assert re.search(
        "There is no bucket or container 'no-such-bucket'|there is no file and no folder", message
    )


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("status", [401, 403])
def test_access_that_is_denied(store: Store, folder: str, action: str, status: int) -> None:
    with store.proxy.failing(status=status, text=XML.format("AccessDenied")):
        message = str(error_of(ACTIONS[action], folder))
    assert f"Access is denied to {login(store.uri)}" in message
    assert ("storage.objects.delete" in message) == (
        store.uri.startswith("gs") and action == "write" and status == 403
    )


@pytest.mark.parametrize("store", ["abfs"], indirect=True)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_wrong_key(folder: str, action: str, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = os.environ["AIRFLOW_CONN_TEST_ABFS"].replace("AccountKey=Eby8", "AccountKey=Eby9")
    monkeypatch.setenv("AIRFLOW_CONN_WRONG_KEY", connection)
    message = str(error_of(ACTIONS[action], folder.replace("test_abfs@", "wrong_key@")))
    assert "Access is denied to connection 'wrong_key'" in message
    assert "<?" not in message


@pytest.mark.parametrize("store", ["s3", "abfs"], indirect=True)
@pytest.mark.parametrize("action", ACTIONS)
def test_a_connection_that_does_not_exist(folder: str, action: str) -> None:
    other = re.sub("://.*@", "://no_such@", folder)
    error = error_of(ACTIONS[action], other)
    assert isinstance(error, ConfigurationError)
    assert "there is no connection 'no_such'" in str(error)


def test_faults_of_the_store_cost_seconds(store: Store, folder: str) -> None:
    began = time.monotonic()
    for number in range(3):
        store.proxy.fail(status=503, text=XML.format("SlowDown"), times=1)
        write_file(f"{folder}/{number}.txt", b"a")
        store.proxy.fail(status=503, text=XML.format("SlowDown"), times=1)
        assert read_file(f"{folder}/{number}.txt") == b"a"
    # Azure's client would wait for 18 s each time.
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("store", ["abfs"], indirect=True)
@pytest.mark.parametrize("action", ACTIONS)
def test_an_account_whose_name_is_only_the_login(
    folder: str, action: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_ONLY_LOGIN", '{"conn_type": "wasb", "login": "account", "password": "a2V5"}'
    )
    message = str(error_of(ACTIONS[action], folder.replace("test_abfs@", "only_login@")))
    assert "Give connection 'only_login' the field account_name in its extra" in message
