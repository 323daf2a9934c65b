# SPDX-License-Identifier: Apache-2.0
"""The memory of one emulator: settings in force, clock, tokens, jobs, models, faults, log and rate limit."""

from __future__ import annotations

import math
import random
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lucidworks_provider.emulator.faults import FaultRegistry
from lucidworks_provider.emulator.jobs import JobRegistry
from lucidworks_provider.emulator.models_api import ResourceRegistry
from lucidworks_provider.emulator.tokens import TokenRegistry
from lucidworks_provider.emulator.use_cases import Conversations

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lucidworks_provider.emulator.settings import EmulatorSettings

_REMEMBERED = 50_000


@dataclass
class LogRecord:
    """One request; ``status`` stays None when the connection was dropped without a response."""

    time: float
    method: str
    path: str
    endpoint: str = "unknown"
    sequence: int = 0
    status: int | None = None
    seconds: float = 0.0
    client_id: str | None = None
    jti_prefix: str | None = None
    job_id: str | None = None
    job_status: str | None = None
    chunker: str | None = None
    use_case: str | None = None
    model: str | None = None
    deployment: str | None = None
    items: int | None = None
    text_bytes: int | None = None
    text_sha256: str | None = None
    fault: str | None = None


class RequestLog:
    """The requests in the order in which they ended, and counts that a cleared log keeps."""

    def __init__(self) -> None:
        self._records: deque[LogRecord] = deque(maxlen=_REMEMBERED)
        self._sequence = 0
        self.statuses: Counter[int | None] = Counter()
        self.endpoints: Counter[str] = Counter()
        self.issued: Counter[str] = Counter()

    def add(self, record: LogRecord) -> None:
        """Number a finished request and keep it."""
        self._sequence += 1
        record.sequence = self._sequence
        self.statuses[record.status] += 1
        self.endpoints[record.endpoint] += 1
        self._records.append(record)

    def clear(self) -> None:
        """Forget the requests, but not the sequence and the counts."""
        self._records.clear()

    def __iter__(self) -> Iterator[LogRecord]:
        # Over a copy, so that a test thread may read while requests arrive.
        return iter(list(self._records))

    def __len__(self) -> int:
        return len(self._records)


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
        if settings.rate_mode == "bucket":
            return self._from_bucket(settings.rate_limit / settings.rate_window, now)
        return self._in_window(settings.rate_limit, settings.rate_window, now)

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


# Two, so that a short text does not wait for a long one. More would only fight the event loop for the
# interpreter.
_WORKERS = 2


class Clock:
    """The time of the emulator, which a test may push forward to see tokens and results expire."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def __call__(self) -> float:
        """Return seconds since the epoch."""
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds


class EmulatorState:
    """Everything that changes; lives in the event loop, except for the workers that chunk and embed."""

    def __init__(self, settings: EmulatorSettings) -> None:
        self._initial = settings
        self.jobs = JobRegistry(Clock())
        self.workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="lucidworks-emulator-chunker")
        self.reset()

    def reset(self) -> None:
        """Return to the state after start, with the settings of the start; whatever was made is gone."""
        self.jobs.cancel()
        self.settings = self._initial
        self.clock = Clock()
        self.tokens = TokenRegistry(self.clock)
        self.jobs = JobRegistry(self.clock)
        self.registry = ResourceRegistry(self.clock)
        self.conversations = Conversations()
        self.faults = FaultRegistry()
        self.log = RequestLog()
        self.rate_limit = RateLimit()

    def live_deployments(self, settings: EmulatorSettings) -> tuple[str, ...]:
        """Return the ids that serve as MODEL_ID: those of the settings, and those deployed since."""
        return (*settings.deployments, *self.registry.live())

    def close(self) -> None:
        """Stop the workers; a running one ends with its text."""
        self.workers.shutdown(wait=False, cancel_futures=True)
