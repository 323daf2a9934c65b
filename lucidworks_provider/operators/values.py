# SPDX-License-Identifier: Apache-2.0
"""
Parse rendered arguments.

A template renders to a string, so each number and boolean is accepted as a string too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from lucidworks_provider.errors import InputError

# How long the service keeps a result is not documented.
_LONGEST = 365 * 86_400.0


def seconds(value: object, what: str) -> float:
    """
    A duration in seconds.

    :param value: seconds, or a timedelta.
    :raises InputError: the value is not a duration, not above 0, or longer than a year.
    """
    from lucidworks_provider.client.options import as_number

    try:
        found = value.total_seconds() if isinstance(value, timedelta) else float(as_number(value))
    except (ValueError, OverflowError):
        found = 0.0
    if not 0 < found <= _LONGEST:
        raise InputError(
            f"{what} is {value!r}; give seconds above 0, or a timedelta, of {_LONGEST:,.0f} s at most."
        )
    return found


def text_as_seconds(value: float | timedelta | str, what: str) -> float | timedelta:
    """
    Convert a duration that is a string; Airflow accepts the others.

    :raises InputError: the string is not a duration.
    """
    return seconds(value, what) if isinstance(value, str) else value


def whole(value: object, what: str, least: int, most: int | None = None) -> int:
    """:raises InputError: the value is not an integer of the range."""
    from lucidworks_provider.client.options import as_int

    try:
        found = as_int(value)
    except ValueError:
        found = least - 1
    if found < least or (most is not None and found > most):
        bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"{what} is {value!r}; give a whole number {bounds}.")
    return found


def limit(value: object, what: str) -> int | None:
    """None: no limit."""
    return None if value is None else whole(value, what, 0)


def share(value: object, what: str) -> float:
    """:raises InputError: the value is not a number from 0 to 1."""
    from lucidworks_provider.client.options import number

    meaning, convert = number(0, 1)
    try:
        return float(convert(value))  # type: ignore[arg-type]
    except ValueError:
        raise InputError(f"{what} is {value!r}; give {meaning}.") from None


def switch(value: object, what: str) -> bool:
    """
    A boolean; None is False.

    :raises InputError: the value is not a boolean.
    """
    from lucidworks_provider.client.options import as_bool

    if value is None:
        return False
    try:
        return as_bool(value)
    except ValueError:
        raise InputError(f"{what} is {value!r}; give True or False.") from None


def one_of(value: str, what: str, *values: str) -> str:
    """:raises InputError: the value is not one of ``values``."""
    from lucidworks_provider.client.options import check_choice

    check_choice(value, what, values)
    return value


def dictionary(value: Mapping[str, Any] | str | None, what: str) -> Mapping[str, Any] | None:
    """
    A dictionary, or a string with a JSON object, without the options that are None.

    :raises InputError: any other string. Other values are returned, to be validated with their options.
    """
    if not isinstance(value, str):
        # A RedactedDict has more than its items.
        return _without_none(value) if type(value) is dict else value
    try:
        decoded = json.loads(value)
    except ValueError:
        decoded = value
    if decoded is not None and not isinstance(decoded, dict):
        raise InputError(f"{what} is {value[:80]!r}, which is no JSON object; give a dictionary.")
    return _without_none(decoded) if decoded is not None else None


def _without_none(value: Any) -> Any:
    if type(value) is dict:
        return {name: _without_none(one) for name, one in value.items() if one is not None}
    return value
