# SPDX-License-Identifier: Apache-2.0
"""
Rules for values: what a field of a request, a setting or a fault may be.

A rule is a function that returns the checked value, a table with the rules of an object's fields, or a list with the
rule of its elements. A field is optional unless its rule is :class:`Default` or :func:`required`.

The vendor documents no response to a wrong field. The emulator refuses everything it does not know [A], since a
misspelt option that is silently ignored is the error a test should find; the setting ``unknown_options`` makes
it ignore fields it does not know, never values of a wrong type. A null is a value of a wrong type, not an absence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, NamedTuple, NoReturn, TypeAlias, TypeVar
from uuid import UUID

_Choice = TypeVar("_Choice", bound=Enum)


class InvalidValue(ValueError):
    """A value that is not accepted; the message names its field, and never repeats it."""


class Default(NamedTuple):
    """A field that has a value if it is absent."""

    rule: Rule
    value: Any


Rule: TypeAlias = "Callable[[str, Any], Any] | Mapping[str, Rule | Default] | list[Rule]"


def required(rule: Rule) -> Default:
    """Refuse an absent field like a null, which no rule accepts."""
    return Default(rule, None)


def check(name: str, value: Any, rule: Rule, *, ignore_unknown: bool = False) -> Any:
    """Return a value with its defaults, an object as a dictionary in the order of its rules."""
    if isinstance(rule, Mapping):
        return _object(name, value, rule, ignore_unknown=ignore_unknown)
    if isinstance(rule, list):
        if not isinstance(value, list):
            raise InvalidValue(f"{name}: a list is required.")
        [each] = rule
        return [
            check(f"{name}[{index}]", one, each, ignore_unknown=ignore_unknown)
            for index, one in enumerate(value)
        ]
    return rule(name, value)


def _object(
    name: str, value: Any, rules: Mapping[str, Rule | Default], *, ignore_unknown: bool
) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValue(f"{name}: an object is required.")
    unknown = sorted(set(value) - set(rules))
    if unknown and not ignore_unknown:
        known = ", ".join(sorted(rules)) or "none"
        raise InvalidValue(f"{name}: unknown field {unknown[0]!r}; allowed: {known}.")
    checked = {}
    for field, rule in rules.items():
        if field not in value and not isinstance(rule, Default):
            continue
        # A field of the body goes by its own name.
        path = field if name == "body" else f"{name}.{field}"
        wanted, default = rule if isinstance(rule, Default) else (rule, None)
        checked[field] = check(path, value.get(field, default), wanted, ignore_unknown=ignore_unknown)
    return checked


def text(name: str, value: Any) -> str:
    """Accept a non-empty string."""
    if not isinstance(value, str) or not value:
        raise InvalidValue(f"{name}: a non-empty string is required.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidValue(f"{name}: half of a surrogate pair is not text.") from None
    return value


def uuid(name: str, value: Any) -> str:
    """Accept a UUID, and write it in lower case with hyphens."""
    try:
        return str(UUID(text(name, value)))
    except ValueError:
        raise InvalidValue(f"{name}: a UUID is required.") from None


def boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidValue(f"{name}: true or false is required.")
    return value


def integer(minimum: int, maximum: int | None = None) -> Callable[[str, Any], int]:
    limits = f"at least {minimum}" if maximum is None else f"{minimum} to {maximum}"

    def rule(name: str, value: Any) -> int:
        # bool is a subclass of int in Python, but not an integer in JSON.
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidValue(f"{name}: an integer is required.")
        if value < minimum or (maximum is not None and value > maximum):
            raise InvalidValue(f"{name}: {limits} is required.")
        return value

    return rule


def number(minimum: float, maximum: float = 1e9) -> Callable[[str, Any], float]:
    """Accept numbers; of seconds, up to thirty years, which clocks and JSON can represent."""

    def rule(name: str, value: Any) -> float:
        numeric = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not numeric or not minimum <= value <= maximum:
            raise InvalidValue(f"{name}: a number from {minimum:g} to {maximum:g} is required.")
        return float(value)

    return rule


def one_of(*choices: str) -> Callable[[str, Any], str]:

    def rule(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in choices:
            raise InvalidValue(f"{name}: one of {', '.join(choices)} is required.")
        return value

    return rule


def member_of(choices: type[_Choice]) -> Callable[[str, Any], _Choice]:
    """Accept the values of an enumeration."""
    word = one_of(*(one.value for one in choices))
    return lambda name, value: choices(word(name, value))


def table_of(key: Callable[[str, Any], str], each: Rule) -> Callable[[str, Any], dict[str, Any]]:
    """Accept an object whose names are not known before."""

    def rule(name: str, value: Any) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise InvalidValue(f"{name}: an object is required.")
        return {
            key(f"{name}, name of a field", one): check(f"{name}.{one}", value[one], each) for one in value
        }

    return rule


def nullable(rule: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else rule(name, value)


def load_json(body: bytes) -> Any:
    """Parse strict JSON: UTF-8, no NaN."""
    try:
        return json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise InvalidValue("The body is not JSON in UTF-8.") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
