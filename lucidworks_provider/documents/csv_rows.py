# SPDX-License-Identifier: Apache-2.0
"""CSV and TSV, with a bound on memory whatever the records are."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from lucidworks_provider.documents.chunks import BROKEN_GZIP, CHUNK, open_decompressed, read_chunks
from lucidworks_provider.documents.document import Document, Reason, RejectedDocument
from lucidworks_provider.documents.encoding import Fault, decode, without_ascii
from lucidworks_provider.documents.records import ReadOptions, missing_column, read_record
from lucidworks_provider.documents.source import SourceFile
from lucidworks_provider.errors import InputError

_DIALECT = "See csv_delimiter, csv_quotechar, csv_escapechar, and csv_columns for files without a header."


def read_csv(file: SourceFile, reading: ReadOptions) -> Iterator[Document | RejectedDocument]:
    """
    A document a record. What is wrong with a record is told with ``<path>:<line>``, the line that it begins in.

    Where quotes do not match, or a record is too long, the next one cannot be found: the rest of the file is one
    reject.

    :raises InputError: as :func:`check_csv`.
    :raises StorageError: the file cannot be read.
    """
    with open_decompressed(file) as opened:
        table = _Table(file, opened, reading)
        for line, record in table.records():
            if isinstance(record, Fault):
                yield RejectedDocument(file.path, record.reason, f"{file.path}:{line}: {record.detail}")
            elif table.columns or not table.begins_with_header(record):
                yield table.document(f"{file.path}:{line}", record)


def check_csv(file: SourceFile, reading: ReadOptions) -> None:
    """
    Refuse a file without the columns that were named.

    :raises InputError: names the columns that are there.
    :raises StorageError: the file cannot be read.
    """
    with open_decompressed(file) as opened:
        table = _Table(file, opened, reading)
        _, first = next(table.records(), (0, None))
        if isinstance(first, list):
            table.begins_with_header(first)


class _Table:
    """
    One file.

    :param columns: their names, once its first record was read.
    """

    def __init__(self, file: SourceFile, opened: BinaryIO, reading: ReadOptions) -> None:
        self._file = file
        self._opened = opened
        self._reading = reading
        self.columns: list[str] = []

    def begins_with_header(self, first: list[bytes]) -> bool:
        """
        Whether the first record names the columns.

        :raises InputError: the columns that were named are missing, or not those of the first record.
        """
        named = list(self._reading.csv_columns or ())
        decoded = [(raw, self._decoded(raw)) for raw in first]
        there = [repr(raw) if isinstance(name, Fault) else name for raw, name in decoded]
        self.columns = named or there
        if named and there == named:
            raise InputError(
                f"{self._file.uri} begins with a line that names its columns; leave csv_columns out."
            )
        if len(there) != len(self.columns):
            raise InputError(
                f"{self._file.uri} begins with a record of {len(there):,} fields, but csv_columns names "
                f"{len(named):,}. {_DIALECT}"
            )
        for name in (self._reading.id_column, self._reading.text_column):
            if self.columns.count(name) != 1:
                shown = [f"{one:.40}" for one in self.columns]
                raise missing_column(self._file.uri, name, shown, "" if named else _DIALECT)
        return not named

    def document(self, place: str, record: list[bytes]) -> Document | RejectedDocument:
        """:param place: stands for an id that cannot be used."""
        if len(record) != len(self.columns):
            detail = f"Its number of fields is {len(record):,} instead of {len(self.columns):,}."
            return RejectedDocument(place, Reason.INVALID, detail)
        fields = dict(zip(self.columns, record, strict=True))
        document_id = self._decoded(fields[self._reading.id_column])
        if isinstance(document_id, Fault):
            return RejectedDocument(place, document_id.reason, f"Its id: {document_id.detail}")
        return read_record(place, document_id, fields[self._reading.text_column], self._reading)

    def _decoded(self, field: bytes) -> str | Fault:
        return decode(field, self._reading.encoding or "utf-8")

    def records(self) -> Iterator[tuple[int, list[bytes] | Fault]]:
        """The line that each record begins in, and its fields. A fault is the last of all."""
        reading = self._reading
        begin, size, most = 1, 0, reading.max_document_bytes

        def lines() -> Iterator[str]:
            nonlocal size
            for line in self._lines():
                size += len(line)
                if size > most:
                    raise OverflowError
                # Each byte is a character, so that each field can be decoded, or be wrong, by itself.
                yield line.decode("latin-1")

        # This limit is the process's, so it is only raised.
        csv.field_size_limit(max(csv.field_size_limit(), most))
        reader = csv.reader(
            lines(),
            strict=True,
            delimiter=reading.csv_delimiter or _delimiter(self._file.path),
            quotechar=reading.csv_quotechar or None,
            quoting=csv.QUOTE_MINIMAL if reading.csv_quotechar else csv.QUOTE_NONE,
            escapechar=reading.csv_escapechar,
        )
        try:
            for record in reader:
                if record:
                    yield begin, [field.encode("latin-1") for field in record]
                begin, size = reader.line_num + 1, 0
            return
        except OverflowError:
            allowed = f"over max_document_bytes={most:,}, or a quote is not closed"
            fault = Fault(Reason.TOO_LARGE, f"The record has at least {size:,} bytes, {allowed}.")
        except csv.Error as err:
            fault = Fault(
                Reason.INVALID, f"Line {reader.line_num:,}: {err}. See csv_quotechar and csv_escapechar."
            )
        except UnicodeDecodeError as err:
            fault = Fault(Reason.ENCODING, f"From here it cannot be decoded as {err.encoding}: {err.reason}.")
        except BROKEN_GZIP as err:
            fault = Fault(Reason.INVALID, f"From here it cannot be decompressed: {err!s:.100}.")
        yield begin, fault._replace(detail=f"{fault.detail} The rest of the file was not read.")

    def _lines(self) -> Iterator[bytes]:
        """Lines with their ends; of one that is too long, only as much as shows it."""
        first, rest = self._opened.read(CHUNK), b""
        codec = without_ascii(first, self._reading.encoding)
        if codec is not None:
            self._reading = replace(self._reading, encoding="utf-8")
        for chunk in read_chunks(self._opened, first, codec):
            *ended, rest = (rest + chunk).split(b"\n")
            yield from (line + b"\n" for line in ended)
            if len(rest) > self._reading.max_document_bytes:
                break
        if rest:
            yield rest


def _delimiter(path: str) -> str:
    return "\t" if path.lower().removesuffix(".gz").endswith(".tsv") else ","
