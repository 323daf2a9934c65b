# SPDX-License-Identifier: Apache-2.0
"""
When to ask for a job first, learned from the jobs before it.

Every poll that finds a job unfinished is a request of the contract's rate that brought nothing. So the first
poll of a job waits for as long as most jobs have taken: a first poll that finds its job ready shortens the wait
of the next ones a little, one that comes too early lengthens it a lot, and the two balance where the share
``SHARE`` of first polls is not in vain. That is stochastic approximation of a quantile (Robbins and Monro, 1951).
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable

SHARE = 0.95
_SHORTER = 0.99
_LONGER = math.exp(-math.log(_SHORTER) * SHARE / (1 - SHARE))
# Half of it up and down, so that jobs do not poll in step.
_SPREAD = 0.1
FIRST_GUESS = 0.5
SHORTEST = 0.05
_REMEMBERED = 512
# Of a job that is late, the share of its age until the next poll.
AGE_SHARE = 0.25


class PollDelayEstimator:
    """
    For all jobs of a run.

    :param longest: seconds, the longest wait between two polls.
    """

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._first = min(FIRST_GUESS, longest)
        # Seconds from submission to result, of the last jobs.
        self.durations: deque[float] = deque(maxlen=_REMEMBERED)

    def first_wait(self, spread: Callable[[], float] = random.random) -> float:
        """Seconds from the submission to the first poll."""
        return self._first * (1 - _SPREAD / 2 + _SPREAD * spread())

    def next_wait(self, age: float, longest: float, spread: Callable[[], float] = random.random) -> float:
        """Seconds to the poll after one that found nothing, of a job that is ``age`` seconds old."""
        return min(longest, max(SHORTEST, age * AGE_SHARE)) * (0.8 + 0.2 * spread())

    def ready(self, age: float) -> None:
        """
        The first poll of a job found it ready.

        :param age: seconds since its submission. Only what was asked about as soon as is now usual says that
            less would do: hundreds of jobs are on their way with the wait of before.
        """
        if self._first > age * (1 - _SPREAD):
            self._first = max(SHORTEST, self._first * _SHORTER)

    def late(self, age: float) -> None:
        """
        The first poll of a job found it unfinished, and a later one ready.

        :param age: seconds since its submission at the last poll that found it unfinished. A wait that is longer
            by now is not made longer still.
        """
        if self._first < age * (1 + _SPREAD):
            self._first = min(self._longest, self._first * _LONGER)
