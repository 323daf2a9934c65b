# SPDX-License-Identifier: Apache-2.0
"""delta-rs, Polars and DuckDB read what this package writes, row by row like its own reader, and the reverse."""

import datetime as dt
import uuid
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from delta_world import READERS, Row, World, agree, by_delta_rs, file_schema, key, ours, row
from pyroaring import BitMap

from lucidworks_provider.delta import log
from lucidworks_provider.delta.rows import read_rows
from lucidworks_provider.delta.vectors import write_vectors
from lucidworks_provider.errors import InputError, StorageError


@pytest.fixture(params=["vectors", "copies"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return World(tmp_path / "chunks", vectors=request.param == "vectors")


@pytest.fixture
def masked(tmp_path: Path) -> World:
    """A table with deletion vectors."""
    world = World(tmp_path / "chunks")
    world.create([row(n) for n in range(10)], [row(n) for n in range(10, 20)])
    world.change([row(n) for n in range(20, 30)], delete=["doc-3", "doc-13"], txn=1)
    return world


# Written here


def test_every_state_of_a_table(world: World) -> None:
    """First load, nights, a checkpoint, a prune, a full refresh; each version also afterwards."""
    counts: list[int] = []

    def state(rows: int) -> None:
        assert len(agree(world.uri)) == rows
        counts.append(rows)

    world.create([row(n) for n in range(10)], [row(n) for n in range(10, 20)])
    state(20)
    world.change([row(n) for n in range(20, 30)], txn=1)
    state(30)
    world.change([row(3, "b"), row(13, "b")], delete=["doc-3", "doc-13", "doc-14"], txn=2)
    state(29)
    world.change(delete=["doc-4", "doc-15", "doc-25"], txn=3)  # larger vectors take the place of the first
    state(26)
    log.write_checkpoint(world.table)
    assert len(agree(world.uri)) == 26
    world.change([row(40)], delete=["doc-5", "doc-3b"], txn=4)
    state(25)
    world.change(delete=[f"doc-{n}" for n in range(10)])  # a file without a row is removed
    state(18)
    log.write_checkpoint(world.table)
    world.change([row(n, "c") for n in range(5)], delete=[one["id"] for one in ours(world.uri)])
    state(5)
    for version, rows in enumerate(counts):
        assert len(agree(world.uri, version)) == rows


def test_a_table_without_rows(world: World) -> None:
    world.create()
    assert agree(world.uri) == []
    world.change([row(1)])
    world.change(delete=["doc-1"])
    assert agree(world.uri) == []


def test_one_file_holds_the_vectors_of_a_commit(masked: World) -> None:
    assert len(list(masked.folder.glob("deletion_vector_*.bin"))) == 1
    vectors = [file.vector for file in masked.table.files.values() if file.vector]
    assert len(vectors) == 2
    masked.change(delete=["doc-5", "doc-15", "doc-25"])
    assert len(list(masked.folder.glob("deletion_vector_*.bin"))) == 2


IDS = [
    *("ä/ö ü", "😀", "a\u2028b", "%2F%20", '"quoted"', "\\back\\", "null", "", " ", "tab\tnew\nline"),
    *("𝒳" * 50, "e\u0301", "-1e5", "\x7f\x01"),
]


@pytest.mark.parametrize(
    ("element", "values"),
    [
        (pa.float32(), [0.0, -1.5, 2.0**127]),
        (pa.int8(), [-128, 0, 127]),
        (pa.uint8(), [0, 128, 255]),
        (pa.float64(), [0.1, -1e300, 5e-324]),
    ],
    ids=str,
)
def test_texts_and_vectors_of_any_kind(tmp_path: Path, element: pa.DataType, values: list[Any]) -> None:
    schema = pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("start", pa.int64()),
            pa.field("tokens", pa.int32()),
            pa.field("ok", pa.bool_()),
            pa.field("at", pa.timestamp("us", "UTC")),
            pa.field("vector", pa.list_(element, 3), nullable=False),
        ]
    )
    moment = dt.datetime(2026, 11, 29, 1, 2, 3, 456789, tzinfo=dt.UTC)
    found: list[Row] = [
        {"id": name, "start": None, "tokens": n, "ok": n % 2 == 0, "at": moment, "vector": values}
        for n, name in enumerate(IDS)
    ]
    world = World(tmp_path / "chunks", schema)
    world.create(found)
    world.change(delete=IDS[:3])
    assert sorted(agree(world.uri), key=key) == sorted(found[3:], key=key)


