# SPDX-License-Identifier: Apache-2.0
"""
What 0.1 has written is read: users' storage has these texts, so they are never changed here.

A format that has to change gets another number and another text beside these; docs/upgrading.md says what that costs.
"""

# ruff: noqa: E501 - lines of a log are as long as they are
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from lucidworks_provider.client.auth.token import AccessToken
from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus.dataset import DESCRIBES
from lucidworks_provider.corpus.lease import LeaseRecord
from lucidworks_provider.corpus.parts import Part
from lucidworks_provider.corpus.publish import read_run_record, run_numbers
from lucidworks_provider.corpus.shards import Shard, read_listing, read_shard, read_staged
from lucidworks_provider.corpus.tables import check_empty, documents_schema, read_tables
from lucidworks_provider.delta.schema import delta_schema
from lucidworks_provider.documents.source import Format, SourceFile
from lucidworks_provider.errors import InputError
from lucidworks_provider.jobs.columns import stored_chunk_schema
from lucidworks_provider.jobs.record import ResultDirectory, read_job_record

RECORD = """{"version": 1, "record_id": "77aa", "revision": 7, "fingerprint": "5f0c", "generation": 2, "nonce": "9d3b",
    "size": 501, "result": null, "digest": "", "jobs": {"0": "job-a", "2": "job-c"}, "failed": {"0": "why"}, "empty": {},
    "intents": [1], "resubmitted": [2]}"""
RECORD_1 = """{"version": 1, "record_id": "77aa", "revision": 6, "jobs": {"500": "job-z"}, "failed": {}, "empty": {},
    "intents": [], "resubmitted": []}"""
# First versions of both tables, without the schema of the chunks, which is that of their options.
CHUNKS_LOG = r"""{"commitInfo":{"timestamp":1795954992846,"operation":"WRITE","engineInfo":"airflow-provider-lucidworks/0.1.0"}}
{"txn":{"appId":"lucidworks-run","version":7,"lastUpdated":1795954992846}}
{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["deletionVectors"],"writerFeatures":["deletionVectors"]}}
{"metaData":{"id":"3857973b-5ace-4448-91af-73a493bfcc7b","name":"chunks","format":{"provider":"parquet","options":{}},"schemaString":"{\"type\":\"struct\",\"fields\":[]}","partitionColumns":[],"configuration":{"lucidworks.options":"{\"chunker\": \"sentence\", \"chunker_config\": {}, \"data_type\": \"passage\", \"model_config\": {}, \"model_id\": \"gte-small\"}","lucidworks.dimension":"384","delta.enableDeletionVectors":"true"},"createdTime":1795954989478}}
{"add":{"path":"20261129T122308-af4dd852.parquet","partitionValues":{},"size":2003,"dataChange":true,"modificationTime":1795954989478,"stats":"{\"numRecords\":3}"}}
"""
DOCUMENTS_LOG = r"""{"txn":{"appId":"lucidworks-run","version":6,"lastUpdated":1795954992855}}
{"txn":{"appId":"lucidworks-chunks","version":0,"lastUpdated":1795954992855}}
{"txn":{"appId":"lucidworks-shard-002-of-004","version":5,"lastUpdated":1795954992855}}
{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["deletionVectors"],"writerFeatures":["deletionVectors"]}}
{"metaData":{"id":"a2cb9fe9-4529-4f5a-90ec-77b7bbad6136","name":"documents","format":{"provider":"parquet","options":{}},"schemaString":"{\"type\":\"struct\",\"fields\":[{\"name\":\"document_id\",\"type\":\"string\",\"nullable\":false,\"metadata\":{}},{\"name\":\"status\",\"type\":\"string\",\"nullable\":false,\"metadata\":{}},{\"name\":\"content_hash\",\"type\":\"string\",\"nullable\":true,\"metadata\":{}},{\"name\":\"size\",\"type\":\"long\",\"nullable\":true,\"metadata\":{}},{\"name\":\"etag\",\"type\":\"string\",\"nullable\":true,\"metadata\":{}},{\"name\":\"source_file\",\"type\":\"string\",\"nullable\":true,\"metadata\":{}},{\"name\":\"chunk_file\",\"type\":\"string\",\"nullable\":true,\"metadata\":{}},{\"name\":\"first_row\",\"type\":\"long\",\"nullable\":true,\"metadata\":{}},{\"name\":\"chunks\",\"type\":\"integer\",\"nullable\":false,\"metadata\":{}},{\"name\":\"tokens\",\"type\":\"long\",\"nullable\":false,\"metadata\":{}},{\"name\":\"change\",\"type\":\"string\",\"nullable\":true,\"metadata\":{}},{\"name\":\"version\",\"type\":\"long\",\"nullable\":true,\"metadata\":{}},{\"name\":\"presence\",\"type\":{\"type\":\"array\",\"elementType\":\"long\",\"containsNull\":true},\"nullable\":false,\"metadata\":{}},{\"name\":\"reason\",\"type\":\"string\",\"nullable\":true,\"metadata\":{}},{\"name\":\"detail\",\"type\":\"string\",\"nullable\":true,\"metadata\":{}},{\"name\":\"attempts\",\"type\":\"integer\",\"nullable\":false,\"metadata\":{}},{\"name\":\"rejected_hash\",\"type\":\"string\",\"nullable\":true,\"metadata\":{}}]}","partitionColumns":[],"configuration":{"delta.enableDeletionVectors":"true"},"createdTime":1795954992855}}
"""
NOTE = r"""{"number": 7, "task": {"instance": ["d", "r", "t", -1], "generation": 2}, "journal": "journal/20261129T122307-dae74adf",
    "returned": {"documents": 2, "version": 0}, "version": 0, "upserts": {"path": "20261129T122309-f5ed6497.parquet",
    "partitionValues": {}, "size": 3717, "dataChange": true, "modificationTime": 1795954989498,
    "stats": "{\"numRecords\":2}"}}"""
