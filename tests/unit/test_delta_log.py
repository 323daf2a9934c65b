# SPDX-License-Identifier: Apache-2.0
"""The transaction log: actions, replay, versions, features, checkpoints, cleanup."""

import io
import json
import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from delta_world import SCHEMA, World, agree, file_schema, ours, row
from memory_store import memory_store

from lucidworks_provider.delta import log
from lucidworks_provider.delta.cleanup import clean_log, vacuum
from lucidworks_provider.delta.log import DataFile, DeletionVector, commit, read_table
from lucidworks_provider.delta.schema import arrow_schema, delta_schema
from lucidworks_provider.errors import InputError, StorageError
from lucidworks_provider.storage import names_in, read_file, write_file

DAY = 86400.0
OURS = re.compile(r"part-[0-9a-f-]{36}\.parquet")
METADATA = log.metadata_action(
    SCHEMA, name="chunks", description=None, configuration={}, id="0", created_ms=1_700_000_000_000
)
PROTOCOL = log.protocol_action(False)
VECTOR = DeletionVector("u", "ab^-aqEH.-t@S}K{vb[*k^", 4, 40, 6)
A = DataFile("a.parquet", 10, 5, 100)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "chunks")


def logged(uri: str, *commits: list[Mapping[str, Any]], start: int = 0) -> None:
    for version, actions in enumerate(commits, start):
        assert commit(uri, version, actions)


def snapshot(uri: str, version: int | None = None) -> log.Table:
    table = read_table(uri, version)
    assert table is not None
    return table


# Actions


def test_a_vector_as_in_the_protocol() -> None:
    plain = {"storageType": "u", "pathOrInlineDv": "ab^-aqEH.-t@S}K{vb[*k^"}
    assert VECTOR.to_json() == plain | {"offset": 4, "sizeInBytes": 40, "cardinality": 6}
    assert DeletionVector.from_json(VECTOR.to_json()) == VECTOR
    assert VECTOR.path == "ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin"
    assert VECTOR.unique_id == "uab^-aqEH.-t@S}K{vb[*k^@4"
    inline = DeletionVector("i", "wi5b=", None, 40, 6)
    assert (inline.path, inline.unique_id, "offset" in inline.to_json()) == (None, "iwi5b=", False)
    assert DeletionVector("p", "s3://b/a%20b.bin", 1, 40, 6).path == "s3://b/a b.bin"


def test_a_file_and_its_actions() -> None:
    file = DataFile("part 1.parquet", 10, 5, 100, VECTOR)
    assert file.live == 94
    added, removed = file.add()["add"], file.remove(77)["remove"]
    assert (added["path"], added["dataChange"], added["stats"]) == (
        "part%201.parquet",
        True,
        '{"numRecords":100}',
    )
    assert replace(DataFile.from_action(added), stats=None) == file
    assert (removed["deletionTimestamp"], removed["deletionVector"]) == (77, VECTOR.to_json())
    assert DataFile.from_action(removed).key == file.key
    assert "deletionVector" not in A.remove(7)["remove"]
    assert replace(A, records=None).live is None


def test_bounds_of_a_file_with_deleted_rows_are_wide() -> None:
    stats = '{"numRecords": 3, "minValues": {"n": 1}, "maxValues": {"n": 3}}'
    file = DataFile.from_action({"path": "a", "size": 1, "modificationTime": 1, "stats": stats})
    assert "tightBounds" not in json.loads(file.add()["add"]["stats"])
    masked = json.loads(replace(file, vector=VECTOR).add()["add"]["stats"])
    assert masked == {**json.loads(stats), "tightBounds": False}


def test_the_path_of_another_writer_stays_as_it_is() -> None:
    """Writers compare paths as texts, and encode differently."""
    file = DataFile.from_action({"path": "day=a%2Fb%20(1)/x.parquet", "size": 1, "modificationTime": 1})
    assert file.path == "day=a/b (1)/x.parquet"
    assert file.add()["add"]["path"] == "day=a%2Fb%20(1)/x.parquet"
    assert file.remove(1)["remove"]["path"] == "day=a%2Fb%20(1)/x.parquet"