def test_a_large_table(tmp_path: Path) -> None:
    world = World(tmp_path / "chunks", group_rows=2048)
    size, files = 100_000, 3
    for n in range(files):
        ids = range(n * size // files, (n + 1) * size // files)
        batch = pa.table(
            {
                "id": [f"doc-{one}" for one in ids],
                "n": list(ids),
                "vector": pa.array([[float(one), 0.5, -1.0] for one in ids], pa.list_(pa.float32(), 3)),
                "seen": pa.nulls(len(ids), pa.timestamp("us", "UTC")),
            },
            schema=world.schema,
        )
        world.change(batch) if n else world.create(batch)
    gone = {f"doc-{n}" for n in range(0, size, 7)} | {f"doc-{n}" for n in range(10_000, 20_000)}
    world.change(delete=gone)
    left = [n for n in range(size) if f"doc-{n}" not in gone]
    assert (
        sorted(n for batch in read_rows(world.table, columns=["n"]) for n in batch["n"].to_pylist()) == left
    )
    assert pl.scan_delta(world.uri).select("n").collect()["n"].sort().to_list() == left
    assert sorted(one["n"] for one in READERS["duckdb"](world.uri)) == left
    assert sorted(one["n"] for one in by_delta_rs(world.uri)) == left


def test_a_path_that_needs_encoding(tmp_path: Path) -> None:
    world = World(tmp_path / "a table (1) ä")
    world.create([row(n) for n in range(4)])
    world.change(delete=["doc-2"])
    log.write_checkpoint(world.table)
    # Polars 2.1 opens the encoded path of the data file, DuckDB 1.5 leaves out letters beyond ASCII.
    assert len(agree(world.uri, readers=["delta-rs"])) == 3


# Another writer on top


def rows_of(*numbers: int) -> pa.Table:
    return pa.Table.from_pylist([row(n) for n in numbers], schema=file_schema(World(Path()).schema))


def merge(table: deltalake.DeltaTable) -> None:
    merger = table.merge(rows_of(5, 77), "s.id = t.id", source_alias="s", target_alias="t")
    merger.when_matched_update_all().when_not_matched_insert_all().execute()


# What delta-rs does, and the rows that there are then.
OPERATIONS: dict[str, tuple[Callable[[deltalake.DeltaTable], object], int]] = {
    "compact": (lambda table: table.optimize.compact(), 28),
    "order": (lambda table: table.optimize.z_order(["id"]), 28),
    "delete": (lambda table: table.delete("n = 5"), 27),
    "update": (lambda table: table.update(updates={"n": "n + 100"}, predicate="n = 6"), 28),
    "append": (lambda table: deltalake.write_deltalake(table, rows_of(99), mode="append"), 29),
    "overwrite": (lambda table: deltalake.write_deltalake(table, rows_of(99), mode="overwrite"), 1),
    "merge": (merge, 29),
    "checkpoint": (lambda table: table.create_checkpoint(), 28),
    "restore": (lambda table: table.restore(0), 20),
    "vacuum": (lambda table: table.vacuum(0, enforce_retention_duration=False, dry_run=False), 28),
    "describe": (
        lambda table: table.alter.set_table_properties({"delta.logRetentionDuration": "interval 9 days"}),
        28,
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("checkpoint", [True, False], ids=["checkpoint", "commits"])
def test_after_an_operation_of_delta_rs(masked: World, name: str, checkpoint: bool) -> None:
    operation, rows = OPERATIONS[name]
    if checkpoint:
        log.write_checkpoint(masked.table)
    operation(masked.delta_rs())
    assert len(agree(masked.uri)) == rows
    table = masked.table
    assert table.transactions == {"run": 1}
    log.check_writable(table)
    masked.change([row(50)], delete=["doc-99", "doc-7", "doc-13"], txn=2)
    found = agree(masked.uri)
    assert not {"doc-99", "doc-7", "doc-13"} & {one["id"] for one in found}
    log.write_checkpoint(masked.table)
    assert agree(masked.uri) == found


def test_the_full_vacuum_of_delta_rs_removes_vectors_in_use(masked: World) -> None:
    """A known loss: vacuum(full=True) of delta-rs 1.6 does not know deletion vector files."""
    masked.delta_rs().vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True)
    with pytest.raises(StorageError, match=r"deletion_vector_.*\.bin cannot be read"):
        ours(masked.uri)
    with pytest.raises(Exception, match="deletion_vector"):
        by_delta_rs(masked.uri)


def test_a_constraint_makes_a_table_read_only(masked: World) -> None:
    masked.delta_rs().alter.add_constraint({"positive": "n >= 0"})
    assert len(agree(masked.uri)) == 28
    with pytest.raises(InputError, match="checkConstraints"):
        log.check_writable(masked.table)


# Readers that refuse


@pytest.mark.parametrize("reader", ["to_pyarrow_dataset", "to_pyarrow_table", "to_pandas"])
def test_readers_of_delta_rs_that_refuse_vectors(masked: World, tmp_path: Path, reader: str) -> None:
    with pytest.raises(Exception, match="deletionVectors"):
        getattr(masked.delta_rs(), reader)()
    plain = World(tmp_path / "plain", vectors=False)
    plain.create([row(1), row(2)])
    plain.change(delete=["doc-1"])
    found = plain.delta_rs().to_pyarrow_table().to_pylist()
    assert found == ours(plain.uri)


def test_polars_through_pyarrow_refuses_vectors(masked: World) -> None:
    with pytest.raises(Exception, match="deletionVectors"):
        pl.scan_delta(masked.uri, use_pyarrow=True).collect()


def test_polars_refuses_fixed_size_lists(tmp_path: Path) -> None:
    """Why data files have :func:`file_schema`."""
    world = World(tmp_path / "chunks")
    world.create()
    name = f"part-{uuid.uuid4()}.parquet"
    pq.write_table(pa.Table.from_pylist([row(1)], schema=world.schema), world.folder / name)
    file = log.DataFile(name, (world.folder / name).stat().st_size, 1, 1)
    assert log.commit(world.uri, 1, [file.add()])
    assert len(ours(world.uri)) == 1
    with pytest.raises(pl.exceptions.SchemaError, match="mismatch for column vector"):
        pl.scan_delta(world.uri).collect()


def test_readers_of_the_folder_see_deleted_rows(masked: World) -> None:
    """A glob of the Parquet files is not the table."""
    with duckdb.connect() as db:
        count = db.execute(f"SELECT count(*) FROM '{masked.folder}/*.parquet'").fetchone()  # noqa: S608
    assert count == (30,)


# Written by delta-rs


def foreign(uri: str, rows: list[Row], schema: pa.Schema | None = None, **options: Any) -> None:
    deltalake.write_deltalake(uri, pa.Table.from_pylist(rows, schema=schema), mode="append", **options)


PARTITIONS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.string(), ["a b", "ä/ö", "50%", "a=b", "a%20b", "x:y", "?#", "😀", None]),
    (pa.int64(), [-5, 0, 2**40, None]),
    (pa.int8(), [-128, 127]),
    (pa.date32(), [dt.date(2026, 11, 29), dt.date(1, 1, 1), None]),
    (pa.bool_(), [True, False]),
    (pa.timestamp("us", "UTC"), [dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC), None]),
    (pa.timestamp("us"), [dt.datetime(2026, 1, 2, 3, 4, 5, 6), dt.datetime(2026, 1, 2)]),
    (pa.decimal128(10, 2), [Decimal("1.50"), Decimal("-3.00")]),
    (pa.float64(), [0.5, -1e30]),
]


