# SPDX-License-Identifier: Apache-2.0
"""The two tables of a corpus, night after night, held against other readers and against what others do to them."""

import json
import os
import random
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from operator import itemgetter
from typing import Any
from zlib import crc32

import deltalake
import polars
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from corpus_world import Killed, World, killed
from delta_world import READERS

from lucidworks_provider import storage
from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus import dataset, publish, run, tables
from lucidworks_provider.corpus.dataset import changes, open_dataset, open_documents, version_of
from lucidworks_provider.corpus.inspect import inspect
from lucidworks_provider.corpus.pipeline import PipelineSettings
from lucidworks_provider.corpus.plan import Plan
from lucidworks_provider.delta import log as delta_log
from lucidworks_provider.delta.log import Table, read_table
from lucidworks_provider.errors import InputError, OutputBusyError, StorageError

COLUMNS = ["document_id", "chunk_index", "text", "start", "end", "vector", "input_tokens", "content_hash"]
Chunks = list[tuple[Any, ...]]


def agree(world: World) -> None:
    """This reader, delta-rs, Polars and DuckDB see the same rows in both tables, and chunks as the source is."""
    world.check()
    for name, ours, keys in (
        ("chunks", open_dataset(str(world.output)), ("document_id", "chunk_index")),
        ("documents", open_documents(str(world.output)), ("document_id",)),
    ):
        expected = sorted(ours.to_table().to_pylist(), key=itemgetter(*keys))
        assert len(ours) == len(expected)
        assert delta_rs(world, name).version() == ours.version
        for read in READERS.values():
            found = sorted(read(str(world.output / name)), key=itemgetter(*keys))
            assert [{column: row[column] for column in ours.schema.names} for row in found] == expected


def states_of(world: World) -> dict[str, Chunks]:
    found: dict[str, Chunks] = {}
    for row in world.rows():
        chunk = row["chunk_index"], row["text"], tuple(row["vector"])
        found.setdefault(row["document_id"], []).append(chunk)
    return found


def folded(world: World, since: int | None) -> dict[str, tuple[str, Chunks]]:
    """What :func:`changes` has, by document; each is in one batch."""
    found: dict[str, tuple[str, Chunks]] = {}
    for batch in changes(str(world.output), since):
        here: dict[str, tuple[str, Chunks]] = {}
        for row in batch.to_pylist():
            change, rows = here.setdefault(row["document_id"], (row["change"], []))
            assert change == row["change"]
            if row["chunk_index"] is not None:
                rows.append((row["chunk_index"], row["text"], tuple(row["vector"])))
        assert not found.keys() & here.keys()
        found |= here
    return found


def difference(states: list[dict[str, Chunks]]) -> dict[str, tuple[str, Chunks]]:
    """Between the first and the last one, with what is deleted of those in between."""
    before, after = states[0], states[-1]
    gone = set().union(*states) - after.keys()
    found: dict[str, tuple[str, Chunks]] = {one: ("deleted", []) for one in gone}
    for one, chunks in after.items():
        if chunks != before.get(one):
            found[one] = "changed" if one in before else "added", chunks
    return found


def table_of(world: World, name: str = "chunks") -> Table:
    table = read_table(f"{world.output}/{name}")
    assert table is not None
    return table


def delta_rs(world: World, name: str = "chunks") -> deltalake.DeltaTable:
    return deltalake.DeltaTable(str(world.output / name))


def several(count: int) -> dict[str, str]:
    """Documents of several chunks."""
    return {f"{n}.txt": f"The text number {n}. " * 40 for n in range(count)}


@pytest.mark.parametrize("vectors", [True, False])
@pytest.mark.parametrize("seed", range(2))
def test_random_nights(world: World, monkeypatch: pytest.MonkeyPatch, seed: int, vectors: bool) -> None:
    """Every state is what the source says, for all readers, and every older version is folded rightly."""
    draw = random.Random(seed)
    monkeypatch.setattr(publish, "CHECKPOINT_EVERY", 5)
    monkeypatch.setattr(publish, "SMALL_FILES", 6)
    world.set(deletion_vectors=vectors, prune=True)
    states: list[tuple[int | None, dict[str, Chunks]]] = [(None, {})]
    for night in range(10):
        for _ in range(draw.randrange(0, 8)):
            name = f"{draw.randrange(40):03}.txt"
            if name in world.expected and draw.random() < 0.4:
                world.remove(name)
            else:
                world.write(name, f"Night {night}, {draw.random()}. " * draw.randrange(1, 40))
        if not world.expected:
            world.write("a.txt", "One has to be there.")
        if night == 6:
            world.set(options=ChunkingOptions("sentence", "gte-small"), full_refresh=True)
        delta = world.run(documents=len(world.expected))
        world.set(full_refresh=False)
        agree(world)
        now = states_of(world)
        assert delta["documents"] == sum(status == "ok" for status in world.statuses().values())
        assert delta["chunks"] == len(world.rows())
        states.append((delta["version"], now))
        for first, (since, _) in enumerate(states[:-1]):
            found = folded(world, since)
            expected = difference([state for _, state in states[first:]])
            if 0 < first <= 6 <= night:
                # Everything was sent again; what came is the same, as the service is.
                assert found.keys() >= expected.keys()
            else:
                assert found == expected
    chunks = table_of(world)
    assert (chunks.reader_version, chunks.writer_version) == ((3, 7) if vectors else (1, 2))
    assert vectors == any(path.suffix == ".bin" for path in (world.output / "chunks").iterdir())
    assert version_of(str(world.output)) == delta["version"]
    # Older versions are as they were.
    for since, before in states[1:]:
        assert world.texts(since).keys() == before.keys()


