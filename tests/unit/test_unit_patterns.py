# SPDX-License-Identifier: Apache-2.0
"""Patterns that take exponential time are found, and those that only look like it are not."""

from __future__ import annotations

import re
import time

import pytest

from lucidworks_provider.client.chunking import ChunkingOptions, is_exponential
from lucidworks_provider.errors import InputError

# With the letter that makes the trouble, and one after which nothing matches.
EXPONENTIAL = {
    r"(a+)+$": "a",
    r"(a*)*$": "a",
    r"(?:a+)*?$": "a",
    r"((a)+)+$": "a",
    r"(?:(?:a|b)+)+$": "a",
    r"(\w+\s*)+$": "a",
    r"(\s*\w+\s*)+$": "a",
    r"(a*b*)*$": "a",
    r"x|(a+)+$": "a",
    r"(?=(a+)+$)": "a",
    r"(a{1,})+$": "a",
    r"((a+){2,})*$": "a",
}
FINE = [
    *(
        r"\n",
        r"\n\s*\n",
        r"(a+b)+$",
        r"(\w+\s+)+$",
        r"(?:a|b)+$",
        r"(ab?)+$",
        r"(\b\w+)+$",
        r"((?>a+))+$",
        r"(a++)+$",
    ),
    *(
        r"(a+){3}$",
        r"[.!?]\s+(?=[A-Z])",
        r"^#{1,6} .+$",
        r"(?:\d{1,3},)*\d+",
        "",
        "(a+)?",
        r"(---+\n)+",
        r"(.*?\n){2}",
    ),
]


def seconds(pattern: str, letter: str, length: int) -> float:
    begin = time.perf_counter()
    re.split(pattern, letter * length + "!")
    return time.perf_counter() - begin


@pytest.mark.parametrize("pattern", EXPONENTIAL)
def test_what_takes_exponential_time_is_found(pattern: str) -> None:
    assert is_exponential(pattern)
    # It does: eight letters more take 100 times as long at least, where any power of the length would take 16.
    letter = EXPONENTIAL[pattern]
    assert min(seconds(pattern, letter, 16) for _ in range(3)) > 20 * min(
        seconds(pattern, letter, 8) for _ in range(3)
    )


@pytest.mark.parametrize("pattern", FINE)
def test_what_does_not_is_left_alone(pattern: str) -> None:
    assert not is_exponential(pattern)
    for letter in ("a", "b", "\n", " ", "-", "1,"):
        assert seconds(pattern, letter, 60) < 0.5


def test_it_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(InputError, match=r"repetitions like \(a\+\)\+"):
        ChunkingOptions("regex-splitter", "gte-small", chunker_config={"regex": r"(\w+\s*)+\n"})
    ChunkingOptions("regex-splitter", "gte-small", chunker_config={"regex": r"\n\n+"})
