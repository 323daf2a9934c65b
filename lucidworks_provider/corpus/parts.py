# SPDX-License-Identifier: Apache-2.0
"""Writes parts of a dataset: chunks as they arrive, and copies of parts without documents that were replaced."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucidworks_provider.api.chunking import Chunk, ChunkingOptions, read_result
from lucidworks_provider.api.jobs import JobState
from lucidworks_provider.api.messages import parse_object
from lucidworks_provider.api.spans import Span
from lucidworks_provider.api.validation import check_chunks
from lucidworks_provider.corpus.journal import Place
from lucidworks_provider.corpus.plan import Candidate, Piece
from lucidworks_provider.corpus.scratch import Row
from lucidworks_provider.documents.chunk_columns import ChunkColumns, chunk_schema
from lucidworks_provider.documents.dataset import (
    DATA,
    INDEX,
    Part,
    below,
    index_schema,
    json_lines_of,
    new_name,
)
from lucidworks_provider.documents.document import Reason
from lucidworks_provider.errors import EmptyResultError, MalformedAnswerError, StorageError
from lucidworks_provider.storage import arrow_place, writing

if TYPE_CHECKING:
    import pyarrow as pa

# A row group is what a reader decodes at once, and a writer holds more than once: 2,048 vectors of 384 floats: 3 MB.
GROUP_ROWS = 2_048
GROUP_BYTES = 4_000_000
# A part is what is copied when a document in it is replaced; what is known of its documents is in memory meanwhile.
PART_ROWS = 32 * GROUP_ROWS
PART_BYTES = 128_000_000


class RejectedError(Exception):
    """
    A document that the run goes on without.

    :param late: its job may still be good, so the next run asks for it.
    """

    def __init__(self, reason: Reason, detail: str, *, late: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail
        self.late = late


@dataclass(frozen=True, slots=True)
class Answered:
    """
    A piece with its result.

    :param place: where the body lies in the journal.
    :param body: the same in memory, if it is.
    :param seconds: from the submission to the result; 0 for what an earlier try had got.
    """

    piece: Piece
    job: str
    place: Place
    body: bytes | None = None
    seconds: float = 0.0

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return len(self.body or b"")


@dataclass(frozen=True, slots=True)
class Arrived:
    """A document whose pieces have all been answered."""

    candidate: Candidate
    answers: Sequence[Answered]


@dataclass(frozen=True, slots=True)
class Written:
    """
    What became of a document.

    :param sizes: characters of each chunk.
    :param gap: what of the text no chunk has, in words; None where they cover it.
    :param warnings: what is unusual about the result.
    """

    sizes: Sequence[int]
    tokens: int
    gap: str | None
    warnings: Sequence[str]


class _ParquetFile:
    """A file that gets its schema with its first rows, and its rows in groups of a size that readers like."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._stack = ExitStack()
        self._path: Path | None = None
        self._writer: Any = None
        self._waiting: list[pa.RecordBatch] = []

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        self._waiting.append(batch)
        if sum(one.num_rows for one in self._waiting) >= GROUP_ROWS or batch.nbytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._waiting:
            return
        schema = self._waiting[0].schema
        if self._writer is None:
            self._path = self._stack.enter_context(writing(self._uri))
            # Vectors and texts do not repeat: a dictionary of them costs time and saves nothing.
            self._writer = pq.ParquetWriter(
                self._path,
                schema,
                compression="zstd",
                use_dictionary=["document_id", "content_hash"],
                # Without it a vector that rotted on the disk is read as if nothing were.
                write_page_checksum=True,
            )
        self._writer.write_table(pa.Table.from_batches(self._waiting), row_group_size=PART_ROWS)
        self._waiting = []

    def close(self) -> int:
        """Let it take its place; its size in bytes."""
        self._flush()
        self._writer.close()
        size = self._path.stat().st_size if self._path is not None else 0
        self._stack.close()
        return size

    def abandon(self) -> None:
        """Leave nothing."""
        if self._writer is not None:
            self._writer.close()
            self._stack.__exit__(_Abandoned, _Abandoned(), None)


class _Abandoned(Exception):
    """Tells the storage that a file shall not take its place."""


