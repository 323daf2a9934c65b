# SPDX-License-Identifier: Apache-2.0
"""
Fifty callers that need a token at once, on a service with one live token per scope.

Beside each other in one run: a token request per caller, which is what a task with an HTTP operator and a
Python function does, and our hook, cold. Each caller gets its token and makes one call with it. Then what
``get_token`` costs on a warm process.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import requests

from benchmarks.harness import access_token, connect
from lucidworks_provider.client.auth.source import forget_sources
from lucidworks_provider.emulator import EmulatorSettings, running
from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook

CALLERS = 50
WARM_CALLS = 20_000


def call(url: str, token: str) -> bool:
    """One call with it."""
    headers = {"Authorization": f"Bearer {token}"}
    return requests.get(f"{url}/ai/usecases", headers=headers, timeout=60).ok


def threads(url: str, get: Callable[[], str]) -> int:
    """Failed calls of CALLERS threads that start together."""
    barrier = Barrier(CALLERS)

    def one(_: int) -> bool:
        barrier.wait()
        token = get()
        barrier.wait()
        return call(url, token)

    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(one, range(CALLERS))).count(False)


def coroutines(url: str) -> int:
    """The same with coroutines of one loop."""

    async def all_at_once() -> list[str]:
        hook = LucidworksAuthHook()
        return await asyncio.gather(*(hook.aget_token() for _ in range(CALLERS)))

    return [call(url, token) for token in asyncio.run(all_at_once())].count(False)


def main() -> None:
    """Print the table."""
    print(f"{CALLERS} callers at once, one live token per scope, Python {sys.version.split()[0]}, requests "
          f"{requests.__version__}")  # fmt: skip
    kinds: dict[str, Callable[[str], int]] = {
        "a request per caller, threads": lambda url: threads(url, lambda: access_token(url)),
        "LucidworksAuthHook, threads": lambda url: threads(url, LucidworksAuthHook().get_token),
        "LucidworksAuthHook, coroutines": coroutines,
    }
    for name, run in kinds.items():
        with running(EmulatorSettings()) as emulator:
            forget_sources()  # a process that knows nothing yet
            connect(emulator.url)
            failed = run(emulator.url)
            refreshes = sum(
                requests.get(f"{emulator.url}/_emulator/stats", timeout=10).json()["issued"].values()
            )
            print(f"  {name:<32} refreshes {refreshes:3}   failed calls {failed:3}")
            if name.endswith("coroutines"):
                print(f"  get_token on a warm process: {warm():.2f} µs")


def warm() -> float:
    """Microseconds of one call."""
    hook = LucidworksAuthHook()
    hook.get_token()
    begin = time.perf_counter()
    for _ in range(WARM_CALLS):
        hook.get_token()
    return (time.perf_counter() - begin) / WARM_CALLS * 1e6


if __name__ == "__main__":
    main()
