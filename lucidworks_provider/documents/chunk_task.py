# SPDX-License-Identifier: Apache-2.0
"""
One chunking task: documents to jobs, jobs to bodies, bodies to a file.

The steps are here and the waiting is not, so that an operator can wait in a triggerer or in its worker.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from lucidworks_provider.api.chunking import Chunk, ChunkingOptions, check_text, read_result
from lucidworks_provider.api.jobs import JobState
from lucidworks_provider.api.messages import parse_object
from lucidworks_provider.documents.chunk_file import chunk_file
from lucidworks_provider.errors import (
    InputError,
    JobFailedError,
    LucidworksError,
    MalformedAnswerError,
    ResultGoneError,
    StorageError,
    SubmissionUnknownError,
)
from lucidworks_provider.jobs.ledger import Ledger
from lucidworks_provider.jobs.outcome import Outcome
from lucidworks_provider.jobs.record import JobRecord, fingerprint_of
from lucidworks_provider.storage import is_folder, remove

log = logging.getLogger(__name__)

# One task submits one after the other and keeps all ids in one record. A corpus needs a journal and a
# window of jobs in flight, and has an operator of its own.
MAX_DOCUMENTS = 500
MAX_TOTAL_BYTES = 50_000_000
# Times that a POST without an answer is repeated by the policy `resubmit`.
RESUBMISSIONS = 3
CORPUS_OPERATOR = "whole corpora are for LucidworksChunkDocumentsOperator, which a later release brings."
# Failures that an error message tells in full.
_TOLD = 5


@dataclass(frozen=True, slots=True)
class Document:
    """One text with the id that its chunks will carry."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class ChunkTask:
    """
    :param submit: performs the POST for one text and returns the job's id.
    :param resubmit_unknown: whether a POST without an answer is repeated (a job may then exist twice).
    """

    options: ChunkingOptions
    documents: tuple[Document, ...]
    result_uri: str
    ledger: Ledger
    submit: Callable[[str], str]
    resubmit_unknown: bool

    @property
    def fingerprint(self) -> str:
        """Of the options and every document; what was submitted under another one is not ours."""
        return fingerprint_of(self.options.as_json(), ((d.id, d.text) for d in self.documents))

    def submit_missing(self, record: JobRecord) -> JobRecord:
        """
        Submit every document that has no job yet.

        :raises StorageError: the place of the result cannot be written; found out before the first POST.
        :raises SubmissionUnknownError: by policy, where a POST's outcome is unknown.
        """
        if is_folder(self.result_uri):
            raise StorageError(f"{self.result_uri} is a folder; result_path must name a file.")
        if record.intent is not None:
            self._unknown(record.intent, "An earlier attempt ended during a submission.")
        missing = record.missing(len(self.documents))
        fresh = record.revision == 0
        # Also where nothing is missing: whoever collects must find the record of this very attempt.
        record = record.awaited()
        try:
            if fresh:
                # Bodies of another input may lie there.
                remove(self.ledger.bodies.folder)
            record = self.ledger.save(record.intending(missing[0]) if missing else record)
        except StorageError as err:
            raise StorageError(f"result_path {self.result_uri} cannot be written: {err}") from err
        for position, following in zip_longest(missing, missing[1:]):
            job_id = self._submit(record, position)
            # Logged first: if no storage takes the id, the log has it.
            log.info("Document %r: job %s", self.documents[position].id, job_id)
            record = self.ledger.save(record.submitted(position, job_id, then=following))
        return record

    def settle(self, record: JobRecord, outcome: Outcome) -> JobRecord:
        """
        Note what the wait has shown; afterwards some documents may be missing a job again.

        :raises JobFailedError: the service reports ERROR; a retry of the task submits those documents again.
        :raises ResultGoneError: a result is gone for the second time.
        """
        if outcome.failed:
            self.ledger.save(record.with_failed(outcome.failed))
            raise JobFailedError(self.describe(record, outcome.failed, outcome.messages, "failed"))
        for position in outcome.gone:
            record = self._again(record, position, outcome.messages.get(str(position), ""))
        return self.ledger.save(record) if outcome.gone else record

    def write(self, record: JobRecord) -> dict[str, Any]:
        """
        Write the result file from the bodies, then forget them.

        :return: the manifest.
        :raises JobFailedError: a body that says ERROR after all.
        :raises MalformedAnswerError: a result that does not fit together; its body is set aside.
        """
        short: list[str] = []
        with chunk_file(self.result_uri, self.options) as file:
            for position, document in enumerate(self.documents):
                chunks = self._read(record, position)
                try:
                    if not file.add(document.id, document.text, chunks):
                        short.append(document.id)
                except MalformedAnswerError as err:
                    raise self._unusable(record, position, err) from None
        if short:
            log.warning(
                "%s of %s documents are not covered to their end (first: %r): the service limits the chunks of "
                "a request by dimension and cuts silently. Split them, or quantise.",
                len(short),
                len(self.documents),
                short[0],
            )
        manifest = file.manifest.as_json()
        self.ledger.close(self.ledger.save(record.collected(manifest)))
        return manifest

    def _read(self, record: JobRecord, position: int) -> tuple[Chunk, ...]:
        """The chunks in a body. It was stored by its size, so what it says is read here for the first time."""
        bodies, job_id = self.ledger.bodies, record.jobs[position]
        body = bodies.take(position, job_id)
        if body is None:
            raise StorageError(
                f"{bodies.uri(position, job_id)} has vanished since it was written. A retry asks for the result "
                "again, and submits the document again if the service does not give it twice."
            )
        try:
            result = read_result(parse_object(body, f"Chunking job {job_id}"), job_id)
        except MalformedAnswerError as err:
            raise self._unusable(record, position, err) from None
        match result.state:
            case JobState.RESULT:
                return result.chunks
            case JobState.PENDING if result.chunks:
                log.warning("Job %s: read a result with the unknown status %r.", job_id, result.status)
                return result.chunks
            case JobState.FAILED:
                bodies.drop(position, job_id)
                self.ledger.save(record.with_failed([position]))
                raise JobFailedError(
                    self.describe(record, [position], {str(position): result.message}, "failed")
                )
        raise self._unusable(
            record, position, MalformedAnswerError(f"Its status is {result.status!r}.", status=200)
        )

    def _unusable(self, record: JobRecord, position: int, err: MalformedAnswerError) -> MalformedAnswerError:
        """Set a body aside that may be the only copy, and let a retry submit its document again."""
        kept = self.ledger.bodies.set_aside(position, record.jobs[position])
        self.ledger.save(record.with_failed([position]))
        return MalformedAnswerError(
            f"{self._name(record, position)}: {err} The answer is kept in {kept}; a retry submits again.",
            status=err.status,
        )

    def _submit(self, record: JobRecord, position: int) -> str:
        """The POST for one document, repeated where its outcome is unknown and the policy says so."""
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

        from lucidworks_provider.transport.retry import Wait

        retrying = Retrying(
            retry=retry_if_exception_type(SubmissionUnknownError),
            stop=stop_after_attempt(1 + RESUBMISSIONS if self.resubmit_unknown else 1),
            wait=Wait(),
            before_sleep=lambda state: self._unknown(
                position, str(state.outcome and state.outcome.exception())
            ),
            reraise=True,
        )
        try:
            return retrying(self.submit, self.documents[position].text)
        except SubmissionUnknownError as err:
            if not self.resubmit_unknown:
                self._unknown(position, str(err))
            tried = (
                f"Document {self.documents[position].id!r}: {1 + RESUBMISSIONS} submissions without an answer"
            )
            raise SubmissionUnknownError(
                f"{tried}; jobs may exist whose ids nobody knows. The last: {err}"
            ) from None
        except LucidworksError as err:
            # Nothing was submitted, for certain: the intent is withdrawn.
            self.ledger.save(record.awaited())
            err.args = (f"Document {self.documents[position].id!r}: {err}", *err.args[1:])
            raise

    def _unknown(self, position: int, what: str) -> None:
        """Apply the policy for a POST whose outcome is unknown."""
        document = self.documents[position].id
        if not self.resubmit_unknown:
            raise SubmissionUnknownError(
                f"Document {document!r}: {what} on_unknown_submission is 'fail', so it was not submitted again. "
                "Clear the task to do so."
            )
        log.warning("Document %r: %s Submitting again; the first job may be an orphan.", document, what)

    def _again(self, record: JobRecord, position: int, message: str) -> JobRecord:
        document, job_id = self.documents[position].id, record.jobs[position]
        if position in record.resubmitted:
            raise ResultGoneError(
                f"Document {document!r}: the result of job {job_id} has been handed out before and is not on "
                f"storage, for the second time. {message} Something else reads this application's jobs, or answers "
                "break on their way. A retry submits it again."
            )
        log.warning("Document %r: the result of job %s is gone; submitting once more.", document, job_id)
        return record.with_gone(position)

    def describe(
        self, record: JobRecord, positions: Sequence[int], messages: Mapping[str, str], what: str
    ) -> str:
        """
        Some documents with their jobs, for an error.

        :param messages: what was heard about some of them, by position.
        :param what: e.g. ``failed``.
        """
        told = []
        for position in positions[:_TOLD]:
            message = messages.get(str(position))
            told.append(self._name(record, position) + (f": {message}" if message else ""))
        if len(positions) > _TOLD:
            told.append(f"and {len(positions) - _TOLD} more")
        return f"{len(positions)} of {len(self.documents)} documents {what}: {'; '.join(told)}"

    def _name(self, record: JobRecord, position: int) -> str:
        return f"Document {self.documents[position].id!r} (job {record.jobs[position]})"


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
