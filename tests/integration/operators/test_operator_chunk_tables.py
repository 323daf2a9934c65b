# SPDX-License-Identifier: Apache-2.0
"""Chunks beside the key of a table: what is read, which types come back, which documents are not sent."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowSkipException, TaskDeferred
from operator_service import Service, lineage_of, new_context, rows_of, through_triggers, wait
from table_sources import KEYS, ROWS, SKUS, SOURCES, TABLE, FromStream, dictionaries, keyed, write

from lucidworks_provider.decorators.chunk import lucidworks_chunk_task
from lucidworks_provider.errors import InputError, JobTimeoutError, LucidworksError, StorageNotSharedError
from lucidworks_provider.jobs.chunk_task import ChunkTask
from lucidworks_provider.operators.chunking import LucidworksChunkOperator

COLUMNS: dict[str, Any] = {"id_column": "sku", "columns": ["brand"]}
CHUNKING: dict[str, Any] = {
    "chunker": "sentence",
    "chunker_config": {"chunkSize": 1},
    "model_id": "gte-small",
    "poll_interval": 0.05,
}


def chunking(documents: Any, path: Path, **arguments: Any) -> LucidworksChunkOperator:
    """A fresh operator, as every attempt has one."""
    defaults: dict[str, Any] = {"task_id": "t", "timeout": 20, "deferrable": False, **CHUNKING}
    return LucidworksChunkOperator(
        **defaults | {"documents": documents, "result_path": str(path)} | arguments
    )


def chunked(documents: Any, path: Path, **arguments: Any) -> list[dict[str, Any]]:
    """The rows of a new task."""
    chunking(documents, path, **arguments).execute(new_context())
    return rows_of(path)


def sent(service: Service) -> list[int]:
    """How often each text became a job."""
    return sorted(service.submitted().values())


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


# Sources: what is read is the same as for predictions


@pytest.mark.parametrize(
    ("name", "form"),
    [(name, "c.parquet") for name in SOURCES] + [(name, "c.jsonl") for name in ("pandas", "a generator")],
)
def test_whatever_holds_the_rows(service: Service, tmp_path: Path, name: str, form: str) -> None:
    path = tmp_path / form
    manifest = chunking(SOURCES[name](), path, **COLUMNS).execute(new_context())
    rows = rows_of(path)
    wanted = [(str(row["sku"]), row["sku"], row["brand"], row["text"]) for row in ROWS]
    assert [(row["document_id"], row["sku"], row["brand"], row["text"]) for row in rows] == wanted
    assert "price" not in rows[0]
    assert (manifest["documents"], manifest["chunks"], manifest.get("rejected")) == (10, 10, None)
    assert list(tmp_path.iterdir()) == [path], "nothing of the rows remains"


@pytest.mark.parametrize("name", ["t.csv", "t.jsonl.gz", "t.parquet"])
def test_files(service: Service, tmp_path: Path, name: str) -> None:
    rows = chunked(write(tmp_path / "in" / name), tmp_path / "c.parquet", **COLUMNS)
    assert column(rows, "sku") == [str(sku) if ".csv" in name else sku for sku in SKUS]


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
    source = write(tmp_path / "in" / "t.csv")
    operator = chunking(
        "{{ params.source }}",
        tmp_path / "c.jsonl",
        id_column="{{ params.key }}",
        text_column="{{ params.text }}",
        columns="{{ params.columns | tojson }}",
    )
    params = {"source": str(source), "key": "sku", "text": "text", "columns": ["brand", "price"]}
    operator.render_template_fields({"params": params})  # type: ignore[arg-type]
    operator.execute(new_context())
    first = rows_of(tmp_path / "c.jsonl")[0]
    assert (first["document_id"], first["sku"], first["brand"], first["price"]) == ("0", "0", "b0", "0.0")


# Keys

NO_IDS = {"bool", "list", "struct"}


@pytest.mark.parametrize("name", [name for name in KEYS if name not in NO_IDS])
def test_the_type_of_a_key_survives(service: Service, tmp_path: Path, name: str) -> None:
    kind, values = KEYS[name]
    table = keyed(kind, values).slice(0, 1 if len({str(one) for one in values}) == 1 else 2)
    pq.write_table(table, tmp_path / "t.parquet")
    chunked(str(tmp_path / "t.parquet"), tmp_path / "c.parquet", id_column="key")
    result = pq.read_table(tmp_path / "c.parquet")
    assert result.schema.field("key").type == kind
    assert result["key"].to_pylist() == table["key"].to_pylist()
    assert result.schema.field("document_id").type == pa.string()


@pytest.mark.parametrize("name", sorted(NO_IDS))
def test_a_key_that_is_no_text_and_no_number(service: Service, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"documents\[0\] has the key .*; give it a text or a number"):
        chunking(keyed(*KEYS[name]), tmp_path / "c.parquet", id_column="key").execute(new_context())
    assert service.nothing_sent()


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
    documents: Any = [{"id": "1", "text": "A."}, {"id": key, "text": "B."}]
    if form == "t.csv":
        with (tmp_path / form).open("w", newline="") as file:
            csv.writer(file).writerows([["id", "text"], ["1", "A."], [key, "B."]])
        documents = str(tmp_path / form)
    elif form == "t.parquet":
        pq.write_table(pa.Table.from_pylist(documents), tmp_path / form)
        documents = str(tmp_path / form)
    with pytest.raises(InputError, match=rf"^documents\[1\] has the id .*'?\. Its id has {reason}$"):
        chunking(documents, tmp_path / "c.jsonl").execute(new_context())
    assert service.nothing_sent()


def test_types_of_other_columns_survive(service: Service, tmp_path: Path) -> None:
    columns = {name: pa.array(KEYS[name][1], KEYS[name][0]) for name in KEYS if name not in {"uuid", "text"}}
    table = pa.table({"id": [1, 2], "text": ["A. B.", "C."], **columns})
    chunked(FromStream(table), tmp_path / "c.parquet", columns=list(columns))
    result = pq.read_table(tmp_path / "c.parquet")
    for name in columns:
        assert result.schema.field(name).type == table.schema.field(name).type
        assert result[name].to_pylist() == [table[name].to_pylist()[row] for row in (0, 0, 1)]


def test_batches_of_a_column_may_have_several_dictionaries_and_no_values(
    service: Service, tmp_path: Path
) -> None:
    parts = [
        pa.array(values, pa.string()).dictionary_encode() for values in (["b", "a"], ["c", "b"], [None, None])
    ]
    table = pa.table(
        {"id": range(6), "kind": pa.chunked_array(parts), "text": list("abcdef"), "none": pa.nulls(6)}
    )
    chunked(FromStream(table), tmp_path / "c.parquet", columns=["kind", "none"])
    result = pq.read_table(tmp_path / "c.parquet")
    assert result["kind"].to_pylist() == ["b", "a", "c", "b", None, None]
    assert result.schema.field("none").type == pa.string(), "no other type is known"


@pytest.mark.parametrize("form", ["c.parquet", "c.jsonl"])
def test_a_key_document_id_is_the_column_of_the_result(service: Service, tmp_path: Path, form: str) -> None:
    path = tmp_path / form
    table = pa.table({"document_id": [7, 8], "text": ["A.", "B."]})
    one = chunking(table, path, id_column="document_id")
    one.execute(new_context())
    assert [row["document_id"] for row in rows_of(path)] == ["7", "8"]
    if form == "c.parquet":
        *_, columns = lineage_of(one)
        assert columns == {
            field.name: str(field.type).replace("element: ", "") for field in pq.read_schema(path)
        }


class Sku(str, Enum):  # noqa: UP042  # whose str() is not the value
    A = "a"


def test_the_value_of_an_enumeration_is_the_id(service: Service, tmp_path: Path) -> None:
    row = chunked([{"id": Sku.A, "text": "A."}], tmp_path / "c.jsonl")[0]
    assert (row["document_id"], row["id"]) == ("a", "a")


@pytest.mark.parametrize("documents", [["A.", "B."], pa.table({"text": ["A.", "B."]}), iter(["A.", "B."])])
def test_without_a_key_documents_are_numbered(service: Service, tmp_path: Path, documents: Any) -> None:
    assert column(chunked(documents, tmp_path / "c.parquet", id_column=None), "document_id") == ["0", "1"]


# Refused before anything is sent


@pytest.mark.parametrize(
    ("documents", "arguments", "words"),
    [
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
        (TABLE, {}, ["no column 'id'", "'sku'"]),
        (TABLE, {"id_column": "sku", "columns": ["colour"]}, ["no column 'colour'"]),
        (TABLE, {"id_column": "sku", "text_column": "price"}, ["'price' is of type double"]),
        (TABLE.rename_columns(["vector", "text", "b", "p"]), {"id_column": "vector"}, ["'vector'", "result"]),
        (
            TABLE.rename_columns(["id", "text", "document_id", "p"]),
            {"columns": ["document_id"]},
            ["'document_id' cannot be passed through"],
        ),
        (
            {"a": "b"},
            {},
            ["documents is of type dict with the keys 'a'; give a list of {'id': …, 'text': …}, the URI"],
        ),
        (7, {}, ["documents is of type int"]),
        (b"[]", {}, ["documents is of type bytes"]),
        ("hello", {}, ["documents is 'hello'"]),
        ("[{'id': 1}]", {}, ["documents is a text that begins with [", "tojson"]),
        ("/no/such/table.parquet", {}, ["documents: there is no file"]),
        ([], {"on_empty": "never"}, ["on_empty is 'never'"]),
        ([], {"columns": 7}, ["columns is 7"]),
        ([], {"columns": "[brand"}, ["columns is '[brand'"]),
    ],
)
def test_what_is_refused_before_anything_is_sent(
    service: Service, tmp_path: Path, documents: Any, arguments: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        chunked(documents, tmp_path / "c.parquet", **arguments)
    assert [word for word in words if word not in str(caught.value)] == []
    assert service.nothing_sent()
    assert list(tmp_path.iterdir()) == []


# Documents that cannot be sent


@pytest.mark.parametrize(
    ("how", "form"),
    [("list", "c.parquet"), ("generator", "c.jsonl"), ("Arrow", "c.jsonl"), ("JSON Lines", "c.parquet")],
)
def test_documents_that_cannot_be_sent_have_no_chunks(
    service: Service, tmp_path: Path, how: str, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    texts = {0: None, 5: "a\0b", 9: " "}
    rows = [{"sku": n, "text": texts.get(n, f"Text {n}."), "brand": "b"} for n in SKUS]
    given: Any = {"list": rows, "generator": iter(rows), "Arrow": pa.Table.from_pylist(rows)}.get(how)
    if given is None:
        given = write(tmp_path / "t.jsonl", rows)
    with caplog.at_level(logging.INFO):
        manifest = chunking(given, tmp_path / form, **COLUMNS, max_reject_ratio=0.3).execute(new_context())
    assert (manifest["documents"], manifest["rejected"]) == (7, 3)
    wanted = [(n, f"Text {n}.") for n in SKUS if n not in texts]
    assert [(row["sku"], row["text"]) for row in rows_of(tmp_path / form)] == wanted
    assert "3 of 10 rows cannot be sent. documents[0] (sku 0): It has no text." in caplog.text
    assert "They are not in the result." in caplog.text


@pytest.mark.parametrize("as_generator", [False, True], ids=["table", "generator"])
@pytest.mark.parametrize("arguments", [{}, {"on_invalid": "fail", "max_reject_ratio": 1}])
def test_too_many_of_them_or_by_policy_one_end_it_before_anything_is_sent(
    service: Service, tmp_path: Path, as_generator: bool, arguments: dict[str, Any]
) -> None:
    table: Any = pa.table({"id": SKUS, "text": [None, *["a"] * 9]})
    given = iter(table.to_pylist()) if as_generator else table
    with pytest.raises(
        InputError, match=r"1 of 10 rows cannot be sent. documents\[0\] \(id 0\): It has no text"
    ):
        chunking(given, tmp_path / "c.parquet", **arguments).execute(new_context())
    assert service.nothing_sent()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("form", "deferrable"), [("c.parquet", False), ("c.jsonl", True)])
def test_where_no_document_can_be_sent_the_result_is_empty(
    service: Service, tmp_path: Path, form: str, deferrable: bool
) -> None:
    path = tmp_path / form
    manifest = chunking(
        pa.table({"id": [1], "text": [" "]}), path, max_reject_ratio=1, deferrable=deferrable
    ).execute(new_context())
    assert (manifest["documents"], manifest["rejected"], rows_of(path)) == (0, 1, [])
    assert service.calls("submit") == []


@pytest.mark.parametrize(
    "documents", [[], iter(()), "[]", TABLE.slice(0, 0)], ids=["list", "iterator", "JSON", "table"]
)
def test_no_rows(service: Service, tmp_path: Path, documents: Any) -> None:
    path = tmp_path / "c.parquet"
    with pytest.raises(AirflowSkipException):
        chunking(documents, path, id_column="sku", on_empty="skip").execute(new_context())
    with pytest.raises(InputError, match="documents has no rows"):
        chunking(documents, path, id_column="sku", on_empty="fail").execute(new_context())
    assert list(tmp_path.iterdir()) == []
    assert chunking(documents, path, id_column="sku").execute(new_context())["documents"] == 0
    assert rows_of(path) == []
    assert service.calls("submit") == []


# Retries and waits


def test_a_generator_is_read_once_for_all_tries(service: Service, tmp_path: Path) -> None:
    context, reads, path = new_context(), [], tmp_path / "c.parquet"

    def rows() -> Iterator[dict[str, Any]]:
        reads.append(1)
        yield from dictionaries()[:: -1 if len(reads) > 1 else 1]

    service.settings(pending_seconds=0.6)
    with pytest.raises(JobTimeoutError):
        chunking(rows(), path, **COLUMNS, timeout=0.2).execute(context)
    chunking(rows(), path, **COLUMNS).execute(context)
    assert column(rows_of(path), "sku") == SKUS
    assert (len(reads), sent(service)) == (1, [1] * 10)
    assert list(tmp_path.iterdir()) == [path]
    context["ti"].max_tries += 3
    chunking(rows(), path, **COLUMNS).execute(context)
    assert column(rows_of(path), "sku") == SKUS[::-1], "a cleared task reads it again"


@pytest.mark.parametrize("source", ["generator", "file", "mapped tasks"])
def test_a_task_that_waits_in_the_triggerer_resumes_in_another_process(
    service: Service, tmp_path: Path, source: str
) -> None:
    path = tmp_path / "c.parquet"
    file = write(tmp_path / "t.parquet")
    sources = {
        "generator": SOURCES["a generator"],
        "file": lambda: file,
        "mapped tasks": SOURCES["mapped tasks"],
    }
    manifest = through_triggers(
        lambda: chunking(sources[source](), path, **COLUMNS, deferrable=True), new_context()
    )
    assert manifest["documents"] == 10
    assert [row["sku"] for row in rows_of(path)] == SKUS
    assert sent(service) == [1] * 10


CATEGORY = pa.dictionary(pa.int32(), pa.string())


@pytest.mark.parametrize("kind", [pa.string(), CATEGORY, pa.list_(CATEGORY), pa.struct([("a", CATEGORY)])])
def test_a_table_that_changes_during_the_wait(service: Service, tmp_path: Path, kind: pa.DataType) -> None:
    def of(brand: str) -> pa.Array:
        value: Any = (
            [brand] if pa.types.is_list(kind) else {"a": brand} if pa.types.is_struct(kind) else brand
        )
        return pa.table({"sku": [1], "text": ["A."], "brand": pa.array([value], kind)})

    source, path, context = tmp_path / "t.parquet", tmp_path / "c.parquet", new_context()
    pq.write_table(of("one"), source)
    one = chunking(str(source), path, **COLUMNS, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        one.execute(context)
    event = wait(deferred.value)
    pq.write_table(of("another"), source)
    with pytest.raises(InputError, match="changed while the task was waiting"):
        chunking(str(source), path, **COLUMNS, deferrable=True).execute_complete(
            context, event, **deferred.value.kwargs
        )
    assert not path.exists()


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
    assert sent(service) == [1] * 20, "the results of the first attempt are used"


def decorated(function: Any, path: Path, **arguments: Any) -> Any:
    """The operator of a decorated function, made anew as in another process."""
    task = lucidworks_chunk_task(**CHUNKING, **arguments, timeout=20, result_path=str(path))
    with DAG("d", schedule=None):
        return task(function)().operator


RETURNED: dict[str, Any] = {
    name: SOURCES[name] for name in ("pandas", "pyarrow", "a generator", "tuples", "dictionaries", "a cursor")
}


@pytest.mark.parametrize(
    ("name", "deferrable"),
    [(name, True) for name in [*RETURNED, "a path"]] + [("a generator", False), ("a path", False)],
)
def test_a_function_returns_rows(service: Service, tmp_path: Path, name: str, deferrable: bool) -> None:
    path, calls = tmp_path / "c.parquet", list[int]()
    file = write(tmp_path / "in" / "t.csv")

    def documents() -> Any:
        calls.append(1)
        return file if name == "a path" else RETURNED[name]()

    def make() -> Any:
        return decorated(documents, path, **COLUMNS, deferrable=deferrable)

    assert through_triggers(make, new_context())["documents"] == 10
    rows = rows_of(path)
    assert [row["sku"] for row in rows] == [str(sku) if name == "a path" else sku for sku in SKUS]
    assert [row["brand"] for row in rows] == [row["brand"] for row in ROWS]
    assert len(calls) == 1, "not called again after the wait"
    assert set(tmp_path.iterdir()) == {path, file.parent}


def test_a_retry_of_a_function_uses_the_rows_that_it_returned_first(service: Service, tmp_path: Path) -> None:
    path, context, calls = tmp_path / "c.jsonl", new_context(), list[int]()

    def documents() -> Any:
        calls.append(1)
        return [{"id": "a", "text": f"Call {len(calls)}."}]

    with pytest.raises(TaskDeferred):
        decorated(documents, path, deferrable=True).execute(context)
    through_triggers(lambda: decorated(documents, path, deferrable=True), context)
    assert ([row["text"] for row in rows_of(path)], sent(service)) == (["Call 1."], [1])


def test_options_that_change_during_the_wait(service: Service, tmp_path: Path) -> None:
    """The DAG file was edited; the rows are those that the function has returned."""
    context = new_context()

    def text() -> str:
        return "One. Two."

    with pytest.raises(TaskDeferred) as deferred:
        decorated(text, tmp_path / "c.jsonl", deferrable=True).execute(context)
    event = wait(deferred.value)
    with pytest.raises(InputError, match="options changed while the task was waiting"):
        decorated(text, tmp_path / "c.jsonl", deferrable=True, data_type="query").execute_complete(
            context, event, **deferred.value.kwargs
        )


def test_a_function_whose_rows_are_gone(service: Service, tmp_path: Path) -> None:
    context = new_context()

    def text() -> str:
        return "One. Two."

    def make() -> Any:
        return decorated(text, tmp_path / "c.jsonl", deferrable=True)

    with pytest.raises(TaskDeferred) as deferred:
        make().execute(context)
    event = wait(deferred.value)
    next(tmp_path.rglob("table.json")).unlink()
    with pytest.raises(StorageNotSharedError, match="worker that the task resumed on"):
        make().execute_complete(context, event, **deferred.value.kwargs)


# What is said


def test_the_log_and_the_lineage_name_the_table(
    service: Service, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, path = write(tmp_path / "t.parquet"), tmp_path / "c.parquet"
    one = chunking(source, path, **COLUMNS)
    with caplog.at_level(logging.INFO):
        one.execute(new_context())
    assert f"Read 10 documents of 70 bytes from {source}." in caplog.messages
    inputs, output, count, columns = lineage_of(one)
    assert (inputs, output, count) == ([str(source)], str(path), 10)
    assert columns == {field.name: str(field.type).replace("element: ", "") for field in pq.read_schema(path)}


def test_a_job_id_that_another_document_has(service: Service, tmp_path: Path) -> None:
    """Documents with the same text may share a job."""
    rows = [{"id": n, "text": "The same."} for n in range(3)]
    manifest = chunking(rows, tmp_path / "c.jsonl").execute(new_context())
    assert manifest["documents"] == 3
    assert json.loads((tmp_path / "c.jsonl").read_text().splitlines()[2])["document_id"] == "2"


@pytest.mark.parametrize("source", ["t.parquet", "", "*.parquet"])
def test_a_result_among_the_files_of_the_table_is_refused(
    service: Service, tmp_path: Path, source: str
) -> None:
    """It would replace the table, or be read as a part of it by the next run."""
    pq.write_table(pa.table({"id": [1], "text": ["One."]}), tmp_path / "t.parquet")
    result = tmp_path / ("t.parquet" if source == "t.parquet" else "chunks.parquet")
    with pytest.raises(InputError, match="is or would be a file of documents"):
        chunking(f"{tmp_path}/{source}".rstrip("/"), result).execute(new_context())
    assert service.calls("submit") == []
    assert pq.read_table(tmp_path / "t.parquet").column_names == ["id", "text"]
    (tmp_path / "results").mkdir()
    below = tmp_path / ("t2.parquet" if source == "t.parquet" else "results/chunks.jsonl")
    if source:
        chunking(f"{tmp_path}/{source}", below).execute(new_context())


@pytest.mark.parametrize("arguments", [{"max_requests": 1}, {"max_reject_ratio": 0}], ids=str)
def test_stored_rows_are_removed_where_nothing_is_sent(
    service: Service, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    rows = ({"id": n, "text": f"Text {n}." if n else ""} for n in range(5))
    with pytest.raises(LucidworksError):
        chunking(rows, tmp_path / "c.jsonl", **arguments).execute(new_context())
    assert list(tmp_path.iterdir()) == []


def test_a_generator_that_fails_leaves_nothing(service: Service, tmp_path: Path) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        for n in range(2000):
            yield {"id": n, "text": f"Text {n}. " * 500}
        raise OSError("the cursor was closed")

    with pytest.raises(OSError, match="the cursor was closed"):
        chunking(rows(), tmp_path / "c.jsonl").execute(new_context())
    assert list(tmp_path.iterdir()) == []


def test_a_text_in_place_of_a_table_is_not_repeated(service: Service, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a text of 5,000 characters, which is not a URI") as caught:
        chunking("words " * 833 + "xx", tmp_path / "c.jsonl").execute(new_context())
    assert "words" not in str(caught.value)
