# SPDX-License-Identifier: Apache-2.0
"""
This package beside what people use instead, in one run and one table.

Rounds take turns, so that a machine whose speed drifts disturbs all alike. The other benchmarks have the details,
more sizes and the goals; here is what can be made the same:

* tokens: processes that start together, where a new token deletes the old one (:mod:`benchmarks.tokens`);
* predictions: a task that embeds a thousand texts (:mod:`benchmarks.embedding_tasks`), and the same if a response,
  half way, gets lost: what was asked for in all;
* waiting: triggers in a real triggerer (:mod:`benchmarks.triggers`).
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from benchmarks import tokens, triggers
from benchmarks.embedding_tasks import INPUTS, TASKS
from benchmarks.harness import child, served
from dev.packages import redis_binary

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
        redis_url = stack.enter_context(tokens.redis_server()) if redis_binary() else ""
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


PARTS = {
    "tokens": token_lines,
    "predictions": prediction_lines,
    "waiting": waiting_lines,
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
    for name, part in PARTS.items():
        if given.only in (None, name):
            print(f"{name} …", file=sys.stderr, flush=True)
            lines += part(given.rounds)
    print(f"{given.rounds} rounds in turn, load {os.getloadavg()[0]:.1f} at the end\n")
    print("\n".join(table(lines)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
