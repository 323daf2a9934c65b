# SPDX-License-Identifier: Apache-2.0
"""
The checks that every request body goes through, field by field.

The vendor documents no answer to a wrong field. The emulator refuses everything it does not know [A], since a
misspelt option that is silently ignored is the error a test should find; the switch ``unknown_options`` makes
it ignore fields it does not know, never values of a wrong type.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import Any, NoReturn, TypeVar

from starlette.responses import JSONResponse, Response

_Choice = TypeVar("_Choice", bound=Enum)


class InvalidRequest(ValueError):
    """A field the API would not accept; the message names it, and never repeats a value."""


@dataclass(frozen=True)
class Fields:
    """
    One JSON object of a request, with a name for messages.

    Absent fields take the default of the caller. A null is a value of a wrong type, not an absence.
    """

    name: str
    values: Mapping[str, Any]

    @classmethod
    def of(
        cls, name: str, value: object, allowed: Collection[str], *, ignore_unknown: bool = False
    ) -> Fields:
        """Check that a value is an object with known fields only."""
        if not isinstance(value, dict):
            raise InvalidRequest(f"{name}: an object is required.")
        unknown = sorted(set(value) - set(allowed))
        if unknown and not ignore_unknown:
            known = ", ".join(sorted(allowed)) or "none"
            raise InvalidRequest(f"{name}: unknown field {unknown[0]!r}; allowed: {known}.")
        return cls(name, value)

    def __contains__(self, field: str) -> bool:
        """Return whether a field was sent, whatever its value."""
        return field in self.values

    def path(self, field: str) -> str:
        """Return how a message calls a field; those of the body itself go by their own name."""
        return field if self.name == "body" else f"{self.name}.{field}"

    def object(self, field: str, allowed: Collection[str], *, ignore_unknown: bool = False) -> Fields:
        """Return an object inside this one; an absent one is empty."""
        value = self.values.get(field, {})
        return Fields.of(self.path(field), value, allowed, ignore_unknown=ignore_unknown)

    def text(self, field: str, default: str | None = None) -> str | None:
        """Return a non-empty string."""
        return non_empty(self.path(field), self.values[field]) if field in self.values else default

    def required_text(self, field: str) -> str:
        """Return a non-empty string that must be there."""
        return non_empty(self.path(field), self.values.get(field))

    def boolean(self, field: str, default: bool) -> bool:
        """Return true or false."""
        value = self.values.get(field, default)
        if not isinstance(value, bool):
            raise InvalidRequest(f"{self.path(field)}: true or false is required.")
        return value

    def integer(self, field: str, default: int, *, minimum: int, maximum: int | None = None) -> int:
        """Return an integer of a range."""
        value = self.values.get(field, default)
        # bool is a subclass of int in Python, but not an integer in JSON.
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidRequest(f"{self.path(field)}: an integer is required.")
        if value < minimum or (maximum is not None and value > maximum):
            limits = f"at least {minimum}" if maximum is None else f"{minimum} to {maximum}"
            raise InvalidRequest(f"{self.path(field)}: {limits} is required.")
        return value

    def number(self, field: str, default: float, *, minimum: float, maximum: float) -> float:
        """Return a number of a range."""
        value = self.values.get(field, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not minimum <= value <= maximum:
            raise InvalidRequest(f"{self.path(field)}: a number from {minimum:g} to {maximum:g} is required.")
        return float(value)

    def choice(self, field: str, choices: type[_Choice]) -> _Choice | None:
        """Return one of the values of an enumeration; None if absent."""
        if field not in self.values:
            return None
        allowed = [one.value for one in choices]
        value = self.values[field]
        if not isinstance(value, str) or value not in allowed:
            raise InvalidRequest(f"{self.path(field)}: one of {', '.join(allowed)} is required.")
        return choices(value)


def load_json(body: bytes) -> Any:
    """Parse strict JSON: UTF-8, no NaN."""
    try:
        return json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is not JSON in UTF-8.") from None


def batch_of(
    body: Fields, allowed: Collection[str] = ("text",), *, ignore_unknown: bool = False
) -> list[Fields]:
    """Return the items of ``batch``, each of which has a text (section 3.1)."""
    batch = body.values.get("batch")
    if not isinstance(batch, list) or not batch:
        raise InvalidRequest("batch: a non-empty list of objects with a text is required.")
    items = [
        Fields.of(f"batch[{index}]", item, allowed, ignore_unknown=ignore_unknown)
        for index, item in enumerate(batch)
    ]
    for item in items:
        item.required_text("text")
    return items


def non_empty(name: str, value: object) -> str:
    """Check one string."""
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{name}: a non-empty string is required.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{name}: half of a surrogate pair is no text.") from None
    return value


def strings(name: str, value: object) -> list[str]:
    """Check a list of non-empty strings."""
    if not isinstance(value, list):
        raise InvalidRequest(f"{name}: a list of strings is required.")
    return [non_empty(f"{name}[{index}]", one) for index, one in enumerate(value)]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


class ApiError(Exception):
    """An answer that is not 200, in the shape ``{"status", "error", "message"}`` [A]."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers

    def body(self) -> dict[str, object]:
        """Return the JSON body."""
        return {"status": self.status, "error": HTTPStatus(self.status).phrase, "message": self.message}

    def response(self) -> Response:
        """Return the answer."""
        return JSONResponse(self.body(), self.status, self.headers)


class OAuthError(ApiError):
    """An answer of the token endpoint, in the shape of RFC 6749 section 5.2 [A]."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code

    def body(self) -> dict[str, object]:
        """Return the JSON body."""
        return {"error": self.code, "error_description": self.message}
