# SPDX-License-Identifier: Apache-2.0
"""
The DAG of ``benchmarks.corpus_pipeline``: a catalogue with the operators of the HTTP provider, as they are.

Only a sensor that is not deferred can look into an answer (``response_check``), and a result is handed out once, to
whoever polls; so the sensor has to hold a slot, and its answer goes through XCom.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task
from airflow.providers.http.operators.http import HttpOperator
from airflow.providers.http.sensors.http import HttpSensor
from airflow.sdk import PokeReturnValue

CHUNKER, MODEL = "dynamic-sentence", "gte-small"
BEARER = {
    "Authorization": "Bearer {{ ti.xcom_pull(task_ids='token') }}",
    "Content-Type": "application/json",
}


@task
def bodies(dag_run: Any = None) -> list[str]:
    """What to submit."""
    source = Path(dag_run.conf["source"])
    return [json.dumps({"batch": [{"text": path.read_text()}]}) for path in sorted(source.rglob("*.txt"))]


def result(response: Any) -> PokeReturnValue:
    """The sensor is done when the job is."""
    body = response.json()
    return PokeReturnValue(body["status"] == "READY", body)


@task
def write(bodies: Any, dag_run: Any = None) -> int:
    """All chunks to one file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"text": text, "vector": vector["vector"]}
        for body in bodies
        for item in body["chunkedData"]
        for text, vector in zip(item["chunks"], item["vectors"], strict=True)
    ]
    pq.write_table(pa.Table.from_pylist(rows), dag_run.conf["output"])
    return len(rows)


with DAG("corpus_pipeline", schedule=None):
    token = HttpOperator(
        task_id="token",
        http_conn_id="catalogue_token",
        endpoint="/oauth2/ausao8uveaPmyhv0v357/v1/token?scope=machinelearning.predict&grant_type=client_credentials",
        headers={
            "Accept": "application/json",
            "Cache-Control": "no-cache",
            "Content-Type": "application/x-www-form-urlencoded",
        },
        response_filter=lambda response: response.json()["access_token"],
    )
    submit = HttpOperator.partial(
        task_id="submit",
        endpoint=f"/ai/async-chunking/{CHUNKER}/{MODEL}",
        headers=BEARER,
        response_filter=lambda response: response.json()["chunkingId"],
    ).expand(data=bodies())
    wait = HttpSensor.partial(
        task_id="wait", headers=BEARER, response_check=result, poke_interval=0.1, timeout=300
    ).expand(endpoint=submit.output.map(lambda job: f"/ai/async-chunking/{job}"))
    token >> submit
    write(wait.output)
