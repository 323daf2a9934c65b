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

Files of lines and of CSV may be compressed (``.jsonl.gz``).

A document that cannot be read is a :class:`~lucidworks_provider.documents.document.RejectedDocument`; one with the
path of its file stands for the rest of the file.
"""

from __future__ import annotations

from collections.abc import Iterator

from lucidworks_provider.documents import delta_rows, html_text, parquet_rows
from lucidworks_provider.documents.csv_rows import check_csv, read_csv
from lucidworks_provider.documents.document import Document, Reason, RejectedDocument, check_id
from lucidworks_provider.documents.encoding import Rejection, check_empty, check_text, decode, too_large
from lucidworks_provider.documents.json_lines import check_json_lines, read_json_lines
from lucidworks_provider.documents.records import ReadOptions
from lucidworks_provider.documents.source import Format, SourceFile
from lucidworks_provider.errors import StorageError
from lucidworks_provider.storage import read_file

__all__ = ["ReadOptions", "check_file", "read_file_documents"]


def read_file_documents(file: SourceFile, options: ReadOptions) -> Iterator[Document | RejectedDocument]:
    """
    Iterate over the documents of a file, in constant memory. Records with the same id are all returned.

    :raises InputError: what :func:`check_file` raises.
    """
    if file.format in {Format.TEXT, Format.HTML}:
        wrong = check_id(file.path)
        yield _rejected(file, Rejection(Reason.INVALID, wrong)) if wrong else _read_whole(file, options)
        return
    read = read_json_lines
    if file.format is Format.PARQUET:
        parquet_rows.check_installed()
        read = parquet_rows.read_parquet
    elif file.format is Format.CSV:
        read = read_csv
    elif file.format is Format.DELTA:
        read = delta_rows.read_delta
    try:
        yield from read(file, options)
    except StorageError as err:
        yield _not_there(file) if isinstance(err.__cause__, FileNotFoundError) else _failed(file, err)


def check_file(file: SourceFile, options: ReadOptions) -> None:
    """
    Refuse a file of which every document would be rejected, by its first line or its schema.

    Missing and damaged files pass, as they are rejected when they are read.

    :raises InputError: a column is missing, or the extra for such files is not installed.
    """
    try:
        match file.format:
            case Format.HTML:
                html_text.check_installed()
            case Format.JSON_LINES:
                check_json_lines(file, options)
            case Format.CSV:
                check_csv(file, options)
            case Format.PARQUET:
                parquet_rows.check_installed()
                parquet_rows.check_parquet(file, options)
            case Format.DELTA:
                delta_rows.check_delta(file, options)
    except StorageError:
        return


def _read_whole(file: SourceFile, options: ReadOptions) -> Document | RejectedDocument:
    most = options.max_document_bytes
    if file.size > most:
        return _rejected(file, too_large(file.size, most))
    if not file.size:
        return RejectedDocument(file.path, Reason.EMPTY, "It has no text.")
    try:
        data = read_file(file.uri, most + 1)
    except StorageError as err:
        return _failed(file, err)
    if data is None:
        return _not_there(file)
    if len(data) > most:
        return _rejected(file, too_large(len(data), most))
    text = _text_of(data, file.format, options)
    return _rejected(file, text) if isinstance(text, Rejection) else Document(file.path, text)


def _text_of(data: bytes, form: Format, options: ReadOptions) -> str | Rejection:
    if form is Format.TEXT:
        text = decode(data, options.encoding)
        return text if isinstance(text, Rejection) else check_empty(text) or text
    html_text.check_installed()
    page = decode(data, options.encoding, html=True)
    text = page if isinstance(page, Rejection) else html_text.html_text(page)
    return text if isinstance(text, Rejection) else check_text(text, options.max_document_bytes) or text


def _rejected(file: SourceFile, rejection: Rejection) -> RejectedDocument:
    return RejectedDocument(file.path, rejection.reason, rejection.detail)


def _failed(file: SourceFile, err: StorageError) -> RejectedDocument:
    return RejectedDocument(file.path, Reason.UNREADABLE, str(err))


def _not_there(file: SourceFile) -> RejectedDocument:
    return RejectedDocument(file.path, Reason.MISSING, f"{file.uri} was listed, and is not there any more.")
