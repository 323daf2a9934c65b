# SPDX-License-Identifier: Apache-2.0
"""
The documents of a file.

==================  =================================================================================
``.txt .md``        one document, as it is; its id is the file's path below the source
``.html .htm``      one document, the text of the page
``.jsonl .ndjson``  one document a line
``.csv .tsv``       one document a record
``.parquet``        one document a row
a Delta table       one document a row of its newest version
==================  =================================================================================

Files of lines and of CSV may be compressed (``.jsonl.gz``, ``.csv.zst``).

A document that cannot be read is a :class:`~lucidworks_provider.documents.document.RejectedDocument`; one with the
path of its file is a reject of the rest of the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from lucidworks_provider.documents.csv_rows import read_csv
from lucidworks_provider.documents.document import (
    NO_TEXT,
    Document,
    Reason,
    RejectedDocument,
    Rejection,
    check_id,
    text_rejection,
    too_large,
)
from lucidworks_provider.documents.encoding import decode
from lucidworks_provider.documents.html_text import html_text
from lucidworks_provider.documents.lines import read_json_lines
from lucidworks_provider.documents.parquet_rows import read_delta, read_parquet
from lucidworks_provider.documents.records import ReadOptions, read_record
from lucidworks_provider.documents.source import Format, SourceFile, fetch
from lucidworks_provider.errors import InputError, StorageError, check_documents_extra
from lucidworks_provider.storage import is_missing, read_file

__all__ = ["ReadOptions", "read_file_documents", "read_inline_documents"]

_RECORDS = {
    Format.JSON_LINES: read_json_lines,
    Format.CSV: read_csv,
    Format.PARQUET: read_parquet,
    Format.DELTA: read_delta,
}
_PACKAGES = {Format.HTML: "lxml", Format.PARQUET: "pyarrow"}


def read_file_documents(file: SourceFile, options: ReadOptions) -> Iterator[Document | RejectedDocument]:
    """
    The documents of a file, in constant memory. Records with the same id are all returned.

    The call reads a file of one document, and a small file of records; any other file is read during the iteration.
    Missing and damaged files are rejected documents.

    :raises InputError: a file of which every document would be rejected, by its schema or its first records: a column
        is missing, or the extra for such files is not installed.
    """
    if needed := _PACKAGES.get(file.format):
        kind = "HTML" if file.format is Format.HTML else "Parquet"
        check_documents_extra(
            f"{kind} files need", needed, otherwise="; or exclude such files from the source"
        )
    if file.format in {Format.TEXT, Format.HTML}:
        wrong = check_id(file.path)
        return iter(
            [RejectedDocument(file.path, Reason.INVALID, wrong) if wrong else _read_whole(file, options)]
        )
    try:
        return _read_records(fetch(file), options)
    except StorageError as err:
        return iter([_failed(file, err)])


def _read_records(file: SourceFile, options: ReadOptions) -> Iterator[Document | RejectedDocument]:
    try:
        yield from _RECORDS[file.format](file, options)
    except StorageError as err:
        yield _not_there(file) if is_missing(err) else _failed(file, err)


def _read_whole(file: SourceFile, options: ReadOptions) -> Document | RejectedDocument:
    most = options.max_document_bytes
    if file.size > most:
        return RejectedDocument(file.path, *too_large(file.size, most))
    if not file.size:
        return RejectedDocument(file.path, *NO_TEXT)
    try:
        data = read_file(file.uri, most + 1)
    except StorageError as err:
        return _failed(file, err)
    if data is None:
        return _not_there(file)
    if len(data) > most:
        return RejectedDocument(file.path, *too_large(len(data), most))
    text = _text_of(data, file.format, options)
    return RejectedDocument(file.path, *text) if isinstance(text, Rejection) else Document(file.path, text)


def _text_of(data: bytes, form: Format, options: ReadOptions) -> str | Rejection:
    if form is Format.TEXT:
        text = decode(data, options.encoding)
        return text if isinstance(text, Rejection) or text.strip() else NO_TEXT
    page = decode(data, options.encoding, html=True)
    text = page if isinstance(page, Rejection) else html_text(page)
    return text if isinstance(text, Rejection) else text_rejection(text, options.max_document_bytes) or text


def _failed(file: SourceFile, err: StorageError) -> RejectedDocument:
    return RejectedDocument(file.path, Reason.UNREADABLE, str(err))


def _not_there(file: SourceFile) -> RejectedDocument:
    what = "was listed, and no longer exists" if file.size >= 0 else "is a link whose target is gone"
    return RejectedDocument(file.path, Reason.MISSING, f"{file.uri} {what}.")


def read_inline_documents(
    source: object, *, id_column: str, text_column: str, max_document_bytes: int
) -> list[Document | RejectedDocument]:
    """
    Parse the inline documents of an operator.

    :param source: dictionaries, or JSON of them (a rendered template).
    :param id_column: the key of the id.
    :param text_column: the key of the text.
    :raises InputError: an element without a valid id, which it names by position, or not a list.
    """
    if isinstance(source, str):
        try:
            source = json.loads(source)
        except ValueError:
            raise InputError(
                "source is a text that begins with [ and is not JSON; in a template use `| tojson`."
            ) from None
    if not isinstance(source, Iterable) or isinstance(source, Mapping | bytes):
        raise InputError(
            f"source is of type {type(source).__name__}; give a URI, or a list of "
            f"{{{id_column!r}: …, {text_column!r}: …}}."
        )
    options = ReadOptions(id_column, text_column, max_document_bytes=max_document_bytes)
    return [_read_inline(position, given, options) for position, given in enumerate(source)]


def _read_inline(position: int, given: object, options: ReadOptions) -> Document | RejectedDocument:
    id_column, text_column = options.id_column, options.text_column
    if not isinstance(given, Mapping) or not {id_column, text_column} <= set(given):
        raise InputError(f"source[{position}] must be a dictionary with {id_column!r} and {text_column!r}.")
    found = read_record("", given[id_column], given[text_column], options)
    if isinstance(found, RejectedDocument) and not found.id:
        raise InputError(f"source[{position}]: {found.detail}")
    return found
