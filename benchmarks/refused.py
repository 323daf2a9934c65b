# SPDX-License-Identifier: Apache-2.0
"""
Seconds until a task fails whose requests are all refused with 429, after 50 of 400 were accepted.

Both tasks run in parallel, about seven minutes.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Thread

from benchmarks.harness import (
    child,
    command_line,
    context,
    emulated,
    print_heads,
    print_row,
    quiet,
    requests_of,
)
from dev.processes import until

TASKS = {
    "predict": "synchronous predictions, four at a time",
    "submit-prediction": "submission of asynchronous predictions, eight at a time",
}


def seconds(endpoint: str) -> float:
    """Run a task until it fails, in its own process."""
    from lucidworks_provider.errors import RateLimitError
    from lucidworks_provider.operators.prediction import (
        LucidworksAsyncPredictionOperator,
        LucidworksPredictionOperator,
    )

    quiet()
    with emulated() as emulator:

        def refuse() -> None:
            until(lambda: requests_of(emulator, endpoint) >= 50, "50 requests")
            emulator.post("faults", kind="429", match=endpoint, times=1_000_000)

        Thread(target=refuse, daemon=True).start()
        operator = (
            LucidworksPredictionOperator if endpoint == "predict" else LucidworksAsyncPredictionOperator
        )
        task = operator(
            task_id="t",
            use_case="passthrough",
            model_id="llama-3-8b-instruct",
            inputs=[f"Input number {n}." for n in range(400)],
            batch_size=1,
            result_path=f"{tempfile.mkdtemp()}/result.jsonl",
        )
        began = time.perf_counter()
        try:
            task.execute(context())
        except RateLimitError:
            return time.perf_counter() - began
    raise AssertionError("the task has not failed")


def main() -> None:
    command_line(__doc__)
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(partial(child, seconds), TASKS))
    print_heads("task", "seconds")
    for task, took in zip(TASKS.values(), results, strict=True):
        print_row(task, f"{took:.0f}")


if __name__ == "__main__":
    main()
