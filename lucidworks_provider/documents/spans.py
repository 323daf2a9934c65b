# SPDX-License-Identifier: Apache-2.0
"""
Where chunks stand in their text, proven.

The unit of the service's spans is not documented (characters, bytes of UTF-8 or units of UTF-16), chunkers
may trim white space, and an older result shape has no spans at all. So a span is believed only when the text
between is the chunk, in one of the three units. Else the chunk is searched for, and where it stands at more
than one place it could come from, there is no span rather than a wrong one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate

from lucidworks_provider.api.chunking import Chunk

Span = tuple[int, int] | tuple[None, None]
NOWHERE: Span = (None, None)


def locate(text: str, chunks: Sequence[Chunk]) -> list[Span]:
    """
    The span of each chunk in characters of the text, end exclusive, or ``(None, None)``.
    """
    units: list[Callable[[int], int | None]] = [lambda offset: offset]
    if not text.isascii() and any(chunk.span for chunk in chunks):
        units += [_from(text, lambda c: len(c.encode())), _from(text, lambda c: 1 + (c > "\uffff"))]
    spans: list[Span] = []
    for chunk in chunks:
        spans.append(_proven(text, chunk, units) or _found(text, chunk.text, spans))
    return spans


def _proven(text: str, chunk: Chunk, units: Sequence[Callable[[int], int | None]]) -> Span | None:
    if chunk.span is None:
        return None
    for to_characters in units:
        start, end = to_characters(chunk.span[0]), to_characters(chunk.span[1])
        if start is not None and end is not None and text[start:end] == chunk.text:
            return start, end
    return None


def _from(text: str, width: Callable[[str], int]) -> Callable[[int], int | None]:
    """Turns offsets of another unit into characters; None for one that is inside a character."""
    offsets = [0, *accumulate(map(width, text))]

    def to_characters(offset: int) -> int | None:
        at = bisect_left(offsets, offset)
        return at if at < len(offsets) and offsets[at] == offset else None

    return to_characters


def _found(text: str, chunk: str, before: Sequence[Span]) -> Span:
    """A chunk starts after the start of the one before it; overlaps allow it to start before its end."""
    last_start, last_end = before[-1] if before else (-1, 0)
    if last_start is None or last_end is None or not chunk:
        # Behind a chunk without a place only the whole text can tell.
        last_start, last_end = -1, None
    first = text.find(chunk, last_start + 1) if chunk else -1
    if first < 0:
        return NOWHERE
    if text.find(chunk, first + 1) < 0:
        return first, first + len(chunk)
    if last_end is not None:
        # Of several places the one right behind the chunk before is where chunkers go on.
        following = last_end + len(text[last_end:]) - len(text[last_end:].lstrip())
        if text.startswith(chunk, following):
            return following, following + len(chunk)
    return NOWHERE
