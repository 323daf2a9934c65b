# SPDX-License-Identifier: Apache-2.0
"""Extra ``openlineage``: an operator says what it reads and writes."""

from __future__ import annotations

from lucidworks_provider.operators.chunking import LucidworksChunkOperator

if __name__ == "__main__":
    task = LucidworksChunkOperator(
        task_id="chunk",
        documents=[{"id": "a", "text": "One."}],
        chunker="sentence",
        model_id="m",
        result_path="file:///tmp/chunks.jsonl",
    )
    lineage = task.get_openlineage_facets_on_start()
    assert type(lineage).__module__.startswith("airflow.providers.openlineage"), lineage
