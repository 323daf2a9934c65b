# SPDX-License-Identifier: Apache-2.0
"""
Training, deploying, undeploying and the sensors, against the emulator over real sockets.

Attempts are played by making the operator anew, as Airflow does; a trigger is made anew from its serialised form.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
import logging
import pickle
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import requests
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)
from made_up_calls import raising, then

from dev.processes import until
from lucidworks_provider.client import models
from lucidworks_provider.client.http.aio import AsyncTransport
from lucidworks_provider.client.models import (
    create_deployment,
    create_model,
    delete_deployment,
    get_model,
    list_deployments,
    list_model_deployments,
    list_models,
)
from lucidworks_provider.errors import (
    ConfigurationError,
    ForbiddenError,
    InputError,
    JobFailedError,
    JobTimeoutError,
    LucidworksError,
    RequestRefusedError,
    SubmissionUnknownError,
    UnknownResourceError,
)
from lucidworks_provider.hooks.lucidworks import LucidworksHook
from lucidworks_provider.jobs import decisions, polling
from lucidworks_provider.operators import models as model_operators
from lucidworks_provider.operators.models import (
    LucidworksDeployModelOperator,
    LucidworksTrainModelOperator,
    LucidworksUndeployModelOperator,
)
from lucidworks_provider.sensors.models import LucidworksDeploymentSensor, LucidworksModelSensor
from lucidworks_provider.triggers import LucidworksStateTrigger

if TYPE_CHECKING:
    from collections.abc import Callable

    from lucidworks_provider.emulator.server import RunningEmulator

# In the middle of a key file, as a private key is.
CANARY = "canary-5d1f-of-a-private-key"
KEY_FILE = {"type": "service_account", "private_key": f"-----BEGIN KEY-----\n{CANARY}\n", "project_id": "p"}
KEY = json.dumps(KEY_FILE)
DATA = {"catalog": "gs://bucket/catalog", "signals": "gs://bucket/signals"}
CONFIG = {"dataset_config": "mlp_ecommerce", "trainer_config.num_epochs": 1}
CONTEXT: Any = {"ti": SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, max_tries=0)}
FOREVER = 1000.0


class Service:
    """The emulator's test side."""

    def __init__(self, emulator: RunningEmulator) -> None:
        self.state = emulator.state
        self.url = emulator.url
        self.settings(training_seconds=0.2, deploy_seconds=0.2, undeploy_seconds=0.2)

    def control(self, method: str, path: str, **body: Any) -> Any:
        answer = requests.request(method, f"{self.url}/_emulator{path}", json=body, timeout=10)
        answer.raise_for_status()
        return answer.json()

    def settings(self, **changes: Any) -> None:
        self.control("PATCH", "/settings", **changes)

    def fault(self, match: str, kind: str, times: int = 1) -> None:
        self.control("POST", "/faults", match=match, kind=kind, times=times)

    def force(self, kind: str, resource_id: str, state: str) -> None:
        self.control("POST", f"/{kind}s/{resource_id}", state=state)

    def calls(self, endpoint: str) -> int:
        return sum(line["endpoint"] == endpoint for line in self.control("GET", "/log"))

    def trained(self) -> list[Any]:
        """Every order of a training that the service took."""
        return [one for one in self.state.registry.models() if one.order is not None]

    def deployments(self) -> list[Any]:
        return list(self.state.registry.deployments())


@dataclass
class Logs:
    """What was logged: by operators, which Airflow's structlog prints, and by everything else."""

    caplog: pytest.LogCaptureFixture
    capfd: pytest.CaptureFixture[str]
    printed: str = ""

    @property
    def text(self) -> str:
        self.printed += "".join(self.capfd.readouterr())
        return self.caplog.text + self.printed


@pytest.fixture
def logs(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Logs:
    caplog.set_level(logging.DEBUG)
    return Logs(caplog, capfd)


@pytest.fixture
def service(emulator: RunningEmulator, monkeypatch: pytest.MonkeyPatch) -> Service:
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "0")
    monkeypatch.setattr(model_operators, "SEARCH_WAIT", 0.01)
    monkeypatch.setattr(decisions, "YOUNG", 0.3)
    return Service(emulator)


def train(**arguments: Any) -> LucidworksTrainModelOperator:
    defaults: dict[str, Any] = {
        "task_id": "train",
        "name": "shop",
        "model_type": "ecommerce-rnn",
        "training_data": DATA,
        "region": "us-southcarolina",
        "config": CONFIG,
        "deferrable": False,
        "poll_interval": 0.05,
        "timeout": 20,
    }
    return LucidworksTrainModelOperator(**defaults | arguments)


def deploy(model_id: str, **arguments: Any) -> LucidworksDeployModelOperator:
    defaults: dict[str, Any] = {
        "task_id": "deploy",
        "deferrable": False,
        "poll_interval": 0.05,
        "timeout": 20,
    }
    return LucidworksDeployModelOperator(**defaults | {"model_id": model_id} | arguments)


