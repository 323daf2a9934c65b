# SPDX-License-Identifier: Apache-2.0
"""CSV and TSV, for documents and for tables; memory is bounded by the longest record."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

from lucidworks_provider.documents.document import Document, Reason, RejectedDocument, Rejection
from lucidworks_provider.documents.encoding import check_mark, codec_without_ascii, decode, wide_codec
from lucidworks_provider.documents.lines import BLOCK_BYTES, BROKEN, open_decompressed, read_blocks
from lucidworks_provider.documents.records import ReadOptions, missing_column, read_record
from lucidworks_provider.documents.source import SourceFile
from lucidworks_provider.errors import InputError

_DIALECT = "See csv_delimiter, csv_quotechar, csv_escapechar, and csv_columns for files without a header."


def read_csv(file: SourceFile, options: ReadOptions) -> Iterator[Document | RejectedDocument]:
    """
    A document for each record. A record that is rejected is named by ``<path>:<line>``, the line that it begins in.

    After a quote that is not closed, or a record that is too long, the next record cannot be found: the rest of the
    file is one reject. So is a file without a header, unless ``csv_columns`` is set: it was probably cut.

    :raises InputError: columns of the options are missing, or the first record contradicts ``csv_columns``.
    :raises StorageError: the file cannot be read.
    """
    with open_decompressed(file) as opened:
        records = CsvRecords(file, opened, options, advice=" See csv_quotechar and csv_escapechar.")
        columns: list[str] = []
        line = 0
        for line, record in records:
            place = f"{file.path}:{line}"
            if isinstance(record, Rejection):
                detail = f"{place}: {record.detail} The rest of the file was not read."
                yield RejectedDocument(file.path, record.reason, detail)
            elif columns:
                yield _document(place, columns, record, records, options)
            else:
                columns, is_header = _columns(file, record, records, options)
                if not is_header:
                    yield _document(place, columns, record, records, options)
        if not line and not options.csv_columns:
            yield RejectedDocument(file.path, Reason.INVALID, "It has no line that names its columns.")


def _columns(
    file: SourceFile, first: list[str], records: CsvRecords, options: ReadOptions
) -> tuple[list[str], bool]:
    """
    The names of the columns, and whether the first record has them.

    :raises InputError: columns of the options are missing, or the first record contradicts ``csv_columns``.
    """
    named = list(options.csv_columns or ())
    found = records.names(first)
    columns = named or found
    if named and found == named:
        raise InputError(f"{file.uri} begins with a line that names its columns; leave csv_columns out.")
    if len(found) != len(columns):
        raise InputError(
            f"{file.uri} begins with a record of {len(found):,} fields, but csv_columns names {len(named):,}. "
            f"{_DIALECT}"
        )
    for name in (options.id_column, options.text_column):
        if columns.count(name) != 1:
            raise missing_column(file.uri, name, columns, "" if named else _DIALECT)
    return columns, not named


def _document(
    place: str, columns: list[str], record: list[str], records: CsvRecords, options: ReadOptions
) -> Document | RejectedDocument:
    if len(record) != len(columns):
        detail = f"Its number of fields is {len(record):,} instead of {len(columns):,}."
        return RejectedDocument(place, Reason.INVALID, detail)
    document_id = records.decode(record[columns.index(options.id_column)])
    if isinstance(document_id, Rejection):
        return RejectedDocument(place, document_id.reason, f"Its id: {document_id.detail}")
    text = records.decode(record[columns.index(options.text_column)])
    return read_record(place, document_id, text, options)


class CsvRecords:
    """
    The records of a file, each with the line that it begins in; after damage, a :class:`Rejection` is the last.

    A field is Latin-1 text of its bytes, for :meth:`decode`: a wrong one does not affect the others.

    :param options: the dialect, the encoding, and ``max_document_bytes`` as the limit of a record.
    :param advice: for the message about a record that does not fit the dialect.
    :param limit_name: names ``max_document_bytes`` in messages.
    """

    def __init__(
        self,
        file: SourceFile,
        opened: BinaryIO,
        options: ReadOptions,
        *,
        advice: str = "",
        limit_name: str = "max_document_bytes=",
    ) -> None:
        self._opened = opened
        self._advice = advice
        self._limit_name = limit_name
        self._options = options
        self._encoding = options.encoding
        self._lines = self._read_lines()
        is_tsv = file.path.lower().removesuffix(".gz").removesuffix(".zst").endswith(".tsv")
        self.delimiter = options.csv_delimiter or ("\t" if is_tsv else ",")
        # The limit is global, so it is only raised.
        csv.field_size_limit(max(csv.field_size_limit(), options.max_document_bytes))

    def __iter__(self) -> Iterator[tuple[int, list[str] | Rejection]]:
        options, most = self._options, self._options.max_document_bytes
        begin, size = 1, 0

        def lines() -> Iterator[str]:
            nonlocal size
            for line in self._lines:
                size += len(line)
                if size > most:
                    raise OverflowError
                yield line

        reader = csv.reader(
            lines(),
            strict=True,
            delimiter=self.delimiter,
            quotechar=options.csv_quotechar or None,
            quoting=csv.QUOTE_MINIMAL if options.csv_quotechar else csv.QUOTE_NONE,
            escapechar=options.csv_escapechar,
        )
        try:
            for record in reader:
                if record:
                    yield begin, record
                begin, size = reader.line_num + 1, 0
            return
        except OverflowError:
            allowed = f"over {self._limit_name}{most:,}, or a quote is not closed"
            rejection = Rejection(Reason.TOO_LARGE, f"The record has at least {size:,} bytes, {allowed}.")
        except csv.Error as err:
            rejection = Rejection(Reason.INVALID, f"Line {reader.line_num:,}: {err}.{self._advice}")
        except UnicodeDecodeError as err:
            rejection = Rejection(
                Reason.ENCODING, f"From here it cannot be decoded as {err.encoding}: {err.reason}."
            )
        except BROKEN as err:
            rejection = Rejection(Reason.INVALID, f"From here it cannot be decompressed: {err!s:.100}.")
        yield begin, rejection

    def decode(self, field: str) -> str | Rejection:
        """The text of a field."""
        if field.isascii() and field.isprintable():
            return field
        data = field.encode("latin-1")
        # The file has the line breaks of ASCII, so a field cannot begin with the mark of UTF-16.
        return decode(data, self._encoding or ("utf-8" if wide_codec(data, None) else None))

    def names(self, record: list[str]) -> list[str]:
        """The fields of a header; of one that is not text, its bytes as in Python."""
        decoded = [(raw, self.decode(raw)) for raw in record]
        return [repr(raw.encode("latin-1")) if isinstance(name, Rejection) else name for raw, name in decoded]

    def peek(self) -> str:
        """The first line, as Latin-1 text."""
        first = next(self._lines, "")
        self._lines = chain([first] if first else [], self._lines)
        return first

    def _read_lines(self) -> Iterator[str]:
        """Lines with their ends, in an encoding with the line breaks of ASCII; of one that is too long, a part."""
        first, rest = self._opened.read(BLOCK_BYTES), ""
        check_mark(first, self._options.encoding)
        codec = codec_without_ascii(first, self._options.encoding)
        if codec is not None:
            self._encoding = "utf-8"
        for block in read_blocks(self._opened, first, codec):
            *ended, rest = (rest + block.decode("latin-1")).split("\n")
            yield from (line + "\n" for line in ended)
            if len(rest) > self._options.max_document_bytes:
                break
        if rest:
            yield rest
