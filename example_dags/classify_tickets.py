# SPDX-License-Identifier: Apache-2.0
"""
### Classify support tickets

A function returns the texts, its task returns their labels: `@task.lucidworks_predict`. The next task counts them.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from lucidworks_provider.retry_policy import LucidworksRetryPolicy

LABELS = ["delivery", "payment", "product question", "praise"]
TICKETS = {
    "T-1": "My parcel has not arrived, although it was to come on Monday.",
    "T-2": "I was charged twice for one order.",
    "T-3": "Does the tent stand up to a storm?",
    "T-4": "What a lovely shop, I will be back!",
}


@task.lucidworks_predict(
    use_case="classification",
    model_id="gte-small",
    use_case_config={"labels": LABELS},
)
def classify() -> list[dict[str, str]]:
    """The inputs, with the ids by which the labels are told apart."""
    return [{"id": name, "text": text} for name, text in TICKETS.items()]


@task
def route(tickets: list[dict[str, Any]]) -> dict[str, str]:
    """What each queue gets."""
    for label, number in Counter(ticket["label"] for ticket in tickets).most_common():
        print(f"{number:>4}  {label}")
    return {ticket["id"]: ticket["label"] for ticket in tickets}


@dag(
    schedule="@hourly",
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
    """Texts in, labels out."""
    route(classify())


classify_tickets()
