# SPDX-License-Identifier: Apache-2.0
"""
Triggers: waits of tasks for jobs, models and deployments, and asset events of models and deployments.

DAG files import the event triggers, so what polls is imported when a trigger runs.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary

from airflow.providers.common.compat.sdk import conf
from airflow.providers.common.compat.triggers import BaseEventTrigger
from airflow.triggers.base import BaseTrigger, TriggerEvent

from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import InputError, LucidworksError

if TYPE_CHECKING:
    from lucidworks_provider.hooks.lucidworks import LucidworksHook

log = logging.getLogger(__name__)

# Seconds between two requests of a list of the Models API, at least.
_SHORTEST_POLL = 1.0


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
        return _row(self, "kind", "lucidworks_conn_id", "folder", "nonce", "poll_interval", "deadline")

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event when every job has ended."""
        from lucidworks_provider.client.jobs import KINDS
        from lucidworks_provider.jobs.decisions import JobsOutcome
        from lucidworks_provider.jobs.polling import wait_for_jobs
        from lucidworks_provider.jobs.record import ResultDirectory

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


def _row(trigger: BaseTrigger, *names: str) -> tuple[str, dict[str, Any]]:
    kind = type(trigger)
    return f"{kind.__module__}.{kind.__qualname__}", {name: getattr(trigger, name) for name in names}


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


async def _hook_of(lucidworks_conn_id: str) -> LucidworksHook:
    """Like :func:`_shared_hook`; if the connection cannot be loaded, a hook whose first call raises the error."""
    from lucidworks_provider.hooks.lucidworks import LucidworksHook

    try:
        return await _shared_hook(lucidworks_conn_id)
    except Exception:  # noqa: BLE001  # raised again by the first call
        return LucidworksHook(lucidworks_conn_id)


async def _open_hook(lucidworks_conn_id: str) -> LucidworksHook:
    from lucidworks_provider.hooks.lucidworks import LucidworksHook

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


class LucidworksStateTrigger(BaseTrigger):
    """
    Waits until a model or a deployment is in a state, or cannot reach it.

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
        model = () if self.model_id is None else ("model_id",)
        names = ("lucidworks_conn_id", "kind", "resource_id", "target", "poll_interval", "deadline", *model)
        return _row(self, *names)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield one event when the wait has ended."""
        from lucidworks_provider.jobs.polling import wait_for_state

        not_before = time.monotonic() + shortest_deferral()
        event = await wait_for_state(
            await _hook_of(self.lucidworks_conn_id),
            kind=self.kind,
            resource_id=self.resource_id,
            target=self.target,
            poll_interval=self.poll_interval,
            deadline=self.deadline,
            model_id=self.model_id,
        )
        await asyncio.sleep(max(0.0, not_before - time.monotonic()))
        yield TriggerEvent(event)


class _StateEventTrigger(BaseEventTrigger):
    """
    For an ``AssetWatcher`` (Airflow 3.0 and newer): polls without end, and emits an event each time that the state is
    reached.

    Airflow starts such a trigger again with each triggerer, so the asset's state store has whether the current state
    was notified. See :func:`~lucidworks_provider.jobs.decisions.event_decision`.
    """

    kind: ClassVar[str]

    def _configure(
        self, resource_id: str, target_state: str, lucidworks_conn_id: str, poll_interval: float
    ) -> None:
        for name, value in (
            (f"{self.kind}_id", resource_id),
            ("target_state", target_state),
            ("lucidworks_conn_id", lucidworks_conn_id),
        ):
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"{name} is {value!r}; give a non-empty text.")
        if target_state.strip().upper() == "DELETED":
            raise InputError(
                f"target_state is {target_state!r}, and the service does not list what is deleted; give DELETING, or "
                "wait for DELETED with a sensor."
            )
        if isinstance(poll_interval, bool) or not isinstance(poll_interval, int | float):
            raise InputError(f"poll_interval is {poll_interval!r}; give seconds.")
        if not poll_interval >= _SHORTEST_POLL:
            raise InputError(f"poll_interval is {poll_interval!r}; give at least {_SHORTEST_POLL:g} second.")
        self.resource_id = resource_id.strip()
        self.target_state = target_state.strip()
        self.lucidworks_conn_id = lucidworks_conn_id
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The row in the database; equal ones are one trigger."""
        name, row = _row(self, "target_state", "lucidworks_conn_id", "poll_interval")
        return name, {f"{self.kind}_id": self.resource_id, **row}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield an event each time that the state is reached."""
        from lucidworks_provider.client.models import unknown_target
        from lucidworks_provider.jobs.decisions import event_decision
        from lucidworks_provider.jobs.polling import ResourcePoller, perform

        if hint := unknown_target(self.kind, self.target_state):
            log.warning("%s: target_state: %s", self, hint)
        decision = event_decision(
            self.target_state, notified=await self._load_notified(), poll_interval=self.poll_interval
        )
        hook = await _hook_of(self.lucidworks_conn_id)
        async with ResourcePoller(hook, self.kind, self.resource_id, save=self._save_notified) as poller:
            while True:
                event = await perform(decision, poller)
                resource = {"kind": self.kind, f"{self.kind}_id": self.resource_id}
                yield TriggerEvent({**resource, "state": event.state, "before": event.before})

    @property
    def _key(self) -> str:
        return f"lucidworks {self.kind} {self.resource_id} {self.target_state}"

    async def _load_notified(self) -> bool:
        try:
            # None before Airflow 3.3, and where the trigger watches no asset.
            store = getattr(self, "asset_state_store", None)
            return store is not None and bool(await store.aget(self._key, default=False))
        except Exception as err:  # noqa: BLE001 - an error of the store must not end the trigger
            log.warning("%s: the asset's state store cannot be read (%s).", self, type(err).__name__)
            return False

    async def _save_notified(self, notified: bool) -> bool:
        """Return whether it is saved, or there is no store."""
        try:
            store = getattr(self, "asset_state_store", None)
            if store is not None:
                await store.aset(self._key, notified)
        except Exception as err:  # noqa: BLE001 - as above
            log.warning("%s: the asset's state store cannot be written (%s).", self, type(err).__name__)
            return False
        return True


class LucidworksModelEventTrigger(_StateEventTrigger):
    """
    An asset event each time that a model reaches a state.

    :param model_id: of the model.
    :param target_state: the state, as the service writes it.
    :param lucidworks_conn_id: the connection, with its Customer ID.
    :param poll_interval: longest wait between two polls, in seconds.
    :raises InputError: names the parameter.
    """

    kind = "model"

    def __init__(
        self,
        *,
        model_id: str,
        target_state: str = "AVAILABLE",
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        poll_interval: float = 60.0,
    ) -> None:
        super().__init__()
        self._configure(model_id, target_state, lucidworks_conn_id, poll_interval)


class LucidworksDeploymentEventTrigger(_StateEventTrigger):
    """
    An asset event each time that a deployment reaches a state.

    :param deployment_id: of the deployment.
    :param target_state: the state, as the service writes it.
    :param lucidworks_conn_id: the connection, with its Customer ID.
    :param poll_interval: longest wait between two polls, in seconds.
    :raises InputError: names the parameter.
    """

    kind = "deployment"

    def __init__(
        self,
        *,
        deployment_id: str,
        target_state: str = "DEPLOYED",
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        poll_interval: float = 60.0,
    ) -> None:
        super().__init__()
        self._configure(deployment_id, target_state, lucidworks_conn_id, poll_interval)
