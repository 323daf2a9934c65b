# SPDX-License-Identifier: Apache-2.0
"""
Different documents of a given size, the same on every machine and in every run.

Words consist of syllables, and the k-th most frequent one is about 1/k as frequent as the first; every fifth one is a
common English word. A sentence has 6 to 24 words, a paragraph 3 to 7 sentences. Some words have letters beyond ASCII,
so that characters and bytes differ.
"""

from __future__ import annotations

import random
from functools import lru_cache
from itertools import accumulate
from pathlib import Path

WORDS, SENTENCES = 5_000, 20_000
# Large folders are slow to list on many file systems.
PER_FOLDER = 1_000
# For a last sentence that is short enough.
_TRIES = 8
_COMMON = (
    *("the", "of", "and", "to", "in", "a", "is", "that"),
    *("for", "it", "with", "as", "was", "on", "by", "are"),
)
_SYLLABLES = [
    c + v for c in "bdfgklmnprstvz" for v in ("a", "e", "i", "o", "u", "an", "er", "is", "ol", "um")
]


def document(number: int, size: int) -> str:
    """
    One document.

    :param number: from 0; each has another text.
    :param size: bytes of UTF-8 at most; the text is shorter by less than 150.
    """
    rng = random.Random(number)
    sentences = _sentences()
    title = f"Report {number}."
    parts, left = [title], size - len(title)
    paragraph = misses = 0
    while misses < _TRIES:
        text, length = sentences[int(rng.random() * SENTENCES)]
        gap = "\n\n" if paragraph == 0 else " "
        if length + len(gap) > left:
            misses += 1
            continue
        parts += (gap, text)
        left -= length + len(gap)
        paragraph = paragraph - 1 if paragraph else rng.randrange(2, 7)
    return "".join(parts)


def write_documents(folder: Path, count: int, size: int) -> int:
    """
    Write documents 0 to ``count - 1``, at most a thousand in a folder.

    :param size: bytes of each, at most.
    :return: bytes of all.
    """
    total = 0
    for number in range(count):
        path = folder / f"{number // PER_FOLDER:03d}" / f"document-{number:06d}.txt"
        if number % PER_FOLDER == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        data = document(number, size).encode()
        path.write_bytes(data)
        total += len(data)
    return total


@lru_cache(maxsize=1)
def _sentences() -> list[tuple[str, int]]:
    """Sentences with their sizes in bytes."""
    rng = random.Random("sentences")
    words = sorted({"".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4))) for _ in range(2 * WORDS)})[:WORDS]
    rng.shuffle(words)
    words = [
        word.replace("ol", "öl").replace("er", "ér") if n % 50 == 7 else word for n, word in enumerate(words)
    ]
    weights = list(accumulate(1 / (rank + 2) for rank in range(len(words))))
    sentences = []
    for _ in range(SENTENCES):
        chosen = rng.choices(words, cum_weights=weights, k=rng.randint(6, 24))
        chosen[::5] = rng.choices(_COMMON, k=len(chosen[::5]))
        if len(chosen) > 12:
            chosen[9] += ","
        text = " ".join(chosen)
        text = text[0].upper() + text[1:] + rng.choice("...!?")
        sentences.append((text, len(text.encode())))
    return sentences
