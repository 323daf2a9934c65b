# SPDX-License-Identifier: Apache-2.0
"""The trigger that watches the loop of a triggerer, for ``benchmarks.triggers``; it imports next to nothing."""

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
    Watches the loop that it runs on, and answers questions about it.

    All that the runner asks of a trigger, without Airflow's base class.

    :param path: of the Unix socket.
    """

    task_instance: Any = None

    def __init__(self, path: str) -> None:
        self.path = path
        # Of each tick: how late it came, and for how long the collector ran meanwhile.
        self.ticks: list[tuple[float, float]] = []
        self.collecting_since = 0.0
        self.collected_for = 0.0

    async def run(self) -> AsyncIterator[object]:
        """Never yield."""
        gc.callbacks.append(self._collected)
        watching = asyncio.create_task(self._watch())
        async with await asyncio.start_unix_server(self._asked, self.path):
            await watching
        yield None

    async def cleanup(self) -> None:
        """Nothing is left."""

    async def on_kill(self) -> None:
        """Nobody was waiting."""

    async def _watch(self) -> None:
        while True:
            before, collected = time.monotonic(), self.collected_for
            await asyncio.sleep(TICK)
            self.ticks.append((time.monotonic() - before - TICK, self.collected_for - collected))

    def _collected(self, phase: str, _info: object) -> None:
        if phase == "start":
            self.collecting_since = time.monotonic()
        else:
            self.collected_for += time.monotonic() - self.collecting_since

    async def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while question := (await reader.readline()).decode().strip():
            writer.write(json.dumps(self._answer(question)).encode() + b"\n")
            await writer.drain()
        writer.close()

    def _answer(self, question: str) -> object:
        match question:
            case "pid":
                return os.getpid()
            case "tasks":
                return len(asyncio.all_tasks())
            case "stalls":
                ticks, self.ticks = self.ticks, []
                longest = max((late for late, _ in ticks), default=0.0)
                return {"longest": longest, "own": max((late - its for late, its in ticks), default=0.0)}
            case "trace":
                tracemalloc.start()
                return None
            case "traced":
                gc.collect()
                return tracemalloc.get_traced_memory()[0]
            case "lines":
                lines = tracemalloc.take_snapshot().statistics("lineno")[:40]
                return [[one.size, one.count, str(one.traceback)] for one in lines]
        raise ValueError(question)
