# SPDX-License-Identifier: Apache-2.0
"""Rows of a table in every form that the operators take, and keys of many types."""

import csv
import gzip
import json
import sqlite3
from collections import UserList
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import duckdb
import pandas
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = [{"sku": n, "text": f"Text {n}.", "brand": f"b{n % 2}", "price": n / 2} for n in range(10)]
TABLE = pa.Table.from_pylist(ROWS)
SKUS = list(range(10))


def write(path: Path, rows: list[dict[str, Any]] = ROWS, *, separator: str = ",") -> Path:
    """A table as its suffix says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_suffix("") if path.suffix in {".gz", ".zst"} else path
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=4)
        return path
    if plain.suffix == ".csv":
        with plain.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=separator)
            writer.writeheader()
            writer.writerows(rows)
    else:
        plain.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(plain.read_bytes()))
    elif path.suffix == ".zst":
        with pa.output_stream(path, compression="zstd") as out:
            out.write(plain.read_bytes())
    if plain != path:
        plain.unlink()
    return path


class Named(NamedTuple):
    sku: int
    text: str
    brand: str


class FromStream:
    """Something with Arrow's interface that can be read once."""

    def __init__(self, table: pa.Table) -> None:
        self._reader = table.to_reader(max_chunksize=3)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._reader.__arrow_c_stream__(requested_schema)


def cursor(row_factory: Any = None) -> Any:
    database = sqlite3.connect(":memory:")
    database.row_factory = row_factory
    database.execute("CREATE TABLE t (brand TEXT, text TEXT, sku INTEGER, price REAL)")
    database.executemany("INSERT INTO t VALUES (:brand, :text, :sku, :price)", ROWS)
    return database.execute("SELECT * FROM t ORDER BY sku")


def dictionaries() -> list[dict[str, Any]]:
    return [{name: row[name] for name in ("sku", "text", "brand")} for row in ROWS]


SOURCES: dict[str, Any] = {
    "pandas": lambda: pandas.DataFrame(ROWS),
    "Polars": lambda: pl.DataFrame(ROWS),
    "pyarrow": lambda: TABLE,
    "a record batch": lambda: TABLE.to_batches()[0],
    "a stream": lambda: FromStream(TABLE),
    "DuckDB": lambda: duckdb.from_arrow(TABLE).order("sku"),
    "dictionaries": dictionaries,
    "JSON": lambda: json.dumps(dictionaries()),
    "tuples": lambda: [(row["sku"], row["text"], row["brand"]) for row in ROWS],
    "lists": lambda: [[row["sku"], row["text"], row["brand"]] for row in ROWS],
    "a tuple": lambda: tuple(dictionaries()),
    "a generator": lambda: (row for row in dictionaries()),
    "a generator of tuples": lambda: ((row["sku"], row["text"], row["brand"]) for row in ROWS),
    "named tuples": lambda: (Named(row["sku"], row["text"], row["brand"]) for row in ROWS),
    "a cursor": cursor,
    # As of pyodbc: sequences that are no tuples.
    "a cursor with rows of its own": lambda: cursor(lambda _, values: UserList(values)),
    "mapped tasks": lambda: [dictionaries()[:4], [], dictionaries()[4:]],
}


FILES = ["t.parquet", "t.csv", "t.jsonl", "t.ndjson", "t.csv.gz", "t.jsonl.gz", "t.jsonl.zst", "t.csv.zst"]


KEYS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "int64": (pa.int64(), [1, -(2**62)]),
    "int8": (pa.int8(), [1, -2]),
    "uint64": (pa.uint64(), [1, 2**64 - 1]),
    "float": (pa.float64(), [0.5, 1e300]),
    "bool": (pa.bool_(), [True, False]),
    "text": (pa.string(), ["007", "ü"]),
    "large text": (pa.large_string(), ["007", "ü"]),
    "decimal": (pa.decimal128(20, 2), [Decimal("1.10"), Decimal("-123456789012345678.90")]),
    "bytes": (pa.binary(), [b"\x00\xff", b"b"]),
    "date": (pa.date32(), [date(2026, 1, 31), date(1969, 1, 1)]),
    "time": (pa.time64("us"), [time(1, 2, 3, 4), time(23)]),
    "timestamp": (pa.timestamp("us"), [datetime(2026, 1, 1, 1), datetime(1969, 1, 1)]),
    "timestamp with a zone": (pa.timestamp("us", "UTC"), [datetime(2026, 1, 1, tzinfo=UTC)] * 2),
    "duration": (pa.duration("us"), [timedelta(days=1), timedelta(microseconds=1)]),
    "category": (pa.dictionary(pa.int32(), pa.string()), ["a", "b"]),
    "list": (pa.list_(pa.int64()), [[1, 2], []]),
    "struct": (pa.struct([("a", pa.int64())]), [{"a": 1}, {"a": 2}]),
}
if hasattr(pa, "uuid"):
    KEYS["uuid"] = (pa.uuid(), [UUID(int=1).bytes, UUID(int=2).bytes])


def keyed(kind: pa.DataType, values: list[Any]) -> pa.Table:
    if isinstance(kind, pa.ExtensionType):
        keys = pa.ExtensionArray.from_storage(kind, pa.array([*values, None], kind.storage_type))
    else:
        keys = pa.array([*values, None], kind)
    return pa.table({"key": keys, "text": ["a", "b", "c"]})
