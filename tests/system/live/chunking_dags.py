# SPDX-License-Identifier: Apache-2.0
"""
The DAGs of the live chunking tests; a fixture copies this file into a DAG folder.

Most tasks read what to chunk, and where to write it, from the run's conf.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Asset, task

from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.retry_policy import LucidworksRetryPolicy

OUT = os.environ["CHUNKING_OUT"]

FROM_CONF = {
    "task_id": "chunk",
    "documents": "{{ dag_run.conf['documents'] | tojson }}",
    "result_path": "{{ dag_run.conf['path'] }}",
}
COMMON = {"chunker": "sentence", "model_id": "gte-small", "poll_interval": 1, "timeout": 300}


def again(retries: int = 1) -> dict[str, Any]:
    """Try again soon."""
    return {"retries": retries, "retry_delay": timedelta(seconds=0.1)}


def sleep_on_first_try(context: Any, word: str) -> None:
    """Block where the test kills the process."""
    if context["ti"].try_number == 1:
        print(word, flush=True)
        time.sleep(300)


class HesitatingOperator(LucidworksChunkOperator):
    """Blocks between its last submission and its deferral."""

    def execute(self, context: Any) -> Any:
        self._seen = context
        return super().execute(context)

    def defer(self, **kwargs: Any) -> Any:
        sleep_on_first_try(self._seen, "about to defer")
        super().defer(**kwargs)


class LingeringOperator(LucidworksChunkOperator):
    """Blocks between its result file and the end of the task."""

    def execute(self, context: Any) -> Any:
        manifest = super().execute(context)
        sleep_on_first_try(context, "about to end")
        return manifest


with DAG("chunking_deferred", schedule=None):
    LucidworksChunkOperator(**FROM_CONF, **COMMON, deferrable=True, outlets=[Asset("chunking_chunks")])

with DAG("chunking_deferred_twice", schedule=None):
    LucidworksChunkOperator(**FROM_CONF, **COMMON, **again(), deferrable=True)

with DAG("chunking_hesitating", schedule=None):
    HesitatingOperator(**FROM_CONF, **COMMON, **again(), deferrable=True)

with DAG("chunking_waiting", schedule=None):
    LucidworksChunkOperator(**FROM_CONF, **COMMON, **again(2), deferrable=False)

with DAG("chunking_policed", schedule=None):
    LucidworksChunkOperator(**FROM_CONF, **COMMON, **again(), retry_policy=LucidworksRetryPolicy())

with DAG("chunking_lingering", schedule=None):
    LingeringOperator(**FROM_CONF, **COMMON, **again(), deferrable=False)

with DAG("chunking_downstream", schedule=None):

    @task(**again())
    def use(manifest: dict[str, Any], ti: Any = None) -> int:
        """Fails once."""
        if ti.try_number == 1:
            raise RuntimeError("the downstream task fails")
        return manifest["chunks"]

    use(LucidworksChunkOperator(**FROM_CONF, **COMMON, deferrable=True).output)

with DAG("chunking_text", schedule=None):
    LucidworksChunkOperator(
        task_id="chunk",
        text="{{ dag_run.conf['text'] }}",
        result_path="{{ dag_run.conf['path'] }}",
        deferrable=False,
        **COMMON,
    )

with DAG("chunking_wrong_secret", schedule=None):
    LucidworksChunkOperator(**FROM_CONF, **COMMON, lucidworks_conn_id="lucidworks_wrong", deferrable=True)

with DAG("chunking_mapped", schedule=None):
    LucidworksChunkOperator.partial(
        task_id="chunk",
        result_path=OUT + "/mapped/{{ ti.map_index }}.parquet",
        lucidworks_conn_id="lucidworks_herd",
        deferrable=True,
        # On a busy machine Airflow may take the end of a deferring process for that of the next
        # (https://github.com/apache/airflow/issues/66374), whatever the provider does.
        **again(),
        **COMMON,
    ).expand(
        documents=[
            [{"id": f"{part}-{n}", "text": f"Part {part}. Text {n}."} for n in range(2)] for part in range(20)
        ]
    )

with DAG("chunking_expiring", schedule=None):
    for name, deferrable in (("triggered", True), ("working", False)):
        LucidworksChunkOperator.partial(
            task_id=name,
            result_path=f"{OUT}/expiring/{name}-{{{{ ti.map_index }}}}.parquet",
            lucidworks_conn_id="lucidworks_expiring",
            deferrable=deferrable,
            **COMMON,
        ).expand(
            documents=[
                [{"id": f"{name}-{part}-{n}", "text": f"A {name} text, {part}, {n}."} for n in range(2)]
                for part in range(3)
            ]
        )

with DAG("chunking_limited", schedule=None):
    LucidworksChunkOperator(
        **FROM_CONF, **COMMON, **again(), deferrable=True, execution_timeout=timedelta(seconds=20)
    )

with DAG("chunking_mapped_rows", schedule=None):

    @task
    def row(number: int) -> dict[str, Any]:
        """A document of each mapped task."""
        return {"id": number, "text": f"Mapped text {number}."}

    @task.lucidworks_chunk(
        task_id="chunk", result_path="{{ dag_run.conf['path'] }}", deferrable=True, **COMMON
    )
    def rows(documents: Any) -> Any:
        """Returns what it gets: a sequence that is no list."""
        assert not isinstance(documents, list), type(documents)
        return documents

    rows(row.expand(number=[1, 2, 3]))
