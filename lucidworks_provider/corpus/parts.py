# SPDX-License-Identifier: Apache-2.0
"""Writes parts: files of chunks, each with an index of its documents."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucidworks_provider.client.chunking import Chunk, ChunkingOptions, ChunkingResult, read_result
from lucidworks_provider.client.http.messages import parse_object
from lucidworks_provider.client.jobs import JobState
from lucidworks_provider.client.validation import CheckedChunks, Span, check_chunks
from lucidworks_provider.corpus.dataset import CHUNKS, below, new_name
from lucidworks_provider.corpus.journal import BodyLocation, SegmentKey
from lucidworks_provider.corpus.plan import Candidate, SegmentRequest
from lucidworks_provider.corpus.run_database import Row
from lucidworks_provider.documents.document import Reason
from lucidworks_provider.errors import EmptyResultError, InputError, MalformedResponseError
from lucidworks_provider.jobs.columns import ChunkColumns, stored_chunk_schema
from lucidworks_provider.storage import read_file, writing

if TYPE_CHECKING:
    import pyarrow as pa

# Readers decode a row group at once, and the writer has it in memory several times.
GROUP_ROWS = 2_048
GROUP_BYTES = 4_000_000
# The index of a part is in memory until the part is closed.
PART_ROWS = 32 * GROUP_ROWS
PART_BYTES = 128_000_000


@dataclass(frozen=True, slots=True)
class Part:
    """
    A file of chunks that is not committed yet, and the index of its documents.

    :param path: below the table; empty if the documents have no chunks.
    :param index: URI of the index.
    :param bytes: of the file of chunks.
    :param dimension: of its vectors; 0 if there are none.
    :param truncated: documents whose chunks do not cover their text.
    :param warnings: about its documents.
    """

    path: str
    index: str
    chunks: int
    tokens: int
    bytes: int
    dimension: int
    truncated: int = 0
    warnings: int = 0


class RejectedError(Exception):
    """
    A document is rejected; the run continues.

    :param job_unfinished: its job may still be good, so the next run polls it.
    :param segments: those that have to be submitted again; empty for all.
    """

    def __init__(
        self,
        reason: Reason,
        detail: str,
        *,
        job_unfinished: bool = False,
        segments: Sequence[SegmentKey] = (),
    ) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.job_unfinished = job_unfinished
        self.segments = segments


def raise_first(rejects: Mapping[SegmentKey, RejectedError]) -> None:
    """
    Reject a document by the failures of its segments; one whose job is unfinished is not submitted again.

    :raises RejectedError: the first failure, preferably one of a job that has ended.
    """
    for first in sorted(rejects.values(), key=lambda err: err.job_unfinished):
        ended = [key for key, err in rejects.items() if not err.job_unfinished]
        raise RejectedError(
            first.reason, first.detail, job_unfinished=first.job_unfinished, segments=ended
        ) from None


@dataclass(frozen=True, slots=True)
class SegmentResult:
    """
    The result of a segment.

    :param location: where the body is in the journal.
    :param body: a copy in memory, if there is one.
    :param seconds: from the submission to the result; 0 for a result of an earlier try.
    """

    segment: SegmentRequest
    job: str
    location: BodyLocation
    body: bytes | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class CompletedDocument:
    """A document with the results of all its segments."""

    candidate: Candidate
    results: Sequence[SegmentResult]


@dataclass(frozen=True, slots=True)
class WriteResult:
    """
    A document that was appended to a part.

    :param sizes: characters of each chunk.
    :param gap: describes the text that is in no chunk; None if they cover the text.
    :param warnings: about the result.
    """

    sizes: Sequence[int]
    tokens: int
    gap: str | None
    warnings: Sequence[str]


class ParquetFile:
    """A Parquet file with row groups of :data:`GROUP_ROWS`; the first rows give the schema."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._stack = ExitStack()
        self._path: Path | None = None
        self._writer: Any = None
        self._waiting: list[pa.RecordBatch] = []

    def write(self, batch: pa.RecordBatch) -> None:
        """Append rows."""
        self._waiting.append(batch)
        if sum(one.num_rows for one in self._waiting) >= GROUP_ROWS or batch.nbytes >= GROUP_BYTES:
            self._flush()

    def write_columns(self, columns: Iterable[Sequence[Any]], schema: pa.Schema) -> None:
        """Append rows, given as columns of Python values."""
        import pyarrow as pa

        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        self.write(pa.RecordBatch.from_arrays(arrays, schema=schema))

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._waiting:
            return
        schema = self._waiting[0].schema
        if self._writer is None:
            self._path = self._stack.enter_context(writing(self._uri))
            # Vectors and texts do not repeat: a dictionary of them costs time and saves nothing.
            repeated = [name for name in ("document_id", "content_hash", "status") if name in schema.names]
            self._writer = pq.ParquetWriter(
                self._path,
                schema,
                compression="zstd",
                use_dictionary=repeated,
                # The schema is in the table's log.
                store_schema=False,
                # Detects vectors that were damaged on the disk.
                write_page_checksum=True,
            )
        self._writer.write_table(pa.Table.from_batches(self._waiting), row_group_size=PART_ROWS)
        self._waiting = []

    def close(self) -> int:
        """Move the file into place; returns its size in bytes."""
        self._flush()
        if self._writer is None or self._path is None:
            return 0
        self._writer.close()
        size = self._path.stat().st_size
        self._stack.close()
        return size

    def abandon(self) -> None:
        """Discard the file."""
        if self._writer is not None:
            self._writer.close()
            self._stack.__exit__(_Abandoned, _Abandoned(), None)


