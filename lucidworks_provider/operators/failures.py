# SPDX-License-Identifier: Apache-2.0
"""
Which errors of an operator or sensor end its task at once, whatever its ``retries``.

=========================  ==========================================================================
error                      the task
=========================  ==========================================================================
``retryable``              is retried as Airflow does
not, no retry policy       fails at once: the error is an ``AirflowFailException`` as well
not, with a retry policy   fails as the policy decides: Airflow asks none about an ``AirflowFailException``
=========================  ==========================================================================

Airflow has retry policies from 3.3 on.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar

from airflow.providers.common.compat.sdk import AirflowFailException

from lucidworks_provider.errors import LucidworksError

E = TypeVar("E", bound=LucidworksError)


class NonRetryableErrorsMixin:
    """Of every operator and sensor, and of classes that users derive from them."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("execute", "execute_complete"):
            if method := cls.__dict__.get(name):
                setattr(cls, name, failing_at_once(method))


def non_retryable(err: E) -> E:
    """The same error, of the same class, that is an ``AirflowFailException`` as well."""
    if isinstance(err, AirflowFailException):
        return err
    kind: type[E] = _failing(type(err))  # type: ignore[arg-type]  # mypy: a class is not hashable
    failing: E = kind.__new__(kind, *err.args)
    failing.__dict__.update(err.__dict__, retryable=False)
    return failing


def failing_at_once(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except LucidworksError as err:
            decided = err.retryable or isinstance(err, AirflowFailException)
            if decided or getattr(self, "retry_policy", None) is not None:
                raise
            raise non_retryable(err) from err

    return run


@cache
def _failing(kind: type[Any]) -> type[Any]:
    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind, AirflowFailException), named)
