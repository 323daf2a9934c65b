# SPDX-License-Identifier: Apache-2.0
"""
The submissions of one task of 157 jobs, each with a response after half a second.

::

    python -m benchmarks.submissions           # 157 jobs, 0.5 s
    python -m benchmarks.submissions --short   # 24 jobs, 0.1 s

``LucidworksChunkOperator`` until it defers, with the result on a local disk and in a bucket of moto's server, where
s3fs counts the requests. Then a process is killed with ``kill -9`` in the middle of its submissions, and another
attempt continues.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.harness import context, emulated, start  # isort: skip

from airflow.providers.common.compat.sdk import TaskDeferred

from benchmarks.store_requests import CONN_ID, Counted
from dev.s3_server import s3_server
from lucidworks_provider.operators.chunking import LucidworksChunkOperator


def submit(path: str, jobs: int) -> float:
    """The seconds of an attempt until it defers."""
    made = LucidworksChunkOperator(
        task_id="chunk",
        chunker="sentence",
        model_id="gte-small",
        documents=[{"id": str(n), "text": f"Document number {n}."} for n in range(jobs)],
        result_path=path,
        deferrable=True,
    )
    began = time.perf_counter()
    try:
        made.execute(context(run_id=path))
    except TaskDeferred:
        return time.perf_counter() - began
    raise RuntimeError("The task did not defer.")


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--child", metavar="PATH", help=argparse.SUPPRESS)
    options = parser.parse_args()
    jobs, latency = (24, 0.1) if options.short else (157, 0.5)
    if options.child:
        submit(options.child, jobs)
        return 0
    counted = Counted()
    folder = Path(tempfile.mkdtemp())
    with emulated(latency=latency) as emulator, s3_server(CONN_ID) as uri:
        submit(str(folder / "warm.jsonl"), 1)
        print(
            f"{jobs} jobs, {latency:g} s a response\n\n| result | seconds | requests to S3 |\n| --- | --- | --- |"
        )
        print(f"| local disk | {submit(str(folder / 'chunks.jsonl'), jobs):.1f} | |", flush=True)
        counted.take()
        seconds = submit(f"{uri}/results/chunks.jsonl", jobs)
        by_verb = Counter[str]()
        for (_, method), count in counted.take().items():
            by_verb[method] += count
        requests = ", ".join(f"{method} {count}" for method, count in sorted(by_verb.items()))
        print(f"| S3 | {seconds:.1f} | {requests} |", flush=True)

        path, before = str(folder / "killed.jsonl"), len(emulator.submissions())
        with start("submissions", "--child", path, *sys.argv[1:]) as child:
            while len(emulator.submissions()) < before + jobs // 2:
                time.sleep(latency / 5)
            child.kill()
        submit(path, jobs)
        made = Counter(line["text_sha256"] for line in emulator.submissions()[before:])
        print(
            f"\nkilled in the middle: {len(made)} of {jobs} documents, {made.total() - len(made)} of them twice"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
