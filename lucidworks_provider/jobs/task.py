# SPDX-License-Identifier: Apache-2.0
"""
A task of many jobs: submit the parts of its input, collect the bodies, write the result file.

Waiting is not part of it: an operator waits in a triggerer or in its worker.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from lucidworks_provider import metrics
from lucidworks_provider.client.http.messages import unusable_result
from lucidworks_provider.client.jobs import JobKind, JobState
from lucidworks_provider.client.validation import rarer_lengths
from lucidworks_provider.errors import (
    BudgetExceededError,
    ContentEncodingError,
    EmptyResultError,
    InputError,
    JobFailedError,
    LucidworksError,
    MalformedResponseError,
    NoJobIdError,
    ResultGoneError,
    StorageError,
    SubmissionUnknownError,
    TooManyRejectsError,
    check_documents_extra,
)
from lucidworks_provider.jobs.decisions import WINDOW, JobsOutcome
from lucidworks_provider.jobs.record import JobRecord, JobStateStore, QuarantineReason
from lucidworks_provider.jobs.rows import Batches, BatchReader
from lucidworks_provider.metrics import count, duration
from lucidworks_provider.retrying import LONGEST_RETRY_AFTER, retry_async, retry_on, wait_after
from lucidworks_provider.storage import is_folder
from lucidworks_provider.threads import in_thread, read_ahead

if TYPE_CHECKING:
    from lucidworks_provider.client.chunking import ChunkingOptions
    from lucidworks_provider.client.use_cases import PredictionOptions
    from lucidworks_provider.jobs.polling import AsyncHook

log = logging.getLogger(__name__)

# Jobs of a task: a process that resumes reads their ids, 64 parts of the record, and lists their bodies.
MAX_JOBS = 32_000
# POSTs in flight: the connections of a loop's client. A killed process loses the ids of so many jobs at most.
SUBMISSIONS = 8
# Times that a POST without a response is repeated by the policy `resubmit`.
RESUBMISSIONS = 3
# Bytes of bodies that are read ahead of the result file.
_READ_AHEAD_BYTES = 32_000_000
# Failures that an error message describes.
_DESCRIBED = 5

# Errors of a POST that may have created a job with an unknown id: its intent stays.
JOB_POSSIBLE = (ContentEncodingError, NoJobIdError, SubmissionUnknownError)

SUFFIXES = (".parquet", ".jsonl")


class ResultFile:
    """
    The result of a task.

    :param counts: of the manifest, and the URI; those that are None are left out.
    :ivar failed: positions of the parts whose results have errors of the service.
    """

    def __init__(self, **counts: Any) -> None:
        self.counts = counts
        self.failed: set[int] = set()
        self._lengths: dict[int, int] = {}
        self._warnings = 0

    def warn(self, message: str, *values: object, results: int = 1) -> None:
        """
        Log a warning about results that are accepted, and count it for the manifest and the metrics.

        :param results: that it is about.
        """
        self._warnings += results
        log.warning(message, *values)

    def fits(self, position: int, length: int) -> bool:
        """
        Note the length of a result's vectors.

        :param length: 0 where it has none.
        :return: whether it is that of the first one. The rows of another one are not written, and the file is not
            published: which results are wrong is known at the end.
        """
        if length:
            self._lengths[position] = length
        return not length or length == next(iter(self._lengths.values()))

    def outliers(self) -> dict[int, MalformedResponseError]:
        """Errors for the results whose vectors have another length than most, by position."""
        return rarer_lengths(self._lengths)

    def close(self) -> None:
        """Write what is left."""

    @property
    def manifest(self) -> dict[str, Any]:
        counts = {name: value for name, value in self.counts.items() if value is not None}
        return counts | {"warnings": self._warnings}


File = TypeVar("File", bound=ResultFile)


@contextmanager
def closing_file(file: File) -> Iterator[File]:
    """Close a file at the end. After an error, e.g. of a full disk, closing fails with another one."""
    try:
        yield file
    except BaseException:
        with suppress(Exception):
            file.close()
        raise
    file.close()


class JsonLinesWriter:
    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """
        Append all rows, or none.

        :raises UnicodeEncodeError: a text holds half a surrogate pair.
        """
        start = self._file.tell()
        try:
            # Row by row: each chunk of a document repeats the document's columns.
            for row in rows:
                self._file.write(f"{json.dumps(row, ensure_ascii=False)}\n".encode())
        except BaseException:
            self._file.seek(start)
            self._file.truncate()
            raise

    def close(self) -> None:
        self._file.close()


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ParsedBody:
    """
    :param status: the service's own word.
    :param value: the result, if the body has one.
    """

    state: JobState
    status: str
    message: str
    value: Any = None


class ProgressLog:
    """
    Logs the progress of requests every few seconds.

    :param verb: e.g. ``Predicted``.
    :param noun: e.g. ``input``.
    """

    EVERY = 10.0

    def __init__(self, verb: str, noun: str, total: int) -> None:
        self._verb, self._noun, self._total = verb, noun, total
        self.done = self._kept = 0
        self._began = self._logged = time.monotonic()

    def add(self, number: int, *, kept: bool = False) -> None:
        """:param kept: an earlier attempt did it, so it does not count for the rate."""
        self.done += number
        self._kept += number * kept
        now = time.monotonic()
        if now - self._logged < self.EVERY or self.done >= self._total:
            return
        self._logged = now
        rate = (self.done - self._kept) / (now - self._began)
        left = f", {duration((self._total - self.done) / rate)} left" if rate else ""
        log.info("%s %s, %.1f/s%s.", self._verb, self._counted(), rate, left)

    def end(self) -> None:
        """Log what was done, if there was anything to do."""
        if self._total:
            took = duration(time.monotonic() - self._began)
            log.info("%s %s in %s.", self._verb, self._counted(), took)

    def _counted(self) -> str:
        of = "" if self.done == self._total else f"{self.done:,} of "
        return of + count(self._total, self._noun)


@dataclass(slots=True)
class Budget:
    """
    What one attempt of a task may send; None is no limit.

    :param max_requests: known before the first request. Retries of a request do not count.
    :param max_tokens: known as responses arrive, so those in flight when it is reached are paid for as well.
    :param tokens: of the responses so far.
    """

    max_requests: int | None = None
    max_tokens: int | None = None
    tokens: int = 0

    def check_requests(self, requests: int) -> None:
        """:raises BudgetExceededError: before anything is sent."""
        if self.max_requests is not None and requests > self.max_requests:
            raise BudgetExceededError(
                f"The input takes {requests:,} requests, more than max_requests={self.max_requests:,}. Nothing was "
                "sent. Raise it if that is intended, or check the input."
            )

    def check_tokens(self) -> None:
        """:raises BudgetExceededError: before another request is sent."""
        if self.max_tokens is not None and self.tokens >= self.max_tokens:
            raise BudgetExceededError(
                f"The responses used {self.tokens:,} tokens, and max_tokens={self.max_tokens:,}. The rest of the "
                "input was not sent. With a result_path the responses are kept: clearing the task sends the rest, "
                "with a new budget."
            )

    def spend(self, tokens: int) -> None:
        self.tokens += tokens


@dataclass(frozen=True, slots=True)
class JobTask(ABC, Generic[File]):
    """
    Base class of the kinds of tasks.

    :param hook: performs the POSTs.
    :param resubmit_unknown: whether a POST without a response is repeated (a job may then exist twice).
    """

    kind: ClassVar[JobKind]
    # What a job is made of, in messages: "3 of 10 documents failed".
    noun: ClassVar[str]
    # Whether the jobs are those of this task, and not of another program.
    submits: ClassVar[bool] = True

    result_uri: str
    store: JobStateStore
    hook: AsyncHook
    resubmit_unknown: bool

    @property
    @abstractmethod
    def count(self) -> int:
        """How many jobs the task needs; each has a position from 0."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Of everything that is submitted; jobs of another fingerprint are not this task's."""

    @property
    def digest(self) -> str:
        """Of the input with what is only passed through; a result file of another one is not this task's."""
        return ""

    @abstractmethod
    def name(self, position: int) -> str:
        """A part's name at the start of a sentence."""

    def log_input(self) -> None:
        """Log what was read, once for each attempt."""

    @abstractmethod
    async def submit(self, position: int) -> str:
        """Perform the POST for a part and return the job's id."""

    @abstractmethod
    def parse(self, body: bytes, position: int, job_id: str) -> ParsedBody:
        """:raises MalformedResponseError: the body is not a response of the service."""

    @abstractmethod
    def open(self) -> AbstractContextManager[File]:
        """The result file, which is published when the block ends without an error."""

    @abstractmethod
    def add(self, file: File, position: int, value: Any) -> None:
        """Append a part's result to the file; raises MalformedResponseError or EmptyResultError."""

    def check_input(self) -> None:
        """:raises InputError: the input was changed while the results were written; retryable."""

    def manifest(self, file: File) -> dict[str, Any]:
        """What the task returns."""
        return file.manifest

    def redact(self, text: str) -> str:
        """Remove secrets from a message of the service. The trigger does not know them."""
        return text

    async def submit_missing(self, record: JobRecord) -> None:
        """
        Submit parts that have no job yet, several at a time, until ``WINDOW`` results are outstanding.

        A part's intent is saved before its POST, and its id with the intents of the POSTs that follow. After a
        failure nothing more is submitted, and the ids of the POSTs in flight are saved.

        :param record: of the task; changed and saved.
        :raises StorageError: the result cannot be written; checked before the first POST.
        :raises SubmissionUnknownError: by policy, where a POST's outcome is unknown.
        """
        if is_folder(self.result_uri):
            raise StorageError(f"{self.result_uri} is a folder; result_path must name a file.")
        if record.intents:
            self._unknown(sorted(record.intents), "An earlier attempt ended during a submission.")
        # Also if nothing has to be submitted: the trigger checks for the record of this attempt.
        record.begin_wait()
        try:
            if record.new:
                # The folder may hold bodies of another input.
                self.store.discard_replaced(record)
            missing = self._window(record)
            record.intend(missing[:1])
            self.store.save(record)
        except StorageError as err:
            self._withdraw(record, list(record.intents))
            raise StorageError(f"result_path {self.result_uri} cannot be written: {err}") from err
        failures = await self._submit_all(record, missing)
        for position in sorted(failures)[1:]:
            log.warning("%s", failures[position])
        if failures:
            raise failures[min(failures)]
        self.store.restore(record)

    async def _submit_all(self, record: JobRecord, missing: list[int]) -> dict[int, Exception]:
        """
        Submit positions, of which the first is intended in the record on storage.

        :return: errors by position; an error of the storage has the position after the last one.
        """
        # The first POST is alone: a service that is down or refuses the credentials or the model refuses one.
        following, missing, most = missing[:1], missing[1:], 1
        failures: dict[int, Exception] = {}
        unsaved: list[int] = []
        positions = {job_id: position for position, job_id in record.jobs.items()}
        progress = ProgressLog("Submitted", "job", len(following) + len(missing) if self.submits else 0)
        posts: dict[asyncio.Task[str], int] = {}
        async with self.hook.shared_client() if missing else nullcontext():
            while True:
                posts |= {asyncio.create_task(self._submit(position)): position for position in following}
                if not posts:
                    break
                done, _ = await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
                for position, post in sorted((posts.pop(post), post) for post in done):
                    try:
                        job_id = post.result()
                        self._check_id(position, positions.setdefault(job_id, position), job_id)
                        record.submitted(position, job_id)
                        most = SUBMISSIONS
                        unsaved.append(position)
                        progress.add(1)
                    except Exception as err:  # noqa: BLE001  # raised below, when no POST is in flight
                        failures[position] = err
                        if isinstance(err, LucidworksError) and not isinstance(err, JOB_POSSIBLE):
                            record.withdraw([position])
                free = 0 if failures else most - len(posts)
                following, missing = missing[:free], missing[free:]
                record.intend(following)
                try:
                    await in_thread(self.store.save, record)
                except StorageError as err:
                    for position in unsaved:
                        # Otherwise the id would be lost with this process.
                        log.warning(
                            "%s: the id of job %s could not be saved on storage.",
                            self.name(position),
                            record.jobs[position],
                        )
                    await in_thread(self._withdraw, record, following)
                    failures.setdefault(self.count, err)
                    following = []
                unsaved = []
        progress.end()
        return failures

    def _withdraw(self, record: JobRecord, positions: Sequence[int]) -> None:
        """
        Withdraw the intents of POSTs that are not sent, since the record with them could not be written on storage.

        The task state store may have them, and an attempt that reads them there takes the POSTs for sent.
        """
        if positions:
            record.withdraw(positions)
            with suppress(StorageError):
                self.store.save(record)

    def _window(self, record: JobRecord) -> list[int]:
        """Positions to submit now."""
        missing = record.missing()
        if self.count <= WINDOW:
            return missing
        outstanding = len(record.awaited) - len(self.store.results.stored(record.awaited))
        return missing[: max(0, WINDOW - outstanding)]

    def apply_outcome(self, record: JobRecord, outcome: JobsOutcome) -> bool:
        """
        Save the outcome of a wait; parts whose result is gone need another job afterwards.

        Jobs that the service reports as ERROR, or as ready without a result, fail the task when no part is left to
        submit, or at once when they are more than the results of the window: the others would probably fail too.

        :return: whether all results are stored.
        :raises JobFailedError: jobs are in ERROR; the next attempt of the task submits their parts again.
        :raises EmptyResultError: a job is ready without a result.
        :raises ResultGoneError: a result is gone for the second time.
        """
        messages = {position: self.redact(message) for position, message in outcome.messages.items()}
        failed, empty = ({p: messages.get(p, "") for p in ps} for ps in (outcome.failed, outcome.empty))
        if failed or empty:
            record.mark_failed(failed)
            record.mark_empty(empty)
            self.store.save(record)
        complete = not outcome.left and not record.missing()
        ends = complete or self._mostly_failed(record, outcome)
        for error, all_of_them, new, what in (
            (JobFailedError, record.failed, failed, "failed"),
            (EmptyResultError, record.empty, empty, "have no result"),
        ):
            if all_of_them and ends:
                message = self.describe(record, sorted(all_of_them), all_of_them, what)
                if self.submits:
                    message = f"{message.rstrip('.')}. Clear the task to submit them again."
                raise error(message)
            if new:
                log.warning("%s", self.describe(record, sorted(new), new, what))
        for position in outcome.gone:
            self.resubmit(record, position, messages.get(position, ""))
        if outcome.gone:
            self.store.save(record)
        return complete and not outcome.gone

    def _mostly_failed(self, record: JobRecord, outcome: JobsOutcome) -> bool:
        """Whether more jobs of the window failed than not."""
        failed = len(outcome.failed) + len(outcome.empty)
        if failed <= outcome.collected:
            return False
        # An earlier wait for the window, of a triggerer that was restarted, may have stored the others.
        window = {position: record.jobs[position] for position in sorted(record.jobs)[-WINDOW:]}
        return failed > len(self.store.results.stored(window))

    def write(self, record: JobRecord) -> dict[str, Any]:
        """
        Write the result file from the bodies, then delete them.

        :return: the manifest.
        :raises JobFailedError: a body has the status ERROR.
        :raises EmptyResultError: bodies have no result; they are not deleted.
        :raises MalformedResponseError: results are not valid for the input; their bodies are quarantined.
        :raises TooManyRejectsError: by policy; the next attempt submits the parts with errors again.
        """
        unusable: dict[int, MalformedResponseError | EmptyResultError] = {}
        results = self.store.results
        sizes = results.stored(record.jobs)
        bodies = read_ahead(
            lambda position: results.of(record.jobs[position]).read(),
            range(self.count),
            size=lambda position: sizes.get(position, 0),
            max_bytes=_READ_AHEAD_BYTES,
        )
        try:
            with closing(bodies), self.open() as file:
                for position, body in enumerate(bodies):
                    try:
                        self.add(file, position, self._read(record, file, position, body))
                    except (MalformedResponseError, EmptyResultError) as err:
                        unusable[position] = err
                unusable = {**file.outliers(), **unusable}
                if unusable:
                    # A result of the input that was submitted does not fit another one, and must not be discarded.
                    self.check_input()
                    raise self._reject(record, unusable)
        except TooManyRejectsError:
            # The stored results would be too many errors again.
            record.mark_failed(dict.fromkeys(file.failed, ""))
            self.store.save(record)
            raise
        manifest = self.manifest(file)
        record.finish(manifest, self.digest)
        self.store.close(record)
        metrics.written(manifest)
        return manifest

    def _read(self, record: JobRecord, file: File, position: int, body: bytes | None) -> Any:
        """The result in a body. A large one was stored without being parsed."""
        job_id = record.jobs[position]
        stored = self.store.results.of(job_id)
        if body is None:
            raise StorageError(
                f"{stored.uri} no longer exists. A retry polls the job "
                "again, and submits its input again if the service does not return the result twice."
            )
        read = self.parse(body, position, job_id)
        match read.state:
            case JobState.RESULT:
                return read.value
            case JobState.PENDING if read.value:
                file.warn("Job %s: read a result with the unknown status %r.", job_id, read.status)
                return read.value
            case JobState.FAILED:
                stored.delete()
                record.mark_failed({position: read.message})
                self.store.save(record)
                raise JobFailedError(self.describe(record, [position], {position: read.message}, "failed"))
        raise EmptyResultError(f"The status is {read.status!r}, without a result.")

    def _reject(
        self, record: JobRecord, errors: Mapping[int, MalformedResponseError | EmptyResultError]
    ) -> MalformedResponseError | EmptyResultError:
        """
        The error for results that are not in the file.

        Bodies that are not valid are quarantined, since they may be the only copies, and the next attempt submits
        their parts again. Those without a result stay, for a retry: only clearing submits their parts again.
        """
        messages: list[str] = []
        malformed: dict[int, MalformedResponseError] = {}
        empty: dict[int, str] = {}
        for position, err in errors.items():
            reason = self.redact(str(err))
            message = f"{self._job(record, position)}: {reason}"
            if isinstance(err, EmptyResultError):
                empty[position] = reason
            else:
                malformed[position] = err
                kept = self.store.results.of(record.jobs[position]).reject()
                message += f" The response is kept in {kept}."
            messages.append(message)
        record.mark_failed(dict.fromkeys(malformed, ""))
        record.mark_empty(empty)
        self.store.save(record)
        # Invalid JSON was truncated in transit. Any other response would be the same again.
        retryable = all(err.retryable for err in errors.values())
        more = f" And {len(messages) - _DESCRIBED} more." if len(messages) > _DESCRIBED else ""
        then = f"{'A retry' if retryable else 'Clearing the task'} {'submits' if self.submits else 'polls'} again."
        described = f"{' '.join(messages[:_DESCRIBED])}{more} {then}"
        if not malformed:
            return EmptyResultError(described)
        error = MalformedResponseError(described, status=next(iter(malformed.values())).status)
        error.retryable = retryable
        return error

    async def _submit(self, position: int) -> str:
        """POST one part, again where its outcome is unknown and the policy allows it."""
        try:
            if self.resubmit_unknown:
                return await submit_again(
                    self.submit,
                    position,
                    self.name(position),
                    1 + RESUBMISSIONS,
                    longest_retry_after=LONGEST_RETRY_AFTER,
                )
            return await self.submit(position)
        except SubmissionUnknownError as err:
            if not self.resubmit_unknown:
                self._unknown([position], str(err))
            raise
        except LucidworksError as err:
            if isinstance(err, ContentEncodingError):
                # It may have the only copy of the job's id.
                stored = self.store.results.of(self.name(position))
                # Its policy must apply although it cannot be kept.
                with suppress(StorageError):
                    err.kept(await stored.quarantine(err.body, QuarantineReason.UNDECODED, err.encoding))
            err.args = (f"{self.name(position)}: {err}", *err.args[1:])
            raise

    def _check_id(self, position: int, other: int, job_id: str) -> None:
        """
        Reject an id that another part has: one of the two would get the other's result.

        :param other: the part that had the id first; it may be the same one.
        :raises MalformedResponseError: not retryable.
        """
        if other != position and not self.same_input(position, other):
            raise unusable_result(
                f"{self.name(position)}: For this submission the service returned job {job_id}, which is the job "
                f"of {self.name(other)}"
            )
        log.debug("%s: job %s", self.name(position), job_id)

    def same_input(self, position: int, other: int) -> bool:
        """Whether two parts have the same input."""
        return False

    def _unknown(self, positions: Sequence[int], what: str) -> None:
        """Apply the policy for POSTs whose outcome is unknown."""
        names = ", ".join(map(self.name, positions))
        if not self.resubmit_unknown:
            raise SubmissionUnknownError(
                f"{names}: {what} on_unknown_submission is 'fail', so it was not submitted again. "
                "Clear the task to do so."
            )
        _warn_of_orphan(names, what)

    def resubmit(self, record: JobRecord, position: int, message: str) -> None:
        """
        Record that a result is gone and its part needs another job.

        :raises ResultGoneError: for the second time.
        """
        job_id = record.jobs[position]
        if position in record.resubmitted:
            raise ResultGoneError(
                f"{self.name(position)}: the result of job {job_id} has been returned before and is not on "
                f"storage, for the second time. {message} Another program reads this application's jobs, or "
                "responses are lost in transit. A retry submits it again."
            )
        log.warning("%s: the result of job %s is gone; submitting again.", self.name(position), job_id)
        record.mark_gone(position)

    def describe(
        self, record: JobRecord, positions: Sequence[int], messages: Mapping[int, str], what: str
    ) -> str:
        """
        Parts with their jobs, for an error message.

        :param messages: of the service about some of them, by position.
        :param what: e.g. ``failed``.
        """
        described = []
        for position in positions[:_DESCRIBED]:
            # By itself: a key may be cut at its end.
            message = self.redact(messages.get(position, ""))
            described.append(self._job(record, position) + (f": {message}" if message else ""))
        if len(positions) > _DESCRIBED:
            described.append(f"and {len(positions) - _DESCRIBED} more")
        return f"{len(positions)} of {self.count} {self.noun} {what}: {'; '.join(described)}"

    def _job(self, record: JobRecord, position: int) -> str:
        return f"{self.name(position)} (job {record.jobs[position]})"