@pytest.mark.parametrize(
    ("table", "path", "uri"),
    [
        ("s3://b/t", "x.parquet", "s3://b/t/x.parquet"),
        ("s3://b/t/", "a=1/x.parquet", "s3://b/t/a=1/x.parquet"),
        ("s3://b/t", "s3://other/x.parquet", "s3://other/x.parquet"),
        ("s3://b/t", "/o/x.parquet", "s3://b/o/x.parquet"),
        ("s3://c@b/t", "/o/x.parquet", "s3://c@b/o/x.parquet"),
        ("s3://c@b/t", "s3a://other/o/x.parquet", "s3://c@other/o/x.parquet"),
        ("s3://c@b/t", "gs://other/x.parquet", "gs://other/x.parquet"),
        ("abfs://c@b/t", "abfss://other@a.dfs.core.windows.net/x.parquet", "abfs://c@other/x.parquet"),
        ("file:///t", "file:/o/x.parquet", "file:///o/x.parquet"),
        ("/t", "/o/x.parquet", "/o/x.parquet"),
        ("/t", "at=10:30/x.parquet", "/t/at=10:30/x.parquet"),
    ],
)
def test_places_of_files(table: str, path: str, uri: str) -> None:
    assert log.file_uri(table, path) == uri


# Replay


def test_no_table(base: str) -> None:
    assert read_table(base) is None
    write_file(f"{base}/_delta_log/_last_checkpoint", b"{}")
    assert read_table(base) is None
    assert read_table(base, 3) is None


def test_a_snapshot(base: str) -> None:
    a, b = A, DataFile("b.parquet", 20, 6, 200)
    metadata = log.metadata_action(
        SCHEMA, name="chunks", description="Of a shop", configuration={"k": "v"}, id="7", created_ms=1
    )
    logged(
        base,
        [log.protocol_action(True), METADATA, a.add(), log.txn_action("run", 1, 5)],
        [b.add(), log.txn_action("run", 2, 6), log.txn_action("other", 9, 6)],
        [replace(a, vector=VECTOR).add(), a.remove(9), metadata],
    )
    table = snapshot(base)
    assert {path: file.live for path, file in table.files.items()} == {"a.parquet": 94, "b.parquet": 200}
    assert table.tombstones.keys() == {("a.parquet", None)}
    assert (table.version, table.transactions) == (2, {"run": 2, "other": 9})
    assert (table.metadata["name"], table.metadata["description"], table.id) == ("chunks", "Of a shop", "7")
    assert (table.configuration, table.timestamp_ms is None) == ({"k": "v"}, False)
    assert (table.reader_version, table.writer_version, table.writer_features) == (3, 7, {"deletionVectors"})
    assert arrow_schema(table.schema).field("vector").metadata == {b"dimension": b"3"}
    first = snapshot(base, 0)
    assert first.files == {"a.parquet": replace(a, stats='{"numRecords":100}')}
    assert first.transactions == {"run": 1}


def test_a_file_that_returns_has_no_tombstone(base: str) -> None:
    logged(base, [PROTOCOL, METADATA, A.add()], [A.remove(1)], [A.add()])
    assert (snapshot(base).files.keys(), snapshot(base).tombstones) == ({"a.parquet"}, {})
    assert not snapshot(base, 1).files


def test_a_removal_of_another_vector_leaves_the_file(base: str) -> None:
    old, new = replace(A, vector=VECTOR), replace(A, vector=replace(VECTOR, offset=99))
    logged(base, [PROTOCOL, METADATA, old.add()], [new.add(), old.remove(1)], [old.remove(2)])
    assert snapshot(base).files["a.parquet"].vector == new.vector
    assert snapshot(base).tombstones.keys() == {old.key}


def test_unknown_actions_and_fields_are_ignored(base: str) -> None:
    logged(
        base, [PROTOCOL, METADATA, {"cdc": {"path": "x"}}, {"new": {}}], [{"add": {"path": "a", "new": 1}}]
    )
    assert snapshot(base).files.keys() == {"a"}


