# SPDX-License-Identifier: Apache-2.0
"""
### Chunk a table of products

Reads products (a file of JSON Lines with `sku` and `description`), has Lucidworks AI chunk and vectorise the
descriptions, writes one Parquet file with the `sku` beside each chunk, and joins it to the products.

Set `LUCIDWORKS_CATALOGUE` (the file) and `LUCIDWORKS_OUTPUT` (a folder) in the environment of the workers, as URIs
of any storage that Airflow reaches, or edit the two constants. Other files need another `join`.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.retry_policy import LucidworksRetryPolicy

CATALOGUE = os.environ.get("LUCIDWORKS_CATALOGUE", "file:///tmp/lucidworks/catalogue.jsonl")
OUTPUT = os.environ.get("LUCIDWORKS_OUTPUT", "file:///tmp/lucidworks/output")
# The day that a run is for; a run that was triggered by hand may have no logical date.
DAY = "{{ (dag_run.logical_date or dag_run.run_after) | ds }}"


@task
def join(chunked: dict[str, Any]) -> dict[str, int]:
    """The number of chunks of each product."""
    import json
    from collections import Counter

    import pyarrow.parquet as pq
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    with ObjectStoragePath(chunked["uri"]).open("rb") as file:
        chunks = Counter(pq.read_table(file, columns=["sku"])["sku"].to_pylist())
    lines = ObjectStoragePath(CATALOGUE).read_text().split("\n")
    products = [json.loads(line) for line in lines if line.strip()]
    return {product["sku"]: chunks[product["sku"]] for product in products}


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
def chunk_products() -> None:
    """A table in, a table out."""
    chunk = LucidworksChunkOperator(
        task_id="chunk",
        documents=CATALOGUE,
        id_column="sku",
        text_column="description",
        chunker="sentence",
        chunker_config={"chunkSize": 1},
        model_id="gte-small",
        result_path=f"{OUTPUT}/{DAY}/products.parquet",
        deferrable=True,
        poll_interval=2,
    )
    join(chunk.output)


chunk_products()
