# SPDX-License-Identifier: Apache-2.0
"""
Fifty callers that need a token at the same time, from a service with one valid token per scope.

Compares a token request per caller with ``LucidworksAuthHook`` without a cached token. Each caller gets a token and
makes one call with it. Then the time of ``get_token`` with a cached token is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import requests

from benchmarks.harness import access_token, command_line, connect, print_heads, print_row
from lucidworks_provider.client.auth.source import forget_sources
from lucidworks_provider.emulator import EmulatorSettings, running
from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook

CALLERS = 50
CACHED_CALLS = 20_000


def call(url: str, token: str) -> bool:
    """Whether a call with the token succeeds."""
    headers = {"Authorization": f"Bearer {token}"}
    return requests.get(f"{url}/ai/usecases", headers=headers, timeout=60).ok


def threads(url: str, get: Callable[[], str]) -> int:
    """Failed calls of threads that start together."""
    barrier = Barrier(CALLERS)

    def caller(_: int) -> bool:
        barrier.wait()
        token = get()
        barrier.wait()
        return call(url, token)

    with ThreadPoolExecutor(CALLERS) as pool:
        return list(pool.map(caller, range(CALLERS))).count(False)


def coroutines(url: str) -> int:
    """Failed calls of coroutines that start together."""

    async def tokens() -> list[str]:
        hook = LucidworksAuthHook()
        return await asyncio.gather(*(hook.aget_token() for _ in range(CALLERS)))

    return [call(url, token) for token in asyncio.run(tokens())].count(False)


def cached() -> float:
    """Microseconds of ``get_token`` with a cached token."""
    hook = LucidworksAuthHook()
    hook.get_token()
    began = time.perf_counter()
    for _ in range(CACHED_CALLS):
        hook.get_token()
    return (time.perf_counter() - began) / CACHED_CALLS * 1e6


def main() -> None:
    command_line(__doc__, packages=["requests"])
    print_heads("callers", "token requests", "failed calls")
    cases: dict[str, Callable[[str], int]] = {
        f"{CALLERS} threads, a token request each": lambda url: threads(url, lambda: access_token(url)),
        f"{CALLERS} threads, LucidworksAuthHook": lambda url: threads(url, LucidworksAuthHook().get_token),
        f"{CALLERS} coroutines, LucidworksAuthHook": coroutines,
    }
    for name, run in cases.items():
        with running(EmulatorSettings()) as emulator:
            forget_sources()
            connect(emulator.url)
            failed = run(emulator.url)
            stats = requests.get(f"{emulator.url}/_emulator/stats", timeout=10).json()
            print_row(name, sum(stats["issued"].values()), failed)
            microseconds = cached()
    print(f"\nget_token with a cached token: {microseconds:.2f} µs")


if __name__ == "__main__":
    main()