def test_texts_with_line_separators_stay_whole(base: str) -> None:
    metadata = log.metadata_action(
        SCHEMA, name="a\u2028b\x85c", description=None, configuration={}, id="0", created_ms=1
    )
    text = "\n".join(json.dumps(one, ensure_ascii=False) for one in (PROTOCOL, metadata))
    write_file(f"{base}/_delta_log/{0:020}.json", text.encode())
    assert snapshot(base).metadata["name"] == "a\u2028b\x85c"


# Versions


def test_versions_that_exist(base: str) -> None:
    logged(base, [PROTOCOL, METADATA], [], [], [])
    with pytest.raises(InputError, match=r"no version 4\. Versions that can be read: 0 to 3\."):
        read_table(base, 4)
    with pytest.raises(InputError, match="no version -1"):
        read_table(base, -1)


def test_versions_after_a_cleanup(world: World) -> None:
    world.create()
    for n in range(4):
        world.change([row(n)])
    log.write_checkpoint(snapshot(world.uri, 2))
    for version in range(2):
        (world.folder / "_delta_log" / f"{version:020}.json").unlink()
    assert len(ours(world.uri)) == 4
    assert len(ours(world.uri, 2)) == 2
    with pytest.raises(InputError, match="Versions that can be read: 2 to 4"):
        read_table(world.uri, 1)


def described(schema: str) -> str:
    return json.dumps({"metaData": {"id": "0", "schemaString": schema}})


def of_type(kind: str) -> str:
    return f'{{"type": "struct", "fields": [{{"name": "a", "type": {kind}}}]}}'


def test_a_schema_without_what_has_a_default(base: str) -> None:
    kinds = ['"string"', '{"type": "array", "elementType": "long"}']
    kinds.append('{"type": "map", "keyType": "string", "valueType": "long"}')
    for version, kind in enumerate(kinds):
        logged(base, [PROTOCOL, json.loads(described(of_type(kind)))], start=version)
        (field,) = arrow_schema(snapshot(base).schema)
        assert field.nullable
        assert field.metadata is None
        assert all(field.type.field(n).nullable for n in range(field.type.num_fields) if "map" not in kind)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSONDecodeError"),
        ("[]", "AttributeError"),
        ('{"add": {}}', "KeyError"),
        ('{"add": {"path": "a", "stats": "{"}}', "JSONDecodeError"),
        ('{"txn": {"version": 1}}', "KeyError"),
        ('{"txn": {"appId": "a"}}', "KeyError"),
        ('{"commitInfo": "x"}', "ValueError"),
        ('{"protocol": {"minWriterVersion": 2}}', "KeyError"),
        ('{"protocol": {"minReaderVersion": 3, "minWriterVersion": null}}', "TypeError"),
        ('{"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": 1}}', "TypeError"),
        ('{"metaData": {}}', "KeyError"),
        ('{"metaData": null}', "TypeError"),
        (described("{"), "JSONDecodeError"),
        (described("[]"), "TypeError"),
        (described("{}"), "KeyError"),
        (described('"string"'), "TypeError"),
        (described('{"type": "struct", "fields": null}'), "TypeError"),
        (described(of_type("null")), "TypeError"),
        (described(of_type('{"type": "array"}')), "KeyError"),
        (described(of_type('{"type": "map", "keyType": "string", "valueType": 5}')), "TypeError"),
        (described(of_type('{"type": "struct", "fields": [{"type": "string"}]}')), "KeyError"),
        (described(of_type('"string", "metadata": 5')), "TypeError"),
    ],
)
def test_a_corrupt_commit_is_named(base: str, text: str, message: str) -> None:
    logged(base, [PROTOCOL, METADATA])
    write_file(f"{base}/_delta_log/{1:020}.json", text.encode())
    with pytest.raises(InputError, match=rf"The log is corrupt: .*00001\.json \({message}"):
        read_table(base)
    assert snapshot(base, 0).version == 0


def test_a_log_without_its_beginning(base: str) -> None:
    logged(base, [PROTOCOL])
    with pytest.raises(InputError, match="version 0 has no metaData"):
        read_table(base)
    logged(base, [METADATA], start=3)
    with pytest.raises(InputError, match="commits before version 3 are missing"):
        read_table(base)


