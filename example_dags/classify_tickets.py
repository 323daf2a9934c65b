# SPDX-License-Identifier: Apache-2.0
"""
### Classify a CSV file of support tickets

Reads a CSV file with the columns `ticket`, `body` and `customer`, writes a Parquet file with a label for each ticket
beside its number and customer, and counts the labels.

Set `LUCIDWORKS_TICKETS` (the file, a folder or a glob) and `LUCIDWORKS_OUTPUT` (a folder) in the environment of the
workers, as URIs of any storage that Airflow reaches, or edit the two constants.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from lucidworks_provider.operators.prediction import LucidworksPredictionOperator
from lucidworks_provider.retry_policy import LucidworksRetryPolicy

TICKETS = os.environ.get("LUCIDWORKS_TICKETS", "file:///tmp/lucidworks/tickets.csv")
OUTPUT = os.environ.get("LUCIDWORKS_OUTPUT", "file:///tmp/lucidworks/output")
# The day that a run is for; a run that was triggered by hand may have no logical date.
DAY = "{{ (dag_run.logical_date or dag_run.run_after) | ds }}"


@task
def count(classified: dict[str, Any]) -> dict[str, int]:
    """Tickets for each label. A ticket that was not sent, e.g. because it has no text, has none."""
    import pyarrow.parquet as pq
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    with ObjectStoragePath(classified["uri"]).open("rb") as file:
        labels = pq.read_table(file, columns=["label"])["label"].value_counts().to_pylist()
    return {one["values"] or "none": one["counts"] for one in labels}


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
def classify_tickets() -> None:
    """CSV in, Parquet out."""
    classify = LucidworksPredictionOperator(
        task_id="classify",
        use_case="classification",
        use_case_config={"labels": ["delivery", "payment", "product question", "praise"]},
        model_id="gte-small",
        inputs=TICKETS,
        id_column="ticket",
        text_column="body",
        columns=["customer"],
        # A fifth of the tickets may be empty or too long; above that, the task fails before it sends anything.
        max_reject_ratio=0.2,
        result_path=f"{OUTPUT}/{DAY}/tickets.parquet",
    )
    count(classify.output)


classify_tickets()