class _Abandoned(Exception):
    """Makes :func:`~lucidworks_provider.storage.writing` discard a file."""


class PartWriter:
    """
    Writes a part; blocks.

    :param output: URI of the folder of the tables.
    :param index_folder: URI of the folder of the index.
    :param dimension: of the vectors; 0 if unknown.
    """

    def __init__(
        self,
        output: str,
        options: ChunkingOptions,
        *,
        index_folder: str,
        dimension: int = 0,
    ) -> None:
        self._name = new_name()
        self._options = options
        self._index = below(index_folder, f"{self._name}.parquet")
        self._columns = ChunkColumns(options, with_hash=True, dimension=dimension)
        self._path = f"{self._name}.parquet"
        self._data = ParquetFile(below(output, f"{CHUNKS}/{self._path}"))
        self.rows: list[Row] = []
        self.chunks = self.tokens = self.bytes = self.truncated = self.warnings = 0

    @property
    def dimension(self) -> int:
        """Of the vectors; 0 before the first."""
        return self._columns.dimension

    @property
    def full(self) -> bool:
        """Whether to close the part."""
        return self.chunks >= PART_ROWS or self.bytes >= PART_BYTES

    def add(
        self,
        completed: CompletedDocument,
        *,
        read: Callable[[BodyLocation], bytes],
        refuse_truncated: bool,
        lenient: bool = False,
        spend: Callable[[int], None] = lambda tokens: None,
    ) -> WriteResult:
        """
        Append a document.

        :param read: reads a body from the journal.
        :param refuse_truncated: reject the document if its chunks do not cover its text.
        :param lenient: warn about a result that may be good.
        :param spend: called with the tokens of each result that this try has received.
        :raises RejectedError: the result is no valid result of the text; nothing was appended.
        """
        candidate = completed.candidate
        chunks: list[Chunk] = []
        spans: list[Span] = []
        gap: str | None = None
        warnings: list[str] = []
        rejects: dict[SegmentKey, RejectedError] = {}
        for found in completed.results:
            segment = found.segment
            try:
                body = read(found.location) if found.body is None else found.body
                result, checked = self._check(found, body, lenient=lenient, spend=spend)
            except RejectedError as err:
                rejects[segment.key] = err
                continue
            if checked.gap is not None and refuse_truncated:
                rejects[segment.key] = RejectedError(Reason.TRUNCATED, not_covered(checked.gap))
            gap = gap or checked.gap
            warnings += checked.warnings
            first = segment.key.start
            # The chunks of many segments are in memory together; as Python's numbers they take 32 bytes a number.
            many = len(completed.results) > 1
            chunks.extend(_packed(chunk) if many else chunk for chunk in result.chunks)
            spans.extend((s + first, e + first) if s is not None else (s, e) for s, e in checked.spans)  # type: ignore[misc, operator]
        raise_first(rejects)
        try:
            self._columns.add(candidate.document.id, chunks, spans, candidate.content_hash)
        except MalformedResponseError as err:
            raise RejectedError(Reason.MALFORMED, str(err)) from None
        file = candidate.file
        about = (candidate.document.id, candidate.content_hash, file.size, file.etag, file.path)
        tokens = sum(chunk.input_tokens or 0 for chunk in chunks)
        place = (self._path, self.chunks) if chunks else (None, None)
        self.rows.append(Row._make((*about, len(chunks), *place, tokens)))
        self.chunks += len(chunks)
        self.tokens += tokens
        self.truncated += gap is not None
        self.warnings += len(warnings) + (gap is not None)
        if self._columns.rows >= GROUP_ROWS or self._columns.nbytes >= GROUP_BYTES:
            self._flush()
        return WriteResult([len(chunk.text) for chunk in chunks], tokens, gap, warnings)

    def _check(
        self, found: SegmentResult, body: bytes, *, lenient: bool, spend: Callable[[int], None]
    ) -> tuple[ChunkingResult, CheckedChunks]:
        """:raises RejectedError: the body is no valid result of the segment."""
        job = found.job
        try:
            result = read_result(parse_object(body, f"Chunking job {job}", packed=True), job)
            if found.seconds:
                spend(sum(chunk.input_tokens or 0 for chunk in result.chunks))
            if result.state is JobState.FAILED:
                raise RejectedError(Reason.FAILED, f"Job {job}: {result.message}")
            return result, check_chunks(found.segment.text, self._options, result, lenient=lenient)
        except EmptyResultError as err:
            raise RejectedError(Reason.EMPTY_RESULT, str(err)) from None
        except MalformedResponseError as err:
            raise RejectedError(Reason.MALFORMED, str(err)) from None

    def close(self) -> Part:
        """Move the files into place."""
        self._flush()
        path, size = (self._path, self._data.close()) if self.chunks else ("", 0)
        index = ParquetFile(self._index)
        index.write_columns(zip(*self.rows, strict=True), _index_schema())
        index.close()
        counts = (self.chunks, self.tokens, size, self.dimension, self.truncated, self.warnings)
        return Part(path, self._index, *counts)

    def abandon(self) -> None:
        """Discard the files."""
        self._data.abandon()

    def _flush(self) -> None:
        self.bytes += self._columns.nbytes
        for batch in self._columns.take():
            self._data.write(batch.cast(stored_chunk_schema(self._options, self.dimension)))


