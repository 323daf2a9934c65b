# SPDX-License-Identifier: Apache-2.0
"""A name server for one name, over UDP, which can fail; for processes whose ``resolv.conf`` names it."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import suppress
from typing import Self

# Not the address of a resolver of the machine.
ADDRESS = "127.9.53.53"
_SERVER_FAILURE, _NO_SUCH_NAME = 2, 3
_ADDRESS_RECORD, _INTERNET = 1, 1


class NameServer:
    """
    :param name: resolves to 127.0.0.1; other names do not exist.
    :param port: 53 except in tests, because the C library uses no other.
    :ivar failing: whether all responses are SERVFAIL.
    :ivar failed: queries for the name with that response.
    """

    def __init__(self, name: str, port: int = 53) -> None:
        self.name = name
        self.port = port
        self.failing = False
        self.failed = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._thread = threading.Thread(target=self._serve, name="name-server", daemon=True)

    @property
    def resolver(self) -> str:
        """The contents of a ``resolv.conf`` with this server."""
        return f"nameserver {ADDRESS}\noptions timeout:1 attempts:1\n"

    def __enter__(self) -> Self:
        self._socket.bind((ADDRESS, self.port))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # ends the thread's wait
        self._socket.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                question, sender = self._socket.recvfrom(4096)
            except OSError:
                return
            if len(question) > 12:
                self._socket.sendto(self._answer(question), sender)

    def _answer(self, query: bytes) -> bytes:
        """RFC 1035, section 4: header, question, and one record or none."""
        number, flags = struct.unpack("!HH", query[:4])
        labels, at = [], 12
        while length := query[at]:
            labels.append(query[at + 1 : at + 1 + length])
            at += length + 1
        question = query[12 : at + 5]
        (kind,) = struct.unpack("!H", question[-4:-2])
        ours = b".".join(labels).decode("ascii", "replace").lower() == self.name
        code, record = 0, b""
        if self.failing:
            code = _SERVER_FAILURE
            self.failed += ours
        elif not ours:
            code = _NO_SUCH_NAME
        elif kind == _ADDRESS_RECORD:
            # A pointer to the name in the question; a TTL of 0.
            record = struct.pack("!HHHIH", 0xC00C, _ADDRESS_RECORD, _INTERNET, 0, 4)
            record += socket.inet_aton("127.0.0.1")
        # An authoritative answer; without the flag for recursion, some clients query other servers.
        head = struct.pack("!HHHHHH", number, 0x8480 | (flags & 0x0100) | code, 1, bool(record), 0, 0)
        return head + question + record