def test_a_corrupt_checkpoint_is_named(world: World) -> None:
    world.create([row(1)])
    (world.folder / "_delta_log" / f"{0:020}.checkpoint.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match=r"corrupt: .*00000\.checkpoint\.parquet"):
        read_table(world.uri)


@pytest.mark.parametrize(
    "error", [PermissionError("AccessDenied"), TimeoutError("slow"), RuntimeError("HTTP 503")]
)
@pytest.mark.parametrize("ending", [".checkpoint.parquet", "/a.parquet"])
def test_a_storage_that_fails_is_no_corrupt_file(
    monkeypatch: pytest.MonkeyPatch, error: Exception, ending: str
) -> None:
    """Not all errors of object stores are OSError."""
    store, uri = memory_store(), "memory://bucket/table"
    data = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([row(1)], schema=SCHEMA), data)
    write_file(f"{uri}/a.parquet", data.getvalue())
    # One that is small is read at once, a larger one in ranges.
    for size in (10, 10**8):
        logged(uri, [PROTOCOL, METADATA, DataFile("a.parquet", size, 5, 1).add()])
        log.write_checkpoint(snapshot(uri))
        assert len(ours(uri)) == 1
        with monkeypatch.context() as patch:
            for name in ("cat_file", "_open"):
                patch.setattr(store, name, failing(getattr(store, name), ending, error))
            with pytest.raises(StorageError, match=rf"{ending} cannot be read: {type(error).__name__}"):
                ours(uri)
        store.rm("/bucket/table/_delta_log", recursive=True)


def failing(read: Any, ending: str, error: Exception) -> Any:
    def reads(path: str, *args: Any, **kwargs: Any) -> Any:
        if path.endswith(ending):
            raise error
        return read(path, *args, **kwargs)

    return reads


def test_a_snapshot_is_continued_from_an_earlier_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.create([row(n) for n in range(6)])
    tables = [world.table, *(world.change([row(10 + n)], delete=[f"doc-{n}"], txn=n) for n in range(1, 6))]
    for known in tables:
        assert log.read_table(world.uri, known=known) == tables[-1]
        assert log.read_table(world.uri, 3, known=known) == tables[3]
    log.write_checkpoint(tables[-1])
    after = world.change([row(20)])
    assert log.read_table(world.uri, known=tables[-1]) == after
    read = list[str]()

    def counted(uri: str) -> bytes | None:
        read.append(uri)
        return read_file(uri)

    monkeypatch.setattr(log, "read_file", counted)
    assert log.read_table(world.uri, known=after) is after
    assert read == []
    last = world.change([row(21)])
    read.clear()
    assert log.read_table(world.uri, known=after) == last
    assert len(read) == 1


def test_log_files_that_vanish_are_listed_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer's cleanup removes commits between the listing and the reads."""
    world.create([row(1)])
    world.change([row(2)])
    listings = [[f"{0:020}.json", f"{1:020}.json"]]
    log.write_checkpoint(world.table)
    (world.folder / "_delta_log" / f"{0:020}.json").unlink()
    monkeypatch.setattr(log, "names_in", lambda uri: listings.pop() if listings else names_in(uri))
    assert len(ours(world.uri)) == 2
    monkeypatch.setattr(log, "names_in", lambda uri: [f"{0:020}.json", f"{1:020}.json"])
    with pytest.raises(InputError, match=r"corrupt: .*00000\.json is missing"):
        read_table(world.uri)


# Commits


def test_a_version_has_one_owner(base: str) -> None:
    assert commit(base, 0, [PROTOCOL, METADATA])
    assert not commit(base, 0, [PROTOCOL, METADATA])
    assert snapshot(base).version == 0


def test_what_a_commit_says_of_itself(tmp_path: Path) -> None:
    assert commit(str(tmp_path), 0, [PROTOCOL, METADATA], operation="CREATE TABLE")
    lines = (tmp_path / "_delta_log" / f"{0:020}.json").read_text().splitlines()
    info = json.loads(lines[0])["commitInfo"]
    assert info.pop("engineInfo").startswith("airflow-provider-lucidworks/")
    uuid.UUID(info.pop("txnId"))
    assert abs(info.pop("timestamp") / 1000 - time.time()) < 60
    assert info == {"operation": "CREATE TABLE", "operationParameters": {}, "isBlindAppend": False}
    assert [next(iter(json.loads(line))) for line in lines[1:]] == ["protocol", "metaData"]


