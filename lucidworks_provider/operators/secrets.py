# SPDX-License-Identifier: Apache-2.0
"""
Third parties' keys that somebody wrote into an operator's argument.

They belong into a connection. Where they stand in an argument all the same, they are taken out of it before
Airflow stores the argument (the serialized DAG, the rendered fields) and shows it; Airflow's own masker does not
know all of their names.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from lucidworks_provider.auth.redaction import MASK, TokenText

# As in `api.use_cases`, said again: importing it would cost each parse of a DAG file. A test holds them equal.
SECRET_KEYS = frozenset({"apikey", "serviceaccountkey"})
# `"apiKey": "…"` in a text that cannot be decoded: a template, or a dictionary as Python writes it.
_WRITTEN = re.compile(
    r"""(?P<head>(?P<quote>["'])(?P<name>[\w-]+)(?P=quote)\s*:\s*)(?P<mark>["'])(?P<value>(?:(?!(?P=mark)).)*)(?P=mark)"""
)


class Withheld(dict[str, Any]):
    """
    An argument without its keys, which stand beside it.

    A mapped operator's arguments are stored as they were given; the operator itself is made of them later.
    """

    keys_apart: Mapping[str, str]


class WithheldText(str):
    """The same for a template that has keys in it."""

    keys_apart: Mapping[str, str]


class KeysApart(Mapping[str, str]):
    """
    Keys by name, as an attribute of an operator.

    Others write down all that an operator has: OpenLineage does, with ``include_full_task_info``. This is no
    dictionary that JSON could be made of, and its text shows nothing.
    """

    __slots__ = ("_by_name",)

    def __init__(self, by_name: Mapping[str, str]) -> None:
        self._by_name = dict(by_name)

    def __getitem__(self, name: str) -> str:
        return self._by_name[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def __repr__(self) -> str:
        return MASK


def withhold(argument: Any) -> tuple[Any, dict[str, str]]:
    """
    Take keys out of an argument.

    :param argument: a dictionary, or JSON; anything else passes as it is.
    :return: the argument with ``***`` in their place, and the keys by name.
    """
    if isinstance(argument, Withheld | WithheldText):
        plain = dict(argument) if isinstance(argument, Withheld) else str(argument)
        return plain, dict(argument.keys_apart)
    config = _decoded(argument)
    if not isinstance(config, Mapping):
        return _withhold_in_text(argument) if isinstance(argument, str) else (argument, {})
    keys = {name: TokenText(value) for name, value in config.items() if _is_key(name, value)}
    if not keys:
        return argument, {}
    return {name: MASK if name in keys else value for name, value in config.items()}, dict(keys)


def withheld(argument: Any) -> Any:
    """The argument in a shape that can be stored, for :func:`withhold` to take apart later."""
    rest, keys = withhold(argument)
    if not keys:
        return rest
    stored = Withheld(rest) if isinstance(rest, Mapping) else WithheldText(rest)
    stored.keys_apart = KeysApart(keys)
    return stored


def warn(keys: Mapping[str, str], what: str, cure: str) -> None:
    """
    Advise against keys in arguments.

    :param what: the argument's name.
    :param cure: what to do instead.
    """
    if keys:
        warnings.warn(f"{what} was given a key ({', '.join(keys)}); {cure}.", UserWarning, stacklevel=3)


def _withhold_in_text(text: str) -> tuple[str, dict[str, str]]:
    keys: dict[str, str] = {}

    def cover(found: re.Match[str]) -> str:
        if not _is_key(found["name"], found["value"]):
            return found[0]
        keys[found["name"]] = TokenText(found["value"])
        return f"{found['head']}{found['mark']}{MASK}{found['mark']}"

    return _WRITTEN.sub(cover, text), keys


def _is_key(name: object, value: object) -> bool:
    # A template is no secret; what it becomes is taken out when it has been rendered.
    return is_secret(name) and isinstance(value, str) and value != MASK and not is_template(value)


def restore(config: Mapping[str, Any] | None, keys: Mapping[str, str]) -> Mapping[str, Any] | None:
    """Put the keys back in, at sending."""
    return {**(config or {}), **keys} if keys else config


def is_secret(name: object) -> bool:
    """Whether what stands under this name is a third party's secret."""
    return isinstance(name, str) and name.replace("_", "").replace("-", "").lower() in SECRET_KEYS


def is_template(value: str) -> bool:
    """Whether Jinja would make something else of it."""
    return "{{" in value or "{%" in value


def _decoded(argument: Any) -> Any:
    if not isinstance(argument, str) or is_template(argument):
        return argument
    try:
        return json.loads(argument)
    except (ValueError, RecursionError):
        return argument
