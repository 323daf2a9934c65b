# SPDX-License-Identifier: Apache-2.0
"""
The models the emulator knows (section 12), and how many chunks one response may hold.

Sizes are documented per class (small 384, base 768, large 1024); the ids are those seen verbatim in vendor
pages.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

EMBEDDING_MODELS: Final = MappingProxyType(
    {
        "gte-small": 384,
        "e5-small-v2": 384,
        "multilingual-e5-base": 768,
        "e5-base-v2": 768,
        "bge-large": 1024,
    }
)

HOSTED_GENERATIVE: Final = ("llama-3-8b-instruct", "llama-3v2-3b-instruct", "mistral-7b-instruct")

NER_ONLY: Final = ("nu-zero-ner",)

OPENAI: Final = (
    "gpt-4",
    "gpt-4o",
    "gpt-4o-2024-05-13",
    "gpt-4-0613",
    "gpt-4-turbo",
    "gpt-4-turbo-2024-04-09",
    "gpt-4-turbo-preview",
    "gpt-4-1106-preview",
    "gpt-3.5-turbo",
    "gpt-3.5-turbo-1106",
    "gpt-3.5-turbo-0125",
)
"""Third-party models; every request to them carries a key (section 12.3)."""

PRE_TRAINED: Final = ("multilinguallm", "text-encoder", "clip-encoder")
"""Older identifiers, which only the Models API names (section 10.3)."""

CUSTOM_MODEL_SIZE: Final = 384
"""Vector size of a registered custom deployment [A]."""

MODEL_CONTEXT_TOKENS: Final = 512
"""The chunking prose works with 512 tokens; a longer chunk is embedded from its beginning [A]."""

# Section 7.5: (dimension, maximum when quantized, maximum for floats). Documented up to 256 and for 384
# quantized; the other values are extrapolated [A].
_CHUNK_TABLE: Final = (
    (32, 40000, 11000),
    (64, 22500, 5800),
    (128, 12000, 3000),
    (256, 6500, 1500),
    (384, 4500, 1000),
    (512, 3300, 750),
    (768, 2250, 500),
    (1024, 1700, 375),
)


@dataclass(frozen=True)
class EmbeddingModel:
    """A model id and the length of its full vectors."""

    model_id: str
    size: int


def find_model(model_id: str, deployments: Collection[str], *, strict: bool) -> EmbeddingModel | None:
    """Find an embedding model or a registered deployment; ``_`` equals ``-`` unless strict [A]."""
    name = model_id if strict else model_id.replace("_", "-")
    if name in EMBEDDING_MODELS:
        return EmbeddingModel(name, EMBEDDING_MODELS[name])
    if re.fullmatch(r"[0-9a-fA-F-]{36}", name) and name.lower() in deployments:
        return EmbeddingModel(name.lower(), CUSTOM_MODEL_SIZE)
    return None


def max_chunks(dimension: int, *, quantized: bool) -> int:
    """Return the maximum number of chunks of one response; between two rows the larger dimension counts [A]."""
    for size, with_bytes, with_floats in _CHUNK_TABLE:
        if dimension <= size:
            return with_bytes if quantized else with_floats
    last, with_bytes, with_floats = _CHUNK_TABLE[-1]
    return max(1, (with_bytes if quantized else with_floats) * last // dimension)