STAGED = """{"shard": "002-of-004", "number": 5, "base": 4, "options": {"chunker": "sentence", "model_id": "gte-small",
    "data_type": "passage", "chunker_config": {}, "model_config": {}}, "dimension": 384, "deletion_vectors": true,
    "parts": [{"path": "20261129T122308-af4dd852.parquet", "index": "PLACE/index.parquet", "chunks": 3,
    "tokens": 14, "bytes": 2003, "dimension": 384}], "facts": "PLACE/staged/00000005.parquet",
    "on_missing_chunks": "resend", "prune": true, "full_refresh": false, "returned": {"documents": 2, "version": null}, "stats": {"total": 2, "seconds": 0.029, "rejected": {}}}"""
LISTING = """{"number": 2, "of": 4}
{"uri": "s3://b/a.txt", "path": "a.txt", "size": 9, "etag": "etag:77", "format": "text"}
"""
LEASE = """{"holder": {"dag_id": "d", "run_id": "r", "task_id": "t", "map_index": -1, "try_number": 2,
    "host": "worker-1", "pid": 77, "process": "boot 12345"},
    "nonce": "9d3b", "heartbeat": 4, "since": "2026-11-23T02:04:12+00:00", "released": false}"""
TOKEN = """[2, "a-token-that-is-no-token", [1000.0, 4300.0, 4600.0], [[990.0], 980.0, 1, 0.0]]"""


