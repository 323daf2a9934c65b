# SPDX-License-Identifier: Apache-2.0
"""What may wait for Airflow or Redis must not hold up an event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(call: Callable[[], T]) -> T:
    """Call what blocks, from a coroutine."""
    # asgiref, as Airflow's own SDK does: what calls the supervisor from a plain thread is unsafe on 3.0/3.1.
    from asgiref.sync import sync_to_async

    return await sync_to_async(call, thread_sensitive=False)()
