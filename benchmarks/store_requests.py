# SPDX-License-Identifier: Apache-2.0
"""
What a run over a corpus asks of an S3 bucket, by verb.

::

    python -m benchmarks.store_requests           # 1,000 documents, and a night of 5,000 without changes
    python -m benchmarks.store_requests --short   # 100 and 500

Source and output are in a bucket of moto's server, in this process; the service responds at once. Requests
are counted where s3fs makes them. What the source alone takes is one request for each document that is read, and one
for each thousand that are listed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
import uuid
from collections import Counter
from dataclasses import replace
from typing import Any

# Airflow makes its home where it is imported; this one is thrown away.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))

import s3fs

from dev.s3_server import BUCKET, s3_client, s3_server
from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus.lease import Holder
from lucidworks_provider.corpus.pipeline import Service
from lucidworks_provider.corpus.run import Corpus, run

TEXT = "A document has a sentence of some words. " * 75
CONN_ID = "bench_s3"


class Counted:
    """Requests of s3fs to the bucket, by what they are for and by operation."""

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        original = s3fs.S3FileSystem._call_s3

        async def call(fs: Any, method: str, *args: Any, **kwargs: Any) -> Any:
            key = str(kwargs.get("Key") or kwargs.get("Prefix") or "")
            self.counts[key.partition("/")[0] or "(bucket)", method] += 1
            return await original(fs, method, *args, **kwargs)

        s3fs.S3FileSystem._call_s3 = call

    def take(self) -> Counter[tuple[str, str]]:
        """Those since the last time."""
        found, self.counts = self.counts, Counter()
        return found


class AtOnce:
    """A service whose jobs are ready at the first poll."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    async def submit(self, text: str) -> str:
        """A job."""
        await asyncio.sleep(0)
        job = str(uuid.uuid4())
        self.texts[job] = text
        return job

    async def fetch(self, job: str) -> bytes:
        """Its result."""
        await asyncio.sleep(0)
        text = self.texts.pop(job)
        item = {"chunks": [text], "spans": [[0, len(text)]], "vectors": [{"vector": [0.25] * 384}]}
        return json.dumps({"chunkingId": job, "status": "READY", "chunkedData": [item]}).encode()


def night(corpus: Corpus, number: int) -> tuple[float, dict[str, Any]]:
    """One run; its seconds and what it returned."""
    service = AtOnce()
    holder = Holder.here(dag_id="d", run_id=f"night {number}", task_id="t", map_index=-1, try_number=1)
    began = time.perf_counter()
    found = run(corpus, Service(service.submit, service.fetch), holder=holder, generation=0, wait_seconds=0)
    return time.perf_counter() - began, found


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true")
    share = 10 if parser.parse_args().short else 1
    first, second = 1000 // share, 5000 // share
    counted = Counted()
    lines = [
        "| run | seconds | of the source | of the output | in all |",
        "| --- | --- | --- | --- | --- |",
    ]
    with s3_server(CONN_ID) as uri:
        client = s3_client(CONN_ID)
        options = ChunkingOptions("dynamic-sentence", "gte-small")
        for documents, names in (
            (first, ("first load", "nothing changed")),
            (second, ("", "nothing changed")),
        ):
            for number in range(documents):
                client.put_object(
                    Bucket=BUCKET, Key=f"source-{documents}/{number:05}.txt", Body=TEXT.encode()
                )
            corpus = Corpus(f"{uri}/source-{documents}", f"{uri}/output-{documents}", options)
            for number, name in enumerate(names):
                counted.take()
                seconds, _ = night(replace(corpus), number)
                counts = counted.take()
                if name:
                    places = [
                        ", ".join(
                            f"{method} {count}"
                            for (at, method), count in sorted(counts.items())
                            if at == place
                        )
                        for place in (f"source-{documents}", f"output-{documents}")
                    ]
                    total = sum(counts.values())
                    lines.append(
                        f"| {documents:,}, {name} | {seconds:.1f} | {places[0]} | {places[1]} | {total:,} |"
                    )
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
