# SPDX-License-Identifier: Apache-2.0
"""
The rows of a task: validation, and batches.

Rows are Python values (texts, dictionaries, tuples of SQL) or those of a table; see
:mod:`lucidworks_provider.documents.tables`. :func:`~lucidworks_provider.documents.document.text_rejection` validates
the texts of all of them; what else a kind of task requires of a row is in its :class:`RowRules`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from threading import Lock
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID, uuid4

from lucidworks_provider.client.options import MAX_TEXT_BYTES, as_json, json_body, no_text
from lucidworks_provider.documents.document import NO_TEXT, TableColumns, text_rejection
from lucidworks_provider.documents.parquet_rows import is_textual
from lucidworks_provider.documents.tables import (
    InputTable,
    copied,
    nested_json,
    open_table,
    python_array,
    python_batch,
    unified_type,
)
from lucidworks_provider.errors import InputError, StorageError, check_documents_extra
from lucidworks_provider.jobs.record import fingerprint_of
from lucidworks_provider.storage import discard_folder, read_file, write_file

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

T = TypeVar("T")

# Reasons that a message includes.
_DESCRIBED = 3
# Rows after which a batch of rejected rows ends; and rows of an iterable in memory, and their characters.
_MOST_ROWS, _MOST_CHARACTERS = 1024, 8_000_000
# Bytes of a file of a spooled table.
_SPOOL_BYTES = 4_000_000
# Rows of a block of the digest.
_DIGEST_ROWS = 256
# Batches that stay in memory after their submission.
_RECENT = 16


@dataclass(frozen=True, slots=True)
class RowRules:
    """
    What a kind of task requires of its rows.

    :param check: raises InputError for a row that a request cannot have; gets what is sent, and a name of the row.
    :param options: that the check depends on, as JSON. Rows that were stored for other options are read again.
    :param beyond_text: whether a row with a valid text and nothing else may fail the check.
    :param max_bytes: of a text in a request; see :func:`~lucidworks_provider.client.options.json_beyond`.
    :param limit_name: names ``max_bytes`` in messages.
    :param add: called with rows and the position of the first of them; raises InputError.
    :param row: what a list has, for messages.
    """

    check: Callable[[Mapping[str, Any], str], object]
    options: Mapping[str, Any] = field(default_factory=dict)
    beyond_text: bool = False
    max_bytes: int = MAX_TEXT_BYTES
    limit_name: str = "the limit of "
    add: Callable[[Rows, int], None] = lambda rows, start: None
    row: str = "texts or of {'text': …}"


@dataclass(frozen=True, slots=True)
class Rejected:
    """
    A row that cannot be sent.

    :param reason: for the result and the log.
    """

    reason: str


# A row that is sent, as a request has it: `text`, and what else the use case takes; or a rejected one.
Input = Mapping[str, Any] | Rejected


@dataclass(frozen=True, slots=True)
class Rows:
    """
    Consecutive rows.

    :param inputs: what is sent of each.
    :param kept: the key and the other columns that are passed through, of each row.
    """

    inputs: Sequence[Input]
    kept: Any

    def slice(self, start: int, end: int) -> Any:
        return _slice(self.kept, start, end)

    def values(self, name: str, where: str) -> list[Any]:
        """
        A kept column as JSON has it.

        :param where: names the rows in messages.
        """
        if isinstance(self.kept, list):
            return [json_value(row.get(name)) for row in self.kept]
        return _json_column(self.kept.column(name), name, where)


@dataclass(frozen=True, slots=True)
class Batch:
    """
    Rows of one request, with those between them that cannot be sent.

    :param position: of the batch.
    :param start: its first row.
    """

    position: int
    start: int
    inputs: tuple[Input, ...]
    kept: tuple[Any, ...] = ()

    @property
    def sent(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(one for one in self.inputs if not isinstance(one, Rejected))

    @property
    def name(self) -> str:
        last = self.start + len(self.inputs) - 1
        return f"Input {self.start}" if self.start == last else f"Inputs {self.start} to {last}"

    def fingerprint(self, options: Mapping[str, Any]) -> str:
        numbered = enumerate(self.inputs, self.start)
        sent = json_body([[n, one] for n, one in numbered if not isinstance(one, Rejected)])
        return fingerprint_of(options, [("", sent.decode())])

    def kept_of(self, place: int) -> Any:
        """The kept columns of one row, as a table of one."""
        for part in self.kept:
            if place < len(part):
                return _slice(part, place, place + 1)
            place -= len(part)
        return []


@dataclass(slots=True)
class Survey:
    """
    Counts, types and a digest of all rows.

    :param argument: that the rows are from, for messages.
    :param rows: of the table.
    :param rejected: rows that cannot be sent.
    :param reasons: of the first of them.
    :param types: of the kept columns, where they are Arrow's.
    :param mixed: whether a kept column has several types.
    """

    argument: str = "inputs"
    rows: int = 0
    rejected: int = 0
    reasons: list[str] = field(default_factory=list)
    types: dict[str, Any] = field(default_factory=dict)
    mixed: bool = False
    _digest: Any = field(default_factory=hashlib.sha256, repr=False)
    _kept_digest: Any = field(default_factory=hashlib.sha256, repr=False)
    # Kept columns that are not in the digest yet.
    _waiting: pa.Table | None = field(default=None, repr=False)

    @property
    def sent(self) -> int:
        return self.rows - self.rejected

    @property
    def sent_digest(self) -> str:
        """A digest of what is sent and rejected of all rows, in their order: whatever they are read from."""
        return str(self._digest.hexdigest())

    @property
    def digest(self) -> str:
        """With the columns that are passed through, however the rows are divided into parts of one type."""
        self._digest_blocks(1)
        return hashlib.sha256(self._digest.digest() + self._kept_digest.digest()).hexdigest()

    def add(self, rows: Rows) -> None:
        for number, one in enumerate(rows.inputs, self.rows):
            if not isinstance(one, Rejected):
                data = json_body(one) if len(one) > 1 else one["text"].encode()
                self._digest.update(len(data).to_bytes(8, "big") + data)
                continue
            self._digest.update(b"\xff" + one.reason.encode())
            self.rejected += 1
            if len(self.reasons) < _DESCRIBED:
                self.reasons.append(
                    f"{self.argument}[{number}]{_key(rows, number - self.rows)}: {one.reason}"
                )
        self.rows += len(rows.inputs)
        self._add_kept(rows.kept)

    def _add_kept(self, kept: Any) -> None:
        if isinstance(kept, list):
            self._kept_digest.update(repr(kept).encode(errors="surrogatepass"))
            return
        import pyarrow as pa

        for column in kept.schema:
            known = self.types.setdefault(column.name, column.type)
            if known != column.type:
                self.types[column.name] = unified_type(column.name, known, column.type, self.argument)
                self.mixed |= not pa.types.is_null(known) and not pa.types.is_null(column.type)
        # Without dictionaries, which serialize() leaves out. A copy: the bytes of a NULL are undefined.
        names = kept.schema.names
        columns = [copied(kept.column(name), name, self.argument, decoded=True) for name in names]
        table = pa.table(columns, names)
        if self._waiting is not None and self._waiting.schema != table.schema:
            self._digest_blocks(1)
        self._waiting = table if self._waiting is None else pa.concat_tables([self._waiting, table])
        self._digest_blocks(_DIGEST_ROWS)

    def _digest_blocks(self, least: int) -> None:
        """
        Add waiting rows to the digest.

        :param least: of a block; fewer rows stay.
        """
        import pyarrow as pa

        while self._waiting is not None and self._waiting.num_rows >= least:
            block = self._waiting.slice(0, _DIGEST_ROWS)
            # A copy: a slice has the bits of its neighbours.
            block = block.combine_chunks().take(pa.array(range(block.num_rows), pa.int64()))
            self._kept_digest.update(block.combine_chunks().to_batches()[0].serialize())
            self._waiting = (
                self._waiting.slice(_DIGEST_ROWS) if self._waiting.num_rows > _DIGEST_ROWS else None
            )

    def check(self, *, reject: bool, max_reject_ratio: float) -> None:
        """
        Check the number of rows that cannot be sent.

        :param reject: send the others.
        :param max_reject_ratio: the share of the rows, 0 to 1, that may be rejected.
        :raises InputError: by policy, or because they are too many. Nothing was sent.
        """
        if not self.rejected:
            return
        if not reject:
            raise InputError(f"{self.summary()} With on_invalid='reject', the others are sent.")
        if beyond_ratio(self.rejected, self.rows, max_reject_ratio):
            raise InputError(
                f"{self.summary()} That is more than max_reject_ratio={max_reject_ratio:g} allows."
            )

    def summary(self) -> str:
        """How many rows cannot be sent, with the first reasons."""
        more = self.rejected - len(self.reasons)
        reasons = " ".join(self.reasons) + (f" And {more:,} more." if more else "")
        return f"{self.rejected:,} of {self.rows:,} rows cannot be sent. {reasons}"


def beyond_ratio(rejected: int, total: int, max_reject_ratio: float) -> bool:
    """Whether more are rejected than ``max_reject_ratio`` allows. 0.29 * 100 is less than 29."""
    return rejected > 0 and (total == 0 or rejected / total > max_reject_ratio)


def _key(rows: Rows, place: int) -> str:
    try:
        values = _json_rows(rows.slice(place, place + 1), "")[0]
    except InputError:
        # Parquet takes the key as it is.
        return ""
    return "".join(f" ({name} {value!r:.40})" for name, value in list(values.items())[:1])


@dataclass(frozen=True, slots=True)
class Batches:
    """
    Rows in batches.

    :param read: returns the rows from the beginning.
    :param size: inputs of a request.
    :param survey: of all rows.
    :param uri: of the table that they are from, if it has one.
    :param spooled: whether they are stored in a :class:`Spool`.
    """

    read: Callable[[], Iterable[Rows]]
    size: int
    survey: Survey
    uri: str | None = None
    spooled: bool = False

    def __len__(self) -> int:
        """How many have rows to send."""
        return math.ceil(self.survey.sent / self.size)

    def checked(self, most: int = _MOST_ROWS) -> Iterator[Batch]:
        """
        The batches.

        :param most: as in :func:`split_batches`.
        :raises InputError: the rows differ from those of the survey; retryable.
        """
        seen = Survey(self.survey.argument)

        def noted() -> Iterator[Rows]:
            for rows in self.read():
                seen.add(rows)
                yield rows

        yield from split_batches(noted(), self.size, most)
        if seen.digest != self.survey.digest:
            raise InputError(
                f"{seen.argument}: the table was changed while the task was reading it. Nothing was written; a retry "
                "reads it again."
            ).as_retryable()

    @property
    def digest(self) -> str:
        """A digest of all rows, with the columns that are passed through."""
        return fingerprint_of({"columns": list(self.survey.types), "rows": self.survey.digest}, [])

    def fingerprint(self, options: Mapping[str, Any]) -> str:
        """A digest of everything that is sent: results stay valid if columns that are passed through change."""
        return fingerprint_of({**options, "batch": self.size, "rows": self.survey.sent_digest}, [])


def split_batches(rows: Iterable[Rows], size: int, most: int = _MOST_ROWS) -> Iterator[Batch]:
    """
    Split rows into batches.

    :param size: valid rows of a batch.
    :param most: all rows of a batch that has no valid row, or all of them.
    """
    position = start = sendable = 0
    inputs: list[Input] = []
    kept: list[Any] = []
    for run in rows:
        begin = 0
        for number, one in enumerate(run.inputs):
            can_be_sent = not isinstance(one, Rejected)
            full = sendable == size
            # A batch with fewer is not cut: it would take a request that len() does not count.
            if (full and can_be_sent) or (len(inputs) >= most and (full or not sendable)):
                if number > begin:
                    kept.append(run.slice(begin, number))
                yield Batch(position, start, tuple(inputs), tuple(kept))
                begin, position, start = number, position + 1, start + len(inputs)
                inputs, kept, sendable = [], [], 0
            inputs.append(one)
            sendable += can_be_sent
        if begin < len(run.inputs):
            kept.append(run.slice(begin, len(run.inputs)))
    if inputs:
        yield Batch(position, start, tuple(inputs), tuple(kept))


class BatchReader:
    """
    Batches by position: the rows are read in order, and again from the beginning for an earlier position.

    Thread-safe.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._lock = Lock()
        self._restart()

    def get(self, position: int) -> Batch:
        """:raises InputError: the table was changed; retryable."""
        with self._lock:
            if not self._recent or position < self._recent[0].position:
                self._restart()
            while not self._recent or self._recent[-1].position < position:
                try:
                    self._recent.append(next(self._following))
                except Exception:
                    # The iterator has ended with the error; another thread's call must begin anew.
                    self._restart()
                    raise
            return self._recent[position - self._recent[0].position]

    def rest(self) -> Iterator[Batch]:
        """
        The batches that were not read yet; the next call of :meth:`get` begins anew.

        :raises InputError: the table was changed; retryable.
        """
        yield from self._following
        self._restart()

    def check_rest(self) -> None:
        """
        Read to the end, where a change of the table is detected; the next call of :meth:`get` begins anew.

        :raises InputError: the table was changed; retryable.
        """
        deque(self.rest(), maxlen=0)

    def _restart(self) -> None:
        # One row more than the table has: a batch then has nothing to send only if no row is valid.
        self._following = self._batches.checked(self._batches.survey.rows + 1)
        # A few batches are submitted at once.
        self._recent: deque[Batch] = deque(maxlen=_RECENT)


