# SPDX-License-Identifier: Apache-2.0
"""A file of a source, and what is read from it in short."""

from typing import Any

from lucidworks_provider.documents.document import Document, RejectedDocument
from lucidworks_provider.documents.readers import ReadOptions, read_file_documents
from lucidworks_provider.documents.source import SourceFile, list_source
from lucidworks_provider.storage import write_file

Found = list[Document | RejectedDocument]


def placed(folder: object, name: str, data: bytes) -> SourceFile:
    """A new file in a folder, as it is listed."""
    write_file(f"{folder}/{name}", data)
    [file] = list_source(f"{folder}/{name}")
    return file


def read(file: SourceFile, how: ReadOptions | None = None, **options: Any) -> Found:
    return list(read_file_documents(file, how or ReadOptions(**options)))


def short(found: Found) -> list[tuple[str, str]]:
    """Ids with texts, or reasons."""
    return [(one.id, one.text if isinstance(one, Document) else f"<{one.reason}>") for one in found]


def rejected(one: Document | RejectedDocument) -> RejectedDocument:
    assert isinstance(one, RejectedDocument)
    return one
