# SPDX-License-Identifier: Apache-2.0
"""Any number of inputs to one row each: in batches, synchronously or by jobs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lucidworks_provider.client.api.http import Response, parse_object, read_blanked
from lucidworks_provider.client.api.jobs import PREDICTION, JobKind
from lucidworks_provider.client.api.prediction_calls import PredictionResult, read_result
from lucidworks_provider.client.api.predictions import Prediction, read_predictions
from lucidworks_provider.client.api.secrets import blank
from lucidworks_provider.client.api.use_cases import MAX_BATCH, Item, PredictionOptions
from lucidworks_provider.client.api.validation import refused
from lucidworks_provider.errors import (
    AuthenticationError,
    ConfigurationError,
    ContentEncodingError,
    ForbiddenError,
    InputError,
    LucidworksError,
    MalformedAnswerError,
    StorageError,
    TokenError,
    TokenRefusedError,
    UnknownResourceError,
)
from lucidworks_provider.jobs.prediction_file import ACCEPTED, Accepted, PredictionFile, prediction_file
from lucidworks_provider.jobs.prediction_rows import Batch, Batches, Survey, cut
from lucidworks_provider.jobs.record import JobRecord
from lucidworks_provider.jobs.state_store import ResultDirectory
from lucidworks_provider.jobs.task import JobTask, Read
from lucidworks_provider.jobs.wait import FileResultStore
from lucidworks_provider.threads import in_thread

log = logging.getLogger(__name__)

# One task submits one after the other and keeps all ids in one record.
MAX_JOBS = 1000
# Failures that an error message tells in full.
_TOLD = 3
# So many batches one after the other and no answer of use in between: the service is down or busy, or answers in
# a way that nobody can read. The other batches, maybe thousands, would cost hours or money to show it again.
_IN_VAIN = 3


@dataclass(frozen=True, slots=True)
class PredictionTask(JobTask[PredictionFile]):
    """
    Batches to jobs, and their results to a file of rows.

    :param batches: the rows; all of them are held, as one task takes few.
    :param post: performs the POST for one batch and returns the job's id.
    :param accepted: what is taken, though something is wrong with it.
    """

    kind: ClassVar[JobKind] = PREDICTION
    parts: ClassVar[str] = "batches"

    options: PredictionOptions[Any]
    batches: Batches
    post: Callable[[Sequence[Item]], str]
    accepted: Accepted = ACCEPTED

    held: Sequence[Batch] = field(init=False)

    def __post_init__(self) -> None:
        # Without a limit of rows each batch has something to send, unless there is nothing to send at all.
        most = self.batches.survey.rows + 1
        object.__setattr__(self, "held", tuple(cut(self.batches.read(), self.batches.size, most)))

    @property
    def count(self) -> int:
        """One job for each batch."""
        return len(self.batches)

    @property
    def fingerprint(self) -> str:
        """Of the options, the inputs, and how they are cut."""
        return self.batches.fingerprint(self.options)

    def name(self, position: int) -> str:
        """By the inputs' positions."""
        return self.held[position].name

    def submit(self, position: int) -> str:
        """Send the batch."""
        return self.post(self.held[position].sent)

    def parse(self, body: bytes, position: int, job_id: str) -> Read:
        """The predictions, one for each input, as the service sent them."""

        def read(answer: Response) -> PredictionResult:
            sent = parse_object(answer.body, f"Prediction job {job_id}")
            return read_result(sent, job_id, self.options.known.answer, len(self.held[position].sent))

        result = read_blanked(read, Response(200, {}, body), *self.options.secrets)
        return Read(result.state, result.status, self.clean(result.message), result.predictions)

    def describe(
        self, record: JobRecord, positions: Sequence[int], messages: Mapping[str, str], what: str
    ) -> str:
        """As for any job; the waiting side, where the messages come from, does not know the keys."""
        blanked = {job: self.clean(message) for job, message in messages.items()}
        return self.clean(JobTask.describe(self, record, positions, blanked, what))

    def clean(self, text: str) -> str:
        """Without the keys."""
        return blank(text, self.options.secrets)

    @contextmanager
    def open(self) -> Iterator[PredictionFile]:
        """The file of rows."""
        with prediction_file(self.result_uri, self.options, self.accepted, self.batches.survey.types) as file:
            for batch in self.held[self.count :]:
                file.add(batch, ())  # there was nothing to send
            yield file

    def add(self, file: PredictionFile, position: int, value: Sequence[Prediction]) -> None:
        """Append a batch's rows."""
        file.add(self.held[position], value)

    def manifest(self, file: PredictionFile) -> dict[str, Any]:
        """Counts and the address."""
        return file.manifest.as_json()


