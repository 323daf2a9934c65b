# SPDX-License-Identifier: Apache-2.0
"""
How many requests a fleet sends into a 429 that asks to wait.

::

    python -m benchmarks.storm

Eight processes send steadily; then everything is answered with 429 and ``Retry-After: 2`` for 20 seconds, in which
eight more begin, as an Airflow fleet's tasks do. The emulator's log says what was sent when. Once each process asks
for itself (``share_via`` ``memory``), once the fleet shares its pauses in Redis.
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
from pathlib import Path

# Airflow makes its home where it is imported; this one is thrown away.
os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="airflow-"))

import requests

from benchmarks.chaos_judge import Storm, storm
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

    :param storm: what was sent into the waits.
    :param refused: answers with 429, of all requests in the storm.
    :param went_on: seconds after the storm in which every process had an answer other than 429.
    """

    storm: Storm
    refused: int
    went_on: float


async def send_on(until: float) -> list[float]:
    """In a process of its own: a few senders with pauses; when, by the clock, something was accepted."""
    from lucidworks_provider.api.messages import get
    from lucidworks_provider.hooks.lucidworks import LucidworksHook

    hook = LucidworksHook()
    token = await hook.aget_token()
    accepted: list[float] = []
    async with hook.shared_client() as transport:
        url = f"{hook.get_settings().application_base}/ai/usecases"
        request = get("Use cases", url, endpoint="list_use_cases")

        async def send() -> None:
            while time.time() < until:
                answer = await transport.send(request, token)
                if answer.status == 200:
                    accepted.append(time.time())
                await asyncio.sleep(EVERY)

        sending = [asyncio.create_task(send()) for _ in range(SENDERS)]
        await asyncio.wait(sending, timeout=until - time.time() + 1)
        for one in sending:
            one.cancel()
    return accepted


def measure(folder: Path, **shared: str) -> Figures:
    """One storm."""
    with Emulator(folder / "emulator.log") as emulator:

        def order(**wanted: object) -> None:
            answer = requests.post(
                f"{emulator.url}/_emulator/faults",
                json={"match": "usecases", "kind": "429", "retry_after": RETRY_AFTER} | wanted,
                timeout=10,
            )
            answer.raise_for_status()

        # A token for each process where they do not share it: what is measured is the rest.
        requests.patch(
            f"{emulator.url}/_emulator/settings", json={"both_tokens_live": True}, timeout=10
        ).raise_for_status()
        end = time.time() + 5 + CALM + STORM + AFTER
        command = [sys.executable, "-m", "benchmarks.storm", "--child", str(end)]
        environment = {**os.environ, "AIRFLOW_CONN_LUCIDWORKS_DEFAULT": emulator.connection(**shared)}

        def start() -> subprocess.Popen[str]:
            return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)

        children = [start() for _ in range(PROCESSES)]
        time.sleep(5 + CALM)
        begin = time.time()
        order(times=10**6)
        for _ in range(PROCESSES):
            children.append(start())
            time.sleep((STORM - 2) / PROCESSES)
        time.sleep(max(0.0, begin + STORM - time.time()))
        requests.delete(f"{emulator.url}/_emulator/faults", timeout=10).raise_for_status()
        over = time.time()
        found = [json.loads(child.communicate()[0].splitlines()[-1]) for child in children]
        log = emulator.get("log")
    lines = [line for line in log if begin - 1 < line["time"] < over + AFTER]
    return Figures(
        storm(lines, RETRY_AFTER),
        sum(line["status"] == 429 for line in lines),
        max(min((at for at in one if at > over), default=end) - over for one in found),
    )


def main() -> int:
    """Measure both; 1 where more than one request came in a wait of the fleet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--child", type=float, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(asyncio.run(send_on(given.child))))
        return 0
    print(
        f"{PROCESSES} processes, {PROCESSES} more begin in the storm; {STORM:g} s, Retry-After {RETRY_AFTER:g}\n"
    )
    print(
        "| pauses | 429s | waits | on their way | begun later in a wait | at most in one | all went on after |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    good = True
    install_services()
    with tempfile.TemporaryDirectory(prefix="storm-") as name, RedisServer(Path(name)) as redis:
        os.environ["AIRFLOW_CONN_STORM_REDIS"] = redis.url
        for words, shared in (
            ("each process for itself", {"share_via": "memory"}),
            ("shared", {"share_via": "redis", "redis_conn_id": "storm_redis"}),
        ):
            found = measure(Path(name), **shared)
            seen = found.storm
            print(
                f"| {words} | {found.refused} | {seen.windows} | {seen.on_the_way} | {seen.later} | {seen.most} "
                f"| {found.went_on:.1f} s |",
                flush=True,
            )
            good = seen.most == 0
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
