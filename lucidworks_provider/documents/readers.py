# SPDX-License-Identifier: Apache-2.0
"""The documents of a file, by its kind."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass

from lucidworks_provider.documents.document import Document, Reason, Unreadable
from lucidworks_provider.documents.encoding import check_empty, check_encoding, check_text, decode, too_large
from lucidworks_provider.documents.html_text import html_text
from lucidworks_provider.documents.source import Format, SourceFile
from lucidworks_provider.errors import InputError, StorageError
from lucidworks_provider.storage import arrow_place, read_file, reading


@dataclass(frozen=True, slots=True)
class Reading:
    """
    How files are read.

    :param id_column: of JSON Lines and Parquet.
    :param text_column: of the same.
    :param encoding: of text files; detected where it is not given.
    :param max_document_bytes: a longer document, or line, is not read.
    """

    id_column: str = "id"
    text_column: str = "text"
    encoding: str | None = None
    max_document_bytes: int = 20_000_000

    def __post_init__(self) -> None:
        if self.encoding is not None:
            check_encoding(self.encoding)


def check_file(file: SourceFile, how: Reading) -> None:
    """:raises InputError: a column is missing."""
    if file.format is Format.PARQUET:
        import pyarrow.parquet as pq

        filesystem, path = arrow_place(file.uri)
        try:
            names = set(pq.ParquetFile(path, filesystem=filesystem).schema_arrow.names)
        except (OSError, ValueError):
            return
    elif file.format is Format.JSON_LINES:
        with reading(file.uri) as raw:
            line = io.BufferedReader(raw)  # type: ignore[type-var].readline(how.max_document_bytes)
        try:
            first = json.loads(line)
        except ValueError:
            return
        if not isinstance(first, dict):
            return
        names = set(first)
    else:
        return
    for column in (how.id_column, how.text_column):
        if column not in names:
            raise InputError(f"{file.uri} has no column {column!r}; it has {', '.join(sorted(names)[:10])}.")


def read_file_documents(file: SourceFile, how: Reading) -> Iterator[Document | Unreadable]:
    """The documents of a file."""
    match file.format:
        case Format.PARQUET:
            yield from _rows(file, how)
        case Format.JSON_LINES:
            yield from _lines(file, how)
        case _:
            yield _whole(file, how)


def _whole(file: SourceFile, how: Reading) -> Document | Unreadable:
    if file.size > how.max_document_bytes:
        return Unreadable(file.path, *too_large(file.size, how.max_document_bytes))
    try:
        data = read_file(file.uri, how.max_document_bytes + 1)
    except StorageError as err:
        return Unreadable(file.path, Reason.UNREADABLE, str(err))
    if data is None:
        return Unreadable(file.path, Reason.MISSING, "it was listed, and is not there any more")
    html = file.format is Format.HTML
    text = decode(data, how.encoding, html=html)
    if isinstance(text, str) and html:
        text = html_text(text)
    if not isinstance(text, str):
        return Unreadable(file.path, *text)
    return _document(file.path, text, how)


def _document(document_id: str, text: str, how: Reading) -> Document | Unreadable:
    fault = check_text(text, how.max_document_bytes) or check_empty(text)
    return Unreadable(document_id, *fault) if fault else Document(document_id, text)


def _lines(file: SourceFile, how: Reading) -> Iterator[Document | Unreadable]:
    with reading(file.uri) as raw:
        buffered = io.BufferedReader(raw, 1 << 20)
        number = 0
        while line := buffered.readline(how.max_document_bytes + 1):
            number += 1
            where = f"{file.path}:{number}"
            if len(line) > how.max_document_bytes:
                while line and not line.endswith(b"\n"):
                    line = buffered.readline(1 << 20)
                yield Unreadable(where, Reason.TOO_LARGE, f"the line is longer than {how.max_document_bytes:,}")
                continue
            if line.strip():
                try:
                    plain = json.loads(line)
                except ValueError:
                    plain = None
                yield _record(where, plain, how)


def _rows(file: SourceFile, how: Reading) -> Iterator[Document | Unreadable]:
    import pyarrow.parquet as pq

    filesystem, path = arrow_place(file.uri)
    number = 0
    try:
        with pq.ParquetFile(path, filesystem=filesystem) as parquet:
            for batch in parquet.iter_batches(256, columns=[how.id_column, how.text_column]):
                for plain in batch.to_pylist():
                    number += 1
                    yield _record(f"{file.path}:{number}", plain, how)
    except (OSError, ValueError) as err:
        yield Unreadable(file.path, Reason.UNREADABLE, f"{type(err).__name__}: {err}")


def _record(where: str, plain: object, how: Reading) -> Document | Unreadable:
    if not isinstance(plain, dict):
        return Unreadable(where, Reason.INVALID, "the line is no JSON object")
    document_id, text = plain.get(how.id_column), plain.get(how.text_column)
    is_id = isinstance(document_id, str | int) and not isinstance(document_id, bool)
    if not is_id or not str(document_id).strip():
        return Unreadable(where, Reason.INVALID, f"the id is {document_id!r}")
    if text is not None and not isinstance(text, str):
        return Unreadable(str(document_id), Reason.INVALID, f"the text is {type(text).__name__}")
    return _document(str(document_id), text or "", how)
