# SPDX-License-Identifier: Apache-2.0
"""
A result of 12.6 MB, 1,500 vectors of 384 numbers, from its bytes to a Parquet file.

Compares this package with simdjson (vectors as buffers, nothing checked; if pysimdjson is installed), orjson and the
standard library's ``json``, all with the same columns and write. The cases alternate.

Then each runs in a thread beside an event loop that wakes up every millisecond; "stalled" is the longest delay.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import (
    Goal,
    alternate,
    command_line,
    median_range,
    print_heads,
    print_row,
    report,
    usage,
)
from lucidworks_provider.client.chunking import ChunkingOptions, read_result
from lucidworks_provider.client.http.messages import parse_object
from lucidworks_provider.client.validation import locate
from lucidworks_provider.jobs.columns import ChunkColumns, chunk_schema
from lucidworks_provider.threads import in_thread

CHUNKS, DIMENSION = 1500, 384
OURS, FASTEST, IDLE = "this package", "simdjson, nothing checked", "the loop alone"
OPTIONS = ChunkingOptions("dynamic-sentence", "gte-small")


def chunking_result(count: int, words: int) -> tuple[str, bytes]:
    """A text, and the response with its chunks, of ``words`` words each."""
    rng = random.Random(1)
    lorem = ["lorem", "ipsum", "dolor", "sit", "amet,", "consectetur", "adipiscing"]
    chunks, spans, vectors, at = [], [], [], 0
    for _ in range(count):
        chunks.append(" ".join(rng.choices(lorem, k=words)) + ".")
        spans.append([at, at + len(chunks[-1])])
        at += len(chunks[-1]) + 1
        vector = [rng.uniform(-1, 1) for _ in range(DIMENSION)]
        vectors.append({"tokensUsed": {"inputTokens": 100}, "vector": vector})
    item = {"chunks": chunks, "spans": spans, "vectors": vectors}
    body = {"chunkingId": "j", "status": "READY", "chunkedData": [item]}
    return " ".join(chunks), json.dumps(body).encode()


def write(batch: Any, path: Path) -> None:
    with pq.ParquetWriter(path, batch.schema, compression="zstd", use_dictionary=["document_id"]) as writer:
        writer.write_batch(batch)


def columns_of(decoded: Any, text: str) -> pa.RecordBatch | None:
    """The columns of a decoded response, by this package."""
    columns = ChunkColumns(OPTIONS, with_hash=False)
    chunks = read_result(decoded, "j").chunks
    columns.add("document", chunks, locate(text, chunks))
    return columns.take()


def simdjson_batch() -> Callable[[bytes], pa.RecordBatch] | None:
    """A function that reads the columns with simdjson, unchecked; None if it is not installed."""
    try:
        parser = importlib.import_module("simdjson").Parser()
    except ImportError:
        return None

    def batch(body: bytes) -> pa.RecordBatch:
        (item,) = parser.parse(body)["chunkedData"]
        numbers = b"".join(one["vector"].as_buffer(of_type="d") for one in item["vectors"])
        flat = pa.Array.from_buffers(pa.float64(), len(numbers) // 8, [None, pa.py_buffer(numbers)])
        spans = [list(span) for span in item["spans"]]
        count = len(spans)
        columns = [
            pa.array(["document"] * count),
            pa.array(range(count), pa.int32()),
            pa.array(list(item["chunks"])),
            pa.array([start for start, _ in spans], pa.int64()),
            pa.array([end for _, end in spans], pa.int64()),
            pa.FixedSizeListArray.from_arrays(flat.cast(pa.float32()), DIMENSION),
            pa.array([one["tokensUsed"]["inputTokens"] for one in item["vectors"]], pa.int32()),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=chunk_schema(OPTIONS, DIMENSION, with_hash=False))

    return batch


def timed(call: Callable[[], object]) -> dict[str, float]:
    """What a call uses."""
    with usage() as used:
        call()
    return used


def stalled(call: Callable[[], object]) -> float:
    """The longest delay of an event loop while a call runs in a thread, in milliseconds."""
    stalls: list[float] = []

    async def tick() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            stalls.append(time.perf_counter() - before - 0.001)

    async def run() -> None:
        ticking = asyncio.create_task(tick())
        await asyncio.sleep(0.02)
        stalls.clear()
        await in_thread(call)
        # For the tick that is delayed.
        await asyncio.sleep(0.01)
        ticking.cancel()

    asyncio.run(run())
    return 1000 * max(stalls)


def main() -> int:
    """Print the table; 1 if a goal is missed."""
    rounds = command_line(__doc__, packages=["orjson", "pysimdjson", "pyarrow"], rounds=15).rounds
    text, body = chunking_result(CHUNKS, words=60)
    fastest = simdjson_batch()
    with tempfile.TemporaryDirectory(prefix="results-") as folder:
        path = Path(folder) / "chunks.parquet"
        cases: dict[str, Callable[[], object]] = {
            OURS: lambda: write(columns_of(parse_object(body, "It", packed=True), text), path),
            "orjson, the whole at once": lambda: write(columns_of(orjson.loads(body), text), path),
            "json, the whole at once": lambda: write(columns_of(json.loads(body), text), path),
        }
        if fastest is not None:
            cases = {FASTEST: lambda: write(fastest(body), path), **cases}
        for case in cases.values():
            case()  # not measured
        used = alternate(rounds, {name: partial(timed, case) for name, case in cases.items()})
        cases[IDLE] = partial(time.sleep, 0.1)
        stalls = alternate(rounds, {name: partial(stalled, case) for name, case in cases.items()})
    print(f"{len(body):,} bytes, {CHUNKS} vectors of {DIMENSION}; {rounds} rounds\n")
    print_heads("bytes to Parquet", "ms", "CPU, ms", "loop stalled, ms")
    medians = {}
    for name in cases:
        times = [[1000 * one[kind] for one in used.get(name, ())] for kind in ("seconds", "cpu")]
        medians[name] = [statistics.median(one) for one in times if one]
        print_row(name, *(median_range(one) if one else "" for one in times), median_range(stalls[name]))
    goals = [Goal("stalled, ms, median", statistics.median(stalls[OURS]), 50)]
    if fastest is not None:
        ratio = min(ours / theirs for ours, theirs in zip(medians[OURS], medians[FASTEST], strict=True))
        goals.append(Goal("time or CPU relative to simdjson", ratio, 2))
    return report(goals)


if __name__ == "__main__":
    sys.exit(main())
