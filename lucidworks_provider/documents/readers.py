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

What cannot be read is told as :class:`~lucidworks_provider.documents.document.RejectedDocument` with its reason, and
the rest is read. One that carries the file's own path stands for all of the file that was not read.
"""

from __future__ import annotations

from collections.abc import Iterator

from lucidworks_provider.documents import delta_rows, html_text, parquet_rows
from lucidworks_provider.documents.csv_rows import check_csv, read_csv
from lucidworks_provider.documents.document import Document, Reason, RejectedDocument, check_id
from lucidworks_provider.documents.encoding import Fault, check_empty, check_text, decode, too_large
from lucidworks_provider.documents.json_lines import check_json_lines, read_json_lines
from lucidworks_provider.documents.records import ReadOptions
from lucidworks_provider.documents.source import Format, SourceFile
from lucidworks_provider.errors import StorageError
from lucidworks_provider.storage import read_file

__all__ = ["ReadOptions", "check_file", "read_file_documents"]


def read_file_documents(file: SourceFile, options: ReadOptions) -> Iterator[Document | RejectedDocument]:
    """
    The documents of a file, one after the other, in constant memory.

    Two records with one id are both returned.

    :raises InputError: what :func:`check_file` raises.
    """
    if file.format in {Format.TEXT, Format.HTML}:
        wrong = check_id(file.path)
        yield _rejected(file, Fault(Reason.INVALID, wrong)) if wrong else _read_whole(file, options)
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
    Refuse what would make a reject of every document: a look at the first line, or the schema, of a file.

    A file that is missing or broken is none of this; options it tells.

    :raises InputError: a column that was named is missing, or what reads such files is not installed.
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
    return _rejected(file, text) if isinstance(text, Fault) else Document(file.path, text)


def _text_of(data: bytes, form: Format, options: ReadOptions) -> str | Fault:
    if form is Format.TEXT:
        text = decode(data, options.encoding)
        return text if isinstance(text, Fault) else check_empty(text) or text
    html_text.check_installed()
    page = decode(data, options.encoding, html=True)
    text = page if isinstance(page, Fault) else html_text.html_text(page)
    return text if isinstance(text, Fault) else check_text(text, options.max_document_bytes) or text


def _rejected(file: SourceFile, fault: Fault) -> RejectedDocument:
    return RejectedDocument(file.path, fault.reason, fault.detail)


def _failed(file: SourceFile, err: StorageError) -> RejectedDocument:
    return RejectedDocument(file.path, Reason.UNREADABLE, str(err))


def _not_there(file: SourceFile) -> RejectedDocument:
    return RejectedDocument(file.path, Reason.MISSING, f"{file.uri} was listed, and is not there any more.")
