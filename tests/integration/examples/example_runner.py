# SPDX-License-Identifier: Apache-2.0
"""
Runs the example DAGs to their end in a process of its own, against the emulator and a PostgreSQL.

``python example_runner.py FOLDER`` writes ``FOLDER/results.json``: for each DAG, what its tasks returned, and the
error if there was one. Airflow prints the logs.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from dev.demo import write_catalogue, write_reviews, write_tickets
from dev.packages import pgvector_programs
from dev.processes import REPOSITORY, hurried
from dev.services import PostgresServer

FOLDER = Path(sys.argv[1])
DOCUMENTS = {
    "alpine.txt": "Alpine is a tent for two. It takes three minutes to pitch. It is waterproof and light.",
    "stove.txt": "The stove burns gas. It boils a litre of water in three minutes.",
    "lamp.txt": "The lamp has a battery for eight hours. A button changes its brightness.",
}
REVIEWS = ["I love this tent.", "The stove arrived broken.", "", "Does the lamp have a battery?"]
# A line of the output with this and the name of a DAG is before its log.
BEGIN = "#### "
# The catalogue is published before it is indexed, and indexed before questions are answered from it.
ORDER = (
    "chunk_catalogue",
    "index_in_postgres",
    "answer_from_postgres",
    "answer_questions",
    "call_an_endpoint",
    "chunk_documents",
    "chunk_products",
    "classify_sql_table",
    "classify_tickets",
    "enrich_catalogue",
    "map_customers",
    "train_and_embed",
)


def run_dag(name: str, folder: Path = REPOSITORY / "example_dags") -> dict[str, Any]:
    """Run a DAG to its end; each mapped task's values are a list."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(folder / f"{name}.py", safe_mode=False)
    assert not bag.import_errors, bag.import_errors
    run = bag.dags[name].test()
    returned: dict[str, Any] = {}
    instances = sorted(run.get_task_instances(), key=lambda one: one.map_index)
    for one in instances:
        value = one.xcom_pull(task_ids=one.task_id, map_indexes=one.map_index if one.map_index >= 0 else None)
        if one.map_index >= 0:
            returned.setdefault(one.task_id, []).append(value)
        else:
            returned[one.task_id] = value
    states = {one.task_id: str(one.state) for one in instances}
    labels = sorted(str(one.rendered_map_index) for one in instances if one.map_index >= 0)
    return {"state": str(run.state), "states": states, "labels": labels, "returned": returned}


def run_all() -> dict[str, dict[str, Any]]:
    """Each example, in order."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    from lucidworks_provider.emulator import EmulatorSettings, running

    results: dict[str, dict[str, Any]] = {}
    with running(EmulatorSettings(training_seconds=1, deploy_seconds=0)) as emulator:
        os.environ["AIRFLOW_CONN_LUCIDWORKS_DEFAULT"] = emulator.conn_json()
        for name in ORDER:
            print(f"{BEGIN}{name}", flush=True)
            began = time.monotonic()
            try:
                result = run_dag(name)
            except Exception:  # noqa: BLE001
                result = {"error": traceback.format_exc()}
            seconds = round(time.monotonic() - began, 1)
            results[name] = result | {"seconds": seconds}
            print(f"{BEGIN}after", flush=True)
        results["classify_sql_table"]["second"] = run_dag("classify_sql_table")
        results["classify_sql_table"]["labels_in_postgres"] = PostgresHook("postgres_default").get_records(
            "SELECT review_id, label FROM review_labels ORDER BY review_id"
        )
        results["index_in_postgres"]["change"] = change_the_model()
    return results


def change_the_model() -> dict[str, Any]:
    """Edit the model of the catalogue, publish it, and index it."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    hook, folder = PostgresHook("postgres_default"), FOLDER / "edited"

    def index() -> dict[str, Any]:
        loaded = "SELECT catalogue, options::json ->> 'model_id' FROM lucidworks_loaded"
        [[catalogue, model]] = hook.get_records(loaded)
        [[chunks]] = hook.get_records("SELECT count(*) FROM lucidworks_chunks")
        return {"catalogue": catalogue, "model": model, "chunks": chunks}

    before = index()
    folder.mkdir()
    example = (REPOSITORY / "example_dags" / "chunk_catalogue.py").read_text()
    (folder / "chunk_catalogue.py").write_text(
        example.replace('MODEL = "gte-small"', 'MODEL = "e5-small-v2"')
    )
    run_dag("chunk_catalogue", folder)
    between = index()
    run_dag("index_in_postgres")
    return {"before": before, "between": between, "after": index()}


def main() -> None:
    """Entry point."""
    from airflow.utils.db import initdb

    (FOLDER / "documents").mkdir()
    for name, text in DOCUMENTS.items():
        (FOLDER / "documents" / name).write_text(text)
    write_catalogue(FOLDER / "catalogue.jsonl")
    write_tickets(FOLDER / "tickets.csv")
    write_reviews(FOLDER / "reviews")
    initdb()
    with PostgresServer(FOLDER / "postgres", programs=pgvector_programs()) as postgres, hurried():
        os.environ["AIRFLOW_CONN_POSTGRES_DEFAULT"] = postgres.connection
        make_reviews()
        (FOLDER / "results.json").write_text(json.dumps(run_all(), default=str))


def make_reviews() -> None:
    """The table that an example classifies."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    hook = PostgresHook("postgres_default")
    hook.run("CREATE TABLE reviews (id bigint PRIMARY KEY, body text)")
    hook.insert_rows("reviews", list(enumerate(REVIEWS, 1)))


if __name__ == "__main__":
    main()
