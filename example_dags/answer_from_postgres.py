# SPDX-License-Identifier: Apache-2.0
"""
### Answer questions from an indexed catalogue

Embeds a list of questions, finds the nearest chunks of each in the table that `index_in_postgres` has loaded, and has
Lucidworks AI answer the questions from these chunks (RAG). The questions are embedded with the model of the chunks,
which is read from the database. The connection is `postgres_default`.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from lucidworks_provider.operators.prediction import LucidworksPredictionOperator
from lucidworks_provider.retry_policy import LucidworksRetryPolicy

POSTGRES = "postgres_default"
QUESTIONS = [
    "How do I catch an exception?",
    "What does the with statement do?",
    "How are numbers formatted?",
]
MODEL = "SELECT options::json ->> 'model_id' FROM lucidworks_loaded"
# No rows if the chunks are of another model than the question.
NEAREST = """
SELECT document_id, text FROM lucidworks_chunks
WHERE (SELECT options::json ->> 'model_id' FROM lucidworks_loaded) = %s
ORDER BY vector <=> %s::vector LIMIT 3
"""


@task
def model() -> Any:
    """The model of the chunks."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    return PostgresHook(POSTGRES).get_first(MODEL)[0]


@task
def retrieve(embedded: list[dict[str, Any]], model: str) -> list[dict[str, Any]]:
    """Each question, with the chunks that are nearest to it."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    hook, inputs = PostgresHook(POSTGRES), []
    for question, row in zip(QUESTIONS, embedded, strict=True):
        chunks = hook.get_records(NEAREST, (model, str(row["vector"])))
        if not chunks:
            raise ValueError(f"PostgreSQL has no chunks of the model {model}.")
        inputs.append(
            {"text": question, "documents": [{"body": text, "source": name} for name, text in chunks]}
        )
    return inputs


@task
def show(answers: list[dict[str, Any]]) -> list[str]:
    """The answers, with their sources."""
    for question, row in zip(QUESTIONS, answers, strict=True):
        print(f"{question}\n  {row['answer']}  ({', '.join(row['sources']) or 'no source'})")
    return [row["answer"] for row in answers]


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
def answer_from_postgres() -> None:
    """Questions in, answers out."""
    model_id = model()
    embed = LucidworksPredictionOperator(
        task_id="embed",
        use_case="embedding",
        use_case_config={"dataType": "query"},
        model_id=model_id,
        inputs=QUESTIONS,
    )
    answer = LucidworksPredictionOperator(
        task_id="answer",
        use_case="rag",
        model_id="llama-3-8b-instruct",
        inputs=retrieve(embed.output, model_id),
    )
    show(answer.output)


answer_from_postgres()
