# SPDX-License-Identifier: Apache-2.0
"""
The file of chunks and vectors that the next task reads: Parquet or JSON Lines, by the path's suffix.

================  ==========================================================================
column            meaning
================  ==========================================================================
``document_id``   the document it comes from
``chunk_index``   position among the document's chunks, from 0
``text``          the chunk
``start, end``    characters of the document, end exclusive; null where they cannot be proven
``vector``        float32, or int8 / uint8 when quantised; a fixed-size list in Parquet
``input_tokens``  tokens that the model saw, if the service said
================  ==========================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lucidworks_provider.api.chunking import Chunk, ChunkingOptions
from lucidworks_provider.documents.spans import Span, locate
from lucidworks_provider.errors import InputError, MalformedAnswerError
from lucidworks_provider.storage import writing

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

SUFFIXES = (".parquet", ".jsonl")
# Quantised values by the vendor's method: unsigned and signed bytes.
BYTES = {"min-max": ("uint8", 0, 255), "max-scale": ("int8", -128, 127)}


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

    def __init__(self, writer: _Writer, manifest: Manifest, options: ChunkingOptions) -> None:
        self._writer = writer
        self._options = options
        self.manifest = manifest

    def add(self, document_id: str, text: str, chunks: Sequence[Chunk]) -> bool:
        """
        Append a document's chunks.

        :return: whether the chunks reach the end of the text; the service cuts long results silently.
        :raises MalformedAnswerError: vectors of another length than before, or not of the asked quantisation.
        """
        manifest = self.manifest
        for dimension in {len(chunk.vector) for chunk in chunks}:
            if manifest.dimension not in {0, dimension}:
                raise MalformedAnswerError(
                    f"Document {document_id!r} has vectors of {dimension} numbers, the ones before it of "
                    f"{manifest.dimension}.",
                    status=200,
                )
            manifest.dimension = dimension
        self._check_quantised(document_id, chunks)
        spans = locate(text, chunks)
        try:
            self._writer.add(document_id, chunks, spans)
        except (ValueError, TypeError, OverflowError) as err:
            raise MalformedAnswerError(
                f"Document {document_id!r} has a value that the file cannot hold: {err}", status=200
            ) from err
        manifest.documents += 1
        manifest.chunks += len(chunks)
        manifest.tokens += sum(chunk.input_tokens or 0 for chunk in chunks)
        return covers(text, spans)

    def _check_quantised(self, document_id: str, chunks: Sequence[Chunk]) -> None:
        method = self._options.quantization
        if method is None:
            return
        _, low, high = BYTES[method]
        if not all(v == int(v) and low <= v <= high for chunk in chunks for v in chunk.vector):
            raise MalformedAnswerError(
                f"Document {document_id!r}: {method} was asked for, but its vectors are not whole numbers from "
                f"{low} to {high}.",
                status=200,
            )


@contextmanager
def chunk_file(uri: str, options: ChunkingOptions) -> Iterator[ChunkFile]:
    """A file to fill; it takes its place when the block ends well, and leaves nothing when it does not."""
    with writing(uri) as path:
        writer: _Writer = (
            _ParquetWriter(path, options) if uri.endswith(".parquet") else _JsonLinesWriter(path)
        )
        try:
            yield ChunkFile(writer, Manifest(uri), options)
        finally:
            writer.close()


def covers(text: str, spans: Sequence[Span]) -> bool:
    """Whether nothing but white space follows the last chunk; True where that cannot be told."""
    if not spans:
        return not text.strip()
    if spans[-1][1] is None:
        return True
    return not text[max(end for _, end in spans if end is not None) :].strip()


class _JsonLinesWriter:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def add(self, document_id: str, chunks: Sequence[Chunk], spans: Sequence[Span]) -> None:
        rows = []
        for index, (chunk, (start, end)) in enumerate(zip(chunks, spans, strict=True)):
            row = {
                "document_id": document_id,
                "chunk_index": index,
                "text": chunk.text,
                "start": start,
                "end": end,
                "vector": chunk.vector,
                "input_tokens": chunk.input_tokens,
            }
            rows.append(json.dumps(row, ensure_ascii=False) + "\n")
        self._file.writelines(rows)

    def close(self) -> None:
        self._file.close()


class _ParquetWriter:
    """Row groups of whole documents, so that memory is bounded by the largest one."""

    # Small documents share a row group: many tiny groups cost readers more than they save us.
    _ROWS = 2048

    def __init__(self, path: Path, options: ChunkingOptions) -> None:
        self._path = path
        self._options = options
        self._kind = BYTES[options.quantization][0] if options.quantization else "float32"
        self._schema: pa.Schema | None = None
        self._writer: pq.ParquetWriter | None = None
        self._batches: list[pa.RecordBatch] = []

    def add(self, document_id: str, chunks: Sequence[Chunk], spans: Sequence[Span]) -> None:
        import pyarrow as pa

        if not chunks:
            return
        schema = self._open(len(chunks[0].vector))
        columns = [
            pa.array([document_id] * len(chunks), pa.string()),
            pa.array(range(len(chunks)), pa.int32()),
            pa.array([chunk.text for chunk in chunks], pa.string()),
            pa.array([start for start, _ in spans], pa.int64()),
            pa.array([end for _, end in spans], pa.int64()),
            self._vectors(chunks, schema.field("vector").type),
            pa.array([chunk.input_tokens for chunk in chunks], pa.int32()),
        ]
        self._batches.append(pa.RecordBatch.from_arrays(columns, schema=schema))
        if sum(batch.num_rows for batch in self._batches) >= self._ROWS:
            self._flush()

    def close(self) -> None:
        self._open(0)
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def _open(self, dimension: int) -> pa.Schema:
        """The schema waits for the first vector, whose length it holds."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._schema is None:
            fields = [
                pa.field("document_id", pa.string(), nullable=False),
                pa.field("chunk_index", pa.int32(), nullable=False),
                pa.field("text", pa.string(), nullable=False),
                pa.field("start", pa.int64()),
                pa.field("end", pa.int64()),
                pa.field("vector", pa.list_(pa.type_for_alias(self._kind), dimension or -1), nullable=False),
                pa.field("input_tokens", pa.int32()),
            ]
            described = json.dumps(self._options.as_json(), sort_keys=True)
            self._schema = pa.schema(fields, metadata={"lucidworks": described})
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        return self._schema

    def _vectors(self, chunks: Sequence[Chunk], kind: pa.DataType) -> pa.Array:
        import pyarrow as pa
        import pyarrow.compute as pc

        number: type[float] | type[int] = float if self._kind == "float32" else int
        flat = pa.array([number(value) for chunk in chunks for value in chunk.vector], kind.value_type)
        if self._kind == "float32" and not pc.all(pc.is_finite(flat)).as_py():
            raise ValueError("a number beyond the range of float32")
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)

    def _flush(self) -> None:
        import pyarrow as pa

        if self._batches and self._writer is not None:
            self._writer.write_table(pa.Table.from_batches(self._batches))
            self._batches = []
