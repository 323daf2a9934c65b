# SPDX-License-Identifier: Apache-2.0
"""
The submissions of a task of 157 jobs with responses after 0.5 s (``--short``: 24 jobs, 0.1 s).

``LucidworksChunkOperator`` until it defers, with the result on a local disk and in a bucket of moto's server. Then a
process is killed with SIGKILL in the middle of its submissions, and a second attempt continues.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter

from benchmarks.harness import command_line, context, emulated, kill_at, print_heads, print_row, quiet  # isort: skip

from airflow.providers.common.compat.sdk import TaskDeferred

from benchmarks.store_requests import CONN_ID, S3Requests
from dev.s3_server import s3_server
from lucidworks_provider.operators.chunking import LucidworksChunkOperator


def submit(path: str, jobs: int) -> float:
    """Seconds of an attempt until it defers."""
    task = LucidworksChunkOperator(
        task_id="chunk",
        chunker="sentence",
        model_id="gte-small",
        documents=[{"id": str(n), "text": f"Document number {n}."} for n in range(jobs)],
        result_path=path,
        deferrable=True,
    )
    began = time.perf_counter()
    try:
        task.execute(context(run_id=path))
    except TaskDeferred:
        return time.perf_counter() - began
    raise RuntimeError("The task did not defer.")


def main() -> None:
    jobs, latency = (24, 0.1) if command_line(__doc__, short=False).short else (157, 0.5)
    quiet()
    s3_requests, folder = S3Requests(), tempfile.mkdtemp()
    with emulated(latency=latency) as emulator, s3_server(CONN_ID) as uri:
        submit(f"{folder}/not-measured.jsonl", 1)
        print_heads("result", "seconds", "requests to S3")
        print_row("local disk", f"{submit(f'{folder}/chunks.jsonl', jobs):.1f}", "")
        s3_requests.take()
        seconds = submit(f"{uri}/results/chunks.jsonl", jobs)
        by_verb = Counter[str]()
        for (_, method), count in s3_requests.take().items():
            by_verb[method] += count
        requests = ", ".join(f"{method} {count}" for method, count in sorted(by_verb.items()))
        print_row("S3", f"{seconds:.1f}", f"{requests}; {by_verb.total()} in all")

        path, before = f"{folder}/killed.jsonl", len(emulator.submissions())
        kill_at(lambda: len(emulator.submissions()) >= before + jobs // 2, submit, path, jobs)
        submit(path, jobs)
        submitted = Counter(line["text_sha256"] for line in emulator.submissions()[before:])
    repeated = submitted.total() - len(submitted)
    print(f"\nkilled: {len(submitted)} of {jobs} documents submitted, {repeated} of them twice")


if __name__ == "__main__":
    main()
