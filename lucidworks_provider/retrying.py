# SPDX-License-Identifier: Apache-2.0
"""
Retry policies, performed by tenacity: for requests to the service (:func:`policy`), and for everything else
(:func:`retry_on`).

==========================  =========================  ===================================
what happened               a replayable request       a submission (not replayable)
==========================  =========================  ===================================
429, for three minutes      again, after Retry-After   again: it was refused, no job exists
no connection               again                      again: the service never saw it
425                         again                      again: it was not processed
broken or no response,      again                      no: a job may exist; the caller decides
  5xx, 408
200 without a token         again (token request)      --
200 without a job id        --                         no, for the same reason
401, or no token store      twice more; nothing has been done yet
403                         once more, if the token may be invalid (``TokenCache.refuse_after_403``)
other 4xx                   no                         no
==========================  =========================  ===================================

Waits grow exponentially, and half of each is random, so that processes do not retry at the same time. A
``Retry-After`` is a lower bound. In the three minutes, the service accepts no request of the process, and refuses
several of it or of other processes; see ``RequestQueue.refused_for``.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    retry_if_exception_type,
    stop_after_attempt,
)

from lucidworks_provider.errors import (
    LucidworksError,
    NotSentError,
    RateLimitError,
    ServiceError,
    TokenError,
    TokenRefusedError,
    TokenStoreError,
)

log = logging.getLogger(__name__)
T = TypeVar("T")

ATTEMPTS = 6
FIRST_WAIT = 1.0
LONGEST_WAIT = 30.0
# Seconds in which the service refuses everything, after which a refused request is given up. One request at a time is
# sent then, so that six attempts of each of eight requests would take twenty minutes.
LONGEST_REFUSAL = 180.0
# A longer Retry-After is left to the retries of Airflow.
LONGEST_RETRY_AFTER = 120.0
# Retries with another token: one can be invalidated between reading and using it.
TOKEN_ROUNDS = 2


def nothing_done(error: BaseException) -> bool:
    """Whether the service has done nothing, so that a submission can be sent again."""
    too_early = isinstance(error, ServiceError) and error.status == 425
    return too_early or isinstance(error, RateLimitError | NotSentError | TokenRefusedError | TokenError)


def wait_after(retry_state: RetryCallState) -> float:
    """Seconds to wait after an attempt: exponential with jitter, and not shorter than ``Retry-After``."""
    error, attempt = _error(retry_state), retry_state.attempt_number
    if isinstance(error, TokenRefusedError):
        return 0.0
    asked = min((error and error.retry_after) or 0.0, LONGEST_RETRY_AFTER)
    # After a Retry-After, add little at first, and more with each further refusal.
    first, factor = (FIRST_WAIT / 4, 4.0) if asked else (FIRST_WAIT, 2.0)
    ceiling = min(LONGEST_WAIT, first * factor ** min(attempt - 1, 16))
    return asked + random.uniform(ceiling / 2, ceiling)


def policy(
    *, replayable: bool, attempts: int | None = None, refused_for: Callable[[], float] = lambda: 0.0
) -> dict[str, Any]:
    """
    Keyword arguments for ``tenacity.Retrying`` and ``tenacity.AsyncRetrying`` alike, for one call (401s are counted).

    :param replayable: see the table above.
    :param attempts: at most, not counting 401s.
    :param refused_for: seconds for which the service has refused everything.
    """
    token_rounds = 0

    def retryable(error: BaseException) -> bool:
        if not isinstance(error, LucidworksError) or not error.retryable:
            return False
        if isinstance(error, TokenError) and not isinstance(error, TokenStoreError):
            # The request for a token has its own retries.
            return False
        return replayable or nothing_done(error)

    def stop(retry_state: RetryCallState) -> bool:
        nonlocal token_rounds
        error = _error(retry_state)
        if isinstance(error, TokenRefusedError | TokenStoreError):
            token_rounds += 1
            return token_rounds > TOKEN_ROUNDS
        if error and (error.retry_after or 0.0) > LONGEST_RETRY_AFTER:
            return True
        if isinstance(error, RateLimitError) and refused_for() > LONGEST_REFUSAL:
            return True
        return retry_state.attempt_number - token_rounds >= (attempts or ATTEMPTS)

    def before_sleep(retry_state: RetryCallState) -> None:
        error = _error(retry_state)
        wait = retry_state.next_action.sleep if retry_state.next_action else 0.0
        # Errors of this package contain no secret. A 429 is expected, and there may be many.
        level = logging.INFO if isinstance(error, RateLimitError) else logging.WARNING
        log.log(level, "Attempt %s failed, next in %.1f s: %s", retry_state.attempt_number, wait, error)

    return {
        "retry": retry_if_exception(retryable),
        "stop": stop,
        "wait": wait_after,
        "before_sleep": before_sleep,
        "reraise": True,
    }


def _error(retry_state: RetryCallState) -> LucidworksError | None:
    outcome = retry_state.outcome
    error = outcome.exception() if outcome is not None else None
    return error if isinstance(error, LucidworksError) else None


def retry_on(
    *errors: type[Exception], attempts: int, wait: Callable[[RetryCallState], float], what: str
) -> dict[str, Any]:
    """
    Keyword arguments for ``tenacity.retry``, ``tenacity.Retrying`` and ``tenacity.AsyncRetrying`` alike.

    Each retry is logged as a warning; the last error is raised.

    :param errors: the errors after which to try again.
    :param attempts: tries in all.
    :param wait: seconds.
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


def retry_call(call: Callable[[], T], **policy: Any) -> T:
    """
    ``Retrying(**policy)(call)`` for a call that mostly succeeds: only failures cost the time of tenacity.

    :param policy: as :func:`policy` or :func:`retry_on` returns it.
    """
    try:
        return call()
    except Exception as err:  # noqa: BLE001  # the policy raises what it does not retry
        first = [err]

    def again() -> T:
        if first:
            raise first.pop()
        return call()

    return Retrying(**policy)(again)


async def retry_async(call: Callable[..., Awaitable[T]], *args: Any, **policy: Any) -> T:
    """:func:`retry_call` for an event loop."""
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