Predict = Callable[[Sequence[Item]], Awaitable[tuple[bytes, tuple[Prediction, ...]]]]


@dataclass(frozen=True, slots=True)
class SyncBatchRunner:
    """
    Batches sent to the synchronous Prediction API, several at a time.

    :param predict: sends one batch, repeats it alone where that may help, and gives body and predictions.
    :param concurrency: how many at a time.
    :param bodies: where an answer is kept as it arrives, so that a retry does not pay for it again; None
        where the task has no place for results.
    :param revision: of the task's record, which changes with each result. What an earlier result could not remove is
        no answer for the next one.
    :param accepted: what is taken, though something is wrong with it.
    :param progress: says how far it is.
    """

    options: PredictionOptions[Any]
    batches: Batches
    predict: Predict
    concurrency: int
    bodies: ResultDirectory | None = None
    revision: int = 0
    accepted: Accepted = ACCEPTED
    progress: Progress | None = None

    @property
    def fingerprint(self) -> str:
        """Of everything that is asked."""
        return self.batches.fingerprint(self.options)

    @property
    def names(self) -> dict[int, str]:
        """What the body of each batch is called."""
        return {batch.position: self._name(batch) for batch in self.batches if batch.sent}

    def _name(self, batch: Batch) -> str:
        return f"{batch.fingerprint(self.options)}{self.revision or ''}"

    async def run(self) -> list[tuple[Prediction, ...]]:
        """
        Predict every batch.

        :return: the predictions of each batch that was sent; where bodies are kept nothing, as :meth:`write` takes
            them.
        :raises LucidworksError: a batch failed for good; names its inputs. The others have been finished (or,
            where that failure concerns all of them, or is the same again and again, not begun).
        """
        if self.bodies is not None:
            try:
                await in_thread(self.bodies.prove)
            except StorageError as refused:
                raise StorageError(f"result_path cannot be written: {refused}") from refused
        known = await in_thread(self.bodies.refused) if self.bodies is not None else frozenset()
        queue = _Queue(iter(self.batches), lambda batch: bool(known) and self._name(batch) in known)
        failed = _Failures()
        done: dict[int, tuple[Prediction, ...]] = {}
        in_vain = 0

        async def work() -> None:
            nonlocal in_vain
            while (batch := await queue.next()) is not None:
                try:
                    predictions = await self._one(batch)
                except LucidworksError as err:
                    failed.add(batch, err)
                    in_vain += err.retryable or isinstance(err, MalformedAnswerError)
                    if not self.bodies or _concerns_all(err) or in_vain >= _IN_VAIN:
                        queue.stop()
                    continue
                except BaseException:
                    queue.stop()
                    raise
                in_vain = 0
                if predictions is not None:
                    done[batch.position] = predictions

        ended = await asyncio.gather(*(work() for _ in range(self.concurrency)), return_exceptions=True)
        for err in ended:
            if isinstance(err, BaseException):
                raise err
        if failed.count:
            raise failed.error(len(self.batches), kept=self.bodies is not None)
        return [done[position] for position in sorted(done)]

    async def _one(self, batch: Batch) -> tuple[Prediction, ...] | None:
        items = batch.sent
        if self.bodies is None:
            _, predictions = await self.predict(items)
            self._count(batch)
            return predictions
        name = self._name(batch)
        if await in_thread(self.bodies.there, batch.position, name):
            self._count(batch, kept=True)
            return None
        try:
            body, _ = await self.predict(items)
        except MalformedAnswerError:
            await in_thread(self.bodies.refuse, name)
            raise
        except ContentEncodingError as err:
            await FileResultStore(self.bodies, batch.position, name).keep_undecoded(err)
            raise
        await FileResultStore(self.bodies, batch.position, name).keep(body)
        self._count(batch)
        return None

    def _count(self, batch: Batch, *, kept: bool = False) -> None:
        if self.progress is not None:
            self.progress.add(len(batch.sent), kept=kept)

    def write(self, file: PredictionFile, batch: Batch) -> None:
        """
        Append the rows of a batch.

        :raises StorageError: what was kept of it has vanished.
        :raises MalformedAnswerError: it is of no use. It is set aside, so that another attempt asks again.
        """
        if not batch.sent:
            file.add(batch, ())
            return
        try:
            file.add(batch, self._read(batch))
        except MalformedAnswerError as err:
            assert self.bodies is not None  # noqa: S101  # for the type checker
            self.bodies.refuse(self._name(batch))
            kept = self.bodies.set_aside(batch.position, self._name(batch))
            said = str(err).rstrip(".")
            raise refused(
                f"{batch.name}: {said}. The answer is kept in {kept}; clearing the task asks again"
            ) from None

    def _read(self, batch: Batch) -> tuple[Prediction, ...]:
        """What is kept of a batch."""
        assert self.bodies is not None  # noqa: S101  # for the type checker
        name = self._name(batch)
        body = self.bodies.take(batch.position, name)
        if body is None:
            raise StorageError(
                f"{self.bodies.uri(batch.position, name)} has vanished since it was written; try again."
            )

        def read(answer: Response) -> tuple[Prediction, ...]:
            sent = parse_object(answer.body, batch.name)
            return read_predictions(sent, self.options.known.answer, batch.name, inputs=len(batch.sent))

        return read_blanked(read, Response(200, {}, body), *self.options.secrets)


