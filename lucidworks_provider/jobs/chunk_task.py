# SPDX-License-Identifier: Apache-2.0
"""A task that chunks documents: one job for each of them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lucidworks_provider.client.api.chunking import ChunkingOptions, ChunkingResult, check_text, read_result
from lucidworks_provider.client.api.http import parse_object
from lucidworks_provider.client.api.jobs import CHUNKING, JobKind, JobState
from lucidworks_provider.client.api.validation import check_chunks
from lucidworks_provider.documents.document import Document
from lucidworks_provider.errors import InputError
from lucidworks_provider.jobs.chunk_file import ChunkFile, chunk_file
from lucidworks_provider.jobs.record import fingerprint_of
from lucidworks_provider.jobs.task import JobTask, Read

log = logging.getLogger(__name__)

# One task submits one after the other and keeps all ids in one record. A corpus has a journal, a window of
# jobs in flight and an operator of its own.
MAX_DOCUMENTS = 500
MAX_TOTAL_BYTES = 50_000_000
CORPUS_OPERATOR = "whole corpora are for LucidworksChunkCorpusOperator."


@dataclass(frozen=True, slots=True)
class ChunkTask(JobTask[ChunkFile]):
    """
    Documents to a file of chunks and vectors.

    :param post: performs the POST for one text and returns the job's id.
    :param lenient: warn where a result may be good.
    """

    kind: ClassVar[JobKind] = CHUNKING
    parts: ClassVar[str] = "documents"

    options: ChunkingOptions
    documents: tuple[Document, ...]
    post: Callable[[str], str]
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

    def submit(self, position: int) -> str:
        """Send the document's text."""
        return self.post(self.documents[position].text)

    def parse(self, body: bytes, position: int, job_id: str) -> Read:
        """The result."""
        result = read_result(parse_object(body, f"Chunking job {job_id}"), job_id)
        carries = result.chunks or result.state is JobState.RESULT
        return Read(result.state, result.status, result.message, result if carries else None)

    def same(self, position: int, other: int) -> bool:
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
            log.warning("Document %r: %s", document.id, warning)
        if checked.gap is not None:
            self._gaps[document.id] = checked.gap

    def manifest(self, file: ChunkFile) -> dict[str, Any]:
        """Counts and the address."""
        if self._gaps:
            first, gap = next(iter(self._gaps.items()))
            log.warning(
                "%s of %s documents are not covered by their chunks. The first: %r, %s. The service limits the "
                "chunks of a request by dimension and cuts silently: split long documents, or quantise.",
                len(self._gaps),
                len(self.documents),
                first,
                gap,
            )
        return file.manifest.as_json()


def _encodes(text: str) -> bool:
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def read_documents(documents: object, *, max_bytes: int) -> tuple[Document, ...]:
    """
    Check what an operator was given, before anything is sent.

    :param documents: a list of ``{"id": …, "text": …}``, or the same as JSON (a rendered template).
    :raises InputError: names the document.
    """
    if isinstance(documents, str):
        try:
            documents = json.loads(documents)
        except ValueError:
            raise InputError("documents is a text that is no JSON; use `| tojson` in a template.") from None
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
