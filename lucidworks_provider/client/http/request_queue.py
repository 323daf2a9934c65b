# SPDX-License-Identifier: Apache-2.0
"""
Requests that wait for an application's rate limiter: first in, first out.

One queue per application (base URL) and process serves threads and the coroutines of every event loop. Only the
first waiter sleeps until a time; the others sleep until they are the first. While no limit is known, the queue is
empty.

The Models API is another host with another queue. Token requests have none: there is one per hour and deployment.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from functools import partial

from lucidworks_provider.client.http.messages import Request, Response, retry_after
from lucidworks_provider.client.http.rate_limiter import PATIENCE, AdaptiveRateLimiter, RateLimitStats
from lucidworks_provider.client.http.shared_pause import SharedPause, shared_pause
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.threads import in_thread

# Seconds after which a waiter checks that the loop of the first one is still open.
_CHECK_FIRST = 5.0


class _Waiter:
    """A thread, or a coroutine of an event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self._loop = loop
        self._woken: Future[None] = Future()

    @property
    def gone(self) -> bool:
        """Whether its loop was closed while it waited."""
        return self._loop is not None and self._loop.is_closed()

    def wake(self) -> None:
        with suppress(InvalidStateError):
            self._woken.set_result(None)

    def sleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            self._woken.result(seconds)
        self._woken = Future()

    async def asleep(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(self._woken), seconds)
        self._woken = Future()


class RequestQueue:
    """
    The requests of this process to one application.

    :param pause: shared with other processes, if any.
    :param alone: whether no other process uses the application.
    """

    def __init__(self, pause: SharedPause | None = None, *, alone: bool = False) -> None:
        self._pause = pause
        self._limiter = AdaptiveRateLimiter(shared=pause is not None, alone=alone)
        # Reentrant: the garbage collector may close a waiting coroutine, which then leaves the queue, at any time.
        self._lock = threading.RLock()
        self._waiters: deque[_Waiter] = deque()

    @property
    def stats(self) -> RateLimitStats:
        """What is known of the application's limit."""
        return self._limiter.stats

    def acquire(self) -> int:
        """Wait for the permit to send one request; pass it to :meth:`answered` afterwards."""
        permit, _ = self._try_acquire()
        if permit is not None:
            return permit
        with self._waiting(_Waiter()) as waiter:
            while True:
                permit, seconds = self._try_acquire(waiter)
                if permit is not None:
                    return permit
                if seconds:
                    waiter.sleep(seconds)
                else:
                    self._agree(self._ask())

    async def aacquire(self) -> int:
        """:meth:`acquire` for a coroutine."""
        permit, _ = self._try_acquire()
        if permit is not None:
            return permit
        with self._waiting(_Waiter(asyncio.get_running_loop())) as waiter:
            while True:
                permit, seconds = self._try_acquire(waiter)
                if permit is not None:
                    return permit
                if seconds:
                    await waiter.asleep(seconds)
                else:
                    self._agree(await in_thread(self._ask))

    def answered(self, permit: int, response: Response | None) -> Callable[[], object] | None:
        """
        Count the response to a request.

        :param response: None if there was none.
        :return: an update of the shared pause, if one is due; it may block, and is optional.
        """
        pause, resumed = None, False
        with self._lock:
            now = time.monotonic()
            if response is None:
                self._limiter.lost(permit, now)
            elif response.status == 429:
                pause = self._limiter.refused(permit, now, retry_after(response), random.random())
            else:
                resumed = self._limiter.accepted(permit, now)
            self._wake_first()
        if self._pause is None:
            return None
        if resumed:
            return self._pause.end
        return None if pause is None else partial(self._pause.hold, pause)

    def _try_acquire(self, waiter: _Waiter | None = None) -> tuple[int | None, float]:
        """Return a permit, or None and the seconds to sleep: 0 if the shared pause has to be asked first."""
        with self._lock:
            while self._waiters and self._waiters[0].gone:
                self._waiters.popleft()
            if self._waiters and self._waiters[0] is not waiter:
                return None, _CHECK_FIRST
            now = time.monotonic()
            seconds = self._limiter.wait(now)
            if seconds > 0 or self._limiter.must_ask():
                return None, seconds
            return self._limiter.sent(now), 0.0

    def _ask(self) -> float | None:
        """Called by the first waiter only, without the lock, as it may block."""
        stopped_at = self._limiter.stopped_at
        if self._pause is None or stopped_at is None:
            return 0.0
        return self._pause.ask(PATIENCE, time.monotonic() - stopped_at)

    def _agree(self, seconds: float | None) -> None:
        with self._lock:
            self._limiter.agreed(seconds, time.monotonic())

    @contextmanager
    def _waiting(self, waiter: _Waiter) -> Iterator[_Waiter]:
        with self._lock:
            self._waiters.append(waiter)
        try:
            yield waiter
        finally:
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                self._wake_first()

    def _wake_first(self) -> None:
        if self._waiters:
            self._waiters[0].wake()


_queues: dict[str, RequestQueue] = {}


def queue_of(base_url: str, settings: LucidworksSettings) -> RequestQueue:
    """
    Return this process's queue for a base URL.

    :param settings: of the connection; those of the first call decide how the pause is shared.
    """
    queue = _queues.get(base_url)
    if queue is None:
        # With `memory`, one process has the client, and so the application, to itself.
        new = RequestQueue(shared_pause(settings, base_url), alone=settings.share_via == "memory")
        queue = _queues.setdefault(base_url, new)  # atomic: threads may have created two
    return queue


def queue_for(request: Request, settings: LucidworksSettings) -> RequestQueue | None:
    """Return the queue of a request; None for one without a limit, a token request or a reading of the clock."""
    if request.basic is not None or request.method == "HEAD":
        return None
    application_url = settings.application_url or ""
    is_application = request.url.startswith(f"{application_url}/")
    return queue_of(application_url if is_application else settings.models_url, settings)


def forget_queues() -> None:
    """Drop all queues: in a forked child, a thread that no longer exists may hold their locks."""
    _queues.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_queues)
