# SPDX-License-Identifier: Apache-2.0
"""
What typical mistakes get: each message names what was given, what is expected, and the nearest name.

``mistakes.txt`` is the table, to be read by people. A message that changes is changed there, too.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, AirflowSensorTimeout
from operator_service import new_context

from lucidworks_provider.decorators.chunk import lucidworks_chunk_task
from lucidworks_provider.decorators.predict import lucidworks_predict_task
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.errors import LucidworksError
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.operators.corpus import (
    LucidworksChunkCorpusOperator,
    LucidworksPublishShardsOperator,
)
from lucidworks_provider.operators.models import (
    LucidworksDeployModelOperator,
    LucidworksTrainModelOperator,
    LucidworksUndeployModelOperator,
)
from lucidworks_provider.operators.prediction import (
    LucidworksAsyncPredictionOperator,
    LucidworksPredictionOperator,
)
from lucidworks_provider.sensors.jobs import LucidworksJobSensor
from lucidworks_provider.sensors.models import LucidworksDeploymentSensor, LucidworksModelSensor

TABLE = Path(__file__).with_name("mistakes.txt")
CHUNKING = {"chunker": "sentence", "model_id": "gte-small"}
POKING = {"poke_interval": 0.05, "timeout": 0.1, "deferrable": False}


def decorated(decorator: Any) -> Any:
    """Makes the operator of a function that returns what is given."""

    def make(task_id: str, returned: Any, **arguments: Any) -> Any:
        with DAG("d", schedule=None):
            return decorator(task_id=task_id, **arguments)(lambda: returned)().operator

    return make


# An operator, and arguments with which it works.
MODEL = {"model_id": "gte-small"}
CHUNKS = {"result_path": "file://TMP/chunks.jsonl"}
RETURNED = {"returned": ["One."]}
WAIT = {"deferrable": False}
TRAINING = {"name": "ranking", "model_type": "ecommerce-rnn", "credentials_conn_id": "key"}
LLAMA = {"use_case": "passthrough", "model_id": "llama-3-8b-instruct", "inputs": ["One."]}
# An operator, and arguments with which it works.
WORKING: dict[str, tuple[Any, dict[str, Any]]] = {
    "Chunk": (LucidworksChunkOperator, CHUNKING | CHUNKS | WAIT | {"text": "One."}),
    "Corpus": (
        LucidworksChunkCorpusOperator,
        CHUNKING | {"source": "file://TMP/source", "output_uri": "file://TMP/tables"},
    ),
    "Predict": (LucidworksPredictionOperator, MODEL | {"use_case": "embedding", "inputs": ["One."]}),
    "Train": (
        LucidworksTrainModelOperator,
        TRAINING | WAIT | {"training_data": {"catalog": "gs://b/c", "signals": "gs://b/s"}},
    ),
    "Deploy": (LucidworksDeployModelOperator, {"model_id": "ranking-1"} | WAIT),
    "Async": (LucidworksAsyncPredictionOperator, LLAMA | WAIT | {"result_path": "file://TMP/rows.jsonl"}),
    "Shards": (LucidworksPublishShardsOperator, {"staged": [], "output_uri": "file://TMP/tables"}),
    "Undeploy": (LucidworksUndeployModelOperator, {"deployment_id": "a"} | WAIT),
    "JobSensor": (
        LucidworksJobSensor,
        {"job_id": "a", "kind": "chunking", "result_path": "file://TMP/job.json"},
    ),
    "ModelSensor": (LucidworksModelSensor, {"model_id": "ranking-1", **POKING}),
    "DeploymentSensor": (LucidworksDeploymentSensor, {"deployment_id": "a", **POKING}),
    "task.lucidworks_chunk": (decorated(lucidworks_chunk_task), CHUNKING | CHUNKS | RETURNED),
    "task.lucidworks_predict": (
        decorated(lucidworks_predict_task),
        MODEL | RETURNED | {"use_case": "embedding"},
    ),
}
MISTAKES: list[tuple[str, dict[str, Any]]] = [
    ("Chunk", {"chunker": "sentance"}),
    ("Chunk", {"chunker": "dynamic_newline"}),
    ("Chunk", {"chunker": "paragraph"}),
    ("Chunk", {"model_id": "gte-smal"}),
    ("Chunk", {"model_id": ""}),
    ("Chunk", {"data_type": "passages"}),
    ("Chunk", {"chunker_config": {"chunk_size": 3}}),
    ("Chunk", {"chunker_config": {"chunkSize": "five"}}),
    ("Chunk", {"chunker_config": "chunkSize=5"}),
    ("Chunk", {"model_config": {"vectorQuantisationMethod": "min-max"}}),
    ("Chunk", {"model_config": {"vectorQuantizationMethod": "minmax"}}),
    ("Chunk", {"text": None}),
    ("Chunk", {"text": " "}),
    ("Chunk", {"text": b"One."}),
    ("Chunk", {"text": 2024}),
    ("Chunk", {"text": None, "documents": [{"id": "a\tb", "text": "One."}]}),
    ("Chunk", {"text": None, "documents": {"ticket": "One."}}),
    ("Chunk", {"text": None, "documents": ["One."]}),
    ("Chunk", {"text": None, "documents": [{"id": 1, "text": "One."}, {"id": 1, "text": "Two."}]}),
    ("Chunk", {"text": None, "documents": [{"id": 1, "text": "One."}, {"id": 2, "text": None}]}),
    ("Chunk", {"text": None, "documents": "file://TMP/source/a.csv", "id_column": "ticket"}),
    ("Chunk", {"text": None, "documents": [], "on_empty": "fail"}),
    ("Chunk", {"result_path": "chunks.jsonl"}),
    ("Chunk", {"result_path": "file://TMP/chunks.csv"}),
    ("Chunk", {"timeout": "an hour"}),
    ("Chunk", {"on_mismatch": "warning"}),
    ("Corpus", {"source": "file://TMP/sorce"}),
    ("Corpus", {"source": "source/*.csv"}),
    ("Corpus", {"source": "file://TMP/source/a.csv"}),
    ("Corpus", {"source": "file://TMP/source/a.csv", "id_column": "ticket", "text_column": "descriptions"}),
    ("Corpus", {"source": "file://TMP/source/semicolons.csv"}),
    ("Corpus", {"csv_delimiter": "tab"}),
    ("Corpus", {"csv_columns": "id,text"}),
    ("Corpus", {"csv_columns": 5}),
    ("Corpus", {"source": [{"id": "a\tb", "text": "One."}]}),
    ("Corpus", {"encoding": "latin-42"}),
    ("Corpus", {"output_uri": "file://TMP/source/tables"}),
    ("Corpus", {"on_busy": "waits"}),
    ("Corpus", {"max_reject_ratio": 5}),
    ("Corpus", {"max_tokens": "1M"}),
    ("Corpus", {"prune": "maybe"}),
    ("Predict", {"use_case": "embeddings"}),
    ("Predict", {"model_id": "gte-smal"}),
    ("Predict", {"batch_size": 100}),
    ("Predict", {"model_config": {"vectorQuantizationMethods": "min-max"}}),
    ("Async", {"use_case": "embedding"}),
    ("Async", {"use_case": "pass-trough"}),
    ("Async", {"model_id": "llama-3-8b-instuct"}),
    ("Async", {"result_path": None}),
    ("Deploy", {"model_id": "nope"}),
    ("Deploy", {"model_id": "text-encodr"}),
    ("Deploy", {"min_replicas": 3}),
    ("Deploy", {"if_ambiguous": "re-use"}),
    ("Train", {"training_data": "gs://b"}),
    ("Undeploy", {"deployment_id": " "}),
    ("Undeploy", {"wait_for_completion": "no"}),
    ("Shards", {"staged": ["file://TMP/nothing"]}),
    ("Shards", {"staged": [{"dataset": "file://TMP/tables"}]}),
    ("Shards", {"on_busy": "waits", "staged": "file://TMP/nothing"}),
    ("JobSensor", {"kind": "chunk"}),
    ("JobSensor", {"timeout": "an hour"}),
    ("ModelSensor", {"target_state": ""}),
    ("ModelSensor", {"target_state": "availabel"}),
    ("DeploymentSensor", {"deployment_id": ""}),
    ("DeploymentSensor", {"deployment_id": "nope"}),
    ("DeploymentSensor", {"target_state": "AVAILABLE"}),
    ("task.lucidworks_chunk", {"chunker": "sentance"}),
    ("task.lucidworks_chunk", {"returned": 5}),
    ("task.lucidworks_chunk", {"returned": [{"id": 1, "txt": "One."}]}),
    ("task.lucidworks_predict", {"model_id": "gte-smal"}),
    ("task.lucidworks_predict", {"returned": "One."}),
    ("task.lucidworks_predict", {"returned": [{"text": 5}]}),
]
# Fields of a connection that are given instead, in the task "Chunk".
CONNECTIONS: list[dict[str, Any]] = [
    {"conn_type": "postgres"},
    {"login": None},
    {"password": None},
    {"host": "app.applications.lucidworks.com", "application_url": None},
    {"host": "my app", "application_url": None},
    {"host": None, "application_url": None},
    {"auth_url": "http://identity.example"},
    {"conn_type": "lucidwork"},
    {"share_via": "reddis"},
    {"share_via": "Redis"},
    {"aplication_url": "https://gateway.example", "application_url": None, "host": None},
    {"timeout": "2 minutes"},
    {"verify": "perhaps"},
]


def shown(given: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in given.items())


NAMES = [f"{name}({shown(given)})" for name, given in MISTAKES]
NAMES += [f"Connection({shown(given)})" for given in CONNECTIONS]


def expected() -> dict[str, str]:
    """Messages by mistakes: a line of each, indented below it."""
    blocks = TABLE.read_text().partition("\n\n")[2].strip().split("\n\n")
    return dict(block.split("\n    ", 1) for block in blocks)


@pytest.fixture
def world(emulator: RunningEmulator, tmp_path: Path) -> RunningEmulator:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "a.csv").write_text("ticket,description\n1,One.\n")
    (tmp_path / "source" / "semicolons.csv").write_text("id;text\n1;One.\n")
    return emulator


def message(name: str, given: dict[str, Any], tmp_path: Path) -> str:
    operator, working = WORKING[name]
    arguments = {
        key: value.replace("TMP", str(tmp_path)) if isinstance(value, str) else value
        for key, value in (working | given).items()
    }
    with pytest.raises((LucidworksError, AirflowSensorTimeout)) as caught:
        operator(task_id="t", **arguments).execute(new_context(state_store=False))
    return f"{type(caught.value).__name__}: {caught.value}".replace(str(tmp_path), "TMP")


@pytest.mark.parametrize(
    ("name", "mistake"), list(zip(NAMES, MISTAKES, strict=False)), ids=lambda one: str(one)[:60]
)
def test_what_a_mistake_gets(
    name: str, mistake: tuple[str, dict[str, Any]], world: RunningEmulator, tmp_path: Path
) -> None:
    assert message(*mistake, tmp_path) == expected()[name]


@pytest.mark.parametrize("given", CONNECTIONS, ids=shown)
def test_what_a_wrong_connection_gets(
    given: dict[str, Any], world: RunningEmulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = json.loads(world.conn_json())
    for name, value in given.items():
        (connection if name in connection else connection["extra"])[name] = value
    monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", json.dumps(connection))
    assert message("Chunk", {}, tmp_path) == expected()[f"Connection({shown(given)})"]
    # The UI tests a copy under another id.
    monkeypatch.setenv("AIRFLOW_CONN_X7Q2", json.dumps(connection))
    tested = LucidworksHook("x7q2").test_connection()[1]
    assert "x7q2" not in tested
    assert ("Did you mean 'application_url'?" in tested) == ("aplication_url" in given)


def test_a_misspelt_field_of_a_connection_is_a_warning(
    world: RunningEmulator, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connection = json.loads(world.conn_json())
    connection["extra"] |= {"customerId": "c", "use_case_paths": "/x", "note": "ours"}
    monkeypatch.setenv("AIRFLOW_CONN_MISSPELT", json.dumps(connection))
    for _ in range(2):
        LucidworksHook("misspelt").get_settings()
    warned = [one.getMessage() for one in caplog.records if one.name.startswith("lucidworks_provider.hooks")]
    assert warned == [
        "Connection 'misspelt': extra has the unknown field 'customerId'. Did you mean 'customer_id'? extra has "
        "the unknown field 'use_case_paths'. Did you mean 'use_cases_path'?"
    ]


def test_the_table_has_nothing_else() -> None:
    assert list(expected()) == NAMES
