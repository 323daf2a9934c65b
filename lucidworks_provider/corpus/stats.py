# SPDX-License-Identifier: Apache-2.0
"""
Counts of a run, for the progress line and the report.

Memory is constant: histograms have logarithmic buckets, and the time series doubles the width of its steps each time
it is full. ``now`` is ``time.monotonic()`` of the caller. Not thread-safe.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from lucidworks_provider.metrics import duration

# Steps of the time series; an even number.
STEPS = 240
# The remaining time is estimated from the rate of about this many seconds.
RATE_SECONDS = 60.0
# Seconds; rates over a shorter time are not computed.
MIN_RATE_SECONDS = 0.2
# Documents and seconds before the first estimate, whose error is then some 15 %.
MIN_DOCUMENTS, MIN_SECONDS = 50, 10.0


def _logarithmic(first: float, last: float, per_octave: int) -> list[float]:
    found = []
    for step in range(10_000):  # pragma: no branch
        found.append(first * 2 ** (step / per_octave))
        if found[-1] >= last:
            break
    return found


# Characters: steps of 9 %, whole numbers. Seconds: steps of 19 %, from 10 ms to more than a day.
SIZE_EDGES = tuple(sorted({round(edge) for edge in _logarithmic(1, 1 << 21, 8)}))
SECONDS_EDGES = tuple(_logarithmic(0.01, 100_000, 4))


class Histogram:
    """
    Counts in buckets; the first and the last are unbounded.

    :param edges: ascending; bucket ``i`` has values from ``edges[i - 1]`` to below ``edges[i]``.
    """

    __slots__ = ("counts", "edges", "least", "most")

    def __init__(self, edges: tuple[float, ...]) -> None:
        self.edges = edges
        self.counts = [0] * (len(edges) + 1)
        self.least = float("inf")
        self.most = float("-inf")

    def add(self, values: Collection[float]) -> None:
        """Count values."""
        for value in values:
            self.counts[bisect_right(self.edges, value)] += 1
        self.least, self.most = min((self.least, *values)), max((self.most, *values))

    def quantile(self, share: float) -> float | None:
        """
        The value that the ``share`` of all values is below, interpolated within its bucket; None without values.

        :param share: 0 to 1.
        """
        wanted, below = share * sum(self.counts), 0
        for number, count in enumerate(self.counts):
            if count and below + count >= wanted:
                start = self.edges[number - 1] if number else self.least
                end = self.edges[number] if number < len(self.edges) else self.most
                value = start + (end - start) * (wanted - below) / count
                return min(max(value, self.least), self.most)
            below += count
        return None

    def as_json(self) -> dict[str, Any]:
        """``edges`` has one more element than ``counts``; empty buckets at both ends are omitted."""
        used = [number for number, count in enumerate(self.counts) if count]
        if not used:
            return {"count": 0, "edges": [], "counts": []}
        first, last = used[0], used[-1]
        ends = (self.least, *self.edges, max(self.most, self.edges[-1]))
        return {
            "count": sum(self.counts),
            "min": self.least,
            "max": self.most,
            "median": self.quantile(0.5),
            "p95": self.quantile(0.95),
            "edges": list(ends[first : last + 2]),
            "counts": self.counts[first : last + 1],
        }


class Series:
    """
    Counts over time, in :data:`STEPS` steps at most.

    :param started: beginning of the first step.
    """

    __slots__ = ("documents", "in_flight", "last", "requests", "started", "throttled", "width")

    def __init__(self, started: float) -> None:
        self.started = started
        self.width = 1.0
        self.last = 0
        self.documents = [0] * STEPS
        self.requests = [0] * STEPS
        self.throttled = [0] * STEPS
        self.in_flight = [0] * STEPS
        """Maximum of each step."""

    def step(self, now: float) -> int:
        """The step of ``now``; merges pairs of steps if there is none yet."""
        step = int((now - self.started) / self.width)
        if step > self.last:
            while step >= STEPS:
                self._fold()
                step = int((now - self.started) / self.width)
            self.last = max(step, self.last)
        return max(step, 0)

    def _fold(self) -> None:
        # In place, as callers hold the lists: `series.requests[series.step(now)] += 1`.
        empty = [0] * (STEPS // 2)
        for counts in (self.documents, self.requests, self.throttled):
            counts[:] = [*map(sum, zip(counts[::2], counts[1::2], strict=True)), *empty]
        self.in_flight[:] = [*map(max, self.in_flight[::2], self.in_flight[1::2]), *empty]
        self.width *= 2
        self.last //= 2

    def as_json(self) -> dict[str, Any]:
        """``width`` in seconds; the last step may be shorter."""
        end = self.last + 1
        return {
            "width": self.width,
            "documents": self.documents[:end],
            "requests": self.requests[:end],
            "throttled": self.throttled[:end],
            "in_flight": self.in_flight[:end],
        }


class RunStats:
    """
    The counts of one run.

    :param total: documents of the source; None if unknown.
    :param started: ``now`` of its beginning.
    """

    def __init__(self, total: int | None, started: float) -> None:
        self.total = total
        self.in_flight = 0
        """Unfinished jobs; set by the pipeline."""
        self.rate: float | None = None
        """Requests a second that the rate limiter allows; set by the pipeline."""
        self.documents = self.chunks = self.tokens = 0
        self.requests = self.throttles = self.unanswered = self.submissions = self.resubmissions = (
            self.reuses
        ) = self.skips = 0
        self.reasons: Counter[str] = Counter()
        self.sizes = Histogram(SIZE_EDGES)
        self.latency = Histogram(SECONDS_EDGES)
        self.series = Series(started)
        self._started = self._latest = started
        self._at_once = 0
        self._rate = 0.0
        # Time and documents of the last measurement; documents and seconds of about RATE_SECONDS.
        self._line: tuple[float, int, int] = (started, 0, 0)
        self._recent = (0.0, 0.0)
        # Time of the first documents, and their number since.
        self._first, self._counted = started, 0

    def request(self, outcome: int | str, now: float) -> None:
        """
        A request to the application has ended.

        :param outcome: its status; a text if there was no response.
        """
        self.requests += 1
        series, step = self.series, self._step(now)
        series.requests[step] += 1
        series.in_flight[step] = max(series.in_flight[step], self.in_flight)
        if outcome == 429:
            self.throttles += 1
            series.throttled[step] += 1
        elif isinstance(outcome, str):
            self.unanswered += 1

    def submitted(self, now: float) -> None:
        """The service has accepted a job."""
        self.submissions += 1
        self._step(now)

    def resubmitted(self) -> None:
        """A text is sent again, as its job or result is or may be lost."""
        self.resubmissions += 1

    def reused(self) -> None:
        """A job, or its result, of an earlier try is used."""
        self.reuses += 1

    def chunked(self, now: float, latency_s: float | None, chunk_sizes: Sequence[int], tokens: int) -> None:
        """
        A document was chunked.

        :param latency_s: from its submission to its result; None if an earlier try has submitted it.
        :param chunk_sizes: in characters.
        :param tokens: input tokens that the service counted.
        """
        self.documents += 1
        self.chunks += len(chunk_sizes)
        self.tokens += tokens
        self.series.documents[self._step(now)] += 1
        self.sizes.add(chunk_sizes)
        if latency_s is not None:
            self.latency.add([latency_s])

    def rejected(self, reason: str) -> None:
        """A document was rejected."""
        self.reasons[str(reason)] += 1

    def skipped(self, n: int = 1) -> None:
        """Documents are unchanged."""
        self.skips += n
        if not (self.submissions or self.documents or self.reasons):
            # Skipped by their etags at once, so they do not count for the rate.
            self._at_once += n

    @property
    def rejects(self) -> int:
        """Rejected documents."""
        return self.reasons.total()

    @property
    def done(self) -> int:
        """Documents that need no more work."""
        return self.documents + self.rejects + self.skips

    @property
    def seconds(self) -> float:
        """From the beginning to the last event."""
        return self._latest - self._started

    def progress(self, now: float) -> str:
        """
        The progress line; its documents a second are those since the last line.

        The remaining time is estimated from the rate of the last minute, once :data:`MIN_DOCUMENTS` documents and
        :data:`MIN_SECONDS` seconds have passed since the first document.
        """
        self._step(now)
        self._measure(now)
        words = [
            f"{_of(self.done, self.total)} done",
            f"{self.in_flight:,} in flight",
            f"{self._rate:,.1f} documents/s",
        ]
        if self.rate is not None:
            words.append(f"limit {self.rate:,.1f} requests/s")
        counts = {"429s": self.throttles, "rejects": self.rejects, "without a response": self.unanswered}
        words += [f"{name}: {number:,}" for name, number in counts.items() if number]
        done, during = self._recent
        known = self._counted >= MIN_DOCUMENTS and now - self._first >= MIN_SECONDS
        if self.total is not None and self.total > self.done and known and done > 0:
            words.append(f"about {duration((self.total - self.done) * during / done)} left")
        return ", ".join(words)

    def as_json(self, now: float) -> dict[str, Any]:
        """
        All counts as plain values, a few kilobytes.

        :param now: the end of the run.
        """
        self._step(now)
        return {
            "total": self.total,
            "documents": self.documents,
            "skipped": self.skips,
            "chunks": self.chunks,
            "tokens": self.tokens,
            "requests": self.requests,
            "throttled": self.throttles,
            "unanswered": self.unanswered,
            "submitted": self.submissions,
            "resubmitted": self.resubmissions,
            "reused": self.reuses,
            "rejected": dict(self.reasons.most_common()),
            "seconds": round(self.seconds, 3),
            "chunk_sizes": self.sizes.as_json(),
            "latency": self.latency.as_json(),
            "series": self.series.as_json(),
        }

    def _step(self, now: float) -> int:
        self._latest = max(self._latest, now)
        return self.series.step(now)

    def _measure(self, now: float) -> None:
        then, worked, counted = self._line
        if (seconds := now - then) < MIN_RATE_SECONDS:
            return
        self._rate = (self.documents - worked) / seconds
        counts = self.done - self._at_once
        if counted:
            decay = math.exp(-seconds / RATE_SECONDS)
            done, during = self._recent
            self._recent = (done * decay + counts - counted, during * decay + seconds)
            self._counted += counts - counted
        else:
            # The measurement begins with the first documents.
            self._first = now
        self._line = (now, self.documents, counts)


def _of(done: int, total: int | None) -> str:
    if not total:
        return f"{done:,} documents"
    # Rounded down, so that 100 % is the end.
    return f"{done:,} of {total:,} documents ({done * 100 // total} %)"
