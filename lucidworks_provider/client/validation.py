# SPDX-License-Identifier: Apache-2.0
"""
Checks that a result belongs to its request. A mismatch is an error or a warning, never a row.

=====================================================  ====================================================
what came                                              what happens
=====================================================  ====================================================
no chunk, or only blank ones                           ``EmptyResultError``: the text is never blank
chunks, spans and vectors of different numbers         refused by :mod:`~lucidworks_provider.client.chunking`
another job's id                                       taken with a warning if every chunk is in the
                                                       text, else refused (*)
chunks of which most words are not in the text         refused (*)
several items for one text                             taken if together they cover the text once
a gap between, before or behind the chunks             not covered: a warning, or a reject
chunks that differ from the text by case, normal       covered by letters and digits, or by the
  form, white space or punctuation                     spans of the service
chunks that differ otherwise                           covered by the spans of the service
vectors of different lengths                           of one result: refused; of several: those whose length not
                                                       more than half of them have
vectors not of the length of ``dimReductionSize``      refused (*)
quantised: other than whole numbers in the range       refused, where they become bytes
not quantised: whole numbers only, beyond -1 to 1      refused (*) (JSON may write 1.0 as 1)
a vector of zeros                                      a warning
another number of predictions than inputs              refused by :mod:`~lucidworks_provider.client.prediction_types`
predictions with an ``index``                          put in order, if the numbers are a permutation
one prediction that is an error, or nothing            its row says so in ``error``, and is counted
=====================================================  ====================================================

(*) The service documents nothing that these checks follow from, so they may refuse a good result. ``lenient`` makes
them warnings; of chunks that name another job, at least half of the words must be in the text even then.

Not detected: a vector or a generated text that belongs to another input of the same request, and
chunks of another text with nearly the same words whose body names no job.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lucidworks_provider.client.chunking import Chunk, ChunkingOptions, ChunkingResult
from lucidworks_provider.client.http.messages import unusable_result
from lucidworks_provider.errors import EmptyResultError, MalformedResponseError

# Of the words in chunks that are not in the text verbatim; a service that rewrites texts keeps most.
LEAST_SHARE = 0.5
# Quantised values by the vendor's method: unsigned and signed bytes.
BYTES = {"min-max": ("uint8", 0, 255), "max-scale": ("int8", -128, 127)}
_WORDS = re.compile(r"\w+")
_WORDS_COMPARED = 2_000


@dataclass(frozen=True, slots=True)
class CheckedChunks:
    """
    Chunks that belong to their text.

    :param spans: of each chunk, in characters of the text.
    :param gap: what of the text is in no chunk, in words; None where the chunks cover it.
    :param warnings: what is unusual about them.
    """

    spans: Sequence[Span]
    gap: str | None
    warnings: tuple[str, ...] = ()


def check_chunks(
    text: str, options: ChunkingOptions, result: ChunkingResult, *, lenient: bool = False
) -> CheckedChunks:
    """
    Compare a chunking result with the text and the options that were sent.

    :param lenient: warn where the result may be good.
    :raises EmptyResultError: there is no chunk.
    :raises MalformedResponseError: not retryable; it is not the result of this request.
    """
    chunks, job = result.chunks, f"Chunking job {result.job_id}"
    if not any(chunk.text.strip() for chunk in chunks):
        raise EmptyResultError(
            f"{job}: the service reports {result.status!r} but returns no chunk of the text."
        )
    dimension = (options.model_config or {}).get("dimReductionSize")
    vectors = (chunk.vector for chunk in chunks)
    warnings = check_vectors(vectors, options.quantization, dimension, job, lenient=lenient)
    spans = locate(text, chunks)
    gap = _gap(text, spans, options)
    strange: Sequence[Chunk] = ()
    if any(start is None for start, _ in spans):
        gap, strange = _gap_by_letters(text, chunks, options)
        if strange:
            warnings += _of_another_text(text, chunks, strange, result.other_job, job, lenient=lenient)
    if result.other_job and not strange:
        warnings.append(f"The response is about job {result.other_job}, and its chunks fit the text.")
    if sum(map(bool, result.items)) > 1 and (
        gap is not None or not _one_after_the_other(spans, result.items)
    ):
        raise unusable_result(
            f"{job}: {len(result.items)} results for one text, which do not cover it exactly once"
        )
    return CheckedChunks(spans, gap, tuple(warnings))


def check_vectors(
    vectors: Iterable[Sequence[float]],
    quantization: str | None,
    dimension: int | None,
    what: str,
    *,
    lenient: bool = False,
) -> list[str]:
    """
    Compare vectors with what was requested.

    :param dimension: the ``dimReductionSize`` that was requested.
    :param what: has the vectors, for messages.
    :param lenient: warn where the vectors may be good.
    :return: warnings.
    :raises MalformedResponseError: not retryable.
    """
    vectors = list(vectors)
    lengths = {len(vector) for vector in vectors}
    if len(lengths) > 1:
        found = ", ".join(map(str, sorted(lengths)))
        raise unusable_result(f"{what}: the vectors of one request have {found} numbers")
    doubts = []
    if dimension is not None and lengths - {dimension}:
        found = str(*lengths)
        doubts.append(
            f"{what}: dimReductionSize {dimension} was requested, and the vectors have {found} numbers"
        )
    if vectors and quantization is None and all(map(_is_whole, vectors)):
        largest = max(max(map(abs, vector), default=0) for vector in vectors)
        if largest > 1:
            doubts.append(
                f"{what}: whole numbers up to {largest:g} in all vectors, although no quantization was requested"
            )
    warnings = [_doubt(doubt, lenient=lenient) for doubt in doubts]
    if zeros := sum(not any(vector) for vector in vectors):
        warnings.append(f"{zeros} of {len(vectors)} vectors have only zeros.")
    return warnings


def check_dimension(vectors: Iterable[Sequence[float]], before: int, what: str) -> int:
    """
    The length of all vectors.

    :param before: of the vectors before these, 0 when there was none.
    :param what: has the vectors, for messages.
    :raises MalformedResponseError: not retryable; they are of another length, or of several.
    """
    dimension = before
    for found in {len(vector) for vector in vectors}:
        if dimension not in {0, found}:
            raise unusable_result(f"{what} has vectors of {found} numbers, the ones before it of {dimension}")
        dimension = found
    return dimension


def rarer_lengths(lengths: dict[int, int]) -> dict[int, MalformedResponseError]:
    """
    Errors for the results whose vectors have another length than those of more than half of the results.

    If there is no such length, all results have errors: a deployment may have been replaced, and after clearing all
    are of the new one.

    :param lengths: of the vectors of each result with vectors, by position.
    :return: by position; not retryable.
    """
    counts = Counter(lengths.values())
    if len(counts) < 2:
        return {}
    usual, frequency = counts.most_common(1)[0]
    right = [usual] if 2 * frequency > len(lengths) else []

    def error(length: int) -> MalformedResponseError:
        others = ", ".join(map(str, right or sorted(counts.keys() - {length})))
        return unusable_result(f"The vectors have {length} numbers, those of other results {others}")

    return {position: error(length) for position, length in lengths.items() if length not in right}


def check_quantised(vectors: Iterable[Sequence[float]], method: str | None, what: str) -> None:
    """
    Check the numbers of quantised vectors.

    :param method: the requested ``vectorQuantizationMethod``.
    :param what: has the vectors, for messages.
    :raises MalformedResponseError: not retryable; a number is not whole, or out of range.
    """
    if method not in BYTES:
        return
    _, low, high = BYTES[method]
    for vector in vectors:
        # A vector of a thousand numbers has at most 256 that differ.
        if not all(low <= value <= high and value == int(value) for value in set(vector)):
            raise unusable_result(
                f"{what}: {method} was requested, and a vector has other than whole numbers from {low} to {high}"
            )


def unfit(document_id: str, what: str) -> MalformedResponseError:
    """The error for a document that cannot be written."""
    return unusable_result(f"Document {document_id!r} has a value that the file cannot hold: {what}")


def _doubt(message: str, *, lenient: bool) -> str:
    """A warning, or the error that says how to have one instead."""
    if lenient:
        return f"{message}."
    raise unusable_result(f'{message}. If this is correct for this model, set on_mismatch="warn"')


def _is_whole(vector: Sequence[float]) -> bool:
    if isinstance(vector, array) and vector.typecode == "q":
        return True
    return all(number == int(number) for number in vector)


def _one_after_the_other(spans: Sequence[Span], sizes: Sequence[int]) -> bool:
    """Whether no item begins before the end of the item before it."""
    reached = at = 0
    for size in filter(None, sizes):
        places = [span for span in spans[at : at + size] if span[0] is not None and span[1] is not None]
        if len(places) < size or min(start for start, _ in places) < reached:
            return False
        reached, at = max(end for _, end in places), at + size
    return True


def _gap(text: str, spans: Iterable[Span], options: ChunkingOptions) -> str | None:
    """The first part of the text that is in no span, and that no chunker drops."""
    reached = 0
    for start, end in (*sorted(span for span in spans if span[0] is not None), (len(text), len(text))):
        between = text[reached:start]
        # Mostly one space: not worth a closer look.
        if between and not between.isspace() and _says_something(_without_separators(between, options)):
            is_end = start == len(text)
            return (
                f"its end, from character {reached:,}" if is_end else f"characters {reached:,} to {start:,}"
            )
        reached = max(reached, end)
    return None


def _says_something(text: str) -> bool:
    """Whether there is more in it than white space and punctuation, which chunkers may trim."""
    return any(not letter.isspace() and unicodedata.category(letter)[0] != "P" for letter in text)


def _without_separators(text: str, options: ChunkingOptions) -> str:
    """A regex-splitter drops what its pattern matches."""
    pattern = (options.chunker_config or {}).get("regex") if options.chunker == "regex-splitter" else None
    return re.sub(pattern, " ", text) if pattern and text.strip() else text


def _gap_by_letters(
    text: str, chunks: Sequence[Chunk], options: ChunkingOptions
) -> tuple[str | None, Sequence[Chunk]]:
    """:func:`_gap`, of chunks that are not in the text as they are; and those whose letters are not in it."""
    letters = _letters(_without_separators(text, options))
    reached = last = 0
    gap, strange = False, []
    for chunk in chunks:
        own = _letters(chunk.text)
        at = letters.find(own, last)
        if at < 0:
            strange.append(chunk)
            continue
        gap, last, reached = gap or at > reached, at, max(reached, at + len(own))
    gap = gap or reached < len(letters)
    if not strange:
        return ("a part of it" if gap else None), strange
    # A blank chunk is of no part of the text, whatever its span says, and a span beyond its end proves nothing.
    given = [
        chunk.span
        for chunk in chunks
        if chunk.span is not None and chunk.span[1] <= len(text) and chunk.text.strip()
    ]
    if len(given) == len(chunks):
        return _gap(text, given, options), strange
    return "the chunks differ from the text, so that nothing proves that they cover it", strange


def _of_another_text(
    text: str, chunks: Sequence[Chunk], strange: Sequence[Chunk], other_job: str, job: str, *, lenient: bool
) -> list[str]:
    """
    Warnings about chunks whose letters are not in the text.

    :raises MalformedResponseError: they are of another text.
    """
    share = _share_of_words(strange, text)
    if share >= LEAST_SHARE and not other_job:
        return []
    about = f"it is about job {other_job}, and " if other_job else ""
    said = f"of the words in {len(strange)} of {len(chunks)} chunks {share:.0%} are in the text"
    message = f"{job}: the result is of another text: {about}{said}"
    if other_job and share < LEAST_SHARE:
        raise unusable_result(message)
    return [_doubt(message, lenient=lenient)]


def _letters(text: str) -> str:
    """Letters and digits of a text, without differences of case and normal form."""
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKD", text).casefold()))


def _share_of_words(chunks: Sequence[Chunk], text: str) -> float:
    """How many of the words in chunks are in the text; 1.0 where there is no word."""
    found = (word for chunk in chunks for word in _WORDS.findall(chunk.text))
    words = {_letters(word) for word, _ in zip(found, range(_WORDS_COMPARED), strict=False)} - {""}
    letters = _letters(text)
    return sum(word in letters for word in words) / len(words) if words else 1.0


Span = tuple[int, int] | tuple[None, None]
NOWHERE: Span = (None, None)


def locate(text: str, chunks: Sequence[Chunk]) -> list[Span]:
    """
    The span of each chunk in characters of the text, end exclusive, or ``(None, None)``.
    """
    others: list[_Unit] | None = [] if text.isascii() else None
    spans: list[Span] = []
    for chunk in chunks:
        span: Span | None = None
        if chunk.span is not None:
            start, end = chunk.span
            # A slice ends with the text, whatever its end is.
            if end <= len(text) and text[start:end] == chunk.text:
                span = start, end
            else:
                if others is None:
                    others = [_Unit(text, "utf-8", 1), _Unit(text, "utf-16-le", 2)]
                span = next(
                    (verified for unit in others if (verified := unit.verified(start, end, chunk.text))), None
                )
        spans.append(span or _found(text, chunk.text, spans))
    return spans


class _Unit:
    """
    A text in units other than characters.

    :param width: bytes of one unit.
    """

    def __init__(self, text: str, codec: str, width: int) -> None:
        self._codec = codec
        self._width = width
        self._encoded = text.encode(codec)
        # The last position, in bytes and in characters, as spans are in order.
        self._at = self._characters = 0

    def verified(self, start: int, end: int, chunk: str) -> Span | None:
        """The span in characters, if the text within it is the chunk."""
        first = start * self._width
        try:
            encoded = chunk.encode(self._codec)
        except UnicodeEncodeError:
            return None
        # Equal text begins and ends between characters: both encodings mark the first unit of a character.
        if not encoded or self._encoded[first : end * self._width] != encoded:
            return None
        low, high = sorted((self._at, first))
        between = len(self._encoded[low:high].decode(self._codec))
        self._characters += between if first >= self._at else -between
        self._at = first
        return self._characters, self._characters + len(chunk)


def _found(text: str, chunk: str, before: Sequence[Span]) -> Span:
    """A chunk starts after the start of the one before it; overlaps allow it to start before its end."""
    last_start, last_end = before[-1] if before else (-1, 0)
    if last_start is None or last_end is None or not chunk:
        # After a chunk without a position, search the whole text.
        last_start, last_end = -1, None
    first = text.find(chunk, last_start + 1) if chunk else -1
    if first < 0:
        return NOWHERE
    if text.find(chunk, first + 1) < 0:
        return first, first + len(chunk)
    if last_end is not None:
        # Of several positions, chunkers continue right after the last chunk.
        following = last_end + len(text[last_end:]) - len(text[last_end:].lstrip())
        if text.startswith(chunk, following):
            return following, following + len(chunk)
    return NOWHERE
