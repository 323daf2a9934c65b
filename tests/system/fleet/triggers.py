# SPDX-License-Identifier: Apache-2.0
"""Triggers of the fleet's DAGs; a module of its own, since the triggerer imports them by name."""

from __future__ import annotations

import asyncio
import gc
import resource
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseTrigger, TaskSuccessEvent, TriggerEvent

from lucidworks_provider.hooks.lucidworks import LucidworksAuthHook


class CallTrigger(BaseTrigger):
    """
    Calls the service at an interval, with the token of the fleet.

    :param conn_ids: connections, comma-separated; each gets its calls from a coroutine of its own.
    :param seconds: how long.
    :param interval: between two calls, in seconds.
    """

    def __init__(self, conn_ids: str, seconds: float, interval: float) -> None:
        super().__init__()
        self.options: dict[str, Any] = {"conn_ids": conn_ids, "seconds": seconds, "interval": interval}

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """What makes it again."""
        return f"{type(self).__module__}.{type(self).__qualname__}", self.options

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Call, then end the task; a failed call is an exception, and so a failed task."""
        conn_ids = self.options["conn_ids"].split(",")
        made = await asyncio.gather(*map(self._call, conn_ids))
        yield TaskSuccessEvent(xcoms={"return_value": {"calls": sum(made)}})

    async def _call(self, conn_id: str) -> int:
        seconds, interval = self.options["seconds"], self.options["interval"]
        calls, end = 0, time.monotonic() + seconds
        async with LucidworksAuthHook(conn_id).aget_conn() as session:
            # Once at least: many triggers may take longer to start than they are to call.
            while not calls or time.monotonic() < end:
                async with session.get("/ai/usecases") as response:
                    if response.status != 200:
                        raise RuntimeError(f"call {calls} was answered with {response.status}")
                calls += 1
                await asyncio.sleep(interval)
        return calls


class WatchTrigger(CallTrigger):
    """The same, with an eye on the event loop of the triggerer and on its memory."""

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Call; report the longest stall of the loop (ms), what may explain it, and the memory (MiB)."""
        stalls: list[float] = []
        memory: list[float] = []
        watch = asyncio.create_task(_watch(stalls, memory))
        with _collections() as collections:
            made = await asyncio.gather(*map(self._call, self.options["conn_ids"].split(",")))
        watch.cancel()
        middle = len(memory) // 2
        yield TaskSuccessEvent(
            xcoms={
                "return_value": {
                    "calls": sum(made),
                    "longest_stall_ms": max(stalls),
                    "stalls_over_50_ms": sum(stall > 50 for stall in stalls),
                    "longest_collections": ", ".join(f"{ms:.0f} ms" for ms in sorted(collections)[-3:]),
                    "ticks": len(stalls),
                    "memory_mib": [round(memory[0], 1), round(memory[middle], 1), round(memory[-1], 1)],
                }
            }
        )


class IdleTrigger(WatchTrigger):
    """Watches the loop while nothing is done: what the machine itself does to it."""

    async def _call(self, conn_id: str) -> int:
        await asyncio.sleep(self.options["seconds"])
        return 0


async def _watch(stalls: list[float], memory: list[float]) -> None:
    tick = 0.005
    while True:
        before = time.monotonic()
        await asyncio.sleep(tick)
        stalls.append((time.monotonic() - before - tick) * 1000)
        if len(stalls) % 200 == 1:
            memory.append(_memory())


@contextmanager
def _collections() -> Iterator[list[float]]:
    """Milliseconds of each garbage collection: it stops all threads and traverses all objects of Airflow."""
    took: list[float] = []
    begun = 0.0

    def note(phase: str, _: dict[str, int]) -> None:
        nonlocal begun
        if phase == "start":
            begun = time.monotonic()
        else:
            took.append((time.monotonic() - begun) * 1000)

    gc.callbacks.append(note)
    try:
        yield took
    finally:
        gc.callbacks.remove(note)


def _memory() -> float:
    """MiB that this process has in memory now; getrusage only knows the most that it ever had."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20