class _Queue:
    """
    Batches that have something to send, read as there is room for them.

    :param last: whether a batch comes last: its answer was of no use, and must keep no other from being asked.
    """

    def __init__(self, batches: Iterator[Batch], last: Callable[[Batch], bool]) -> None:
        self._batches = batches
        self._last = last
        self._later: list[Batch] = []
        self._stopped = False
        self._turn = asyncio.Lock()

    def stop(self) -> None:
        """Give out no more."""
        self._stopped = True

    async def next(self) -> Batch | None:
        """The next one; None at the end."""
        async with self._turn:
            return None if self._stopped else await in_thread(self._read)

    def _read(self) -> Batch | None:
        for batch in self._batches:
            if not batch.sent:
                continue
            if not self._last(batch):
                return batch
            self._later.append(batch)
        return self._later.pop(0) if self._later else None


class _Failures:
    """The first failures by their place, and how many there are."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[tuple[int, str, LucidworksError]] = []

    def add(self, batch: Batch, err: LucidworksError) -> None:
        """Count a failure."""
        self.count += 1
        self._first = sorted([*self._first, (batch.position, batch.name, err)], key=lambda one: one[0])[
            :_TOLD
        ]

    def error(self, batches: int, *, kept: bool) -> LucidworksError:
        """One error for all, of the kind of the first."""
        told = [f"{name}: {err}" for _, name, err in self._first]
        if self.count > _TOLD:
            told.append(f"and {self.count - _TOLD} more")
        first = self._first[0][2]
        others = " The other answers are kept for a retry." if kept else ""
        first.args = (f"{self.count} of {batches} batches failed. {'; '.join(told)}{others}", *first.args[1:])
        return first


class Progress:
    """
    A line in the log every few seconds.

    :param total: inputs that are to be sent.
    """

    EVERY = 10.0

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = self._kept = 0
        self._began = self._said = time.monotonic()

    def add(self, inputs: int, *, kept: bool = False) -> None:
        """
        Count inputs whose answers are there.

        :param kept: an earlier try has asked for them.
        """
        self._done += inputs
        self._kept += inputs * kept
        now = time.monotonic()
        if now - self._said < self.EVERY or self._done >= self._total:
            return
        self._said = now
        rate = (self._done - self._kept) / (now - self._began)
        left = f", {duration((self._total - self._done) / rate)} left" if rate else ""
        log.info("Predicted %s of %s inputs, %.1f/s%s.", f"{self._done:,}", f"{self._total:,}", rate, left)


def say_read(batches: Batches) -> None:
    """Log what is about to be sent."""
    survey = batches.survey
    log.info(
        "Read %s rows%s: %s to send in %s requests.",
        f"{survey.rows:,}",
        f" of {batches.uri}" if batches.uri else "",
        f"{survey.sent:,}",
        f"{len(batches):,}",
    )


def say_result(manifest: Mapping[str, Any], began: float | None = None) -> None:
    """
    Log what was written.

    :param manifest: of the result.
    :param began: ``time.monotonic()`` of the task, where it has waited in this process.
    """
    rejected = manifest.get("rejected", 0)
    log.info(
        "%s: %s rows, %s of them rejected and %s failed, %s tokens%s.",
        manifest["uri"],
        f"{manifest['predictions']:,}",
        f"{rejected:,}",
        f"{manifest.get('errors', 0) - rejected:,}",
        f"{manifest['tokens']:,}",
        "" if began is None else f", in {duration(time.monotonic() - began)}",
    )


def duration(seconds: float) -> str:
    """For people."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _concerns_all(err: LucidworksError) -> bool:
    """Whether the next batch would fail in the same way."""
    return isinstance(
        err,
        AuthenticationError
        | ConfigurationError
        | ContentEncodingError
        | ForbiddenError
        | StorageError
        | TokenError
        | TokenRefusedError
        | UnknownResourceError,
    )


