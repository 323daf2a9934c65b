# SPDX-License-Identifier: Apache-2.0
"""
A task that chunks documents: one job for each, and a file of chunks and vectors, Parquet or JSON Lines by its suffix.

The columns are those of :mod:`~lucidworks_provider.jobs.chunk_columns`, without the hash.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from lucidworks_provider.client.chunking import (
    Chunk,
    ChunkingOptions,
    ChunkingResult,
    check_text,
    read_result,
)
from lucidworks_provider.client.http.messages import parse_object
from lucidworks_provider.client.jobs import CHUNKING, JobKind, JobState
from lucidworks_provider.client.validation import Span, check_chunks
from lucidworks_provider.documents.document import Document
from lucidworks_provider.errors import InputError
from lucidworks_provider.jobs.chunk_columns import (
    ChunkColumns,
    check_dimension,
    check_quantised,
    chunk_schema,
    unfit,
)
from lucidworks_provider.jobs.progress import count
from lucidworks_provider.jobs.record import fingerprint_of
from lucidworks_provider.jobs.task import JobTask, ParsedBody
from lucidworks_provider.storage import writing

if TYPE_CHECKING:
    import pyarrow.parquet as pq

log = logging.getLogger(__name__)

# A task has all ids in one record, which is written after each few responses.
MAX_DOCUMENTS = 500
MAX_TOTAL_BYTES = 50_000_000
CORPUS_OPERATOR = "whole corpora are for LucidworksChunkCorpusOperator."


@dataclass(slots=True)
class Manifest:
    """
    What a task returns.

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


class ChunkFile:
    """Writes documents and counts them."""

    def __init__(self, writer: _Writer, manifest: Manifest) -> None:
        self._writer = writer
        self.manifest = manifest

    def add(self, document_id: str, chunks: Sequence[Chunk], spans: Sequence[Span]) -> None:
        """
        Append a document's chunks.

        :raises MalformedAnswerError: vectors of another length than before, not of the requested quantisation, or
            with values that the file cannot store.
        """
        self._writer.add(document_id, chunks, spans)
        manifest = self.manifest
        manifest.dimension = len(chunks[0].vector) if chunks else manifest.dimension
        manifest.documents += 1
        manifest.chunks += len(chunks)
        manifest.tokens += sum(chunk.input_tokens or 0 for chunk in chunks)


@contextmanager
def chunk_file(uri: str, options: ChunkingOptions) -> Iterator[ChunkFile]:
    """Open a file that is published when the block ends without an error."""
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

    # Small documents share a row group: many tiny groups are slow to read.
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
        """Create the schema, once the length of the vectors is known."""
        import pyarrow.parquet as pq

        if self._writer is None:
            schema = chunk_schema(self._options, self._columns.dimension, with_hash=False)
            # Texts and vectors do not repeat: dictionaries of them take three times as long to write.
            self._writer = pq.ParquetWriter(
                self._path, schema, compression="zstd", use_dictionary=["document_id"]
            )
        return self._writer

    def _flush(self) -> None:
        batch = self._columns.take()
        if batch is not None:
            self._open().write_batch(batch)


