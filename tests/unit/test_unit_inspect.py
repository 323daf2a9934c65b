# SPDX-License-Identifier: Apache-2.0
"""``inspect`` names each thing that is wrong with the tables of a catalogue, and nothing else."""

import json
import math
import shutil
import subprocess
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from memory_store import memory_store

from lucidworks_provider import corpus
from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus import inspect as module
from lucidworks_provider.corpus.__main__ import main
from lucidworks_provider.corpus.dataset import DESCRIBES, DIMENSION, OPTIONS, RUN
from lucidworks_provider.corpus.inspect import Inspection, inspect
from lucidworks_provider.corpus.tables import documents_schema
from lucidworks_provider.delta.log import DataFile, commit, metadata_action, protocol_action, txn_action
from lucidworks_provider.documents.document import content_hash
from lucidworks_provider.documents.readers import ReadOptions
from lucidworks_provider.errors import InputError, StorageError
from lucidworks_provider.jobs.columns import stored_chunk_schema

ROOT = Path(corpus.__file__).parents[2]
Row = dict[str, Any]
CHUNKING = ChunkingOptions("sentence", "gte-small", chunker_config={"chunkSize": 2})
DIMENSIONS = 3


def text_of(name: str) -> str:
    return f"{name}: Größe zählt 🐄. " * 6


def chunks_of(name: str, text: str, size: int = 30) -> list[Row]:
    return [
        {
            "document_id": name,
            "chunk_index": number,
            "text": text[start : start + size],
            "start": start,
            "end": min(start + size, len(text)),
            "vector": [0.0, number + 0.5, -1.0],
            "input_tokens": 7,
            "content_hash": content_hash(text),
        }
        for number, start in enumerate(range(0, len(text), size))
    ]


@dataclass
class Catalogue:
    """
    Two tables without a problem, which tests change before they are written.

    :param chunks: rows by the file that has them.
    :param documents: rows of ``documents``.
    :param size: added to the size of a file, by its path.
    :param records: added to its number of rows.
    """

    folder: Path
    chunks: dict[str, list[Row]] = field(default_factory=dict)
    documents: list[Row] = field(default_factory=list)
    options: ChunkingOptions = CHUNKING
    schema: pa.Schema | None = None
    dimension: int = DIMENSIONS
    chunk_marks: dict[str, int] = field(default_factory=lambda: {RUN: 4})
    document_marks: dict[str, int] = field(default_factory=lambda: {RUN: 4, DESCRIBES: 0})
    size: dict[str, int] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        return self.folder / "catalogue"

    @property
    def source(self) -> Path:
        return self.folder / "source"

    def add(self, file: str, name: str, text: str | None = None) -> None:
        """A file of the source, its chunks and its row."""
        text = text_of(name) if text is None else text
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        state, chunks = path.stat(), chunks_of(name, text)
        rows = self.chunks.setdefault(file, [])
        self.documents.append(
            {
                "document_id": name,
                "status": "ok",
                "content_hash": content_hash(text),
                "size": state.st_size,
                "etag": f"mtime:{state.st_mtime_ns}",
                "source_file": name,
                "chunk_file": file,
                "first_row": len(rows),
                "chunks": len(chunks),
                "tokens": 7 * len(chunks),
                "change": "added",
                "version": 0,
                "presence": [0],
                "attempts": 0,
            }
        )
        rows += chunks

    def without(self, name: str, status: str, **values: Any) -> None:
        """A row of a document without chunks."""
        row = {"document_id": name, "status": status, "chunks": 0, "tokens": 0, "presence": [], "attempts": 1}
        self.documents.append(row | values)

    def write(self) -> None:
        """Both tables with what the rows are now."""
        schema = self.schema or stored_chunk_schema(self.options, self.dimension)
        configuration = {OPTIONS: json.dumps(self.options.as_json()), DIMENSION: str(self.dimension)}
        self._commit("chunks", schema, self.chunks, self.chunk_marks, configuration)
        half = len(self.documents) // 2
        files = {"d.parquet": self.documents[:half], "e.parquet": self.documents[half:]}
        self._commit("documents", documents_schema(), files, self.document_marks, {})

    def _commit(
        self,
        name: str,
        schema: pa.Schema,
        files: dict[str, list[Row]],
        marks: dict[str, int],
        configuration: dict[str, str],
    ) -> None:
        place = self.output / name
        place.mkdir(parents=True, exist_ok=True)
        # As another writer may write them.
        loose = pa.schema(
            [
                pa.field(one.name, pa.list_(one.type.value_type) if pa.types.is_list(one.type) else one.type)
                for one in schema
            ]
        )
        adds = []
        for path, rows in files.items():
            pq.write_table(
                pa.Table.from_pylist(rows, schema=loose),
                place / path,
                row_group_size=5,
                write_page_checksum=True,
                compression="zstd",
            )
            size = (place / path).stat().st_size + self.size.get(path, 0)
            adds.append(DataFile(path, size, 0, len(rows) + self.records.get(path, 0)).add())
        about = {"name": name, "description": "", "id": str(uuid.uuid4()), "created_ms": 0}
        metadata = metadata_action(schema, configuration=configuration, **about)
        txns = [txn_action(app, version, 1_700_000_000_000) for app, version in marks.items()]
        assert commit(str(place), 0, [protocol_action(deletion_vectors=False), metadata, *txns, *adds])

    def inspect(self, *, source: bool = True, **more: Any) -> Inspection:
        return inspect(str(self.output), source=str(self.source) if source else None, **more)


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    made = Catalogue(tmp_path)
    for name in ("one.txt", "two.txt", "folder/three.md"):
        made.add("a.parquet", name)
    made.add("b.parquet", "four.txt")
    # A chunk whose span could not be proven.
    made.chunks["b.parquet"][1] |= {"start": None, "end": None, "input_tokens": None}
    made.documents[-1]["tokens"] -= 7
    made.without("six.txt", "rejected", reason="empty", source_file="six.txt")
    (made.source / "six.txt").write_text("")
    made.without("seven.txt", "deleted", presence=[0, 0])
    return made