@dataclass(frozen=True, slots=True)
class BatchTask(JobTask[File]):
    """
    Base class of the tasks with one job for each batch.

    :param batches: read again for each step.
    """

    options: ChunkingOptions | PredictionOptions[Any]
    batches: Batches
    _reader: BatchReader = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_reader", BatchReader(self.batches))

    @property
    def count(self) -> int:
        return len(self.batches)

    @property
    def fingerprint(self) -> str:
        return self.batches.fingerprint(self.options.as_json())

    @property
    def digest(self) -> str:
        return self.batches.digest

    def check_input(self) -> None:
        self._reader.check_rest()


async def submit_again(
    submit: Callable[[T], Awaitable[str]],
    part: T,
    name: str,
    attempts: int,
    *,
    shortest: float = 0.0,
    longest_retry_after: float = math.inf,
) -> str:
    """
    Submit a part, again while the outcome is unknown: a job with an unknown id may then exist.

    :param submit: performs the POST and returns the job's id.
    :param name: of the part, at the start of a sentence.
    :param shortest: seconds to wait at least: a service that restarts needs some.
    :param longest_retry_after: seconds; a longer ``Retry-After`` is left to the retries of Airflow.
    :raises SubmissionUnknownError: after the last attempt.
    """
    policy = retry_on(
        SubmissionUnknownError,
        attempts=attempts,
        wait=lambda state: max(wait_after(state), shortest),
        what=name,
    )
    last: Callable[[Any], bool] = policy["stop"]
    tries = 0

    def stop(state: Any) -> bool:
        nonlocal tries
        tries = state.attempt_number
        return last(state) or (state.outcome.exception().retry_after or 0.0) > longest_retry_after

    policy["stop"] = stop
    policy["before_sleep"] = lambda state: _warn_of_orphan(name, str(state.outcome.exception()))
    try:
        return await retry_async(submit, part, **policy)
    except SubmissionUnknownError as err:
        tried = f"{name}: {count(tries, 'submission')} without a response; jobs with unknown ids may exist"
        raise SubmissionUnknownError(f"{tried}. The last: {err}", retry_after=err.retry_after) from None


def _warn_of_orphan(names: str, what: str) -> None:
    log.warning("%s: %s Submitting again; the first job may be an orphan.", names, what)


def check_suffix(uri: str) -> None:
    """
    Refuse what cannot be written, before anything is submitted.

    :raises InputError: another suffix, or Parquet without the ``documents`` extra.
    """
    if not uri.endswith(SUFFIXES):
        raise InputError(f"result_path is {uri!r}; it must end in {' or '.join(SUFFIXES)}.")
    if uri.endswith(".parquet"):
        check_documents_extra(
            "A .parquet result_path needs", "pyarrow", otherwise="; or let the path end in .jsonl"
        )
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError as err:
            # Before anything is sent.
            raise InputError(f"result_path is {uri!r}, and pyarrow cannot be imported: {err}") from None