def test_only_features_that_are_used_are_declared() -> None:
    assert log.protocol_action(False) == {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}
    named = {"readerFeatures": ["deletionVectors"], "writerFeatures": ["deletionVectors"]}
    assert log.protocol_action(True) == {"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, **named}}


# Features


def upgraded(
    uri: str,
    reader: int = 3,
    writer: int = 7,
    *,
    features: str = "",
    writers: str = "",
    configuration: Mapping[str, str] | None = None,
    partitions: tuple[str, ...] = (),
    field: Mapping[str, str] | None = None,
) -> log.Table:
    """A table of another writer; ``features`` are for readers and writers, ``writers`` for writers only."""
    protocol: dict[str, Any] = {"minReaderVersion": reader, "minWriterVersion": writer}
    if reader == 3:
        protocol["readerFeatures"] = features.split()
    if writer == 7:
        protocol["writerFeatures"] = (features + " " + writers).split()
    schema = SCHEMA if field is None else SCHEMA.set(1, SCHEMA.field(1).with_metadata(dict(field)))
    metadata = log.metadata_action(
        schema, name=None, description=None, configuration=configuration or {}, id="0", created_ms=1
    )
    metadata["metaData"]["partitionColumns"] = list(partitions)
    logged(uri, [{"protocol": protocol}, metadata])
    return snapshot(uri)


def mapping(mode: str) -> dict[str, Any]:
    return {"configuration": {"delta.columnMapping.mode": mode}}


OLD: dict[str, Any] = {"reader": 1, "writer": 2}
APPEND: dict[str, Any] = {"configuration": {"delta.appendOnly": "true"}}


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"features": "columnMapping", **mapping("name")}, "columnMapping"),
        ({"reader": 2, "writer": 5, **mapping("id")}, "columnMapping"),
        ({"features": "typeWidening deletionVectors catalogManaged"}, "catalogManaged, typeWidening"),
        ({"reader": 4}, "reader version 4"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=f"not supported here: {named}"):
        upgraded(str(tmp_path), **options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"reader": 2, "writer": 5}, "writer version 5"),
        ({"reader": 1, "writer": 4}, "writer version 4"),
        (
            {"features": "deletionVectors timestampNtz v2Checkpoint vacuumProtocolCheck variantType"},
            "timestampNtz",
        ),
        ({"features": "columnMapping", **mapping("none")}, "columnMapping"),
        ({"writers": "rowTracking changeDataFeed liquid"}, "changeDataFeed, liquid, rowTracking"),
        (OLD | APPEND, "appendOnly"),
        ({"writers": "appendOnly", **APPEND}, "appendOnly"),
        (OLD | {"field": {"delta.invariants": "x"}}, "invariants"),
        ({"features": "v2Checkpoint"}, "v2Checkpoint"),
        (OLD | {"partitions": ("n",)}, "partition columns"),
        # Features that are listed and not active.
        (OLD, None),
        ({"features": "deletionVectors", "writers": "appendOnly invariants"}, None),
        ({"features": "deletionVectors variantType"}, None),
    ],
)
def test_tables_that_another_writer_upgraded(
    tmp_path: Path, options: dict[str, Any], named: str | None
) -> None:
    """They can be read."""
    table = upgraded(str(tmp_path), **options)
    assert table.version == 0
    if named is None:
        log.check_writable(table)
        return
    with pytest.raises(InputError, match=f"upgraded by another writer and uses {named}"):
        log.check_writable(table)
    for write in (log.write_checkpoint, lambda table: vacuum(table, DAY, time.time(), OURS)):
        with pytest.raises(InputError, match=named):
            write(table)


# Schemas


