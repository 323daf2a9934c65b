# SPDX-License-Identifier: Apache-2.0
"""
Predictions of any number of inputs in batches, by jobs or synchronously and several at a time, and their result file:
Parquet or JSON Lines, by the path's suffix.

A row of JSON Lines is the service's response for one input, under the vendor's names and with one shape where the
documentation shows two, beside ``index`` (the input's position, from 0), the key, the columns that are passed
through, and ``status``. A field of the response with one of these names is in ``more``.

In Parquet there are columns by use case; all other fields, values of another shape than their column, and those of a
failed input are JSON in ``more``:

===========================  ========================================================================
column                       meaning
===========================  ========================================================================
``index``                    position of the input
key, other columns           under their own names and in their own types
``status``                   ``predicted``; ``failed``: the service gave an error or nothing; ``rejected``: it was not
                             sent
``response``                 the model's text
``tokens_used``              all tokens of this input, if the service reports them
``error``                    why there is no prediction for this input; null where there is one
``vector``                   embedding: float32, int8 or uint8; a fixed-size list
``label``, ``labels``        classification: the best one; all with their scores, the best first
``answer``, ``answerFound``  rag, with ``sources`` (list of texts) and ``memoryUuid``
``keywords``                 keyword-extraction: list of texts
``entities``                 ner: list of ``{type, names}``
``pairs``                    faq-enrichment: list of ``{question, answer}``
===========================  ========================================================================
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, ClassVar

from lucidworks_provider.client.http.messages import Response, parse_object, read_blanked, unusable_result
from lucidworks_provider.client.jobs import PREDICTION, JobKind
from lucidworks_provider.client.prediction_types import Embedding, Prediction, read_predictions
from lucidworks_provider.client.predictions import PredictionResult, read_result
from lucidworks_provider.client.secrets import blank
from lucidworks_provider.client.use_cases import Items, PredictionOptions, check_wire
from lucidworks_provider.client.validation import (
    BYTES,
    check_quantised,
    check_vectors,
)
from lucidworks_provider.errors import (
    AuthenticationError,
    BudgetExceededError,
    ConfigurationError,
    ContentEncodingError,
    ForbiddenError,
    InputError,
    LucidworksError,
    MalformedResponseError,
    RateLimitError,
    StorageError,
    TokenError,
    TokenRefusedError,
    TooManyRejectsError,
    UnknownResourceError,
)
from lucidworks_provider.jobs.columns import ParquetWriter
from lucidworks_provider.jobs.record import (
    REJECTED,
    FileResultStore,
    QuarantineReason,
    ResultDirectory,
)
from lucidworks_provider.jobs.rows import (
    Batch,
    Batches,
    Input,
    Rejected,
    RowRules,
    beyond_ratio,
    kept_arrays,
    kept_values,
)
from lucidworks_provider.jobs.task import (
    MAX_JOBS,
    BatchTask,
    Budget,
    JsonLinesWriter,
    ParsedBody,
    ProgressLog,
    ResultFile,
    closing_file,
)
from lucidworks_provider.metrics import count
from lucidworks_provider.storage import discard, writing
from lucidworks_provider.threads import in_thread

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

# Failures that an error message describes, and characters of an error in the log.
_DESCRIBED, _CHARACTERS = 3, 300
# Consecutive failed batches that stop the task: the service is down or overloaded, or its responses are not valid.
# The other batches, maybe thousands, would cost hours or money and fail too.
_MAX_FAILURES = 3
_CLEARING = "clearing the task sends the batch again"
# Batches that are read in one call of a thread.
_READ_AHEAD = 16


def rows_of(
    batch: Batch, predictions: Sequence[Prediction], kept: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """
    A row of JSON for each input.

    :param predictions: of the inputs that were sent, in their order.
    :param kept: the columns that are passed through, of each input; nothing where there are none.
    """
    rows = []
    for n, (given, prediction) in enumerate(_pairs(batch, predictions)):
        row, others = _row(batch.start + n, kept[n] if kept else {}, given, prediction)
        rows.append({**row, "more": others} if others else row)
    return rows


def _pairs(batch: Batch, predictions: Sequence[Prediction]) -> Iterator[tuple[Input, Prediction | None]]:
    results = iter(predictions)
    for one in batch.inputs:
        yield one, None if isinstance(one, Rejected) else next(results)


def _row(
    index: int, kept: Mapping[str, Any], given: Input, prediction: Prediction | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The row, and the fields of the response whose names the row has already."""
    named = {"index": index, **kept}
    if prediction is None:
        assert isinstance(given, Rejected)  # noqa: S101  # for the type checker
        return {**named, "status": "rejected", "error": given.reason}, {}
    named["status"] = "predicted" if prediction.error is None else "failed"
    plain = prediction.row() if prediction.error is None else {**prediction.sent, "error": prediction.error}
    others = {name: value for name, value in plain.items() if name in named and name != "index"}
    if others and "more" in plain:
        others["more"] = plain["more"]
    return named | {name: value for name, value in plain.items() if name not in named}, others


