# SPDX-License-Identifier: Apache-2.0
"""What every operator and sensor has: a hook; and those that wait, a pace and an end."""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf

from lucidworks_provider.errors import InputError
from lucidworks_provider.links.documentation import LucidworksDocumentationLink, page_of
from lucidworks_provider.operators.failures import NonRetryableErrorsMixin

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperatorLink, Context

    from lucidworks_provider.hooks.lucidworks import LucidworksHook

# Nobody knows for how long the service keeps a result, but not for a year.
_LONGEST = 365 * 86_400.0
# The trigger's own event at its deadline is to arrive before Airflow's time-out of the deferral.
DEFER_SLACK = timedelta(minutes=5)
DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)


class UsesHook(NonRetryableErrorsMixin):
    """Asks the service."""

    if TYPE_CHECKING:
        lucidworks_conn_id: str

    operator_extra_links: Collection[BaseOperatorLink] = (LucidworksDocumentationLink(),)

    def pre_execute(self, context: Context) -> None:
        """Airflow calls this when the templates are rendered."""
        super().pre_execute(context)  # type: ignore[misc]  # of the operator
        LucidworksDocumentationLink.push(context, page_of(self))

    @cached_property
    def hook(self) -> LucidworksHook:
        """The hook that asks."""
        from lucidworks_provider.hooks.lucidworks import LucidworksHook

        return LucidworksHook(self.lucidworks_conn_id)


class Waiting(UsesHook):
    """Waits in the triggerer or here."""

    if TYPE_CHECKING:
        deferrable: bool
        poll_interval: float | timedelta
        timeout: Any
        log: Any
        defer: Any

    @property
    def _poll_seconds(self) -> float:
        return seconds(self.poll_interval, "poll_interval")

    @property
    def _timeout_seconds(self) -> float:
        return seconds(self.timeout, "timeout")


def seconds(value: object, what: str) -> float:
    try:
        seconds = value.total_seconds() if isinstance(value, timedelta) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds <= _LONGEST:
        raise InputError(
            f"{what} is {value!r}; give seconds above 0, or a timedelta, of {_LONGEST:,.0f} s at most."
        )
    return seconds
