# SPDX-License-Identifier: Apache-2.0
"""
The Async Chunking API: one text in, chunks and their vectors out.

One document a request: the limits on size and on the number of chunks count per request, and so one
document has one job, one status and one failure of its own.

Source: https://doc.lucidworks.com/docs/lw-platform/lw-ai/lw-ai-apis/lw-ai-async-chunking-api
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

# The parser of `re` has no public name.
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

from lucidworks_provider.client.http.messages import (
    Call,
    Request,
    Steps,
    endpoint_with_hint,
    parse_object,
    path_segment,
    post,
    unusable_result,
)
from lucidworks_provider.client.jobs import CHUNKING, JobState, poll_job, read_submission, state_of, top_level
from lucidworks_provider.client.options import (
    MAX_TEXT_BYTES,
    SWITCH,
    Options,
    check_choice,
    check_options,
    check_text,
    is_count,
    number,
    valid,
    whole,
)
from lucidworks_provider.client.settings import LucidworksSettings
from lucidworks_provider.client.use_cases import DATA_TYPES, MODEL_OPTIONS, list_use_cases, nearest
from lucidworks_provider.errors import InputError, MalformedResponseError, UnknownResourceError

_NUMBERS = {int, float}


def _is_pattern(value: object) -> bool:
    # The vendor documents the syntax of Python's `re`.
    try:
        re.compile(value if isinstance(value, str) and value.encode() else "(")
        return not is_exponential(str(value))
    except (re.error, OverflowError, RecursionError, UnicodeEncodeError):
        return False


_SIZE, _OVERLAP = whole(1), whole(0)

# Every chunker with its options (section 7.2). Sizes are tokens for `max...` and sentences otherwise.
CHUNKERS: Mapping[str, Options] = {
    "dynamic-newline": {"maxChunkSize": _SIZE},
    "dynamic-sentence": {"maxChunkSize": _SIZE, "overlapSize": _OVERLAP},
    "regex-splitter": {
        "regex": (
            "a pattern of Python's re module, without repetitions of repetitions like (a+)+",
            valid(_is_pattern),
        )
    },
    "semantic": {
        "maxChunkSize": _SIZE,
        "overlapSize": _OVERLAP,
        "cosineThreshold": number(-1, 1),
        "approximate": SWITCH,
    },
    "sentence": {"chunkSize": _SIZE, "overlapSize": _OVERLAP},
}


@dataclass(frozen=True, slots=True)
class ChunkingOptions:
    """
    Options of a chunking request; validated by the constructor.

    :param chunker: one of :data:`CHUNKERS`.
    :param model_id: an embedding model, or the deployment id of a custom one.
    :param data_type: ``passage`` for documents, ``query`` for search queries.
    :param chunker_config: the chunker's own options; defaults where absent.
    :param model_config: ``vectorQuantizationMethod`` and ``dimReductionSize``.
    :raises InputError: names the option and the values it may have.
    """

    chunker: str
    model_id: str
    data_type: str | None = "passage"
    chunker_config: Mapping[str, Any] | None = None
    model_config: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        check_choice(self.chunker, "chunker", CHUNKERS)
        path_segment(self.model_id, "model_id")
        if self.data_type is not None:
            check_choice(self.data_type, "data_type", DATA_TYPES)
        allowed = CHUNKERS[self.chunker]
        chunker_config = check_options(self.chunker_config, allowed, f"chunker_config of {self.chunker!r}")
        object.__setattr__(self, "chunker_config", chunker_config)
        object.__setattr__(
            self, "model_config", check_options(self.model_config, MODEL_OPTIONS, "model_config")
        )
        if self.chunker == "sentence" and self.chunker_config:
            size, overlap = self.chunker_config.get("chunkSize", 5), self.chunker_config.get("overlapSize", 0)
            if overlap >= size:
                raise InputError(
                    f"chunker_config of 'sentence': overlapSize {overlap} must be below chunkSize {size}."
                )

    @property
    def quantization(self) -> str | None:
        """``min-max`` (unsigned bytes), ``max-scale`` (signed bytes) or None (floats)."""
        found: str | None = (self.model_config or {}).get("vectorQuantizationMethod")
        return found

    def as_json(self) -> dict[str, Any]:
        """The options as plain JSON, in a fixed order: for fingerprints and file metadata."""
        return {
            "chunker": self.chunker,
            "model_id": self.model_id,
            "data_type": self.data_type,
            "chunker_config": dict(sorted((self.chunker_config or {}).items())),
            "model_config": dict(sorted((self.model_config or {}).items())),
        }


@dataclass(frozen=True, slots=True)
class Chunk:
    """
    One chunk of a document.

    :param span: ``(start, end)`` in the submitted text, end exclusive, as the service gave it; or None.
    :param vector: floats, or integers when quantised; a list, or an array if the body was decoded ``packed``.
    """

    text: str
    span: tuple[int, int] | None
    vector: Sequence[float]
    input_tokens: int | None


@dataclass(frozen=True, slots=True)
class ChunkingResult:
    """
    The response to a poll of a chunking job.

    :param status: as the service sent it.
    :param chunks: of all batch items in order, wherever the response has a payload.
    :param items: how many of them each batch item has.
    :param other_job: the id in the response, if it is another one.
    """

    job_id: str
    state: JobState
    status: str
    message: str
    chunks: tuple[Chunk, ...] = ()
    items: tuple[int, ...] = ()
    other_job: str = ""


def read_result(body: Mapping[str, Any], job_id: str) -> ChunkingResult:
    """
    Read a decoded response to a GET, in either of the two documented shapes.

    :raises MalformedResponseError: chunks, spans and vectors do not fit together.
    """
    seen = state_of(body, CHUNKING, job_id)
    body = top_level(body, CHUNKING)
    chunks: list[Chunk] = []
    sizes: list[int] = []
    # Also with an undocumented status: a result is never dropped.
    if seen.has_payload and seen.state is not JobState.FAILED:
        items = body[CHUNKING.payload_field]
        if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
            raise _malformed(job_id, f"`{CHUNKING.payload_field}`, which is not a list of objects")
        # The older shape keeps the vectors of all items in one list beside the items.
        beside = body.get("vector", body.get("vectors"))
        remaining = list(beside) if isinstance(beside, list) else []
        for item in items:
            texts = _strings(item.get("chunks"), job_id)
            vectors = item.get("vectors")
            if not vectors or not isinstance(vectors, list):
                vectors, remaining = remaining[: len(texts)], remaining[len(texts) :]
            chunks.extend(_zip(texts, item.get("spans"), vectors, job_id))
            sizes.append(len(texts))
    return ChunkingResult(
        job_id, seen.state, seen.status, seen.message, tuple(chunks), tuple(sizes), seen.other_job
    )


def _zip(texts: list[str], spans: object, vectors: list[object], job_id: str) -> list[Chunk]:
    if not isinstance(spans, list) or len(spans) != len(texts):
        # Spans can be found again by searching; chunks and vectors cannot.
        spans = [None] * len(texts)
    if len(texts) != len(vectors):
        raise _malformed(job_id, f"{len(texts)} chunks and {len(vectors)} vectors")
    chunks = [
        Chunk(text, _span(span), *_vector(vector, job_id))
        for text, span, vector in zip(texts, spans, vectors, strict=True)
    ]
    if len({len(chunk.vector) for chunk in chunks}) > 1:
        raise _malformed(job_id, "vectors of different lengths")
    return chunks


def _strings(value: object, job_id: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise _malformed(job_id, "`chunks`, which is not a list of texts")
    return value


def _span(value: object) -> tuple[int, int] | None:
    if isinstance(value, list) and len(value) == 2:
        start, end = value
        if isinstance(start, int) and isinstance(end, int) and 0 <= start <= end:
            return start, end
    return None


def _vector(value: object, job_id: str) -> tuple[Sequence[float], int | None]:
    tokens: object = None
    if isinstance(value, dict):
        used = value.get("tokensUsed")
        tokens = used.get("inputTokens") if isinstance(used, dict) else None
        value = value.get("vector")
    numbers = value if isinstance(value, array) else _numbers(value, job_id)
    return numbers, int(tokens) if is_count(tokens) else None


def _numbers(value: object, job_id: str) -> list[float]:
    """A list of numbers. An array was validated when it was packed."""
    # A result has half a million numbers, so only C code iterates over them. A bool is not a number.
    if not isinstance(value, list) or not value or not set(map(type, value)) <= _NUMBERS:
        raise _malformed(job_id, "a vector that is not a list of numbers")
    try:
        # A value that is not finite makes the sum so; the sum of finite values may overflow.
        finite = math.isfinite(sum(value, 0.0)) or all(map(math.isfinite, value))
    except OverflowError:
        finite = False
    if not finite:
        raise _malformed(job_id, "a vector with a value that is not a finite number")
    return value


def _malformed(job_id: str, what: str) -> MalformedResponseError:
    return unusable_result(f"Chunking job {job_id}: the result holds {what}")


def submit_chunking(
    text: str,
    *,
    chunker: str,
    model_id: str,
    data_type: str | None = "passage",
    chunker_config: Mapping[str, Any] | None = None,
    model_config: Mapping[str, Any] | None = None,
) -> Call[str]:
    """
    Submit one text to be chunked and vectorised.

    Do not call it in a trigger: a restarted trigger would submit again.

    :param text: at most 990,000 bytes of UTF-8, with the escapes of JSON.
    :param chunker: ``dynamic-newline``, ``dynamic-sentence``, ``regex-splitter``, ``semantic`` or ``sentence``.
    :param model_id: an embedding model, or the deployment id of a custom one.
    :param data_type: ``passage`` for documents, ``query`` for search queries.
    :param chunker_config: the chunker's options.
    :param model_config: ``vectorQuantizationMethod``, ``dimReductionSize``.
    :return: the job's id. **Store it at once**: the service has no list of jobs.
    :raises InputError: refused before anything is sent.
    :raises UnknownResourceError: no such model; names near ones where the service lists them.
    :raises SubmissionUnknownError: sent, and no response came: a job may exist.
    """
    options = ChunkingOptions(chunker, model_id, data_type, chunker_config, model_config)
    check_text(text, "The text", max_bytes=MAX_TEXT_BYTES)
    return submit_text(options, text)


def submit_text(options: ChunkingOptions, text: str) -> Call[str]:
    """:func:`submit_chunking` with options and a text that are validated already."""

    def build(settings: LucidworksSettings) -> Request:
        body: dict[str, Any] = {"batch": [{"text": text}]}
        if options.data_type is not None:
            body["useCaseConfig"] = {"dataType": options.data_type}
        if options.model_config:
            body["modelConfig"] = dict(options.model_config)
        if options.chunker_config:
            body["chunkerConfig"] = dict(options.chunker_config)
        path = f"{CHUNKING.path}/{options.chunker}/{path_segment(options.model_id, 'model_id')}"
        return post(
            CHUNKING.submitting,
            settings.application_base + path,
            body,
            endpoint="submit_chunking",
            replayable=False,
        )

    return endpoint_with_hint(
        build,
        partial(read_submission, kind=CHUNKING),
        list_use_cases,
        lambda listed: nearest(listed, "embedding", options.model_id),
        # Others are about the text.
        (UnknownResourceError,),
    )


def get_chunking(job_id: str) -> Call[ChunkingResult]:
    """
    The state of a job and, once it is ready, its result.

    **The response that carries the result may be the only one**: store it before anything else.

    :param job_id: what :func:`submit_chunking` returned.
    :raises UnknownResourceError: no such job, or its result is no longer kept.
    :raises MalformedResponseError: no JSON object, or a result whose parts do not fit together.
    """

    def steps(settings: LucidworksSettings) -> Steps[ChunkingResult]:
        body = yield from poll_job(CHUNKING, job_id).steps(settings)
        # Not parsed by the exchange, whose retries would request a result that may be returned only once.
        return read_result(parse_object(body, f"Chunking job {job_id}"), job_id)

    return Call(steps)


_REPEATS = (ops.MAX_REPEAT, ops.MIN_REPEAT)


def is_exponential(pattern: str) -> bool:
    """
    Whether an unbounded repetition repeats nothing but repetitions.

    :raises re.error: invalid pattern.
    """
    return _nested(parser.parse(pattern))


def _nested(items: Iterable[tuple[Any, Any]]) -> bool:
    for op, value in items:
        if op in _REPEATS and value[1] is ops.MAXREPEAT and _is_loose(value[2]):
            return True
        if any(_nested(below) for below in _below(op, value)):
            return True
    return False


def _is_loose(items: Iterable[tuple[Any, Any]]) -> bool:
    """Whether the same text can be one turn of this or several: at most one item must be there, and that repeats."""
    needed = [item for item in items if not _may_be_empty(*item)]
    if len(needed) > 1:
        return False
    return all(_repeats(*item) for item in needed) and any(_repeats(*item) for item in items)


def _repeats(op: Any, value: Any) -> bool:
    if op in _REPEATS:
        return value[1] is ops.MAXREPEAT or _is_loose(value[2])
    if op is ops.SUBPATTERN:
        return _is_loose(value[-1])
    return op is ops.BRANCH and any(_is_loose(one) for one in value[1])


def _may_be_empty(op: Any, value: Any) -> bool:
    if op in _REPEATS:
        return value[0] == 0 or all(_may_be_empty(*item) for item in value[2])
    if op is ops.SUBPATTERN:
        return all(_may_be_empty(*item) for item in value[-1])
    if op is ops.BRANCH:
        return any(all(_may_be_empty(*item) for item in one) for one in value[1])
    return False


def _below(op: Any, value: Any) -> Iterator[Any]:
    """The patterns within an item. Possessive repetitions and atomic groups never try a second way."""
    if op in _REPEATS:
        yield value[2]
    elif op is ops.SUBPATTERN:
        yield value[-1]
    elif op is ops.BRANCH:
        yield from value[1]
    elif op in (ops.ASSERT, ops.ASSERT_NOT):
        yield value[1]
    elif op is ops.GROUPREF_EXISTS:
        yield from (one for one in value[1:] if one is not None)
