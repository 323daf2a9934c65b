# SPDX-License-Identifier: Apache-2.0
"""delta-rs, Polars and DuckDB read what this package writes, row by row like its own reader."""

from __future__ import annotations

from pathlib import Path

import pytest
from delta_world import World, agree, row


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "chunks")


def test_every_state_of_a_table(world: World) -> None:
    world.create([row(n) for n in range(10)])
    assert len(agree(world.uri)) == 10
    world.change([row(n) for n in range(10, 20)], txn=1)
    assert len(agree(world.uri)) == 20
    world.change([row(3, "b")], delete=["doc-3", "doc-13", "doc-14"], txn=2)
    assert len(agree(world.uri)) == 18
