# SPDX-License-Identifier: Apache-2.0
"""A corpus over several tasks: its listings, and the one snapshot over what the tasks made."""

from __future__ import annotations

import json
import tempfile
import tracemalloc
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lucidworks_provider.documents.shards import publish, read_listing, shard_of, write_listings

from lucidworks_provider import storage
from lucidworks_provider.documents import shards
from lucidworks_provider.documents.dataset import (
    Part,
    Snapshot,
    index_schema,
    json_lines_of,
    open_dataset,
    read_snapshot,
    write_snapshot,
)
from lucidworks_provider.documents.source import Format, SourceFile, list_source
from lucidworks_provider.errors import InputError, StorageError
from lucidworks_provider.storage import write_file

try:
    from airflow.sdk.io import attach
except ImportError:  # Airflow 2
    from airflow.io.store import attach

OPTIONS = {"chunker": "sentence", "model": "gte-small"}


# --- Listings ------------------------------------------------------------------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    for number in range(200):
        file = folder / f"{number % 7}" / f"Nr. {number} ä.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(str(number))
    (folder / "records.jsonl").write_text("{}")
    return folder


def test_every_file_is_in_one_listing_with_all_that_is_known_of_it(source: Path, tmp_path: Path) -> None:
    uris = write_listings(str(source), f"file://{tmp_path}/listings/", shards=8)

    assert uris == [f"file://{tmp_path}/listings/shard-00{number}.jsonl" for number in range(8)]
    listed = [list(read_listing(uri)) for uri in uris]
    everything = [file for files in listed for file in files]
    assert sorted(everything, key=lambda file: file.path) == sorted(
        list_source(str(source)), key=lambda file: file.path
    )
    assert len({file.path for file in everything}) == 201
    assert all(files for files in listed)
    assert Format.JSON_LINES in {file.format for file in everything}
    assert sorted(path.name for path in (tmp_path / "listings").iterdir()) == [
        f"shard-00{number}.jsonl" for number in range(8)
    ]
    fields = json.loads(Path(uris[0].removeprefix("file://")).read_text().splitlines()[0])
    assert set(fields) == {"uri", "path", "size", "stamp", "format"}


def test_a_file_stays_in_its_shard_for_ever() -> None:
    """These numbers are in people's folders: changing them submits every catalogue again."""
    assert [shard_of(path, 16) for path in ("a.txt", "b/c.md", "ä/🦊.html", "")] == [5, 10, 11, 4]


def test_a_shard_without_a_file_has_a_listing_too(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one")
    uris = write_listings(f"{tmp_path}/one.txt", f"{tmp_path}/into", shards=3)
    assert sorted(len(list(read_listing(uri))) for uri in uris) == [0, 0, 1]


def test_an_earlier_listing_stays_when_the_source_cannot_be_listed(source: Path, tmp_path: Path) -> None:
    into = f"{tmp_path}/listings"
    uris = write_listings(str(source), into, shards=2)
    before = [Path(uri).read_bytes() for uri in uris]
    with pytest.raises(InputError, match="nowhere"):
        write_listings(f"{tmp_path}/nowhere", into, shards=2)
    assert [Path(uri).read_bytes() for uri in uris] == before
    assert len(list((tmp_path / "listings").iterdir())) == 2


@pytest.mark.parametrize("number", [0, -1, 501, True, "8", 2.0, None])
def test_a_number_of_shards_that_is_none(number: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"shards is .*; give a number from 1 to 500"):
        write_listings(str(tmp_path), str(tmp_path), shards=number)


@pytest.mark.parametrize(
    "content",
    [
        b"no json\n",
        b"{}\n",
        b"[]\n",
        b'{"uri": "u", "path": "p", "size": 1, "stamp": "s", "format": "doc"}\n',
        b"\xff",
    ],
)
def test_what_is_no_listing_is_refused_with_its_line(content: bytes, tmp_path: Path) -> None:
    good = SourceFile("u", "p", 1, "s", Format.TEXT)
    line = json.dumps({"uri": "u", "path": "p", "size": 1, "stamp": "s", "format": "text"}).encode() + b"\n"
    (tmp_path / "list.jsonl").write_bytes(line + content)
    found = read_listing(f"{tmp_path}/list.jsonl")
    assert next(found) == good
    with pytest.raises(InputError, match=r"line 2 of .*list.jsonl is not of a listing"):
        next(found)


def test_a_listing_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"listing: there is no file {tmp_path}/x"):
        next(read_listing(f"{tmp_path}/x"))


