# SPDX-License-Identifier: Apache-2.0
"""The settings of a run, and its calls of the service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Literal

from lucidworks_provider.client.chunking import MAX_TEXT_BYTES, ChunkingOptions
from lucidworks_provider.corpus.pipeline import PipelineSettings
from lucidworks_provider.documents.document import Document, RejectedDocument
from lucidworks_provider.documents.readers import ReadOptions


@dataclass(frozen=True, slots=True)
class Corpus:
    """
    The settings of a run.

    :param source: URI of a file, folder or glob; or inline documents.
    :param listing: URI of the listing of a shard, which replaces listing ``source``. The result is staged for
        :func:`~lucidworks_provider.corpus.staged_shards.publish_shards`.
    :param output: URI of the folder of the tables.
    :param full_refresh: send all documents again; required after a change of the configuration.
    :param prune: remove documents that the source no longer has.
    :param max_requests: fail before the first submission if the run takes more of them.
    :param max_reject_ratio: fail if a larger share of the documents is rejected; results are kept.
    :param keep_raw: keep the results of the service below ``raw``.
    :param on_missing_chunks: ``resend`` or ``drop`` documents of which another program has deleted chunks.
    :param deletion_vectors: mask replaced chunks; otherwise copy files without them.
    :param retention: seconds for which older versions can be read.
    """

    source: str | Sequence[Document | RejectedDocument]
    output: str
    options: ChunkingOptions
    reading: ReadOptions = field(default_factory=ReadOptions)
    pipeline: PipelineSettings = field(default_factory=PipelineSettings)
    listing: str | None = None
    full_refresh: bool = False
    prune: bool = False
    max_requests: int | None = None
    max_reject_ratio: float = 0.05
    max_text_bytes: int = MAX_TEXT_BYTES
    keep_raw: bool = False
    on_missing_chunks: Literal["resend", "drop"] = "resend"
    deletion_vectors: bool = True
    retention: float = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Service:
    """
    Calls of the service, on an event loop.

    :param submit: performs the POST for a text and returns the job's id.
    :param fetch: performs the GET of a job and returns the body.
    :param client: open during the run; its argument is called with the outcome of each request.
    :param rate: requests a second that the rate limiter allows; None before the first 429.
    """

    submit: Callable[[str], Awaitable[str]]
    fetch: Callable[[str], Awaitable[bytes]]
    client: Callable[[Callable[[int | str], None]], AbstractAsyncContextManager[object]] = nullcontext
    rate: Callable[[], float | None] = lambda: None
