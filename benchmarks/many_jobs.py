# SPDX-License-Identifier: Apache-2.0
"""
One task of 1,000 jobs and one of 10,000: what is written for each submission, and the peak memory.

::

    python -m benchmarks.many_jobs             # 1,000 and 10,000 jobs
    python -m benchmarks.many_jobs --short     # 200 and 1,000

``LucidworksAsyncPredictionOperator`` of a short input for each job, which waits in its worker, against the emulator
without latency. Writes are counted in the task state store, which gets what is written beside the result. Then a task
of 2,000 jobs (200) is killed with ``kill -9`` in the middle of its submissions, and another attempt continues.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.harness import child, context, emulated, forget_peak, peak_memory, quiet, start


class CountingState:
    """A task state store."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.writes = self.bytes = self.largest = 0

    def get(self, key: str, default: Any = None) -> Any:
        """Read."""
        return self.values.get(key, default)

    def set(self, key: str, value: Any) -> None:
        """Write."""
        self.values[key] = value
        self.writes += 1
        self.bytes += len(value)
        self.largest = max(self.largest, len(value))

    def delete(self, key: str) -> None:
        """Remove."""
        self.values.pop(key, None)


def run(path: str, jobs: int) -> None:
    """One attempt of a task; prints what it took."""
    import psutil
    from airflow.sdk import BaseOperator  # noqa: F401 -- every DAG file has it

    from lucidworks_provider.operators.prediction import LucidworksAsyncPredictionOperator

    quiet()
    task = LucidworksAsyncPredictionOperator(
        task_id="t",
        use_case="passthrough",
        model_id="llama-3-8b-instruct",
        inputs=[f"Input number {n}." for n in range(jobs)],
        batch_size=1,
        result_path=path,
        deferrable=False,
        poll_interval=1,
        timeout=7200,
    )
    state = CountingState()
    bare, began, cpu = psutil.Process().memory_info().rss, time.perf_counter(), time.process_time()
    forget_peak()
    manifest = task.execute(context(run_id=path) | {"task_state_store": state})
    print(
        json.dumps(
            {
                "rows": manifest["predictions"],
                "seconds": time.perf_counter() - began,
                "cpu": time.process_time() - cpu,
                "mb": (peak_memory() - bare) / 1e6,
                "writes": state.writes,
                "bytes": state.bytes,
                "largest": state.largest,
            }
        )
    )


def main() -> int:
    """Print a table; 1 when a killed task submitted more than eight jobs twice."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--child", nargs=2, metavar=("PATH", "JOBS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run(options.child[0], int(options.child[1]))
        return 0
    sizes, killed = ((200, 1_000), 200) if options.short else ((1_000, 10_000), 2_000)
    folder = Path(tempfile.mkdtemp())
    print("| jobs | writes a job | KB a job | largest write, KB | CPU ms a job | seconds | peak MB |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with emulated(pending_polls=0) as emulator:
        for jobs in sizes:
            took = child("many_jobs", "--child", str(folder / f"{jobs}.jsonl"), str(jobs))
            print(
                f"| {took['rows']:,} | {took['writes'] / jobs:.2f} | {took['bytes'] / jobs / 1e3:.1f} | "
                f"{took['largest'] / 1e3:.0f} | {1e3 * took['cpu'] / jobs:.1f} | {took['seconds']:.0f} | "
                f"{took['mb']:.0f} |",
                flush=True,
            )
        emulator.post("reset")
        emulator.set(pending_polls=0)
        attempt = ("many_jobs", "--child", str(folder / "killed.jsonl"), str(killed))
        with start(*attempt) as first:
            while emulator.get("stats")["calls"].get("submit-prediction", 0) < killed // 2:
                time.sleep(0.05)
            first.kill()
        child(*attempt)
        made = Counter(
            line["text_sha256"] for line in emulator.get("log") if line["endpoint"] == "submit-prediction"
        )
    twice = made.total() - len(made)
    print(f"\nkilled in the middle: {len(made):,} of {killed:,} inputs submitted, {twice} of them twice")
    return int(twice > 8 or len(made) != killed)


if __name__ == "__main__":
    sys.exit(main())
