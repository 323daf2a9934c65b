# SPDX-License-Identifier: Apache-2.0
"""A small writer on the package's Delta functions, and three other readers to compare it with."""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import duckdb_extensions
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from pyroaring import BitMap64

from lucidworks_provider.delta import log, rows, vectors
from lucidworks_provider.delta.schema import arrow_schema, delta_schema

Row = dict[str, Any]
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("n", pa.int64()),
        pa.field("vector", pa.list_(pa.float32(), 3), metadata={"dimension": "3"}),
        pa.field("seen", pa.timestamp("us", "UTC")),
    ]
)


def row(n: int, mark: str = "") -> Row:
    return {"id": f"doc-{n}{mark}", "n": n, "vector": [float(n), 0.5, -1.0], "seen": None}


def file_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of a table as its data files have them: lists of any size, and no unsigned numbers."""
    return arrow_schema(delta_schema(schema)).with_metadata(schema.metadata)


@dataclass
class World:
    """
    A table and its writer.

    :param vectors: whether rows are masked; else files are copied.
    """

    folder: Path
    schema: pa.Schema = SCHEMA
    vectors: bool = True
    group_rows: int = 100
    created: float = field(default_factory=time.time)

    @property
    def uri(self) -> str:
        return f"file://{self.folder}"

    @property
    def table(self) -> log.Table:
        table = log.read_table(self.uri)
        assert table is not None
        return table

    def data_file(self, found: Sequence[Row] | pa.Table) -> log.DataFile:
        name = f"part-{uuid.uuid4()}.parquet"
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        if not isinstance(found, pa.Table):
            found = pa.Table.from_pylist(list(found), schema=self.schema)
        pq.write_table(
            found.cast(file_schema(self.schema)), path, row_group_size=self.group_rows, compression="zstd"
        )
        return log.DataFile(name, path.stat().st_size, int(time.time() * 1000), len(found))

    def create(self, *batches: Sequence[Row] | pa.Table, **configuration: str) -> None:
        if self.vectors:
            configuration["delta.enableDeletionVectors"] = "true"
        metadata = log.metadata_action(
            self.schema,
            name="chunks",
            description="Chunks of a catalogue",
            configuration=configuration,
            id=str(uuid.uuid4()),
            created_ms=int(time.time() * 1000),
        )
        files = [self.data_file(batch).add() for batch in batches]
        assert log.commit(self.uri, 0, [log.protocol_action(self.vectors), metadata, *files])

    def change(
        self, *batches: Sequence[Row] | pa.Table, delete: Iterable[str] = (), txn: int | None = None
    ) -> log.Table:
        """One commit: new files, and the rows with these ids deleted."""
        table, now = self.table, int(time.time() * 1000)
        actions: list[Mapping[str, Any]] = [self.data_file(batch).add() for batch in batches]
        if txn is not None:
            actions.append(log.txn_action("run", txn, now))
        actions += self.masks(table, set(delete)) if self.vectors else self.copies(table, set(delete))
        assert log.commit(self.uri, table.version + 1, actions, operation="MERGE")
        return self.table

    def masks(self, table: log.Table, ids: set[str]) -> list[Mapping[str, Any]]:
        found: dict[str, BitMap64] = {}
        for batch in rows.read_rows(table, columns=["id"], with_position=True):
            for one in batch.to_pylist():
                if one["id"] in ids:
                    found.setdefault(one["_file"], BitMap64()).add(one["_row"])
        for path, bitmap in found.items():
            if (old := table.files[path].vector) is not None:
                bitmap.update(vectors.read_vector(table.uri, old))
        written = vectors.write_vectors(table.uri, found)
        actions: list[Mapping[str, Any]] = []
        for path, vector in written.items():
            file = table.files[path]
            actions.append(file.remove(int(time.time() * 1000)))
            if vector.cardinality < (file.records or 0):
                actions.append(replace(file, vector=vector).add())
        return actions

    def copies(self, table: log.Table, ids: set[str]) -> list[Mapping[str, Any]]:
        actions: list[Mapping[str, Any]] = []
        for path, file in table.files.items():
            found = [one for batch in rows.read_rows(table, files=[path]) for one in batch.to_pylist()]
            kept = [one for one in found if one["id"] not in ids]
            if len(kept) < len(found):
                actions.append(file.remove(int(time.time() * 1000)))
                actions += [self.data_file(kept).add()] if kept else []
        return actions

    def delta_rs(self) -> deltalake.DeltaTable:
        return deltalake.DeltaTable(self.uri)


def ours(uri: str, version: int | None = None, **options: Any) -> list[Row]:
    table = log.read_table(uri, version)
    assert table is not None
    return [one for batch in rows.read_rows(table, **options) for one in batch.to_pylist()]


def by_delta_rs(uri: str, version: int | None = None) -> list[Row]:
    table = deltalake.DeltaTable(uri, version=version)
    return pa.table(
        deltalake.QueryBuilder().register("t", table).execute("SELECT * FROM t").read_all()
    ).to_pylist()


def by_polars(uri: str, version: int | None = None) -> list[Row]:
    return pl.scan_delta(uri, version=version).collect().to_arrow().to_pylist()


@cache
def duck() -> duckdb.DuckDBPyConnection:
    """One for all tests: the extension takes half a second to load."""
    db = duckdb.connect()
    duckdb_extensions.import_extension("delta", con=db)
    db.execute("LOAD delta")
    return db.execute("SET TimeZone = 'UTC'")


def by_duckdb(uri: str, version: int | None = None) -> list[Row]:
    at = "" if version is None else f", version := {version}"
    return duck().execute(f"SELECT * FROM delta_scan('{uri}'{at})").to_arrow_table().to_pylist()  # noqa: S608


READERS: dict[str, Callable[..., list[Row]]] = {
    "delta-rs": by_delta_rs,
    "polars": by_polars,
    "duckdb": by_duckdb,
}


def key(one: Row) -> str:
    return repr(sorted(one.items(), key=lambda item: item[0]))


def agree(uri: str, version: int | None = None, *, readers: Iterable[str] = READERS) -> list[Row]:
    """The rows of a version, which all readers see alike."""
    found = sorted(ours(uri, version), key=key)
    for name in readers:
        theirs = sorted(READERS[name](uri, version), key=key)
        assert theirs == found, f"{name} differs"
    return found
