# SPDX-License-Identifier: Apache-2.0
"""Options that the vendor documents, by name, with what each of them may be."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar

from lucidworks_provider.errors import InputError

T = TypeVar("T")
N = TypeVar("N", bound=float)
# What a value must be, in words, and a function that returns it in that type or raises ValueError.
Option = tuple[str, Callable[[object], T]]
Options = Mapping[str, Option[Any]]

# Of a text as JSON. The limit is "approximately 1 MB" of text. What counts is not said, so it bounds the whole
# request: 10,000 bytes are for its options, mostly a `regex`.
MAX_TEXT_BYTES = 1_000_000 - 10_000
# Of a character as JSON: \u001f.
MAX_CHARACTER_BYTES = 6

# As JSON writes numbers: no NaN, no infinity, no hexadecimal digits, no underscores.
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")
_SWITCHES = {"true": True, "false": False, "1": True, "0": False}


def check_choice(value: object, what: str, choices: Collection[str]) -> str:
    """
    Refuse a value that is not one of the choices.

    :param what: names the argument in the message.
    :return: the value.
    :raises InputError: names the choices, and the nearest one.
    """
    if not isinstance(value, str) or value not in choices:
        raise InputError(
            f"{what} is {value!r}; use one of {', '.join(choices)}.{did_you_mean(value, choices)}"
        )
    return value


def check_option(value: object, what: str, option: Option[T]) -> T:
    """
    Convert a value to the type of an option.

    :param what: names it in the message.
    :raises InputError: names it and what it may be.
    """
    meaning, convert = option
    try:
        return convert(value)
    except ValueError:
        raise InputError(f"{what} is {value!r}; it must be {meaning}.") from None


def no_text(value: object, what: str) -> InputError:
    """
    The error for a value where a text belongs.

    :param what: names the text in the message.
    """
    return InputError(
        f"{what} is {value!r:.80} ({type(value).__name__}), which is not text; decode or convert it."
    )


def check_text(text: object, what: str, *, max_bytes: float = math.inf) -> None:
    """
    Refuse a text that the service would refuse.

    :param what: names the text in the message, e.g. ``document 'a.txt'``.
    :param max_bytes: limit of its bytes in a request; see :func:`json_beyond`.
    :raises InputError: names the problem.
    """
    if text is not None and not isinstance(text, str):
        raise no_text(text, what)
    if problem := text_problem(text or "", max_bytes, in_request=True):
        raise InputError(f"{what} {problem[1]}.")


def text_problem(
    text: str, max_bytes: float = math.inf, limit_name: str = "the limit of ", *, in_request: bool = False
) -> tuple[str, str] | None:
    """
    Find out why the service would refuse a text.

    :param max_bytes: limit of its bytes in UTF-8.
    :param limit_name: names ``max_bytes`` in messages.
    :param in_request: limit its bytes in a request instead; see :func:`json_beyond`.
    :return: ``empty``, ``invalid``, ``too_large`` or ``binary``, and the predicate of a sentence about the text; None
        for a valid text.
    """
    if not text or text.isspace():
        return "empty", "has no text"
    try:
        data: bytes | None = text.encode()
    except UnicodeEncodeError as err:
        at = f"{err.start:,}"
        return "invalid", f"has half of a surrogate pair at character {at}, which cannot be sent as UTF-8"
    if in_request:
        data = json_beyond(text, max_bytes)
    if data and len(data) > max_bytes:
        what = f"{len(data):,} bytes{' as JSON' if in_request else ''}"
        return "too_large", f"has {what}, over {limit_name}{max_bytes:,}; split it"
    if (nul := text.find("\0")) >= 0:
        return "binary", f"contains a NUL character at position {nul:,}"
    return None


def json_body(value: object) -> bytes:
    """Encode a request body; not ASCII-escaped, since the service limits bytes."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def json_beyond(text: str, max_bytes: float) -> bytes | None:
    """
    A text as a request has it, in UTF-8 with the escapes of JSON, if that is longer than a limit.

    :return: without the quotes; None for a text within the limit.
    """
    # Most texts are not encoded for this.
    if MAX_CHARACTER_BYTES * len(text) <= max_bytes:
        return None
    data = json_body(text)[1:-1]
    return data if len(data) > max_bytes else None


def did_you_mean(given: object, known: Iterable[str], cutoff: float = 0.6) -> str:
    """
    A sentence with the nearest name, to be appended to a message; empty if none is near.

    :param cutoff: how near, from 0 to 1.
    """
    import difflib  # only for messages

    by_plain = {plain(one): one for one in known}
    found = difflib.get_close_matches(plain(str(given)), by_plain, n=1, cutoff=cutoff)
    return f" Did you mean {by_plain[found[0]]!r}?" if found else ""


