# SPDX-License-Identifier: Apache-2.0
"""Retries of everything but requests to the service, which have :mod:`~lucidworks_provider.client.http.retry`."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

if TYPE_CHECKING:
    from tenacity.wait import wait_base

log = logging.getLogger(__name__)
T = TypeVar("T")


def retry_on(*errors: type[Exception], attempts: int, wait: wait_base, what: str) -> dict[str, Any]:
    """
    Keyword arguments for ``tenacity.retry``, ``tenacity.Retrying`` and ``tenacity.AsyncRetrying`` alike.

    Each retry is logged as a warning; the last error is raised.

    :param errors: the errors after which to try again.
    :param attempts: tries in all.
    :param wait: a wait of tenacity, in seconds.
    :param what: what is tried, for the log.
    """

    def before_sleep(state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome is not None else None
        seconds = state.next_action.sleep if state.next_action is not None else 0.0
        log.warning("%s failed, next attempt in %.1f s: %s", what, seconds, error)

    return {
        "retry": retry_if_exception_type(errors),
        "stop": stop_after_attempt(attempts),
        "wait": wait,
        "before_sleep": before_sleep,
        "reraise": True,
    }


async def retry_async(call: Callable[..., Awaitable[T]], *args: Any, **policy: Any) -> T:
    """
    ``AsyncRetrying(**policy)(call, *args)`` for a call that mostly succeeds: only failures cost the time of tenacity.

    :param policy: as :func:`retry_on` returns it.
    """
    try:
        return await call(*args)
    except Exception as err:  # noqa: BLE001  # the policy raises what it does not retry
        first = [err]

    async def again() -> T:
        if first:
            raise first.pop()
        return await call(*args)

    result: T = await AsyncRetrying(**policy)(again)
    return result
