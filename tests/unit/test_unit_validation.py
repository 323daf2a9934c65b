# SPDX-License-Identifier: Apache-2.0
"""Whether chunks are those of their text: the table in the room's docstring, by values."""

import unicodedata
from array import array
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucidworks_provider.client.chunking import Chunk, ChunkingOptions, ChunkingResult
from lucidworks_provider.client.jobs import JobState
from lucidworks_provider.client.validation import CheckedChunks, check_chunks, check_vectors, rarer_lengths
from lucidworks_provider.errors import EmptyResultError, MalformedResponseError

TEXT = "The quick brown fox jumps. It sees a lazy dog! Then it sleeps."
PARTS = ("The quick brown fox jumps.", "It sees a lazy dog!", "Then it sleeps.")
OTHER = ("A recipe for pancakes with syrup.", "Whisk eggs, flour and milk.")
SENTENCE = ChunkingOptions("sentence", "m")


def chunk(text: str, span: tuple[int, int] | None = None, vector: Any = (0.5, -0.25)) -> Chunk:
    return Chunk(text, span, list(vector) if isinstance(vector, tuple) else vector, 3)


def check(
    chunks: list[Chunk],
    text: str = TEXT,
    options: ChunkingOptions = SENTENCE,
    *,
    items: tuple[int, ...] | None = None,
    other_job: str = "",
    lenient: bool = False,
) -> CheckedChunks:
    sizes = (len(chunks),) if items is None else items
    result = ChunkingResult("j", JobState.RESULT, "READY", "", tuple(chunks), sizes, other_job)
    return check_chunks(text, options, result, lenient=lenient)


def spanned(*parts: str) -> list[Chunk]:
    """Chunks with the service's spans."""
    return [chunk(part, (at := TEXT.index(part), at + len(part))) for part in parts]


@pytest.mark.parametrize("chunks", [[], [chunk("")], [chunk(" \n"), chunk("\t")]])
def test_no_chunk_of_a_text_is_an_error(chunks: list[Chunk]) -> None:
    with pytest.raises(EmptyResultError, match=r"Chunking job j: .* no chunk"):
        check(chunks)


@pytest.mark.parametrize(
    ("parts", "gap"),
    [
        (PARTS, None),
        (PARTS[1:], "characters 0 to 27"),
        ((PARTS[0], PARTS[2]), "characters 26 to 47"),
        (PARTS[:2], "its end, from character 46"),
        (PARTS[:1], "its end, from character 26"),
    ],
)
@pytest.mark.parametrize("with_spans", [True, False])
def test_what_no_chunk_has_is_named(parts: tuple[str, ...], gap: str | None, with_spans: bool) -> None:
    assert check(spanned(*parts) if with_spans else [chunk(part) for part in parts]).gap == gap


CHANGES: dict[str, Callable[[str], str]] = {
    "lower": str.lower,
    "upper": str.upper,
    "without spaces": lambda text: text.replace(" ", ""),
    "unpunctuated": lambda text: text.translate(str.maketrans("", "", ".!,")),
}


