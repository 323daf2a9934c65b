# SPDX-License-Identifier: Apache-2.0
"""
Every example DAG in a real Airflow: scheduler, triggerer, API server, and the emulator in the vendor's place.

Each logs what ``logs/*.txt`` have; what varies from run to run is replaced. After a change of log lines::

    REWRITE_LOGS=1 python -m pytest tests/system/live/test_live_examples.py

Afterwards the third party's key that one of them uses is searched for, and found nowhere.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pyarrow.parquet as pq
import pytest

from dev.airflow_stack import AirflowStack
from dev.demo import (
    CUSTOMERS,
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

LOGS = Path(__file__).with_name("logs")
EXAMPLES = sorted(path.stem for path in (REPOSITORY / "example_dags").glob("*.py"))
# Its runs are started by the asset event of chunk_catalogue.
CONSUMER = "index_in_postgres"
# It needs what the consumer has loaded.
ANSWERS = "answer_from_postgres"
REVIEWS = ["I love this tent.", "The stove arrived broken.", "", "Does the lamp have a battery?"]

_VARYING = (
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"(manual|scheduled)__[\w.+-]+(?=\.)"), "RUN"),
    (re.compile(r"\d{4}-\d\d-\d\d"), "DAY"),
    (re.compile(r"[\d.,]+ (s|min|h)\b( \d\d (s|min)\b)?"), "N s"),
    (re.compile(r"(?<=documents in )\d+ requests"), "N requests"),
    # Progress, and the states of other polls than the last: how many there are depends on the machine.
    (re.compile(r"^(Submitted )?[\d,]+ of [\d,]+ (jobs|results?|documents)\b.*(/s|left).*"), ""),
    (re.compile(r"^(Model|Deployment) ID: [A-Z]+$"), ""),
)


def _documents() -> dict[str, str]:
    """The same in every Python: logs have their sizes."""
    words = [word.strip(".,?!").lower() for _, text, _ in TICKETS for word in text.split()]
    texts = {}
    for number in range(1, 25):
        chosen = random.Random(number)
        sentences = [" ".join(chosen.sample(words, 9)).capitalize() for _ in range(4 * number)]
        texts[f"document-{number:02}.txt"] = ". ".join(sentences) + "."
    return texts


DOCUMENTS = _documents()


class Examples:
    """The examples' Airflow, and the first run of each."""

    def __init__(
        self, root: Path, airflow: AirflowStack, emulator: Emulator, postgres: psycopg.Connection[Any]
    ) -> None:
        self.root, self.airflow, self.emulator, self.postgres = root, airflow, emulator, postgres
        self.runs: dict[str, str] = {}

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
        """How the run ended."""
        if name not in self.runs:
            assert self.ends("chunk_catalogue" if name == CONSUMER else CONSUMER) == "success"
            self.start(name)
        return self.run_ends(name, self.runs[name])

    def run_ends(self, name: str, run_id: str) -> str:
        state = self.airflow.wait_for_run(name, run_id, 240)
        for task in self.airflow.task_instances(name, run_id):
            if task["state"] == "failed":
                print(self.airflow.task_log(name, run_id, task["task_id"], task["try_number"]))
        return state

    def runs_again(self, name: str) -> str:
        """A second run, which succeeds."""
        run_id = self.airflow.trigger(name)
        assert self.run_ends(name, run_id) == "success"
        return run_id

    def xcom(self, name: str, task_id: str) -> Any:
        """What a task returned."""
        return self.airflow.xcom(name, self.runs[name], task_id)

    def rows(self, name: str, task_id: str) -> list[dict[str, Any]]:
        """The Parquet file that a task has written."""
        uri = self.xcom(name, task_id)["uri"]
        rows: list[dict[str, Any]] = pq.read_table(uri.removeprefix("file://")).to_pylist()
        return rows

    def calls(self, endpoint: str) -> list[dict[str, Any]]:
        """What the emulator answered well."""
        return [
            line
            for line in self.emulator.get("log")
            if line["endpoint"] == endpoint and line["status"] == 200
        ]

    def index(self) -> dict[str, Any]:
        """What PostgreSQL has of the catalogue."""
        loaded = "SELECT catalogue, options::json ->> 'model_id' FROM lucidworks_loaded"
        [[catalogue, model]] = self.postgres.execute(loaded).fetchall()
        [[chunks]] = self.postgres.execute("SELECT count(*) FROM lucidworks_chunks").fetchall()
        return {"catalogue": catalogue, "model": model, "chunks": chunks}

    def log(self, name: str) -> str:
        """The package's lines, each once, task by task; of mapped tasks those of the first four."""
        run_id, blocks = self.runs[name], []
        tasks = self.airflow.task_instances(name, run_id)
        for task in sorted(tasks, key=lambda one: (one["task_id"], one["map_index"])):
            task_id, index = task["task_id"], task["map_index"]
            if index >= 4:
                continue
            messages = self.airflow.log_messages(name, run_id, task_id, task["try_number"], index)
            lines = [
                f"    {one['level'].upper():<7} {said}"
                for one in messages
                if "lucidworks_provider" in one.get("logger", "") and (said := self._plain(one["event"]))
            ]
            if lines:
                heading = task_id if index < 0 else f"{task_id} {index}"
                blocks.append("\n".join([heading, *dict.fromkeys(lines)]) + "\n")
        return "\n".join(blocks)

    def _plain(self, message: str) -> str:
        message = message.replace(str(self.root), "")
        for pattern, replacement in _VARYING:
            message = pattern.sub(replacement, message)
        return message


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examples]:
    root = tmp_path_factory.mktemp("examples")
    shutil.copytree(REPOSITORY / "example_dags", root / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "documents").mkdir()
    for name, text in DOCUMENTS.items():
        (root / "documents" / name).write_text(text)
    write_catalogue(root / "catalogue.jsonl")
    write_tickets(root / "tickets.csv")
    write_reviews(root / "reviews")
    with (
        Emulator(root / "emulator.log", *QUICK) as emulator,
        PostgresServer(root / "postgres", programs=pgvector_programs()) as postgres,
        psycopg.connect(postgres.url.replace("+psycopg2", ""), autocommit=True) as connection,
        AirflowStack(
            root / "home",
            root / "dags",
            env={**environment(root, emulator), "AIRFLOW_CONN_POSTGRES_DEFAULT": postgres.connection},
        ) as airflow,
    ):
        connection.execute("CREATE TABLE reviews (id bigint PRIMARY KEY, body text)")
        for number, text in enumerate(REVIEWS, 1):
            connection.execute("INSERT INTO reviews VALUES (%s, %s)", (number, text))
        started = Examples(root, airflow, emulator, connection)
        # It waits for its asset event.
        airflow.wait_for_dag(CONSUMER)
        airflow.unpause(CONSUMER)
        started.start(*(name for name in EXAMPLES if name not in {CONSUMER, ANSWERS}))
        yield started