def valid(is_valid: Callable[[object], bool]) -> Callable[[object], object]:
    """Return a validator as a converter."""

    def convert(value: object) -> object:
        if not is_valid(value):
            raise ValueError
        return value

    return convert


def as_number(value: object) -> int | float:
    """
    A finite number; a rendered template is its text.

    :raises ValueError: it is not a finite number, or is a boolean.
    """
    if isinstance(value, str) and _NUMBER.fullmatch(text := value.strip()):
        value = int(text) if text.lstrip("+-").isdigit() else float(text)
    if not is_number(value):
        raise ValueError("no finite number")
    return value


def as_int(value: object) -> int:
    """
    A whole number; a rendered template is its text.

    :raises ValueError: it is not a whole number, or is a boolean.
    """
    number = as_number(value)
    if not isinstance(number, int):
        raise ValueError("no whole number")
    return number


def as_bool(value: object) -> bool:
    """
    A boolean, or the string that a template rendered to: ``true``, ``false``, ``1`` or ``0``, in any case.

    :raises ValueError: it is not a boolean.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and (word := value.strip().lower()) in _SWITCHES:
        return _SWITCHES[word]
    raise ValueError("no truth value")


def whole(minimum: int, maximum: float = math.inf) -> Option[int]:
    words = f"a whole number from {minimum}" + ("" if math.isinf(maximum) else f" to {maximum}")
    return words, lambda v: _within(as_int(v), minimum, maximum)


def integral(minimum: int) -> Option[float]:
    """A whole number; accepts 5 and 5.0."""
    meaning, _ = whole(minimum)

    def convert(value: object) -> float:
        found = as_number(value)
        if found != int(found):
            raise ValueError
        return _within(found, minimum, math.inf)

    return meaning, convert


def number(low: float = -math.inf, high: float = math.inf) -> Option[float]:
    words = "a number" if math.isinf(low) else f"a number from {low:g} to {high:g}"
    return words, lambda v: _within(as_number(v), low, high)


def _within(value: N, low: float, high: float) -> N:
    if not low <= value <= high:
        raise ValueError
    return value


def one_of(*values: str) -> Option[object]:
    return " or ".join(values), valid(lambda v: v in values)


TEXT: Option[object] = ("a text", valid(lambda v: isinstance(v, str) and bool(v.strip())))
SWITCH: Option[bool] = ("true or false", as_bool)


def is_int(value: object) -> TypeGuard[int]:
    """Whether it is a whole number and not a boolean."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number and not a boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def is_count(value: object) -> TypeGuard[int | float]:
    """Whether it is a number of something, e.g. of tokens."""
    # A column of a table could not hold a larger number.
    return is_number(value) and 0 <= value < 2**53


def check_options(
    given: Mapping[str, Any] | None, known: Options, what: str, *, closed: bool = True
) -> dict[str, Any] | None:
    """
    Refuse options that the service would refuse.

    :param what: names the dictionary in the message.
    :param closed: refuse every unknown name. Where the vendor's pages disagree about the names, only those
        are refused that look like a known one misspelt: a release may know more than this package.
    :return: the options in their types, without those that are None: a template that rendered to None.
    :raises InputError: names the option and what it may be.
    """
    if given is None:
        return None
    names = f"its options are {', '.join(known)}" if known else "no options of it are known"
    if not isinstance(given, Mapping):
        raise InputError(f"{what} is not a dictionary; {names}.")
    options = {name: value for name, value in given.items() if value is not None}
    for name, value in options.items():
        if name in known:
            options[name] = check_option(value, f"{what}: {name}", known[name])
        elif (
            (hint := did_you_mean(name, known, 0.6 if closed else 0.85))
            or closed
            or not isinstance(name, str)
        ):
            raise InputError(f"{what} has no option {name!r}; {names}.{hint}")
    return options


def as_json(value: Any) -> Any:
    """
    Convert nested mappings and sequences to dictionaries and lists.

    A key whose value is None is left out: a template that rendered to None.
    """
    if isinstance(value, Mapping):
        return {name: as_json(one) for name, one in value.items() if one is not None}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return [as_json(one) for one in value]
    return value


def plain(name: str) -> str:
    """A name without case, ``_`` and ``-``."""
    return name.lower().replace("_", "").replace("-", "")
