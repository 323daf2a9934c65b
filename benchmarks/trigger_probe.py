# SPDX-License-Identifier: Apache-2.0
"""The trigger that measures the event loop of a triggerer, for ``benchmarks.triggers``; it has few imports."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
import tracemalloc
from collections.abc import AsyncIterator
from typing import Any

TICK = 0.005


class ProbeTrigger:
    """
    Measures the loop that it runs on, and responds to queries. It has what the runner needs of a trigger.

    :param path: of a Unix socket for queries.
    """

    task_instance: Any = None

    def __init__(self, path: str) -> None:
        self.path = path
        # For each tick, its delay, and the seconds of garbage collection in it.
        self.ticks: list[tuple[float, float]] = [(0.0, 0.0)]
        self.collection_began = self.collection_seconds = 0.0

    async def run(self) -> AsyncIterator[object]:
        """Run until it is cancelled."""
        gc.callbacks.append(self._collected)
        ticking = asyncio.create_task(self._tick())
        async with await asyncio.start_unix_server(self._connected, self.path):
            await ticking
        yield None

    async def cleanup(self) -> None:
        """Part of the interface."""

    async def on_kill(self) -> None:
        """Part of the interface."""

    async def _tick(self) -> None:
        while True:
            before, collected = time.monotonic(), self.collection_seconds
            await asyncio.sleep(TICK)
            self.ticks.append((time.monotonic() - before - TICK, self.collection_seconds - collected))

    def _collected(self, phase: str, _info: object) -> None:
        if phase == "start":
            self.collection_began = time.monotonic()
        else:
            self.collection_seconds += time.monotonic() - self.collection_began

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while query := (await reader.readline()).decode().strip():
            writer.write(json.dumps(self._respond(query)).encode() + b"\n")
            await writer.drain()
        writer.close()

    def _respond(self, query: str) -> object:
        match query:
            case "pid":
                return os.getpid()
            case "tasks":
                return len(asyncio.all_tasks())
            case "stalls":  # since the last query, with and without garbage collection
                ticks, self.ticks = self.ticks, [(0.0, 0.0)]
                return max(delay for delay, _ in ticks), max(delay - collected for delay, collected in ticks)
            case "trace":
                tracemalloc.start()
                return None
            case "traced":
                gc.collect()
                return tracemalloc.get_traced_memory()[0]
        raise ValueError(query)
