# SPDX-License-Identifier: Apache-2.0
"""Wait for jobs in the triggerer, and store each result as it arrives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakKeyDictionary

from airflow.providers.common.compat.sdk import conf
from airflow.triggers.base import BaseTrigger, TriggerEvent

from lucidworks_provider.client.jobs import KINDS
from lucidworks_provider.errors import LucidworksError
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from lucidworks_provider.jobs.decisions import JobsOutcome
from lucidworks_provider.jobs.polling import wait_for_jobs
from lucidworks_provider.jobs.record import ResultDirectory


class LucidworksJobsTrigger(BaseTrigger):
    """
    Waits for all jobs of one task.

    It never submits, since a restarted triggerer runs a trigger again. The jobs are in the record that the task wrote
    beside its result. A triggerer that does not see that record does not see the worker's storage, and returns the
    jobs without reading a result.

    :param kind: ``chunking`` or ``prediction``.
    :param lucidworks_conn_id: the connection.
    :param folder: URI of the folder with the task's record, where the bodies are stored.
    :param nonce: of the record.
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
        """The row in the database, without secrets."""
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
            outcome = JobsOutcome(error=f"{type(err).__name__}: {err}", retryable=err.retryable)
        await asyncio.sleep(max(0.0, not_before - time.monotonic()))
        yield TriggerEvent(outcome.as_json())


# Per event loop: an asyncio.Task belongs to its loop.
_opening: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, asyncio.Task[LucidworksHook]]] = (
    WeakKeyDictionary()
)


async def _shared_hook(lucidworks_conn_id: str) -> LucidworksHook:
    """
    A hook with its connection loaded; triggers that start at the same time share it.

    A triggerer starts fifty triggers at once. Its supervisor loads one connection after the other, and meanwhile
    reads no log lines, which blocks the loop in Airflow's own logging.
    """
    loop = asyncio.get_running_loop()
    opening = _opening.setdefault(loop, {})
    task = opening.get(lucidworks_conn_id)
    if task is None:
        task = opening[lucidworks_conn_id] = loop.create_task(_open_hook(lucidworks_conn_id))
        task.add_done_callback(lambda _: opening.pop(lucidworks_conn_id))
    # A cancelled trigger must not cancel it for the others.
    return await asyncio.shield(task)


async def _open_hook(lucidworks_conn_id: str) -> LucidworksHook:
    hook = LucidworksHook(lucidworks_conn_id)
    await hook.aget_settings()
    return hook


def shortest_deferral() -> float:
    """
    Seconds that a deferral must last.

    In Airflow 3 (seen with 3.3.2) the process that supervised the deferring task may report its exit as late as
    one heartbeat interval afterwards. If an event has queued the task again by then, the late report is applied to
    the new attempt and the task fails ("finished with state success, but the state attribute is queued";
    https://github.com/apache/airflow/issues/66374).
    """
    heartbeat = conf.getint("workers", "min_heartbeat_interval", fallback=0)
    return heartbeat + 2.0 if heartbeat else 0.0