@dataclass(frozen=True, slots=True)
class Spool:
    """
    The rows of a source that can be read only once, stored in files for a retry.

    :param folder: of the files.
    :param generation: of the task instance; a cleared task reads its source again.
    :param everything: store the rows of any source: what a function has returned is lost in a wait.
    """

    folder: str
    generation: int
    everything: bool = False

    def read(self, what: str) -> Callable[[], Iterator[Rows]] | None:
        """
        The rows that an earlier attempt has stored completely.

        :param what: fingerprint of the columns and options.
        """
        noted = read_file(f"{self.folder}/table.json")
        found = json.loads(noted) if noted else {}
        if (found.get("generation"), found.get("what")) != (self.generation, what):
            return None
        return lambda: self._rows(found["reading"], found["files"])

    def write(self, rows: Iterable[Rows], what: str) -> Callable[[], Iterator[Rows]]:
        """Read the source to its end."""
        # Of the files' names: an attempt that Airflow considered dead may write into the same folder.
        reading = uuid4().hex
        files, size = 0, 0
        held: list[pa.RecordBatch] = []
        for one in rows:
            batch = _spooled(one)
            if held and (batch.schema != held[0].schema or size > _SPOOL_BYTES):
                files, size, held = self._file(reading, files, held), 0, []
            held.append(batch)
            size += batch.nbytes
        if held:
            files = self._file(reading, files, held)
        done = {"generation": self.generation, "what": what, "reading": reading, "files": files}
        write_file(f"{self.folder}/table.json", json.dumps(done).encode())
        return lambda: self._rows(reading, files)

    def discard(self) -> None:
        """Remove the files, if the storage allows it."""
        discard_folder(self.folder)

    def _uri(self, reading: str, number: int) -> str:
        return f"{self.folder}/{reading}.{number:05d}.arrow"

    def _file(self, reading: str, number: int, batches: Sequence[pa.RecordBatch]) -> int:
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batches[0].schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        write_file(self._uri(reading, number), sink.getvalue().to_pybytes())
        return number + 1

    def _rows(self, reading: str, files: int) -> Iterator[Rows]:
        import pyarrow as pa

        for number in range(files):
            uri = self._uri(reading, number)
            data = read_file(uri)
            if data is None:
                raise InputError(
                    f"{uri} no longer exists; clear the task to read its source again."
                ).as_retryable()
            for batch in pa.ipc.open_stream(data):
                wires, reasons = (batch.column(place).to_pylist() for place in (0, 1))
                inputs = [
                    Rejected(reason) if wire is None else json.loads(wire)
                    for wire, reason in zip(wires, reasons, strict=True)
                ]
                yield Rows(inputs, batch.select(list(range(2, batch.num_columns))))


