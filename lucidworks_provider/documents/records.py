# SPDX-License-Identifier: Apache-2.0
"""Options and checks of all formats with an id and a text for each record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lucidworks_provider.client.options import did_you_mean
from lucidworks_provider.documents.document import (
    NO_TEXT,
    Document,
    Reason,
    RejectedDocument,
    Rejection,
    check_id,
    text_rejection,
)
from lucidworks_provider.documents.encoding import check_encoding, decode
from lucidworks_provider.errors import InputError


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """
    How files are read.

    :param id_column: field or column of the ids, in JSON Lines, CSV and Parquet.
    :param text_column: that of the texts.
    :param encoding: of the files, by Python's name; None for a byte order mark, UTF-8, or the declaration of a page.
    :param max_document_bytes: limit of a document and of its line or record; larger ones are rejected.
    :param csv_delimiter: between fields; None for a comma, in ``.tsv`` files a tab.
    :param csv_quotechar: around fields, doubled within them; empty for none.
    :param csv_escapechar: makes the next character part of the field.
    :param csv_columns: names of the columns of files without a header.
    """

    id_column: str = "id"
    text_column: str = "text"
    encoding: str | None = None
    max_document_bytes: int = 20_000_000
    csv_delimiter: str | None = None
    csv_quotechar: str | None = '"'
    csv_escapechar: str | None = None
    csv_columns: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name in ("id_column", "text_column"):
            value = getattr(self, name)
            if not isinstance(value, str) or not value:
                raise InputError(f"{name} is {value!r}; give the name of a column.")
        if self.id_column == self.text_column:
            raise InputError(f"id_column and text_column are both {self.id_column!r}; they must differ.")
        if not isinstance(self.encoding, str | None):
            raise InputError(f"encoding is {self.encoding!r:.200}; give the name of an encoding.")
        if self.encoding is not None:
            check_encoding(self.encoding)
        most = self.max_document_bytes
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise InputError(f"max_document_bytes is {most!r}; give a whole number above 0.")
        self._check_csv()

    def _check_csv(self) -> None:
        special = [self.csv_delimiter, self.csv_quotechar, self.csv_escapechar]
        for name, value in zip(("csv_delimiter", "csv_quotechar", "csv_escapechar"), special, strict=True):
            if value is None or value == "":
                continue
            if not isinstance(value, str) or len(value) != 1 or not value.isascii() or value in "\r\n\0 ":
                raise InputError(
                    f"{name} is {value!r}; give one ASCII character, not a line break or a space."
                )
            if special.count(value) > 1:
                raise InputError(f"{name} is {value!r}, which another option has as well; they must differ.")
        columns = self.csv_columns
        if columns is None:
            return
        is_list = isinstance(columns, Sequence) and not isinstance(columns, str)
        if not is_list or not all(isinstance(one, str) for one in columns):
            raise InputError(f"csv_columns is {columns!r:.200}; give a list of the columns' names.")
        for name in (self.id_column, self.text_column):
            if list(columns).count(name) != 1:
                raise missing_column("csv_columns", name, list(columns))


def read_record(
    place: str, document_id: object, text: object, options: ReadOptions
) -> Document | RejectedDocument:
    """
    Check the id and the text of a record.

    :param place: replaces an invalid id.
    :param text: bytes if not decoded yet.
    """
    name = _as_id(document_id)
    if name is None:
        shown = f"{document_id!r:.80}"
        return RejectedDocument(
            place, Reason.INVALID, f"Its id is {shown}; give it a text or a whole number."
        )
    if wrong := check_id(name):
        return RejectedDocument(place, Reason.INVALID, wrong)
    if text is None:
        return RejectedDocument(name, *NO_TEXT)
    if isinstance(text, bytes):
        text = decode(text, options.encoding)
    if isinstance(text, str):
        rejection = text_rejection(text, options.max_document_bytes)
        if rejection is None:
            return Document(name, text)
    elif isinstance(text, Rejection):
        rejection = text
    else:
        rejection = Rejection(Reason.INVALID, f"Its text is of type {type(text).__name__}.")
    return RejectedDocument(name, *rejection)


def missing_column(
    uri: str, name: str, there: Sequence[str], hint: str = "", *, set_by: str = "id_column and text_column"
) -> InputError:
    """
    The error for a file without a column.

    :param hint: another possible cause.
    :param set_by: the arguments that name columns.
    """
    meant = did_you_mean(name, there, 0.7)
    return InputError(
        f"{uri} has no column {name!r}; it has {shown_names(there)}.{meant} Set "
        f"{set_by}.{'' if meant or not hint else f' {hint}'}"
    )


def shown_names(names: Sequence[str]) -> str:
    """The names of a file's columns for a message: some of them, of each the beginning."""
    return ", ".join(repr(name[:40]) for name in names[:20]) or "none"


def _as_id(value: object) -> str | None:
    if isinstance(value, bytes):
        try:
            value = value.decode()
        except UnicodeDecodeError:
            return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        # Nor a float, which some tables make of 1 and some parsers of 2**64.
        return None
    return str(value)
