# SPDX-License-Identifier: Apache-2.0
"""One document, and one that could not be read: what goes from room to room."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

# URLs among them are shorter; each chunk carries its own.
LONGEST_ID = 4096
# Control characters, and halves of surrogate pairs. Stores change some of them in a listing, and files of lines end.
_NOT_IN_IDS = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Document:
    """One text with the id that its chunks will carry."""

    id: str
    text: str


class Reason(StrEnum):
    """Why a document has no chunks; the values stand in files that others read."""

    # Found by reading.
    EMPTY = "empty"
    ENCODING = "encoding"
    BINARY = "binary"
    TOO_LARGE = "too_large"
    INVALID = "invalid"
    """A line or row that is no record, or an id that is none."""
    MISSING = "missing"
    """It was listed, and gone when it should be read."""
    UNREADABLE = "unreadable"
    """The storage failed."""

    # Found by chunking.
    REFUSED = "refused"
    """The service does not take it."""
    FAILED = "failed"
    """Its job ended with an error."""
    GONE = "gone"
    """Its result is not there any more."""
    TIMEOUT = "timeout"
    EMPTY_RESULT = "empty_result"
    """The service gives no chunk of its text; it is not sent again as long as the text is the same."""
    MALFORMED = "malformed"
    """The result is not what was asked for."""
    TRUNCATED = "truncated"
    """The chunks end before the text does."""


@dataclass(frozen=True, slots=True)
class RejectedDocument:
    """
    A document that could not be read; the run goes on without it.

    :param id: the document's id, or ``<path>:<line>`` where a line has none that can be used.
    :param detail: what was wrong, for people.
    """

    id: str
    reason: Reason
    detail: str


def check_id(document_id: str) -> str | None:
    """
    The one rule for ids, whatever they come from: a field, a column, a path, or a list of a task.

    :param document_id: as it would stand beside each chunk.
    :return: what is wrong with it, for people; None if nothing is.
    """
    if not document_id.strip():
        return "Its id has no text."
    if len(document_id) > LONGEST_ID:
        return f"Its id has {len(document_id):,} characters; it may have {LONGEST_ID:,}."
    if found := _NOT_IN_IDS.search(document_id):
        return f"Its id has U+{ord(found[0]):04X} at character {found.start():,}; ids have no control characters."
    return None


def content_hash(text: str) -> str:
    """
    What tells whether a text has changed: SHA-256 of its UTF-8, in hexadecimal.

    :raises UnicodeEncodeError: the text has halves of surrogate pairs, which no reader lets through.
    """
    return sha256(text.encode()).hexdigest()