def not_covered(gap: str) -> str:
    """The message about a gap."""
    return (
        f"The chunks do not cover the text: {gap}. The service limits the chunks of a request by dimension and "
        "silently drops the rest: lower max_text_bytes, or quantise the vectors."
    )


def _packed(chunk: Chunk) -> Chunk:
    return replace(chunk, vector=array("d", chunk.vector))


def _index_schema() -> pa.Schema:
    """The columns of an index: the fields of a :class:`~lucidworks_provider.corpus.run_database.Row`."""
    import pyarrow as pa

    text, whole = pa.string(), pa.int64()
    types = (text, text, whole, text, text, whole, text, whole, whole)
    return pa.schema([pa.field(name, kind) for name, kind in zip(Row._fields, types, strict=True)])


def read_index(uri: str, advice: str) -> Iterator[Row]:
    """
    Read the index of a part.

    :param advice: :attr:`~lucidworks_provider.corpus.journal.Journal.advice`, for the messages.
    :raises InputError: there is no such file, or it is not an index.
    :raises StorageError: the storage cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if (data := read_file(uri)) is None:
        raise InputError(f"{uri} is named by the journal and is missing. {advice}")
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        for batch in file.iter_batches():
            if batch.schema.names != list(Row._fields):
                raise InputError(f"{uri} is not an index of this version of the provider. {advice}")
            columns = [column.to_pylist() for column in batch.columns]
            yield from (Row(*values) for values in zip(*columns, strict=True))
    except (OSError, pa.ArrowException) as err:
        raise InputError(f"{uri} cannot be read ({type(err).__name__}). {advice}") from err
