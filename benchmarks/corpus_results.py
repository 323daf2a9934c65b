# SPDX-License-Identifier: Apache-2.0
"""
A result of 12.6 MB, 1,500 vectors of 384 numbers, from its bytes to a Parquet file.

Beside ours: the fastest parser there is (simdjson, with the vectors as buffers; measured if pysimdjson is installed)
and orjson decoding the whole, both with the same columns and the same write; and the standard library's ``json``.
All take turns, so that none has the quiet moment for itself.

Then the same in a thread beside an event loop that wants to run every millisecond. "Stalled" is how long it had to
wait beyond that; on a machine that is busy otherwise a loop with nothing beside it has to wait as well.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from lucidworks_provider.client.chunking import ChunkingOptions, read_result
from lucidworks_provider.client.http.messages import parse_object
from lucidworks_provider.client.validation import locate
from lucidworks_provider.jobs.columns import ChunkColumns, chunk_schema
from lucidworks_provider.threads import in_thread

CHUNKS, DIMENSION, ROUNDS = 1500, 384, 15
RATIO_GOAL, STALL_GOAL = 2.0, 0.05
OURS, FASTEST, NOTHING = "ours", "simdjson, nothing checked", "nothing, the loop alone"
OPTIONS = ChunkingOptions("dynamic-sentence", "gte-small")


def result() -> tuple[str, bytes]:
    """A text and the body of the GET that carries its chunks."""
    rng = random.Random(1)
    words = ["lorem", "ipsum", "dolor", "sit", "amet,", "consectetur", "adipiscing"]
    chunks, spans, vectors, at = [], [], [], 0
    for _ in range(CHUNKS):
        chunks.append(" ".join(rng.choices(words, k=60)) + ".")
        spans.append([at, at + len(chunks[-1])])
        at += len(chunks[-1]) + 1
        vector = [rng.uniform(-1, 1) for _ in range(DIMENSION)]
        vectors.append({"tokensUsed": {"inputTokens": 100}, "vector": vector})
    item = {"chunks": chunks, "spans": spans, "vectors": vectors}
    return " ".join(chunks), json.dumps(
        {"chunkingId": "j", "status": "READY", "chunkedData": [item]}
    ).encode()


def write(batch: pa.RecordBatch, path: Path) -> None:
    """The same for all."""
    with pq.ParquetWriter(path, batch.schema, compression="zstd", use_dictionary=["document_id"]) as writer:
        writer.write_batch(batch)


def columns_of(decoded: Any, text: str) -> pa.RecordBatch | None:
    """What the provider makes of a decoded body."""
    columns = ChunkColumns(OPTIONS, with_hash=False)
    chunks = read_result(decoded, "j").chunks
    columns.add("document", chunks, locate(text, chunks))
    return columns.take()


def simdjson_batch() -> Callable[[bytes], pa.RecordBatch] | None:
    """Columns by simdjson, without a look at what is in them."""
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


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds and seconds of CPU."""
    started, cpu = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - started, time.process_time() - cpu


async def stalled(call: Callable[[], object]) -> float:
    """The longest that this loop had to wait while a call was made in a thread, seconds."""
    stalls: list[float] = []

    async def heartbeat() -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            stalls.append(time.perf_counter() - before - 0.001)

    beating = asyncio.create_task(heartbeat())
    await asyncio.sleep(0.02)
    stalls.clear()
    await in_thread(call)
    # The heartbeat that was held up has to come to its end.
    await asyncio.sleep(0.01)
    beating.cancel()
    return max(stalls)


def ms(seconds: float) -> str:
    """In milliseconds."""
    return f"{seconds * 1e3:.0f}"


def stall(seconds: list[float]) -> str:
    """Median and longest."""
    return f"{ms(statistics.median(seconds))} ({ms(max(seconds))})"


def main() -> int:
    """Print the table; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    rounds = parser.parse_args().rounds
    text, body = result()
    fastest = simdjson_batch()
    with tempfile.TemporaryDirectory(prefix="results-") as folder:
        path = Path(folder) / "chunks.parquet"
        ways: dict[str, Callable[[], object]] = {
            OURS: lambda: write(columns_of(parse_object(body, "It", packed=True), text), path),
            "orjson, the whole at once": lambda: write(columns_of(orjson.loads(body), text), path),
            "json, the whole at once": lambda: write(columns_of(json.loads(body), text), path),
        }
        if fastest is not None:
            ways = {FASTEST: lambda: write(fastest(body), path), **ways}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        stalls: dict[str, list[float]] = {name: [] for name in (*ways, NOTHING)}
        # The first of each warms up.
        for way in ways.values():
            way()
        for _ in range(rounds):
            for name, way in ways.items():
                times[name].append(timed(way))
        for _ in range(rounds):
            for name, way in {**ways, NOTHING: lambda: time.sleep(0.1)}.items():
                stalls[name].append(asyncio.run(stalled(way)))
    print(f"{len(body):,} bytes, {CHUNKS} vectors of {DIMENSION}; {rounds} rounds\n")
    print("| bytes to Parquet | ms, median (range) | CPU, ms | loop stalled, ms, median (longest) |")
    print("| --- | --- | --- | --- |")
    for name, pairs in times.items():
        seconds, cpu = zip(*pairs, strict=True)
        told = f"{ms(statistics.median(seconds))} ({ms(min(seconds))} to {ms(max(seconds))})"
        print(f"| {name} | {told} | {ms(statistics.median(cpu))} | {stall(stalls[name])} |")
    print(f"| {NOTHING} | | | {stall(stalls[NOTHING])} |")
    good = statistics.median(stalls[OURS]) <= STALL_GOAL
    print(
        f"\nstalled at most {ms(max(stalls[OURS]))} ms (goal {ms(STALL_GOAL)} on a machine with nothing else to do)"
    )
    if fastest is not None:
        wall, cpu_ratio = (
            statistics.median(one[kind] for one in times[OURS])
            / statistics.median(one[kind] for one in times[FASTEST])
            for kind in (0, 1)
        )
        good = good and min(wall, cpu_ratio) <= RATIO_GOAL
        print(
            f"{wall:.2f} times simdjson with the same write, {cpu_ratio:.2f} times its CPU (goal {RATIO_GOAL:g})"
        )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
