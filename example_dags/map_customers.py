# SPDX-License-Identifier: Apache-2.0
"""
### One task for each customer

Finds a file of reviews for each customer in a folder (`acme.csv`, `globex.csv`, …; columns `id` and `text`), and maps
one operator over them. Each customer has its own task, which succeeds, fails and is retried independently. The list
of mapped tasks in the UI shows the customers instead of numbers, by `map_index_template`.

Set `LUCIDWORKS_REVIEWS` and `LUCIDWORKS_OUTPUT` (folders, as URIs of any storage that all workers reach) in the
environment of the workers, or edit the two constants.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from lucidworks_provider.operators.prediction import LucidworksAsyncPredictionOperator
from lucidworks_provider.retry_policy import LucidworksRetryPolicy

REVIEWS = os.environ.get("LUCIDWORKS_REVIEWS", "file:///tmp/lucidworks/reviews")
OUTPUT = os.environ.get("LUCIDWORKS_OUTPUT", "file:///tmp/lucidworks/output")


@task
def customers(day: str) -> list[dict[str, str]]:
    """The arguments of each mapped task."""
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    files = sorted((path for path in ObjectStoragePath(REVIEWS).iterdir() if path.suffix == ".csv"), key=str)
    return [
        {"inputs": str(file), "result_path": f"{OUTPUT}/{day}/keywords/{file.stem}.jsonl"} for file in files
    ]


@task
def total(results: list[dict[str, Any]]) -> dict[str, int]:
    """The counts of all customers."""
    results = list(results)
    sums = {name: sum(one[name] for one in results) for name in ("predictions", "tokens")}
    return {"customers": len(results), **sums}


@dag(
    schedule="@daily",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=10),
        "retry_policy": LucidworksRetryPolicy(),
    },
    doc_md=__doc__,
    tags=["example", "lucidworks"],
)
def map_customers() -> None:
    """A folder of files to a folder of files."""
    keywords = LucidworksAsyncPredictionOperator.partial(
        task_id="keywords",
        use_case="keyword-extraction",
        use_case_config={"maxKeywords": 5},
        model_id="llama-3-8b-instruct",
        deferrable=True,
        map_index_template="{{ task.inputs.rpartition('/')[2] }}",
        # At most five customers at a time; the others wait without a worker slot.
        max_active_tis_per_dag=5,
    ).expand_kwargs(customers("{{ (dag_run.logical_date or dag_run.run_after) | ds }}"))
    total(keywords.output)


map_customers()
