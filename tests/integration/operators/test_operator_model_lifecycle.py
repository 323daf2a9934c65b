# SPDX-License-Identifier: Apache-2.0
"""Train, deploy and undeploy over the emulator: whatever dies, one model and one deployment are made."""

from __future__ import annotations

import asyncio
import json
import logging
from copy import deepcopy
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowFailException,
    AirflowSensorTimeout,
    TaskDeferred,
)
from made_up_calls import raising, returning

from lucidworks_provider.client import models
from lucidworks_provider.client.models import get_model
from lucidworks_provider.emulator.faults import Fault
from lucidworks_provider.errors import (
    ConfigurationError,
    InputError,
    JobFailedError,
    JobTimeoutError,
    SubmissionUnknownError,
    UnknownResourceError,
)
from lucidworks_provider.operators import models as operators
from lucidworks_provider.operators.models import (
    LucidworksDeployModelOperator,
    LucidworksTrainModelOperator,
    LucidworksUndeployModelOperator,
)
from lucidworks_provider.sensors.models import LucidworksDeploymentSensor, LucidworksModelSensor
from lucidworks_provider.triggers import LucidworksStateTrigger

if TYPE_CHECKING:
    from lucidworks_provider.emulator.server import RunningEmulator

CANARY = "canary-key-5a1e0c77d3"
DATA = {"catalog": "gs://b/catalog", "signals": "gs://b/signals"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL", "0")
    monkeypatch.setattr(operators, "SEARCH_WAIT", 0.01)


@pytest.fixture
def fast(emulator: RunningEmulator) -> RunningEmulator:
    settings(emulator, training_seconds=0.2, deploy_seconds=0.2, undeploy_seconds=0.2)
    return emulator


class Store(dict[str, str]):
    def set(self, key: str, value: str) -> None:
        self[key] = value


@pytest.fixture(params=[True, False], ids=["with state store", "without state store"])
def context(request: pytest.FixtureRequest) -> dict[str, Any]:
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, max_tries=0)
    return {"ti": ti} | ({"task_state_store": Store()} if request.param else {})


def settings(emulator: RunningEmulator, **changes: Any) -> None:
    emulator.state.settings = emulator.state.settings.patched(changes)


def fault(emulator: RunningEmulator, kind: str, match: str, times: int = 1) -> None:
    emulator.state.faults.inject(Fault.from_json({"kind": kind, "match": match, "times": times}))


def calls(emulator: RunningEmulator, endpoint: str) -> int:
    return sum(line.endpoint == endpoint for line in emulator.state.log)


def named(emulator: RunningEmulator, name: str = "n") -> list[Any]:
    """The models of a name, as the emulator keeps them."""
    return [
        one for one in emulator.state.registry.models() if one.order is not None and one.order["name"] == name
    ]


COMMON: dict[str, Any] = {"task_id": "t", "poll_interval": 0.05, "timeout": 5, "deferrable": False}


def train(**arguments: Any) -> LucidworksTrainModelOperator:
    defaults = {"name": "n", "model_type": "ecommerce-rnn", "training_data": DATA, "config": {"a.b": 1}}
    return LucidworksTrainModelOperator(**COMMON | defaults | arguments)


def deploy(model_id: str, **arguments: Any) -> LucidworksDeployModelOperator:
    return LucidworksDeployModelOperator(**COMMON | {"model_id": model_id, "region": "r"} | arguments)


def undeploy(deployment_id: str, **arguments: Any) -> LucidworksUndeployModelOperator:
    return LucidworksUndeployModelOperator(**COMMON | {"deployment_id": deployment_id} | arguments)


def resumed(operator: Any, deferred: TaskDeferred, context: dict[str, Any]) -> Any:
    """What the triggerer and the worker after it do."""
    path, kwargs = deferred.trigger.serialize()
    assert path == "lucidworks_provider.triggers.LucidworksStateTrigger"

    async def first() -> dict[str, Any]:
        async for event in LucidworksStateTrigger(**json.loads(json.dumps(kwargs))).run():
            return dict(json.loads(json.dumps(event.payload)))
        raise AssertionError("no event")

    return operator.execute_complete(context, asyncio.run(first()))


