# SPDX-License-Identifier: Apache-2.0
"""Storage and the result file: the same on a local disk and on a remote file system, whole or not at all."""

import asyncio
import errno
import gc
import io
import json
import os
import resource
import time
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from airflow.providers.common.compat import sdk as compat
from hypothesis import given
from hypothesis import strategies as st
from memory_store import memory_store

from lucidworks_provider import storage
from lucidworks_provider.client.chunking import Chunk, ChunkingOptions
from lucidworks_provider.client.jobs import CHUNKING
from lucidworks_provider.client.prediction_types import Embedding, Prediction, read_predictions
from lucidworks_provider.client.use_cases import PredictionOptions
from lucidworks_provider.client.validation import locate
from lucidworks_provider.errors import InputError, MalformedResponseError, StorageError
from lucidworks_provider.jobs import record as job_record
from lucidworks_provider.jobs.chunk_task import chunk_file
from lucidworks_provider.jobs.decisions import JobsOutcome
from lucidworks_provider.jobs.external import ExternalJob
from lucidworks_provider.jobs.polling import wait_for_jobs
from lucidworks_provider.jobs.prediction_task import ResultPolicy, prediction_file
from lucidworks_provider.jobs.record import JobRecord, JobStateStore, QuarantineReason, ResultDirectory
from lucidworks_provider.jobs.rows import Batch, Survey
from lucidworks_provider.jobs.task import check_suffix
from lucidworks_provider.storage import (
    check_uri,
    create_file,
    exists,
    is_folder,
    names_in,
    plain_uri,
    read_file,
    remove_file,
    remove_folder,
    split_uri,
    write_file,
    writing,
)
from tests.task_state import TaskStateStore

OPTIONS = ChunkingOptions("sentence", "gte-small")


def test_files_come_and_go(base: str) -> None:
    uri = f"{base}/a folder/ä#?.bin"
    assert read_file(uri) is None
    assert not exists(uri)
    remove_file(uri)
    remove_folder(uri)
    write_file(uri, b"1")
    write_file(uri, b"22")
    assert read_file(uri) == b"22"
    assert exists(uri)
    remove_folder(split_uri(uri)[0])
    assert not exists(uri)


def test_a_storage_that_fails_has_no_missing_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A result that is missing would be submitted again."""

    def fails(path: str) -> None:
        raise ConnectionError("down")

    monkeypatch.setattr(memory_store(), "info", fails)
    with pytest.raises(StorageError, match="memory://bucket/a cannot be read: ConnectionError: down"):
        exists("memory://bucket/a")


# All that fsspec's globs and Python's treat specially.
@pytest.mark.parametrize("name", ["out[1]", "out?", "out*", "out[!1]", "{out1,outA}", "**"])
def test_a_removal_names_exact_keys(base: str, name: str) -> None:
    others = [
        f"{base}/{folder}/{file}" for folder in ("out1", "outA", "out") for file in ("lease.json", "a/b")
    ]
    mine = [f"{base}/{name}/{file}" for file in ("lease.json", "l*", "a/b", "a/[b]")]
    for uri in others + mine:
        write_file(uri, uri.encode())
    remove_file(f"{base}/{name}/l*")
    assert [exists(uri) for uri in mine] == [True, False, True, True]
    remove_file(f"{base}/{name}/a/[b]")
    assert [exists(uri) for uri in mine] == [True, False, True, False]
    remove_folder(f"{base}/{name}")
    assert not any(exists(uri) for uri in mine)
    assert [read_file(uri) for uri in others] == [uri.encode() for uri in others]
    # Nor does a name with wildcards that does not exist remove what it would match.
    remove_file(f"{base}/out?/lease.json")
    remove_folder(f"{base}/out?")
    assert all(exists(uri) for uri in others)


def test_a_removed_link_leaves_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "file").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "target")
    remove_folder(f"{tmp_path}/folder")
    assert (tmp_path / "target" / "file").exists()


def test_a_failing_writer_leaves_the_old_file(base: str) -> None:
    uri = f"{base}/result.jsonl"
    write_file(uri, b"old")

    def fail() -> None:
        with writing(uri) as path:
            path.write_bytes(b"half")
            raise KeyError("a fault of ours")

    with pytest.raises(KeyError, match="a fault of ours"):
        fail()
    assert (read_file(uri), names_in(base)) == (b"old", ["result.jsonl"])
    with writing(uri) as path:
        path.write_bytes(b"new")
    assert read_file(uri) == b"new"


def test_nothing_partial_is_ever_visible(tmp_path: Path) -> None:
    with writing(str(tmp_path / "r.parquet")) as path:
        path.write_bytes(b"half")
        assert not (tmp_path / "r.parquet").exists()
        assert [p.name.startswith(".") for p in tmp_path.iterdir()] == [True]
    assert [p.name for p in tmp_path.iterdir()] == ["r.parquet"]


def test_errors_name_the_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=f"{tmp_path}/file/x cannot be written: "):
        write_file(f"{tmp_path}/file/x", b"")
    with pytest.raises(InputError, match=r"nosuchscheme://b/x cannot be opened: .*s3://, .*gs://, .*abfs://"):
        read_file("nosuchscheme://b/x")


@pytest.mark.parametrize(
    ("uri", "extra"), [("s3://c@b/x", "s3"), ("gcs://b/x", "gcs"), ("abfs://b/x", "azure"), ("az://b/x", "")]
)
@pytest.mark.parametrize("missing", ["provider", "file system"])
def test_a_scheme_without_its_file_system_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, uri: str, extra: str, missing: str
) -> None:
    """The provider registers the scheme, and may be installed without the file system's package."""

    class Unknown:
        def __init__(self, _: str) -> None: ...

        @property
        def fs(self) -> None:
            if missing == "provider":
                raise ValueError("No filesystem registered for scheme s3")
            raise ImportError("No module named 's3fs'")

    monkeypatch.setattr(compat, "ObjectStoragePath", Unknown)
    monkeypatch.setenv("AIRFLOW_CONN_C", "aws://")
    with pytest.raises(InputError, match=f"{uri} cannot be opened: No ") as caught:
        read_file(uri)
    advice = f"'airflow-provider-lucidworks[{extra}]'" if extra else "Use abfs:// for Azure Blob Storage."
    assert advice in str(caught.value)
    assert not caught.value.retryable


