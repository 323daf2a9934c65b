# SPDX-License-Identifier: Apache-2.0
"""
Detects regular expressions with catastrophic backtracking (ReDoS) before they are sent.

The service follows Python's ``re``, which takes exponential time for nested repetitions such as ``(a+)+``. A job with
such a pattern never ends, and cannot be cancelled.

Detected is the common kind: an unbounded repetition of nothing but repetitions, as in ``(a+)+``, ``(\\w+\\s*)*`` or
``(a*b*)*``. Overlapping alternatives, as in ``(a|a)+``, are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

# The parser of `re` has no public name.
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

_REPEATS = (ops.MAX_REPEAT, ops.MIN_REPEAT)


def is_exponential(pattern: str) -> bool:
    """
    Whether an unbounded repetition repeats nothing but repetitions.

    :raises re.error: invalid pattern.
    """
    return _nested(parser.parse(pattern))


def _nested(items: Iterable[tuple[Any, Any]]) -> bool:
    for op, value in items:
        if op in _REPEATS and value[1] is ops.MAXREPEAT and _is_loose(value[2]):
            return True
        if any(_nested(below) for below in _below(op, value)):
            return True
    return False


def _is_loose(items: Iterable[tuple[Any, Any]]) -> bool:
    """Whether the same text can be one turn of this or several: at most one item must be there, and that repeats."""
    needed = [item for item in items if not _may_be_empty(*item)]
    if len(needed) > 1:
        return False
    return all(_repeats(*item) for item in needed) and any(_repeats(*item) for item in items)


def _repeats(op: Any, value: Any) -> bool:
    if op in _REPEATS:
        return value[1] is ops.MAXREPEAT or _is_loose(value[2])
    if op is ops.SUBPATTERN:
        return _is_loose(value[-1])
    return op is ops.BRANCH and any(_is_loose(one) for one in value[1])


def _may_be_empty(op: Any, value: Any) -> bool:
    if op in _REPEATS:
        return value[0] == 0 or all(_may_be_empty(*item) for item in value[2])
    if op is ops.SUBPATTERN:
        return all(_may_be_empty(*item) for item in value[-1])
    if op is ops.BRANCH:
        return any(all(_may_be_empty(*item) for item in one) for one in value[1])
    return False


def _below(op: Any, value: Any) -> Iterator[Any]:
    """The patterns within an item. Possessive repetitions and atomic groups never try a second way."""
    if op in _REPEATS:
        yield value[2]
    elif op is ops.SUBPATTERN:
        yield value[-1]
    elif op is ops.BRANCH:
        yield from value[1]
    elif op in (ops.ASSERT, ops.ASSERT_NOT):
        yield value[1]
    elif op is ops.GROUPREF_EXISTS:
        yield from (one for one in value[1:] if one is not None)
