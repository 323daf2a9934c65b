# SPDX-License-Identifier: Apache-2.0
"""Results beside the key of a table: what is read, which types come back, which rows are not sent."""

import asyncio
import csv
import gzip
import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from time import monotonic, sleep
from typing import Any
from uuid import UUID, uuid4

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
    Attempts,
    Death,
    Service,
    by_jobs,
    die,
    direct,
    hash_of,
    lineage_of,
    new_context,
    rows_of,
    through_triggers,
    wait,
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
from lucidworks_provider.decorators.chunk import lucidworks_chunk_task
from lucidworks_provider.decorators.predict import lucidworks_predict_task
from lucidworks_provider.documents import tables
from lucidworks_provider.documents.document import TableColumns
from lucidworks_provider.errors import (
    InputError,
    JobTimeoutError,
    LucidworksError,
    ServiceError,
    StorageNotSharedError,
)
from lucidworks_provider.jobs import rows as rows_module
from lucidworks_provider.jobs import task
from lucidworks_provider.jobs.chunk_task import ChunkTask
from lucidworks_provider.jobs.prediction_task import SyncBatchRunner
from lucidworks_provider.jobs.rows import Rejected, RowRules, Rows, Spool, Survey, read_batches
from lucidworks_provider.operators import base
from lucidworks_provider.operators.chunking import LucidworksChunkOperator

COLUMNS: dict[str, Any] = {"id_column": "sku", "columns": ["brand"]}
CHUNKING: dict[str, Any] = {
    **{"chunker": "sentence", "chunker_config": {"chunkSize": 1}, "model_id": "gte-small"},
    **{"poll_interval": 0.05, "timeout": 20},
}
BRANDS = [row["brand"] for row in ROWS]


def chunking(documents: Any, path: Path, **arguments: Any) -> LucidworksChunkOperator:
    given = {"documents": documents, "result_path": str(path), "deferrable": False, **CHUNKING}
    return LucidworksChunkOperator(**{"task_id": "t"} | given | arguments)


# Kinds of tasks; an operator is made anew for each attempt.
MAKE: dict[str, Callable[..., Any]] = {
    "returned": lambda inputs, _, **arguments: direct(inputs, **arguments),
    "file": lambda inputs, path, **arguments: direct(inputs, result_path=str(path), **arguments),
    "jobs": by_jobs,
    "chunks": chunking,
}


def predicted(inputs: Any, path: Path | None = None, **arguments: Any) -> list[dict[str, Any]]:
    """The rows of a new task, of its file if there is one."""
    returned = direct(inputs, result_path=path and str(path), **arguments).execute(new_context())
    return rows_of(path) if path else returned


def chunked(documents: Any, path: Path, **arguments: Any) -> list[dict[str, Any]]:
    chunking(documents, path, **arguments).execute(new_context())
    return rows_of(path)


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def missing_words(error: BaseException, words: list[str]) -> list[str]:
    return [word for word in words if word not in str(error)]


make_rows = pytest.mark.parametrize("make", [list, iter], ids=["list", "generator"])

# What is read: the same for all tasks; a few sources for each of them


@pytest.mark.parametrize(
    ("name", "kind", "form"),
    [(name, "returned", "") for name in SOURCES]
    + [
        (name, kind, form)
        for name in ("pandas", "a generator", "mapped tasks")
        for kind, form in (
            *(("file", "p.parquet"), ("file", "p.jsonl"), ("jobs", "p.parquet")),
            *(("chunks", "c.parquet"), ("chunks", "c.jsonl")),
        )
    ],
)
def test_whatever_holds_the_rows(service: Service, tmp_path: Path, name: str, kind: str, form: str) -> None:
    path = tmp_path / form
    result = MAKE[kind](SOURCES[name](), path, **COLUMNS).execute(new_context())
    rows = rows_of(path) if form else result
    text = "text" if kind == "chunks" else "response"
    wanted = [(row["sku"], row["brand"], row["text"]) for row in ROWS]
    assert [(row["sku"], row["brand"], row[text]) for row in rows] == wanted
    if kind == "chunks":
        assert column(rows, "document_id") == [str(sku) for sku in SKUS]
        assert (result["documents"], result["chunks"], result.get("rejected")) == (10, 10, None)
    else:
        assert column(rows, "status") == ["predicted"] * 10
    assert "price" not in rows[0]
    assert list(tmp_path.iterdir()) == ([path] if form else []), "nothing of the rows remains"


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
    assert [{"sku": row["sku"], "text": row["response"], "brand": row["brand"]} for row in found] == rows


def test_each_chunk_has_the_columns_of_its_document(service: Service, tmp_path: Path) -> None:
    table = pa.table({"id": [7, 8, 9], "text": ["A. B. C.", "D.", "E. F."], "tags": [["x"], [], ["y", "z"]]})
    for form in ("c.parquet", "c.jsonl"):
        rows = chunked(table, tmp_path / form, columns="tags")
        assert column(rows, "id") == [7, 7, 7, 8, 9, 9]
        assert column(rows, "tags") == [["x"]] * 3 + [[]] + [["y", "z"]] * 2
        assert column(rows, "chunk_index") == [0, 1, 2, 0, 0, 1]
    names = pq.read_schema(tmp_path / "c.parquet").names
    assert names[:4] == ["document_id", "id", "tags", "chunk_index"]


def test_templates_render_columns(service: Service, tmp_path: Path) -> None:
    names = {"id_column": "{{ params.key }}", "text_column": "{{ params.text }}"}
    names["columns"] = "{{ params.columns | tojson }}"
    operator = chunking("{{ params.source }}", tmp_path / "c.jsonl", **names)
    params = {"source": str(write(tmp_path / "in" / "t.csv")), "key": "sku", "text": "text"}
    operator.render_template_fields({"params": params | {"columns": ["brand", "price"]}})  # type: ignore[arg-type]
    operator.execute(new_context())
    first = rows_of(tmp_path / "c.jsonl")[0]
    assert (first["document_id"], first["sku"], first["brand"], first["price"]) == ("0", "0", "b0", "0.0")


# Refused with what is wrong, before anything is sent


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


