# SPDX-License-Identifier: Apache-2.0
"""
The verified positions of chunks in their text.

The unit of the service's spans is not documented (characters, bytes of UTF-8 or units of UTF-16), chunkers may trim
white space, and an older format of results has no spans. So a span is used only if the text within it is the chunk,
in one of the three units. Otherwise the chunk is searched for, and has no span if its position is ambiguous.
"""

from __future__ import annotations

from collections.abc import Sequence

from lucidworks_provider.client.api.chunking import Chunk

Span = tuple[int, int] | tuple[None, None]
NOWHERE: Span = (None, None)


def locate(text: str, chunks: Sequence[Chunk]) -> list[Span]:
    """
    The span of each chunk in characters of the text, end exclusive, or ``(None, None)``.
    """
    others: list[_Unit] | None = [] if text.isascii() else None
    spans: list[Span] = []
    for chunk in chunks:
        span: Span | None = None
        if chunk.span is not None:
            start, end = chunk.span
            if text[start:end] == chunk.text:
                span = start, end
            else:
                if others is None:
                    others = [_Unit(text, "utf-8", 1), _Unit(text, "utf-16-le", 2)]
                span = next(
                    (verified for unit in others if (verified := unit.verified(start, end, chunk.text))), None
                )
        spans.append(span or _found(text, chunk.text, spans))
    return spans


class _Unit:
    """
    A text in units other than characters.

    :param width: bytes of one unit.
    """

    def __init__(self, text: str, codec: str, width: int) -> None:
        self._codec = codec
        self._width = width
        self._encoded = text.encode(codec)
        # The last position, in bytes and in characters, as spans are in order.
        self._at = self._characters = 0

    def verified(self, start: int, end: int, chunk: str) -> Span | None:
        """The span in characters, if the text within it is the chunk."""
        first = start * self._width
        try:
            encoded = chunk.encode(self._codec)
        except UnicodeEncodeError:
            return None
        # Equal text begins and ends between characters: both encodings mark the first unit of a character.
        if not encoded or self._encoded[first : end * self._width] != encoded:
            return None
        low, high = sorted((self._at, first))
        between = len(self._encoded[low:high].decode(self._codec))
        self._characters += between if first >= self._at else -between
        self._at = first
        return self._characters, self._characters + len(chunk)


def _found(text: str, chunk: str, before: Sequence[Span]) -> Span:
    """A chunk starts after the start of the one before it; overlaps allow it to start before its end."""
    last_start, last_end = before[-1] if before else (-1, 0)
    if last_start is None or last_end is None or not chunk:
        # After a chunk without a position, search the whole text.
        last_start, last_end = -1, None
    first = text.find(chunk, last_start + 1) if chunk else -1
    if first < 0:
        return NOWHERE
    if text.find(chunk, first + 1) < 0:
        return first, first + len(chunk)
    if last_end is not None:
        # Of several positions, chunkers continue right after the last chunk.
        following = last_end + len(text[last_end:]) - len(text[last_end:].lstrip())
        if text.startswith(chunk, following):
            return following, following + len(chunk)
    return NOWHERE
