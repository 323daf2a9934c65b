# SPDX-License-Identifier: Apache-2.0
"""Every example DAG parses without an error, without a network, and without reading a Variable or Connection."""

import inspect
import json
import os
import socket
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lucidworks_provider
from lucidworks_provider.operators.chunking import LucidworksChunkOperator

FOLDER = Path(lucidworks_provider.__file__).parents[1] / "example_dags"
EXAMPLES = sorted(FOLDER.glob("*.py"))


class Forbidden(AssertionError):
    """What a DAG file must not do while it is parsed."""


def _no(what: str) -> Any:
    def refuse(*args: object, **options: object) -> None:
        raise Forbidden(f"{what} while a DAG file is parsed")

    return refuse


@pytest.fixture
def parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, no Variable, no Connection."""
    from airflow.providers.common.compat.sdk import BaseHook, Connection, Variable

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, _no("network"))
    monkeypatch.setattr(socket, "getaddrinfo", _no("network"))
    monkeypatch.setattr(Variable, "get", _no("Variable.get"))
    monkeypatch.setattr(BaseHook, "get_connection", _no("get_connection"))
    if hasattr(Connection, "get"):
        monkeypatch.setattr(Connection, "get", _no("Connection.get"))


def parse(path: Path) -> Any:
    """What the DAG processor does to a file."""
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # Airflow 2
        from airflow.models.dagbag import DagBag

    options: dict[str, Any] = {"safe_mode": False}
    if "include_examples" in inspect.signature(DagBag).parameters:
        options["include_examples"] = False
    return DagBag(dag_folder=os.fspath(path), **options)


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_parses(path: Path, parsing: None) -> None:
    bag = parse(path)
    assert bag.import_errors == {}
    [dag] = bag.dags.values()
    assert dag.dag_id == path.stem
    assert dag.doc_md
    assert not dag.catchup
    assert any("lucidworks" in tag for tag in dag.tags)
    for task in dag.tasks:
        assert task.retries >= 1 or not isinstance(task, LucidworksChunkOperator)


# A separator of lines in a text, a rejected row, and a blank line.
PRODUCTS = [{"sku": "1", "description": "One.\u2028Two."}, {"sku": "2", "description": " "}]
LINES = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in PRODUCTS) + "\n"


def function(example: str, task_id: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The function of a task, whose example reads and writes in a folder."""
    [dag] = parse(FOLDER / f"{example}.py").dags.values()
    found = dag.get_task(task_id).python_callable
    (tmp_path / "products.jsonl").write_text(LINES)
    monkeypatch.setitem(found.__globals__, "CATALOGUE", f"file://{tmp_path}/products.jsonl")
    monkeypatch.setitem(found.__globals__, "OUTPUT", f"file://{tmp_path}")
    return found


def test_chunks_are_joined_to_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    join = function("chunk_products", "join", tmp_path, monkeypatch)
    pq.write_table(pa.table({"sku": ["1", "1"]}), tmp_path / "chunks.parquet")
    assert join({"uri": f"file://{tmp_path}/chunks.parquet"}) == {"1": 2, "2": 0}


def test_a_rejected_product_is_not_enriched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merge = function("enrich_catalogue", "merge", tmp_path, monkeypatch)
    predicted = {"id": "1", "status": "predicted", "response": "A\u2028b", "keywords": ["a"]}
    rejected = {"id": "2", "status": "rejected", "error": "It has no text."}
    lines = [json.dumps(one, ensure_ascii=False) + "\n" for one in (predicted, rejected)]
    (tmp_path / "result.jsonl").write_text("".join(lines))
    (tmp_path / "day").mkdir()
    result = {"uri": f"file://{tmp_path}/result.jsonl", "tokens": 1}
    merged = Path(merge(result, result, "day").removeprefix("file://")).read_text()
    assert [json.loads(line) for line in merged.split("\n")[:-1]] == [
        PRODUCTS[0] | {"keywords": ["a"], "summary": "A\u2028b"},
        PRODUCTS[1] | {"keywords": None, "summary": None},
    ]


SDK = "from airflow.providers.common.compat.sdk import"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("import socket; socket.create_connection(('127.0.0.1', 9))", "network"),
        (f"{SDK} Variable; Variable.get('x')", "Variable.get"),
        (f"{SDK} BaseHook; BaseHook.get_connection('x')", "get_conn"),
    ],
)
def test_the_guard_guards(line: str, what: str, parsing: None, tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(line)
    [error] = parse(bad).import_errors.values()
    assert f"Forbidden: {what}" in error
