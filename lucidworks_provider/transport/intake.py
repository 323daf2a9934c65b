# SPDX-License-Identifier: Apache-2.0
"""
How large an answer may be, and how slow: decided once, for both clients.

A timeout between bytes alone would let an answer without an end fill the memory, and one that comes byte by byte
hold its connection for ever.
"""

from __future__ import annotations

import time

from lucidworks_provider.errors import TransportError

# Five times the largest result that the documented limits allow (about 12.6 MB).
MOST_BYTES = 64 << 20
# Bytes a second, on the average, of an answer that takes longer than the connection's timeout.
LEAST_SPEED = 10_000


class Intake:
    """
    The body of one answer, piece by piece.

    :param what: is asked of whom; the begin of an error's text.
    :param timeout: seconds that any answer may take, however small it is.
    """

    def __init__(self, what: str, timeout: float) -> None:
        self._what = what
        self._timeout = timeout
        self._began = time.monotonic()
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

        :raises TransportError: the answer is too large, or too slow.
        """
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
