# SPDX-License-Identifier: Apache-2.0
"""
### A conversation over documents

Asks a question about documents (RAG), rewrites the follow-up question so that it is complete without the first one,
and sends it in the same conversation: `memoryUuid` goes from one task to the next.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from lucidworks_provider.operators.prediction import LucidworksPredictionOperator
from lucidworks_provider.retry_policy import LucidworksRetryPolicy

MODEL = "llama-3-8b-instruct"
DOCUMENTS = [
    {
        "body": "Tents of the Alpine series stand up to winds of 110 km/h when all guy lines are used.",
        "source": "https://shop.example/tents/alpine",
        "title": "Alpine tents",
    },
    {
        "body": "Returns are free within 30 days. The refund takes five days after the parcel has arrived.",
        "source": "https://shop.example/returns",
        "title": "Returns",
    },
]
# Of the one answer of the first question.
CONVERSATION = {"memoryUuid": "{{ ti.xcom_pull('ask')[0]['memoryUuid'] }}"}


@task
def show(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> list[str]:
    """Both answers, with where they are from."""
    answers = []
    for row in (*first, *second):
        print(f"{row['answer']}  ({', '.join(row['sources']) or 'no source'})")
        answers.append(row["answer"])
    return answers


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    default_args={
        "retries": 2,
        "retry_delay": timedelta(seconds=10),
        "retry_policy": LucidworksRetryPolicy(),
    },
    doc_md=__doc__,
    tags=["example", "lucidworks"],
)
def answer_questions() -> None:
    """Question, rewritten follow-up question, answer."""
    ask = LucidworksPredictionOperator(
        task_id="ask",
        use_case="rag",
        model_id=MODEL,
        inputs=[{"text": "What winds do Alpine tents stand up to?", "documents": DOCUMENTS}],
    )
    rewrite = LucidworksPredictionOperator(
        task_id="rewrite",
        use_case="standalone-query-rewriter",
        model_id=MODEL,
        inputs=["And how long does a refund take if it does not?"],
        use_case_config=CONVERSATION,
    )
    ask_again = LucidworksPredictionOperator(
        task_id="ask_again",
        use_case="rag",
        model_id=MODEL,
        inputs=[{"text": "{{ ti.xcom_pull('rewrite')[0]['response'] }}", "documents": DOCUMENTS}],
        use_case_config=CONVERSATION,
    )
    ask >> rewrite >> ask_again
    show(ask.output, ask_again.output)


answer_questions()
