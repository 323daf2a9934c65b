# SPDX-License-Identifier: Apache-2.0
"""
The DAGs of the live tests of lineage and buttons; a fixture copies this file into a DAG folder.

Each text and each key has the word of the run in it, which must not be found in any event.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, Asset

from lucidworks_provider.operators.chunking import LucidworksChunkOperator
from lucidworks_provider.operators.corpus import LucidworksChunkCorpusOperator
from lucidworks_provider.operators.models import LucidworksTrainModelOperator
from lucidworks_provider.operators.prediction import (
    LucidworksAsyncPredictionOperator,
    LucidworksPredictionOperator,
)

ROOT = Path(os.environ["LINEAGE_ROOT"])
CANARY = os.environ["LINEAGE_CANARY"]
CHUNKING: dict[str, Any] = {"chunker": "sentence", "model_id": "gte-small", "poll_interval": 1}


def documents(*names: str) -> list[dict[str, str]]:
    """Texts that only the service may see."""
    return [
        {"id": name, "text": f"The text of {name} says {CANARY}. It has two sentences."} for name in names
    ]


with DAG("lineage", schedule=None):
    LucidworksChunkCorpusOperator(
        task_id="corpus",
        source=f"{ROOT}/source/**/*.txt",
        output_uri=f"file://{ROOT}/dataset",
        chunker_config={"chunkSize": 1},
        model_config={"vectorQuantizationMethod": "max-scale", "dimReductionSize": 256},
        report_url="https://reports.example.com/catalogue",
        **CHUNKING,
    )
    LucidworksChunkCorpusOperator(
        task_id="handed_over",
        source=documents("x", "y"),
        output_uri=f"file://{ROOT}/handed-over",
        outlets=[Asset(f"file://{ROOT}/handed-over")],
        **CHUNKING,
    )
    LucidworksChunkOperator.partial(
        task_id="mapped",
        result_path=f"file://{ROOT}/mapped/{{{{ ti.map_index }}}}.parquet",
        inlets=[Asset(f"file://{ROOT}/raw")],
        deferrable=True,
        **CHUNKING,
    ).expand(documents=[documents("a"), documents("b", "c")])
    LucidworksPredictionOperator(
        task_id="embed",
        use_case="embedding",
        model_id="gte-small",
        inputs=[one["text"] for one in documents("d", "e", "f")],
        result_path=f"{ROOT}/vectors.parquet",
    )
    LucidworksPredictionOperator(
        task_id="ask",
        use_case="passthrough",
        model_id="llama-3-8b-instruct",
        inputs=documents("h"),
        result_path=f"{ROOT}/answers.jsonl",
        api_key_conn_id="third_party",
    )
    LucidworksTrainModelOperator(
        task_id="train",
        name="catalogue",
        model_type="ecommerce-rnn",
        training_data={
            "catalog": "gs://training/catalogue.parquet",
            "signals": f"https://user:{CANARY}@signals.example.com/all.parquet?signature={CANARY}",
        },
        training_data_credentials={"serviceAccountKey": f"key {CANARY}"},
        deferrable=True,
        poll_interval=1,
    )
    LucidworksChunkOperator(
        task_id="failing",
        documents=documents("g"),
        result_path=f"{ROOT}/failing.parquet",
        lucidworks_conn_id="lucidworks_wrong",
        **CHUNKING,
    )

# Whose events have all attributes of the operators.
with DAG("lineage_in_full", schedule=None):
    LucidworksAsyncPredictionOperator(
        task_id="ask",
        use_case="passthrough",
        model_id="llama-3-8b-instruct",
        inputs=["A harmless question"],
        model_config={"apiKey": f"key {CANARY}"},
        result_path=f"{ROOT}/by-jobs.jsonl",
        deferrable=True,
        poll_interval=1,
    )
    # A name that Airflow's own masker does not know, nor the service.
    LucidworksPredictionOperator(
        task_id="refused",
        use_case="passthrough",
        model_id="llama-3-8b-instruct",
        inputs=["A harmless question"],
        model_config={"serviceAccountKey": f"key {CANARY}"},
    )
    LucidworksTrainModelOperator(
        task_id="train",
        name="another",
        model_type="ecommerce-rnn",
        training_data={
            "catalog": "gs://training/catalogue.parquet",
            "signals": "gs://training/signals.parquet",
        },
        training_data_credentials={"serviceAccountKey": f"key {CANARY}"},
        wait_for_completion=False,
    )
