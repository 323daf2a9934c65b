# SPDX-License-Identifier: Apache-2.0
"""What a task says to those that wait for its outlets: the counts of what it has written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


def add_asset_extra(context: Context, outlets: Sequence[Any], manifest: Mapping[str, Any]) -> None:
    """
    Put a manifest's numbers and words beside the event of each asset of ``outlets``.

    What a task has put there itself stays. Aliases get nothing: what they stand
    for, only the task's author knows.

    :param outlets: of the operator.
    :param manifest: what the task returns; lists and dictionaries are left out, as an event is small.
    """
    events = context.get("outlet_events")
    if events is None or not outlets:
        return
    from airflow.providers.common.compat.sdk import Asset

    said = {name: value for name, value in manifest.items() if isinstance(value, str | int | float)}
    for outlet in outlets:
        if isinstance(outlet, Asset):
            extra = events[outlet].extra
            for name, value in said.items():
                extra.setdefault(name, value)