def undeploy(deployment_id: str, **arguments: Any) -> LucidworksUndeployModelOperator:
    defaults: dict[str, Any] = {
        "task_id": "undeploy",
        "deferrable": False,
        "poll_interval": 0.05,
        "timeout": 20,
    }
    return LucidworksUndeployModelOperator(**defaults | {"deployment_id": deployment_id} | arguments)


def trained(service: Service) -> str:
    service.settings(training_seconds=0)
    return str(train().execute(CONTEXT))


def deployed(service: Service) -> str:
    service.settings(deploy_seconds=0)
    return str(deploy(trained(service)).execute(CONTEXT))


def event_of(deferred: TaskDeferred) -> dict[str, Any]:
    """Run a trigger as the triggerer does."""
    _, kwargs = deferred.trigger.serialize()

    async def first() -> dict[str, Any]:
        async for event in LucidworksStateTrigger(**json.loads(json.dumps(kwargs))).run():
            return dict(json.loads(json.dumps(event.payload)))
        raise AssertionError("no event")

    return asyncio.run(first())


def run(make: Callable[[], Any], *, deferrable: bool, execute: str = "execute") -> Any:
    """An operator or a sensor from its beginning to its end."""
    task = make()
    task.deferrable = deferrable
    if not deferrable:
        return getattr(task, execute)(CONTEXT)
    with pytest.raises(TaskDeferred) as caught:
        task.execute(CONTEXT)
    deferred = caught.value
    assert deferred.timeout > timedelta(seconds=task.timeout), "the trigger's own event comes first"
    resumed = make()
    return resumed.resume_execution(
        deferred.method_name, {**(deferred.kwargs or {}), "event": event_of(deferred)}, CONTEXT
    )


both = pytest.mark.parametrize("deferrable", [False, True], ids=["worker", "triggerer"])


# The whole way


@both
def test_from_training_to_undeploying(service: Service, deferrable: bool) -> None:
    model_id = run(train, deferrable=deferrable)
    [model] = service.trained()
    assert model_id == model.model_id
    assert [model.order.get(name) for name in ("name", "modelType", "region")] == [
        "shop",
        "ecommerce-rnn",
        "us-southcarolina",
    ]
    assert (model.order["trainingData"], model.order["config"]) == (DATA, CONFIG)
    assert "trainingDataCredentials" not in model.order

    arguments = {"region": "us-x", "config": {"a": 1}, "min_replicas": 1, "max_replicas": 2}
    deployment_id = run(lambda: deploy(model_id, **arguments), deferrable=deferrable)
    [deployment] = service.deployments()
    assert deployment_id == deployment.deployment_id
    assert deployment.order == {
        "modelId": model_id,
        "region": "us-x",
        "config": {"a": 1},
        "minReplicas": 1,
        "maxReplicas": 2,
    }
    assert LucidworksHook().call(get_model(model_id, metrics=True)).metrics

    assert run(lambda: undeploy(deployment_id), deferrable=deferrable) is None
    assert service.deployments() == []
    assert (service.calls("create-model"), service.calls("deploy"), service.calls("undeploy")) == (1, 1, 1)


def test_every_method_for_an_event_loop(service: Service) -> None:
    from lucidworks_provider.client.model_specs import DeploymentSpec, TrainingSpec

    service.settings(training_seconds=0, deploy_seconds=0, undeploy_seconds=0)

    async def story() -> None:
        hook = LucidworksHook()
        async with hook.shared_client():
            model = await hook.acall(create_model(TrainingSpec("a", "b", DATA)))
            assert (await hook.acall(get_model(model.id, metrics=True))).metrics
            assert model.id in {one.id for one in await hook.acall(list_models())}
            deployment = await hook.acall(create_deployment(DeploymentSpec(model.id)))
            assert [one.id for one in await hook.acall(list_model_deployments(model.id))] == [deployment.id]
            assert [one.id for one in await hook.acall(list_deployments())] == [deployment.id]
            assert await hook.acall(delete_deployment(deployment.id)) == "DELETED"
            with pytest.raises(UnknownResourceError, match="undeploy_path"):
                await hook.acall(delete_deployment(deployment.id))

    asyncio.run(story())


@pytest.mark.parametrize("kind", ["train", "deploy", "undeploy"])
def test_without_waiting(service: Service, kind: str) -> None:
    make: dict[str, Callable[[], Any]] = {
        "train": lambda: train(wait_for_completion=False),
        "deploy": lambda: deploy(trained(service), wait_for_completion=False),
        "undeploy": lambda: undeploy(deployed(service), wait_for_completion=False),
    }
    task = make[kind]()
    service.settings(training_seconds=FOREVER, deploy_seconds=FOREVER, undeploy_seconds=FOREVER)
    returned = task.execute(CONTEXT)
    assert (
        returned
        == {
            "train": service.trained()[0].model_id,
            "deploy": (service.deployments() or [SimpleNamespace(deployment_id=None)])[0].deployment_id,
            "undeploy": None,
        }[kind]
    )


