# SPDX-License-Identifier: Apache-2.0
"""
### Chunk a catalogue every night, on several workers

Lists a folder once and divides the list into shards. One task per shard chunks the new and changed documents of its
part. Then one task commits all shards as one version of two Delta tables. The last task sets the Variable
`lucidworks_catalogue` to the folder of the tables, and its asset event, which has the counts, starts the DAG that
indexes them.

Read the chunks with `lucidworks_provider.corpus.open_dataset(Variable.get("lucidworks_catalogue"))` or any engine
that reads Delta tables. Readers see the version of the night before until `publish` has ended.

To change the model, edit `MODEL`. The next run builds tables in another folder, and the Variable keeps naming the
old ones until the new ones are complete.

Set `LUCIDWORKS_DOCUMENTS` and `LUCIDWORKS_OUTPUT` in the environment of the workers (folders, as URIs of any
storage that all workers reach, e.g. `s3://aws_default@bucket/catalogue`), or edit the constants. The tables do not
depend on `SHARDS`, so it may change from one night to the next.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import Asset, dag, task

from lucidworks_provider.operators.corpus import (
    LucidworksChunkCorpusOperator,
    LucidworksPublishShardsOperator,
)
from lucidworks_provider.retry_policy import LucidworksRetryPolicy

SOURCE = os.environ.get("LUCIDWORKS_DOCUMENTS", "file:///tmp/lucidworks/documents")
MODEL = "gte-small"
OUTPUT = os.environ.get("LUCIDWORKS_OUTPUT", "file:///tmp/lucidworks/output") + f"/catalogue/{MODEL}"
SHARDS = 4
# Schedule the DAG that indexes with `schedule=[Asset("lucidworks_catalogue")]`.
CATALOGUE = Asset("lucidworks_catalogue")


@task
def cut() -> list[str]:
    """List the source; a listing for each of the mapped tasks."""
    from lucidworks_provider.corpus.shards import write_listings

    return write_listings(SOURCE, f"{OUTPUT}/listings", shards=SHARDS)


@task(outlets=[CATALOGUE])
def switch(published: dict[str, Any], *, outlet_events: Any = None) -> str:
    """Point readers at the folder that was published. The counts go with the asset event."""
    from airflow.providers.common.compat.sdk import Variable

    Variable.set("lucidworks_catalogue", published["dataset"])
    outlet_events[CATALOGUE].extra = published
    return str(published["dataset"])


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
    """Folder to tables, a pointer to them, and an event."""
    chunk = LucidworksChunkCorpusOperator.partial(
        task_id="chunk",
        source=SOURCE,
        output_uri=OUTPUT,
        chunker="dynamic-sentence",
        chunker_config={"maxChunkSize": 256, "overlapSize": 1},
        model_id=MODEL,
        # Remove documents that are no longer in the source.
        prune=True,
    ).expand(listing=cut())
    publish = LucidworksPublishShardsOperator(task_id="publish", staged=chunk.output, output_uri=OUTPUT)
    switch(publish.output)


chunk_catalogue()