@pytest.mark.parametrize(
    ("kind", "values"), PARTITIONS, ids=lambda one: str(one) if isinstance(one, pa.DataType) else ""
)
def test_partitions(tmp_path: Path, kind: pa.DataType, values: list[Any]) -> None:
    uri = str(tmp_path / "t")
    schema = pa.schema([("n", pa.int64()), ("part", kind)])
    found = [{"n": n, "part": value} for n, value in enumerate(values)]
    foreign(uri, found, schema, partition_by=["part"])
    assert sorted(ours(uri), key=key) == sorted(found, key=key)
    assert sorted(by_delta_rs(uri), key=key) == sorted(found, key=key)
    deltalake.DeltaTable(uri).create_checkpoint()
    foreign(uri, found, schema)
    assert sorted(ours(uri), key=key) == sorted(by_delta_rs(uri), key=key)
    assert [one["part"] for one in ours(uri, columns=["part"])].count(values[0]) == 2


def test_a_table_of_delta_rs_through_its_life(tmp_path: Path) -> None:
    uri = str(tmp_path / "t")

    def check(rows: int) -> None:
        assert len(agree(uri)) == rows

    foreign(uri, [{"id": f"d{n}", "body": "x" * n, "tags": ["a", None]} for n in range(20)])
    check(20)
    deltalake.DeltaTable(uri).delete("id = 'd3'")
    check(19)
    foreign(uri, [{"id": "new", "body": "y", "tags": [], "price": 1.5}], schema_mode="merge")
    check(20)
    deltalake.DeltaTable(uri).create_checkpoint()
    check(20)
    deltalake.DeltaTable(uri).optimize.compact()
    deltalake.DeltaTable(uri).vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    check(20)
    with pytest.raises(StorageError, match="is missing, though its table refers to it"):
        ours(uri, 0)