@pytest.mark.parametrize("kills", [False, True])
def test_random_nights_of_records(world: World, kills: bool) -> None:
    """Records come, change, move and go; files return to earlier versions; some cannot be read or chunked."""
    draw = random.Random(f"1 {kills}")
    world.set(prune=True, max_reject_ratio=1.0, pipeline=PipelineSettings(poll_interval=0.01))
    world.service.answer = lambda text, body: body | {"status": "ERROR"} if text.startswith("Bad") else body
    files: dict[str, dict[str, str]] = {name: {} for name in ("a.jsonl", "b.jsonl", "c.jsonl")}
    world.write("always.txt", "Always.")
    texts = {"always.txt": "Always."}
    file_of: dict[str, str] = {}
    for _ in range(14):
        for _ in range(draw.randrange(5)):
            one = draw.choice("uvwxyz")
            for records in files.values():
                records.pop(one, None)
            if draw.random() < 0.6:
                text = draw.choice(["One. ", "Two. ", "One. " if kills else "Bad. "])
                draw.choice([*files.values()])[one] = text
        broken = {name for name in files if not kills and draw.random() < 0.3}
        for name, records in files.items():
            lines = [json.dumps({"id": one, "text": records[one] + one}) for one in sorted(records)]
            content = "\n".join([*lines, *(["no JSON"] if name in broken else [])])
            # The same contents have the same etag, as on S3.
            os.utime(world.write(name, content), ns=(0, crc32(content.encode()) * 1_000_000))
        if kills and draw.random() < 0.5:
            with suppress(pytest.fail.Exception), killed(draw.choice(["publish", "chunks", "end"])):
                world.run()
            continue
        world.run()
        maybe = {one: text for one, text in texts.items() if file_of.get(one) in broken}
        now = {one: (name, text + one) for name in files for one, text in files[name].items()}
        bad = {one: texts[one] for one, (_, text) in now.items() if text.startswith("Bad") and one in texts}
        good = {one: text for one, (_, text) in now.items() if not text.startswith("Bad")}
        texts = {"always.txt": "Always."} | maybe | good | bad
        file_of |= {one: name for one, (name, _) in now.items()}
        assert world.texts() == texts


def test_documents_added_and_deleted_in_between_are_deleted(world: World) -> None:
    """A load without a transaction may have inserted them before it failed."""
    world.set(prune=True)
    world.write_all({"stays.txt": "This one stays.", "back.txt": "This one leaves and comes back."})
    first = world.run()["version"]
    world.write("short.txt", "Here for one night.")
    world.remove("back.txt")
    second = world.run()["version"]
    world.remove("short.txt")
    world.write("back.txt", "This one is back.")
    world.run()

    assert world.changed(first) == {"back.txt": "changed", "short.txt": "deleted"}
    assert world.changed(second) == {"back.txt": "added", "short.txt": "deleted"}
    assert world.changed(None) == {"back.txt": "added", "short.txt": "deleted", "stays.txt": "added"}
    assert world.changed(first, second)["back.txt"] == "deleted"


def test_changes_on_a_full_temporary_disk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.fill(12)
    world.run()
    monkeypatch.setattr(dataset, "_CHANGED", "PRAGMA max_page_count = 1; CREATE TABLE changed (id);")
    with pytest.raises(StorageError, match=r"disk is full.* set TMPDIR"):
        world.changed(None)


def test_a_missing_version(world: World) -> None:
    with pytest.raises(InputError, match="no catalogue"):
        open_dataset(str(world.output))
    world.write("a.txt", "A text.")
    world.run()
    with pytest.raises(InputError, match="no version 7"):
        open_dataset(str(world.output), 7)
    with pytest.raises(InputError, match="since is 3"):
        world.changed(3)


def test_vectors_are_lists_of_a_fixed_size_again(world: World) -> None:
    world.write("a.txt", "A text.")
    world.run()
    dataset = open_dataset(str(world.output))
    assert dataset.schema.field("vector").type == pa.list_(pa.float32(), 4)
    assert dataset.schema.names == COLUMNS
    found = dataset.to_table(columns=["text"], filter=pc.field("chunk_index") == 0).to_pylist()
    assert found == [{"text": "A text."}]
    assert pa.table(dataset).num_rows == len(polars.DataFrame(dataset)) == 1
    with pytest.raises(InputError, match="no column 'nothing'"):
        dataset.to_table(columns=["nothing"])


# -- others write, too ---------------------------------------------------------------------------------

OTHERS: dict[str, Callable[[World], object]] = {
    "compact": lambda world: delta_rs(world).optimize.compact(),
    "z-order": lambda world: delta_rs(world).optimize.z_order(["text"]),
    "vacuum": lambda world: delta_rs(world).vacuum(0, dry_run=False, enforce_retention_duration=False),
    "checkpoint": lambda world: delta_rs(world).create_checkpoint(),
    "compact documents": lambda world: delta_rs(world, "documents").optimize.compact(),
}


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("vectors", [True, False])
def test_another_writer_rewrites_the_files(world: World, name: str, vectors: bool) -> None:
    world.set(prune=True, deletion_vectors=vectors)
    world.write_all(several(9))
    world.run()
    world.write("1.txt", "Another one. " * 30)
    before = world.run()["version"]
    rows = world.rows()

    OTHERS[name](world)

    assert world.rows() == rows
    world.write("2.txt", "Changed after that. " * 30)
    world.remove("3.txt")
    delta = world.run(posted=["Changed after that. " * 30], changed=1, removed=1)
    agree(world)
    assert world.changed(before) == {"2.txt": "changed", "3.txt": "deleted"}
    world.run(version=delta["version"])