@pytest.mark.parametrize("uri", ["x.parquet", "./x.parquet", "file://x.parquet", "s3://b/f/", "", None, 5])
def test_what_names_no_file_is_refused(uri: object) -> None:
    with pytest.raises(InputError, match="result_path"):
        check_uri(uri, "result_path")


def test_a_folder_is_distinguished_from_a_file(tmp_path: Path) -> None:
    assert is_folder(str(tmp_path))
    assert not is_folder(str(tmp_path / "x"))
    assert not is_folder("memory://bucket")


def test_only_known_suffixes() -> None:
    check_suffix("s3://b/x.parquet")
    check_suffix("s3://b/x.jsonl")
    with pytest.raises(InputError, match=r"\.parquet or \.jsonl"):
        check_suffix("s3://b/x.csv")


def result_of(store: JobStateStore) -> object:
    found = store.load()
    assert found is not None
    return found.result


def record_of(*job_ids: str) -> JobRecord:
    record = JobRecord("f", 0, len(job_ids))
    for position, job_id in enumerate(job_ids):
        record.submitted(position, job_id)
    return record


def test_the_job_state_store_keeps_the_newer_copy_and_deletes_the_bodies(base: str) -> None:
    bodies = ResultDirectory.beside(f"{base}/out/r.parquet", "dag", "run", "task", -1)
    assert bodies.folder.startswith(f"{base}/out/_r.parquet.")
    assert bodies == ResultDirectory.beside(f"{base}/out/r.parquet", "dag", "run", "task", -1)
    assert bodies != ResultDirectory.beside(f"{base}/out/r.parquet", "dag", "run", "task", 0)
    store = JobStateStore(bodies, TaskStateStore())
    assert store.load() is None
    record = JobRecord("f", 0, 1)
    record.intend([0])
    store.save(record)
    record.submitted(0, "job")
    JobStateStore(bodies, None).save(record)
    assert store.load() == record
    body = bodies.of("job")
    asyncio.run(body.save(b"{}"))
    assert asyncio.run(body.exists())
    assert bodies.stored({0: "job", 1: "another job"}) == {0: 2}
    aside = body.reject()
    assert (asyncio.run(body.exists()), read_file(aside)) == (False, b"{}")
    record.finish({"uri": "u"})
    store.close(record)
    assert not exists(bodies.folder)
    assert result_of(store) == {"uri": "u"}


