# SPDX-License-Identifier: Apache-2.0
"""A source on object stores: what is listed, what its names may be, and what it costs to wait for it."""

import asyncio
import gzip
import io
import json
import logging
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_servers import Store, azure_client, store_exactly

from lucidworks_provider.corpus.plan import Candidate, Plan
from lucidworks_provider.corpus.run_database import RunDatabase
from lucidworks_provider.documents.document import Document, Reason, RejectedDocument, TableColumns
from lucidworks_provider.documents.readers import ReadOptions, read_file_documents
from lucidworks_provider.documents.source import list_source
from lucidworks_provider.documents.tables import open_table
from lucidworks_provider.storage import reading, store_path, write_file

SMALL_FILES = 32
# Seconds of each request.
LATENCY = 0.1
# Requests that list a folder, on Azure.
LISTING = 10
REQUESTS = "azure.core.pipeline.policies.http_logging_policy"


def new_plan(db: RunDatabase) -> Plan:
    return Plan(
        db, read=lambda file: read_file_documents(file, ReadOptions()), reuse=False, max_text_bytes=1000
    )


def test_a_file_beside_a_folder_of_its_name(folder: str) -> None:
    for path in ("a/x.txt", "a/x.txt/y.txt", "a/x.txt-2/z.txt", "x.txt", "x.txt/y.txt"):
        write_file(f"{folder}/{path}", path.encode())
    files = {file.path: file for file in list_source(folder)}
    assert files.keys() == {"a/x.txt", "a/x.txt/y.txt", "a/x.txt-2/z.txt", "x.txt", "x.txt/y.txt"}
    for path, file in files.items():
        assert list(read_file_documents(file, ReadOptions())) == [Document(path, path)]


def test_a_glob_in_a_folder_whose_name_looks_like_one(folder: str) -> None:
    # adlfs cannot list a folder that has the name of a blob.
    blob = () if folder.startswith("abfs") else ("a[1]",)
    for path in (*blob, "a[1]/b.txt", "a[1]/d/c.txt", "a1/b.txt", "a1/d/c.txt"):
        write_file(f"{folder}/{path}", path.encode())
    assert {file.uri for file in list_source(f"{folder}/a[1]/*.txt")} == {f"{folder}/a[1]/b.txt"}
    files = {f"{folder}/a[1]/b.txt", f"{folder}/a[1]/d/c.txt"}
    assert {file.uri for file in list_source(f"{folder}/a[1]/**")} == files


def test_folders_without_a_name(folder: str) -> None:
    keys = {"ok.txt", "/x.txt", "/d/y.txt", "//z.txt", "a//w.txt", "a/b/c.txt"}
    for key in keys:
        write_file(f"{folder}/src/{key}", key.encode())
    # A neighbour whose name begins in the same way.
    write_file(f"{folder}/src2//n.txt", b"n")
    files = {file.path: file for file in list_source(f"{folder}/src")}
    assert files.keys() == keys
    for key, file in files.items():
        assert file.uri == f"{folder}/src/{key}"
        assert list(read_file_documents(file, ReadOptions())) == [Document(key, key)]
    assert {file.path for file in list_source(f"{folder}/src/**/*.txt")} == keys
    assert {file.path for file in list_source(f"{folder}/src/*/*.txt")} == {"/x.txt"}
    assert {file.path for file in list_source(f"{folder}/src/*.txt")} == {"ok.txt"}


