# SPDX-License-Identifier: Apache-2.0
"""What every operator and sensor has: a hook; and those that wait, a pace and an end."""

from __future__ import annotations

from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import conf

from lucidworks_provider.errors import InputError

if TYPE_CHECKING:
    from lucidworks_provider.hooks.lucidworks import LucidworksHook

# Nobody knows for how long the service keeps a result, but not for a year.
_LONGEST = 365 * 86_400.0
# The trigger's own event at its deadline is to arrive before Airflow's time-out of the deferral.
DEFER_SLACK = timedelta(minutes=5)
DEFERRABLE = conf.getboolean("operators", "default_deferrable", fallback=False)


class UsesHook:
    """Asks the service."""

    if TYPE_CHECKING:
        lucidworks_conn_id: str

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
