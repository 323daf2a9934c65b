# SPDX-License-Identifier: Apache-2.0
"""
Requests of a run over a corpus to an S3 bucket, by verb.

::

    python -m benchmarks.store_requests           # 1,000 documents, and 5,000 without changes
    python -m benchmarks.store_requests --short   # 100 and 500

Source and output are in a bucket of moto's server in this process, and the service responds at once. Requests are
counted where s3fs sends them.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections import Counter
from typing import Any

from benchmarks.harness import command_line, print_heads, print_row, quiet  # isort: skip

import s3fs

from dev.s3_server import BUCKET, s3_client, s3_server
from lucidworks_provider.client.chunking import ChunkingOptions
from lucidworks_provider.corpus.lease import Holder
from lucidworks_provider.corpus.pipeline import Service
from lucidworks_provider.corpus.run import Corpus, run

OPTIONS = ChunkingOptions("dynamic-sentence", "gte-small")
TEXT = "A document has a sentence of some words. " * 75
CONN_ID = "bench_s3"


class S3Requests:
    """Counts the requests of s3fs, by the first folder and the operation, and delays each by ``latency`` seconds."""

    def __init__(self) -> None:
        self.latency = 0.0
        self.counts: Counter[tuple[str, str]] = Counter()
        original = s3fs.S3FileSystem._call_s3

        async def call(fs: Any, method: str, *args: Any, **kwargs: Any) -> Any:
            key = str(kwargs.get("Key") or kwargs.get("Prefix") or "")
            self.counts[key.partition("/")[0] or "(bucket)", method] += 1
            if self.latency:
                await asyncio.sleep(self.latency)
            return await original(fs, method, *args, **kwargs)

        s3fs.S3FileSystem._call_s3 = call

    def take(self) -> Counter[tuple[str, str]]:
        """The counts since the last call."""
        counts, self.counts = self.counts, Counter()
        return counts


def run_corpus(uri: str, source: str, output: str, number: int) -> float:
    """Seconds of a run with a service whose jobs are ready at the first poll."""
    texts: dict[str, str] = {}

    async def submit(text: str) -> str:
        await asyncio.sleep(0)
        job = str(uuid.uuid4())
        texts[job] = text
        return job

    async def fetch(job: str) -> bytes:
        await asyncio.sleep(0)
        text = texts.pop(job)
        item = {"chunks": [text], "spans": [[0, len(text)]], "vectors": [{"vector": [0.25] * 384}]}
        return json.dumps({"chunkingId": job, "status": "READY", "chunkedData": [item]}).encode()

    corpus = Corpus(f"{uri}/{source}", f"{uri}/{output}", OPTIONS)
    holder = Holder.here(dag_id="d", run_id=f"run {number}", task_id="t", map_index=-1, try_number=1)
    began = time.perf_counter()
    run(corpus, Service(submit, fetch), holder=holder, generation=0, wait_seconds=0)
    return time.perf_counter() - began


def main() -> None:
    share = 10 if command_line(__doc__, short=False).short else 1
    quiet()
    s3_requests = S3Requests()
    print_heads("run", "seconds", "source", "output", "in all")
    with s3_server(CONN_ID) as uri:
        client = s3_client(CONN_ID)
        for documents, names in (
            (1000 // share, ("first load", "nothing changed")),
            (5000 // share, ("", "nothing changed")),
        ):
            folders = f"source-{documents}", f"output-{documents}"
            for number in range(documents):
                client.put_object(Bucket=BUCKET, Key=f"{folders[0]}/{number:05}.txt", Body=TEXT.encode())
            for number, name in enumerate(names):
                s3_requests.take()
                seconds = run_corpus(uri, *folders, number)
                counts = s3_requests.take()
                if name:
                    cells = [
                        ", ".join(f"{verb} {n}" for (at, verb), n in sorted(counts.items()) if at == folder)
                        for folder in folders
                    ]
                    print_row(f"{documents:,}, {name}", f"{seconds:.1f}", *cells, f"{counts.total():,}")


if __name__ == "__main__":
    main()
