# SPDX-License-Identifier: Apache-2.0
"""
The rate limit, of which the vendor documents the answer 429 and nothing else (section 11).

It counts all calls with a bearer token together, as those of one application; refused ones do not count [A].
"""

from __future__ import annotations

import math
import random
from collections import deque
from typing import TYPE_CHECKING

from lucidworks_provider.emulator.settings import RateMode

if TYPE_CHECKING:
    from lucidworks_provider.emulator.settings import EmulatorSettings


class RateLimit:
    """
    A sliding window over the calls, or a bucket of tokens that fills evenly and holds those of one second.

    A bucket holds at least one token, or nothing would ever pass a limit below one a second.
    """

    def __init__(self) -> None:
        self._times: deque[float] = deque()
        # As many as fit in, until they are counted for the first time.
        self._tokens = math.inf
        self._at = 0.0
        # The same calls are refused in each run.
        self._random = random.Random(0)

    def refuse(self, settings: EmulatorSettings, now: float) -> int | None:
        """Count a call, or return the whole seconds to wait; some are refused at random, as by a busy gateway."""
        if settings.shed_share and self._random.random() < settings.shed_share:
            return 1
        if settings.rate_limit is None:
            return None
        if settings.rate_mode is RateMode.BUCKET:
            return self._from_bucket(settings.rate_limit / settings.rate_window, now)
        return self._in_window(settings.rate_limit, settings.rate_window, now)

    def clear(self) -> None:
        """Forget the calls made."""
        self._times.clear()
        self._tokens = math.inf

    def _in_window(self, limit: int, window: float, now: float) -> int | None:
        while self._times and now - self._times[0] >= window:
            self._times.popleft()
        if len(self._times) < limit:
            self._times.append(now)
            return None
        return max(1, math.ceil(window - (now - self._times[0])))

    def _from_bucket(self, rate: float, now: float) -> int | None:
        most = max(1.0, rate)
        self._tokens = min(most, self._tokens + (now - self._at) * rate)
        self._at = now
        if self._tokens >= 1:
            self._tokens -= 1
            return None
        return max(1, math.ceil((1 - self._tokens) / rate))
