# SPDX-License-Identifier: Apache-2.0
"""
### Index a catalogue in PostgreSQL with pgvector

Runs whenever `chunk_catalogue` has published a new version. Loads the documents that were added, changed or deleted
since the version that the table has. The version that is loaded is written in the same transaction as the chunks: a
load that fails changes nothing, and the next one starts from the same version.

If the catalogue is another one, or has another model, chunker or dimension, `load` builds a new table with its index
beside the old one and swaps them in the same transaction. Searches use the old table until then.

Create the connection `postgres_default`. The first task creates the extension `vector` if the database does not have
it, which needs a superuser. To load everything again, drop both tables.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from airflow.providers.common.compat.sdk import Asset, dag, task

from lucidworks_provider.retry_policy import LucidworksRetryPolicy

POSTGRES = "postgres_default"
CATALOGUE = Asset("lucidworks_catalogue")

# `catalogue` and `options` (JSON: chunker, model, their configuration and the dimension) say what the chunks are.
CREATE = """
CREATE EXTENSION IF NOT EXISTS vector;
CREATE TABLE IF NOT EXISTS lucidworks_loaded (
    one_row boolean PRIMARY KEY DEFAULT true CHECK (one_row),
    catalogue text,
    options text,
    version bigint
);
INSERT INTO lucidworks_loaded (version) VALUES (NULL) ON CONFLICT DO NOTHING;
"""
# Waits for an active load, and then reads its version.
LOADED = "SELECT catalogue, options, version FROM lucidworks_loaded FOR UPDATE"
CREATE_CHUNKS = """
CREATE TABLE lucidworks_chunks_next (
    document_id text NOT NULL,
    chunk_index integer NOT NULL,
    text text NOT NULL,
    vector vector({dimension}) NOT NULL
)
"""
DELETE = "DELETE FROM lucidworks_chunks WHERE document_id = ANY(%s)"
INSERT = """
INSERT INTO {table} (document_id, chunk_index, text, vector)
SELECT document_id, chunk_index, text, vector::vector
FROM unnest(%s::text[], %s::integer[], %s::text[], %s::text[]) AS rows (document_id, chunk_index, text, vector)
"""
# Indexes are built after the rows, which is faster. Only the last lines lock the table that searches use.
SWAP = """
ALTER TABLE lucidworks_chunks_next ADD CONSTRAINT lucidworks_chunks_next_key PRIMARY KEY (document_id, chunk_index);
CREATE INDEX lucidworks_chunks_next_vector ON lucidworks_chunks_next USING hnsw (vector vector_cosine_ops);
DROP TABLE IF EXISTS lucidworks_chunks;
ALTER TABLE lucidworks_chunks_next RENAME TO lucidworks_chunks;
ALTER INDEX lucidworks_chunks_next_key RENAME TO lucidworks_chunks_key;
ALTER INDEX lucidworks_chunks_next_vector RENAME TO lucidworks_chunks_vector;
"""
NOTE = "UPDATE lucidworks_loaded SET catalogue = %s, options = %s, version = %s"
NEAREST = """
SELECT document_id, chunk_index, vector <=> %s::vector AS distance
FROM lucidworks_chunks ORDER BY distance LIMIT 3
"""


def as_texts(vectors: Any) -> list[str]:
    """Vectors as pgvector reads them, `[0.1,0.2]`; Arrow writes them five times as fast as Python."""
    import pyarrow as pa
    import pyarrow.compute as pc

    numbers = vectors.cast(pa.list_(vectors.type.value_type)).cast(pa.list_(pa.string()))
    texts: list[str] = pc.binary_join_element_wise("[", pc.binary_join(numbers, ","), "]", "").to_pylist()
    return texts


@task
def create_tables() -> None:
    """The extension and the table of what is loaded, if they do not exist."""
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    PostgresHook(POSTGRES).run(CREATE)


@task
def load(catalogue: str) -> dict[str, Any]:
    """What has changed since the version that was loaded, or a new table, in one transaction."""
    import json
    from contextlib import closing

    import pyarrow.compute as pc
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    from lucidworks_provider.corpus import changes, open_dataset, version_of

    counts = {"deleted": 0, "inserted": 0}
    # Closing the connection without a commit rolls the transaction back.
    with closing(PostgresHook(POSTGRES).get_conn()) as connection, connection.cursor() as cursor:
        cursor.execute(LOADED)
        *loaded, since = cursor.fetchone()
        until = version_of(catalogue)
        schema = open_dataset(catalogue, until).schema
        dimension = schema.field("vector").type.list_size
        options = json.dumps(json.loads(schema.metadata[b"lucidworks"]) | {"dimension": dimension})
        table = "lucidworks_chunks"
        if rebuild := loaded != [catalogue, options]:
            table, since = "lucidworks_chunks_next", None
            cursor.execute(CREATE_CHUNKS.format(dimension=dimension))
        # All chunks of a document are in one batch of some thousand rows.
        for batch in changes(catalogue, since=since, until=until):
            if not rebuild:
                cursor.execute(DELETE, (batch["document_id"].unique().to_pylist(),))
                counts["deleted"] += cursor.rowcount
            # A deleted document has one row, without a chunk.
            rows = batch.filter(pc.is_valid(batch["chunk_index"]))
            columns = [rows[name].to_pylist() for name in ("document_id", "chunk_index", "text")]
            cursor.execute(INSERT.format(table=table), (*columns, as_texts(rows["vector"])))
            counts["inserted"] += cursor.rowcount
        if rebuild:
            cursor.execute(SWAP)
        cursor.execute(NOTE, (catalogue, options, until))
        connection.commit()
    print(f"Version {since} to {until}: {counts['deleted']:,} rows deleted, {counts['inserted']:,} inserted")
    return {"since": since, "until": until, **counts}


@task
def check(catalogue: str, loaded: dict[str, Any]) -> None:
    """As many rows as the catalogue has chunks, and the index finds chunks by their own vectors."""
    from contextlib import closing

    import pyarrow.compute as pc
    from airflow.providers.postgres.hooks.postgres import PostgresHook

    from lucidworks_provider.corpus import open_documents, version_of

    # Not the rows of the table of chunks, which may have some of other programs.
    expected = pc.sum(open_documents(catalogue).to_table(columns=["chunks"])["chunks"]).as_py()
    newest = version_of(catalogue)
    with closing(PostgresHook(POSTGRES).get_conn()) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM lucidworks_chunks")
        [count] = cursor.fetchone()
        # A run may have published the next version since the load.
        if count != expected and newest == loaded["until"]:
            raise ValueError(f"PostgreSQL has {count:,} chunks, the catalogue {expected:,}.")
        # HNSW is approximate, so one chunk may be missed; a longer list of candidates makes that rare.
        cursor.execute("SET LOCAL hnsw.ef_search = 200")
        cursor.execute("SELECT vector::text FROM lucidworks_chunks LIMIT 10")
        vectors = [vector for [vector] in cursor.fetchall()]
        found = 0
        for vector in vectors:
            cursor.execute(NEAREST, (vector,))
            nearest = cursor.fetchall()
            found += any(distance < 0.001 for _, _, distance in nearest)
            print("  ".join(f"{distance:.3f} {document} {index}" for document, index, distance in nearest))
    print(f"{count:,} chunks; {found} of {len(vectors)} found by their own vectors")
    if vectors and not found:
        raise ValueError("The index finds no chunk by its own vector.")


@dag(
    schedule=[CATALOGUE],
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
def index_in_postgres() -> None:
    """Delta table to PostgreSQL."""
    catalogue = "{{ var.value.lucidworks_catalogue }}"
    loaded = load(catalogue)
    create_tables() >> loaded
    check(catalogue, loaded)


index_in_postgres()
