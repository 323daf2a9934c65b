# SPDX-License-Identifier: Apache-2.0
"""
Deterministic stand-ins for embedding vectors, from the standard library alone.

Signed feature hashing: each word adds to a few positions, chosen by a hash of model and word, so that texts
which share words point in similar directions. Like real sentence encoders, all vectors of a model share one
common direction: unrelated texts have a cosine near 0.5, not 0, so the vendor's example ``cosineThreshold``
of 0.567 is meaningful here too. ``dataType`` turns that common direction a little, no more, so a query and
its passage stay close (section 3.4). Quantization follows section 3.3.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from collections import Counter
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from operator import mul
from typing import TYPE_CHECKING, Any, Final

from lucidworks_provider.emulator.models import MODEL_CONTEXT_TOKENS
from lucidworks_provider.emulator.rules import Default, Rule, integer, member_of
from lucidworks_provider.emulator.sentences import COMMON_WORDS, words_within

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lucidworks_provider.emulator.models import EmbeddingModel

COMMON_SHARE: Final = 0.5
"""The cosine of two texts without a common word."""

_DATA_TYPE_TURN = 0.1
_POSITIONS_PER_WORD = 8
_DIGITS = 7
_REMEMBERED = 50_000


class Quantization(Enum):
    """The values of ``vectorQuantizationMethod``."""

    MIN_MAX = "min-max"
    MAX_SCALE = "max-scale"


class DataType(Enum):
    """The values of ``useCaseConfig.dataType``."""

    QUERY = "query"
    PASSAGE = "passage"


@lru_cache(maxsize=50_000)
def term_weight(word: str, count: int) -> float:
    """Weigh a word: logarithmic frequency, little for short and common words."""
    rarity = 0.15 if word in COMMON_WORDS else 0.4 if len(word) <= 2 else 1.0
    return rarity * (1.0 + math.log(count))


def embed(
    text: str, *, model_id: str, dimension: int, data_type: DataType | None = None
) -> tuple[list[float], int]:
    """Return the normalized vector of a text and its number of input tokens."""
    found, tokens = words_within(text, MODEL_CONTEXT_TOKENS)
    sums = [0.0] * dimension
    places = _places(model_id, dimension)
    for word, count in Counter(found).items():
        plus, minus, weight = places[word]
        if count > 1:
            weight = term_weight(word, count)
        for position in plus:
            sums[position] += weight
        for position in minus:
            sums[position] -= weight
    common = _common_direction(model_id, dimension, data_type)
    along = math.fsum(map(mul, sums, common))
    across = math.fsum(map(mul, sums, sums)) - along * along
    if across <= 1e-12:  # no words, or a single dimension: only the common direction is left
        return list(common), tokens
    own = math.sqrt((1.0 - COMMON_SHARE) / across)
    shared = math.sqrt(COMMON_SHARE) - own * along
    return [shared * b + own * a for a, b in zip(sums, common, strict=True)], tokens


def written(vector: Sequence[float]) -> str:
    """Write as JSON, rounded: float32 has no more digits. All in one go, which is five times as fast as each."""
    return f"[{_format(len(vector)) % tuple(vector)}]"


def quantize(vector: Sequence[float], method: Quantization) -> list[int]:
    """Turn floats into bytes: ``min-max`` unsigned 0..255, ``max-scale`` signed -127..127."""
    if method is Quantization.MIN_MAX:
        low, high = min(vector), max(vector)
        scale = 255.0 / (high - low) if high > low else 0.0
        return [round((value - low) * scale) for value in vector]
    largest = max(abs(value) for value in vector)
    scale = 127.0 / largest if largest > 0 else 0.0
    return [round(value * scale) for value in vector]


@lru_cache(maxsize=64)
def _format(count: int) -> str:
    return ",".join([f"%.{_DIGITS}f"] * count)


class _Places(dict[str, tuple[tuple[int, ...], tuple[int, ...], float]]):
    """The positions where a word adds its weight, and where it subtracts it, and the weight of one occurrence."""

    def __init__(self, model_id: str, dimension: int) -> None:
        super().__init__()
        self._key = _key(model_id)
        self._dimension = dimension

    def __missing__(self, word: str) -> tuple[tuple[int, ...], tuple[int, ...], float]:
        encoded = word.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(encoded, digest_size=33, key=self._key).digest()
        sides: tuple[list[int], list[int]] = [], []
        for bit, number in enumerate(struct.unpack_from(f"<{_POSITIONS_PER_WORD}I", digest)):
            sides[0 if digest[32] >> bit & 1 else 1].append(number % self._dimension)
        place = tuple(sides[0]), tuple(sides[1]), term_weight(word, 1)
        if len(self) < _REMEMBERED:
            self[word] = place
        return place


@lru_cache(maxsize=8)
def _places(model_id: str, dimension: int) -> _Places:
    return _Places(model_id, dimension)


@lru_cache(maxsize=64)
def _common_direction(model_id: str, dimension: int, data_type: DataType | None) -> tuple[float, ...]:
    base = _direction(model_id, dimension, "common")
    if data_type is not None:
        turn = _direction(model_id, dimension, data_type.value)
        base = [a + _DATA_TYPE_TURN * b for a, b in zip(base, turn, strict=True)]
    length = math.sqrt(math.fsum(value * value for value in base))
    return tuple(value / length for value in base)


def _direction(model_id: str, dimension: int, name: str) -> list[float]:
    """Return a fixed pseudo-random unit vector."""
    values: list[float] = []
    for block in range(0, dimension, 16):
        digest = hashlib.blake2b(f"{name}/{block}".encode(), digest_size=64, key=_key(model_id)).digest()
        values += [number / 2**31 - 1.0 for number in struct.unpack("<16I", digest)]
    values = values[:dimension]
    length = math.sqrt(math.fsum(value * value for value in values)) or 1.0
    return [value / length for value in values]


@lru_cache(maxsize=64)
def _key(model_id: str) -> bytes:
    return hashlib.blake2b(model_id.encode(), digest_size=32).digest()


@dataclass(frozen=True)
class VectorOptions:
    """The model and the form of the vectors of one request."""

    model: EmbeddingModel
    dimension: int
    quantization: Quantization | None = None
    data_type: DataType | None = None

    @staticmethod
    def rules(model: EmbeddingModel) -> dict[str, Rule | Default]:
        """Return the rules of both objects; a size above the model's is refused [A]."""
        size = Default(integer(1, model.size), model.size)
        config: dict[str, Rule | Default] = {
            "vectorQuantizationMethod": member_of(Quantization),
            "dimReductionSize": size,
        }
        return {
            "modelConfig": Default(config, {}),
            "useCaseConfig": Default({"dataType": member_of(DataType)}, {}),
        }

    @classmethod
    def of(cls, body: Mapping[str, Any], model: EmbeddingModel) -> VectorOptions:
        config = body["modelConfig"]
        return cls(
            model,
            dimension=config["dimReductionSize"],
            quantization=config.get("vectorQuantizationMethod"),
            data_type=body["useCaseConfig"].get("dataType"),
        )

    def to_json(self, text: str, field: str = "vector") -> str:
        """Embed a text and write the element that chunks and predictions have in common."""
        floats, tokens = embed(
            text, model_id=self.model.model_id, dimension=self.dimension, data_type=self.data_type
        )
        method = self.quantization
        values = written(floats) if method is None else str(quantize(floats, method)).replace(" ", "")
        return f'{{"tokensUsed":{{"inputTokens":{tokens}}},{json.dumps(field)}:{values}}}'
