# SPDX-License-Identifier: Apache-2.0
"""Waits for a model or a deployment to reach a state."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from lucidworks_provider.api.models import Progress
from lucidworks_provider.errors import LucidworksError, UnknownResourceError
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from lucidworks_provider.jobs.states import Ending, Seen, judge, next_look
from lucidworks_provider.triggers.jobs import shortest_deferral

log = logging.getLogger(__name__)

_LONGEST_MESSAGE = 300


class LucidworksStateTrigger(BaseTrigger):
    """
    Looks until a model or a deployment is where it is waited for, or never will be.

    It only looks: a restarted triggerer runs a trigger again.

    :param lucidworks_conn_id: the connection.
    :param kind: ``model`` or ``deployment``.
    :param resource_id: its id.
    :param target: ``ready`` (AVAILABLE, DEPLOYED), ``gone``, or a state by name.
    :param poll_interval: longest time between two looks, in seconds.
    :param deadline: seconds since the epoch.
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
    ) -> None:
        super().__init__()
        self.lucidworks_conn_id = lucidworks_conn_id
        self.kind = kind
        self.resource_id = resource_id
        self.target = target
        self.poll_interval = poll_interval
        self.deadline = deadline

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The row in the database: an id and times, nothing that is secret."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                "lucidworks_conn_id": self.lucidworks_conn_id,
                "kind": self.kind,
                "resource_id": self.resource_id,
                "target": self.target,
                "poll_interval": self.poll_interval,
                "deadline": self.deadline,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event when there is nothing left to wait for."""
        not_before = time.monotonic() + shortest_deferral()
        event = await wait_for_state(
            LucidworksHook(self.lucidworks_conn_id),
            kind=self.kind,
            resource_id=self.resource_id,
            target=self.target,
            poll_interval=self.poll_interval,
            deadline=self.deadline,
        )
        await asyncio.sleep(max(0.0, not_before - time.monotonic()))
        yield TriggerEvent(event)


async def wait_for_state(
    hook: LucidworksHook,
    *,
    kind: str,
    resource_id: str,
    target: str,
    poll_interval: float,
    deadline: float,
    started: float | None = None,
) -> dict[str, Any]:
    """
    Look until there is nothing left to wait for, in a triggerer or in a worker.

    :param started: when waiting began, seconds since the epoch; now, if None.
    :return: what was waited for, ``ending`` (done, failed, late or error), the last ``state``, a ``message``, and
        whether an error is ``retryable``.
    """
    started = started or time.time()
    state, message = None, ""
    # All that a task needs to go on: `dag.test()` hands it the event and nothing else.
    about = {"kind": kind, "resource_id": resource_id, "target": target}
    try:
        async with hook.shared_client():
            while True:
                left = deadline - time.time()
                try:
                    # Once: waiting before the next look is done here, and ends at the deadline.
                    seen = await look(hook, kind, resource_id)
                except LucidworksError as err:
                    if not err.retryable:
                        raise
                    message = str(err)[:_LONGEST_MESSAGE]
                    log.warning("%s %s: no answer for now: %s", kind.capitalize(), resource_id, err)
                    ending = Ending.LATE if left <= 0 else Ending.WAIT
                else:
                    if seen.state != state:
                        log.info("%s %s: %s", kind.capitalize(), resource_id, seen.state or "not there")
                    state, message = seen.state, ""
                    if seen.state is not None:
                        started = time.time()
                    # One list without it, or one 404, may be a gateway's.
                    ending = judge(target, seen, age=time.time() - started, left=left)
                if ending is not Ending.WAIT:
                    return {**about, "ending": ending.value, "state": state, "message": message}
                await asyncio.sleep(next_look(poll_interval, deadline - time.time()))
    except LucidworksError as err:
        said = f"{type(err).__name__}: {err}"[:_LONGEST_MESSAGE]
        return {**about, "ending": "error", "state": state, "message": said, "retryable": err.retryable}


async def look(hook: LucidworksHook, kind: str, resource_id: str) -> Seen:
    """
    Ask once.

    :raises LucidworksError: no answer; what does not exist is an answer.
    """
    if kind == "model":
        try:
            model = await hook.aget_model(resource_id, attempts=1)
        except UnknownResourceError:
            return Seen(Progress.GONE, None)
        return Seen(model.progress, model.state or "")
    # A GET of one deployment is not documented.
    for deployment in await hook.alist_deployments(attempts=1):
        if deployment.id.lower() == resource_id.lower():
            return Seen(deployment.progress, deployment.state or "")
    return Seen(Progress.GONE, None)
