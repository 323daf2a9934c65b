# SPDX-License-Identifier: Apache-2.0
"""
Sentences, lines and tokens of a text, as spans.

The vendor names neither its sentence splitter nor its tokenizer, so both are plain approximations [A]. A
sentence ends at ``.``, ``!`` or ``?`` before white space, at a CJK full stop, or at a blank line. A token is
a run of word characters, one CJK character, or one punctuation mark. Both run in linear time on hostile text:
a run of stops is entered only at its beginning, and no quantifier gives characters back.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import Final, TypeAlias

Span: TypeAlias = tuple[int, int]

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af"
_TOKEN = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|[^\w\s]")
# Characters of a token, more than in most texts: one of that length is counted at once.
_SHORT = 10
_VISIBLE = re.compile(r"\S+")
_MARK = re.compile(r"[^\w\s]")
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+")

# All begin with one character of a set, for which the search is five times as fast as for the three in turn.
_BOUNDARY = re.compile(
    r"""[.!?。！？\n](?:
        (?<=[.!?])(?<![.!?][.!?])[.!?]*+["'”’)\]]*+(?=\s)  # a stop, closing quotes, then white space
      | (?<=[。！？])[。！？]*+[」』”’)]*+                   # CJK stops need no white space after them
      | (?<=\n)[^\S\n]*+\n                                # a blank line ends what has no stop, as headings
    )""",
    re.VERBOSE,
)
_BEFORE_WORD = re.compile(r"[\s(\[\"']")
_ABBREVIATED = "mr mrs ms dr prof st vs fig jr sr inc ltd corp approx dept est e.g i.e cf al pp vol"
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())
_LONGEST_ABBREVIATION = 8

_COMMON = """
    a about after all also an and any are as at be been but by can did do does for from had has
    have he her his how i if in into is it its me more my no not of on one or our over she so some
    such than that the their them then there these they this to us was we were what when which who
    will with would you your
"""
COMMON_WORDS: Final = frozenset(_COMMON.split())
"""English words that say little about a text."""


def count_tokens(text: str) -> int:
    return len(_TOKEN.findall(text))


def tokens(text: str) -> list[str]:
    """Return the tokens of a text in lower case."""
    return _TOKEN.findall(text.lower())


def truncate_tokens(text: str, limit: int) -> tuple[str, int]:
    """Cut a text after ``limit`` tokens; return it and its number of tokens."""
    beyond = next(islice(_TOKEN.finditer(text), limit, None), None)
    return (text, count_tokens(text)) if beyond is None else (text[: beyond.start()], limit)


def words(text: str) -> list[str]:
    """Return the lower-cased words of a text, punctuation left out."""
    return _WORD.findall(text.lower())


def words_within(text: str, limit: int) -> tuple[list[str], int]:
    """Return the words of the first ``limit`` tokens of a text, and how many tokens these are."""
    lowered = text.lower()
    # Lower case makes two characters of one, once: of a Turkish İ, the second of them a mark.
    if len(text) <= _SHORT * limit and len(lowered) == len(text):
        found = _WORD.findall(lowered)
        count = len(found) + len(_MARK.findall(text))
        if count <= limit:
            return found, count
    seen, count = truncate_tokens(text, limit)
    return words(seen), count


def content_words(text: str) -> list[str]:
    """Return the words that are not common ones; all of them if there is no other."""
    found = words(text)
    return [word for word in found if word not in COMMON_WORDS] or found


def truncate_words(text: str, limit: int) -> str:
    """Cut a text after ``limit`` words, which white space parts."""
    for count, match in enumerate(_VISIBLE.finditer(text)):
        if count == limit:
            return text[: match.start()].rstrip()
    return text


def trimmed(text: str, start: int, end: int) -> Span | None:
    """Shrink a span to its first and last visible character; None if there is none."""
    piece = text[start:end]
    body = piece.strip()
    if not body:
        return None
    start += len(piece) - len(piece.lstrip())
    return start, start + len(body)


def sentence_spans(text: str) -> list[Span]:
    """Return the trimmed spans of the sentences; together they hold every visible character."""
    cuts = [match.end() for match in _BOUNDARY.finditer(text) if not _is_abbreviation(text, match)]
    return _between(text, cuts)


def line_spans(text: str) -> list[Span]:
    """Return the trimmed spans of the lines that are not blank."""
    return _between(text, [match.end() for match in re.finditer("\n", text)])


def _between(text: str, cuts: list[int]) -> list[Span]:
    spans: list[Span] = []
    start = 0
    for end in [*cuts, len(text)]:
        span = trimmed(text, start, end)
        if span is not None:
            spans.append(span)
        start = end
    return spans


def _is_abbreviation(text: str, match: re.Match[str]) -> bool:
    if match.group() != ".":
        return False
    before = text[max(0, match.start() - _LONGEST_ABBREVIATION) : match.start()]
    word = _BEFORE_WORD.split(before)[-1]
    return word.lower() in _ABBREVIATIONS
