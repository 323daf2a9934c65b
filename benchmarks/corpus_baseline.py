# SPDX-License-Identifier: Apache-2.0
"""
What people write to chunk a catalogue, for the benchmarks that run it beside the operator.

A task with threads, each with a ``requests.Session``: a token, then for each document in a thread the POST, and a GET
every tenth of a second until the job is ready; at the end all chunks go to one Parquet file. It forgets everything
when it dies, and holds everything in memory. A request that is refused with 429 waits for its own ``Retry-After``.
Each run has a process of its own, whose CPU is its alone; what it imports is not counted.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import requests

from benchmarks.harness import access_token, child
from dev.demo import Emulator

POLL_SECONDS = 0.1
CHUNKER, MODEL = "dynamic-sentence", "gte-small"


@dataclass(frozen=True, slots=True)
class Measured:
    """
    One run.

    :param rate: documents a second.
    :param client_ms: CPU of the client a document.
    :param emulator_ms: CPU of the emulator a document.
    """

    rate: float
    client_ms: float
    emulator_ms: float


def loop(url: str, source: Path, output: Path, threads: int) -> int:
    """
    Chunk all text files below a folder.

    :return: the number of chunks.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    headers = {"Authorization": f"Bearer {access_token(url)}"}
    kept = threading.local()

    def send(method: str, path: str, body: object = None) -> requests.Response:
        if not hasattr(kept, "session"):
            kept.session = requests.Session()
        while True:
            response: requests.Response = kept.session.request(
                method, url + path, json=body, headers=headers, timeout=30
            )
            if response.status_code != 429:
                response.raise_for_status()
                return response
            time.sleep(float(response.headers["Retry-After"]))

    def chunk(path: Path) -> list[dict[str, Any]]:
        body: Any = {"batch": [{"text": path.read_text()}], "useCaseConfig": {"dataType": "passage"}}
        submitted = send("POST", f"/ai/async-chunking/{CHUNKER}/{MODEL}", body)
        job = submitted.json()["chunkingId"]
        while True:
            time.sleep(POLL_SECONDS)
            polled = send("GET", f"/ai/async-chunking/{job}")
            body = polled.json()
            if body["status"] == "READY":
                break
            if body["status"] == "ERROR":
                raise RuntimeError(body["message"])
        (item,) = body["chunkedData"]
        return [
            {"document_id": path.name, "text": text, "start": start, "end": end, "vector": vector["vector"]}
            for text, (start, end), vector in zip(item["chunks"], item["spans"], item["vectors"], strict=True)
        ]

    with ThreadPoolExecutor(threads) as pool:
        rows = [row for found in pool.map(chunk, sorted(source.rglob("*.txt"))) for row in found]
    schema = pa.schema(
        [
            ("document_id", pa.string()),
            ("text", pa.string()),
            ("start", pa.int64()),
            ("end", pa.int64()),
            ("vector", pa.list_(pa.float32())),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), output)
    return len(rows)


def run_loop(emulator: Emulator, source: Path, documents: int, threads: int) -> Measured:
    """The loop in a process of its own."""
    server = psutil.Process(emulator.process.pid)
    before = sum(server.cpu_times()[:2])
    found = child("corpus_baseline", emulator.url, str(source), str(threads))
    if found["chunks"] < documents:
        raise RuntimeError(f"{found['chunks']} chunks of {documents} documents")
    emulator_ms = (sum(server.cpu_times()[:2]) - before) / documents * 1000
    return Measured(documents / found["seconds"], found["cpu"] / documents * 1000, emulator_ms)


def main(url: str, source: str, threads: str) -> None:
    """In the child: print what it took."""
    import pyarrow.parquet  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="baseline-") as folder:
        started, cpu = time.perf_counter(), time.process_time()
        chunks = loop(url, Path(source), Path(folder) / "chunks.parquet", int(threads))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(json.dumps({"chunks": chunks, "seconds": seconds, "cpu": cpu}))


if __name__ == "__main__":
    main(*sys.argv[1:])
