# SPDX-License-Identifier: Apache-2.0
"""
An hour of steady, mixed work: what lives long must not grow.

The stage of ``tests.system.chaos`` without a fault: a corpus, a chunking task and asynchronous predictions, run after
run, a few at a time. Tasks are processes that end; the triggerer stays, and its memory, sockets and threads are
sampled every few seconds. Beside it a process of its own calls the hook all the time, as a long task would. After
the warm-up a line is fitted to the samples.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dev.airflow_stack import install_signal_handlers
from tests.system.chaos.judge import Toll, Work, judge
from tests.system.chaos.stage import BATCH, DAG, Stage, staged, work_for

TOGETHER = 2
LOOK_SECONDS = 2.0
GROWTH = 1.0  # per cent an hour
TOKEN_TTL = 120  # of the stage's emulator


@dataclass
class Subject:
    """A process that is sampled."""

    name: str
    process: psutil.Process
    times: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    sockets: list[float] = field(default_factory=list)
    threads: list[float] = field(default_factory=list)

    def look(self, now: float) -> None:
        """Private memory: what is shared with the process that it was forked from is not its own."""
        self.times.append(now)
        self.memory.append(self.process.memory_full_info().uss / 2**20)
        self.sockets.append(len(self.process.net_connections()))
        self.threads.append(self.process.num_threads())

    def tenths(self) -> list[float]:
        """The median memory of each tenth: a step is no growth."""
        parts: list[list[float]] = [[] for _ in range(10)]
        for moment, level in zip(self.times, self.memory, strict=True):
            parts[min(9, int(10 * moment / self.times[-1]))].append(level)
        return [statistics.median(part) for part in parts if part]

    def slope(self, values: Sequence[float], warm_up: float) -> tuple[float, float, float]:
        """
        Growth an hour, and the noise: the middle of all slopes between two moments that are far apart.

        :return: level after the warm-up, growth an hour, and the middle distance from the line.
        """
        seen = [(t, v) for t, v in zip(self.times, values, strict=True) if t >= warm_up]
        far = len(seen) // 2
        pairs = [
            (b[1] - a[1]) / (b[0] - a[0]) * 3600
            for a, b in zip(seen, seen[far:], strict=False)
            if b[0] > a[0]
        ]
        growth = statistics.median(pairs)
        level = statistics.median(v - growth * (t - warm_up) / 3600 for t, v in seen)
        noise = statistics.median(abs(v - level - growth * (t - warm_up) / 3600) for t, v in seen)
        return level, growth, noise


def call_for_ever(connection: str) -> None:
    """In a process of its own: the hook, synchronously and on one loop after the other."""
    os.environ["AIRFLOW_CONN_LUCIDWORKS_DEFAULT"] = connection
    import asyncio

    from lucidworks_provider.client.predictions import predict
    from lucidworks_provider.client.use_cases import embedding
    from lucidworks_provider.hooks.lucidworks import LucidworksHook

    options = embedding("gte-small")

    async def some() -> None:
        hook = LucidworksHook()
        async with hook.shared_client():
            await asyncio.gather(*(hook.acall(predict(options, ["A text."])) for _ in range(8)))

    hook = LucidworksHook()
    while True:
        hook.call(predict(options, ["A text."] * 4))
        asyncio.run(some())
        time.sleep(0.25)


def soak(stage: Stage, minutes: float) -> tuple[list[Subject], int, list[str], list[str]]:
    """
    Run the load and sample the processes.

    :return: the sampled processes, the number of ended runs, the failed ones, and what was lost or wrong.
    """
    context = multiprocessing.get_context("spawn")
    connection = stage.emulator.connection(share_via="memory").replace("demo-client", "caller")
    caller = context.Process(target=call_for_ever, args=(connection,), daemon=True)
    caller.start()
    triggerer = max(stage.airflow.group.processes("triggerer"), key=lambda one: one.create_time())
    subjects = [Subject("triggerer", triggerer), Subject("caller", psutil.Process(caller.pid))]
    begin = time.monotonic()
    running: dict[str, Work] = {}
    failed: list[str] = []
    wrong: list[str] = []
    number = 0
    try:
        while (now := time.monotonic() - begin) < minutes * 60 or running:
            for subject in subjects:
                subject.look(now)
            for run_id in list(running):
                state = stage.airflow.api("GET", f"dags/{DAG}/dagRuns/{run_id}")["state"]
                if state in {"success", "failed"}:
                    work = running.pop(run_id)
                    failed += [run_id] if state == "failed" else []
                    # What was written alone: nothing is lost on the way here, so no log is needed.
                    wrong += judge(work, [], Toll(), BATCH).wrong
                    shutil.rmtree(work.folder)
            while len(running) < TOGETHER and now < minutes * 60:
                number += 1
                work = work_for(stage, f"run{number:05}")
                running[stage.airflow.trigger(DAG, work.conf)] = work
            time.sleep(LOOK_SECONDS)
    finally:
        caller.kill()
    return subjects, number, failed, wrong


def main() -> int:
    """Soak, print the table; 1 where something grew or was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--warm-up", type=float, help="minutes that do not count; a fifth, 10 at most")
    parser.add_argument("--documents", type=int, default=48)
    parser.add_argument("--keep", type=Path, help="a new folder for everything, kept afterwards")
    options = parser.parse_args()
    warm_up = 60 * (options.warm_up if options.warm_up is not None else min(10, options.minutes / 5))
    with install_signal_handlers(), tempfile.TemporaryDirectory(prefix="soak-") as temporary:
        root = options.keep or Path(temporary)
        with staged(root, random.SystemRandom().randrange(10**6), options.documents, ["caller"]) as stage:
            subjects, ended, failed, wrong = soak(stage, options.minutes)
            stats = stage.emulator.get("stats")
    seconds = subjects[0].times[-1]
    rows: list[tuple[str, str, str, bool]] = [
        ("runs", "all end well", f"{ended}, {len(failed)} failed", not failed),
        ("documents and inputs lost or wrong", "0", str(len(wrong)), not wrong),
    ]
    for subject in subjects:
        for what, values, unit in (
            ("private memory", subject.memory, " MB"),
            ("sockets", subject.sockets, ""),
            ("threads", subject.threads, ""),
        ):
            level, growth, noise = subject.slope(values, warm_up)
            per_cent = 100 * growth / level if level else 0.0
            flat = per_cent < GROWTH or abs(growth) * seconds / 3600 <= 3 * noise
            said = f"{level:.1f}{unit}, {per_cent:+.2f} % an hour (noise {noise:.2f}{unit})"
            rows.append((f"{subject.name}: {what}", f"< {GROWTH:g} % an hour, or noise", said, flat))
    lifetimes = seconds / (TOKEN_TTL * 0.9)
    refreshes = stats["issued"]["machinelearning.predict"]
    # The fleet's client and the caller's.
    rows.append(("tokens", f"<= {2 * lifetimes + 4:.0f}", str(refreshes), refreshes <= 2 * lifetimes + 4))
    print(
        f"\n{seconds / 60:.0f} minutes, {warm_up / 60:.0f} of them warm-up; {sum(stats['calls'].values())} calls\n"
    )
    print("| what | to reach | measured | |")
    print("| --- | --- | --- | --- |")
    for what, goal, measured, good in rows:
        print(f"| {what} | {goal} | {measured} | {'ok' if good else 'missed'} |")
    print("\nprivate memory, MB, in each tenth of the time:")
    for subject in subjects:
        print(f"  {subject.name}: {', '.join(f'{level:.1f}' for level in subject.tenths())}")
    for words in wrong[:20]:
        print(f"WRONG {words}")
    return int(not all(good for *_, good in rows))


if __name__ == "__main__":
    sys.exit(main())
