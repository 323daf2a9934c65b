# SPDX-License-Identifier: Apache-2.0
"""Waits for a model or a deployment to reach a state."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable
from functools import lru_cache
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from lucidworks_provider.client.api.models import Deployment, Progress, is_unknown_state
from lucidworks_provider.client.models import get_model, list_deployments, list_model_deployments
from lucidworks_provider.errors import AnswerError, LucidworksError, UnknownResourceError
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
    :param target: ``ready`` (e.g. AVAILABLE, DEPLOYED), ``gone``, or a state by name.
    :param poll_interval: longest time between two looks, in seconds.
    :param deadline: seconds since the epoch.
    :param model_id: of a deployment whose model is known: its own list is asked first.
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
                **({} if self.model_id is None else {"model_id": self.model_id}),
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
            model_id=self.model_id,
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
    model_id: str | None = None,
) -> dict[str, Any]:
    """
    Look until there is nothing left to wait for, in a triggerer or in a worker.

    :param started: when waiting began, seconds since the epoch; now, if None.
    :param model_id: of a deployment whose model is known.
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
                    seen = await look(hook, kind, resource_id, model_id)
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
                    if seen.state is not None and is_unknown_state(seen.state, seen.progress):
                        unknown = f"{seen.state} is no state that this version knows."
                        message = unknown if seen.state else "The service shows no state."
                        _warn_once(kind, resource_id, message)
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


@lru_cache(maxsize=1024)
def _warn_once(kind: str, resource_id: str, message: str) -> None:
    log.warning("%s %s: %s Waiting continues.", kind.capitalize(), resource_id, message)


async def look(hook: LucidworksHook, kind: str, resource_id: str, model_id: str | None = None) -> Seen:
    """
    Ask once.

    :param model_id: of a deployment whose model is known: its own list is asked before that of the customer.
    :raises LucidworksError: no answer; what does not exist is an answer.
    """
    if kind == "model":
        try:
            model = await hook.acall(get_model(resource_id), attempts=1)
        except UnknownResourceError:
            return Seen(Progress.GONE, None)
        return Seen(model.progress, model.state or "")
    # A GET of one deployment is not documented.
    own = None
    if model_id is not None:
        with contextlib.suppress(AnswerError):
            own = _in(await hook.acall(list_model_deployments(model_id), attempts=1), resource_id)
    if own is not None and own.state:
        return own
    every = _in(await hook.acall(list_deployments(), attempts=1), resource_id)
    return every or own or Seen(Progress.GONE, None)


def _in(deployments: Iterable[Deployment], deployment_id: str) -> Seen | None:
    for deployment in deployments:
        if deployment.id.lower() == deployment_id.lower():
            return Seen(deployment.progress, deployment.state or "")
    return None
