# SPDX-License-Identifier: Apache-2.0
"""
Who waits for an application's :class:`~lucidworks_provider.transport.pace.Pace`: first come, first served.

There is one queue for each application (its base URL) and process, for threads and coroutines of every loop. Only
who is first in it has a timer; the others wait to be first. As long as nothing was refused there is no queue and no
lock, and whoever waits for nothing holds nothing: a thousand idle triggers cost no memory here.

The Models API is another host and so another queue. The token endpoint has none: a token is asked for once an hour by
one process of the fleet, which waits by :mod:`lucidworks_provider.transport.retry`, and nobody else should wait for
that, nor should that wait for an application that is overrun.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from lucidworks_provider.api.messages import Answer, Request, retry_after
from lucidworks_provider.connection import LucidworksSettings
from lucidworks_provider.sharing.pause import SharedPause, shared_pause
from lucidworks_provider.threads import in_thread
from lucidworks_provider.transport.pace import Learned, Pace

# Seconds after which those in the queue look whether the first of it is still there.
_LOOK_AGAIN = 5.0


class _Waiter(Protocol):
    """Somebody in the queue."""

    @property
    def gone(self) -> bool:
        """Whether nobody will ever take its turn."""

    def wake(self) -> None:
        """Let it look again; from any thread, and holding the queue's lock."""


class _Thread:
    gone = False

    def __init__(self) -> None:
        self._event = threading.Event()

    def wake(self) -> None:
        self._event.set()

    def sleep(self, seconds: float) -> None:
        """Until it is woken, or for so long."""
        self._event.wait(seconds)
        self._event.clear()


class _Coroutine:
    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._woken: asyncio.Future[None] = self._loop.create_future()

    @property
    def gone(self) -> bool:
        # Closed with tasks that were still waiting; `asyncio.run` cancels them first.
        return self._loop.is_closed()

    def wake(self) -> None:
        if threading.get_ident() == self._thread:
            self._wake()
        else:
            with suppress(RuntimeError):  # its loop is closed
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if not self._woken.done():
            self._woken.set_result(None)

    async def sleep(self, seconds: float) -> None:
        """Until it is woken, or for so long."""
        timer = self._loop.call_later(seconds, self._wake)
        try:
            await self._woken
        finally:
            timer.cancel()
        self._woken = self._loop.create_future()


class Turns:
    """
    The queue of one application in this process.

    :param shared: the fleet's pause, if it shares one.
    """

    def __init__(self, shared: SharedPause | None = None) -> None:
        self._shared = shared
        self._pace = Pace(shared=shared is not None)
        # Reentrant: a coroutine that nobody waits for any more may be collected, and then leaves, at any time.
        self._lock = threading.RLock()
        self._queue: deque[_Waiter] = deque()

    @property
    def learned(self) -> Learned:
        """What is known of the application's limit."""
        return self._pace.learned

    def take(self) -> int | None:
        """A ticket, if nobody has to wait for anything; else wait."""
        now = time.monotonic()
        return self._pace.sent(now) if self._pace.free and self._pace.knows(now) else None

    def wait(self) -> int:
        """A ticket, for a thread, when it is its turn."""
        me = _Thread()
        self._enter(me)
        try:
            while True:
                ticket, seconds = self._look(me)
                if ticket is not None:
                    return ticket
                if seconds:
                    me.sleep(seconds)
                else:
                    self._agree(self._ask())
        finally:
            self._leave(me)

    async def await_turn(self) -> int:
        """:meth:`wait` for a coroutine."""
        me = _Coroutine()
        self._enter(me)
        try:
            while True:
                ticket, seconds = self._look(me)
                if ticket is not None:
                    return ticket
                if seconds:
                    await me.sleep(seconds)
                else:
                    self._agree(await in_thread(self._ask))
        finally:
            self._leave(me)

    def heard(self, ticket: int, answer: Answer | None) -> Callable[[], None] | None:
        """
        Tell what came of a request.

        :param answer: None if none came.
        :return: what tells the fleet, if there is something to tell; it may wait, and need not be called.
        """
        refused = answer is not None and answer.status == 429
        if not (refused or self._pace.holding):
            return None
        pause, ends = None, False
        with self._lock:
            now = time.monotonic()
            if answer is None:
                self._pace.lost(ticket)
            elif refused:
                # Spreading load, not keeping secrets.
                pause = self._pace.refused(ticket, now, retry_after(answer), random.random())
            else:
                ends = self._pace.accepted(ticket, now)
            self._wake_first()
        if self._shared is None:
            return None
        if ends:
            return self._shared.end
        return None if pause is None else partial(self._shared.hold, pause)

    def _ask(self) -> float | None:
        """Only who is first in the queue comes here, without the lock: it may take its time."""
        if self._shared is None:
            return 0.0
        return self._shared.ask(self._pace.claim) if self._pace.holding else self._shared.look()

    def _agree(self, seconds: float | None) -> None:
        with self._lock:
            self._pace.agreed(seconds, time.monotonic())

    def _enter(self, waiter: _Waiter) -> None:
        with self._lock:
            self._queue.append(waiter)

    def _leave(self, waiter: _Waiter) -> None:
        with self._lock, suppress(ValueError):
            self._queue.remove(waiter)
            self._wake_first()

    def _look(self, waiter: _Waiter) -> tuple[int | None, float]:
        """A ticket, or how long to sleep; neither if the fleet is to be asked."""
        with self._lock:
            while self._queue[0].gone and self._queue[0] is not waiter:
                self._queue.popleft()
            if self._queue[0] is not waiter:
                return None, _LOOK_AGAIN
            now = time.monotonic()
            wait = self._pace.wait(now)
            return (None, wait) if wait > 0 or self._pace.asks(now) else (self._pace.sent(now), 0.0)

    def _wake_first(self) -> None:
        if self._queue:
            self._queue[0].wake()


_all_turns: dict[str, Turns] = {}
_lock = threading.Lock()


def turns_of(base_url: str, settings: LucidworksSettings) -> Turns:
    """
    This process's queue for what lies below a URL.

    :param settings: of the connection; the first one's say where the fleet shares its pauses.
    """
    with _lock:
        if base_url not in _all_turns:
            _all_turns[base_url] = Turns(shared_pause(settings, base_url))
        return _all_turns[base_url]


class Lanes:
    """A connection's queues."""

    def __init__(self, settings: LucidworksSettings) -> None:
        self._application_url = settings.application_url or ""
        self._below_application = f"{settings.application_url}/"
        self._models_url = settings.models_url
        self._settings = settings

    def of(self, request: Request) -> Turns | None:
        """Where a request has to wait; None for one that has not to."""
        if request.basic is not None or request.method == "HEAD":
            return None  # a token, or the time
        ours = request.url.startswith(self._below_application)
        url = self._application_url if ours else self._models_url
        # Looked up each time: a forked child has queues of its own.
        return _all_turns.get(url) or turns_of(url, self._settings)


def forget_turns() -> None:
    """Drop what this process has learned: in a forked child, whose locks may be held by threads that are gone."""
    global _lock  # noqa: PLW0603
    _lock = threading.Lock()
    _all_turns.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_turns)