@dataclass(frozen=True, slots=True)
class ResultPolicy:
    """
    Which incomplete or doubtful responses are accepted.

    :param max_reject_ratio: the share of the inputs that may have no prediction.
    :param lenient: warn about vectors that may be valid.
    """

    max_reject_ratio: float = 1.0
    lenient: bool = False


class RowList:
    """Rows of JSON that a task returns."""

    def __init__(self) -> None:
        self.rows: list[Mapping[str, Any]] = []

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self.rows += rows

    def close(self) -> None:
        """Nothing to close."""


class PredictionFile(ResultFile):
    """
    Writes batches and counts their rows.

    The manifest has ``predictions`` (rows, one for each input), ``tokens`` (sum of those that the service reported),
    and, if there are any, ``memory_uuid`` (of the conversation, where there is just one), ``dimension`` (length of
    every vector), ``errors`` (rows without a prediction), and ``rejected`` (those of them that were not sent).
    """

    def __init__(
        self,
        writer: ParquetWriter | JsonLinesWriter | RowList,
        options: PredictionOptions[Any],
        policy: ResultPolicy,
        kept: Mapping[str, pa.DataType] | None = None,
        uri: str | None = None,
    ) -> None:
        counts = ("memory_uuid", "dimension", "errors", "rejected")
        super().__init__(uri=uri, predictions=0, tokens=0, **dict.fromkeys(counts))
        self._writer = writer
        self._options = options
        self._policy = policy
        self._kept = kept or {}
        self._conversations: set[str] = set()
        # Batches before the first vector, whose length the schema has.
        self._waiting: list[tuple[Batch, Sequence[Prediction], Any]] = []
        # The position of the first input with an error of the service, and the error.
        self._first: tuple[int, str] | None = None

    def add(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """
        Append a batch.

        :param predictions: of the inputs that were sent.
        :raises MalformedResponseError: values that the file cannot hold.
        :raises InputError: the table was changed, and a value cannot be passed through.
        """
        counts = self.counts
        length = self._check_vectors(predictions)
        if not self.fits(batch.position, length):
            return
        dimension = length or counts["dimension"]
        # Outside of the block: the response is not the cause.
        kept = self._passed(batch)
        try:
            self._write(batch, predictions, kept, dimension)
        except (ValueError, TypeError, OverflowError, RecursionError) as err:
            raise unusable_result(f"a value that the file cannot hold: {err}") from err
        counts["dimension"] = dimension
        counts["predictions"] += len(batch.inputs)
        rejected = len(batch.inputs) - len(predictions)
        if errors := rejected + sum(one.error is not None for one in predictions):
            counts["errors"] = (counts["errors"] or 0) + errors
        failed = (
            (batch.start + place, str(one.error))
            for place, (_, one) in enumerate(_pairs(batch, predictions))
            if one is not None and one.error is not None
        )
        if (first := next(failed, None)) is not None:
            self.failed.add(batch.position)
            self._first = self._first or first
        if rejected:
            counts["rejected"] = (counts["rejected"] or 0) + rejected
        counts["tokens"] += sum(one.tokens_used.sum for one in predictions)
        self._conversations |= {
            memory for one in predictions if isinstance(memory := one.sent.get("memoryUuid"), str)
        }
        counts["memory_uuid"] = next(iter(self._conversations)) if len(self._conversations) == 1 else None

    def check_errors(self) -> None:
        """
        Warn about inputs without a prediction. About those that were not sent, a warning was logged before.

        :raises MalformedResponseError: vectors of several lengths.
        :raises TooManyRejectsError: more than ``max_reject_ratio`` have none. Not retryable: the batches are charged
            again.
        """
        for err in self.outliers().values():
            raise err
        errors, predictions = self.counts["errors"] or 0, self.counts["predictions"]
        message = f"{errors:,} of {predictions:,} inputs have no prediction."
        if self._first is not None:
            index, reason = self._first
            message += f" The first error is that of input {index}: {reason[:_CHARACTERS].rstrip('.')}."
        if beyond_ratio(errors, predictions, self._policy.max_reject_ratio):
            failure = TooManyRejectsError(
                f"{message} That is more than max_reject_ratio={self._policy.max_reject_ratio:g} allows. Clearing "
                "the task sends the batches with errors again."
            )
            failure.retryable = False
            raise failure
        if self._first is not None:
            log.warning("%s The column error has the reasons.", message)

    def close(self) -> None:
        if isinstance(self._writer, ParquetWriter):
            schema = self._write_waiting(self._writer, self.counts["dimension"])
            self._writer.close(schema)
        else:
            self._writer.close()

    def _check_vectors(self, predictions: Sequence[Prediction]) -> int:
        """
        The length of the vectors, 0 if there is none.

        :raises MalformedResponseError: they are of several lengths, or not of the requested quantisation.
        """
        vectors = [one.vector for one in predictions if isinstance(one, Embedding) and one.error is None]
        method, asked = self._options.quantization, (self._options.model_config or {}).get("dimReductionSize")
        for warning in check_vectors(vectors, method, asked, "the response", lenient=self._policy.lenient):
            self.warn("%s", warning)
        check_quantised(vectors, method, "the response")
        return len(vectors[0]) if vectors else 0

    def _passed(self, batch: Batch) -> Any:
        """The columns that are passed through, as the writer takes them."""
        if not isinstance(self._writer, ParquetWriter):
            return kept_values(batch.kept, batch.name)
        return dict(zip(self._kept, kept_arrays(batch.kept, self._kept, batch.name), strict=True))

    def _write(
        self, batch: Batch, predictions: Sequence[Prediction], kept: Any, dimension: int | None
    ) -> None:
        if not isinstance(self._writer, ParquetWriter):
            self._writer.write(rows_of(batch, predictions, kept))
        elif self._options.name == "embedding" and not dimension:
            self._waiting.append((batch, predictions, kept))
        else:
            # Now, so that an invalid value is an error of this batch and not of the whole file.
            schema = self._write_waiting(self._writer, dimension)
            self._writer.write(_table(schema, batch, predictions, kept))

    def _write_waiting(self, writer: ParquetWriter, dimension: int | None) -> pa.Schema:
        schema = prediction_schema(self._options, dimension or 0, self._kept)
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            writer.write(_table(schema, *one))
        return schema


@contextmanager
def prediction_file(
    uri: str,
    options: PredictionOptions[Any],
    policy: ResultPolicy,
    kept: Mapping[str, pa.DataType] | None = None,
) -> Iterator[PredictionFile]:
    """
    Open a file that is published when the block ends without an error.

    :param kept: types of the key and the other columns that are passed through, for Parquet.
    :raises TooManyRejectsError: more have none.
    """
    with writing(uri) as path:
        writer = ParquetWriter(path) if uri.endswith(".parquet") else JsonLinesWriter(path)
        with closing_file(PredictionFile(writer, options, policy, kept, uri)) as file:
            yield file
            file.check_errors()


# Names that a row has in either format.
_RESULT = frozenset({"index", "status", "response", "tokens_used", "tokensUsed", "error", "more"})
_OWN: Mapping[str, frozenset[str]] = {
    "embedding": frozenset({"vector"}),
    "classification": frozenset({"label", "labels"}),
    "rag": frozenset({"answer", "answerFound", "sources", "memoryUuid"}),
    "keyword-extraction": frozenset({"keywords"}),
    "ner": frozenset({"entities"}),
    "faq-enrichment": frozenset({"pairs"}),
}


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


# Whether a column holds all of a value. Those that are not in here are always read.
_FITS: Mapping[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("response", "answer", "error", "memoryUuid"), _is_text),
    **dict.fromkeys(("sources", "keywords"), _are_texts),
    "answerFound": lambda value: isinstance(value, bool),
    "entities": lambda value: isinstance(value, Mapping) and all(map(_are_texts, value.values())),
    "pairs": lambda value: (
        isinstance(value, list)
        and all(isinstance(one, Mapping) and one.keys() == {"question", "answer"} for one in value)
        and all(_is_text(text) for one in value for text in one.values())
    ),
}