@pytest.mark.parametrize("name", ["vacuum", "compact documents"])
def test_a_night_that_finds_nothing_but_versions_of_another_writer(world: World, name: str) -> None:
    for text in ("The first.", "The second."):
        world.write("1.txt", text)
        before = world.run()["version"]
    OTHERS[name](world)
    delta = world.run()
    assert world.changed(before, delta["version"]) == world.changed(delta["version"]) == {}
    # Positions are not read again.
    world.run(documents_version=delta["documents_version"])
    assert not tables.read_tables(str(world.output)).changed_by_others


def _add_chunks(world: World, document_id: str, vector: list[float] | None = None) -> None:
    """Rows of another program."""
    rows = delta_rs(world).to_pyarrow_table().slice(0, 2)
    rows = rows.set_column(0, rows.schema.field(0), [[document_id] * 2])
    if vector:
        field = rows.schema.field("vector")
        rows = rows.set_column(5, field, pa.array([vector] * 2, field.type))
    deltalake.write_deltalake(str(world.output / "chunks"), rows, mode="append")


@pytest.mark.parametrize("vacuumed", [False, True])
@pytest.mark.parametrize("operation", ["nothing", "compact", "delete", "restore"])
def test_rows_of_other_programs_are_kept(
    world: World, caplog: pytest.LogCaptureFixture, operation: str, vacuumed: bool
) -> None:
    """Whatever happens to `documents`, unlike those of documents whose rows are gone."""
    world.set(prune=True, deletion_vectors=False)
    world.write_all({"1.txt": "The first.", "2.txt": "The second."})
    world.run()
    world.write("3.txt", "The third.")
    world.run()
    _add_chunks(world, "strange")
    delta_rs(world).optimize.compact()
    documents = delta_rs(world, "documents")
    if operation == "compact":
        documents.optimize.compact()
    elif operation == "delete":
        documents.delete("document_id = '3.txt'")
    elif operation == "restore":
        documents.restore(0)
    if vacuumed:
        delta_rs(world, "documents").vacuum(0, dry_run=False, enforce_retention_duration=False)
    world.remove("3.txt")
    for _ in range(2):
        world.run()

    # Without the last version of `documents`, nothing distinguishes them.
    lost = vacuumed and operation in {"delete", "restore"}
    assert set(world.texts()) == {"1.txt", "2.txt", "strange", *(["3.txt"] if lost else [])}
    assert ("another program has removed version 1" in caplog.text) == (vacuumed and operation != "nothing")


def test_rows_of_another_program_with_vectors_of_another_length(world: World) -> None:
    """In one file with those of the catalogue."""
    world.set(deletion_vectors=False)
    world.write_all(several(3))
    world.run()
    _add_chunks(world, "strange", [1.0, 2.0, 3.0])
    OTHERS["compact"](world)
    world.write("1.txt", "Another one.")
    world.run()
    assert folded(world, None).keys() == world.expected.keys()
    dataset = open_dataset(str(world.output))
    assert "strange" in set(dataset.to_table(columns=["document_id"])["document_id"].to_pylist())
    with pytest.raises(InputError, match=r"vectors of another length.* inspect names them"):
        dataset.to_table()
    assert "'strange'" in inspect(str(world.output)).examples["vectors of another length"][0]


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("vectors", [False, True])
def test_a_document_of_the_source_has_one_set_of_chunks(world: World, gone: bool, vectors: bool) -> None:
    """Also if another program had added chunks with its id, or if its row and all earlier versions are gone."""
    world.set(deletion_vectors=False)
    world.write_all({"1.txt": "The first.", "2.txt": "The second."})
    world.run()
    if gone:
        documents = delta_rs(world, "documents")
        documents.delete("document_id = '2.txt'")
        documents.vacuum(0, dry_run=False, enforce_retention_duration=False)
    else:
        _add_chunks(world, "3.txt")
    world.set(deletion_vectors=vectors)
    world.write("3.txt", "The third.")
    for _ in range(2):
        world.run()
    world.check()


def test_another_writer_sorts_the_chunks_of_a_document(world: World) -> None:
    """Consumers get them in their order, as it is what a document is."""
    world.service.chunk_size = len("0, 99: a sentence. ")
    for n in range(3):
        world.write(f"{n}.txt", "".join(f"{n}, {99 - m}: a sentence. " for m in range(20)))
    world.run()
    OTHERS["z-order"](world)
    # The next run reads the positions again.
    world.write("new.txt", "A new one.")
    world.run()
    rows = open_dataset(str(world.output)).to_table(columns=["document_id", "chunk_index"]).to_pylist()
    order = [row["chunk_index"] for row in rows if row["document_id"] == "1.txt"]
    assert order != sorted(order)
    assert not inspect(str(world.output)).counts
    for one, (_, chunks) in folded(world, None).items():
        assert [chunk[0] for chunk in chunks] == list(range(len(chunks))), one
    world.write("1.txt", "Changed.")
    world.run()
    world.check()


