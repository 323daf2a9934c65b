# SPDX-License-Identifier: Apache-2.0
"""A PostgreSQL with pgvector, a catalogue, and the tasks of the example DAG that loads one into the other."""

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from corpus_world import FakeService, World
from postgres_world import Index

from dev.packages import pgvector_programs
from dev.processes import REPOSITORY
from dev.services import PostgresServer
from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus.run import Corpus


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path_factory.mktemp("postgres"), programs=pgvector_programs()) as started:
        yield started


@pytest.fixture
def options() -> ChunkingOptions:
    """Of the catalogue; a test may use others."""
    return ChunkingOptions("dynamic-sentence", "gte-small")


@pytest.fixture
def index(
    server: PostgresServer,
    options: ChunkingOptions,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    short_corpus_waits: None,
) -> Iterator[Index]:
    monkeypatch.setenv("AIRFLOW_CONN_POSTGRES_DEFAULT", server.connection)
    corpus = Corpus(source=str(tmp_path / "source"), output=str(tmp_path / "catalogue"), options=options)
    with psycopg.connect(server.url.replace("+psycopg2", ""), autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS lucidworks_chunks, lucidworks_loaded")
        yield Index(World(tmp_path, FakeService(), corpus), example("index_in_postgres"), connection)


def example(name: str) -> Any:
    """The module of an example DAG, as a worker imports it."""
    path = REPOSITORY / "example_dags" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, os.fspath(path))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
