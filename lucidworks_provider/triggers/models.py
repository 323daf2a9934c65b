# SPDX-License-Identifier: Apache-2.0
"""Wait in the triggerer for a model or a deployment to reach a state."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from lucidworks_provider.hooks.lucidworks import LucidworksHook
from lucidworks_provider.jobs.polling import wait_for_state
from lucidworks_provider.triggers.jobs import shortest_deferral


class LucidworksStateTrigger(BaseTrigger):
    """
    Waits until a model or a deployment is in a state, or cannot get there.

    It only reads, since a restarted triggerer runs a trigger again.

    :param lucidworks_conn_id: the connection.
    :param kind: ``model`` or ``deployment``.
    :param resource_id: its id.
    :param target: ``ready`` (e.g. AVAILABLE, DEPLOYED), ``gone``, or a state by name.
    :param poll_interval: longest wait between two polls, in seconds.
    :param deadline: seconds since the epoch.
    :param model_id: of a deployment whose model is known: its own list is requested first.
    """

    def __init__(
        self,
        *,
        lucidworks_conn_id: str,
        kind: str,
        resource_id: str,
        target: str,
        poll_interval: float,
        deadline: float,
        model_id: str | None = None,
    ) -> None:
        super().__init__()
        self.lucidworks_conn_id = lucidworks_conn_id
        self.kind = kind
        self.resource_id = resource_id
        self.target = target
        self.poll_interval = poll_interval
        self.deadline = deadline
        self.model_id = model_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The row in the database, without secrets."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "lucidworks_conn_id": self.lucidworks_conn_id,
                "kind": self.kind,
                "resource_id": self.resource_id,
                "target": self.target,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
                **({} if self.model_id is None else {"model_id": self.model_id}),
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event when the wait has ended."""
        not_before = time.monotonic() + shortest_deferral()
        event = await wait_for_state(
            LucidworksHook(self.lucidworks_conn_id),
            kind=self.kind,
            resource_id=self.resource_id,
            target=self.target,
            poll_interval=self.poll_interval,
            deadline=self.deadline,
            model_id=self.model_id,
        )
        await asyncio.sleep(max(0.0, not_before - time.monotonic()))
        yield TriggerEvent(event)