def _spooled(rows: Rows) -> pa.RecordBatch:
    import pyarrow as pa

    rejected = [one.reason if isinstance(one, Rejected) else None for one in rows.inputs]
    wires = [None if isinstance(one, Rejected) else json_body(one).decode() for one in rows.inputs]
    names = ["wire", "rejected", *rows.kept.schema.names]
    columns = [pa.array(wires, pa.large_string()), pa.array(rejected, pa.string()), *rows.kept.columns]
    return pa.record_batch(columns, names)


def read_batches(
    inputs: object,
    columns: TableColumns,
    rules: RowRules,
    size: int,
    *,
    typed: bool = False,
    spool: Spool | None = None,
) -> Batches:
    """
    Read all rows once and validate them.

    :param inputs: the operators' argument.
    :param size: inputs of a request.
    :param typed: whether the kept columns need a type, as a result in Parquet does.
    :param spool: stores rows that can be read only once; None to keep them in memory.
    :raises InputError: the type is not supported, or a row is not valid; names its position.
    """
    if isinstance(inputs, str) and inputs.lstrip().startswith("["):
        inputs = _parsed(inputs, columns.argument)
    listed = (
        inputs if isinstance(inputs, Sequence) and not isinstance(inputs, bytes | bytearray | str) else None
    )
    table = open_table(inputs, columns, typed=typed) if listed is None else None
    again = spool is None or not spool.everything
    uri = None if table is None else table.uri
    spooled = False
    survey = Survey(columns.argument)
    try:
        if table is not None and table.again and again:
            read: Callable[[], Iterable[Rows]] = lambda: _table_rows(table, columns, rules)  # noqa: E731
        elif listed is not None and again:
            held = [_in_memory(listed, columns, rules)]
            read = lambda: held  # noqa: E731
        else:
            once = (
                _python_chunks(inputs, columns, rules, typed=typed)
                if table is None
                else _table_rows(table, columns, rules)
            )
            read = _read_once(once, spool, columns, rules, typed=typed)
            spooled = spool is not None
        for rows in read():
            rules.add(rows, survey.rows)
            if not typed:
                _check_json(rows.kept, _span(survey, rows))
            elif isinstance(rows.kept, list):
                survey.types = _types(rows.kept, columns)
            survey.add(rows)
        if typed:
            survey.types = {name: _known(survey.types.get(name)) for name in columns.kept}
        if typed and survey.mixed:
            _check_types(read(), survey)
    except StorageError:
        # A retry uses the rows that are stored.
        raise
    except Exception:
        if spool is not None:
            spool.discard()
        raise
    return Batches(read, size, survey, uri, spooled)