def run(operator: Any, context: dict[str, Any]) -> Any:
    """Either way of waiting."""
    try:
        return operator.execute(context)
    except TaskDeferred as deferred:
        return resumed(operator, deferred, context)


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_life_of_a_model(fast: RunningEmulator, context: dict[str, Any], deferrable: bool) -> None:
    model = run(train(deferrable=deferrable), context)
    deployment = run(deploy(model, deferrable=deferrable), dict(context))
    assert fast.state.registry.deployment(deployment) is not None
    assert run(undeploy(deployment, deferrable=deferrable), context) is None
    assert fast.state.registry.deployment(deployment) is None
    # Once more is a success.
    run(undeploy(deployment), context)


def test_lists_that_lag(
    fast: RunningEmulator, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = train().execute(dict(context))
    deployment = deploy(model, wait_for_completion=False).execute(context)
    blind = deploy(model, wait_for_completion=False)
    for name in ("list_deployments", "list_model_deployments"):
        monkeypatch.setattr(models, name, returning(()))
    if "task_state_store" in context:
        assert blind.execute(context) == deployment
        assert calls(fast, "deploy") == 1
    # What no list shows is deleted all the same.
    undeploy(f"{deployment}\n", wait_for_completion=False).execute(context)
    assert fast.state.registry.deployment(deployment) is None or calls(fast, "undeploy") == 1


def test_a_deployment_of_nobody_is_not_taken_for_this_models(
    fast: RunningEmulator, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lucidworks_provider.client.models import unseen_deployment

    model = train().execute(dict(context))
    unknown = raising(UnknownResourceError("no such path", status=404))
    monkeypatch.setattr(models, "list_model_deployments", unknown)
    monkeypatch.setattr(models, "list_deployments", returning((unseen_deployment("another"),)))
    assert deploy(model, wait_for_completion=False).execute(context) != "another"


def test_a_retry_takes_what_is_there(fast: RunningEmulator, context: dict[str, Any]) -> None:
    model = train(wait_for_completion=False).execute(context)
    assert train().execute(context) == train().execute({"ti": context["ti"]}) == model
    deployment = deploy(model, wait_for_completion=False).execute({"ti": context["ti"]})
    assert deploy(model).execute({"ti": context["ti"]}) == deployment
    assert (calls(fast, "create-model"), calls(fast, "deploy")) == (1, 1)


def test_another_name_or_configuration_is_another_model(
    fast: RunningEmulator, context: dict[str, Any]
) -> None:
    made = {
        train(**arguments).execute(context)
        for arguments in (
            {},
            {"name": "other"},
            {"config": {"a.b": 2}},
            {"training_data": DATA | {"signals": "s"}},
        )
    }
    assert len(made) == 4


@pytest.mark.parametrize("kind", ["disconnect-after", "cut-json", "504", "html"])
def test_a_post_without_an_answer_is_followed_by_a_look(
    fast: RunningEmulator, context: dict[str, Any], kind: str
) -> None:
    if kind in {"504", "html"}:
        # Nothing was made, and nobody can know: no second POST within the try.
        fault(fast, kind, "create-model")
        with pytest.raises(SubmissionUnknownError):
            train().execute(context)
        assert calls(fast, "create-model") == 1
    else:
        fault(fast, kind, "create-model")
    model = train().execute(context)
    assert len(named(fast)) == 1
    fault(fast, "disconnect-after", "deploy")
    deployment = deploy(model).execute({"ti": context["ti"]})
    assert [one.deployment_id for one in fast.state.registry.deployments(model)] == [deployment]


def test_a_list_that_lags_is_made_up_for_by_the_state_store(
    fast: RunningEmulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, max_tries=0)
    context: dict[str, Any] = {"ti": ti, "task_state_store": Store()}
    model = train().execute(context)
    blind = train()
    monkeypatch.setattr(models, "list_models", returning(()))
    assert blind.execute(context) == model


def test_a_state_store_that_fails_ends_no_training(
    fast: RunningEmulator, caplog: pytest.LogCaptureFixture
) -> None:
    class Down(Store):
        def set(self, key: str, value: str) -> None:
            raise ConnectionError("no API server")

    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="t", map_index=-1, max_tries=0)
    model = train().execute({"ti": ti, "task_state_store": Down()})
    assert [one.model_id for one in fast.state.registry.models() if one.order] == [model]
    assert "lucidworks_made could not be written" in caplog.text


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_training_that_fails_says_so_and_a_retry_trains_again(
    fast: RunningEmulator, context: dict[str, Any], deferrable: bool
) -> None:
    settings(fast, training_fails=True)
    with pytest.raises(JobFailedError, match=r"Model 'n' \([0-9a-f-]{36}\) is TRAIN_FAILED"):
        run(train(deferrable=deferrable), context)
    settings(fast, training_fails=False)
    model = run(train(deferrable=deferrable), context)
    settings(fast, deploy_fails=True)
    with pytest.raises(JobFailedError, match="DEPLOY_FAILED"):
        run(deploy(model, deferrable=deferrable), {"ti": context["ti"]})
    settings(fast, deploy_fails=False)
    deployment = run(deploy(model), {"ti": context["ti"]})
    settings(fast, undeploy_fails=True)
    with pytest.raises(JobFailedError, match=f"{deployment} is DELETE_FAILED"):
        run(undeploy(deployment, deferrable=deferrable), context)


@pytest.mark.parametrize("deferrable", [False, True])
def test_no_endless_wait(emulator: RunningEmulator, context: dict[str, Any], deferrable: bool) -> None:
    settings(emulator, training_seconds=3600)
    with pytest.raises(JobTimeoutError, match=r"TRAINING.*0\.3 s.*retry resumes the wait"):
        run(train(timeout=0.3, deferrable=deferrable), context)
    assert calls(emulator, "create-model") == 1


def test_what_fails_for_a_moment_is_waited_through(fast: RunningEmulator, context: dict[str, Any]) -> None:
    operator = train(wait_for_completion=False)
    operator.execute(context)
    for kind in ("503", "html", "429", "disconnect", "unauthorized"):
        fault(fast, kind, "get-model")
    train().execute({"ti": context["ti"]})


@pytest.mark.parametrize("path", ["literal", "rest"])
def test_both_readings_of_the_deletion(fast: RunningEmulator, context: dict[str, Any], path: str) -> None:
    settings(fast, undeploy_path=path)
    deployment = deploy(train().execute(context)).execute({"ti": context["ti"]})
    undeploy(deployment).execute(context)
    assert fast.state.registry.deployment(deployment) is None
    # Never a DELETE that could mean every deployment of the customer.
    deletes = [line.path for line in fast.state.log if line.method == "DELETE"]
    assert deletes
    assert all(deployment in path for path in deletes)


def test_a_path_of_the_connection_is_used(
    fast: RunningEmulator, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = json.loads(fast.conn_json())
    connection["extra"] |= {
        "share_via": "memory",
        "undeploy_path": "/customers/{deployment_id}/ai/deployments",
    }
    monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", json.dumps(connection))
    deployment = deploy(train().execute(context)).execute({"ti": context["ti"]})
    undeploy(deployment).execute(context)
    assert [line.path for line in fast.state.log if line.method == "DELETE"] == [
        f"/customers/{deployment}/ai/deployments"
    ]
    connection["extra"]["undeploy_path"] = "/customers/{customer_id}/ai/deployments"
    monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", json.dumps(connection))
    with pytest.raises(ConfigurationError, match=r"undeploy_path.*\{deployment_id\} must be in it"):
        undeploy(deployment).execute(context)


@pytest.mark.parametrize(
    "operator",
    [
        train,
        lambda: deploy("m"),
        lambda: undeploy("d"),
        lambda: LucidworksModelSensor(task_id="t", model_id="m"),
    ],
)
def test_a_customer_id_is_needed(
    fast: RunningEmulator, context: dict[str, Any], monkeypatch: pytest.MonkeyPatch, operator: Any
) -> None:
    connection = json.loads(fast.conn_json())
    del connection["extra"]["customer_id"]
    connection["extra"]["share_via"] = "memory"
    monkeypatch.setenv("AIRFLOW_CONN_LUCIDWORKS_DEFAULT", json.dumps(connection))
    with pytest.raises(ConfigurationError, match=r"customer_id is missing.*request it from Lucidworks"):
        operator().execute(context)
    assert list(fast.state.log) == []


@pytest.mark.parametrize(
    ("operator", "words"),
    [
        (lambda: train(training_data="gs://b"), ["training_data"]),
        (lambda: train(poll_interval=0), ["poll_interval"]),
        (lambda: train(training_data_credentials={"serviceAccountKey": 3}), ["training_data_credentials"]),
        (lambda: deploy(""), ["model_id"]),
        (lambda: deploy("m", min_replicas=0), ["min_replicas"]),
        (lambda: undeploy(".."), ["deployment_id"]),
        (lambda: LucidworksModelSensor(task_id="t", model_id=""), ["model_id"]),
        (lambda: LucidworksModelSensor(task_id="t", model_id="m", target_state=" "), ["target_state"]),
    ],
)
def test_bad_input_is_refused_before_anything_is_sent(
    fast: RunningEmulator, context: dict[str, Any], operator: Any, words: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        operator().execute(context)
    for word in words:
        assert word in str(caught.value)
    assert list(fast.state.log) == []


def test_deploying_what_is_not_there(fast: RunningEmulator, context: dict[str, Any]) -> None:
    with pytest.raises(UnknownResourceError, match="no such model"):
        deploy("6cfdc520-0b02-40cb-8aa2-b867a4a722bf").execute(context)


@pytest.mark.parametrize("deferrable", [False, True])
def test_sensors(fast: RunningEmulator, context: dict[str, Any], deferrable: bool) -> None:
    model = train(wait_for_completion=False).execute(context)
    looking = {"task_id": "t", "poke_interval": 0.05, "timeout": 5, "deferrable": deferrable}
    run(LucidworksModelSensor(model_id=model, **looking), context)
    deployment = deploy(model, wait_for_completion=False).execute({"ti": context["ti"]})
    run(LucidworksDeploymentSensor(deployment_id=deployment, **looking), context)
    undeploy(deployment, wait_for_completion=False).execute(context)
    run(LucidworksDeploymentSensor(deployment_id=deployment, target_state="DELETED", **looking), context)
    settings(fast, training_fails=True)
    failed = train(name="other", wait_for_completion=False).execute({"ti": context["ti"]})
    with pytest.raises(AirflowFailException, match="TRAIN_FAILED"):
        run(LucidworksModelSensor(model_id=failed, **looking), context)
    settings(fast, training_fails=False, training_seconds=3600)
    running = train(name="third", wait_for_completion=False).execute({"ti": context["ti"]})
    with pytest.raises(AirflowSensorTimeout):
        run(LucidworksModelSensor(model_id=running, **looking | {"timeout": 0.2}), context)


def test_a_key_from_a_connection_is_kept_nowhere(
    fast: RunningEmulator,
    context: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    settings(fast, echo_credentials=True)
    google = {"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": {"private_key": CANARY}}}
    monkeypatch.setenv("AIRFLOW_CONN_GOOGLE", json.dumps(google))
    operator = train(credentials_conn_id="google", deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    [model] = named(fast)
    assert CANARY in json.dumps(model.order["trainingDataCredentials"]), "it was sent"
    logging.getLogger("any").warning("careless: %s", json.dumps({"private_key": CANARY}))
    seen = [
        caplog.text,
        repr(deferred.value.trigger.serialize()),
        repr(resumed(operator, deferred.value, context)),
        repr(vars(operator)),
        repr(context.get("task_state_store")),
        repr(operator.hook.call(get_model(model.model_id))),
    ]
    assert [text for text in seen if CANARY in text] == []


def test_a_literal_key_draws_a_warning_and_is_kept_nowhere_either(
    fast: RunningEmulator, context: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    try:
        from airflow.serialization.serialized_objects import DagSerialization as Serialized
    except ImportError:  # before Airflow 3.2
        from airflow.serialization.serialized_objects import SerializedDAG as Serialized

    caplog.set_level(logging.DEBUG)
    with DAG("d", schedule=None) as dag, pytest.warns(UserWarning, match="credentials_conn_id"):
        operator = train(training_data_credentials={"serviceAccountKey": CANARY})
    assert CANARY not in json.dumps(Serialized.to_dict(dag))
    copy = deepcopy(operator)
    copy.render_template_fields({"ti": context["ti"], "params": {}})
    assert not [name for name in copy.template_fields if CANARY in repr(getattr(copy, name))]
    copy.execute(context)
    [model] = named(fast)
    assert CANARY in json.dumps(model.order["trainingDataCredentials"]), "it was sent"
    assert CANARY not in caplog.text
