# SPDX-License-Identifier: Apache-2.0
"""
Tables as Arrow record batches, from files on any storage or from objects with the Arrow PyCapsule interface.

==========================  ==========================================================================================
``.parquet``                columns in their types
``.csv .tsv``               every value is text, also ``007``; a header; the separator (``,``, ``;``, tab, ``|``) is
                            the one with which the header has the columns
``.jsonl .ndjson``          an object a line; the type of a column is that of its values
``.gz .zst`` behind these   the same compressed, but for Parquet, which compresses by itself
``__arrow_c_stream__``,     pandas, Polars, pyarrow and DuckDB; columns in their types
``__arrow_c_array__``
==========================  ==========================================================================================

A damaged file is an error that names file and line; no row is skipped.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date, datetime
from functools import partial
from itertools import chain
from math import isnan
from numbers import Integral
from pathlib import PurePath
from types import NoneType
from typing import TYPE_CHECKING, Any

from lucidworks_provider.documents.csv_rows import CsvRecords
from lucidworks_provider.documents.document import Rejection, TableColumns
from lucidworks_provider.documents.encoding import ESCAPED
from lucidworks_provider.documents.lines import BROKEN, open_decompressed, read_lines
from lucidworks_provider.documents.records import ReadOptions, missing_column
from lucidworks_provider.documents.source import (
    TABLES,
    Format,
    SourceFile,
    fetch,
    list_source,
    open_file,
    read_files_ahead,
)
from lucidworks_provider.errors import InputError, check_documents_extra

if TYPE_CHECKING:
    import pyarrow as pa

# Rows of a record batch, and its bytes by the average of a row group or of the batch that it is a part of.
_ROWS, _BATCH_BYTES = 1024, 8_000_000
# Limit of a line of JSON and of a record of CSV, bytes.
LONGEST_LINE = 64_000_000
_SEPARATORS = ",;\t|"
# Kinds of values, by the names of Python's types.
_KINDS: dict[str, Any] = {
    "str": str,
    "bool": bool,
    "int": Integral,
    "float": float,
    "bytes": bytes | bytearray | memoryview,
    "date": date,
}
# Values that Arrow would convert beside those of another kind: whole numbers to floats, booleans to numbers, texts to
# bytes, times to dates.
_ZONED = "datetime with a zone"
_ALONE = {"bool", "int", "str", "bytes", "date", "datetime", _ZONED}
# The arguments that name columns.
_SET_BY = "id_column (None for no key), text_column and columns"
# The field of a struct that has a nested value as JSON, because the type of a column would change the values.
_JSON = "lucidworks:json"
# Packages whose tables are in memory, so that they can be read several times.
_IN_MEMORY = {"pandas", "polars", "pyarrow"}
# Characters of a URI; a longer text is no URI, and must not be repeated in an error.
_LONGEST_URI = 300


@dataclass(frozen=True, slots=True)
class InputTable:
    """
    A table.

    :param name: for messages and logs.
    :param read: iterates over its record batches, whose schemas may differ.
    :param uri: of its files; None for an object.
    :param again: :attr:`read` can be called more than once.
    """

    name: str
    read: Callable[[], Iterator[pa.RecordBatch]]
    uri: str | None = None
    again: bool = True


def table_uri(inputs: object) -> str | None:
    """The URI of an argument: a text that does not begin with ``[``, a ``Path`` or an ``ObjectStoragePath``."""
    if isinstance(inputs, str):
        return None if inputs.lstrip().startswith("[") else inputs.strip()
    if isinstance(inputs, PurePath) or type(inputs).__name__ == "ObjectStoragePath":
        return str(inputs)
    return None


def open_table(inputs: object, columns: TableColumns, *, typed: bool = True) -> InputTable | None:
    """
    Open a table by its URI, or an object with the Arrow PyCapsule interface; None for anything else.

    :param typed: as in :func:`python_batch`, for JSON Lines.
    :raises InputError: there are no such files, or pyarrow is not installed.
    :raises StorageError: a folder cannot be read.
    """
    uri = table_uri(inputs)
    stream, array = (hasattr(inputs, f"__arrow_c_{kind}__") for kind in ("stream", "array"))
    if uri is None and not stream and not array:
        return None
    check_documents_extra("Tables need", "pyarrow")
    if uri is not None:
        files = _list(uri, columns.argument)
        return InputTable(uri, lambda: _with_rows(_read_files(files, columns, typed=typed)), uri)
    name = type(inputs).__name__
    again = array or (type(inputs).__module__.partition(".")[0] in _IN_MEMORY and hasattr(inputs, "shape"))

    def read() -> Iterator[pa.RecordBatch]:
        return _with_rows(_read_arrow(inputs, name, columns, array=array and not stream))

    return InputTable(name, read, again=again)


def _with_rows(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches that have rows; if there are none, the first one, for its types."""
    first = next(batches, None)
    if first is None:
        return
    some = False
    for batch in chain([first], batches):
        if batch.num_rows:
            some = True
            yield batch
    if not some:
        yield first


def _empty(schema: pa.Schema, names: Sequence[str]) -> pa.RecordBatch:
    import pyarrow as pa

    # Not empty_table(), which not all types support.
    kinds = [_plain(schema.field(name).type, decoded=False) for name in names]
    return pa.record_batch([pa.nulls(0, kind) for kind in kinds], list(names))


def _list(uri: str, argument: str) -> list[SourceFile]:
    if len(uri) > _LONGEST_URI or "\n" in uri:
        raise InputError(
            f"{argument} is a text of {len(uri):,} characters, which is not a URI. Texts are a list, in a template "
            "by `| tojson`."
        )
    try:
        files = sorted(list_source(uri, TABLES), key=lambda file: file.path)
    except InputError as err:
        hint = (
            "" if "://" in uri or uri.startswith("/") else " Texts are a list, in a template by `| tojson`."
        )
        raise InputError(re.sub("^source", argument, str(err)) + hint) from None
    for file in files:
        if file.format is Format.DELTA:
            raise InputError(f"{argument}: {uri} is a Delta table; give Parquet, CSV or JSON Lines.")
    return files


def _read_files(
    files: Sequence[SourceFile], columns: TableColumns, *, typed: bool
) -> Iterator[pa.RecordBatch]:
    read_json_lines = partial(_read_json_lines, known=set(), typed=typed)
    readers: dict[Format, Callable[[SourceFile, TableColumns], Iterator[pa.RecordBatch]]] = {
        Format.PARQUET: _read_parquet,
        Format.CSV: _read_csv,
        Format.JSON_LINES: read_json_lines,
    }
    with closing(read_files_ahead(fetch, files)) as fetched:
        for file in fetched:
            yield from readers[file.format](file, columns)


def _read_arrow(inputs: Any, name: str, columns: TableColumns, *, array: bool) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa

    if type(inputs).__module__.partition(".")[0] == "pandas" and hasattr(inputs, "columns"):
        inputs = _needed(inputs, name, columns)
    try:
        batches: Any = [pa.record_batch(inputs)] if array else pa.RecordBatchReader.from_stream(inputs)
    except (pa.ArrowException, TypeError, ValueError) as err:
        raise InputError(
            f"{columns.argument}: {name} cannot be read as a table with columns: {err!s:.200}"
        ) from err
    schema = batches[0].schema if array else batches.schema
    chosen = _chosen(name, schema.names, columns)
    yield _empty(schema, chosen)
    for batch in batches:
        rows = _rows_of_part(batch.num_rows, batch.select(chosen).nbytes)
        for start in range(0, batch.num_rows, rows):
            yield _selected(batch.slice(start, rows), chosen, name)


def _rows_of_part(rows: int, size: int) -> int:
    """By the average of so many rows with so many bytes."""
    return max(1, min(_ROWS, _BATCH_BYTES * rows // max(size, 1)))


def _needed(frame: Any, name: str, columns: TableColumns) -> Any:
    """The columns of a DataFrame that are read; Arrow may not support the others."""
    found = [str(one) for one in frame.columns]
    if not set(columns.required) <= set(found):
        return frame
    chosen = _chosen(name, found, columns)
    return frame.iloc[:, [place for place, one in enumerate(found) if one in chosen]]


def _read_parquet(file: SourceFile, columns: TableColumns) -> Iterator[pa.RecordBatch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = 0
    with open_file(file) as opened:
        try:
            # Spark may write timestamps as int96, which pyarrow would take for nanoseconds.
            parquet = pq.ParquetFile(
                opened, buffer_size=1 << 20, pre_buffer=False, coerce_int96_timestamp_unit="us"
            )
            chosen = _chosen(file.uri, parquet.schema_arrow.names, columns)
            yield _empty(parquet.schema_arrow, chosen)
            for number in range(parquet.metadata.num_row_groups):
                group = parquet.metadata.row_group(number)
                rows = _rows_of_part(group.num_rows, group.total_byte_size)
                for batch in parquet.iter_batches(rows, [number], chosen, use_threads=False):
                    yield _selected(batch, chosen, file.uri)
                    row += batch.num_rows
        except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as err:
            raise InputError(
                f"{file.uri} is not Parquet, or is corrupt after row {row:,}: {type(err).__name__}: {err!s:.200}"
            ) from err


def _read_csv(file: SourceFile, columns: TableColumns) -> Iterator[pa.RecordBatch]:
    with open_decompressed(file) as opened:
        records = CsvRecords(
            file, opened, ReadOptions(max_document_bytes=LONGEST_LINE), limit_name="the limit of "
        )
        try:
            header = records.peek()
        except (UnicodeDecodeError, *BROKEN) as err:
            raise InputError(f"{file.uri} cannot be read: {err!s:.200}") from err
        for separator in "" if records.delimiter == "\t" else _SEPARATORS:
            try:
                names = records.names(next(csv.reader([header], delimiter=separator), []))
            except csv.Error:
                # The records below are an error that names the line.
                continue
            if set(columns.required) <= set(names):
                records.delimiter = separator
                break
        chosen, places, width = list[str](), list[int](), -1
        rows: dict[int, list[str]] = {}
        size = 0
        for line, record in records:
            if isinstance(record, Rejection):
                raise InputError(f"{file.uri} cannot be read from line {line:,}: {record.detail}")
            if width < 0:
                found = records.names(record)
                chosen, width = _chosen(file.uri, found, columns), len(found)
                places = [found.index(name) for name in chosen]
                continue
            if len(record) != width:
                raise InputError(
                    f"{file.uri}: the record in line {line:,} has {len(record)} values, and the header {width} names."
                )
            row = rows[line] = [record[place] for place in places]
            size += sum(map(len, row))
            if len(rows) == _ROWS or size > _BATCH_BYTES:
                yield _texts(file.uri, rows, chosen)
                rows, size = {}, 0
        if width < 0:
            _chosen(file.uri, [], columns)
        yield _texts(file.uri, rows, chosen)


def _texts(uri: str, rows: dict[int, list[str]], names: Sequence[str]) -> pa.RecordBatch:
    """
    Rows of CSV as columns of texts.

    :param rows: by the line that each begins in.
    :raises InputError: a value cannot be decoded.
    """
    import pyarrow as pa

    def decoded(values: Sequence[str]) -> Sequence[str]:
        together = "".join(values)
        if together.isascii() and together.isprintable():
            return values
        texts = list[str]()
        for line, value in zip(rows, values, strict=True):
            data = value.encode("latin-1")
            try:
                if ESCAPED in data:
                    raise ValueError
                texts.append(data.decode())
            except ValueError:
                # Tables have no option for the encoding.
                raise InputError(
                    f"{uri}: the record in line {line:,} cannot be read: It is not UTF-8."
                ) from None
        return texts

    columns = zip(*rows.values(), strict=True) if rows else ([] for _ in names)
    return pa.record_batch([pa.array(decoded(column), pa.string()) for column in columns], list(names))


def _read_json_lines(
    file: SourceFile, columns: TableColumns, *, known: set[str], typed: bool
) -> Iterator[pa.RecordBatch]:
    """
    The rows of a file, as in :func:`python_batch`.

    :param known: columns of the files before. Some writers leave out nulls, so only the first batch must have a
        column.
    """
    number, size = 0, 0
    rows: list[dict[str, Any]] = []

    def batch() -> pa.RecordBatch:
        for name in columns.required:
            if name not in known and not any(name in row for row in rows):
                raise missing_column(file.uri, name, list(rows[0]), set_by=_SET_BY)
            known.add(name)
        where = f"{file.uri}: in the rows up to line {number:,}"
        return python_batch(rows, columns, where, typed=typed)

    with open_decompressed(file) as opened:
        try:
            for number, line in read_lines(opened, None, LONGEST_LINE):
                if isinstance(line, int):
                    raise InputError(f"{file.uri}: line {number:,} is longer than {LONGEST_LINE:,} bytes.")
                # Not orjson, which makes floats of large whole numbers.
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise InputError(f"{file.uri}: line {number:,} is not a JSON object.")
                rows.append(row)
                size += len(line)
                if len(rows) == _ROWS or size > _BATCH_BYTES:
                    yield batch()
                    rows, size = [], 0
        except BROKEN as err:
            raise InputError(f"{file.uri} cannot be read after line {number:,}: {err!s:.200}") from err
        except (ValueError, RecursionError) as err:
            if isinstance(err, InputError):
                raise
            raise InputError(f"{file.uri}: line {number:,} is not JSON: {err!s:.200}") from err
        if rows:
            yield batch()


def python_batch(
    rows: Sequence[dict[str, Any]], columns: TableColumns, where: str, *, typed: bool
) -> pa.RecordBatch:
    """
    Convert rows to a record batch.

    :param where: for the message.
    :param typed: if not, nested values of kept columns, which must be those of JSON, are exact; see
        :func:`nested_json`.
    :raises InputError: a column has values of several types.
    """
    import pyarrow as pa

    def array(name: str) -> pa.Array:
        values = [row.get(name) for row in rows]
        if not typed and name in columns.kept and {*map(type, values)} <= {dict, list, NoneType}:
            texts = [None if one is None else {_JSON: json.dumps(one, ensure_ascii=False)} for one in values]
            return python_array(texts, name, where)
        try:
            return python_array(values, name, where)
        except InputError as err:
            if (
                name in columns.kept
                or name != columns.text
                or not isinstance(err.__cause__, UnicodeEncodeError)
            ):
                raise
        # As bytes, of which those that are not text are rejected.
        encoded = [None if one is None else one.encode(errors="surrogatepass") for one in values]
        return python_array(encoded, name, where)

    optional = [name for name in columns.optional if any(name in row for row in rows)]
    names = [*columns.required, *optional]
    return pa.record_batch([array(name) for name in names], names)


def nested_json(column: pa.Array) -> list[Any] | None:
    """The values of a column of nested values as JSON; None for another column."""
    import pyarrow as pa

    if column.type != pa.struct([(_JSON, pa.string())]):
        return None
    return [None if one is None else json.loads(one[_JSON]) for one in column.to_pylist()]


def python_array(values: Sequence[Any], name: str, where: str, kind: pa.DataType | None = None) -> pa.Array:
    """
    Convert values to a column.

    :param kind: the type; None for that of the values.
    :raises InputError: the values have several types, or one that Arrow does not support.
    """
    import pyarrow as pa

    kinds = _kinds(values)
    if "float" in kinds and (len(kinds) > 1 or (kind is not None and not pa.types.is_floating(kind))):
        # A missing value in pandas.
        values = [None if isinstance(one, float) and isnan(one) else one for one in values]
        kinds = _kinds(values)
    try:
        _check_kinds(values, kinds)
        if kind is None and kinds == {_ZONED} and any(map(_has_fixed_offset, values)):
            # The offset of a driver differs between summer and winter, and so between the parts of a table.
            array = pa.array(values, pa.timestamp("us", "UTC"))
        else:
            array = pa.array(values, kind)
        # Of pandas; Arrow would cut them.
        if kind is None and any(getattr(value, "nanosecond", 0) for value in values):
            array = pa.array(values, pa.timestamp("ns", array.type.tz))
        return array
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as err:
        raise InputError(
            f"{where}: the values of {name!r} have no single type that Arrow knows: {err!s:.200}"
        ) from err


def _has_fixed_offset(value: datetime | None) -> bool:
    """Whether its zone is a mere offset, without a name."""
    return value is not None and value.tzinfo is not None and value.tzinfo.utcoffset(None) is not None


def _check_kinds(values: Iterable[Any], kinds: set[str], *, nested: bool = False) -> None:
    """
    Check that Arrow would not convert values, also those of dictionaries and lists.

    :param nested: whole numbers may be beside others.
    :raises pyarrow.ArrowInvalid: it would.
    """
    import pyarrow as pa

    if kinds & _ALONE and len(kinds) > 1 and not (nested and kinds == {"int", "float"}):
        raise pa.ArrowInvalid(f"they are {', '.join(sorted(kinds))}")
    parts: dict[Any, list[Any]] = {}
    if kinds & {"list", "tuple"}:
        parts[None] = [one for value in values if isinstance(value, list | tuple) for one in value]
    if "dict" in kinds:
        for value in values:
            for name, one in value.items() if isinstance(value, dict) else ():
                parts.setdefault(name, []).append(one)
    for some in parts.values():
        _check_kinds(some, _kinds(some), nested=True)


def _kinds(values: Iterable[Any]) -> set[str]:
    """The names of the types of values, for subclasses and numpy's types those of Python."""
    types = {*map(type, values)} - {NoneType}
    kinds = {_kind(one) for one in types if not issubclass(one, datetime)}
    if len(kinds) < len(types):
        times = (one for one in values if isinstance(one, datetime))
        kinds |= {"datetime" if one.tzinfo is None else _ZONED for one in times}
    return kinds


def _kind(type_: type) -> str:
    for name, kind in _KINDS.items():
        if issubclass(type_, kind):
            return name
    return type_.__name__.removesuffix("_")


def unified_type(name: str, one: pa.DataType, other: pa.DataType, argument: str) -> pa.DataType:
    """
    The common type of two columns.

    :param argument: that they are from, for the message.
    :raises InputError: there is none without a loss.
    """
    import pyarrow as pa

    try:
        schemas = [pa.schema([(name, kind)]) for kind in (one, other)]
        both = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        both = None
    # Whole numbers must not become floats or decimals.
    whole = [pa.types.is_integer(kind) for kind in (one, other, both) if kind and not pa.types.is_null(kind)]
    if both is None or len(set(whole)) > 1:
        raise InputError(
            f"{argument}: column {name!r} is of type {one} in some rows, and of {other} in others."
        )
    return both


def _chosen(where: str, names: Sequence[str], columns: TableColumns) -> list[str]:
    for name in columns.required:
        if (count := list(names).count(name)) != 1:
            raise (
                missing_column(where, name, names, set_by=_SET_BY)
                if not count
                else InputError(f"{where} has the column {name!r} {count} times.")
            )
    return [*columns.required, *(name for name in columns.optional if name in names)]


def _selected(batch: pa.RecordBatch, names: Sequence[str], where: str) -> pa.RecordBatch:
    """Select columns, without views."""
    import pyarrow as pa

    return pa.record_batch([copied(batch.column(name), name, where) for name in names], list(names))


def copied(column: pa.Array, name: str, where: str, *, decoded: bool = False) -> pa.Array:
    """
    Copy a column, with plain types in place of string and binary views, nested ones too, for readers without views.

    :param where: for the message.
    :param decoded: convert dictionaries to their values as well.
    :raises InputError: Arrow does not support that for the type.
    """
    import pyarrow as pa

    kind = _plain(column.type, decoded=decoded)
    try:
        return column.cast(kind).take(pa.array(range(len(column)), pa.int64()))
    except pa.ArrowException as err:
        raise InputError(
            f"{where}: column {name!r} is of type {column.type}, which cannot be read: {err!s:.200}"
        ) from err


def _plain(kind: pa.DataType, *, decoded: bool) -> pa.DataType:
    import pyarrow as pa

    def plain(field: pa.Field) -> pa.Field:
        return field.with_type(_plain(field.type, decoded=decoded))

    if kind == pa.string_view():
        kind = pa.string()
    elif kind == pa.binary_view():
        kind = pa.binary()
    elif pa.types.is_dictionary(kind):
        values = _plain(kind.value_type, decoded=decoded)
        kind = values if decoded else pa.dictionary(kind.index_type, values, kind.ordered)
    elif pa.types.is_list(kind):
        kind = pa.list_(plain(kind.value_field))
    elif pa.types.is_large_list(kind):
        kind = pa.large_list(plain(kind.value_field))
    elif pa.types.is_fixed_size_list(kind):
        kind = pa.list_(plain(kind.value_field), kind.list_size)
    elif pa.types.is_struct(kind):
        kind = pa.struct([plain(kind.field(place)) for place in range(kind.num_fields)])
    elif pa.types.is_map(kind):
        kind = pa.map_(plain(kind.key_field), plain(kind.item_field), kind.keys_sorted)
    return kind
