# SPDX-License-Identifier: Apache-2.0
"""
Chunks as columns of Parquet files and of the tables of a corpus.

================  ==========================================================================
column            meaning
================  ==========================================================================
``document_id``   the document it comes from
key, other        those of the document that are passed through, under their own names and in their own types (files
columns           of a task only)
``chunk_index``   position among the document's chunks, from 0
``text``          the chunk
``start, end``    characters of the document, end exclusive; null where they cannot be determined
``vector``        float32, or int8 / uint8 when quantised; a fixed-size list
``input_tokens``  tokens of the model's input, if the service reports them
``content_hash``  SHA-256 of the document's text in UTF-8 (datasets only)
================  ==========================================================================
"""

from __future__ import annotations

import json
import math
import struct
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucidworks_provider.client.chunking import Chunk, ChunkingOptions
from lucidworks_provider.client.validation import BYTES, Span, check_dimension, check_quantised, unfit
from lucidworks_provider.jobs.rows import kept_arrays, kept_bytes

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

# Rows of a row group of a result file, as many tiny groups are slow to read, and their bytes, for memory.
GROUP_ROWS, GROUP_BYTES = 2048, 64_000_000

# Codes of the struct module, which packs a list of numbers three times as fast as pyarrow converts it.
_CODES = {"float32": "f", "uint8": "B", "int8": "b"}
_KINDS = {code: kind for kind, code in _CODES.items()}
# Vectors that are converted at once: enough for speed, few for memory.
_AT_ONCE = 512
_TOKENS = range(2**31)
# Of a row beside its text, its vector and its document's id.
_ROW_BYTES = 24


class ParquetWriter:
    """
    Writes row groups of at least :data:`GROUP_ROWS` or :data:`GROUP_BYTES`; the first rows give the schema.

    :param repeated: names of the columns whose values repeat, or all. A dictionary of other columns takes three times
        as long to write.
    """

    def __init__(self, path: Path, *, repeated: Sequence[str] | bool = True) -> None:
        self._path = path
        self._repeated = repeated
        self._writer: pq.ParquetWriter | None = None
        self._waiting: list[pa.Table] = []
        self._nbytes = 0

    def write(self, rows: pa.Table) -> None:
        self._waiting.append(rows)
        self._nbytes += kept_bytes(rows)
        if sum(map(len, self._waiting)) >= GROUP_ROWS or self._nbytes >= GROUP_BYTES:
            self._flush()

    def close(self, schema: pa.Schema) -> None:
        """:param schema: of a file without rows."""
        self._flush()
        self._open(schema).close()

    def _open(self, schema: pa.Schema) -> pq.ParquetWriter:
        import pyarrow.parquet as pq

        if self._writer is None:
            self._writer = pq.ParquetWriter(
                self._path, schema, compression="zstd", use_dictionary=self._repeated
            )
        return self._writer

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            self._open(self._waiting[0].schema).write_table(pa.concat_tables(self._waiting))
            self._waiting, self._nbytes = [], 0