# What is refused before anything is sent


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: train(name=""), "name"),
        (lambda: train(model_type=None), "model_type"),
        (lambda: train(training_data={}), "training_data"),
        (lambda: train(training_data="nothing"), "training_data"),
        (lambda: train(config="[1]"), "config"),
        (lambda: train(region=""), "region"),
        (lambda: train(poll_interval=0), "poll_interval"),
        (lambda: train(timeout="soon"), "timeout"),
        (lambda: deploy(""), "model_id"),
        (lambda: deploy("m", min_replicas=0), "min_replicas"),
        (lambda: deploy("m", min_replicas=2), "max_replicas"),
        (lambda: undeploy(""), "deployment_id"),
        (lambda: LucidworksModelSensor(task_id="s", model_id="", deferrable=False), "model_id"),
        (
            lambda: LucidworksDeploymentSensor(
                task_id="s", deployment_id="d", target_state=" ", deferrable=False
            ),
            "target_state",
        ),
    ],
)
def test_bad_input(service: Service, make: Callable[[], Any], word: str) -> None:
    with pytest.raises(InputError, match=word):
        make().execute(CONTEXT)
    assert service.control("GET", "/log") == []


@pytest.mark.parametrize(
    "make",
    [
        train,
        lambda: deploy("m"),
        lambda: undeploy("d"),
        lambda: LucidworksModelSensor(task_id="s", model_id="m", deferrable=False),
        lambda: LucidworksDeploymentSensor(task_id="s", deployment_id="d", deferrable=True),
    ],
)
def test_a_connection_without_customer_id(
    service: Service, monkeypatch: pytest.MonkeyPatch, make: Callable[[], Any]
) -> None:
    extra = {"models_url": service.url, "auth_url": service.url, "application_url": service.url}
    conn = {"conn_type": "lucidworks", "login": "demo-client", "password": "demo-secret", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", json.dumps(conn))
    with pytest.raises(ConfigurationError, match=r"'lucidworks_default'.*customer_id"):
        make().execute(CONTEXT)
    assert service.control("GET", "/log") == []


def test_another_customers_models_are_forbidden(service: Service) -> None:
    service.settings(customer_id="somebody-else")
    with pytest.raises(ForbiddenError, match="lucidworks_default"):
        train().execute(CONTEXT)


# What a retry does


class Death(BaseException):
    """The process is gone: nothing after this runs."""


@pytest.mark.parametrize("kind", ["train", "deploy"])
def test_a_retry_finds_what_the_first_try_made(
    service: Service, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_id = trained(service) if kind == "deploy" else ""
    make = train if kind == "train" else lambda: deploy(model_id)
    first = make()
    name = "create_model" if kind == "train" else "create_deployment"

    def die(_: Any) -> Any:
        raise Death

    with monkeypatch.context() as patch:
        patch.setattr(models, name, then(getattr(models, name), die))
        with pytest.raises(Death):
            first.execute(CONTEXT)
    found = make().execute(CONTEXT)
    made = service.trained() if kind == "train" else service.deployments()
    assert len(made) == 1
    assert found == (made[0].model_id if kind == "train" else made[0].deployment_id)


@pytest.mark.parametrize("kind", ["disconnect-after", "cut-json"])
def test_an_answer_that_is_lost_is_looked_for(service: Service, kind: str, logs: Logs) -> None:
    service.fault("create-model", kind)
    model_id = train().execute(CONTEXT)
    assert [one.model_id for one in service.trained()] == [model_id]
    service.fault("deploy", kind)
    deployment_id = deploy(str(model_id)).execute(CONTEXT)
    assert [one.deployment_id for one in service.deployments()] == [deployment_id]
    assert logs.text.count("Searching for it") == 2


def test_an_order_that_did_not_arrive_is_not_repeated_but_reported(service: Service) -> None:
    service.fault("create-model", "disconnect")
    with pytest.raises(SubmissionUnknownError, match="shop"):
        train().execute(CONTEXT)
    assert service.calls("create-model") == 1
    assert len(service.trained()) == 0
    assert train().execute(CONTEXT) == service.trained()[0].model_id, "Airflow's retry trains"


def test_after_a_timeout_a_retry_waits_for_the_same_model(service: Service) -> None:
    service.settings(training_seconds=FOREVER)
    with pytest.raises(JobTimeoutError, match=r"shop.*retry resumes the wait"):
        train(timeout=0.1).execute(CONTEXT)
    [model] = service.trained()
    service.control("POST", "/clock", advance=FOREVER)
    assert train().execute(CONTEXT) == model.model_id
    assert service.calls("create-model") == 1


def test_a_failed_model_is_trained_again(service: Service) -> None:
    service.settings(training_fails=True)
    with pytest.raises(JobFailedError, match=r"shop.*TRAIN_FAILED") as caught:
        train().execute(CONTEXT)
    [failed] = service.trained()
    assert failed.model_id in str(caught.value)
    service.settings(training_fails=False)
    again = train().execute(CONTEXT)
    assert again == service.trained()[1].model_id != failed.model_id


def test_a_failed_deployment_is_deployed_again(service: Service) -> None:
    model_id = trained(service)
    service.settings(deploy_fails=True)
    with pytest.raises(JobFailedError, match="DEPLOY_FAILED") as caught:
        deploy(model_id).execute(CONTEXT)
    [failed] = service.deployments()
    assert failed.deployment_id in str(caught.value)
    service.settings(deploy_fails=False)
    assert deploy(model_id).execute(CONTEXT) == service.deployments()[1].deployment_id


def test_another_configuration_is_another_model(service: Service, logs: Logs) -> None:
    first = train().execute(CONTEXT)
    other = train(config={**CONFIG, "trainer_config.num_epochs": 2}).execute(CONTEXT)
    assert other != first
    assert any(str(first) in line and "warning" in line for line in logs.text.splitlines())
    assert train().execute(CONTEXT) == first
    assert service.calls("create-model") == 2


def test_an_option_more_is_another_model(service: Service) -> None:
    first = train().execute(CONTEXT)
    assert train(config={**CONFIG, "trainer_config.trn_batch_size": 64}).execute(CONTEXT) != first


def test_another_placement_is_another_deployment(service: Service) -> None:
    model_id = trained(service)
    first = deploy(model_id).execute(CONTEXT)
    assert deploy(model_id).execute(CONTEXT) == first
    assert deploy(model_id, max_replicas=2).execute(CONTEXT) != first
    assert deploy(model_id, region="us-other").execute(CONTEXT) != first


def test_what_is_ready_already_is_not_deferred(service: Service) -> None:
    model_id = trained(service)
    deployment_id = deploy(model_id).execute(CONTEXT)
    assert train(deferrable=True).execute(CONTEXT) == model_id
    assert deploy(model_id, deferrable=True).execute(CONTEXT) == deployment_id


def test_numbers_and_dictionaries_may_be_rendered_text(service: Service) -> None:
    arguments = {"training_data": json.dumps(DATA), "config": json.dumps(CONFIG)}
    assert train(**arguments).execute(CONTEXT) == train().execute(CONTEXT)


# Waiting


@both
@pytest.mark.parametrize("kind", ["train", "deploy"])
def test_an_unknown_state_is_waited_for_until_the_deadline(
    service: Service, kind: str, deferrable: bool
) -> None:
    if kind == "train":
        model_id = str(train(wait_for_completion=False).execute(CONTEXT))
        service.force("model", model_id, "UNHEARD_OF")
        make: Callable[[], Any] = lambda: train(timeout=0.3)  # noqa: E731
    else:
        model_id = trained(service)
        deployment_id = str(deploy(model_id, wait_for_completion=False).execute(CONTEXT))
        service.force("deployment", deployment_id, "UNHEARD_OF")
        make = lambda: deploy(model_id, timeout=0.3)  # noqa: E731
    with pytest.raises(JobTimeoutError, match="UNHEARD_OF"):
        run(make, deferrable=deferrable)


@both
@pytest.mark.parametrize("state", ["GONE", "DELETING", "DEPLOY_FAILED"])
def test_a_deployment_that_will_not_be(service: Service, deferrable: bool, state: str) -> None:
    service.settings(deploy_seconds=FOREVER)
    model_id = trained(service)

    def spoil() -> None:
        service.force("deployment", service.deployments()[0].deployment_id, state)

    if deferrable:
        with pytest.raises(TaskDeferred) as deferred:
            deploy(model_id, deferrable=True).execute(CONTEXT)
        spoil()
        event = event_of(deferred.value)
        with pytest.raises(JobFailedError):
            deploy(model_id).execute_complete(CONTEXT, event=event, **(deferred.value.kwargs or {}))
    else:
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(deploy(model_id).execute, CONTEXT)
            until(service.deployments, "a deployment", 10)
            spoil()
            with pytest.raises(JobFailedError):
                waiting.result()


@both
def test_failures_that_pass_are_waited_through(service: Service, deferrable: bool, logs: Logs) -> None:
    for kind in ("503", "html", "disconnect", "429"):
        service.fault("get-model", kind)
    assert run(train, deferrable=deferrable) == service.trained()[0].model_id
    assert "no response, polling again" in logs.text


@both
def test_a_refusal_is_not_waited_through(service: Service, deferrable: bool) -> None:
    model_id = trained(service)
    service.settings(deploy_seconds=FOREVER)
    deploy(model_id, wait_for_completion=False).execute(CONTEXT)
    task = deploy(model_id, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(CONTEXT)
    service.settings(customer_id="somebody-else")
    event = event_of(deferred.value)
    assert (event["end"], event["retryable"]) == ("error", False)
    with pytest.raises(LucidworksError, match="403"):
        task.execute_complete(CONTEXT, event=event, **(deferred.value.kwargs or {}))
    if not deferrable:
        with pytest.raises(ForbiddenError):
            deploy(model_id).execute(CONTEXT)


def test_a_model_that_is_not_known_everywhere_yet_is_waited_for(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def late(model_id: str) -> Any:
        asked.append(model_id)
        if len(asked) < 3:
            return raising(UnknownResourceError("not yet", status=404))()
        return get_model(model_id)

    monkeypatch.setattr("lucidworks_provider.client.models.get_model", late)

    model_id = trained(service)

    async def wait(resource_id: str) -> dict[str, Any]:
        deadline = time.time() + 5
        return await polling.wait_for_state(
            LucidworksHook(),
            kind="model",
            resource_id=resource_id,
            target="ready",
            poll_interval=0.05,
            deadline=deadline,
        )

    assert asyncio.run(wait(model_id))["end"] == "reached"
    assert len(asked) == 3
    assert asyncio.run(wait("never-heard-of"))["end"] == "failed"


def test_a_trigger_is_small_and_only_looks(service: Service) -> None:
    service.settings(training_seconds=FOREVER)
    with pytest.raises(TaskDeferred) as deferred:
        train(deferrable=True, timeout=0.3).execute(CONTEXT)
    path, kwargs = deferred.value.trigger.serialize()
    assert path == "lucidworks_provider.triggers.LucidworksStateTrigger"
    assert set(kwargs) == {"lucidworks_conn_id", "kind", "resource_id", "target", "poll_interval", "deadline"}
    before = service.calls("create-model")
    assert event_of(deferred.value)["end"] == "timeout"
    assert event_of(deferred.value)["end"] == "timeout", "a restarted triggerer runs it again"
    assert service.calls("create-model") == before


def test_many_triggers_share_their_sockets(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    model_id = trained(service)
    ended = []

    async def all_of_them() -> None:
        async def one() -> None:
            trigger = LucidworksStateTrigger(
                lucidworks_conn_id="lucidworks_default",
                kind="model",
                resource_id=model_id,
                target="ready",
                poll_interval=0.05,
                deadline=time.time() + 10,
            )
            event = await anext(trigger.run())
            ended.append(event.payload["end"])

        await asyncio.gather(*(one() for _ in range(50)))

    made = []
    begin = AsyncTransport.__init__

    def note(self: AsyncTransport, *args: Any, **kwargs: Any) -> None:
        made.append(self)
        begin(self, *args, **kwargs)

    monkeypatch.setattr(AsyncTransport, "__init__", note)
    asyncio.run(all_of_them())
    assert ended == ["reached"] * 50
    assert len(made) == 1
    assert service.calls("token") <= 2


# Undeploying


@both
@pytest.mark.parametrize("path", ["both", "literal", "rest"])
def test_both_readings_of_the_path(service: Service, path: str, deferrable: bool) -> None:
    deployment_id = deployed(service)
    service.settings(undeploy_path=path)
    run(lambda: undeploy(deployment_id), deferrable=deferrable)
    assert service.deployments() == []


def test_one_that_is_gone_already(service: Service, logs: Logs) -> None:
    undeploy("6a092bd4-5098-466c-94aa-40bf6829430d").execute(CONTEXT)
    # A list may lag, and what runs on costs money: both readings of the path are asked.
    assert service.calls("undeploy") == 2
    assert "does not exist" in logs.text


def test_one_that_is_being_deleted_is_only_waited_for(service: Service) -> None:
    deployment_id = deployed(service)
    undeploy(deployment_id, wait_for_completion=False).execute(CONTEXT)
    undeploy(deployment_id).execute(CONTEXT)
    assert service.calls("undeploy") == 1


@both
def test_a_deletion_that_fails(service: Service, deferrable: bool) -> None:
    deployment_id = deployed(service)
    service.settings(undeploy_fails=True, undeploy_seconds=0)
    with pytest.raises(JobFailedError, match="DELETE_FAILED") as caught:
        undeploy(deployment_id, deferrable=deferrable).execute(CONTEXT)
    assert deployment_id in str(caught.value)
    service.settings(undeploy_fails=False)
    undeploy(deployment_id).execute(CONTEXT)
    assert service.deployments() == []


def test_a_deletion_that_fails_is_told_without_waiting_too(service: Service) -> None:
    deployment_id = deployed(service)
    service.settings(undeploy_fails=True, undeploy_seconds=0)
    with pytest.raises(JobFailedError, match="DELETE_FAILED"):
        undeploy(deployment_id, wait_for_completion=False).execute(CONTEXT)


def test_a_failed_deployment_can_be_deleted(service: Service) -> None:
    model_id = trained(service)
    service.settings(deploy_fails=True)
    with pytest.raises(JobFailedError):
        deploy(model_id).execute(CONTEXT)
    [failed] = service.deployments()
    undeploy(failed.deployment_id).execute(CONTEXT)
    assert service.deployments() == []


def test_a_lost_answer_to_a_deletion(service: Service) -> None:
    deployment_id = deployed(service)
    service.settings(undeploy_seconds=0)
    service.fault("undeploy", "disconnect-after")
    undeploy(deployment_id).execute(CONTEXT)
    assert service.deployments() == []


def test_no_path_works(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    deployment_id = deployed(service)
    conn = json.loads(service_conn())
    conn["extra"]["undeploy_path"] = "/nowhere/{deployment_id}"
    monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", json.dumps(conn))
    with pytest.raises(UnknownResourceError) as caught:
        undeploy(deployment_id).execute(CONTEXT)
    for words in ("lucidworks_default", "/nowhere/{deployment_id}", "undeploy_path", deployment_id):
        assert words in str(caught.value)


def test_an_error_of_both_paths_says_what_says_most(service: Service) -> None:
    service.fault("undeploy", "409")
    service.fault("undeploy", "404")
    with pytest.raises(RequestRefusedError, match=r"HTTP 409.*HTTP 404"):
        LucidworksHook().call(delete_deployment("d"))


def test_the_list_of_deployments_has_another_path(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    conn = json.loads(service_conn())
    conn["extra"]["deployments_path"] = "/customers/{customer_id}/nowhere"
    monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", json.dumps(conn))
    undeploy("d").execute(CONTEXT)
    assert service.calls("list-models"), "the models' own lists are asked"
    service.settings(missing_endpoints=["list-models"])
    with pytest.raises(UnknownResourceError, match="deployments_path"):
        undeploy("d").execute(CONTEXT)


def service_conn() -> str:
    import os

    return os.environ["AIRFLOW_CONN_LUCIDWORKS_DEFAULT"]


def test_deployments_of_a_model_without_their_own_list(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_id = trained(service)
    first = deploy(model_id).execute(CONTEXT)
    task = deploy(model_id)

    unknown = raising(UnknownResourceError("no such path", status=404))
    monkeypatch.setattr(models, "list_model_deployments", unknown)
    assert task.execute(CONTEXT) == first
    other = str(train(name="other").execute(CONTEXT))
    task = deploy(other)
    assert task.execute(CONTEXT) != first


# Credentials


@pytest.mark.parametrize(
    ("conn", "key"),
    [
        ({"extra": {"keyfile_dict": KEY}}, KEY),
        ({"extra": {"keyfile_dict": KEY_FILE}}, KEY),
        ({"extra": {"keyfile_dict": KEY}, "password": "other"}, KEY),
        ({"password": CANARY}, CANARY),
        ({"extra": {"service_account_key": KEY}}, KEY),
        ({"extra": {"serviceAccountKey": KEY}}, KEY),
    ],
)
def test_credentials_of_a_connection(
    service: Service, monkeypatch: pytest.MonkeyPatch, logs: Logs, conn: Any, key: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BUCKET", json.dumps({"conn_type": "generic"} | conn))
    task = train(credentials_conn_id="bucket")
    assert CANARY not in repr(task.__dict__)
    model_id = task.execute(CONTEXT)
    assert service.trained()[0].order["trainingDataCredentials"] == {"serviceAccountKey": key}
    assert CANARY not in logs.text + repr(model_id) + repr(task.__dict__)


def test_a_connection_without_credentials_is_named(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BUCKET", json.dumps({"conn_type": "generic"}))
    with pytest.raises(ConfigurationError, match=r"'bucket'.*keyfile_dict"):
        train(credentials_conn_id="bucket").execute(CONTEXT)
    assert service.calls("create-model") == 0


LITERALS = [{"serviceAccountKey": KEY}, {"serviceAccountKey": KEY_FILE}, {"anotherName": CANARY}]


def literal(credentials: Any = None, **arguments: Any) -> LucidworksTrainModelOperator:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return train(training_data_credentials=credentials or LITERALS[0], **arguments)


def test_a_literal_key_draws_a_warning_without_it() -> None:
    with pytest.warns(UserWarning, match="credentials_conn_id") as caught:
        train(training_data_credentials=LITERALS[0])
    assert CANARY not in str([one.message for one in caught])


def test_a_literal_key_is_sent(service: Service) -> None:
    task = pickle.loads(pickle.dumps(copy.deepcopy(literal())))  # noqa: S301
    task.execute(CONTEXT)
    assert service.trained()[0].order["trainingDataCredentials"] == LITERALS[0]


def test_a_key_file_as_a_dictionary_is_sent_as_its_text(service: Service) -> None:
    literal(LITERALS[1]).execute(CONTEXT)
    sent = service.trained()[0].order["trainingDataCredentials"]["serviceAccountKey"]
    assert json.loads(sent) == KEY_FILE


@pytest.mark.parametrize("credentials", LITERALS, ids=["text", "dictionary", "another name"])
def test_a_literal_key_is_nowhere_in_the_operator(credentials: Any) -> None:
    task = literal(credentials)
    shown = repr(task.__dict__) + repr({name: getattr(task, name) for name in task.template_fields})
    assert CANARY not in shown + repr(copy.deepcopy(task).__dict__)


@pytest.mark.parametrize("credentials", LITERALS, ids=["text", "dictionary", "another name"])
@pytest.mark.parametrize("mapped", [False, True])
def test_a_literal_key_is_not_in_the_serialized_dag(credentials: Any, mapped: bool) -> None:
    serialization = pytest.importorskip("airflow.serialization.serialized_objects")
    with DAG("d", start_date=datetime(2026, 1, 1), schedule=None) as dag:
        if mapped:
            LucidworksTrainModelOperator.partial(
                task_id="t", model_type="m", training_data=DATA, training_data_credentials=credentials
            ).expand(name=["a", "b"])
        else:
            literal(credentials)
    serializer = getattr(serialization, "DagSerialization", None) or serialization.SerializedDAG
    assert CANARY not in json.dumps(serializer.to_dict(dag))


def test_a_literal_key_is_in_no_log_and_no_row(service: Service, logs: Logs) -> None:
    service.settings(echo_credentials=True)
    task = literal(deferrable=True)
    task.render_template_fields(CONTEXT)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(CONTEXT)
    event = event_of(deferred.value)
    model_id = task.execute_complete(CONTEXT, event=event, **(deferred.value.kwargs or {}))
    rows = json.dumps([deferred.value.trigger.serialize()[1], deferred.value.kwargs, event, model_id])
    assert CANARY not in logs.text + rows + repr(deferred.value) + repr(LucidworksHook().call(list_models()))


@pytest.mark.parametrize("kind", ["cut-json", "html"])
def test_an_answer_that_quotes_the_key(service: Service, kind: str, logs: Logs) -> None:
    service.settings(echo_credentials=True)
    service.fault("create-model", kind)
    service.fault("list-models", kind, times=3)
    with pytest.raises(LucidworksError) if kind == "html" else warnings.catch_warnings():
        literal().execute(CONTEXT)
    assert CANARY not in logs.text


@pytest.mark.parametrize(
    "bad", ["no JSON", ["a", CANARY], {"serviceAccountKey": ""}, {"serviceAccountKey": 7}]
)
def test_wrong_credentials_are_refused_and_not_shown(service: Service, bad: Any) -> None:
    with pytest.raises(InputError, match="training_data_credentials") as caught:
        literal(bad).execute(CONTEXT)
    assert CANARY not in str(caught.value)
    assert service.calls("create-model") == 0


def test_a_template_is_rendered_when_it_is_sent(service: Service) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = train(training_data_credentials={"serviceAccountKey": "{{ key }}"})
    task.render_template_fields({**CONTEXT, "key": CANARY})
    assert CANARY not in repr(task.__dict__)
    task.execute({**CONTEXT, "key": CANARY})
    assert service.trained()[0].order["trainingDataCredentials"] == {"serviceAccountKey": CANARY}
    assert CANARY not in repr(task.__dict__)


def test_credentials_of_an_upstream_task(service: Service) -> None:
    from airflow.providers.common.compat.sdk import task

    with DAG("d", start_date=datetime(2026, 1, 1), schedule=None):

        @task
        def key() -> dict[str, str]:
            return {"serviceAccountKey": CANARY}

        training = train(training_data_credentials=key())
    assert training.upstream_task_ids == {"key"}
    training.training_data_credentials = {"serviceAccountKey": CANARY}  # as rendering does
    assert CANARY not in repr(training.__dict__)
    training.execute(CONTEXT)
    assert service.trained()[0].order["trainingDataCredentials"] == {"serviceAccountKey": CANARY}


def test_credentials_twice_are_refused(service: Service) -> None:
    with pytest.raises(InputError, match="either"):
        literal(credentials_conn_id="bucket").execute(CONTEXT)


# Sensors


def model_sensor(model_id: str, **arguments: Any) -> LucidworksModelSensor:
    defaults: dict[str, Any] = {"task_id": "s", "poke_interval": 0.05, "timeout": 10, "deferrable": False}
    return LucidworksModelSensor(**defaults | {"model_id": model_id} | arguments)


def deployment_sensor(deployment_id: str, **arguments: Any) -> LucidworksDeploymentSensor:
    defaults: dict[str, Any] = {"task_id": "s", "poke_interval": 0.05, "timeout": 10, "deferrable": False}
    return LucidworksDeploymentSensor(**defaults | {"deployment_id": deployment_id} | arguments)


@both
def test_sensors_wait_for_what_others_began(service: Service, deferrable: bool) -> None:
    model_id = str(train(wait_for_completion=False).execute(CONTEXT))
    run(lambda: model_sensor(model_id), deferrable=deferrable)
    assert LucidworksHook().call(get_model(model_id)).state == "AVAILABLE"
    deployment_id = str(deploy(model_id, wait_for_completion=False).execute(CONTEXT))
    run(lambda: deployment_sensor(deployment_id), deferrable=deferrable)
    assert LucidworksHook().call(list_deployments())[0].state == "DEPLOYED"
    undeploy(deployment_id, wait_for_completion=False).execute(CONTEXT)
    run(lambda: deployment_sensor(deployment_id, target_state="DELETED"), deferrable=deferrable)
    assert service.deployments() == []


@both
@pytest.mark.parametrize("kind", ["model", "deployment"])
@pytest.mark.parametrize("soft", [False, True])
def test_a_failure_state_fails_a_sensor_at_once(
    service: Service, kind: str, soft: bool, deferrable: bool
) -> None:
    resource_id = trained(service) if kind == "model" else deployed(service)
    service.force(kind, resource_id, "SOMETHING_FAILED")
    make = model_sensor if kind == "model" else deployment_sensor
    with pytest.raises(AirflowSkipException if soft else AirflowFailException) as caught:
        run(lambda: make(resource_id, soft_fail=soft), deferrable=deferrable)
    assert soft or resource_id in str(caught.value)


@both
@pytest.mark.parametrize("soft", [False, True])
def test_sensors_time_out_as_sensors_do(service: Service, soft: bool, deferrable: bool) -> None:
    service.settings(training_seconds=FOREVER)
    model_id = str(train(wait_for_completion=False).execute(CONTEXT))
    with pytest.raises(AirflowSkipException if soft else AirflowSensorTimeout) as caught:
        run(lambda: model_sensor(model_id, timeout=0.2, soft_fail=soft), deferrable=deferrable)
    late = f"Model {model_id} is TRAINING, and was not 'AVAILABLE' within timeout=0.2 s."
    assert f"{late} Clear the task to resume the wait." in {str(caught.value), str(caught.value.__cause__)}


def test_a_failure_after_a_poke_keeps_its_own_message(service: Service) -> None:
    """What an earlier poke saw is not the message of a later one."""
    service.settings(training_seconds=FOREVER)
    model_id = str(train(wait_for_completion=False).execute(CONTEXT))
    sensor = model_sensor(model_id, soft_fail=True)
    assert not sensor.poke(CONTEXT)
    service.force("model", model_id, "TRAIN_FAILED")
    with pytest.raises(AirflowSkipException, match="Skipping due to soft_fail"):
        sensor.execute(CONTEXT)


@pytest.mark.parametrize(
    ("kind", "state", "hint"),
    [
        ("model", "availabel", "'availabel' is not a known state of a model. Did you mean 'AVAILABLE'?"),
        ("model", "DEPLOYED", "'DEPLOYED' is not a known state of a model."),
        ("deployment", "deployd", "Did you mean 'DEPLOYED'?"),
        ("model", "Available", ""),
        ("model", "TRAIN_FAILED", ""),
        ("deployment", "serving", ""),
        ("deployment", "DELETED", ""),
    ],
)
def test_a_misspelt_target_state(service: Service, kind: str, state: str, hint: str, logs: Logs) -> None:
    make = model_sensor if kind == "model" else deployment_sensor
    with contextlib.suppress(AirflowSensorTimeout):
        make("nope", target_state=state, timeout=0.01).execute(CONTEXT)
    assert hint in logs.text
    assert ("known state" in logs.text) == bool(hint)


def test_a_sensor_waits_failures_through(service: Service) -> None:
    model_id = trained(service)
    for kind in ("503", "html", "disconnect"):
        service.fault("get-model", kind)
    model_sensor(model_id).execute(CONTEXT)
    assert service.calls("get-model") >= 4


@both
def test_a_deployment_that_is_nowhere_fails_a_sensor_after_a_while(
    service: Service, deferrable: bool
) -> None:
    with pytest.raises(AirflowFailException, match="is missing"):
        run(lambda: deployment_sensor("6a092bd4-5098-466c-94aa-40bf6829430d"), deferrable=deferrable)


def test_a_sensor_in_reschedule_mode(service: Service) -> None:
    from airflow.exceptions import AirflowRescheduleException

    service.settings(training_seconds=FOREVER)
    model_id = str(train(wait_for_completion=False).execute(CONTEXT))
    ti = SimpleNamespace(get_first_reschedule_date=lambda _: None, dag_id="d", task_id="s")
    with pytest.raises(AirflowRescheduleException):
        model_sensor(model_id, mode="reschedule").execute({"ti": ti})
    service.control("POST", "/clock", advance=FOREVER)
    model_sensor(model_id, mode="reschedule").execute({"ti": ti})


# What a DAG author sees


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (
            LucidworksTrainModelOperator,
            "name model_type training_data region config credentials_conn_id training_data_credentials "
            "if_ambiguous wait_for_completion deferrable poll_interval timeout",
        ),
        (
            LucidworksDeployModelOperator,
            "model_id region config min_replicas max_replicas if_ambiguous "
            "wait_for_completion deferrable poll_interval timeout",
        ),
        (
            LucidworksUndeployModelOperator,
            "deployment_id wait_for_completion deferrable poll_interval timeout",
        ),
        (LucidworksModelSensor, "model_id target_state deferrable"),
        (LucidworksDeploymentSensor, "deployment_id target_state deferrable"),
    ],
)
def test_templated_fields(cls: Any, fields: str) -> None:
    assert set(cls.template_fields) == {*fields.split(), "lucidworks_conn_id"}
    assert set(cls.template_fields_renderers) <= set(cls.template_fields)
