# SPDX-License-Identifier: Apache-2.0
"""``/ai/async-chunking``: requests, results in both published shapes, submit and fetch (section 7)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from lucidworks_provider.emulator.calls import Call
from lucidworks_provider.emulator.checks import ApiError, Fields, InvalidRequest, batch_of, load_json
from lucidworks_provider.emulator.chunkers import (
    Chunker,
    ChunkerName,
    DynamicNewline,
    DynamicSentence,
    RegexSplitter,
    Semantic,
    SentenceCount,
)
from lucidworks_provider.emulator.jobs import JobFailure, JobKind, JobResult, accept, poll
from lucidworks_provider.emulator.models import max_chunks
from lucidworks_provider.emulator.settings import ChunkOverflow, Oversize
from lucidworks_provider.emulator.vectors import VectorOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from concurrent.futures import Future

    from starlette.responses import Response

    from lucidworks_provider.emulator.models import EmbeddingModel


_FIELDS = ("batch", "modelConfig", "useCaseConfig", "chunkerConfig")


@dataclass(frozen=True)
class ChunkingRequest:
    """A valid submission."""

    texts: tuple[str, ...]
    chunker: Chunker
    vectors: VectorOptions


@dataclass(frozen=True)
class _ChunkerSpec:
    """The fields of one chunker's ``chunkerConfig`` and what they make."""

    fields: tuple[str, ...]
    make: Callable[[Fields], Chunker]


def parse_chunking(
    body: bytes, chunker: ChunkerName, model: EmbeddingModel, *, ignore_unknown: bool = False
) -> ChunkingRequest:
    """Check a body and return the request in it."""
    payload = Fields.of("body", load_json(body), _FIELDS, ignore_unknown=ignore_unknown)
    spec = _CHUNKERS[chunker]
    return ChunkingRequest(
        texts=tuple(item.required_text("text") for item in batch_of(payload, ignore_unknown=ignore_unknown)),
        chunker=spec.make(payload.object("chunkerConfig", spec.fields, ignore_unknown=ignore_unknown)),
        vectors=VectorOptions.of(payload, model, ignore_unknown=ignore_unknown),
    )


def _dynamic_newline(config: Fields) -> Chunker:
    return DynamicNewline(_max_chunk_size(config))


def _dynamic_sentence(config: Fields) -> Chunker:
    return DynamicSentence(_max_chunk_size(config), _overlap_size(config))


def _sentence(config: Fields) -> Chunker:
    size = config.integer("chunkSize", 5, minimum=1)
    overlap = _overlap_size(config)
    if overlap >= size:  # [A]: such chunks would never advance
        raise InvalidRequest("chunkerConfig.overlapSize: less than chunkSize is required.")
    return SentenceCount(size, overlap)


def _regex_splitter(config: Fields) -> Chunker:
    pattern = config.text("regex") or "\n"
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        raise InvalidRequest("chunkerConfig.regex: not a valid regular expression.") from None
    return RegexSplitter(pattern)


def _semantic(config: Fields) -> Chunker:
    return Semantic(
        _max_chunk_size(config),
        _overlap_size(config),
        config.number("cosineThreshold", Semantic.cosine_threshold, minimum=-1, maximum=1),
        config.boolean("approximate", False),
    )


def _max_chunk_size(config: Fields) -> int:
    return config.integer("maxChunkSize", 512, minimum=1)


def _overlap_size(config: Fields) -> int:
    return config.integer("overlapSize", 0, minimum=0)


_CHUNKERS: Mapping[ChunkerName, _ChunkerSpec] = {
    ChunkerName.DYNAMIC_NEWLINE: _ChunkerSpec(("maxChunkSize",), _dynamic_newline),
    ChunkerName.DYNAMIC_SENTENCE: _ChunkerSpec(("maxChunkSize", "overlapSize"), _dynamic_sentence),
    ChunkerName.REGEX_SPLITTER: _ChunkerSpec(("regex",), _regex_splitter),
    ChunkerName.SEMANTIC: _ChunkerSpec(
        ("maxChunkSize", "overlapSize", "cosineThreshold", "approximate"), _semantic
    ),
    ChunkerName.SENTENCE: _ChunkerSpec(("chunkSize", "overlapSize"), _sentence),
}

