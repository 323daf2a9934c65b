# SPDX-License-Identifier: Apache-2.0
"""What every test may rely on: an Airflow home that is thrown away, and an emulator with a connection to it."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

# Airflow reads these when it is imported, so they are set before anything can import it.
_HOME = tempfile.mkdtemp(prefix="lucidworks-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)
os.environ.update(
    AIRFLOW_HOME=_HOME,
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lucidworks_provider.emulator.server import RunningEmulator

_NETWORK = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NETRC",
)


@pytest.fixture(autouse=True)
def masked_secrets() -> None:
    """
    Airflow compiles all secrets that it has seen into one pattern, again for each new one.

    It starts empty in each test: after hundreds of tests a connection takes half a second to read.
    """
    for module in ("airflow.sdk._shared.secrets_masker", "airflow._shared.secrets_masker"):
        if module in sys.modules:
            sys.modules[module].reset_secrets_masker()


@pytest.fixture(autouse=True)
def empty_memory_store() -> None:
    """fsspec's ``memory://`` is one for the process, and keeps the folders of other tests beside their files."""
    if module := sys.modules.get("fsspec.implementations.memory"):
        module.MemoryFileSystem.store.clear()
        module.MemoryFileSystem.pseudo_dirs[:] = [""]


@pytest.fixture
def plain_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, no CA bundle and no netrc of the environment."""
    for name in _NETWORK:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", _HOME)


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries after milliseconds; how long they wait for is the subject of other tests."""
    monkeypatch.setattr("lucidworks_provider.retrying.FIRST_WAIT", 0.01)


@pytest.fixture
def short_corpus_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of a corpus with shorter waits."""
    from lucidworks_provider.corpus import journal, lease, pipeline

    monkeypatch.setattr(lease, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(journal, "GROUP_SECONDS", 0.01)
    monkeypatch.setattr(journal, "WRITE_WAIT", 0.01)
    monkeypatch.setattr(pipeline, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(pipeline, "SHORTEST_DELAY", 0.01)
    monkeypatch.setattr(pipeline, "SUBMIT_WAIT", 0.01)


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Airflow's Variables, of which this process sees a copy of its own otherwise."""
    from lucidworks_provider.hooks.stores import variables as stores

    kept: dict[str, str] = {}
    monkeypatch.setattr(stores, "get_variable", kept.get)
    monkeypatch.setattr(stores, "set_variable", lambda key, value, description: kept.update({key: value}))
    return kept


@pytest.fixture
def forgotten_tokens() -> Iterator[None]:
    """No token of an earlier test, and none left for a later one."""
    from lucidworks_provider.client.auth.source import forget_sources

    forget_sources()
    yield
    forget_sources()


@pytest.fixture
def forgotten_queues() -> Iterator[None]:
    """No rate limit that an earlier test has run into, and none left for a later one."""
    from lucidworks_provider.client.http.rate_limiter import forget_queues

    forget_queues()
    yield
    forget_queues()


@pytest.fixture(scope="session")
def served_emulator() -> Iterator[RunningEmulator]:
    """One server for all tests: starting and stopping one takes longer than most tests."""
    from lucidworks_provider.emulator import running

    with running() as started:
        yield started


@pytest.fixture
def emulator(
    served_emulator: RunningEmulator,
    monkeypatch: pytest.MonkeyPatch,
    plain_network: None,
    short_waits: None,
    forgotten_tokens: None,
    forgotten_queues: None,
) -> RunningEmulator:
    """An emulator as if just started, and in the environment the connection ``lucidworks_default`` to it."""
    served_emulator.state.reset()
    monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", served_emulator.conn_json(share_via="memory"))
    return served_emulator


# Started first: nothing would be left to run beside a long file that starts last.
_LONGEST = (
    "test_stores_lease.py",
    "test_pages.py",
    "test_unit_protocol_machine.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort the tests of several processes (`-n 4`)."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.path.name not in _LONGEST)


def pytest_collection_finish() -> None:
    """Exclude the thousands of tests and modules from later garbage collections."""
    gc.collect()
    gc.freeze()
