# SPDX-License-Identifier: Apache-2.0
"""
One task of many jobs: parts of its input to jobs, jobs to bodies, bodies to a file.

The steps are here and the waiting is not, so that an operator can wait in a triggerer or in its worker.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar, Generic, TypeVar

from lucidworks_provider import metrics
from lucidworks_provider.client.api.jobs import JobKind, JobState
from lucidworks_provider.client.api.validation import refused
from lucidworks_provider.errors import (
    ContentEncodingError,
    EmptyResultError,
    JobFailedError,
    LucidworksError,
    MalformedAnswerError,
    NoJobIdError,
    ResultGoneError,
    StorageError,
    SubmissionUnknownError,
)
from lucidworks_provider.jobs.record import JobRecord
from lucidworks_provider.jobs.state_store import JobStateStore
from lucidworks_provider.jobs.watch import Outcome
from lucidworks_provider.storage import discard_folder, is_folder

log = logging.getLogger(__name__)

# Times that a POST without an answer is repeated by the policy `resubmit`.
RESUBMISSIONS = 3
# Failures that an error message tells in full.
_TOLD = 5

File = TypeVar("File")


@dataclass(frozen=True, slots=True)
class Read:
    """
    What a stored body says.

    :param status: the service's own word.
    :param value: the result, where it carries one.
    """

    state: JobState
    status: str
    message: str
    value: Any = None


@dataclass(frozen=True, slots=True)
class JobTask(ABC, Generic[File]):
    """
    What is the same for every kind of job.

    :param resubmit_unknown: whether a POST without an answer is repeated (a job may then exist twice).
    """

    kind: ClassVar[JobKind]
    # What a job is made of, in messages: "3 of 10 documents failed".
    parts: ClassVar[str]

    result_uri: str
    ledger: JobStateStore
    resubmit_unknown: bool

    @property
    @abstractmethod
    def count(self) -> int:
        """How many jobs the task needs; each has a position from 0."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Of everything that is submitted; what was submitted under another one is not ours."""

    @abstractmethod
    def name(self, position: int) -> str:
        """A part's name at the begin of a sentence."""

    @abstractmethod
    def submit(self, position: int) -> str:
        """Perform the POST for a part and return the job's id."""

    @abstractmethod
    def parse(self, body: bytes, position: int, job_id: str) -> Read:
        """Read a stored body; raises MalformedAnswerError."""

    @abstractmethod
    def open(self) -> AbstractContextManager[File]:
        """The result file; it takes its place when the block ends well."""

    @abstractmethod
    def add(self, file: File, position: int, value: Any) -> None:
        """Append a part's result to the file; raises MalformedAnswerError."""

    @abstractmethod
    def manifest(self, file: File) -> dict[str, Any]:
        """What the task returns, once the file stands."""

    def clean(self, text: str) -> str:
        """A text of the service without what must not be shown; the side that waits does not know it."""
        return text

    def submit_missing(self, record: JobRecord) -> JobRecord:
        """
        Submit every part that has no job yet.

        :raises StorageError: the place of the result cannot be written; found out before the first POST.
        :raises SubmissionUnknownError: by policy, where a POST's outcome is unknown.
        """
        if is_folder(self.result_uri):
            raise StorageError(f"{self.result_uri} is a folder; result_path must name a file.")
        if record.intent is not None:
            self._unknown(record.intent, "An earlier attempt ended during a submission.")
        missing = record.missing(self.count)
        # Also where nothing is missing: whoever collects must find the record of this very attempt.
        record = record.awaited()
        try:
            if not record.jobs:
                # Bodies of another input may be there.
                discard_folder(self.ledger.bodies.folder)
            record = self.ledger.save(record.intending(missing[0]) if missing else record)
        except StorageError as err:
            raise StorageError(f"result_path {self.result_uri} cannot be written: {err}") from err
        for position, following in zip_longest(missing, missing[1:]):
            job_id = self._submit(record, position)
            # Logged first: if no storage takes the id, the log has it.
            log.info("%s: job %s", self.name(position), job_id)
            record = self.ledger.save(record.submitted(position, job_id, then=following))
        return record

    def settle(self, record: JobRecord, outcome: Outcome) -> JobRecord:
        """
        Note what the wait has shown; afterwards some parts may be missing a job again.

        :raises JobFailedError: the service reports ERROR; a retry of the task submits those parts again.
        :raises EmptyResultError: a job is ready without a result.
        :raises ResultGoneError: a result is gone for the second time.
        """
        if outcome.failed:
            self.ledger.save(record.with_failed(outcome.failed))
            raise JobFailedError(self.describe(record, outcome.failed, outcome.messages, "failed"))
        if outcome.empty:
            raise EmptyResultError(self.describe(record, outcome.empty, outcome.messages, "have no result"))
        for position in outcome.gone:
            record = self.again(record, position, outcome.messages.get(str(position), ""))
        return self.ledger.save(record) if outcome.gone else record

    def write(self, record: JobRecord) -> dict[str, Any]:
        """
        Write the result file from the bodies, then forget them.

        :return: the manifest.
        :raises JobFailedError: a body that says ERROR after all.
        :raises EmptyResultError: a result without anything in it; its body stays.
        :raises MalformedAnswerError: results that are not what was asked for; all their bodies are set aside.
        """
        unusable: dict[int, MalformedAnswerError] = {}
        with self.open() as file:
            for position in range(self.count):
                try:
                    self.add(file, position, self._read(record, position))
                except MalformedAnswerError as err:
                    unusable[position] = err
            if unusable:
                raise self._unusable(record, unusable)
        manifest = self.manifest(file)
        self.ledger.close(record.collected(manifest))
        metrics.written(manifest)
        return manifest

    def _read(self, record: JobRecord, position: int) -> Any:
        """The result in a body. It was stored by its size, so what it says is read here for the first time."""
        bodies, job_id = self.ledger.bodies, record.jobs[position]
        body = bodies.take(position, job_id)
        if body is None:
            raise StorageError(
                f"{bodies.uri(position, job_id)} has vanished since it was written. A retry asks for the result "
                "again, and submits its input again if the service does not give it twice."
            )
        read = self.parse(body, position, job_id)
        match read.state:
            case JobState.RESULT:
                return read.value
            case JobState.PENDING if read.value:
                log.warning("Job %s: read a result with the unknown status %r.", job_id, read.status)
                return read.value
            case JobState.FAILED:
                bodies.drop(position, job_id)
                self.ledger.save(record.with_failed([position]))
                raise JobFailedError(
                    self.describe(record, [position], {str(position): read.message}, "failed")
                )
        raise EmptyResultError(
            f"{self._job(record, position)}: the status is {read.status!r}, without a result."
        )

    def _unusable(
        self, record: JobRecord, errors: Mapping[int, MalformedAnswerError]
    ) -> MalformedAnswerError:
        """Set bodies aside that may be the only copies, and let another attempt submit their parts again."""
        told = []
        for position, err in errors.items():
            kept = self.ledger.bodies.set_aside(position, record.jobs[position])
            told.append(f"{self._job(record, position)}: {err} The answer is kept in {kept}.")
        self.ledger.save(record.with_failed(list(errors)))
        # What is no JSON was cut on its way. Any other answer is paid for, and would be again.
        retryable = all(err.retryable for err in errors.values())
        more = f" And {len(told) - _TOLD} more." if len(told) > _TOLD else ""
        then = "A retry" if retryable else "Clearing the task"
        first = next(iter(errors.values()))
        error = MalformedAnswerError(
            f"{' '.join(told[:_TOLD])}{more} {then} submits again.", status=first.status
        )
        error.retryable = retryable
        return error

    def _submit(self, record: JobRecord, position: int) -> str:
        """The POST for one part, repeated where its outcome is unknown and the policy says so."""
        from tenacity import Retrying, retry_if_exception_type, stop_after_attempt

        from lucidworks_provider.client.http.retry import Wait

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
            job_id = retrying(self.submit, position)
            self._check_id(record, position, job_id)
            return job_id
        except (ContentEncodingError, NoJobIdError) as err:
            # The intent stays, as after a submission without an answer.
            err.args = (f"{self.name(position)}: {err}", *err.args[1:])
            raise
        except SubmissionUnknownError as err:
            if not self.resubmit_unknown:
                self._unknown(position, str(err))
            tried = f"{self.name(position)}: {1 + RESUBMISSIONS} submissions without an answer"
            raise SubmissionUnknownError(
                f"{tried}; jobs may exist whose ids nobody knows. The last: {err}"
            ) from None
        except LucidworksError as err:
            # Nothing was submitted, for certain: the intent is withdrawn.
            self.ledger.save(record.awaited())
            err.args = (f"{self.name(position)}: {err}", *err.args[1:])
            raise

    def _check_id(self, record: JobRecord, position: int, job_id: str) -> None:
        """
        Refuse an id that another part has: one of the two would get the other's result.

        :raises MalformedAnswerError: not retryable.
        """
        for other, held in record.jobs.items():
            if held == job_id and other != position and not self.same(position, other):
                raise refused(
                    f"The service answered the submission with job {job_id}, which is the job of {self.name(other)}"
                )

    def same(self, position: int, other: int) -> bool:
        """Whether two parts are the same to the service."""
        return False

    def _unknown(self, position: int, what: str) -> None:
        """Apply the policy for a POST whose outcome is unknown."""
        if not self.resubmit_unknown:
            raise SubmissionUnknownError(
                f"{self.name(position)}: {what} on_unknown_submission is 'fail', so it was not submitted again. "
                "Clear the task to do so."
            )
        log.warning("%s: %s Submitting again; the first job may be an orphan.", self.name(position), what)

    def again(self, record: JobRecord, position: int, message: str) -> JobRecord:
        """A result is gone: submit its part once more; raises ResultGoneError for the second time."""
        job_id = record.jobs[position]
        if position in record.resubmitted:
            raise ResultGoneError(
                f"{self.name(position)}: the result of job {job_id} has been handed out before and is not on "
                f"storage, for the second time. {message} Something else reads this application's jobs, or answers "
                "break on their way. A retry submits it again."
            )
        log.warning("%s: the result of job %s is gone; submitting once more.", self.name(position), job_id)
        return record.with_gone(position)

    def describe(
        self, record: JobRecord, positions: Sequence[int], messages: Mapping[str, str], what: str
    ) -> str:
        """
        Some parts with their jobs, for an error.

        :param messages: what was heard about some of them, by position.
        :param what: e.g. ``failed``.
        """
        told = []
        for position in positions[:_TOLD]:
            message = messages.get(str(position))
            told.append(self._job(record, position) + (f": {message}" if message else ""))
        if len(positions) > _TOLD:
            told.append(f"and {len(positions) - _TOLD} more")
        return f"{len(positions)} of {self.count} {self.parts} {what}: {'; '.join(told)}"

    def _job(self, record: JobRecord, position: int) -> str:
        return f"{self.name(position)} (job {record.jobs[position]})"
