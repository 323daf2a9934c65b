# SPDX-License-Identifier: Apache-2.0
"""The DAGs of the live tests of corpora; a fixture copies this file into a DAG folder."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.providers.common.compat.sdk import DAG

from lucidworks_provider.corpus import lease
from lucidworks_provider.operators.corpus import LucidworksChunkCorpusOperator

# A run that does not wait detects a live lease sooner.
lease.RENEW = 2.0

COMMON: dict[str, Any] = {
    "task_id": "chunk",
    "source": "{{ dag_run.conf['source'] }}",
    "output_uri": "{{ dag_run.conf['output'] }}",
    "chunker": "sentence",
    "model_id": "gte-small",
    "poll_interval": 1,
    "prune": True,
}

with DAG("corpus", schedule=None):
    LucidworksChunkCorpusOperator(**COMMON, retries=1, retry_delay=timedelta(seconds=0.1))

with DAG("corpus_hasty", schedule=None):
    LucidworksChunkCorpusOperator(**COMMON, on_busy="fail")