def check_size(size: object) -> int:
    """
    :param size: inputs of a request.
    :raises InputError: a size that the service does not take.
    """
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_BATCH:
        raise InputError(f"batch_size is {size!r}; the service takes 1 to {MAX_BATCH} inputs a request.")
    return size


def check_jobs(batches: Batches) -> Batches:
    """:raises InputError: more batches than one task takes as jobs."""
    if len(batches) > MAX_JOBS:
        raise InputError(
            f"{batches.survey.sent:,} inputs are {len(batches):,} jobs, more than one task takes ({MAX_JOBS:,}). Map "
            "the operator over parts of them (`.expand`)."
        )
    return batches


@dataclass(frozen=True, slots=True)
class RowPolicy:
    """
    What is done with rows that cannot be sent, and where there are none.

    :param reject: whether they go to the result with the reason; else they are an error.
    :param max_reject_ratio: the share of the rows, 0 to 1, that may be rejected.
    """

    reject: bool
    max_reject_ratio: float

    def check(self, survey: Survey) -> None:
        """
        Warn about rows that cannot be sent.

        :raises InputError: by policy, or where they are too many. Nothing was sent.
        """
        if not survey.rejected:
            return
        said = f"{survey.rejected:,} of {survey.rows:,} rows cannot be sent. {survey.summary()}"
        if not self.reject:
            raise InputError(f"{said} on_invalid='reject' sends the others.")
        if survey.rejected > self.max_reject_ratio * survey.rows:
            raise InputError(f"{said} That is more than max_reject_ratio={self.max_reject_ratio:g} allows.")
        log.warning("%s They stand in the result with the status 'rejected'.", said)