def test_types_and_back() -> None:
    types: dict[pa.DataType, Any] = {
        pa.string(): "string",
        pa.large_string(): "string",
        pa.int8(): "byte",
        pa.int16(): "short",
        pa.uint8(): "short",
        pa.int32(): "integer",
        pa.int64(): "long",
        pa.float32(): "float",
        pa.float64(): "double",
        pa.bool_(): "boolean",
        pa.timestamp("us", "UTC"): "timestamp",
        pa.list_(pa.field("item", pa.uint8(), nullable=False), 4): {
            **{"type": "array", "elementType": "short", "containsNull": False}
        },
    }
    schema = pa.schema([(str(number), kind) for number, kind in enumerate(types)])
    schema = schema.append(pa.field("text", pa.string(), nullable=False, metadata={"model": "gte"}))
    plain = [(field["type"], field["nullable"]) for field in delta_schema(schema)["fields"]]
    assert plain == [*((kind, True) for kind in types.values()), ("string", False)]
    stored = file_schema(schema)
    assert stored.field("11").type == pa.list_(pa.field("element", pa.int16(), nullable=False))
    assert stored.field("text").metadata == {b"model": b"gte"}
    assert delta_schema(stored) == delta_schema(schema)


def test_types_of_other_writers() -> None:
    fields: dict[str, Any] = {
        "d": "date",
        "n": "timestamp_ntz",
        "m": "decimal(10,2)",
        "x": "binary",
        "o": "void",
        "s": {"type": "struct", "fields": [{"name": "a", "type": "long", "nullable": True, "metadata": {}}]},
        "p": {"type": "map", "keyType": "string", "valueType": "integer", "valueContainsNull": True},
    }
    schema = {
        "type": "struct",
        "fields": [{"name": k, "type": t, "nullable": True, "metadata": {"x": 1}} for k, t in fields.items()],
    }
    assert [str(field.type) for field in arrow_schema(schema)] == [
        *("date32[day]", "timestamp[us]", "decimal128(10, 2)", "binary", "null"),
        *("struct<a: int64>", "map<string, int32>"),
    ]


def test_types_that_are_refused() -> None:
    with pytest.raises(InputError, match=r"Column 'x' has the type timestamp\[ns\]"):
        delta_schema(pa.schema([pa.field("x", pa.timestamp("ns"))]))
    field = {"name": "x", "type": "variant", "nullable": True, "metadata": {}}
    with pytest.raises(InputError, match="Column 'x' has the Delta type 'variant'"):
        arrow_schema({"type": "struct", "fields": [field]})


# Checkpoints


def test_a_checkpoint_holds_the_snapshot(world: World) -> None:
    world.create([row(n) for n in range(10)], owner="shop")
    world.change([row(20)], delete=["doc-3"], txn=4)
    world.change(delete=["doc-20"], txn=5)
    before = world.table
    log.write_checkpoint(before)
    for path in (world.folder / "_delta_log").glob("*.json"):
        path.unlink()
    after = world.table
    assert after.tombstones.keys() == before.tombstones.keys()
    assert after.configuration == before.configuration
    same = {"tombstones": after.tombstones, "metadata": after.metadata}
    assert after == replace(before, timestamp_ms=None, checkpoint=2, **same)
    hint = json.loads((world.folder / "_delta_log" / "_last_checkpoint").read_text())
    assert (hint["version"], hint["numOfAddFiles"]) == (2, 1)
    assert len(agree(world.uri)) == 9


