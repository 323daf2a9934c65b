# SPDX-License-Identifier: Apache-2.0
"""
The file of chunks and vectors that the next task reads: Parquet or JSON Lines, by the path's suffix.

Its columns are those of :mod:`~lucidworks_provider.jobs.chunk_columns`, without the hash.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lucidworks_provider.client.api.chunking import Chunk, ChunkingOptions
from lucidworks_provider.client.api.spans import Span
from lucidworks_provider.errors import InputError
from lucidworks_provider.jobs.chunk_columns import (
    ChunkColumns,
    check_dimension,
    check_quantised,
    chunk_schema,
    unfit,
)
from lucidworks_provider.storage import writing

if TYPE_CHECKING:
    import pyarrow.parquet as pq

SUFFIXES = (".parquet", ".jsonl")


@dataclass(slots=True)
class Manifest:
    """
    What a task returns instead of its result.

    :param uri: the file.
    :param dimension: length of every vector, 0 when there is none.
    :param tokens: sum of the input tokens that the service reported.
    """

    uri: str
    documents: int = 0
    chunks: int = 0
    dimension: int = 0
    tokens: int = 0

    def as_json(self) -> dict[str, Any]:
        """For XCom."""
        return asdict(self)


class _Writer(Protocol):
    def add(self, document_id: str, chunks: Sequence[Chunk], spans: Sequence[Span]) -> None: ...

    def close(self) -> None: ...


def check_suffix(uri: str) -> None:
    """
    Refuse what cannot be written, before anything is submitted.

    :raises InputError: another suffix, or Parquet without the ``documents`` extra.
    """
    if not uri.endswith(SUFFIXES):
        raise InputError(f"result_path is {uri!r}; it must end in {' or '.join(SUFFIXES)}.")
    if uri.endswith(".parquet"):
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise InputError(
                "A .parquet result_path needs pyarrow: pip install 'airflow-provider-lucidworks[documents]', "
                "on the workers too; or let the path end in .jsonl."
            ) from None


class ChunkFile:
    """Takes documents one after the other and counts what it takes."""

    def __init__(self, writer: _Writer, manifest: Manifest) -> None:
        self._writer = writer
        self.manifest = manifest

    def add(self, document_id: str, chunks: Sequence[Chunk], spans: Sequence[Span]) -> None:
        """
        Append a document's chunks.

        :raises MalformedAnswerError: vectors of another length than before, not of the asked quantisation, or
            with values that the file cannot hold.
        """
        self._writer.add(document_id, chunks, spans)
        manifest = self.manifest
        manifest.dimension = len(chunks[0].vector) if chunks else manifest.dimension
        manifest.documents += 1
        manifest.chunks += len(chunks)
        manifest.tokens += sum(chunk.input_tokens or 0 for chunk in chunks)


@contextmanager
def chunk_file(uri: str, options: ChunkingOptions) -> Iterator[ChunkFile]:
    """A file to fill; it takes its place when the block ends well, and leaves nothing when it does not."""
    with writing(uri) as path:
        writer: _Writer = (
            _ParquetWriter(path, options) if uri.endswith(".parquet") else _JsonLinesWriter(path, options)
        )
        try:
            yield ChunkFile(writer, Manifest(uri))
        finally:
            writer.close()


class _JsonLinesWriter:
    def __init__(self, path: Path, options: ChunkingOptions) -> None:
        self._file = path.open("wb")
        self._method = options.quantization
        self._dimension = 0

    def add(self, document_id: str, chunks: Sequence[Chunk], spans: Sequence[Span]) -> None:
        dimension = check_dimension(document_id, chunks, self._dimension)
        check_quantised(document_id, chunks, self._method)
        rows = []
        for index, (chunk, (start, end)) in enumerate(zip(chunks, spans, strict=True)):
            row = {
                "document_id": document_id,
                "chunk_index": index,
                "text": chunk.text,
                "start": start,
                "end": end,
                "vector": list(chunk.vector),
                "input_tokens": chunk.input_tokens,
            }
            rows.append(json.dumps(row, ensure_ascii=False) + "\n")
        try:
            encoded = "".join(rows).encode()
        except UnicodeEncodeError as err:
            raise unfit(document_id, str(err)) from err
        self._file.write(encoded)
        self._dimension = dimension

    def close(self) -> None:
        self._file.close()


class _ParquetWriter:
    """Row groups of whole documents, so that memory is bounded by the largest one."""

    # Small documents share a row group: many tiny groups cost readers more than they save us.
    _ROWS = 2048

    def __init__(self, path: Path, options: ChunkingOptions) -> None:
        self._path = path
        self._options = options
        self._columns = ChunkColumns(options, with_hash=False)
        self._writer: pq.ParquetWriter | None = None

    def add(self, document_id: str, chunks: Sequence[Chunk], spans: Sequence[Span]) -> None:
        self._columns.add(document_id, chunks, spans)
        if self._columns.rows >= self._ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._open().close()

    def _open(self) -> pq.ParquetWriter:
        """The schema waits for the first vector, whose length it holds."""
        import pyarrow.parquet as pq

        if self._writer is None:
            schema = chunk_schema(self._options, self._columns.dimension, with_hash=False)
            # Texts and vectors do not repeat: with dictionaries of them a file took three times as long.
            self._writer = pq.ParquetWriter(
                self._path, schema, compression="zstd", use_dictionary=["document_id"]
            )
        return self._writer

    def _flush(self) -> None:
        batch = self._columns.take()
        if batch is not None:
            self._open().write_batch(batch)
