# SPDX-License-Identifier: Apache-2.0
"""Predictions of any number of inputs in batches: by jobs, or synchronously and several at a time."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, ClassVar

from lucidworks_provider.client.http.messages import Response, parse_object, read_blanked
from lucidworks_provider.client.jobs import PREDICTION, JobKind
from lucidworks_provider.client.prediction_types import Prediction, read_predictions
from lucidworks_provider.client.predictions import PredictionResult, read_result
from lucidworks_provider.client.secrets import blank
from lucidworks_provider.client.use_cases import Items, PredictionOptions, check_wire
from lucidworks_provider.client.validation import refused
from lucidworks_provider.errors import (
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    ContentEncodingError,
    ForbiddenError,
    InputError,
    LucidworksError,
    MalformedAnswerError,
    RateLimitError,
    StorageError,
    TokenError,
    TokenRefusedError,
    UnknownResourceError,
)
from lucidworks_provider.jobs.prediction_file import (
    DEFAULT_POLICY,
    PredictionFile,
    ResultPolicy,
    prediction_file,
)
from lucidworks_provider.jobs.record import (
    REJECTED,
    FileResultStore,
    QuarantineReason,
    ResultDirectory,
)
from lucidworks_provider.jobs.rows import Batch, Batches, BatchReader, RowRules
from lucidworks_provider.jobs.task import MAX_JOBS, Budget, JobTask, ParsedBody, Progress
from lucidworks_provider.metrics import count
from lucidworks_provider.threads import in_thread

log = logging.getLogger(__name__)

# Failures that an error message describes.
_DESCRIBED = 3
# Consecutive failed batches that stop the task: the service is down or overloaded, or its responses are not valid.
# The other batches, maybe thousands, would cost hours or money and fail too.
_MAX_FAILURES = 3
# Batches that are read in one call of a thread.
_READ_AHEAD = 16


def row_rules(options: PredictionOptions[Any]) -> RowRules:
    """What a use case requires of its inputs."""
    return RowRules(
        lambda wire, what: check_wire(wire, what, options),
        options.as_json(),
        beyond_text=options.name == "rag" or (options.use_case_config or {}).get("dataType") == "json_prompt",
    )


@dataclass(frozen=True, slots=True)
class PredictionTask(JobTask[PredictionFile]):
    """
    One job for each batch, and a file of rows.

    :param batches: the rows, read again for each step.
    """

    kind: ClassVar[JobKind] = PREDICTION
    parts: ClassVar[str] = "batches"

    options: PredictionOptions[Any]
    batches: Batches
    policy: ResultPolicy = DEFAULT_POLICY

    _reader: BatchReader = field(init=False, repr=False)
    # Name and number of inputs of each batch.
    _known: Sequence[tuple[str, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        reader = BatchReader(self.batches)
        object.__setattr__(self, "_reader", reader)
        object.__setattr__(self, "_known", [(one.name, len(one.sent)) for one in reader.rest()])

    @property
    def count(self) -> int:
        """One job for each batch."""
        return len(self.batches)

    @property
    def fingerprint(self) -> str:
        """Of the options, the inputs, and the batch size."""
        return self.batches.fingerprint(self.options.as_json())

    def name(self, position: int) -> str:
        """By the inputs' positions."""
        return self._known[position][0]

    def log_input(self) -> None:
        """The rows, and those that are not sent."""
        log_input(self.batches)

    async def submit(self, position: int) -> str:
        """Send the batch."""
        from lucidworks_provider.client.predictions import submit_items

        batch = await in_thread(self._reader.get, position)
        return await self.hook.acall(submit_items(self.options, batch.sent))

    def parse(self, body: bytes, position: int, job_id: str) -> ParsedBody:
        """The value is a prediction for each input."""

        def read(answer: Response) -> PredictionResult:
            sent = parse_object(answer.body, f"Prediction job {job_id}")
            return read_result(sent, job_id, self.options.known.answer, self._known[position][1])

        result = read_blanked(read, Response(200, {}, body), *self.options.secrets)
        return ParsedBody(result.state, result.status, self.redact(result.message), result.predictions)

    def redact(self, text: str) -> str:
        """Remove the keys."""
        return blank(text, self.options.secrets)

    @contextmanager
    def open(self) -> Iterator[PredictionFile]:
        """The file of rows."""
        types = self.batches.survey.types
        with prediction_file(self.result_uri, self.options, self.policy, types) as file:
            yield file
            # Read to the end, where a change of the table is detected.
            for batch in self._reader.rest():
                if not batch.sent:
                    file.add(batch, ())

    def add(self, file: PredictionFile, position: int, value: Sequence[Prediction]) -> None:
        """Append a batch's rows."""
        file.add(self._reader.get(position), value)


