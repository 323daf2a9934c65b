# SPDX-License-Identifier: Apache-2.0
"""The memory of one emulator: settings in force, clock, tokens, jobs, models, faults, log and rate limit."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from lucidworks_provider.emulator.customers.registry import Registry
from lucidworks_provider.emulator.faults import FaultRegistry
from lucidworks_provider.emulator.jobs import JobRegistry
from lucidworks_provider.emulator.predictions.memory import Conversations
from lucidworks_provider.emulator.rate import RateLimit
from lucidworks_provider.emulator.request_log import RequestLog
from lucidworks_provider.emulator.tokens import TokenRegistry

if TYPE_CHECKING:
    from lucidworks_provider.emulator.settings import EmulatorSettings

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
        """Push the time forward."""
        self._ahead += seconds

    def reset(self) -> None:
        """Return to the real time."""
        self._ahead = 0.0


class EmulatorState:
    """Everything that changes; lives in the event loop, except for the workers that chunk and embed."""

    def __init__(self, settings: EmulatorSettings) -> None:
        self._initial = settings
        self.settings = settings
        self.clock = Clock()
        self.tokens = TokenRegistry(self.clock)
        self.jobs = JobRegistry(self.clock)
        self.registry = Registry(self.clock)
        self.conversations = Conversations()
        self.faults = FaultRegistry()
        self.log = RequestLog()
        self.rate_limit = RateLimit()
        self.workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="lucidworks-emulator-chunker")

    def reset(self) -> None:
        """Return to the state after start, with the settings of the start; whatever was made is gone."""
        self.settings = self._initial
        self.clock.reset()
        self.tokens = TokenRegistry(self.clock)
        self.jobs.clear()
        self.registry = Registry(self.clock)
        self.conversations.clear()
        self.faults.clear()
        self.log = RequestLog()
        self.rate_limit.clear()

    def live_deployments(self, settings: EmulatorSettings) -> tuple[str, ...]:
        """Return the ids that serve as MODEL_ID: those of the settings, and those deployed since."""
        return (*settings.deployments, *self.registry.live())

    def close(self) -> None:
        """Stop the workers; a running one ends with its text."""
        self.workers.shutdown(wait=False, cancel_futures=True)
