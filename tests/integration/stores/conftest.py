# SPDX-License-Identifier: Apache-2.0
"""A bucket of each store, and an empty folder in it for each test."""

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache

import pytest
import store_servers
from store_servers import Store

from dev.packages import install_azurite

# gcsfs would request the kind of the bucket through gRPC, which the server does not have.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Store]]:
    """
    A store, whose server starts at the first request for it and lives as long as the session.

    One for each parameter would start again whenever pytest comes back to a store, at another address than the
    one that its file system has kept.
    """
    with ExitStack() as stack:

        @cache
        def start(store: str) -> Store:
            if store != "abfs":
                return stack.enter_context({"s3": store_servers.s3, "gs": store_servers.gs}[store]())
            if (command := install_azurite()) is None:
                pytest.skip("Azurite needs npm and its registry")
            return stack.enter_context(store_servers.abfs(command, tmp_path_factory.mktemp("azurite")))

        yield start


@pytest.fixture(autouse=True)
def quickly(short_corpus_waits: None) -> None:
    """The same steps, with shorter waits."""


@pytest.fixture(params=["s3", "gs", "abfs"])
def store(request: pytest.FixtureRequest, servers: Callable[[str], Store]) -> Iterator[Store]:
    store = servers(request.param)
    yield store
    store.proxy.heal()
    store.proxy.latency = 0.0


@pytest.fixture
def folder(store: Store) -> str:
    return f"{store.uri}/{uuid.uuid4().hex}"
