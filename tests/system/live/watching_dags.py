# SPDX-License-Identifier: Apache-2.0
"""DAGs for the stories of :mod:`test_live_watching`."""

from __future__ import annotations

import os

from airflow.sdk import DAG, Asset, AssetWatcher, task

from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.triggers import LucidworksModelEventTrigger

MODEL = os.environ["WATCHED_MODEL"]

ready = Asset(
    "ready_model",
    uri=f"lucidworks://demo-customer/models/{MODEL}",
    watchers=[
        AssetWatcher(name="ready", trigger=LucidworksModelEventTrigger(model_id=MODEL, poll_interval=1))
    ],
)

with DAG("watching_model", schedule=[ready], catchup=False):

    @task
    def see(triggering_asset_events: dict | None = None) -> list[dict]:
        """The payloads of the asset events."""
        return [event.extra["payload"] for event in triggering_asset_events[ready]]

    see()

with DAG("watching_metrics", schedule=None):
    LucidworksChunkOperator(
        task_id="chunk",
        chunker="sentence",
        model_id="gte-small",
        documents=[{"id": "a", "text": "One sentence. Another one."}, {"id": "b", "text": "A third one."}],
        chunker_config={"chunkSize": 1, "overlapSize": 0},
        result_path=f"{os.environ['WATCHED_OUT']}/chunks.parquet",
        deferrable=True,
    )
