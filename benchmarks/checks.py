# SPDX-License-Identifier: Apache-2.0
"""
CPU of the checks of a chunking result, compared with decoding, locating and packing it.

All cases alternate in one process; the figures are minima of many rounds, because the machine may be busy.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.corpus_results import chunking_result
from benchmarks.harness import command_line, print_heads, print_row
from lucidworks_provider.client.chunking import ChunkingOptions, read_result
from lucidworks_provider.client.http.messages import parse_object
from lucidworks_provider.client.validation import check_chunks, locate
from lucidworks_provider.jobs.columns import ChunkColumns

OPTIONS = ChunkingOptions("sentence", "gte-small")
SECONDS = 3.0


def main() -> None:
    command_line(__doc__)
    print_heads("chunks of a document", "without the checks, ms", "with, ms", "the checks, µs")
    for count in (2, 8, 60, 1000):
        text, body = chunking_result(count, words=8)
        result = read_result(parse_object(body, "Job", packed=True), "j")
        without, checked, check, location = fastest(
            lambda text=text, body=body: pack(text, body, checked=False),  # type: ignore[misc]
            lambda text=text, body=body: pack(text, body, checked=True),  # type: ignore[misc]
            lambda text=text, result=result: check_chunks(text, OPTIONS, result),  # type: ignore[misc]
            lambda text=text, result=result: locate(text, result.chunks),  # type: ignore[misc]
        )
        times = f"{1e3 * without:.3f}", f"{1e3 * checked:.3f}", f"{1e6 * (check - location):.0f}"
        print_row(f"{count:,}", *times)


def pack(text: str, body: bytes, *, checked: bool) -> None:
    """From the bytes of a response to packed columns."""
    result = read_result(parse_object(body, "Job", packed=True), "j")
    spans = check_chunks(text, OPTIONS, result).spans if checked else locate(text, result.chunks)
    columns = ChunkColumns(OPTIONS, with_hash=True)
    columns.add("document", result.chunks, spans, "hash")
    columns.take()


def fastest(*cases: Callable[[], object]) -> list[float]:
    """The least CPU seconds of each case."""
    best = [float("inf")] * len(cases)
    deadline = time.monotonic() + SECONDS * len(cases) / 2
    while time.monotonic() < deadline:
        for number, case in enumerate(cases):
            began = time.process_time()
            case()
            best[number] = min(best[number], time.process_time() - began)
    return best


if __name__ == "__main__":
    main()
