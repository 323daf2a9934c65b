# SPDX-License-Identifier: Apache-2.0
"""
A right answer with one thing changed: what is written without a word are the rows of the right answer.

``FUZZ_CHECKS`` answers in each of the batches, of which test processes take one each (``make fuzz``: a million in
all); 50,000 in all by default. A failure names its batch and answer, which come again.
"""

import copy
import json
import os
import random
from collections.abc import Callable
from typing import Any

import pytest

from lucidworks_provider.client import use_cases
from lucidworks_provider.client.chunking import ChunkingOptions, read_result
from lucidworks_provider.client.http.messages import Response, parse_object
from lucidworks_provider.client.jobs import CHUNKING, JobState, parse_poll
from lucidworks_provider.client.predictions import read_response
from lucidworks_provider.client.validation import check_chunks, check_vectors
from lucidworks_provider.errors import LucidworksError

BATCHES = 20
EXAMPLES = int(os.environ.get("FUZZ_CHECKS", "2500"))
JOB = "29fa64f4-a3a0-43ec-bc11-e8489d7e0332"
WORDS = [
    "apple",
    "banana",
    "cherry",
    "elder",
    "fig",
    "grape",
    "hazel",
    "iris",
    "kiwi",
    "maple",
    "nettle",
    "pear",
]
CHUNKS = ChunkingOptions("sentence", "m", model_config={"dimReductionSize": 4})
EMBEDDING = use_cases.embedding("m", dimensions=4)
DELETED, TWICE = object(), object()
STRANGE = [
    *(DELETED, TWICE, None, [], {}, "", " ", 0, -1, 7, 0.5, True, "x"),
    *("FAILED", "Of pancakes.", "b" * 5000),
]


def vector(rng: random.Random) -> list[float]:
    return [rng.uniform(-0.99, 0.99) for _ in range(4)]


def chunking(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A text of sentences that all differ, and the right answer."""
    words = [rng.choices(WORDS, k=rng.randint(3, 6)) for _ in range(rng.randint(1, 5))]
    chunks = [f"{' '.join(some)} {n}{n}.".capitalize() for n, some in enumerate(words)]
    spans, at = [], 0
    for chunk in chunks:
        spans.append([at, at + len(chunk)])
        at += len(chunk) + 1
    vectors = [{"tokensUsed": {"inputTokens": 5}, "vector": vector(rng)} for _ in chunks]
    item = {"chunks": chunks, "spans": spans, "vectors": vectors}
    return " ".join(chunks), {"chunkingId": JOB, "status": "READY", "chunkedData": [item]}


def chunk_rows(text: str, body: bytes) -> list[Any] | None:
    """What a task writes without a word; None where it writes nothing, or warns."""
    seen = parse_poll(body, CHUNKING, JOB)
    if seen.state is not JobState.RESULT or seen.other_job:
        return None
    try:
        result = read_result(parse_object(body, "Job"), JOB)
        checked = check_chunks(text, CHUNKS, result)
    except LucidworksError:
        return None
    if checked.gap is not None or checked.warnings:
        return None
    return [(c.text, span, list(c.vector)) for c, span in zip(result.chunks, checked.spans, strict=True)]


def embedding(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """The number of inputs, and the right answer."""
    count = rng.randint(1, 4)
    sent = [{"tokensUsed": {"inputTokens": 5}, "vector": vector(rng)} for _ in range(count)]
    return str(count), {"predictions": sent}


def embedding_rows(count: str, body: bytes) -> list[Any] | None:
    """As :func:`chunk_rows`."""
    try:
        read = read_response(Response(200, {}, body), EMBEDDING, int(count))
        if any(one.error for one in read) or check_vectors([one.vector for one in read], None, 4, "It"):
            return None
    except LucidworksError:
        return None
    return [list(one.vector) for one in read]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, but its root and the numbers of vectors, which are all alike."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    if path[-1:] == ("vector",):
        return []
    return [one for key, below in inner for one in ((*path, key), *places(below, (*path, key)))]


def changed(body: dict[str, Any], path: tuple[Any, ...], new: Any) -> dict[str, Any]:
    """A copy with another value at one place."""
    whole = copy.deepcopy(body)
    *way, last = path
    inner: Any = whole
    for key in way:
        inner = inner[key]
    if new is DELETED:
        del inner[last]
    elif new is TWICE and isinstance(inner, list):
        inner.insert(last, copy.deepcopy(inner[last]))
    elif new is TWICE:
        inner[last] = [inner[last], inner[last]]
    else:
        inner[last] = new
    return whole


@pytest.mark.parametrize(
    ("make", "rows"), [(chunking, chunk_rows), (embedding, embedding_rows)], ids=["chunks", "embeddings"]
)
@pytest.mark.parametrize("batch", range(BATCHES // 2))
def test_one_thing_changed_is_no_other_row(
    make: Callable[[random.Random], tuple[str, dict[str, Any]]],
    rows: Callable[[str, bytes], list[Any] | None],
    batch: int,
) -> None:
    rng = random.Random(batch)
    for number in range(EXAMPLES):
        asked, right = make(rng)
        good = rows(asked, json.dumps(right).encode())
        assert good is not None
        path, new = rng.choice(places(right)), rng.choice(STRANGE)
        wrong = changed(right, path, new)
        written = rows(asked, json.dumps(wrong).encode())
        assert written in (None, good), (batch, number, path, new, asked, wrong)
