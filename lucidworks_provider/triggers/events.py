# SPDX-License-Identifier: Apache-2.0
"""
Asset events when a model or a deployment reaches a state, to schedule DAGs by them.

For an ``AssetWatcher`` (Airflow 3.0 and newer). DAG files import this module; it imports what polls when it runs.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from airflow.providers.common.compat.triggers import BaseEventTrigger
from airflow.triggers.base import TriggerEvent

from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import InputError

log = logging.getLogger(__name__)

# Seconds between two requests of a list of the Models API, at least.
_SHORTEST_POLL = 1.0


class _StateEventTrigger(BaseEventTrigger):
    """
    Polls without end, and emits an event each time that the state is reached.

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
        if isinstance(poll_interval, bool) or not isinstance(poll_interval, int | float):
            raise InputError(f"poll_interval is {poll_interval!r}; give seconds.")
        if not poll_interval >= _SHORTEST_POLL:
            raise InputError(f"poll_interval is {poll_interval!r}; give at least {_SHORTEST_POLL:g} second.")
        self.resource_id = resource_id
        self.target_state = target_state
        self.lucidworks_conn_id = lucidworks_conn_id
        self.poll_interval = poll_interval

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The row in the database; equal ones are one trigger."""
        return (
            f"{type(self).__module__}.{type(self).__qualname__}",
            {
                f"{self.kind}_id": self.resource_id,
                "target_state": self.target_state,
                "lucidworks_conn_id": self.lucidworks_conn_id,
                "poll_interval": self.poll_interval,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Yield an event each time that the state is reached."""
        from lucidworks_provider.hooks.lucidworks import LucidworksHook
        from lucidworks_provider.jobs.decisions import event_decision
        from lucidworks_provider.jobs.polling import ResourcePoller, perform

        poller = ResourcePoller(
            LucidworksHook(self.lucidworks_conn_id), self.kind, self.resource_id, save=self._save_notified
        )
        decision = event_decision(
            self.target_state, notified=await self._load_notified(), poll_interval=self.poll_interval
        )
        while True:
            event = await perform(decision, poller)
            yield TriggerEvent(self._payload(event.state, event.before))

    def _payload(self, state: str, before: str | None) -> dict[str, Any]:
        return {
            "kind": self.kind,
            f"{self.kind}_id": self.resource_id,
            "state": state,
            "before": before,
        }

    @property
    def _key(self) -> str:
        return f"lucidworks {self.kind} {self.resource_id} {self.target_state}"

    async def _load_notified(self) -> bool:
        try:
            store = self._asset_state_store()
            return store is not None and bool(await store.aget(self._key, default=False))
        except Exception as err:  # noqa: BLE001 - an error of the store must not end the trigger
            log.warning("%s: the asset's state store cannot be read (%s).", self, type(err).__name__)
            return False

    async def _save_notified(self, notified: bool) -> bool:
        """Return whether it is saved, or there is no store."""
        try:
            store = self._asset_state_store()
            if store is not None:
                await store.aset(self._key, notified)
        except Exception as err:  # noqa: BLE001 - as above
            log.warning("%s: the asset's state store cannot be written (%s).", self, type(err).__name__)
            return False
        return True

    def _asset_state_store(self) -> Any:
        """None before Airflow 3.3, and where the trigger watches no asset."""
        return getattr(self, "asset_state_store", None)


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