Predict = Callable[[Items], Awaitable[tuple[bytes, tuple[Prediction, ...]]]]


@dataclass(frozen=True, slots=True)
class SyncBatchRunner:
    """
    Sends batches to the synchronous Prediction API, several at a time.

    :param predict: sends one batch with retries, and returns body and predictions.
    :param concurrency: batches at a time.
    :param results: where each response is stored as it arrives, so that a retry does not pay for it again; None
        where the task has no result file.
    :param revision: of the task's record, which changes with each result, so that responses of an earlier result that
        could not be deleted are not used.
    :param progress: logs the progress.
    :param budget: of tokens, for the responses that this attempt requests.
    """

    options: PredictionOptions[Any]
    batches: Batches
    predict: Predict
    concurrency: int
    results: ResultDirectory | None = None
    revision: int = 0
    policy: ResultPolicy = DEFAULT_POLICY
    progress: Progress | None = None
    budget: Budget = field(default_factory=Budget)

    @property
    def fingerprint(self) -> str:
        """Of everything that is sent."""
        return self.batches.fingerprint(self.options.as_json())

    def _stored(self, batch: Batch) -> FileResultStore:
        """Where the response of a batch is stored, if the task has a result file."""
        assert self.results is not None  # noqa: S101  # for the type checker
        return self.results.of(
            batch.position, f"{batch.fingerprint(self.options.as_json())}{self.revision or ''}"
        )

    async def run(self) -> list[tuple[Prediction, ...]]:
        """
        Predict every batch.

        :return: the predictions of each batch that was sent; nothing where responses are stored, as :meth:`write`
            reads them.
        :raises LucidworksError: batches failed; names their inputs. The others have been finished, unless the error
            is common to all batches or ``_MAX_FAILURES`` batches in a row failed.
        """
        names = frozenset[str]()
        if self.results is not None:
            try:
                await in_thread(self.results.check_writable)
            except StorageError as refused:
                raise StorageError(f"result_path cannot be written: {refused}") from refused
            # One listing instead of a request for each batch.
            names = await in_thread(self.results.names)
        some = any(name.endswith(REJECTED) for name in names)
        queue = _Queue(
            _to_send(self.batches, lambda batch: some and self._stored(batch).rejected_name in names)
        )
        failed = _Failures()
        done: dict[int, tuple[Prediction, ...]] = {}
        failures = 0
        over_budget: list[BudgetExceededError] = []

        async def work() -> None:
            nonlocal failures
            while (batch := await queue.next()) is not None:
                try:
                    predictions = await self._one(batch, names)
                except BudgetExceededError as err:
                    over_budget.append(err)
                    queue.stop()
                    continue
                except LucidworksError as err:
                    failed.add(batch, err)
                    failures += err.retryable or isinstance(err, MalformedAnswerError)
                    if not self.results or _is_common(err) or failures >= _MAX_FAILURES:
                        queue.stop()
                    continue
                except BaseException:
                    queue.stop()
                    raise
                failures = 0
                if predictions is not None:
                    done[batch.position] = predictions

        ended = await asyncio.gather(*(work() for _ in range(self.concurrency)), return_exceptions=True)
        for err in ended:
            if isinstance(err, BaseException):
                raise err
        if failed.count:
            raise failed.error(len(self.batches), kept=self.results is not None)
        if over_budget:
            raise over_budget[0]
        return [done[position] for position in sorted(done)]

    async def _one(self, batch: Batch, names: Collection[str]) -> tuple[Prediction, ...] | None:
        items = batch.sent
        if self.results is None:
            _, predictions = await self._predict(items)
            self._count(batch)
            return predictions
        store = self._stored(batch)
        if store.name in names:
            self._count(batch, kept=True)
            return None
        try:
            body, _ = await self._predict(items)
        except MalformedAnswerError:
            await in_thread(store.mark_rejected)
            raise
        except ContentEncodingError as err:
            err.kept(await store.quarantine(err.body, QuarantineReason.UNDECODED, err.encoding))
            raise
        await store.save(body)
        self._count(batch)
        return None

    async def _predict(self, items: Items) -> tuple[bytes, tuple[Prediction, ...]]:
        self.budget.check_tokens()
        body, predictions = await self.predict(items)
        self.budget.spend(sum(one.tokens_used.sum for one in predictions))
        return body, predictions

    def _count(self, batch: Batch, *, kept: bool = False) -> None:
        if self.progress is not None:
            self.progress.add(len(batch.sent), kept=kept)

    def write(self, file: PredictionFile, batch: Batch) -> None:
        """
        Append the rows of a batch.

        :raises StorageError: its stored response does not exist.
        :raises MalformedAnswerError: its response is not valid. It is quarantined, so that another attempt sends the
            batch again.
        """
        if not batch.sent:
            file.add(batch, ())
            return
        try:
            file.add(batch, self._read(batch))
        except MalformedAnswerError as err:
            stored = self._stored(batch)
            stored.mark_rejected()
            kept = stored.reject()
            message = str(err).rstrip(".")
            raise refused(
                f"{batch.name}: {message}. The answer is kept in {kept}; clearing the task sends the batch again"
            ) from None

    def _read(self, batch: Batch) -> tuple[Prediction, ...]:
        """The stored response of a batch."""
        stored = self._stored(batch)
        body = stored.read()
        if body is None:
            raise StorageError(f"{stored.uri} no longer exists; a retry sends the batch again.")

        def read(answer: Response) -> tuple[Prediction, ...]:
            sent = parse_object(answer.body, batch.name)
            return read_predictions(sent, self.options.known.answer, batch.name, inputs=len(batch.sent))

        return read_blanked(read, Response(200, {}, body), *self.options.secrets)


