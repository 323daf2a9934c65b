# SPDX-License-Identifier: Apache-2.0
"""The five chunkers: spans that reproduce the text, exact overlaps, nothing lost, no slow text."""

import itertools
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lucidworks_provider.emulator.chunkers import (
    dynamic_newline,
    dynamic_sentence,
    regex_splitter,
    semantic,
    sentence,
)
from lucidworks_provider.emulator.sentences import Span, count_tokens, sentence_spans

Chunker = tuple[Any, ...]  # the function, and its options
SEVEN = "S1. S2. S3. S4. S5. S6. S7."

TABLE = [
    ((sentence, 3, 1), SEVEN, ["S1. S2. S3.", "S3. S4. S5.", "S5. S6. S7."]),
    ((sentence,), SEVEN, ["S1. S2. S3. S4. S5.", "S6. S7."]),
    ((sentence, 1), "One! Two? Three.", ["One!", "Two?", "Three."]),
    ((sentence, 1), "Dr. Who pays 3.14 dollars. Why?", ["Dr. Who pays 3.14 dollars.", "Why?"]),
    ((sentence, 1), "A heading\n\nA line\nwrapped", ["A heading", "A line\nwrapped"]),
    ((sentence, 1), 'He said "go." She went.', ['He said "go."', "She went."]),
    ((sentence, 1), "今日は。明日は！", ["今日は。", "明日は！"]),
    ((dynamic_newline, 4), "a b\n c d\n\ne f\n", ["a b\n c d", "e f"]),
    ((dynamic_newline, 1), "too long a line\nx", ["too long a line", "x"]),
    ((dynamic_sentence, 6), SEVEN, ["S1. S2. S3.", "S4. S5. S6.", "S7."]),
    ((dynamic_sentence, 6, 1), SEVEN, ["S1. S2. S3.", "S3. S4. S5.", "S5. S6. S7."]),
    ((dynamic_sentence, 3, 1), SEVEN[:11], ["S1.", "S2.", "S3."]),  # the overlap would not fit
    ((dynamic_sentence, 2), "far too long a sentence. Short.", ["far too long a sentence.", "Short."]),
    ((regex_splitter,), "a\n\n b \nc", ["a", " b ", "c"]),
    ((regex_splitter, r"x*"), "abxxc", ["ab", "c"]),
    ((regex_splitter, r"\d+"), "a1b22c", ["a", "b", "c"]),
    ((semantic, 512, 0, 1.0), "Red apples. Blue boats.", ["Red apples.", "Blue boats."]),
    ((semantic, 512, 0, -1.0), "Red apples. Blue boats.", ["Red apples. Blue boats."]),
    (
        (semantic,),
        "Spiders climb walls. Spiders climb trees. Bankers count money. Bankers lend money.",
        ["Spiders climb walls. Spiders climb trees.", "Bankers count money. Bankers lend money."],
    ),
]


def spans_of(chunker: Chunker, text: str) -> list[Span]:
    chunk, *options = chunker
    return list(chunk(text, *options))


def chunks(chunker: Chunker, text: str) -> list[str]:
    return [text[start:end] for start, end in spans_of(chunker, text)]


@pytest.mark.parametrize(("chunker", "text", "expected"), TABLE)
def test_table(chunker: Chunker, text: str, expected: list[str]) -> None:
    assert chunks(chunker, text) == expected


TEXTS = st.text(st.sampled_from("ab Z1.!?。\n\t\r,\"')é中\U0001f600-_"), max_size=300) | st.text(max_size=100)
SIZES = st.integers(1, 30)
OVERLAPS = st.integers(0, 4)
CHUNKERS = st.one_of(
    st.tuples(st.just(dynamic_newline), SIZES),
    st.tuples(st.just(dynamic_sentence), SIZES, OVERLAPS),
    st.builds(lambda overlap, more: (sentence, overlap + more, overlap), OVERLAPS, st.integers(1, 5)),
    st.tuples(st.just(regex_splitter), st.sampled_from(["\n", r"\s+", "x*", r"\b", "[.!?]", "(?m)^", "a|b"])),
    st.tuples(st.just(semantic), SIZES, OVERLAPS, st.floats(-1, 1), st.booleans()),
)


@settings(max_examples=400, deadline=None)
@given(CHUNKERS, TEXTS)
def test_spans_are_ordered_visible_and_cover_the_text(chunker: Chunker, text: str) -> None:
    spans = spans_of(chunker, text)
    covered = bytearray(len(text))
    for start, end in spans:
        assert 0 <= start < end <= len(text)
        assert text[start:end].strip()
        covered[start:end] = b"\1" * (end - start)
    assert all(before < after for before, after in itertools.pairwise(spans))
    assert all(a[0] < b[0] and a[1] <= b[1] for a, b in itertools.pairwise(spans))
    if chunker[0] is not regex_splitter:  # its separators are no part of any chunk
        lost = [text[index] for index, seen in enumerate(covered) if not seen]
        assert "".join(lost).strip() == ""


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 6), st.integers(0, 5), st.integers(1, 40))
def test_fixed_sentence_overlap_is_exact(size: int, overlap: int, count: int) -> None:
    overlap = min(overlap, size - 1)
    text = " ".join(f"S{number}." for number in range(count))
    parts = [chunk.split() for chunk in chunks((sentence, size, overlap), text)]
    for before, after in itertools.pairwise(parts):
        assert len(before) == size
        assert before[size - overlap :] == after[:overlap]
        assert len(after) > overlap


@settings(max_examples=200, deadline=None)
@given(SIZES, OVERLAPS, TEXTS)
def test_token_limit_holds_unless_one_sentence_is_longer(size: int, overlap: int, text: str) -> None:
    sentences = set(sentence_spans(text))
    for chunker in ((dynamic_sentence, size, overlap), (semantic, size, overlap, 0.4)):
        for start, end in spans_of(chunker, text):
            assert (start, end) in sentences or count_tokens(text[start:end]) <= size


@pytest.mark.parametrize("text", ["." * 10**6, "\n " * 500_000, "a" * 10**6, ".)" * 500_000, "\n" * 10**6])
@pytest.mark.parametrize(
    "chunker", [(dynamic_newline,), (dynamic_sentence,), (sentence,), (regex_splitter,), (semantic,)]
)
def test_hostile_megabyte_is_linear(chunker: Chunker, text: str) -> None:
    began = time.thread_time()
    spans_of(chunker, text)
    assert time.thread_time() - began < 3
