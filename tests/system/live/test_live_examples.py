# SPDX-License-Identifier: Apache-2.0
"""
Every example DAG in a real Airflow: scheduler, triggerer, API server, and the emulator in the vendor's place.

Afterwards the third party's key that one of them uses is searched for, and found nowhere.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from pydoc_data.topics import topics
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow.parquet as pq
import pytest

from dev.airflow_stack import AirflowStack
from dev.demo import (
    PRODUCTS,
    QUICK,
    TICKETS,
    TRAINING_KEY,
    Emulator,
    environment,
    write_catalogue,
    write_reviews,
    write_tickets,
)
from dev.packages import pgvector_programs
from dev.processes import REPOSITORY, until
from dev.services import PostgresServer
from lucidworks_provider.corpus.dataset import changes, open_dataset

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.live

DOCUMENTS = sorted(topics)[:24]
REVIEWS = ["I love this tent.", "The stove arrived broken."]


class Examples:
    """The examples' Airflow, and their runs."""

    def __init__(self, airflow: AirflowStack, emulator: Emulator, out: Path, home: Path) -> None:
        self.airflow, self.emulator, self.out, self.home = airflow, emulator, out, home
        self.runs: dict[str, str] = {}

    def listen(self, name: str) -> None:
        """Let a DAG wait for its asset events."""
        self.airflow.wait_for_dag(name)
        self.airflow.unpause(name)

    def start(self, *names: str) -> None:
        """Start a run of each."""
        for name in names:
            self.airflow.wait_for_dag(name)
            self.airflow.unpause(name)
        for name in names:
            scheduled = self.airflow.api("GET", f"dags/{name}")["timetable_summary"]
            self.runs[name] = self.first_run(name) if scheduled else self.airflow.trigger(name)

    def first_run(self, name: str) -> str:
        """The run that the scheduler makes, of the last interval (another one would wait for it) or of an event."""
        runs = f"dags/{name}/dagRuns"
        return str(
            until(lambda: self.airflow.api("GET", runs)["dag_runs"], f"a run of {name}")[0]["dag_run_id"]
        )

    def ends(self, name: str) -> str:
        """How a run ended."""
        state = self.airflow.wait_for_run(name, self.runs[name], 240)
        for task in self.airflow.task_instances(name, self.runs[name]):
            if task["state"] == "failed":
                print(self.airflow.task_log(name, self.runs[name], task["task_id"], task["try_number"]))
        return state

    def xcom(self, name: str, task_id: str) -> Any:
        """What a task returned."""
        return self.airflow.xcom(name, self.runs[name], task_id)

    def calls(self, endpoint: str) -> list[dict[str, Any]]:
        """What the emulator answered well."""
        return [
            line
            for line in self.emulator.get("log")
            if line["endpoint"] == endpoint and line["status"] == 200
        ]


NAMES = (
    "chunk_catalogue",
    "chunk_documents",
    "chunk_products",
    "enrich_catalogue",
    "classify_sql_table",
    "classify_tickets",
    "map_customers",
    "answer_questions",
    "train_and_embed",
    "call_an_endpoint",
)
# Its runs are started by the asset event of chunk_catalogue.
CONSUMER = "index_in_postgres"
# It needs what the consumer has loaded.
ANSWERS = "answer_from_postgres"


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examples]:
    root = tmp_path_factory.mktemp("examples")
    shutil.copytree(REPOSITORY / "example_dags", root / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "documents").mkdir()
    for name in DOCUMENTS:
        (root / "documents" / f"{name}.txt").write_text(topics[name])
    write_catalogue(root / "catalogue.jsonl")
    write_tickets(root / "tickets.csv")
    write_reviews(root / "reviews")
    with (
        Emulator(root / "emulator.log", *QUICK) as emulator,
        PostgresServer(root / "postgres", programs=pgvector_programs()) as postgres,
        AirflowStack(
            root / "home",
            root / "dags",
            env={**environment(root, emulator), "AIRFLOW_CONN_POSTGRES_DEFAULT": postgres.connection},
        ) as airflow,
    ):
        with psycopg.connect(postgres.url.replace("+psycopg2", ""), autocommit=True) as connection:
            connection.execute("CREATE TABLE reviews (id bigint PRIMARY KEY, body text)")
            for number, text in enumerate(REVIEWS):
                connection.execute("INSERT INTO reviews VALUES (%s, %s)", (number, text))
        started = Examples(airflow, emulator, root / "output", root / "home")
        started.listen(CONSUMER)
        started.start(*NAMES)
        yield started


def test_a_catalogue_is_chunked_in_shards_and_published_with_its_counts(examples: Examples) -> None:
    assert examples.ends("chunk_catalogue") == "success"
    output = examples.out / "catalogue" / "gte-small"
    assert examples.xcom("chunk_catalogue", "switch") == output.as_uri()
    published = examples.xcom("chunk_catalogue", "publish")
    table = open_dataset(output.as_uri()).to_table(columns=["document_id"])
    assert {name.removesuffix(".txt") for name in table["document_id"].to_pylist()} == set(DOCUMENTS)
    assert [published[name] for name in ("documents", "added", "shards")] == [24, 24, 4]
    assert published["chunks"] == table.num_rows
    assert [published[name] for name in ("version", "since", "documents_version")] == [0, None, 0]
    added = {
        (row["document_id"].removesuffix(".txt"), row["change"])
        for batch in changes(output.as_uri(), published["since"], published["version"])
        for row in batch.to_pylist()
    }
    assert added == {(name, "added") for name in DOCUMENTS}
    [event] = examples.airflow.asset_events()
    assert event["source_dag_id"] == "chunk_catalogue"
    assert (
        event["extra"].items()
        >= {name: published[name] for name in ("dataset", "version", "added", "shards")}.items()
    )