def _read_once(
    rows: Iterator[Rows], spool: Spool | None, columns: TableColumns, rules: RowRules, *, typed: bool
) -> Callable[[], Iterable[Rows]]:
    if spool is None:
        held = list(rows)
        return lambda: held
    read_as = [columns.key, columns.text, columns.others, columns.optional, rules.max_bytes, typed]
    what = fingerprint_of({**rules.options, "read as": read_as}, [])
    read = spool.read(what)
    if read is not None:
        log.info("Using the rows that an earlier attempt has read.")
        return read
    return spool.write(rows, what)


def _parsed(inputs: str, argument: str) -> Any:
    try:
        return json.loads(inputs)
    except (ValueError, RecursionError):
        raise InputError(
            f"{argument} is a text that begins with [ and is not JSON; in a template use `| tojson`."
        ) from None


def _types(kept: list[dict[str, Any]], columns: TableColumns) -> dict[str, Any]:
    """The types of the columns of a list."""
    arrays = {
        name: python_array([row.get(name) for row in kept], name, columns.argument) for name in columns.kept
    }
    return {name: one.type for name, one in arrays.items()}


def _span(survey: Survey, rows: Rows) -> str:
    """The name of rows that are not counted yet."""
    return f"{survey.argument}[{survey.rows}] to {survey.argument}[{survey.rows + len(rows.inputs) - 1}]"


