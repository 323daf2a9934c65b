# SPDX-License-Identifier: Apache-2.0
"""
Clients of the client-credentials grant, with a service that has one valid token per scope.

The processes are forked from one that has imported everything, as Airflow forks its tasks, and make one call with
each client before the measurement. Then they start together for each client and number of processes: each gets a
token and makes its calls, with random pauses that are the same for each client.

A call has failed if it raises an exception or returns another status than 200. ``--short``: 1 and 8 processes, once.
"""

from __future__ import annotations

import logging
import multiprocessing
import random
import secrets
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

import requests

from benchmarks.harness import command_line, median_range, print_heads, print_row, version_of
from benchmarks.token_clients import CLIENTS, Client, Service
from dev.packages import redis_binary
from dev.services import RedisServer
from lucidworks_provider.emulator import EmulatorSettings, running

CALLS = 20
# Mean seconds between two calls of a process; half to one and a half times as long.
PAUSE = 0.1
# Seconds after which a process is considered hung.
TIMEOUT = 300.0


class Work(NamedTuple):
    """Calls of one process."""

    client: str
    service: Service
    processes: int
    calls: int
    seed: str


class Figures(NamedTuple):
    """Tokens requested, 401s, failed calls, and successful calls per second."""

    refreshes: int
    unauthorized: int
    failed: int
    rate: float


def work(pipe: Connection, barriers: Mapping[int, Barrier]) -> None:
    """Run the work that arrives until there is no more."""
    logging.disable()
    clients = {client.name: client for client in CLIENTS}
    pipe.send("ready")
    while (job := pipe.recv()) is not None:
        pipe.send(perform(job, clients[job.client], barriers[job.processes]))


def perform(job: Work, client: Client, barrier: Barrier) -> tuple[float, float, int]:
    """Get a token and make the calls: monotonic seconds at begin and end, and failed calls."""
    rng, failed = random.Random(job.seed), 0
    barrier.wait(TIMEOUT)
    begin = time.monotonic()
    try:
        call = client.start(job.service)
    except Exception:  # noqa: BLE001 -- fails the task
        return begin, time.monotonic(), job.calls
    for number in range(job.calls):
        if number:
            time.sleep(PAUSE * rng.uniform(0.5, 1.5))
        try:
            failed += call() != 200
        except Exception:  # noqa: BLE001
            failed += 1
    return begin, time.monotonic(), failed


class ProcessPool:
    """Processes that start their calls together."""

    def __init__(self, counts: Iterable[int], clients: Iterable[Client], redis_url: str) -> None:
        self._redis_url = redis_url
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", *(name for client in clients for name in client.modules)])
        barriers = {count: context.Barrier(count) for count in counts}
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(max(counts)):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, barriers), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()

    def measure(self, client: Client, processes: int, *, calls: int = CALLS, seed: int = 0) -> Figures:
        """Call a new emulator from a number of processes."""
        settings = EmulatorSettings(auth_server_id=secrets.token_hex(8))
        with running(settings) as emulator, tempfile.TemporaryDirectory() as folder:
            cache_file = str(Path(folder, "tokens.json"))
            service = Service(emulator.url, settings.auth_server_id, cache_file, self._redis_url)
            for number, pipe in enumerate(self._pipes[:processes]):
                pipe.send(Work(client.name, service, processes, calls, f"{seed} {number}"))
            done = [pipe.recv() for pipe in self._pipes[:processes]]
            stats = requests.get(f"{emulator.url}/_emulator/stats", timeout=10).json()
        begins, ends, failures = zip(*done, strict=True)
        failed, seconds = sum(failures), max(ends) - min(begins)
        rate = (processes * calls - failed) / seconds
        return Figures(sum(stats["issued"].values()), stats["unauthorized"], failed, rate)

    def stop(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(TIMEOUT)


def installed() -> list[Client]:
    """The clients that are installed; prints how to install the others."""
    clients = []
    for client in CLIENTS:
        missing = [package for package in client.packages if version_of(package) is None]
        if missing:
            print(f"{client.name}: skipped, no {', '.join(missing)}; pip install --group bench")
        elif client.name == "LucidworksAuthHook" and not redis_binary():
            print(f"{client.name}: skipped, no redis-server; apt-get install redis-server")
        else:
            clients.append(client)
    return clients


def compare(counts: list[int], rounds: int) -> Iterator[tuple[int, dict[str, list[Figures]]]]:
    """For each number of processes, the figures of each client and round; one process needs one round only."""
    clients = installed()
    with ExitStack() as stack:
        redis_url = ""
        if redis_binary():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="redis-")))
            redis = RedisServer(folder, password=secrets.token_hex(16))
            redis_url = stack.enter_context(redis).url
        pool = ProcessPool(counts, clients, redis_url)
        stack.callback(pool.stop)
        for client in clients:
            pool.measure(client, max(counts), calls=1)
        for count in counts:
            results: dict[str, list[Figures]] = {client.name: [] for client in clients}
            for number in range(rounds if count > 1 else 1):
                for client in clients:
                    results[client.name].append(pool.measure(client, count, seed=number))
            yield count, results


def main() -> None:
    packages = dict.fromkeys(package for client in CLIENTS for package in client.packages)
    short = command_line(__doc__, packages=packages, short=False).short
    print_heads("client", "processes", "refreshes", "401s", "failed calls", "calls/s")
    for count, results in compare([1, 8] if short else [1, 8, 64], 1 if short else 3):
        for name, runs in results.items():
            *counts, rates = zip(*runs, strict=True)
            refreshes, unauthorized, failed = map(median_range, counts)
            failed += f" of {count * CALLS}"
            print_row(name, count, refreshes, unauthorized, failed, f"{statistics.median(rates):.1f}")


if __name__ == "__main__":
    main()