def test_the_rows_of_documents_that_are_interleaved(world: World) -> None:
    """As after a sort by a column that all documents share: rows wait for those of other batches."""
    world.service.chunk_size = 20
    for n in range(60):
        world.write(f"{n:03}.txt", "".join(f"{m:02}, {n:03}: a sentence. " for m in range(40)))
    version = world.run()["version"]
    before = folded(world, None)
    OTHERS["z-order"](world)
    world.write("000.txt", "Another text.")
    world.run()
    assert len(world.rows()) > 2048
    after = folded(world, None)
    assert after | {"000.txt": before["000.txt"]} == before
    assert world.changed(version) == {"000.txt": "changed"}


@pytest.mark.parametrize("records", [False, True])
@pytest.mark.parametrize("how", ["resend", "drop"])
@pytest.mark.parametrize("condition", ["document_id = '1.txt'", "document_id = '1.txt' AND chunk_index > 0"])
def test_another_writer_deletes_chunks(
    world: World, caplog: pytest.LogCaptureFixture, how: Any, condition: str, records: bool
) -> None:
    texts = several(5)

    def write() -> None:
        world.records("a.jsonl", **texts) if records else world.write_all(texts)

    write()
    world.set(prune=True)
    before = world.run()["version"]
    delta_rs(world).delete(condition)
    world.set(on_missing_chunks=how)
    resend = how == "resend"
    world.expected = {one: text for one, text in texts.items() if resend or one != "1.txt"}

    delta = world.run(posted=[texts["1.txt"]] if resend else [], removed=0 if resend else 1)

    assert "removed or replaced chunks of 1 documents ('1.txt'" in caplog.text
    agree(world)
    assert world.changed(before) == {"1.txt": "changed" if resend else "deleted"}
    assert world.statuses()["1.txt"] == ("ok" if resend else "deleted")
    # It stays so.
    world.swap_contents()
    world.run(posted=[], version=delta["version"])
    texts["1.txt"] = "Until the text changes."
    write()
    world.run()
    assert world.texts() == texts
    # Once it has vanished, its file is skipped as before.
    del texts["1.txt"]
    (world.source / "1.txt").unlink(missing_ok=True)
    write()
    world.run()
    world.swap_contents()
    world.run(skipped=4)


def test_another_writer_deletes_a_chunk_of_a_document_that_cannot_be_read(world: World) -> None:
    texts = several(2)
    path = world.records("a.jsonl", **texts)
    world.run()
    left = len(world.rows()) - 1
    delta_rs(world).delete("document_id = '1.txt' AND chunk_index = 0")
    lines = path.read_bytes()
    path.write_bytes(lines[:-5])
    world.set(prune=True, max_reject_ratio=1.0)
    world.run(posted=[], vanished=0, removed=0, rejected=1)
    assert len(world.rows()) == left
    path.write_bytes(lines)
    world.run(posted=[texts["1.txt"]])
    world.expected = texts
    agree(world)


@pytest.fixture
def dropped(world: World) -> World:
    """Two documents of a file, and the chunks of the first one are deleted by another program; another file."""
    world.set(prune=True, on_missing_chunks="drop", max_reject_ratio=1.0)
    world.records("a.jsonl", "x", "y")
    world.records("b.jsonl", "z")
    world.run()
    delta_rs(world).delete("document_id = 'x'")
    return world


def test_a_dropped_document_that_moves_is_not_sent_again(dropped: World) -> None:
    dropped.records("a.jsonl", "y")
    dropped.records("b.jsonl", "x", "z")
    for _ in range(2):
        dropped.run(posted=[])
    dropped.records("b.jsonl", "x", z="Another text.")
    dropped.run(posted=["Another text."])


def test_a_dropped_document_that_was_rejected_is_dropped_again_with_its_old_text(dropped: World) -> None:
    dropped.run()
    dropped.records("a.jsonl", "y", x="")
    dropped.run(rejected=1)
    assert dropped.statuses()["x"] == "rejected"
    dropped.records("a.jsonl", "x", "y")
    dropped.run(posted=[], rejected=0)
    assert dropped.statuses()["x"] == "deleted"
    dropped.swap_contents()
    dropped.run(posted=[])


@pytest.mark.parametrize("size", [40, 1])
def test_another_writer_restores_one_of_the_tables(world: World, size: int) -> None:
    """Also where the document has as many chunks in both versions."""
    for one in ("1.txt", "2.txt"):
        world.write(one, f"The first text of {one}. " * size)
    world.run()
    world.write("1.txt", "Another text of the one." * size)
    world.run()
    delta_rs(world).restore(0)
    world.run(posted=["Another text of the one." * size])
    world.check()
    world.run(skipped=2)


def test_another_writer_restores_what_was_pruned(world: World) -> None:
    world.set(prune=True)
    world.write_all(several(2))
    world.run()
    world.remove("1.txt")
    world.run()
    delta_rs(world).restore(0)
    delta = world.run()
    world.check()
    assert delta["chunks"] == len(world.rows())
    world.run(version=delta["version"])


def _delete(world: World, rows: str = "", *, table: str = "chunks") -> None:
    """Rows of a document, by another program."""
    delta_rs(world, table).delete(f"document_id = '1.txt'{rows}")


