# SPDX-License-Identifier: Apache-2.0
"""Wait for models and deployments of Lucidworks AI."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Unpack

from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import InputError
from lucidworks_provider.operators.base import DEFERRABLE, BaseSensorArguments, StateWaitMixin, stripped
from lucidworks_provider.sensors.base import BaseLucidworksSensor

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class _StateSensor(StateWaitMixin, BaseLucidworksSensor):
    """Waits until a model or a deployment is in a state."""

    kind: str

    def __init__(self, *, target_state: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target_state = target_state

    @property
    def _resource_id(self) -> Any:
        return stripped(getattr(self, f"{self.kind}_id"))

    @property
    def _target(self) -> Any:
        return stripped(self.target_state)

    def execute(self, context: Context) -> Any:
        """Wait in the triggerer, or poke."""
        from lucidworks_provider.client.http.messages import path_segment
        from lucidworks_provider.client.models import unknown_target

        path_segment(self._resource_id, f"{self.kind}_id")
        if not isinstance(self._target, str) or not self._target:
            raise InputError(
                f"target_state is {self.target_state!r}; give a state, e.g. AVAILABLE or DEPLOYED."
            )
        if hint := unknown_target(self.kind, self._target):
            self.log.warning("target_state: %s", hint)
        _ = self.hook.get_settings().models_base
        if not self._in_triggerer:
            return super().execute(context)
        self._wait(context, self.kind, self._resource_id, self._target)
        return None

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        """Resume after the triggerer's wait."""
        with self._sensor_errors(context):
            self._end(context, event)

    def poke(self, context: Context) -> bool:
        """Poll once: the wait with a deadline that has passed."""
        from lucidworks_provider.jobs.polling import wait_for_state

        self._last_seen = self._retry_after = None
        started = self._started(context)
        event = asyncio.run(
            wait_for_state(
                self.hook,
                kind=self.kind,
                resource_id=self._resource_id,
                target=self._target,
                poll_interval=self._poll_seconds,
                deadline=time.time(),
                started=started,
                confirm_until=started + self.timeout,
            )
        )
        if event["end"] == "timeout":
            self._last_seen, self._retry_after = self._timed_out(context, event), event["retry_after"]
            return False
        self.execute_complete(context, event)
        return True


class LucidworksModelSensor(_StateSensor):
    """
    Wait until a model is in a state; one that ends in a failure state fails at once, without a retry.

    :param model_id: of the model. (templated)
    :param target_state: the state to wait for. (templated)
    :param lucidworks_conn_id: the connection, with its Customer ID. (templated)
    :param deferrable: wait in the triggerer, without holding a worker slot. (templated)
    :param poke_interval: seconds (or a timedelta) between two polls.
    :param timeout: seconds, or a timedelta, after which the sensor fails.
    """

    kind = "model"
    template_fields: Sequence[str] = ("model_id", "target_state", "lucidworks_conn_id", "deferrable")

    def __init__(
        self,
        *,
        model_id: str,
        target_state: str = "AVAILABLE",
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool | str = DEFERRABLE,
        poke_interval: float | timedelta | str = 60.0,
        timeout: float | timedelta | str | None = None,
        **kwargs: Unpack[BaseSensorArguments],
    ) -> None:
        super().__init__(
            target_state=target_state,
            lucidworks_conn_id=lucidworks_conn_id,
            deferrable=deferrable,
            poke_interval=poke_interval,
            timeout=timeout,
            **kwargs,
        )
        self.model_id = model_id


class LucidworksDeploymentSensor(_StateSensor):
    """
    Wait until a deployment is in a state; one that fails or is deleted fails at once, without a retry.

    :param deployment_id: of the deployment. (templated)
    :param target_state: the state to wait for; ``DELETED`` also means that it is not listed any more. (templated)
    :param lucidworks_conn_id: the connection, with its Customer ID. (templated)
    :param deferrable: wait in the triggerer, without holding a worker slot. (templated)
    :param poke_interval: seconds (or a timedelta) between two polls.
    :param timeout: seconds, or a timedelta, after which the sensor fails.
    """

    kind = "deployment"
    template_fields: Sequence[str] = ("deployment_id", "target_state", "lucidworks_conn_id", "deferrable")

    def __init__(
        self,
        *,
        deployment_id: str,
        target_state: str = "DEPLOYED",
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool | str = DEFERRABLE,
        poke_interval: float | timedelta | str = 60.0,
        timeout: float | timedelta | str | None = None,
        **kwargs: Unpack[BaseSensorArguments],
    ) -> None:
        super().__init__(
            target_state=target_state,
            lucidworks_conn_id=lucidworks_conn_id,
            deferrable=deferrable,
            poke_interval=poke_interval,
            timeout=timeout,
            **kwargs,
        )
        self.deployment_id = deployment_id