def test_nothing_is_wrong(catalogue: Catalogue) -> None:
    catalogue.write()
    for source in (True, False):
        found = catalogue.inspect(source=source)
        assert list(found.problems()) == []
    assert found.notes == []
    sizes = [(catalogue.output / "chunks" / path).stat().st_size for path in ("a.parquet", "b.parquet")]
    assert (
        found.about
        | {
            "chunker": "sentence",
            "model_id": "gte-small",
            "chunker_config": '{"chunkSize": 2}',
            "documents": "4",
            "chunks": "22",
            "without span": "1",
            "tokens": "147",
            "status": "ok 4, deleted 1, rejected 1",
            "rejects": "empty 1",
            "dimension": "3",
            "files": "2",
            "bytes": f"{sum(sizes):,}",
            "masked rows": "0",
        }
        == found.about
    )
    assert found.about["chunks table"].startswith("version 0 of 20")
    assert list(found.about)[:2] == ["chunks table", "documents table"]


Change = Callable[[Catalogue], object]


def chunk(row: int = 1, **values: Any) -> Change:
    """Of the first document, if ``row`` is less than 6."""
    return lambda catalogue: catalogue.chunks["a.parquet"][row].update(values)


def document(number: int = 1, **values: Any) -> Change:
    """Of the second document."""
    return lambda catalogue: catalogue.documents[number].update(values)


def of(name: str, **values: Any) -> Change:
    """All chunks of a document."""

    def change(catalogue: Catalogue) -> None:
        for row in catalogue.chunks["a.parquet"]:
            if row["document_id"] == name:
                row.update(values)

    return change


def set_to(**values: Any) -> Change:
    return lambda catalogue: vars(catalogue).update(values)


def lose(row: int) -> Change:
    return lambda catalogue: catalogue.chunks["a.parquet"].pop(row)


def swap(catalogue: Catalogue) -> None:
    rows = catalogue.chunks["a.parquet"]
    rows[1], rows[2] = rows[2], rows[1]


def move(catalogue: Catalogue) -> None:
    """The last document of a file to the other file."""
    rows = catalogue.chunks["a.parquet"]
    catalogue.chunks["b.parquet"] += [row for row in rows if row["document_id"] == "folder/three.md"]
    rows[:] = [row for row in rows if row["document_id"] != "folder/three.md"]


def scatter(catalogue: Catalogue) -> None:
    """The last chunk of a document to the other file."""
    catalogue.chunks["b.parquet"].append(catalogue.chunks["a.parquet"].pop())


def double_chunks(catalogue: Catalogue) -> None:
    catalogue.chunks["b.parquet"] += catalogue.chunks["a.parquet"][:5]