# What happens before each run after the first.
ALTERED: dict[str, list[Callable[[World], object]]] = {
    "chunks of a vanished document": [
        lambda world: world.remove("1.txt"),
        _delete,
        lambda world: world.set(prune=True),
    ],
    "a chunk of a vanished document": [
        lambda world: world.remove("1.txt"),
        lambda world: _delete(world, " AND chunk_index = 0"),
        lambda world: world.set(prune=True),
    ],
    "chunks of a document that is rejected": [
        lambda world: (_delete(world), setattr(world.service, "refused", {"number 1"})),
        lambda world: (world.remove("1.txt"), world.set(prune=True)),
    ],
    "chunks of a dropped document": [
        lambda world: (_delete(world), world.set(on_missing_chunks="drop")),
    ],
    "a removed document is restored": [
        lambda world: (world.remove("1.txt"), world.set(prune=True)),
        lambda world: (delta_rs(world).restore(0), world.set(prune=False)),
        lambda world: world.set(prune=True),
    ],
    "an earlier text is restored": [
        lambda world: world.write("1.txt", "Another text. " * 50),
        lambda world: (delta_rs(world).restore(0), world.remove("1.txt")),
    ],
    "the row of a vanished document": [
        lambda world: world.remove("1.txt"),
        lambda world: _delete(world, table="documents"),
        lambda world: world.set(prune=True),
    ],
}


@pytest.mark.parametrize("name", ALTERED)
def test_consumers_get_what_another_writer_has_deleted_or_restored(world: World, name: str) -> None:
    """With the changes since their last load they have the rows of the table, after every run."""
    world.set(max_reject_ratio=1.0)
    world.write_all(several(3))
    loaded: dict[str, Chunks] = {}
    since = None
    for before in (lambda world: None, *ALTERED[name], lambda world: world.write("0.txt", "Another.")):
        before(world)
        delta = world.run()
        for one, (change, chunks) in folded(world, since).items():
            loaded.pop(one, None)
            if change != "deleted" and chunks:
                loaded[one] = chunks
        since = version_of(str(world.output))
        assert loaded == states_of(world)
        assert delta["version"] == since == delta_rs(world).version()
    new = {one: ("added", chunks) for one, chunks in loaded.items()}
    assert {one: found for one, found in folded(world, None).items() if found[1]} == new


def test_a_record_that_goes_during_the_run_after_another_writer_has_moved_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.records("a.jsonl", "x", "y")
    world.run()
    world.write("b.txt", "Another file of chunks.")
    world.run()
    OTHERS["compact"](world)
    world.records("a.jsonl", "x", y="Another text.")
    candidates = Plan.candidates

    def goes(plan: Plan) -> Any:
        world.records("a.jsonl", "x")
        return candidates(plan)

    with monkeypatch.context() as patch:
        patch.setattr(Plan, "candidates", goes)
        world.run(posted=[])
    world.set(prune=True)
    world.run(removed=1)
    assert set(world.texts()) == {"x", "b.txt"}


@pytest.mark.parametrize(
    ("table", "others"),
    [("chunks", ["chunks"]), ("documents", ["documents"]), ("chunks", ["chunks", "documents"])],
)
def test_another_writer_commits_between_reading_and_committing(
    world: World, monkeypatch: pytest.MonkeyPatch, table: str, others: list[str]
) -> None:
    world.write_all(several(5))
    world.run()
    world.write("1.txt", "Another one.")
    world.run()
    commit, left = publish.commit, 2

    def late(uri: str, version: int, *args: Any, **kwargs: Any) -> bool:
        nonlocal left
        if uri.endswith(table) and left:
            left -= 1
            for other in others:
                delta_rs(world, other).optimize.z_order(["document_id"])
            if "documents" in others:
                # Its row is replaced.
                delta_rs(world, "documents").delete("document_id = '2.txt'")
        return commit(uri, version, *args, **kwargs)

    monkeypatch.setattr(publish, "commit", late)
    world.write("2.txt", "This one, too.")
    delta = world.run(run_id="night", posted=["This one, too."])

    assert left == 0
    assert delta["version"] == open_dataset(str(world.output)).version
    assert delta["documents_version"] == open_documents(str(world.output)).version
    assert world.run(run_id="night", try_number=2) == delta
    agree(world)
    world.run(skipped=5)


