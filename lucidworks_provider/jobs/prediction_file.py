# SPDX-License-Identifier: Apache-2.0
"""
The result file of a prediction task: Parquet or JSON Lines, by the path's suffix.

A row of JSON Lines is the service's response for one input, under the vendor's names and with one shape where the
documentation shows two, beside ``index`` (the input's position, from 0), the key, the columns that are passed
through, and ``status``. A field of the response with one of these names is in ``more``.

In Parquet there are columns by use case; all other fields are JSON in ``more``:

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

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucidworks_provider.client import validation
from lucidworks_provider.client.prediction_types import Embedding, Prediction
from lucidworks_provider.client.use_cases import Item, PredictionOptions
from lucidworks_provider.errors import TooManyRejectsError
from lucidworks_provider.jobs.chunk_columns import BYTES
from lucidworks_provider.jobs.progress import Warnings
from lucidworks_provider.jobs.rows import Batch, Rejected, kept_arrays, kept_values
from lucidworks_provider.storage import writing

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

log = logging.getLogger(__name__)

# Characters of an error in the log.
_DESCRIBED = 300


@dataclass(slots=True)
class Manifest:
    """
    What a task returns.

    :param uri: the file.
    :param predictions: rows in it, one for each input.
    :param tokens: sum of the tokens that the service reported.
    :param memory_uuid: of the conversation, where there is just one.
    :param dimension: length of every vector, where there are vectors.
    :param errors: rows without a prediction, where there are any.
    :param rejected: those of them that were not sent.
    """

    uri: str
    predictions: int = 0
    tokens: int = 0
    memory_uuid: str | None = None
    dimension: int | None = None
    errors: int | None = None
    rejected: int | None = None

    def as_json(self) -> dict[str, Any]:
        """For XCom."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def rows_of(batch: Batch, predictions: Sequence[Prediction]) -> list[dict[str, Any]]:
    """
    A row of JSON for each input.

    :param predictions: of the inputs that were sent, in their order.
    """
    kept = kept_values(batch.kept)
    rows = []
    for n, (given, prediction) in enumerate(_pairs(batch, predictions)):
        row, others = _row(batch.start + n, kept[n] if kept else {}, given, prediction)
        rows.append({**row, "more": others} if others else row)
    return rows


def _pairs(
    batch: Batch, predictions: Sequence[Prediction]
) -> Iterator[tuple[Item | Rejected, Prediction | None]]:
    answers = iter(predictions)
    for one in batch.inputs:
        yield one, None if isinstance(one, Rejected) else next(answers)


