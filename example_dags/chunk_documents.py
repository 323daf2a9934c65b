# SPDX-License-Identifier: Apache-2.0
"""
### Chunk documents every night

Reads the text files of a folder, has Lucidworks AI chunk and vectorise them, writes one Parquet file, and
prints what is in it and which chunks are nearest to a question. The texts pass through XCom; for more than a few
documents give the URI of a table, or use a catalogue.

Set `LUCIDWORKS_DOCUMENTS` and `LUCIDWORKS_OUTPUT` in the environment of the workers (folders, as URIs of any
storage that Airflow reaches, e.g. `s3://aws_default@bucket/catalogue`), or edit the two constants.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.retry_policy import LucidworksRetryPolicy

SOURCE = os.environ.get("LUCIDWORKS_DOCUMENTS", "file:///tmp/lucidworks/documents")
OUTPUT = os.environ.get("LUCIDWORKS_OUTPUT", "file:///tmp/lucidworks/output")
MODEL = "gte-small"
# The day that a run is for; a run that was triggered by hand may have no logical date.
DAY = "{{ (dag_run.logical_date or dag_run.run_after) | ds }}"
QUESTION = "How do I catch an exception and clean up afterwards?"


@task
def read_documents() -> list[dict[str, str]]:
    """Every text file of the folder; its id is its name."""
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    files = [path for path in ObjectStoragePath(SOURCE).iterdir() if path.name.endswith(".txt")]
    return [{"id": path.name, "text": path.read_text()} for path in sorted(files, key=lambda path: path.name)]


@task
def summarise(chunked: dict[str, Any], question: dict[str, Any]) -> None:
    """Read both files back, as any later task would."""
    import pyarrow.parquet as pq
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    def rows(uri: str) -> list[dict[str, Any]]:
        with ObjectStoragePath(uri).open("rb") as file:
            return pq.read_table(file).to_pylist()

    chunks, query = rows(chunked["uri"]), rows(question["uri"])[0]["vector"]
    print(f"{'documents':>10} {'chunks':>8} {'tokens':>9} {'dimension':>10}")
    print(f"{chunked['documents']:>10,} {len(chunks):>8,} {chunked['tokens']:>9,} {chunked['dimension']:>10}")

    def likeness(chunk: dict[str, Any]) -> float:
        # The vectors have length 1, so their scalar product is the cosine.
        return sum(a * b for a, b in zip(chunk["vector"], query, strict=True))

    print(f"\nNearest to: {QUESTION}")
    for chunk in sorted(chunks, key=likeness, reverse=True)[:3]:
        text = " ".join(chunk["text"].split())
        print(f"{likeness(chunk):.3f}  {chunk['document_id']:<24} {text[:90]}…")
    print(f"\n{chunked['uri']}")


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
def chunk_documents() -> None:
    """Folder to Parquet."""
    chunk = LucidworksChunkOperator(
        task_id="chunk",
        documents=read_documents(),
        chunker="dynamic-sentence",
        chunker_config={"maxChunkSize": 256, "overlapSize": 1},
        model_id=MODEL,
        result_path=f"{OUTPUT}/{DAY}/chunks.parquet",
        deferrable=True,
        poll_interval=2,
        timeout=timedelta(hours=2),
    )
    ask = LucidworksChunkOperator(
        task_id="ask",
        text=QUESTION,
        data_type="query",
        chunker="sentence",
        model_id=MODEL,
        result_path=f"{OUTPUT}/{DAY}/question.parquet",
        deferrable=True,
        poll_interval=2,
    )
    summarise(chunk.output, ask.output)


chunk_documents()
