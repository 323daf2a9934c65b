# SPDX-License-Identifier: Apache-2.0
"""
How long reading a source on S3 takes with and without latency of the store: files of one document, and of one record.
With ``--runs``, how long runs over a catalogue take.

::

    python -m benchmarks.store_latency           # 1,000 files in one folder, and in 1,000 folders
    python -m benchmarks.store_latency --short   # 100
    python -m benchmarks.store_latency --runs    # a first run and an unchanged one over 1,000 folders of one file

The bucket is one of moto's server in this process; the latency is waited for before each request of s3fs. With
``--runs``, a proxy delays each request to the server instead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import time
from typing import Any

import s3fs

from benchmarks.store_requests import night
from dev.faulty_proxy import FaultyProxy
from dev.s3_server import BUCKET, s3_client, s3_server
from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus.plan import Plan
from lucidworks_provider.corpus.run import Corpus
from lucidworks_provider.corpus.run_database import RunDatabase
from lucidworks_provider.documents.readers import ReadOptions, read_file_documents
from lucidworks_provider.documents.source import list_source

CONN_ID = "bench_s3"
# Each request would be a line.
logging.getLogger("werkzeug").setLevel(logging.WARNING)
LATENCIES = (0.0, 0.04)
SOURCES = {"files": "{:04}.txt", "folders": "{:04}/a.txt", "files of a record": "{:04}.jsonl"}


class Late:
    """Makes each request of s3fs wait."""

    def __init__(self) -> None:
        self.seconds = 0.0
        original = s3fs.S3FileSystem._call_s3

        async def call(fs: Any, method: str, *args: Any, **kwargs: Any) -> Any:
            await asyncio.sleep(self.seconds)
            return await original(fs, method, *args, **kwargs)

        s3fs.S3FileSystem._call_s3 = call


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


def measure_runs(uri: str, count: int) -> None:
    """Print the seconds of a first run and of an unchanged one, and the ratio of both latencies."""
    client, name = s3_client(CONN_ID), f"AIRFLOW_CONN_{CONN_ID.upper()}"
    for source, files in (("warm-up", 1), ("source", count)):
        for number in range(files):
            client.put_object(Bucket=BUCKET, Key=f"{source}/{number:04}/a.txt", Body=b"A text. " * 500)
    connection = json.loads(os.environ[name])
    options = ChunkingOptions("dynamic-sentence", "gte-small")
    with FaultyProxy(connection["extra"]["endpoint_url"]) as proxy:
        connection["extra"]["endpoint_url"] = proxy.url
        os.environ[name] = json.dumps(connection)
        night(Corpus(f"{uri}/warm-up", f"{uri}/warm-up-output", options), 0)
        seconds: dict[tuple[str, float], float] = {}
        print("| run | latency | seconds | requests | ratio |\n| --- | --- | --- | --- | --- |")
        for proxy.latency in LATENCIES:
            corpus = Corpus(f"{uri}/source", f"{uri}/output-{proxy.latency}", options)
            for number, run in enumerate(("first", "unchanged")):
                before = proxy.passed.total()
                seconds[run, proxy.latency], _ = night(corpus, number)
                ratio = seconds[run, proxy.latency] / seconds[run, LATENCIES[0]]
                print(
                    f"| {run}, {count:,} folders | {proxy.latency * 1000:.0f} ms | "
                    f"{seconds[run, proxy.latency]:.1f} | {proxy.passed.total() - before:,} | {ratio:.2f} |",
                    flush=True,
                )


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--runs", action="store_true")
    given = parser.parse_args()
    count = 100 if given.short else 1000
    if given.runs:
        with s3_server(CONN_ID) as uri:
            measure_runs(uri, count)
        return 0
    late = Late()
    print("| source | latency | seconds to list | seconds to read |\n| --- | --- | --- | --- |")
    with s3_server(CONN_ID) as uri:
        client = s3_client(CONN_ID)
        for name, key in SOURCES.items():
            for number in range(count):
                text = "A text. " * 500
                data = json.dumps({"id": str(number), "text": text}) if key.endswith("jsonl") else text
                client.put_object(Bucket=BUCKET, Key=f"{name}/{key.format(number)}", Body=data.encode())
            measure(f"{uri}/{name}")
            for late.seconds in LATENCIES:
                listed, read = measure(f"{uri}/{name}")
                print(
                    f"| {count:,} {name} | {late.seconds * 1000:.0f} ms | {listed:.1f} | {read:.1f} |",
                    flush=True,
                )
            late.seconds = 0.0
    return 0


if __name__ == "__main__":
    sys.exit(main())
