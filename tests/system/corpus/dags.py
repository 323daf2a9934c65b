# SPDX-License-Identifier: Apache-2.0
"""The DAG of ``tests.system.corpus.kill``; the DAG folder of its Airflow has a copy."""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG

from lucidworks_provider.operators.corpus import LucidworksChunkCorpusOperator

with DAG("corpus_kill", schedule=None):
    LucidworksChunkCorpusOperator(
        task_id="chunk",
        source="{{ dag_run.conf['source'] }}",
        output_uri="{{ dag_run.conf['output'] }}",
        chunker="dynamic-sentence",
        chunker_config={"maxChunkSize": 64, "overlapSize": 0},
        model_id="gte-small",
        prune=True,
        max_reject_ratio=0.0,
        retries=200,
        retry_delay=timedelta(seconds=1),
    )
