# SPDX-License-Identifier: Apache-2.0
"""
Asset events when a model or a deployment has become what it is waited for, so that DAGs are scheduled by it.

For an ``AssetWatcher`` (Airflow 3.0 and newer). A DAG file imports this, so what it needs to look is imported later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from airflow.providers.common.compat.triggers import BaseEventTrigger
from airflow.triggers.base import TriggerEvent

from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import InputError, LucidworksError

log = logging.getLogger(__name__)

# A list of the Models API is asked for no more often than this, in seconds.
_SHORTEST_POLL = 1.0


class _StateEventTrigger(BaseEventTrigger):
    """
    Looks for ever, and fires each time that the state is reached.

    Airflow keeps such a trigger running and starts it again with each triggerer, so that it was already seen is kept
    in the asset's state store. That is written one look after the event, when Airflow has stored the event
    for long: whatever is killed when, an event is never lost, and at worst told twice.
    """

    kind: ClassVar[str]

    def _watch(
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
        """Yield an event each time that the state is reached; never end, as Airflow would only begin anew."""
        from lucidworks_provider.hooks.lucidworks import LucidworksHook
        from lucidworks_provider.jobs.states import next_look, reached
        from lucidworks_provider.threads import in_thread
        from lucidworks_provider.triggers.models import look

        hook = LucidworksHook(self.lucidworks_conn_id)
        told = stored = await self._stored()
        state, complaint = None, ""
        while True:
            try:
                seen = await look(hook, self.kind, self.resource_id)
            except LucidworksError as err:
                # Also what waiting alone does not cure: somebody may mend the connection.
                if str(err) != complaint:
                    complaint = str(err)
                    await in_thread(log.warning, "%s: no answer, looking again: %s", self, err)
            else:
                complaint = ""
                if seen.state is not None:  # one list without it may be a gateway's
                    there = reached(self.target_state, seen)
                    if there and not told:
                        await in_thread(log.info, "%s: %s, before that %s", self, seen.state, state)
                        yield TriggerEvent(self._payload(seen.state, state))
                    told, state = there, seen.state
            # That it was left is stored at once: whoever goes on from here must tell of the next time.
            if stored and not told:
                stored = not await self._store(False)
            await asyncio.sleep(next_look(self.poll_interval, self.poll_interval))
            # That it was told only now: Airflow has had the time to store the event.
            if told and not stored:
                stored = await self._store(True)

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

    async def _stored(self) -> bool:
        """Whether the state was told of already."""
        try:
            store = self._asset_state_store()
            return store is not None and bool(await store.aget(self._key, default=False))
        except Exception as err:  # noqa: BLE001 - whatever the store says, watching goes on
            log.warning("%s: the asset's state store cannot be read (%s).", self, type(err).__name__)
            return False

    async def _store(self, told: bool) -> bool:
        """Whether it is stored, or nothing can be."""
        try:
            store = self._asset_state_store()
            if store is not None:
                await store.aset(self._key, told)
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
    :param poll_interval: longest time between two looks, in seconds.
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
        self._watch(model_id, target_state, lucidworks_conn_id, poll_interval)


class LucidworksDeploymentEventTrigger(_StateEventTrigger):
    """
    An asset event each time that a deployment reaches a state.

    :param deployment_id: of the deployment.
    :param target_state: the state, as the service writes it.
    :param lucidworks_conn_id: the connection, with its Customer ID.
    :param poll_interval: longest time between two looks, in seconds.
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
        self._watch(deployment_id, target_state, lucidworks_conn_id, poll_interval)
