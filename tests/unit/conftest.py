# SPDX-License-Identifier: Apache-2.0
"""A folder of each kind of storage."""

from __future__ import annotations

from pathlib import Path

import pytest
from memory_store import memory_store


@pytest.fixture(params=["path", "file", "memory"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty folder."""
    if request.param == "memory":
        memory_store()
        return "memory://bucket"
    return str(tmp_path) if request.param == "path" else f"file://{tmp_path}"
