# SPDX-License-Identifier: Apache-2.0
"""
A task that chunks documents: one job for each, and a file of chunks and vectors, Parquet or JSON Lines by its suffix.

The columns are those of :mod:`~lucidworks_provider.jobs.columns`, without the hash. A document that cannot be
sent has no row.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from lucidworks_provider.client.chunking import (
    Chunk,
    ChunkingOptions,
    ChunkingResult,
    read_result,
)
from lucidworks_provider.client.http.messages import parse_object
from lucidworks_provider.client.jobs import CHUNKING, JobKind, JobState
from lucidworks_provider.client.validation import Span, check_chunks, check_dimension, check_quantised, unfit
from lucidworks_provider.documents.document import check_id
from lucidworks_provider.errors import InputError
from lucidworks_provider.jobs.rows import (
    Batches,
    Rejected,
    RowRules,
    Rows,
    kept_values,
    repeated,
)
from lucidworks_provider.jobs.task import BatchTask, JsonLinesWriter, ParsedBody, ResultFile, closing_file
from lucidworks_provider.metrics import count
from lucidworks_provider.storage import writing
from lucidworks_provider.threads import in_thread

if TYPE_CHECKING:
    import pyarrow as pa

    from lucidworks_provider.jobs.columns import ChunkParquet

log = logging.getLogger(__name__)

# Each document is a job. The catalogue operator compares, resumes and limits more of them.
MAX_DOCUMENTS = 10_000
# Columns of the result beside `document_id` and those that are passed through.
COLUMNS = frozenset({"chunk_index", "text", "start", "end", "vector", "input_tokens"})


class ChunkFile(ResultFile):
    """
    Writes documents and counts them.

    The manifest has ``documents``, ``chunks``, ``dimension`` (length of every vector, 0 if there is none), ``tokens``
    (sum of the input tokens that the service reported), and ``rejected`` documents, if there are any.
    """

    def __init__(
        self, uri: str, path: Path, options: ChunkingOptions, kept: Mapping[str, pa.DataType]
    ) -> None:
        super().__init__(uri=uri, documents=0, chunks=0, dimension=0, tokens=0, rejected=None)
        self._writer: ChunkParquet | _ChunkLines
        if uri.endswith(".parquet"):
            from lucidworks_provider.jobs.columns import ChunkParquet

            self._writer = ChunkParquet(path, options, kept)
        else:
            self._writer = _ChunkLines(path, options)

    def add(self, document_id: str, chunks: Sequence[Chunk], spans: Sequence[Span], kept: Any = None) -> None:
        """
        Append a document's chunks.

        :param kept: its columns that are passed through; see :class:`~lucidworks_provider.jobs.rows.Rows`.
        :raises MalformedResponseError: vectors of another length than before, not of the requested quantisation, or
            with values that the file cannot store.
        """
        counts = self.counts
        self._writer.add(document_id, chunks, spans, kept)
        counts["dimension"] = len(chunks[0].vector) if chunks else counts["dimension"]
        counts["documents"] += 1
        counts["chunks"] += len(chunks)
        counts["tokens"] += sum(chunk.input_tokens or 0 for chunk in chunks)

    def close(self) -> None:
        self._writer.close()


class _ChunkLines(JsonLinesWriter):
    """Writes chunks to a file of JSON Lines."""

    def __init__(self, path: Path, options: ChunkingOptions) -> None:
        super().__init__(path)
        self._quantization = options.quantization
        self._dimension = 0

    def add(self, document_id: str, chunks: Sequence[Chunk], spans: Sequence[Span], kept: Any) -> None:
        vectors, what = [chunk.vector for chunk in chunks], f"Document {document_id!r}"
        dimension = check_dimension(vectors, self._dimension, what)
        check_quantised(vectors, self._quantization, what)
        try:
            self.write(_json_rows(document_id, chunks, spans, kept))
        except UnicodeEncodeError as err:
            raise unfit(document_id, str(err)) from err
        self._dimension = dimension


def _json_rows(
    document_id: str, chunks: Sequence[Chunk], spans: Sequence[Span], kept: Any
) -> Iterator[dict[str, Any]]:
    named = {"document_id": document_id}
    for values in kept_values([] if kept is None else [kept], f"Document {document_id!r}"):
        named |= {name: value for name, value in values.items() if name != "document_id"}
    for index, (chunk, (start, end)) in enumerate(zip(chunks, spans, strict=True)):
        yield {
            **named,
            "chunk_index": index,
            "text": chunk.text,
            "start": start,
            "end": end,
            "vector": list(chunk.vector),
            "input_tokens": chunk.input_tokens,
        }


@contextmanager
def chunk_file(
    uri: str, options: ChunkingOptions, kept: Mapping[str, pa.DataType] | None = None
) -> Iterator[ChunkFile]:
    """
    Open a file that is published when the block ends without an error.

    :param kept: types of the key and the other columns that are passed through, for Parquet.
    """
    with writing(uri) as path, closing_file(ChunkFile(uri, path, options, kept or {})) as file:
        yield file


class DocumentIds:
    """
    The ids of a task's documents.

    :param key: column of the ids; None for the positions of the rows.
    :param argument: of the operator, for messages.
    """

    def __init__(self, key: str | None, argument: str) -> None:
        self._key = key
        self._argument = argument
        self._seen: set[str] = set()
        # Of the documents that are sent: id, and digest of the text.
        self.sent: list[tuple[str, bytes]] = []
        self.nbytes = 0

    def add(self, rows: Rows, start: int) -> None:
        """
        Add the documents of some rows.

        :param start: position of the first row.
        :raises InputError: a document has no valid id, or that of another one.
        """
        if len(self.sent) > MAX_DOCUMENTS:
            return  # too many, which is an error when all are counted
        ids = (
            [str(number) for number in range(start, start + len(rows.inputs))]
            if self._key is None
            else [
                self._id(value, f"{self._argument}[{number}]")
                for number, value in enumerate(rows.values(self._key, self._argument), start)
            ]
        )
        for number, (document_id, one) in enumerate(zip(ids, rows.inputs, strict=True), start):
            if document_id in self._seen:
                raise InputError(repeated(f"{self._argument}[{number}]", self._key, document_id))
            self._seen.add(document_id)
            if not isinstance(one, Rejected):
                text = one["text"].encode()
                self.nbytes += len(text)
                self.sent.append((document_id, sha256(text).digest()))

    def _id(self, value: Any, what: str) -> str:
        if value is None:
            raise InputError(
                f"{what} has no {self._key!r}. Give each document an id of its own, or set id_column=None to number "
                "them."
            )
        if isinstance(value, bool | list | dict):
            raise InputError(f"{what} has the {self._key} {value!r}; give it a text or a number.")
        if wrong := check_id(str(value)):
            raise InputError(f"{what} has the {self._key} {value!r:.80}. {wrong}")
        return str(value)


def row_rules(ids: DocumentIds, max_bytes: int) -> RowRules:
    """
    What chunking requires of its rows.

    :param ids: notes those of all rows.
    """

    def check(wire: Mapping[str, Any], what: str) -> None:
        if others := ", ".join(str(name) for name in wire if name != "text"):
            raise InputError(
                f"{what} has {others}; a document has an id, a text, and what columns names. See id_column and "
                "text_column."
            )

    row = "{'id': …, 'text': …}"
    return RowRules(check, max_bytes=max_bytes, limit_name="max_text_bytes=", add=ids.add, row=row)


def check_documents(batches: Batches) -> None:
    """:raises InputError: more documents than a task takes."""
    if len(batches) > MAX_DOCUMENTS:
        raise InputError(
            f"{len(batches):,} documents are more than the maximum per task ({MAX_DOCUMENTS:,}). Map the operator "
            "over parts of them (`.expand`); whole corpora are for LucidworksChunkCorpusOperator."
        )


@dataclass(frozen=True, slots=True)
class ChunkTask(BatchTask[ChunkFile]):
    """
    One job for each document, which is a batch, and a file of chunks and vectors.

    :param ids: of the documents.
    :param lenient: warn about results that may be valid.
    """

    kind: ClassVar[JobKind] = CHUNKING
    noun: ClassVar[str] = "documents"

    options: ChunkingOptions
    ids: DocumentIds
    lenient: bool = False
    # Ids of documents whose chunks do not cover their text, with what is missing.
    _gaps: dict[str, str] = field(default_factory=dict, init=False)

    def name(self, position: int) -> str:
        return f"Document {self.ids.sent[position][0]!r}"

    def log_input(self) -> None:
        """The documents, and those that are not sent."""
        survey = self.batches.survey
        log.info(
            "Read %s of %s%s.",
            count(survey.sent, "document"),
            count(self.ids.nbytes, "byte"),
            f" from {self.batches.uri}" if self.batches.uri else "",
        )
        if survey.rejected:
            log.warning("%s They are not in the result.", survey.summary())

    async def submit(self, position: int) -> str:
        from lucidworks_provider.client.chunking import submit_text

        text, _ = await in_thread(self._document, position)
        return await self.hook.acall(submit_text(self.options, text))

    def _document(self, position: int) -> tuple[str, Any]:
        """The text and the columns that are passed through."""
        batch = self._reader.get(position)
        place = next(place for place, one in enumerate(batch.inputs) if not isinstance(one, Rejected))
        return batch.sent[0]["text"], batch.kept_of(place)

    def parse(self, body: bytes, position: int, job_id: str) -> ParsedBody:
        result = read_result(parse_object(body, f"Chunking job {job_id}"), job_id)
        has_result = result.chunks or result.state is JobState.RESULT
        return ParsedBody(result.state, result.status, result.message, result if has_result else None)

    def same_input(self, position: int, other: int) -> bool:
        return self.ids.sent[position][1] == self.ids.sent[other][1]

    @contextmanager
    def open(self) -> Iterator[ChunkFile]:
        with chunk_file(self.result_uri, self.options, self.batches.survey.types) as file:
            yield file
            file.counts["rejected"] = self.batches.survey.rejected or None
            self.check_input()
            self._warn_of_gaps(file)

    def add(self, file: ChunkFile, position: int, value: ChunkingResult) -> None:
        """Append a document's chunks, if they are of its text."""
        document_id, (text, kept) = self.ids.sent[position][0], self._document(position)
        checked = check_chunks(text, self.options, value, lenient=self.lenient)
        if file.fits(position, len(value.chunks[0].vector)):
            file.add(document_id, value.chunks, checked.spans, kept)
        for warning in checked.warnings:
            file.warn("Document %r: %s", document_id, warning)
        if checked.gap is not None:
            self._gaps[document_id] = checked.gap

    def _warn_of_gaps(self, file: ChunkFile) -> None:
        if self._gaps:
            first, gap = next(iter(self._gaps.items()))
            file.warn(
                "The chunks of %s of %s documents do not cover the text. The first: %r, %s. The service limits the "
                "chunks of a request by dimension and silently drops the rest: split long documents, or quantise the "
                "vectors.",
                len(self._gaps),
                self.count,
                first,
                gap,
                results=len(self._gaps),
            )