def _check_types(read: Iterable[Rows], survey: Survey) -> None:
    """
    Check that values of several types fit into the common one, which is known after the last row.

    :raises InputError: a value does not.
    """
    counted = Survey(survey.argument)
    for rows in read:
        kept_arrays([rows.kept], survey.types, _span(counted, rows))
        counted.rows += len(rows.inputs)


def _check_json(kept: Any, where: str) -> None:
    """:raises InputError: a value of a table cannot be converted to JSON. Those of a list are checked before."""
    import pyarrow as pa
    import pyarrow.types as kinds

    for name in () if isinstance(kept, list) else kept.schema.names:
        column = kept.column(name)
        if column.type in {pa.string(), pa.large_string()}:
            # Faster than the conversion, whose error is better.
            with suppress(pa.ArrowInvalid):
                column.validate(full=True)
                continue
        elif kinds.is_integer(column.type) or kinds.is_floating(column.type):
            continue
        elif kinds.is_temporal(column.type):
            # Any value can be converted, unless the time zone is unknown.
            column = column.slice(0, 1)
        _json_column(column, name, where)


def _known(kind: pa.DataType | None) -> pa.DataType:
    """String, for a column without a value."""
    import pyarrow as pa

    return pa.string() if kind is None or pa.types.is_null(kind) else kind


def _table_rows(table: InputTable, columns: TableColumns, rules: RowRules) -> Iterator[Rows]:
    for batch in table.read():
        texts = _as_bytes(batch.column(columns.text), columns.text, table.name)
        sent = _others(batch.select([name for name in columns.optional if name in batch.schema.names]))
        inputs = [_table_input(text, more, rules) for text, more in zip(texts, sent, strict=True)]
        yield Rows(inputs, batch.select(list(columns.kept)))


def _others(batch: pa.RecordBatch) -> list[Mapping[str, Any] | Rejected]:
    """The values of the optional columns of each row."""
    if not batch.num_columns:
        return [{}] * batch.num_rows
    try:
        found: list[Mapping[str, Any] | Rejected] = batch.to_pylist()
    except UnicodeDecodeError as err:
        if batch.num_rows > 1:
            return [_others(batch.slice(place, 1))[0] for place in range(batch.num_rows)]
        names = ", ".join(batch.schema.names)
        return [Rejected(f"Its {names} cannot be decoded as UTF-8: byte {err.start:,}, {err.reason}.")]
    return found


