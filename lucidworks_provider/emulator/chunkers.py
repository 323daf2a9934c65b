# SPDX-License-Identifier: Apache-2.0
"""
The five documented chunkers, as functions from a text to spans.

A chunk is always ``text[start:end]``, with offsets in characters and an exclusive end (section 7.3). Four
chunkers pack trimmed units (lines or sentences) greedily; the regex splitter takes raw pieces. Overlap
follows the vendor's example: with three sentences and an overlap of one, ``S1 S2 S3``, ``S3 S4 S5``, ``S5 S6
S7``.

Assumptions [A]: a unit longer than the limit stays one chunk; the overlap shrinks when it would not fit the
limit together with the next sentence; each chunk begins later than the one before; blank chunks are dropped.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import TYPE_CHECKING, Final

from lucidworks_provider.emulator.sentences import Span, count_tokens, line_spans, sentence_spans, words
from lucidworks_provider.emulator.vectors import COMMON_SHARE, term_weight

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence


COSINE_THRESHOLD: Final = 0.567
"""No default is documented; this is the value of the vendor's example."""


class GrowingChunk:
    """
    The chunk under construction.

    The merged text is weighed anew for each sentence, as the vendor says of the semantic chunker ("the merged
    pre-chunk is embedded again").
    """

    def __init__(self, sentences: Sequence[str], threshold: float) -> None:
        self._counts = [Counter(words(sentence)) for sentence in sentences]
        self._threshold = threshold
        self._merged: Counter[str] = Counter()
        self._weights: dict[str, float] = {}
        self._square = 0.0

    def begin(self, first: int, end: int) -> None:
        """Start a new chunk with the sentences [first, end)."""
        self._merged.clear()
        self._weights.clear()
        self._square = 0.0
        for index in range(first, end):
            self._add(self._counts[index])

    def accepts(self, index: int) -> bool:
        """Return whether a sentence is similar enough, and add it if so."""
        counts = self._counts[index]
        sentence = {word: term_weight(word, count) for word, count in counts.items()}
        if self._cosine(sentence) < self._threshold:
            return False
        self._add(counts)
        return True

    def _cosine(self, sentence: Mapping[str, float]) -> float:
        square = math.fsum(weight * weight for weight in sentence.values())
        if square <= 0.0 or self._square <= 0.0:
            return COMMON_SHARE
        dot = math.fsum(weight * self._weights.get(word, 0.0) for word, weight in sentence.items())
        raw = max(-1.0, min(1.0, dot / math.sqrt(square * self._square)))
        return COMMON_SHARE + (1.0 - COMMON_SHARE) * raw

    def _add(self, counts: Mapping[str, int]) -> None:
        for word, count in counts.items():
            before = self._weights.get(word, 0.0)
            self._merged[word] += count
            after = term_weight(word, self._merged[word])
            self._weights[word] = after
            self._square += after * after - before * before


def dynamic_newline(text: str, max_chunk_size: int = 512) -> Iterator[Span]:
    """Split on every newline, then merge neighbours while they fit."""
    lines = line_spans(text)
    return _pack(lines, _sizes(text, lines), max_chunk_size)


def dynamic_sentence(text: str, max_chunk_size: int = 512, overlap_size: int = 0) -> Iterator[Span]:
    """Join sentences until the limit; the default limit is documented for dynamic-newline only [A]."""
    sentences = sentence_spans(text)
    return _pack(sentences, _sizes(text, sentences), max_chunk_size, overlap_size)


def sentence(text: str, chunk_size: int = 5, overlap_size: int = 0) -> Iterator[Span]:
    """Join a fixed number of sentences."""
    sentences = sentence_spans(text)
    return _pack(sentences, [1] * len(sentences), chunk_size, overlap_size)


def regex_splitter(text: str, regex: str = "\n") -> Iterator[Span]:
    """Split at each match of a pattern; an empty match splits nothing, or "x*" would cut every character."""
    start = 0
    for match in re.finditer(regex, text):
        if match.end() > match.start():
            yield from _visible(text, start, match.start())
            start = match.end()
    yield from _visible(text, start, len(text))


def semantic(
    text: str,
    max_chunk_size: int = 512,
    overlap_size: int = 0,
    cosine_threshold: float = COSINE_THRESHOLD,
    approximate: bool = False,
) -> Iterator[Span]:
    """Join sentences while they are similar enough to the chunk, and fit; ``approximate`` has no effect [A]."""
    sentences = sentence_spans(text)
    growing = GrowingChunk([text[start:end] for start, end in sentences], cosine_threshold)
    return _pack(sentences, _sizes(text, sentences), max_chunk_size, overlap_size, growing)


def _sizes(text: str, units: Sequence[Span]) -> list[int]:
    return [count_tokens(text[start:end]) for start, end in units]


def _visible(text: str, start: int, end: int) -> Iterator[Span]:
    if text[start:end].strip():
        yield start, end


def _pack(
    units: Sequence[Span],
    sizes: Sequence[int],
    limit: int,
    overlap: int = 0,
    growing: GrowingChunk | None = None,
) -> Iterator[Span]:
    """Join neighbouring units greedily; ``growing`` may refuse a unit that would fit."""
    first, fresh = 0, 0  # units [first, fresh) are shared with the chunk before
    while fresh < len(units):
        end = fresh + 1
        size = sum(sizes[first:end])
        if growing is not None:
            growing.begin(first, end)
        while end < len(units) and size + sizes[end] <= limit:
            if growing is not None and not growing.accepts(end):
                break
            size += sizes[end]
            end += 1
        yield units[first][0], units[end - 1][1]
        first = end - min(overlap, end - first - 1)
        fresh = end
        size = sum(sizes[first : end + 1])
        while first < fresh and size > limit:
            size -= sizes[first]
            first += 1
