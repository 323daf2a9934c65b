# SPDX-License-Identifier: Apache-2.0
"""
Splits documents over the service's limit into segments.

A segment ends after a paragraph, or else after a line or sentence, a word, or a character with its combining marks.
The best boundary in the second half of what fits is used, as each segment is a request. The time to find it is
bounded by the length of the segment.
"""

from __future__ import annotations

import json
import re
import unicodedata
from dataclasses import dataclass

from lucidworks_provider.client.options import MAX_CHARACTER_BYTES, json_beyond
from lucidworks_provider.errors import InputError

# Boundaries, the best first. None begins with a repetition, which would make a failing search quadratic.
_BORDERS = (
    re.compile(r"\n[ \t]*\r?\n\s*|\u2029"),
    # Chinese and Japanese have no space after a sentence.
    re.compile(r"[.!?…][\"'”’»)\]]{0,4}\s+|[。！？｡][\"'”’」』）]{0,4}\s*|\n\s*"),
    re.compile(r"\s+|\u200b"),
)
_FIRST_LOOK = 2048
_JOINER = "\u200d"
# More combining marks of one letter may be separated.
_MOST_MARKS = 32


@dataclass(frozen=True, slots=True)
class Segment:
    """
    A part of a text.

    :param start: position of its first character.
    """

    start: int
    text: str


def split(text: str, *, max_bytes: int) -> list[Segment]:
    """
    Split a text into segments whose concatenation is the text. A segment may be white space only.

    :param max_bytes: limit of a segment in a request, in UTF-8 with the escapes of JSON; at least 6.
    :raises InputError: the limit is below 6.
    """
    if max_bytes < MAX_CHARACTER_BYTES:
        raise InputError(f"max_bytes is {max_bytes}; a character may take {MAX_CHARACTER_BYTES}.")
    segments: list[Segment] = []
    start = 0
    while not segments or start < len(text):
        end = _fitting(text, start, max_bytes)
        if end < len(text):
            end = _border(text, start, end)
        segments.append(Segment(start, text[start:end]))
        start = end
    return segments


def _fitting(text: str, start: int, max_bytes: int) -> int:
    """The end of the longest part that fits."""
    part = text[start : start + max_bytes]  # no character has less than a byte
    data = json_beyond(part, max_bytes)
    if data is None:
        return start + len(part)
    cut = max_bytes
    while True:
        try:
            return start + len(json.loads(b'"%b"' % data[:cut]))
        except ValueError:
            cut -= 1  # within a character or its escape


def _border(text: str, start: int, end: int) -> int:
    """The best boundary up to ``end``."""
    half = start + (end - start + 1) // 2
    for border in _BORDERS:
        if (found := _last(border, text, half, end)) is not None:
            end = found
            break
    else:
        end = _between_characters(text, half, end)
    if text[end - 1] == "\r" and text.startswith("\n", end) and end - 1 > start:
        return end - 1
    return end


def _last(border: re.Pattern[str], text: str, low: int, high: int) -> int | None:
    """The end of the last boundary between two positions."""
    # Backwards in growing steps, as the last one is mostly near, and regular expressions search forwards.
    reach = _FIRST_LOOK
    while True:
        begin = max(low, high - reach)
        found = None
        for match in border.finditer(text, begin, high):
            found = match.end()
        if found is not None or begin == low:
            return found
        reach *= 4


def _between_characters(text: str, low: int, high: int) -> int:
    """The last position that is not within a grapheme."""
    for end in range(high, max(low, high - _MOST_MARKS), -1):
        if not (
            unicodedata.category(text[end]).startswith("M")
            or text[end] == _JOINER
            or text[end - 1] == _JOINER
            or "\U0001f3fb" <= text[end] <= "\U0001f3ff"
        ):
            return end
    return high
