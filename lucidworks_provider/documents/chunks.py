# SPDX-License-Identifier: Apache-2.0
"""The bytes of a file of lines, decompressed and in an encoding that has line breaks as they are in ASCII."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from lucidworks_provider.documents.source import SourceFile
from lucidworks_provider.storage import reading as open_to_read

CHUNK = 1 << 20
_MARK = codecs.BOM_UTF8
# What a file raises that is not compressed as its name says.
BROKEN_GZIP = (gzip.BadGzipFile, EOFError, zlib.error)


@contextmanager
def open_decompressed(file: SourceFile) -> Iterator[BinaryIO]:
    """
    Open a file, and decompress it if its name ends in ``.gz``.

    :raises StorageError: the file cannot be read, then or later.
    """
    with open_to_read(file.uri) as opened:
        if not file.path.lower().endswith(".gz"):
            yield opened
            return
        with gzip.GzipFile(fileobj=opened, mode="rb") as decompressed:
            yield cast("BinaryIO", decompressed)


def read_chunks(opened: BinaryIO, first: bytes, codec: str | None) -> Iterator[bytes]:
    """
    The file without its byte order mark, a megabyte at a time.

    :param first: what has been read of it.
    :param codec: of a file that is to be converted to UTF-8.
    :raises UnicodeDecodeError: a file that is converted is broken.
    """
    chunk = first
    if codec is None:
        chunk = chunk.removeprefix(_MARK)
        while chunk:
            yield chunk
            chunk = opened.read(CHUNK)
        return
    decoder = codecs.getincrementaldecoder(codec)()
    try:
        while chunk:
            text = decoder.decode(chunk)
            yield (text.removeprefix("\ufeff") if chunk is first else text).encode(errors="surrogatepass")
            chunk = opened.read(CHUNK)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise
    except UnicodeError as err:
        # What is declared as UTF-16 must have a byte order mark.
        raise UnicodeDecodeError(codec, b"", 0, 0, str(err)) from None
