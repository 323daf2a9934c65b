# SPDX-License-Identifier: Apache-2.0
"""Inline documents: the values of an upstream task."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from lucidworks_provider.documents.document import Document, RejectedDocument, check_id
from lucidworks_provider.documents.records import ReadOptions, read_record
from lucidworks_provider.errors import InputError


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
            raise InputError("source is a text that begins with [ and is no JSON; use `| tojson`.") from None
    if not isinstance(source, Iterable) or isinstance(source, Mapping | bytes):
        raise InputError(
            f"source is {type(source).__name__}; give a URI, or a list of {{{id_column!r}: …, {text_column!r}: …}}."
        )
    options = ReadOptions(id_column, text_column, max_document_bytes=max_document_bytes)
    return [_read(position, given, options) for position, given in enumerate(source)]


def _read(position: int, given: object, options: ReadOptions) -> Document | RejectedDocument:
    id_column, text_column = options.id_column, options.text_column
    if not isinstance(given, Mapping) or not {id_column, text_column} <= set(given):
        raise InputError(f"source[{position}] must be a dictionary with {id_column!r} and {text_column!r}.")
    document_id, text = given[id_column], given[text_column]
    is_id = isinstance(document_id, str | int) and not isinstance(document_id, bool)
    wrong = check_id(str(document_id)) if is_id else None
    if wrong or not is_id:
        raise InputError(
            f"source[{position}] has the id {document_id!r:.80}; give it a text or a number. {wrong or ''}".rstrip()
        )
    return read_record("", document_id, text, options)
