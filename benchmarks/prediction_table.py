# SPDX-License-Identifier: Apache-2.0
"""
A table through ``LucidworksPredictionOperator``: Parquet with texts of 200 bytes, embeddings, Parquet.

The service has no latency and no limit, so the client's own work is measured: CPU seconds of a batch of 32 rows, and
peak memory over the process with Airflow and pyarrow imported, compared with a loop over ``requests`` and pyarrow.
Then the operator is killed with SIGKILL when half of the rows are sent, and a second attempt finishes.

``--short``: 50,000 rows, three rounds.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Goal,
    alternate,
    child,
    command_line,
    connect,
    context,
    kill_at,
    post_batches,
    print_heads,
    print_row,
    quiet,
    report,
    served,
    usage,
)

BATCH, CONCURRENCY = 32, 4
MODEL = "gte-small"


def write_table(path: Path, rows: int) -> None:
    """Write a key, a text of 200 bytes and another column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    words = "abcdefg " * 25
    schema = pa.schema([("sku", pa.int64()), ("text", pa.string()), ("brand", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 100_000):
            numbers = range(start, min(start + 100_000, rows))
            texts = [f"row {n} {words}"[:200] for n in numbers]
            writer.write_table(pa.table([numbers, texts, [f"b{n % 99}" for n in numbers]], schema=schema))


def run_operator(url: str, table: str, result: str) -> dict[str, float]:
    """Run the operator in its own process; what it used."""
    import pyarrow.parquet  # noqa: F401 -- not measured
    from airflow.sdk import BaseOperator  # noqa: F401 -- imported by every DAG file

    quiet()
    connect(url)
    with usage() as used:
        from lucidworks_provider.operators.prediction import LucidworksPredictionOperator

        LucidworksPredictionOperator(
            task_id="t",
            use_case="embedding",
            model_id=MODEL,
            inputs=table,
            id_column="sku",
            columns=["brand"],
            result_path=result,
            concurrency=CONCURRENCY,
        ).execute(context(run_id="r", max_tries=3))
    return used


def run_loop(url: str, table: str, result: str) -> dict[str, float]:
    """Send one request after the other, in its own process; what it used."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from airflow.sdk import BaseOperator  # noqa: F401 -- as for the operator

    with usage() as used:
        import requests

        session = requests.Session()
        session.headers["Authorization"] = "Bearer a.b.c"
        writer: Any = None
        for batch in pq.ParquetFile(table).iter_batches(BATCH):
            texts = [batch.column("text").to_pylist()]
            (predictions,) = post_batches(session, f"{url}/ai/prediction/embedding/{MODEL}", texts)
            vectors = [one["vector"] for one in predictions]
            kind = pa.list_(pa.float32(), len(vectors[0]))
            rows = batch.select(["sku", "brand"]).append_column("vector", pa.array(vectors, kind))
            writer = writer or pq.ParquetWriter(result, rows.schema)
            writer.write_batch(rows)
        writer.close()
    return used


def inputs_after_kill(url: str, table: str, result: str, rows: int) -> int:
    """Inputs that the service receives twice because the first attempt is killed."""
    import requests

    def control(**order: bool) -> dict[str, Any]:
        counts: dict[str, Any] = requests.post(f"{url}/control", json=order, timeout=10).json()
        return counts

    control(reset=True)
    kill_at(lambda: control()["inputs"] >= rows / 2, run_operator, url, table, result)
    child(run_operator, url, table, result)
    counts = control()
    if counts["different"] != rows:
        raise RuntimeError(f"{counts} instead of {rows} inputs")
    return int(counts["inputs"]) - rows


def main() -> int:
    """Print the table; 1 if a goal is missed."""
    options = command_line(__doc__, rows=1_000_000, dimension=384, short=False)
    rows, rounds = (50_000, 3) if options.short else (options.rows, 1)
    with (
        tempfile.TemporaryDirectory(prefix="predictions-") as folder,
        served("vectors", str(options.dimension)) as url,
    ):
        table, result = f"{folder}/table.parquet", f"{folder}/result.parquet"
        write_table(Path(table), rows)
        cases = {"loop": run_loop, "operator": run_operator}
        results = alternate(
            rounds, {name: partial(child, case, url, table, result) for name, case in cases.items()}
        )
        repeated = inputs_after_kill(url, table, f"{folder}/killed.parquet", rows)
    print(
        f"{rows:,} rows, vectors of {options.dimension} numbers, {CONCURRENCY} at a time, {rounds} rounds\n"
    )
    print_heads("what", "CPU ms a batch", "seconds", "peak MB over the bare process")
    cpu, peak = {}, {}
    for name, runs in results.items():
        used = {key: statistics.median(run[key] for run in runs) for key in ("cpu", "seconds", "peak")}
        cpu[name], peak[name] = 1000 * used["cpu"] / -(-rows // BATCH), used["peak"] / 1e6
        print_row(name, f"{cpu[name]:.2f}", f"{used['seconds']:.1f}", f"{peak[name]:.0f}")
    return report(
        [
            Goal("CPU, operator : loop", cpu["operator"] / cpu["loop"], 2),
            Goal("peak, MB", peak["operator"], 250),
            Goal("inputs sent again after the kill", repeated, CONCURRENCY * BATCH),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