def wide(values: pa.DataType) -> pa.Schema:
    schema = stored_chunk_schema(CHUNKING, DIMENSIONS)
    return schema.set(5, pa.field("vector", pa.list_(values), nullable=False))


MISSING = "documents whose chunks are missing"
ELSEWHERE = "documents whose chunks are not where their row says"
DISORDER = "documents whose chunk_index is not 0, 1, 2, …"
HASHES = "documents with another content_hash than their chunks"
SPAN = "chunks whose span is not as long as their text"
LENGTH = "vectors of another length"
FINITE = "vectors with a number that is not finite"
COLUMNS = "columns of chunks that differ from its configuration"
FIRST = "'one.txt' in a.parquet"


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        (document(chunks=6), {MISSING: "'two.txt'"}),
        (lose(-1), {MISSING: "'folder/three.md'"}),
        (document(chunks=4), {"documents with more chunks than their row says": "'two.txt'"}),
        (double_chunks, {"documents with more chunks than their row says": "'one.txt'"}),
        *(
            (document(**values), {ELSEWHERE: "'two.txt'"})
            for values in ({"first_row": 4}, {"chunk_file": "b.parquet"}, {"chunk_file": None})
        ),
        (move, {ELSEWHERE: "'folder/three.md'"}),
        (scatter, {ELSEWHERE: "'folder/three.md'"}),
        (lambda catalogue: catalogue.documents.pop(1), {}),
        (
            lambda catalogue: catalogue.documents.append(catalogue.documents[0]),
            {"documents that are in documents twice": "'one.txt' in e.parquet"},
        ),
        (document(content_hash="0" * 64), {HASHES: "'two.txt'"}),
        (of("two.txt", content_hash="0" * 64), {HASHES: "'two.txt'"}),
        (chunk(content_hash="0" * 64), {HASHES: "'one.txt'"}),
        (document(tokens=1), {"documents with another number of tokens than their chunks": "'two.txt'"}),
        *(
            (document(**values), {"documents whose status and presence contradict": "'two.txt'"})
            for values in ({"status": "deleted"}, {"presence": [0, 0]}, {"status": "new"})
        ),
        (document(version=1), {"documents of a later version than their table describes": "'two.txt'"}),
        (chunk(chunk_index=5), {DISORDER: "'one.txt'"}),
        (
            chunk(chunk_index=None),
            {"files with rows without chunk_index": "a.parquet", DISORDER: "'one.txt'"},
        ),
        (
            chunk(document_id=None),
            {
                "files with rows without document_id": "a.parquet",
                MISSING: "'one.txt'",
            },
        ),
        (swap, {}),
        (chunk(vector=[1.0, 2.0]), {LENGTH: FIRST}),
        (chunk(vector=[]), {LENGTH: FIRST}),
        (chunk(vector=None), {LENGTH: FIRST, "files with rows without vector": "a.parquet"}),
        (chunk(text=None, start=None, end=None), {"files with rows without text": "a.parquet"}),
        *((chunk(vector=[1.0, one, 0.0]), {FINITE: FIRST}) for one in (math.nan, None)),
        (chunk(vector=[math.inf, -math.inf, 0.0]), {FINITE: FIRST}),
        (chunk(vector=[0.0, 0.0, 0.0]), {"vectors that are all zeros": FIRST}),
        (chunk(end=59), {SPAN: FIRST}),
        (chunk(0, start=-30, end=0), {SPAN: FIRST}),
        (chunk(end=None), {SPAN: FIRST}),
        (chunk(3, start=0, end=30), {"chunks that start before the preceding one": FIRST}),
        (set_to(size={"a.parquet": 1}), {"files of another size than the log says": "a.parquet ("}),
        (set_to(size={"d.parquet": 1}), {"files of another size than the log says": "d.parquet ("}),
        (
            set_to(records={"a.parquet": 1}),
            {"files with another number of rows than the log says": "a.parquet (17, not 18)"},
        ),
        (set_to(schema=wide(pa.float64())), {COLUMNS: "vector is {'type': 'array', 'elementType': 'double'"}),
        (
            set_to(schema=stored_chunk_schema(CHUNKING, DIMENSIONS).append(pa.field("more", pa.string()))),
            {COLUMNS: "more is string, not None"},
        ),
        (
            set_to(chunk_marks={RUN: 5}),
            {
                "runs that have committed chunks and not documents; the next run completes them": (
                    "run 5 with version 0; version 0 is checked"
                )
            },
        ),
        (
            set_to(document_marks={RUN: 4, DESCRIBES: 7}),
            {"versions of chunks that are lost": "0 is the newest, documents describes version 7"},
        ),
    ],
    ids=lambda one: " and ".join(one) if isinstance(one, dict) else "",
)
def test_problems(catalogue: Catalogue, change: Change, problems: dict[str, str]) -> None:
    change(catalogue)
    catalogue.write()
    found = catalogue.inspect(source=False)
    assert set(found.counts) == set(problems)
    for kind, example in problems.items():
        assert found.examples[kind][0].startswith(example)