def test_the_record_of_a_tasks_jobs(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(RECORD)
    (tmp_path / "record-1.json").write_text(RECORD_1)
    record = read_job_record(ResultDirectory(str(tmp_path)))
    assert record is not None
    assert record.jobs == {0: "job-a", 2: "job-c", 500: "job-z"}
    assert (record.intents, record.failed, record.revision) == ({1}, {0: "why"}, 7)
    assert json.loads(record.part(0)) == json.loads(RECORD)
    assert json.loads(record.part(1)) == json.loads(RECORD_1) | {"revision": 7}


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    """A folder in which the run 7 has committed the chunks and not the documents."""
    for path, text in {
        "chunks/_delta_log/00000000000000000000.json": CHUNKS_LOG,
        "documents/_delta_log/00000000000000000000.json": DOCUMENTS_LOG,
        "runs/00000007.json": NOTE,
        "staged.json": STAGED,
        "listing.jsonl": LISTING,
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def test_the_tables_of_a_catalogue(catalogue: Path) -> None:
    tables = read_tables(str(catalogue))
    assert (tables.options, tables.dimension) == (ChunkingOptions("sentence", "gte-small").as_json(), 384)
    assert (tables.run, tables.incomplete_run, tables.staged(Shard(2, 4))) == (6, 7, 5)
    assert tables.documents is not None
    assert tables.documents.schema == delta_schema(documents_schema())
    assert tables.documents.transactions[DESCRIBES] == 0


def test_the_columns_of_chunks() -> None:
    """What is stored for these options; the columns of the dataset are those of ``test_unit_columns``."""
    schema = stored_chunk_schema(ChunkingOptions("sentence", "gte-small"), 384)
    assert [(field.name, str(field.type), field.nullable) for field in schema] == [
        ("document_id", "string", False),
        ("chunk_index", "int32", False),
        ("text", "string", False),
        ("start", "int64", True),
        ("end", "int64", True),
        ("vector", "list<element: float not null>", False),
        ("input_tokens", "int32", True),
        ("content_hash", "string", False),
    ]


def test_the_note_of_a_run(catalogue: Path) -> None:
    record = read_run_record(str(catalogue), 7)
    assert record is not None
    assert (record.version, record.task["generation"], record.returned["documents"]) == (0, 2, 2)
    assert asdict(record) == json.loads(NOTE) | {"transactions": {}, "base": 0, "parts": (), "sent": (0, 0)}
    assert run_numbers(str(catalogue)) == [7]


def test_what_a_shard_has_staged(catalogue: Path) -> None:
    staged = read_staged(str(catalogue / "staged.json"))
    assert (staged.shard, staged.number, Part(**staged.parts[0]).chunks) == ("002-of-004", 5, 3)
    assert json.loads(json.dumps(asdict(staged))) == json.loads(STAGED)


def test_the_listing_of_a_shard(catalogue: Path) -> None:
    uri = str(catalogue / "listing.jsonl")
    assert read_shard(uri) == Shard(2, 4)
    assert list(read_listing(uri)) == [SourceFile("s3://b/a.txt", "a.txt", 9, "etag:77", Format.TEXT)]


def test_the_lease_of_a_dataset() -> None:
    record = LeaseRecord.from_json(LEASE.encode())
    assert record.holder is not None
    assert json.loads(record.to_json()) == json.loads(LEASE)


def test_the_shared_token() -> None:
    token = AccessToken.from_json(TOKEN)
    assert (token.issued_at, token.refresh_at, token.expires_at) == (1000.0, 4300.0, 4600.0)
    assert json.loads(token.to_json()) == json.loads(TOKEN)


def test_another_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "record.json").write_text(RECORD.replace('"version": 1', '"version": 2'))
    assert read_job_record(ResultDirectory(str(tmp_path))) is None
    with pytest.raises(ValueError, match="of this version"):
        AccessToken.from_json(TOKEN.replace("[2,", "[3,"))


@pytest.mark.parametrize("path", ["runs/00000007.json", "staged.json"])
def test_another_field_is_refused(catalogue: Path, path: str) -> None:
    uri = str(catalogue / "staged.json")
    (catalogue / path).write_text(
        (catalogue / path).read_text().replace('"number"', '"another": 1, "number"')
    )
    read = {
        "runs/00000007.json": lambda: read_run_record(str(catalogue), 7),
        "staged.json": lambda: read_staged(uri),
    }
    with pytest.raises(
        InputError, match=r"(is not the record of a run|was not staged by the task of a shard)"
    ):
        read[path]()


def test_a_dataset_of_before_the_tables_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "snapshot.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"a dataset of an earlier version of this provider \(snapshot.json\)"
    ):
        check_empty(str(tmp_path))
