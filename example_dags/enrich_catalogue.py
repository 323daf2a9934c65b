# SPDX-License-Identifier: Apache-2.0
"""
### Enrich a product catalogue

Reads products (JSON Lines with `sku` and `description`), has Lucidworks AI extract keywords and write summaries by
two asynchronous tasks in parallel, and writes the products with both results.

Set `LUCIDWORKS_CATALOGUE` (the file) and `LUCIDWORKS_OUTPUT` (a folder) in the environment of the workers, as URIs
of any storage that Airflow reaches, or edit the two constants.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from lucidworks_provider.operators.prediction import LucidworksAsyncPredictionOperator
from lucidworks_provider.retry_policy import LucidworksRetryPolicy

CATALOGUE = os.environ.get("LUCIDWORKS_CATALOGUE", "file:///tmp/lucidworks/catalogue.jsonl")
OUTPUT = os.environ.get("LUCIDWORKS_OUTPUT", "file:///tmp/lucidworks/output")
MODEL = "llama-3-8b-instruct"
# The day that a run is for; a run that was triggered by hand may have no logical date.
DAY = "{{ (dag_run.logical_date or dag_run.run_after) | ds }}"


def rows(uri: str) -> list[dict[str, Any]]:
    """A file of JSON Lines."""
    import json

    from airflow.providers.common.compat.sdk import ObjectStoragePath

    lines = ObjectStoragePath(uri).read_text().split("\n")
    return [json.loads(line) for line in lines if line.strip()]


@task
def products() -> list[dict[str, str]]:
    """The inputs; the `id` is not sent, and comes back beside each prediction."""
    return [{"id": product["sku"], "text": product["description"]} for product in rows(CATALOGUE)]


@task
def merge(keywords: dict[str, Any], summaries: dict[str, Any], day: str) -> str:
    """The products, each with its keywords and its summary; a rejected description has neither."""
    import json

    from airflow.providers.common.compat.sdk import ObjectStoragePath

    by_sku = {row["id"]: row.get("keywords") for row in rows(keywords["uri"])}
    summary = {row["id"]: row.get("response") for row in rows(summaries["uri"])}
    uri = f"{OUTPUT}/{day}/enriched.jsonl"
    enriched = [
        product | {"keywords": by_sku[product["sku"]], "summary": summary[product["sku"]]}
        for product in rows(CATALOGUE)
    ]
    ObjectStoragePath(uri).write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in enriched))
    print(f"{len(enriched)} products, {keywords['tokens'] + summaries['tokens']} tokens: {uri}")
    return uri


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
def enrich_catalogue() -> None:
    """Products in, products with keywords and summaries out."""
    inputs = products()
    keywords = LucidworksAsyncPredictionOperator(
        task_id="keywords",
        use_case="keyword-extraction",
        use_case_config={"maxKeywords": 5},
        model_id=MODEL,
        inputs=inputs,
        result_path=f"{OUTPUT}/{DAY}/keywords.jsonl",
        deferrable=True,
    )
    summaries = LucidworksAsyncPredictionOperator(
        task_id="summaries",
        use_case="summarization",
        use_case_config={"maxWords": 12},
        model_id=MODEL,
        inputs=inputs,
        result_path=f"{OUTPUT}/{DAY}/summaries.jsonl",
        deferrable=True,
    )
    merge(keywords.output, summaries.output, DAY)


enrich_catalogue()