def _row(
    index: int, kept: Mapping[str, Any], given: Item | Rejected, prediction: Prediction | None
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


def check_errors(errors: int, predictions: int, most: float, *, failed: str | None = None) -> None:
    """
    Warn about inputs without a prediction.

    :param most: the share of the inputs that may have none, 0 to 1.
    :param failed: the first error of an input that was sent; None if there is none. A warning about the others was
        logged before they were sent.
    :raises TooManyRejectsError: more have none. Not retryable: the stored responses would be the same.
    """
    if not errors:
        return
    message = f"{errors:,} of {predictions:,} inputs have no prediction; the column error says why"
    if errors > most * predictions:
        failure = TooManyRejectsError(f"{message}. That is more than max_reject_ratio={most:g} allows.")
        failure.retryable = False
        raise failure
    if failed is not None:
        log.warning("%s. The first: %s", message, failed[:_DESCRIBED])


@dataclass(frozen=True, slots=True)
class ResultPolicy:
    """
    Which incomplete or doubtful responses are accepted.

    :param max_reject_ratio: the share of the inputs that may have no prediction.
    :param lenient: warn about vectors that may be valid.
    """

    max_reject_ratio: float = 1.0
    lenient: bool = False


DEFAULT_POLICY = ResultPolicy()


def check_vectors(
    predictions: Sequence[Prediction],
    options: PredictionOptions[Any],
    dimension: int | None = None,
    *,
    lenient: bool = False,
    warnings: Warnings,
) -> int | None:
    """
    Check that all vectors have one length and the requested quantisation.

    :param dimension: length of the vectors before these, if there were any.
    :param warnings: gets those about vectors that are accepted.
    :return: length of these.
    :raises MalformedAnswerError: they do not.
    """
    vectors = [one.vector for one in predictions if isinstance(one, Embedding) and one.error is None]
    asked = (options.model_config or {}).get("dimReductionSize")
    for warning in validation.check_vectors(
        vectors, options.quantization, asked, "the answer", lenient=lenient
    ):
        warnings.add("%s", warning)
    for vector in vectors:
        if dimension not in {None, len(vector)}:
            raise validation.refused(f"a vector of {len(vector)} numbers after one of {dimension}")
        dimension = len(vector)
        method = options.quantization
        if method is not None and method in BYTES:
            _, low, high = BYTES[method]
            if not all(value == int(value) and low <= value <= high for value in vector):
                raise validation.refused(
                    f"{method} was requested, but a vector holds other than whole numbers from {low} to {high}"
                )
    return dimension


class PredictionFile:
    """Writes batches and counts their rows."""

    def __init__(
        self,
        writer: _JsonLines | _Parquet,
        uri: str,
        options: PredictionOptions[Any],
        warnings: Warnings,
        *,
        lenient: bool,
    ) -> None:
        self._writer = writer
        self._options = options
        self._warnings = warnings
        self._lenient = lenient
        self._conversations: set[str] = set()
        self.manifest = Manifest(uri)
        # The first error of an input that was sent.
        self.failed: str | None = None

    def add(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        """
        Append a batch.

        :param predictions: of the inputs that were sent.
        :raises MalformedAnswerError: values that the file cannot hold.
        """
        known = self.manifest.dimension
        dimension = check_vectors(
            predictions, self._options, known, lenient=self._lenient, warnings=self._warnings
        )
        try:
            self._writer.add(batch, predictions)
        except (ValueError, TypeError, OverflowError, RecursionError) as err:
            raise validation.refused(f"a value that the file cannot hold: {err}") from err
        manifest = self.manifest
        manifest.dimension = dimension
        manifest.predictions += len(batch.inputs)
        rejected = len(batch.inputs) - len(predictions)
        if errors := rejected + sum(one.error is not None for one in predictions):
            manifest.errors = (manifest.errors or 0) + errors
        if self.failed is None:
            self.failed = next((str(one.error) for one in predictions if one.error is not None), None)
        if rejected:
            manifest.rejected = (manifest.rejected or 0) + rejected
        manifest.tokens += sum(one.tokens_used.sum for one in predictions)
        self._conversations |= {one.sent["memoryUuid"] for one in predictions if _is_conversation(one)}
        manifest.memory_uuid = next(iter(self._conversations)) if len(self._conversations) == 1 else None


def _is_conversation(prediction: Prediction) -> bool:
    return isinstance(prediction.sent.get("memoryUuid"), str)


@contextmanager
def prediction_file(
    uri: str,
    options: PredictionOptions[Any],
    policy: ResultPolicy = DEFAULT_POLICY,
    kept: Mapping[str, pa.DataType] | None = None,
    warnings: Warnings | None = None,
) -> Iterator[PredictionFile]:
    """
    Open a file that is published when the block ends without an error.

    :param kept: types of the key and the other columns that are passed through, for Parquet.
    :param warnings: gets those about predictions that are accepted.
    :raises TooManyRejectsError: more have none.
    """
    with writing(uri) as path:
        writer = _Parquet(path, options, kept or {}) if uri.endswith(".parquet") else _JsonLines(path)
        try:
            file = PredictionFile(writer, uri, options, warnings or Warnings(), lenient=policy.lenient)
            yield file
            made = file.manifest
            check_errors(made.errors or 0, made.predictions, policy.max_reject_ratio, failed=file.failed)
        finally:
            writer.close()


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
# Columns whose values are not parsed.
_TYPES: Mapping[str, type] = {
    "response": str,
    "answer": str,
    "answerFound": bool,
    "error": str,
    "memoryUuid": str,
}


class _JsonLines:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")

    def add(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        rows = rows_of(batch, predictions)
        self._file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """Row groups of some thousand rows."""

    _ROWS = 4096

    def __init__(self, path: Path, options: PredictionOptions[Any], kept: Mapping[str, pa.DataType]) -> None:
        self._path = path
        self._options = options
        self._kept = kept
        self._schema: pa.Schema | None = None
        self._writer: pq.ParquetWriter | None = None
        self._tables: list[pa.Table] = []
        # Batches before the first vector, whose length the schema has.
        self._waiting: list[tuple[Batch, Sequence[Prediction]]] = []

    def add(self, batch: Batch, predictions: Sequence[Prediction]) -> None:
        vectors = [one.vector for one in predictions if isinstance(one, Embedding) and one.vector]
        if self._schema is None and self._options.name == "embedding" and not vectors:
            self._waiting.append((batch, predictions))
            return
        schema = self._open(len(vectors[0]) if vectors else 0)
        # Now, so that an invalid value is an error of this batch and not of the whole file.
        self._tables.append(self._table(schema, batch, predictions))
        if sum(map(len, self._tables)) >= self._ROWS:
            self._flush()

    def _table(self, schema: pa.Schema, batch: Batch, predictions: Sequence[Prediction]) -> pa.Table:
        import pyarrow as pa

        columns = set(schema.names) - {"tokens_used", "more", *self._kept}
        rows = []
        for n, (given, prediction) in enumerate(_pairs(batch, predictions)):
            row, more = _row(batch.start + n, {}, given, prediction)
            row.pop("tokensUsed", None)
            more |= {name: row.pop(name) for name in list(row) if name not in columns or _misfit(name, row)}
            row["tokens_used"] = None if prediction is None else prediction.tokens_used.sum
            row["more"] = json.dumps(more, ensure_ascii=False, sort_keys=True) if more else None
            rows.append(_shaped(row))
        kept = dict(zip(self._kept, kept_arrays(batch.kept, self._kept, batch.name), strict=True))
        arrays = [
            kept[field.name]
            if field.name in kept
            else _array([row.get(field.name) for row in rows], field.type)
            for field in schema
        ]
        return pa.table(arrays, schema=schema)

    def close(self) -> None:
        self._open(0)
        self._flush()
        if self._writer is not None:
            self._writer.close()

    def _open(self, dimension: int) -> pa.Schema:
        """Create the schema, once the length of the vectors is known."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._schema is None:
            described = json.dumps(self._options.as_json(), sort_keys=True)
            fields = prediction_fields(self._options, dimension, self._kept)
            self._schema = pa.schema(fields, metadata={"lucidworks": described})
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
            waiting, self._waiting = self._waiting, []
            self._tables += [self._table(self._schema, *one) for one in waiting]
        return self._schema

    def _flush(self) -> None:
        import pyarrow as pa

        if self._tables and self._writer is not None:
            self._writer.write_table(pa.concat_tables(self._tables))
            self._tables = []


def result_names(options: PredictionOptions[Any]) -> frozenset[str]:
    """Names that the columns which are passed through cannot have."""
    return _RESULT | _OWN.get(options.name, frozenset())


def prediction_fields(
    options: PredictionOptions[Any], dimension: int, kept: Mapping[str, pa.DataType] | None = None
) -> list[pa.Field]:
    """
    The columns of the Parquet file.

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
    return [pa.field(name, kind) for name, kind in columns.items()]


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    """A column; vectors without a Python loop over their numbers in pyarrow."""
    import pyarrow as pa

    if not pa.types.is_fixed_size_list(kind) or None in values:
        return pa.array(values, kind)
    numbers = pa.array(list(chain.from_iterable(values)), kind.value_type)
    return pa.FixedSizeListArray.from_arrays(numbers, type=kind)


def _misfit(name: str, row: Mapping[str, Any]) -> bool:
    """Whether the type of a value is not the documented one."""
    kind = _TYPES.get(name)
    return kind is not None and row[name] is not None and not isinstance(row[name], kind)


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
