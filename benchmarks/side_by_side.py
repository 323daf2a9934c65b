# SPDX-License-Identifier: Apache-2.0
"""
This package beside what people use instead, in one run and one table.

Rounds take turns, so that a machine whose speed drifts disturbs all alike. The other benchmarks have the details,
more sizes and the goals; here is what can be made the same:

* tokens: processes that start together, where a new token deletes the old one (:mod:`benchmarks.tokens`);
* predictions: a task that embeds a thousand texts (:mod:`benchmarks.embedding_tasks`), and the same if a response,
  half way, gets lost: what was asked for in all;
* waiting: triggers in a real triggerer (:mod:`benchmarks.triggers`);
* corpora: documents to chunks, beside the best loops with threads (:mod:`benchmarks.corpus_baseline`);
* imports: what a DAG file pays (:mod:`benchmarks.imports`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from benchmarks import corpus, corpus_baseline, imports, tokens, triggers
from benchmarks.corpus_documents import write_documents
from benchmarks.embedding_tasks import INPUTS, TASKS
from benchmarks.harness import child, served

OURS = "Lucidworks"


@dataclass(frozen=True, slots=True)
class Line:
    """
    A line of the table.

    :param work: what is done; the first line of a work is ours, and the ratios are to its median.
    :param values: one of each round.
    """

    work: str
    who: str
    values: Sequence[float]

    @property
    def middle(self) -> float:
        """The median."""
        return statistics.median(self.values)


def token_lines(rounds: int) -> Iterator[Line]:
    """Sixteen processes, cold: tokens that were made, and calls that failed."""
    processes = 16
    clients = list(tokens.usable())
    with ExitStack() as stack:
        redis_url = stack.enter_context(tokens.redis_server()) if tokens._has_redis() else ""
        fleet = tokens.Fleet([processes], clients)
        stack.callback(fleet.stop)
        cells: dict[str, list[tokens.Cell]] = {client.name: [] for client in clients}
        for client in clients:
            fleet.measure(client, processes, redis_url, calls=1, pause=0, seed="")
        for number in range(rounds):
            for client in clients:
                cells[client.name].append(
                    fleet.measure(
                        client,
                        processes,
                        redis_url,
                        calls=tokens.CALLS,
                        pause=tokens.PAUSE,
                        seed=str(number),
                    )
                )
    calls = processes * tokens.CALLS
    for name in sorted(cells, key=lambda name: OURS not in name):
        yield Line(f"tokens made for {processes} processes", name, [one.refreshes for one in cells[name]])
    for name in sorted(cells, key=lambda name: OURS not in name):
        yield Line(f"failed calls of {calls}", name, [one.failed for one in cells[name]])


def prediction_lines(rounds: int) -> Iterator[Line]:
    """Seconds and CPU of a task, and how much is asked for when a response gets lost."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in TASKS}
    asked: dict[str, list[float]] = {name: [] for name in TASKS}
    with served("embedding_server") as url:
        for _ in range(rounds):
            for name in TASKS:
                found[name].append(_embedded(name, url, losing=0)[0])
                asked[name].append(_embedded(name, url, losing=INPUTS // 2)[1])
    for what, key in (
        ("seconds for 1,000 embeddings, imports included", "seconds"),
        ("CPU seconds of it", "cpu"),
        ("MiB of it", "mib"),
    ):
        for name, results in found.items():
            yield Line(what, name, [one[key] for one in results])
    for name, inputs in asked.items():
        yield Line("texts asked for when one response gets lost", name, inputs)


def _embedded(name: str, url: str, *, losing: int) -> tuple[dict[str, Any], float]:
    requests.post(f"{url}/control", json={"losing": losing}, timeout=30).raise_for_status()
    found: dict[str, Any] = child("embedding_tasks", name, url)
    if found["rows"] != INPUTS:
        raise RuntimeError(f"{name}: {found['rows']} rows")
    return found, requests.get(f"{url}/control", timeout=30).json()["inputs"]


def waiting_lines(rounds: int) -> Iterator[Line]:
    """What a waiting trigger costs, and how late it finds its result."""
    waiting = 200
    planned = [
        triggers.Row(kind.name, kind, waiting)
        for kind in (triggers.OURS, *triggers.OTHERS)
        if triggers.installed(kind)
    ]
    pace = triggers.Pace(5.0, 3.0, 10.0)
    cells: dict[str, list[triggers.Cell]] = {row.name: [] for row in planned}
    with ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="triggers-")))
        server = triggers.Server(stack.enter_context(served("trigger_server")))
        airflow = triggers.Airflow(home, server)
        for _ in range(rounds):
            for row in planned:
                cells[row.name].append(triggers.measure(airflow, row, pace))
    columns: tuple[tuple[str, Callable[[triggers.Cell], float]], ...] = (
        (f"KiB for each of {waiting} waiting triggers", lambda one: one.each),
        ("their connections to the service", lambda one: one.sockets),
        ("longest stall of the triggerer while they wait, ms", lambda one: 1000 * one.waiting.longest),
        ("seconds until the last result is found", lambda one: one.found[-1]),
    )
    for what, value in columns:
        for name, its in cells.items():
            yield Line(what, name, [value(one) for one in its])


