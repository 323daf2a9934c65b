# SPDX-License-Identifier: Apache-2.0
"""
Reads files of lines in blocks, decompressed and in an encoding with the line breaks of ASCII, and JSON Lines.

Memory is bounded by the longest line.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from lucidworks_provider.documents.document import Document, Reason, RejectedDocument, Rejection, too_large
from lucidworks_provider.documents.encoding import check_mark, codec_without_ascii, decode, wide_codec
from lucidworks_provider.documents.records import ReadOptions, missing_column, read_record
from lucidworks_provider.documents.source import SourceFile, open_file

BLOCK_BYTES = 1 << 20
_MARK = codecs.BOM_UTF8
# Raised by damaged compressed files. Those of the storage are errors of another tree.
BROKEN = (OSError, EOFError, zlib.error)
_WHITE = b" \t\r\n"
# Objects of which one must have a field: some writers leave out nulls.
_OBJECTS = 1000


class _EmptyCompressedFile(io.RawIOBase):
    """A compressed file without a byte, which the decompressors would read as an empty one."""

    def readable(self) -> bool:
        return True

    def readinto(self, _: Any) -> int:
        raise EOFError("the file has no bytes")


@contextmanager
def open_decompressed(file: SourceFile) -> Iterator[BinaryIO]:
    """
    Open a file, and decompress it if its name ends in ``.gz`` or ``.zst``.

    To read a damaged compressed file raises one of :data:`BROKEN`.

    :raises StorageError: the file cannot be read, also later.
    """
    name = file.path.lower()
    with open_file(file) as opened:
        if name.endswith((".gz", ".zst")):
            if not opened.read(1):
                yield cast("BinaryIO", _EmptyCompressedFile())
                return
            opened.seek(0)
        if name.endswith(".gz"):
            with gzip.GzipFile(fileobj=opened, mode="rb") as decompressed:
                yield cast("BinaryIO", decompressed)
        elif name.endswith(".zst"):
            import pyarrow as pa

            yield cast("BinaryIO", pa.CompressedInputStream(pa.PythonFile(opened, "r"), "zstd"))
        else:
            yield opened


def read_blocks(opened: BinaryIO, first: bytes, codec: str | None) -> Iterator[bytes]:
    """
    The contents of a file without its byte order mark, in blocks.

    :param first: its first block.
    :param codec: convert from it to UTF-8; None for no conversion.
    :raises UnicodeDecodeError: the file cannot be converted.
    """
    block = first
    if codec is None:
        block = block.removeprefix(_MARK)
        while block:
            yield block
            block = opened.read(BLOCK_BYTES)
        return
    decoder = codecs.getincrementaldecoder(codec)()
    try:
        while block:
            text = decoder.decode(block)
            yield (text.removeprefix("\ufeff") if block is first else text).encode(errors="surrogatepass")
            block = opened.read(BLOCK_BYTES)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise
    except UnicodeError as err:
        # What is declared as UTF-16 must have a byte order mark.
        raise UnicodeDecodeError(codec, b"", 0, 0, str(err)) from None


def read_json_lines(file: SourceFile, options: ReadOptions) -> Iterator[Document | RejectedDocument]:
    """
    A document for each line. A line without a valid id is named by ``<path>:<line>``.

    :raises InputError: none of the first objects has a field of the options; names the fields of the first one.
    :raises StorageError: the file cannot be read.
    """
    objects = 0
    absent, names = [options.id_column, options.text_column], list[str]()
    # Rejects, until an object with each field was found.
    held = list[Document | RejectedDocument]()
    for record, found in _records(file, options):
        held.append(found)
        if absent and isinstance(record, dict):
            names, objects = names if objects else list(record), objects + 1
            absent = [name for name in absent if name not in record]
            if absent and objects == _OBJECTS:
                break
        if not absent or len(held) == _OBJECTS:
            yield from held
            held.clear()
    if absent and objects:
        raise missing_column(file.uri, absent[0], names)
    yield from held


def _records(file: SourceFile, options: ReadOptions) -> Iterator[tuple[Any, Document | RejectedDocument]]:
    """The value of each line, and its document."""
    number = 0
    # Lines of UTF-16 and UTF-32 are converted.
    encoding = "utf-8" if wide_codec(b"", options.encoding) else options.encoding or "utf-8"
    # Where bytes below 128 may not be ASCII, JSON may be valid and have another meaning before it is decoded.
    loads = None if codec_without_ascii(b"", encoding) else _loads()
    with open_decompressed(file) as opened:
        try:
            for number, line in read_lines(opened, options.encoding, options.max_document_bytes):
                place = f"{file.path}:{number}"
                if isinstance(line, int):
                    yield None, RejectedDocument(place, *too_large(line, options.max_document_bytes))
                else:
                    record = _parsed(line, encoding, loads)
                    yield record, _document(place, record, options)
        except UnicodeDecodeError as err:
            # The beginning of the next line cannot be found.
            detail = f"After line {number:,} it cannot be decoded as {err.encoding}: {err.reason}."
            yield None, RejectedDocument(file.path, Reason.ENCODING, detail)
        except BROKEN as err:
            detail = f"After line {number:,} it cannot be decompressed: {err!s:.100}."
            yield None, RejectedDocument(file.path, Reason.INVALID, detail)


def _document(place: str, record: Any, options: ReadOptions) -> Document | RejectedDocument:
    if isinstance(record, Rejection):
        return RejectedDocument(place, *record)
    if not isinstance(record, dict):
        return RejectedDocument(
            place, Reason.INVALID, f"It is of type {type(record).__name__}, not a JSON object."
        )
    return read_record(place, record.get(options.id_column), record.get(options.text_column), options)


def _parsed(line: bytes, encoding: str, loads: Callable[[bytes], Any] | None) -> Any:
    """
    The value of a line; a rejection if it is not JSON.

    :param loads: parses UTF-8, before the line is decoded.
    """
    try:
        if loads is not None:
            return loads(line)
    except (ValueError, RecursionError):
        pass  # maybe another encoding, or NaN, which Python's json accepts
    text = decode(line, encoding)
    if isinstance(text, Rejection):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as err:
        return Rejection(Reason.INVALID, f"It is not JSON: {err!s:.100}.")


def _loads() -> Callable[[bytes], Any]:
    try:
        from orjson import loads
    except ImportError:
        return lambda line: json.loads(line.decode())
    return loads


def read_lines(opened: BinaryIO, encoding: str | None, max_bytes: int) -> Iterator[tuple[int, bytes | int]]:
    """
    The non-blank lines of a file with their numbers from 1.

    :return: the bytes of each line, in UTF-8 for a file in UTF-16 or UTF-32; of a line that is too long its length.
    :raises UnicodeDecodeError: a file in UTF-16 or UTF-32 is damaged, or its mark contradicts ``encoding``.
    """
    number, parts, length = 1, list[bytes](), 0
    first = opened.read(BLOCK_BYTES)
    check_mark(first, encoding)
    for block in read_blocks(opened, first, wide_codec(first, encoding)):
        *ended, rest = block.split(b"\n")
        for end in ended:
            length += len(end)
            if length > max_bytes:
                yield number, length
            elif line := b"".join((*parts, end)).strip(_WHITE):
                yield number, line
            number, parts, length = number + 1, [], 0
        length += len(rest)
        if length > max_bytes:
            parts.clear()
        elif rest:
            parts.append(rest)
    if length > max_bytes:
        yield number, length
    elif line := b"".join(parts).strip(_WHITE):
        yield number, line