@pytest.mark.parametrize("store", ["gs"], indirect=True)
def test_names_with_dots_are_counted(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    for path in ("a.txt", "./b.txt", "../c.txt", "d/../e.txt", "d/f.txt"):
        write_file(f"{folder}/src/{path}", b"text")
    assert {file.path for file in list_source(f"{folder}/src")} == {"a.txt", "d/f.txt"}
    assert f"{folder}/src has 3 names with a part '.' or '..', which are skipped" in caplog.text


@pytest.mark.parametrize("store", ["abfs"], indirect=True)
def test_markers_of_folders_are_no_files(folder: str) -> None:
    write_file(f"{folder}/sub/deep/a.txt", b"a")
    with azure_client() as client:
        for marked in ("", "/sub", "/sub/deep", "/empty"):
            container, _, name = f"{store_path(folder).path}{marked}".partition("/")
            client.get_blob_client(container, name).upload_blob(b"", metadata={"hdi_isfolder": "true"})
    assert [file.path for file in list_source(folder)] == ["sub/deep/a.txt"]


@pytest.mark.parametrize("store", ["abfs"], indirect=True)
@pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO])
def test_requests_are_logged_only_on_request(
    folder: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    logging.getLogger(REQUESTS).setLevel(logging.NOTSET)
    logging.getLogger("azure").setLevel(level)
    try:
        write_file(f"{folder}/a.txt", b"a")
        assert bool([record for record in caplog.records if record.name == REQUESTS]) == bool(level)
    finally:
        logging.getLogger("azure").setLevel(logging.NOTSET)


@pytest.mark.parametrize("store", ["s3"], indirect=True)
@pytest.mark.parametrize("name", ["a\tb.txt", "a\rb.txt", "a\x7fb.txt"])
def test_a_name_with_control_characters_is_one_reject(folder: str, name: str) -> None:
    write_file(f"{folder}/sub/{name}", b"text")
    write_file(f"{folder}/sub/c.txt", b"text")
    [reject] = [
        found
        for file in list_source(folder)
        for found in read_file_documents(file, ReadOptions())
        if isinstance(found, RejectedDocument)
    ]
    assert reject.reason is Reason.INVALID
    assert "ids have no control characters" in reject.detail


@pytest.mark.parametrize("store", ["s3", "abfs"], indirect=True)
@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_a_name_that_looks_like_a_version_is_one_reject(folder: str, suffix: str) -> None:
    versioned = f"n.txt?version{'Id' if folder.startswith('s3') else 'id'}=1.{suffix}"
    for name in ("n.txt", versioned):
        store_exactly(folder, name)
    found = {file.path: list(read_file_documents(file, ReadOptions())) for file in list_source(folder)}
    assert found["n.txt"] == [Document("n.txt", f"{folder}/n.txt")]
    [reject] = found[versioned]
    assert isinstance(reject, RejectedDocument)
    assert (reject.id, reject.reason) == (versioned, Reason.UNREADABLE)
    assert f"{folder}/{versioned} cannot be addressed" in reject.detail


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_waiting_for_a_store_is_done_ahead(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    for number in range(64):
        write_file(f"{folder}/{number}/a.txt", b"text")
    original = s3fs.S3FileSystem._call_s3

    async def late(fs: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        await asyncio.sleep(0.1)
        return await original(fs, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", late)
    with RunDatabase() as db:
        plan = new_plan(db)
        begin = time.monotonic()
        assert plan.scan(list_source(folder), exact=False).candidates == 64
        assert [
            found.document.id for found in plan.candidates() if not isinstance(found, RejectedDocument)
        ] == sorted(f"{number}/a.txt" for number in range(64))
    # One after the other, 64 lists and 64 reads wait for 12.8 s.
    assert time.monotonic() - begin < 9


def small_file(suffix: str, number: int) -> bytes:
    """A file of one document."""
    row = {"id": f"{number}", "text": "A text. " * 50}
    match suffix:
        case "txt":
            return str(row["text"]).encode()
        case "csv":
            return f"id,text\n{row['id']},{row['text']}\n".encode()
        case "parquet":
            written = io.BytesIO()
            pq.write_table(pa.Table.from_pylist([row]), written)
            return written.getvalue()
    line = json.dumps(row).encode()
    return gzip.compress(line) if suffix.endswith(".gz") else line


def write_small_files(folder: str, suffix: str) -> None:
    for number in range(SMALL_FILES):
        write_file(f"{folder}/{number}.{suffix}", small_file(suffix, number))


@contextmanager
def shorter_than_one_by_one() -> Iterator[None]:
    """Less time than a request for each small file takes, if each is waited for."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SMALL_FILES * LATENCY


@pytest.mark.parametrize(
    ("suffix", "exact"),
    [
        ("txt", False),
        ("txt", True),
        ("jsonl", False),
        ("jsonl.gz", False),
        ("csv", True),
        ("parquet", False),
    ],
)
def test_small_files_are_read_ahead_by_one_request_each(
    folder: str, store: Store, suffix: str, exact: bool
) -> None:
    write_small_files(folder, suffix)
    store.proxy.latency = LATENCY
    with RunDatabase() as db:
        plan = new_plan(db)
        store.requests()
        with shorter_than_one_by_one():
            assert plan.scan(list_source(folder), exact=exact).candidates == SMALL_FILES
        with shorter_than_one_by_one():
            assert sum(isinstance(found, Candidate) for found in plan.candidates()) == SMALL_FILES
    passes = 1 if suffix == "txt" and not exact else 2
    counts = store.requests()
    assert counts["GET"] + counts["HEAD"] <= passes * SMALL_FILES + LISTING, counts


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_small_files_of_a_table_are_read_ahead(folder: str, store: Store, suffix: str) -> None:
    write_small_files(folder, suffix)
    store.proxy.latency = LATENCY
    store.requests()
    with shorter_than_one_by_one():
        table = open_table(folder, TableColumns())
        assert table is not None
        assert sum(batch.num_rows for batch in table.read()) == SMALL_FILES
    counts = store.requests()
    assert counts["GET"] + counts["HEAD"] <= SMALL_FILES + LISTING, counts


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_requests_of_a_large_file(folder: str, store: Store, suffix: str) -> None:
    numbers = random.Random(1)
    rows = [{"id": str(number), "text": numbers.randbytes(4000).hex()} for number in range(2000)]
    if suffix == "parquet":
        written = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows), written, row_group_size=500, compression="none")
        data = written.getvalue()
    else:
        data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    write_file(f"{folder}/a.{suffix}", data)
    [file] = list_source(folder)
    store.requests()
    found = list(read_file_documents(file, ReadOptions()))
    assert [one.text for one in found if isinstance(one, Document)] == [row["text"] for row in rows]
    counts = store.requests()
    assert sum(counts.values()) <= math.ceil(len(data) / (4 << 20)) + 3, counts


@pytest.mark.parametrize("size", [0, 5 << 20])
def test_a_small_file_that_has_another_size_since_its_listing(folder: str, size: int) -> None:
    write_file(f"{folder}/a.jsonl", b'{"id": "a", "text": "One."}\n')
    [file] = list_source(folder)
    lines = [b'{"id": "%d", "text": "%s"}\n' % (number, b"x" * 1_000_000) for number in range(size >> 20)]
    write_file(file.uri, b"".join(lines))
    assert [one.id for one in read_file_documents(file, ReadOptions())] == [str(n) for n in range(len(lines))]


def test_listings_are_not_remembered(folder: str) -> None:
    for name in ("a/b/c.txt", "a/d.txt", "e/f/g/h.txt"):
        write_file(f"{folder}/{name}", b"a")
    assert len(list(list_source(folder))) == 3
    below = store_path(folder).path
    assert [one for one in store_path(folder).fs.dircache if one.startswith(below)] == []


def test_an_object_that_was_replaced_since_a_listing_is_read(folder: str) -> None:
    uri = f"{folder}/a/b/c.txt"
    write_file(uri, b"Before.")
    path = store_path(folder)
    # By another user of the file system.
    path.fs.find(path.path, detail=True)
    if folder.startswith("s3"):
        store_exactly(folder, "a/b/c.txt")
    else:
        write_file(uri, uri.encode())
    with reading(uri) as opened:
        assert opened.read() == uri.encode()