def test_a_catalogue_is_chunked_in_shards_and_published_with_its_counts(examples: Examples) -> None:
    assert examples.ends("chunk_catalogue") == "success"
    output = examples.root / "output" / "catalogue" / "gte-small"
    assert examples.xcom("chunk_catalogue", "switch") == output.as_uri()
    published = examples.xcom("chunk_catalogue", "publish")
    table = open_dataset(output.as_uri()).to_table(columns=["document_id"])
    assert set(table["document_id"].to_pylist()) == set(DOCUMENTS)
    assert [published[name] for name in ("documents", "added", "shards")] == [24, 24, 4]
    assert published["chunks"] == table.num_rows
    assert [published[name] for name in ("version", "since", "documents_version")] == [0, None, 0]
    added = {
        (row["document_id"], row["change"])
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
    assert examples.ends(CONSUMER) == "success"
    chunks = examples.xcom("chunk_catalogue", "publish")["chunks"]
    loaded = {"since": None, "until": 0, "deleted": 0, "inserted": chunks}
    assert examples.xcom(CONSUMER, "load") == loaded


def test_questions_are_answered_from_the_nearest_chunks(examples: Examples) -> None:
    assert examples.ends(ANSWERS) == "success"
    chunks = open_dataset(examples.xcom("chunk_catalogue", "switch")).to_table().to_pylist()
    inputs = examples.xcom(ANSWERS, "retrieve")
    assert len(examples.xcom(ANSWERS, "show")) == len(inputs) == 3
    for row, one in zip(examples.xcom(ANSWERS, "embed"), inputs, strict=True):

        def distance(chunk: dict[str, Any], question: list[float] = row["vector"]) -> float:
            return -sum(a * b for a, b in zip(chunk["vector"], question, strict=True))

        nearest = sorted(chunks, key=distance)[:3]
        found = [(chunk["document_id"], chunk["text"]) for chunk in nearest]
        assert [(document["source"], document["body"]) for document in one["documents"]] == found


def test_another_model_takes_over_when_its_tables_are_complete(examples: Examples) -> None:
    """`MODEL` of chunk_catalogue is edited: the Variable and the index change from one catalogue to the other."""
    assert examples.ends(ANSWERS) == "success"
    airflow, before = examples.airflow, examples.index()
    file = examples.root / "dags" / "chunk_catalogue.py"
    file.write_text(file.read_text().replace('MODEL = "gte-small"', 'MODEL = "e5-small-v2"'))
    versions = "dags/chunk_catalogue/dagVersions"
    until(lambda: airflow.api("GET", versions)["total_entries"] == 2, "the edited DAG")
    airflow.pause(CONSUMER)
    run_id = examples.runs_again("chunk_catalogue")
    # Built, published and not yet switched to: the index is still that of the old model.
    assert examples.index() == before
    airflow.unpause(CONSUMER)
    examples.runs_again(CONSUMER)
    after = examples.index()
    for index, model in ((before, "gte-small"), (after, "e5-small-v2")):
        assert index["catalogue"].endswith(f"/catalogue/{model}")
        assert index["model"] == model
    assert before["chunks"] == examples.xcom("chunk_catalogue", "publish")["chunks"]
    assert after["chunks"] == airflow.xcom("chunk_catalogue", run_id, "publish")["chunks"]


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
    assert {row["sku"] for row in examples.rows("chunk_products", "chunk")} == {
        one["sku"] for one in PRODUCTS
    }
    chunks = examples.xcom("chunk_products", "join")
    assert list(chunks.items()) == [(product["sku"], 2) for product in PRODUCTS]


def test_tickets_are_classified(examples: Examples) -> None:
    assert examples.ends("classify_tickets") == "success"
    rows = examples.rows("classify_tickets", "classify")
    assert [(row["ticket"], row["customer"]) for row in rows] == [(one[0], one[2]) for one in TICKETS]
    assert [row["status"] for row in rows] == ["predicted"] * 5 + ["rejected"]
    counts = examples.xcom("classify_tickets", "count")
    assert counts.pop("none") == 1
    assert sum(counts.values()) == 5


def test_a_sql_table_has_a_label_for_each_row_with_a_text(examples: Examples) -> None:
    assert examples.ends("classify_sql_table") == "success"
    assert examples.xcom("classify_sql_table", "store") == 3
    labels = "SELECT review_id, label FROM review_labels ORDER BY review_id"
    found = examples.postgres.execute(labels).fetchall()
    assert [review for review, _ in found] == [1, 2, 4]
    assert {label for _, label in found} <= {"praise", "complaint", "question"}
    # The next run finds no row without a label.
    run_id = examples.runs_again("classify_sql_table")
    states = {
        one["task_id"]: one["state"] for one in examples.airflow.task_instances("classify_sql_table", run_id)
    }
    assert states["store"] == "skipped"


def test_each_customer_has_a_task_that_is_called_after_it(examples: Examples) -> None:
    assert examples.ends("map_customers") == "success"
    total = examples.xcom("map_customers", "total")
    assert (total["customers"], total["predictions"]) == (len(CUSTOMERS), 2 * len(CUSTOMERS))
    tasks = examples.airflow.task_instances("map_customers", examples.runs["map_customers"])
    jobs = [call["items"] for call in examples.calls("submit-prediction")]
    assert jobs.count(2) == len(CUSTOMERS)
    assert sorted(one["rendered_map_index"] for one in tasks if one["task_id"] == "keywords") == CUSTOMERS


def test_a_conversation_continues(examples: Examples) -> None:
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


def test_an_endpoint_of_ones_own_is_called(examples: Examples) -> None:
    assert examples.ends("call_an_endpoint") == "success"


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_logs_what_it_does(examples: Examples, name: str) -> None:
    assert examples.ends(name) == "success"
    golden, log = LOGS / f"{name}.txt", examples.log(name)
    if os.environ.get("REWRITE_LOGS"):
        golden.write_text(log) if log else golden.unlink(missing_ok=True)
    # An example without an operator of the package logs nothing.
    assert log == (golden.read_text() if golden.exists() else "")


def test_there_is_no_log_of_another_example() -> None:
    assert {path.stem for path in LOGS.glob("*.txt")} <= set(EXAMPLES)


def test_the_third_partys_key_is_nowhere(examples: Examples) -> None:
    """Not in a log, and not in the metadata database: rendered fields, XCom, trigger rows, serialized DAGs."""
    examples.ends("train_and_embed")
    files = [path for path in (examples.root / "home").rglob("*") if path.is_file()]
    assert any(path.suffix == ".db" for path in files)
    canary = TRAINING_KEY["private_key"].encode()
    assert [path for path in files if canary in path.read_bytes()] == []
