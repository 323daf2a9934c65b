# SPDX-License-Identifier: Apache-2.0
"""Predictions beside the key of a table: what is read, which types come back, which rows are not sent."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import UUID

import duckdb
import numpy
import pandas
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowSkipException
from operator_service import (
    LLAMA,
    Service,
    by_jobs,
    direct,
    hash_of,
    lineage_of,
    new_context,
    rows_of,
    through_triggers,
)
from table_sources import (
    FILES,
    KEYS,
    ROWS,
    SKUS,
    SOURCES,
    TABLE,
    FromStream,
    cursor,
    dictionaries,
    keyed,
    write,
)

from lucidworks_provider import retrying
from lucidworks_provider.decorators.predict import lucidworks_predict_task
from lucidworks_provider.documents import tables
from lucidworks_provider.documents.document import TableColumns
from lucidworks_provider.errors import InputError, JobTimeoutError, ServiceError
from lucidworks_provider.jobs import task
from lucidworks_provider.jobs.prediction_task import SyncBatchRunner
from lucidworks_provider.operators.prediction import LucidworksPredictionOperator

COLUMNS: dict[str, Any] = {"id_column": "sku", "columns": ["brand"]}


def to_file(inputs: Any, path: Path, **arguments: Any) -> LucidworksPredictionOperator:
    """A synchronous operator with the arguments of an asynchronous one."""
    return direct(inputs, result_path=str(path), **arguments)


def predicted(inputs: Any, path: Path | None = None, **arguments: Any) -> list[dict[str, Any]]:
    """The rows of a new task, of its file if there is one."""
    returned = direct(inputs, result_path=path and str(path), **arguments).execute(new_context())
    return rows_of(path) if path else returned


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


# What is read: the same for all tasks; a few sources for each of them


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, None) for name in SOURCES]
    + [
        (name, form)
        for name in ("pandas", "a generator", "mapped tasks")
        for form in ("p.parquet", "p.jsonl", "jobs.parquet")
    ],
)
def test_whatever_holds_the_rows(service: Service, tmp_path: Path, name: str, form: str | None) -> None:
    path = form and tmp_path / form
    if form == "jobs.parquet":
        by_jobs(SOURCES[name](), tmp_path / form, **COLUMNS).execute(new_context())
        rows = rows_of(tmp_path / form)
    else:
        rows = predicted(SOURCES[name](), path or None, **COLUMNS)
    wanted = [(row["sku"], row["brand"], row["text"], "predicted") for row in ROWS]
    assert [(row["sku"], row["brand"], row["response"], row["status"]) for row in rows] == wanted
    assert "price" not in rows[0]
    assert list(tmp_path.iterdir()) == ([path] if path else []), "nothing of the rows remains"


@pytest.mark.parametrize("name", FILES)
def test_files(service: Service, tmp_path: Path, name: str) -> None:
    rows = predicted(write(tmp_path / "in" / name), **COLUMNS)
    assert column(rows, "sku") == [str(sku) if ".csv" in name else sku for sku in SKUS]
    assert column(rows, "response") == column(ROWS, "text")


@pytest.mark.parametrize("name", ["{}/in", "{}/in/*.parquet", "file://{}/in/**"])
def test_a_folder_and_a_glob_in_the_order_of_their_paths(service: Service, tmp_path: Path, name: str) -> None:
    for number, rows in ((3, ROWS[7:]), (1, ROWS[:3]), (2, ROWS[3:7])):
        write(tmp_path / "in" / f"{number}.parquet", rows)
    assert column(predicted(name.format(tmp_path), **COLUMNS), "sku") == SKUS


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_every_value_of_csv_stays_text(service: Service, tmp_path: Path, separator: str) -> None:
    rows = [
        {"sku": "007", "text": 'He said "no",\nand; left|.', "brand": ""},
        {"sku": "1e5", "text": "b", "brand": "NA"},
    ]
    source = write(tmp_path / "t.csv", rows, separator=separator)
    found = predicted(source.as_uri(), tmp_path / "p.parquet", **COLUMNS)
    wanted = [(row["sku"], row["brand"], row["text"]) for row in rows]
    assert [(row["sku"], row["brand"], row["response"]) for row in found] == wanted


# Refused with what is wrong, before anything is sent

BROKEN: dict[str, tuple[bytes, list[str]]] = {
    "no column.csv": (b"sku,body\n1,a\n", ["no column 'text'", "'body'"]),
    "ragged.csv": (b"sku,text\n1,a\n2,b,c\n", ["line 3", "3 values"]),
    "quote.csv": (b'sku,text\n1,a\n2,"b"c\n', ["line 3"]),
    "latin.csv": ("sku,text\n1,a\n2,Größe\n".encode("cp1252"), ["line", "utf-8"]),
    "empty.csv": (b"", ["no column"]),
    "twice.csv": (b"sku,text,text\n1,a,b\n", ["'text' 2 times"]),
    "cut.jsonl": (b'{"sku": 1, "text": "a"}\n{"sku": 2, "te', ["line 2 is not JSON"]),
    "list.jsonl": (b'{"sku": 1, "text": "a"}\n[1]\n', ["line 2 is not a JSON object"]),
    "field.jsonl": (b'{"sku": 1, "text": "a"}\n{"sku": 2}\n', ["line 2", "no column 'text'"]),
    "mixed.jsonl": (b'{"sku": 1, "text": "a"}\n{"sku": "x", "text": "a"}\n', ["'sku'", "no single type"]),
    "numbers.jsonl": (b'{"sku": 1, "text": "a"}\n{"sku": 1.5, "text": "a"}\n', ["'sku'", "float, int"]),
    "later.jsonl": (
        b'{"sku": 1, "text": "a"}\n' * 1024 + b'{"sku": 1.5, "text": "a"}\n',
        ["'sku' is of type int64 in some rows, and of double in others"],
    ),
    "huge.jsonl": (b'{"sku": 36893488147419103232, "text": "a"}\n', ["'sku'", "no single type"]),
    "broken.parquet": (b"PAR1 and no more", ["not Parquet"]),
    "cut.csv.gz": (gzip.compress(b"sku,text\n1,a\n" * 99)[:-9], ["cannot be read"]),
    "other.txt": (b"a", [".parquet, .csv, .jsonl"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_broken_is_refused(service: Service, tmp_path: Path, name: str) -> None:
    data, words = BROKEN[name]
    (tmp_path / name).write_bytes(data)
    path = tmp_path / "out" / "p.jsonl"
    with pytest.raises(InputError) as caught:
        predicted(str(tmp_path / name), path, id_column="sku")
    assert [word for word in words if word not in str(caught.value)] == []
    assert name in str(caught.value) or name == "later.jsonl"
    assert service.nothing_sent()
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("source", "arguments", "words"),
    [
        (TABLE, {}, ["no column 'id'", "'sku'"]),
        (TABLE, {"id_column": "sku", "text_column": "price"}, ["'price' is of type double"]),
        (TABLE, {"id_column": "sku", "columns": ["colour"]}, ["no column 'colour'"]),
        (
            TABLE.rename_columns(["index", "text", "b", "p"]),
            {"id_column": "index"},
            ["'index'", "result has"],
        ),
        (
            TABLE.rename_columns(["error", "text", "b", "p"]),
            {"id_column": "error"},
            ["'error'", "result has"],
        ),
        ((n for n in range(3)), {}, ["inputs[0] is 0 (int)"]),
        (iter([{"sku": 1, "text": "a"}, {"sku": 2}]), {"id_column": "sku"}, ["inputs[1] has no 'text'"]),
        ([{"sku": 1, "text": "a"}], {"id_column": "sku", "columns": ["id"]}, ["inputs[0] has no 'id'"]),
        (pandas.DataFrame([[1, "a", 2]], columns=["id", "text", "id"]), {}, ["has the column 'id' 2 times"]),
        (
            pandas.DataFrame({"id": [1, "x"], "text": ["a", "b"]}),
            {},
            ["inputs: DataFrame cannot be", "column id"],
        ),
        (pandas.Series(["a"]), {}, ["inputs: Series cannot be read as a table"]),
        (pl.Series(["a"]), {}, ["inputs: Series cannot be read as a table"]),
        (
            pa.table({"id": pa.RunEndEncodedArray.from_arrays([1], ["x"]), "text": ["a"]}),
            {},
            ["Table: column 'id' is of type run_end"],
        ),
        ({1: "a"}, {}, ["inputs is of type dict with the keys 1"]),
        (b"[]", {}, ["inputs is of type bytes"]),
        ("/no/such/table.parquet", {}, ["inputs: there is no file"]),
    ],
)
def test_what_is_no_table_is_named(
    service: Service, tmp_path: Path, source: Any, arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        predicted(source, tmp_path / "p.parquet", **arguments)
    assert [word for word in words if word not in str(caught.value)] == []
    assert service.nothing_sent()
    assert not (tmp_path / "p.parquet").exists()


# The type of a key survives


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("source", ["memory", "file"])
def test_the_type_of_a_key_survives_and_joins(
    service: Service, tmp_path: Path, name: str, source: str
) -> None:
    kind, values = KEYS[name]
    table, given, path = keyed(kind, values), tmp_path / "t.parquet", tmp_path / "p.parquet"
    if source == "memory":
        predicted(table, path, id_column="key")
        result = pq.read_table(path)
        assert result.schema.field("key").type == kind
        assert result["key"].to_pylist() == table["key"].to_pylist()
        assert result["response"].to_pylist() == ["a", "b", "c"]
        return
    pq.write_table(table.slice(0, 2), given)
    predicted(str(given), path, id_column="key")
    assert pq.read_schema(path).field("key").type == kind
    query = (
        f"SELECT count(*), max(typeof(t.key) = typeof(p.key)) FROM '{given}' t JOIN '{path}' p USING (key)"  # noqa: S608
    )
    wanted = 2 if len({str(one) for one in values}) == 2 else 4
    assert duckdb.sql(query).fetchone() == (wanted, True)
    before, after = pl.read_parquet(given), pl.read_parquet(path)
    assert after.schema["key"] == before.schema["key"]
    if name not in {"list", "struct"}:
        assert len(before.join(after, on="key")) == wanted
        frames = [pandas.read_parquet(one) for one in (given, path)]
        assert frames[0]["key"].dtype == frames[1]["key"].dtype
        assert len(frames[0].merge(frames[1], on="key")) == wanted


VALUES = {
    "int": ([1, 2], [1, 2]),
    "text": (["007", "8"], ["007", "8"]),
    "Decimal": ([Decimal("1.10"), Decimal("2")], [Decimal("1.10"), Decimal("2.00")]),
    "UUID": ([UUID(int=1), UUID(int=2)], [str(UUID(int=1)), str(UUID(int=2))]),
    "date": ([date(2026, 1, 1), date(2026, 1, 2)],) * 2,
    "bytes": ([b"a", memoryview(b"b")], [b"a", b"b"]),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("as_generator", [False, True], ids=["list", "generator"])
def test_ids_of_values_in_memory_keep_their_type(
    service: Service, tmp_path: Path, name: str, as_generator: bool
) -> None:
    ids, wanted = VALUES[name]
    rows = [{"id": one, "text": "a"} for one in ids]
    given: Any = iter(rows) if as_generator else rows
    assert column(predicted(given, tmp_path / "p.parquet"), "id") == wanted
    rows = predicted(rows)
    assert json.loads(json.dumps(rows)) == rows


def test_ids_of_several_types_are_refused_where_a_column_has_one(service: Service, tmp_path: Path) -> None:
    inputs = [{"id": 1, "text": "a"}, {"id": "x", "text": "b"}]
    with pytest.raises(InputError, match=r"'id' have no single type"):
        predicted(inputs, tmp_path / "p.parquet")
    assert service.nothing_sent()
    assert column(predicted(inputs, tmp_path / "p.jsonl"), "id") == [1, "x"]


DAY = date(2026, 1, 1)
HOUR = timedelta(hours=1)
NAIVE, AWARE = datetime(2026, 1, 1, 13), datetime(2026, 1, 1, 13, tzinfo=UTC)


@pytest.mark.parametrize(
    "values",
    [(NAIVE, AWARE), (AWARE, NAIVE), (DAY, NAIVE), (NAIVE, DAY), ("a", b"b"), (numpy.int64(1), 1.5)],
)
@pytest.mark.parametrize("make", [list, iter], ids=["list", "generator"])
def test_values_that_a_column_would_change_are_refused(
    service: Service, tmp_path: Path, values: tuple[Any, Any], make: Any
) -> None:
    rows = [{"id": number, "text": "a", "c": one} for number, one in enumerate(values)]
    with pytest.raises(InputError, match=r"'c' have no single type .*: they are "):
        predicted(make(rows), tmp_path / "p.parquet", columns=["c"])
    assert service.nothing_sent()


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
@pytest.mark.parametrize("make", [list, iter], ids=["list", "generator"])
def test_nanoseconds_of_a_key_stay(service: Service, tmp_path: Path, zone: str | None, make: Any) -> None:
    path, ids = tmp_path / "p.parquet", [pandas.Timestamp(n, tz=zone) for n in (1, 2)]
    predicted(make([{"id": one, "text": "a"} for one in ids]), path)
    keys = pq.read_table(path)["id"]
    assert (keys.type, keys.to_pylist()) == (pa.timestamp("ns", zone), ids)


def test_values_that_json_has_no_type_for_are_text(service: Service, tmp_path: Path) -> None:
    kinds = [name for name in KEYS if name not in {"uuid"}]
    columns = {name: pa.array(KEYS[name][1], KEYS[name][0]) for name in kinds}
    columns["ns"] = pa.array([1, 2], pa.timestamp("ns"))
    table = pa.table({"text_": ["a", "b"], **columns, "nan": [float("nan"), 1.0]})
    arguments: Any = {"id_column": None, "text_column": "text_", "columns": [*columns, "nan"]}
    row = predicted(table, tmp_path / "p.jsonl", **arguments)[0]
    wanted = {"decimal": "1.10", "bytes": "AP8=", "date": "2026-01-31"} | {
        "uint64": 1,
        "bool": True,
        "nan": None,
    }
    assert wanted.items() <= row.items()
    assert row["ns"].endswith(".000000001")


def test_batches_of_a_column_may_have_several_dictionaries_and_no_values(
    service: Service, tmp_path: Path
) -> None:
    parts = [
        pa.array(values, pa.string()).dictionary_encode() for values in (["b", "a"], ["c", "b"], [None, None])
    ]
    table = pa.table({"id": pa.chunked_array(parts), "text": list("abcdef"), "none": pa.nulls(6)})
    path = tmp_path / "p.parquet"
    predicted(FromStream(table), path, columns=["none"], batch_size=1)
    result = pq.read_table(path)
    assert result["id"].to_pylist() == ["b", "a", "c", "b", None, None]
    assert result.schema.field("none").type == pa.string(), "no other type is known"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (numpy.int64(1), 1),
        (numpy.bool_(True), True),
        (numpy.float32(0.5), 0.5),
        (numpy.float32("nan"), None),
        (numpy.array([[1, 2]]), [[1, 2]]),
        (numpy.array(["a"]), ["a"]),
        (numpy.datetime64("2026-01-01"), "2026-01-01"),
        (numpy.array(["2026-01-01", "NaT"], "datetime64[ns]"), ["2026-01-01T00:00:00.000000000", None]),
        (pandas.NA, None),
        (pandas.NaT, None),
        ([pandas.NA], [None]),
        ({"b", "a", "c"}, ["a", "b", "c"]),
        ({"in": [{"b", "a", "c"}]}, {"in": [["a", "b", "c"]]}),
    ],
)
def test_values_of_numpy_and_pandas_in_json(
    service: Service, tmp_path: Path, value: Any, wanted: Any
) -> None:
    rows = [{"id": 1, "text": "a", "c": value}]
    assert column(predicted(rows, tmp_path / "p.jsonl", columns=["c"]), "c") == [wanted]


@pytest.mark.parametrize("missing", [float("nan"), pandas.NA, pandas.NaT])
@pytest.mark.parametrize("make", [list, iter], ids=["list", "generator"])
def test_what_pandas_has_for_a_missing_value_is_null(
    service: Service, tmp_path: Path, missing: Any, make: Any
) -> None:
    path = tmp_path / "p.parquet"
    rows = [
        {"id": AWARE, "text": missing},
        {"id": pandas.NaT, "text": "b"},
        {"id": AWARE + HOUR, "text": "c"},
    ]
    found = predicted(make(rows), path, max_reject_ratio=0.5)
    assert column(found, "status") == ["rejected", "predicted", "predicted"]
    assert column(found, "id") == [AWARE, None, AWARE + HOUR]


@pytest.mark.parametrize("row", [7, b"AB", {"i", "t"}])
def test_rows_of_a_cursor_that_are_no_sequences(service: Service, tmp_path: Path, row: Any) -> None:
    with pytest.raises(InputError, match=r"^inputs\[0\] is .*, which is not text"):
        predicted(cursor(lambda *_: row), tmp_path / "p.jsonl")


POLARS: dict[str, tuple[Any, Any]] = {
    "list of text": (["a", "b"], pl.List(pl.String)),
    "struct of text": ({"a": "b"}, pl.Struct({"a": pl.String})),
    "list of binary": ([b"a"], pl.List(pl.Binary)),
    "categories": ("a", pl.Categorical),
    "enumeration": ("a", pl.Enum(["a", "b"])),
    "list of categories": (["a"], pl.List(pl.Categorical)),
}


@pytest.mark.parametrize("name", POLARS)
def test_types_of_polars(service: Service, tmp_path: Path, name: str) -> None:
    value, kind = POLARS[name]
    column, path = pl.Series([value], dtype=kind), tmp_path / "p.parquet"
    frame = pl.DataFrame({"id": column, "c": column, "text": pl.Series(["a"], dtype=pl.Categorical)})
    row = predicted(frame, path, columns=["c"])[0]
    assert (row["id"], row["c"], row["response"]) == (value, value, "a")


def test_a_column_that_is_not_read_may_have_any_values(service: Service, tmp_path: Path) -> None:
    frame = pandas.DataFrame([[1, "a", 1, 2], [2, "b", "x", 3]], columns=["id", "text", "c", "c"])
    assert len(predicted(frame)) == 2


QUERY = "SELECT 'a' AS text, 7 AS brand, 1 AS id, 8 AS brand"


@pytest.mark.parametrize("make", [iter, list], ids=["cursor", "list"])
def test_rows_of_sqlite_are_read_by_name(service: Service, make: Any) -> None:
    database = sqlite3.connect(":memory:")
    database.row_factory = sqlite3.Row
    rows = predicted(make(database.execute(QUERY)))
    assert [(row["id"], row["response"]) for row in rows] == [(1, "a")]


@pytest.mark.parametrize("factory", [None, sqlite3.Row])
def test_a_cursor_with_a_column_twice(service: Service, factory: Any) -> None:
    database = sqlite3.connect(":memory:")
    database.row_factory = factory
    with pytest.raises(InputError, match=r"inputs\[0\] has the column 'brand' 2 times"):
        predicted(database.execute(QUERY), columns=["brand"])
    assert service.nothing_sent()


class Sku(str, Enum):  # noqa: UP042  # whose str() is not the value
    A = "a"


class Number(Enum):
    ONE = 1


@pytest.mark.parametrize("form", ["p.parquet", "p.jsonl"])
@pytest.mark.parametrize("make", [list, iter], ids=["list", "generator"])
def test_the_value_of_an_enumeration_is_passed_through(
    service: Service, tmp_path: Path, form: str, make: Any
) -> None:
    rows = make([{"id": Sku.A, "text": "a", "n": Number.ONE}])
    row = predicted(rows, tmp_path / form, columns=["n"])[0]
    assert (row["id"], type(row["id"]), row["n"]) == ("a", str, 1)


# Rows that cannot be sent

UNSENDABLE: dict[str, Any] = {
    "NULL": None,
    "blank": " \n",
    "empty": "",
    "NUL": "a\0b",
    "too long": "a" * 1_000_001,
    "half a pair": "a\ud800",
    "controls": "\x01\x02\x03",
}


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, "Arrow") for name in UNSENDABLE if name != "half a pair"]
    + [("NULL", how) for how in ("list", "generator", "Parquet", "JSON Lines")],
)
def test_rows_that_cannot_be_sent_stand_in_the_result(
    service: Service, tmp_path: Path, name: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"sku": n, "text": UNSENDABLE[name] if n in {0, 5} else f"Text {n}."} for n in SKUS]
    table = pa.Table.from_pylist(rows)
    given: Any = {"list": rows, "generator": iter(rows), "Arrow": table}.get(how)
    if given is None:
        given = str(write(tmp_path / ("t.parquet" if how == "Parquet" else "t.jsonl"), rows))
    with caplog.at_level(logging.INFO):
        manifest = direct(
            given, id_column="sku", max_reject_ratio=0.2, result_path=str(tmp_path / "p.parquet")
        ).execute(new_context())
    assert (manifest["predictions"], manifest["errors"], manifest["rejected"]) == (10, 2, 2)
    result = rows_of(tmp_path / "p.parquet")
    assert [row["sku"] for row in result] == SKUS
    assert [row["sku"] for row in result if row["status"] == "rejected"] == [0, 5]
    assert all(row["error"] and row["response"] is None for row in result if row["status"] == "rejected")
    assert [row["response"] for row in result if row["status"] == "predicted"] == [
        f"Text {n}." for n in SKUS if n not in {0, 5}
    ]
    assert len(service.calls("predict")) == 2, "batches are full"
    assert "2 of 10 rows cannot be sent. inputs[0] (sku 0): It" in caplog.text


def test_half_a_surrogate_pair_is_no_text_either(service: Service) -> None:
    rows = predicted(["a", UNSENDABLE["half a pair"]], max_reject_ratio=0.5)
    assert column(rows, "status") == ["predicted", "rejected"]


def test_half_a_surrogate_pair_in_a_file_is_a_rejected_row(service: Service, tmp_path: Path) -> None:
    texts = ["ü", UNSENDABLE["half a pair"], None]
    source = write(tmp_path / "t.jsonl", [{"id": n, "text": text} for n, text in enumerate(texts)])
    rows = predicted(str(source), max_reject_ratio=0.7)
    assert [(row["id"], row["status"], row.get("response")) for row in rows] == [
        (0, "predicted", "ü"),
        (1, "rejected", None),
        (2, "rejected", None),
    ]


@pytest.mark.parametrize(("make", "source"), [(to_file, "table"), (to_file, "generator"), (by_jobs, "table")])
@pytest.mark.parametrize("arguments", [{}, {"on_invalid": "fail", "max_reject_ratio": 1}])
def test_too_many_of_them_or_by_policy_one_end_it_before_anything_is_sent(
    service: Service, tmp_path: Path, make: Any, source: str, arguments: dict[str, Any]
) -> None:
    table: Any = pa.table({"id": SKUS, "text": [None, *["a"] * 9]})
    if source == "generator":
        table = iter(table.to_pylist())
    path = tmp_path / "p.parquet"
    with pytest.raises(
        InputError, match=r"1 of 10 rows cannot be sent. inputs\[0\] \(id 0\): It has no text"
    ):
        make(table, path, **arguments).execute(new_context())
    assert service.nothing_sent()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("form", "deferrable"), [("p.parquet", False), ("p.jsonl", True)])
def test_jobs_have_only_what_can_be_sent(
    service: Service, tmp_path: Path, form: str, deferrable: bool
) -> None:
    for texts, jobs in ([None, *"abcd", None, "e", None], 2), ([None, " "], 0):
        service.emulator.state.log.clear()
        table = pa.table({"id": range(len(texts)), "text": pa.array(texts, pa.string())})
        path = tmp_path / str(jobs) / form
        make = lambda table=table, path=path: by_jobs(table, path, max_reject_ratio=1, deferrable=deferrable)  # noqa: E731
        manifest = through_triggers(make, new_context())
        rows = rows_of(path)
        assert [row.get("response") for row in rows] == [
            text if (text or "").strip() else None for text in texts
        ]
        assert [row["id"] for row in rows] == list(range(len(texts)))
        assert (manifest["rejected"], len(service.submitted())) == (
            texts.count(None) + texts.count(" "),
            jobs,
        )


@pytest.mark.parametrize(
    "inputs", [[], iter(()), "[]", TABLE.slice(0, 0)], ids=["list", "iterator", "JSON", "table"]
)
@pytest.mark.parametrize("form", ["p.parquet", "p.jsonl", "returned", "by jobs"])
def test_no_rows(service: Service, tmp_path: Path, inputs: Any, form: str) -> None:
    path = tmp_path / ("p.parquet" if form == "by jobs" else form)

    def execute(**policy: str) -> Any:
        arguments = {"id_column": "sku"} | policy
        if form == "by jobs":
            return by_jobs(inputs, path, **arguments).execute(new_context())
        where = {} if form == "returned" else {"result_path": str(path)}
        return direct(inputs, **arguments, **where).execute(new_context())

    with pytest.raises(AirflowSkipException):
        execute(on_empty="skip")
    with pytest.raises(InputError, match="no rows"):
        execute(on_empty="fail")
    assert not path.exists()
    found = execute()
    assert found == [] if form == "returned" else (found["predictions"] == 0 and rows_of(path) == [])
    assert not service.calls("predict")
    assert not service.calls("submit-prediction")


EMPTY: dict[str, Any] = {
    "pandas": lambda _: TABLE.slice(0, 0).to_pandas(),
    "Polars": lambda _: pl.DataFrame(ROWS).clear(),
    "pyarrow": lambda _: TABLE.schema.empty_table(),
    "a stream": lambda _: FromStream(TABLE.slice(0, 0)),
    "DuckDB": lambda _: duckdb.from_arrow(TABLE).filter("sku < 0"),
    "a generator": lambda _: iter(()),
    "a list": lambda _: [],
    "t.parquet": lambda path: pq.write_table(TABLE.slice(0, 0), path),
    "t.csv": lambda path: path.write_text("sku,text,brand,price\n"),
    "t.jsonl": lambda path: path.write_text(""),
}


@pytest.mark.parametrize("name", EMPTY)
def test_the_result_of_no_rows_has_the_columns(service: Service, tmp_path: Path, name: str) -> None:
    source, path = tmp_path / name, tmp_path / "p.parquet"
    given = EMPTY[name](source)
    columns: Any = {"id_column": "sku", "columns": ["price"]}
    predicted(source if "." in name else given, path, **columns)
    found = pq.read_schema(path)
    known = name not in {"a generator", "a list", "t.csv", "t.jsonl"}
    assert found.field("sku").type == (pa.int64() if known else pa.string())
    assert found.field("price").type == (pa.float64() if known else pa.string())


def test_the_types_of_a_file_without_rows_do_not_matter(service: Service, tmp_path: Path) -> None:
    write(tmp_path / "in" / "2.parquet")
    pq.write_table(pa.table({"sku": pa.array([], pa.string()), "text": []}), tmp_path / "in" / "1.parquet")
    assert column(predicted(str(tmp_path / "in"), tmp_path / "p.parquet", id_column="sku"), "sku") == SKUS


# Retries


def test_a_generator_is_read_once_for_all_tries(service: Service, tmp_path: Path) -> None:
    context, reads, path = new_context(), [], tmp_path / "p.parquet"

    def rows() -> Iterator[dict[str, Any]]:
        reads.append(1)
        yield from dictionaries()[:: -1 if len(reads) > 1 else 1]

    service.fault("predict", "500", times=retrying.ATTEMPTS)
    with pytest.raises(ServiceError, match="1 of 3 batches failed"):
        direct(rows(), **COLUMNS, result_path=str(path), concurrency=1).execute(context)
    direct(rows(), **COLUMNS, result_path=str(path)).execute(context)
    assert set(service.sent().values()) == {1}
    assert [row["sku"] for row in rows_of(path)] == SKUS
    assert len(reads) == 1
    assert list(tmp_path.iterdir()) == [path]
    context["ti"].max_tries += 3
    direct(rows(), **COLUMNS, result_path=str(path)).execute(context)
    assert [row["sku"] for row in rows_of(path)] == SKUS[::-1], "a cleared task reads it again"


def test_a_generator_is_read_once_for_all_tries_of_its_jobs(service: Service, tmp_path: Path) -> None:
    context, reads, path = new_context(), [], tmp_path / "p.parquet"

    def rows() -> Iterator[dict[str, Any]]:
        reads.append(1)
        yield from dictionaries()[:: -1 if len(reads) > 1 else 1]

    service.settings(pending_seconds=0.6)
    with pytest.raises(JobTimeoutError):
        by_jobs(rows(), path, **COLUMNS, timeout=0.2).execute(context)
    through_triggers(lambda: by_jobs(rows(), path, **COLUMNS, deferrable=True), context)
    assert column(rows_of(path), "sku") == SKUS
    assert (len(reads), set(service.submitted().values())) == (1, {1})
    assert list(tmp_path.iterdir()) == [path]


def test_jobs_are_submitted_in_any_order(service: Service, tmp_path: Path) -> None:
    source = write(tmp_path / "t.parquet", [{"id": n, "text": f"{n}."} for n in range(100)])
    task = by_jobs(str(source), tmp_path / "p.jsonl", batch_size=2)._task(new_context())  # noqa: SLF001
    for position in (0, 3, 1, 49, 40, 2, 48, 0):
        asyncio.run(task.submit(position))
        sent = service.calls("submit-prediction")[-1]
        assert sent.text_sha256 == hash_of(f"{2 * position}.", f"{2 * position + 1}.")
        assert task.name(position) == f"Inputs {2 * position} to {2 * position + 1}"


def test_a_table_that_changes_while_its_jobs_are_submitted(service: Service, tmp_path: Path) -> None:
    source = write(tmp_path / "t.parquet", [{"id": n, "text": f"{n}."} for n in range(40)])
    task = by_jobs(str(source), tmp_path / "p.jsonl", batch_size=2)._task(new_context())  # noqa: SLF001
    write(source, [{"id": 1, "text": "1."}])

    async def submit() -> list[Any]:
        posts = (task.submit(position) for position in (17, 18, 19))
        return await asyncio.wait_for(asyncio.gather(*posts, return_exceptions=True), 10)

    assert ["was changed while" in str(error) for error in asyncio.run(submit())] == [True] * 3


def test_a_table_that_changes_between_two_tries(service: Service, tmp_path: Path) -> None:
    context, source, path = new_context(), write(tmp_path / "t.parquet"), tmp_path / "p.parquet"
    first = direct(str(source), **COLUMNS, result_path=str(path)).execute(context)
    assert direct(str(source), **COLUMNS, result_path=str(path)).execute(context) == first
    assert len(service.calls("predict")) == 3
    write(source, [*ROWS[:9], ROWS[9] | {"brand": "another"}])
    direct(str(source), **COLUMNS, result_path=str(path)).execute(context)
    assert rows_of(path)[9]["brand"] == "another"


@pytest.mark.parametrize(
    ("name", "more"),
    [("p.parquet", []), (None, []), (None, ROWS)],
    ids=["file", "return value", "return value, more rows"],
)
def test_a_table_that_changes_while_it_is_read(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, more: list[Any]
) -> None:
    context, source = new_context(), write(tmp_path / "t.parquet")
    path = name and str(tmp_path / name)
    run = SyncBatchRunner.run

    async def change(runner: SyncBatchRunner) -> Any:
        found = await run(runner)
        write(source, [*ROWS[:9], ROWS[9] | {"brand": "another"}, *more])
        return found

    with monkeypatch.context() as changing:
        changing.setattr(SyncBatchRunner, "run", change)
        with pytest.raises(InputError, match="was changed while") as caught:
            direct(str(source), **COLUMNS, result_path=path).execute(context)
    assert caught.value.retryable
    assert list(tmp_path.glob("p.*")) == []
    direct(str(source), **COLUMNS, result_path=path).execute(context)
    if path:
        assert rows_of(Path(path))[9]["brand"] == "another"
        assert len(service.calls("predict")) == 3, "no text was changed, so nothing is paid for again"


# A task that predicts a table, as a process that a test kills.
TASK = """
import sys
from operator_service import direct, new_context