class PartWriter:
    """
    One part: a file of chunks, and the index of its documents. Everything here blocks.

    :param output: the dataset's folder.
    :param json_lines: write the chunks as JSON Lines, too.
    :param dimension: of the vectors, where it is known already.
    :param learned: is told the dimension.
    """

    def __init__(
        self,
        output: str,
        options: ChunkingOptions,
        *,
        json_lines: bool = False,
        dimension: int = 0,
        learned: Callable[[int], None] = lambda dimension: None,
    ) -> None:
        self.name = new_name()
        self._learned = learned
        self._output = output
        self._options = options
        self._columns = ChunkColumns(options, with_hash=True, dimension=dimension)
        self._path = f"{DATA}/{self.name}.parquet"
        self._data = _ParquetFile(below(output, self._path))
        self._json_lines: tuple[AbstractContextManager[Path], Any] | None = None
        self._wants_json_lines = json_lines
        self.rows: list[Row] = []
        self.chunks = self.tokens = self.bytes = 0

    @property
    def dimension(self) -> int:
        """Length of the vectors, 0 before the first."""
        return self._columns.dimension

    @property
    def full(self) -> bool:
        """Whether it is large enough."""
        return self.chunks >= PART_ROWS or self.bytes >= PART_BYTES

    def add(
        self,
        arrived: Arrived,
        *,
        read: Callable[[Place], bytes],
        refuse_truncated: bool,
        lenient: bool = False,
    ) -> Written:
        """
        Append a document.

        :param read: a body from the journal.
        :param refuse_truncated: do not take one whose chunks do not cover its text.
        :param lenient: warn where a result may be good.
        :raises RejectedError: what came is not what was asked for; then nothing of it was added.
        """
        candidate = arrived.candidate
        chunks: list[Chunk] = []
        spans: list[Span] = []
        gap: str | None = None
        warnings: list[str] = []
        try:
            for answer in arrived.answers:
                piece, job = answer.piece, answer.job
                body = read(answer.place) if answer.body is None else answer.body
                result = read_result(parse_object(body, f"Chunking job {job}", packed=True), job)
                if result.state is JobState.FAILED:
                    raise RejectedError(Reason.FAILED, f"Job {job}: {result.message}")
                checked = check_chunks(piece.text, self._options, result, lenient=lenient)
                gap = gap or checked.gap
                warnings += checked.warnings
                first = piece.key.start
                # Of many pieces all chunks are in memory at once, so not as Python's numbers of 32 bytes each.
                many = len(arrived.answers) > 1
                chunks.extend(_packed(chunk) if many else chunk for chunk in result.chunks)
                spans.extend((s + first, e + first) if s is not None else (s, e) for s, e in checked.spans)  # type: ignore[misc, operator]
            if gap is not None and refuse_truncated:
                raise RejectedError(Reason.TRUNCATED, not_covered(gap))
            self._columns.add(candidate.document.id, chunks, spans, candidate.content_hash)
        except EmptyResultError as err:
            raise RejectedError(Reason.EMPTY_RESULT, str(err)) from None
        except MalformedAnswerError as err:
            raise RejectedError(Reason.MALFORMED, str(err)) from None
        self._learned(self._columns.dimension)
        file = candidate.file
        row = (candidate.document.id, candidate.content_hash, file.size, file.stamp, file.path, len(chunks))
        self.rows.append(Row(*row, self._path))
        tokens = sum(chunk.input_tokens or 0 for chunk in chunks)
        self.chunks += len(chunks)
        self.tokens += tokens
        if self._columns.rows >= GROUP_ROWS or self._columns.nbytes >= GROUP_BYTES:
            self._flush()
        return Written([len(chunk.text) for chunk in chunks], tokens, gap, warnings)

    def close(self) -> Part:
        """The files take their places."""
        self._flush()
        if not self.chunks:
            # Documents without a single chunk: a file with columns and no rows.
            self._data.write(_no_rows(chunk_schema(self._options, self.dimension, with_hash=True)))
        size = self._data.close()
        if self._json_lines is not None:
            self._json_lines[1].close()
            self._json_lines[0].__exit__(None, None, None)
        index = f"{INDEX}/{self.name}.parquet"
        write_index(below(self._output, index), self.rows)
        return Part(self._path, index, len(self.rows), self.chunks, self.tokens, size)

    def abandon(self) -> None:
        """Leave nothing."""
        self._data.abandon()
        if self._json_lines is not None:
            self._json_lines[1].close()
            self._json_lines[0].__exit__(_Abandoned, _Abandoned(), None)

    def _flush(self) -> None:
        self.bytes += self._columns.nbytes
        batch = self._columns.take()
        if batch is None:
            return
        self._data.write(batch)
        if self._wants_json_lines:
            self._write_json_lines(batch)

    def _write_json_lines(self, batch: pa.RecordBatch) -> None:
        if self._json_lines is None:
            holder = writing(below(self._output, json_lines_of(f"{DATA}/{self.name}.parquet")))
            self._json_lines = holder, holder.__enter__().open("w", encoding="utf-8")
        write_json_lines(self._json_lines[1], batch)