def test_places_do_not_count_where_another_writer_has_changed_the_table(catalogue: Catalogue) -> None:
    move(catalogue)
    scatter(catalogue)
    catalogue.chunks["a.parquet"].reverse()
    catalogue.write()
    assert set(catalogue.inspect().counts) == {ELSEWHERE}
    assert commit(str(catalogue.output / "chunks"), 1, [txn_action("another", 99, 0)])
    found = catalogue.inspect()
    assert list(found.problems()) == []
    assert found.notes[0].startswith(
        "Another writer has changed chunks: it is at version 1, documents describes ver"
    )


@pytest.mark.parametrize(
    ("change", "example"),
    [
        (chunk(start=31, end=61), "'one.txt' (1 chunks)"),
        (chunk(4, start=9_000, end=9_024), "'one.txt' (1 chunks)"),
        (chunk(text="x" * 30), "'one.txt' (1 chunks)"),
        (of("two.txt", text="x" * 30, start=30, end=60), "'two.txt' (5 chunks)"),
    ],
)
def test_spans_against_the_source(catalogue: Catalogue, change: Change, example: str) -> None:
    change(catalogue)
    catalogue.write()
    assert list(catalogue.inspect(source=False).problems()) == []
    assert catalogue.inspect().examples == {
        "documents with chunks that are not the text of their spans": [example]
    }


def test_the_source_was_changed(catalogue: Catalogue) -> None:
    for name, text in {"two.txt": "changed since", "seven.txt": "is back", "eight.txt": "new"}.items():
        (catalogue.source / name).write_text(text)
    (catalogue.source / "four.txt").unlink()
    (catalogue.source / "folder" / "three.md").write_bytes(b"\x00\x01\x02" * 300)
    catalogue.write()
    found = catalogue.inspect()
    [unreadable] = found.examples.pop("documents that cannot be read, and are not rejects")
    assert unreadable.startswith("'folder/three.md' (binary: ")
    assert {kind: sorted(named) for kind, named in found.examples.items()} == {
        "documents that were changed after they were chunked": ["'two.txt'"],
        "documents of the source that are neither in the tables nor rejects": ["'eight.txt'", "'seven.txt'"],
    }
    assert found.notes == [
        f"Compared with {catalogue.source}: 6 documents.",
        "Documents that the source no longer has (1): 'four.txt', …; prune=True removes them.",
    ]


def test_a_text_that_is_not_the_one_of_the_hash(catalogue: Catalogue) -> None:
    of("two.txt", content_hash="0" * 64)(catalogue)
    document(content_hash="0" * 64)(catalogue)
    catalogue.write()
    kind = "documents whose content_hash is not that of their text"
    assert catalogue.inspect().examples == {kind: ["'two.txt'"]}


def test_rejects_may_have_an_older_text(catalogue: Catalogue) -> None:
    (catalogue.source / "two.txt").write_text("")
    document(status="rejected", reason="empty")(catalogue)
    catalogue.write()
    assert list(catalogue.inspect().problems()) == []


