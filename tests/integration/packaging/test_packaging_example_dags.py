# SPDX-License-Identifier: Apache-2.0
"""Every example DAG parses without an error, without a network, and without reading a Variable or Connection."""

import inspect
import os
import socket
from pathlib import Path
from typing import Any

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
