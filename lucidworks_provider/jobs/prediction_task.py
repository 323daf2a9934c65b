# SPDX-License-Identifier: Apache-2.0
"""Any number of inputs to one row each: in batches, synchronously or by jobs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lucidworks_provider.client.api.jobs import PREDICTION, JobKind
from lucidworks_provider.client.api.messages import Answer, json_body, parse_object, read_blanked
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
from lucidworks_provider.jobs.record import JobRecord, fingerprint_of
from lucidworks_provider.jobs.state_store import ResultDirectory
from lucidworks_provider.jobs.task import JobTask, Read
from lucidworks_provider.jobs.wait import FileResultStore
from lucidworks_provider.threads import in_thread

# One task submits one after the other and keeps all ids in one record.
MAX_JOBS = 1000
# Failures that an error message tells in full.
_TOLD = 3
# So many batches one after the other and no answer of use in between: the service is down or busy, or answers in
# a way that nobody can read. The other batches, maybe thousands, would cost hours or money to show it again.
_IN_VAIN = 3


@dataclass(frozen=True, slots=True)
class Batches:
    """
    Inputs, cut into requests.

    :param size: inputs of a request, 32 at most.
    """

    items: tuple[Item, ...]
    size: int

    def __len__(self) -> int:
        return math.ceil(len(self.items) / self.size)

    def __getitem__(self, position: int) -> tuple[Item, ...]:
        return self.items[position * self.size : (position + 1) * self.size]

    def start(self, position: int) -> int:
        """The first input of a batch."""
        return position * self.size

    def name(self, position: int) -> str:
        """For messages."""
        start, last = self.start(position), self.start(position) + len(self[position]) - 1
        return f"Input {start}" if start == last else f"Inputs {start} to {last}"

    def fingerprint(self, position: int, options: PredictionOptions[Any]) -> str:
        """Of a batch and what is asked of it."""
        return fingerprint_of(options.as_json(), _plain(self[position], self.start(position)))

    def fingerprint_of_all(self, options: PredictionOptions[Any]) -> str:
        """Of the options, the inputs, and how they are cut."""
        return fingerprint_of(options.as_json() | {"batch": self.size}, _plain(self.items))


def _plain(items: Sequence[Item], start: int = 0) -> list[tuple[str, str]]:
    return [(item.id or str(start + n), json_body(item.wire).decode()) for n, item in enumerate(items)]


@dataclass(frozen=True, slots=True)
class PredictionTask(JobTask[PredictionFile]):
    """
    Batches to jobs, and their results to a file of rows.

    :param post: performs the POST for one batch and returns the job's id.
    :param accepted: what is taken, though something is wrong with it.
    """

    kind: ClassVar[JobKind] = PREDICTION
    parts: ClassVar[str] = "batches"

    options: PredictionOptions[Any]
    batches: Batches
    post: Callable[[Sequence[Item]], str]
    accepted: Accepted = ACCEPTED

    @property
    def count(self) -> int:
        """One job for each batch."""
        return len(self.batches)

    @property
    def fingerprint(self) -> str:
        """Of the options, the inputs, and how they are cut."""
        return self.batches.fingerprint_of_all(self.options)

    def name(self, position: int) -> str:
        """By the inputs' positions."""
        return self.batches.name(position)

    def submit(self, position: int) -> str:
        """Send the batch."""
        return self.post(self.batches[position])

    def parse(self, body: bytes, position: int, job_id: str) -> Read:
        """The predictions, one for each input, as the service sent them."""

        def read(answer: Answer) -> PredictionResult:
            sent = parse_object(answer.body, f"Prediction job {job_id}")
            return read_result(sent, job_id, self.options.known.answer, len(self.batches[position]))

        result = read_blanked(read, Answer(200, {}, body), *self.options.secrets)
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

    def open(self) -> AbstractContextManager[PredictionFile]:
        """The file of rows."""
        return prediction_file(self.result_uri, self.options, self.accepted)

    def add(self, file: PredictionFile, position: int, value: Sequence[Prediction]) -> None:
        """Append a batch's rows."""
        file.add(self.batches.start(position), self.batches[position], value)

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
    """

    options: PredictionOptions[Any]
    batches: Batches
    predict: Predict
    concurrency: int
    bodies: ResultDirectory | None = None
    revision: int = 0
    accepted: Accepted = ACCEPTED
    # Bytes of the answers.
    received: list[int] = field(default_factory=list, init=False)

    @property
    def fingerprint(self) -> str:
        """Of everything that is asked."""
        return self.batches.fingerprint_of_all(self.options)

    @property
    def names(self) -> dict[int, str]:
        """What the body of each batch is called."""
        return {p: self._name(p) for p in range(len(self.batches))}

    def _name(self, position: int) -> str:
        return f"{self.batches.fingerprint(position, self.options)}{self.revision or ''}"

    async def run(self) -> list[tuple[Prediction, ...] | None]:
        """
        Predict every batch.

        :return: the predictions of each batch; where bodies are kept None, as :meth:`write` takes them.
        :raises LucidworksError: a batch failed for good; names its inputs. The others have been finished (or,
            where that failure concerns all of them, or is the same again and again, not begun).
        """
        if self.bodies is not None:
            try:
                await in_thread(self.bodies.prove)
            except StorageError as refused:
                raise StorageError(f"result_path cannot be written: {refused}") from refused
        turns = asyncio.Semaphore(self.concurrency)
        stopped, in_vain = False, 0
        known = await in_thread(self.bodies.refused) if self.bodies is not None else frozenset()

        async def one(position: int) -> tuple[Prediction, ...] | None:
            nonlocal stopped, in_vain
            async with turns:
                if stopped:
                    return None
                try:
                    predictions = await self._one(position)
                except LucidworksError as err:
                    in_vain += err.retryable or isinstance(err, MalformedAnswerError)
                    stopped = stopped or not self.bodies or _concerns_all(err) or in_vain >= _IN_VAIN
                    raise
                in_vain = 0
                return predictions

        # A batch whose answer was of no use comes last, so that it keeps no other from being asked.
        positions = sorted(range(len(self.batches)), key=lambda p: self._name(p) in known)
        ended = await asyncio.gather(*map(one, positions), return_exceptions=True)
        done = [result for _, result in sorted(zip(positions, ended, strict=True), key=lambda pair: pair[0])]
        failed = {p: err for p, err in enumerate(done) if isinstance(err, BaseException)}
        for err in failed.values():
            if not isinstance(err, LucidworksError):
                raise err
        if failed:
            raise self._told(failed)
        return [one if isinstance(one, tuple) else None for one in done]

    async def _one(self, position: int) -> tuple[Prediction, ...] | None:
        items = self.batches[position]
        if self.bodies is None:
            body, predictions = await self.predict(items)
            self.received.append(len(body))
            return predictions
        name = self._name(position)
        if await in_thread(self.bodies.there, position, name):
            return None
        try:
            body, _ = await self.predict(items)
        except MalformedAnswerError:
            await in_thread(self.bodies.refuse, name)
            raise
        except ContentEncodingError as err:
            await FileResultStore(self.bodies, position, name).keep_undecoded(err)
            raise
        await FileResultStore(self.bodies, position, name).keep(body)
        return None

    def write(self, file: PredictionFile, position: int) -> None:
        """
        Append the rows of a batch.

        :raises StorageError: what was kept of it has vanished.
        :raises MalformedAnswerError: it is of no use. It is set aside, so that another attempt asks again.
        """
        try:
            file.add(self.batches.start(position), self.batches[position], self._read(position))
        except MalformedAnswerError as err:
            assert self.bodies is not None  # noqa: S101  # for the type checker
            self.bodies.refuse(self._name(position))
            kept = self.bodies.set_aside(position, self._name(position))
            said = str(err).rstrip(".")
            raise refused(
                f"{self.batches.name(position)}: {said}. The answer is kept in {kept}; clearing the task asks again"
            ) from None

    def _read(self, position: int) -> tuple[Prediction, ...]:
        """What is kept of a batch."""
        assert self.bodies is not None  # noqa: S101  # for the type checker
        name = self._name(position)
        body = self.bodies.take(position, name)
        if body is None:
            raise StorageError(
                f"{self.bodies.uri(position, name)} has vanished since it was written; try again."
            )
        said = self.batches.name(position)

        def read(answer: Answer) -> tuple[Prediction, ...]:
            sent = parse_object(answer.body, said)
            return read_predictions(sent, self.options.known.answer, said, inputs=len(self.batches[position]))

        return read_blanked(read, Answer(200, {}, body), *self.options.secrets)

    def _told(self, failed: dict[int, BaseException]) -> LucidworksError:
        """One error for all, of the kind of the first."""
        first = next(iter(failed.values()))
        told = [f"{self.batches.name(p)}: {err}" for p, err in list(failed.items())[:_TOLD]]
        if len(failed) > _TOLD:
            told.append(f"and {len(failed) - _TOLD} more")
        kept = " The other answers are kept for a retry." if self.bodies is not None else ""
        first.args = (
            f"{len(failed)} of {len(self.batches)} batches failed. {'; '.join(told)}{kept}",
            *first.args[1:],
        )
        assert isinstance(first, LucidworksError)  # noqa: S101  # for the type checker
        return first


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


def check_batches(items: tuple[Item, ...], size: object, *, most: int | None = None) -> Batches:
    """
    Cut inputs into batches.

    :param size: inputs of a request.
    :param most: batches that one task takes.
    :raises InputError: a size that the service does not take, or too many batches.
    """
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_BATCH:
        raise InputError(f"batch_size is {size!r}; the service takes 1 to {MAX_BATCH} inputs a request.")
    batches = Batches(items, size)
    if most is not None and len(batches) > most:
        raise InputError(
            f"{len(items):,} inputs are {len(batches):,} jobs, more than one task takes ({most:,}). Map the "
            "operator over parts of them (`.expand`)."
        )
    return batches