def test_documents_whose_chunks_were_dropped_stay_away(catalogue: Catalogue) -> None:
    """``on_missing_chunks="drop"`` keeps the hash: until the text changes."""
    (catalogue.source / "seven.txt").write_text("dropped")
    catalogue.documents[-1]["content_hash"] = content_hash("dropped")
    catalogue.write()
    assert list(catalogue.inspect().problems()) == []


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_records(catalogue: Catalogue, kind: str) -> None:
    path = catalogue.source / f"records.{kind}"
    texts = [(number, text_of(str(number))) for number in range(3)]
    if kind == "jsonl":
        lines = [json.dumps({"key": number, "body": text}) for number, text in texts]
    else:
        lines = [f"{number};'{text}'" for number, text in texts]
    path.write_text("\n".join(lines))
    state = path.stat()
    for number in range(3):
        catalogue.add("b.parquet", str(number))
        (catalogue.source / str(number)).unlink()
        catalogue.documents[-1] |= {
            "source_file": path.name,
            "size": state.st_size,
            "etag": f"mtime:{state.st_mtime_ns}",
        }
    catalogue.write()
    dialect: dict[str, Any] = {"csv_delimiter": ";", "csv_quotechar": "'", "csv_columns": ["key", "body"]}
    assert list(catalogue.inspect(read=ReadOptions("key", "body", **dialect)).problems()) == []
    with pytest.raises(InputError, match=r"no column '(bodies|key)'"):
        catalogue.inspect(read=ReadOptions("key", "bodies", **dialect | {"csv_columns": None}))
    columns = ["--id-column=key", "--text-column=body", "--csv-delimiter=;", "--csv-quotechar='"]
    columns += ["--csv-columns", "key", "body"]
    assert main(["inspect", str(catalogue.output), "--source", str(path), *columns]) == 0


