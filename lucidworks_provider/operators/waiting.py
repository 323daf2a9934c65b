# SPDX-License-Identifier: Apache-2.0
"""Mixins of operators and sensors: the hook, the poll interval and the deadline."""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf

from lucidworks_provider.operators.failures import NonRetryableErrorsMixin
from lucidworks_provider.operators.templates import NoneTemplatesMixin
from lucidworks_provider.operators.values import seconds, switch

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from lucidworks_provider.hooks.lucidworks import LucidworksHook

# The trigger's event at its deadline must arrive before Airflow's timeout of the deferral.
DEFER_SLACK = timedelta(minutes=5)
# Of execution_timeout, for the resumption: a tenth, and no more than queueing a task and starting a worker takes.
_MARGIN, _LONGEST_MARGIN = 0.1, 30.0
DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)


class HookMixin(NoneTemplatesMixin, NonRetryableErrorsMixin):
    """Has a hook."""

    if TYPE_CHECKING:
        lucidworks_conn_id: str

    @cached_property
    def hook(self) -> LucidworksHook:
        from lucidworks_provider.hooks.lucidworks import LucidworksHook

        return LucidworksHook(self.lucidworks_conn_id)


class WaitMixin(HookMixin):
    """Waits in the triggerer or in the worker."""

    if TYPE_CHECKING:
        deferrable: bool
        poll_interval: float | timedelta
        timeout: Any
        execution_timeout: timedelta | None
        log: Any
        defer: Any

    @property
    def _poll_seconds(self) -> float:
        return seconds(self.poll_interval, "poll_interval")

    @property
    def _in_triggerer(self) -> bool:
        return switch(self.deferrable, "deferrable")

    @property
    def _timeout_seconds(self) -> float:
        return seconds(self.timeout, "timeout")

    def _deadline(self, context: Context) -> float:
        """Of this attempt, in seconds since the epoch."""
        limit = execution_limit(context["ti"], self.execution_timeout)
        return min(time.time() + self._timeout_seconds, limit or math.inf)

    def _waited(self, context: Context) -> str:
        """The smaller limit, for messages about a timeout."""
        if self._ends_by_execution_timeout(context):
            return f"execution_timeout={self.execution_timeout.total_seconds():g} s of the attempt's start"  # type: ignore[union-attr]
        return f"timeout={self._timeout_seconds:g} s"

    def _ends_by_execution_timeout(self, context: Context) -> bool:
        """Whether ``execution_timeout`` is the smaller limit. A retry has a new one, also of a sensor."""
        ti = context["ti"]
        limit = execution_limit(ti, self.execution_timeout)
        return limit is not None and limit - ti.start_date.timestamp() < self._timeout_seconds


def execution_limit(ti: Any, execution_timeout: timedelta | None) -> float | None:
    """
    When a wait must end so that its task ends within ``execution_timeout``, in seconds since the epoch.

    Airflow 3 ignores ``execution_timeout`` while a task is deferred and measures it anew from each resumption, so
    it is measured here, from the attempt's start, which a deferral does not change.

    :param ti: the running task instance; one without a start date has no limit.
    """
    started = getattr(ti, "start_date", None)
    if execution_timeout is None or not isinstance(started, datetime):
        return None
    limit = execution_timeout.total_seconds()
    # The task resumes within the margin, and fails with its own error before Airflow ends it.
    return started.timestamp() + limit - min(_LONGEST_MARGIN, limit * _MARGIN)
