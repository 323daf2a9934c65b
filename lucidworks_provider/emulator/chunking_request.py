# SPDX-License-Identifier: Apache-2.0
"""
The body of a chunking submission, checked field by field (sections 3.1, 3.3, 3.4, 7.1, 7.2).

The vendor documents no answer to a wrong field. The emulator refuses everything it does not know [A], since a
misspelt option that is silently ignored is the error a test should find.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from lucidworks_provider.emulator.chunkers import (
    Chunker,
    ChunkerName,
    DynamicNewline,
    DynamicSentence,
    RegexSplitter,
    Semantic,
    SentenceCount,
)
from lucidworks_provider.emulator.vectors import DataType, Quantization

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from lucidworks_provider.emulator.models import EmbeddingModel


class InvalidRequest(ValueError):
    """A field the API would not accept; the message names it."""


@dataclass(frozen=True)
class ChunkingRequest:
    """A valid submission."""

    texts: tuple[str, ...]
    chunker: Chunker
    model: EmbeddingModel
    dimension: int
    quantization: Quantization | None
    data_type: DataType | None

    @property
    def text_bytes(self) -> int:
        """Return the UTF-8 size of all texts, which the limit of about 1 MB is read to mean [A]."""
        return sum(len(text.encode()) for text in self.texts)


def parse_chunking(body: bytes, chunker: ChunkerName, model: EmbeddingModel) -> ChunkingRequest:
    """Check a body and return what it asks for."""
    payload = _object("body", load_json(body), {"batch", "modelConfig", "useCaseConfig", "chunkerConfig"})
    model_config = _object(
        "modelConfig", payload.get("modelConfig", {}), {"vectorQuantizationMethod", "dimReductionSize"}
    )
    use_case = _object("useCaseConfig", payload.get("useCaseConfig", {}), {"dataType"})
    method = model_config.get("vectorQuantizationMethod")
    data_type = use_case.get("dataType")
    return ChunkingRequest(
        texts=_texts(payload),
        chunker=_CHUNKERS[chunker](payload.get("chunkerConfig", {})),
        model=model,
        dimension=_integer(
            "modelConfig.dimReductionSize",
            model_config.get("dimReductionSize", model.size),
            minimum=1,
            maximum=model.size,
        ),
        quantization=None
        if "vectorQuantizationMethod" not in model_config
        else Quantization(_choice("modelConfig.vectorQuantizationMethod", method, Quantization)),
        data_type=None
        if "dataType" not in use_case
        else DataType(_choice("useCaseConfig.dataType", data_type, DataType)),
    )


def load_json(body: bytes) -> Any:
    """Parse strict JSON: UTF-8, no NaN."""
    try:
        return json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise InvalidRequest("The body is not JSON in UTF-8.") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)


def _texts(payload: Mapping[str, Any]) -> tuple[str, ...]:
    batch = payload.get("batch")
    if not isinstance(batch, list) or not batch:
        raise InvalidRequest("batch: a non-empty list of objects with a text is required.")
    texts: list[str] = []
    for index, item in enumerate(batch):
        text = _object(f"batch[{index}]", item, {"text"}).get("text")
        if not isinstance(text, str) or not text:
            raise InvalidRequest(f"batch[{index}].text: a non-empty string is required.")
        if not _encodable(text):
            raise InvalidRequest(f"batch[{index}].text: half of a surrogate pair is no text.")
        texts.append(text)
    return tuple(texts)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object(name: str, value: object, allowed: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name}: an object is required.")
    unknown = sorted(set(value) - allowed)
    if unknown:
        raise InvalidRequest(f"{name}: unknown field {unknown[0]!r}; allowed: {', '.join(sorted(allowed))}.")
    return value


def _integer(name: str, value: object, *, minimum: int, maximum: int | None = None) -> int:
    # bool is a subclass of int in Python, but not an integer in JSON.
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidRequest(f"{name}: an integer is required.")
    if value < minimum or (maximum is not None and value > maximum):
        limits = f"at least {minimum}" if maximum is None else f"{minimum} to {maximum}"
        raise InvalidRequest(f"{name}: {limits} is required.")
    return value


def _choice(name: str, value: object, choices: type[Quantization] | type[DataType]) -> str:
    allowed = [one.value for one in choices]
    if not isinstance(value, str) or value not in allowed:
        raise InvalidRequest(f"{name}: one of {', '.join(allowed)} is required.")
    return value


def _dynamic_newline(value: object) -> Chunker:
    config = _object("chunkerConfig", value, {"maxChunkSize"})
    return DynamicNewline(_max_chunk_size(config))


def _dynamic_sentence(value: object) -> Chunker:
    config = _object("chunkerConfig", value, {"maxChunkSize", "overlapSize"})
    return DynamicSentence(_max_chunk_size(config), _overlap_size(config))


def _sentence(value: object) -> Chunker:
    config = _object("chunkerConfig", value, {"chunkSize", "overlapSize"})
    size = _integer("chunkerConfig.chunkSize", config.get("chunkSize", 5), minimum=1)
    overlap = _overlap_size(config)
    if overlap >= size:  # [A]: such chunks would never advance
        raise InvalidRequest("chunkerConfig.overlapSize: less than chunkSize is required.")
    return SentenceCount(size, overlap)


def _regex_splitter(value: object) -> Chunker:
    config = _object("chunkerConfig", value, {"regex"})
    pattern = config.get("regex", "\n")
    if not isinstance(pattern, str) or not pattern:
        raise InvalidRequest("chunkerConfig.regex: a non-empty string is required.")
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        raise InvalidRequest("chunkerConfig.regex: not a valid regular expression.") from None
    return RegexSplitter(pattern)


def _semantic(value: object) -> Chunker:
    config = _object(
        "chunkerConfig", value, {"maxChunkSize", "overlapSize", "cosineThreshold", "approximate"}
    )
    threshold = config.get("cosineThreshold", Semantic.cosine_threshold)
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not -1 <= threshold <= 1:
        raise InvalidRequest("chunkerConfig.cosineThreshold: a number from -1 to 1 is required.")
    approximate = config.get("approximate", False)
    if not isinstance(approximate, bool):
        raise InvalidRequest("chunkerConfig.approximate: true or false is required.")
    return Semantic(_max_chunk_size(config), _overlap_size(config), float(threshold), approximate)


def _max_chunk_size(config: Mapping[str, Any]) -> int:
    return _integer("chunkerConfig.maxChunkSize", config.get("maxChunkSize", 512), minimum=1)


def _overlap_size(config: Mapping[str, Any]) -> int:
    return _integer("chunkerConfig.overlapSize", config.get("overlapSize", 0), minimum=0)


_CHUNKERS: Mapping[ChunkerName, Callable[[object], Chunker]] = {
    ChunkerName.DYNAMIC_NEWLINE: _dynamic_newline,
    ChunkerName.DYNAMIC_SENTENCE: _dynamic_sentence,
    ChunkerName.REGEX_SPLITTER: _regex_splitter,
    ChunkerName.SEMANTIC: _semantic,
    ChunkerName.SENTENCE: _sentence,
}
