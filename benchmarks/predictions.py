# SPDX-License-Identifier: Apache-2.0
"""
A thousand inputs through ``LucidworksPredictionOperator``; the emulator takes 50 ms for a response.

The *ideal* is the time of the requests alone: 32 of them (31 of 32 inputs, one of 8), ``concurrency`` at a time. The
goal is for summaries at the default concurrency, which the emulator computes in almost no time.

The loop sends one request after the other with a ``requests.Session``, and has its token already.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import requests

from benchmarks.harness import (
    Goal,
    batches,
    command_line,
    context,
    emulated,
    median_range,
    post_batches,
    print_heads,
    print_row,
    quiet,
    report,
)
from dev.demo import Emulator
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from lucidworks_provider.operators.prediction import LucidworksPredictionOperator

LATENCY, ROUNDS = 0.05, 7
BATCHES = batches([f"Ticket {n}: the parcel has not arrived" for n in range(1000)])
CASES: dict[str, dict[str, Any]] = {
    "summarization": {"model_id": "llama-3-8b-instruct", "use_case_config": {"maxWords": 5}},
    "classification": {"model_id": "gte-small", "use_case_config": {"labels": ["bug", "question", "praise"]}},
    "embedding": {"model_id": "gte-small", "model_config": {"dimReductionSize": 64}},
}


def operator(use_case: str, concurrency: int, path: str | None) -> None:
    LucidworksPredictionOperator(
        task_id="predict",
        use_case=use_case,
        inputs=[text for batch in BATCHES for text in batch],
        concurrency=concurrency,
        result_path=path,
        **CASES[use_case],
    ).execute(context())


def loop(url: str, use_case: str) -> None:
    case = CASES[use_case]
    body = {"useCaseConfig": case.get("use_case_config", {}), "modelConfig": case.get("model_config", {})}
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {LucidworksHook().get_token()}"
        list(post_batches(session, f"{url}/ai/prediction/{use_case}/{case['model_id']}", BATCHES, **body))


def measure(emulator: Emulator, name: str, concurrency: int, run: Callable[[], None]) -> float:
    """Print a row; the time relative to the ideal."""

    def requests_of() -> int:
        return sum("/ai/prediction/" in one["path"] and one["status"] == 200 for one in emulator.get("log"))

    before, seconds = requests_of(), []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    ratio = statistics.median(seconds) / (-(-len(BATCHES) // concurrency) * LATENCY)
    sent = (requests_of() - before) / ROUNDS
    print_row(name, concurrency, f"{sent:g}", median_range(seconds, ".2f"), f"{ratio:.2f}")
    return ratio


def main() -> int:
    """Print the table; 1 if the goal is missed."""
    command_line(__doc__)
    quiet()
    result = f"{tempfile.mkdtemp(prefix='predictions-')}/rows.parquet"
    ratios = []
    with emulated(latency=LATENCY) as emulator:
        began = time.perf_counter()
        operator("classification", 4, None)
        print(f"first run, with imports and token: {time.perf_counter() - began:.2f} s\n")
        print_heads("what", "at a time", "requests", "seconds", "times the ideal")
        for case in CASES:
            for concurrency in (4, 8):
                for kind, path in (("inline", None), ("to Parquet", result)):

                    def run(use_case: str = case, most: int = concurrency, path: str | None = path) -> None:
                        operator(use_case, most, path)

                    ratios.append(measure(emulator, f"{case}, {kind}", concurrency, run))
            measure(emulator, f"loop, {case}", 1, lambda case=case: loop(emulator.url, case))  # type: ignore[misc]
    return report([Goal("summaries inline, 4 at a time: times the ideal", ratios[0], 1.2)])


if __name__ == "__main__":
    sys.exit(main())