def test_a_checkpoint_is_read_by_the_oldest_pyarrow(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its version 20, ``to_pylist`` has no parameters."""
    world.create([row(1)], owner="shop")
    log.write_checkpoint(world.table)
    iter_batches = pq.ParquetFile.iter_batches

    def batches(file: pq.ParquetFile, **options: Any) -> Iterator[Any]:
        for batch in iter_batches(file, **options):
            yield SimpleNamespace(to_pylist=lambda found=batch: found.to_pylist())

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", batches)
    assert world.table.configuration["owner"] == "shop"


def test_old_tombstones_are_left_out(world: World) -> None:
    world.create([row(1)])
    world.change(delete=["doc-1"])
    log.write_checkpoint(world.table, now=time.time() + 8 * DAY)
    assert not world.table.tombstones
    log.write_checkpoint(snapshot(world.uri), now=time.time() + 8 * DAY, retention_s=9 * DAY)
    assert not world.table.tombstones


@pytest.mark.parametrize(
    ("before", "after"),
    [(None, 1), (b'{"version":', 1), (b"[]", 1), (b'{"version": 0}', 1), (b'{"version": 9}', 9)],
)
def test_the_hint_never_goes_back(world: World, before: bytes | None, after: int) -> None:
    world.create([row(1)])
    world.change([row(2)])
    hint = world.folder / "_delta_log" / "_last_checkpoint"
    if before is not None:
        hint.write_bytes(before)
    log.write_checkpoint(world.table)
    assert json.loads(hint.read_text())["version"] == after


def test_multi_part_checkpoints(world: World) -> None:
    world.create([row(1)], [row(2)])
    log.write_checkpoint(world.table)
    folder = world.folder / "_delta_log"
    whole = pq.read_table(folder / f"{0:020}.checkpoint.parquet")
    for part in (1, 2):
        rows = whole.slice((part - 1) * 2, 2)
        pq.write_table(rows, folder / f"{0:020}.checkpoint.{part:010}.{2:010}.parquet")
    (folder / f"{0:020}.checkpoint.parquet").unlink()
    world.change([row(3)])
    (folder / f"{0:020}.json").unlink()
    assert len(ours(world.uri)) == 3
    (folder / f"{0:020}.checkpoint.{1:010}.{2:010}.parquet").unlink()
    with pytest.raises(InputError, match="commits before version 1 are missing"):
        read_table(world.uri)


@pytest.mark.parametrize("ending", ["json", "parquet"])
@pytest.mark.parametrize("sidecar", [True, False])
def test_v2_checkpoints(world: World, ending: str, sidecar: bool) -> None:
    world.create([row(1)], [row(2)])
    world.change(delete=["doc-2"])
    table, folder = world.table, world.folder / "_delta_log"
    log.write_checkpoint(table)
    classic = folder / f"{1:020}.checkpoint.parquet"
    actions: list[dict[str, Any]] = [
        *({"checkpointMetadata": {"version": 1}}, {"protocol": dict(table.protocol)}),
        {"metaData": dict(table.metadata)},
    ]
    if sidecar:
        (folder / "_sidecars").mkdir()
        classic.rename(folder / "_sidecars" / "x y.parquet")
        actions += [{"sidecar": {"path": "x%20y.parquet", "sizeInBytes": 1, "modificationTime": 1}}]
    else:
        actions += [file.add() for file in table.files.values()]
        classic.unlink()
    place = folder / f"{1:020}.checkpoint.{uuid.uuid4()}.{ending}"
    if ending == "json":
        place.write_text("\n".join(map(json.dumps, actions)))
    else:
        for action in actions:
            action.get("metaData", {}).pop("configuration", None)
            action.get("metaData", {})["format"] = {"provider": "parquet"}
            for found in action.values():
                found.pop("partitionValues", None)
        kinds = {kind: pa.array([found]).type for action in actions for kind, found in action.items()}
        pq.write_table(pa.Table.from_pylist(actions, schema=pa.schema(list(kinds.items()))), place)
    (folder / "_last_checkpoint").unlink()
    (folder / f"{0:020}.json").unlink()
    assert [one["id"] for one in ours(world.uri)] == ["doc-1"]


# Cleanup


def aged(world: World, days: float) -> None:
    """All files of the table become older."""
    for path in world.folder.rglob("*"):
        if path.is_file():
            moment = path.stat().st_mtime - days * DAY
            os.utime(path, (moment, moment))


def names(world: World) -> set[str]:
    return {path.name for path in world.folder.iterdir() if path.is_file()}


def test_vacuum_keeps_what_a_version_within_the_retention_needs(world: World) -> None:
    world.create([row(n) for n in range(4)], [row(9)])
    world.change(delete=["doc-1"])
    world.change(delete=["doc-2", "doc-9"])
    before = names(world)
    table, now = world.table, time.time()
    assert vacuum(table, DAY, now, OURS) == 0
    aged(world, 3)
    assert vacuum(table, DAY, now, OURS) == 0  # the tombstones are young
    assert len(agree(world.uri, 0)) == 5
    assert vacuum(table, DAY, now + 2 * DAY, OURS) == 2  # a data file and the first vectors
    assert len(before - names(world)) == 2
    assert len(agree(world.uri)) == 2


def test_vacuum_removes_what_a_killed_run_left(world: World) -> None:
    world.create([row(1)])
    kept = names(world)
    orphans = {
        f"part-{uuid.uuid4()}.parquet",
        f"deletion_vector_{uuid.uuid4()}.bin",
        f".part-{uuid.uuid4()}.parquet.12.ab12cd34.part",
    }
    others = {"part-00000-of-another-writer.parquet", "readme.md", "_SUCCESS"}
    for name in orphans | others:
        (world.folder / name).write_bytes(b"x")
    (world.folder / "journal").mkdir()
    now = time.time()
    assert vacuum(world.table, DAY, now, OURS) == 0
    assert vacuum(world.table, DAY, now + 2 * DAY, OURS) == 3
    assert names(world) == kept | others
    assert len(agree(world.uri)) == 1


def test_vacuum_knows_a_file_by_an_absolute_path(world: World) -> None:
    world.create()
    file = world.data_file([row(1)])
    assert commit(world.uri, 1, [replace(file, path=f"file:{world.folder}/{file.path}").add()])
    assert vacuum(world.table, DAY, time.time() + 9 * DAY, OURS) == 0
    assert len(ours(world.uri)) == 1


def test_a_storage_that_refuses_is_a_warning(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.create([row(1)])
    world.change(delete=["doc-1"])

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert vacuum(world.table, DAY, time.time() + 9 * DAY, OURS) == 0
    assert "no longer needed remain" in caplog.text


def test_the_log_is_cut_before_a_checkpoint(world: World) -> None:
    world.create([row(0)])
    for n in range(1, 8):
        world.change([row(n)])
        if n in {2, 5}:
            log.write_checkpoint(world.table)
    folder, now = world.folder / "_delta_log", time.time()
    (folder / f"{1:020}.crc").write_text("{}")
    (folder / f"{0:020}.{1:020}.compacted.json").write_text("")
    assert clean_log(world.table, DAY, now) == 0
    for version in range(5):  # versions 0 to 4 are old: the third checkpoint is not
        os.utime(folder / f"{version:020}.json", (now - 2 * DAY, now - 2 * DAY))
    assert clean_log(world.table, DAY, now) == 4
    assert sorted(path.name[16:] for path in folder.iterdir() if path.name[0] == "0") == [
        *("0002.checkpoint.parquet", "0002.json", "0003.json", "0004.json"),
        *("0005.checkpoint.parquet", "0005.json", "0006.json", "0007.json"),
    ]
    for version in range(2, 8):
        assert len(agree(world.uri, version)) == version + 1
    assert clean_log(world.table, DAY, now + 9 * DAY) == 4
    assert len(agree(world.uri)) == 8


def test_a_log_without_a_checkpoint_stays(world: World) -> None:
    world.create([row(0)])
    world.change([row(1)])
    assert clean_log(world.table, DAY, time.time() + 9 * DAY) == 0
    assert len(agree(world.uri, 0)) == 1


def test_cleanup_on_a_store(base: str) -> None:
    """Files of a killed process expire by the store's time of creation, if it has no other."""
    file = DataFile(f"part-{uuid.uuid4()}.parquet", 1, 1, 1)
    logged(base, [PROTOCOL, METADATA, file.add()], [file.remove(int(time.time() * 1000))])
    log.write_checkpoint(snapshot(base))
    for name in (file.path, f"part-{uuid.uuid4()}.parquet"):
        write_file(f"{base}/{name}", b"x")
    later = time.time() + 9 * DAY
    assert vacuum(snapshot(base), DAY, time.time(), OURS) == 0
    assert vacuum(snapshot(base), DAY, later, OURS) == 2
    assert clean_log(snapshot(base), DAY, later) == 1
    assert snapshot(base).version == 1
