# SPDX-License-Identifier: Apache-2.0
"""What may wait for Airflow, Redis or a storage must not hold up an event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking call off the loop, in the way that is safe from Airflow 2.11 to 3.3."""
    # asgiref, as Airflow's own SDK does: what calls the supervisor from a plain thread is unsafe on 3.0/3.1.
    from asgiref.sync import sync_to_async

    return await sync_to_async(call, thread_sensitive=False)(*args, **kwargs)