BROKEN: dict[str, tuple[bytes, list[str]]] = {
    "no column.csv": (b"sku,body\n1,a\n", ["no column 'text'", "'body'"]),
    "ragged.csv": (b"sku,text\n1,a\n2,b,c\n", ["line 3", "3 values"]),
    "quote.csv": (b'sku,text\n1,a\n2,"b"c\n', ["line 3"]),
    "latin.csv": ("sku,text\n1,a\n2,Größe\n".encode("cp1252"), ["line 3", "It is not UTF-8."]),
    "japanese.csv": ("sku,text\n1,a\n2,日\n".encode("iso2022_jp"), ["line 3", "It is not UTF-8."]),
    "returns.csv": (b"sku,text\r1,a\r2,b\r", ["line 1", "new-line character"]),
    "long.csv": (b"sku," + b"x" * 200_000 + b"\n1,a\n", ["no column 'text'; it has 'sku', 'xxx"]),
    "long.jsonl": (b'{"sku": 1, "%s": 1}\n' % (b"x" * 200_000), ["no column 'text'; it has 'sku', 'xxx"]),
    "name.csv": (b"sku,B\xf6dy\n1,a\n", ["no column 'text'; it has 'sku', \"b'B\\\\xf6dy'\""]),
    "empty.csv.gz": (b"", ["empty.csv.gz cannot be read"]),
    "empty.jsonl.zst": (b"", ["empty.jsonl.zst cannot be read"]),
    "empty.csv": (b"", ["no column"]),
    "twice.csv": (b"sku,text,text\n1,a,b\n", ["'text' 2 times"]),
    "cut.jsonl": (b'{"sku": 1, "text": "a"}\n{"sku": 2, "te', ["line 2 is not JSON"]),
    "list.jsonl": (b'{"sku": 1, "text": "a"}\n[1]\n', ["line 2 is not a JSON object"]),
    "field.jsonl": (
        b'{"sku": 1}\n' * 1024 + b'{"sku": 2, "text": "a"}\n',
        ["no column 'text'; it has 'sku'"],
    ),
    "mixed.jsonl": (b'{"sku": 1, "text": "a"}\n{"sku": "x", "text": "a"}\n', ["'sku'", "no single type"]),
    "numbers.jsonl": (b'{"sku": 1, "text": "a"}\n{"sku": 1.5, "text": "a"}\n', ["'sku'", "float, int"]),
    "later.jsonl": (
        b'{"sku": 1, "text": "a"}\n' * 1024 + b'{"sku": 1.5, "text": "a"}\n',
        ["'sku' is of type int64 in some rows, and of double in others"],
    ),
    "huge.jsonl": (b'{"sku": 36893488147419103232, "text": "a"}\n', ["'sku'", "no single type"]),
    "open.csv": (b'sku,text\n1,"' + b"x" * 3000, ["at least", "over the limit of 2,000, or a quote"]),
    "broken.parquet": (b"PAR1 and no more", ["not Parquet"]),
    "name.parquet": (
        parquet(pa.table({"sku": [1], "text": ["a"], "name": [1]})).replace(b"name", b"n\xffme"),
        ["not Parquet", "UnicodeDecodeError"],
    ),
    "cut.csv.gz": (gzip.compress(b"sku,text\n1,a\n" * 99)[:-9], ["cannot be read"]),
    "other.txt": (b"a", [".parquet, .csv, .jsonl"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_is_broken_is_refused(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    data, words = BROKEN[name]
    if name == "open.csv":
        monkeypatch.setattr(tables, "LONGEST_LINE", 2000)
    (tmp_path / name).write_bytes(data)
    path = tmp_path / "out" / "p.jsonl"
    # That of a new process.
    csv.field_size_limit(131_072)
    with pytest.raises(InputError) as caught:
        predicted(str(tmp_path / name), path, id_column="sku")
    assert len(str(caught.value)) < 1_000
    assert missing_words(caught.value, [*words, *([] if name == "later.jsonl" else [name])]) == []
    assert service.nothing_sent()
    assert not path.parent.exists()


def renamed(*names: str) -> pa.Table:
    return TABLE.rename_columns([*names, "p"])


# An argument, other arguments, and what the error says.
NO_TABLES: list[tuple[Any, dict[str, Any], list[str]]] = [
    (TABLE, {}, ["no column 'id'", "'sku'"]),
    (TABLE, {"id_column": "sku", "text_column": "price"}, ["'price' is of type double"]),
    (TABLE, {"id_column": "sku", "columns": ["colour"]}, ["no column 'colour'"]),
    (renamed("index", "text", "b"), {"id_column": "index"}, ["'index'", "result has"]),
    (renamed("error", "text", "b"), {"id_column": "error"}, ["'error'", "result has"]),
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
]
NO_DOCUMENTS: list[tuple[Any, dict[str, Any], list[str]]] = [
    (pa.table({"id": [1, 2, 1], "text": ["a", "b", "c"]}), {}, ["documents[2]", "duplicate id '1'"]),
    (iter([{"id": 1, "text": "a"}, {"id": 1, "text": "b"}]), {}, ["documents[1]", "id '1'"]),
    ([{"id": 1, "text": "a"}, {"id": "1", "text": "b"}], {}, ["documents[1]", "id '1'"]),
    (pa.table({"id": [1, None], "text": ["a", "b"]}), {}, ["documents[1] has no 'id'", "id_column=None"]),
    (["a", "b"], {}, ["documents[0] has no 'id'"]),
    ([{"id": pandas.NA, "text": "a"}], {}, ["documents[0] has no 'id'"]),
    (iter([{"id": pandas.NaT, "text": "a"}]), {}, ["documents[0] has no 'id'"]),
    ([{"text": "a"}], {}, ["documents[0] has no 'id'"]),
    (pa.table({"id": ["a", " "], "text": ["a", "b"]}), {}, ["documents[1] has the id ' '"]),
    ([{"id": 1, "text": "a", "brand": "b"}], {}, ["documents[0] has brand", "columns"]),
    (TABLE, {"id_column": "sku", "text_column": "price"}, ["'price' is of type double"]),
    (renamed("vector", "text", "b"), {"id_column": "vector"}, ["'vector'", "result"]),
    (
        renamed("id", "text", "document_id"),
        {"columns": ["document_id"]},
        ["'document_id' cannot be passed through"],
    ),
    (
        {"a": "b"},
        {},
        ["documents is of type dict with the keys 'a'; give a list of {'id': …, 'text': …}, the URI"],
    ),
    (7, {}, ["documents is of type int"]),
    ("hello", {}, ["documents is 'hello'"]),
    ("words " * 833 + "xx", {}, ["a text of 5,000 characters, which is not a URI"]),
    ("[{'id': 1}]", {}, ["documents is a text that begins with [", "tojson"]),
    ([], {"on_empty": "never"}, ["on_empty is 'never'"]),
    ([], {"columns": 7}, ["columns is 7"]),
    ([], {"columns": "[brand"}, ["columns is '[brand'"]),
]


@pytest.mark.parametrize(
    ("kind", "source", "arguments", "words"),
    [("file", *one) for one in NO_TABLES] + [("chunks", *one) for one in NO_DOCUMENTS],
)
def test_what_is_no_table_is_named(
    service: Service, tmp_path: Path, kind: str, source: Any, arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        MAKE[kind](source, tmp_path / "p.parquet", **arguments).execute(new_context())
    assert missing_words(caught.value, words) == []
    assert "words words" not in str(caught.value), "a long text is not repeated"
    assert service.nothing_sent()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["list", "t.csv", "t.parquet"])
@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("a\tb", r"U\+0009 at character 1; ids have no control characters\."),
        ("a\x85b", r"U\+0085 at character 1; ids have no control characters\."),
        ("a" * 5000, r"5,000 characters; it may have 4,096\."),
        (" ", r"no text\."),
    ],
)
def test_ids_follow_the_rule_of_a_corpus(
    service: Service, tmp_path: Path, form: str, key: str, reason: str
) -> None:
    rows = [{"id": "1", "text": "A."}, {"id": key, "text": "B."}]
    given: Any = rows if form == "list" else str(write(tmp_path / form, rows))
    with pytest.raises(InputError, match=rf"^documents\[1\] has the id .*'?\. Its id has {reason}$"):
        chunked(given, tmp_path / "c.jsonl")
    assert service.nothing_sent()


@pytest.mark.parametrize("source", ["t.parquet", "", "*.parquet"])
def test_a_result_among_the_files_of_the_table_is_refused(
    service: Service, tmp_path: Path, source: str
) -> None:
    """It would replace the table, or be read as a part of it by the next run."""
    write(tmp_path / "t.parquet", [{"id": 1, "text": "One."}])
    given = f"{tmp_path}/{source}".rstrip("/")
    with pytest.raises(InputError, match="is or would be a file of documents"):
        chunked(given, tmp_path / ("t.parquet" if source == "t.parquet" else "chunks.parquet"))
    assert service.calls("submit") == []
    assert pq.read_table(tmp_path / "t.parquet").column_names == ["id", "text"]
    (tmp_path / "results").mkdir()
    below = tmp_path / ("t2.parquet" if source == "t.parquet" else "results/chunks.jsonl")
    assert not source or chunked(given, below)


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


NO_IDS = ["bool", "list", "struct"]


@pytest.mark.parametrize("name", KEYS)
def test_the_key_of_a_document_is_a_text_or_a_number(service: Service, tmp_path: Path, name: str) -> None:
    kind, values = KEYS[name]
    table = keyed(kind, values).slice(0, len({str(one) for one in values}))
    if name in NO_IDS:
        with pytest.raises(InputError, match=r"documents\[0\] has the key .*; give it a text or a number"):
            chunked(table, tmp_path / "c.parquet", id_column="key")
        assert service.nothing_sent()
        return
    pq.write_table(table, tmp_path / "t.parquet")
    chunked(str(tmp_path / "t.parquet"), tmp_path / "c.parquet", id_column="key")
    result = pq.read_table(tmp_path / "c.parquet")
    assert (result.schema.field("key").type, result.schema.field("document_id").type) == (kind, pa.string())
    assert result["key"].to_pylist() == table["key"].to_pylist()


def test_types_of_other_columns_survive(service: Service, tmp_path: Path) -> None:
    columns = {name: pa.array(KEYS[name][1], KEYS[name][0]) for name in KEYS if name not in {"uuid", "text"}}
    table = pa.table({"id": [1, 2], "text": ["A. B.", "C."], **columns})
    chunked(FromStream(table), tmp_path / "c.parquet", columns=list(columns))
    result = pq.read_table(tmp_path / "c.parquet")
    for name in columns:
        assert result.schema.field(name).type == table.schema.field(name).type
        assert result[name].to_pylist() == [table[name].to_pylist()[row] for row in (0, 0, 1)]


@pytest.mark.parametrize("form", ["c.parquet", "c.jsonl"])
def test_a_key_document_id_is_the_column_of_the_result(service: Service, tmp_path: Path, form: str) -> None:
    path = tmp_path / form
    one = chunking(pa.table({"document_id": [7, 8], "text": ["A.", "B."]}), path, id_column="document_id")
    one.execute(new_context())
    assert column(rows_of(path), "document_id") == ["7", "8"]
    if form == "c.parquet":
        assert lineage_of(one)[3] == types_of(path)


def types_of(path: Path) -> dict[str, str]:
    return {field.name: str(field.type).replace("element: ", "") for field in pq.read_schema(path)}


@pytest.mark.parametrize("documents", [["A.", "B."], pa.table({"text": ["A.", "B."]}), iter(["A.", "B."])])
def test_without_a_key_documents_are_numbered(service: Service, tmp_path: Path, documents: Any) -> None:
    assert column(chunked(documents, tmp_path / "c.parquet", id_column=None), "document_id") == ["0", "1"]


def test_without_ids_rows_have_their_position_only(service: Service) -> None:
    rows = predicted(["a", {"text": "b", "id": 0}, "c"])
    assert [(row["index"], row.get("id", "none")) for row in rows] == [(0, "none"), (1, 0), (2, "none")]


def test_documents_with_the_same_text_may_share_a_job(service: Service, tmp_path: Path) -> None:
    rows = chunked([{"id": n, "text": "The same."} for n in range(3)], tmp_path / "c.jsonl")
    assert column(rows, "document_id") == ["0", "1", "2"]


VALUES = {
    "int": ([1, 2], [1, 2]),
    "text": (["007", "8"], ["007", "8"]),
    "Decimal": ([Decimal("1.10"), Decimal("2")], [Decimal("1.10"), Decimal("2.00")]),
    "UUID": ([UUID(int=1), UUID(int=2)], [str(UUID(int=1)), str(UUID(int=2))]),
    "date": ([date(2026, 1, 1), date(2026, 1, 2)],) * 2,
    "bytes": ([b"a", memoryview(b"b")], [b"a", b"b"]),
}


@pytest.mark.parametrize("name", VALUES)
@make_rows
def test_ids_of_values_in_memory_keep_their_type(
    service: Service, tmp_path: Path, name: str, make: Any
) -> None:
    ids, wanted = VALUES[name]
    rows = [{"id": one, "text": "a"} for one in ids]
    assert column(predicted(make(rows), tmp_path / "p.parquet"), "id") == wanted
    rows = predicted(rows)
    assert json.loads(json.dumps(rows)) == rows


def test_ids_of_several_types_are_refused_where_a_column_has_one(service: Service, tmp_path: Path) -> None:
    inputs = [{"id": 1, "text": "a"}, {"id": "x", "text": "b"}]
    with pytest.raises(InputError, match=r"'id' have no single type"):
        predicted(inputs, tmp_path / "p.parquet")
    assert service.nothing_sent()
    assert column(predicted(inputs, tmp_path / "p.jsonl"), "id") == [1, "x"]


HALF_A_PAIR = "a\ud800"
DAY = date(2026, 1, 1)
HOUR = timedelta(hours=1)
NAIVE, AWARE = datetime(2026, 1, 1, 13), datetime(2026, 1, 1, 13, tzinfo=UTC)


@pytest.mark.parametrize(
    "values",
    [(NAIVE, AWARE), (AWARE, NAIVE), (DAY, NAIVE), (NAIVE, DAY), ("a", b"b"), (numpy.int64(1), 1.5)],
)
@pytest.mark.parametrize("nest", [lambda one: one, lambda one: {"in": [one]}], ids=["plain", "nested"])
@make_rows
def test_values_that_a_column_would_change_are_refused(
    service: Service, tmp_path: Path, values: tuple[Any, Any], nest: Any, make: Any
) -> None:
    rows = [{"id": number, "text": "a", "c": nest(one)} for number, one in enumerate(values)]
    if type(rows[0]["c"]) is dict and 1.5 in values:
        return  # whole numbers may be nested beside others
    with pytest.raises(InputError, match=r"'c' have no single type .*: they are "):
        predicted(make(rows), tmp_path / "p.parquet", columns=["c"])
    assert service.nothing_sent()


@pytest.mark.parametrize("source", ["list", "generator", "file"])
def test_nested_values_are_exact_in_json(service: Service, tmp_path: Path, source: str) -> None:
    values = [{"a": 1}, {"b": [2, 1.5, None]}, None, {"a": "x"}, [True], []]
    rows: Any = [{"id": number, "text": "a", "c": one} for number, one in enumerate(values)]
    if source == "file":
        (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = {"list": rows, "generator": iter(rows), "file": str(tmp_path / "t.jsonl")}[source]
    assert column(predicted(given, tmp_path / "p.jsonl", columns=["c"]), "c") == values


@make_rows
def test_dates_in_nested_values_keep_their_time(service: Service, tmp_path: Path, make: Any) -> None:
    rows = [{"id": number, "text": "a", "c": {"at": one}} for number, one in enumerate((DAY, NAIVE))]
    found = column(predicted(make(rows), tmp_path / "p.jsonl", columns=["c"]), "c")
    assert found == [{"at": "2026-01-01"}, {"at": "2026-01-01T13:00:00"}]


def test_json_lines_may_leave_out_nulls(service: Service, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text('{"id": 1, "text": "a"}\n{"id": 2, "text": "b", "c": "x"}\n')
    (tmp_path / "in" / "b.jsonl").write_text('{"id": 3, "text": "c"}\n')
    for form in ("p.parquet", "p.jsonl"):
        found = predicted(str(tmp_path / "in"), tmp_path / form, columns=["c"])
        assert column(found, "c") == [None, "x", None]


@pytest.mark.parametrize("values", [("b", "b"), (AWARE, AWARE), (b"b", b"b"), (True, True)], ids=str)
@make_rows
def test_nan_beside_other_values_is_null(
    service: Service, tmp_path: Path, values: tuple[Any, Any], make: Any
) -> None:
    given = [float("nan"), *values, float("nan")]
    rows = [{"id": number, "text": "a", "c": one} for number, one in enumerate(given)]
    found = predicted(make(rows), tmp_path / "p.parquet", columns=["c"], batch_size=1)
    assert column(found, "c") == [None, *values, None]


def test_times_of_spark_beyond_the_range_of_nanoseconds(service: Service, tmp_path: Path) -> None:
    times = [datetime(1500, 1, 1), datetime(9999, 12, 31)]
    table = pa.table({"id": [1, 2], "text": ["a", "b"], "c": pa.array(times, pa.timestamp("us"))})
    pq.write_table(table, tmp_path / "t.parquet", use_deprecated_int96_timestamps=True)
    found = predicted(str(tmp_path / "t.parquet"), tmp_path / "p.parquet", columns=["c"])
    assert column(found, "c") == times


def test_tensors_are_passed_through(service: Service, tmp_path: Path) -> None:
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(numpy.arange(8.0).reshape(2, 2, 2))
    table = pa.table({"id": [1, 2], "text": ["a", "b"], "c": tensors})
    predicted(table, tmp_path / "p.parquet", columns=["c"])
    assert pq.read_table(tmp_path / "p.parquet")["c"].combine_chunks() == tensors


@pytest.mark.parametrize("zone", [None, "Europe/Berlin"])
@make_rows
def test_nanoseconds_of_a_key_stay(service: Service, tmp_path: Path, zone: str | None, make: Any) -> None:
    path, ids = tmp_path / "p.parquet", [pandas.Timestamp(n, tz=zone) for n in (1, 2)]
    predicted(make([{"id": one, "text": "a"} for one in ids]), path)
    keys = pq.read_table(path)["id"]
    assert (keys.type, keys.to_pylist()) == (pa.timestamp("ns", zone), ids)


@pytest.mark.parametrize("offset", [HOUR, timedelta(minutes=53, seconds=28)])
@make_rows
def test_times_of_several_offsets_are_utc(
    service: Service, tmp_path: Path, make: Any, offset: timedelta
) -> None:
    path, zones = tmp_path / "p.parquet", [timezone(offset), timezone(2 * HOUR)]
    times = [AWARE.astimezone(zones[number > 1023]) for number in range(1030)]
    predicted(
        make([{"id": n, "text": "a", "c": one} for n, one in enumerate(times)]),
        path,
        columns=["c"],
        batch_size=32,
    )
    found = pq.read_table(path)["c"]
    assert (found.type, found.to_pylist()) == (pa.timestamp("us", "UTC"), [AWARE] * 1030)


def test_values_that_json_has_no_type_for_are_text(service: Service, tmp_path: Path) -> None:
    columns = {name: pa.array(values, kind) for name, (kind, values) in KEYS.items() if name != "uuid"}
    columns |= {"ns": pa.array([1, 2], pa.timestamp("ns")), "nan": pa.array([float("nan"), 1.0])}
    table = pa.table({"text_": ["a", "b"], **columns})
    arguments: Any = {"id_column": None, "text_column": "text_", "columns": [*columns]}
    row = predicted(table, tmp_path / "p.jsonl", **arguments)[0]
    wanted = {"decimal": "1.10", "bytes": "AP8=", "date": "2026-01-31", "uint64": 1, "bool": True}
    assert (wanted | {"nan": None}).items() <= row.items()
    assert row["ns"].endswith(".000000001")


@pytest.mark.parametrize("kind", ["file", "chunks"])
def test_batches_of_a_column_may_have_several_dictionaries_and_no_values(
    service: Service, tmp_path: Path, kind: str
) -> None:
    kinds = [pa.array(two, pa.string()).dictionary_encode() for two in (["b", "a"], ["c", "b"], [None, None])]
    columns = {"kind": pa.chunked_array(kinds), "text": list("abcdef"), "none": pa.nulls(6)}
    source, path = FromStream(pa.table({"id": range(6), **columns})), tmp_path / "p.parquet"
    more = {"batch_size": 1} if kind == "file" else {}
    MAKE[kind](source, path, columns=["kind", "none"], **more).execute(new_context())
    result = pq.read_table(path)
    assert result["kind"].to_pylist() == ["b", "a", "c", "b", None, None]
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
@make_rows
def test_what_pandas_has_for_a_missing_value_is_null(
    service: Service, tmp_path: Path, missing: Any, make: Any
) -> None:
    values = [(AWARE, missing), (pandas.NaT, "b"), (AWARE + HOUR, "c")]
    rows = make([{"id": one, "text": text} for one, text in values])
    found = predicted(rows, tmp_path / "p.parquet", max_reject_ratio=0.5)
    assert column(found, "status") == ["rejected", "predicted", "predicted"]
    assert column(found, "id") == [AWARE, None, AWARE + HOUR]


LATE = datetime(9999, 12, 31, 23, 59, 59)
US, NS = pa.timestamp("us"), pa.timestamp("ns")
# The form of the result, the tables of a folder or the rows of a list, and what the error says.
NOT_PASSED: dict[str, tuple[str, list[pa.Array] | list[dict[str, Any]], list[str]]] = {
    "late": (
        "parquet",
        [pa.array([LATE], US), pa.array([1], NS)],
        ["[0] to ", "does not fit into timestamp[ns]"],
    ),
    "large": (
        "parquet",
        [pa.array([2], pa.int64()), pa.array([2**63], pa.uint64())],
        ["[1] to ", "does not fit into int64"],
    ),
    "bytes": (
        "jsonl",
        [pa.array([b"\xff"]).view(pa.string())],
        ["cannot be converted to JSON", "invalid start byte"],
    ),
    "nested": ("jsonl", [pa.array([{"a": 2**50}], pa.struct([("a", pa.timestamp("ms"))]))], ["to JSON"]),
    "zone": ("jsonl", [pa.array([1], pa.timestamp("us", "Nowhere/X"))], ["to JSON", "Nowhere/X"]),
    "list": ("jsonl", [{"id": 1, "text": "a", "c": {"a": [HALF_A_PAIR]}}], ["[0]: 'c' contains half of a"]),
}


@pytest.mark.parametrize("kind", ["returned", "file", "jobs", "chunks"])
@pytest.mark.parametrize("name", NOT_PASSED)
def test_values_that_cannot_be_passed_through_are_refused_before_anything_is_sent(
    service: Service, tmp_path: Path, kind: str, name: str
) -> None:
    form, given, words = NOT_PASSED[name]
    if kind == "returned" and form == "parquet":
        return
    source: Any = given
    if isinstance(given[0], pa.Array):
        source = tmp_path / "in"
        source.mkdir()
        for number, values in enumerate(given):
            table = pa.table({"id": [number], "text": ["A."], "c": values})
            pq.write_table(table, source / f"{number}.parquet")
    with pytest.raises(InputError) as caught:
        MAKE[kind](source, tmp_path / f"p.{form}", columns=["c"]).execute(new_context())
    assert missing_words(caught.value, [*words, "'c'"]) == []
    assert service.nothing_sent()


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        (pa.array([LATE, NAIVE], pa.timestamp("us", "Europe/Berlin")), "10000-01-01 00:59:59.000000+0100"),
        (pa.array([2**38, 0], pa.timestamp("s")), "10680-07-14 06:09:04"),
        (pa.array([-(10**6), 0], pa.date32()), "-0768-02-04"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["file", "chunks"])
def test_times_that_python_has_not_are_text_in_json(
    service: Service, tmp_path: Path, kind: str, values: pa.Array, wanted: str
) -> None:
    table, path = pa.table({"id": [1, 2], "text": ["A.", "B."], "c": values}), tmp_path / "p.jsonl"
    MAKE[kind](table, path, columns=["c"]).execute(new_context())
    assert column(rows_of(path), "c") == [wanted, values[1].as_py().isoformat()]


def test_a_rejected_row_may_have_a_key_that_is_no_text(service: Service, tmp_path: Path) -> None:
    keys = pa.array([b"\xff", b"b"]).view(pa.string())
    path = tmp_path / "p.parquet"
    direct(pa.table({"id": keys, "text": [None, "b"]}), result_path=str(path), max_reject_ratio=0.5).execute(
        new_context()
    )
    assert pq.read_table(path)["id"].cast(pa.binary()).to_pylist() == [b"\xff", b"b"]


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
    series = pl.Series([value], dtype=kind)
    frame = pl.DataFrame({"id": series, "c": series, "text": pl.Series(["a"], dtype=pl.Categorical)})
    row = predicted(frame, tmp_path / "p.parquet", columns=["c"])[0]
    assert (row["id"], row["c"], row["response"]) == (value, value, "a")


def test_a_column_that_is_not_read_may_have_any_values(service: Service) -> None:
    frame = pandas.DataFrame([[1, "a", 1, 2], [2, "b", "x", 3]], columns=["id", "text", "c", "c"])
    assert len(predicted(frame)) == 2


def twice(row_factory: Any) -> Any:
    """A cursor with a column twice."""
    database = sqlite3.connect(":memory:")
    database.row_factory = row_factory
    return database.execute("SELECT 'a' AS text, 7 AS brand, 1 AS id, 8 AS brand")


@make_rows
def test_rows_of_sqlite_are_read_by_name(service: Service, make: Any) -> None:
    rows = predicted(make(twice(sqlite3.Row)))
    assert [(row["id"], row["response"]) for row in rows] == [(1, "a")]


@pytest.mark.parametrize("factory", [None, sqlite3.Row])
def test_a_cursor_with_a_column_twice(service: Service, factory: Any) -> None:
    with pytest.raises(InputError, match=r"inputs\[0\] has the column 'brand' 2 times"):
        predicted(twice(factory), columns=["brand"])
    assert service.nothing_sent()


class Sku(str, Enum):  # noqa: UP042  # whose str() is not the value
    A = "a"


class Number(Enum):
    ONE = 1


@pytest.mark.parametrize("form", ["p.parquet", "p.jsonl"])
@pytest.mark.parametrize("kind", ["file", "chunks"])
@make_rows
def test_the_value_of_an_enumeration_is_passed_through(
    service: Service, tmp_path: Path, form: str, kind: str, make: Any
) -> None:
    rows = make([{"id": Sku.A, "text": "a", "n": Number.ONE}])
    MAKE[kind](rows, tmp_path / form, columns=["n"]).execute(new_context())
    [row] = rows_of(tmp_path / form)
    assert (row["id"], type(row["id"]), row["n"]) == ("a", str, 1)
    assert row.get("document_id", "a") == "a"


# Rows that cannot be sent

UNSENDABLE: dict[str, Any] = {
    "NULL": None,
    "blank": " \n",
    "empty": "",
    "NUL": "a\0b",
    "too long": "a" * 1_000_001,
    "controls": "\x01\x02\x03",
}


def given_as(how: str, rows: list[dict[str, Any]], folder: Path) -> Any:
    forms = {"list": rows, "generator": iter(rows)}
    if how == "Arrow":
        return pa.Table.from_pylist(rows)
    return forms.get(how) or str(write(folder / {"Parquet": "t.parquet", "JSON Lines": "t.jsonl"}[how], rows))


@pytest.mark.parametrize(
    ("name", "how"),
    [(name, "Arrow") for name in UNSENDABLE]
    + [("NULL", how) for how in ("list", "generator", "Parquet", "JSON Lines")],
)
def test_rows_that_cannot_be_sent_are_in_the_result(
    service: Service, tmp_path: Path, name: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    rows = [{"sku": n, "text": UNSENDABLE[name] if n in {0, 5} else f"Text {n}."} for n in SKUS]
    arguments = {"id_column": "sku", "max_reject_ratio": 0.2, "result_path": str(tmp_path / "p.parquet")}
    manifest = direct(given_as(how, rows, tmp_path), **arguments).execute(new_context())
    assert (manifest["predictions"], manifest["errors"], manifest["rejected"]) == (10, 2, 2)
    result = rows_of(tmp_path / "p.parquet")
    wanted = [(n, *(("rejected", None) if n in {0, 5} else ("predicted", f"Text {n}."))) for n in SKUS]
    assert [(row["sku"], row["status"], row["response"]) for row in result] == wanted
    assert [row["sku"] for row in result if row["error"]] == [0, 5]
    assert len(service.calls("predict")) == 2, "batches are full"
    assert "2 of 10 rows cannot be sent. inputs[0] (sku 0): It" in caplog.text


@pytest.mark.parametrize(
    ("how", "form"),
    [("list", "c.parquet"), ("generator", "c.jsonl"), ("Arrow", "c.jsonl"), ("JSON Lines", "c.parquet")],
)
def test_documents_that_cannot_be_sent_have_no_chunks(
    service: Service, tmp_path: Path, how: str, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    texts = {0: None, 5: "a\0b", 9: " "}
    rows = [{"sku": n, "text": texts.get(n, f"Text {n}."), "brand": "b"} for n in SKUS]
    one = chunking(given_as(how, rows, tmp_path), tmp_path / form, **COLUMNS, max_reject_ratio=0.3)
    manifest = one.execute(new_context())
    assert (manifest["documents"], manifest["rejected"]) == (7, 3)
    wanted = [(n, f"Text {n}.") for n in SKUS if n not in texts]
    assert [(row["sku"], row["text"]) for row in rows_of(tmp_path / form)] == wanted
    assert "3 of 10 rows cannot be sent. documents[0] (sku 0): It has no text." in caplog.text
    assert "They are not in the result." in caplog.text


@pytest.mark.parametrize("first", [0, 2100])
def test_long_runs_of_rejected_rows_take_no_more_requests(
    service: Service, tmp_path: Path, first: int
) -> None:
    texts = [None] * first + ["a", *[None] * 1100] * 6
    path = tmp_path / "p.parquet"
    inputs = pa.table({"id": range(len(texts)), "text": texts})
    direct(inputs, result_path=str(path), max_reject_ratio=1, max_requests=2).execute(new_context())
    assert len(service.calls("predict")) == 2
    assert column(rows_of(path), "id") == [*range(len(texts))]
    assert column(rows_of(path), "response") == texts


def test_documents_of_a_question_that_are_not_utf8_are_rejected_alone() -> None:
    bodies = pa.array([b"a", b"\xff", b"c"]).view(pa.string())
    documents = pa.ListArray.from_arrays([0, 1, 2, 3], pa.StructArray.from_arrays([bodies], ["body"]))
    table = pa.table({"id": [1, 2, 3], "text": ["a", "b", "c"], "documents": documents})
    columns = TableColumns(optional=("documents",))
    batches = read_batches(table, columns, RowRules(lambda wire, what: None), 32)
    first, second, third = (one for batch in batches.checked() for one in batch.inputs)
    assert first == {"text": "a", "documents": [{"body": "a"}]}
    assert isinstance(second, Rejected)
    assert "Its documents cannot be decoded as UTF-8" in second.reason
    assert third == {"text": "c", "documents": [{"body": "c"}]}


def test_a_text_of_csv_that_cannot_be_sent_is_rejected_alone(service: Service, tmp_path: Path) -> None:
    texts = [UNSENDABLE["NUL"], "Text ü.", UNSENDABLE["controls"], "Text."]
    source = write(tmp_path / "t.csv", [{"id": n, "text": text} for n, text in enumerate(texts)])
    found = predicted(str(source), max_reject_ratio=0.5)
    assert column(found, "status") == ["rejected", "predicted", "rejected", "predicted"]
    assert "a NUL character at position 1" in found[0]["error"]
    with pytest.raises(InputError, match=r"2 of 4 rows cannot be sent\. inputs\[0\]"):
        predicted(str(source), on_invalid="fail")


def test_half_a_surrogate_pair_is_no_text_either(service: Service, tmp_path: Path) -> None:
    rows = [{"id": n, "text": text} for n, text in enumerate(["ü", HALF_A_PAIR, None])]
    for source in (rows, str(write(tmp_path / "t.jsonl", rows))):
        found = predicted(source, max_reject_ratio=0.7)
        assert column(found, "id") == [0, 1, 2]
        assert column(found, "status") == ["predicted", "rejected", "rejected"]
        assert [row.get("response") for row in found] == ["ü", None, None]


@pytest.mark.parametrize("kind", ["file", "jobs", "chunks"])
@pytest.mark.parametrize("how", ["Arrow", "generator"])
@pytest.mark.parametrize("arguments", [{}, {"on_invalid": "fail", "max_reject_ratio": 1}])
def test_too_many_of_them_or_by_policy_one_end_it_before_anything_is_sent(
    service: Service, tmp_path: Path, kind: str, how: str, arguments: dict[str, Any]
) -> None:
    given = given_as(how, [{"id": n, "text": "a" if n else None} for n in SKUS], tmp_path)
    words = r"1 of 10 rows cannot be sent. (inputs|documents)\[0\] \(id 0\): It has no text"
    with pytest.raises(InputError, match=words):
        MAKE[kind](given, tmp_path / "p.parquet", **arguments).execute(new_context())
    assert service.nothing_sent()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("form", "deferrable"), [("p.parquet", False), ("p.jsonl", True)])
@pytest.mark.parametrize(("texts", "posts"), [([None, *"abcd", None, "e", None], 2), ([None, " "], 0)])
def test_jobs_have_only_what_can_be_sent(
    service: Service, tmp_path: Path, form: str, deferrable: bool, texts: list[str | None], posts: int
) -> None:
    table, path = pa.table({"id": range(len(texts)), "text": pa.array(texts, pa.string())}), tmp_path / form
    make = lambda: by_jobs(table, path, max_reject_ratio=1, deferrable=deferrable)  # noqa: E731
    manifest = through_triggers(make, new_context())
    found = [(row["id"], row.get("response")) for row in rows_of(path)]
    assert found == [(n, (text or "").strip() or None) for n, text in enumerate(texts)]
    assert (manifest["rejected"], len(service.submitted())) == (len(texts) - (5 if posts else 0), posts)


@pytest.mark.parametrize(("form", "deferrable"), [("c.parquet", False), ("c.jsonl", True)])
def test_where_no_document_can_be_sent_the_result_is_empty(
    service: Service, tmp_path: Path, form: str, deferrable: bool
) -> None:
    one = chunking([{"id": 1, "text": " "}], tmp_path / form, max_reject_ratio=1, deferrable=deferrable)
    manifest = one.execute(new_context())
    assert (manifest["documents"], manifest["rejected"], rows_of(tmp_path / form)) == (0, 1, [])
    assert service.calls("submit") == []


@pytest.mark.parametrize(
    "inputs", [[], iter(()), "[]", TABLE.slice(0, 0)], ids=["list", "iterator", "JSON", "table"]
)
@pytest.mark.parametrize(
    ("kind", "form"),
    [("returned", ""), ("file", "p.jsonl"), *((kind, "p.parquet") for kind in ("file", "jobs", "chunks"))],
)
def test_no_rows(service: Service, tmp_path: Path, inputs: Any, kind: str, form: str) -> None:
    def execute(**policy: str) -> Any:
        return MAKE[kind](inputs, tmp_path / form, id_column="sku", **policy).execute(new_context())

    with pytest.raises(AirflowSkipException):
        execute(on_empty="skip")
    with pytest.raises(InputError, match=r"(inputs|documents) has no rows"):
        execute(on_empty="fail")
    assert list(tmp_path.iterdir()) == []
    found = execute()
    if kind == "returned":
        assert found == []
    else:
        assert (found["documents" if kind == "chunks" else "predictions"], rows_of(tmp_path / form)) == (
            0,
            [],
        )
    assert [service.calls(one) for one in ("predict", "submit-prediction", "submit")] == [[], [], []]


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
    predicted(source if "." in name else given, path, id_column="sku", columns=["price"])
    found = pq.read_schema(path)
    known = name not in {"a generator", "a list", "t.csv", "t.jsonl"}
    wanted = (pa.int64(), pa.float64()) if known else (pa.string(), pa.string())
    assert (found.field("sku").type, found.field("price").type) == wanted


def test_the_types_of_a_file_without_rows_do_not_matter(service: Service, tmp_path: Path) -> None:
    write(tmp_path / "in" / "2.parquet")
    pq.write_table(pa.table({"sku": pa.array([], pa.string()), "text": []}), tmp_path / "in" / "1.parquet")
    assert column(predicted(str(tmp_path / "in"), tmp_path / "p.parquet", id_column="sku"), "sku") == SKUS


# Retries and waits


@pytest.mark.parametrize("kind", ["file", "jobs", "chunks"])
def test_a_generator_is_read_once_for_all_tries(service: Service, tmp_path: Path, kind: str) -> None:
    context, reads, path = new_context(), [], tmp_path / "p.parquet"

    def rows() -> Iterator[dict[str, Any]]:
        reads.append(1)
        yield from dictionaries()[:: -1 if len(reads) > 1 else 1]

    def attempt(**more: Any) -> Any:
        return MAKE[kind](rows(), path, **COLUMNS, **more)

    if kind == "file":
        service.fault("predict", "500", times=retrying.ATTEMPTS)
        with pytest.raises(ServiceError, match="1 of 3 batches failed"):
            attempt(concurrency=1).execute(context)
        attempt().execute(context)
    else:
        service.settings(pending_seconds=0.6)
        with pytest.raises(JobTimeoutError):
            attempt(timeout=0.2).execute(context)
        through_triggers(lambda: attempt(deferrable=kind == "jobs"), context)
    assert column(rows_of(path), "sku") == SKUS
    assert (len(reads), set((service.sent() if kind == "file" else service.submitted()).values())) == (1, {1})
    assert list(tmp_path.iterdir()) == [path]
    context["ti"].max_tries += 3
    attempt().execute(context)
    assert column(rows_of(path), "sku") == SKUS[::-1], "a cleared task reads it again"


@pytest.mark.parametrize("arguments", [{"max_requests": 1}, {"max_reject_ratio": 0}], ids=str)
def test_stored_rows_are_removed_where_nothing_is_sent(
    service: Service, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    rows = ({"id": n, "text": f"Text {n}." if n else ""} for n in range(5))
    with pytest.raises(LucidworksError):
        chunked(rows, tmp_path / "c.jsonl", **arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "jobs", "chunks"])
def test_rows_stay_stored_until_the_last_step(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    context, path = new_context(), tmp_path / "p.jsonl"
    with monkeypatch.context() as dying:
        dying.setattr(base, "push_result", die)
        with pytest.raises(Death):
            MAKE[kind](iter(dictionaries()), path, **COLUMNS).execute(context)
    assert MAKE[kind](iter(()), path, **COLUMNS).execute(context)["uri"] == str(path)
    assert column(rows_of(path), "sku") == SKUS
    assert set((service.sent() + service.submitted()).values()) == {1}
    assert list(tmp_path.iterdir()) == [path]


def test_readings_of_two_attempts_at_once_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "_SPOOL_BYTES", 1)
    spool = Spool(str(tmp_path / "t.table"), 0)

    def reading(name: str, between: Callable[[], Any]) -> Iterator[Rows]:
        for number in range(4):
            yield Rows([{"text": f"{name}{number}"}], pa.record_batch({"id": [number]}))
            if number == 2:
                between()

    def texts(read: Callable[[], Iterator[Rows]] | None) -> list[str]:
        assert read is not None
        return [one["text"] for rows in read() for one in rows.inputs if not isinstance(one, Rejected)]

    def other() -> None:
        assert texts(spool.write(reading("b", lambda: None), "what")) == ["b0", "b1", "b2", "b3"]

    wanted = ["a0", "a1", "a2", "a3"]
    assert texts(spool.write(reading("a", other), "what")) == wanted
    with pytest.raises(Death):
        spool.write(reading("c", die), "what")
    assert texts(spool.read("what")) == wanted


def test_a_generator_that_fails_leaves_nothing(service: Service, tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        for n in range(2000):
            yield {"id": n, "text": f"Text {n}. " * 500}
        raise OSError("the cursor was closed")

    with pytest.raises(OSError, match="the cursor was closed"):
        chunked(rows(), tmp_path / "c.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("source", ["a generator", "t.parquet", "mapped tasks"])
def test_a_task_that_waits_in_the_triggerer_resumes_in_another_process(
    service: Service, tmp_path: Path, source: str
) -> None:
    path, file = tmp_path / "c.parquet", write(tmp_path / "t.parquet")
    make = SOURCES.get(source, lambda: file)
    manifest = through_triggers(lambda: chunking(make(), path, **COLUMNS, deferrable=True), new_context())
    assert manifest["documents"] == 10
    assert column(rows_of(path), "sku") == SKUS
    assert sorted(service.submitted().values()) == [1] * 10


def test_jobs_are_submitted_in_any_order(service: Service, tmp_path: Path) -> None:
    source = write(tmp_path / "t.parquet", [{"id": n, "text": f"{n}."} for n in range(100)])
    task = by_jobs(str(source), tmp_path / "p.jsonl", batch_size=2)._task(new_context())  # noqa: SLF001
    for position in (0, 3, 1, 49, 40, 2, 48, 0):
        asyncio.run(task.submit(position))
        sent = service.calls("submit-prediction")[-1]
        assert sent.text_sha256 == hash_of(f"{2 * position}.", f"{2 * position + 1}.")
        assert task.name(position) == f"Inputs {2 * position} to {2 * position + 1}"


# A table that changes


def test_a_table_that_changes_while_its_jobs_are_submitted(service: Service, tmp_path: Path) -> None:
    source = write(tmp_path / "t.parquet", [{"id": n, "text": f"{n}."} for n in range(40)])
    task = by_jobs(str(source), tmp_path / "p.jsonl", batch_size=2)._task(new_context())  # noqa: SLF001
    write(source, [{"id": 1, "text": "1."}])

    async def submit() -> list[Any]:
        posts = (task.submit(position) for position in (17, 18, 19))
        return await asyncio.wait_for(asyncio.gather(*posts, return_exceptions=True), 10)

    assert ["was changed while" in str(error) for error in asyncio.run(submit())] == [True] * 3


def test_the_digest_of_rows_does_not_depend_on_their_parts() -> None:
    table = pa.table(
        {
            "n": [None if n % 7 == 0 else n for n in range(600)],
            "category": pa.array([f"c{n % 9}" if n % 3 else None for n in range(600)]).dictionary_encode(),
            "list": [[None if n % 2 else "q"] * (n % 4) if n % 6 else None for n in range(600)],
            "struct": [{"a": n if n % 3 else None} if n % 4 else None for n in range(600)],
        }
    )

    def of(table: pa.Table, *sizes: int) -> set[str]:
        digests = set()
        for size in sizes:
            survey = Survey()
            for batch in table.to_batches(size):
                start = survey.rows
                survey.add(Rows([{"text": f"{start + n}"} for n in range(batch.num_rows)], batch))
            digests.add(survey.digest)
        return digests

    assert len(of(table, 1, 3, 50, 256, 257, 1000)) == 1
    assert of(table.slice(0, 599), 50) != of(table, 50)


FORMS = ("r.jsonl", "r.parquet")
CHANGED = [*ROWS[:9], ROWS[9] | {"brand": "another"}]


@pytest.mark.parametrize(
    ("kind", "form", "dies"),
    [
        ("file", "p.parquet", (SyncBatchRunner, "write")),
        *((kind, form, (task.JobTask, "apply_outcome")) for kind in ("jobs", "chunks") for form in FORMS),
    ],
)
@pytest.mark.parametrize("again", ["list", "t.parquet"])
def test_a_column_that_changes_between_two_tries_costs_nothing(
    service: Service, tmp_path: Path, kind: str, form: str, dies: tuple[Any, str], again: str
) -> None:
    """The rows of the first try are a list, those of the other one a table with the same texts."""
    context, path, make = new_context(), tmp_path / form, MAKE[kind]
    with pytest.MonkeyPatch.context() as dying:
        dying.setattr(*dies, die)
        with pytest.raises(Death):
            make(dictionaries(), path, **COLUMNS).execute(context)
    sent = service.sent() + service.submitted()
    rows = [
        row | {"brand": brand} for row, brand in zip(dictionaries(), column(CHANGED, "brand"), strict=True)
    ]
    changed = rows if again == "list" else str(write(tmp_path / again, CHANGED))
    manifest = make(changed, path, **COLUMNS).execute(context)
    assert column(rows_of(path), "brand") == column(CHANGED, "brand")
    assert make(changed, path, **COLUMNS).execute(context) == manifest
    assert service.sent() + service.submitted() == sent


def test_the_fingerprint_is_that_of_the_texts_however_the_rows_are_held(tmp_path: Path) -> None:
    columns = TableColumns("sku", "text", ("brand",), (), "inputs")

    def of(inputs: Any, *, typed: bool = False, everything: bool = False) -> str:
        spool = Spool(f"{tmp_path}/{uuid4()}", 0, everything)
        batches = read_batches(
            inputs, columns, RowRules(lambda wire, what: None), 4, typed=typed, spool=spool
        )
        return batches.fingerprint({})

    rows = [row | {"text": None if n == 3 else row["text"]} for n, row in enumerate(dictionaries())]
    held = [rows, iter(rows), pa.Table.from_pylist(rows)]
    found = {of(one) for one in held} | {of(rows, typed=typed, everything=True) for typed in (False, True)}
    assert len(found) == 1
    assert of(rows[1:]) not in found
    assert of([*rows[1:], rows[0]]) not in found


@pytest.mark.parametrize(
    ("name", "more"),
    [("p.parquet", []), (None, []), (None, ROWS)],
    ids=["file", "return value", "return value, more rows"],
)
def test_a_table_that_changes_while_it_is_read(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str | None, more: list[Any]
) -> None:
    context, source = new_context(), write(tmp_path / "t.parquet")
    one = direct(str(source), **COLUMNS, result_path=name and str(tmp_path / name))
    run = SyncBatchRunner.run

    async def change(runner: SyncBatchRunner) -> Any:
        found = await run(runner)
        write(source, [*CHANGED, *more])
        return found

    with monkeypatch.context() as changing:
        changing.setattr(SyncBatchRunner, "run", change)
        with pytest.raises(InputError, match="was changed while") as caught:
            one.execute(context)
    assert caught.value.retryable
    assert list(tmp_path.glob("p.*")) == []
    one.execute(context)
    if name:
        assert column(rows_of(tmp_path / name), "brand") == column(CHANGED, "brand")
        assert len(service.calls("predict")) == 3, "no text was changed, so nothing is paid for again"


def test_a_table_that_changes_while_the_result_is_written(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"id": n, "text": f"Text {n}."} for n in range(20)]
    source, path, context = write(tmp_path / "t.parquet", rows), tmp_path / "c.parquet", new_context()
    before, parse = source.read_bytes(), ChunkTask.parse

    def change(task: ChunkTask, *given: Any) -> Any:
        write(source, [row | {"text": "Nothing of it."} for row in rows])
        return parse(task, *given)

    with monkeypatch.context() as changing:
        changing.setattr(ChunkTask, "parse", change)
        with pytest.raises(InputError, match="was changed while") as caught:
            chunking(str(source), path).execute(context)
    assert caught.value.retryable
    source.write_bytes(before)
    chunking(str(source), path).execute(context)
    assert sorted(service.submitted().values()) == [1] * 20, "the results of the first attempt are used"


CATEGORY = pa.dictionary(pa.int32(), pa.string())


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.string(), ("one", "another")),
        (CATEGORY, ("one", "another")),
        (pa.list_(CATEGORY), (["one"], ["another"])),
        (pa.struct([("a", CATEGORY)]), ({"a": "one"}, {"a": "another"})),
    ],
)
def test_columns_that_change_during_the_wait_are_written(
    service: Service, tmp_path: Path, kind: pa.DataType, values: tuple[Any, Any]
) -> None:
    source, path = tmp_path / "t.parquet", tmp_path / "c.parquet"
    task = Attempts(lambda **more: chunking(str(source), path, **COLUMNS, **more), path, new_context())
    before, after = (
        pa.table({"sku": [1], "text": ["A."], "brand": pa.array([value], kind)}) for value in values
    )
    pq.write_table(before, source)
    deferred = task.defer()
    event = wait(deferred)
    pq.write_table(after, source)
    task.resume(deferred, event)
    assert column(rows_of(path), "brand") == [values[1]]
    assert sorted(service.submitted().values()) == [1]
    digests = set()
    for table in (before, after):
        survey = Survey()
        survey.add(Rows([{"text": "A."}], table.select(["brand"]).to_batches()[0]))
        digests.add(survey.digest)
    assert len(digests) == 2, "a change while it is read is an error"


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
    assert column(rows_of(path), "response") == [f"Text {n}." for n in range(400)]
    assert len(service.sent()) == 100
    assert service.sent().total() <= 100 + 4


# Decorated functions


def decorated(function: Any, path: Path, **arguments: Any) -> Any:
    """The operator of a decorated function, made anew as in another process."""
    with DAG("d", schedule=None):
        return lucidworks_chunk_task(**CHUNKING, **arguments, result_path=str(path))(function)().operator


@pytest.mark.parametrize(
    ("name", "deferrable"),
    [(name, True) for name in ("pandas", "pyarrow", "tuples", "dictionaries", "a cursor")]
    + [(name, deferrable) for name in ("a generator", "a path") for deferrable in (True, False)],
)
def test_a_function_returns_rows(service: Service, tmp_path: Path, name: str, deferrable: bool) -> None:
    path, calls, file = tmp_path / "c.parquet", list[int](), write(tmp_path / "in" / "t.csv")

    def documents() -> Any:
        calls.append(1)
        return file if name == "a path" else SOURCES[name]()

    make = lambda: decorated(documents, path, **COLUMNS, deferrable=deferrable)  # noqa: E731
    assert through_triggers(make, new_context())["documents"] == 10
    rows = rows_of(path)
    assert column(rows, "sku") == [str(sku) if name == "a path" else sku for sku in SKUS]
    assert column(rows, "brand") == BRANDS
    assert len(calls) == 1, "not called again after the wait"
    assert set(tmp_path.iterdir()) == {path, file.parent}


@pytest.mark.parametrize("what", ["uri", "generator"])
def test_a_function_returns_a_table_to_predict(service: Service, tmp_path: Path, what: str) -> None:
    source, path = write(tmp_path / "in" / "t.jsonl"), tmp_path / "p.parquet"
    given = {"use_case": "passthrough", "model_id": LLAMA, "result_path": str(path), **COLUMNS}

    def table() -> Any:
        return source if what == "uri" else iter(dictionaries())

    with DAG("d", schedule=None):
        lucidworks_predict_task(task_id="t", **given)(table)().operator.execute(new_context())
    rows = rows_of(path)
    assert (column(rows, "sku"), column(rows, "brand")) == (SKUS, BRANDS)


@pytest.fixture
def text_task(tmp_path: Path) -> Attempts:
    """The function returns a text with the number of its call."""
    path, calls = tmp_path / "c.jsonl", list[int]()

    def documents() -> Any:
        calls.append(1)
        return [{"id": "a", "text": f"Call {len(calls)}."}]

    return Attempts(lambda **more: decorated(documents, path, **more), path, new_context())


def test_a_retry_of_a_function_uses_the_rows_that_it_returned_first(
    service: Service, text_task: Attempts
) -> None:
    text_task.defer()
    text_task.run(deferrable=True)
    assert column(text_task.rows(), "text") == ["Call 1."]
    assert sorted(service.submitted().values()) == [1]


def test_options_that_change_during_the_wait(service: Service, text_task: Attempts) -> None:
    """The DAG file was edited; the rows are those that the function has returned."""
    deferred = text_task.defer()
    with pytest.raises(InputError, match="options changed while the task was waiting"):
        text_task.resume(deferred, data_type="query")


def test_a_function_whose_rows_are_gone(service: Service, text_task: Attempts) -> None:
    deferred = text_task.defer()
    event = wait(deferred)
    next(text_task.path.parent.rglob("table.json")).unlink()
    with pytest.raises(StorageNotSharedError, match="worker that the task resumed on"):
        text_task.resume(deferred, event)


# What is said


def test_the_log_says_what_was_read_sent_and_written(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task.ProgressLog, "EVERY", 0.0)
    caplog.set_level(logging.INFO)
    source, path = write(tmp_path / "t.parquet"), tmp_path / "p.parquet"
    predicted(str(source), path, **COLUMNS, concurrency=1)
    said = caplog.messages
    assert f"Read 10 rows of {source}: 10 to send in 3 requests." in said
    assert any(one.startswith("Predicted 8 of 10 inputs, ") and one.endswith(" left.") for one in said)
    assert any(re.fullmatch(rf"{path}: 10 rows, \d+ tokens, in [\d.]+ s\.", one) for one in said)
    chunked(str(source), tmp_path / "c.parquet", **COLUMNS)
    assert f"Read 10 documents of 70 bytes from {source}." in caplog.messages


@pytest.mark.parametrize("kind", ["file", "chunks"])
def test_lineage_has_the_files_and_the_types_of_the_key(service: Service, tmp_path: Path, kind: str) -> None:
    source, path = write(tmp_path / "t.parquet"), tmp_path / "p.parquet"
    one = MAKE[kind](source, path, **COLUMNS)
    one.execute(new_context())
    assert lineage_of(one) == ([str(source)], str(path), 10, types_of(path))


def test_batches_are_small_where_texts_are_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BATCH_BYTES", 100_000)
    rows = [{"id": n, "text": f"{n}" + "a" * 10_000} for n in range(100)]
    files = [str(write(tmp_path / name, rows)) for name in ("t.parquet", "t.csv", "t.jsonl")]
    for source in (*files, pa.Table.from_pylist(rows)):
        table = tables.open_table(source, TableColumns())
        assert table is not None
        sizes = [batch.num_rows for batch in table.read()]
        assert sum(sizes) == 100
        assert source is files[0] or max(sizes) <= 10


@pytest.mark.parametrize("name", ["text", "c"])
def test_parts_of_an_iterable_are_small_where_values_are_long(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(rows_module, "_MOST_CHARACTERS", 100_000)
    rows = ({"id": n, "text": "a", "c": []} | {name: "a" * 10_000} for n in range(100))
    rules = RowRules(lambda wire, what: None)
    batches = read_batches(rows, TableColumns(others=("c",)), rules, 4)
    sizes = [len(part.inputs) for part in batches.read()]
    assert (sum(sizes), max(sizes) <= 11) == (100, True)
