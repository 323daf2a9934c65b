# SPDX-License-Identifier: Apache-2.0
"""Reads files of lines in blocks, decompressed and in an encoding with the line breaks of ASCII."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from lucidworks_provider.documents.source import SourceFile
from lucidworks_provider.storage import reading as open_to_read

BLOCK_BYTES = 1 << 20
_MARK = codecs.BOM_UTF8
# Raised by damaged compressed files. Those of the storage are errors of another tree.
BROKEN = (OSError, EOFError, zlib.error)


@contextmanager
def open_decompressed(file: SourceFile) -> Iterator[BinaryIO]:
    """
    Open a file, and decompress it if its name ends in ``.gz`` or ``.zst``.

    :raises StorageError: the file cannot be read, also later.
    """
    name = file.path.lower()
    with open_to_read(file.uri) as opened:
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
