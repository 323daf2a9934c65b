# SPDX-License-Identifier: Apache-2.0
"""
### Chunk a catalogue every night, on several workers

Lists a folder once, cuts the list into shards, and lets a task for each shard bring its part of the dataset up to
date: only what is new or changed is sent. Then the parts become one dataset, and an asset event with the counts
starts whatever indexes them.

Readers open the whole with `lucidworks_provider.documents.open_dataset(OUTPUT)`; they see the dataset of the night
before until the last task has ended.

Set `LUCIDWORKS_DOCUMENTS` and `LUCIDWORKS_OUTPUT` in the environment of the workers (folders, as URIs of any
storage that all workers reach, e.g. `s3://aws_default@bucket/catalogue`), or edit the constants. Choose `SHARDS`
once: with another number nearly every document is new to its shard, and is submitted again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import Asset, dag, task

from lucidworks_provider.operators.corpus import LucidworksChunkDocumentsOperator
from lucidworks_provider.retry_policy import LucidworksRetryPolicy

SOURCE = os.environ.get("LUCIDWORKS_DOCUMENTS", "file:///tmp/lucidworks/documents")
OUTPUT = os.environ.get("LUCIDWORKS_OUTPUT", "file:///tmp/lucidworks/output") + "/catalogue"
SHARDS = 4
# Schedule the DAG that indexes with `schedule=[Asset("lucidworks_catalogue")]`.
CATALOGUE = Asset("lucidworks_catalogue")
COUNTS = ("added", "changed", "vanished", "removed", "rejected", "submitted")


@task
def cut() -> list[dict[str, str]]:
    """List the source; what each of the mapped tasks gets."""
    from lucidworks_provider.documents.shards import write_listings

    listings = write_listings(SOURCE, f"{OUTPUT}/listings", shards=SHARDS)
    return [{"listing": uri, "output": f"{OUTPUT}/shard-{n:03}"} for n, uri in enumerate(listings)]


@task(outlets=[CATALOGUE])
def publish(deltas: Sequence[dict[str, Any]], *, outlet_events: Any = None) -> dict[str, Any]:
    """One dataset of all shards; its counts go with the event, the URIs of the lists of ids to the next task."""
    from lucidworks_provider.documents.shards import publish as publish_shards

    deltas = list(deltas)
    whole = publish_shards([delta["dataset"] for delta in deltas], OUTPUT)
    whole |= {name: sum(delta[name] for delta in deltas) for name in COUNTS}
    outlet_events[CATALOGUE].extra = whole
    return whole | {"lists": [delta["lists"] for delta in deltas]}


@dag(
    schedule="0 2 * * *",
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
def chunk_catalogue() -> None:
    """Folder to dataset, and an event."""
    chunk = LucidworksChunkDocumentsOperator.partial(
        task_id="chunk",
        source=SOURCE,
        chunker="dynamic-sentence",
        chunker_config={"maxChunkSize": 256, "overlapSize": 1},
        model_id="gte-small",
        # What the source does not have any more leaves the dataset, too.
        prune=True,
        # Readers of the whole still see what a shard has replaced; `publish` removes it.
        keep_replaced=True,
    ).expand_kwargs(cut())
    publish(chunk.output)


chunk_catalogue()
