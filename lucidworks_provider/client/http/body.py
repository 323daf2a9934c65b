# SPDX-License-Identifier: Apache-2.0
"""
How large an answer may be, how slow, and how it may be compressed: decided once, for both clients.

A timeout between bytes alone would let an answer without an end fill the memory, and one that comes byte by byte
hold its connection for ever.
"""

from __future__ import annotations

import time
import zlib

from lucidworks_provider.client.api.messages import content_codings
from lucidworks_provider.errors import TransportError

# Five times the largest result that the documented limits allow (about 12.6 MB).
MOST_BYTES = 64 << 20
# Bytes a second, on the average, of an answer that takes longer than the connection's timeout.
LEAST_SPEED = 10_000
# The first byte of a gzip member; no JSON begins with it.
_GZIP = 0x1F


class BodyReader:
    """
    The body of one answer, piece by piece.

    :param what: is asked of whom; the begin of an error's text.
    :param timeout: seconds that any answer may take, however small it is.
    :param encoding: its ``Content-Encoding``; a body in one that is not decoded here stays as it came.
    """

    def __init__(self, what: str, timeout: float, encoding: str | None = None) -> None:
        self._what = what
        self._timeout = timeout
        self._began = time.monotonic()
        self._decoders = [_Decoder(coding) for coding in reversed(content_codings(encoding) or ())]
        self._parts: list[bytes] = []
        self._size = 0

    def announced(self, length: int | None) -> None:
        """
        Its ``Content-Length``, before anything is read.

        :raises TransportError: it is too large.
        """
        if length is not None and length > MOST_BYTES:
            raise TransportError(
                f"{self._what}an answer of {length} bytes; more than {MOST_BYTES} are not read"
            )

    def add(self, data: bytes) -> None:
        """
        A piece that has come.

        :raises TransportError: the answer is too large, too slow, or not encoded as it says.
        """
        for decoder in self._decoders:
            try:
                data = decoder.decode(data, MOST_BYTES + 1 - self._size)
            except zlib.error:
                raise TransportError(f"{self._what}the body is not in {decoder.coding}, as it says") from None
        self._parts.append(data)
        self._size += len(data)
        if self._size > MOST_BYTES:
            raise TransportError(f"{self._what}an answer of more than {MOST_BYTES} bytes, which are not read")
        seconds = time.monotonic() - self._began
        if seconds > self._timeout + self._size / LEAST_SPEED:
            raise TransportError(f"{self._what}only {self._size} bytes of the answer in {seconds:.1f} s")

    def whole(self) -> bytes:
        """The body."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)


class _Decoder:
    """Decompresses one coding."""

    def __init__(self, coding: str) -> None:
        self.coding = coding
        self._engine: zlib._Decompress | None = None
        self._plain = False

    def decode(self, data: bytes, most: int) -> bytes:
        """
        :param most: bytes to return at most; the rest is dropped.
        :raises zlib.error: the data is in another coding.
        """
        if self._engine is None and data and self.coding != "deflate":
            # A proxy that decompresses may leave the header in place.
            self._plain = self._plain or data[0] != _GZIP
        if self._plain:
            return data[:most]
        parts: list[bytes] = []
        while data and most > 0:
            # A gzip body may consist of several members; what else follows its end is ignored, as browsers do.
            if self._engine is None or (self._engine.eof and self.coding != "deflate" and data[0] == _GZIP):
                self._engine = zlib.decompressobj(self._window(data))
            elif self._engine.eof:
                break
            parts.append(self._engine.decompress(data, most))
            most -= len(parts[-1])
            data = self._engine.unconsumed_tail or self._engine.unused_data
        return b"".join(parts)

    def _window(self, data: bytes) -> int:
        if self.coding != "deflate":
            return zlib.MAX_WBITS | 16
        # By RFC 9110 it has a zlib header, which some servers leave out.
        return zlib.MAX_WBITS if data[0] & 0xF == 8 else -zlib.MAX_WBITS
