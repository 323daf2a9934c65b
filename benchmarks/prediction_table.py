# SPDX-License-Identifier: Apache-2.0
"""
A table through ``LucidworksPredictionOperator``: Parquet in, embeddings, Parquet out, a million rows of 200 bytes.

The service has no latency and no limit, so that the client's own work is what is measured: CPU seconds of a batch of
32 rows and peak memory over the bare process (Airflow and pyarrow imported), beside a loop over ``requests`` and
pyarrow in the same run. Then the operator is killed in the middle (SIGKILL), and a second attempt finishes.

``--short`` has 50,000 rows.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.harness import child, connect, context, forget_peak, peak_memory, quiet, served, start

BATCH = 32
MODEL = "gte-small"
GOAL_MB, GOAL_CPU = 250, 2.0
CONCURRENCY = 4


def write_table(path: Path, rows: int) -> None:
    """A key, a text of 200 bytes and another column."""
    words = "abcdefg " * 25
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("sku", pa.int64()), ("text", pa.string()), ("brand", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, 100_000):
            numbers = range(start, min(start + 100_000, rows))
            texts = [f"row {n} {words}"[:200] for n in numbers]
            writer.write_table(pa.table([numbers, texts, [f"b{n % 99}" for n in numbers]], schema=schema))


def operator(url: str, table: str, result: str) -> None:
    """The operator as a task runs it."""
    from lucidworks_provider.operators.prediction import LucidworksPredictionOperator

    connect(url)
    task = LucidworksPredictionOperator(
        task_id="t",
        use_case="embedding",
        model_id=MODEL,
        inputs=table,
        id_column="sku",
        columns=["brand"],
        result_path=result,
        concurrency=CONCURRENCY,
    )
    task.execute(context(run_id="r", max_tries=3))


def loop(url: str, table: str, result: str) -> None:
    """What people write instead: one request after the other."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import requests

    writer = None
    with requests.Session() as session:
        session.headers["Authorization"] = "Bearer a.b.c"
        for batch in pq.ParquetFile(table).iter_batches(BATCH):
            texts = [{"text": text} for text in batch.column("text").to_pylist()]
            sent = session.post(f"{url}/ai/prediction/embedding/{MODEL}", json={"batch": texts}, timeout=60)
            sent.raise_for_status()
            vectors = [one["vector"] for one in sent.json()["predictions"]]
            kind = pa.list_(pa.float32(), len(vectors[0]))
            rows = batch.select(["sku", "brand"]).append_column("vector", pa.array(vectors, kind))
            writer = writer or pq.ParquetWriter(result, rows.schema)
            writer.write_batch(rows)
    if writer is not None:
        writer.close()


def measured(name: str, url: str, table: str, result: str) -> None:
    """Run one of both, and print what it took."""
    import psutil
    import pyarrow.parquet  # noqa: F401
    from airflow.sdk import BaseOperator  # noqa: F401 -- every DAG file has it

    quiet()
    process = psutil.Process()
    bare, began, cpu = process.memory_info().rss, time.perf_counter(), time.process_time()
    forget_peak()
    (operator if name == "operator" else loop)(url, table, result)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - began,
                "cpu": time.process_time() - cpu,
                "mb": (peak_memory() - bare) / 1e6,
            }
        )
    )


def inputs_of(url: str, *, reset: bool = False) -> dict[str, int]:
    """What the service was asked, and then nothing."""
    import requests

    asked: dict[str, int] = (requests.post if reset else requests.get)(url, timeout=10).json()
    return asked


def check(fact: object, otherwise: str) -> None:
    """End the benchmark, which has no figures then."""
    if not fact:
        raise SystemExit(otherwise)


def killed(url: str, table: str, folder: Path, rows: int) -> int:
    """Inputs that were sent twice because the first attempt was killed in the middle."""
    inputs_of(url, reset=True)
    run = ("prediction_table", "--run", "operator", url, table, str(folder / "killed.parquet"))
    with start(*run) as first:
        while inputs_of(url)["inputs"] < rows / 2:
            check(first.poll() is None, "the attempt ended before it could be killed")
            time.sleep(0.02)
        first.kill()
    child(*run)
    asked = inputs_of(url, reset=True)
    check(asked["different"] == rows, f"{asked} instead of {rows} inputs")
    return asked["inputs"] - rows


def main() -> int:
    """Print the table; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="50,000 rows, three rounds")
    parser.add_argument(
        "--dimension", type=int, default=384, help="of the vectors; that of gte-small by default"
    )
    parser.add_argument("--run", nargs=4, metavar=("NAME", "URL", "TABLE", "RESULT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        measured(*options.run)
        return 0
    rows, rounds = (50_000, 3) if options.short else (options.rows, options.rounds)
    batches = -(-rows // BATCH)
    found: dict[str, list[dict[str, float]]] = {"loop": [], "operator": []}
    with (
        tempfile.TemporaryDirectory(prefix="predictions-") as name,
        served("prediction_server", str(options.dimension)) as url,
    ):
        folder = Path(name)
        write_table(folder / "table.parquet", rows)
        table = str(folder / "table.parquet")
        for _ in range(rounds):
            for one, values in found.items():
                result = str(folder / f"{one}.parquet")
                values.append(child("prediction_table", "--run", one, url, table, result))
        twice = killed(url, table, folder, rows)
    print(
        f"{rows:,} rows, vectors of {options.dimension} numbers, {CONCURRENCY} at a time, {rounds} rounds\n"
    )
    print("| what | CPU ms a batch | seconds | peak MB over the bare process |\n| --- | --- | --- | --- |")
    medians = {}
    for one, values in found.items():
        cpu, seconds, peak = (statistics.median(v[key] for v in values) for key in ("cpu", "seconds", "mb"))
        medians[one] = (1000 * cpu / batches, peak)
        print(f"| {one} | {1000 * cpu / batches:.2f} | {seconds:.1f} | {peak:.0f} |")
    ratio, peak = medians["operator"][0] / medians["loop"][0], medians["operator"][1]
    print(
        f"\nCPU: {ratio:.2f} times that of the loop (goal {GOAL_CPU:g}); peak {peak:.0f} MB (goal {GOAL_MB}); ",
        end="",
    )
    most = CONCURRENCY * BATCH
    print(f"inputs sent again after a kill: {twice} (at most {most}, those in flight)")
    return int(ratio > GOAL_CPU or peak > GOAL_MB or twice > most)


if __name__ == "__main__":
    sys.exit(main())
