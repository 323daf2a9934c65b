# SPDX-License-Identifier: Apache-2.0
"""What is checked of the chunks of one part, batch by batch."""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from lucidworks_provider.documents.chunk_columns import chunk_schema
from lucidworks_provider.documents.dataset import Part, Snapshot, below
from lucidworks_provider.storage import arrow_place, naming

if TYPE_CHECKING:
    import pyarrow as pa

# Of each kind of fault so many are named.
NAMED = 3
# Bytes of vectors that are decoded at once.
_BATCH_BYTES = 16_000_000
_MOST_ROWS = 8_192
# Start, end and digest of a chunk.
_SPAN = struct.Struct("<qq8s")


@dataclass
class Faults:
    """What is wrong, by kind: how many, and the first few of them."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, example: str) -> None:
        """
        :param kind: what is wrong, in the plural.
        :param example: where.
        """
        self.counts[kind] += 1
        named = self.examples.setdefault(kind, [])
        if len(named) < NAMED:
            named.append(example)

    def lines(self) -> Iterator[str]:
        """A line for each kind."""
        for kind, count in self.counts.items():
            more = ", …" if count > NAMED else ""
            yield f"{kind} ({count:,}): {', '.join(self.examples[kind])}{more}"


@dataclass(slots=True)
class Found:
    """
    The chunks of a document that stand together.

    :param spans: packed, for :func:`check_spans`; of documents that are not compared with their source, empty.
    """

    id: str
    content_hash: str
    chunks: int = 0
    spans: bytearray = field(default_factory=bytearray)


class RowChecks:
    """
    The rows of one part.

    :param found: is told each document, once all its chunks have been seen.
    :param compared: ids of documents whose spans will be compared with their source.
    """

    def __init__(
        self,
        part: Part,
        faults: Faults,
        found: Callable[[Found], None],
        compared: Container[str],
    ) -> None:
        self.chunks = self.tokens = self.unlocated = 0
        self._part = part
        self._faults = faults
        self._found = found
        self._compared = compared
        self._open: Found | None = None

    def add(self, batch: pa.RecordBatch) -> None:
        """Rows in their order in the file."""
        import pyarrow.compute as pc

        self.chunks += batch.num_rows
        self.tokens += pc.sum(batch.column("input_tokens")).as_py() or 0
        ids = batch.column("document_id").to_pylist()
        self._documents(batch, ids)
        self._spans(batch, ids)
        self._vectors(batch.column("vector"), ids)

    def close(self) -> None:
        """There are no more rows."""
        if self._open is not None:
            self._found(self._open)
            self._open = None

    def _documents(self, batch: pa.RecordBatch, ids: list[str]) -> None:
        numbers = batch.column("chunk_index").to_pylist()
        hashes = batch.column("content_hash").to_pylist()
        compared = {document_id for document_id in {*ids} if document_id in self._compared}
        texts: list[str] = batch.column("text").to_pylist() if compared else []
        starts, ends = (batch.column(name).to_pylist() if compared else [] for name in ("start", "end"))
        for row, document_id in enumerate(ids):
            one = self._open
            if one is None or one.id != document_id:
                self.close()
                one = self._open = Found(document_id, hashes[row])
            if numbers[row] != one.chunks:
                self._fault("chunks whose chunk_index is not one above that before", document_id)
            if hashes[row] != one.content_hash:
                self._fault("chunks with another content_hash than those of the same document", document_id)
            one.chunks = numbers[row] + 1
            if document_id in compared and starts[row] is not None and ends[row] is not None:
                one.spans += _SPAN.pack(starts[row], ends[row], _digest(texts[row]))

    def _spans(self, batch: pa.RecordBatch, ids: list[str]) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        start, end = batch.column("start"), batch.column("end")
        self.unlocated += start.null_count
        # The text between is the chunk, so they are of one length: this needs no source.
        wrong = pc.or_(
            pc.less(start, pa.scalar(0, pa.int64())),
            pc.not_equal(pc.subtract(end, start), pc.cast(pc.utf8_length(batch.column("text")), pa.int64())),
        )
        wrong = pc.or_(pc.fill_null(wrong, False), pc.xor(pc.is_null(start), pc.is_null(end)))
        for row in pc.indices_nonzero(wrong).to_pylist():
            self._fault("spans that are not as long as their chunks", ids[row])

    def _vectors(self, vectors: pa.Array, ids: list[str]) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        for row in pc.indices_nonzero(pc.is_null(vectors)).to_pylist():
            self._fault("chunks without a vector", ids[row])
        if vectors.null_count or not len(vectors) or not vectors.type.list_size:
            return
        size, flat = vectors.type.list_size, vectors.flatten()
        if pa.types.is_floating(flat.type) and not pc.all(pc.is_finite(flat), skip_nulls=False).as_py():
            bad = pc.indices_nonzero(pc.invert(pc.fill_null(pc.is_finite(flat), False))).to_pylist()
            for row in sorted({place // size for place in bad}):
                self._fault("vectors with a number that is not finite", ids[row])
        # Few vectors begin with a zero, and only those can be all zeros.
        first = pc.equal(pc.list_element(vectors, 0), pa.scalar(0, flat.type))
        for row in pc.indices_nonzero(pc.fill_null(first, False)).to_pylist():
            if not any(flat.slice(row * size, size).to_pylist()):
                self._fault("vectors that are all zeros", ids[row])

    def _fault(self, kind: str, document_id: str) -> None:
        self._faults.add(kind, f"{document_id!r} in {self._part.data}")


def check_spans(packed: bytes, text: str) -> int:
    """
    How many chunks are not what stands between their span.

    :param packed: :attr:`Found.spans`.
    :param text: of the document.
    """
    wrong = 0
    for start, end, digest in _SPAN.iter_unpack(packed):
        wrong += not 0 <= start <= end <= len(text) or _digest(text[start:end]) != digest
    return wrong


def chunk_batches(
    output: str, part: Part, snapshot: Snapshot, faults: Faults
) -> Iterator[pa.RecordBatch] | None:
    """
    The rows of a part, or None where its columns are not those of the dataset.

    :raises StorageError: it cannot be read; at once, or while it is read.
    """
    import pyarrow.parquet as pq

    uri = below(output, part.data)
    with naming("read", uri):
        filesystem, path = arrow_place(uri)
        parquet = pq.ParquetFile(path, filesystem=filesystem, page_checksum_verification=True)
        size = filesystem.info(path)["size"] if hasattr(filesystem, "info") else _size(filesystem, path)
    if size != part.bytes:
        faults.add("files of another size than the snapshot says", f"{part.data} ({size:,} bytes)")
    wrong = _columns_wrong(parquet.schema_arrow, snapshot, empty=not parquet.metadata.num_rows)
    if wrong:
        faults.add("files with other columns than the snapshot says", f"{part.data} ({wrong})")
        parquet.close()
        return None
    return _rows(parquet, uri, _batch_rows(snapshot.dimension))


def _rows(parquet: Any, uri: str, rows: int) -> Iterator[pa.RecordBatch]:
    with parquet:
        # Asked for all of them at once, pyarrow reads ahead: 237 MB for a file of 200 MB, instead of 66 MB.
        for group in range(parquet.num_row_groups):
            batches = parquet.iter_batches(batch_size=rows, row_groups=[group], use_threads=False)
            yield from guarded(batches, uri)


def guarded(batches: Iterator[pa.RecordBatch], uri: str) -> Iterator[pa.RecordBatch]:
    """
    The same, with errors that name the file.

    :raises StorageError: it cannot be read.
    """
    while True:
        with naming("read", uri):
            batch = next(batches, None)
            if batch is None:
                return
            # Texts that are no UTF-8 would fail later, where nobody knows the file.
            batch.validate(full=True)
        yield batch


def _columns_wrong(schema: pa.Schema, snapshot: Snapshot, *, empty: bool) -> str:
    """The first column that is not what the snapshot's options make it, or an empty string."""
    wanted = chunk_schema(snapshot.options, snapshot.dimension, with_hash=True)
    if list(schema.names) != list(wanted.names):
        return ", ".join(schema.names)
    for ours, theirs in zip(wanted, schema, strict=True):
        # The vectors of a file without rows have no length.
        if _kind(ours.type) != _kind(theirs.type) and not (empty and ours.name == "vector"):
            return f"{ours.name} is {_kind(theirs.type)}, not {_kind(ours.type)}"
    try:
        options = json.loads((schema.metadata or {}).get(b"lucidworks", b"null"))
    except ValueError:
        options = None
    return "" if options == json.loads(json.dumps(dict(snapshot.options))) else "made with other options"


def _kind(kind: pa.DataType) -> str:
    # What the values of a list are called differs between versions of pyarrow.
    size = getattr(kind, "list_size", None)
    return str(kind) if size is None else f"{kind.value_type}[{size}]"


def _size(filesystem: Any, path: str) -> int:
    return int(filesystem.get_file_info([path])[0].size)


def _batch_rows(dimension: int) -> int:
    return max(1, min(_MOST_ROWS, _BATCH_BYTES // (4 * max(dimension, 1))))


def _digest(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=8).digest()
