# SPDX-License-Identifier: Apache-2.0
"""
A thousand inputs through ``LucidworksPredictionOperator``, the emulator in a process of its own at 50 ms a response.

The ideal is what the requests alone take: 32 of them (31 of 32 inputs and one of 8), ``concurrency`` at a time, 50 ms
each. The emulator computes its responses on one core while others wait. So the goal is for summaries at the default
concurrency, which it makes with next to no work; the other rows hold much of its time.

Beside it in the same run the loop that people write instead: one request after the other, over a session of
``requests`` that is kept alive, with a token that it has already.
"""

from __future__ import annotations

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from benchmarks.harness import context, emulated, quiet, spread
from dev.demo import Emulator
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from lucidworks_provider.operators.prediction import LucidworksPredictionOperator

INPUTS, BATCH, LATENCY, ROUNDS = 1000, 32, 0.05, 7
GOAL = 1.2
TEXTS = [f"Ticket {n}: the parcel has not arrived" for n in range(INPUTS)]
CASES: dict[str, dict[str, Any]] = {
    "summarization": {"model_id": "llama-3-8b-instruct", "use_case_config": {"maxWords": 5}},
    "classification": {"model_id": "gte-small", "use_case_config": {"labels": ["bug", "question", "praise"]}},
    "embedding": {"model_id": "gte-small", "model_config": {"dimReductionSize": 64}},
}


def operator(use_case: str, concurrency: int, path: Path | None) -> Any:
    """One run of the operator as a task makes it."""
    made = LucidworksPredictionOperator(
        task_id="predict",
        use_case=use_case,
        inputs=TEXTS,
        concurrency=concurrency,
        result_path=None if path is None else str(path),
        **CASES[use_case],
    )
    return made.execute(context())


def loop(url: str, use_case: str) -> list[Any]:
    """One request after the other."""
    case = CASES[use_case]
    body = {"useCaseConfig": case.get("use_case_config", {}), "modelConfig": case.get("model_config", {})}
    rows: list[Any] = []
    with requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {LucidworksHook().get_token()}"
        for start in range(0, INPUTS, BATCH):
            batch = [{"text": text} for text in TEXTS[start : start + BATCH]]
            response = session.post(
                f"{url}/ai/prediction/{use_case}/{case['model_id']}",
                json={**body, "batch": batch},
                timeout=60,
            )
            rows += response.json()["predictions"]
    return rows


def timed(run: Callable[[], Any]) -> list[float]:
    """Seconds of each round."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return seconds


def main() -> int:
    """Print the table; 1 when the goal is missed."""
    quiet()
    folder = Path(tempfile.mkdtemp(prefix="predictions-"))
    with emulated(latency=LATENCY) as emulator:
        started = time.perf_counter()
        operator("classification", 4, None)
        print(
            f"first run of a process, with its imports and its token: {time.perf_counter() - started:.2f} s\n"
        )
        print("| what | requests | seconds, median (range) | times the ideal |\n| --- | --- | --- | --- |")
        worst = 0.0
        for use_case in CASES:
            for concurrency in (4, 8):
                ideal = math.ceil(math.ceil(INPUTS / BATCH) / concurrency) * LATENCY
                for where, path in (("inline", None), ("to Parquet", folder / "rows.parquet")):
                    before = count(emulator, use_case)

                    def run(use: str = use_case, c: int = concurrency, p: Path | None = path) -> None:
                        operator(use, c, p)

                    seconds = timed(run)
                    ratio = statistics.median(seconds) / ideal
                    sent = (count(emulator, use_case) - before) / ROUNDS
                    name = f"operator, {use_case} {where}, {concurrency} at a time"
                    print(f"| {name} | {sent:g} | {spread(seconds, 2)} | **{ratio:.2f}** |")
                    if use_case == "summarization" and concurrency == 4 and path is None:
                        worst = max(worst, ratio)
            seconds = timed(lambda use=use_case: loop(emulator.url, use))  # type: ignore[misc]
            ideal = math.ceil(INPUTS / BATCH) * LATENCY
            print(
                f"| a loop over requests, {use_case} | {math.ceil(INPUTS / BATCH)} | {spread(seconds, 2)} "
                f"| {statistics.median(seconds) / ideal:.2f} |"
            )
    print(
        f"\ngoal for summaries inline, 4 at a time (the default): {GOAL} of the ideal; measured {worst:.2f}"
    )
    return int(worst > GOAL)


def count(emulator: Emulator, use_case: str) -> int:
    """Requests of a use case, none of them with more than 32 inputs, or the emulator had refused it."""
    return sum(
        f"/ai/prediction/{use_case}/" in line["path"] and line["status"] == 200
        for line in emulator.get("log")
    )


if __name__ == "__main__":
    sys.exit(main())
