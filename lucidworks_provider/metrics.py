# SPDX-License-Identifier: Apache-2.0
"""
What is counted and timed, for StatsD, OpenTelemetry or Datadog: through Airflow's own ``Stats``, as configured there.

The page about metrics has the table of all names. Tags are words from short lists, never an id, a
name given by a user, or a text. Without Airflow nothing is counted.
"""

from __future__ import annotations

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

_in_flight = 0
_lock = threading.Lock()


def request(endpoint: str, outcome: int | str, seconds: float) -> None:
    """
    A request has ended.

    :param endpoint: a :attr:`~lucidworks_provider.client.http.messages.Request.endpoint`.
    :param outcome: the HTTP status; ``not_sent`` or ``broken`` where no answer came.
    :param seconds: from sending it to the end of its answer; waiting for a turn does not count.
    """
    if (stats := _stats()) is None:
        return
    stats.incr("lucidworks.requests", tags={"endpoint": endpoint, "outcome": str(outcome)})
    # Plain StatsD has no tags.
    stats.incr(f"lucidworks.requests.{endpoint}.{outcome}")
    stats.timing("lucidworks.request_duration", timedelta(seconds=seconds), tags={"endpoint": endpoint})


def refreshed(scope: str) -> None:
    """Count a new token."""
    if (stats := _stats()) is not None:
        stats.incr("lucidworks.token_refreshes", tags={"scope": scope})


@dataclass
class Waiting:
    """
    A job that is waited for.

    :param ending: assigned when it has ended; a wait that was broken off has none.
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
            "predicted": manifest.get("predictions", 0) - manifest.get("rejected", 0),
            "rejected": manifest.get("rejected", 0),
        },
        manifest.get("chunks", 0),
    )
    warnings(manifest.get("warnings", 0))


def warnings(count: int) -> None:
    """Results are accepted with a warning."""
    if count and (stats := _stats()) is not None:
        stats.incr("lucidworks.warnings", count)


def _jobs(change: int) -> None:
    global _in_flight  # noqa: PLW0603
    with _lock:
        _in_flight += change
        now = _in_flight
    if (stats := _stats()) is not None:
        stats.gauge("lucidworks.jobs_in_flight", now, tags={"host": _host()})


def _stats() -> Any:
    # Airflow alone knows where metrics go, and takes long to load where it is not there already.
    return _load() if "airflow.sdk" in sys.modules or "airflow.models" in sys.modules else None


@cache
def _load() -> Any:
    from airflow.providers.common.compat.sdk import Stats

    return Stats


@cache
def _host() -> str:
    return socket.gethostname()
