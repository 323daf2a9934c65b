# SPDX-License-Identifier: Apache-2.0
"""
The identity server's clock, as seen from this host.

The times in a shared token are the server's, so a host whose own clock is wrong must know by how much before
it calls a token expired. Inside a process everything else goes by the monotonic clock.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger(__name__)

# Clocks that differ by no more than the resolution of a Date header are taken to agree.
TOLERANCE = 2.0


class ServerClock:
    """This host's clock, corrected by what the server said in ``Date`` headers."""

    def __init__(self) -> None:
        self._offset = 0.0
        self._sure = False
        self._lock = threading.Lock()

    @property
    def sure(self) -> bool:
        """Whether the server was heard, so that a difference would be known."""
        return self._sure

    def now(self) -> float:
        """Seconds since the epoch by the server's clock."""
        return time.time() + self._offset

    def hear(self, server_time: float | None, before: float, after: float) -> None:
        """
        Take note of a ``Date`` header.

        :param server_time: what it said, in seconds since the epoch; None for an answer without it.
        :param before: this host's clock when the request was sent.
        :param after: this host's clock when the answer was there.
        """
        if server_time is None:
            return
        offset = server_time - (before + after) / 2
        with self._lock:
            known, self._sure = self._offset, True
            self._offset = offset if abs(offset) > TOLERANCE + (after - before) / 2 else 0.0
            warn = self._offset != 0.0 and known == 0.0
        if warn:
            log.warning(
                "This host's clock is %.0f s off the identity server's. Access tokens are handled by the server's "
                "clock, so they work; set this host's clock all the same (NTP).",
                -offset,
            )


@dataclass(frozen=True, slots=True)
class Clocks:
    """
    :param monotonic: for waiting.
    :param server: seconds since the epoch as the identity server sees it, for the times in a token.
    :param sure: whether ``server`` was ever compared with the server's own words.
    """

    monotonic: Callable[[], float]
    server: Callable[[], float]
    sure: Callable[[], bool]