def _as_bytes(column: pa.Array, name: str, where: str) -> list[bytes | None]:
    """Texts as bytes, since some may not be valid UTF-8."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if not is_textual(kind) and not pa.types.is_null(kind):
        raise InputError(f"{where}: column {name!r} is of type {kind}; text_column must have texts.")
    values: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return values


def _table_input(text: bytes | None, others: Mapping[str, Any] | Rejected, rules: RowRules) -> Input:
    if text is None:
        return Rejected(NO_TEXT.detail)
    if isinstance(others, Rejected):
        return others
    try:
        decoded = text.decode()
    except UnicodeDecodeError as err:
        return Rejected(f"It cannot be decoded as UTF-8: byte {err.start:,}, {err.reason}.")
    if rejection := text_rejection(decoded, rules.max_bytes, rules.limit_name, in_request=True):
        return Rejected(rejection.detail)
    wire = {"text": decoded, **as_json(others)}
    if rules.beyond_text:
        try:
            rules.check(wire, "It")
        except InputError as err:
            return Rejected(str(err))
    return wire


def _in_memory(inputs: Sequence[Any], columns: TableColumns, rules: RowRules) -> Rows:
    rows = list(_python_rows(inputs, columns, rules))
    kept = [row for _, row in rows]
    seen = set()
    for number, row in enumerate(kept):
        key = None if columns.key is None else row.get(columns.key)
        if key is not None and key in seen:
            raise InputError(repeated(f"{columns.argument}[{number}]", columns.key, key))
        seen.add(key)
    return Rows([one for one, _ in rows], kept)


def not_rendered(value: object, what: str) -> InputError:
    """The error for a value where a text belongs, which a template may have made of a text."""
    err = no_text(value, what)
    err.args = (
        f"{err} If a template made it: with render_template_as_native_obj the text '2024' becomes a number, unless "
        "the template ends in `| tojson`.",
    )
    return err


def repeated(what: str, key: str | None, value: object) -> str:
    """The message about a row with the key of an earlier one."""
    return f"{what}: duplicate {key} {value!r}."


def _python_chunks(inputs: object, columns: TableColumns, rules: RowRules, *, typed: bool) -> Iterator[Rows]:
    if isinstance(inputs, Mapping | bytes | bytearray | str) or not isinstance(inputs, Iterable):
        raise InputError(_not_taken(inputs, columns.argument, rules.row))
    check_documents_extra("Tables need", "pyarrow")
    position = 0
    for chunk in _chunks(_python_rows(inputs, columns, rules)):
        where = f"{columns.argument}[{position}] to {columns.argument}[{position + len(chunk) - 1}]"
        kept = TableColumns(None, columns.text, columns.kept)
        values = [{columns.text: None, **(row if typed else _nested_as_json(row))} for _, row in chunk]
        batch = python_batch(values, kept, where, typed=typed)
        yield Rows([one for one, _ in chunk], batch.select(list(columns.kept)))
        position += len(chunk)


def _nested_as_json(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: json_value(one) if isinstance(one, dict | list) else one for name, one in row.items()}


def _chunks(rows: Iterable[T]) -> Iterator[list[T]]:
    """A few rows at a time, by their number and size."""
    chunk, size = list[T](), 0
    for row in rows:
        chunk.append(row)
        size += _characters(row)
        if len(chunk) == _MOST_ROWS or size > _MOST_CHARACTERS:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _characters(value: object) -> int:
    """Of all texts in a value."""
    match value:
        case str() | bytes():
            return len(value)
        case Mapping():
            return sum(map(_characters, value.values()))
        case list() | tuple():
            return sum(map(_characters, value))
    return 0


def _not_taken(inputs: object, argument: str, row: str) -> str:
    what = f"{argument} is of type {type(inputs).__name__}"
    if isinstance(inputs, Mapping):
        what += f" with the keys {', '.join(map(repr, list(inputs)[:10])) or 'none'}"
    return (
        f"{what}; give a list of {row}, the URI of .parquet, .csv or .jsonl files, a DataFrame or another Arrow "
        "table, or an iterable of rows."
    )


def _python_rows(
    inputs: Iterable[Any], columns: TableColumns, rules: RowRules
) -> Iterator[tuple[Input, dict[str, Any]]]:
    described = getattr(inputs, "description", None)  # of a DB-API cursor
    names = tuple(str(one[0]) for one in described) if described else None
    for number, given in enumerate(_flat(inputs)):
        yield _python_row(given, f"{columns.argument}[{number}]", columns, names, rules)


def _flat(inputs: Iterable[Any]) -> Iterator[Any]:
    """Rows; a mapped task returns a list of dictionaries for each."""
    for given in inputs:
        if isinstance(given, list) and all(isinstance(one, Mapping) for one in given):
            yield from given
        else:
            yield given


def _python_row(
    given: Any,
    what: str,
    columns: TableColumns,
    names: Sequence[str] | None,
    rules: RowRules,
) -> tuple[Input, dict[str, Any]]:
    if given is None or isinstance(given, str):
        return _input({"text": given}, what, rules), {}
    named = _by_name(given, what, columns, names)
    missing = [name for name in columns.required if name not in named and not name == columns.key == "id"]
    if missing:
        keys = ", ".join(map(repr, list(named)[:10])) or "none"
        raise InputError(f"{what} has no {missing[0]!r}; its keys are {keys}.")
    kept = {name: _value(named.get(name), name, what, columns) for name in columns.kept if name in named}
    kept = {name: value for name, value in kept.items() if value is not None or name != columns.key}
    fields = {
        name: value for name, value in named.items() if name not in columns.kept or name == columns.text
    }
    text = fields.pop(columns.text)
    if _is_missing(text) or (isinstance(text, float) and math.isnan(text)):
        text = None  # as pandas has it
    if not isinstance(given, Mapping):
        fields = {name: value for name, value in fields.items() if name in columns.optional}
    elif "text" in fields:
        raise InputError(f"{what} has 'text' beside {columns.text!r}, which is the text_column.")
    return _input({"text": text, **fields}, what, rules), kept


def _by_name(given: Any, what: str, columns: TableColumns, names: Sequence[str] | None) -> Mapping[str, Any]:
    if isinstance(given, Mapping):
        return given
    if isinstance(found := getattr(given, "_mapping", None), Mapping):
        return found  # SQLAlchemy
    if callable(convert := getattr(given, "_asdict", None)):
        return dict(convert())  # a named tuple
    if callable(keys := getattr(given, "keys", None)):
        names = list(keys())  # sqlite3.Row
    elif not isinstance(given, tuple | list) and not (names and _is_sequence(given)):
        # Some drivers have a type of their own for the rows of a cursor.
        raise not_rendered(given, what)
    expected = names or (*([] if columns.key is None else [columns.key]), columns.text, *columns.others)
    if len(given) != len(expected):
        raise InputError(
            f"{what} is a row of {len(given)} values; by id_column, text_column and columns it has "
            f"{len(expected)}: {', '.join(expected)}."
        )
    named = dict(zip(expected, given, strict=True))
    if len(named) < len(expected):
        for name in (*columns.required, *columns.optional):
            if (count := list(expected).count(name)) > 1:
                raise InputError(f"{what} has the column {name!r} {count} times.")
    return named


def _is_sequence(value: Any) -> bool:
    return (
        hasattr(value, "__getitem__")
        and hasattr(value, "__len__")
        and not isinstance(value, bytes | bytearray)
    )


def _ordered(value: Any) -> Any:
    """With lists for sets, whose order, and so the fingerprint of the rows, would differ between processes."""
    match value:
        case set() | frozenset():
            return sorted(map(_ordered, value), key=repr)
        case list() | tuple():
            return [_ordered(one) for one in value]
        case dict():
            return {name: _ordered(one) for name, one in value.items()}
    return value


def _value(value: Any, name: str, what: str, columns: TableColumns) -> Any:
    """Validate a value that is passed through."""
    if _is_missing(value):
        return None
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, memoryview | bytearray):
        return bytes(value)
    value = _ordered(value)
    if isinstance(value, str | list | dict):
        try:
            plain = value if isinstance(value, str) else json.dumps(json_value(value), ensure_ascii=False)
            plain.encode()
        except UnicodeEncodeError:
            raise InputError(f"{what}: {name!r} contains half of a surrogate pair.") from None
    if name == columns.key:
        if isinstance(value, str | bytes):
            if not value.strip():
                raise InputError(f"{what} has the {name} {value!r:.80}. Its id has no text.")
        elif isinstance(value, bool | Collection):
            raise InputError(f"{what} has the {name} {value!r:.80}; give it a text or a number.")
    return value


def _is_missing(value: Any) -> bool:
    """Whether it is NA or NaT of pandas or numpy."""
    name = type(value).__name__
    return name in {"NAType", "NaTType"} or (name in {"datetime64", "timedelta64"} and str(value) == "NaT")


def _as_python(value: Any) -> Any:
    """A value of numpy as a number or list; None for a missing value."""
    if _is_missing(value):
        return None
    kind = getattr(getattr(value, "dtype", None), "kind", "")
    if kind in {"m", "M"}:
        # As text: with nanoseconds they would become numbers.
        return list(value) if value.shape else str(value)
    return value.tolist() if kind else value


def _input(wire: Mapping[str, Any], what: str, rules: RowRules) -> Input:
    text = wire["text"]
    if text is None:
        return Rejected(NO_TEXT.detail)
    if not isinstance(text, str):
        raise not_rendered(text, what)
    if rejection := text_rejection(text, rules.max_bytes, rules.limit_name, in_request=True):
        return Rejected(rejection.detail)
    plain: Mapping[str, Any] = as_json(wire)
    rules.check(plain, what)
    return plain


def check_kept(
    taken: Collection[str], names: Collection[str], types: Mapping[str, pa.DataType] | None = None
) -> None:
    """
    Check the columns that are passed through.

    :param taken: names of the other columns of the result.
    :param names: of the key and the columns that are passed through.
    :param types: theirs, where the result is Parquet.
    :raises InputError: a name is that of a column of the result, or Parquet has no such type.
    """
    if clash := [name for name in names if name in taken]:
        raise InputError(
            f"{', '.join(map(repr, clash))} cannot be passed through: the result has a column of that name. "
            "Rename it, or leave it out of columns."
        )
    if not types:
        return
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, kind in types.items():
        try:
            with pq.ParquetWriter(pa.BufferOutputStream(), pa.schema([(name, kind)])) as writer:
                writer.write_table(pa.table({name: pa.nulls(1, kind)}))
        except (pa.ArrowException, NotImplementedError):
            raise InputError(
                f"{name!r} cannot be passed through: it is of type {kind}, which Parquet does not have."
            ) from None


def kept_arrays(parts: Sequence[Any], fields: Mapping[str, pa.DataType], where: str) -> list[pa.ChunkedArray]:
    """
    Kept columns in the types of the result.

    :param parts: kept columns of consecutive rows, as in :class:`Rows`.
    :param where: names the rows in messages.
    :raises InputError: a value does not fit into its type.
    """
    import pyarrow as pa

    def column(name: str, kind: pa.DataType, part: Any) -> pa.Array:
        if isinstance(part, list):
            return python_array([row.get(name) for row in part], name, where, kind)
        found = part.column(name)
        try:
            return found if found.type == kind else found.cast(kind)
        except pa.ArrowException as err:
            raise InputError(
                f"{where}: a value of {name!r}, which is of type {found.type}, does not fit into {kind}, the common "
                f"type of all rows: {err!s:.200}"
            ) from err

    return [
        pa.chunked_array([column(name, kind, part) for part in parts], kind) for name, kind in fields.items()
    ]


def kept_bytes(kept: Any) -> int:
    """About the bytes of kept columns in memory, without dictionaries, which rows share."""
    import pyarrow as pa

    if isinstance(kept, list):
        return sum(map(_characters, kept))
    chunks = (chunk for column in kept.columns for chunk in getattr(column, "chunks", [column]))
    return sum((one.indices if pa.types.is_dictionary(one.type) else one).nbytes for one in chunks)


def kept_values(parts: Iterable[Any], where: str) -> list[dict[str, Any]]:
    """
    Kept columns as JSON has them, of each row.

    :param where: names the rows in messages.
    :raises InputError: a value cannot be converted.
    """
    return [row for part in parts for row in _json_rows(part, where)]


def _slice(kept: Any, start: int, end: int) -> Any:
    return kept[start:end] if isinstance(kept, list) else kept.slice(start, end - start)


def _json_rows(part: Any, where: str) -> list[dict[str, Any]]:
    if isinstance(part, list):
        return [{name: json_value(value) for name, value in row.items()} for row in part]
    columns = {name: _json_column(part.column(name), name, where) for name in part.schema.names}
    return [{name: values[number] for name, values in columns.items()} for number in range(part.num_rows)]


def _json_column(column: pa.Array, name: str, where: str) -> list[Any]:
    """:raises InputError: a value cannot be converted."""
    import pyarrow as pa

    if (nested := nested_json(column)) is not None:
        return [json_value(value) for value in nested]
    with suppress(ValueError, OverflowError, LookupError):
        return [json_value(value) for value in column.to_pylist()]
    try:
        return [_json_element(column.slice(place, 1)) for place in range(len(column))]
    except (ValueError, OverflowError, LookupError, pa.ArrowException) as err:
        raise InputError(
            f"{where}: a value of {name!r}, which is of type {column.type}, cannot be converted to JSON: {err!s:.200}"
        ) from err


def _json_element(one: pa.Array) -> Any:
    import pyarrow as pa

    with suppress(ValueError, OverflowError):
        return json_value(one[0].as_py())
    # Nanoseconds and years that Python's types do not support.
    return one.cast(pa.string())[0].as_py()


def json_value(value: Any) -> Any:
    """
    Convert a value of a table to JSON.

    Decimals and other types are strings, times in ISO 8601, bytes in base64. NaN, infinities, NA, and NaT are null.
    """
    value = _as_python(value)
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if math.isfinite(value) else None
        case bytes():
            import base64

            return base64.b64encode(value).decode()
        case Mapping():
            return {str(name): json_value(one) for name, one in value.items()}
        case list() | tuple():
            return [json_value(one) for one in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
