# SPDX-License-Identifier: Apache-2.0
"""What bounds a run: documents in flight, and bytes of results in memory."""

from __future__ import annotations

import asyncio
from collections import deque

# Jobs at once in the beginning; one more for each that ends, so that a cold service is not hit by hundreds.
FIRST_WINDOW = 128
# Texts of documents in flight, and bodies between their GET and the part that they go to.
TEXT_BYTES = 48_000_000
BODY_BYTES = 32_000_000
# A slot is held for a group of the journal, a quarter of a second; the sockets are bounded elsewhere.
LEAST_GETS, MOST_GETS = 2, 256
# Bytes of a body, before any has come; the largest of late counts, and is forgotten within some twenty.
FIRST_BODY = 6_000_000
FORGETS = 0.85


class InFlightLimit:
    """
    Documents in flight; entered by one coroutine only.

    :param most: documents.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = min(FIRST_WINDOW, most)
        self._bytes = 0
        self.inside = 0
        self._room: asyncio.Future[None] | None = None

    async def enter(self, size: int) -> None:
        """Wait until there is room. One document is always let in, however large."""
        while self.inside and (self.inside >= self._limit or self._bytes + size > TEXT_BYTES):
            self._room = asyncio.get_running_loop().create_future()
            await self._room
        self.inside += 1
        self._bytes += size

    def leave(self, size: int) -> None:
        """A document is in its part, or rejected."""
        self.inside -= 1
        self._bytes -= size
        self._limit = min(self._most, self._limit + 1)
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


class BodyBudget:
    """
    Taken for a GET until its body is stored; fewer of them when bodies are large.

    First come, first served. Bodies that wait for their part count as well: who takes a slot waits for them.
    """

    def __init__(self) -> None:
        self._taken = 0
        self._expected = float(FIRST_BODY)
        self._unwritten = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def limit(self) -> int:
        """GETs at once."""
        return max(LEAST_GETS, min(MOST_GETS, int(BODY_BYTES / max(1.0, self._expected))))

    async def __aenter__(self) -> None:
        if self._free() and not self._queue:
            self._taken += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                await self.__aexit__()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._taken -= 1
        self._next()

    def came(self, size: int) -> None:
        """So large is a body; said before it is stored, as those who wait for a slot wait for that, too."""
        self._expected = max(size, self._expected * FORGETS)
        self._next()

    def held(self, size: int) -> None:
        """A body stays in memory until it is :meth:`written`."""
        self._unwritten += size

    def written(self, size: int) -> None:
        """It is out of memory."""
        self._unwritten -= size
        self._next()

    def _free(self) -> bool:
        return self._taken < self.limit and self._unwritten < BODY_BYTES

    def _next(self) -> None:
        while self._queue and self._free():
            turn = self._queue.popleft()
            if not turn.done():
                self._taken += 1
                turn.set_result(None)