def chunk_schema(
    options: ChunkingOptions | Mapping[str, Any],
    dimension: int,
    *,
    with_hash: bool,
    kept: Mapping[str, pa.DataType] | None = None,
) -> pa.Schema:
    """
    The columns of chunks.

    :param options: how they were made, or :meth:`ChunkingOptions.as_json` of it; kept in the schema's metadata.
    :param dimension: length of every vector; 0 where there is none, and then the list is of any size.
    :param with_hash: whether there is a column for the hash of the document.
    :param kept: types of the document's columns that are passed through.
    """
    import pyarrow as pa

    plain = options.as_json() if isinstance(options, ChunkingOptions) else dict(options)
    method = (plain.get("model_config") or {}).get("vectorQuantizationMethod")
    kind = BYTES[method][0] if method else "float32"
    fields = [
        pa.field("document_id", pa.string(), nullable=False),
        *(pa.field(name, kind) for name, kind in (kept or {}).items()),
        pa.field("chunk_index", pa.int32(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("start", pa.int64()),
        pa.field("end", pa.int64()),
        pa.field("vector", pa.list_(pa.type_for_alias(kind), dimension or -1), nullable=False),
        pa.field("input_tokens", pa.int32()),
    ]
    if with_hash:
        fields.append(pa.field("content_hash", pa.string(), nullable=False))
    return pa.schema(fields, metadata={"lucidworks": json.dumps(plain, sort_keys=True)})


def stored_chunk_schema(options: ChunkingOptions, dimension: int) -> pa.Schema:
    """
    The columns of the table ``chunks``: Delta tables have neither lists of a fixed size nor unsigned numbers.

    :param dimension: of the vectors, in the column's metadata.
    """
    import pyarrow as pa

    plain = chunk_schema(options, dimension, with_hash=True)
    kind = plain.field("vector").type.value_type
    stored = pa.list_(pa.field("element", pa.int16() if kind == pa.uint8() else kind, nullable=False))
    about = {"model_id": options.model_id, "quantization": options.quantization or "none"}
    if dimension:
        about["dimension"] = str(dimension)
    position = plain.get_field_index("vector")
    return plain.set(position, pa.field("vector", stored, False, about)).remove_metadata()


class ChunkColumns:
    """
    Collects the chunks of documents for a row group.

    Vectors are packed when they are added, so that they take as many bytes as in the file.

    :param with_hash: whether there is a column for the hash of the document.
    :param dimension: of the vectors, where it is known already.
    :param kept: types of the document's columns that are passed through.
    """

    def __init__(
        self,
        options: ChunkingOptions,
        *,
        with_hash: bool,
        dimension: int = 0,
        kept: Mapping[str, pa.DataType] | None = None,
    ) -> None:
        self._options = options
        self._with_hash = with_hash
        self._kept_types = kept or {}
        self._code = _CODES[BYTES[options.quantization][0] if options.quantization else "float32"]
        self._pack: Callable[..., bytes] | None = None
        self.dimension = dimension
        self._clear()

    def _clear(self) -> None:
        self._ids: list[str] = []
        self._indices: list[int] = []
        self._texts: list[str] = []
        self._spans: list[Span] = []
        # One buffer: thousands of small ones fragment the heap.
        self._vectors = bytearray()
        self._tokens: list[int | None] = []
        self._hashes: list[str] = []
        # Of each document, with its bytes, and the document of each chunk.
        self._kept: list[Any] = []
        self._kept_bytes: list[int] = []
        self._documents: list[int] = []
        self.nbytes = 0

    @property
    def rows(self) -> int:
        """Chunks since the last :meth:`take`; ``nbytes`` is about their size as columns."""
        return len(self._texts)

    @property
    def schema(self) -> pa.Schema:
        """By the options and the dimension."""
        return chunk_schema(self._options, self.dimension, with_hash=self._with_hash, kept=self._kept_types)

    def add(
        self,
        document_id: str,
        chunks: Sequence[Chunk],
        spans: Sequence[Span],
        content_hash: str = "",
        kept: Any = None,
    ) -> None:
        """
        Append a document's chunks.

        :param spans: one for each chunk.
        :param kept: the document's columns that are passed through; see :class:`~lucidworks_provider.jobs.rows.Rows`.
        :raises MalformedResponseError: vectors of another length than before, not of the requested quantisation or
            beyond float32, or a text that is not valid; then nothing was added.
        """
        if not chunks:
            return
        vectors = [chunk.vector for chunk in chunks]
        dimension = check_dimension(vectors, self.dimension, f"Document {document_id!r}")
        texts = [chunk.text for chunk in chunks]
        tokens = [chunk.input_tokens for chunk in chunks]
        try:
            size = len("".join(texts).encode()) + len(chunks) * len(document_id.encode())
            packed = self._packed(vectors, dimension, f"Document {document_id!r}")
        except (ValueError, OverflowError, struct.error) as err:
            raise unfit(document_id, str(err)) from err
        if not all(count is None or count in _TOKENS for count in tokens):
            raise unfit(document_id, "a number of tokens beyond 32 bits")
        count = len(chunks)
        self.dimension = dimension
        self._ids += [document_id] * count
        self._indices += range(count)
        self._texts += texts
        self._spans += spans
        for part in packed:
            self._vectors += part
        self._tokens += tokens
        if self._with_hash:
            self._hashes += [content_hash] * count
        if self._kept_types:
            self._documents += [len(self._kept)] * count
            self._kept.append(kept)
            self._kept_bytes.append(kept_bytes(kept))
            size += self._kept_bytes[-1] * count
        self.nbytes += size + sum(map(len, packed)) + count * (_ROW_BYTES + len(content_hash))

    def take(self) -> Iterator[pa.RecordBatch]:
        """Return and clear the chunks, in batches of :data:`GROUP_BYTES` of the columns that are passed through."""
        import pyarrow as pa

        if not self._texts:
            return
        schema = self.schema
        kind = schema.field("vector").type
        numbers = len(self._texts) * self.dimension
        flat = pa.Array.from_buffers(kind.value_type, numbers, [None, pa.py_buffer(self._vectors)])
        kept = [one.combine_chunks() for one in kept_arrays(self._kept, self._kept_types, "documents")]
        columns = [
            pa.array(self._ids, pa.string()),
            pa.array(self._indices, pa.int32()),
            pa.array(self._texts, pa.string()),
            pa.array([start for start, _ in self._spans], pa.int64()),
            pa.array([end for _, end in self._spans], pa.int64()),
            pa.FixedSizeListArray.from_arrays(flat, type=kind),
            pa.array(self._tokens, pa.int32()),
        ]
        if self._with_hash:
            columns.append(pa.array(self._hashes, pa.string()))
        documents, parts = self._documents, list(self._parts())
        self._clear()
        for start, end in parts:
            first, *others = (column.slice(start, end - start) for column in columns)
            places = pa.array(documents[start:end], pa.int64())
            repeated = [column.take(places) for column in kept]
            yield pa.RecordBatch.from_arrays([first, *repeated, *others], schema=schema)

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Start and end of the rows of each batch."""
        start = size = 0
        for row, document in enumerate(self._documents):
            if row > start and size + self._kept_bytes[document] > GROUP_BYTES:
                yield start, row
                start, size = row, 0
            size += self._kept_bytes[document]
        yield start, len(self._texts)

    def _packed(self, vectors: Sequence[Sequence[float]], dimension: int, what: str) -> list[bytes]:
        codes = {vector.typecode if isinstance(vector, array) else "" for vector in vectors}
        if codes in ({"d"}, {"q"}):
            groups = [vectors[at : at + _AT_ONCE] for at in range(0, len(vectors), _AT_ONCE)]
            code = codes.pop()
            try:
                return [self._converted(b"".join(group), code) for group in groups]  # type: ignore[arg-type]  # arrays
            except OverflowError:
                check_quantised(vectors, self._options.quantization, what)
                raise
        if self._pack is None or dimension != self.dimension:
            # "=" rejects numbers out of range; the native mode would store infinity.
            self._pack = struct.Struct(f"={dimension}{self._code}").pack
        pack = self._pack
        if self._code == "f":
            packed = [pack(*vector) for vector in vectors]
            if not all(math.isfinite(sum(vector)) or _finite(vector) for vector in vectors):
                raise ValueError("a value that is not a finite number")
            return packed
        try:
            return [pack(*vector) for vector in vectors]
        except struct.error:
            # Whole numbers may be written as 12.0.
            check_quantised(vectors, self._options.quantization, what)
            return [pack(*map(int, vector)) for vector in vectors]

    def _converted(self, numbers: bytes, code: str) -> bytes:
        """Like :meth:`_packed`, for the arrays of a large body; releases the GIL."""
        import pyarrow as pa
        import pyarrow.compute as pc

        count = len(numbers) // 8
        source = pa.float64() if code == "d" else pa.int64()
        target = pa.type_for_alias(_KINDS[self._code])
        flat = pa.Array.from_buffers(source, count, [None, pa.py_buffer(numbers)])
        try:
            # To float32 a number is rounded, which Arrow calls unsafe of a whole one; to a byte it must not be.
            flat = flat.cast(target, safe=self._code != "f")
        except pa.ArrowInvalid as err:
            raise OverflowError(str(err)) from err
        if self._code == "f" and not math.isfinite(pc.sum(flat).as_py()):
            raise OverflowError("a number beyond the range of float32")
        buffer = flat.buffers()[1]
        return bytes(memoryview(buffer)[: count * target.bit_width // 8])


def _finite(vector: Sequence[float]) -> bool:
    """For vectors whose sum overflows."""
    return all(map(math.isfinite, vector))


class ChunkParquet:
    """
    Writes chunks to the Parquet file of a task.

    :param kept: types of the document's columns that are passed through.
    """

    def __init__(self, path: Path, options: ChunkingOptions, kept: Mapping[str, pa.DataType]) -> None:
        self._columns = ChunkColumns(options, with_hash=False, kept=kept)
        self._writer = ParquetWriter(path, repeated=["document_id", *kept])

    def add(self, document_id: str, chunks: Sequence[Chunk], spans: Sequence[Span], kept: Any) -> None:
        """See :meth:`ChunkColumns.add`."""
        self._columns.add(document_id, chunks, spans, kept=kept)
        # Whole documents, so that memory is bounded by the largest one.
        if self._columns.rows >= GROUP_ROWS or self._columns.nbytes >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close(self._columns.schema)

    def _flush(self) -> None:
        import pyarrow as pa

        for batch in self._columns.take():
            self._writer.write(pa.Table.from_batches([batch]))
