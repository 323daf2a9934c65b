# SPDX-License-Identifier: Apache-2.0
"""DAGs for :mod:`test_live_audit`: tasks with secrets and texts, deferred and not, succeeding and failing."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from lucidworks_provider.operators.corpus import LucidworksChunkCorpusOperator
from lucidworks_provider.operators.models import LucidworksTrainModelOperator
from lucidworks_provider.operators.prediction import (
    LucidworksAsyncPredictionOperator,
    LucidworksPredictionOperator,
)

OUT = os.environ["AUDIT_OUT"]
# A plain string, as in careless code. Its file is outside the folders that the audit searches.
KEY = Path(os.environ["AUDIT_KEY_FILE"]).read_text(encoding="utf-8")
QUESTIONS = [{"text": "What is it?", "documents": [{"body": "It is a tent.", "source": "a"}]}]

with DAG("audit_keys", schedule=None):
    LucidworksPredictionOperator(
        task_id="in_an_argument",
        use_case="rag",
        model_id="gpt-4o",
        inputs=QUESTIONS,
        model_config={"apiKey": KEY},
        result_path=f"{OUT}/in_an_argument.jsonl",
    )
    LucidworksAsyncPredictionOperator(
        task_id="by_a_connection",
        use_case="rag",
        model_id="gpt-4o",
        inputs=QUESTIONS,
        api_key_conn_id="third_party",
        result_path=f"{OUT}/by_a_connection.jsonl",
        deferrable=True,
    )
    LucidworksTrainModelOperator(
        task_id="train",
        name="audit",
        model_type="ecommerce-rnn",
        training_data={"catalog": "gs://bucket/catalog", "signals": "gs://bucket/signals"},
        credentials_conn_id="training_data",
        poll_interval=1,
        deferrable=True,
    )
    LucidworksPredictionOperator(
        task_id="refused",
        use_case="rag",
        model_id="no-such-model",
        inputs=QUESTIONS,
        model_config={"apiKey": KEY},
        retries=1,
        retry_delay=timedelta(seconds=0.1),
    )
    LucidworksPredictionOperator(
        task_id="wrong_secret",
        use_case="embedding",
        model_id="gte-small",
        inputs=["A text."],
        lucidworks_conn_id="wrong",
    )

with DAG("audit_texts", schedule=None):
    LucidworksChunkCorpusOperator(
        task_id="corpus",
        source=os.environ["AUDIT_SOURCE"],
        output_uri=f"{OUT}/corpus",
        max_reject_ratio=0.5,
        chunker="sentence",
        model_id="gte-small",
        poll_interval=1,
    )
