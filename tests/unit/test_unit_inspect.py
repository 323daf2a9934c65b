# SPDX-License-Identifier: Apache-2.0
"""``inspect`` finds each thing that can be wrong with a dataset, names it, and finds nothing where nothing is."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lucidworks_provider import documents
from lucidworks_provider.documents import dataset as datasets
from lucidworks_provider.documents import inspect_rows, open_dataset
from lucidworks_provider.documents.__main__ import main
from lucidworks_provider.documents.chunk_columns import chunk_schema
from lucidworks_provider.documents.dataset import Part, Snapshot, index_schema, write_snapshot
from lucidworks_provider.documents.document import content_hash
from lucidworks_provider.documents.inspect import Inspection, inspect
from lucidworks_provider.documents.readers import Reading
from lucidworks_provider.errors import InputError

try:
    from airflow.sdk.io import attach
except ImportError:  # Airflow 2
    from airflow.io.store import attach

Row = dict[str, Any]
OPTIONS = {
    **{"chunker": "sentence", "model_id": "gte-small", "data_type": "passage"},
    **{"chunker_config": {"chunkSize": 2}, "model_config": {}},
}


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
class Dataset:
    """
    A dataset that is right, made without the engine, and can be made wrong.

    :param parts: the rows of the index and of the data of each part.
    """

    folder: Path
    parts: dict[str, tuple[list[Row], list[Row]]] = field(default_factory=dict)
    rejects: list[Row] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=lambda: dict(OPTIONS))
    dimension: int = 3
    schema: pa.Schema | None = None
    change: Callable[[Snapshot], Snapshot] = lambda snapshot: snapshot

    @property
    def output(self) -> Path:
        return self.folder / "dataset"

    @property
    def source(self) -> Path:
        return self.folder / "source"

    def document(self, part: str, name: str, text: str | None = None) -> None:
        """A file of the source, and its chunks."""
        text = text_of(name) if text is None else text
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        state = path.stat()
        chunks = chunks_of(name, text)
        index, data = self.parts.setdefault(part, ([], []))
        index.append(
            {
                "document_id": name,
                "content_hash": content_hash(text),
                "size": state.st_size,
                "stamp": f"mtime:{state.st_mtime_ns}",
                "file": name,
                "chunks": len(chunks),
                "part": f"data/{part}.parquet",
            }
        )
        data += chunks

    def index(self, part: str = "a") -> list[Row]:
        return self.parts[part][0]

    def data(self, part: str = "a") -> list[Row]:
        return self.parts[part][1]

    def write(self) -> None:
        """Everything as it stands now; the snapshot says what the rows are."""
        schema = self.schema or chunk_schema(self.options, self.dimension, with_hash=True)
        parts = []
        for name, (index, data) in self.parts.items():
            for kind in ("data", "index"):
                (self.output / kind).mkdir(parents=True, exist_ok=True)
            file = self.output / "data" / f"{name}.parquet"
            pq.write_table(pa.Table.from_pylist(data, schema=schema), file, row_group_size=5)
            pq.write_table(
                pa.Table.from_pylist(index, schema=index_schema()), self.output / "index" / f"{name}.parquet"
            )
            tokens = sum(row["input_tokens"] or 0 for row in data)
            parts.append(
                Part(
                    f"data/{name}.parquet",
                    f"index/{name}.parquet",
                    *(len(index), len(data), tokens, file.stat().st_size),
                )
            )
        if self.rejects:
            lines = "".join(json.dumps(one) + "\n" for one in self.rejects)
            (self.output / "rejects.jsonl").write_text(lines)
        snapshot = Snapshot(
            "20261123T000000.000001Z",
            "2026-11-23T00:00:00+00:00",
            dict(OPTIONS),
            self.dimension,
            tuple(parts),
            len(self.rejects),
        )
        write_snapshot(str(self.output), self.change(snapshot))

    def inspect(self, *, source: bool = True, **more: Any) -> Inspection:
        return inspect(str(self.output), source=str(self.source) if source else None, **more)


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    made = Dataset(tmp_path)
    for name in ("one.txt", "two.txt", "folder/three.md"):
        made.document("a", name)
    made.document("b", "four.txt")
    # A text whose chunks nobody could locate, and one without a chunk.
    made.document("b", "five.txt", ".")
    made.data("b").clear()
    made.data("b").extend(chunks_of("four.txt", text_of("four.txt")))
    made.index("b")[-1]["chunks"] = 0
    made.data("b")[1] |= {"start": None, "end": None, "input_tokens": None}
    made.rejects.append({"document_id": "six.txt", "reason": "empty", "detail": "no text", "attempts": 1})
    (made.source / "six.txt").write_text("")
    return made


def test_nothing_is_wrong(dataset: Dataset) -> None:
    dataset.write()
    for source in (True, False):
        found = dataset.inspect(source=source)
        assert found.faults.counts == {}
        assert found.whole
    described = dict(found.describe())
    assert (
        described
        | {
            **{"documents": "5", "chunks": "22", "tokens": "147", "dimension": "3", "parts": "2"},
            **{"model_id": "gte-small", "chunker_config": '{"chunkSize": 2}', "rejects": "1 (empty 1)"},
            **{"snapshot": "20261123T000000.000001Z", "created": "2026-11-23T00:00:00+00:00"},
        }
        == described
    )
    assert found.notes == ["1 chunks have no span: where they stand could not be proven."]


def wrong_index(**changes: Any) -> Callable[[Dataset], None]:
    return lambda dataset: dataset.index()[1].update(changes)


def wrong_chunk(row: int = 1, **changes: Any) -> Callable[[Dataset], None]:
    return lambda dataset: dataset.data()[row].update(changes)


def wrong_part(**changes: Any) -> Callable[[Dataset], None]:
    def change(dataset: Dataset) -> None:
        dataset.change = lambda snapshot: replace(
            snapshot, parts=(replace(snapshot.parts[0], **changes), *snapshot.parts[1:])
        )

    return change


def twice_in_one_part(dataset: Dataset) -> None:
    dataset.data().extend(chunks_of("one.txt", text_of("one.txt")))


def in_two_parts(dataset: Dataset) -> None:
    dataset.index("b").append(dataset.index()[0] | {"part": "data/b.parquet"})
    dataset.data("b").extend(chunks_of("one.txt", text_of("one.txt")))


def in_another_part(dataset: Dataset) -> None:
    dataset.data("b").extend(row for row in dataset.data() if row["document_id"] == "one.txt")
    dataset.data()[:] = [row for row in dataset.data() if row["document_id"] != "one.txt"]


def not_in_the_index(dataset: Dataset) -> None:
    dataset.index().pop(0)


def a_chunk_is_lost(dataset: Dataset) -> None:
    dataset.data().pop(1)


def the_last_chunk_is_lost(dataset: Dataset) -> None:
    dataset.data().pop()


def another_hash(dataset: Dataset) -> None:
    for row in dataset.data():
        if row["document_id"] == "two.txt":
            row["content_hash"] = "0" * 64


def other_options(dataset: Dataset) -> None:
    dataset.options["model_id"] = "another"


def another_type(dataset: Dataset) -> None:
    schema = chunk_schema(OPTIONS, 3, with_hash=True)
    dataset.schema = schema.set(1, pa.field("chunk_index", pa.int64(), nullable=False))


def another_length(dataset: Dataset) -> None:
    dataset.change = lambda snapshot: replace(snapshot, dimension=4)


def no_hashes(dataset: Dataset) -> None:
    dataset.schema = chunk_schema(OPTIONS, 3, with_hash=False)


def fewer_rejects(dataset: Dataset) -> None:
    dataset.change = lambda snapshot: replace(snapshot, rejects=7)


def a_reject_that_is_none(dataset: Dataset) -> None:
    dataset.rejects.append({"reason": "empty"})


LOST = "documents with another number of chunks than the index says"


@pytest.mark.parametrize(
    ("wrong", "kinds"),
    [
        (wrong_index(content_hash="0" * 64), {"documents with another content_hash than the index says": 1}),
        (wrong_index(chunks=9), {LOST: 1, "indexes with another number of chunks than the snapshot says": 1}),
        (wrong_index(part="data/b.parquet"), {"index rows that name another part": 1}),
        (
            not_in_the_index,
            {
                "documents that stand in no index": 1,
                "indexes with another number of chunks than the snapshot says": 1,
            },
        ),
        (wrong_chunk(chunk_index=5), {"chunks whose chunk_index is not one above that before": 2}),
        (
            wrong_chunk(content_hash="0" * 64),
            {"chunks with another content_hash than those of the same document": 1},
        ),
        (another_hash, {"documents with another content_hash than the index says": 1}),
        (wrong_chunk(vector=[0.0, 0.0, 0.0]), {"vectors that are all zeros": 1}),
        (wrong_chunk(vector=[1.0, math.nan, 0.0]), {"vectors with a number that is not finite": 1}),
        (wrong_chunk(vector=[math.inf, -math.inf, 0.0]), {"vectors with a number that is not finite": 1}),
        (wrong_chunk(end=59), {"spans that are not as long as their chunks": 1}),
        (wrong_chunk(0, start=-30, end=0), {"spans that are not as long as their chunks": 1}),
        (wrong_chunk(end=None), {"spans that are not as long as their chunks": 1}),
        (
            a_chunk_is_lost,
            {
                "chunks whose chunk_index is not one above that before": 1,
                "indexes with another number of chunks than the snapshot says": 1,
            },
        ),
        (
            the_last_chunk_is_lost,
            {LOST: 1, "indexes with another number of chunks than the snapshot says": 1},
        ),
        (
            twice_in_one_part,
            {
                "documents whose chunks stand at two places": 1,
                "indexes with another number of chunks than the snapshot says": 1,
            },
        ),
        (
            in_two_parts,
            {"documents that stand in the index twice": 1, "documents whose chunks stand at two places": 1},
        ),
        (
            in_another_part,
            {
                "documents in another part than the index says": 1,
                "indexes with another number of chunks than the snapshot says": 2,
            },
        ),
        (other_options, {"files with other columns than the snapshot says": 2}),
        (another_type, {"files with other columns than the snapshot says": 2}),
        (another_length, {"files with other columns than the snapshot says": 2}),
        (no_hashes, {"files with other columns than the snapshot says": 2}),
        (wrong_part(bytes=1), {"files of another size than the snapshot says": 1}),
        (wrong_part(documents=1), {"indexes with another number of documents than the snapshot says": 1}),
        (
            wrong_part(chunks=1),
            {
                "indexes with another number of chunks than the snapshot says": 1,
                "files with another number of chunks than the snapshot says": 1,
            },
        ),
        (wrong_part(tokens=1), {"files with another number of tokens than the snapshot says": 1}),
        (
            wrong_part(data="data/c.parquet"),
            {"files that cannot be read": 1, "index rows that name another part": 3},
        ),
        (wrong_part(index="index/c.parquet"), {"files that cannot be read": 1}),
        (fewer_rejects, {"files of rejects with another number than the snapshot says": 1}),
        (
            a_reject_that_is_none,
            {
                "lines of rejects that are none": 1,
                "files of rejects with another number than the snapshot says": 1,
            },
        ),
    ],
    ids=lambda one: " and ".join(one) if isinstance(one, dict) else "",
)
def test_what_is_wrong_is_found(
    dataset: Dataset, wrong: Callable[[Dataset], None], kinds: dict[str, int]
) -> None:
    wrong(dataset)
    dataset.write()
    found = dataset.inspect(source=False)
    stray = "files that no snapshot names; the next run removes them"
    assert {kind: count for kind, count in found.faults.counts.items() if kind != stray} == kinds


@pytest.mark.parametrize(
    ("wrong", "kind", "named"),
    [
        # Spans of the right length at the wrong place; the hash of the document is right.
        (
            wrong_chunk(start=31, end=61),
            "chunks that are not the text between their spans",
            "'one.txt' (1 chunks)",
        ),
        (
            wrong_chunk(start=9_000, end=9_030),
            "chunks that are not the text between their spans",
            "'one.txt'",
        ),
        (wrong_chunk(text="x" * 30), "chunks that are not the text between their spans", "'one.txt'"),
    ],
)
def test_spans_against_the_source(
    dataset: Dataset, wrong: Callable[[Dataset], None], kind: str, named: str
) -> None:
    wrong(dataset)
    dataset.write()
    assert dataset.inspect(source=False).whole
    [line] = dataset.inspect().faults.lines()
    assert kind in line
    assert named in line


def test_the_source_has_moved_on(dataset: Dataset) -> None:
    (dataset.source / "two.txt").write_text("changed since")
    (dataset.source / "seven.txt").write_text("new")
    (dataset.source / "four.txt").unlink()
    (dataset.source / "folder" / "three.md").write_bytes(b"\x00\x01\x02" * 300)
    dataset.write()
    found = dataset.inspect()
    assert found.faults.counts == {
        "documents that were changed after they were chunked": 1,
        "documents that cannot be read, and are no rejects": 1,
        "documents of the source that are neither in the dataset nor rejects": 1,
    }
    examples = found.faults.examples
    assert examples["documents that were changed after they were chunked"] == ["'two.txt'"]
    assert "'folder/three.md' (binary: " in str(examples)
    assert "seven.txt" in str(examples)
    assert (
        "Documents that are not in the source any more (1): 'four.txt', …; prune=True removes them."
        in found.notes
    )


def test_a_text_that_is_not_the_one_of_the_hash(dataset: Dataset) -> None:
    for rows in (dataset.index(), dataset.data()):
        for row in rows:
            if row["document_id"] == "one.txt":
                row["content_hash"] = "0" * 64
    dataset.write()
    assert list(dataset.inspect().faults.lines()) == [
        "documents whose content_hash is not that of their text (1): 'one.txt'"
    ]


def test_an_older_version_of_a_rejected_document_is_right(dataset: Dataset) -> None:
    (dataset.source / "two.txt").write_text("")
    dataset.rejects.append({"document_id": "two.txt", "reason": "empty", "detail": "", "attempts": 1})
    dataset.write()
    assert dataset.inspect().whole


def test_records(dataset: Dataset, tmp_path: Path) -> None:
    records = [{"key": number, "body": text_of(str(number))} for number in range(3)]
    path = dataset.source / "records.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    state = path.stat()
    for number in range(3):
        dataset.document("b", str(number))
        (dataset.source / str(number)).unlink()
        dataset.index("b")[-1] |= {"file": path.name, "size": state.st_size}
        dataset.index("b")[-1] |= {"stamp": f"mtime:{state.st_mtime_ns}"}
    dataset.write()
    assert dataset.inspect(read=Reading("key", "body")).whole
    with pytest.raises(InputError, match="body"):
        dataset.inspect(read=Reading("key", "bodies"))
    assert (
        main(["inspect", str(dataset.output), "--source", str(path), "--id-column=key", "--text-column=body"])
        == 0
    )


def test_a_sample_opens_no_more_files_than_it_has(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    from lucidworks_provider.documents import readers

    opened: list[str] = []
    read = readers.read_file_documents
    monkeypatch.setattr(
        readers, "read_file_documents", lambda file, how: opened.append(file.path) or read(file, how)
    )
    dataset.write()
    found = dataset.inspect(sample=2)
    assert found.whole
    assert len(opened) == 2
    assert f"Compared with {dataset.source}: 2 documents." in found.notes
    assert dataset.inspect(sample=1_000).whole


def test_files_that_no_snapshot_names(dataset: Dataset) -> None:
    dataset.write()
    for name in ("data/x.parquet", "index/y.parquet", "jsonl/a.jsonl", "jsonl/z.jsonl"):
        path = dataset.output / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    [line] = dataset.inspect(source=False).faults.lines()
    assert line == (
        "files that no snapshot names; the next run removes them (3): data/x.parquet, index/y.parquet, jsonl/z.jsonl"
    )
    # They may be those of a run that is at work.
    (dataset.output / "journal").mkdir()
    (dataset.output / "journal" / "head.json").write_text("{}")
    found = dataset.inspect(source=False)
    assert found.whole
    assert any("is under way, or died" in note for note in found.notes)


def test_no_more_than_a_few_are_named(dataset: Dataset) -> None:
    for row in dataset.data():
        row["vector"] = [0.0, 0.0, 0.0]
    dataset.write()
    [line] = dataset.inspect(source=False).faults.lines()
    assert line.startswith(
        f"vectors that are all zeros ({len(dataset.data())}): 'one.txt' in data/a.parquet, "
    )
    assert line.count("data/a.parquet") == 3
    assert line.endswith(", …")


@pytest.mark.parametrize(("method", "kind"), [("max-scale", "int8"), ("min-max", "uint8")])
def test_quantised_vectors(dataset: Dataset, method: str, kind: str) -> None:
    options = dict(OPTIONS, model_config={"vectorQuantizationMethod": method})
    dataset.options = options
    dataset.change = lambda snapshot: replace(snapshot, options=options)
    for part in "ab":
        for row in dataset.data(part):
            row["vector"] = [0, 100, 7]
    dataset.write()
    assert open_dataset(str(dataset.output)).schema.field("vector").type.value_type == kind
    assert dataset.inspect().whole
    dataset.data()[2]["vector"] = [0, 0, 0]
    dataset.write()
    assert dataset.inspect().faults.counts == {"vectors that are all zeros": 1}


def test_batches_that_end_within_a_document(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_rows, "_MOST_ROWS", 2)
    dataset.write()
    assert dataset.inspect().whole


def test_every_flipped_byte_of_the_index_or_the_footer_is_survived(dataset: Dataset) -> None:
    dataset.write()
    for name in ("data/a.parquet", "index/a.parquet"):
        path = dataset.output / name
        whole = path.read_bytes()
        for place in range(0, len(whole), 97):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :])
            dataset.inspect(source=False)
        path.write_bytes(whole[: len(whole) // 2])
        assert "files that cannot be read" in dataset.inspect(source=False).faults.counts
        path.write_bytes(whole)


def test_shards(dataset: Dataset, tmp_path: Path) -> None:
    """A snapshot over shards: files lie further down, and each shard may have moved on."""
    shard = replace(dataset, folder=tmp_path / "all", parts=dataset.parts)
    shard.folder.mkdir()
    shard.write()
    (shard.folder / "dataset").rename(shard.folder / "shard-0")
    own = datasets.read_snapshot(str(shard.folder / "shard-0"))
    assert own is not None
    above = replace(
        own,
        parts=tuple(part.below("shard-0") for part in own.parts),
        manifest={"shards": {"shard-0": own.id}},
    )
    write_snapshot(str(shard.folder), above)
    found = inspect(str(shard.folder), source=str(dataset.source))
    assert found.faults.counts == {}
    assert found.rejects == {"empty": 1}
    # What the published snapshot still names is no stray file of the shard.
    write_snapshot(str(shard.folder / "shard-0"), replace(own, id="later", parts=own.parts[:1]))
    assert inspect(str(shard.folder / "shard-0")).faults.counts == {}
    assert inspect(str(shard.folder)).faults.counts == {}
    (shard.folder / "shard-0" / "data" / "stray.parquet").write_bytes(b"")
    assert list(inspect(str(shard.folder)).faults.examples.values()) == [["shard-0/data/stray.parquet"]]


def test_on_a_store_that_is_no_disk(dataset: Dataset) -> None:
    store = attach(protocol="memory", fs=fsspec.filesystem("memory")).fs
    store.store.clear()
    dataset.write()
    for name in ("dataset", "source"):
        store.put(f"{dataset.folder / name}/", f"/bucket/{name}/", recursive=True)
    found = inspect("memory://bucket/dataset", source="memory://bucket/source")
    # The stamps are those of another store, and the texts are the same.
    assert found.faults.counts == {}
    store.rm("/bucket/dataset/data/a.parquet")
    store.pipe_file("/bucket/dataset/data/stray.parquet", b"")
    assert set(inspect("memory://bucket/dataset").faults.counts) == {
        "files that cannot be read",
        "files that no snapshot names; the next run removes them",
    }


class TestCommand:
    def test_whole(self, dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
        dataset.write()
        assert main(["inspect", str(dataset.output), "--source", str(dataset.source), "--sample", "3"]) == 0
        said = capsys.readouterr().out
        assert "  documents       5\n" in said
        assert "Nothing is wrong." in said

    def test_wrong(self, dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
        dataset.document("a", "b\x1b[31m\u202ered.txt")
        dataset.data()[-1]["vector"] = [0.0, 0.0, 0.0]
        dataset.write()
        assert main(["inspect", f"file://{dataset.output}"]) == 1
        said = capsys.readouterr().out
        # Ids of documents do not reach the terminal as they are.
        assert "WRONG: vectors that are all zeros (1): 'b\\x1b[31m\\u202ered.txt' in data/a.parquet\n" in said
        assert "This dataset is not whole." in said

    def test_no_dataset(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["inspect", str(tmp_path / "nothing")]) == 1
        assert "holds no dataset" in capsys.readouterr().err

    def test_no_source(self, dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
        dataset.write()
        assert main(["inspect", str(dataset.output), "--source", "/nowhere"]) == 1
        assert "/nowhere" in capsys.readouterr().err

    @pytest.mark.parametrize("arguments", [[], ["inspect"], ["inspect", "x", "--sample", "0"], ["look", "x"]])
    def test_usage(self, arguments: list[str]) -> None:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2

    def test_as_a_module(self, dataset: Dataset) -> None:
        dataset.write()
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "lucidworks_provider.documents",
                "inspect",
                "dataset",
                "--source",
                "source",
            ],
            cwd=dataset.folder,
            capture_output=True,
            text=True,
            check=False,
            env={"LC_ALL": "C", "PYTHONIOENCODING": "ascii"},
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_the_room_costs_no_pyarrow_until_it_is_used() -> None:
    code = (
        "import sys; import lucidworks_provider.documents; before = set(sys.modules); "
        "from lucidworks_provider.documents import open_dataset; assert callable(open_dataset); "
        "assert not {'pyarrow', 'airflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = documents.nothing
