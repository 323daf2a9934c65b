# SPDX-License-Identifier: Apache-2.0
"""What may wait for Airflow, Redis or a storage must not hold up an event loop."""

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

# Calls of :func:`read_ahead` at a time. At 40 ms each they are 400 a second.
AHEAD = 16
# Seconds of a call that need no reading ahead, and how much longer some may take altogether before it begins.
QUICK, PAUSES = 0.004, 0.03


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking call off the loop, in the way that is safe from Airflow 2.11 to 3.3."""
    # asgiref, as Airflow's own SDK does: what calls the supervisor from a plain thread is unsafe on 3.0/3.1.
    from asgiref.sync import sync_to_async

    return await sync_to_async(call, thread_sensitive=False)(*args, **kwargs)


def read_ahead(
    work: Callable[[T], R],
    items: Iterable[T],
    *,
    size: Callable[[T], int] = lambda _: 0,
    most: int = 0,
) -> Generator[R, None, None]:
    """
    The results of blocking calls in the order of their items, with some calls under way ahead of a caller that waits.

    :param work: reads one item; safe to call from several threads.
    :param items: taken as there is room for them, on the caller's thread.
    :param size: the bytes that the result of an item takes.
    :param most: bytes of the results that are held; a larger one is held alone.
    """
    items = iter(items)
    yield from _read_while_quick(work, items)
    waiting: deque[tuple[int, Future[R]]] = deque()
    held = 0
    pool = ThreadPoolExecutor(AHEAD, thread_name_prefix="read-ahead")
    try:
        for item in items:
            needed = size(item)
            while waiting and (len(waiting) >= AHEAD or held + needed > most):
                released, result = waiting.popleft()
                yield result.result()
                held -= released
            held += needed
            waiting.append((needed, pool.submit(work, item)))
        while waiting:
            yield waiting.popleft()[1].result()
    finally:
        pool.shutdown(cancel_futures=True)


def _read_while_quick(work: Callable[[T], R], items: Iterator[T]) -> Generator[R, None, None]:
    """On the caller's thread, for as long as calls are short, as those of a local disk are."""
    # The first call is not counted: a storage fetches its connection then, and what calls the supervisor from a
    # plain thread is unsafe on Airflow 3.0/3.1.
    for item in islice(items, 1):
        yield work(item)
    left = PAUSES
    for item in items:
        began = time.monotonic()
        result = work(item)
        left = min(PAUSES, left + QUICK - (time.monotonic() - began))
        yield result
        if left <= 0:
            return


# Modules that are imported to the end; in sys.modules they are from the beginning.
_imported: dict[str, ModuleType] = {}


async def import_in_thread(name: str) -> ModuleType:
    """Import a module off the loop: importing aiohttp takes some 70 ms."""
    if name not in _imported:
        _imported[name] = await in_thread(import_module, name)
    return _imported[name]