def not_covered(gap: str) -> str:
    """Why a text is in the chunks only in part, and what to do."""
    return (
        f"The chunks do not cover the text: {gap}. The service limits the chunks of a request by dimension and cuts "
        "silently: lower max_text_bytes, or quantise."
    )


def _packed(chunk: Chunk) -> Chunk:
    return replace(chunk, vector=array("d", chunk.vector))


def write_json_lines(file: Any, batch: pa.RecordBatch) -> None:
    """A line of JSON for each chunk."""
    # A few at a time: thousands of vectors as Python's numbers at once hold up the event loop.
    for start in range(0, batch.num_rows, 64):
        rows = batch.slice(start, 64).to_pylist()
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write_index(uri: str, rows: Sequence[Row]) -> None:
    """The index of a part."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = list(zip(*rows, strict=True)) or [()] * len(Row._fields)
    table = pa.table(
        [pa.array(column, field.type) for column, field in zip(columns, index_schema(), strict=True)],
        schema=index_schema(),
    )
    with writing(uri) as path:
        pq.write_table(table, path, compression="zstd")


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)


def copy_parts(
    output: str,
    parts: Sequence[Part],
    rows: Callable[[Part], Iterable[Row]],
    *,
    json_lines: bool,
) -> tuple[Part, list[Row]]:
    """
    Some parts as one new part, with only the documents that still belong there.

    :param rows: the documents of a part that stay.
    :return: the new part and its documents.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    name = new_name()
    data, index = f"{DATA}/{name}.parquet", f"{INDEX}/{name}.parquet"
    file = _ParquetFile(below(output, data))
    kept: list[Row] = []
    chunks = tokens = 0
    with ExitStack() as stack:
        lines: Any = None
        if json_lines:
            path = stack.enter_context(writing(below(output, json_lines_of(data))))
            lines = stack.enter_context(path.open("w", encoding="utf-8"))
        try:
            for part in parts:
                stay = [row._replace(part=data) for row in rows(part)]
                kept += stay
                ids = pa.array([row.id for row in stay], pa.string())
                with _opened(output, part) as parquet:
                    schema = parquet.schema_arrow
                    for batch in _batches(parquet):
                        left = batch.filter(pc.is_in(batch.column("document_id"), value_set=ids))
                        if left.num_rows:
                            file.write(left)
                            if lines is not None:
                                write_json_lines(lines, left)
                            chunks += left.num_rows
                            tokens += pc.sum(left.column("input_tokens")).as_py() or 0
            if not chunks:
                file.write(_no_rows(schema))
            size = file.close()
        except BaseException:
            file.abandon()
            raise
    write_index(below(output, index), kept)
    return Part(data, index, len(kept), chunks, tokens, size), kept


@contextmanager
def _opened(output: str, part: Part) -> Iterator[Any]:
    import pyarrow.parquet as pq

    filesystem, path = arrow_place(below(output, part.data))
    try:
        parquet = pq.ParquetFile(path, filesystem=filesystem)
    except (OSError, ValueError) as err:
        raise StorageError(
            f"{below(output, part.data)} cannot be read ({type(err).__name__}). The snapshot names it; restore it, "
            "or start again with full_refresh=True."
        ) from err
    with parquet:
        yield parquet


def _batches(parquet: Any) -> Iterator[pa.RecordBatch]:
    """One row group after the other: asked for all of them, pyarrow reads ahead what a part has."""
    for group in range(parquet.num_row_groups):
        yield from parquet.iter_batches(batch_size=GROUP_ROWS, row_groups=[group], use_threads=False)