@pytest.mark.parametrize("changed", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("with_spans", [True, False])
def test_case_white_space_and_punctuation_alone_are_no_fault(changed: Any, with_spans: bool) -> None:
    def made(*parts: str) -> list[Chunk]:
        return [chunk(changed(c.text), c.span if with_spans else None) for c in spanned(*parts)]

    assert check(made(*PARTS)).gap is None
    assert check(made(*PARTS[:2])).gap is not None
    assert check(made(*PARTS[1:])).gap is not None


@pytest.mark.parametrize("form", ["NFC", "NFD", "NFKC", "NFKD"])
def test_the_normal_form_alone_is_no_fault(form: Any) -> None:
    text = unicodedata.normalize("NFD", "Über die Straße ging ﬁn Äpfel. Ça va très bien.")
    first, second = text.split(". ")
    made = [chunk(unicodedata.normalize(form, first + ".")), chunk(unicodedata.normalize(form, second))]
    assert check(made, text).gap is None
    assert check(made[:1], text).gap is not None


def test_chunks_that_were_rewritten_are_covered_as_far_as_the_spans_show() -> None:
    made = [chunk(c.text.replace("fox", "[UNK]").replace("dog", "[UNK]"), c.span) for c in spanned(*PARTS)]
    assert check(made).gap is None
    assert check(made[:2]).gap is not None
    assert "nothing proves" in str(check([chunk(c.text) for c in made]).gap)
    beyond = [chunk(c.text, (0, len(TEXT) + 1)) for c in made]
    assert "nothing proves" in str(check(beyond).gap)


@pytest.mark.parametrize(
    ("chunks", "words"),
    [
        *(([chunk(part, span) for part in OTHER], "of another text") for span in (None, (0, 26))),
        ([chunk(PARTS[0]), *map(chunk, OTHER)], "of another text.* in 2 of 3 chunks"),
    ],
)
def test_chunks_of_another_text_are_refused(chunks: list[Chunk], words: str) -> None:
    with pytest.raises(MalformedResponseError, match=words) as caught:
        check(chunks)
    assert not caught.value.retryable
    assert 'set on_mismatch="warn"' in str(caught.value)


def test_the_result_of_another_job_is_taken_where_it_fits() -> None:
    checked = check(spanned(*PARTS), other_job="k")
    assert (checked.gap, len(checked.warnings)) == (None, 1)
    nearly = [chunk(part.replace("fox", "cat")) for part in PARTS]
    assert check(nearly).gap is not None
    with pytest.raises(MalformedResponseError, match="about job k"):
        check(nearly, other_job="k")


def test_what_may_be_good_is_a_warning_on_request() -> None:
    checked = check([chunk(part) for part in OTHER], lenient=True)
    assert "of another text: of the words in 2 of 2 chunks 9%" in checked.warnings[0]
    assert checked.gap is not None
    nearly = [chunk(part.replace("fox", "cat")) for part in PARTS]
    assert any("about job k" in one for one in check(nearly, other_job="k", lenient=True).warnings)
    with pytest.raises(MalformedResponseError, match="about job k"):
        check([chunk(part) for part in OTHER], other_job="k", lenient=True)
    assert check_vectors([[3, -24]], None, 3, "It", lenient=True) == [
        "It: dimReductionSize 3 was requested, and the vectors have 2 numbers.",
        "It: whole numbers up to 24 in all vectors, although no quantization was requested.",
    ]
    with pytest.raises(MalformedResponseError, match="have 1, 2 numbers"):
        check_vectors([[0.5, 0.5], [0.5]], None, None, "It", lenient=True)


@pytest.mark.parametrize(
    ("items", "chunks", "taken"),
    [
        ((1, 2), spanned(*PARTS), True),
        ((0, 3), spanned(*PARTS), True),
        ((3, 3), spanned(*PARTS, *PARTS), False),
        ((3, 1), spanned(*PARTS, PARTS[1]), False),
        ((1, 1), spanned(*PARTS[:2]), False),
    ],
)
def test_several_items_are_taken_if_they_cover_the_text_once(
    items: tuple[int, ...], chunks: list[Chunk], taken: bool
) -> None:
    if taken:
        assert check(chunks, items=items).gap is None
    else:
        with pytest.raises(MalformedResponseError, match="exactly once"):
            check(chunks, items=items)


def test_what_the_pattern_of_a_regex_splitter_drops_is_no_gap() -> None:
    text = "one SEP two SEP three"
    options = ChunkingOptions("regex-splitter", "m", chunker_config={"regex": " SEP "})
    whole = [chunk("one", (0, 3)), chunk("two", (8, 11)), chunk("three", (16, 21))]
    assert check(whole, text, options).gap is None
    assert check(whole, text).gap == "characters 3 to 8"
    assert check([whole[0], whole[2]], text, options).gap == "characters 3 to 16"
    assert check([chunk(c.text.upper()) for c in whole], text, options).gap is None


FLOATS = [0.5, -0.25]


@pytest.mark.parametrize(
    ("vectors", "quantization", "dimension", "refused"),
    [
        ([FLOATS], None, None, None),
        ([FLOATS], None, 2, None),
        ([FLOATS], None, 3, "dimReductionSize 3 was requested, and the vectors have 2"),
        ([FLOATS, [0.5]], None, 2, "have 1, 2 numbers"),
        ([[1, 0]], None, None, None),
        ([[1.0, -1.0]], None, None, None),
        ([[3, -24]], None, None, "whole numbers up to 24"),
        ([[3.0, -24.0]], None, None, "whole numbers up to 24"),
        ([[3, -24], FLOATS], None, None, None),
        ([array("q", [3, -24])], None, None, "whole numbers"),
        ([array("d", [3.0, -24.0])], None, None, "whole numbers"),
        ([array("d", [3.5, -24.0])], None, None, None),
        ([[3, -24]], "max-scale", 2, None),
        ([[3, -24]], "max-scale", 4, "dimReductionSize 4"),
    ],
)
def test_vectors_are_compared_with_what_was_asked(
    vectors: Any, quantization: str | None, dimension: int | None, refused: str | None
) -> None:
    if refused is None:
        assert check_vectors(vectors, quantization, dimension, "It") == []
        return
    with pytest.raises(MalformedResponseError, match=refused) as caught:
        check_vectors(vectors, quantization, dimension, "It")
    assert not caught.value.retryable
    assert ('set on_mismatch="warn"' in str(caught.value)) is ("have 1, 2" not in refused)


def test_vectors_of_zeros_are_a_warning() -> None:
    assert check_vectors([FLOATS, [0.0, 0.0]], None, None, "It") == ["1 of 2 vectors have only zeros."]


@given(text=st.text(min_size=1).filter(str.strip), cut=st.integers(0, 20), data=st.data())
def test_the_pieces_of_any_text_are_its_chunks(text: str, cut: int, data: st.DataObject) -> None:
    """For any letters, with or without offsets from the service."""
    at = sorted({0, len(text), min(cut, len(text))})
    spans = list(pairwise(at))
    made = [chunk(text[a:b], (a, b) if data.draw(st.booleans()) else None) for a, b in spans]
    assert check(made, text).gap is None


@pytest.mark.parametrize(
    ("lengths", "rarer"),
    [
        ([], []),
        ([2, 2], []),
        ([3, 2, 2, 2], [0]),
        ([2, 2, 3, 2], [2]),
        ([3, 3, 2], [2]),
        ([3, 2], [0, 1]),
        ([3, 3, 2, 2], [0, 1, 2, 3]),
        ([2, 3, 4, 3], [0, 1, 2, 3]),
    ],
)
def test_a_length_that_not_more_than_half_of_the_results_have_is_wrong(
    lengths: list[int], rarer: list[int]
) -> None:
    errors = rarer_lengths(dict(enumerate(lengths)))
    assert list(errors) == rarer
    assert not any(error.retryable for error in errors.values())