@dataclass(frozen=True, slots=True)
class ChunkTask(JobTask[ChunkFile]):
    """
    One job for each document, and a file of chunks and vectors.

    :param max_bytes: of a text.
    :param lenient: warn about results that may be valid.
    """

    kind: ClassVar[JobKind] = CHUNKING
    parts: ClassVar[str] = "documents"

    options: ChunkingOptions
    documents: tuple[Document, ...]
    max_bytes: int
    lenient: bool = False
    # Ids of documents whose chunks do not cover their text, with what is missing.
    _gaps: dict[str, str] = field(default_factory=dict, init=False)

    @property
    def count(self) -> int:
        """One job for each document."""
        return len(self.documents)

    @property
    def fingerprint(self) -> str:
        """Of the options and every document."""
        return fingerprint_of(self.options.as_json(), ((d.id, d.text) for d in self.documents))

    def name(self, position: int) -> str:
        """By the caller's id."""
        return f"Document {self.documents[position].id!r}"

    def log_input(self) -> None:
        """The documents."""
        size = sum(len(document.text.encode()) for document in self.documents)
        log.info("Read %s of %s.", count(self.count, "document"), count(size, "byte"))

    async def submit(self, position: int) -> str:
        """Send the document's text."""
        from lucidworks_provider.client.chunking import submit_text

        text = self.documents[position].text
        return await self.hook.acall(submit_text(self.options, text, max_bytes=self.max_bytes))

    def parse(self, body: bytes, position: int, job_id: str) -> ParsedBody:
        """The result."""
        result = read_result(parse_object(body, f"Chunking job {job_id}"), job_id)
        has_result = result.chunks or result.state is JobState.RESULT
        return ParsedBody(result.state, result.status, result.message, result if has_result else None)

    def same_input(self, position: int, other: int) -> bool:
        """By the text."""
        return self.documents[position].text == self.documents[other].text

    def open(self) -> AbstractContextManager[ChunkFile]:
        """The file of chunks."""
        return chunk_file(self.result_uri, self.options)

    def add(self, file: ChunkFile, position: int, value: ChunkingResult) -> None:
        """Append a document's chunks, if they are of its text."""
        document = self.documents[position]
        checked = check_chunks(document.text, self.options, value, lenient=self.lenient)
        file.add(document.id, value.chunks, checked.spans)
        for warning in checked.warnings:
            self.warnings.add("Document %r: %s", document.id, warning)
        if checked.gap is not None:
            self._gaps[document.id] = checked.gap

    def manifest(self, file: ChunkFile) -> dict[str, Any]:
        """Counts and the address."""
        if self._gaps:
            first, gap = next(iter(self._gaps.items()))
            self.warnings.add(
                "%s of %s documents are not covered by their chunks. The first: %r, %s. The service limits the "
                "chunks of a request by dimension and cuts silently: split long documents, or quantise.",
                len(self._gaps),
                len(self.documents),
                first,
                gap,
                results=len(self._gaps),
            )
        return {**file.manifest.as_json(), "warnings": self.warnings.count}


def _encodes(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def read_documents(documents: object, *, max_bytes: int) -> tuple[Document, ...]:
    """
    Validate an operator's argument, before anything is sent.

    :param documents: a list of ``{"id": …, "text": …}``, or the same as JSON (a rendered template).
    :raises InputError: names the document.
    """
    if isinstance(documents, str):
        try:
            documents = json.loads(documents)
        except ValueError:
            raise InputError("documents is a text that is not JSON; use `| tojson` in a template.") from None
    if not isinstance(documents, Sequence) or not documents:
        raise InputError("documents must be a list of {'id': …, 'text': …} with at least one element.")
    if len(documents) > MAX_DOCUMENTS:
        raise InputError(
            f"{len(documents):,} documents are more than one task takes ({MAX_DOCUMENTS:,}). Map the operator "
            f"over parts of them (`.expand`); {CORPUS_OPERATOR}"
        )
    checked: dict[str, Document] = {}
    total = 0
    for position, given in enumerate(documents):
        if not isinstance(given, Mapping) or set(given) != {"id", "text"}:
            raise InputError(f"documents[{position}] must be a dictionary of 'id' and 'text', and no more.")
        document_id = given["id"]
        is_id = isinstance(document_id, str | int) and not isinstance(document_id, bool)
        if not is_id or not str(document_id).strip() or not _encodes(str(document_id)):
            raise InputError(f"documents[{position}] has the id {document_id!r}; give it a text or a number.")
        document = Document(str(document_id), given["text"])
        if document.id in checked:
            raise InputError(f"documents[{position}] has the id {document.id!r} of an earlier one.")
        total += check_text(document.text, f"Document {document.id!r}", max_bytes=max_bytes)
        checked[document.id] = document
    if total > MAX_TOTAL_BYTES:
        raise InputError(
            f"The documents have {total:,} bytes together, more than one task takes ({MAX_TOTAL_BYTES:,}). Map "
            f"the operator over parts of them (`.expand`); {CORPUS_OPERATOR}"
        )
    return tuple(checked.values())