def test_a_catalogue_is_indexed_as_soon_as_it_is_published(examples: Examples) -> None:
    assert examples.ends("chunk_catalogue") == "success"
    examples.runs[CONSUMER] = examples.first_run(CONSUMER)
    assert examples.ends(CONSUMER) == "success"
    chunks = examples.xcom("chunk_catalogue", "publish")["chunks"]
    loaded = {"since": None, "until": 0, "deleted": 0, "inserted": chunks}
    assert examples.xcom(CONSUMER, "load") == loaded
    examples.start(ANSWERS)
    assert examples.ends(ANSWERS) == "success"
    assert len(examples.xcom(ANSWERS, "show")) == 3


def test_a_catalogue_is_enriched(examples: Examples) -> None:
    assert examples.ends("enrich_catalogue") == "success"
    uri = examples.xcom("enrich_catalogue", "merge")
    rows = [json.loads(line) for line in Path(uri.removeprefix("file://")).read_text().splitlines()]
    assert [row["sku"] for row in rows] == [product["sku"] for product in PRODUCTS]
    for row in rows:
        # Each product has what was said about it and about no other.
        assert row["summary"].startswith(row["description"][:14])
        assert "tent" in row["keywords"]
    # 70 products are three jobs of at most 32, for the keywords and for the summaries; a customer has two reviews.
    jobs = sorted(call["items"] for call in examples.calls("submit-prediction"))
    assert [items for items in jobs if items > 2] == [6, 6, 32, 32, 32, 32]


def test_products_are_chunked_with_their_key(examples: Examples) -> None:
    assert examples.ends("chunk_products") == "success"
    chunks = examples.xcom("chunk_products", "join")
    assert list(chunks) == [product["sku"] for product in PRODUCTS]
    assert all(chunks.values())


def test_tickets_are_classified(examples: Examples) -> None:
    assert examples.ends("classify_tickets") == "success"
    uri = examples.xcom("classify_tickets", "classify")["uri"]
    rows = pq.read_table(uri.removeprefix("file://")).to_pylist()
    assert [row["ticket"] for row in rows] == [ticket for ticket, _, _ in TICKETS]
    assert sum(examples.xcom("classify_tickets", "count").values()) == len(TICKETS)


def test_a_sql_table_is_classified(examples: Examples) -> None:
    assert examples.ends("classify_sql_table") == "success"
    assert examples.xcom("classify_sql_table", "store") == len(REVIEWS)


def test_customers_are_mapped(examples: Examples) -> None:
    assert examples.ends("map_customers") == "success"
    assert examples.xcom("map_customers", "total")["customers"] == 20
    tasks = examples.airflow.task_instances("map_customers", examples.runs["map_customers"])
    jobs = [call["items"] for call in examples.calls("submit-prediction")]
    assert jobs.count(2) == 20
    names = {task["rendered_map_index"] for task in tasks if task["task_id"] == "keywords"}
    assert names == {f"customer-{number:02}.csv" for number in range(1, 21)}


def test_a_conversation_goes_on(examples: Examples) -> None:
    assert examples.ends("answer_questions") == "success"
    ask = examples.xcom("answer_questions", "ask")[0]
    again = examples.xcom("answer_questions", "ask_again")[0]
    assert "110 km/h" in ask["answer"]
    assert ask["memoryUuid"] == again["memoryUuid"]
    assert len(examples.xcom("answer_questions", "show")) == 2


def test_a_model_is_trained_deployed_used_and_taken_down(examples: Examples) -> None:
    assert examples.ends("train_and_embed") == "success"
    manifest = examples.xcom("train_and_embed", "embed")
    vectors = pq.read_table(manifest["uri"].removeprefix("file://"))
    assert vectors.num_rows == manifest["predictions"] == 3
    deployment = examples.xcom("train_and_embed", "deploy")
    [predicted] = [line for line in examples.calls("predict") if line["model"] == deployment]
    assert predicted["use_case"] == "embedding"
    assert [len(examples.calls(name)) for name in ("create-model", "deploy", "undeploy")] == [1, 1, 1]
    assert examples.emulator.get("deployments") == []


def test_documents_are_chunked(examples: Examples) -> None:
    assert examples.ends("chunk_documents") == "success"
    assert examples.xcom("chunk_documents", "chunk")["documents"] == len(DOCUMENTS)


def test_every_example_is_run(examples: Examples) -> None:
    assert {path.stem for path in (REPOSITORY / "example_dags").glob("*.py")} == {*NAMES, CONSUMER, ANSWERS}


def test_an_endpoint_of_ones_own_is_called(examples: Examples) -> None:
    assert examples.ends("call_an_endpoint") == "success"


def test_the_third_partys_key_is_nowhere(examples: Examples) -> None:
    """Not in a log, and not in the metadata database: rendered fields, XCom, trigger rows, serialized DAGs."""
    examples.ends("train_and_embed")
    files = [path for path in examples.home.rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files)
    canary = TRAINING_KEY["private_key"].encode()
    assert [path for path in files if canary in path.read_bytes()] == []
