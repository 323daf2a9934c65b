# SPDX-License-Identifier: Apache-2.0
"""
How much of a contract's rate limit is used, and how many requests are refused.

::

    python -m benchmarks.rate_emulator           # limits of 5, 20 and 200 a second, 150 s each, in three settings
    python -m benchmarks.rate_emulator --short   # 60 s each

The emulator is a process of its own for each limit: a bucket of tokens that holds those of one second. The clients
are processes as well, each with 32 coroutines that send as often as the transport lets them; none knows the limit.
The limits are measured beside each other, so the machine is busy with some 230 requests a second meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness import connect, result_of, start
from dev.demo import Emulator

LIMITS = (5, 20, 200)
COROUTINES = 32
WARM_UP = 10.0
# To reach.
SHARE, REFUSED = 0.95, 0.02


@dataclass(frozen=True, slots=True)
class Setting:
    """
    How the emulator refuses, and whom.

    :param processes: that share the limit.
    """

    name: str
    retry_after: bool = True
    processes: int = 1


SETTINGS = (
    Setting("with Retry-After"),
    Setting("without Retry-After", retry_after=False),
    Setting("two processes", processes=2),
)


@dataclass(frozen=True, slots=True)
class Figures:
    """
    What was found.

    :param share: of the limit, after the warm-up.
    :param refused: share of requests, after the first minute (or third).
    :param at_first: refused before that.
    :param learned: requests a second, of all processes together.
    :param cpu: of the clients, milliseconds a request.
    """

    share: float
    refused: float
    at_first: int
    learned: float
    cpu: float


async def send_on(seconds: float, url: str) -> dict[str, Any]:
    """In a process of its own: send as often as possible, and note when each response came and what it was."""
    from lucidworks_provider.client.http.messages import get
    from lucidworks_provider.hooks.lucidworks import LucidworksHook

    connect(url)
    hook = LucidworksHook()
    token = await hook.aget_token()
    responses: list[tuple[float, int]] = []
    async with hook.shared_client(connections=COROUTINES) as transport:
        url = f"{hook.get_settings().application_base}/ai/usecases"
        request = get("Use cases", url, endpoint="list_use_cases")
        begin = time.monotonic()
        cpu = time.process_time()

        async def send() -> None:
            while time.monotonic() < begin + seconds:
                response = await transport.send(request, token)
                responses.append((time.monotonic() - begin, response.status))

        sending = [asyncio.create_task(send()) for _ in range(COROUTINES)]
        await asyncio.wait(sending, timeout=seconds + 5)
        for one in sending:
            one.cancel()
        cpu = time.process_time() - cpu
    return {"responses": responses, "rate": hook.rate_limit().rate or 0.0, "cpu": cpu}


def measure(setting: Setting, limit: int, seconds: float) -> Figures:
    """One limit, in one setting."""
    minute = min(60.0, seconds / 3)
    with Emulator(Path(tempfile.mkdtemp(prefix="rate-")) / "emulator.log") as emulator:
        # A token for each process: what they share is the rate.
        emulator.set(
            rate_limit=limit, rate_mode="bucket", retry_after=setting.retry_after, both_tokens_live=True
        )
        command = ("rate_emulator", "--child", str(seconds), emulator.url)
        found = [result_of(one) for one in [start(*command) for _ in range(setting.processes)]]
    responses = [(at, status) for one in found for at, status in one["responses"]]
    accepted = sum(status == 200 and WARM_UP <= at < seconds for at, status in responses)
    later = [status for at, status in responses if at >= minute]
    return Figures(
        share=accepted / (seconds - WARM_UP) / limit,
        refused=later.count(429) / len(later),
        at_first=sum(status == 429 and at < minute for at, status in responses),
        learned=sum(one["rate"] for one in found),
        cpu=sum(one["cpu"] for one in found) / len(responses) * 1000,
    )


def main() -> int:
    """Measure all; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--short", action="store_true", help="60 s each instead of 150")
    parser.add_argument("--child", nargs=2, metavar=("SECONDS", "URL"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        seconds, url = given.child
        print(json.dumps(asyncio.run(send_on(float(seconds), url))))
        return 0
    seconds = 60.0 if given.short else 150.0
    good = True
    print(
        "| limit, a second | | used | 429s after the first minute | 429s before | learned | client CPU a request |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for setting in SETTINGS:
        with ThreadPoolExecutor(len(LIMITS)) as pool:
            all_found = list(pool.map(lambda limit: measure(setting, limit, seconds), LIMITS))  # noqa: B023
        for limit, found in zip(LIMITS, all_found, strict=True):
            good = good and found.share >= SHARE and found.refused <= REFUSED
            print(
                f"| {limit} | {setting.name} | {found.share:.1%} | {found.refused:.2%} | {found.at_first} "
                f"| {found.learned:.1f} | {found.cpu:.2f} ms |",
                flush=True,
            )
    print(f"\nTo reach: {SHARE:.0%} used, at most {REFUSED:.0%} refused.")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
