# SPDX-License-Identifier: Apache-2.0
"""
CPU of the checks of a chunking result, beside the rest of what a result costs: decoding, locating, packing.

Both ways take turns in one process, and the fastest of many rounds counts, since the machine may be busy.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

from lucidworks_provider.client.chunking import ChunkingOptions, read_result
from lucidworks_provider.client.http.messages import parse_object
from lucidworks_provider.client.validation import check_chunks, locate
from lucidworks_provider.jobs.columns import ChunkColumns

OPTIONS = ChunkingOptions("sentence", "gte-small")
DIMENSION, SECONDS = 384, 3.0


def main() -> None:
    """Print a table."""
    print(
        "| chunks of a document | without the checks, ms | with, ms | the checks, µs |\n| --- | --- | --- | --- |"
    )
    for count in (2, 8, 60, 1000):
        text, body = _result(count)

        without, with_checks = _fastest(
            lambda text=text, body=body: _write(text, body, checked=False),  # type: ignore[misc]
            lambda text=text, body=body: _write(text, body, checked=True),  # type: ignore[misc]
        )
        result = read_result(parse_object(body, "Job", packed=True), "j")
        alone, place = _fastest(
            lambda text=text, result=result: check_chunks(text, OPTIONS, result),  # type: ignore[misc]
            lambda text=text, result=result: locate(text, result.chunks),  # type: ignore[misc]
        )
        print(f"| {count:,} | {1e3 * without:.3f} | {1e3 * with_checks:.3f} | {1e6 * (alone - place):.0f} |")


def _result(count: int) -> tuple[str, bytes]:
    chunks = [f"Sentence {n} of a document tells of {random.random()}." for n in range(count)]
    spans, at = [], 0
    for chunk in chunks:
        spans.append([at, at + len(chunk)])
        at += len(chunk) + 1
    vectors = [
        {"tokensUsed": {"inputTokens": 9}, "vector": [random.uniform(-1, 1) for _ in range(DIMENSION)]}
        for _ in chunks
    ]
    item = {"chunks": chunks, "spans": spans, "vectors": vectors}
    return " ".join(chunks), json.dumps(
        {"chunkingId": "j", "status": "READY", "chunkedData": [item]}
    ).encode()


def _write(text: str, body: bytes, *, checked: bool) -> None:
    result = read_result(parse_object(body, "Job", packed=True), "j")
    spans = check_chunks(text, OPTIONS, result).spans if checked else locate(text, result.chunks)
    columns = ChunkColumns(OPTIONS, with_hash=True)
    columns.add("document", result.chunks, spans, "hash")
    columns.take()


def _fastest(*ways: Callable[[], object]) -> list[float]:
    """CPU seconds of each."""
    best = [float("inf")] * len(ways)
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        for at, way in enumerate(ways):
            began = time.process_time()
            way()
            best[at] = min(best[at], time.process_time() - began)
    return best


if __name__ == "__main__":
    main()
