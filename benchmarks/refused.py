# SPDX-License-Identifier: Apache-2.0
"""
Seconds until a task of 400 requests fails, of which the service accepts 50, and then refuses everything with 429.

::

    python -m benchmarks.refused     # both tasks at once, about seven minutes
"""

from __future__ import annotations

import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread

from benchmarks.harness import child, context, emulated, quiet
from dev.processes import until

TASKS = {
    "sync": "synchronous predictions, four at a time",
    "submit": "submission of asynchronous predictions, eight at a time",
}


def seconds(name: str) -> float:
    """Run a task until it fails."""
    from lucidworks_provider.errors import RateLimitError
    from lucidworks_provider.operators.prediction import (
        LucidworksAsyncPredictionOperator,
        LucidworksPredictionOperator,
    )

    quiet()
    with emulated() as emulator:
        endpoint = "predict" if name == "sync" else "submit-prediction"

        def break_it() -> None:
            until(lambda: emulator.get("stats")["calls"].get(endpoint, 0) >= 50, "50 requests")
            emulator.post("faults", kind="429", match=endpoint, times=1_000_000)

        Thread(target=break_it, daemon=True).start()
        operator = LucidworksPredictionOperator if name == "sync" else LucidworksAsyncPredictionOperator
        task = operator(
            task_id="t",
            use_case="passthrough",
            model_id="llama-3-8b-instruct",
            inputs=[f"Input number {n}." for n in range(400)],
            batch_size=1,
            result_path=str(Path(tempfile.mkdtemp()) / "result.jsonl"),
        )
        began = time.perf_counter()
        try:
            task.execute(context())
        except RateLimitError:
            return time.perf_counter() - began
    raise AssertionError("the task has not failed")


def main() -> None:
    """Print a line for each task."""
    with ThreadPoolExecutor() as pool:
        for name, took in zip(TASKS, pool.map(lambda name: child("refused", name), TASKS), strict=True):
            print(f"{TASKS[name]}: {took:.0f} s")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(seconds(sys.argv[1]))
    else:
        main()