source, path = sys.argv[1:]
direct(source, result_path=path, concurrency=4).execute(new_context(state_store=False))
"""


def test_a_killed_process_pays_again_for_no_more_than_the_batches_in_flight(
    service: Service, tmp_path: Path
) -> None:
    source = write(tmp_path / "t.parquet", [{"id": n, "text": f"Text {n}."} for n in range(400)])
    path = tmp_path / "out" / "p.parquet"
    service.settings(latency=0.02)
    command = [sys.executable, "-c", TASK, str(source), str(path)]
    with subprocess.Popen(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}) as first:
        until = monotonic() + 60
        while len(service.calls("predict")) < 40 and monotonic() < until:
            sleep(0.01)
        first.kill()
    assert first.returncode == -signal.SIGKILL
    assert not path.exists()
    direct(str(source), result_path=str(path), concurrency=4).execute(new_context(state_store=False))
    assert [row["response"] for row in rows_of(path)] == [f"Text {n}." for n in range(400)]
    assert len(service.sent()) == 100
    assert service.sent().total() <= 100 + 4


# What is said


def test_the_log_says_what_was_read_sent_and_written(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task.Progress, "EVERY", 0.0)
    source, path = write(tmp_path / "t.parquet"), tmp_path / "p.parquet"
    with caplog.at_level(logging.INFO):
        direct(str(source), **COLUMNS, result_path=str(path), concurrency=1).execute(new_context())
    said = [record.getMessage() for record in caplog.records]
    assert f"Read 10 rows of {source}: 10 to send in 3 requests." in said
    assert any(one.startswith("Predicted 8 of 10 inputs, ") and one.endswith(" left.") for one in said)
    assert any(re.fullmatch(rf"{path}: 10 rows, \d+ tokens, in [\d.]+ s\.", one) for one in said)


def test_lineage_has_the_files_and_the_types_of_the_key(service: Service, tmp_path: Path) -> None:
    source, path = write(tmp_path / "t.parquet"), tmp_path / "p.parquet"
    one = direct(source, **COLUMNS, result_path=str(path))
    one.execute(new_context())
    inputs, output, count, columns = lineage_of(one)
    assert (inputs, output, count) == ([str(source)], str(path), 10)
    assert columns == {field.name: str(field.type) for field in pq.read_schema(path)}


@pytest.mark.parametrize("what", ["uri", "generator"])
def test_a_decorated_function_returns_a_table(service: Service, tmp_path: Path, what: str) -> None:
    source, path = write(tmp_path / "in" / "t.jsonl"), tmp_path / "p.parquet"

    @lucidworks_predict_task(
        use_case="passthrough", model_id=LLAMA, id_column="sku", columns=["brand"], result_path=str(path)
    )
    def table() -> Any:
        return source if what == "uri" else (row for row in dictionaries())

    with DAG("d", schedule=None):
        operator = table().operator
    operator.execute(new_context())
    assert [(row["sku"], row["brand"]) for row in rows_of(path)] == [
        (row["sku"], row["brand"]) for row in ROWS
    ]


def test_batches_are_small_where_texts_are_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BATCH_BYTES", 100_000)
    rows = [{"id": n, "text": f"{n}" + "a" * 10_000} for n in range(100)]
    for name in ("t.parquet", "t.csv", "t.jsonl"):
        table = tables.open_table(str(write(tmp_path / name, rows)), TableColumns())
        assert table is not None
        sizes = [batch.num_rows for batch in table.read()]
        assert sum(sizes) == 100
        assert name == "t.parquet" or max(sizes) <= 10
