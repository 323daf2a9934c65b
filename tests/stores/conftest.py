# SPDX-License-Identifier: Apache-2.0
"""A bucket of each store, and an empty folder in it for each test."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest
import store_servers

from dev.packages import install_azurite

# gcsfs would ask for the kind of the bucket through gRPC, which the server does not have.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"


@pytest.fixture(scope="session", params=["s3", "gs", "abfs"])
def bucket(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "abfs":
        if (command := install_azurite()) is None:
            pytest.skip("Azurite needs npm")
        with store_servers.abfs(command, tmp_path_factory.mktemp("azurite")) as uri:
            yield uri
        return
    with {"s3": store_servers.s3, "gs": store_servers.gs}[request.param]() as uri:
        yield uri


@pytest.fixture
def folder(bucket: str) -> str:
    return f"{bucket}/{uuid.uuid4().hex}"
