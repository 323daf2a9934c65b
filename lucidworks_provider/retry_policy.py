# SPDX-License-Identifier: Apache-2.0
"""
Which failures Airflow should try again, for ``retry_policy=`` of any task (Airflow 3.3 and later).

What is an error of this package says itself whether the same call may succeed later; here it becomes Airflow's
decision. Operators and sensors without a policy fail at once for what no retry can cure
(:mod:`lucidworks_provider.operators.base`). A policy adds the delay that the service asks for, and does the same
for ``@task`` functions.

Before Airflow 3.3 the class can be imported and is not used: Airflow ignores ``retry_policy`` in ``default_args``
there, and refuses it as an argument of a task.
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

# Mapped tasks that were refused together do not come back together.
_SPREAD = 0.25
# The service may ask for anything; a task that waits for longer than this looks lost.
LONGEST_DELAY = timedelta(hours=1)


class LucidworksRetryPolicy(RetryPolicy):
    """
    Fails at once what no retry can cure, and retries the rest when the service asked for it.

    * Arguments and connections that are refused, 4xx, jobs that the service ended with ERROR: the task fails, and
      keeps its retries.
    * Rate limits, 5xx, broken connections, results that are gone, jobs that were not ready in time: a retry,
      after the ``Retry-After`` of the service where it sent one (up to a quarter longer, so that mapped tasks do
      not come back together; an hour at most), else after the task's own ``retry_delay``.
    * Exceptions of other packages: as if there were no policy.

    The task's ``retries`` are the limit: a policy can end them early and not add to them.

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
        """The same for each parse of a DAG file: before 3.3 Airflow keeps it in the serialized ``default_args``."""
        return f"{type(self).__name__}()"

    def serialize(self) -> dict[str, Any]:
        """Nothing to keep: it has no options."""
        return {"__type": type(self).__name__}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> LucidworksRetryPolicy:
        """
        The policy again.

        :param data: what :meth:`serialize` returned.
        """
        return cls()


def decide(exception: BaseException, spread: Callable[[], float] = random.random) -> RetryDecision:
    """
    The decision for one exception.

    :param spread: a number from 0 to 1, which lengthens the delay.
    """
    if not isinstance(exception, LucidworksError):
        return RetryDecision.default()
    name = type(exception).__name__
    if not exception.retryable:
        return RetryDecision.fail(f"{name}: the same attempt again would fail the same way")
    asked: float | None = getattr(exception, "retry_after", None)
    if asked is None:
        return RetryDecision.retry(reason=f"{name}: may succeed later")
    longest = LONGEST_DELAY.total_seconds()
    delay = timedelta(seconds=min(asked * (1 + _SPREAD * spread()), longest))
    return RetryDecision.retry(delay, f"{name}: the service asked to wait for {asked:g} s")
