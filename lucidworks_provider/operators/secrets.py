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

from lucidworks_provider.client.api.secrets import MASK, is_secret_name
from lucidworks_provider.client.auth.redaction import TokenText

# `"apiKey": "…"` in a text that cannot be decoded: a template, or a dictionary as Python writes it.
_WRITTEN = re.compile(
    r"""(?P<head>(?P<quote>["'])(?P<name>[\w-]+)(?P=quote)\s*:\s*)(?P<mark>["'])(?P<value>(?:(?!(?P=mark)).)*)(?P=mark)"""
)


class RedactedDict(dict[str, Any]):
    """
    An argument without its keys, which stand beside it.

    A mapped operator's arguments are stored as they were given; the operator itself is made of them later.
    """

    keys_apart: Mapping[str, str]


class RedactedText(str):
    """The same for a template that has keys in it."""

    keys_apart: Mapping[str, str]


class SecretMap(Mapping[str, str]):
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
    :return: the argument with ``***`` in their place, and the keys by name; a deeper one by its path, with slashes.
    """
    if isinstance(argument, RedactedDict | RedactedText):
        plain = dict(argument) if isinstance(argument, RedactedDict) else str(argument)
        return plain, dict(argument.keys_apart)
    config = _decoded(argument)
    if not isinstance(config, Mapping):
        return _withhold_in_text(argument) if isinstance(argument, str) else (argument, {})
    keys: dict[str, str] = {}
    rest = _withhold_within(config, "", keys)
    return (rest, keys) if keys else (argument, {})


def _withhold_within(value: Any, path: str, keys: dict[str, str], *, secret: bool = False) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _withhold_within(one, _below(path, name), keys, secret=secret or is_secret_name(name))
            for name, one in value.items()
        }
    if isinstance(value, list | tuple):
        return [_withhold_within(one, _below(path, n), keys, secret=secret) for n, one in enumerate(value)]
    if not secret or not _is_key(value):
        return value
    keys[path] = TokenText(value)
    return MASK


def _below(path: str, name: object) -> str:
    return f"{path}/{name}" if path else str(name)


def withheld(argument: Any) -> Any:
    """The argument in a shape that can be stored, for :func:`withhold` to take apart later."""
    rest, keys = withhold(argument)
    if not keys:
        return rest
    stored = RedactedDict(rest) if isinstance(rest, Mapping) else RedactedText(rest)
    stored.keys_apart = SecretMap(keys)
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
        if not is_secret_name(found["name"]) or not _is_key(found["value"]):
            return found[0]
        keys[found["name"]] = TokenText(found["value"])
        return f"{found['head']}{found['mark']}{MASK}{found['mark']}"

    return _WRITTEN.sub(cover, text), keys


def _is_key(value: object) -> bool:
    # A template is no secret; what it becomes is taken out when it has been rendered.
    return isinstance(value, str) and value != MASK and not is_template(value)


def restore(config: Mapping[str, Any] | None, keys: Mapping[str, str]) -> Mapping[str, Any] | None:
    """Put the keys back in, at sending."""
    if not keys:
        return config
    left = dict(keys)

    def restored(value: Any, path: str, name: str = "") -> Any:
        if isinstance(value, Mapping):
            return {key: restored(one, _below(path, key), str(key)) for key, one in value.items()}
        if isinstance(value, list):
            return [restored(one, _below(path, n)) for n, one in enumerate(value)]
        # Keys of a text that could not be decoded are known by their names alone.
        known = next((one for one in (path, name) if one in left), None)
        return left.pop(known) if value == MASK and known is not None else value

    rest = restored(config or {}, "")
    return {**rest, **{name: key for name, key in left.items() if "/" not in name}}


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
