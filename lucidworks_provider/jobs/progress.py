# SPDX-License-Identifier: Apache-2.0
"""Lines of a task's log: progress, counts and durations."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from lucidworks_provider.threads import in_thread

log = logging.getLogger(__name__)


class Progress:
    """
    Logs the progress of requests every few seconds.

    :param verb: e.g. ``Predicted``.
    :param noun: e.g. ``input``.
    """

    EVERY = 10.0

    def __init__(self, verb: str, noun: str, total: int) -> None:
        self._verb, self._noun, self._total = verb, noun, total
        self.done = self._kept = 0
        self._began = self._logged = time.monotonic()

    def add(self, number: int, *, kept: bool = False) -> None:
        """:param kept: an earlier attempt did it, so it does not count for the rate."""
        self.done += number
        self._kept += number * kept
        now = time.monotonic()
        if now - self._logged < self.EVERY or self.done >= self._total:
            return
        self._logged = now
        rate = (self.done - self._kept) / (now - self._began)
        left = f", {duration((self._total - self.done) / rate)} left" if rate else ""
        log.info("%s %s, %.1f/s%s.", self._verb, self._counted(), rate, left)

    def end(self) -> None:
        """Log what was done, if there was anything to do."""
        if self._total:
            took = duration(time.monotonic() - self._began)
            log.info("%s %s in %s.", self._verb, self._counted(), took)

    def _counted(self) -> str:
        of = "" if self.done == self._total else f"{self.done:,} of "
        return of + count(self._total, self._noun)


class WaitProgress:
    """
    Logs how many results are stored: after 30 seconds, then at twice the time, at least every five minutes.

    :param total: results of the task.
    :param stored: those that are stored already.
    :param deadline: seconds since the epoch.
    """

    FIRST, LONGEST = 30.0, 300.0

    def __init__(self, total: int, stored: int, deadline: float) -> None:
        self._total, self._stored, self._deadline = total, stored, deadline
        self._began = time.monotonic()
        self._next = self.FIRST

    async def update(self, number: int) -> None:
        """
        Log in a thread: in a triggerer the log is a pipe whose reader may be busy for a second.

        :param number: of results that this wait has stored.
        """
        waited = time.monotonic() - self._began
        if waited >= self._next:
            self._next = waited + min(max(waited, self.FIRST), self.LONGEST)
            left = duration(max(0.0, self._deadline - time.time()))
            await in_thread(log.info, "%s stored, at most %s left.", self._counted(number), left)

    async def end(self, number: int) -> None:
        """:param number: of results that this wait has stored."""
        took = duration(time.monotonic() - self._began)
        await in_thread(log.info, "%s stored after %s.", self._counted(number), took)

    def _counted(self, number: int) -> str:
        return f"{self._stored + number:,} of {count(self._total, 'result')}"


class Warnings:
    """Logs warnings about results that are accepted, and counts them for the manifest and the metrics."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, message: str, *values: object, results: int = 1) -> None:
        """
        Log a warning.

        :param results: that it is about.
        """
        self.count += results
        log.warning(message, *values)


def log_result(manifest: Mapping[str, Any], seconds: float | None, what: str = "") -> None:
    """
    Log the result of a task: its address, counts and duration.

    :param manifest: what the task returns.
    :param what: instead of the address, for a result that is returned.
    """
    rejected = manifest.get("rejected") or 0
    # The counts of a catalogue have no errors.
    failed = manifest["errors"] - rejected if manifest.get("errors") else 0
    counts = [
        count(manifest[name], noun)
        for name, noun in {"documents": "document", "chunks": "chunk", "predictions": "row"}.items()
        if name in manifest
    ]
    counts += [
        f"{number:,} {state}" for number, state in ((rejected, "rejected"), (failed, "failed")) if number
    ]
    counts += [count(manifest["tokens"], "token")] if "tokens" in manifest else []
    counts += [count(manifest["warnings"], "warning")] if manifest.get("warnings") else []
    counts = counts or ["written"]
    counts += [] if seconds is None else [f"in {duration(seconds)}"]
    log.info("%s: %s.", what or manifest["uri"], ", ".join(counts))


def count(number: int, noun: str) -> str:
    """A number with its noun, in the plural unless it is 1."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """Format a duration: ``1.2 s``, ``12 s``, ``3 min 20 s``, ``2 h 05 min``, ``1 d 03 h``."""
    if 0 < seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, below, smaller in (
        (86_400, "d", 3_600, "h"),
        (3_600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            return f"{whole // size:,} {unit} {whole % size // below:02d} {smaller}"
    return f"{whole} s"