def test_a_sample_opens_only_its_files(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    from lucidworks_provider.documents import readers

    opened: list[str] = []
    read = readers.read_file_documents
    monkeypatch.setattr(
        readers, "read_file_documents", lambda file, how: opened.append(file.path) or read(file, how)
    )
    catalogue.write()
    found = catalogue.inspect(sample=2)
    assert list(found.problems()) == []
    assert len(opened) == 2
    assert found.notes == [f"Compared with {catalogue.source}: 2 documents."]
    assert list(catalogue.inspect(sample=1_000).problems()) == []


@pytest.mark.parametrize("path", ["chunks/a.parquet", "documents/d.parquet"])
def test_missing_files(catalogue: Catalogue, path: str) -> None:
    """They are named, and so are the documents that miss something."""
    catalogue.write()
    (catalogue.output / path).unlink()
    found = catalogue.inspect(source=False)
    [example] = found.examples["files that cannot be read"]
    assert example.startswith(f"{catalogue.output}/{path} is missing")
    others = {MISSING} if path.startswith("chunks") else {"documents with chunks that are not in documents"}
    assert set(found.counts) == {"files that cannot be read", *others}
    assert found.counts[others.pop()] == 3


@pytest.mark.parametrize("path", ["chunks/a.parquet", "documents/d.parquet"])
def test_damaged_files(catalogue: Catalogue, path: str) -> None:
    """A flipped byte is found, wherever a page or the end of the file has it, and nothing else is raised."""
    catalogue.write()
    file = catalogue.output / path
    whole = file.read_bytes()
    missed = 0
    for place in range(0, len(whole), 197):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
        with suppress(InputError):
            missed += not catalogue.inspect(source=False).counts
    # Statistics and offsets at the end of the file, which are not used.
    assert missed < len(whole) // 197 / 2
    file.write_bytes(whole[: len(whole) // 2])
    assert "files that cannot be read" in catalogue.inspect(source=False).counts


def test_batches_that_end_within_a_document(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 2 * DIMENSIONS)
    catalogue.write()
    assert list(catalogue.inspect().problems()) == []


@pytest.mark.parametrize("method", ["max-scale", "min-max"])
def test_quantised_vectors(catalogue: Catalogue, method: str) -> None:
    catalogue.options = ChunkingOptions(
        "sentence", "gte-small", model_config={"vectorQuantizationMethod": method}
    )
    for rows in catalogue.chunks.values():
        for row in rows:
            row["vector"] = [0, 100, 7]
    catalogue.chunks["a.parquet"][2]["vector"] = [0, 0, 0]
    catalogue.write()
    assert catalogue.inspect().counts == {"vectors that are all zeros": 1}


def test_only_the_first_of_a_kind_are_named(catalogue: Catalogue) -> None:
    for row in catalogue.chunks["a.parquet"]:
        row["vector"] = [0.0, 0.0, 0.0]
    catalogue.write()
    [line] = catalogue.inspect(source=False).problems()
    assert line == f"vectors that are all zeros (17): {FIRST}, {FIRST}, {FIRST}, …"


def test_an_empty_catalogue(tmp_path: Path) -> None:
    catalogue = Catalogue(tmp_path, dimension=0)
    catalogue.write()
    found = catalogue.inspect(source=False)
    assert list(found.problems()) == []
    assert (found.about["documents"], found.about["status"]) == ("0", "none")


def test_on_an_object_store(catalogue: Catalogue) -> None:
    store = memory_store()
    catalogue.write()
    for name in ("catalogue", "source"):
        store.put(f"{catalogue.folder / name}/", f"/bucket/{name}/", recursive=True)
    # The etags are those of another store, and the texts are the same.
    found = inspect("memory://bucket/catalogue", source="memory://bucket/source")
    assert list(found.problems()) == []
    store.rm("/bucket/catalogue/chunks/a.parquet")
    assert set(inspect("memory://bucket/catalogue").counts) == {"files that cannot be read", MISSING}


def log_of(catalogue: Catalogue) -> Path:
    return catalogue.output / "chunks" / "_delta_log" / f"{0:020}.json"


def rename_an_option(catalogue: Catalogue) -> None:
    log_of(catalogue).write_text(log_of(catalogue).read_text().replace("chunker_config", "strange"))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (None, lambda one: shutil.rmtree(one.output / "documents"), "no Delta table documents"),
        (lambda one: one.document_marks.clear(), None, "another writer"),
        (None, rename_an_option, r"lucidworks\.options is not a configuration"),
        (set_to(schema=stored_chunk_schema(CHUNKING, DIMENSIONS).remove(2)), None, "has no column 'text'"),
        (None, lambda one: log_of(one).write_text("{"), "corrupt"),
    ],
    ids=["no documents", "another writer", "configuration", "no column", "damaged log"],
)
def test_what_is_no_catalogue(
    catalogue: Catalogue, before: Change | None, after: Change | None, message: str
) -> None:
    """The tables are changed before or after they are written."""
    if before:
        before(catalogue)
    catalogue.write()
    if after:
        after(catalogue)
    with pytest.raises((InputError, StorageError), match=message):
        catalogue.inspect()


class TestCommand:
    def test_nothing_is_wrong(self, catalogue: Catalogue, capsys: pytest.CaptureFixture[str]) -> None:
        catalogue.write()
        source = ["--source", str(catalogue.source), "--sample", "3"]
        assert main(["inspect", str(catalogue.output), *source]) == 0
        said = capsys.readouterr().out
        assert "  documents       4\n" in said
        assert "No problems found. (" in said

    def test_how_to_read_the_source(self, catalogue: Catalogue) -> None:
        catalogue.write()
        arguments = [
            "inspect",
            str(catalogue.output),
            "--source",
            str(catalogue.source),
            "--max-document-bytes",
        ]
        assert main([*arguments, "10"]) == 1
        assert main([*arguments, "30000000"]) == 0

    def test_problems(self, catalogue: Catalogue, capsys: pytest.CaptureFixture[str]) -> None:
        catalogue.add("a.parquet", "b\x1b[31m\u202ered.txt")
        catalogue.chunks["a.parquet"][-1]["vector"] = [0.0, 0.0, 0.0]
        catalogue.write()
        assert main(["inspect", f"file://{catalogue.output}"]) == 1
        said = capsys.readouterr().out
        # Ids of documents do not reach the terminal as they are.
        assert "WRONG: vectors that are all zeros (1): 'b\\x1b[31m\\u202ered.txt' in a.parquet\n" in said
        assert "Problems were found. (" in said

    @pytest.mark.parametrize(
        ("arguments", "said"), [(["/nowhere"], "holds no catalogue"), (["--source", "/nowhere"], "/nowhere")]
    )
    def test_errors(
        self, catalogue: Catalogue, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        catalogue.write()
        place = [] if arguments[0] == "/nowhere" else [str(catalogue.output)]
        assert main(["inspect", *place, *arguments]) == 1
        assert said in capsys.readouterr().err

    @pytest.mark.parametrize("arguments", [[], ["inspect"], ["inspect", "x", "--sample", "0"], ["look", "x"]])
    def test_usage(self, arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2

    def test_as_a_module(self, catalogue: Catalogue) -> None:
        catalogue.write()
        arguments = ["-m", "lucidworks_provider.corpus", "inspect", "catalogue", "--source", "source"]
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=catalogue.folder,
            capture_output=True,
            text=True,
            check=False,
            env={"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)},
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_the_package_imports_no_pyarrow_before_it_is_used() -> None:
    code = (
        "import sys; import lucidworks_provider.corpus; "
        "from lucidworks_provider.corpus import open_dataset; assert callable(open_dataset); "
        "assert not {'pyarrow', 'airflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = corpus.nothing
