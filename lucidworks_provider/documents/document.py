# SPDX-License-Identifier: Apache-2.0
"""Documents, rejected documents and their columns as values, and what is no valid id or text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import NamedTuple

from lucidworks_provider.client.options import text_problem
from lucidworks_provider.errors import InputError

# Longer than URLs; each chunk has a copy of its document's id.
LONGEST_ID = 4096
# Control characters and surrogates: stores change some of them in listings, and they break files of lines.
_NOT_IN_IDS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# Control characters except white space and escape, which terminals and ISO-2022-JP use.
_CONTROLS = bytes(code for code in (*range(32), 127) if code not in b"\t\n\v\f\r\x1b")
# With more than one control character in a hundred characters it is not text.
_CONTROLS_IN = 100


@dataclass(frozen=True, slots=True)
class Document:
    """A text with the id of its chunks."""

    id: str
    text: str


class Reason(StrEnum):
    """Why a document is rejected; the values are part of the tables."""

    # Found by reading.
    EMPTY = "empty"
    ENCODING = "encoding"
    BINARY = "binary"
    TOO_LARGE = "too_large"
    INVALID = "invalid"
    """A line or row that is no record, or an id that is none."""
    MISSING = "missing"
    """It was listed, and was deleted before it was read."""
    UNREADABLE = "unreadable"
    """The storage failed."""

    # Found by chunking.
    REFUSED = "refused"
    """The service refuses it."""
    FAILED = "failed"
    """Its job ended with an error."""
    GONE = "gone"
    """Its result expired."""
    TIMEOUT = "timeout"
    EMPTY_RESULT = "empty_result"
    """The result has no chunks; it is not sent again until its text changes."""
    MALFORMED = "malformed"
    """The result is not valid for the text."""
    TRUNCATED = "truncated"
    """The chunks end before the text does."""


@dataclass(frozen=True, slots=True)
class RejectedDocument:
    """
    A document that cannot be read; the run continues.

    :param id: the document's id, or ``<path>:<line>`` for a line without a valid id.
    :param detail: for messages.
    """

    id: str
    reason: Reason
    detail: str


class Rejection(NamedTuple):
    """
    Why a text is rejected.

    :param detail: for messages.
    """

    reason: Reason
    detail: str


NO_TEXT = Rejection(Reason.EMPTY, "It has no text.")


@dataclass(frozen=True, slots=True)
class TableColumns:
    """
    Which columns of a table are read.

    :param key: column of the key; None for no key.
    :param text: column of the texts.
    :param others: columns that are passed through.
    :param optional: columns that are read if the table has them.
    :param argument: of the operator that takes the table, for messages.
    :raises InputError: a name is invalid or duplicate.
    """

    key: str | None = "id"
    text: str = "text"
    others: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    argument: str = "inputs"

    def __post_init__(self) -> None:
        for argument, name in (("id_column", self.key), ("text_column", self.text)):
            if (name is not None or argument == "text_column") and (not isinstance(name, str) or not name):
                raise InputError(f"{argument} is {name!r}; give the name of a column.")
        if self.key == self.text:
            raise InputError(f"id_column and text_column are both {self.text!r}; they must differ.")
        for name in self.others:
            if not isinstance(name, str) or not name:
                raise InputError(f"columns has {name!r}; give the names of columns.")
            if name == self.key or self.others.count(name) > 1:
                raise InputError(f"columns names {name!r} twice; id_column is passed through by itself.")

    @property
    def kept(self) -> tuple[str, ...]:
        """Columns that the result has as well."""
        return (*(() if self.key is None else (self.key,)), *self.others)

    @property
    def required(self) -> tuple[str, ...]:
        """Columns that a table must have."""
        return tuple(dict.fromkeys((*self.kept, self.text)))


def check_id(document_id: str) -> str | None:
    """
    Check the id of a document.

    :return: what is wrong with it; None for a valid id.
    """
    if not document_id.strip():
        return "Its id has no text."
    if len(document_id) > LONGEST_ID:
        return f"Its id has {len(document_id):,} characters; it may have {LONGEST_ID:,}."
    if found := _NOT_IN_IDS.search(document_id):
        return f"Its id has U+{ord(found[0]):04X} at character {found.start():,}; ids have no control characters."
    return None


def text_rejection(
    text: str, max_bytes: int, limit_name: str = "max_document_bytes=", *, in_request: bool = False
) -> Rejection | None:
    """
    Check a decoded text.

    :param max_bytes: limit of its bytes in UTF-8.
    :param limit_name: names ``max_bytes`` in messages.
    :param in_request: limit its bytes in a request instead, which have the escapes of JSON.
    """
    if problem := text_problem(text, max_bytes, limit_name, in_request=in_request):
        reason, what = problem
        return Rejection(Reason(reason), f"It {what}.")
    return binary_rejection(text.encode())


def too_large(size: int, max_bytes: int) -> Rejection:
    """The rejection of a text of more than ``max_bytes``."""
    return Rejection(Reason.TOO_LARGE, f"It has {size:,} bytes, over max_document_bytes={max_bytes:,}.")


def binary_rejection(data: bytes) -> Rejection | None:
    """
    Reject bytes that are not text.

    :param data: in an encoding that extends ASCII.
    """
    if (at := data.find(0)) >= 0:
        return Rejection(
            Reason.BINARY, f"It is not text: a NUL at byte {at:,}. UTF-16 without a mark must be declared."
        )
    controls = len(data) - len(data.translate(None, _CONTROLS))
    if controls > 1 and controls * _CONTROLS_IN > len(data):
        return Rejection(
            Reason.BINARY, f"It is not text: {controls:,} of {len(data):,} bytes are control characters."
        )
    return None


def content_hash(text: str) -> str:
    """
    SHA-256 of a text in UTF-8, hexadecimal; changes when the text does.

    :raises UnicodeEncodeError: the text has surrogates, which the readers reject.
    """
    return sha256(text.encode()).hexdigest()
