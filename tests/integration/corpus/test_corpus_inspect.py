# SPDX-License-Identifier: Apache-2.0
"""What runs write passes inspection, night after night, and whatever other writers do to the tables is named."""

from typing import Any

import deltalake
import pyarrow.compute as pc
import pytest
from corpus_world import World, killed

from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus import open_dataset, publish
from lucidworks_provider.corpus.dataset import changes
from lucidworks_provider.corpus.inspect import Inspection, inspect
from lucidworks_provider.errors import LucidworksError

MISSING = "documents whose chunks are missing"


def inspected(world: World) -> Inspection:
    return inspect(str(world.output), source=str(world.source))


def fine(world: World) -> Inspection:
    found = inspected(world)
    assert list(found.problems()) == []
    return found


def chunks(world: World) -> deltalake.DeltaTable:
    return deltalake.DeltaTable(str(world.output / "chunks"))


def write(world: World, *numbers: int, words: str = "tells something. 🐄 ") -> None:
    for number in numbers:
        world.write(f"{number:02}.txt", f"Dökument {number} {words}" * 30)


def quantised(text: str, body: dict[str, Any]) -> dict[str, Any]:
    for vector in body["chunkedData"][0]["vectors"]:
        vector["vector"] = [1, -2, 3]
    return body


def test_night_after_night(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "SMALL_FILES", 4)
    world.set(max_reject_ratio=0.5, max_text_bytes=2_000)
    write(world, *range(20))
    world.write("long.md", "A sentence of a long text, ünd more.\n\n" * 400)
    world.records("records.jsonl", **{f"r{number}": "x " * number for number in range(5)})
    world.write("junk.txt", b"\x00\x01" * 500)
    world.run()
    assert fine(world).about["rejects"] == "binary 1, empty 1"

    write(world, 3, words="is changed. ")
    world.write("new.html", "<p>New &amp; fine.</p>" * 20)
    world.remove("04.txt")
    # A document that had chunks becomes a reject, and keeps them.
    world.write("05.txt", b"\x00\x01" * 500)
    assert set(inspected(world).counts) == {
        "documents that were changed after they were chunked",
        "documents of the source that are neither in the tables nor rejects",
        "documents that cannot be read, and are not rejects",
    }

    world.run()
    found = fine(world)
    assert found.about["status"] == "ok 24, rejected 3, vanished 1"
    assert int(found.about["masked rows"]) > 0
    assert "'04.txt'" in " ".join(found.notes)

    world.set(prune=True)
    for night in range(6):
        write(world, *range(night, night + 3), words=f"is changed in night {night}. ")
        (world.source / f"{night}.txt").unlink(missing_ok=True)
        world.run()
        fine(world)
    found = inspected(world)
    assert "04.txt" not in " ".join(found.notes)
    assert found.about["chunks table"].startswith("version 7 of 20")


def test_another_configuration(world: World) -> None:
    write(world, *range(5))
    world.run()
    world.service.chunk_size = 50
    world.set(options=ChunkingOptions("sentence", "e5-small"), full_refresh=True)
    world.run()
    assert fine(world).about["model_id"] == "e5-small"


def test_after_a_run_that_failed(world: World) -> None:
    write(world, 1)
    world.run()
    for number in range(5):
        world.write(f"{number}.md", b"\x00" * 100)
    with pytest.raises(LucidworksError, match="max_reject_ratio"):
        world.run()
    assert list(inspect(str(world.output)).problems()) == []


def test_a_run_that_died_between_its_commits(world: World) -> None:
    write(world, *range(10))
    world.run()
    write(world, 3, 11, words="is changed. ")
    # What is checked has the old configuration.
    new = ChunkingOptions("sentence", "e5-small", model_config={"vectorQuantizationMethod": "max-scale"})
    world.set(options=new, full_refresh=True)
    world.service.answer = quantised

    with killed("documents"):
        world.run()
    found = inspect(str(world.output))
    assert found.examples == {
        "runs that have committed chunks and not documents; the next run completes them": [
            "run 2 with version 1; version 0 is checked"
        ]
    }
    assert found.about["documents"] == "10"
    assert found.about["model_id"] == "gte-small"
    world.run()
    assert fine(world).about["model_id"] == "e5-small"


def test_a_table_that_another_writer_has_compacted(world: World) -> None:
    for night in range(4):
        write(world, *range(night, night + 5), words=f"of night {night} ")
        world.run()
    assert chunks(world).optimize.compact()["numFilesRemoved"] > 1
    found = fine(world)
    assert "Another writer has changed chunks" in found.notes[0]
    assert found.about["masked rows"] == "0"
    write(world, 2, words="is changed. ")
    world.run()
    assert "Another writer" not in " ".join(fine(world).notes)


def test_chunks_that_another_writer_has_deleted(world: World) -> None:
    write(world, *range(8))
    world.run()
    chunks(world).delete("document_id = '03.txt'")
    chunks(world).delete("document_id = '05.txt' AND chunk_index = 1")
    found = inspected(world)
    assert found.examples == {MISSING: ["'03.txt'", "'05.txt'"]}
    assert "Another writer" in found.notes[0]
    world.set(on_missing_chunks="drop")
    world.run()
    assert fine(world).about["status"] == "ok 6, deleted 2"
    write(world, 3, 5, words="is changed. ")
    world.run()
    fine(world)


def test_chunks_of_a_document_that_another_writer_has_scattered(world: World) -> None:
    write(world, *range(10))
    world.run()
    write(world, 3, words="is changed. ")
    first = world.run()
    some = (pc.field("document_id") == "03.txt") & (pc.field("chunk_index") >= 1)
    moved = open_dataset(str(world.output)).to_table(filter=some)
    chunks(world).delete("document_id = '03.txt' AND chunk_index >= 1")
    deltalake.write_deltalake(str(world.output / "chunks"), moved, mode="append")
    fine(world)
    world.run()
    fine(world)
    # It is read whole, though no one file has it.
    found = changes(str(world.output), first["since"])
    assert sum(batch.num_rows for batch in found) == moved.num_rows + 1

    # Their files are copied, and it stays scattered; only its own rows are removed when it changes.
    write(world, 6, 7, 8, 9, words="is changed. ")
    world.run()
    fine(world)
    write(world, 3, words="is changed again. ")
    world.run()
    fine(world)


def test_chunks_that_another_writer_has_added(world: World) -> None:
    write(world, *range(3))
    world.run()
    rows = open_dataset(str(world.output)).to_table().slice(0, 1)
    strange = rows.set_column(0, rows.schema.field(0), [["strange"]])
    deltalake.write_deltalake(str(world.output / "chunks"), strange, mode="append")
    deltalake.DeltaTable(str(world.output / "documents")).optimize.compact()
    for _ in range(2):
        assert "Documents of other programs in chunks (1): 'strange'" in " ".join(fine(world).notes)
        world.run()


def test_a_document_row_that_another_writer_has_deleted(world: World) -> None:
    write(world, *range(3))
    world.run()
    deltalake.DeltaTable(str(world.output / "documents")).delete("document_id = '01.txt'")
    assert set(inspected(world).counts) == {
        "documents with chunks that are not in documents",
        "documents of the source that are neither in the tables nor rejects",
    }
