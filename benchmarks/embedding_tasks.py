# SPDX-License-Identifier: Apache-2.0
"""
One task that embeds a thousand texts, by the operator of its name: a child of ``benchmarks.side_by_side``.

``python -m benchmarks.embedding_tasks NAME URL``. It prints what it took. An exception is a failed try, after which
the task's next try begins with nothing but what its operator has kept; there are three.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from typing import Any

import psutil

from benchmarks.harness import connect, context, quiet

INPUTS, BATCH, TRIES = 1000, 32, 3
TEXTS = [f"Ticket {n}: the parcel has not arrived" for n in range(INPUTS)]
PREDICTION = "ai/prediction/embedding/gte-small"


def lucidworks(url: str, path: str | None = None) -> Any:
    """Ours, with its defaults."""
    connect(url)
    from lucidworks_provider.operators.prediction import LucidworksPredictionOperator

    return LucidworksPredictionOperator(
        task_id="t",
        use_case="embedding",
        model_id="gte-small",
        inputs=TEXTS,
        result_path=path,
    )


def lucidworks_stored(url: str) -> Any:
    """The same to a Parquet file, so that each response is on the disk before the next step."""
    return lucidworks(url, f"{tempfile.mkdtemp(prefix='rows-')}/rows.parquet")


def loop(url: str) -> Any:
    """A PythonOperator: a token, and one request of 32 texts after the other over a session."""
    from airflow.providers.standard.operators.python import PythonOperator

    def embed() -> list[Any]:
        import requests

        rows: list[Any] = []
        with requests.Session() as session:
            response = session.post(
                f"{url}/oauth2/x/v1/token", data={"grant_type": "client_credentials"}, timeout=60
            )
            session.headers["Authorization"] = f"Bearer {response.json()['access_token']}"
            for start in range(0, INPUTS, BATCH):
                batch = [{"text": text} for text in TEXTS[start : start + BATCH]]
                response = session.post(f"{url}/{PREDICTION}", json={"batch": batch}, timeout=60)
                response.raise_for_status()
                rows += [one["vector"] for one in response.json()["predictions"]]
        return rows

    return PythonOperator(task_id="t", python_callable=embed, show_return_value_in_logs=False)


def http(url: str) -> Any:
    """HttpOperator with its pagination, and a token that somebody else has put into its headers."""
    os.environ["AIRFLOW_CONN_HTTP_DEFAULT"] = json.dumps({"conn_type": "http", "host": url})
    from airflow.providers.http.operators.http import HttpOperator

    def body(number: int) -> str:
        texts = TEXTS[number * BATCH : (number + 1) * BATCH]
        return json.dumps({"batch": [{"text": text} for text in texts]})

    def following(response: Any) -> dict[str, Any] | None:
        following.number += 1  # type: ignore[attr-defined]
        number = following.number  # type: ignore[attr-defined]
        return {"data": body(number)} if number * BATCH < INPUTS else None

    def rows(responses: Any) -> list[Any]:
        return [one["vector"] for response in responses for one in response.json()["predictions"]]

    operator = HttpOperator(  # noqa: AIR001 -- each of these is the task
        task_id="t",
        endpoint=PREDICTION,
        data=body(0),
        headers={"Authorization": "Bearer a.b.c", "Content-Type": "application/json"},
        pagination_function=following,
        response_filter=rows,
        log_response=False,
    )
    plain: Any = operator.execute

    def execute(context: Any) -> Any:
        following.number = 0  # type: ignore[attr-defined]
        return plain(context)

    vars(operator)["execute"] = execute  # each try begins anew, as a process of its own does
    return operator


def openai(url: str) -> Any:
    """All texts in one request, as that service takes up to 2,048."""
    os.environ["AIRFLOW_CONN_OPENAI_DEFAULT"] = json.dumps(
        {"conn_type": "openai", "password": "key", "host": f"{url}/v1"}
    )
    from airflow.providers.openai.operators.openai import OpenAIEmbeddingOperator

    return OpenAIEmbeddingOperator(task_id="t", conn_id="openai_default", input_text=TEXTS)


def cohere(url: str) -> Any:
    """All texts in one request, as the hook asks; that service itself takes 96."""
    os.environ["AIRFLOW_CONN_COHERE_DEFAULT"] = json.dumps(
        {"conn_type": "cohere", "password": "key", "host": url}
    )
    from airflow.providers.cohere.operators.embedding import CohereEmbeddingOperator

    return CohereEmbeddingOperator(task_id="t", input_text=TEXTS)


TASKS = {
    "LucidworksPredictionOperator": lucidworks,
    "LucidworksPredictionOperator, to Parquet": lucidworks_stored,
    "PythonOperator, a loop": loop,
    "HttpOperator, paginated": http,
    "OpenAIEmbeddingOperator": openai,
    "CohereEmbeddingOperator": cohere,
}


def main() -> int:
    """Do it, and tell."""
    from airflow.sdk import BaseOperator  # noqa: F401 -- every DAG file has it

    quiet()
    name, url = sys.argv[1:]
    process = psutil.Process()
    bare = process.memory_info().rss
    begin, cpu = time.perf_counter(), time.process_time()
    operator = TASKS[name](url)
    tries, returned = 0, None
    while returned is None:
        tries += 1
        try:
            returned = operator.execute(context(run_id="r", max_tries=TRIES, try_number=tries))
        except Exception:
            if tries == TRIES:
                raise
    found = {
        "seconds": time.perf_counter() - begin,
        "cpu": time.process_time() - cpu,
        "mib": (process.memory_info().rss - bare) / 2**20,
        "tries": tries,
        "rows": returned["predictions"] if isinstance(returned, dict) else len(returned),
    }
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