def test_a_zombie_that_commits_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The follower stops; its retry continues from what the zombie has committed."""
    world.write("1.txt", "The first.")
    world.run()
    world.write("1.txt", "The second.")
    commit = publish.commit

    def twice(uri: str, version: int, actions: Any, **kwargs: Any) -> bool:
        monkeypatch.setattr(publish, "commit", commit)
        assert commit(uri, version, actions, **kwargs)
        return commit(uri, version, actions, **kwargs)

    monkeypatch.setattr(publish, "commit", twice)
    with pytest.raises(OutputBusyError, match="another run has committed"):
        world.run(run_id="night")
    world.run(run_id="night", try_number=2, posted=[], changed=1)
    world.check()


@pytest.mark.parametrize("how", ["resend", "drop"])
@pytest.mark.parametrize("suffix", ["parquet", "bin"])
@pytest.mark.parametrize("others", [False, True])
def test_a_full_refresh_repairs_a_table_whose_files_are_gone(
    world: World, suffix: str, others: bool, how: Any
) -> None:
    """As by a lifecycle rule, or a VACUUM that removes deletion vectors; a run before it sends nothing."""
    world.set(on_missing_chunks=how)
    world.write_all(several(9))
    world.run()
    world.write("1.txt", "Another one. " * 30)
    world.run()
    if others:
        OTHERS["compact documents"](world)
    masked = next(path for path, file in table_of(world).files.items() if file.vector)
    lost = world.output / "chunks" / masked if suffix == "parquet" else next(world.output.rglob("*.bin"))
    lost.unlink()
    world.write("2.txt", "Changed. " * 30)
    world.remove("3.txt")
    posted = len(world.service.posted)
    for fails in (world.run, lambda: run.plan_run(world.corpus)):
        with pytest.raises(
            StorageError, match=rf"{lost.name} is missing, .* with full_refresh=True, which removes"
        ):
            fails()
    assert len(world.service.posted) == posted

    world.set(full_refresh=True)
    delta = world.run(posted=world.expected.values())

    # Its chunks were in that file.
    assert world.statuses()["3.txt"] == ("vanished" if how == "resend" else "deleted")
    agree(world)
    world.set(full_refresh=False)
    world.run(posted=[], version=delta["version"])
    world.write("3.txt", "The third is back.")
    world.run(posted=["The third is back."])
    agree(world)


def test_another_writer_removes_a_file_that_is_gone(world: World) -> None:
    """Only its documents are sent again."""
    world.write_all(several(9))
    world.run()
    world.write("1.txt", "Another one. " * 30)
    world.run()
    (masked,) = (path for path, file in table_of(world).files.items() if file.vector)
    (world.output / "chunks" / masked).unlink()
    assert delta_rs(world).repair()["files_removed"] == [masked]
    world.run(posted=[text for one, text in world.expected.items() if one != "1.txt"])
    agree(world)


def test_another_writer_commits_while_a_run_removes_files_that_are_gone(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write_all(several(5))
    world.run()
    (path,) = table_of(world).files
    (world.output / "chunks" / path).unlink()
    commit, left = publish.commit, 1

    def late(uri: str, version: int, *args: Any, **kwargs: Any) -> bool:
        nonlocal left
        if left:
            left -= 1
            delta_rs(world).alter.set_table_properties({"delta.checkpointInterval": "20"})
        return commit(uri, version, *args, **kwargs)

    monkeypatch.setattr(publish, "commit", late)
    world.set(full_refresh=True)
    world.run(posted=world.expected.values())
    assert left == 0
    agree(world)


# -- kills -----------------------------------------------------------------------------------------------


def _dies_at(monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """At the nth change of the storage, before it happens or after it; both, as an answer may be lost."""
    done = 0

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def changes(*args: Any, **kwargs: Any) -> Any:
            nonlocal done
            done += 1
            if done == moment // 2 and moment % 2 == 0:
                raise Killed
            found = change(*args, **kwargs)
            if done == moment // 2 and moment % 2 == 1:
                raise Killed
            return found

        return changes

    for name in ("write_file", "create_file"):
        original = getattr(storage, name)
        for module in (run, publish, delta_log, tables):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, counted(original))
    monkeypatch.setattr("lucidworks_provider.delta.vectors.write_file", counted(storage.write_file))


@pytest.mark.parametrize("moment", range(2, 22))
def test_a_kill_at_any_write(world: World, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Readers see the night before or this one; the retry ends it; nothing that came is submitted again."""
    before = several(6)
    world.set(prune=True)
    world.write_all(before)
    world.run()
    world.write_all({"1.txt": "Another one.", "new.txt": "A new one."})
    world.remove("2.txt")
    with monkeypatch.context() as patch:
        _dies_at(patch, moment)
        with suppress(Killed):
            world.run(run_id="night")
    assert world.texts() in (before, world.expected)
    there = {one for one, change in world.changed(None).items() if change != "deleted"}
    assert there in (before.keys(), world.expected.keys())

    delta = world.run(run_id="night", try_number=2, added=1, changed=1, removed=1)

    world.check()
    assert world.listed(delta, "changed") == ["1.txt"]
    assert len(world.service.posted) == 6 + 2
    world.run(skipped=6)
    assert sorted(world.statuses()) == [*sorted(before), "new.txt"]


def between(world: World) -> int:
    """Two nights, of which the second one dies between its commits; the version before it."""
    world.write("1.txt", "The first.")
    before: int = world.run()["version"]
    world.write("1.txt", "The second.")
    with killed("documents"):
        world.run(run_id="night")
    return before


@pytest.mark.parametrize("own", [True, False])
def test_between_the_two_commits(world: World, own: bool) -> None:
    """The second commit is made by the retry or by the next run; consumers see nothing of it before."""
    before = between(world)
    assert world.changed(before) == {}
    if own:
        world.run(run_id="night", try_number=2, posted=[], changed=1)
    else:
        world.run(run_id="next night", posted=[], changed=0)
    world.check()
    assert world.changed(before) == {"1.txt": "changed"}
    # A retry of the killed run reads the counts of its commit.
    world.run(run_id="night", try_number=3, changed=1)


def test_another_writer_commits_between_the_two_commits(world: World) -> None:
    between(world)
    delta_rs(world, "documents").alter.set_table_properties({"delta.checkpointInterval": "20"})
    newest = delta_rs(world, "documents").version() + 1
    world.run(run_id="night", try_number=2, posted=[], documents_version=newest)
    assert open_documents(str(world.output)).version == newest