# --- Publishing ----------------------------------------------------------------------------------------


def write_part(shard: str, name: str, ids: Iterable[str]) -> Part:
    """A part with a chunk for each document; written as JSON Lines, too."""
    ids = list(ids)
    part = Part(f"data/{name}.parquet", f"index/{name}.parquet", len(ids), len(ids), 2 * len(ids), 10)
    rows = [
        {
            "document_id": one,
            "content_hash": "h",
            "size": 1,
            "stamp": "s",
            "file": one,
            "chunks": 1,
            "part": part.data,
        }
        for one in ids
    ]
    for path, table in (
        (part.data, pa.table({"document_id": ids, "shard": [shard] * len(ids)})),
        (part.index, pa.Table.from_pylist(rows, schema=index_schema())),
    ):
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        write_file(f"{shard}/{path}", sink.getvalue().to_pybytes())
    write_file(f"{shard}/{json_lines_of(part.data)}", b"")
    return part


def write_shard(shard: str, *parts: Part, **changes: Any) -> str:
    snapshot = Snapshot("20261123T010203.000000Z", "2026-11-23T01:02:03+00:00", OPTIONS, 384, parts)
    write_snapshot(shard, replace(snapshot, **changes))
    return shard


@pytest.fixture(params=["disk", "memory"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return f"file://{tmp_path}/out"
    # Stands for every remote file system, as in test_unit_storage.
    attach(protocol="memory", fs=fsspec.filesystem("memory")).fs.store.clear()
    return "memory://bucket/out"


def files(output: str) -> set[str]:
    fs, path = fsspec.url_to_fs(output)
    return {found[len(path) :].lstrip("/") for found in fs.find(path)}


def test_one_snapshot_over_all_shards(output: str) -> None:
    one = write_part(f"{output}/shard-000", "p", ["a", "b"])
    two = write_part(f"{output}/shard-001", "p", ["c"])
    outputs = [
        write_shard(f"{output}/shard-000", one, rejects=3),
        write_shard(f"{output}/shard-001", two),
        write_shard(f"{output}/shard-002", dimension=0),
    ]

    published = publish(outputs, f"{output}/")

    snapshot = read_snapshot(output)
    assert snapshot is not None
    assert published == {
        "dataset": output,
        "snapshot": snapshot.id,
        "documents": 3,
        "chunks": 3,
        "tokens": 6,
        "rejected": 3,
        "shards": 3,
        "parts": 2,
    }
    assert [part.data for part in snapshot.parts] == [
        "shard-000/data/p.parquet",
        "shard-001/data/p.parquet",
    ]
    assert (snapshot.dimension, snapshot.options) == (384, OPTIONS)
    table = open_dataset(output).to_table()
    assert sorted(table["document_id"].to_pylist()) == ["a", "b", "c"]


def test_what_a_shard_replaced_is_read_until_the_next_publication(output: str) -> None:
    shard = f"{output}/shard-000"
    old, stays = write_part(shard, "old", ["a"]), write_part(shard, "stays", ["b"])
    publish([write_shard(shard, old, stays)], output)

    new = write_part(shard, "new", ["a", "c"])
    write_shard(shard, new, stays)  # keep_replaced=True
    assert sorted(open_dataset(output).to_table()["document_id"].to_pylist()) == ["a", "b"]

    assert publish([shard], output)["documents"] == 3
    assert sorted(open_dataset(output).to_table()["document_id"].to_pylist()) == ["a", "b", "c"]
    assert files(shard) == {
        "snapshot.json",
        *(f"{kind}/{name}.parquet" for kind in ("data", "index") for name in ("new", "stays")),
        "jsonl/new.jsonl",
        "jsonl/stays.jsonl",
    }


@pytest.mark.parametrize(
    ("left", "content", "active"),
    [
        ("lease/00000007.json", b"{}", True),
        ("lease/00000007.json", b"not JSON", True),
        ("lease/00000007.json", b'{"released": true}', False),
        ("journal/head.json", b'{"ended": false}', True),
        ("journal/head.json", b'{"ended": true}', False),
    ],
)
def test_nothing_is_removed_while_a_run_writes(output: str, left: str, content: bytes, active: bool) -> None:
    shards = [f"{output}/shard-000", f"{output}/shard-001"]
    for number, shard in enumerate(shards):
        write_part(shard, "unnamed", [f"x{number}"])
        write_shard(shard, write_part(shard, "p", [f"a{number}"]))
    write_file(f"{shards[0]}/{left}", content)
    publish(shards, output)
    assert ("data/unnamed.parquet" in files(shards[0])) == active
    assert "data/unnamed.parquet" not in files(shards[1])


def test_a_part_that_is_committed_meanwhile_stays(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the publication and the removal a run may come to its end."""
    shard = f"{output}/shard-000"
    old = write_part(shard, "old", ["a"])
    write_shard(shard, old)
    new = write_part(shard, "new", ["a"])
    write = shards.write_snapshot

    def then_commit(*args: Any) -> None:
        write(*args)
        write_shard(shard, new)

    monkeypatch.setattr(shards, "write_snapshot", then_commit)
    publish([shard], output)
    assert {"data/old.parquet", "data/new.parquet"} <= files(shard)


def test_a_removal_that_fails_fails_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shard = f"{tmp_path}/shard-000"
    write_part(shard, "unnamed", ["x"])
    write_shard(shard, write_part(shard, "p", ["a"]))

    def fail(_: str) -> None:
        raise StorageError("read-only")

    monkeypatch.setattr(storage, "remove_file", fail)
    assert publish([shard], str(tmp_path))["documents"] == 1


def test_a_document_of_two_shards_is_an_error_that_names_it(output: str) -> None:
    outputs = []
    for number in range(2):
        shard = f"{output}/shard-00{number}"
        ids = [f"{number}-{each}" for each in range(500)] + ["both"]
        outputs.append(write_shard(shard, write_part(shard, "p", ids)))
    with pytest.raises(InputError, match=r"1 documents are there twice: 'both' \(shard-000, shard-001\)"):
        publish(outputs, output)
    assert read_snapshot(output) is None


def test_two_ids_of_one_digest_are_two_documents(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_digest", lambda text: b"12345678")
    shard = f"{output}/shard-000"
    assert publish([write_shard(shard, write_part(shard, "p", ["a", "b"]))], output)["documents"] == 2


def test_the_check_takes_no_memory_for_each_document() -> None:
    def most(documents: int, folder: Path) -> int:
        tracemalloc.start()
        assert shards._digests_twice(folder, (("s", f"document {n}") for n in range(documents))) == set()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        small, large = most(20_000, Path(one)), most(200_000, Path(other))
    assert large < 10_000_000
    assert large - small < 6_000_000


def test_what_does_not_belong_together_is_not_published(output: str) -> None:
    def shard(number: int, **changes: Any) -> str:
        uri = f"{output}/shard-00{number}"
        return write_shard(uri, write_part(uri, "p", [f"{number}"]), **changes)

    whole = shard(0)
    for outputs, words in (
        ([], "outputs is empty"),
        ([whole, f"{output}/shard-009"], "shard-009 has no snapshot.json"),
        ([whole, whole + "/"], "there twice"),
        ([whole, f"{output}x/shard"], "does not lie below"),
        ([output], "does not lie below"),
        ([whole, shard(1, options=OPTIONS | {"model": "e5"})], r"shard-001 .* shard-000 \(model\)"),
        ([whole, shard(2, dimension=256)], r"different lengths \(\[256, 384\]\)"),
    ):
        with pytest.raises(InputError, match=words):
            publish(outputs, output)
    assert read_snapshot(output) is None


def test_a_dataset_of_one_task_is_not_published_over(output: str) -> None:
    write_shard(output, write_part(output, "own", ["x"]))
    shard = f"{output}/shard-000"
    write_shard(shard, write_part(shard, "p", ["a"]))
    with pytest.raises(InputError, match="holds a dataset of its own"):
        publish([shard], output)
