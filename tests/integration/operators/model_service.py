# SPDX-License-Identifier: Apache-2.0
"""Models and deployments of the emulator, and the operators for them as every attempt makes them."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred
from made_up_calls import then
from operator_service import Death, Service, die

from lucidworks_provider.client import models
from lucidworks_provider.operators import models as model_operators
from lucidworks_provider.operators.models import (
    LucidworksDeployModelOperator,
    LucidworksTrainModelOperator,
    LucidworksUndeployModelOperator,
)
from lucidworks_provider.sensors.models import LucidworksDeploymentSensor, LucidworksModelSensor
from lucidworks_provider.triggers import LucidworksStateTrigger

DATA = {"catalog": "gs://bucket/catalog", "signals": "gs://bucket/signals"}
CONFIG = {"trainer_config.num_epochs": 1}
NEVER_MADE = "6a092bd4-5098-466c-94aa-40bf6829430d"
FOREVER = 1000.0
COMMON: dict[str, Any] = {"task_id": "t", "poll_interval": 0.05, "timeout": 20, "deferrable": False}
POKING: dict[str, Any] = {"task_id": "s", "poke_interval": 0.05, "timeout": 10, "deferrable": False}

both = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


class Store(dict[str, str]):
    """A task state store."""

    def set(self, key: str, value: str) -> None:
        self[key] = value


@dataclass
class ModelService(Service):
    def count(self, endpoint: str) -> int:
        return len(self.calls(endpoint))

    def deletions(self) -> list[tuple[str, int | None]]:
        return [(line.path, line.status) for line in self.emulator.state.log if line.method == "DELETE"]

    def orders(self) -> list[dict[str, Any]]:
        """Every training that the service took."""
        return [one.order for one in self.emulator.state.registry.models() if one.order is not None]

    def trained(self) -> list[str]:
        registry = self.emulator.state.registry
        return [one.model_id for one in registry.models() if one.order is not None]

    def deployed(self) -> list[str]:
        return [one.deployment_id for one in self.emulator.state.registry.deployments()]

    def force(self, resource_id: str, state: str) -> None:
        """Put a model or a deployment into a state; GONE removes it."""
        registry = self.emulator.state.registry
        if state == "GONE":
            registry.forget(resource_id)
        else:
            (registry.model(resource_id) or registry.deployment(resource_id)).forced = state  # type: ignore[union-attr]


def model_service(service: Service, monkeypatch: pytest.MonkeyPatch, *, seconds: float) -> ModelService:
    """
    The emulator for models, which is searched after milliseconds.

    :param seconds: how long trainings, deployments and deletions take.
    """
    monkeypatch.setattr(model_operators, "SEARCH_WAIT", 0.01)
    made = ModelService(service.emulator, service.env, service.servers)
    made.settings(training_seconds=seconds, deploy_seconds=seconds, undeploy_seconds=seconds)
    return made


def attempt(number: int = 1, store: Store | None = None) -> Any:
    """The context of one attempt of a task whose run began a moment ago."""
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, max_tries=3, try_number=number)
    run = SimpleNamespace(start_date=datetime.fromtimestamp(time.time(), UTC))
    return {"ti": ti, "dag_run": run} | ({} if store is None else {"task_state_store": store})


def train(**arguments: Any) -> LucidworksTrainModelOperator:
    given = {"name": "shop", "model_type": "ecommerce-rnn", "training_data": DATA, "region": "us"}
    return LucidworksTrainModelOperator(**COMMON | given | {"config": CONFIG} | arguments)


def deploy(model_id: str, **arguments: Any) -> LucidworksDeployModelOperator:
    return LucidworksDeployModelOperator(**COMMON | {"model_id": model_id, "region": "us"} | arguments)


def undeploy(deployment_id: str, **arguments: Any) -> LucidworksUndeployModelOperator:
    return LucidworksUndeployModelOperator(**COMMON | {"deployment_id": deployment_id} | arguments)


def model_sensor(model_id: str, **arguments: Any) -> LucidworksModelSensor:
    return LucidworksModelSensor(**POKING | {"model_id": model_id} | arguments)


def deployment_sensor(deployment_id: str, **arguments: Any) -> LucidworksDeploymentSensor:
    return LucidworksDeploymentSensor(**POKING | {"deployment_id": deployment_id} | arguments)


def event_of(deferred: TaskDeferred) -> dict[str, Any]:
    """Run a trigger as the triggerer does."""
    _, kwargs = deferred.trigger.serialize()

    async def first() -> dict[str, Any]:
        async for event in LucidworksStateTrigger(**json.loads(json.dumps(kwargs))).run():
            return dict(json.loads(json.dumps(event.payload)))
        raise AssertionError("no event")

    return asyncio.run(first())


def defer(task: Any, context: Any = None) -> TaskDeferred:
    task.deferrable = True
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context or attempt())
    assert deferred.value.timeout > timedelta(seconds=task.timeout), "the trigger's own event comes first"
    return deferred.value


def run(make: Callable[[], Any], *, deferrable: bool = False, context: Any = None) -> Any:
    """An operator or a sensor from its beginning to its end."""
    context = context or attempt()
    if not deferrable:
        return make().execute(context)
    deferred = defer(make(), context)
    given = {**(deferred.kwargs or {}), "event": event_of(deferred)}
    return make().resume_execution(deferred.method_name, given, context)


def run_and_die(task: Any, context: Any = None, *, after: str) -> None:
    """The process ends when a call of the service has returned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, after, then(getattr(models, after), die))
        with pytest.raises(Death):
            task.execute(context or attempt())
