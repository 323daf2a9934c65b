# SPDX-License-Identifier: Apache-2.0
"""
How many requests a fleet sends into a 429 that asks to wait.

::

    python -m tests.system.storm

Sixteen processes wait until all of them have loaded what they need. Eight send steadily; then everything is answered
with 429 and ``Retry-After: 2`` for 20 seconds, in which the others begin one by one, as an Airflow fleet's tasks do.
Each process records the times of its requests: once with pauses of its own (``share_via`` ``memory``), once with
pauses that the fleet shares in Redis.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

# Airflow makes its home where it is imported; this one is thrown away.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))

from dev.demo import Emulator
from dev.services import RedisServer, install_services

PROCESSES = 8
SENDERS, EVERY = 4, 0.1
CALM, STORM, AFTER = 4.0, 20.0, 12.0
RETRY_AFTER = 2.0


@dataclass(frozen=True, slots=True)
class Figures:
    """
    What was found.

    :param refused: answers with 429, of all requests in the storm.
    :param probes: requests that a process sent in the storm after it had received its second 429.
    :param closest: seconds between two of these, at least.
    :param went_on: seconds after the storm in which every process had an answer other than 429.
    """

    refused: int
    probes: int
    closest: float
    went_on: float


async def send_on() -> list[tuple[float, float, int]]:
    """In a process of its own: a few senders with pauses; when each request was sent and answered, and how."""
    from lucidworks_provider.client.http.messages import get
    from lucidworks_provider.client.http.rate_limiter import queue_of
    from lucidworks_provider.hooks.lucidworks import LucidworksHook

    hook = LucidworksHook()
    token = await hook.aget_token()
    settings = hook.get_settings()
    queue = queue_of(settings.application_base, settings)
    if settings.share_via != "memory":
        settings.shared_stores.pause_store(settings, "other").read()  # loads the library
    permitted: dict[object, float] = {}
    acquire = queue.aacquire

    async def noted(begin_by: float | None = None) -> int:
        permit = await acquire(begin_by)
        permitted[asyncio.current_task()] = time.time()
        return permit

    queue.aacquire = noted  # type: ignore[method-assign]
    print("ready", flush=True)
    until = float(sys.stdin.readline())
    sent: list[tuple[float, float, int]] = []
    async with hook.shared_client() as transport:
        request = get("Use cases", f"{settings.application_base}/ai/usecases", endpoint="list_use_cases")

        async def send() -> None:
            while time.time() < until:
                answer = await transport.send(request, token)
                sent.append((permitted[asyncio.current_task()], time.time(), answer.status))
                await asyncio.sleep(EVERY)

        sending = [asyncio.create_task(send()) for _ in range(SENDERS)]
        await asyncio.wait(sending, timeout=until - time.time() + 1)
        for one in sending:
            one.cancel()
    return sent


def measure(folder: Path, **shared: str) -> Figures:
    """One storm."""
    with Emulator(folder / "emulator.log") as emulator:
        # A token for each process where they do not share it: what is measured is the rest.
        emulator.set(both_tokens_live=True)
        environment = {**os.environ, "AIRFLOW_CONN_LUCIDWORKS_DEFAULT": emulator.connection(**shared)}
        children = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.system.storm", "--child"],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(2 * PROCESSES)
        ]
        pipes = [(child.stdin, child.stdout) for child in children if child.stdin and child.stdout]
        for _, said in pipes:
            while said.readline() != "ready\n":
                pass
        begin = time.time() + CALM
        over = begin + STORM
        for number, (start, _) in enumerate(pipes):
            if number == PROCESSES:
                time.sleep(max(0.0, begin - time.time()))
                order = {"match": "usecases", "kind": "429", "retry_after": RETRY_AFTER, "times": 10**6}
                emulator.post("faults", **order)
                begin = time.time()
            start.write(f"{over + AFTER}\n")
            start.flush()
            if number >= PROCESSES:
                time.sleep((STORM - 2) / PROCESSES)
        time.sleep(max(0.0, over - time.time()))
        emulator.delete("faults")
        over = time.time()
        found = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
    probes: list[float] = []
    for one in found:
        heard = sorted(answered for _, answered, status in one if status == 429)
        probes += [sent for sent, _, _ in one if len(heard) > 1 and heard[1] < sent < over]
    probes.sort()
    return Figures(
        sum(status == 429 for one in found for *_, status in one),
        len(probes),
        min((later - earlier for earlier, later in pairwise(probes)), default=0.0),
        max(
            min((at for _, at, status in one if at > over and status != 429), default=1e9) - over
            for one in found
        ),
    )


def main() -> int:
    """Measure both; 1 where the fleet sends more than one request a pause, or resumes late."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(asyncio.run(send_on())))
        return 0
    print(
        f"{PROCESSES} processes, {PROCESSES} more begin in the storm; {STORM:g} s, Retry-After {RETRY_AFTER:g}\n"
    )
    print("| pauses | 429s | sent after a process's second 429 | closest two | all resumed after |")
    print("| --- | --- | --- | --- | --- |")
    good = True
    install_services()
    with tempfile.TemporaryDirectory(prefix="storm-") as name, RedisServer(Path(name)) as redis:
        os.environ["AIRFLOW_CONN_STORM_REDIS"] = redis.url
        for words, shared in (
            ("each process for itself", {"share_via": "memory"}),
            ("shared", {"share_via": "redis", "redis_conn_id": "storm_redis"}),
        ):
            found = measure(Path(name), **shared)
            print(
                f"| {words} | {found.refused} | {found.probes} | {found.closest:.1f} s | {found.went_on:.1f} s |",
                flush=True,
            )
            # The first finds the storm out; then one each pause.
            good = found.probes <= 1 + STORM / RETRY_AFTER and found.went_on <= RETRY_AFTER
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