def _to_send(batches: Iterable[Batch], last: Callable[[Batch], bool]) -> Iterator[Batch]:
    """
    Batches with something to send.

    :param last: whether a batch comes last: its response was rejected before, and must not stop the others.
    """
    later = []
    for batch in batches:
        if batch.sent and last(batch):
            later.append(batch)
        elif batch.sent:
            yield batch
    yield from later


class _Queue:
    """Batches, read a few at a time."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._ahead: deque[Batch] = deque()
        self._lock = asyncio.Lock()

    def stop(self) -> None:
        """Return no more batches."""
        self._batches = iter(())
        self._ahead.clear()

    async def next(self) -> Batch | None:
        """The next one; None at the end."""
        async with self._lock:
            if not self._ahead:
                batches = self._batches
                read = await in_thread(list, islice(batches, _READ_AHEAD))
                # It may have been stopped meanwhile.
                self._ahead.extend(read if self._batches is batches else ())
            return self._ahead.popleft() if self._ahead else None


class _Failures:
    """The first failures by position, and their number."""

    def __init__(self) -> None:
        self.count = 0
        self._first: list[tuple[int, str, LucidworksError]] = []

    def add(self, batch: Batch, err: LucidworksError) -> None:
        self.count += 1
        self._first = sorted([*self._first, (batch.position, batch.name, err)], key=lambda one: one[0])[
            :_DESCRIBED
        ]

    def error(self, batches: int, *, kept: bool) -> LucidworksError:
        """An error of the first one's class that describes all."""
        described = [f"{name}: {err}" for _, name, err in self._first]
        if self.count > _DESCRIBED:
            described.append(f"and {self.count - _DESCRIBED} more")
        first = self._first[0][2]
        others = " The other responses are stored for a retry." if kept else ""
        first.args = (
            f"{self.count} of {batches} batches failed. {'; '.join(described)}{others}",
            *first.args[1:],
        )
        return first


def log_input(batches: Batches) -> None:
    """Log what was read, and warn about rows that are not sent."""
    survey = batches.survey
    log.info(
        "Read %s%s: %s to send in %s.",
        count(survey.rows, "row"),
        f" of {batches.uri}" if batches.uri else "",
        f"{survey.sent:,}",
        count(len(batches), "request"),
    )
    if survey.rejected:
        log.warning("%s They are in the result with the status 'rejected'.", survey.summary())


def _is_common(err: LucidworksError) -> bool:
    """Whether the next batch would fail too."""
    return isinstance(
        err,
        AuthenticationError
        | ConfigurationError
        | ContentEncodingError
        | ForbiddenError
        | RateLimitError
        | StorageError
        | TokenError
        | TokenRefusedError
        | UnknownResourceError,
    )


def check_jobs(batches: Batches) -> None:
    """:raises InputError: more batches than a task takes as jobs."""
    if len(batches) > MAX_JOBS:
        raise InputError(
            f"{batches.survey.sent:,} inputs are {len(batches):,} jobs, more than the maximum per task "
            f"({MAX_JOBS:,}). Map the operator over parts of them (`.expand`)."
        )