def test_a_state_store_that_fails_leaves_the_record_on_storage(tmp_path: Path) -> None:
    state = TaskStateStore()
    store = JobStateStore(ResultDirectory(f"{tmp_path}/_r.parquet"), state)
    record = record_of("job")
    store.save(record)
    asyncio.run(store.results.of("job").save(b"{}"))
    state.down = True
    record.finish({"uri": "u"})
    store.close(record)
    assert store.results.of("job").read() is None
    found = store.load()
    assert found is not None
    assert found.result == {"uri": "u"}
    # The next attempt brings it where another host finds it.
    state.down = False
    store.close(found)
    assert not exists(store.results.folder)
    assert store.load() == found


@pytest.mark.parametrize("state", [None, TaskStateStore()], ids=["without state store", "with state store"])
def test_a_storage_that_removes_nothing_fails_no_result(
    tmp_path: Path,
    state: TaskStateStore | None,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuses(uri: str) -> None:
        raise StorageError(f"{uri} cannot be removed: AccessDenied")

    store = JobStateStore(ResultDirectory(f"{tmp_path}/_r.parquet"), state)
    record = record_of("job")
    store.save(record)
    asyncio.run(store.results.of("job").save(b"{}"))
    monkeypatch.setattr(storage, "remove_file", refuses)
    monkeypatch.setattr(storage, "remove_folder", refuses)
    record.finish({"uri": "u"})
    store.close(record)
    assert result_of(store) == {"uri": "u"}
    assert "AccessDenied" in caplog.text


def test_an_id_is_in_one_place_at_least(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = JobStateStore(ResultDirectory(f"{tmp_path}/file/x"), TaskStateStore())
    with pytest.raises(StorageError):
        store.save(record_of("precious"))
    assert (store.load() or JobRecord("", 0)).jobs == {0: "precious"}


def test_a_body_outlives_a_storage_that_fails_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [StorageError("503"), StorageError("503")]

    def write(uri: str, data: bytes) -> None:
        if failures:
            raise failures.pop()
        write_file(uri, data)

    monkeypatch.setattr(job_record, "write_file", write)
    body = ResultDirectory(str(tmp_path)).of("job")
    asyncio.run(body.save(b"the only copy"))
    assert body.read() == b"the only copy"
    failures.append(StorageError("503"))
    kept = asyncio.run(body.quarantine(b"another", QuarantineReason.UNUSABLE))
    assert read_file(kept) == b"another"


def wait_with(
    write: Callable[[str, bytes], None], folder: Path, monkeypatch: pytest.MonkeyPatch, *jobs: str
) -> tuple[JobsOutcome | StorageError, list[object]]:
    """The outcome of a wait whose results are stored by a function, and its polls."""
    polls = []

    class Hook:
        async def acall(self, call: object, *, attempts: int | None = None) -> bytes:
            polls.append(call)
            return b'{"status": "READY", "chunkedData": [{}]}'

        @asynccontextmanager
        async def shared_client(self) -> AsyncIterator[SimpleNamespace]:
            yield SimpleNamespace(slots=asyncio.Semaphore(8))

    bodies = ResultDirectory(str(folder))
    record = record_of(*jobs)
    JobStateStore(bodies, None).save(record)
    monkeypatch.setattr(job_record, "write_file", write)
    monkeypatch.setattr(job_record, "SAVE_WAIT", 0.001)
    times = {"poll_interval": 0.01, "deadline": time.time() + 60}
    try:
        return asyncio.run(wait_for_jobs(Hook(), CHUNKING, bodies, nonce=record.nonce, **times)), polls
    except StorageError as err:
        return err, polls


@pytest.mark.parametrize("full_for", [3, 1000])
def test_a_result_waits_in_memory_for_a_full_disk(
    full_for: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def write(uri: str, data: bytes) -> None:
        written.append(uri)
        if 1 < len(written) <= 1 + full_for:
            raise StorageError("no space left")
        write_file(uri, data)

    outcome, polls = wait_with(write, tmp_path, monkeypatch, "job")
    if full_for > job_record.SAVE_ATTEMPTS:
        assert str(outcome) == "no space left"
        assert len(written) == 1 + job_record.SAVE_ATTEMPTS
    else:
        assert outcome == JobsOutcome(collected=1)
        assert ResultDirectory(str(tmp_path)).of("job").read() is not None
    assert len(polls) == 1, "a result that is readable once is polled once"


@pytest.mark.parametrize(("writes", "most"), [(0, 0), (1, 8)], ids=["read-only", "full later"])
def test_a_result_that_cannot_be_stored_is_not_requested(
    writes: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def write(uri: str, data: bytes) -> None:
        written.append(uri)
        if len(written) > writes:
            raise StorageError("Permission denied")

    outcome, polls = wait_with(write, tmp_path, monkeypatch, *(f"job-{number}" for number in range(40)))
    assert isinstance(outcome, StorageError)
    assert outcome.retryable
    assert "Permission denied" in str(outcome)
    assert ("No result was read: " in str(outcome)) == (most == 0)
    assert len(polls) == most


def chunk(text: str, span: tuple[int, int] | None, vector: list[float] | None = None) -> Chunk:
    return Chunk(text, span, vector or [1.0, 0.0], 3)


SAME = "Same. Same. Same. End."
ONE_TWO = "Öne. Two."
UMLAUTS = "Ünï. Ünï. 🐄 Ünï."


@pytest.mark.parametrize(
    ("text", "chunks", "found"),
    [
        (ONE_TWO, [("Öne.", (0, 4)), ("Two.", (5, 9))], [(0, 4), (5, 9)]),
        (ONE_TWO, [("Öne.", None), ("Two.", None)], [(0, 4), (5, 9)]),
        (ONE_TWO, [("Öne.", (0, 5)), ("Two.", (6, 11))], [(0, 4), (5, 9)]),  # bytes instead of characters
        (ONE_TWO, [("Öne.", (0, 99)), ("Two.", (5, 9))], [(0, 4), (5, 9)]),
        # Beyond the end, where a slice ends with the text: bytes, no unit at all, more than a column holds.
        (ONE_TWO, [(ONE_TWO, (0, 10))], [(0, 9)]),
        ("Ö. Two.", [("Two.", (3, 8))], [(3, 7)]),
        *((ONE_TWO, [("Two.", (5, end))], [(5, 9)]) for end in (10, 11, 2**63, 10**30)),
        (ONE_TWO, [("Öne. Two.", (0, 9)), ("", (2**63, 2**63))], [(0, 9), (None, None)]),
        ("One.", [("1.", (0, 2))], [(None, None)]),
        (SAME, [("Same.", None)] * 3 + [("End.", None)], [(0, 5), (6, 11), (12, 17), (18, 22)]),
        (UMLAUTS, [("Ünï.", (0, 6)), ("Ünï.", (7, 13)), ("🐄", (14, 18))], [(0, 4), (5, 9), (10, 11)]),
        ("🐄🐄 a. a.", [("a.", (5, 7)), ("a.", (8, 10))], [(3, 5), (6, 8)]),  # units of UTF-16
        ("The cat sat. cat", [("The cat sat.", None), ("cat", None)], [(0, 12), (13, 16)]),
        ("A b. C d. E f.", [("A b. C d.", None), ("C d. E f.", None)], [(0, 9), (5, 14)]),
        ("x a y a z", [("a", None)], [(None, None)]),  # ambiguous
        ("a b a", [("changed", None), ("a", None)], [(None, None), (None, None)]),
        ("a b c", [("changed", None), ("c", None)], [(None, None), (4, 5)]),
    ],
)
def test_a_span_is_right_or_missing(
    text: str,
    chunks: list[tuple[str, tuple[int, int] | None]],
    found: list[tuple[int, int] | tuple[None, None]],
) -> None:
    assert locate(text, [chunk(*each) for each in chunks]) == found


def test_spans_of_a_long_text_take_no_time() -> None:
    text = "Größe zählt. 🐄 " * 60_000
    size = len("Größe zählt. 🐄 ".encode())
    chunks = [chunk("Größe zählt.", (n * size, n * size + 15)) for n in range(4000)]
    begin = time.process_time()
    assert locate(text, chunks)[-1] == (3999 * 15, 3999 * 15 + 12)
    assert time.process_time() - begin < 5


def in_bytes(text: str, offset: int) -> int:
    return len(text[:offset].encode())


def in_utf_16(text: str, offset: int) -> int:
    return len(text[:offset].encode("utf-16-le")) // 2


@given(
    text=st.text(alphabet="aß€🐄 ", max_size=30),
    cuts=st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=8),
    unit=st.sampled_from([lambda text, offset: offset, in_bytes, in_utf_16]),
)
def test_a_reported_span_is_the_position_of_the_chunk(
    text: str, cuts: list[tuple[int, int]], unit: Callable[[str, int], int]
) -> None:
    places = [tuple(sorted(min(at, len(text)) for at in cut)) for cut in cuts]
    chunks = [chunk(text[s:e], (unit(text, s), unit(text, e))) for s, e in places]
    for one, (start, end) in zip(chunks, locate(text, chunks), strict=True):
        assert start is None or (text[start:end] == one.text and end <= len(text))
        assert start is not None or one.text == "", "in one of the units it is proven"


@given(words=st.lists(st.sampled_from(["a", "b b", "c"]), min_size=1, max_size=8))
def test_repeated_chunks_are_found_in_order(words: list[str]) -> None:
    text = " ".join(words)
    spans = locate(text, [chunk(word, None) for word in words])
    for word, (start, end) in zip(words, spans, strict=True):
        assert text[start:end] == word
    assert spans == sorted(spans, key=lambda span: span[0] or 0)


QUANTISED = ChunkingOptions("sentence", "m", model_config={"vectorQuantizationMethod": "max-scale"})


def write_chunks(
    uri: str, *documents: tuple[str, str, list[Chunk]], options: ChunkingOptions = OPTIONS
) -> Mapping[str, Any]:
    """Id, text and chunks of each document; returns the manifest."""
    with chunk_file(uri, options) as file:
        for name, text, chunks in documents:
            file.add(name, chunks, locate(text, chunks))
    return file.manifest


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_both_formats_hold_the_same(base: str, suffix: str) -> None:
    uri = f"{base}/out/chunks.{suffix}"
    manifest = write_chunks(
        uri,
        ("a", "One. Two.", [chunk("One.", (0, 4)), chunk("Two.", None, [0.0, 1.0])]),
        ("b", "Three.", [chunk("Three.", (0, 6))]),
    )
    assert [manifest[name] for name in ("documents", "chunks", "dimension")] == [2, 3, 2]
    data = read_file(uri) or b""
    if suffix == "parquet":
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
    else:
        rows = [json.loads(line) for line in data.splitlines()]
    names = ("document_id", "chunk_index", "text", "start", "end", "vector", "input_tokens")
    assert rows == [
        dict(zip(names, ("a", 0, "One.", 0, 4, [1.0, 0.0], 3), strict=True)),
        dict(zip(names, ("a", 1, "Two.", 5, 9, [0.0, 1.0], 3), strict=True)),
        dict(zip(names, ("b", 0, "Three.", 0, 6, [1.0, 0.0], 3), strict=True)),
    ]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_a_file_without_chunks_is_a_file(tmp_path: Path, suffix: str) -> None:
    assert write_chunks(f"{tmp_path}/c.{suffix}", ("a", "x", []))["chunks"] == 0
    assert (tmp_path / f"c.{suffix}").exists()


@pytest.mark.parametrize(
    ("name", "options", "vectors", "message"),
    [
        ("c.parquet", OPTIONS, [[1e39]], "'doc' has a value"),
        ("c.parquet", OPTIONS, [[10**400]], "'doc' has a value"),
        *(
            (name, QUANTISED, [[value]], "max-scale was requested")
            for name in ("c.parquet", "c.jsonl")
            for value in (0.5, -300, 128)
        ),
        ("c.jsonl", OPTIONS, [[1.0], [1.0, 2.0]], r"'doc'.*2 numbers.*of 1"),
    ],
)
def test_a_value_that_does_not_fit_is_named_and_no_file_is_left(
    tmp_path: Path, name: str, options: ChunkingOptions, vectors: list[list[float]], message: str
) -> None:
    documents = [("doc", "x", [chunk("x", None, vector)]) for vector in vectors]
    with pytest.raises(MalformedResponseError, match=message):
        write_chunks(f"{tmp_path}/{name}", *documents, options=options)
    assert list(tmp_path.iterdir()) == []


def test_whole_numbers_are_numbers(tmp_path: Path) -> None:
    write_chunks(f"{tmp_path}/c.parquet", ("doc", "x", [chunk("x", None, [16777217, 0.5])]))
    write_chunks(f"{tmp_path}/q.parquet", ("doc", "x", [chunk("x", None, [-24.0, 8.0])]), options=QUANTISED)
    assert pq.read_table(tmp_path / "q.parquet")["vector"].to_pylist() == [[-24, 8]]


def link_as(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Links fail with this error."""

    def fail(self: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "hardlink_to", fail)


def test_a_file_is_created_once(base: str) -> None:
    uri = f"{base}/a folder/a.json"
    assert [create_file(uri, data) for data in (b"one", b"two", b"one")] == [True, False, base[0] == "m"]
    assert read_file(uri) == b"one"
    assert names_in(f"{base}/a folder") == ["a.json"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_is_created_once_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    link_as(monkeypatch, number)
    uri = str(tmp_path / "a.json")
    assert [create_file(uri, data) for data in (b"one", b"two")] == [True, False]
    assert read_file(uri) == b"one"
    assert names_in(str(tmp_path)) == ["a.json"]


def test_a_creation_that_fails_leaves_no_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = iter([None, OSError(errno.ENOSPC, "No space left on device")])

    def fsync(_: int) -> None:
        if (error := next(sync)) is not None:
            raise error

    link_as(monkeypatch, errno.EPERM)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(StorageError, match="No space left"):
        create_file(str(tmp_path / "a.json"), b"one")
    assert names_in(str(tmp_path)) == []


def test_other_failures_of_a_link_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link_as(monkeypatch, errno.EIO)
    with pytest.raises(StorageError, match="Input/output error"):
        create_file(str(tmp_path / "a.json"), b"one")


def test_a_link_whose_reply_was_lost_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system asks again, and then the file is there."""
    link = Path.hardlink_to

    def link_twice(self: Path, target: Path) -> None:
        link(self, target)
        link(self, target)

    monkeypatch.setattr(Path, "hardlink_to", link_twice)
    uri = str(tmp_path / "a.json")
    assert [create_file(uri, data) for data in (b"one", b"two")] == [True, False]
    assert read_file(uri) == b"one"


class Conflict(Exception):
    """409 ConditionalRequestConflict, of S3."""


@pytest.mark.parametrize(
    ("conflicts", "written", "found"),
    [
        (1, None, True),
        (2, None, True),
        (1, b"one", True),  # the answer was lost
        (1, b"another", False),
        (3, None, None),
    ],
)
def test_a_conflict_of_two_creations_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, conflicts: int, written: bytes | None, found: bool | None
) -> None:
    files = memory_store()
    pipe, left = files.pipe_file, [conflicts]

    def conflict(path: str, data: bytes, **options: object) -> None:
        assert options == {"mode": "create"}
        if left[0] > 0:
            left[0] -= 1
            if written is not None:
                pipe(path, written)
            raise Conflict("try again")
        pipe(path, data, **options)

    monkeypatch.setattr(files, "pipe_file", conflict)
    uri = "memory://bucket/a.json"
    if found is None:
        with pytest.raises(StorageError, match="Conflict: try again"):
            create_file(uri, b"one")
        assert read_file(uri) is None
    else:
        assert create_file(uri, b"one") is found
        assert read_file(uri) == (written or b"one")


def test_a_file_that_was_read_takes_no_memory() -> None:
    memory_store()
    write_file("memory://bucket/large", bytes(20 << 20))
    gc.collect()
    gc.disable()  # as it is while documents are read
    tracemalloc.start()
    try:
        with storage.reading("memory://bucket/large") as file:
            while file.read(1 << 20):
                pass
        del file
        assert tracemalloc.get_traced_memory()[0] < 1 << 20
    finally:
        tracemalloc.stop()
        gc.enable()


@pytest.mark.parametrize(
    ("uri", "plain"),
    [
        ("s3://aws_default@bucket/a@b/c.parquet", "s3://bucket/a@b/c.parquet"),
        ("s3://bucket/a@b.parquet", "s3://bucket/a@b.parquet"),
        ("abfs://wasb_default@container", "abfs://container"),
        *[(f"abfss://container@account.dfs.core.windows.net/{key}",) * 2 for key in ("a.parquet", "")],
        ("abfss://user:key@account.dfs.core.windows.net/a", "abfss://account.dfs.core.windows.net/a"),
        ("https://user:password@host/a?b", "https://host/a?b"),
        ("file:///data/a@b.parquet", "file:///data/a@b.parquet"),
        ("/data/a@b.parquet", "/data/a@b.parquet"),
    ],
)
def test_a_uri_without_its_connection(uri: str, plain: str) -> None:
    assert plain_uri(uri) == plain


@contextmanager
def full_disk(free: int) -> Iterator[None]:
    """No file gets longer than this."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("rows", [1, 3000])
@pytest.mark.parametrize("name", ["p.jsonl", "p.parquet", "c.jsonl", "c.parquet", "body.json"])
def test_a_full_disk_is_an_error_that_names_the_result(name: str, rows: int, tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/{name}"
    random = Random(0)
    texts = [random.randbytes(200_000 // rows).hex() for _ in range(rows)]

    def write() -> None:
        if name == "body.json":
            waiting: dict[str, Any] = {"store": None, "hook": None, "resubmit_unknown": True}
            job = ExternalJob(result_uri=uri, kind=CHUNKING, job_id="j", **waiting)
            with job.open() as body:
                job.add(body, 0, "".join(texts).encode())
        elif name.startswith("c"):
            with chunk_file(uri, QUANTISED) as chunks:
                for n, text in enumerate(texts):
                    chunks.add(str(n), [chunk(text, None, [1, 2])], [(0, 1)])
        else:
            with prediction_file(uri, PredictionOptions("passthrough", "m"), ResultPolicy()) as file:
                for n, text in enumerate(texts):
                    predictions = read_predictions({"predictions": [{"response": text}]}, Prediction, "m")
                    file.add(Batch(n, n, ({"text": "x"},)), predictions)

    with full_disk(100_000), pytest.raises(StorageError, match=f"^{uri} cannot be written: OSError"):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("second", [{"vector": [0.5, -0.5]}, {"error": "no"}])
@pytest.mark.parametrize("number", [1e300, -1e300])
def test_a_number_beyond_float32_is_not_stored_as_infinity(
    tmp_path: Path, number: float, second: dict[str, Any]
) -> None:
    options = PredictionOptions("embedding", "m")
    read = read_predictions({"predictions": [{"vector": [0.1, number]}, second]}, Embedding, "m")
    batch = Batch(0, 0, ({"text": "a"}, {"text": "b"}))
    with (
        prediction_file(f"{tmp_path}/p.parquet", options, ResultPolicy()) as file,
        pytest.raises(MalformedResponseError, match="beyond the range of float32"),
    ):
        file.add(batch, read)


@pytest.mark.parametrize("count", [7, 14, 28, 29, 55, 56, 57, 58, 100])
def test_as_many_as_the_ratio_are_allowed(count: int, tmp_path: Path) -> None:
    """0.29 * 100 is less than 29."""
    survey = Survey(rows=100, rejected=count)
    survey.check(reject=True, max_reject_ratio=count / 100)
    with pytest.raises(InputError, match="max_reject_ratio"):
        survey.check(reject=True, max_reject_ratio=(count - 1) / 100)
    options = PredictionOptions("passthrough", "m")
    read = read_predictions({"predictions": [{"error": "no"}] * count}, Prediction, "m")
    inputs = ({"text": "a"},) * count
    with prediction_file(f"{tmp_path}/p.jsonl", options, ResultPolicy(count / 100)) as file:
        file.add(Batch(0, 0, inputs), read)
        file.counts["predictions"] = 100


def test_a_write_that_fails_once_at_the_start_of_a_wait_costs_no_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = [StorageError("503 Slow Down")]

    def write(uri: str, data: bytes) -> None:
        if failures:
            raise failures.pop()
        write_file(uri, data)

    outcome, polls = wait_with(write, tmp_path, monkeypatch, "job")
    assert (outcome, len(polls), failures) == (JobsOutcome(collected=1), 1, [])


def test_a_result_file_of_another_table_is_not_used(tmp_path: Path) -> None:
    result, store = tmp_path / "r.jsonl", JobStateStore(ResultDirectory(str(tmp_path / "_r")), None)
    for digest, found in [("ids a, b", None), ("ids a, b", {"uri": "r"}), ("ids b, a", None)]:
        record = store.begin("texts", 0, 0, str(result), digest)
        assert record.result == found
        result.write_text("{}")
        record.finish({"uri": "r"}, digest)
        store.close(record)
