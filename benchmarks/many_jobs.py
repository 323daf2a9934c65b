# SPDX-License-Identifier: Apache-2.0
"""
Writes and memory of a task of 1,000 jobs and one of 10,000 (``--short``: 200 and 1,000).

``LucidworksAsyncPredictionOperator`` with a short input per job, which waits in its worker; the emulator without
latency. Writes are those to the task state store, a copy of those beside the result. Then a task of 2,000 jobs (200)
is killed with SIGKILL in the middle of its submissions, and a second attempt continues.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from typing import Any

from benchmarks.harness import (
    Goal,
    child,
    command_line,
    context,
    emulated,
    kill_at,
    print_heads,
    print_row,
    quiet,
    report,
    requests_of,
    usage,
)


class CountingStateStore:
    """A task state store that counts writes and bytes."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.writes: list[int] = []

    def get(self, key: str, default: Any = None) -> Any:
        return self.values.get(key, default)

    def set(self, key: str, value: Any) -> None:
        self.values[key] = value
        self.writes.append(len(value))

    def delete(self, key: str) -> None:
        self.values.pop(key, None)


def run(path: str, jobs: int) -> dict[str, Any]:
    """An attempt of the task, in its own process: what it used, and the sizes of its writes."""
    from airflow.sdk import BaseOperator  # noqa: F401 -- imported by every DAG file

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
    state = CountingStateStore()
    with usage() as used:
        manifest = task.execute(context(run_id=path) | {"task_state_store": state})
    return {"rows": manifest["predictions"], "writes": state.writes, **used}


def main() -> int:
    """Print a table; 1 if a killed task lost an input or submitted more than eight twice."""
    short = command_line(__doc__, short=False).short
    sizes, killed = ((200, 1_000), 200) if short else ((1_000, 10_000), 2_000)
    folder = tempfile.mkdtemp()
    print_heads(
        *("jobs", "writes a job", "KB a job", "largest write, KB", "CPU ms a job", "seconds"),
        "peak MB over the bare process",
    )
    with emulated(pending_polls=0) as emulator:
        for jobs in sizes:
            used = child(run, f"{folder}/{jobs}.jsonl", jobs)
            writes = used["writes"]
            print_row(
                *(f"{used['rows']:,}", f"{len(writes) / jobs:.2f}", f"{sum(writes) / jobs / 1e3:.1f}"),
                *(f"{max(writes) / 1e3:.0f}", f"{1e3 * used['cpu'] / jobs:.1f}", f"{used['seconds']:.0f}"),
                f"{used['peak'] / 1e6:.0f}",
            )
        emulator.post("reset")
        emulator.set(pending_polls=0)
        attempt = (run, f"{folder}/killed.jsonl", killed)
        kill_at(lambda: requests_of(emulator, "submit-prediction") >= killed // 2, *attempt)
        child(*attempt)
        log = emulator.get("log")
    submitted = Counter(line["text_sha256"] for line in log if line["endpoint"] == "submit-prediction")
    return report(
        [
            Goal(f"submitted inputs of {killed:,} after the kill", len(submitted), least=killed),
            Goal("inputs submitted twice", submitted.total() - len(submitted), 8),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
