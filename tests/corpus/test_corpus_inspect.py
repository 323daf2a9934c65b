# SPDX-License-Identifier: Apache-2.0
"""What runs leave behind passes inspection, night after night."""

from __future__ import annotations

import json

import pytest
from corpus_world import World  # noqa: TC002

from lucidworks_provider.documents.inspect import Inspection, inspect
from lucidworks_provider.errors import LucidworksError


def inspected(world: World) -> Inspection:
    return inspect(str(world.output), source=str(world.source))


def test_night_after_night(world: World) -> None:
    world.set(max_reject_ratio=0.5, max_text_bytes=2_000, json_lines=True)
    for number in range(20):
        world.write(f"{number:02}.txt", f"Dökument {number} tells something. 🐄 " * 10)
    world.write("long.md", "A sentence of a long text, ünd more.\n\n" * 400)
    world.write(
        "records.jsonl", "".join(json.dumps({"id": f"r{n}", "text": "x " * n}) + "\n" for n in range(5))
    )
    world.write("junk.txt", b"\x00\x01" * 500)
    world.run()
    found = inspected(world)
    assert list(found.faults.lines()) == []
    assert found.rejects == {"binary": 1, "empty": 1}

    world.write("03.txt", "Changed. " * 30)
    world.write("new.html", "<p>New &amp; fine.</p>" * 20)
    (world.source / "04.txt").unlink()
    found = inspected(world)
    assert {kind.partition(" ")[0]: count for kind, count in found.faults.counts.items()} == {"documents": 1}
    assert len(found.faults.counts) == 2  # one changed, one new

    world.run()
    found = inspected(world)
    assert list(found.faults.lines()) == []
    assert "'04.txt'" in " ".join(found.notes)

    world.set(prune=True)
    world.run()
    found = inspected(world)
    assert list(found.faults.lines()) == []
    assert "04.txt" not in " ".join(found.notes)


def test_after_a_run_that_failed(world: World) -> None:
    world.write("a.txt", "A text. " * 30)
    world.run()
    for number in range(5):
        world.write(f"{number}.txt", b"\x00" * 100)
    with pytest.raises(LucidworksError, match="max_reject_ratio"):
        world.run()
    # The dataset is as it was, and the rejects are those of the run after it.
    found = inspect(str(world.output))
    assert list(found.faults.lines()) == []
    assert any("under way, or died" in note for note in found.notes)
