# SPDX-License-Identifier: Apache-2.0
"""Long texts in pieces: at paragraphs, else at sentences, else at words, else anywhere between two characters."""

from __future__ import annotations

import re
from dataclasses import dataclass

_BORDERS = (re.compile(r"\n[ \t]*\n\s*"), re.compile(r"[.!?][)\"'”’]*\s+|\n+"), re.compile(r"\s+"))


@dataclass(frozen=True, slots=True)
class Piece:
    """
    A part of a text.

    :param start: characters of the text before it.
    """

    start: int
    text: str


def split(text: str, *, max_bytes: int) -> list[Piece]:
    """
    A text in pieces that together are the text.

    :param max_bytes: of UTF-8, of each piece; four at least.
    """
    if len(text) * 4 <= max_bytes or len(text.encode()) <= max_bytes:
        return [Piece(0, text)]
    pieces: list[Piece] = []
    start = 0
    while start < len(text):
        # Whole characters only: what is cut in the last one is dropped by the decoder.
        most = len(text[start : start + max_bytes].encode()[:max_bytes].decode(errors="ignore"))
        end = start + most
        if end < len(text):
            end = _border(text, start, end)
        pieces.append(Piece(start, text[start:end]))
        start = end
    return pieces


def _border(text: str, start: int, end: int) -> int:
    """The last border in the second half; the whole of it where there is none."""
    half = start + (end - start) // 2
    for border in _BORDERS:
        last = None
        for last in border.finditer(text, half, end):  # noqa: B007
            pass
        if last is not None:
            return last.end()
    return end
