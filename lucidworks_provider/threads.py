# SPDX-License-Identifier: Apache-2.0
"""Runs blocking calls beside an event loop, and several of them ahead of their consumer."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from itertools import islice
from types import ModuleType
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

# Concurrent calls of :func:`read_ahead`. At 40 ms each they are 400 a second.
AHEAD = 16
# Seconds of a call that is quick, and the total excess of slower ones after which threads are started.
QUICK, MAX_EXCESS = 0.004, 0.03


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking call off the loop, in the way that is safe from Airflow 2.11 to 3.3."""
    # As Airflow's SDK does: calls of the supervisor from a plain thread are unsafe on Airflow 3.0 and 3.1.
    from asgiref.sync import sync_to_async

    return await sync_to_async(call, thread_sensitive=False)(*args, **kwargs)


def read_ahead(
    work: Callable[[T], R],
    items: Iterable[T],
    *,
    size: Callable[[T], int] = lambda _: 0,
    max_bytes: int = 0,
) -> Generator[R, None, None]:
    """
    The results of blocking calls in the order of their items, with some calls ahead of the consumer.

    :param work: the call for an item; thread-safe.
    :param items: iterated on the caller's thread.
    :param size: bytes of the result of an item.
    :param max_bytes: limit of the results in memory; a larger result is in memory alone.
    """
    items = iter(items)
    yield from _read_while_quick(work, items)
    waiting: deque[tuple[int, Future[R]]] = deque()
    held = 0
    pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="read-ahead")
    try:
        for item in items:
            item_bytes = size(item)
            while waiting and (len(waiting) >= AHEAD or held + item_bytes > max_bytes):
                released, result = waiting.popleft()
                yield result.result()
                held -= released
            held += item_bytes
            waiting.append((item_bytes, pool.submit(work, item)))
        while waiting:
            yield waiting.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read_while_quick(work: Callable[[T], R], items: Iterator[T]) -> Generator[R, None, None]:
    """Call on the caller's thread while calls are quick, as for a local disk."""
    # The first call is not timed. It may read a connection, which is unsafe in a plain thread on Airflow 3.0 and 3.1.
    for item in islice(items, 1):
        yield work(item)
    left = MAX_EXCESS
    for item in items:
        began = time.monotonic()
        result = work(item)
        left = min(MAX_EXCESS, left + QUICK - (time.monotonic() - began))
        yield result
        if left <= 0:
            return


# Completely imported modules; sys.modules also has those whose import is in progress.
_imported: dict[str, ModuleType] = {}


async def import_in_thread(name: str) -> ModuleType:
    """Import a module off the loop: importing aiohttp takes some 70 ms."""
    if name not in _imported:
        _imported[name] = await in_thread(import_module, name)
    return _imported[name]
