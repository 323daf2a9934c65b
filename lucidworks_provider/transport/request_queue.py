# SPDX-License-Identifier: Apache-2.0
"""
Who waits for an application's rate limiter: first come, first served.

One queue for each application (its base URL) and process, for threads and the coroutines of every loop. Only the
first in the queue waits for time to pass; the others wait to become the first. While no limit is known it is empty.

The Models API is another host and so has another queue. The token endpoint has none: a token is requested once an
hour by one process of the fleet.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import partial

from lucidworks_provider.api.messages import Answer, Request, retry_after
from lucidworks_provider.connection import LucidworksSettings
from lucidworks_provider.sharing.pause import SharedPause, shared_pause
from lucidworks_provider.threads import in_thread
from lucidworks_provider.transport.rate_limiter import PATIENCE, AdaptiveRateLimiter, RateLimitStats

# Seconds after which a waiter looks whether the first in the queue is still there.
_LOOK_AGAIN = 5.0


class _Waiter:
    """A place in the queue, of a thread or of a coroutine."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self._woken: Future[None] = Future()

    @property
    def gone(self) -> bool:
        """Whether its loop was closed while it waited."""
        return self._loop is not None and self._loop.is_closed()

    def wake(self) -> None:
        """Let it look again; from any thread."""
        with suppress(InvalidStateError):
            self._woken.set_result(None)

    def sleep(self, seconds: float) -> None:
        """Until it is woken, or for so long."""
        with suppress(TimeoutError):
            self._woken.result(seconds)
        self._woken = Future()

    async def asleep(self, seconds: float) -> None:
        """:meth:`sleep` of a coroutine."""
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(self._woken), seconds)
        self._woken = Future()


class RequestQueue:
    """
    The requests of this process to one application.

    :param pause: of the fleet, if it shares one.
    :param alone: whether no other process uses the application.
    """

    def __init__(self, pause: SharedPause | None = None, *, alone: bool = False) -> None:
        self._pause = pause
        self._limiter = AdaptiveRateLimiter(shared=pause is not None, alone=alone)
        # Reentrant: a coroutine that was abandoned may be collected, and then leaves, at any time.
        self._lock = threading.RLock()
        self._waiters: deque[_Waiter] = deque()

    @property
    def stats(self) -> RateLimitStats:
        """What is known of the application's limit."""
        return self._limiter.stats

    def acquire(self) -> int:
        """Wait for the permit to send one request; its answer is told with :meth:`answered`."""
        if (permit := self._acquire_now()) is not None:
            return permit
        waiter = self._enter(_Waiter())
        try:
            while True:
                permit, seconds = self._look(waiter)
                if permit is not None:
                    return permit
                if seconds:
                    waiter.sleep(seconds)
                else:
                    self._agree(self._ask())
        finally:
            self._leave(waiter)

    async def aacquire(self) -> int:
        """:meth:`acquire` for a coroutine."""
        if (permit := self._acquire_now()) is not None:
            return permit
        waiter = self._enter(_Waiter(asyncio.get_running_loop()))
        try:
            while True:
                permit, seconds = self._look(waiter)
                if permit is not None:
                    return permit
                if seconds:
                    await waiter.asleep(seconds)
                else:
                    self._agree(await in_thread(self._ask))
        finally:
            self._leave(waiter)

    def answered(self, permit: int, answer: Answer | None) -> Callable[[], None] | None:
        """
        Tell what came of a request.

        :param answer: None if none came.
        :return: what tells the fleet, if there is something to tell; it may wait, and need not be called.
        """
        pause, resumed = None, False
        with self._lock:
            now = time.monotonic()
            if answer is None:
                self._limiter.lost(permit, now)
            elif answer.status == 429:
                # Spreading load, not keeping secrets.
                pause = self._limiter.refused(permit, now, retry_after(answer), random.random())
            else:
                resumed = self._limiter.accepted(permit, now)
            if self._waiters:
                self._waiters[0].wake()
        if self._pause is None:
            return None
        if resumed:
            return self._pause.end
        return None if pause is None else partial(self._pause.hold, pause)

    def _acquire_now(self) -> int | None:
        with self._lock:
            return None if self._waiters else self._permit(time.monotonic())

    def _permit(self, now: float) -> int | None:
        limiter = self._limiter
        return None if limiter.wait(now) > 0 or limiter.must_ask() else limiter.sent(now)

    def _ask(self) -> float | None:
        """Only the first in the queue comes here, without the lock: it may take its time."""
        stopped_at = self._limiter.stopped_at
        if self._pause is None or stopped_at is None:
            return 0.0
        return self._pause.ask(PATIENCE, time.monotonic() - stopped_at)

    def _agree(self, seconds: float | None) -> None:
        with self._lock:
            self._limiter.agreed(seconds, time.monotonic())

    def _enter(self, waiter: _Waiter) -> _Waiter:
        with self._lock:
            self._waiters.append(waiter)
        return waiter

    def _leave(self, waiter: _Waiter) -> None:
        with self._lock, suppress(ValueError):
            self._waiters.remove(waiter)
            if self._waiters:
                self._waiters[0].wake()

    def _look(self, waiter: _Waiter) -> tuple[int | None, float]:
        """A permit, or how long to sleep; neither if the fleet is to be asked."""
        with self._lock:
            while self._waiters[0].gone and self._waiters[0] is not waiter:
                self._waiters.popleft()
            if self._waiters[0] is not waiter:
                return None, _LOOK_AGAIN
            now = time.monotonic()
            return self._permit(now), self._limiter.wait(now)


_queues: dict[str, RequestQueue] = {}
_lock = threading.Lock()


def queue_of(base_url: str, settings: LucidworksSettings) -> RequestQueue:
    """
    This process's queue for what lies below a URL.

    :param settings: of the connection; the first one's say where the fleet shares its pauses.
    """
    with _lock:
        if base_url not in _queues:
            # `memory` is chosen for one process that has the client, and so the application, for itself.
            pause = shared_pause(settings, base_url)
            _queues[base_url] = RequestQueue(pause, alone=settings.share_via == "memory")
        return _queues[base_url]


class Queues:
    """A connection's queues."""

    def __init__(self, settings: LucidworksSettings) -> None:
        self._application_url = settings.application_url or ""
        self._below_application = f"{settings.application_url}/"
        self._models_url = settings.models_url
        self._settings = settings

    def of(self, request: Request) -> RequestQueue | None:
        """Where a request has to wait; None for one that has not to."""
        if request.basic is not None or request.method == "HEAD":
            return None  # a token, or the time
        ours = request.url.startswith(self._below_application)
        url = self._application_url if ours else self._models_url
        # Looked up each time: a forked child has queues of its own.
        return _queues.get(url) or queue_of(url, self._settings)


def forget_queues() -> None:
    """Drop what this process has learned: in a forked child, whose locks may be held by threads that are gone."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _queues.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_queues)