def test_types_of_another_writer(tmp_path: Path) -> None:
    uri = str(tmp_path / "t")
    schema = pa.schema(
        [
            ("day", pa.date32()),
            ("local", pa.timestamp("us")),
            ("price", pa.decimal128(12, 3)),
            ("raw", pa.binary()),
            ("nested", pa.struct([("a", pa.int64()), ("b", pa.list_(pa.string()))])),
            ("pairs", pa.map_(pa.string(), pa.int32())),
        ]
    )
    one = {
        "day": dt.date(2026, 1, 1),
        "local": dt.datetime(2026, 1, 1, 2, 3),
        "price": Decimal("1.250"),
        "raw": b"\x00\xff",
        "nested": {"a": 1, "b": ["x", None]},
        "pairs": [("k", 1)],
    }
    foreign(uri, [one, dict.fromkeys(one)], schema)
    assert ours(uri) == by_delta_rs(uri) == [one, dict.fromkeys(one)]


def test_columns_and_files(masked: World) -> None:
    table = masked.table
    assert next(read_rows(table, columns=["n", "id"])).schema.names == ["n", "id"]
    path = next(iter(table.files))
    assert {one["_file"] for one in ours(masked.uri, files=[path], with_position=True)} == {path}
    assert ours(masked.uri, columns=[], files=[path], with_position=True)[0].keys() == {"_file", "_row"}
    with pytest.raises(InputError, match="has no column 'x', 'y'"):
        ours(masked.uri, columns=["x", "id", "y"])
    with pytest.raises(InputError, match=r"has no file x\.parquet"):
        ours(masked.uri, files=["x.parquet"])
    with pytest.raises(InputError, match="columns is empty"):
        ours(masked.uri, columns=[])


def test_a_data_file_that_is_missing_or_damaged(masked: World) -> None:
    path = next(iter(masked.table.files))
    place = masked.folder / path
    data = place.read_bytes()
    place.write_bytes(data[:100] + bytes(200) + data[300:])
    with pytest.raises(StorageError, match=rf"{path} cannot be read"):
        ours(masked.uri)
    place.unlink()
    with pytest.raises(StorageError, match=rf"{path} is missing, though its table refers to it"):
        ours(masked.uri)


def test_files_by_absolute_paths(tmp_path: Path) -> None:
    """As shallow clones have them."""
    source = World(tmp_path / "a source")
    source.create([row(n) for n in range(4)])
    (file,) = source.table.files.values()
    clone = World(tmp_path / "clone")
    clone.create()
    vector = write_vectors(clone.uri, {"x": BitMap([1])})["x"]
    path = f"file://{source.folder}/{file.path}"
    assert log.commit(clone.uri, 1, [replace(file, path=path, vector=vector).add()])
    assert [one["n"] for one in ours(clone.uri)] == [0, 2, 3]
    # delta-rs 1.6 takes every path for a relative one.
    with pytest.raises(Exception, match="invalid path"):
        by_delta_rs(clone.uri)


def test_spark_timestamps(tmp_path: Path) -> None:
    """int96 holds nanoseconds; dates before 1677 fit only into microseconds."""
    world = World(tmp_path / "t", pa.schema([("at", pa.timestamp("us", "UTC"))]))
    world.create()
    moments = [dt.datetime(1500, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 1, 1, tzinfo=dt.UTC), None]
    table = pa.table({"at": pa.array(moments, pa.timestamp("us", "UTC"))})
    pq.write_table(table, world.folder / "x.parquet", use_deprecated_int96_timestamps=True)
    file = log.DataFile("x.parquet", (world.folder / "x.parquet").stat().st_size, 1, 3)
    assert log.commit(world.uri, 1, [file.add()])
    assert [one["at"] for one in ours(world.uri)] == moments
