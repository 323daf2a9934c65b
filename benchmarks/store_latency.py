# SPDX-License-Identifier: Apache-2.0
"""
The time to list and read a source on S3 with and without latency of the storage.

::

    python -m benchmarks.store_latency           # 1,000 files in one folder, in 1,000 folders, and of one record
    python -m benchmarks.store_latency --short   # 100
    python -m benchmarks.store_latency --runs    # a first run and an unchanged one over 1,000 folders of one file

The bucket is in moto's server in this process. Each request of s3fs is delayed; with ``--runs``, a proxy delays each
request to the server.
"""

from __future__ import annotations

import json
import os
import time

from benchmarks.harness import command_line, print_heads, print_row, quiet  # isort: skip

from benchmarks.store_requests import CONN_ID, S3Requests, run_corpus
from dev.faulty_proxy import FaultyProxy
from dev.s3_server import BUCKET, s3_client, s3_server
from lucidworks_provider.corpus.plan import Plan
from lucidworks_provider.corpus.run_database import RunDatabase
from lucidworks_provider.documents.readers import ReadOptions, read_file_documents
from lucidworks_provider.documents.source import list_source

LATENCIES = (0.0, 0.04)
SOURCES = {"files": "{:04}.txt", "folders": "{:04}/a.txt", "files of a record": "{:04}.jsonl"}
TEXT = "A text. " * 500


def write_files(folder: str, key: str, count: int) -> None:
    """Put files of one text or record into the bucket."""
    client = s3_client(CONN_ID)
    for number in range(count):
        data = json.dumps({"id": str(number), "text": TEXT}) if key.endswith("jsonl") else TEXT
        client.put_object(Bucket=BUCKET, Key=f"{folder}/{key.format(number)}", Body=data.encode())


def measure(source: str) -> tuple[float, float]:
    """Seconds to list a source, and to read its documents."""
    with RunDatabase() as db:
        plan = Plan(
            db,
            read=lambda file: read_file_documents(file, ReadOptions()),
            reuse=False,
            max_text_bytes=1_000_000,
        )
        began = time.perf_counter()
        plan.scan(list_source(source), exact=False)
        listed = time.perf_counter()
        for _ in plan.candidates():
            pass
        return listed - began, time.perf_counter() - listed


def measure_sources(uri: str, count: int) -> None:
    """Print the times to list and read each kind of source."""
    s3_requests = S3Requests()
    print_heads("source", "latency", "seconds to list", "seconds to read")
    for name, key in SOURCES.items():
        write_files(name, key, count)
        measure(f"{uri}/{name}")
        for s3_requests.latency in LATENCIES:
            listed, read = measure(f"{uri}/{name}")
            print_row(
                f"{count:,} {name}", f"{s3_requests.latency * 1000:.0f} ms", f"{listed:.1f}", f"{read:.1f}"
            )
        s3_requests.latency = 0.0


def measure_runs(uri: str, count: int) -> None:
    """Print the times of a first run and of an unchanged one, and their ratios."""
    for source, files in (("warm-up", 1), ("source", count)):
        write_files(source, SOURCES["folders"], files)
    name = f"AIRFLOW_CONN_{CONN_ID.upper()}"
    connection = json.loads(os.environ[name])
    with FaultyProxy(connection["extra"]["endpoint_url"]) as proxy:
        connection["extra"]["endpoint_url"] = proxy.url
        os.environ[name] = json.dumps(connection)
        run_corpus(uri, "warm-up", "warm-up-output", 0)
        seconds: dict[tuple[str, float], float] = {}
        print_heads("run", "latency", "seconds", "requests", "ratio")
        for proxy.latency in LATENCIES:
            for number, run in enumerate(("first", "unchanged")):
                before = proxy.passed.total()
                took = run_corpus(uri, "source", f"output-{proxy.latency}", number)
                seconds[run, proxy.latency] = took
                print_row(
                    *(f"{run}, {count:,} folders", f"{proxy.latency * 1000:.0f} ms", f"{took:.1f}"),
                    *(f"{proxy.passed.total() - before:,}", f"{took / seconds[run, LATENCIES[0]]:.2f}"),
                )


def main() -> None:
    options = command_line(__doc__, short=False, runs=False)
    quiet()
    with s3_server(CONN_ID) as uri:
        (measure_runs if options.runs else measure_sources)(uri, 100 if options.short else 1000)


if __name__ == "__main__":
    main()
