# SPDX-License-Identifier: Apache-2.0
"""``documents/split.py``: nothing lost, nothing too long, cut where a reader would."""

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lucidworks_provider.documents.split import Segment, split
from lucidworks_provider.errors import InputError

# What borders are made of, and what may not be torn apart.
ALPHABET = [*'ab\n\t.。ä日🐄 \u2029"\\\x1b', "  ", "\r\n", "\n\n", "! ", "e\u0301"]


def texts(text: str, max_bytes: int) -> list[str]:
    return [segment.text for segment in split(text, max_bytes=max_bytes)]


def size(text: str) -> int:
    """Bytes within a request."""
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2


@given(
    text=st.lists(st.sampled_from(ALPHABET), max_size=200).map("".join) | st.text(),
    max_bytes=st.integers(6, 60),
)
@example(text="", max_bytes=6)
@example(text="\r\n" * 9, max_bytes=7)
@example(text="\r\n" * 9, max_bytes=6)
@example(text="\x1b" * 9, max_bytes=11)
def test_the_pieces_are_the_text(text: str, max_bytes: int) -> None:
    segments = split(text, max_bytes=max_bytes)
    assert "".join(segment.text for segment in segments) == text
    for segment in segments:
        assert text.startswith(segment.text, segment.start)
        assert size(segment.text) <= max_bytes
        assert segment.text or not text
    starts = [segment.start for segment in segments]
    assert starts == sorted(set(starts)), "none is empty"


@given(words=st.lists(st.text("abc", min_size=1, max_size=8), min_size=1), max_bytes=st.integers(20, 60))
def test_words_are_kept_where_they_fit(words: list[str], max_bytes: int) -> None:
    segments = texts(" ".join(words), max_bytes)
    assert " ".join(segments).split() == words


@given(text=st.text("ab .", max_size=300), max_bytes=st.integers(6, 60))
def test_no_more_pieces_than_twice_what_is_needed(text: str, max_bytes: int) -> None:
    assert len(split(text, max_bytes=max_bytes)) <= 2 * -(-len(text) // max_bytes) + 1
    # An escape may not fit, and the half of the characters may have a third of the bytes.
    lines = text.replace(" ", "\n")
    assert len(split(lines, max_bytes=max_bytes)) <= 3 * -(-size(lines) // (max_bytes - 1)) + 1


@pytest.mark.parametrize(
    ("text", "max_bytes", "segments"),
    [
        ("It fits.", 8, ["It fits."]),
        ("One. Two.\n\nThree. Four.", 20, ["One. Two.\n\n", "Three. Four."]),
        ("One. Two.\r\n \r\nThree. Four.", 24, ["One. Two.\r\n \r\n", "Three. Four."]),
        ("A first one. A second one.", 20, ["A first one. ", "A second one."]),
        ('He said "no!" She did not.', 22, ['He said "no!" ', "She did not."]),
        ("first line\nsecond line", 16, ["first line\n", "second line"]),
        ("これは文。これも文です。", 24, ["これは文。", "これも文です。"]),
        ("some words here", 12, ["some words ", "here"]),
        ("Version 3.11 of it", 12, ["Version ", "3.11 of it"]),
        ("abcdefghijklmn", 6, ["abcdef", "ghijkl", "mn"]),
        ("ääääää", 7, ["äää", "äää"]),
        ("🐄🐄", 7, ["🐄", "🐄"]),
        # A border right at the beginning would make a request of next to nothing.
        ("a\n\nbbbb cccc dddd", 14, ["a\n\nbbbb ", "cccc dddd"]),
        # What belongs to a character stays with it.
        ("aaaae\u0301", 6, ["aaaa", "e\u0301"]),
        ("aaaa👩\u200d🌾", 11, ["aaaa", "👩\u200d🌾"]),
        ("aaaa👍🏽", 9, ["aaaa", "👍🏽"]),
        ("aaaa\r\nb", 6, ["aaaa", "\r\nb"]),
        # An escape is not cut.
        ("aaaaa\\bb", 6, ["aaaaa", "\\bb"]),
        ("aaaa\\bb", 6, ["aaaa\\", "bb"]),
        ("a\x1b\x1bb", 7, ["a\x1b", "\x1bb"]),
    ],
)
def test_borders(text: str, max_bytes: int, segments: list[str]) -> None:
    assert texts(text, max_bytes) == segments


def test_the_limit() -> None:
    assert split("", max_bytes=6) == [Segment(0, "")]
    assert split("äöü", max_bytes=6) == [Segment(0, "äöü")]
    with pytest.raises(InputError, match="max_bytes is 5"):
        split("x", max_bytes=5)


@pytest.mark.parametrize("max_bytes", [1_000, 1_000_000])
@pytest.mark.parametrize(
    "part",
    [
        *("word ", "x", " ", "\n", "\n ", "\n\t\t\t", ".", ". ", ".'", "...)))", "🐄", "\u0301", "\r\n"),
        *("。", "a.\n\n", "\\", "\x1b"),
    ],
)
def test_hostile_texts_take_no_time(part: str, max_bytes: int) -> None:
    text = part * (4_000_000 // len(part))
    begin = time.process_time()
    segments = split(text, max_bytes=max_bytes)
    # A second on an idle machine; quadratic work would take hours.
    assert time.process_time() - begin < 30
    assert sum(len(segment.text) for segment in segments) == len(text)
