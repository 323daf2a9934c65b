# SPDX-License-Identifier: Apache-2.0
"""What a run over a corpus is told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

from lucidworks_provider.client.api.chunking import MAX_TEXT_BYTES, ChunkingOptions
from lucidworks_provider.corpus.pipeline import Rules
from lucidworks_provider.documents.document import Document, RejectedDocument
from lucidworks_provider.documents.readers import ReadOptions


@dataclass(frozen=True, slots=True)
class Corpus:
    """
    What to chunk, where to, and what to do when.

    :param source: URI of a file, folder or glob; or the documents themselves.
    :param listing: URI of the listing of a shard, to be read instead of listing ``source``; then what was done is
        staged, and :func:`~lucidworks_provider.corpus.run.publish_shards` commits it.
    :param output: URI of the folder of the tables.
    :param full_refresh: send everything again; needed when the configuration changed.
    :param prune: remove what the source does not have any more.
    :param max_submissions: documents; refuse to send more.
    :param max_reject_ratio: of the source's documents; above it the run fails, and what was done is kept.
    :param keep_raw: keep the bodies, below ``raw``.
    :param on_missing_chunks: of documents of which somebody else has deleted chunks: ``resend`` or ``drop`` them.
    :param deletion_vectors: mask replaced chunks; else copy files without them.
    :param retention: seconds for which older versions can be read.
    """

    source: str | Sequence[Document | RejectedDocument]
    output: str
    options: ChunkingOptions
    reading: ReadOptions = field(default_factory=ReadOptions)
    rules: Rules = field(default_factory=Rules)
    listing: str | None = None
    full_refresh: bool = False
    prune: bool = False
    max_submissions: int | None = None
    max_reject_ratio: float = 0.05
    max_text_bytes: int = MAX_TEXT_BYTES
    keep_raw: bool = False
    on_missing_chunks: Literal["resend", "drop"] = "resend"
    deletion_vectors: bool = True
    retention: float = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Service:
    """
    Asks the service, on an event loop.

    :param client: held open during the run; takes what is told the outcome of each request.
    :param rate: requests a second that have been learned, None before the first 429.
    """

    submit: Callable[[str], Awaitable[str]]
    fetch: Callable[[str], Awaitable[bytes]]
    client: Callable[[Callable[[int | str], None]], AbstractAsyncContextManager[object]] = nullcontext
    rate: Callable[[], float | None] = lambda: None
