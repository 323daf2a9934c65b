# SPDX-License-Identifier: Apache-2.0
"""A folder of each kind of storage; properties without a deadline, since other processes may have the processor."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from memory_store import memory_store

settings.register_profile("unit", deadline=None)
settings.load_profile("unit")


@pytest.fixture(params=["path", "file", "memory"])
def base(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty folder."""
    if request.param == "memory":
        memory_store()
        return "memory://bucket"
    return str(tmp_path) if request.param == "path" else f"file://{tmp_path}"
