# SPDX-License-Identifier: Apache-2.0
"""The body of a chunking submission, checked field by field (sections 3.1, 3.3, 3.4, 7.1, 7.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lucidworks_provider.emulator.checks import Fields, InvalidRequest, batch_of, load_json
from lucidworks_provider.emulator.chunkers import (
    Chunker,
    ChunkerName,
    DynamicNewline,
    DynamicSentence,
    RegexSplitter,
    Semantic,
    SentenceCount,
)
from lucidworks_provider.emulator.vector_options import VectorOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

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
    """Check a body and return what it asks for."""
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
