# SPDX-License-Identifier: Apache-2.0
"""
Third parties' keys that somebody wrote into an operator's argument.

They belong into a connection. Where they stand in an argument all the same, they are taken out of it before
Airflow stores the argument (the serialized DAG, the rendered fields) and shows it; Airflow's own masker does not
know all of their names.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from typing import Any

from lucidworks_provider.auth.redaction import MASK, TokenText

# As in `api.use_cases`, said again: importing it would cost each parse of a DAG file. A test holds them equal.
SECRET_KEYS = frozenset({"apikey", "serviceaccountkey"})


def withhold(argument: Any, what: str, cure: str) -> tuple[Any, dict[str, str]]:
    """
    Take keys out of an argument.

    :param argument: a dictionary, or JSON; anything else passes as it is.
    :param what: the argument's name, for the warning.
    :param cure: what to do instead.
    :return: the argument with ``***`` in their place, and the keys by name.
    """
    config = _decoded(argument)
    if not isinstance(config, Mapping):
        return argument, {}
    keys = {
        name: TokenText(value)
        for name, value in config.items()
        # A template is no secret; what it becomes is taken out when it has been rendered.
        if is_secret(name) and isinstance(value, str) and value != MASK and not _is_template(value)
    }
    if not keys:
        return argument, {}
    warnings.warn(
        f"{what} holds a key ({', '.join(keys)}). Whoever sees the DAG file sees it; {cure}.",
        UserWarning,
        stacklevel=3,
    )
    return {name: MASK if name in keys else value for name, value in config.items()}, dict(keys)


def restore(config: Mapping[str, Any] | None, keys: Mapping[str, str]) -> Mapping[str, Any] | None:
    """Put the keys back in, at sending."""
    return {**(config or {}), **keys} if keys else config


def is_secret(name: object) -> bool:
    """Whether what stands under this name is a third party's secret."""
    return isinstance(name, str) and name.replace("_", "").replace("-", "").lower() in SECRET_KEYS


def _is_template(value: str) -> bool:
    return "{{" in value or "{%" in value


def _decoded(argument: Any) -> Any:
    if not isinstance(argument, str) or _is_template(argument):
        return argument
    try:
        return json.loads(argument)
    except ValueError:
        return argument
