# SPDX-License-Identifier: Apache-2.0
"""
Tasks that embed a thousand texts, each with another operator; for ``benchmarks.side_by_side``.

After an exception, the next try of the task begins with what its operator has stored; there are three.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from typing import Any

import psutil

from benchmarks.harness import batches, connect, context, post_batches, quiet

INPUTS, TRIES = 1000, 3
TEXTS = [f"Ticket {n}: the parcel has not arrived" for n in range(INPUTS)]
PREDICTION = "ai/prediction/embedding/gte-small"


def lucidworks(url: str, path: str | None = None) -> Any:
    """This package, with its defaults."""
    connect(url)
    from lucidworks_provider.operators.prediction import LucidworksPredictionOperator

    return LucidworksPredictionOperator(
        task_id="t", use_case="embedding", model_id="gte-small", inputs=TEXTS, result_path=path
    )


def lucidworks_parquet(url: str) -> Any:
    """The same with a Parquet file, so that each response is stored before the next step."""
    return lucidworks(url, f"{tempfile.mkdtemp(prefix='rows-')}/rows.parquet")


def loop(url: str) -> Any:
    """A PythonOperator that requests a token, then one batch of 32 texts after the other with a session."""
    from airflow.providers.standard.operators.python import PythonOperator

    def embed() -> list[Any]:
        import requests

        with requests.Session() as session:
            form = {"grant_type": "client_credentials"}
            token = session.post(f"{url}/oauth2/x/v1/token", data=form, timeout=60).json()["access_token"]
            session.headers["Authorization"] = f"Bearer {token}"
            predictions = post_batches(session, f"{url}/{PREDICTION}", batches(TEXTS))
            return [one["vector"] for batch in predictions for one in batch]

    return PythonOperator(task_id="t", python_callable=embed, show_return_value_in_logs=False)


def http(url: str) -> Any:
    """HttpOperator with its pagination, and a fixed token."""
    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps({"conn_type": "http", "host": url})
    from airflow.providers.http.operators.http import HttpOperator

    bodies = [json.dumps({"batch": [{"text": text} for text in batch]}) for batch in batches(TEXTS)]
    pending: list[str] = []

    def rows(responses: Any) -> list[Any]:
        return [one["vector"] for response in responses for one in response.json()["predictions"]]

    operator = HttpOperator(  # noqa: AIR001 -- each of these is the task
        task_id="t",
        endpoint=PREDICTION,
        data=bodies[0],
        headers={"Authorization": "Bearer a.b.c", "Content-Type": "application/json"},
        pagination_function=lambda _: {"data": pending.pop(0)} if pending else None,
        response_filter=rows,
        log_response=False,
    )
    plain: Any = operator.execute

    def execute(context: Any) -> Any:
        pending[:] = bodies[1:]
        return plain(context)

    vars(operator)["execute"] = execute  # each try begins with the first page
    return operator


def openai(url: str) -> Any:
    """All texts in one request, since the service accepts up to 2,048."""
    os.environ["AIRFLOW_CONN_OPENAI_DEFAULT"] = json.dumps(
        {"conn_type": "openai", "password": "key", "host": f"{url}/v1"}
    )
    from airflow.providers.openai.operators.openai import OpenAIEmbeddingOperator

    return OpenAIEmbeddingOperator(task_id="t", conn_id="openai_default", input_text=TEXTS)


def cohere(url: str) -> Any:
    """All texts in one request, which is what the hook sends; the service itself accepts 96."""
    os.environ["AIRFLOW_CONN_COHERE_DEFAULT"] = json.dumps(
        {"conn_type": "cohere", "password": "key", "host": url}
    )
    from airflow.providers.cohere.operators.embedding import CohereEmbeddingOperator

    return CohereEmbeddingOperator(task_id="t", input_text=TEXTS)


TASKS = {
    "LucidworksPredictionOperator": lucidworks,
    "LucidworksPredictionOperator, to Parquet": lucidworks_parquet,
    "PythonOperator, a loop": loop,
    "HttpOperator, paginated": http,
    "OpenAIEmbeddingOperator": openai,
    "CohereEmbeddingOperator": cohere,
}


def run(name: str, url: str) -> dict[str, float]:
    """Run a task in its own process, from its imports to its return value: what it used, and its rows."""
    from airflow.sdk import BaseOperator  # noqa: F401 -- imported by every DAG file

    quiet()
    process = psutil.Process()
    bare = process.memory_info().rss
    began, cpu = time.perf_counter(), time.process_time()
    operator = TASKS[name](url)
    for number in range(1, TRIES + 1):
        try:
            returned = operator.execute(context(run_id="r", max_tries=TRIES, try_number=number))
            break
        except Exception:
            if number == TRIES:
                raise
    return {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
        "mib": (process.memory_info().rss - bare) / 2**20,
        "rows": returned["predictions"] if isinstance(returned, dict) else len(returned),
    }