_LARGEST_OUTPUT = 64_000_000


@dataclass(frozen=True)
class ChunkedItem:
    """One element of ``chunkedData``, as pieces of JSON."""

    chunks: str
    spans: str
    vectors: tuple[str, ...]


@dataclass(frozen=True)
class ChunkingResult:
    """All items of one job."""

    items: tuple[ChunkedItem, ...]

    def to_json(self, job_id: str, status: str, *, legacy: bool) -> bytes:
        """Write the newest shape or, as one older example has it, the vectors beside ``chunkedData``."""
        head = f'{{"chunkingId":"{job_id}","status":"{status}","chunkedData":['
        if legacy:
            data = ",".join(f'{{"chunks":{item.chunks}}}' for item in self.items)
            vectors = ",".join(vector for item in self.items for vector in item.vectors)
            return f'{head}{data}],"vector":[{vectors}]}}'.encode()
        data = ",".join(
            f'{{"chunks":{item.chunks},"spans":{item.spans},"vectors":[{",".join(item.vectors)}]}}'
            for item in self.items
        )
        return f"{head}{data}]}}".encode()


def compute(request: ChunkingRequest, *, overflow_is_error: bool) -> ChunkingResult:
    """
    Chunk and embed every text of a request, up to the number of chunks of section 7.5 in total.

    Slow, so it runs in a worker thread. Each vector becomes JSON on its own: one call over a whole result would hold
    the GIL for a second and block the event loop.
    """
    vectors = request.vectors
    room = max_chunks(vectors.dimension, quantized=vectors.quantization is not None)
    items: list[ChunkedItem] = []
    characters = 0
    for text in request.texts:
        spans = list(islice(request.chunker.spans(text), room + 1))
        if len(spans) > room:
            if overflow_is_error:
                raise JobFailure("The text gives more chunks than one request may return.")
            spans = spans[:room]
        room -= len(spans)
        characters += sum(end - start for start, end in spans)
        if characters > _LARGEST_OUTPUT:  # a huge overlap repeats the text in each chunk
            raise JobFailure("The chunks are too large to be returned.")
        items.append(
            ChunkedItem(
                chunks=_dump([text[start:end] for start, end in spans]),
                spans=_dump(spans),
                vectors=tuple(vectors.to_json(text[start:end]) for start, end in spans),
            )
        )
    return ChunkingResult(tuple(items))


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


async def submit(call: Call) -> Response:
    """Accept a text."""
    chunker, model = _path(call)
    body = await call.json_body()
    request = parse_chunking(body, chunker, model, ignore_unknown=call.ignore_unknown)
    call.note_texts(request.texts)
    # The UTF-8 size of all texts is what the limit of about 1 MB is read to mean [A].
    if (call.record.text_bytes or 0) <= call.settings.max_text_bytes:
        return accept(call, JobKind.CHUNKING, _start(call, request))
    too_large = f"The text of the request is larger than {call.settings.max_text_bytes} bytes."
    if call.settings.oversize is not Oversize.ERROR_JOB:
        raise ApiError(int(call.settings.oversize.value), too_large)
    return accept(call, JobKind.CHUNKING, None, error=too_large)


async def fetch(call: Call) -> Response:
    """Return the state of a job and, once, its results."""
    return await poll(call, JobKind.CHUNKING, call.request.path_params["chunking_id"])


def _path(call: Call) -> tuple[ChunkerName, EmbeddingModel]:
    chunker, model_id = call.request.path_params["chunker"], call.request.path_params["model_id"]
    call.record.chunker, call.record.model = chunker, model_id
    try:
        name = ChunkerName(call.segment(chunker))
    except ValueError:
        raise ApiError(404, "There is no such chunker.") from None
    return name, call.embedding_model(model_id)


def _start(call: Call, request: ChunkingRequest) -> Future[JobResult]:
    overflow_is_error = call.settings.chunk_overflow is ChunkOverflow.ERROR
    return call.state.workers.submit(compute, request, overflow_is_error=overflow_is_error)
