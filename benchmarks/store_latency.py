# SPDX-License-Identifier: Apache-2.0
"""
How long reading a source on S3 takes with and without latency of the store: files of one document, and of one record.

::

    python -m benchmarks.store_latency           # 1,000 files in one folder, and in 1,000 folders
    python -m benchmarks.store_latency --short   # 100

The bucket is one of moto's server in this process; the latency is waited for before each request of s3fs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from typing import Any

# Airflow makes its home where it is imported; this one is thrown away.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))

import s3fs

from dev.s3_server import BUCKET, s3_client, s3_server
from lucidworks_provider.corpus.plan import Plan
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


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true")
    count = 100 if parser.parse_args().short else 1000
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
