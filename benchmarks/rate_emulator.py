# SPDX-License-Identifier: Apache-2.0
"""
The used share of a contract's rate limit, and the share of refused requests.

::

    python -m benchmarks.rate_emulator           # limits of 5, 20 and 200 a second, 150 s each, in three settings
    python -m benchmarks.rate_emulator --short   # 60 s each

Each limit is an emulator of its own with a token bucket that holds one second's tokens; the three run in parallel.
Each client is a process with 32 coroutines that send as often as the transport permits, and does not know the limit.
"""

from __future__ import annotations

import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from benchmarks.harness import (
    Goal,
    command_line,
    connect,
    emulated,
    print_heads,
    print_row,
    report,
    result_of,
    start,
)

LIMITS = (5, 20, 200)
COROUTINES = 32
WARM_UP = 10.0
# Whether the emulator sends Retry-After, and the number of client processes.
SETTINGS = {"with Retry-After": (True, 1), "without Retry-After": (False, 1), "two processes": (True, 2)}


def send_all(seconds: float, url: str) -> dict[str, Any]:
    """Send as often as possible, in its own process: time and status of each response, rate, CPU seconds."""
    return asyncio.run(_send_all(seconds, url))


async def _send_all(seconds: float, url: str) -> dict[str, Any]:
    from lucidworks_provider.client.http.messages import get
    from lucidworks_provider.hooks.lucidworks import LucidworksHook

    connect(url)
    hook = LucidworksHook()
    token = await hook.aget_token()
    responses: list[tuple[float, int]] = []
    async with hook.shared_client(connections=COROUTINES) as transport:
        request = get(
            "Use cases", f"{hook.get_settings().application_base}/ai/usecases", endpoint="list_use_cases"
        )
        begin, cpu = time.monotonic(), time.process_time()

        async def send() -> None:
            while time.monotonic() < begin + seconds:
                response = await transport.send(request, token)
                responses.append((time.monotonic() - begin, response.status))

        tasks = [asyncio.create_task(send()) for _ in range(COROUTINES)]
        await asyncio.wait(tasks, timeout=seconds + 5)
        for task in tasks:
            task.cancel()
        cpu = time.process_time() - cpu
    return {"responses": responses, "rate": hook.rate_limit().rate or 0.0, "cpu": cpu}


def measure(setting: str, seconds: float, limit: int) -> tuple[float, float, tuple[str, ...]]:
    """Used share after the warm-up, share of 429s after the first minute, and the cells of the row."""
    retry_after, processes = SETTINGS[setting]
    minute = min(60.0, seconds / 3)
    settings = {"rate_limit": limit, "rate_mode": "bucket", "retry_after": retry_after}
    # Each process has its own token: they share the rate only.
    with emulated(**settings, both_tokens_live=True) as emulator:
        clients = [start(send_all, seconds, emulator.url) for _ in range(processes)]
        results = [result_of(client) for client in clients]
    responses = [(at, status) for result in results for at, status in result["responses"]]
    used = sum(status == 200 and WARM_UP <= at < seconds for at, status in responses)
    used /= (seconds - WARM_UP) * limit
    later = [status for at, status in responses if at >= minute]
    refused = later.count(429) / len(later)
    earlier = sum(status == 429 and at < minute for at, status in responses)
    cpu = sum(result["cpu"] for result in results) / len(responses)
    rate = sum(result["rate"] for result in results)
    return used, refused, (f"{used:.1%}", f"{refused:.2%}", str(earlier), f"{rate:.1f}", f"{1000 * cpu:.2f}")


def main() -> int:
    """Print the table; 1 if a goal is missed."""
    seconds = 60.0 if command_line(__doc__, short=False).short else 150.0
    goals = []
    print_heads(
        *("limit, a second", "", "used", "429s after the first minute", "429s in the first minute"),
        *("learned rate", "client CPU a request, ms"),
    )
    for setting in SETTINGS:
        with ThreadPoolExecutor(len(LIMITS)) as pool:
            results = list(pool.map(partial(measure, setting, seconds), LIMITS))
        for limit, (used, refused, cells) in zip(LIMITS, results, strict=True):
            print_row(limit, setting, *cells)
            goals.append(Goal(f"{limit} a second, {setting}: used", used, least=0.95))
            goals.append(Goal(f"{limit} a second, {setting}: refused", refused, 0.04 if limit == 5 else 0.02))
    return report(goals)


if __name__ == "__main__":
    sys.exit(main())