def test_a_plan_between_the_two_commits(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """It has the results of the run in the journal, and blames no other program."""
    between(world)
    world.write("2.txt", "One more.")
    plan = run.plan_run(world.corpus)
    assert (plan["would_submit"], plan["requests"]) == (1, 1)
    assert "Run 2 died between its two commits" in caplog.text
    assert "another program has removed or replaced" not in caplog.text
    world.run(posted=["One more."])


def test_a_vacuum_between_the_two_commits(world: World) -> None:
    """It takes every file that no version names; the rows of the second commit are outside both tables."""
    # Of delta-rs, a full vacuum removes deletion vectors that are in use.
    world.set(deletion_vectors=False)
    before = between(world)
    for name in ("chunks", "documents"):
        options: dict[str, Any] = {"enforce_retention_duration": False, "dry_run": False, "full": True}
        delta_rs(world, name).vacuum(retention_hours=0, **options)

    world.run(run_id="night", try_number=2, changed=1)

    assert world.changed(before) == {"1.txt": "changed"}
    agree(world)
    world.write("2.txt", "The next night.")
    world.run()
    assert not list((world.output / "runs").glob("*.parquet"))


@pytest.mark.parametrize("file", ["runs/00000001.parquet", "runs/00000001.json"])
def test_a_file_of_an_incomplete_run_that_is_gone_is_an_error(world: World, file: str) -> None:
    world.write("1.txt", "The first.")
    with killed("documents"):
        world.run()
    (world.output / file).unlink()
    with pytest.raises(InputError, match=f"{re.escape(file)} is gone"):
        world.run()


def test_leases_that_were_removed(world: World) -> None:
    """The number of a run grows without them too, so its half-done commit is found."""
    for text in ("The first.", "The second.", "The third."):
        world.write("1.txt", text)
        world.run()
    shutil.rmtree(world.output / "lease")
    world.write("1.txt", "The fourth.")
    with killed("documents"):
        world.run()
    world.run(posted=[], skipped=1)
    world.check()


@pytest.mark.parametrize("changed", [False, True])
def test_documents_that_were_restored_alone(world: World, changed: bool) -> None:
    """Chunks that they know nothing of are not doubled."""
    texts = several(6)
    world.write_all(dict(list(texts.items())[:3]))
    world.run()
    world.write_all(texts | {"1.txt": "Another text."})
    world.run()
    delta_rs(world, "documents").restore(0)
    if changed:
        world.write_all({"2.txt": "Changed.", "4.txt": "Changed as well."})

    delta = world.run(documents=6)

    agree(world)
    assert world.statuses() == dict.fromkeys(texts, "ok")
    world.run(version=delta["version"])


def test_a_night_with_old_rejects_commits_nothing(world: World) -> None:
    """A text of which the service gave no chunk is not sent again, and nothing is written about it again."""
    world.write_all({"1.txt": "A text.", "2.txt": "No chunk of this."})
    nothing: dict[str, Any] = {"chunks": [], "spans": [], "vectors": []}
    world.service.answer = lambda text, body: (
        body if text == "A text." or "chunkedData" not in body else body | {"chunkedData": [nothing]}
    )
    world.set(max_reject_ratio=1.0)
    first = world.run(rejected=1)
    assert world.statuses()["2.txt"] == "rejected"
    world.run(rejected=1, submitted=0, documents_version=first["documents_version"])


@pytest.mark.parametrize("later", [False, True])
def test_a_zombie_between_its_commits_makes_the_second_one_once(
    world: World, monkeypatch: pytest.MonkeyPatch, later: bool
) -> None:
    """The next run has made it meanwhile, and another one after it has removed what the second one needs."""
    world.write("1.txt", "The first.")
    world.run()
    world.write_all({"1.txt": "The second.", "2.txt": "A new one."})
    commit, woken = publish.commit, False

    def pauses(*args: Any, **kwargs: Any) -> bool:
        nonlocal woken
        committed = commit(*args, **kwargs)
        if not woken:
            # After the commit of `chunks`.
            woken = True
            world.run(run_id="night", try_number=2, added=1)
            if later:
                world.write("3.txt", "One more.")
                world.run(run_id="next night")
        return committed

    monkeypatch.setattr(publish, "commit", pauses)
    world.run(run_id="night")
    assert woken
    agree(world)
    assert len(open_documents(str(world.output))) == len(world.expected)
    world.run(skipped=len(world.expected))


def test_a_note_without_its_commit_is_of_no_run(world: World) -> None:
    """Another run committed before the retry, so the retry plans anew."""
    world.write("1.txt", "The first.")
    world.run()
    world.write("2.txt", "The second.")
    with killed("chunks"):
        world.run(run_id="night")
    world.run(run_id="backfill")
    world.write("3.txt", "The third.")
    world.run(run_id="night", try_number=2, added=1)
    world.check()


def test_a_file_that_goes_before_the_commit_is_no_part_of_a_version(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a VACUUM without retention."""
    world.write("1.txt", "The first.")
    original = publish.build_upserts

    def vacuumed(*args: Any, **kwargs: Any) -> Any:
        next((world.output / "chunks").glob("*.parquet")).unlink()
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(publish, "build_upserts", vacuumed)
        with pytest.raises(
            InputError, match=r"parquet is gone\. .* A retry sends its documents again"
        ) as caught:
            world.run(run_id="night")
    assert caught.value.retryable
    world.run(run_id="night", try_number=2)
    world.check()


def test_what_fails_after_the_commits_fails_no_run(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuses(*_: Any) -> None:
        raise InputError("somebody upgraded the table")

    monkeypatch.setattr(run, "maintain", refuses)
    world.write("1.txt", "The first.")
    world.run(added=1)
    assert "somebody upgraded the table" in caplog.text


def test_a_file_whose_rows_are_not_counted_in_the_log(world: World) -> None:
    """As Spark writes them without statistics."""
    world.write_all(several(8))
    world.run()
    table = table_of(world)
    (file,) = table.files.values()
    without = replace(file, records=None, stats=None)
    assert delta_log.commit(table.uri, 1, [file.remove(1), without.add()])
    world.write("1.txt", "Another.")
    delta = world.run()
    world.check()
    assert delta["chunks"] == len(world.rows())


def test_checkpoints_are_written_where_others_commit_as_well(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "CHECKPOINT_EVERY", 4)
    for night in range(5):
        for name in ("1.txt", "2.txt"):
            world.write(name, f"{name} of night {night}. " * 30)
        world.run()
        OTHERS["z-order"](world)
    table = table_of(world)
    assert table.version == 9
    assert table.checkpoint >= 4


# -- folders of others -------------------------------------------------------------------------------------


def _foreign(world: World) -> None:
    shutil.rmtree(world.output)
    deltalake.write_deltalake(str(world.output / "chunks"), pa.table({"a": [1]}))


def _add_column(world: World, name: str) -> None:
    delta_rs(world, name).alter.add_columns(
        [deltalake.Field("extra", deltalake.schema.PrimitiveType("string"))]
    )


def test_a_column_that_another_writer_adds_during_a_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.write("1.txt", "A text.")
    world.run()
    commit = publish.commit

    def late(uri: str, *args: Any, **kwargs: Any) -> bool:
        if uri.endswith("documents"):
            _add_column(world, "documents")
        return commit(uri, *args, **kwargs)

    world.write("1.txt", "Another text.")
    with monkeypatch.context() as patch:
        patch.setattr(publish, "commit", late)
        with pytest.raises(InputError, match="lose: 'extra'"):
            world.run()
    with pytest.raises(InputError, match="lose: 'extra'"):
        world.run()
    delta_rs(world, "documents").restore(0)
    world.run(posted=[])
    agree(world)


def _older(world: World) -> None:
    shutil.rmtree(world.output)
    world.write("../dataset/snapshot.json", "{}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_foreign, "this operator has not written"),
        (_older, "earlier version of this provider"),
        (lambda world: delta_rs(world).alter.add_constraint({"c": "chunk_index >= 0"}), "checkConstraints"),
        (lambda world: shutil.rmtree(world.output / "chunks"), "no table chunks"),
        (lambda world: _add_column(world, "chunks"), "chunks has columns .* lose: 'extra'"),
        (lambda world: _add_column(world, "documents"), "documents has columns .* lose: 'extra'"),
    ],
    ids=[
        *("a table of another program", "an earlier version", "an upgraded table", "one table is missing"),
        *("a column of chunks", "a column of documents"),
    ],
)
def test_what_is_no_output(world: World, change: Callable[[World], object], message: str) -> None:
    world.write("1.txt", "A text.")
    world.run()
    change(world)
    world.write("2.txt", "It is not sent.")
    with pytest.raises(InputError, match=message):
        world.run()
    assert len(world.service.posted) == 1
    if change is _foreign:
        with pytest.raises(InputError, match="was made by another program"):
            open_dataset(str(world.output))


def test_old_versions_go_after_the_retention(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "CHECKPOINT_EVERY", 2)
    world.set(prune=True, retention=0.0)
    for night in range(9):
        world.write("a.txt", f"Night {night}. " * 40)
        world.write(f"{night}.txt", "One of each night.")
        for path in (world.output / "chunks").rglob("*") if world.output.exists() else ():
            os.utime(path, (1, 1))
        world.run()
    files = {path.name for path in (world.output / "chunks").iterdir() if path.suffix == ".parquet"}
    assert files == set(table_of(world).files)
    assert not (world.output / "chunks/_delta_log/00000000000000000000.json").exists()
    with pytest.raises(InputError, match="Versions that can be read"):
        open_dataset(str(world.output), 0)
    assert len(world.texts()) == 10
    added = {one for one, change in world.changed(0).items() if change == "added"}
    assert added == {f"{n}.txt" for n in range(1, 9)}


def test_other_writers_keep_what_the_retention_keeps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def properties(name: str) -> set[str | None]:
        found = delta_rs(world, name).metadata().configuration
        kinds = ("deletedFile", "log")
        return {found.get(f"delta.{kind}RetentionDuration") for kind in kinds}

    world.set(retention=20 * 86_400.0, deletion_vectors=False)
    world.write("1.txt", "The first.")
    world.run()
    world.write("1.txt", "The second.")
    with monkeypatch.context() as patch:
        # Removed longer ago than the seven days that other writers keep.
        now = time.time
        patch.setattr(time, "time", lambda: now() - 10 * 86_400)
        world.run()
    for name in ("chunks", "documents"):
        assert properties(name) == {"interval 1728000 seconds"}
        assert delta_rs(world, name).vacuum(dry_run=False) == []
    assert len(open_dataset(str(world.output), 0)) == 1
    agree(world)

    world.set(retention=5 * 86_400.5)
    world.run(version=1)
    assert properties("chunks") == {"interval 1728000 seconds"}
    world.write("2.txt", "Another.")
    world.run(version=2)
    for name in ("chunks", "documents"):
        assert properties(name) == {"interval 432003 seconds"}
    world.run(version=2)
    agree(world)


def test_properties_say_how_the_chunks_were_made(world: World) -> None:
    world.write("1.txt", "A text.")
    world.run()
    properties = delta_rs(world).metadata().configuration
    assert json.loads(properties["lucidworks.options"])["model_id"] == "gte-small"
    assert properties["lucidworks.dimension"] == "4"
    (field,) = [field for field in delta_rs(world).schema().fields if field.name == "vector"]
    assert field.metadata["dimension"] == "4"
