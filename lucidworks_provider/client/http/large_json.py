# SPDX-License-Identifier: Apache-2.0
"""
Decodes results of many megabytes without blocking the event loop of the process.

A decoder holds the GIL until it is done: 64 ms for the twelve megabytes of 1,500 vectors. So the vectors, nearly all
of a result, are cut out and decoded one by one.

Why the result is the same: within a JSON string, a quote has a backslash before it. Where
``"vector"`` has none before it, its first quote begins a string or ends one, and behind one that ends there is
no letter. So it begins a key, and after its colon is a value. A piece that begins there and is an array
by itself is all of that value, since no array is the beginning of another. And a value in the place of a value
changes nothing around it: the whole is JSON exactly where the rest and the pieces are. (If the rest needs
a repair, whole numbers beyond 64 bits are floats in the pieces, as they are in a body that needs none.)
"""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Callable
from functools import lru_cache
from secrets import token_hex
from typing import Any

# Below, a decoder holds the interpreter for a millisecond or two.
LARGE_BODY = 256 * 1024

_KEY = b'"vector"'
# A value that is cut out: an array that begins with a number.
_NUMBERS_FOLLOW = re.compile(rb'"vector"[ \t\n\r]*+:[ \t\n\r]*+(?=\[[ \t\n\r]*+[-0-9])')


class WithoutVectors:
    """
    A JSON body with markers in place of its vectors.

    :param loads: decodes JSON; raises ValueError.
    :param packed: make arrays of the standard library of vectors that hold numbers only: ``q`` for whole numbers,
        else ``d``. A quarter of a list's memory, and never a million objects at a time, which is twice as fast.
    :ivar rest: JSON exactly where the body is.
    :ivar vectors: what was cut out.
    """

    def __init__(self, body: bytes, loads: Callable[[bytes], Any], *, packed: bool = False) -> None:
        # A fresh random marker cannot be in the body.
        self._mark = token_hex(16)
        self.vectors: list[Any] = []
        parts: list[bytes] = []
        done = at = closing = 0
        while (at := body.find(_KEY, at)) >= 0:
            found = _NUMBERS_FOLLOW.match(body, at)
            escaped = body[at - 1 : at] == b"\\"
            at += len(_KEY)
            if found is None or escaped:
                continue
            begin = found.end()
            # Searched for once and not for each key before it, which could be made to take long.
            if closing < begin and (closing := body.find(b"]", begin)) < 0:
                break
            if body.find(b'"', begin, closing) >= 0:
                continue  # numbers have no quotes
            piece = body[begin : closing + 1]
            try:
                vector = loads(piece)
            except (ValueError, RecursionError):
                continue  # not an array of numbers: left for the decoder of the rest
            if packed:
                vector = _array(piece, vector)
            parts += (body[done:begin], f'"{self._mark}{len(self.vectors)}"'.encode())
            self.vectors.append(vector)
            done = at = closing + 1
        self.rest = b"".join((*parts, body[done:])) if parts else body

    def filled(self, decoded: Any) -> Any:
        """
        The decoded rest with its vectors.

        :param decoded: of :attr:`rest`; changed.
        """
        size, left = len(self._mark), len(self.vectors)
        waiting = [decoded] if isinstance(decoded, dict | list) else []
        # A repeated key leaves a vector over; then the whole document is searched.
        while waiting and left:
            node = waiting.pop()
            if type(node) is dict:
                mark = node.get("vector")
                if type(mark) is str and mark.startswith(self._mark):
                    node["vector"] = self.vectors[int(mark[size:])]
                    left -= 1
            inner = node.values() if type(node) is dict else node
            waiting += [one for one in inner if type(one) is dict or type(one) is list]
        return decoded


def _array(piece: bytes, values: list[Any]) -> Any:
    """The values as an array, if they are numbers."""
    # An array takes true and false for 1 and 0. Exponents have an e as well, but few vectors have exponents.
    if b"e" in piece and bool in set(map(type, values)):
        return values
    try:
        if b"." not in piece:
            return array("q", values)
    except (TypeError, OverflowError):
        # 1e5, or more than 64 bits.
        pass
    try:
        return array("d", _doubles(len(values))(*values))
    except (struct.error, OverflowError):
        return values


@lru_cache(maxsize=8)
def _doubles(count: int) -> Callable[..., bytes]:
    return struct.Struct(f"={count}d").pack
