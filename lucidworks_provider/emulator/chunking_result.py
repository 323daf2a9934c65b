# SPDX-License-Identifier: Apache-2.0
"""
The results of a chunking job, in both published shapes.

This is the slow part, so it runs in a worker thread. Each vector becomes JSON on its own: one call over a
whole result would hold the interpreter for a second and stall the event loop, hence every other client.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from lucidworks_provider.emulator.jobs import JobFailure
from lucidworks_provider.emulator.models import max_chunks

if TYPE_CHECKING:
    from lucidworks_provider.emulator.chunking_request import ChunkingRequest

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
    """Chunk and embed every text of a request, up to the number of chunks of section 7.5 in total."""
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
