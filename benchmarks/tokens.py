# SPDX-License-Identifier: Apache-2.0
"""
Clients that people use for the client-credentials grant, beside each other, on one live token per scope.

The processes are real ones, forked as Airflow forks its tasks: from one that has imported everything. Each makes one
call with each client first, so that no import is in the figures. Then for each client and number of processes they
start together behind a barrier: each gets its token cold and makes its calls, with pauses of random length that are
the same for each client.

A call has failed when its caller sees an exception or a status other than 200. Calls per second counts those that
have not. The emulator, the processes and whatever else runs share the cores, so compare rows of one run.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import os
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path

import requests

from benchmarks.harness import spread
from benchmarks.token_clients import CLIENTS, Client, Service
from dev.packages import redis_binary
from dev.services import RedisServer
from lucidworks_provider.emulator import EmulatorSettings, running

PROCESSES = (1, 8, 64)
CALLS = 20
# Between two calls of a process: half of it to one and a half of it, in seconds.
PAUSE = 0.1
ROUNDS = 3
# A process that needs longer hangs.
PATIENCE = 300.0


@dataclass(frozen=True, slots=True)
class Work:
    """What a process is told."""

    client: str
    service: Service
    processes: int
    calls: int
    pause: float
    seed: str


@dataclass(frozen=True, slots=True)
class Done:
    """What it says: monotonic seconds, which the processes of one host have in common."""

    begin: float
    end: float
    failed: int


@dataclass(frozen=True, slots=True)
class Cell:
    """One measurement."""

    refreshes: int
    refused: int
    failed: int
    rate: float


def work(pipe: Connection, barriers: Mapping[int, Barrier]) -> None:
    """The life of a process."""
    logging.disable()
    known = {client.name: client for client in CLIENTS}
    pipe.send("ready")
    while (order := pipe.recv()) is not None:
        pipe.send(perform(order, known[order.client], barriers[order.processes]))


def perform(order: Work, client: Client, barrier: Barrier) -> Done:
    """Get a token and make the calls."""
    pauses = random.Random(order.seed)
    failed = 0
    barrier.wait(PATIENCE)
    begin = time.monotonic()
    try:
        call = client.start(order.service)
    except Exception:  # noqa: BLE001 (whatever the libraries raise is a task that failed)
        return Done(begin, time.monotonic(), order.calls)
    for number in range(order.calls):
        if number:
            time.sleep(order.pause * pauses.uniform(0.5, 1.5))
        try:
            failed += call() != 200
        except Exception:  # noqa: BLE001
            failed += 1
    return Done(begin, time.monotonic(), failed)


class Fleet:
    """The processes."""

    def __init__(self, counts: Iterable[int], clients: Iterable[Client]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", *(name for client in clients for name in client.modules)])
        barriers = {count: context.Barrier(count) for count in counts}
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(max(counts)):
            mine, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, barriers), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(mine)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def measure(
        self, client: Client, processes: int, redis_url: str, *, calls: int, pause: float, seed: str
    ) -> Cell:
        """Let some of them call a fresh emulator."""
        settings = EmulatorSettings(auth_server_id=secrets.token_hex(8))
        with running(settings) as emulator, tempfile.TemporaryDirectory() as folder:
            cache_file = str(Path(folder, "tokens.json"))
            service = Service(emulator.url, settings.auth_server_id, cache_file, redis_url)
            pipes = self._pipes[:processes]
            for number, pipe in enumerate(pipes):
                pipe.send(Work(client.name, service, processes, calls, pause, f"{seed} {number}"))
            done: list[Done] = [pipe.recv() for pipe in pipes]
            stats = requests.get(f"{emulator.url}/_emulator/stats", timeout=10).json()
        seconds = max(one.end for one in done) - min(one.begin for one in done)
        failed = sum(one.failed for one in done)
        refreshes = sum(stats["issued"].values())
        return Cell(refreshes, stats["unauthorized"], failed, (processes * calls - failed) / seconds)

    def stop(self) -> None:
        """Let them end."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(PATIENCE)


@contextmanager
def redis_server() -> Iterator[str]:
    """A Redis of our own; its URL as an Airflow connection."""
    with (
        tempfile.TemporaryDirectory(prefix="redis-") as folder,
        RedisServer(Path(folder), password=secrets.token_hex(16), durable=False) as server,
    ):
        yield server.url


def usable() -> Iterator[Client]:
    """The clients that are installed; says how to get the others."""
    for client in CLIENTS:
        missing = [package for package in client.packages if _version(package) is None]
        if missing:
            print(f"  {client.name}: skipped, no {', '.join(missing)}; pip install --group bench")
        elif client.name == "LucidworksAuthHook" and not redis_binary():
            print(f"  {client.name}: skipped, no redis-server; apt-get install redis-server")
        else:
            yield client


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def line(*columns: str) -> str:
    """A line of the table."""
    client, processes, refreshes, refused, failed, rate = columns
    return f"  {client:<27}{processes:>9}  {refreshes:<20}{refused:<21}{failed:<28}{rate:>7}"


def row(name: str, processes: int, cells: list[Cell]) -> str:
    """The line of a client and a number of processes."""
    refreshes = spread([cell.refreshes for cell in cells])
    refused = spread([cell.refused for cell in cells])
    failed = f"{spread([cell.failed for cell in cells])} of {processes * CALLS}"
    rate = statistics.median(cell.rate for cell in cells)
    return line(name, str(processes), refreshes, refused, failed, f"{rate:.1f}")


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Compare how clients get their token.")
    parser.add_argument("--processes", help=f"numbers of processes (default {','.join(map(str, PROCESSES))})")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="1 and 8 processes, once")
    return parser.parse_args()


def main() -> None:
    """Print the table."""
    given = options()
    counts = [int(count) for count in given.processes.split(",")] if given.processes else list(PROCESSES)
    if given.quick and not given.processes:
        counts = [1, 8]
    rounds = 1 if given.quick else given.rounds
    print(f"{CALLS} calls a process, {PAUSE} s apart, one live token per scope; median of {rounds} (range)")
    load, cores = os.getloadavg()[0], os.cpu_count()
    print(f"  Python {sys.version.split()[0]}, {cores} cores, load average {load:.1f} at the start")
    clients = list(usable())
    packages = dict.fromkeys(package for client in clients for package in client.packages)
    print("  " + ", ".join(f"{package} {version(package)}" for package in packages))
    with ExitStack() as stack:
        redis_url = stack.enter_context(redis_server()) if redis_binary() else ""
        fleet = Fleet(counts, clients)
        stack.callback(fleet.stop)
        for client in clients:
            fleet.measure(client, max(counts), redis_url, calls=1, pause=0, seed="")
        print(line("client", "processes", "refreshes", "401s", "failed calls", "calls/s"))
        for count in counts:
            cells: dict[str, list[Cell]] = {client.name: [] for client in clients}
            # A process alone has nobody to be disturbed by: once is enough.
            for number in range(rounds if count > 1 else 1):
                for client in clients:
                    measured = fleet.measure(
                        client, count, redis_url, calls=CALLS, pause=PAUSE, seed=str(number)
                    )
                    cells[client.name].append(measured)
            for name, measurements in cells.items():
                print(row(name, count, measurements), flush=True)


if __name__ == "__main__":
    main()
