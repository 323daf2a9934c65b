# SPDX-License-Identifier: Apache-2.0
"""Puts a job's body into the journal, and notes how long the job took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from lucidworks_provider.client.http.retry import wait_after
from lucidworks_provider.corpus.backpressure import BodyBudget
from lucidworks_provider.corpus.journal import Journal, Place
from lucidworks_provider.corpus.parts import ChunkedPiece
from lucidworks_provider.corpus.plan import Piece
from lucidworks_provider.corpus.poll_delay import PollDelayEstimator
from lucidworks_provider.corpus.stats import RunStats
from lucidworks_provider.errors import ContentEncodingError, RateLimitError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunContext:
    """What all jobs of a run share."""

    fetch: Callable[[str], Awaitable[bytes]]
    journal: Journal
    stats: RunStats
    slots: BodyBudget
    times: PollDelayEstimator


class JournalResultStore:
    """
    The :class:`~lucidworks_provider.jobs.wait.ResultStore` of one job.

    :param fresh: submitted a moment ago.
    :param hold: keep the body in memory as well, for the part that it goes to at once.
    """

    def __init__(self, desk: RunContext, piece: Piece, job: str, *, hold: bool, fresh: bool) -> None:
        self._desk = desk
        self._hold = hold
        self._fresh = fresh
        self._piece = piece
        self._job = job
        self._started = time.monotonic()
        self._unfinished: float | None = None
        self._aside: Place | None = None
        self._aside_size = -1
        self._other: Place | None = None
        self._result: Place | None = None
        self._body: bytes | None = None

    async def fetch(self, job: str) -> bytes:
        """The GET; a 429 is no answer about the job."""
        return await until_accepted(self._desk.fetch, job)

    def next_wait(self, age: float, poll_interval: float) -> float:
        """Of a job that is not ready."""
        self._unfinished = time.monotonic() - self._started
        return self._desk.times.next_wait(age, poll_interval)

    async def there(self) -> bool:
        """The plan has looked."""
        return False

    async def keep(self, body: bytes) -> None:
        """To the journal."""
        if self._fresh:  # nobody knows since when an earlier try's job is ready
            seconds = time.monotonic() - self._started
            self._desk.times.durations.append(seconds)
            if self._unfinished is None:
                self._desk.times.ready(seconds)
            else:
                self._desk.times.late(self._unfinished)
        self._desk.slots.came(len(body))
        self._result = await self._write(body)
        if self._hold:
            self._body = body
            self._desk.slots.held(len(body))

    async def keep_aside(self, body: bytes) -> None:
        """To the journal as well; a body that comes later counts instead."""
        if (size := len(body)) != self._aside_size:
            self._aside, self._aside_size = await self._write(body, aside=True), size

    async def use_aside(self) -> bool:
        """What came with an unknown status."""
        self._result = self._aside
        return self._result is not None

    async def keep_other(self, body: bytes, job_id: str) -> None:
        """To the journal, where whoever finds it asks for the job again."""
        self._other = await self._write(body, aside=True)

    async def use_other(self) -> bool:
        """What came under the id of another job."""
        self._result = self._other
        return self._result is not None

    async def keep_undecoded(self, error: ContentEncodingError) -> None:
        """To the journal as well."""
        await self._write(error.body, aside=True)
        error.kept("the journal")

    def answered(self) -> ChunkedPiece:
        """The result."""
        assert self._result is not None  # noqa: S101
        seconds = time.monotonic() - self._started
        return ChunkedPiece(self._piece, self._job, self._result, self._body, seconds)

    async def _write(self, body: bytes, *, aside: bool = False) -> Place:
        return await self._desk.journal.keep_body(self._piece.key, self._job, body, aside=aside)


async def until_accepted(call: Callable[[str], Awaitable[T]], value: str) -> T:
    """Call, and again for as long as the answer is a 429, which says nothing about the text or job."""
    for attempt in count(1):
        try:
            return await call(value)
        except RateLimitError as err:
            await asyncio.sleep(wait_after(err, attempt))
    raise AssertionError
