# SPDX-License-Identifier: Apache-2.0
"""Waits for jobs in the triggerer, and puts every result on storage where it arrives."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from airflow.providers.common.compat.sdk import conf
from airflow.triggers.base import BaseTrigger, TriggerEvent

from lucidworks_provider.client.api.jobs import KINDS, JobKind
from lucidworks_provider.client.jobs import poll_job
from lucidworks_provider.errors import LucidworksError
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from lucidworks_provider.jobs.state_store import ResultDirectory
from lucidworks_provider.jobs.wait import collect
from lucidworks_provider.jobs.watch import Outcome
from lucidworks_provider.threads import in_thread

log = logging.getLogger(__name__)


class LucidworksJobsTrigger(BaseTrigger):
    """
    Waits for all jobs of one task.

    It never submits: a restarted triggerer runs a trigger again. Which jobs there are stands in the record
    that the task wrote beside its result; a trigger that does not find that very record sees another
    storage than the worker, and gives the jobs back without reading a single result.

    :param kind: ``chunking`` or ``prediction``.
    :param lucidworks_conn_id: the connection.
    :param folder: URI of the folder with the task's record, where the bodies go.
    :param nonce: what the record must hold.
    :param poll_interval: longest wait between two polls of a job, in seconds.
    :param deadline: seconds since the epoch.
    """

    def __init__(
        self,
        *,
        kind: str,
        lucidworks_conn_id: str,
        folder: str,
        nonce: str,
        poll_interval: float,
        deadline: float,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.lucidworks_conn_id = lucidworks_conn_id
        self.folder = folder
        self.nonce = nonce
        self.poll_interval = poll_interval
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The row in the database: an address and times, nothing that is secret or large."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "kind": self.kind,
                "lucidworks_conn_id": self.lucidworks_conn_id,
                "folder": self.folder,
                "nonce": self.nonce,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event when every job has ended."""
        not_before = time.monotonic() + shortest_deferral()
        try:
            outcome = await wait_for_jobs(
                await _shared_hook(self.lucidworks_conn_id),
                KINDS[self.kind],
                ResultDirectory(self.folder),
                nonce=self.nonce,
                poll_interval=self.poll_interval,
                deadline=self.deadline,
            )
        except LucidworksError as err:
            outcome = Outcome(error=f"{type(err).__name__}: {err}", retryable=err.retryable)
        await asyncio.sleep(max(0.0, not_before - time.monotonic()))
        yield TriggerEvent(outcome.as_json())


# Per loop: a task belongs to the loop that it was made in.
_readings: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Task[LucidworksHook]]] = (
    WeakKeyDictionary()
)


async def _shared_hook(lucidworks_conn_id: str) -> LucidworksHook:
    """
    A hook that has read its connection; all triggers that start while it reads get the same one.

    A triggerer starts fifty triggers at once. Its supervisor reads a connection for one after the other, and does
    not take in log lines meanwhile, which in the end blocks the loop in Airflow's own logging.
    """
    loop = asyncio.get_running_loop()
    readings = _readings.setdefault(loop, {})
    reading = readings.get(lucidworks_conn_id)
    if reading is None:
        reading = readings[lucidworks_conn_id] = loop.create_task(_reading_hook(lucidworks_conn_id))
        reading.add_done_callback(lambda _: readings.pop(lucidworks_conn_id))
    # The one who asked first may be cancelled; the others still wait.
    return await asyncio.shield(reading)


async def _reading_hook(lucidworks_conn_id: str) -> LucidworksHook:
    hook = LucidworksHook(lucidworks_conn_id)
    await hook.aget_settings()
    return hook


def shortest_deferral() -> float:
    """
    Seconds that a deferral must last.

    In Airflow 3 (seen with 3.3.2) the process that supervised the deferring task may report its exit as late as
    one heartbeat interval afterwards. If an event has queued the task again by then, the late report is taken for
    the new attempt's and the task fails ("finished with state success, but the state attribute is queued";
    https://github.com/apache/airflow/issues/66374). The results are on storage, so waiting costs only time.
    """
    heartbeat = conf.getint("workers", "min_heartbeat_interval", fallback=0)
    return heartbeat + 2.0 if heartbeat else 0.0


async def wait_for_jobs(
    hook: LucidworksHook,
    kind: JobKind,
    bodies: ResultDirectory,
    *,
    nonce: str,
    poll_interval: float,
    deadline: float,
) -> Outcome:
    """
    Prove that this process sees the task's storage, then wait for its jobs.

    :raises LucidworksError: a failure that waiting cannot cure.
    """
    jobs = await in_thread(_read_jobs, bodies, nonce, deadline)
    if jobs is None:
        return Outcome(unshared=socket.gethostname())
    async with hook.shared_client() as client:
        endings = await collect(
            jobs,
            bodies=bodies,
            # Once: the wait before the next try must neither hold a slot nor outlast the deadline.
            fetch=lambda job_id: hook.acall(poll_job(kind, job_id), attempts=1),
            slots=client.slots,
            kind=kind,
            poll_interval=poll_interval,
            deadline=deadline,
        )
    outcome = Outcome.of(endings)
    await in_thread(_log_outcome, outcome, len(jobs))
    return outcome


def _read_jobs(bodies: ResultDirectory, nonce: str, deadline: float) -> Mapping[int, str] | None:
    """The record's jobs, which is all that a wait has to keep of it; None if it is not the task's record."""
    record = bodies.read_record()
    if record is None or record.nonce != nonce:
        return None
    # Here and not on the loop: Airflow's log is a pipe to a supervisor that may be busy for a second.
    log.info("Waiting for %s jobs, for at most %.0f s.", len(record.jobs), deadline - time.time())
    return record.jobs


def _log_outcome(outcome: Outcome, jobs: int) -> None:
    log.info("%s of %s results are on storage.", outcome.collected, jobs)
