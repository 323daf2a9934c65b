# SPDX-License-Identifier: Apache-2.0
"""
``LucidworksChunkCorpusOperator`` with the emulator in its own process, on one machine.

::

    python -m benchmarks.corpus throughput   # documents per second and CPU, compared with the best loop
    python -m benchmarks.corpus memory       # resident memory for few and for many documents
    python -m benchmarks.corpus unchanged    # a run without changes
    python -m benchmarks.corpus all [--short]

Each run of the operator or the loop is a process of its own.

The loop has threads with a ``requests.Session`` each: a POST for a document, and a GET every tenth of a second until
its job is ready; at the end, all chunks are written to one Parquet file. A request that gets a 429 waits for its own
``Retry-After``.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import requests

from benchmarks.corpus_documents import write_documents
from benchmarks.harness import (
    Goal,
    access_token,
    child,
    command_line,
    context,
    emulated,
    median_range,
    print_heads,
    print_row,
    quiet,
    report,
    usage,
)
from dev.demo import Emulator
from lucidworks_provider.documents.document import content_hash
from lucidworks_provider.documents.source import list_source

CHUNKER, MODEL = "dynamic-sentence", "gte-small"
DOCUMENT_BYTES = 4096
# Documents per second relative to the best loop, by number of documents.
RATIOS = {2_000: 1.2, 10_000: 1.4}
LOOP_THREADS = (32, 64, 128)
POLL_SECONDS = 0.1
SERVICE = {"pending_polls": 0, "pending_seconds": 0.1}


def run(source: str, output: str) -> dict[str, Any]:
    """Run the operator, in its own process: what it returned and used, and how many source files it opened."""
    quiet()
    from lucidworks_provider.operators.corpus import LucidworksChunkCorpusOperator

    operator = LucidworksChunkCorpusOperator(
        task_id="chunk", chunker=CHUNKER, model_id=MODEL, source=source, output_uri=output
    )
    opened = 0

    def count_opened(event: str, values: Sequence[object]) -> None:
        nonlocal opened
        opened += event == "open" and str(values[0]).startswith(f"{source}/")

    sys.addaudithook(count_opened)
    began = time.time()
    with usage() as used:
        returned = operator.execute(context())
    return {"returned": returned, "began": began, "opened": opened, **used}


def run_loop(url: str, source: str, threads: int) -> dict[str, Any]:
    """Chunk all text files below a folder, in its own process: the number of chunks, and what it used."""
    import pyarrow.parquet  # noqa: F401 -- not measured

    with tempfile.TemporaryDirectory(prefix="baseline-") as folder, usage() as used:
        chunks = _loop(url, Path(source), Path(folder) / "chunks.parquet", threads)
    return {"chunks": chunks, **used}


def _loop(url: str, source: Path, output: Path, threads: int) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    headers = {"Authorization": f"Bearer {access_token(url)}"}
    local = threading.local()

    def send(method: str, path: str, body: object = None) -> Any:
        if not hasattr(local, "session"):
            local.session = requests.Session()
        while True:
            response = local.session.request(method, url + path, json=body, headers=headers, timeout=30)
            if response.status_code != 429:
                response.raise_for_status()
                return response.json()
            time.sleep(float(response.headers["Retry-After"]))

    def chunk(path: Path) -> list[dict[str, Any]]:
        body = {"batch": [{"text": path.read_text()}], "useCaseConfig": {"dataType": "passage"}}
        job = send("POST", f"/ai/async-chunking/{CHUNKER}/{MODEL}", body)["chunkingId"]
        while True:
            time.sleep(POLL_SECONDS)
            polled = send("GET", f"/ai/async-chunking/{job}")
            if polled["status"] == "READY":
                break
            if polled["status"] == "ERROR":
                raise RuntimeError(polled["message"])
        (item,) = polled["chunkedData"]
        return [
            {"document_id": path.name, "text": text, "start": start, "end": end, "vector": vector["vector"]}
            for text, (start, end), vector in zip(item["chunks"], item["spans"], item["vectors"], strict=True)
        ]

    with ThreadPoolExecutor(threads) as pool:
        rows = [row for chunks in pool.map(chunk, sorted(source.rglob("*.txt"))) for row in chunks]
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


def emulator_cpu(emulator: Emulator) -> float:
    """Seconds of CPU that the emulator has used."""
    return float(sum(psutil.Process(emulator.process.pid).cpu_times()[:2]))


def throughput(*, short: bool) -> list[Goal]:
    """
    Documents per second and CPU per document, alternating with the best loop.

    The emulator returns results that it has computed before, otherwise it would be the bottleneck.
    """
    sizes, rounds = ((1000,), 1) if short else (tuple(RATIOS), 3)
    folder = Path(tempfile.mkdtemp(prefix="corpus-"))
    for documents in sizes:
        write_documents(folder / str(documents), documents, DOCUMENT_BYTES)
    goals = []
    with emulated("benchmarks.remembering_emulator", **SERVICE) as emulator:

        def figures(documents: int, used: dict[str, Any], before: float) -> list[float]:
            cpu = used["cpu"], emulator_cpu(emulator) - before
            return [documents / used["seconds"], *(1000 * seconds / documents for seconds in cpu)]

        def loop(documents: int, threads: int) -> list[float]:
            before = emulator_cpu(emulator)
            used = child(run_loop, emulator.url, str(folder / str(documents)), threads)
            if used["chunks"] < documents:
                raise RuntimeError(f"{used['chunks']} chunks of {documents} documents")
            return figures(documents, used, before)

        def operator(documents: int, number: int) -> list[float]:
            before = emulator_cpu(emulator)
            used = child(run, str(folder / str(documents)), str(folder / f"out-{documents}-{number}"))
            if used["returned"]["added"] != documents:
                raise RuntimeError(f"documents are missing: {used}")
            rates = figures(documents, used, before)
            calls = emulator.get("log")
            submissions = [call["time"] for call in calls if call["endpoint"] == "submit"]
            begin = min(at for at in submissions if at >= used["began"]) - used["began"]
            end = used["began"] + used["seconds"] - calls[-1]["time"] - calls[-1]["seconds"]
            return [*rates, begin, end]

        for documents in sizes:
            loop(documents, LOOP_THREADS[0])
        threads = max(LOOP_THREADS, key=lambda number: loop(sizes[0], number)[0])
        print_heads(
            *("client", "documents", "documents a second", "client CPU a document, ms"),
            *("emulator CPU a document, ms", "s to the first submission", "s after the last response"),
        )
        for documents in sizes:
            pairs = [(operator(documents, number), loop(documents, threads)) for number in range(rounds)]
            ours, theirs = zip(*pairs, strict=True)
            for name, runs in (("operator", ours), (f"loop of {threads} threads", theirs)):
                cells = (median_range(values, ".2f") for values in zip(*runs, strict=True))
                print_row(name, f"{documents:,}", *cells)
            ratios = [one[0] / other[0] for one, other in pairs]
            print_row("operator : loop", f"{documents:,}", median_range(ratios, ".2f"))
            if documents in RATIOS:
                what = f"operator : loop, {documents:,} documents"
                goals.append(Goal(what, statistics.median(ratios), least=RATIOS[documents]))
    return goals


def memory(*, short: bool) -> list[Goal]:
    """Resident memory for few and for many documents."""
    goals = []
    print_heads("documents", "bare, MB", "peak, MB", "over bare, MB")
    with emulated(**SERVICE):
        for documents in (1000, 10_000) if short else (1000, 10_000, 100_000):
            folder = Path(tempfile.mkdtemp(prefix="corpus-"))
            write_documents(folder / "source", documents, DOCUMENT_BYTES)
            used = child(run, str(folder / "source"), str(folder / "out"))
            bare, over = used["bare"] / 2**20, used["peak"] / 2**20
            goals.append(Goal(f"{documents:,} documents, MB over bare", over, 250))
            print_row(f"{documents:,}", f"{bare:.0f}", f"{bare + over:.0f}", f"{over:.0f}")
    return goals


def unchanged(*, short: bool) -> list[Goal]:
    """A run without changes, of tables with one chunk per document that are written without the service."""
    documents = 2000 if short else 100_000
    folder = Path(tempfile.mkdtemp(prefix="corpus-"))
    source, output = str(folder / "source"), str(folder / "out")
    write_documents(folder / "source", documents, 200)
    child(write_tables, source, output)
    with emulated(**SERVICE) as emulator:
        runs = [child(run, source, output) for _ in range(3)]
        sent = sum(emulator.get("stats")["calls"].values())
    over = max(one["peak"] for one in runs) / 2**20
    seconds, cpu = ([one[name] for one in runs] for name in ("seconds", "cpu"))
    print_heads("documents", "seconds", "CPU, s", "over bare, MB")
    print_row(f"{documents:,}", median_range(seconds, ".2f"), median_range(cpu, ".2f"), f"{over:.0f}")
    return [
        Goal("seconds without changes", statistics.median(seconds), 15),
        Goal("requests", sent, 0),
        Goal("opened files of the source", max(one["opened"] for one in runs), 0),
        Goal("skipped documents", min(one["returned"]["skipped"] for one in runs), least=documents),
    ]


def write_tables(source: str, output: str) -> None:
    """Write the tables of all documents of a source, in its own process."""
    from benchmarks import catalogue

    files = {file.path: file for file in list_source(source)}
    parts, rows = catalogue.write_parts(Path(output), list(files), 1, each=1)
    rows = [
        row._replace(
            hash=content_hash((Path(source) / row.id).read_text()),
            size=files[row.id].size,
            etag=files[row.id].etag,
        )
        for row in rows
    ]
    catalogue.commit(Path(output), 1, parts, rows, ())


def main() -> int:
    """Print tables; 1 if a goal is missed."""
    parts = {"throughput": throughput, "memory": memory, "unchanged": unchanged}
    options = command_line(__doc__, part=(*parts, "all"), short=False)
    goals = []
    for name, part in parts.items():
        if options.part in {name, "all"}:
            print(f"\n## {name}\n")
            goals += part(short=options.short)
    return report(goals)


if __name__ == "__main__":
    sys.exit(main())
