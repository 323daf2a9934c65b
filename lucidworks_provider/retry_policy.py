# SPDX-License-Identifier: Apache-2.0
"""
Which failures Airflow retries, for ``retry_policy=`` of any task (Airflow 3.3 and later).

The errors of this package have an attribute ``retryable``. Operators and sensors without a policy fail at once for
errors that are not (:mod:`lucidworks_provider.operators.base`). A policy adds the delay that the service requests,
and works for ``@task`` functions too.

Before Airflow 3.3 the class can be imported and has no effect: Airflow ignores ``retry_policy`` in ``default_args``,
and rejects it as an argument of a task.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lucidworks_provider.errors import LucidworksError

try:
    from airflow.providers.common.compat.sdk import RetryDecision, RetryPolicy
except ImportError:  # before Airflow 3.3
    RetryPolicy = object  # type: ignore[assignment,misc]

if TYPE_CHECKING:
    from airflow.sdk import Context

# Mapped tasks that were refused at the same time are not retried at the same time.
_JITTER = 0.25
# The longest delay, whatever the service requests.
LONGEST_DELAY = timedelta(hours=1)


class LucidworksRetryPolicy(RetryPolicy):
    """
    Fails at once for errors that no retry can resolve, and retries the others after the delay that the service
    requests.

    * Rejected arguments and connections, 4xx, jobs that ended in ERROR: the task fails without further retries.
    * Rate limits, 5xx, broken connections, results that are gone, jobs that were not ready in time: a retry,
      after the ``Retry-After`` of the service if it sent one (up to a quarter longer, so that mapped tasks are not
      retried at the same time; an hour at most), else after the task's own ``retry_delay``.
    * Exceptions of other packages: as without a policy.

    The task's ``retries`` are the limit: a policy can end them early, but not add to them.

    ::

        LucidworksChunkOperator(..., retries=5, retry_policy=LucidworksRetryPolicy())

    .. seealso:: https://airflow.apache.org/docs/apache-airflow/stable/core-concepts/tasks.html
    """

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,  # Airflow's signature
        max_tries: int,
        context: Context | None = None,
    ) -> RetryDecision:
        """
        Decide about a failure; called by Airflow in the worker.

        :param exception: what the task raised.
        :param try_number: not used.
        :param max_tries: not used.
        :param context: not used.
        """
        return decide(exception)

    def __repr__(self) -> str:
        """Stable: before 3.3 Airflow stores it in the serialized ``default_args``."""
        return f"{type(self).__name__}()"

    def serialize(self) -> dict[str, Any]:
        """It has no options."""
        return {"__type": type(self).__name__}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> LucidworksRetryPolicy:
        """
        :param data: what :meth:`serialize` returned.
        """
        return cls()


def decide(exception: BaseException, jitter: Callable[[], float] = random.random) -> RetryDecision:
    """
    The decision for one exception.

    :param jitter: a number from 0 to 1, which lengthens the delay.
    """
    if not isinstance(exception, LucidworksError):
        return RetryDecision.default()
    name = type(exception).__name__
    if not exception.retryable:
        return RetryDecision.fail(f"{name}: a retry would fail in the same way")
    if (retry_after := exception.retry_after) is None:
        return RetryDecision.retry(reason=f"{name}: may succeed later")
    longest = LONGEST_DELAY.total_seconds()
    delay = timedelta(seconds=min(retry_after * (1 + _JITTER * jitter()), longest))
    return RetryDecision.retry(delay, f"{name}: the service asked to wait for {retry_after:g} s")
