# SPDX-License-Identifier: Apache-2.0
"""Every operator that writes a file, on every store: in the worker, deferred at 40 ms a request, after a kill."""

import asyncio
import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from store_servers import S3_CONN_ID, Store, context, register_gs

from lucidworks_provider.client.chunking import submit_chunking
from lucidworks_provider.emulator.server import RunningEmulator
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from lucidworks_provider.jobs import decisions
from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.operators.prediction import (
    LucidworksAsyncPredictionOperator,
    LucidworksPredictionOperator,
)
from lucidworks_provider.sensors.jobs import LucidworksJobSensor
from lucidworks_provider.storage import names_in, reading, writing
from tests.forks import start

TEXTS = [f"Sentence {number}." for number in range(6)]
CHUNKING: dict[str, Any] = {"chunker": "sentence", "model_id": "gte-small"}
SUMMARY: dict[str, Any] = {"use_case": "summarization", "model_id": "llama-3-8b-instruct", "batch_size": 2}
# Requests at a time of any of these operators, at most.
IN_FLIGHT = 8


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are polled at once, and triggers end at once."""
    monkeypatch.setattr(decisions, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "0")


def operator(kind: str, folder: str, **arguments: Any) -> Any:
    """An operator or sensor of six short texts."""
    documents = [{"id": f"{number}", "text": text} for number, text in enumerate(TEXTS)]
    arguments = {"task_id": "t", "lucidworks_conn_id": "lucidworks_default"} | arguments
    match kind:
        case "predictions":
            arguments |= SUMMARY | {"inputs": documents, "result_path": f"{folder}/p.parquet"}
            return LucidworksPredictionOperator(**arguments)
        case "prediction jobs":
            arguments |= SUMMARY | {"inputs": documents, "result_path": f"{folder}/a.parquet"}
            return LucidworksAsyncPredictionOperator(poll_interval=0.1, **arguments)
        case "chunks":
            arguments |= CHUNKING | {"documents": documents, "result_path": f"{folder}/c.parquet"}
            return LucidworksChunkOperator(poll_interval=0.1, **arguments)
    job_id = LucidworksHook().call(submit_chunking(TEXTS[0], **CHUNKING))
    arguments |= {"job_id": job_id, "result_path": f"{folder}/s.json"}
    return LucidworksJobSensor(poke_interval=0.1, timeout=30, **arguments)


def in_the_worker(kind: str, folder: str) -> Any:
    """What such a task returns."""
    result = operator(kind, folder, **({} if kind == "predictions" else {"deferrable": False})).execute(
        context()
    )
    return getattr(result, "xcom_value", result)


def finished(deferred: TaskDeferred) -> Any:
    """The trigger's event."""

    async def first() -> Any:
        async for event in deferred.trigger.run():
            return event.payload
        return None

    return asyncio.run(first())


def check(uri: str) -> None:
    """The file has what was requested, and nothing else is in its folder."""
    with reading(uri) as file:
        if uri.endswith(".json"):
            assert json.loads(file.read())["chunkedData"]
        else:
            rows = pq.read_table(file).to_pylist()
            ids = {row.get("id", row.get("document_id")) for row in rows}
            assert ids == {f"{n}" for n in range(len(TEXTS))}
            assert all(row.get("vector") or row.get("response") or row.get("summary") for row in rows), rows
    folder, _, name = uri.rpartition("/")
    # Before Airflow 3.3 the record beside the result is its only copy; its folder remains.
    assert [one for one in names_in(folder) if not one.startswith("_")] == [name]


KINDS = ["predictions", "prediction jobs", "chunks", "sensor"]


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_worker(kind: str, folder: str, emulator: RunningEmulator) -> None:
    check(in_the_worker(kind, folder)["uri"])


@pytest.mark.parametrize("kind", KINDS[1:])
def test_deferred_at_40_ms_a_request(kind: str, folder: str, store: Store, emulator: RunningEmulator) -> None:
    task = operator(kind, folder, deferrable=True)
    store.proxy.latency = 0.04
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context())
    event = finished(deferred.value)
    check(task.execute_complete(context(), event, **(deferred.value.kwargs or {}))["uri"])


def _killed(kind: str, folder: str) -> None:
    """A child process, which the parent kills."""
    if folder.startswith("gs:"):
        register_gs()
    in_the_worker(kind, folder)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_killed_process_is_continued(kind: str, folder: str, emulator: RunningEmulator) -> None:
    """A request is sent twice only if it was in flight at the kill."""
    emulator.state.settings = emulator.state.settings.patched({"latency": 0.3})
    child = start(_killed, kind, folder)
    endpoint = {"predictions": "predict", "prediction jobs": "submit-prediction", "chunks": "submit"}[kind]

    def sent() -> int:
        return sum(line.endpoint == endpoint for line in emulator.state.log)

    while sent() < 2:
        assert child.is_alive()
        time.sleep(0.01)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    before = sent()
    check(in_the_worker(kind, folder)["uri"])
    requests = len(TEXTS) if kind == "chunks" else len(TEXTS) // SUMMARY["batch_size"]
    assert requests <= sent() <= requests + IN_FLIGHT, before


@pytest.mark.parametrize("store", ["s3"], indirect=True)
def test_the_page_on_reading_results(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"{folder}/chunks.parquet"
    with writing(uri) as path:
        pq.write_table(pa.table({"text": TEXTS}), path)
    connection = json.loads(os.environ[f"AIRFLOW_CONN_{S3_CONN_ID.upper()}"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", connection["extra"]["endpoint_url"])
    page = (Path(__file__).parents[3] / "docs" / "storage.md").read_text()
    names: dict[str, Any] = {"uri": uri}
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.M | re.S)
    assert len(blocks) == 2
    for block in blocks:
        names.pop("chunks", None)
        exec(block.replace("…", "key"), names)  # noqa: S102
        assert list(names["chunks"]["text"]) == TEXTS