def corpus_lines(rounds: int) -> Iterator[Line]:
    """Documents of 4 KB to chunks in Parquet: a small catalogue and a larger one."""
    for documents in (2_000, 10_000):
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="corpus-")))
            source = folder / "source"
            write_documents(source, documents, corpus.DOCUMENT_BYTES)
            emulator = stack.enter_context(corpus.service())
            ours: list[float] = []
            # The quickest of five numbers of threads: `corpus_baseline` measures them all.
            loops: dict[str, list[float]] = {corpus_baseline.PLAIN: [], corpus_baseline.SESSION: []}
            for number in range(rounds):
                output = folder / f"out-{number}"
                ours.append(documents / corpus.run(source, output)["seconds"])
                shutil.rmtree(output)
                for kind, found in loops.items():
                    run = corpus_baseline.run_loop(emulator, source, documents, kind, 64)
                    found.append(run.rate)
        work = f"documents a second, {documents:,} of 4 KB"
        yield Line(work, "LucidworksChunkCorpusOperator", ours)
        for kind, found in loops.items():
            yield Line(work, f"a PythonOperator with {corpus_baseline.SAID[kind]} in 64 threads", found)


def import_lines(rounds: int) -> Iterator[Line]:
    """Milliseconds on top of Airflow's SDK."""
    kinds = {
        f"{OURS}PredictionOperator": (
            sys.executable,
            "import lucidworks_provider.operators.prediction",
        )
    }
    kinds |= {name: (sys.executable, f"import airflow.providers.{name}") for name in imports.OFFICIAL}
    if imports.OTHER_PYTHON.exists():
        name = imports.DATABRICKS
        kinds[name] = (str(imports.OTHER_PYTHON), f"import airflow.providers.{name}")
    found: dict[str, list[float]] = {name: [] for name in kinds}
    for number in range(rounds + 1):
        for name, (python, statement) in kinds.items():
            milliseconds = imports.measure(python, statement)[0]
            if number:  # the first compiles
                found[name].append(milliseconds)
    for name, values in found.items():
        yield Line("ms to import the operator", name, values)


PARTS = {
    "tokens": token_lines,
    "predictions": prediction_lines,
    "waiting": waiting_lines,
    "corpora": corpus_lines,
    "imports": import_lines,
}


def table(lines: Sequence[Line]) -> Iterator[str]:
    """In Markdown, with the ratio to ours."""
    yield "| what | who | median (range) | to ours |"
    yield "| --- | --- | --- | --- |"
    ours: dict[str, Line] = {}
    for line in lines:
        mine = ours.setdefault(line.work, line)
        ratio = "1" if mine is line else f"{line.middle / mine.middle:.2f}" if mine.middle else ""
        low, high = min(line.values), max(line.values)
        spread = f" ({low:,.4g} to {high:,.4g})" if low != high else ""
        yield f"| {line.work} | {line.who} | {line.middle:,.4g}{spread} | {ratio} |"


def main() -> int:
    """Measure, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=PARTS, help="one part")
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} cores, load {load:.1f} at the start")
    lines: list[Line] = []
    # Airflow makes its home where it is imported; this one is thrown away.
    with tempfile.TemporaryDirectory(prefix="airflow-") as home:
        os.environ.setdefault("AIRFLOW_HOME", home)
        for name, part in PARTS.items():
            if given.only in (None, name):
                print(f"{name} …", file=sys.stderr, flush=True)
                lines += part(given.rounds)
    print(f"{given.rounds} rounds in turn, load {os.getloadavg()[0]:.1f} at the end\n")
    print("\n".join(table(lines)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
