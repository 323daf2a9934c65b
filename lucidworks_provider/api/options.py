# SPDX-License-Identifier: Apache-2.0
"""Options that the vendor documents, by name, with what each of them may be."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from lucidworks_provider.errors import InputError

# What a value must be, in words, and the judge of it.
Option = tuple[str, Callable[[object], bool]]
Options = Mapping[str, Option]


def whole(minimum: int) -> Option:
    """A whole number."""
    return f"a whole number from {minimum}", lambda v: is_int(v) and v >= minimum


def integral(minimum: int) -> Option:
    """A whole number that a page writes with a decimal point, too."""
    meaning, _ = whole(minimum)
    return meaning, lambda v: is_number(v) and v == int(v) and v >= minimum


def number(low: float = -math.inf, high: float = math.inf) -> Option:
    """A finite number of a range."""
    words = "a number" if math.isinf(low) else f"a number from {low:g} to {high:g}"
    return words, lambda v: is_number(v) and low <= v <= high


def one_of(*values: str) -> Option:
    """One of some words."""
    return " or ".join(values), lambda v: v in values


TEXT: Option = ("a text", lambda v: isinstance(v, str) and bool(v.strip()))
SWITCH: Option = ("true or false", lambda v: isinstance(v, bool))


def is_int(value: object) -> TypeGuard[int]:
    """Whether it is a whole number, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number, and no truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def check_options(given: Mapping[str, Any] | None, known: Options, what: str, *, closed: bool = True) -> None:
    """
    Refuse options that the service would refuse.

    :param what: names the dictionary in the message.
    :param closed: refuse every unknown name. Where the vendor's pages disagree about the names, only those
        are refused that look like a known one misspelt: a release may know more than this package.
    :raises InputError: names the option and what it may be.
    """
    if given is None:
        return
    names = f"its options are {', '.join(known)}" if known else "no options of it are known"
    if not isinstance(given, Mapping):
        raise InputError(f"{what} is no dictionary; {names}.")
    for name, value in given.items():
        if name in known:
            meaning, is_valid = known[name]
            if not is_valid(value):
                raise InputError(f"{what}: {name} is {value!r}; it must be {meaning}.")
        elif not isinstance(name, str) or closed or (meant := _misspelt(name, known)):
            hint = "" if closed or not isinstance(name, str) else f" Did you mean {meant!r}?"
            raise InputError(f"{what} has no option {name!r}; {names}.{hint}")


def _misspelt(name: str, known: Options) -> str | None:
    by_plain = {plain(one): one for one in known}
    found = difflib.get_close_matches(plain(name), by_plain, n=1, cutoff=0.85)
    return by_plain[found[0]] if found else None


def plain(name: str) -> str:
    """A name without what people write differently."""
    return name.lower().replace("_", "").replace("-", "")
