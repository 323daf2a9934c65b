# SPDX-License-Identifier: Apache-2.0
"""
Counters and timers: the log line about a result, and metrics for StatsD, OpenTelemetry or Datadog.

Metrics are sent through Airflow's ``Stats``, with its configuration. The page about metrics has a table of all names.
Tags are words from short lists, never an id, a name given by a user, or a text. Without Airflow nothing is counted.
"""

from __future__ import annotations

import logging
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from time import monotonic
from typing import Any

log = logging.getLogger(__name__)

_in_flight = 0
_lock = threading.Lock()


def request(endpoint: str, outcome: int | str, seconds: float) -> None:
    """
    A request has ended.

    :param endpoint: a :attr:`~lucidworks_provider.client.http.messages.Request.endpoint`.
    :param outcome: the HTTP status; ``not_sent`` or ``broken`` where no response came.
    :param seconds: from sending it to the end of its response; without the wait for the rate limiter.
    """
    if (stats := _stats()) is None:
        return
    stats.incr("lucidworks.requests", tags={"endpoint": endpoint, "outcome": str(outcome)})
    # Plain StatsD has no tags.
    stats.incr(f"lucidworks.requests.{endpoint}.{outcome}")
    stats.timing("lucidworks.request_duration", timedelta(seconds=seconds), tags={"endpoint": endpoint})


def refreshed(scope: str) -> None:
    if (stats := _stats()) is not None:
        stats.incr("lucidworks.token_refreshes", tags={"scope": scope})


@dataclass
class Waiting:
    """
    A job that is waited for.

    :param ending: assigned when it has ended; None if the wait was cancelled.
    """

    ending: str | None = None


@contextmanager
def waiting(started: float | None = None) -> Iterator[Waiting]:
    """
    Count a job as in flight within the block.

    :param started: ``time.monotonic()`` of its submission, where this process has submitted it.
    """
    begin = monotonic() if started is None else started
    _jobs(+1)
    this = Waiting()
    try:
        yield this
    finally:
        _jobs(-1)
        if this.ending is not None and (stats := _stats()) is not None:
            stats.incr("lucidworks.jobs_ended", tags={"outcome": this.ending})
            passed = timedelta(seconds=monotonic() - begin)
            stats.timing("lucidworks.job_duration", passed, tags={"outcome": this.ending})


def documents(counts: Mapping[str, int], chunks: int = 0) -> None:
    """
    Documents are done.

    :param counts: by outcome: ``chunked``, ``predicted``, ``rejected``, ``skipped``.
    """
    if (stats := _stats()) is None:
        return
    for outcome, count in counts.items():
        if count:
            stats.incr("lucidworks.documents", count, tags={"outcome": outcome})
    if chunks:
        stats.incr("lucidworks.chunks", chunks)


def written(manifest: Mapping[str, Any]) -> None:
    """A task has written its result; its manifest has the counts."""
    documents(
        {
            "chunked": manifest.get("documents", 0),
            "predicted": max(0, manifest.get("predictions", 0) - manifest.get("rejected", 0)),
            "rejected": manifest.get("rejected", 0),
        },
        manifest.get("chunks", 0),
    )
    warnings(manifest.get("warnings", 0))


def warnings(count: int) -> None:
    """Results are accepted with a warning."""
    if count and (stats := _stats()) is not None:
        stats.incr("lucidworks.warnings", count)


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


def _jobs(change: int) -> None:
    global _in_flight  # noqa: PLW0603
    with _lock:
        _in_flight += change
        now = _in_flight
    if (stats := _stats()) is not None:
        stats.gauge("lucidworks.jobs_in_flight", now, tags={"host": _host()})


def _stats() -> Any:
    # Metrics need Airflow's configuration; importing Airflow only for them would be slow.
    return _load() if "airflow.sdk" in sys.modules or "airflow.models" in sys.modules else None


@cache
def _load() -> Any:
    from airflow.providers.common.compat.sdk import Stats

    return Stats


@cache
def _host() -> str:
    return socket.gethostname()