def _table(
    schema: pa.Schema,
    batch: Batch,
    predictions: Sequence[Prediction],
    kept: Mapping[str, pa.ChunkedArray],
) -> pa.Table:
    import pyarrow as pa

    columns = set(schema.names) - {"tokens_used", "more", *kept}
    rows = []
    for n, (given, prediction) in enumerate(_pairs(batch, predictions)):
        row, more = _row(batch.start + n, {}, given, prediction)
        row.pop("tokensUsed", None)
        failed = prediction is not None and prediction.error is not None
        more |= {
            name: row.pop(name)
            for name in list(row)
            if name not in columns or _misfit(name, row[name], failed=failed)
        }
        row["tokens_used"] = None if prediction is None else prediction.tokens_used.sum
        row["more"] = json.dumps(more, ensure_ascii=False, sort_keys=True) if more else None
        rows.append(_shaped(row))
    arrays = [
        kept[field.name] if field.name in kept else _array([row.get(field.name) for row in rows], field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=schema)


def result_names(options: PredictionOptions[Any]) -> frozenset[str]:
    """Names that the columns which are passed through cannot have."""
    return _RESULT | _OWN.get(options.name, frozenset())


def prediction_schema(
    options: PredictionOptions[Any], dimension: int, kept: Mapping[str, pa.DataType] | None = None
) -> pa.Schema:
    """
    The columns of the Parquet file, with the options in their metadata.

    :param dimension: length of every vector; 0 where there is none, and then the list is of any size.
    :param kept: the key and the other columns that are passed through, with their types.
    """
    import pyarrow as pa

    text, texts = pa.string(), pa.list_(pa.string())
    quantized = options.quantization
    number = pa.type_for_alias(BYTES[quantized][0] if quantized in BYTES else "float32")
    own: dict[str, dict[str, pa.DataType]] = {
        "embedding": {"vector": pa.list_(number, dimension or -1)},
        "classification": {
            "label": text,
            "labels": pa.list_(pa.struct([("label", text), ("score", pa.float64())])),
        },
        "rag": {"answer": text, "answerFound": pa.bool_(), "sources": texts, "memoryUuid": text},
        "keyword-extraction": {"keywords": texts},
        "ner": {"entities": pa.list_(pa.struct([("type", text), ("names", texts)]))},
        "faq-enrichment": {"pairs": pa.list_(pa.struct([("question", text), ("answer", text)]))},
    }
    common = {"status": text, "response": text, "tokens_used": pa.int64(), "error": text}
    columns = {"index": pa.int64(), **(kept or {}), **common, **own.get(options.name, {}), "more": text}
    described = json.dumps(options.as_json(), sort_keys=True)
    return pa.schema(columns.items(), metadata={"lucidworks": described})


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """
    A column; vectors without a Python loop over their numbers in pyarrow.

    :raises ValueError: a number of a vector beyond the range of float32, which pyarrow stores as infinity.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_fixed_size_list(kind):
        return pa.array(values, kind)
    if None in values:
        array = pa.array(values, kind)
    else:
        numbers = pa.array(list(chain.from_iterable(values)), kind.value_type)
        array = pa.FixedSizeListArray.from_arrays(numbers, type=kind)
    if not math.isfinite(pc.sum(array.flatten()).as_py() or 0):
        raise ValueError("a number beyond the range of float32")
    return array


def _misfit(name: str, value: object, *, failed: bool) -> bool:
    """Whether a value has another shape than its column, or is of a failed input, whose values are not read."""
    if value is None:
        return False
    return (failed and name not in _RESULT) or (name in _FITS and not _FITS[name](value))


def _shaped(row: dict[str, Any]) -> dict[str, Any]:
    """Convert mappings, whose keys are data, to lists of pairs."""
    if isinstance(row.get("labels"), Mapping):
        row["labels"] = [
            {"label": name, "score": None if score is None else float(score)}
            for name, score in row["labels"].items()
        ]
    if isinstance(row.get("entities"), Mapping):
        row["entities"] = [{"type": kind, "names": names} for kind, names in row["entities"].items()]
    return row


def row_rules(options: PredictionOptions[Any]) -> RowRules:
    """What a use case requires of its inputs."""
    return RowRules(
        lambda wire, what: check_wire(wire, what, options),
        options.as_json(),
        beyond_text=options.name == "rag" or (options.use_case_config or {}).get("dataType") == "json_prompt",
    )


@dataclass(frozen=True, slots=True)
class PredictionTask(BatchTask[PredictionFile]):
    """One job for each batch, and a file of rows."""

    kind: ClassVar[JobKind] = PREDICTION
    noun: ClassVar[str] = "batches"

    options: PredictionOptions[Any]
    policy: ResultPolicy

    # Name and number of inputs of each batch.
    _known: Sequence[tuple[str, int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        BatchTask.__post_init__(self)
        object.__setattr__(self, "_known", [(one.name, len(one.sent)) for one in self._reader.rest()])

    def name(self, position: int) -> str:
        return self._known[position][0]

    def log_input(self) -> None:
        log_input(self.batches)

    async def submit(self, position: int) -> str:
        from lucidworks_provider.client.predictions import submit_items

        batch = await in_thread(self._reader.get, position)
        return await self.hook.acall(submit_items(self.options, batch.sent))

    def parse(self, body: bytes, position: int, job_id: str) -> ParsedBody:
        """The value is a prediction for each input."""

        def read(response: Response) -> PredictionResult:
            sent = parse_object(response.body, f"Prediction job {job_id}")
            return read_result(sent, job_id, self.options.known.prediction, self._known[position][1])

        result = read_blanked(read, Response(200, {}, body), *self.options.secrets)
        return ParsedBody(result.state, result.status, self.redact(result.message), result.predictions)

    def redact(self, text: str) -> str:
        return blank(text, self.options.secrets)

    @contextmanager
    def open(self) -> Iterator[PredictionFile]:
        types = self.batches.survey.types
        with prediction_file(self.result_uri, self.options, self.policy, types) as file:
            yield file
            # Read to the end, where a change of the table is detected.
            for batch in self._reader.rest():
                if not batch.sent:
                    file.add(batch, ())

    def add(self, file: PredictionFile, position: int, value: Sequence[Prediction]) -> None:
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
    :param generation: of the task instance, see :mod:`~lucidworks_provider.jobs.record`. What it paid for and cannot
        use is requested again by another one only.
    :param progress: logs the progress.
    :param budget: of tokens, for the responses that this attempt requests.
    """

    options: PredictionOptions[Any]
    batches: Batches
    predict: Predict
    concurrency: int
    results: ResultDirectory | None = None
    revision: int = 0
    generation: int = 0
    policy: ResultPolicy = field(default_factory=ResultPolicy)
    progress: ProgressLog | None = None
    budget: Budget = field(default_factory=Budget)

    def _stored(self, batch: Batch) -> FileResultStore:
        """Where the response of a batch is stored, if the task has a result file."""
        assert self.results is not None  # noqa: S101  # for the type checker
        return self.results.of(f"{batch.fingerprint(self.options.as_json())}{self.revision or ''}")

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
            except StorageError as why:
                raise StorageError(f"result_path cannot be written: {why}") from why
            # One listing instead of a request for each batch.
            names = await in_thread(self.results.names)
        some = any(name.endswith(REJECTED) for name in names)
        queue = _Queue(
            _to_send(
                self.batches.checked(), lambda batch: some and self._stored(batch).rejected_name in names
            )
        )
        failed = _Failures()
        done: dict[int, tuple[Prediction, ...]] = {}
        failures = 0
        over_budget: list[BudgetExceededError] = []

        async def work() -> None:
            nonlocal failures
            while (batch := await queue.next()) is not None:
                try:
                    if (known := await self._rejection(batch, names)) is not None:
                        failed.add(batch, known)
                        continue
                    predictions = await self._one(batch, names)
                except BudgetExceededError as err:
                    over_budget.append(err)
                    queue.stop()
                    continue
                except LucidworksError as err:
                    failed.add(batch, err)
                    failures += err.retryable or isinstance(err, MalformedResponseError)
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
        except MalformedResponseError as err:
            again = "" if err.retryable else f"; {_CLEARING}"
            message = f"{str(err).rstrip('.')}. The response is kept in {store.unusable_uri}{again}."
            err.args = (message, *err.args[1:])
            # The mark first: without it, a retry would pay again.
            await in_thread(store.mark_rejected, message, None if err.retryable else self.generation)
            await store.quarantine(err.body, QuarantineReason.UNUSABLE)
            err.body = b""
            raise
        except ContentEncodingError as err:
            err.kept(await store.quarantine(err.body, QuarantineReason.UNDECODED, err.encoding))
            await in_thread(store.mark_rejected, str(err), self.generation)
            raise
        await store.save(body)
        self._count(batch)
        return None

    async def _rejection(self, batch: Batch, names: Collection[str]) -> MalformedResponseError | None:
        """The error of a batch whose response an earlier attempt of this generation could not use."""
        if self.results is None or (store := self._stored(batch)).rejected_name not in names:
            return None
        reason = None if store.name in names else await in_thread(store.rejection, self.generation)
        return None if reason is None else unusable_result(reason.rstrip("."))

    async def _predict(self, items: Items) -> tuple[bytes, tuple[Prediction, ...]]:
        self.budget.check_tokens()
        body, predictions = await self.predict(items)
        self.budget.spend(sum(one.tokens_used.sum for one in predictions))
        return body, predictions

    def _count(self, batch: Batch, *, kept: bool = False) -> None:
        if self.progress is not None:
            self.progress.add(len(batch.sent), kept=kept)

    def write(self, file: PredictionFile) -> None:
        """
        Append the rows of all batches.

        :raises InputError: the table was changed; retryable.
        :raises StorageError: a stored response does not exist.
        :raises MalformedResponseError: responses are not valid. They are quarantined, so that an attempt after
            clearing sends their batches again.
        """
        unusable: dict[int, MalformedResponseError] = {}
        for batch in self.batches.checked():
            try:
                file.add(batch, self._read(batch) if batch.sent else ())
            except MalformedResponseError as err:
                if not batch.sent:
                    raise
                unusable[batch.position] = err
        unusable = {**file.outliers(), **unusable}
        if unusable:
            raise self._reject(unusable)

    def _reject(self, errors: Mapping[int, MalformedResponseError]) -> LucidworksError:
        failed = _Failures()
        for batch in self.batches.checked():
            if (err := errors.get(batch.position)) is not None:
                stored = self._stored(batch)
                message = (
                    f"{str(err).rstrip('.')}. The response is kept in {stored.unusable_uri}; {_CLEARING}"
                )
                # The mark first: without it, a retry would pay again.
                stored.mark_rejected(message, self.generation)
                stored.reject()
                failed.add(batch, unusable_result(message))
        return failed.error(len(self.batches), kept=True)

    def discard(self, positions: Collection[int]) -> None:
        """Delete the responses of some batches, if the storage allows it; the next attempt sends these again."""
        batches = (batch for batch in self.batches.checked() if batch.position in positions)
        discard(*[self._stored(batch).uri for batch in batches])

    def _read(self, batch: Batch) -> tuple[Prediction, ...]:
        """The stored response of a batch."""
        stored = self._stored(batch)
        body = stored.read()
        if body is None:
            raise StorageError(f"{stored.uri} no longer exists; a retry sends the batch again.")

        def read(response: Response) -> tuple[Prediction, ...]:
            sent = parse_object(response.body, batch.name)
            return read_predictions(sent, self.options.known.prediction, batch.name, inputs=len(batch.sent))

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
        self._batches = iter(())
        self._ahead.clear()

    async def next(self) -> Batch | None:
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
