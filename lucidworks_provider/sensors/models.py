# SPDX-License-Identifier: Apache-2.0
"""Wait for models and deployments of Lucidworks AI that somebody else has begun."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Unpack

from airflow.providers.common.compat.sdk import AirflowSensorTimeout, BaseSensorOperator

from lucidworks_provider.client.settings import DEFAULT_CONN_ID
from lucidworks_provider.errors import InputError, JobFailedError, JobTimeoutError
from lucidworks_provider.operators.arguments import BaseSensorArguments
from lucidworks_provider.operators.failures import non_retryable
from lucidworks_provider.operators.state import StateWaitMixin
from lucidworks_provider.operators.values import text_as_seconds
from lucidworks_provider.operators.waiting import DEFERRABLE

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


class _StateSensor(StateWaitMixin, BaseSensorOperator):
    """
    :param target_state: the state to wait for.
    :param lucidworks_conn_id: the connection, with its Customer ID. (templated)
    :param deferrable: wait in the triggerer, without holding a worker slot.
    """

    kind: str
    ui_color = "#e8f1fb"

    def __init__(
        self,
        *,
        target_state: str,
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool = DEFERRABLE,
        poke_interval: float | timedelta = 60.0,
        timeout: float | timedelta | None = None,
        **kwargs: Unpack[BaseSensorArguments],
    ) -> None:
        poke_interval = text_as_seconds(poke_interval, "poke_interval")
        if timeout is not None:
            kwargs["timeout"] = text_as_seconds(timeout, "timeout")  # type: ignore[typeddict-unknown-key]
        super().__init__(poke_interval=poke_interval, **kwargs)
        self.target_state = target_state
        self.lucidworks_conn_id = lucidworks_conn_id
        self.deferrable = deferrable
        self.poll_interval = poke_interval

    @property
    def _resource_id(self) -> str:
        raise NotImplementedError

    def execute(self, context: Context) -> Any:
        """Wait in the triggerer, or look again and again."""
        from lucidworks_provider.client.api.http import path_segment

        path_segment(self._resource_id, f"{self.kind}_id")
        if not isinstance(self.target_state, str) or not self.target_state.strip():
            raise InputError(
                f"target_state is {self.target_state!r}; give a state, e.g. AVAILABLE or DEPLOYED."
            )
        _ = self.hook.get_settings().models_base
        if not self._in_triggerer:
            return super().execute(context)
        self._wait(context, self.kind, self._resource_id, self.target_state)
        return None

    def execute_complete(self, context: Context, event: dict[str, Any]) -> None:
        """Go on after the triggerer's wait."""
        try:
            self._end(context, event)
        except JobTimeoutError as err:
            if self._ends_by_execution_timeout(context):
                raise
            raise AirflowSensorTimeout(str(err)) from None
        except JobFailedError as err:
            raise non_retryable(err) from err

    def _began(self, context: Context) -> float:
        """When the first look was, also where every look is a process of its own."""
        if self.reschedule and hasattr(context["ti"], "get_first_reschedule_date"):
            first = context["ti"].get_first_reschedule_date(context)
            return first.timestamp() if first else time.time()
        self._first = getattr(self, "_first", None) or time.time()
        return self._first

    def poke(self, context: Context) -> bool:
        """Look once."""
        from lucidworks_provider.triggers.models import wait_for_state

        event = asyncio.run(
            wait_for_state(
                self.hook,
                kind=self.kind,
                resource_id=self._resource_id,
                target=self.target_state,
                poll_interval=1.0,
                deadline=time.time(),
                started=self._began(context),
            )
        )
        if event["ending"] == "late":
            return False
        self.execute_complete(context, event)
        return True


class LucidworksModelSensor(_StateSensor):
    """
    Wait until a model is in a state; one that ends in a failure state fails at once, without a retry.

    :param model_id: of the model. (templated)
    :param target_state: the state to wait for. (templated)
    :param lucidworks_conn_id: the connection, with its Customer ID. (templated)
    :param deferrable: wait in the triggerer, without holding a worker slot.
    :param poke_interval: seconds (or a timedelta) between two looks.
    :param timeout: seconds, or a timedelta, after which the sensor gives up.
    """

    kind = "model"
    template_fields: Sequence[str] = ("model_id", "target_state", "lucidworks_conn_id")

    def __init__(
        self,
        *,
        model_id: str,
        target_state: str = "AVAILABLE",
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool = DEFERRABLE,
        poke_interval: float | timedelta = 60.0,
        timeout: float | timedelta | None = None,
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

    @property
    def _resource_id(self) -> str:
        return self.model_id


class LucidworksDeploymentSensor(_StateSensor):
    """
    Wait until a deployment is in a state; one that fails or vanishes fails at once, without a retry.

    :param deployment_id: of the deployment. (templated)
    :param target_state: the state to wait for; ``DELETED`` also means that it is not listed any more. (templated)
    :param lucidworks_conn_id: the connection, with its Customer ID. (templated)
    :param deferrable: wait in the triggerer, without holding a worker slot.
    :param poke_interval: seconds (or a timedelta) between two looks.
    :param timeout: seconds, or a timedelta, after which the sensor gives up.
    """

    kind = "deployment"
    template_fields: Sequence[str] = ("deployment_id", "target_state", "lucidworks_conn_id")

    def __init__(
        self,
        *,
        deployment_id: str,
        target_state: str = "DEPLOYED",
        lucidworks_conn_id: str = DEFAULT_CONN_ID,
        deferrable: bool = DEFERRABLE,
        poke_interval: float | timedelta = 60.0,
        timeout: float | timedelta | None = None,
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

    @property
    def _resource_id(self) -> str:
        return self.deployment_id
