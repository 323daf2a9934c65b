# SPDX-License-Identifier: Apache-2.0
"""
What people write to chunk a catalogue, against the emulator in a process of its own at 100 ms a job.

A task with plain ``requests`` and threads: a token, then for each document in a thread the POST, and a GET every
tenth of a second until the job is ready; at the end all chunks go to one Parquet file. It forgets everything when it
dies, and holds everything in memory. Beside it the same with a ``requests.Session`` in each thread, whose connection
is kept alive: few write that, and it is a good deal faster. Each number of threads has a process of its own, whose
CPU is its alone; what it imports is not counted.

``python -m benchmarks.corpus_baseline [DOCUMENTS]``. What Airflow's own HTTP operators do is measured by
:mod:`benchmarks.corpus_pipeline`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
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

from benchmarks.corpus_documents import write_documents
from dev.demo import Emulator

JOB_SECONDS, POLL_SECONDS = 0.1, 0.1
DOCUMENT_BYTES = 4096
THREADS = (4, 8, 16, 32, 64)
PLAIN, SESSION = "plain", "session"
SAID = {PLAIN: "requests", SESSION: "a requests.Session each"}
CHUNKER, MODEL = "dynamic-sentence", "gte-small"
TOKEN_PATH = "/oauth2/ausao8uveaPmyhv0v357/v1/token"  # noqa: S105  # a path


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


def bearer(url: str) -> dict[str, str]:
    """The header of an access token that is requested for it."""
    answer = requests.post(
        url + TOKEN_PATH,
        params={"scope": "machinelearning.predict", "grant_type": "client_credentials"},
        auth=("demo-client", "demo-secret"),
        headers={
            "Accept": "application/json",
            "Cache-Control": "no-cache",
            "Content-Type": "application/x-www-form-urlencoded",
        },
        timeout=30,
    )
    return {"Authorization": f"Bearer {answer.json()['access_token']}"}


def loop(url: str, source: Path, output: Path, kind: str, threads: int) -> int:
    """
    Chunk all text files below a folder.

    :return: the number of chunks.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    headers = bearer(url)
    kept = threading.local()

    def send(method: str, path: str, body: object = None) -> requests.Response:
        if kind == PLAIN:
            return requests.request(method, url + path, json=body, headers=headers, timeout=30)
        if not hasattr(kept, "session"):
            kept.session = requests.Session()
        session: requests.Session = kept.session
        return session.request(method, url + path, json=body, headers=headers, timeout=30)

    def chunk(path: Path) -> list[dict[str, Any]]:
        body: Any = {"batch": [{"text": path.read_text()}], "useCaseConfig": {"dataType": "passage"}}
        submitted = send("POST", f"/ai/async-chunking/{CHUNKER}/{MODEL}", body)
        submitted.raise_for_status()
        job = submitted.json()["chunkingId"]
        while True:
            time.sleep(POLL_SECONDS)
            polled = send("GET", f"/ai/async-chunking/{job}")
            polled.raise_for_status()
            body = polled.json()
            if body["status"] == "READY":
                break
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


def run_loop(emulator: Emulator, source: Path, documents: int, kind: str, threads: int) -> Measured:
    """The loop in a process of its own."""
    server = psutil.Process(emulator.process.pid)
    before = sum(server.cpu_times()[:2])
    command = [sys.executable, "-m", "benchmarks.corpus_baseline", "--child", emulator.url, str(source)]
    done = subprocess.run([*command, kind, str(threads)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-4000:])
    found = json.loads(done.stdout.splitlines()[-1])
    if found["chunks"] < documents:
        raise RuntimeError(f"{found['chunks']} chunks of {documents} documents")
    emulator_ms = (sum(server.cpu_times()[:2]) - before) / documents * 1000
    return Measured(documents / found["seconds"], found["cpu"] / documents * 1000, emulator_ms)


def child(url: str, source: str, kind: str, threads: str) -> None:
    """In the child: print what it took."""
    import pyarrow.parquet  # noqa: F401

    with tempfile.TemporaryDirectory(prefix="baseline-") as folder:
        started, cpu = time.perf_counter(), time.process_time()
        chunks = loop(url, Path(source), Path(folder) / "chunks.parquet", kind, int(threads))
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    print(json.dumps({"chunks": chunks, "seconds": seconds, "cpu": cpu}))


def best(documents: int, *, rounds: int = 3) -> float:
    """
    Documents a second of plain requests with the best number of threads, the median of several rounds.

    Prints the table, with sessions beside.

    :param rounds: one of all numbers of threads, and the others of the two best of a kind, which take turns.
    """
    options = ("--pending-polls", "0", "--pending-seconds", str(JOB_SECONDS))
    rows: dict[tuple[str, int], list[Measured]] = {(kind, n): [] for kind in SAID for n in THREADS}
    with tempfile.TemporaryDirectory(prefix="baseline-") as folder:
        source = Path(folder) / "source"
        write_documents(source, documents, DOCUMENT_BYTES)
        with Emulator(Path(folder) / "emulator.log", *options) as emulator:
            contenders = list(rows)
            for _ in range(rounds):
                for kind, threads in contenders:
                    rows[kind, threads].append(run_loop(emulator, source, documents, kind, threads))
                contenders = [(kind, threads) for kind in SAID for threads in fastest(rows, kind)[:2]]
    print("| what | documents a second | client CPU a document, ms | emulator CPU a document, ms |")
    print("| --- | --- | --- | --- |")
    for (kind, threads), found in rows.items():
        cells = (told([getattr(one, name) for one in found]) for name in Measured.__slots__)
        print(f"| {SAID[kind]} in {threads} threads, {documents:,} documents | {' | '.join(cells)} |")
    return rate_of(rows[PLAIN, fastest(rows, PLAIN)[0]])


def fastest(rows: dict[tuple[str, int], list[Measured]], kind: str) -> list[int]:
    """Numbers of threads, the best first."""
    return sorted(THREADS, key=lambda threads: rate_of(rows[kind, threads]), reverse=True)


def rate_of(found: list[Measured]) -> float:
    """The median of several rounds."""
    return statistics.median(one.rate for one in found)


def told(values: list[float]) -> str:
    """Median and range."""
    if len(values) == 1:
        return f"{values[0]:.1f}"
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("documents", nargs="?", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(*options.child)
        return 0
    rate = best(options.documents, rounds=options.rounds)
    print(f"\nbest: {rate:.0f} documents a second")
    return 0


if __name__ == "__main__":
    sys.exit(main())
