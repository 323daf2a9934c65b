# SPDX-License-Identifier: Apache-2.0
"""Base class of the sensors."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
)

from lucidworks_provider.client.options import check_option
from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import (
    EmptyResultError,
    JobFailedError,
    JobTimeoutError,
    LucidworksError,
    ResultGoneError,
)
from lucidworks_provider.operators.base import DEFERRABLE, SECONDS, WaitMixin, as_fail_exception

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class BaseLucidworksSensor(WaitMixin, BaseSensorOperator):
    """Pokes, or waits in the triggerer; its timeout and the end of a job are not retried."""

    ui_color = "#e8f1fb"

    def __init__(
        self,
        *,
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool | str = DEFERRABLE,
        poke_interval: float | timedelta | str,
        timeout: float | timedelta | str | None = None,
        **kwargs: Any,
    ) -> None:
        poke_interval = _text_as_seconds(poke_interval, "poke_interval")
        if timeout is not None:
            kwargs["timeout"] = _text_as_seconds(timeout, "timeout")
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.lucidworks_conn_id = lucidworks_conn_id
        self.deferrable = deferrable
        self.poll_interval = poke_interval
        self._first_poke: float | None = None
        # What the last poke saw, in words; None while a poke runs.
        self._last_seen: str | None = None
        # Seconds that the service asked to wait in its response to the last poke.
        self._retry_after: float | None = None

    def execute(self, context: Context) -> Any:
        """Poke. Airflow's message about a timeout does not have what was waited for."""
        try:
            return super().execute(context)
        except (AirflowSensorTimeout, AirflowSkipException) as err:
            if self._last_seen is None:
                raise
            raise type(err)(self._last_seen) from err

    def _get_next_poke_interval(
        self, started_at: Any, run_duration: Callable[[], float], *args: Any
    ) -> float:
        """Airflow's wait, and not shorter than ``Retry-After``, up to the timeout."""
        seconds: float = super()._get_next_poke_interval(started_at, run_duration, *args)
        asked: float = min(self._retry_after or 0.0, self.timeout - run_duration())
        return max(seconds, asked)

    def _resumption(self, context: Context) -> str:
        """Airflow does not retry the timeout of a sensor."""
        if self._ends_by_execution_timeout(context):
            return super()._resumption(context)
        return "Clear the task to resume the wait."

    def _ends_by_execution_timeout(self, context: Context) -> bool:
        """In reschedule mode, Airflow applies ``execution_timeout`` to each poke."""
        return (self._in_triggerer or not self.reschedule) and super()._ends_by_execution_timeout(context)

    def _started(self, context: Context) -> float:
        """Time of the first poke, also where each poke is a process of its own."""
        if self.reschedule and hasattr(context["ti"], "get_first_reschedule_date"):
            first = context["ti"].get_first_reschedule_date(context)
            return first.timestamp() if first else time.time()
        self._first_poke = self._first_poke or time.time()
        return self._first_poke

    @contextmanager
    def _sensor_errors(self, context: Context) -> Iterator[None]:
        """
        A timeout is Airflow's own, unless it is the execution_timeout; the end of a job fails without a retry.

        With ``never_fail``, Airflow skips after any error of a poke, but after a deferral only after its own errors.
        """
        try:
            yield
        except LucidworksError as err:
            if isinstance(err, JobTimeoutError) and not self._ends_by_execution_timeout(context):
                raise AirflowSensorTimeout(str(err)) from None
            if self.never_fail and self._in_triggerer:
                raise AirflowSkipException(f"Skipping due to never_fail is set to True. {err}") from err
            if isinstance(err, (EmptyResultError, JobFailedError, ResultGoneError)):
                raise as_fail_exception(err) from err
            raise


def _text_as_seconds(value: float | timedelta | str, what: str) -> float | timedelta:
    """Convert a duration that is a text; Airflow accepts the others."""
    return check_option(value, what, SECONDS) if isinstance(value, str) else value
