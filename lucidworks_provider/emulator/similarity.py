# SPDX-License-Identifier: Apache-2.0
"""
How similar a sentence is to a growing chunk, for the semantic chunker.

Works on weighted words instead of hashed vectors: the cosine is the one that :mod:`.vectors` approximates by
hashing, with the same floor, and it can be kept up to date while a chunk grows, which keeps 1 MB of text
linear.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from lucidworks_provider.emulator.sentences import words
from lucidworks_provider.emulator.vectors import COMMON_SHARE, term_weight

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class GrowingChunk:
    """
    The chunk under construction.

    ``approximate`` compares with the sum of the sentence vectors; otherwise the merged text is weighed anew,
    as the vendor says of the semantic chunker ("the merged pre-chunk is embedded again").
    """

    def __init__(self, sentences: Sequence[str], threshold: float, *, approximate: bool) -> None:
        self._counts = [Counter(words(sentence)) for sentence in sentences]
        self._threshold = threshold
        self._approximate = approximate
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
        """Tell whether a sentence is similar enough, and add it if so."""
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
            if self._approximate:
                after = before + term_weight(word, count)
            else:
                self._merged[word] += count
                after = term_weight(word, self._merged[word])
            self._weights[word] = after
            self._square += after * after - before * before
