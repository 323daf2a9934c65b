# SPDX-License-Identifier: Apache-2.0
"""The vectors: deterministic, of length one, closer for texts with common words, and quantized in range."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucidworks_provider.emulator.models import find_model, max_chunks
from lucidworks_provider.emulator.sentences import tokens, truncate_tokens, words, words_within
from lucidworks_provider.emulator.vectors import DataType, Quantization, embed, quantize, written

UUID = "5e893b16-01f8-427c-9ca8-ba52b01b1ba3"


def vector(
    text: str, data_type: DataType | None = None, model: str = "gte-small", size: int = 384
) -> list[float]:
    return embed(text, model_id=model, dimension=size, data_type=data_type)[0]


def cosine(left: list[float], right: list[float]) -> float:
    return sum(a * b for a, b in zip(left, right, strict=True))


@given(st.text(max_size=200), st.sampled_from([1, 2, 17, 384]), st.sampled_from([None, *DataType]))
def test_length_one_and_deterministic(text: str, size: int, data_type: DataType | None) -> None:
    first = vector(text, data_type, size=size)
    assert len(first) == size
    assert math.isclose(math.hypot(*json.loads(written(first))), 1.0, abs_tol=1e-5)
    assert first == vector(text, data_type, size=size)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=20))
def test_what_is_written_is_rounded(values: list[float]) -> None:
    assert json.loads(written(values)) == [round(value, 7) for value in values]


@given(st.text(alphabet="ab. 世\u0301", max_size=60), st.integers(1, 6))
def test_a_text_is_cut_after_its_tokens(text: str, limit: int) -> None:
    cut, count = truncate_tokens(text, limit)
    assert tokens(cut) == tokens(text)[:limit]
    assert count == len(tokens(cut))
    assert text.startswith(cut)


@given(st.text(alphabet="ab. 世\u0301İßΣ_", max_size=60) | st.text(max_size=20), st.integers(1, 6))
def test_the_words_of_a_cut_text(text: str, limit: int) -> None:
    cut, count = truncate_tokens(text, limit)
    assert words_within(text, limit) == (words(cut), count)


def test_model_and_data_type_count() -> None:
    assert vector("spider") != vector("spider", model="e5-small-v2")
    query, passage = vector("spider", DataType.QUERY), vector("spider", DataType.PASSAGE)
    assert query != passage
    assert cosine(query, passage) > 0.98


def test_nearest_neighbour_shares_words() -> None:
    passages = [
        "The itsy bitsy spider climbed up the waterspout.",
        "Interest rates rose again in the third quarter of the year.",
        "Bake the bread for forty minutes in a hot oven.",
        "The goalkeeper saved a penalty in the last minute of the match.",
    ]
    for expected, query in enumerate(
        ("spider in the waterspout", "when did interest rates rise", "hot bread")
    ):
        near = [cosine(vector(query, DataType.QUERY), vector(p, DataType.PASSAGE)) for p in passages]
        assert near.index(max(near)) == expected
        assert max(near) > 0.6 > sorted(near)[-2] - 0.02


@given(st.text(max_size=100), st.sampled_from([1, 32, 384]))
def test_quantized_ranges(text: str, size: int) -> None:
    floats = vector(text, size=size)
    unsigned, signed = quantize(floats, Quantization.MIN_MAX), quantize(floats, Quantization.MAX_SCALE)
    assert all(0 <= value <= 255 for value in unsigned)
    assert all(-127 <= value <= 127 for value in signed)
    assert max(abs(value) for value in signed) == 127
    if size > 1:
        assert (min(unsigned), max(unsigned)) == (0, 255)


def test_tokens_stop_at_the_context_of_the_model() -> None:
    assert embed("One, two.", model_id="gte-small", dimension=8)[1] == 4
    assert embed("word " * 600, model_id="gte-small", dimension=8)[1] == 512
    assert vector("word " * 512 + "tail") == vector("word " * 512)


@pytest.mark.parametrize(
    ("dimension", "quantized", "expected"),
    [
        *((32, True, 40000), (64, False, 5800), (100, True, 12000)),
        *((256, False, 1500), (384, True, 4500), (2048, False, 187)),
    ],
)
def test_chunk_table(dimension: int, quantized: bool, expected: int) -> None:
    assert max_chunks(dimension, quantized=quantized) == expected


@pytest.mark.parametrize(
    ("model_id", "strict", "size"),
    [
        ("gte-small", True, 384),
        ("e5_small_v2", False, 384),
        ("e5_small_v2", True, None),
        ("bge-large", True, 1024),
        ("multilingual-e5-base", True, 768),
        ("gpt-4", False, None),
        (UUID.upper(), True, 384),
        (UUID[:-1] + "4", True, None),
    ],
)
def test_models(model_id: str, strict: bool, size: int | None) -> None:
    model = find_model(model_id, (UUID,), strict=strict)
    assert (model and model.size) == size
