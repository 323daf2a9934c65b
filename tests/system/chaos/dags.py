# SPDX-License-Identifier: Apache-2.0
"""The DAG of ``tests.system.chaos``: a corpus, a chunking task and asynchronous predictions."""

from __future__ import annotations

import ctypes
import os
from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.operators.corpus import LucidworksChunkCorpusOperator
from lucidworks_provider.operators.prediction import LucidworksAsyncPredictionOperator

CONF = "{{ dag_run.conf['%s'] }}"
CHUNKS: dict[str, Any] = {
    "chunker": "dynamic-sentence",
    "chunker_config": {"maxChunkSize": 64, "overlapSize": 0},
    "model_id": "gte-small",
}


def by_its_own_clock(context: Any) -> None:
    """The task's process goes by the clock that ``dev.wrong_clock`` can step, if it has one."""
    if "WRONG_CLOCK" in os.environ:
        ctypes.CDLL(None).wrong_clock_join()


# "chaos" is patient. "chaos_once" fails where a job does not end, and says whose.
PATIENCE: dict[str, dict[str, Any]] = {
    "chaos": {"retries": 30, "timeout": 600},
    "chaos_once": {"retries": 0, "timeout": 25},
}

for name, patience in PATIENCE.items():
    with DAG(
        name,
        schedule=None,
        default_args={
            "retry_delay": timedelta(seconds=2),
            "poll_interval": 2,
            "pre_execute": by_its_own_clock,
            **patience,
        },
    ):
        LucidworksChunkCorpusOperator(
            task_id="corpus",
            source=CONF % "source",
            output_uri=CONF % "corpus",
            max_reject_ratio=0.0,
            **CHUNKS,
        )
        LucidworksChunkOperator(
            task_id="chunk",
            documents="{{ dag_run.conf['documents'] | tojson }}",
            result_path=CONF % "chunks",
            deferrable=True,
            **CHUNKS,
        )
        LucidworksAsyncPredictionOperator(
            task_id="predict",
            use_case="summarization",
            model_id="llama-3-8b-instruct",
            inputs="{{ dag_run.conf['inputs'] | tojson }}",
            result_path=CONF % "predictions",
            batch_size=4,
            deferrable=True,
        )
