# SPDX-License-Identifier: Apache-2.0
"""The example ``index_in_postgres`` in a real Airflow with a real PostgreSQL; asset events start its runs."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from corpus_world import FakeService, World
from postgres_world import loaded_rows, rows_of

from dev.airflow_stack import AirflowStack
from dev.packages import pgvector_programs
from dev.processes import REPOSITORY, until
from dev.services import PostgresServer
from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus.run import Corpus

pytestmark = pytest.mark.live

DAG, ASSET = "index_in_postgres", "lucidworks_catalogue"


class Nights:
    """A catalogue that is published night after night, and the Airflow that indexes it."""

    def __init__(self, world: World, airflow: AirflowStack, connection: psycopg.Connection[Any]) -> None:
        self.world, self.airflow, self.connection = world, airflow, connection
        airflow.wait_for_dag(DAG)
        airflow.unpause(DAG)
        [asset] = airflow.api("GET", f"assets?name_pattern={ASSET}")["assets"]
        self.asset: int = asset["id"]

    def runs(self) -> list[str]:
        found = self.airflow.api("GET", f"dags/{DAG}/dagRuns?order_by=run_after")["dag_runs"]
        return [run["dag_run_id"] for run in found]

    def publish(self) -> str:
        """A run of the catalogue and its event; returns the run that the scheduler makes of it."""
        manifest, before = self.world.run(), len(self.runs())
        extra = {name: manifest[name] for name in ("version", "since")}
        self.airflow.api("POST", "assets/events", asset_id=self.asset, extra=extra)
        return str(until(lambda: self.runs()[before:], "a run for the event")[0])

    def ends(self, run_id: str) -> str:
        return self.airflow.wait_for_run(DAG, run_id)

    def loads(self, run_id: str) -> dict[str, Any]:
        """What the task has returned."""
        returned: dict[str, Any] = self.airflow.xcom(DAG, run_id, "load")
        return returned

    @property
    def version(self) -> int | None:
        [[version]] = self.connection.execute("SELECT version FROM lucidworks_loaded").fetchall()
        return version

    def is_loaded(self) -> bool:
        """Row by row: ids, texts and vectors."""
        return loaded_rows(self.connection) == rows_of(self.world.corpus.output)


@pytest.fixture
def nights(tmp_path: Path, short_corpus_waits: None) -> Iterator[Nights]:
    example = (REPOSITORY / "example_dags" / f"{DAG}.py").read_text()
    assert "timedelta(seconds=10)" in example
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / f"{DAG}.py").write_text(
        example.replace("timedelta(seconds=10)", "timedelta(seconds=1)")
    )
    corpus = Corpus(
        source=str(tmp_path / "source"),
        output=str(tmp_path / "output" / "catalogue"),
        options=ChunkingOptions("dynamic-sentence", "gte-small"),
    )
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer(tmp_path / "postgres", programs=pgvector_programs()))
        environment = {
            "AIRFLOW_CONN_POSTGRES_DEFAULT": server.connection,
            "AIRFLOW_VAR_LUCIDWORKS_CATALOGUE": (tmp_path / "output" / "catalogue").as_uri(),
        }
        airflow = AirflowStack(tmp_path / "home", tmp_path / "dags", env=environment)
        # Nothing here defers.
        del airflow.commands["triggerer"]
        stack.enter_context(airflow)
        connection = stack.enter_context(
            psycopg.connect(server.url.replace("+psycopg2", ""), autocommit=True)
        )
        yield Nights(World(tmp_path, FakeService(), corpus), airflow, connection)


def test_three_nights_of_which_the_second_fails(nights: Nights) -> None:
    world, connection = nights.world, nights.connection
    for number in range(200):
        world.write(f"{number:03}.txt", f"Document {number} has a sentence. " * 20)
    run_id = nights.publish()
    assert nights.ends(run_id) == "success"
    assert nights.is_loaded()
    assert nights.loads(run_id) == {"since": None, "until": 0, "deleted": 0, "inserted": 600}
    [[index]] = connection.execute(
        "SELECT indexdef FROM pg_indexes WHERE indexname = 'lucidworks_chunks_vector'"
    ).fetchall()
    assert "USING hnsw (vector vector_cosine_ops)" in index
    first = loaded_rows(connection)

    # Added, changed, deleted and vanished; deleted rows are sent before the insertion that PostgreSQL refuses.
    world.write("new.txt", "A document that is new. " * 30)
    world.write("001.txt", "Shorter.")
    (world.source / "002.txt").unlink()
    world.set(prune=True)
    connection.execute("ALTER TABLE lucidworks_chunks ADD CONSTRAINT broken CHECK (document_id <> 'new.txt')")
    run_id = nights.publish()
    assert nights.ends(run_id) == "failed"
    tries = {task["task_id"]: task["try_number"] for task in nights.airflow.task_instances(DAG, run_id)}
    assert tries["load"] == 3
    assert "broken" in nights.airflow.task_log(DAG, run_id, "load", 3)
    assert (loaded_rows(connection), nights.version) == (first, 0)
    assert not nights.is_loaded()

    # A user has repaired it. The night has changes of its own, and the source has lost a document that stays.
    connection.execute("ALTER TABLE lucidworks_chunks DROP CONSTRAINT broken")
    world.set(prune=False)
    (world.source / "003.txt").unlink()
    world.write("004.txt", "Shorter, too.")
    run_id = nights.publish()
    assert nights.ends(run_id) == "success"
    assert nights.is_loaded()
    assert nights.loads(run_id)["since"] == 0
    assert nights.version == nights.loads(run_id)["until"] == 2
    documents = {row[0] for row in loaded_rows(connection)}
    assert documents >= {"new.txt", "003.txt"}
    assert "002.txt" not in documents

    # A chunk is the nearest neighbour of its own vector, and the index is what finds it.
    nearest = "SELECT document_id, chunk_index FROM lucidworks_chunks ORDER BY vector <=> %s::vector LIMIT 1"
    connection.execute("SET enable_seqscan = off")
    plan = connection.execute(f"EXPLAIN {nearest}", ("[1,2,3,4]",)).fetchall()
    assert any("lucidworks_chunks_vector" in line for (line,) in plan)
    for document_id, number, _, vector in loaded_rows(connection):
        assert connection.execute(nearest, (str(list(vector)),)).fetchone() == (document_id, number)
