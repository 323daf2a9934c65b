# SPDX-License-Identifier: Apache-2.0
"""
Documents over the service's limit, in segments that each fit.

A segment ends behind a paragraph, else behind a line or sentence, else behind a word, else anywhere but within a
character and what belongs to it. The best border is taken that lies in the second half of what fits: a segment
is a request, so small ones cost. Each segment is found in time that its own length bounds, whatever the text.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from lucidworks_provider.errors import InputError

# The longest character in UTF-8.
_SMALLEST = 4
# Borders, the better ones first. None of them begins with a repetition that may fail behind it: a search that
# fails goes on at the next character, and would look at a long run again from each of its places.
_BORDERS = (
    re.compile(r"\n[ \t]*\r?\n\s*|\u2029"),
    # In Chinese and Japanese no blank follows a sentence.
    re.compile(r"[.!?…][\"'”’»)\]]{0,4}\s+|[。！？｡][\"'”’」』）]{0,4}\s*|\n\s*"),
    re.compile(r"\s+|\u200b"),
)
_FIRST_LOOK = 2048
_JOINER = "\u200d"
# Nobody puts more than a few marks on a letter; who does may see them cut.
_MOST_MARKS = 32


@dataclass(frozen=True, slots=True)
class Segment:
    """
    A part of a text.

    :param start: its first character in the text.
    """

    start: int
    text: str


def split(text: str, *, max_bytes: int) -> list[Segment]:
    """
    Cut a text into segments that together are the text, with nothing between them; into one where it fits.

    A segment may be nothing but white space, where the text has so much of it.

    :param max_bytes: of UTF-8 that a segment may have, 4 at least.
    :raises InputError: fewer.
    """
    if max_bytes < _SMALLEST:
        raise InputError(f"max_bytes is {max_bytes}; a character may take {_SMALLEST}.")
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
    data = part.encode(errors="surrogatepass")
    if len(data) <= max_bytes:
        return start + len(part)
    cut = max_bytes
    while data[cut] & 0b1100_0000 == 0b1000_0000:
        cut -= 1  # within a character
    return start + len(data[:cut].decode(errors="surrogatepass"))


def _border(text: str, start: int, end: int) -> int:
    """Where to cut at the latest, ``end``, or better."""
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
    """The end of the last border between two places."""
    # From the end in steps that grow, since the last one is mostly near and searching goes forward.
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
    """Not before an accent, nor within one of the pictures that are made of several."""
    for end in range(high, max(low, high - _MOST_MARKS), -1):
        if not (
            unicodedata.category(text[end]).startswith("M")
            or text[end] == _JOINER
            or text[end - 1] == _JOINER
            or "\U0001f3fb" <= text[end] <= "\U0001f3ff"
        ):
            return end
    return high
