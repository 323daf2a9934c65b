# SPDX-License-Identifier: Apache-2.0
"""
### Classify the rows of a SQL table

Selects the rows of the table `reviews` that have a text and no label yet, has Lucidworks AI classify them, and writes
the labels to the table `review_labels` in one transaction. The next run selects rows without a prediction again.

Create the connection `postgres_default`, and the table `reviews` with the columns `id bigint PRIMARY KEY` and
`body text`. Another database needs only its hook.

Set `LUCIDWORKS_OUTPUT` (a folder, as URI of any storage that all workers reach) in the environment of the workers, or
edit the constant.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import dag, task

from lucidworks_provider.retry_policy import LucidworksRetryPolicy

OUTPUT = os.environ.get("LUCIDWORKS_OUTPUT", "file:///tmp/lucidworks/output")
POSTGRES = "postgres_default"

CREATE = """
CREATE TABLE IF NOT EXISTS review_labels (
    review_id bigint PRIMARY KEY REFERENCES reviews (id),
    label text,
    labelled_at timestamptz NOT NULL DEFAULT now()
)
"""
# The columns are the id and the text, in this order. A blank text cannot be sent.
SELECT = """
SELECT id, body FROM reviews
WHERE body ~ '[^[:space:]]' AND NOT EXISTS (SELECT FROM review_labels WHERE review_id = id)
ORDER BY id
"""
INSERT = """
INSERT INTO review_labels (review_id, label) SELECT * FROM unnest(%s::bigint[], %s::text[])
ON CONFLICT (review_id) DO UPDATE SET label = excluded.label, labelled_at = now()
"""


@task
def create_table() -> None:
    """The table of labels, if it does not exist."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    PostgresHook(POSTGRES).run(CREATE)


@task.lucidworks_predict(
    use_case="classification",
    use_case_config={"labels": ["praise", "complaint", "question"]},
    model_id="gte-small",
    result_path=f"{OUTPUT}/reviews-{{{{ run_id | replace(':', '-') }}}}.parquet",
    # Without a new row there is nothing to store.
    on_empty="skip",
)
def classify() -> Iterator[tuple[Any, ...]]:
    """The rows without a label. The server-side cursor keeps a part of them in memory at a time."""
    from contextlib import closing

    from airflow.providers.postgres.hooks.postgres import PostgresHook

    with closing(PostgresHook(POSTGRES).get_conn()) as connection, connection.cursor("reviews") as cursor:
        cursor.execute(SELECT)
        yield from cursor


@task
def store(classified: dict[str, Any]) -> int:
    """The labels, in one transaction."""
    from contextlib import closing

    import pyarrow.compute as pc
    import pyarrow.parquet as pq
    from airflow.providers.common.compat.sdk import ObjectStoragePath
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    stored = 0
    with (
        ObjectStoragePath(classified["uri"]).open("rb") as file,
        closing(PostgresHook(POSTGRES).get_conn()) as connection,
        connection.cursor() as cursor,
    ):
        for batch in pq.ParquetFile(file).iter_batches(columns=["id", "status", "label"]):
            rows = batch.filter(pc.equal(batch["status"], "predicted"))
            cursor.execute(INSERT, (rows["id"].to_pylist(), rows["label"].to_pylist()))
            stored += cursor.rowcount
        connection.commit()
    return stored


@dag(
    schedule="@hourly",
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
def classify_sql_table() -> None:
    """Table in, table out."""
    classified = classify()
    create_table() >> classified
    store(classified)


classify_sql_table()
